//! A thread's registers, by the numbers that unwinding information uses.

use super::bytes::Bytes;
use super::elf::{Class, Machine};

/// How many there are at most: 31 and the stack pointer of aarch64.
const COUNT: usize = 32;

/// Where a thread was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Registers {
    /// Where it executed, or will return to.
    pub(super) pc: u64,
    /// What is known of the others.
    known: [Option<u64>; COUNT],
    /// The stack pointer's number.
    stack: u16,
}

/// The order in which the kernel has them (`user_regs_struct`; asm/user_64.h, user_32.h; asm/ptrace.h of aarch64), by
/// DWARF number (the ABIs' supplements); where the program counter stands; the stack pointer's DWARF number.
type Order = (&'static [usize], usize, u16);

const X86_64: Order = (
    &[10, 12, 11, 5, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0],
    16,
    7,
);
const X86: Order = (&[6, 1, 2, 0, 15, 5, 3, 4], 12, 4);
const AARCH64: Order = (
    &[
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24,
        25, 26, 27, 28, 29, 30, 31,
    ],
    32,
    31,
);

impl Registers {
    /// Those of a note (`pr_reg` of `struct elf_prstatus`); `None` for a machine whose order is not known here.
    pub(super) fn read(registers: Bytes<'_>, machine: Machine, class: Class) -> Option<Self> {
        let (order, pc, stack) = match machine {
            Machine::X86_64 => X86_64,
            Machine::X86 => X86,
            Machine::Aarch64 => AARCH64,
            Machine::Other(_) => return None,
        };
        let register = |place: usize| registers.word(place * class.word(), class);
        let mut known = [None; COUNT];
        for (known, place) in known.iter_mut().zip(order) {
            *known = register(*place);
        }
        let read = Self {
            pc: register(pc)?,
            known,
            stack,
        };
        read.get(stack).is_some().then_some(read)
    }

    /// The stack pointer.
    pub(super) fn sp(&self) -> u64 {
        self.get(self.stack).unwrap_or(0)
    }

    /// One of them, if it is known.
    pub(super) fn get(&self, number: u16) -> Option<u64> {
        self.known.get(usize::from(number)).copied().flatten()
    }

    /// Changes one; numbers of others than these are ignored.
    pub(super) fn set(&mut self, number: u16, value: Option<u64>) {
        if let Some(known) = self.known.get_mut(usize::from(number)) {
            *known = value;
        }
    }

    /// The caller's as they are until something is said of them: where the callee's frame ends, its stack pointer is.
    pub(super) fn of_caller(&self, frame: u64) -> Self {
        let mut caller = *self;
        caller.set(self.stack, Some(frame));
        caller
    }
}

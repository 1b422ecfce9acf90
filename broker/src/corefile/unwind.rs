//! One step up the stack by unwinding information (DWARF call frame information in `.eh_frame`, LSB Core).
//!
//! It is a tenant's program in a small language, and what it says may be anything: gimli reads it, every access is
//! checked, loops are counted.

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, Encoding, EndianSlice, Evaluation,
    EvaluationResult, FrameDescriptionEntry, LittleEndian, ParsedEhFrameHdr, Register,
    RegisterRule, UnwindContext, UnwindExpression, UnwindSection, Value,
};

use super::elf::{Class, Machine};
use super::memory::Memory;
use super::registers::Registers;

/// Steps of one expression.
const STEPS_MAX: u32 = 1000;

/// Addresses of user space on aarch64; what is above signs a return address (pointer authentication).
const AARCH64_ADDRESS: u64 = (1 << 48) - 1;

type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// The unwinding information of a file, at the addresses where it is in memory.
#[derive(Debug)]
pub(super) struct Table {
    /// The index, where there is one: its address and its bytes.
    pub(super) index: Option<(u64, Vec<u8>)>,
    /// `.eh_frame` from its beginning, and maybe something behind it.
    pub(super) frames: (u64, Vec<u8>),
}

/// What a step comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The caller, and whether it was a signal that came in between: then its program counter is no return address.
    Caller(Box<Registers>, bool),
    /// There is none: the thread began here.
    End,
}

/// Where the index of a file says that `.eh_frame` is; `at` is where the index itself is.
pub(super) fn frames_of(index: &[u8], at: u64, class: Class) -> Option<u64> {
    let bases = BaseAddresses::default().set_eh_frame_hdr(at);
    let index = EhFrameHdr::new(index, LittleEndian);
    let index = index.parse(&bases, address_size(class)).ok()?;
    index.eh_frame_ptr().direct().ok()
}

fn address_size(class: Class) -> u8 {
    match class {
        Class::Bits32 => 4,
        Class::Bits64 => 8,
    }
}

impl Table {
    /// The caller of who executed at `place` with these registers; `None` where that cannot be known.
    pub(super) fn up(
        &self,
        place: u64,
        registers: &Registers,
        memory: &Memory,
        (class, machine): (Class, Machine),
    ) -> Option<Step> {
        let mut bases = BaseAddresses::default().set_eh_frame(self.frames.0);
        if let Some((at, _)) = self.index {
            bases = bases.set_eh_frame_hdr(at);
        }
        let mut frames = EhFrame::new(&self.frames.1, LittleEndian);
        frames.set_address_size(address_size(class));
        if machine == Machine::Aarch64 {
            frames.set_vendor(gimli::Vendor::AArch64);
        }
        let entry = self.entry(&frames, &bases, place, class)?;
        let mut context = UnwindContext::new();
        let row = entry.unwind_info_for_address(&frames, &bases, &mut context, place);
        let row = row.ok()?;
        let values = Values {
            frames: &frames,
            encoding: entry.cie().encoding(),
            registers,
            memory,
            class,
        };
        let frame = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                values.wrap(registers.get(register.0)?.wrapping_add_signed(*offset))
            }
            CfaRule::Expression(expression) => values.evaluate(expression, None)?,
        };
        let mut caller = registers.of_caller(frame);
        let back = entry.cie().return_address_register();
        let mut target = match row.register(back) {
            Some(RegisterRule::Undefined) => return Some(Step::End),
            Some(rule) => values.value(back, &rule, frame),
            None => registers.get(back.0),
        }?;
        for (register, rule) in row.registers() {
            caller.set(register.0, values.value(*register, rule, frame));
        }
        if machine == Machine::Aarch64 {
            target &= AARCH64_ADDRESS;
        }
        if target == 0 {
            return Some(Step::End);
        }
        caller.pc = target;
        let stands = caller.pc == registers.pc && caller.sp() == registers.sp();
        (!stands).then(|| Step::Caller(Box::new(caller), entry.is_signal_trampoline()))
    }

    /// What there is for one address: by the index, or where that has no table one after the other.
    fn entry<'a>(
        &'a self,
        frames: &EhFrame<Bytes<'a>>,
        bases: &BaseAddresses,
        place: u64,
        class: Class,
    ) -> Option<FrameDescriptionEntry<Bytes<'a>>> {
        let index = self.index.as_ref().and_then(|(_, bytes)| {
            let index = EhFrameHdr::new(bytes, LittleEndian);
            index.parse(bases, address_size(class)).ok()
        });
        let found = match index.as_ref().and_then(ParsedEhFrameHdr::table) {
            Some(table) => table.fde_for_address(frames, bases, place, EhFrame::cie_from_offset),
            None => frames.fde_for_address(bases, place, EhFrame::cie_from_offset),
        };
        found.ok()
    }
}

/// What rules are about.
struct Values<'a> {
    frames: &'a EhFrame<Bytes<'a>>,
    encoding: Encoding,
    registers: &'a Registers,
    memory: &'a Memory,
    class: Class,
}

impl Values<'_> {
    /// A register of the caller's, where the callee's frame ends at `frame`.
    fn value(&self, register: Register, rule: &RegisterRule<usize>, frame: u64) -> Option<u64> {
        let at = |offset: i64| self.wrap(frame.wrapping_add_signed(offset));
        match rule {
            RegisterRule::SameValue => self.registers.get(register.0),
            RegisterRule::Offset(offset) => self.memory.word(at(*offset), self.class),
            RegisterRule::ValOffset(offset) => Some(at(*offset)),
            RegisterRule::Register(other) => self.registers.get(other.0),
            RegisterRule::Expression(expression) => {
                let address = self.evaluate(expression, Some(frame))?;
                self.memory.word(address, self.class)
            }
            RegisterRule::ValExpression(expression) => self.evaluate(expression, Some(frame)),
            RegisterRule::Constant(value) => Some(*value),
            RegisterRule::Undefined | RegisterRule::Architectural => None,
        }
    }

    /// What an expression comes to.
    fn evaluate(&self, expression: &UnwindExpression<usize>, first: Option<u64>) -> Option<u64> {
        let expression = expression.get(self.frames).ok()?;
        let mut evaluation: Evaluation<Bytes<'_>> = expression.evaluation(self.encoding);
        evaluation.set_max_iterations(STEPS_MAX);
        if let Some(first) = first {
            evaluation.set_initial_value(first);
        }
        let mut state = evaluation.evaluate().ok()?;
        for _ in 0..STEPS_MAX {
            let next = if let EvaluationResult::RequiresMemory { address, size, .. } = state {
                let word = self.memory.word(address, self.class)?;
                let bits = u32::from(size).checked_mul(8)?;
                let mask = u64::MAX.checked_shr(64_u32.checked_sub(bits)?)?;
                evaluation.resume_with_memory(Value::Generic(word & mask))
            } else if let EvaluationResult::RequiresRegister { register, .. } = state {
                let value = self.registers.get(register.0)?;
                evaluation.resume_with_register(Value::Generic(value))
            } else if state == EvaluationResult::Complete {
                let value = evaluation.value_result()?;
                return Some(self.wrap(value.to_u64(u64::MAX).ok()?));
            } else {
                return None; // nothing else is for unwinding
            };
            state = next.ok()?;
        }
        None
    }

    /// An address of this machine.
    fn wrap(&self, address: u64) -> u64 {
        match self.class {
            Class::Bits32 => address & u64::from(u32::MAX),
            Class::Bits64 => address,
        }
    }
}

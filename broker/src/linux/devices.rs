//! The devices of a helper that is in a container and not in its cgroup.
//!
//! What a container's processes may open of devices is bounded by a program on the container's cgroup (cgroups(7),
//! `BPF_CGROUP_DEVICE`; the v1 controller), not by its namespaces: its image may hold a node of the host's disk, and
//! its root may make one. So a helper elsewhere gets a program of ours, which lets through what every runtime does.

use std::os::fd::OwnedFd;

use nix::errno::Errno;

use super::sys::{self, BpfInstruction};

/// Character devices by major and minor number (Linux's devices.txt): null, zero, full, random, urandom; tty, ptmx.
const MEMORY: (i32, [i32; 5]) = (1, [3, 5, 7, 8, 9]);
const TERMINALS: (i32, [i32; 2]) = (5, [0, 2]);

/// Pseudo-terminals have these major numbers.
const PTS: (i32, i32) = (136, 143);

/// `BPF_DEVCG_DEV_CHAR` (linux/bpf.h): the low half of what is asked says which kind of device.
const CHARACTER: i32 = 2;

/// Registers: the result; the question, `struct bpf_cgroup_dev_ctx`; what was loaded of it.
const RESULT: u8 = 0;
const QUESTION: u8 = 1;
const VALUE: u8 = 2;

/// Where the question has the access and kind, the major and the minor number.
const KIND: i16 = 0;
const MAJOR: i16 = 4;
const MINOR: i16 = 8;

/// Operations of eBPF (linux/bpf.h, linux/bpf_common.h): load a word, and with a number, jump on a number, give a
/// number, end.
const LOAD: u8 = 0x61;
const AND: u8 = 0x57;
const IF_EQUAL: u8 = 0x15;
const IF_NOT_EQUAL: u8 = 0x55;
const IF_GREATER: u8 = 0x25;
const IF_LESS: u8 = 0xa5;
const SET: u8 = 0xb7;
const END: u8 = 0x95;

/// Loads the program, to be attached to a helper's cgroup.
///
/// # Errors
/// As bpf(2); `EINVAL` on a kernel without `CONFIG_CGROUP_BPF`.
pub fn standard() -> Result<OwnedFd, Errno> {
    sys::load_device_program(&program())
}

fn program() -> Vec<BpfInstruction> {
    let new = |operation, offset, number| BpfInstruction {
        operation,
        registers: VALUE,
        offset,
        number,
    };
    let load = |field| BpfInstruction {
        registers: QUESTION << 4 | VALUE,
        ..new(LOAD, field, 0)
    };
    let give = |number| {
        let set = BpfInstruction {
            registers: RESULT,
            ..new(SET, 0, number)
        };
        let end = BpfInstruction {
            registers: 0,
            ..new(END, 0, 0)
        };
        [set, end]
    };
    // A major number's own part: its minors, then no. A jump counts from the instruction behind it; the two
    // instructions that say yes follow the two that say no.
    let minors = |wanted: &[i32]| {
        let mut part = vec![load(MINOR)];
        for (left, minor) in (0..wanted.len()).rev().zip(wanted) {
            let over = i16::try_from(left + 2).unwrap_or(0);
            part.push(new(IF_EQUAL, over, *minor));
        }
        part.extend(give(0));
        part.extend(give(1));
        part
    };
    let (memory, terminals) = (minors(&MEMORY.1), minors(&TERMINALS.1));
    let behind = |part: &[BpfInstruction]| i16::try_from(part.len()).unwrap_or(0);
    let mut program = vec![load(KIND), new(AND, 0, 0xffff), new(IF_EQUAL, 2, CHARACTER)];
    program.extend(give(0));
    program.push(load(MAJOR));
    program.push(new(IF_NOT_EQUAL, behind(&memory), MEMORY.0));
    program.extend(memory);
    // The register holds the major number where the jump above was taken.
    program.push(new(IF_NOT_EQUAL, behind(&terminals), TERMINALS.0));
    program.extend(terminals);
    program.push(new(IF_LESS, 3, PTS.0));
    program.push(new(IF_GREATER, 2, PTS.1));
    program.extend(give(1));
    program.extend(give(0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would (the operations it is made of).
    fn allowed(kind: i32, major: i32, minor: i32) -> bool {
        let program = program();
        let (mut place, mut value, mut result) = (0_usize, 0, 0);
        loop {
            let now = program[place];
            place += 1;
            let jump = match now.operation {
                LOAD => {
                    value = match now.offset {
                        KIND => kind,
                        MAJOR => major,
                        MINOR => minor,
                        other => panic!("load {other}"),
                    };
                    false
                }
                AND => {
                    value &= now.number;
                    false
                }
                SET => {
                    result = now.number;
                    false
                }
                END => return result == 1,
                IF_EQUAL => value == now.number,
                IF_NOT_EQUAL => value != now.number,
                IF_GREATER => value > now.number,
                IF_LESS => value < now.number,
                other => panic!("operation {other:x}"),
            };
            if jump {
                place += usize::try_from(now.offset).unwrap();
            }
        }
    }

    #[test]
    fn what_every_container_has_and_no_other_device_is_let_through() {
        let read = 2 << 16;
        for (major, minor) in [(1, 3), (1, 5), (1, 9), (5, 0), (5, 2), (136, 0), (143, 7)] {
            assert!(allowed(read | CHARACTER, major, minor), "{major}:{minor}");
            assert!(!allowed(read | 1, major, minor), "block {major}:{minor}");
        }
        // mem, kmem, port, kmsg; console; a serial line, FUSE, a disk.
        for (major, minor) in [(1, 1), (1, 2), (1, 4), (1, 11), (5, 1), (4, 64), (10, 229)] {
            assert!(!allowed(read | CHARACTER, major, minor), "{major}:{minor}");
        }
        assert!(!allowed(read | CHARACTER, 144, 0) && !allowed(read | 1, 8, 0));
    }

    #[test]
    fn the_kernel_takes_the_program() {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("SKIPPED: needs root to load a program");
            return;
        }
        assert!(standard().is_ok());
    }
}

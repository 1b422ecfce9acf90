//! Filters of system calls (seccomp(2)), made as short programs.
//!
//! What is allowed is a bit per number, and the word with a number's bit is found by halving: short, because the kernel
//! compiles a filter anew for every process that gets one. One comparison per number cost each helper 0.7 ms.

use nix::errno::Errno;
use nix::libc;

/// One instruction of a filter (`struct sock_filter`, linux/filter.h).
pub type Instruction = libc::sock_filter;

/// `AUDIT_ARCH_*` of linux/audit.h: a program of another architecture has other numbers.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// The x32 calls of x86-64 have numbers of their own from here up.
pub const X32: u32 = 0x4000_0000;

/// Every `CLONE_NEW*` but time, which clone(2) cannot make.
pub const NEW_NAMESPACES: u32 = 0x7e02_0000;

/// What becomes of a system call (linux/seccomp.h): it is done.
pub const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
/// It fails with `EPERM`.
pub const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | 0x01;
/// It fails with `ENOSYS`: libc does without it.
pub const ABSENT: u32 = libc::SECCOMP_RET_ERRNO | 0x26;
/// It ends the process with `SIGSYS`.
pub const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

/// Where `struct seccomp_data` has the number, the architecture and the arguments, of eight bytes each.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// A filter that is being made. Numbers that are more than allowed or refused come first, as cases.
#[derive(Debug)]
pub struct Filter {
    program: Vec<Instruction>,
    otherwise: u32,
}

impl Filter {
    /// One that answers `otherwise` to what it is not told about. Who calls in another architecture's way is ended.
    #[must_use]
    pub fn new(otherwise: u32) -> Self {
        // The number's bit within its word, for the end. It comes first because it ends the kernel's trying out of
        // every number when a filter is installed: all else here would make a helper wait for that.
        let program = vec![
            load(NUMBER),
            instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 31, 0, 0),
            instruction(libc::BPF_MISC | libc::BPF_TAX, 0, 0, 0),
            load(ARCHITECTURE),
            jump(libc::BPF_JEQ, ARCH, 1, 0),
            end(KILL),
            load(NUMBER),
        ];
        Self { program, otherwise }
    }

    /// One number, by what `code` finds in its arguments; it must come to an [`end`].
    ///
    /// # Errors
    /// `EINVAL` for what is no number, `E2BIG` for too much code.
    pub fn case(&mut self, number: i64, code: &[Instruction]) -> Result<(), Errno> {
        let number = u32::try_from(number).map_err(|_| Errno::EINVAL)?;
        let unless = jump(libc::BPF_JEQ, number, 0, distance(code.len())?);
        self.program.push(unless);
        self.program.extend_from_slice(code);
        Ok(())
    }

    /// All numbers from this one up.
    pub fn from(&mut self, first: u32, action: u32) {
        self.program
            .extend([jump(libc::BPF_JGE, first, 0, 1), end(action)]);
    }

    /// The program, which allows these numbers whatever their arguments.
    ///
    /// # Errors
    /// `EINVAL` for what is no number, `E2BIG` for too many.
    pub fn allowing(
        self,
        numbers: impl IntoIterator<Item = i64>,
    ) -> Result<Vec<Instruction>, Errno> {
        let Self {
            mut program,
            otherwise,
        } = self;
        let words = words(numbers)?;
        program.push(instruction(
            libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K,
            5,
            0,
            0,
        ));
        let mut search = Vec::new();
        find_word(&mut search, 0, &words, otherwise)?;
        // Each leaf of the search goes on behind the last one, with its word loaded.
        let length = search.len();
        for (place, instruction) in search.iter_mut().enumerate() {
            if u32::from(instruction.code) == libc::BPF_JMP | libc::BPF_JA {
                instruction.k = u32::try_from(length - place - 1).map_err(|_| Errno::E2BIG)?;
            }
        }
        program.append(&mut search);
        program.extend([
            instruction(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_X, 0, 0, 0),
            jump(libc::BPF_JSET, 1, 1, 0),
            end(otherwise),
            end(ALLOW),
        ]);
        Ok(program)
    }
}

/// Code for a case: allowed if the low half of this argument, counted from 0, is one of `values`.
pub fn one_of(argument: u32, values: &[u32], otherwise: u32) -> Vec<Instruction> {
    among(argument, values, ALLOW, otherwise)
}

/// Code for a case: allowed unless the low half of this argument, counted from 0, is one of `values`.
pub fn unless_one_of(argument: u32, values: &[u32], otherwise: u32) -> Vec<Instruction> {
    among(argument, values, otherwise, ALLOW)
}

fn among(argument: u32, values: &[u32], yes: u32, no: u32) -> Vec<Instruction> {
    let mut code = vec![load_argument(argument)];
    for value in values {
        code.extend([jump(libc::BPF_JEQ, *value, 0, 1), end(yes)]);
    }
    code.push(end(no));
    code
}

/// Code for a case: allowed unless the low half of this argument has one of these bits.
pub fn no_bit_of(argument: u32, bits: u32, otherwise: u32) -> [Instruction; 4] {
    [
        load_argument(argument),
        jump(libc::BPF_JSET, bits, 0, 1),
        end(otherwise),
        end(ALLOW),
    ]
}

/// Loads the low half of an argument, counted from 0.
pub fn load_argument(argument: u32) -> Instruction {
    load(ARGUMENTS + 8 * argument)
}

/// The 32 bits that the kernel reads of an ioctl(2) request, and an argument shows.
#[cfg_attr(
    target_env = "musl",
    expect(clippy::cast_sign_loss, reason = "as the kernel does")
)]
#[cfg_attr(
    not(target_env = "musl"),
    expect(clippy::cast_possible_truncation, reason = "as the kernel does")
)]
pub const fn low(request: libc::Ioctl) -> u32 {
    request as u32
}

/// Skips `yes` instructions where what is loaded meets the condition (`BPF_JEQ`, `BPF_JGE`, `BPF_JSET`), else `no`.
pub fn jump(condition: u32, value: u32, yes: u8, no: u8) -> Instruction {
    instruction(libc::BPF_JMP | condition | libc::BPF_K, value, yes, no)
}

/// Ends with this.
pub fn end(action: u32) -> Instruction {
    instruction(libc::BPF_RET | libc::BPF_K, action, 0, 0)
}

/// A bit for each number, 32 to a word.
fn words(numbers: impl IntoIterator<Item = i64>) -> Result<Vec<u32>, Errno> {
    let mut words = Vec::new();
    for number in numbers {
        let number = usize::try_from(number).map_err(|_| Errno::EINVAL)?;
        if words.len() <= number / 32 {
            words.resize(number / 32 + 1, 0);
        }
        if let Some(word) = words.get_mut(number / 32) {
            *word |= 1 << (number % 32);
        }
    }
    Ok(words)
}

/// Code that loads the word whose place, `first` and up, is in the accumulator; a place behind the last has none.
fn find_word(
    program: &mut Vec<Instruction>,
    first: u32,
    words: &[u32],
    otherwise: u32,
) -> Result<(), Errno> {
    match words {
        [] => program.push(end(otherwise)),
        [word] => program.extend([
            jump(libc::BPF_JEQ, first, 1, 0),
            end(otherwise),
            instruction(libc::BPF_LD | libc::BPF_IMM, *word, 0, 0),
            instruction(libc::BPF_JMP | libc::BPF_JA, 0, 0, 0),
        ]),
        _ => {
            let (low, high) = words.split_at(words.len() / 2);
            let middle = first + u32::try_from(low.len()).map_err(|_| Errno::E2BIG)?;
            let mut below = Vec::new();
            find_word(&mut below, first, low, otherwise)?;
            program.push(jump(libc::BPF_JGE, middle, distance(below.len())?, 0));
            program.append(&mut below);
            find_word(program, middle, high, otherwise)?;
        }
    }
    Ok(())
}

/// A jump forward reaches 255 instructions.
fn distance(length: usize) -> Result<u8, Errno> {
    u8::try_from(length).map_err(|_| Errno::E2BIG)
}

fn load(offset: u32) -> Instruction {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> Instruction {
    // All codes have 16 bits.
    Instruction {
        code: u16::try_from(code).unwrap_or(0),
        jt,
        jf,
        k,
    }
}

/// What the kernel would do with a call, for tests of a list: the program is run as the kernel runs it.
/// `None` where it does not come to an end, or has an instruction that no program made here has.
#[must_use]
pub fn verdict(program: &[Instruction], number: i64, arguments: &[u32]) -> Option<u32> {
    let number = u32::try_from(number).ok()?;
    run(program, number, ARCH, arguments)
}

fn run(program: &[Instruction], number: u32, arch: u32, arguments: &[u32]) -> Option<u32> {
    let (mut place, mut value, mut index) = (0, 0, 0);
    loop {
        let now: &Instruction = program.get(place)?;
        place += 1;
        let code = u32::from(now.code);
        match code & 7 {
            libc::BPF_LD if code & libc::BPF_ABS == 0 => value = now.k,
            libc::BPF_LD => {
                value = match now.k {
                    NUMBER => number,
                    ARCHITECTURE => arch,
                    argument => {
                        let place = argument.checked_sub(ARGUMENTS)? / 8;
                        let argument = arguments.get(usize::try_from(place).ok()?);
                        argument.copied().unwrap_or(0)
                    }
                }
            }
            libc::BPF_RET => return Some(now.k),
            libc::BPF_MISC => index = value,
            libc::BPF_ALU => {
                let x = code & libc::BPF_X != 0;
                let operand = if x { index } else { now.k };
                value = match code & 0xf0 {
                    libc::BPF_AND => value & operand,
                    libc::BPF_RSH => value.checked_shr(operand)?,
                    _ => return None,
                };
            }
            libc::BPF_JMP => {
                let holds = match code & 0xf0 {
                    libc::BPF_JA => {
                        place += usize::try_from(now.k).ok()?;
                        continue;
                    }
                    libc::BPF_JEQ => value == now.k,
                    libc::BPF_JGE => value >= now.k,
                    libc::BPF_JSET => value & now.k != 0,
                    _ => return None,
                };
                place += usize::from(if holds { now.jt } else { now.jf });
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_is_allowed_and_all_else_is_what_it_is_said_to_be() {
        for listed in [&[][..], &[0], &[31, 32], &[1, 5, 63, 64, 300, 451]] {
            for otherwise in [REFUSE, ALLOW, KILL] {
                let program = Filter::new(otherwise).allowing(listed.to_vec()).unwrap();
                for number in (0..1024).chain([i64::from(X32), i64::from(u32::MAX)]) {
                    let expected = if listed.contains(&number) {
                        ALLOW
                    } else {
                        otherwise
                    };
                    let is = verdict(&program, number, &[]);
                    assert_eq!(is, Some(expected), "{number} of {listed:?}");
                }
            }
        }
    }

    #[test]
    fn another_architectures_numbers_are_never_looked_at() {
        let program = Filter::new(ALLOW).allowing([0]).unwrap();
        assert_eq!(run(&program, 0, 0x4000_0003, &[]), Some(KILL));
    }

    #[test]
    fn cases_go_by_their_arguments() {
        let mut filter = Filter::new(REFUSE);
        filter.case(7, &one_of(1, &[3, 4], ABSENT)).unwrap();
        filter.case(8, &no_bit_of(5, 0x30, KILL)).unwrap();
        filter.from(400, ABSENT);
        let program = filter.allowing([7, 8, 9, 401]).unwrap();
        let of = |number, arguments: &[u32]| verdict(&program, number, arguments).unwrap();
        assert_eq!(of(7, &[3, 5]), ABSENT);
        assert_eq!((of(7, &[0, 3]), of(7, &[0, 4])), (ALLOW, ALLOW));
        assert_eq!(of(8, &[0, 0, 0, 0, 0, 0x0f]), ALLOW);
        assert_eq!(of(8, &[0, 0, 0, 0, 0, 0x1f]), KILL);
        assert_eq!((of(9, &[]), of(10, &[])), (ALLOW, REFUSE));
        assert_eq!((of(399, &[]), of(401, &[])), (REFUSE, ABSENT));
        assert!(Filter::new(REFUSE).case(-1, &[]).is_err());
    }
}

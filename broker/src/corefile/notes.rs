//! The notes: registers, signal, mapped files, threads. Read one by one, since each of many threads has its own.

use upcall_config::text::escape;

use super::CoreError;
use super::bytes::{Bytes, padded};
use super::elf::{Class, Header, Segment};
use super::model::{Crash, Sender};
use super::registers::Registers;
use super::source::Source;

/// elf(5), linux/elf.h.
const NT_PRSTATUS: u32 = 1;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_SIGINFO: u32 = 0x5349_4749;
const NT_FILE: u32 = 0x4649_4c45;

/// getauxval(3).
const AT_SYSINFO_EHDR: u64 = 33;

/// The longest note that is read: kernel.core_file_note_size_limit is at most 16 MiB.
const NOTE_MAX: usize = 16 << 20;

/// The longest name of a note that is read.
const NAME_MAX: usize = 64;

/// How many threads are listed.
const THREADS_MAX: usize = 4096;

/// How many mappings are looked at.
const FILES_MAX: usize = 1 << 17;

/// The longest path that is shown.
const PATH_MAX: usize = 4096;

/// A mapping of a file.
#[derive(Debug, Clone)]
pub(super) struct Mapping {
    pub(super) start: u64,
    pub(super) end: u64,
    /// In pages.
    pub(super) offset: u64,
    pub(super) path: Vec<u8>,
}

/// What the notes say.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) registers: Option<Registers>,
    pub(super) files: Vec<Mapping>,
    pub(super) vdso: Option<u64>,
    crash: Crash,
}

impl Notes {
    /// Reads them. Those that are damaged are left out.
    pub(super) fn read(
        core: &mut dyn Source,
        header: &Header,
        segment: &Segment,
    ) -> Result<Self, CoreError> {
        let mut notes = Self::default();
        let mut left = segment.size;
        let read = |source| CoreError::Read {
            step: "its notes",
            source,
        };
        core.pass(segment.offset).map_err(read)?;
        while left >= 12 {
            let mut head = [0; 12];
            core.fetch(&mut head).map_err(read)?;
            left -= 12;
            let number = |at| {
                Bytes(&head)
                    .u32(at)
                    .and_then(|length| usize::try_from(length).ok())
            };
            let (Some(name), Some(content)) = (number(0), number(4)) else {
                break;
            };
            let kind = Bytes(&head).u32(8).unwrap_or(0);
            let lengths = padded(name).zip(padded(content));
            let lengths = lengths.and_then(|(name, content)| {
                let both = u64::try_from(name.checked_add(content)?).ok()?;
                (both <= left).then_some((name, content, both))
            });
            let Some((name, padded_content, both)) = lengths else {
                notes
                    .crash
                    .unread
                    .push("notes: they are damaged".to_owned());
                break;
            };
            left -= both;
            if name > NAME_MAX || padded_content > NOTE_MAX || !Self::wants(kind) {
                core.pass(both).map_err(read)?;
                continue;
            }
            let mut bytes = vec![0; name + padded_content];
            core.fetch(&mut bytes).map_err(read)?;
            let bytes = Bytes(&bytes);
            let Some(content) = bytes.part(name, content) else {
                break;
            };
            if bytes.text(0, name) == Some(b"CORE") {
                // What is damaged says nothing; the rest is still worth reading.
                let _ = notes.take(kind, content, header);
            }
        }
        core.pass(left).map_err(read)?;
        Ok(notes)
    }

    fn wants(kind: u32) -> bool {
        [NT_PRSTATUS, NT_PRPSINFO, NT_AUXV, NT_SIGINFO, NT_FILE].contains(&kind)
    }

    fn take(&mut self, kind: u32, note: Bytes<'_>, header: &Header) -> Option<()> {
        match kind {
            NT_PRSTATUS => self.thread(note, header),
            NT_PRPSINFO => self.process(note, header.class),
            NT_SIGINFO => self.signal(note, header.class),
            NT_AUXV => {
                let word = header.class.word();
                let pairs = (0..note.0.len() / (2 * word)).take(128);
                self.vdso = pairs.map(|pair| pair * 2 * word).find_map(|at| {
                    let kind = note.word(at, header.class)?;
                    let value = note.word(at + word, header.class)?;
                    (kind == AT_SYSINFO_EHDR).then_some(value)
                });
                Some(())
            }
            _ => self.mapped(note, header.class),
        }
    }

    /// `struct elf_prstatus` (linux/elfcore.h): the first one is of the thread that crashed.
    fn thread(&mut self, note: Bytes<'_>, header: &Header) -> Option<()> {
        let (id, registers) = match header.class {
            Class::Bits32 => (note.u32(24)?, 72),
            Class::Bits64 => (note.u32(32)?, 112),
        };
        if self.crash.threads.len() >= THREADS_MAX {
            self.crash.more_threads = true;
            return Some(());
        }
        self.crash.threads.push(id);
        if self.crash.threads.len() > 1 {
            return Some(());
        }
        self.crash.signal = note.u16(12).map(u32::from);
        let registers = Bytes(note.0.get(registers..)?);
        self.registers = Registers::read(registers, header.machine, header.class);
        Some(())
    }

    /// `struct elf_prpsinfo`.
    fn process(&mut self, note: Bytes<'_>, class: Class) -> Option<()> {
        let (name, command) = match class {
            Class::Bits32 => (28, 44),
            Class::Bits64 => (40, 56),
        };
        self.crash.comm = note.text(name, 16).map(escape);
        let command = note.text(command, 80)?.trim_ascii_end();
        self.crash.command = Some(escape(command));
        Some(())
    }

    /// `siginfo_t` (sigaction(2)).
    fn signal(&mut self, note: Bytes<'_>, class: Class) -> Option<()> {
        let fields = match class {
            Class::Bits32 => 12,
            Class::Bits64 => 16,
        };
        let signal = u32::try_from(note.i32(0)?).ok()?;
        let code = note.i32(8)?;
        self.crash.signal = Some(signal);
        self.crash.code = Some(code);
        self.crash.code_name = code_name(signal, code).map(str::to_owned);
        if code > 0 && code < 0x80 {
            // ILL, TRAP, BUS, FPE, SEGV have an address here.
            let has = [4, 5, 7, 8, 11].contains(&signal);
            self.crash.address = note.word(fields, class).filter(|_| has);
        } else if [0, -1, -6].contains(&code) {
            self.crash.sender = Some(Sender {
                pid: note.u32(fields)?,
                uid: note.u32(fields + 4)?,
            });
        }
        Some(())
    }

    /// `NT_FILE` (core(5)): mappings, and behind them the paths.
    fn mapped(&mut self, note: Bytes<'_>, class: Class) -> Option<()> {
        let word = class.word();
        let count = usize::try_from(note.word(0, class)?).ok()?;
        let each = 3 * word;
        let mut path_at = count.checked_mul(each)?.checked_add(2 * word)?;
        for place in 0..count.min(FILES_MAX) {
            let at = 2 * word + place * each;
            let path = note.text(path_at, usize::MAX)?;
            path_at += path.len() + 1;
            self.files.push(Mapping {
                start: note.word(at, class)?,
                end: note.word(at + word, class)?,
                offset: note.word(at + 2 * word, class)?,
                path: path.get(..PATH_MAX).unwrap_or(path).to_vec(),
            });
        }
        if count > FILES_MAX {
            let unread = &mut self.crash.unread;
            unread.push(format!("mapped files: only the first {FILES_MAX} mappings"));
        }
        Some(())
    }

    /// What they say of the crash.
    pub(super) fn crash(&self, header: &Header) -> Crash {
        Crash {
            machine: header.machine.name(),
            ..self.crash.clone()
        }
    }
}

/// Names of a signal's codes (sigaction(2)).
fn code_name(signal: u32, code: i32) -> Option<&'static str> {
    const ILL: &[&str] = &[
        "ILLOPC", "ILLOPN", "ILLADR", "ILLTRP", "PRVOPC", "PRVREG", "COPROC", "BADSTK",
    ];
    const FPE: &[&str] = &[
        "INTDIV", "INTOVF", "FLTDIV", "FLTOVF", "FLTUND", "FLTRES", "FLTINV", "FLTSUB",
    ];
    const SEGV: &[&str] = &[
        "MAPERR", "ACCERR", "BNDERR", "PKUERR", "ACCADI", "ADIDERR", "ADIPERR", "MTEAERR",
        "MTESERR", "CPERR",
    ];
    const BUS: &[&str] = &["ADRALN", "ADRERR", "OBJERR", "MCEERR_AR", "MCEERR_AO"];
    const TRAP: &[&str] = &["BRKPT", "TRACE", "BRANCH", "HWBKPT", "UNK"];
    let general = match code {
        0 => Some("USER"),
        0x80 => Some("KERNEL"),
        -1 => Some("QUEUE"),
        -2 => Some("TIMER"),
        -6 => Some("TKILL"),
        _ => None,
    };
    let names = match signal {
        4 => ILL,
        5 => TRAP,
        7 => BUS,
        8 => FPE,
        11 => SEGV,
        31 if code == 1 => return Some("SECCOMP"),
        _ => &[],
    };
    let place = usize::try_from(code)
        .ok()
        .and_then(|code| code.checked_sub(1));
    general.or_else(|| names.get(place?).copied())
}

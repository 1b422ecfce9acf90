//! A core as the kernel writes it (core(5), elf(5); fs/binfmt_elf.c): who crashed and how, in which files, and the
//! stack of the thread that did.
//!
//! A core is a tenant's bytes, and may be 100 GiB long and compressed. So it is read once, forward, only as far as
//! needed; every count and length in it is bounded before it is believed; what does not fit is left out and said.
//! Nothing in here decides anything, and only a process without privileges should call it.

mod bytes;
mod elf;
mod frames;
mod image;
mod memory;
mod model;
mod modules;
mod notes;
mod registers;
mod source;
#[cfg(test)]
mod tests;
mod unwind;

pub use frames::{Files, Mapped, NoFiles};
pub use model::{Crash, Frame, Module, Sender};
pub use source::{Source, Stream};

use elf::{Class, Header, Machine, Segment};
use memory::Memory;
use notes::Notes;
use registers::Registers;

/// The most that is remembered of a core's memory: stack and headers.
const MEMORY_MAX: u64 = 32 << 20;

/// How much of the stack is looked at, from the stack pointer up.
const STACK_MAX: u64 = 1 << 20;

/// The vdso is much smaller.
const VDSO_MAX: u64 = 64 << 10;

const _: () = {
    let headers = modules::MODULES_MAX as u64 * modules::HEADER;
    assert!(
        headers + STACK_MAX + VDSO_MAX <= MEMORY_MAX,
        "files must not use up what the stack needs"
    );
};

/// What a leaf function may use below its stack pointer (the x86-64 ABI's red zone).
const RED_ZONE: u64 = 128;

/// Why a core cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// It ends where it must not, or cannot be read.
    #[error("{step}: {source}")]
    Read {
        /// What was being read.
        step: &'static str,
        /// Why it could not be.
        source: std::io::Error,
    },
    /// It is something else.
    #[error("not a core: {0}")]
    NotACore(&'static str),
    /// It holds more than is looked at.
    #[error("more {0} than are looked at")]
    TooMany(&'static str),
}

/// A core that was read: what it says, and what is needed for the way up its stack.
#[derive(Debug)]
pub struct Core {
    /// Who crashed and how; of the stack only where it was, until [`Core::walk`].
    pub crash: Crash,
    header: Header,
    memory: Memory,
    registers: Option<Registers>,
    vdso: Option<u64>,
    /// Whether it crashed where nothing was mapped.
    in_nowhere: bool,
}

impl Core {
    /// Reads one.
    ///
    /// # Errors
    /// See [`CoreError`]. A core that ends behind its notes is none: what is not there is said in [`Crash::unread`].
    pub fn read(core: &mut dyn Source) -> Result<Self, CoreError> {
        let header = Header::read(core)?;
        let segments = header.segments(core)?;
        let notes = segments.iter().find(|segment| segment.is_notes());
        let segment = notes.ok_or(CoreError::NotACore("it has no notes"))?;
        let notes = Notes::read(core, &header, segment)?;
        let mut crash = notes.crash(&header);
        let wanted = wanted(&notes, &segments);
        let here = segment.offset.saturating_add(segment.size);
        let memory = Memory::read(core, here, &segments, wanted, &mut crash.unread);
        modules::identify(&mut crash, &notes, &memory, header.class);
        let registers = notes.registers;
        let frame = registers.as_ref();
        let frame = frame.map(|registers| frames::first(&crash, registers));
        crash.frames = frame.into_iter().collect();
        let pc = registers.map_or(0, |registers| registers.pc);
        Ok(Self {
            crash,
            header,
            memory,
            registers,
            vdso: notes.vdso,
            in_nowhere: !segments.iter().any(|segment| segment.covers(pc)),
        })
    }

    /// Goes up the stack of the thread that crashed; `files` opens the files that were mapped, for names and for the
    /// way. Where it ends before the thread's beginning, [`Crash::unread`] says why.
    pub fn walk(&mut self, files: &mut dyn Files) {
        if let Some(registers) = &self.registers {
            let (frames, why) = frames::walk(self, registers, files);
            self.crash.frames = frames;
            self.crash.unread.extend(why);
        }
    }

    fn class(&self) -> Class {
        self.header.class
    }

    fn machine(&self) -> Machine {
        self.header.machine
    }
}

/// Which addresses are looked at, and how much from there: the stack, the vdso, where a file's beginning is mapped.
/// All of it has room in [`MEMORY_MAX`].
fn wanted(notes: &Notes, segments: &[Segment]) -> Vec<(u64, u64)> {
    let mut wanted = Vec::new();
    if let Some(registers) = &notes.registers {
        wanted.push((registers.sp().saturating_sub(RED_ZONE), STACK_MAX));
    }
    if let Some(vdso) = notes.vdso {
        let whole = segments.iter().find(|segment| segment.start == vdso);
        wanted.push((vdso, whole.map_or(0, |whole| whole.size.min(VDSO_MAX))));
    }
    let begins = notes.files.iter().filter(|file| file.offset == 0);
    let begins = begins.take(modules::MODULES_MAX);
    wanted.extend(begins.map(|file| (file.start, modules::HEADER)));
    wanted
}

impl Class {
    /// Bytes of an address.
    fn word(self) -> usize {
        match self {
            Self::Bits32 => 4,
            Self::Bits64 => 8,
        }
    }
}

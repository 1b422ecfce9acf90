//! The stack of the thread that crashed.

use std::io::{Read, Seek};

use super::elf::Header;
use super::memory::Memory;
use super::model::{Crash, Frame};
use super::notes::{Notes, Registers};

/// An open file of the container's.
pub trait Mapped: Read + Seek {}

impl<T: Read + Seek> Mapped for T {}

/// Opens files of the container.
pub trait Files {
    /// The file that was mapped from this path; `None` where there is none.
    fn open(&mut self, path: &[u8]) -> Option<Box<dyn Mapped>>;
}

/// There are none.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFiles;

impl Files for NoFiles {
    fn open(&mut self, _: &[u8]) -> Option<Box<dyn Mapped>> {
        None
    }
}

/// Puts the stack into the crash.
pub(super) fn walk(
    crash: &mut Crash,
    _header: &Header,
    registers: &Registers,
    _memory: &Memory,
    _notes: &Notes,
    _files: &mut dyn Files,
) {
    let frame = frame(crash, registers.pc);
    crash.frames.push(frame);
}

/// An address and the file it is in.
fn frame(crash: &Crash, address: u64) -> Frame {
    let mut modules = crash.modules.iter();
    let module = modules.find(|module| (module.start..module.end).contains(&address));
    Frame {
        address,
        module: module.map(|module| module.path.clone()),
        offset: module.map(|module| address - module.start),
        build_id: module.and_then(|module| module.build_id.clone()),
        ..Frame::default()
    }
}

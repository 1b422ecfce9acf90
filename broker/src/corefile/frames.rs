//! The stack of the thread that crashed: functions that had not returned, by the unwinding information of the files
//! they are in.
//!
//! Where there is none the way up ends and says so: what one could guess from the stack would look as good as what is
//! known. A file counts only if its first page is what the core has of it, build-id included.

use std::io::Cursor;

use upcall_config::text::unescape;

use super::Core;
use super::elf::Machine;
use super::image::Image;
pub use super::image::Mapped;
use super::model::{Crash, Frame};
use super::registers::Registers;
use super::unwind::Step;

/// How many functions are walked through.
const FRAMES_MAX: usize = 256;

/// How many files are read.
const IMAGES_MAX: usize = 64;

/// How much is remembered of all of them.
const ROOM: u64 = 256 << 20;

/// What the kernel maps into every process, which is no file.
const VDSO: &str = "[vdso]";

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

/// Where a thread was, with the file of that if it has one.
pub(super) fn first(crash: &Crash, registers: &Registers) -> Frame {
    let modules = crash.modules.iter();
    let mut around = modules.filter(|module| (module.start..module.end).contains(&registers.pc));
    let module = around.next();
    Frame {
        address: registers.pc,
        module: module.map(|module| module.path.clone()),
        offset: module.map(|module| registers.pc - module.start),
        build_id: module.and_then(|module| module.build_id.clone()),
        ..Frame::default()
    }
}

/// The stack, and why it ends if not where the thread began.
pub(super) fn walk(
    core: &Core,
    registers: &Registers,
    files: &mut dyn Files,
) -> (Vec<Frame>, Option<String>) {
    let mut way = Way {
        core,
        files,
        images: Vec::new(),
        room: ROOM,
    };
    let mut frames = Vec::new();
    let why = way.up(*registers, &mut frames);
    (frames, why.map(|why| format!("stack: {why}")))
}

/// What is needed on the way up.
struct Way<'a> {
    core: &'a Core,
    files: &'a mut dyn Files,
    /// By where they begin in memory.
    images: Vec<(u64, Option<Image>)>,
    room: u64,
}

impl<'a> Way<'a> {
    fn up(&mut self, mut registers: Registers, frames: &mut Vec<Frame>) -> Option<String> {
        // A return address is behind what called; where a signal came, and at the start, it is the very place.
        let mut exact = true;
        loop {
            let place = if exact {
                registers.pc
            } else {
                registers.pc.wrapping_sub(1)
            };
            frames.push(self.frame(registers.pc, place));
            if frames.len() >= FRAMES_MAX {
                return Some(format!("only the innermost {FRAMES_MAX} functions"));
            }
            let (core, number) = (self.core, frames.len() - 1);
            let step = match self.image(place) {
                Some(image) => {
                    let machine = (image.class(), core.machine());
                    let table = image.table.as_ref();
                    table.and_then(|table| table.up(place, &registers, &core.memory, machine))
                }
                None if exact && core.in_nowhere => self.caller_of_nothing(&registers),
                None => {
                    return Some(match self.module(place) {
                        Some((_, name)) => {
                            format!("ends at #{number}: {name} is not here, or is another build")
                        }
                        None => format!("ends at #{number}: it is in no file"),
                    });
                }
            };
            match step {
                Some(Step::End) => return None,
                Some(Step::Caller(caller, signal)) => (registers, exact) = (*caller, signal),
                None => return Some(format!("ends at #{number}: nothing says who called")),
            }
        }
    }

    /// Whoever called what is no code has only said where to return to.
    fn caller_of_nothing(&self, registers: &Registers) -> Option<Step> {
        let mut caller = *registers;
        match self.core.machine() {
            Machine::X86_64 | Machine::X86 => {
                let class = self.core.class();
                let word = u64::try_from(class.word()).ok()?;
                caller = registers.of_caller(registers.sp().checked_add(word)?);
                caller.pc = self.core.memory.word(registers.sp(), class)?;
            }
            Machine::Aarch64 => caller.pc = registers.get(30)?,
            Machine::Other(_) => return None,
        }
        self.module(caller.pc)?;
        (caller.pc != registers.pc).then(|| Step::Caller(Box::new(caller), false))
    }

    /// What is mapped at an address: where it begins, and its name.
    fn module(&self, address: u64) -> Option<(u64, &'a str)> {
        let core = self.core;
        let mut modules = core.crash.modules.iter();
        let module = modules.find(|module| (module.start..module.end).contains(&address));
        let vdso = || {
            let start = core.vdso?;
            let length = u64::try_from(core.memory.at(start).len()).ok()?;
            let within = address.checked_sub(start)? < length;
            within.then_some((start, VDSO))
        };
        module
            .map(|module| (module.start, &*module.path))
            .or_else(vdso)
    }

    /// The file that an address is in, read.
    fn image(&mut self, address: u64) -> Option<&mut Image> {
        let (start, path) = self.module(address)?;
        let found = self.images.iter().position(|(begins, _)| *begins == start);
        let place = found.unwrap_or_else(|| {
            let bytes = self.core.memory.at(start);
            let file: Option<Box<dyn Mapped>> = if path == VDSO {
                Some(Box::new(Cursor::new(bytes.to_vec())))
            } else if self.images.len() < IMAGES_MAX {
                unescape(path).and_then(|path| self.files.open(&path))
            } else {
                None
            };
            let page = bytes.get(..4096).unwrap_or(bytes);
            let image = file.and_then(|file| Image::read(file, start, page, &mut self.room));
            self.images.push((start, image));
            self.images.len() - 1
        });
        self.images.get_mut(place)?.1.as_mut()
    }

    /// One function; `place` is what it is looked up by.
    fn frame(&mut self, address: u64, place: u64) -> Frame {
        let symbol = self.image(place).and_then(|image| image.symbol(place));
        let (symbol, behind) = symbol.unzip();
        let module = self.module(place);
        let mut modules = self.core.crash.modules.iter();
        let file = modules.find(|file| Some(file.start) == module.map(|(start, _)| start));
        Frame {
            address,
            module: module.map(|(_, name)| name.to_owned()),
            offset: module.and_then(|(start, _)| address.checked_sub(start)),
            build_id: file.and_then(|file| file.build_id.clone()),
            symbol,
            symbol_offset: behind
                .map(|behind| behind.saturating_add(address.saturating_sub(place))),
        }
    }
}

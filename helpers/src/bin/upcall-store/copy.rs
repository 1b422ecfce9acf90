//! The file: a core as it is, with holes where it is zero, or as zstd.
//!
//! As zstd it is one frame for each [`CHUNK`] of the core, which zstd(1) and every decoder of RFC 8878 reads as one. So
//! a copy that was cut off is readable to its end, a taker that lags is fed from any place without unpacking what is
//! before, and neither side needs more memory than a chunk.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};
use nix::libc::loff_t;
use zstd_safe::{CCtx, CParameter, DCtx};

/// So much of a core is handled at once: what the shim made the kernel's pipe hold.
pub(crate) const CHUNK: usize = 1 << 20;

/// What is all zero is not written; the size of a page of most machines, and of a block of most file systems.
const PAGE: usize = 4096;

/// How a core is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// As it is.
    Plain,
    /// zstd at this level.
    Zstd(u8),
}

/// A core in a file, as far as it has come.
pub(crate) struct Copy {
    file: File,
    /// Bytes of the core that are in it.
    end: u64,
    /// Bytes that were written for them.
    written: u64,
    packer: Option<Packer>,
}

/// What zstd needs.
struct Packer {
    context: CCtx<'static>,
    unpacking: DCtx<'static>,
    packed: Vec<u8>,
    /// A chunk of zeros, once there was one: many are.
    zeros: Vec<u8>,
    /// Where the frame of each chunk begins.
    frames: Vec<u64>,
}

impl Copy {
    /// Takes an empty file.
    ///
    /// # Errors
    /// `ENOMEM`; `EINVAL` for a level that zstd does not have.
    pub(crate) fn new(file: File, format: Format) -> Result<Self, Errno> {
        let packer = match format {
            Format::Plain => None,
            Format::Zstd(level) => Some(Packer::new(level)?),
        };
        Ok(Self {
            file,
            end: 0,
            written: 0,
            packer,
        })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Bytes of the core that are in it.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Bytes that were written for them.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Adds the next part: a whole [`CHUNK`], or less at the core's end. `grant` is asked before bytes are written.
    ///
    /// # Errors
    /// As write(2), and what `grant` says; what was there before is still whole, and of a plain file perhaps more.
    pub(crate) fn append(
        &mut self,
        part: &[u8],
        grant: &mut dyn FnMut(u64) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let result = match &mut self.packer {
            None => self.append_plain(part, grant),
            Some(packer) => {
                let frame = packer.pack(part)?;
                let length = bytes(frame.len());
                let result = grant(length).and_then(|()| write_at(&self.file, frame, self.written));
                if result.is_ok() {
                    packer.frames.push(self.written);
                    self.written += length;
                    self.end += bytes(part.len());
                }
                result
            }
        };
        if result.is_err() {
            // No half frames, and no hole that ends in nothing.
            let whole = self.packer.as_ref().map_or(self.end, |_| self.written);
            drop(self.file.set_len(whole));
        }
        result
    }

    fn append_plain(
        &mut self,
        part: &[u8],
        grant: &mut dyn FnMut(u64) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut rest = part;
        while !rest.is_empty() {
            let holes = run(rest, true);
            rest = rest.get(holes..).unwrap_or_default();
            self.end += bytes(holes);
            let data = rest.get(..run(rest, false)).unwrap_or_default();
            grant(bytes(data.len()))?;
            write_at(&self.file, data, self.end)?;
            rest = rest.get(data.len()..).unwrap_or_default();
            self.end += bytes(data.len());
            self.written += bytes(data.len());
            if data.is_empty() {
                // Whoever reads it is to find the zeros that were not written.
                self.file.set_len(self.end).map_err(|error| errno(&error))?;
            }
        }
        Ok(())
    }

    /// Moves what is in the file from the core's byte `from` on to a pipe, without waiting; `part` is the reader's own
    /// memory, for what has to be unpacked. Returns how much was moved.
    ///
    /// # Errors
    /// As splice(2), write(2); `EAGAIN` where the pipe is full.
    pub(crate) fn give(
        &mut self,
        pipe: &OwnedFd,
        from: u64,
        part: &mut Part,
    ) -> Result<usize, Errno> {
        let Some(packer) = &mut self.packer else {
            let mut offset = loff_t::try_from(from).unwrap_or(loff_t::MAX);
            let left = usize::try_from(self.end.saturating_sub(from)).unwrap_or(CHUNK);
            let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
            return splice(
                &self.file,
                Some(&mut offset),
                pipe,
                None,
                left.min(CHUNK),
                flags,
            );
        };
        let chunk = from / bytes(CHUNK);
        if part.chunk != Some(chunk) {
            part.chunk = None;
            packer.unpack(&self.file, self.written, chunk, &mut part.bytes)?;
            part.chunk = Some(chunk);
        }
        let inside = usize::try_from(from % bytes(CHUNK)).unwrap_or(0);
        nix::unistd::write(pipe, part.bytes.get(inside..).unwrap_or_default())
    }
}

/// A chunk as one reader has it.
#[derive(Debug, Default)]
pub(crate) struct Part {
    chunk: Option<u64>,
    bytes: Vec<u8>,
}

impl Packer {
    fn new(level: u8) -> Result<Self, Errno> {
        let mut context = CCtx::try_create().ok_or(Errno::ENOMEM)?;
        let level = CParameter::CompressionLevel(i32::from(level));
        for parameter in [level, CParameter::ChecksumFlag(true)] {
            context
                .set_parameter(parameter)
                .map_err(|_| Errno::EINVAL)?;
        }
        Ok(Self {
            context,
            unpacking: DCtx::try_create().ok_or(Errno::ENOMEM)?,
            packed: vec![0; zstd_safe::compress_bound(CHUNK)],
            zeros: Vec::new(),
            frames: Vec::new(),
        })
    }

    /// One frame of this part.
    fn pack(&mut self, part: &[u8]) -> Result<&[u8], Errno> {
        let zero = part.len() == CHUNK && run(part, true) == CHUNK;
        if zero && !self.zeros.is_empty() {
            return Ok(&self.zeros);
        }
        let length = self.context.compress2(self.packed.as_mut_slice(), part);
        let length = length.map_err(|_| Errno::EIO)?;
        let frame = self.packed.get(..length).unwrap_or_default();
        if zero {
            self.zeros = frame.to_vec();
        }
        Ok(frame)
    }

    /// The chunk with this number, out of the file, of which so much is written.
    fn unpack(
        &mut self,
        file: &File,
        written: u64,
        chunk: u64,
        to: &mut Vec<u8>,
    ) -> Result<(), Errno> {
        let index = usize::try_from(chunk).map_err(|_| Errno::EINVAL)?;
        let begin = *self.frames.get(index).ok_or(Errno::EINVAL)?;
        let end = self.frames.get(index + 1).copied().unwrap_or(written);
        let length = usize::try_from(end - begin).map_err(|_| Errno::EINVAL)?;
        let frame = self.packed.get_mut(..length).ok_or(Errno::EINVAL)?;
        file.read_exact_at(frame, begin)
            .map_err(|error| errno(&error))?;
        to.resize(CHUNK, 0);
        let length = self.unpacking.decompress(to.as_mut_slice(), frame);
        to.truncate(length.map_err(|_| Errno::EIO)?);
        Ok(())
    }
}

/// How many bytes at the start are whole pages of zeros, or are not.
fn run(part: &[u8], zero: bool) -> usize {
    let zeros = [0; PAGE];
    let pages = part.chunks(PAGE);
    pages
        // Compared as memory, which is many times as fast as byte by byte.
        .take_while(|page| zeros.starts_with(page) == zero)
        .map(<[u8]>::len)
        .sum()
}

fn write_at(file: &File, bytes: &[u8], offset: u64) -> Result<(), Errno> {
    file.write_all_at(bytes, offset)
        .map_err(|error| errno(&error))
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

fn bytes(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

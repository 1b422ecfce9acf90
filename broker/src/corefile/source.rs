//! Where a core comes from: a file, compressed or not, read forward.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

/// Bytes that come in order.
pub trait Source {
    /// The next bytes, exactly as many as fit.
    ///
    /// # Errors
    /// `UnexpectedEof` where there are fewer.
    fn fetch(&mut self, buffer: &mut [u8]) -> io::Result<()>;

    /// Passes over so many bytes.
    ///
    /// # Errors
    /// `UnexpectedEof` where there are fewer; a file may say so only when it is read again.
    fn pass(&mut self, count: u64) -> io::Result<()>;
}

impl Source for File {
    fn fetch(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact(buffer)
    }

    fn pass(&mut self, count: u64) -> io::Result<()> {
        let count = i64::try_from(count).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        self.seek(SeekFrom::Current(count)).map(drop)
    }
}

/// Bytes that can only be read, as those of a compressed core.
#[derive(Debug)]
pub struct Stream<R>(pub R);

impl<R: Read> Source for Stream<R> {
    fn fetch(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact(buffer)
    }

    fn pass(&mut self, count: u64) -> io::Result<()> {
        let passed = io::copy(&mut self.0.by_ref().take(count), &mut io::sink())?;
        if passed == count {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

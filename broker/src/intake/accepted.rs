//! Connections of the kernel's that are not answered yet, in a file that outlives a daemon which is killed. By the pipe a
//! shim knows of each core; by the socket nobody else does, and each is to have its record.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::store::records::now_micros;

/// The file's name.
const FILE: &str = "accepted";

/// More than are taken at once.
const PLACES: u16 = 4096;

/// A place: microseconds since the epoch, pid, name. All zero is a free one.
const LENGTH: usize = 32;
const NAME: std::ops::Range<usize> = 12..28;

/// The file and its free places.
#[derive(Debug)]
pub struct Accepted {
    file: File,
    free: Mutex<Vec<u16>>,
}

/// A connection that is noted for as long as this lives.
#[derive(Debug)]
pub struct Note {
    accepted: Arc<Accepted>,
    place: u16,
}

/// What a former daemon had accepted and was killed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// When: microseconds since the epoch.
    pub micros: u64,
    /// The process.
    pub pid: u32,
    /// The name of its first thread; empty where it could not be read.
    pub comm: Vec<u8>,
}

/// What a former daemon has left in its file.
pub fn left(run: &Path) -> Vec<Left> {
    let mut left = Vec::new();
    if let Ok(file) = File::open(run.join(FILE)) {
        let mut bytes = [0; LENGTH];
        for place in 0..PLACES {
            if file.read_exact_at(&mut bytes, offset(place)).is_err() {
                break;
            }
            left.extend(Left::read(&bytes));
        }
    }
    left
}

impl Accepted {
    /// Opens the file below the directory of sockets, which nobody else may write to, and empties it: what was
    /// [`left`] in it has its records now.
    ///
    /// # Errors
    /// As open(2).
    pub fn open(run: &Path) -> std::io::Result<Arc<Self>> {
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true);
        let file = options.mode(0o600).open(run.join(FILE))?;
        let free = Mutex::new((0..PLACES).rev().collect());
        Ok(Arc::new(Self { file, free }))
    }

    /// Notes who connected; `None` where that cannot be known, or there is no room.
    pub fn note(self: &Arc<Self>, connection: &OwnedFd) -> Option<Note> {
        let pid = getsockopt(connection, PeerCredentials).ok()?.pid();
        let pid = u32::try_from(pid).ok()?;
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let place = free.pop()?;
        drop(free);
        let note = Note {
            accepted: Arc::clone(self),
            place,
        };
        let (micros, comm) = (now_micros(), Vec::new());
        let mut left = Left { micros, pid, comm };
        // At once: of a daemon that is killed between accept(2) and this nobody knows what it had accepted.
        self.file.write_all_at(&left.bytes(), offset(place)).ok()?;
        left.comm = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        left.comm.pop_if(|last| *last == b'\n');
        self.file.write_all_at(&left.bytes(), offset(place)).ok()?;
        Some(note)
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        let Accepted { file, free } = &*self.accepted;
        // A place that cannot be cleared would name somebody else the next time.
        if file.write_all_at(&[0; LENGTH], offset(self.place)).is_ok() {
            let mut free = free.lock().unwrap_or_else(PoisonError::into_inner);
            free.push(self.place);
        }
    }
}

impl Left {
    fn bytes(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        let parts = self
            .micros
            .to_le_bytes()
            .into_iter()
            .chain(self.pid.to_le_bytes());
        let name = self.comm.iter().copied().take(NAME.len());
        for (to, from) in bytes.iter_mut().zip(parts.chain(name)) {
            *to = from;
        }
        bytes
    }

    fn read(bytes: &[u8; LENGTH]) -> Option<Self> {
        let (micros, rest) = bytes.split_first_chunk()?;
        let (pid, _) = rest.split_first_chunk()?;
        let (micros, pid) = (u64::from_le_bytes(*micros), u32::from_le_bytes(*pid));
        let comm = bytes.get(NAME)?.iter().copied();
        let comm = comm.take_while(|byte| *byte != 0).collect();
        (micros != 0 && pid != 0).then_some(Self { micros, pid, comm })
    }
}

fn offset(place: u16) -> u64 {
    u64::from(place) * LENGTH as u64
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_was_not_answered_is_known_to_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let accepted = Accepted::open(directory.path()).unwrap();
        assert!(left(directory.path()).is_empty());
        let (one, _other) = UnixStream::pair().unwrap();
        let one = OwnedFd::from(one);
        let answered = accepted.note(&one).unwrap();
        let open = accepted.note(&one).unwrap();
        drop(answered);
        let found = left(directory.path());
        let [found] = found.as_slice() else {
            panic!("{found:?}");
        };
        let comm = std::fs::read("/proc/self/comm").unwrap();
        assert_eq!(found.comm, comm.strip_suffix(b"\n").unwrap());
        assert_eq!(found.pid, std::process::id());
        assert!(now_micros() - found.micros < 60_000_000);
        // Emptied: nobody is told of twice.
        let again = Accepted::open(directory.path()).unwrap();
        assert!(left(directory.path()).is_empty());
        drop((open, again));
    }

    #[test]
    fn whatever_is_in_the_file_is_no_harm() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("accepted"), vec![0xff; 200_001]).unwrap();
        let found = left(directory.path());
        assert_eq!(found.len(), usize::from(PLACES));
        assert!(found.iter().all(|left| left.comm.len() == 16));
    }

    #[test]
    fn a_full_file_notes_no_more_and_a_place_is_used_again() {
        let directory = tempfile::tempdir().unwrap();
        let accepted = Accepted::open(directory.path()).unwrap();
        let (one, _other) = UnixStream::pair().unwrap();
        let one = OwnedFd::from(one);
        let mut notes: Vec<Note> = std::iter::from_fn(|| accepted.note(&one)).collect();
        assert_eq!(notes.len(), usize::from(PLACES));
        notes.pop();
        assert!(accepted.note(&one).is_some());
    }
}

//! A file server that does not answer: a FUSE mount with one file, whose contents never come.
//!
//! A tenant can have such a mount (fuse(4), since user namespaces may mount it); who touches its file waits until the
//! server is gone. [`Silent::Lookups`] does not even say whether the file is there.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sandbox::MOUNTED_BY;

const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const INIT: u32 = 26;
const ACCESS: u32 = 34;

/// Our file's node; 1 is the root's.
const FILE: u64 = 2;

/// What is never answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silent {
    /// Everything but the mount itself.
    Lookups,
    /// Reading; the file can be opened.
    Reads,
}

/// The mount; gone, and everybody let go, when dropped.
#[derive(Debug)]
pub struct Fuse {
    at: PathBuf,
    stop: Arc<AtomicBool>,
    silent: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Fuse {
    /// Mounts one on a directory.
    ///
    /// # Errors
    /// As open(2), mount(2); there is no FUSE.
    pub fn mount(at: &Path, silent: Silent) -> Result<Self> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK);
        let device = options.open("/dev/fuse").context("/dev/fuse")?;
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
            device.as_raw_fd()
        );
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(
            Some(MOUNTED_BY),
            at,
            Some("fuse"),
            flags,
            Some(options.as_str()),
        )
        .with_context(|| format!("a FUSE mount on {}", at.display()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let from_now_on = Arc::new(AtomicBool::new(false));
        let nothing = Arc::clone(&from_now_on);
        let server = std::thread::spawn(move || serve(device, silent, &nothing, &stopping));
        Ok(Self {
            at: at.to_owned(),
            stop,
            silent: from_now_on,
            server: Some(server),
        })
    }

    /// From here on it answers nothing at all.
    pub fn fall_silent(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        // With its server's descriptor the connection ends, and who waits gets an error.
        self.stop.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            drop(server.join());
        }
        let _ = umount2(&self.at, MntFlags::MNT_DETACH);
    }
}

/// Answers what is to be answered, until it is told to answer `nothing`, or to stop.
fn serve(mut device: File, silent: Silent, nothing: &AtomicBool, stop: &AtomicBool) {
    let mut request = vec![0; 1 << 20];
    while !stop.load(Ordering::Relaxed) {
        let mut ready = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut ready, PollTimeout::from(20_u8));
        let Ok(length @ 40..) = device.read(&mut request) else {
            continue;
        };
        let request = request.get(..length).unwrap_or_default();
        let number = |at: usize| {
            let bytes = request
                .get(at..at + 4)
                .and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u32::from_le_bytes)
        };
        let (opcode, node) = (number(4), u64::from(number(16)));
        let body = match opcode {
            _ if nothing.load(Ordering::Relaxed) => continue,
            INIT => init(),
            GETATTR => attributes(node),
            LOOKUP if silent == Silent::Reads => entry(),
            ACCESS if silent == Silent::Reads => Vec::new(),
            OPEN if silent == Silent::Reads => vec![0; 16],
            _ => continue,
        };
        let mut answer = u32::try_from(16 + body.len())
            .unwrap_or(0)
            .to_le_bytes()
            .to_vec();
        answer.extend([0; 4]); // no error
        answer.extend(request.get(8..16).unwrap_or_default()); // the request's number
        answer.extend(body);
        if device.write_all(&answer).is_err() {
            return;
        }
    }
}

/// `struct fuse_init_out` of version 7.31.
fn init() -> Vec<u8> {
    let mut body = Vec::new();
    for number in [7_u32, 31, 0, 0, 0, 4096] {
        body.extend(number.to_le_bytes());
    }
    body.resize(64, 0);
    body
}

/// `struct fuse_attr`.
fn attribute(node: u64) -> Vec<u8> {
    let (mode, size) = if node == FILE {
        (0o100_755_u32, 4096_u64)
    } else {
        (0o40_755, 0)
    };
    let mut body = Vec::new();
    for number in [node, size, 8, 0, 0, 0] {
        body.extend(number.to_le_bytes());
    }
    for number in [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0_u32] {
        body.extend(number.to_le_bytes());
    }
    body
}

/// `struct fuse_attr_out`.
fn attributes(node: u64) -> Vec<u8> {
    let mut body = 1000_u64.to_le_bytes().to_vec();
    body.extend([0; 8]);
    body.extend(attribute(node));
    body
}

/// `struct fuse_entry_out` of our file, whatever its name.
fn entry() -> Vec<u8> {
    let mut body = Vec::new();
    for number in [FILE, 1, 1000, 1000, 0] {
        body.extend(number.to_le_bytes());
    }
    body.extend(attribute(FILE));
    body
}

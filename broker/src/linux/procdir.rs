//! One process's directory in /proc, opened once: numbers are used again, an open directory is not another's.
//!
//! It is still not the *same process as a pidfd's* until [`PidRef::verify`](super::pidref::PidRef::verify) has said,
//! after the last read, that the number was its own all the time.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::sys::stat::Mode;

use super::parse::{self, CgroupLine, IdMap, Stat, Status};
use super::room::{self, noted};

/// Files are read up to here; longer ones are an error. The longest that a tenant can make is status: 65,536 groups
/// (`NGROUPS_MAX`) of up to eleven bytes each. One that could not be read would make him unknown.
const FILE_MAX: usize = 1 << 20;

/// Files that are shown as one piece, so that a read that ends short has read all (fs/proc/base.c, `ONE`;
/// fs/seq_file.c). Not so a list like `uid_map`, of which a read gives as many lines as fit into a page.
const OF_ONE_PIECE: [&str; 4] = ["cgroup", "comm", "stat", "status"];

/// An open /proc/PID or /proc/PID/task/TID.
#[derive(Debug)]
pub struct ProcDir {
    fd: OwnedFd,
}

impl ProcDir {
    /// /proc/PID of the process that has this number now.
    ///
    /// # Errors
    /// `ENOENT` where there is none.
    pub fn open(pid: u32) -> Result<Self, Errno> {
        Self::at(&format!("/proc/{pid}"))
    }

    /// /proc/PID/task/TID: a thread lives on where its group's leader is a zombie and shows nothing any more.
    ///
    /// # Errors
    /// `ENOENT` where there is none.
    pub fn open_thread(pid: u32, tid: u32) -> Result<Self, Errno> {
        Self::at(&format!("/proc/{pid}/task/{tid}"))
    }

    /// The numbers of a process's threads, of no more than so many.
    ///
    /// # Errors
    /// `ENOENT` or `ESRCH` for a process that is gone.
    pub fn threads(&self, most: usize) -> Result<Vec<u32>, Errno> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let mut tasks =
            nix::dir::Dir::openat(&self.fd, "task", flags, Mode::empty()).map_err(noted)?;
        let numbers = tasks.iter().flatten();
        let numbers = numbers.filter_map(|entry| parse::number(entry.file_name().to_bytes()));
        Ok(numbers.take(most).collect())
    }

    fn at(path: &str) -> Result<Self, Errno> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC;
        Ok(Self {
            fd: open(path, flags, Mode::empty()).map_err(noted)?,
        })
    }

    /// The directory.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A whole file, at most 1 MiB.
    ///
    /// # Errors
    /// `ESRCH` or `ENOENT` for a process that is gone; `EFBIG` for a longer file.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, Errno> {
        let fd = openat(
            &self.fd,
            name,
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .map_err(noted)?;
        let one_piece = OF_ONE_PIECE.contains(&name);
        let mut bytes = vec![0; 4096];
        let mut length = 0;
        loop {
            let Some(rest) = bytes.get_mut(length..) else {
                return Err(Errno::EIO);
            };
            match nix::unistd::read(&fd, rest)? {
                0 => break,
                more => length += more,
            }
            if one_piece && length < bytes.len() {
                break;
            }
            if length == bytes.len() {
                if length >= FILE_MAX {
                    return Err(Errno::EFBIG);
                }
                bytes.resize(length * 4, 0);
            }
        }
        bytes.truncate(length);
        Ok(bytes)
    }

    /// /proc/PID/status.
    ///
    /// # Errors
    /// As [`ProcDir::read`]; `EBADMSG` for a file that is not one.
    pub fn status(&self) -> Result<Status, Errno> {
        Status::parse(&self.read("status")?).ok_or(Errno::EBADMSG)
    }

    /// /proc/PID/stat.
    ///
    /// # Errors
    /// As [`ProcDir::read`]; `EBADMSG` for a file that is not one.
    pub fn stat(&self) -> Result<Stat, Errno> {
        Stat::parse(&self.read("stat")?).ok_or(Errno::EBADMSG)
    }

    /// /proc/PID/cgroup.
    ///
    /// # Errors
    /// As [`ProcDir::read`]; `EBADMSG` for a place that our cgroup namespace cannot name.
    pub fn cgroups(&self) -> Result<Vec<CgroupLine>, Errno> {
        parse::cgroups(&self.read("cgroup")?).ok_or(Errno::EBADMSG)
    }

    /// /proc/PID/uid_map and gid_map.
    ///
    /// # Errors
    /// As [`ProcDir::read`]; `EBADMSG` for a file that is not one.
    pub fn id_maps(&self) -> Result<[IdMap; 2], Errno> {
        let read = |name| IdMap::parse(&self.read(name)?).ok_or(Errno::EBADMSG);
        Ok([read("uid_map")?, read("gid_map")?])
    }

    /// What /proc/PID/exe links to; reading the link follows nothing.
    ///
    /// # Errors
    /// As readlink(2); `ENOENT` for a kernel thread.
    pub fn exe(&self) -> Result<Vec<u8>, Errno> {
        readlinkat(&self.fd, "exe").map(OsStringExt::into_vec)
    }

    /// The LSM label as `LSM\0label` (proc_pid_attr(5)); empty where no module labels processes.
    ///
    /// # Errors
    /// As [`ProcDir::read`].
    pub fn label(&self) -> Result<Vec<u8>, Errno> {
        let Some((module, file)) = labels()? else {
            return Ok(Vec::new());
        };
        let label = self.read(file)?;
        let label = label.trim_ascii_end();
        let label = label.strip_suffix(b"\0").unwrap_or(label);
        let name = match module {
            "apparmor" => parse::apparmor_label(label),
            _ => label,
        };
        if name.is_empty() {
            return Ok(Vec::new());
        }
        Ok([module.as_bytes(), b"\0", name].concat())
    }
}

/// The module that labels processes, and the file with the label: decided at boot, so asked once. With AppArmor and
/// SELinux both, which no distribution does, AppArmor's.
///
/// # Errors
/// For want of descriptors or memory it cannot be asked now; that is no answer, which would hold from then on.
fn labels() -> Result<Option<(&'static str, &'static str)>, Errno> {
    static LABELS: OnceLock<Option<(&str, &str)>> = OnceLock::new();
    const MODULES: [(&str, &str); 2] = [
        ("apparmor", "attr/apparmor/current"),
        ("selinux", "attr/current"),
    ];
    if let Some(known) = LABELS.get() {
        return Ok(*known);
    }
    let own = ProcDir::open(std::process::id())?;
    let mut found = None;
    for (module, file) in MODULES {
        match own.read(file) {
            Ok(_) => {
                found = Some((module, file));
                break;
            }
            Err(errno) if room::is_want(&errno) => return Err(errno),
            Err(_) => {} // ENOENT, EINVAL: it labels nobody
        }
    }
    Ok(*LABELS.get_or_init(|| found))
}

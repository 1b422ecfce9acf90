//! A program as a sealed copy in memory: what runs cannot be written, by us, by an upgrade, or from inside a container
//! through /proc/PID/exe (CVE-2019-5736).

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod};

/// The largest program that is copied.
const SIZE_MAX: u64 = 64 << 20;

/// A sealed program, to be executed by descriptor.
#[derive(Debug)]
pub struct SealedProgram(OwnedFd);

/// Why a program cannot be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// It cannot be opened or read.
    #[error("cannot read the program: {0}")]
    Read(std::io::Error),
    /// It is not root's alone to write.
    #[error("the program may be written by others than root; chown root, chmod go-w")]
    Untrusted,
    /// It is over 64 MiB.
    #[error("the program is over 64 MiB")]
    TooLarge,
    /// It needs a dynamic loader, which it would take from the container.
    #[error(
        "the program is not static: inside a container it would be loaded by the container's own loader"
    )]
    Dynamic,
    /// The kernel makes no executable memory files (vm.memfd_noexec is 2).
    #[error("no executable copy in memory: {0} (sysctl vm.memfd_noexec?)")]
    Memfd(Errno),
}

impl SealedProgram {
    /// Copies and seals a static program that only root can write.
    ///
    /// # Errors
    /// See [`SealError`].
    pub fn copy(path: &Path) -> Result<Self, SealError> {
        let mut file = super::secure::open_file(path).map_err(|error| match error {
            super::secure::OpenError::Open(error) => SealError::Read(error),
            super::secure::OpenError::Untrusted { .. } => SealError::Untrusted,
        })?;
        if file.metadata().map_err(SealError::Read)?.len() > SIZE_MAX {
            return Err(SealError::TooLarge);
        }
        if needs_loader(&mut file).map_err(SealError::Read)? {
            return Err(SealError::Dynamic);
        }
        let name = path.file_name().unwrap_or_default();
        let name: String = name
            .to_string_lossy()
            .chars()
            .filter(char::is_ascii_graphic)
            .take(64)
            .collect();
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        // MFD_EXEC (6.3) says that we mean it; older kernels refuse the flag and do it anyway.
        let memory = memfd_create(
            name.as_str(),
            flags | MFdFlags::from_bits_retain(libc::MFD_EXEC),
        )
        .or_else(|_| memfd_create(name.as_str(), flags))
        .map_err(SealError::Memfd)?;
        let mut memory = File::from(memory);
        std::io::copy(&mut file.take(SIZE_MAX), &mut memory).map_err(SealError::Read)?;
        // Executable and, for anybody but root, not readable: then the kernel makes what runs from it undumpable
        // wherever the container's root is not ours (fs/exec.c, would_dump).
        fchmod(&memory, Mode::from_bits_truncate(0o511)).map_err(SealError::Memfd)?;
        let seals = SealFlag::F_SEAL_SEAL
            | SealFlag::F_SEAL_SHRINK
            | SealFlag::F_SEAL_GROW
            | SealFlag::F_SEAL_WRITE;
        fcntl(&memory, FcntlArg::F_ADD_SEALS(seals)).map_err(SealError::Memfd)?;
        Ok(Self(reopened(&memory).map_err(SealError::Read)?))
    }

    /// The descriptor, to execute.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Without the right to write: a file open for writing cannot be executed (`ETXTBSY`).
fn reopened(memory: &File) -> std::io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    File::open(format!("/proc/self/fd/{}", memory.as_raw_fd())).map(OwnedFd::from)
}

/// Whether an ELF file names an interpreter (`PT_INTERP`, elf(5)); a script does too, in its way.
///
/// # Errors
/// As read(2).
pub fn needs_loader(file: &mut File) -> std::io::Result<bool> {
    const PT_INTERP: u32 = 3;
    let mut head = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.by_ref().take(64 * 1024).read_to_end(&mut head)?;
    file.seek(SeekFrom::Start(0))?;
    let at = |offset: usize, length: usize| head.get(offset..offset.checked_add(length)?);
    let u16_at = |offset| {
        Some(usize::from(u16::from_le_bytes(
            at(offset, 2)?.try_into().ok()?,
        )))
    };
    let static_elf = || {
        let is_elf64 = at(0, 5)? == b"\x7fELF\x02";
        let table = usize::try_from(u64::from_le_bytes(at(32, 8)?.try_into().ok()?)).ok()?;
        let (size, count) = (u16_at(54)?, u16_at(56)?);
        let mut interpreter = false;
        for index in 0..count {
            let offset = table.checked_add(size.checked_mul(index)?)?;
            let kind = u32::from_le_bytes(at(offset, 4)?.try_into().ok()?);
            interpreter |= kind == PT_INTERP;
        }
        Some(is_elf64 && !interpreter)
    };
    Ok(!static_elf().unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A static program's header, and nothing that runs.
    fn program(directory: &Path) -> std::path::PathBuf {
        let mut elf = b"\x7fELF\x02".to_vec();
        elf.resize(64, 0);
        let path = directory.join("program");
        std::fs::write(&path, elf).unwrap();
        path
    }

    #[test]
    fn nobody_changes_a_sealed_program_not_even_root() {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let directory = tempfile::tempdir_in("/root").unwrap();
        let path = program(directory.path());
        let sealed = SealedProgram::copy(&path).unwrap();
        let copy = format!("/proc/self/fd/{}", sealed.fd().as_raw_fd());
        let mut again = OpenOptions::new().write(true).open(&copy).unwrap();
        for failed in [
            again.write_all(b"#!").err(),
            again.set_len(0).err(),
            again.set_len(4096).err(),
        ] {
            let code = failed.and_then(|error| error.raw_os_error());
            assert_eq!(code, Some(libc::EPERM));
        }
        let unseal = fcntl(&again, FcntlArg::F_ADD_SEALS(SealFlag::empty()));
        assert_eq!(unseal, Err(Errno::EPERM));
        // What is changed on the disk later is not what runs.
        std::fs::write(&path, "#!/proc/self/exe").unwrap();
        assert_eq!(std::fs::read(&copy).unwrap().len(), 64);
    }

    #[test]
    fn a_program_that_others_could_have_written_is_not_sealed() {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let directory = tempfile::tempdir_in("/root").unwrap();
        let path = program(directory.path());
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o775)).unwrap();
        let refused = SealedProgram::copy(&path);
        assert!(matches!(refused, Err(SealError::Untrusted)), "{refused:?}");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(&path, Some(1000), None).unwrap();
        let refused = SealedProgram::copy(&path);
        assert!(matches!(refused, Err(SealError::Untrusted)), "{refused:?}");
    }
}

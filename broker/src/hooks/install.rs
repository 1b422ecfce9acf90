//! Putting our core hook in, and what stood there back.
//!
//! What the kernel accepts is not what it does: some kernels take any string, and another program may write the next
//! moment. So everything is read back, and `upcallctl` then lets a child crash and waits for its record; until that is
//! over it keeps the lock, and [`Installation::undo`] knows what to put back.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::errno_name;
use super::file::{CoreHook, HookFileError};
use super::lock::{Lock, LockError};
use super::pattern::{Pattern, PatternError};
use super::sysctl::{CoreSysctl, Standing, SysctlError};

/// Default of core_pipe_limit: above every limit of our own, so that the kernel never skips a dump for it.
pub const PIPE_LIMIT: u64 = 1024;

/// How long the shim waits for the daemon, in milliseconds.
const DEADLINE_MS: u64 = 2000;

/// Bytes that the spool may hold.
const SPOOL_MAX: u64 = 4 << 30;

/// How the kernel calls us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It starts the shim with a pipe.
    Pipe,
    /// It connects to our socket, and asks first (`@@`).
    Socket,
    /// It connects to our socket, and the core comes at once (`@`).
    PlainSocket,
}

/// What goes into the hook's file besides what stood there before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wishes {
    /// How the kernel is to call.
    pub mode: Mode,
    /// The link named `core` to the shim.
    pub program: PathBuf,
    /// The daemon's directory of sockets.
    pub run: PathBuf,
    /// The directory of the hooks' files.
    pub hooks: PathBuf,
    /// The daemon's socket.
    pub socket: PathBuf,
    /// How long the shim waits, in milliseconds.
    pub deadline_ms: u64,
    /// Where the shim keeps what the daemon did not take.
    pub spool: PathBuf,
    /// Bytes the spool may hold.
    pub spool_max: u64,
    /// Bytes that must stay free beside it.
    pub keep_free: u64,
}

impl Wishes {
    /// The usual ones for an installation in these directories.
    pub fn usual(libexec: &Path, hooks: &Path, run: &Path, state: &Path, keep_free: u64) -> Self {
        Self {
            mode: Mode::Pipe,
            program: libexec.join("core"),
            run: run.to_owned(),
            hooks: hooks.to_owned(),
            socket: run.join("upcall.sock"),
            deadline_ms: DEADLINE_MS,
            spool: state.join("spool"),
            spool_max: SPOOL_MAX,
            keep_free,
        }
    }
}

/// What is to be put in, and what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// Ours.
    pub ours: Standing,
    /// What stands there now.
    pub current: Standing,
    /// The hook's file.
    pub file: CoreHook,
    /// The directory it goes to.
    pub hooks: PathBuf,
    /// What the file says now.
    former: Option<Vec<u8>>,
}

/// What `uninstall` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uninstalled {
    /// What stood there before us is there again, read back.
    Restored(Standing),
    /// Somebody else's hook stood there and was left; `ours` was installed.
    Foreign {
        /// What stands there.
        standing: Standing,
        /// Whether there was a file of ours, which is gone now.
        had_file: bool,
    },
}

/// Why the hook cannot be put in or taken out. Nothing is changed then, or it was changed back.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Our pattern cannot be made.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// The hook's file.
    #[error(transparent)]
    File(#[from] HookFileError),
    /// What stood there before ours is written down nowhere.
    #[error("core_pattern is ours already, and what stood there before is not known: {0}")]
    PreviousUnknown(HookFileError),
    /// A setting of the kernel cannot be read or written.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// Somebody else of ours writes.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The program that the kernel would start cannot be used.
    #[error("{}: {why}", path.display())]
    Program {
        /// Which.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// Another upcalld has the hook.
    #[error("core_pattern belongs to another upcalld: {}", .0.text())]
    Another(Pattern),
}

impl Installation {
    /// Works out what to put in, and changes nothing. What stood there before us is taken from the kernel, or, where
    /// the kernel has ours already, from our own file: never our own line.
    ///
    /// # Errors
    /// See [`InstallError`].
    pub fn plan(sysctl: &CoreSysctl, wishes: &Wishes) -> Result<Self, InstallError> {
        // Also for a socket: it is what takes over when nobody listens.
        check_program(&wishes.program)?;
        let pattern = match wishes.mode {
            Mode::Pipe => Pattern::ours(&wishes.program, &wishes.hooks),
            Mode::Socket => Pattern::ours_by_socket(&wishes.run, &wishes.hooks, true),
            Mode::PlainSocket => Pattern::ours_by_socket(&wishes.run, &wishes.hooks, false),
        }?;
        let current = sysctl.read()?;
        let previous = if current.pattern.is_of(&wishes.hooks) {
            let file = CoreHook::read(&wishes.hooks).map_err(InstallError::PreviousUnknown)?;
            Standing {
                pattern: file.previous,
                pipe_limit: file.previous_pipe_limit,
            }
        } else if current.pattern.is_upcallds() {
            return Err(InstallError::Another(current.pattern));
        } else {
            Standing {
                pipe_limit: former_limit(&current, &wishes.hooks),
                ..current.clone()
            }
        };
        Ok(Self {
            ours: Standing {
                pattern,
                pipe_limit: PIPE_LIMIT,
            },
            current,
            file: CoreHook {
                socket: wishes.socket.clone(),
                deadline_ms: wishes.deadline_ms,
                spool: wishes.spool.clone(),
                spool_max: wishes.spool_max,
                keep_free: wishes.keep_free,
                previous: previous.pattern,
                previous_pipe_limit: previous.pipe_limit,
            },
            hooks: wishes.hooks.clone(),
            former: CoreHook::bytes(&wishes.hooks),
        })
    }

    /// Whether there is a file of the hook's already.
    pub fn replaces_file(&self) -> bool {
        self.former.is_some()
    }

    /// Puts it in: the file first, so that the first upcall finds it.
    ///
    /// # Errors
    /// See [`InstallError`]; what was changed is changed back.
    pub fn apply(&self, sysctl: &CoreSysctl, lock: &Lock) -> Result<(), InstallError> {
        self.file.write(&self.hooks)?;
        sysctl.put_in(&self.ours, lock).map_err(|error| {
            // The first error is the one to be told.
            drop(self.undo(sysctl, lock));
            error.into()
        })
    }

    /// Puts back what stood there when this was planned.
    ///
    /// # Errors
    /// See [`InstallError`]; what can be put back is, all the same.
    pub fn undo(&self, sysctl: &CoreSysctl, lock: &Lock) -> Result<(), InstallError> {
        let kernel = sysctl.put_back(&self.current, lock);
        let file = CoreHook::put_back(&self.hooks, self.former.as_deref());
        kernel?;
        Ok(file?)
    }
}

/// Puts back what stood there before us, if the kernel still has ours, and removes the hook's file. Somebody else's
/// hook is left alone.
///
/// # Errors
/// See [`InstallError`].
pub fn uninstall(
    sysctl: &CoreSysctl,
    hooks: &Path,
    lock: &Lock,
) -> Result<Uninstalled, InstallError> {
    let standing = sysctl.read()?;
    if !standing.pattern.is_of(hooks) {
        let had_file = CoreHook::bytes(hooks).is_some();
        CoreHook::remove(hooks)?;
        return Ok(Uninstalled::Foreign { standing, had_file });
    }
    let file = CoreHook::read(hooks).map_err(InstallError::PreviousUnknown)?;
    let previous = Standing {
        pattern: file.previous,
        pipe_limit: file.previous_pipe_limit,
    };
    sysctl.put_back(&previous, lock)?;
    CoreHook::remove(hooks)?;
    Ok(Uninstalled::Restored(previous))
}

/// What core_pipe_limit was before us, under somebody else's pattern: whoever wrote that over ours may have left our
/// limit as it was.
fn former_limit(current: &Standing, hooks: &Path) -> u64 {
    let file = CoreHook::read(hooks).ok();
    let file = file.filter(|_| current.pipe_limit == PIPE_LIMIT);
    file.map_or(current.pipe_limit, |file| file.previous_pipe_limit)
}

/// The kernel starts it as root, so nobody else may have a hand in it.
fn check_program(path: &Path) -> Result<(), InstallError> {
    let wrong = |why: String| InstallError::Program {
        path: path.to_owned(),
        why,
    };
    let meta = std::fs::metadata(path).map_err(|error| wrong(errno_name(&error)))?;
    if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
        return Err(wrong("not a program".to_owned()));
    }
    if meta.uid() != 0 || meta.mode() & 0o022 != 0 {
        return Err(wrong(format!(
            "somebody else than root can write it (owner {}, mode {:04o})",
            meta.uid(),
            meta.mode() & 0o7777
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Host {
        directory: tempfile::TempDir,
        sysctl: CoreSysctl,
    }

    impl Host {
        /// Files in the place of the kernel's; `None` without root, whose the files must be.
        fn new(pattern: &str) -> Option<Self> {
            if !nix::unistd::Uid::effective().is_root() {
                eprintln!("SKIPPED: the files must be root's");
                return None;
            }
            let directory = tempfile::tempdir().unwrap();
            std::fs::write(directory.path().join("core_pattern"), pattern).unwrap();
            std::fs::write(directory.path().join("core_pipe_limit"), "3\n").unwrap();
            std::fs::write(directory.path().join("core"), "#!/bin/sh\n").unwrap();
            let executable = PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(directory.path().join("core"), executable).unwrap();
            let sysctl = CoreSysctl::below(directory.path());
            Some(Self { directory, sysctl })
        }

        fn wishes(&self) -> Wishes {
            Wishes {
                mode: Mode::Pipe,
                run: PathBuf::from("/run/x"),
                program: self.directory.path().join("core"),
                hooks: self.directory.path().join("h"),
                socket: PathBuf::from("/run/x/upcall.sock"),
                deadline_ms: 2000,
                spool: PathBuf::from("/x/spool"),
                spool_max: 4 << 30,
                keep_free: 2 << 30,
            }
        }

        fn install(&self) -> Result<Installation, InstallError> {
            let lock = self.sysctl.lock().unwrap();
            let installation = Installation::plan(&self.sysctl, &self.wishes())?;
            installation.apply(&self.sysctl, &lock)?;
            Ok(installation)
        }

        fn uninstall(&self) -> Result<Uninstalled, InstallError> {
            let lock = self.sysctl.lock().unwrap();
            uninstall(&self.sysctl, &self.wishes().hooks, &lock)
        }

        fn set(&self, pattern: &str) {
            std::fs::write(self.directory.path().join("core_pattern"), pattern).unwrap();
        }
    }

    #[test]
    fn installing_twice_keeps_what_stood_there_first_and_uninstalling_puts_it_back() {
        let Some(host) = Host::new("|/usr/bin/handler %p\n") else {
            return;
        };
        let before = host.sysctl.read().unwrap();
        assert!(!host.install().unwrap().replaces_file());
        let now = host.sysctl.read().unwrap();
        assert!(now.pattern.is_of(&host.wishes().hooks) && now.pipe_limit == PIPE_LIMIT);
        let again = host.install().unwrap();
        assert!(again.replaces_file());
        assert_eq!(again.file.previous, before.pattern);
        assert_eq!(again.file.previous_pipe_limit, 3);
        assert_eq!(
            host.uninstall().unwrap(),
            Uninstalled::Restored(before.clone())
        );
        assert_eq!(host.sysctl.read().unwrap(), before);
        assert!(CoreHook::read(&host.wishes().hooks).is_err());
    }

    #[test]
    fn an_installation_can_be_undone_to_the_letter() {
        let Some(host) = Host::new("core\n") else {
            return;
        };
        let before = host.sysctl.read().unwrap();
        let installation = host.install().unwrap();
        let lock = host.sysctl.lock().unwrap();
        installation.undo(&host.sysctl, &lock).unwrap();
        assert_eq!(host.sysctl.read().unwrap(), before);
        assert!(CoreHook::bytes(&host.wishes().hooks).is_none());
    }

    #[test]
    fn somebody_elses_hook_is_left_alone() {
        let Some(host) = Host::new("core\n") else {
            return;
        };
        host.install().unwrap();
        host.set("|/usr/share/apport/apport -p%p\n");
        let uninstalled = host.uninstall().unwrap();
        assert!(
            matches!(uninstalled, Uninstalled::Foreign { had_file: true, .. }),
            "{uninstalled:?}"
        );
        let Uninstalled::Foreign { standing, .. } = uninstalled else {
            panic!("foreign");
        };
        assert_eq!(standing, host.sysctl.read().unwrap());
        assert_eq!(standing.pattern.text(), "|/usr/share/apport/apport -p%p");
        assert!(matches!(
            host.uninstall().unwrap(),
            Uninstalled::Foreign {
                had_file: false,
                ..
            }
        ));
    }

    #[test]
    fn a_limit_of_ours_under_somebody_elses_pattern_is_not_his() {
        let Some(host) = Host::new("core\n") else {
            return;
        };
        host.install().unwrap();
        host.set("core.%p\n");
        let installation = host.install().unwrap();
        assert_eq!(installation.file.previous.text(), "core.%p");
        assert_eq!(installation.file.previous_pipe_limit, 3);
    }

    #[test]
    fn another_upcallds_hook_is_nobodys_previous_one() {
        let Some(host) = Host::new("|/run/other/core --hooks=/run/other/hooks %P\n") else {
            return;
        };
        let error = host.install().unwrap_err();
        assert!(matches!(&error, InstallError::Another(_)), "{error}");
        assert!(!host.wishes().hooks.exists());
    }

    #[test]
    fn a_garbled_hook_file_changes_nothing() {
        let Some(host) = Host::new("core\n") else {
            return;
        };
        host.install().unwrap();
        let standing = host.sysctl.read().unwrap();
        let path = CoreHook::path(&host.wishes().hooks);
        std::fs::write(&path, "garbage\n").unwrap();
        for error in [host.install().unwrap_err(), host.uninstall().unwrap_err()] {
            assert!(
                matches!(&error, InstallError::PreviousUnknown(_)),
                "{error}"
            );
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), "garbage\n");
        assert_eq!(host.sysctl.read().unwrap(), standing);
    }

    #[test]
    fn only_a_program_of_roots_is_given_to_the_kernel() {
        let Some(host) = Host::new("core\n") else {
            return;
        };
        let program = host.wishes().program;
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o757)).unwrap();
        assert!(matches!(host.install(), Err(InstallError::Program { .. })));
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(matches!(host.install(), Err(InstallError::Program { .. })));
        std::fs::remove_file(&program).unwrap();
        assert!(matches!(host.install(), Err(InstallError::Program { .. })));
    }
}

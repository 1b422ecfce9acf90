//! What is watched: how each hook is looked at and taken back.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::super::file::CoreHook;
use super::super::install::InstallError;
use super::super::key::line::{Line, Lines};
use super::super::key::{KeyHook, KeyHookError, Standing as Program, Wrong};
use super::super::module::{ModuleHook, ModuleHookError, Standing as Modprobe};
use super::super::sysctl::{CoreSysctl, Standing};
use super::super::umh::{Standing as Helper, UmhHook, UmhHookError};

/// Why a hook could not be taken back.
#[derive(Debug, thiserror::Error)]
pub(super) enum TakeBackError {
    /// core_pattern.
    #[error(transparent)]
    Core(#[from] InstallError),
    /// /sbin/request-key.
    #[error(transparent)]
    Key(#[from] KeyHookError),
    /// kernel.modprobe.
    #[error(transparent)]
    Module(#[from] ModuleHookError),
    /// The static usermode helper.
    #[error(transparent)]
    Umh(#[from] UmhHookError),
}

/// What the kernel and the hook's file say.
pub(super) enum Found {
    NotInstalled,
    Ours,
    Foreign(String),
}

/// A hook.
pub(super) trait Place: Debug {
    /// As people call it.
    fn name(&self) -> &'static str;
    /// The kernel's setting, or its program.
    fn setting(&self) -> &'static str;
    /// A file that cannot be used was installed all the same.
    fn found(&self) -> Found;
    /// Puts ours back, unless somebody of ours is at work there: it may be an `uninstall`. Returns whether it is ours.
    fn take_back(&self) -> Result<bool, TakeBackError>;
}

/// core_pattern.
#[derive(Debug)]
pub(super) struct Core {
    sysctl: CoreSysctl,
    hooks: PathBuf,
    /// What was ours when it was seen last, to put back.
    ours: Mutex<Option<Standing>>,
}

impl Core {
    pub(super) fn new(sysctl: CoreSysctl, hooks: PathBuf) -> Self {
        Self {
            sysctl,
            hooks,
            ours: Mutex::default(),
        }
    }

    pub(super) fn hooks(&self) -> &Path {
        &self.hooks
    }

    /// How the kernel called when it was ours.
    pub(super) fn mode(&self) -> Option<&'static str> {
        self.ours().as_ref().map(|ours| ours.pattern.mode())
    }

    fn ours(&self) -> std::sync::MutexGuard<'_, Option<Standing>> {
        self.ours.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place for Core {
    fn name(&self) -> &'static str {
        "core"
    }

    fn setting(&self) -> &'static str {
        "core_pattern"
    }

    fn found(&self) -> Found {
        let Ok(standing) = self.sysctl.read() else {
            return Found::NotInstalled;
        };
        if standing.pattern.is_of(&self.hooks) {
            *self.ours() = Some(standing);
            return Found::Ours;
        }
        if CoreHook::read(&self.hooks).is_err_and(|error| error.is_absent()) {
            return Found::NotInstalled;
        }
        Found::Foreign(standing.pattern.text().to_owned())
    }

    fn take_back(&self) -> Result<bool, TakeBackError> {
        let Some(ours) = self.ours().clone() else {
            return Ok(false);
        };
        let Some(lock) = self.sysctl.try_lock().map_err(InstallError::from)? else {
            return Ok(false);
        };
        if CoreHook::read(&self.hooks).is_err() {
            return Ok(false);
        }
        let put_in = self.sysctl.put_in(&ours, &lock);
        put_in.map_err(InstallError::from)?;
        Ok(true)
    }
}

impl Place for ModuleHook {
    fn name(&self) -> &'static str {
        "module"
    }

    fn setting(&self) -> &'static str {
        "kernel.modprobe"
    }

    fn found(&self) -> Found {
        match self.standing() {
            Ok(Modprobe::Ours) => Found::Ours,
            Ok(Modprobe::Another(value) | Modprobe::Foreign(value)) if self.path().exists() => {
                Found::Foreign(value)
            }
            Ok(Modprobe::Another(_) | Modprobe::Foreign(_) | Modprobe::NoModules) | Err(_) => {
                Found::NotInstalled
            }
        }
    }

    fn take_back(&self) -> Result<bool, TakeBackError> {
        Ok(Self::take_back(self)?)
    }
}

impl Place for UmhHook {
    fn name(&self) -> &'static str {
        "umh"
    }

    fn setting(&self) -> &'static str {
        "the static usermode helper"
    }

    fn found(&self) -> Found {
        match self.standing() {
            Helper::Ours => Found::Ours,
            Helper::Foreign if self.is_lost() => {
                Found::Foreign(format!("{} is not ours any more", self.place().display()))
            }
            Helper::Nothing if self.is_lost() => {
                Found::Foreign(format!("{} is gone", self.place().display()))
            }
            Helper::Foreign | Helper::Nothing => Found::NotInstalled,
        }
    }

    fn take_back(&self) -> Result<bool, TakeBackError> {
        Ok(Self::take_back(self)?)
    }
}

/// /sbin/request-key, or lines of its configuration.
#[derive(Debug)]
pub(super) struct Key {
    hook: KeyHook,
    /// The lines when they were seen last, to put back.
    lines: Mutex<Vec<Line>>,
}

impl Key {
    pub(super) fn new(hook: KeyHook) -> Self {
        Self {
            hook,
            lines: Mutex::default(),
        }
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Vec<Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place for Key {
    fn name(&self) -> &'static str {
        "key"
    }

    fn setting(&self) -> &'static str {
        "/sbin/request-key"
    }

    fn found(&self) -> Found {
        if let Some(wrong) = self.hook.wrong() {
            return Found::Foreign(wrong.to_string());
        }
        if let Lines::Ours(lines) = self.hook.lines().standing() {
            *self.lines() = lines;
            return Found::Ours;
        }
        match self.hook.standing() {
            Program::Ours => Found::Ours,
            Program::Another | Program::Lost | Program::Foreign | Program::Nothing => {
                Found::NotInstalled
            }
        }
    }

    fn take_back(&self) -> Result<bool, TakeBackError> {
        let lines = self.lines().clone();
        Ok(match self.hook.wrong() {
            Some(Wrong::NoLines(_)) if !lines.is_empty() => self.hook.lines().take_back(&lines)?,
            _ => self.hook.take_back()?,
        })
    }
}

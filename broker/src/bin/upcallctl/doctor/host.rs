//! Where the checks look: this host, or files in the place of its own.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use upcall_config::settings::Settings;
use upcalld::control::Status;
use upcalld::hooks::key::KeyHook;
use upcalld::hooks::module::ModuleHook;
use upcalld::hooks::sysctl::CoreSysctl;
use upcalld::hooks::umh::UmhHook;
use upcalld::policy;

use crate::context::Context;

/// The most that is read of a file.
const FILE_MAX: u64 = 1 << 20;

/// A host.
pub(super) struct Host<'a> {
    root: PathBuf,
    /// Where upcalld's own things are.
    pub(super) context: &'a Context,
    /// The core hook's settings.
    pub(super) sysctl: CoreSysctl,
    /// What a running daemon says of itself.
    pub(super) daemon: Option<Status>,
    /// Whether this is the system's own upcalld, and not one in directories of its own.
    pub(super) system: bool,
}

/// A file's text, or why there is none.
pub(super) enum Text {
    /// It.
    Is(String),
    /// There is no such file.
    None,
    /// It cannot be read.
    Closed(String),
}

impl Text {
    /// The text, if there is one.
    pub(super) fn ok(self) -> Option<String> {
        match self {
            Self::Is(text) => Some(text),
            Self::None | Self::Closed(_) => None,
        }
    }
}

impl<'a> Host<'a> {
    /// This one.
    pub(super) fn of(context: &'a Context) -> Self {
        Self {
            root: PathBuf::from("/"),
            context,
            sysctl: context.sysctl.clone(),
            daemon: context.daemon(),
            system: context.options.is_empty(),
        }
    }

    /// One whose files are below `root`.
    pub(super) fn below(context: &'a Context, root: &Path) -> Self {
        Self {
            sysctl: CoreSysctl::below(&root.join("proc/sys/kernel")),
            root: root.to_owned(),
            system: true,
            ..Self::of(context)
        }
    }

    /// A path of the host's, written without its first slash.
    pub(super) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// The start of a file.
    pub(super) fn read(&self, path: impl AsRef<Path>) -> Text {
        let path = self.path(path);
        let mut text = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(FILE_MAX).read_to_end(&mut text));
        match read {
            Ok(_) => Text::Is(String::from_utf8_lossy(&text).into_owned()),
            Err(error) if error.kind() == ErrorKind::NotFound => Text::None,
            Err(error) => Text::Closed(format!(
                "{}: {}",
                path.display(),
                upcalld::hooks::errno_name(&error)
            )),
        }
    }

    /// The settings as they are on disk.
    pub(super) fn settings(&self) -> Settings {
        policy::check(&self.context.config).settings
    }

    /// The key hook.
    pub(super) fn key(&self) -> KeyHook {
        let hook = self.context.key.clone();
        if self.root == Path::new("/") {
            hook
        } else {
            hook.below(&self.path("sbin"))
        }
    }

    /// The module hook.
    pub(super) fn module(&self) -> ModuleHook {
        let hook = self.context.module.clone();
        if self.root == Path::new("/") {
            hook
        } else {
            hook.below(&self.path("proc/sys/kernel"))
        }
    }

    /// The static usermode helper.
    pub(super) fn umh(&self) -> UmhHook {
        let hook = self.context.umh.clone();
        if self.root == Path::new("/") {
            hook
        } else {
            hook.below(&self.path("sbin"))
        }
    }

    /// Whether the kernel has our hook.
    pub(super) fn is_ours(&self) -> bool {
        let standing = self.sysctl.read();
        standing.is_ok_and(|standing| standing.pattern.is_of(&self.context.hooks))
    }

    /// Whether the kernel's socket stays while the daemon is started again, as far as it can be asked.
    pub(super) fn keeps_kernel_socket(&self) -> bool {
        let daemon = self.daemon.as_ref();
        daemon.is_none_or(|daemon| daemon.kernel_socket.as_deref() == Some("kept"))
    }
}

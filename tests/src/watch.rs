//! Who opens what in a container's tree.

use anyhow::Result;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::rootfs::Rootfs;

/// Notes what is opened in some directories (inotify(7)).
#[derive(Debug)]
pub struct Watch(Inotify);

impl Watch {
    /// Begins, in these directories of a root.
    ///
    /// # Errors
    /// As inotify_add_watch(2).
    pub fn of(root: &Rootfs, directories: &[&str]) -> Result<Self> {
        let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        for directory in directories {
            let what = AddWatchFlags::IN_OPEN | AddWatchFlags::IN_ACCESS;
            watch.add_watch(&root.inside(directory), what)?;
        }
        Ok(Self(watch))
    }

    /// Names of what was opened or read since it was asked last.
    ///
    /// # Errors
    /// As read(2).
    pub fn opened(&self) -> Result<Vec<String>> {
        match self.0.read_events() {
            Ok(events) => {
                let names = events
                    .into_iter()
                    .map(|event| event.name.unwrap_or_else(|| ".".into()));
                Ok(names
                    .map(|name| name.to_string_lossy().into_owned())
                    .collect())
            }
            Err(Errno::EAGAIN) => Ok(vec![]),
            Err(errno) => Err(errno.into()),
        }
    }
}

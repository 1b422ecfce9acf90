//! The files of the crashed process: its container's root directory, as long as the container runs.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use upcall_config::text::unescape;
use upcalld::explain::find;
use upcalld::linux::cgroup::Cgroups;
use upcalld::policy;
use upcalld::resolve::Resolver;
use upcalld::store::record::Record;

use crate::context::Context;

/// A directory with files.
#[derive(Debug)]
pub(crate) struct Root {
    /// The directory; nothing below it was followed to open it.
    pub(crate) directory: OwnedFd,
    /// Whose it is, for people.
    pub(crate) whose: String,
}

/// Opens the root of where a crash was, or `instead`.
///
/// # Errors
/// Why there is none, for people.
pub(crate) fn of(
    context: &Context,
    record: &Record,
    instead: Option<&Path>,
) -> Result<Root, String> {
    if let Some(path) = instead {
        return Ok(Root {
            directory: directory(path)?,
            whose: path.display().to_string(),
        });
    }
    let Some(container) = &record.container else {
        return match record.process.user_namespace.as_deref() {
            Some("initial") => Ok(Root {
                directory: directory(Path::new("/"))?,
                whose: "this host".to_owned(),
            }),
            _ => Err("it lived in no container that is known".to_owned()),
        };
    };
    if !nix::unistd::Uid::effective().is_root() {
        return Err("only root can open those of a container".to_owned());
    }
    let loaded = policy::check(&context.config);
    let declared = loaded.policy.as_ref();
    let declared = declared.map(|policy| policy.containers());
    let cgroups = Cgroups::mount().ok().map(Arc::new);
    let resolver = Resolver::new(&loaded.settings.runtimes, cgroups);
    let resolver = resolver.map_err(|errno| format!("/proc/self/ns: {errno}"))?;
    let id = unescape(&container.id).and_then(|id| String::from_utf8(id).ok());
    let id = id.ok_or("its container's id is no text")?;
    let found = find::container(&resolver, declared.unwrap_or_default(), &id);
    let found = found.map_err(|error| error.to_string())?;
    if found.id != container.id || found.runtime != container.runtime {
        return Err(format!("{} is another container now", container.id));
    }
    let root = directory(Path::new(&format!("/proc/{}/root", found.leader.pid())))?;
    let there = found.leader.verify();
    there.map_err(|_| format!("{} has just ended", container.id))?;
    let name = container.name.as_deref().unwrap_or(&container.id);
    Ok(Root {
        directory: root,
        whose: format!("{}/{name}, its root", container.runtime),
    })
}

fn directory(path: &Path) -> Result<OwnedFd, String> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).map_err(|errno| format!("{}: {errno}", path.display()))
}

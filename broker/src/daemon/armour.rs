//! What upcalld gives up when its launcher is up: whoever gets hold of it gets less.
//!
//! It happens while there is one thread, and after the launcher, which must have all of it. The daemon stays root's:
//! records, sockets and /proc need that.

mod calls;

use anyhow::Context;
use nix::sys::prctl::{set_dumpable, set_no_new_privs};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use tracing::debug;
use upcall_config::capability;
use upcall_helpers::sys::{limit_bounding_set, set_capabilities};

use crate::options::Unlisted;

/// What is kept, and for what. Not among it: SYS_ADMIN, SETUID, SETGID, SYS_CHROOT, MKNOD, SYS_MODULE, SYS_RAWIO.
const KEPT: [&str; 9] = [
    "CHOWN",           // sockets and records for the group
    "DAC_OVERRIDE",    // cgroups delegated to users, to make children in and end them
    "DAC_READ_SEARCH", // runtimes' state, also of users
    "FOWNER",          // modes of what belongs to the group
    "FSETID",          // the set-group-id bit of the records' directory
    "KILL",            // whether a process of another user's is there still
    "NET_ADMIN",       // device programs (bpf(2)), the kernel's process events
    "BPF",             // device programs
    "SYS_PTRACE",      // other users' /proc files, namespaces by pidfd
];

/// How unwilling the kernel shall be to end us for want of memory: -1000 is never.
const OOM_SCORE: &str = "-900";

/// Puts it on.
///
/// # Errors
/// As prctl(2), setrlimit(2), capset(2), seccomp(2).
pub(super) fn put_on(unlisted: Unlisted) -> anyhow::Result<()> {
    // Nobody's to look into, and a crash of its own is not handled by itself.
    set_dumpable(false).context("prctl(PR_SET_DUMPABLE)")?;
    setrlimit(Resource::RLIMIT_CORE, 1, 1).context("setrlimit(RLIMIT_CORE)")?;
    // Nothing is for everybody; what a group may read is made its own.
    umask(Mode::from_bits_truncate(0o027));
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("getrlimit(RLIMIT_NOFILE)")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("setrlimit(RLIMIT_NOFILE)")?;
    // Not permitted in many containers; then the kernel's own score holds.
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        debug!("/proc/self/oom_score_adj: {error}");
    }
    set_no_new_privs().context("prctl(PR_SET_NO_NEW_PRIVS)")?;
    let kept = capability::set(&KEPT);
    let [_, permitted, _] = upcall_helpers::sys::capabilities().context("capget")?;
    limit_bounding_set(kept).context("prctl(PR_CAPBSET_DROP)")?;
    set_capabilities(kept & permitted).context("capset")?;
    calls::limit(unlisted).context("seccomp")
}

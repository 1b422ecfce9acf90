//! The programs that the kernel starts by itself, cores, keys and modules apart: what each goes by, and the words that the
//! kernel gives it (the callers of `call_usermodehelper` in Linux 6.1 to 7.3).
//!
//! A program with other words than its own was not started by the caller that it is known from: a container that is
//! allowed to set a release agent names any program of the host's, and has its cgroup's path as the only word.

/// How one word must look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// One of these.
    Of(&'static [&'static str]),
    /// A name without a slash, and no option.
    Name,
    /// An absolute path.
    Path,
    /// Anything that is no option.
    Text,
}

/// A program that the kernel is known to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// What it goes by: the path that the kernel has for it, or the name of its setting.
    pub name: &'static str,
    /// The words after that; one of these rows.
    words: &'static [&'static [Word]],
    /// Whether the kernel waits for its end, and so whoever caused it (`UMH_WAIT_PROC`).
    pub waited_for: bool,
    /// Whether its word is the path of a cgroup of v1 that has lost its last process.
    pub told_of_cgroup: bool,
    /// Whether it must run whatever happens to us: without it a machine that is too hot stays on.
    pub fail_open: bool,
}

const fn known(name: &'static str, words: &'static [&'static [Word]]) -> Known {
    Known {
        name,
        words,
        waited_for: false,
        told_of_cgroup: false,
        fail_open: false,
    }
}

const fn waited_for(known: Known) -> Known {
    Known {
        waited_for: true,
        ..known
    }
}

const fn agent(name: &'static str) -> Known {
    Known {
        told_of_cgroup: true,
        ..known(name, &[&[Path]])
    }
}

const fn fail_open(known: Known) -> Known {
    Known {
        fail_open: true,
        ..known
    }
}

use Word::{Name, Of, Path, Text};

/// All of them.
pub const KNOWN: [Known; 16] = [
    // kernel/cgroup/cgroup-v1.c, cgroup1_release_agent: the cgroup's path.
    agent("release_agent"),
    agent("/lib/systemd/systemd-cgroups-agent"),
    agent("/usr/lib/systemd/systemd-cgroups-agent"),
    // lib/kobject_uevent.c: the subsystem; what happened is in the environment.
    known("uevent_helper", &[&[Name]]),
    known("/sbin/hotplug", &[&[Name]]),
    // net/bridge/br_stp_if.c, br_stp_call_user: under the lock of all network settings.
    waited_for(known(
        "/sbin/bridge-stp",
        &[&[Name, Of(&["start", "stop"])]],
    )),
    // fs/nfsd/nfs4recover.c, nfsd4_umh_cltrack_upcall.
    waited_for(known(
        "/sbin/nfsdcltrack",
        &[
            &[Of(&["init"])],
            &[Of(&["gracedone", "create", "remove", "check"]), Text],
        ],
    )),
    // fs/nfsd/nfs4layouts.c, nfsd4_cb_layout_fail.
    waited_for(known("/sbin/nfsd-recall-failed", &[&[Text, Text]])),
    // fs/nfs/cache_lib.c, nfs_cache_upcall.
    known("/sbin/nfs_cache_getent", &[&[Name, Text]]),
    // fs/ocfs2/stackglue.c, ocfs2_leave_group.
    waited_for(known(
        "/sbin/ocfs2_hb_ctl",
        &[&[Of(&["-K"]), Of(&["-u"]), Name]],
    )),
    // drivers/block/drbd/drbd_nl.c: the event, and a minor number or a resource.
    waited_for(known("/sbin/drbdadm", &[&[Name, Text]])),
    // kernel/reboot.c, orderly_poweroff and orderly_reboot.
    fail_open(known(POWEROFF, &[&[]])),
    fail_open(known("/sbin/reboot", &[&[]])),
    // security/tomoyo/load_policy.c, drivers/video/fbdev/uvesafb.c, init/do_mounts_initrd.c (to 6.12).
    waited_for(known("/sbin/tomoyo-init", &[&[]])),
    waited_for(known("/sbin/v86d", &[&[]])),
    waited_for(known("/linuxrc", &[&[]])),
];

/// What is known about a program and its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The kernel starts it so.
    Known(&'static Known),
    /// The kernel starts it, but with other words.
    Odd,
    /// Nothing.
    Unknown,
}

/// What an orderly end of the machine goes by, whatever `kernel.poweroff_cmd` is.
pub const POWEROFF: &str = "/sbin/poweroff";

/// Looks up what goes by a name: the program that is executed for it, and its words.
pub fn look(name: &[u8], program: &[u8], words: &[Vec<u8>]) -> Look {
    let is_setting = name == POWEROFF.as_bytes() && program != name;
    // The setting has words of its own, which are all that there are.
    let words = if is_setting { &[] } else { words };
    let Some(known) = KNOWN.iter().find(|known| known.name.as_bytes() == name) else {
        return Look::Unknown;
    };
    let fits = |row: &&[Word]| {
        row.len() == words.len() && row.iter().zip(words).all(|(word, text)| word.fits(text))
    };
    if known.words.iter().any(fits) {
        Look::Known(known)
    } else {
        Look::Odd
    }
}

impl Word {
    fn fits(self, text: &[u8]) -> bool {
        let is_option = text.first() == Some(&b'-');
        match self {
            Self::Of(words) => words.iter().any(|word| word.as_bytes() == text),
            Self::Name => !text.is_empty() && !is_option && !text.contains(&b'/'),
            Self::Path => text.first() == Some(&b'/'),
            Self::Text => !text.is_empty() && !is_option,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, words: &[&str]) -> Look {
        let words: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        look(name.as_bytes(), name.as_bytes(), &words)
    }

    #[test]
    fn a_program_has_the_words_that_the_kernel_gives_it() {
        for (name, words) in [
            ("release_agent", &["/a/b"][..]),
            ("/sbin/bridge-stp", &["br0", "start"]),
            ("/sbin/nfsdcltrack", &["init"]),
            ("/sbin/nfsdcltrack", &["create", "6c696e7578"]),
            ("/sbin/poweroff", &[]),
        ] {
            assert!(
                matches!(of(name, words), Look::Known(_)),
                "{name} {words:?}"
            );
        }
    }

    #[test]
    fn a_release_agent_that_names_another_program_is_odd() {
        for known in KNOWN {
            let agent = known.told_of_cgroup;
            let look = of(known.name, &["/docker/3f9c/x"]);
            assert_eq!(matches!(look, Look::Known(_)), agent, "{}", known.name);
        }
        assert_eq!(of("/sbin/bridge-stp", &["--hooks=.", "start"]), Look::Odd);
        assert_eq!(of("/sbin/bridge-stp", &["br0", "start", "x"]), Look::Odd);
        assert_eq!(of("/sbin/poweroff", &["-f"]), Look::Odd);
        assert_eq!(of("/bin/sh", &["/x"]), Look::Unknown);
        let words = [b"-h".to_vec()];
        let set = look(POWEROFF.as_bytes(), b"/sbin/shutdown", &words);
        assert!(matches!(set, Look::Known(known) if known.fail_open));
    }
}

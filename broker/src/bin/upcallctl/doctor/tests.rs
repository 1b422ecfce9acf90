//! Every check is made to fail, in a host of files.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use clap::Parser;
use upcalld::control::{ModuleStatus, Status};
use upcalld::hooks::file::CoreHook;
use upcalld::hooks::pattern::Pattern;
use upcalld::store::records::Records;

use super::*;
use crate::cli::Cli;
use crate::given;

mod module;

/// A host on which everything is well.
struct Private {
    directory: tempfile::TempDir,
    context: Context,
    daemon: Option<Status>,
}

impl Private {
    /// `None` without root, whose the files must be.
    fn new() -> Option<Self> {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("SKIPPED: the files must be root's");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let [config, state, libexec] = ["etc/upcalld", "state", "libexec"].map(path);
        let words = ["upcallctl", "--config"].map(String::from).into_iter();
        let words = words.chain([config.display().to_string()]);
        let words = words.chain(["--state".into(), state.display().to_string()]);
        let words = words.chain([
            "--libexec".into(),
            libexec.display().to_string(),
            "doctor".into(),
        ]);
        let context = Context::new(&Cli::parse_from(words));
        let private = Self {
            context: Context {
                look: Look::given(),
                ..context
            },
            daemon: None,
            directory,
        };
        private.furnish();
        Some(private)
    }

    fn furnish(&self) {
        let program = self.context.libexec.join("core");
        let below = program.strip_prefix("/").unwrap();
        let seen = Path::new("proc/1/root").join(below);
        self.write(&seen, "");
        std::fs::set_permissions(self.path(&seen), PermissionsExt::from_mode(0o755)).unwrap();
        let hook = CoreHook {
            socket: "/x".into(),
            deadline_ms: 1,
            spool: self.path("spool"),
            spool_max: 1,
            keep_free: 1,
            previous: Pattern::parse("|/usr/lib/systemd/systemd-coredump %P"),
            previous_pipe_limit: 0,
        };
        std::fs::create_dir_all(&self.context.hooks).unwrap();
        hook.write(&self.context.hooks).unwrap();
        let ours = Pattern::ours(Path::new("/l/core"), &self.context.hooks);
        self.write("proc/sys/kernel/core_pattern", ours.unwrap().text());
        let seen = Path::new("proc/1/root/l/core");
        self.write(seen, "");
        std::fs::set_permissions(self.path(seen), PermissionsExt::from_mode(0o755)).unwrap();
        for (name, text) in [
            ("proc/sys/kernel/core_pipe_limit", "1024\n"),
            ("proc/sys/kernel/cap_last_cap", "40\n"),
            ("proc/sys/kernel/usermodehelper/bset", "4294967295\t511\n"),
            ("proc/sys/fs/suid_dumpable", "2\n"),
            ("proc/self/cgroup", "0::/x\n"),
            ("proc/12/status", "Name:\tx\nCapBnd:\t000001ffffffffff\n"),
            ("proc/1/status", "Name:\tx\nCapBnd:\t000001ffffffffff\n"),
            (
                "proc/11/limits",
                "Max open files            20000   20000  files\n",
            ),
            ("sys/kernel/security/lsm", "lockdown,capability,apparmor"),
            ("dev/kmsg", "6,1,1,-;Linux version\n"),
            (
                "etc/systemd/system/multi-user.target.wants/upcalld-hooks.service",
                "",
            ),
            ("run/systemd/system/x", ""),
            ("etc/upcalld/upcalld.toml", "store.keep_free = 0\n"),
            (
                "etc/upcalld/rules.d/50.toml",
                "[[rule]]\nupcall = \"core\"\nstore = {}\n",
            ),
        ] {
            self.write(name, text);
        }
        let records = Records::create(&self.context.state).unwrap();
        records.write(&given::shop(), 1).unwrap();
    }

    fn path(&self, name: impl AsRef<Path>) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: impl AsRef<Path>, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn findings(&self) -> [Finding; CHECKS.len()] {
        let mut host = Host::below(&self.context, self.directory.path());
        host.daemon.clone_from(&self.daemon);
        CHECKS.map(|check| check(&host))
    }

    /// What one check says.
    fn of(&self, check: &str) -> Finding {
        let found = self.findings().into_iter().find(|f| f.check == check);
        found.unwrap_or_else(|| panic!("{check}"))
    }

    /// Whether exactly this check is ill, at this level, with a reason and a cure, and says this.
    fn ill(&self, check: &str, level: Level, what: &str) {
        let finding = self.of(check);
        assert_eq!(finding.level, level, "{finding:?}");
        assert!(finding.what.contains(what), "{finding:?}");
        assert!(
            finding.why.is_some() && finding.cure.is_some(),
            "{finding:?}"
        );
        for other in self.findings() {
            assert!(
                other.check == check || other.level == Level::Ok,
                "{other:?}"
            );
        }
    }
}

fn status() -> Status {
    Status {
        version: "0.1.0".into(),
        pid: 11,
        launcher_pid: 12,
        started: 0,
        rules: 1,
        files: 2,
        loaded: 0,
        unchanged: true,
        core: "ours".into(),
        foreign: None,
        foreign_since: None,
        checked: 0,
        previous: None,
        hook_file_problem: None,
        keep_free: 0,
        kernel_socket: None,
        mode: None,
        module: ModuleStatus::default(),
    }
}

/// A host that is well, and whose daemon runs.
fn well() -> Option<Private> {
    let mut private = Private::new()?;
    private.daemon = Some(status());
    Some(private)
}

/// Breaks something on a host that is well; then exactly this check is ill.
fn breaks(check: &str, level: Level, what: &str, harm: impl FnOnce(&mut Private)) {
    let Some(mut private) = well() else { return };
    harm(&mut private);
    private.ill(check, level, what);
}

#[test]
fn a_host_that_is_well() {
    let Some(private) = well() else { return };
    let findings = private.findings();
    let ill: Vec<_> = findings.iter().filter(|f| f.level != Level::Ok).collect();
    assert!(ill.is_empty(), "{ill:?}");
    insta::assert_snapshot!(text(&findings, &Look::given()));
}

#[test]
fn what_is_ill_comes_first_with_why_and_cure() {
    let Some(private) = well() else { return };
    private.write("proc/sys/fs/suid_dumpable", "1\n");
    private.write("proc/sys/kernel/usermodehelper/bset", "4292870143\t511\n");
    private.write("sys/kernel/security/lsm", "capability");
    private.write(
        "etc/sysctl.d/99-hardening.conf",
        "# x\nkernel.usermodehelper.bset = 4292870143 511\n",
    );
    insta::assert_snapshot!(text(&private.findings(), &Look::given()));
}

#[test]
fn the_hook() {
    let pattern = "proc/sys/kernel/core_pattern";
    breaks(
        "hook",
        Level::Error,
        "is core.%p, not ours any more",
        |private| {
            private.write(pattern, "core.%p\n");
        },
    );
    breaks("hook", Level::Error, "is ours, but ", |private| {
        private.write("etc/upcalld/hooks/core", "garbage\n");
    });
    breaks("hook", Level::Warning, "another upcalld's", |private| {
        private.write(pattern, "|/run/x/core --hooks=/run/x/hooks %P\n");
        std::fs::remove_file(private.path("etc/upcalld/hooks/core")).unwrap();
    });
    let Some(private) = well() else { return };
    for (text, cure) in [
        ("|/usr/lib/systemd/systemd-coredump %P", "systemd-sysctl"),
        (
            "@@/run/systemd/coredump-kernel",
            "disable --now systemd-coredump-register.service",
        ),
        (
            "|/usr/share/apport/apport -p%p",
            "disable --now apport.service",
        ),
        ("|/bin/other", "grep -rs core_pattern"),
    ] {
        private.write(pattern, text);
        let found = private.of("hook").cure.unwrap();
        assert!(found.contains(cure), "{text}: {found}");
    }
}

#[test]
fn a_hook_that_was_never_installed() {
    breaks(
        "hook",
        Level::Warning,
        "not installed; core_pattern is core",
        |private| {
            private.write("proc/sys/kernel/core_pattern", "core\n");
            std::fs::remove_file(private.path("etc/upcalld/hooks/core")).unwrap();
        },
    );
}

#[test]
fn the_program() {
    let mode = |mode| {
        move |private: &mut Private| {
            let path = private.path("proc/1/root/l/core");
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        }
    };
    breaks("program", Level::Error, "not a program", mode(0o644));
    breaks(
        "program",
        Level::Error,
        "somebody else than root can write it",
        mode(0o757),
    );
    breaks("program", Level::Error, "/l/core: ENOENT", |private| {
        std::fs::remove_file(private.path("proc/1/root/l/core")).unwrap();
    });
}

#[test]
fn the_next_boot() {
    breaks("boot", Level::Warning, "not enabled", |private| {
        let wants = "etc/systemd/system/multi-user.target.wants/upcalld-hooks.service";
        std::fs::remove_file(private.path(wants)).unwrap();
    });
}

#[test]
fn what_writes_over_the_hook() {
    breaks(
        "sysctl.d",
        Level::Warning,
        "/usr/lib/sysctl.d/50-coredump.conf:2 sets",
        |private| {
            let text = "# systemd\nkernel.core_pattern=|/usr/lib/systemd/systemd-coredump %P\n";
            private.write("usr/lib/sysctl.d/50-coredump.conf", text);
        },
    );
    let Some(private) = well() else { return };
    // A line of ours behind it, or one of the same name in its place.
    private.write(
        "usr/lib/sysctl.d/50-coredump.conf",
        "kernel.core_pattern=core\n",
    );
    let ours = std::fs::read_to_string(private.path("proc/sys/kernel/core_pattern")).unwrap();
    private.write(
        "run/sysctl.d/99-upcalld.conf",
        &format!("kernel.core_pattern = {ours}\n"),
    );
    assert_eq!(private.of("sysctl.d").level, Level::Ok);
    std::fs::remove_file(private.path("run/sysctl.d/99-upcalld.conf")).unwrap();
    private.write("etc/sysctl.d/50-coredump.conf", "");
    assert_eq!(private.of("sysctl.d").level, Level::Ok);
    let unit = "usr/lib/systemd/system/systemd-coredump-register.service";
    breaks("systemd", Level::Warning, "systemd's socket", |private| {
        private.write(unit, "");
    });
    let Some(private) = well() else { return };
    private.write(unit, "");
    symlink(
        "/dev/null",
        private.path("etc/systemd/system/systemd-coredump-register.service"),
    )
    .unwrap();
    assert_eq!(private.of("systemd").level, Level::Ok);
}

#[test]
fn the_kernels_settings() {
    let limit = "proc/sys/kernel/core_pipe_limit";
    breaks("core_pipe_limit", Level::Error, "is 0", |p| {
        p.write(limit, "0\n");
    });
    breaks("core_pipe_limit", Level::Warning, "is 16", |p| {
        p.write(limit, "16\n");
    });
    breaks("bset", Level::Warning, "lacks SYS_ADMIN", |private| {
        private.write("proc/sys/kernel/usermodehelper/bset", "4292870143\t511\n");
    });
    breaks("suid_dumpable", Level::Error, "is 1", |private| {
        private.write("proc/sys/fs/suid_dumpable", "1\n");
    });
    breaks("pid1-fs", Level::Error, "PID 1", |private| {
        let line = "4,9,9,-;VFS: Pid 1 stopped sharing filesystem state\n";
        private.write("dev/kmsg", line);
    });
    breaks("cgroups", Level::Warning, "2 hierarchies", |private| {
        private.write("proc/self/cgroup", "2:cpu:/\n1:name=systemd:/\n0::/\n");
    });
    breaks("cgroups", Level::Error, "no cgroup2", |private| {
        private.write("proc/self/cgroup", "2:cpu:/\n1:name=systemd:/\n");
    });
}

#[test]
fn a_kernel_without_pidfds_of_who_crashed() {
    breaks("%F", Level::Warning, "knows no %F", |private| {
        let mut record = given::shop();
        record.evidence.process = Some("number_checked".to_owned());
        Records::at(&private.context.state)
            .write(&record, 2)
            .unwrap();
    });
}

#[test]
fn the_daemon() {
    breaks(
        "capabilities",
        Level::Warning,
        "lacks SYS_RESOURCE",
        |private| {
            private.write("proc/12/status", "CapBnd:\t000001fffeffffff\n");
        },
    );
    breaks("capabilities", Level::Error, "SYS_ADMIN", |private| {
        private.write("proc/12/status", "CapBnd:\t000001ffffdfffff\n");
    });
    breaks(
        "descriptors",
        Level::Warning,
        "may open 1024 files",
        |private| {
            private.write(
                "proc/11/limits",
                "Max open files            1024   20000  files\n",
            );
        },
    );
    let Some(private) = Private::new() else {
        return;
    };
    let finding = private.of("daemon");
    assert_eq!(finding.level, Level::Error, "{finding:?}");
    assert!(finding.what.contains("the spool is empty"), "{finding:?}");
    private.write("proc/sys/kernel/core_pattern", "core\n");
    assert_eq!(private.of("daemon").level, Level::Warning);
    assert_eq!(private.of("descriptors").level, Level::Unknown);
}

#[test]
fn room_and_rules() {
    let settings = "etc/upcalld/upcalld.toml";
    breaks(
        "disk",
        Level::Error,
        "store.keep_free is 1024 TiB",
        |private| {
            private.write(settings, "store.keep_free = \"1024TiB\"\n");
        },
    );
    breaks("disk", Level::Warning, "store.keep_free is", |private| {
        let free = upcalld::store::space::free(&private.context.state).unwrap();
        private.write(settings, &format!("store.keep_free = {}\n", free / 3 * 2));
    });
    let rules = "etc/upcalld/rules.d/50.toml";
    breaks("rules", Level::Error, "1 error: error[syntax]", |private| {
        private.write(rules, "[[rule]\n");
    });
    breaks(
        "rules",
        Level::Warning,
        "1 warning: warning[unreachable-rule]",
        |private| {
            let rule = "[[rule]]\nupcall = \"core\"\nstore = {}\n";
            private.write(rules, &format!("{rule}{rule}"));
        },
    );
}

#[test]
fn what_cannot_be_looked_at_is_unknown() {
    let Some(private) = well() else { return };
    for name in [
        "proc/sys/kernel/core_pattern",
        "proc/sys/kernel/usermodehelper/bset",
        "proc/sys/fs/suid_dumpable",
        "proc/self/cgroup",
        "proc/12/status",
        "proc/11/limits",
        "sys/kernel/security/lsm",
        "dev/kmsg",
    ] {
        std::fs::remove_file(private.path(name)).unwrap();
    }
    let unknown = private
        .findings()
        .into_iter()
        .filter(|f| f.level == Level::Unknown);
    let unknown: Vec<_> = unknown.map(|finding| finding.check).collect();
    assert_eq!(
        unknown,
        [
            "hook",
            "core_pipe_limit",
            "bset",
            "pid1-fs",
            "suid_dumpable",
            "cgroups",
            "lsm",
            "capabilities",
            "descriptors"
        ]
    );
}

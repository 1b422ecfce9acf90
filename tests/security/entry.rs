//! Attacks on whoever enters: on his programs, descriptors and libraries, and on what he believes of /proc.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use upcall_e2e::command::until;
use upcall_e2e::container::runs;
use upcall_e2e::daemon::Daemon;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::records::{action, report};
use upcall_e2e::report::Hash;
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::Sandbox;
use upcall_e2e::watch::Watch;
use upcalld::store::record::Outcome;

use crate::scene::Scene;

/// SEGV runs /helper of the container, ABRT upcall-probe of the host.
pub(crate) const BOTH: &str = r#"
[[rule]]
upcall = "core"
match.container = {}
match.core = { signal = "SEGV" }
run = { in = "container", command = ["/helper"], without_user_namespace = true }
[[rule]]
upcall = "core"
match.container = {}
match.core = { signal = "ABRT" }
run = { in = "container", host_program = ["@/bin/upcall-probe"], without_user_namespace = true }
"#;

/// Hashes of every program of ours, on disk and as the launcher runs it.
fn programs(scene: &Scene) -> Result<Vec<String>> {
    let launcher = format!("/proc/{}/exe", scene.daemon.launcher());
    let mut paths = vec![launcher.into(), scene.sandbox.programs.daemon.clone()];
    for directory in ["libexec", "bin"] {
        let entries = std::fs::read_dir(scene.sandbox.path(directory))?.flatten();
        paths.extend(entries.map(|entry| entry.path()));
    }
    paths.sort();
    let hash = |path: &std::path::PathBuf| -> Result<String> {
        Ok(format!(
            "{} {}",
            path.display(),
            Hash::of(&std::fs::read(path)?)
        ))
    };
    paths.iter().map(hash).collect()
}

/// The host's /bin/sh with another loader: what a program's own file says is to load it.
fn loaded_by(loader: &str) -> Result<Vec<u8>> {
    const LOADER: &[u8] = b"/lib64/ld-linux-x86-64.so.2\0";
    let mut elf = std::fs::read("/bin/sh")?;
    let at = elf
        .windows(LOADER.len())
        .position(|window| window == LOADER);
    let at = at.context("the loader's name in /bin/sh")?;
    let mut name = loader.as_bytes().to_vec();
    name.resize(LOADER.len(), 0);
    elf.splice(at..at + LOADER.len(), name);
    Ok(elf)
}

/// Containers with and without a user namespace of their own: what root inside may do differs.
pub(crate) fn both_kinds(name: &str) -> [Runc; 2] {
    [
        Runc::new(&format!("{name}-own")).user_namespace(),
        Runc::new(&format!("{name}-plain")),
    ]
}

#[test]
fn a_program_that_names_ours_as_its_interpreter_cannot_change_it() -> Result<()> {
    // CVE-2019-5736.
    needs!(Root, Runc);
    let scene = Scene::new(BOTH)?;
    let before = programs(&scene)?;
    for runc in both_kinds("web") {
        let container = runc
            .root(|root| root.file("/helper", "#!/proc/self/exe --launcher\n", 0o755))
            .start(&scene.sandbox)?;
        let attack = container.spawn(&["/bin/sh", "-c", "/hostile overwrite 3 > /tmp/said"])?;
        let said = container.root().inside("/tmp/said");
        let said = || std::fs::read_to_string(&said).unwrap_or_default();
        until(Duration::from_secs(2), "the attack", || {
            said().contains("ready").then_some(())
        })?;
        let dump = CoreDump::of(container.init())?.bytes(10_000);
        for round in 0..60 {
            match round {
                20 => container
                    .root()
                    .file("/helper", loaded_by("/proc/self/exe")?, 0o755)?,
                40 => container
                    .root()
                    .file("/helper", "#!/proc/self/fd/3\n", 0o755)?,
                _ => {}
            }
            scene.dump(
                &dump
                    .clone()
                    .word("%s", if round % 4 == 3 { "6" } else { "11" }),
            )?;
        }
        until(Duration::from_secs(5), "the attack's end", || {
            (!runs(attack)).then_some(())
        })?;
        let said = said();
        assert!(said.contains("saw ") && !said.contains("saw 0\n"), "{said}");
        assert!(!said.contains("wrote"), "{said}");
        assert_eq!(programs(&scene)?, before, "{}", container.name());
    }
    scene.end()
}

#[test]
fn a_helper_is_a_file_of_the_containers_and_no_door() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(BOTH)?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let helper = container.root().inside("/helper");
    let dump = CoreDump::of(container.init())?.bytes(10_000);
    for (target, errno) in [
        ("/proc/1/exe", "ELOOP"),
        ("/proc/self/exe", "ELOOP"),
        ("/proc/self/fd/1", "ELOOP"),
        ("/proc/self/fd/0", "ELOOP"),
        ("/proc/1/root/probe", "ELOOP"),
        ("/proc/self/cwd/probe", "ELOOP"),
        ("/proc/version", "EACCES"),
        ("/sys/kernel/notes", "EACCES"),
        ("/dev/null", "EACCES"),
        ("/helper", "ELOOP"),
        ("/", "EACCES"),
    ] {
        std::os::unix::fs::symlink(target, &helper)?;
        let (record, _) = scene.dump(&dump)?;
        let run = action(&record, "run")?;
        let found = (run.stage.as_deref(), run.errno.as_deref());
        assert_eq!(
            found,
            (Some("program"), Some(errno)),
            "{target}: {record:?}"
        );
        assert_eq!(scene.kept(&record)?, dump.core(), "{target}");
        std::fs::remove_file(&helper)?;
    }
    // A link to another file of its own is its own business.
    std::os::unix::fs::symlink("/probe", &helper)?;
    assert_eq!(scene.dump(&dump)?.0.outcome, Outcome::Done);
    scene.end()
}

#[test]
fn no_descriptor_that_the_daemon_was_started_with_reaches_a_helper() -> Result<()> {
    // CVE-2024-21626.
    needs!(Root, Runc);
    let sandbox = Sandbox::new()?;
    sandbox.rules(&BOTH.replace("/helper", "/probe"))?;
    // Open across exec in whatever we start from here on.
    let leaked = OpenOptions::new().read(true).open("/")?;
    let leak = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty());
    nix::fcntl::fcntl(&leaked, leak)?;
    let daemon = Daemon::start(&sandbox)?;
    let inherited = format!("/proc/{}/fd/{}", daemon.pid(), leaked.as_raw_fd());
    assert_eq!(
        std::fs::read_link(inherited)?,
        Path::new("/"),
        "the test's own leak"
    );
    let scene = Scene { daemon, sandbox };
    for runc in both_kinds("web") {
        let container = runc.start(&scene.sandbox)?;
        for signal in ["11", "6"] {
            let dump = CoreDump::of(container.init())?.word("%s", signal);
            let report = report(&scene.dump(&dump)?.0)?;
            let numbers: Vec<u32> = report.descriptors.keys().copied().collect();
            assert_eq!((numbers, report.cwd.as_str()), (vec![0, 1, 2], "/"));
        }
    }
    scene.end()
}

#[test]
fn nothing_of_the_containers_is_opened_on_the_way_to_its_helper() -> Result<()> {
    // What a loader, NSS, locales and time zones would look at; threat T13.
    needs!(Root, Runc);
    let scene = Scene::new(&BOTH.replace("upcall-probe", "crash-me\", \"--no-such-word"))?;
    let names = [
        "ld.so.preload",
        "ld.so.cache",
        "nsswitch.conf",
        "localtime",
        "locale.alias",
        "host.conf",
    ];
    let container = Runc::new("web")
        .user_namespace()
        .root(move |root| {
            for name in names {
                root.file(&format!("/etc/{name}"), "/evil.so\n", 0o644)?;
            }
            std::fs::create_dir_all(root.inside("/lib/x86_64-linux-gnu"))?;
            root.file("/lib/x86_64-linux-gnu/libnss_files.so.2", "", 0o755)?;
            root.file("/evil.so", "", 0o755)
        })
        .start(&scene.sandbox)?;
    let watch = Watch::of(
        container.root(),
        &["/", "/etc", "/lib", "/lib/x86_64-linux-gnu", "/bin"],
    )?;
    for _ in 0..5 {
        let dump = CoreDump::of(container.init())?.word("%s", "6");
        let (record, _) = scene.dump(&dump)?;
        // It ran, and its own way ends at once.
        assert_eq!(action(&record, "run")?.exit_code, Some(2), "{record:?}");
    }
    assert_eq!(watch.opened()?, Vec::<String>::new());
    // The watch does see what is opened.
    container.exec(&["/bin/cat", "/etc/ld.so.preload"])?;
    assert!(watch.opened()?.contains(&"ld.so.preload".to_owned()));
    scene.end()
}

#[test]
fn a_proc_that_is_the_containers_own_invention_is_not_looked_at() -> Result<()> {
    // CVE-2019-16884, CVE-2025-31133: what was meant for the kernel went into files of the tenant's, or the other way.
    needs!(Root, Runc);
    let scene = Scene::new(&BOTH.replace("/helper", "/probe"))?;
    for runc in both_kinds("web") {
        let container = runc.start(&scene.sandbox)?;
        let leader = container.leader()?;
        let fake = "mount -t tmpfs none /proc && for p in self thread-self 1; do mkdir -p /proc/$p/ns /proc/$p/attr \
                    /proc/$p/fd /proc/$p/root; for f in oom_score_adj attr/exec attr/current setgroups uid_map cgroup \
                    ns/user ns/mnt ns/pid ns/pid_for_children ns/net ns/cgroup; do : > /proc/$p/$f; chmod 666 /proc/$p/$f; \
                    done; done; ln -s /etc/passwd /proc/sysrq-trigger";
        container.as_host_root(&["/bin/sh", "-c", fake])?;
        for signal in ["11", "6"] {
            let dump = CoreDump::of(container.init())?.word("%s", signal);
            let (record, _) = scene.dump(&dump)?;
            assert_eq!(record.outcome, Outcome::Done, "{record:?}");
            assert_eq!(report(&record)?.namespaces, leader.namespaces);
        }
        let written = container.as_host_root(&["/bin/sh", "-c", "find /proc -type f -size +0"])?;
        assert_eq!(written, "");
    }
    scene.end()
}

//! Attacks on whoever enters: on its programs, descriptors, libraries, on /proc, on its being traced, on its time.

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use upcall_e2e::cgroup;
use upcall_e2e::command::{pause, until};
use upcall_e2e::container::{Container, runs};
use upcall_e2e::daemon::Daemon;
use upcall_e2e::fuse::{Fuse, Silent};
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::records::{action, report};
use upcall_e2e::report::Hash;
use upcall_e2e::rootfs::Rootfs;
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::Sandbox;
use upcalld::store::record::{Outcome, Record};

use crate::scene::{Scene, run_rule, script};

/// SEGV runs /helper of the container, ABRT upcall-probe of the host.
const BOTH: &str = r#"
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

/// The host's /bin/true with another loader: what a program's own file says is to load it.
fn loaded_by(loader: &str) -> Result<Vec<u8>> {
    const LOADER: &[u8] = b"/lib64/ld-linux-x86-64.so.2\0";
    let mut elf = std::fs::read("/bin/true")?;
    let at = elf
        .windows(LOADER.len())
        .position(|window| window == LOADER);
    let at = at.context("the loader's name in /bin/true")?;
    let mut name = loader.as_bytes().to_vec();
    name.resize(LOADER.len(), 0);
    elf.splice(at..at + LOADER.len(), name);
    Ok(elf)
}

/// Containers with and without a user namespace of their own: what root inside may do differs.
fn both_kinds(name: &str) -> [Runc; 2] {
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

/// Notes what is opened in some directories (inotify(7)).
struct Watch(nix::sys::inotify::Inotify);

impl Watch {
    fn of(root: &Rootfs, directories: &[&str]) -> Result<Self> {
        use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
        let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        for directory in directories {
            let what = AddWatchFlags::IN_OPEN | AddWatchFlags::IN_ACCESS;
            watch.add_watch(&root.inside(directory), what)?;
        }
        Ok(Self(watch))
    }

    fn opened(&self) -> Result<Vec<String>> {
        match self.0.read_events() {
            Ok(events) => {
                let names = events
                    .into_iter()
                    .map(|event| event.name.unwrap_or_else(|| ".".into()));
                Ok(names
                    .map(|name| name.to_string_lossy().into_owned())
                    .collect())
            }
            Err(nix::errno::Errno::EAGAIN) => Ok(vec![]),
            Err(errno) => Err(errno.into()),
        }
    }
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

/// Lets a process of the container's attack all that appears in it, while helpers come and go.
fn under_attack(scene: &Scene, container: &Container, signal: &str) -> Result<String> {
    let attack = container.spawn(&["/bin/sh", "-c", "exec /hostile trace 2 > /tmp/said"])?;
    let path = container.root().inside("/tmp/said");
    let said = || std::fs::read_to_string(&path).unwrap_or_default();
    until(Duration::from_secs(2), "the attack", || {
        said().contains("ready").then_some(())
    })?;
    let dump = CoreDump::of(container.init())?
        .bytes(10_000)
        .word("%s", signal);
    while runs(attack) {
        scene.dump(&dump)?;
    }
    let said = said();
    let last = said.lines().last().unwrap_or_default();
    let seen = last
        .strip_prefix("saw ")
        .and_then(|count| count.parse::<u32>().ok());
    assert!(
        seen.is_some_and(|seen| seen >= 20),
        "{}: {said}",
        container.name()
    );
    Ok(said)
}

#[test]
fn a_containers_root_cannot_trace_or_rob_whoever_enters_it() -> Result<()> {
    // CVE-2016-9962.
    needs!(Root, Runc);
    let scene = Scene::new(BOTH)?;
    for host_pids in [false, true] {
        let name = if host_pids { "hostpid" } else { "own" };
        let container = Runc::new(name)
            .user_namespace()
            .with(|bundle| bundle.pid_namespace = !host_pids)
            .start(&scene.sandbox)?;
        // A program of the host's is nobody's to look into, from the first step to its end.
        let said = under_attack(&scene, &container, "6")?;
        let gained: Vec<&str> = said
            .lines()
            .filter(|line| !line.starts_with("saw") && *line != "ready")
            .collect();
        assert_eq!(gained, Vec::<&str>::new(), "{name}");
    }
    scene.end()
}

#[test]
fn a_helper_of_a_containers_own_is_its_roots_to_trace_and_nothing_before_it_is() -> Result<()> {
    needs!(Root, Runc);
    // A program that opens nothing of its own.
    let busybox = upcall_e2e::skip::find("busybox").context("busybox")?;
    let sleeps = format!("{}\", \"sleep\", \"0.02", busybox.display());
    let scene = Scene::new(&BOTH.replace("@/bin/upcall-probe", &sleeps))?;
    for runc in both_kinds("web") {
        let container = runc
            .root(script("/helper", "cat > /dev/null"))
            .start(&scene.sandbox)?;
        for signal in ["11", "6"] {
            let said = under_attack(&scene, &container, signal)?;
            for line in said.lines().filter_map(|line| line.split_once(", then ")) {
                // It was seized or opened as what it is then: never as what ours are called.
                let (gained, as_what) = line;
                assert!(
                    !["3", "upcall-enter"].contains(&as_what),
                    "{signal}: {said}"
                );
                // The helper's standard input and output, and itself as its interpreter reads it.
                let stolen = gained
                    .strip_prefix("stole ")
                    .and_then(|gained| gained.split(' ').next());
                let own = ["pipe", "/dev/null", "/helper"];
                assert!(
                    stolen.is_none_or(|stolen| own.contains(&stolen)),
                    "{signal}: {said}"
                );
            }
        }
    }
    scene.end()
}

/// How long a crash of this container takes to be handled.
fn handled(scene: &Scene, container: &Container) -> Result<Duration> {
    let start = Instant::now();
    let (record, _) = scene.dump(&CoreDump::of(container.init())?)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    Ok(start.elapsed())
}

/// A container whose helper is at the mercy of a silent file server at /fuse, and one beside it that has nothing to do
/// with it; `*-bad` runs `command`.
fn beside_a_silent_server(
    command: &str,
    silent: Silent,
) -> Result<(Scene, Container, Container, Fuse)> {
    let both = "match.container = { runtime = \"runc\" }";
    let bad = "match.container = { runtime = \"runc\", name = \"*-bad\" }";
    let rules = run_rule(command, "").replace(both, bad) + &run_rule(r#""/probe""#, "");
    let scene = Scene::new(&rules)?;
    let good = Runc::new("good").user_namespace().start(&scene.sandbox)?;
    let server = Rc::new(RefCell::new(None));
    let mounted = Rc::clone(&server);
    let bad = Runc::new("bad")
        .user_namespace()
        .root(move |root| {
            let at = root.inside("/fuse");
            std::fs::create_dir(&at)?;
            mounted.replace(Some(Fuse::mount(&at, silent)?));
            Ok(())
        })
        .start(&scene.sandbox)?;
    let server = server.take().context("a server")?;
    Ok((scene, good, bad, server))
}

#[test]
fn a_helper_on_a_file_server_that_does_not_answer_holds_up_nobody_else() -> Result<()> {
    needs!(Root, Runc, Fuse);
    let (scene, good, bad, server) = beside_a_silent_server(r#""/fuse/helper""#, Silent::Lookups)?;
    let dump = CoreDump::of(bad.init())?;
    let started = dump.start(&scene.sandbox)?;
    pause(Duration::from_millis(200));
    for _ in 0..10 {
        let took = handled(&scene, &good)?;
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    started.wait()?;
    let record = scene.daemon.records().of(bad.init())?;
    assert_eq!(
        record.reason.as_deref(),
        Some("helper_timeout"),
        "{record:?}"
    );
    assert_eq!(action(&record, "run")?.stage.as_deref(), Some("deadline"));
    // The shim does not wait as long: it has kept the core, and nobody else reads it.
    let mut spool = std::fs::read_dir(scene.sandbox.spool())?
        .flatten()
        .map(|entry| entry.path());
    let core = spool.find(|path| path.extension() == Some("core".as_ref()));
    assert_eq!(
        std::fs::read(core.context("a core in the spool")?)?,
        dump.core()
    );
    assert!(scene.kept(&record).is_err());
    // The server dies: whoever waited for it goes.
    drop(server);
    drop((good, bad));
    scene.end()
}

#[test]
fn a_helper_that_reads_into_memory_that_never_comes_holds_up_nobody_else() -> Result<()> {
    // Who sits in read(2) of a pipe holds it for as long as his page fault takes.
    needs!(Root, Runc, Fuse);
    let command = r#""/hostile", "swallow", "/fuse/file""#;
    let (scene, good, bad, server) = beside_a_silent_server(command, Silent::Reads)?;
    let started = CoreDump::of(bad.init())?
        .bytes(4 << 20)
        .start(&scene.sandbox)?;
    pause(Duration::from_millis(200));
    for _ in 0..10 {
        let took = handled(&scene, &good)?;
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    let of_bad = |record: &Record| record.process.pid == Some(bad.init());
    let record = scene
        .daemon
        .records()
        .wait_for(Duration::from_secs(20), "its dump", of_bad)?;
    assert_eq!(
        record.reason.as_deref(),
        Some("helper_timeout"),
        "{record:?}"
    );
    let cgroup = cgroup::of(&bad.leader()?)?;
    drop(server);
    started.wait()?;
    drop((good, bad));
    // Its keeper could not be waited for any more, so nobody was left to remove the helper's empty cgroup.
    until(Duration::from_secs(3), "its cgroup to be empty", || {
        std::fs::remove_dir(cgroup.join(format!("upcall-{}", record.id))).ok()
    })?;
    drop(std::fs::remove_dir(&cgroup));
    scene.end()
}

#[test]
fn a_container_that_ends_at_any_moment_leaves_nothing_of_ours() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/helper""#, "store = { ignore_limit = true }"))?;
    let descriptors =
        || std::fs::read_dir(format!("/proc/{}/fd", scene.daemon.pid())).map(Iterator::count);
    let mut before = None;
    for round in 0..24_u64 {
        let container = Runc::new(&format!("web{round}"))
            .user_namespace()
            .root(script("/helper", "cat > /dev/null; sleep 100"))
            .start(&scene.sandbox)?;
        let started = CoreDump::of(container.init())?
            .bytes(10_000)
            .start(&scene.sandbox)?;
        pause(Duration::from_micros(round * 400));
        container.kill()?;
        let start = Instant::now();
        started.wait()?;
        scene.daemon.records().of(container.init())?;
        until(Duration::from_secs(3), "its end", || {
            (!runs(container.init())).then_some(())
        })?;
        assert!(start.elapsed() < Duration::from_secs(3), "round {round}");
        drop(container);
        // Whatever is set up once is there after the first.
        if before.is_none() {
            before = Some(descriptors()?);
        }
    }
    let before = before.unwrap_or(0);
    until(
        Duration::from_secs(3),
        "its descriptors to be closed",
        || (descriptors().ok()? <= before).then_some(()),
    )?;
    scene.end()
}

#[test]
fn a_core_that_is_slow_in_coming_is_waited_for_and_one_that_never_comes_is_not() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&run_rule(r#""/bin/wc", "-c""#, ""))?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = CoreDump::of(container.init())?.bytes(4 * 65_536);
    let started = dump
        .clone()
        .slowly(Duration::from_millis(400))
        .start(&scene.sandbox)?;
    assert!(started.wait()?.taken);
    let record = scene.daemon.records().of(container.init())?;
    assert_eq!(
        (record.outcome, action(&record, "run")?.output.as_deref()),
        (Outcome::Done, Some(r"262144\x0a"))
    );
    let other = container.victim(&[])?;
    let started = CoreDump::of(other)?
        .slowly(Duration::from_secs(3))
        .start(&scene.sandbox)?;
    let record = scene.daemon.records().of(other)?;
    assert_eq!(
        record.reason.as_deref(),
        Some("helper_timeout"),
        "{record:?}"
    );
    started.wait()?;
    scene.end()
}

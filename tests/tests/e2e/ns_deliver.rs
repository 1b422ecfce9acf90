//! `deliver`: a core for whoever listens in the container; and who listens where nobody should.

use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use upcall_e2e::command::{at_most, until};
use upcall_e2e::container::Container;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::records::action;
use upcall_e2e::runc::Runc;
use upcall_e2e::sandbox::Sandbox;
use upcalld::store::record::{Outcome, Record};

use crate::scene::Scene;

pub(crate) const SOCKET: &str = "/run/x/core";

fn rule(protocol: &str, more: &str) -> String {
    format!(
        "[[rule]]\nupcall = \"core\"\nmatch.container = {{ runtime = \"runc\" }}\n\
         deliver = {{ protocol = \"{protocol}\", socket = \"{SOCKET}\", timeout = \"1s\" }}\n{more}\n"
    )
}

/// A container with a directory for the socket, which is its root's.
pub(crate) fn container(sandbox: &Sandbox) -> Result<Container> {
    let make = |root: &upcall_e2e::rootfs::Rootfs| {
        for directory in ["/run", "/run/x"] {
            let directory = root.inside(directory);
            std::fs::create_dir(&directory)?;
            chown(&directory, Some(300_000), Some(300_000))?;
        }
        Ok(())
    };
    Runc::new("web").user_namespace().root(make).start(sandbox)
}

/// A receiver in the container, as this user; waits until it listens.
pub(crate) fn receiver(container: &Container, uid: u32, at: &str, how: &str) -> Result<()> {
    let words = [
        "/receiver".to_owned(),
        format!("--at={at}"),
        "--out=/tmp/core".to_owned(),
        format!("--how={how}"),
    ];
    container.spawn_as(uid, &words.each_ref().map(String::as_str))?;
    let here = container.root().inside("/tmp/core.here");
    until(Duration::from_secs(5), "a receiver", || {
        here.exists().then_some(())
    })
}

pub(crate) fn received(container: &Container) -> Result<(Vec<u8>, String)> {
    let core = container.root().inside("/tmp/core");
    let core = until(Duration::from_secs(5), "the core", || {
        std::fs::read(&core).ok()
    })?;
    let fields = std::fs::read(container.root().inside("/tmp/core.fields"))?;
    Ok((core, String::from_utf8_lossy(&fields).into_owned()))
}

fn taken(protocol: &str, wanted: &[&str]) -> Result<()> {
    // A busy machine is given time.
    let rule = rule(protocol, "").replace("\"1s\"", "\"10s\"");
    let scene = Scene::new(&rule)?;
    let container = container(&scene.sandbox)?;
    receiver(&container, 0, SOCKET, "take")?;
    // More than all pipes on the way hold.
    let dump = CoreDump::of(container.init())?.bytes(7 << 20);
    let (record, ended) = scene.dump(&dump)?;
    assert_eq!((ended.code, ended.taken), (0, true));
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    let (core, fields) = received(&container)?;
    assert!(core == dump.core());
    for field in wanted {
        assert!(
            fields.lines().any(|line| line == *field),
            "{field}: {fields}"
        );
    }
    // Numbers and names of the host's are nobody's business in there.
    let host = container.init().to_string();
    let values: Vec<&str> = fields.split(['=', '\n']).collect();
    for secret in [host.as_str(), "300000", &record.node] {
        assert!(!values.contains(&secret), "{secret} in {fields}");
    }
    assert!(!fields.contains("cgroup"), "{fields}");
    let deliver = action(&record, "deliver")?;
    assert_eq!((deliver.uid_inside, deliver.uid), (Some(0), Some(300_000)));
    assert_eq!(deliver.fed_bytes, Some(7 << 20));
    drop(container);
    scene.end()
}

#[test]
fn a_receiver_of_our_protocol_gets_core_and_facts() -> Result<()> {
    needs!(Root, Runc);
    taken(
        "upcalld",
        &[
            "version=1",
            "kind=core",
            "pid=1",
            "uid=0",
            "signal=11",
            "comm=init",
        ],
    )
}

#[test]
fn a_receiver_of_systemds_protocol_gets_core_and_facts() -> Result<()> {
    needs!(Root, Runc);
    taken(
        "systemd",
        &[
            "COREDUMP_PID=1",
            "COREDUMP_UID=0",
            "COREDUMP_GID=0",
            "COREDUMP_SIGNAL=11",
            "COREDUMP_COMM=init",
            "COREDUMP_RLIMIT=0",
        ],
    )
}

/// A core that may not be delivered is kept on the host instead: the reason and the error.
fn refused(make: impl FnOnce(&Container, &Path) -> Result<()>) -> Result<(String, String)> {
    let scene = Scene::new(&rule("upcalld", ""))?;
    let container = container(&scene.sandbox)?;
    make(&container, &container.root().inside("/run/x"))?;
    let dump = CoreDump::of(container.init())?;
    let start = Instant::now();
    let (record, _) = scene.dump(&dump)?;
    assert!(start.elapsed() < at_most(Duration::from_secs(4)));
    assert_eq!(record.outcome, Outcome::Partial, "{record:?}");
    let deliver = action(&record, "deliver")?;
    assert_eq!(deliver.stage.as_deref(), Some("place"), "{record:?}");
    assert_eq!(scene.kept(&record)?, dump.core());
    assert!(!container.root().inside("/tmp/core.fields").exists());
    let (reason, errno) = (record.reason.clone(), deliver.errno.clone());
    drop(container);
    scene.end()?;
    Ok((reason.unwrap_or_default(), errno.unwrap_or_default()))
}

fn is(found: &(String, String), reason: &str, errno: &str) {
    assert_eq!((found.0.as_str(), found.1.as_str()), (reason, errno));
}

#[test]
fn where_nobody_listens_the_core_is_kept() -> Result<()> {
    needs!(Root, Runc);
    is(&refused(|_, _| Ok(()))?, "socket_missing", "ENOENT");
    let left_over = |container: &Container, directory: &Path| {
        receiver(container, 0, "/run/x/other", "take")?;
        container.exec(&["/bin/sh", "-c", "kill -9 $(pidof receiver)"])?;
        Ok(std::fs::rename(
            directory.join("other"),
            directory.join("core"),
        )?)
    };
    is(&refused(left_over)?, "socket_missing", "ECONNREFUSED");
    Ok(())
}

#[test]
fn what_is_no_socket_of_roots_is_not_connected_to() -> Result<()> {
    needs!(Root, Runc);
    let link = |container: &Container, directory: &Path| {
        receiver(container, 0, "/run/x/other", "take")?;
        Ok(symlink("other", directory.join("core"))?)
    };
    is(&refused(link)?, "socket_refused", "ELOOP");
    let link_above = |container: &Container, directory: &Path| {
        receiver(container, 0, SOCKET, "take")?;
        std::fs::rename(directory, directory.with_file_name("y"))?;
        Ok(symlink("y", directory)?)
    };
    is(&refused(link_above)?, "socket_refused", "ELOOP");
    let file = |_: &Container, directory: &Path| Ok(std::fs::write(directory.join("core"), "")?);
    is(&refused(file)?, "socket_refused", "ENOTSOCK");
    Ok(())
}

#[test]
fn another_users_socket_is_not_connected_to() -> Result<()> {
    needs!(Root, Runc);
    // He has the directory.
    let his_directory = |container: &Container, directory: &Path| {
        chown(directory, Some(300_000 + 1000), None)?;
        receiver(container, 1000, SOCKET, "take")
    };
    is(&refused(his_directory)?, "socket_refused", "EPERM");
    // Everybody may write there, as to /tmp.
    let open_directory = |container: &Container, directory: &Path| {
        std::fs::set_permissions(directory, PermissionsExt::from_mode(0o1777))?;
        receiver(container, 0, SOCKET, "take")
    };
    is(&refused(open_directory)?, "socket_refused", "EPERM");
    // Root's directory, and a socket of his that root put there.
    let his_socket = |container: &Container, directory: &Path| {
        receiver(container, 1000, "/tmp/his", "take")?;
        let tmp = directory.join("../../tmp/his");
        Ok(std::fs::rename(tmp, directory.join("core"))?)
    };
    is(&refused(his_socket)?, "socket_refused", "EPERM");
    // The socket's file is root's, and he is the one who listens.
    let his_listener = |container: &Container, directory: &Path| {
        receiver(container, 1000, "/tmp/his", "take")?;
        let socket = directory.join("core");
        std::fs::rename(directory.join("../../tmp/his"), &socket)?;
        Ok(chown(&socket, Some(300_000), None)?)
    };
    is(&refused(his_listener)?, "socket_refused", "EPERM");
    Ok(())
}

#[test]
fn a_listener_of_the_hosts_is_not_connected_to() -> Result<()> {
    needs!(Root, Runc);
    let mut hosts = None;
    let ours = |_: &Container, directory: &Path| {
        let kind = SockType::SeqPacket;
        let fd = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
        bind(fd.as_raw_fd(), &UnixAddr::new(&directory.join("core"))?)?;
        listen(&fd, Backlog::new(1)?)?;
        chown(directory.join("core"), Some(300_000), None)?;
        hosts = Some(fd);
        Ok(())
    };
    let found = refused(ours)?;
    assert_eq!(found.0, "socket_refused");
    // The host's root does not exist in there, and nor does his process.
    assert!(["EPERM", "EXDEV"].contains(&found.1.as_str()), "{found:?}");
    Ok(())
}

/// A receiver that connects and then is no good: the record, and how long it took.
fn no_good(how: &str, more: &str, bytes: usize) -> Result<(Record, Duration, Vec<u8>)> {
    let scene = Scene::new(&rule("upcalld", more))?;
    let container = container(&scene.sandbox)?;
    receiver(&container, 0, SOCKET, how)?;
    let dump = CoreDump::of(container.init())?.bytes(bytes);
    let start = Instant::now();
    let (record, _) = scene.dump(&dump)?;
    let took = start.elapsed();
    let kept = scene.kept(&record).unwrap_or_default();
    assert!(kept.is_empty() || kept == dump.core());
    drop(container);
    scene.end()?;
    Ok((record, took, kept))
}

#[test]
fn a_receiver_that_never_reads_is_not_waited_for() -> Result<()> {
    needs!(Root, Runc);
    let (record, took, _) = no_good("never", "", 4 << 20)?;
    assert_eq!(
        record.reason.as_deref(),
        Some("helper_timeout"),
        "{record:?}"
    );
    assert!(took < at_most(Duration::from_secs(4)), "{took:?}");
    // A copy beside it is whole.
    let (record, _, kept) = no_good("never", "store = { ignore_limit = true }", 4 << 20)?;
    assert_eq!(record.outcome, Outcome::Partial, "{record:?}");
    assert_eq!(kept.len(), 4 << 20);
    Ok(())
}

#[test]
fn a_receiver_that_takes_crumbs_is_not_waited_for() -> Result<()> {
    needs!(Root, Runc);
    let (record, took, _) = no_good("crumbs", "", 4 << 20)?;
    assert_eq!(
        record.reason.as_deref(),
        Some("helper_timeout"),
        "{record:?}"
    );
    assert!(took < at_most(Duration::from_secs(6)), "{took:?}");
    Ok(())
}

#[test]
fn a_receiver_that_does_not_want_it_is_recorded_with_its_words() -> Result<()> {
    needs!(Root, Runc);
    let (record, _, _) = no_good("refuse", "", 100_000)?;
    assert_eq!(
        record.reason.as_deref(),
        Some("socket_refused"),
        "{record:?}"
    );
    let deliver = action(&record, "deliver")?;
    assert_eq!(deliver.output.as_deref(), Some("refused: too much of it"));
    let (record, _, _) = no_good("close", "", 100_000)?;
    assert_eq!(
        record.reason.as_deref(),
        Some("socket_refused"),
        "{record:?}"
    );
    Ok(())
}

#[test]
fn a_container_without_a_user_namespace_wants_permission() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&rule("upcalld", ""))?;
    let container = Runc::new("web").start(&scene.sandbox)?;
    let (record, _) = scene.dump(&CoreDump::of(container.init())?)?;
    assert_eq!(record.reason.as_deref(), Some("untrusted_container"));
    drop(container);
    scene.end()
}

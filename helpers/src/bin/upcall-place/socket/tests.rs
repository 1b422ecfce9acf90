//! What lies at a socket's path, and whom we believe.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use nix::sys::socket::{Backlog, bind, listen};

use super::*;

/// A directory of our own that nobody else may write to.
fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("upcall-socket-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

fn listening(path: &Path, kind: SockType) -> OwnedFd {
    let fd = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    listen(&fd, Backlog::new(1).unwrap()).unwrap();
    fd
}

/// One at a time: where a process is, is the same for all its threads.
fn opened(path: &Path) -> Result<OwnedFd, Errno> {
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = TURN.lock();
    let connected = open(path.as_os_str().as_bytes(), Trusted::ours())?;
    assert_eq!(connected.listener, nix::unistd::getpid().as_raw());
    Ok(connected.socket)
}

#[test]
fn a_socket_of_ours_is_connected_to() {
    let directory = directory("good");
    let path = directory.join("x");
    let socket = listening(&path, SockType::SeqPacket);
    opened(&path).unwrap();
    drop(socket);
    assert_eq!(opened(&path).unwrap_err(), Errno::ECONNREFUSED);
    assert_eq!(opened(&directory.join("none")).unwrap_err(), Errno::ENOENT);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn what_is_no_socket_of_the_kind_is_not_touched() {
    let directory = directory("kinds");
    let path = |name: &str| directory.join(name);
    std::fs::write(path("file"), "").unwrap();
    nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let real = listening(&path("real"), SockType::SeqPacket);
    let stream = listening(&path("stream"), SockType::Stream);
    symlink(path("real"), path("link")).unwrap();
    symlink(&directory, path("way")).unwrap();
    assert_eq!(opened(&path("file")).unwrap_err(), Errno::ENOTSOCK);
    assert_eq!(opened(&path("fifo")).unwrap_err(), Errno::ENOTSOCK);
    assert_eq!(opened(&directory).unwrap_err(), Errno::EPERM, "in /tmp");
    assert_eq!(opened(&path("link")).unwrap_err(), Errno::ELOOP);
    assert_eq!(opened(&path("way/real")).unwrap_err(), Errno::ELOOP);
    assert_eq!(opened(&path("stream")).unwrap_err(), Errno::EPROTOTYPE);
    assert_eq!(opened(Path::new("real")).unwrap_err(), Errno::EINVAL);
    drop((real, stream));
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_socket_that_others_could_have_put_there_is_refused() {
    let directory = directory("others");
    let path = directory.join("x");
    let socket = listening(&path, SockType::SeqPacket);
    for mode in [0o775, 0o757, 0o1777] {
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(mode)).unwrap();
        assert_eq!(opened(&path).unwrap_err(), Errno::EPERM, "{mode:o}");
    }
    std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o755)).unwrap();
    if Uid::effective().is_root() {
        std::os::unix::fs::chown(&path, Some(1000), None).unwrap();
        assert_eq!(opened(&path).unwrap_err(), Errno::EPERM);
        std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        std::os::unix::fs::chown(&directory, Some(1000), None).unwrap();
        assert_eq!(opened(&path).unwrap_err(), Errno::EPERM);
    }
    drop(socket);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn root_and_we_are_believed_and_nobody_is_not() {
    let as_user = |uid| Trusted {
        own: Uid::from_raw(uid),
    };
    assert!(as_user(7).has(0) && as_user(7).has(7) && !as_user(7).has(8));
    // An id that is not mapped here looks like this one.
    assert!(!as_user(NOBODY).has(NOBODY) && as_user(NOBODY).has(0));
}

#[test]
fn a_full_queue_is_not_waited_for_without_end() {
    let directory = directory("full");
    let path = directory.join("x");
    let socket = listening(&path, SockType::SeqPacket);
    let mut connected = Vec::new();
    let refused = loop {
        match opened(&path) {
            Ok(fd) => connected.push(fd),
            Err(errno) => break errno,
        }
        assert!(connected.len() < 10);
    };
    assert_eq!(refused, Errno::EAGAIN);
    drop(socket);
    std::fs::remove_dir_all(directory).unwrap();
}

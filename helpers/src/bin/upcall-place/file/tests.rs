//! Files that are made, refused and cut.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use super::*;

fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("upcall-place-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn a_file_is_the_users_alone_and_replaces_a_plain_one() {
    let directory = directory("replace");
    let path = directory.join("core");
    std::fs::write(&path, "old").unwrap();
    let hard = directory.join("other-name");
    std::fs::hard_link(&path, &hard).unwrap();
    let file = create(&path).unwrap().file;
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
    assert_eq!(path.metadata().unwrap().len(), 0);
    assert_eq!(
        std::fs::read(&hard).unwrap(),
        b"old",
        "its other name keeps it"
    );
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn what_is_no_plain_file_stays_and_is_never_followed() {
    let directory = directory("refuse");
    let target = directory.join("target");
    std::fs::write(&target, "precious").unwrap();
    symlink(&target, directory.join("link")).unwrap();
    symlink(&directory, directory.join("way")).unwrap();
    std::fs::create_dir(directory.join("dir")).unwrap();
    nix::unistd::mkfifo(&directory.join("fifo"), Mode::S_IRWXU).unwrap();
    let refused = |name: &str| create(&directory.join(name)).map(drop).unwrap_err();
    assert_eq!(refused("link"), Errno::EEXIST);
    assert_eq!(refused("way/core"), Errno::ELOOP);
    assert_eq!(refused("dir"), Errno::EEXIST);
    assert_eq!(refused("fifo"), Errno::EEXIST);
    assert_eq!(refused("none/core"), Errno::ENOENT);
    assert_eq!(refused("target/core"), Errno::ENOTDIR);
    assert_eq!(std::fs::read(&target).unwrap(), b"precious");
    assert!(!directory.join("core").exists());
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_directory_that_gives_files_another_mode_is_refused() {
    // The kernel's own rule: whoever else could read the file must not get a core.
    let directory = directory("mode");
    let path = directory.join("core");
    let file = create(&path).unwrap().file;
    file.set_permissions(std::fs::Permissions::from_mode(0o640))
        .unwrap();
    assert_eq!(check(&file), Err(Errno::EPERM));
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn what_is_removed_is_our_own_and_nothing_that_has_taken_its_name() {
    let directory = directory("remove");
    let path = directory.join("core");
    let made = create(&path).unwrap();
    made.remove();
    assert!(!path.exists());
    made.remove();
    let made = create(&path).unwrap();
    std::fs::rename(&path, directory.join("elsewhere")).unwrap();
    std::fs::write(&path, "another's").unwrap();
    made.remove();
    assert_eq!(std::fs::read(&path).unwrap(), b"another's");
    assert!(directory.join("elsewhere").exists());
    std::fs::remove_dir_all(directory).unwrap();
}

fn copied(core: &[u8], max: u64, name: &str) -> (Written, Vec<u8>, u64) {
    let directory = directory(name);
    let path = directory.join("core");
    let file = create(&path).unwrap().file;
    let written = copy(&mut &*core, &file, max);
    file.set_len(written.length).unwrap();
    let blocks = path.metadata().unwrap().blocks();
    let read = std::fs::read(&path).unwrap();
    std::fs::remove_dir_all(directory).unwrap();
    (written, read, blocks)
}

#[test]
fn a_core_is_written_whole_with_holes_where_nothing_is() {
    let mut core = vec![0; 9 * BUFFER + 123];
    core[..10].fill(1);
    core[5 * BUFFER + 5000] = 7;
    let (written, read, blocks) = copied(&core, u64::MAX, "holes");
    assert_eq!((written.length, written.cut), (core.len() as u64, false));
    assert!(read == core);
    assert!(blocks * 512 <= 64 * 1024, "{blocks} blocks");
}

#[test]
fn a_core_ends_at_its_limit() {
    let core = vec![5; 3 * BUFFER];
    for max in [4096, 5000, BUFFER as u64, 2 * BUFFER as u64 + 1] {
        let (written, read, _) = copied(&core, max, "limit");
        assert_eq!((written.length, written.cut), (max, true));
        assert_eq!(read.len() as u64, max);
    }
    let (written, read, _) = copied(&core, core.len() as u64, "exact");
    assert!(!written.cut && read == core);
}

use super::*;
use std::os::unix::fs::PermissionsExt;

struct Host {
    directory: tempfile::TempDir,
    hook: KeyHook,
}

/// A directory in the place of /sbin with a distribution's program; `None` without root, whose the files must be.
fn host() -> Option<Host> {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("SKIPPED: the files must be root's");
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let program = |name: &str, text: &str| {
        std::fs::write(path.join(name), text).unwrap();
        std::fs::set_permissions(path.join(name), PermissionsExt::from_mode(0o755)).unwrap();
    };
    std::fs::create_dir(path.join("sbin")).unwrap();
    std::fs::create_dir(path.join("libexec")).unwrap();
    program("libexec/request-key", "shim");
    program("sbin/request-key", "theirs");
    let hook = KeyHook::host(
        &path.join("libexec"),
        &path.join("hooks"),
        Path::new("/run/x"),
    );
    let hook = hook.below(&path.join("sbin"));
    Some(Host { directory, hook })
}

impl Host {
    fn names(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.directory.path().join("sbin")).unwrap();
        let mut names: Vec<String> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn program(&self) -> String {
        std::fs::read_to_string(self.hook.place()).unwrap()
    }
}

#[test]
fn ours_goes_in_twice_and_theirs_comes_back() {
    let Some(host) = host() else { return };
    let hook = &host.hook;
    assert_eq!(hook.standing(), Standing::Foreign);
    hook.install(&hook.lock().unwrap()).unwrap();
    assert_eq!(hook.standing(), Standing::Ours);
    assert_eq!(std::fs::read_to_string(hook.was()).unwrap(), "theirs");
    assert_eq!(host.names(), [NAME, WAS]);
    // What an admin has set since is kept.
    let text = std::fs::read_to_string(hook.path()).unwrap();
    std::fs::write(hook.path(), text.replace("= pass", "= deny")).unwrap();
    let before = hook.install(&hook.lock().unwrap()).unwrap();
    assert!(
        std::fs::read_to_string(hook.path())
            .unwrap()
            .contains("= deny")
    );
    hook.undo(&before, &hook.lock().unwrap()).unwrap();
    assert_eq!(hook.standing(), Standing::Ours, "it was before");
    assert_eq!(hook.uninstall().unwrap(), Standing::Ours);
    assert_eq!(
        (host.program().as_str(), host.names()),
        ("theirs", vec![NAME.to_owned()])
    );
    assert!(!hook.path().exists());
    assert_eq!(hook.uninstall().unwrap(), Standing::Foreign);
    assert_eq!(host.program(), "theirs");
}

#[test]
fn what_failed_is_undone_and_where_was_nothing_nothing_stays() {
    let Some(host) = host() else { return };
    let before = host.hook.install(&host.hook.lock().unwrap()).unwrap();
    host.hook.undo(&before, &host.hook.lock().unwrap()).unwrap();
    assert_eq!(
        (host.program().as_str(), host.names()),
        ("theirs", vec![NAME.to_owned()])
    );
    assert!(!host.hook.path().exists());
    std::fs::remove_file(host.hook.place()).unwrap();
    assert_eq!(host.hook.standing(), Standing::Nothing);
    host.hook.install(&host.hook.lock().unwrap()).unwrap();
    assert_eq!(host.hook.uninstall().unwrap(), Standing::Ours);
    assert!(host.names().is_empty());
}

#[test]
fn what_a_package_took_back_is_seen_and_is_what_comes_back() {
    let Some(host) = host() else { return };
    host.hook.install(&host.hook.lock().unwrap()).unwrap();
    // As dpkg does it, where it was not told.
    let new = host.directory.path().join("sbin/new");
    std::fs::write(&new, "newer").unwrap();
    std::fs::rename(&new, host.hook.place()).unwrap();
    assert_eq!(host.hook.standing(), Standing::Lost);
    host.hook.install(&host.hook.lock().unwrap()).unwrap();
    assert_eq!(std::fs::read_to_string(host.hook.was()).unwrap(), "newer");
    host.hook.uninstall().unwrap();
    assert_eq!(
        (host.program().as_str(), host.names()),
        ("newer", vec![NAME.to_owned()])
    );
}

#[test]
fn another_upcallds_and_a_shim_of_anybodys_are_left() {
    let Some(host) = host() else { return };
    let mut other = host.hook.clone();
    other.shim.hooks = host.directory.path().join("other");
    other.install(&other.lock().unwrap()).unwrap();
    assert!(matches!(
        host.hook.install(&host.hook.lock().unwrap()),
        Err(KeyHookError::Another(_))
    ));
    assert_eq!(host.hook.uninstall().unwrap(), Standing::Another);
    assert_eq!(other.standing(), Standing::Ours);
    other.uninstall().unwrap();
    let shim = host.directory.path().join("libexec/request-key");
    std::fs::set_permissions(shim, PermissionsExt::from_mode(0o777)).unwrap();
    assert!(matches!(
        host.hook.install(&host.hook.lock().unwrap()),
        Err(KeyHookError::Shim(_))
    ));
    assert_eq!(host.program(), "theirs");
}

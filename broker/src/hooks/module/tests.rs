use super::*;
use std::os::unix::fs::PermissionsExt;

struct Host {
    directory: tempfile::TempDir,
    hook: ModuleHook,
}

/// Files in the place of the kernel's; `None` without root, whose the files must be.
fn host() -> Option<Host> {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("SKIPPED: the files must be root's");
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    std::fs::create_dir(path.join("libexec")).unwrap();
    let program = path.join("libexec/modprobe");
    std::fs::write(&program, "shim").unwrap();
    std::fs::set_permissions(program, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(path.join("modprobe"), "/sbin/modprobe\n").unwrap();
    let hook = ModuleHook::host(
        &path.join("libexec"),
        &path.join("hooks"),
        Path::new("/run/x"),
    );
    let hook = hook.below(path);
    Some(Host { directory, hook })
}

impl Host {
    fn install(&self) -> Result<Before, ModuleHookError> {
        self.hook.install(&self.hook.lock().unwrap())
    }

    fn set(&self, value: &str) {
        std::fs::write(&self.hook.setting, format!("{value}\n")).unwrap();
    }

    fn files(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.directory.path().join("hooks")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.hook.path()).unwrap()
    }
}

#[test]
fn ours_goes_in_twice_and_what_was_there_comes_back() {
    let Some(host) = host() else { return };
    let hook = &host.hook;
    let usual = || "/sbin/modprobe".to_owned();
    assert_eq!(hook.standing().unwrap(), Standing::Foreign(usual()));
    assert!(!hook.is_wanted());
    host.install().unwrap();
    assert_eq!(hook.standing().unwrap(), Standing::Ours);
    let script = std::fs::read_to_string(hook.ours()).unwrap();
    assert!(
        script.ends_with(&format!(
            "exec '{0}/libexec/modprobe' '--hooks={0}/hooks' \"$@\"\n",
            host.directory.path().display()
        )),
        "{script}"
    );
    // What an admin has set since is kept.
    let text = host.text().replace("= pass", "= deny");
    std::fs::write(
        hook.path(),
        text.replace("program = /sbin", "program = /opt"),
    )
    .unwrap();
    let before = host.install().unwrap();
    assert!(host.text().contains("without_daemon = deny"));
    assert_eq!(hook.program(), Path::new("/opt/modprobe"));
    assert_eq!(hook.previous(), Some(usual()));
    hook.undo(&before, &hook.lock().unwrap()).unwrap();
    assert_eq!(hook.standing().unwrap(), Standing::Ours, "it was before");
    assert_eq!(
        hook.uninstall(false).unwrap(),
        Uninstalled::Restored(usual())
    );
    assert_eq!(hook.standing().unwrap(), Standing::Foreign(usual()));
    assert!(host.files().is_empty());
    assert_eq!(hook.uninstall(false).unwrap(), Uninstalled::NotInstalled);
}

#[test]
fn what_is_out_for_now_is_wanted_again() {
    let Some(host) = host() else { return };
    let hook = &host.hook;
    host.set("/opt/own-modprobe");
    host.install().unwrap();
    std::fs::write(hook.path(), host.text().replace("= pass", "= deny")).unwrap();
    let restored = Uninstalled::Restored("/opt/own-modprobe".to_owned());
    assert_eq!(hook.uninstall(true).unwrap(), restored);
    assert!(!hook.path().exists() && hook.is_wanted());
    // After a boot; the first try fails its self-test, and is none.
    host.set("/sbin/modprobe");
    let before = host.install().unwrap();
    hook.undo(&before, &hook.lock().unwrap()).unwrap();
    assert!(!hook.path().exists() && hook.is_wanted());
    assert_eq!(hook.value().unwrap(), "/sbin/modprobe");
    host.install().unwrap();
    assert!(host.text().contains("without_daemon = deny"));
    assert_eq!(hook.previous().as_deref(), Some("/sbin/modprobe"));
    assert_eq!(host.files(), ["modprobe", "module"]);
    hook.uninstall(true).unwrap();
    hook.uninstall(false).unwrap();
    assert!(!hook.is_wanted());
}

#[test]
fn what_cannot_be_put_in_changes_nothing() {
    let Some(host) = host() else { return };
    for value in ["", "modprobe"] {
        host.set(value);
        assert!(matches!(host.install(), Err(ModuleHookError::Disabled(_))));
        assert_eq!(host.hook.value().unwrap(), value);
    }
    let mut other = host.hook.clone();
    other.shim.hooks = host.directory.path().join("other");
    host.set("/sbin/modprobe");
    other.install(&other.lock().unwrap()).unwrap();
    assert!(matches!(host.install(), Err(ModuleHookError::Another(_))));
    assert_eq!(
        host.hook.uninstall(false).unwrap(),
        Uninstalled::NotInstalled
    );
    assert_eq!(other.standing().unwrap(), Standing::Ours);
    other.uninstall(false).unwrap();
    let shim = host.directory.path().join("libexec/modprobe");
    std::fs::set_permissions(shim, PermissionsExt::from_mode(0o777)).unwrap();
    assert!(matches!(host.install(), Err(ModuleHookError::Shim(_))));
    std::fs::remove_file(&host.hook.setting).unwrap();
    assert_eq!(host.hook.standing().unwrap(), Standing::NoModules);
    assert_eq!(
        host.hook.uninstall(false).unwrap(),
        Uninstalled::NotInstalled
    );
}

#[test]
fn what_somebody_else_has_written_since_is_left() {
    let Some(host) = host() else { return };
    host.install().unwrap();
    host.set("/opt/other");
    assert!(host.hook.take_back().unwrap());
    assert_eq!(host.hook.standing().unwrap(), Standing::Ours);
    let lock = host.hook.lock().unwrap();
    assert!(!host.hook.take_back().unwrap(), "somebody is at work there");
    drop(lock);
    host.set("");
    assert!(!host.hook.take_back().unwrap(), "nothing is to be loaded");
    assert_eq!(host.hook.value().unwrap(), "");
    host.set("/opt/other");
    let foreign = Uninstalled::Foreign("/opt/other".to_owned());
    assert_eq!(host.hook.uninstall(false).unwrap(), foreign);
    assert_eq!(host.hook.value().unwrap(), "/opt/other");
    assert!(!host.hook.take_back().unwrap());
}

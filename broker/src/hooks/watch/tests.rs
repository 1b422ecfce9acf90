use super::super::pattern::Pattern;
use super::*;

struct Host {
    directory: tempfile::TempDir,
    ours: String,
}

impl Host {
    fn new() -> Option<Self> {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("SKIPPED: the files must be root's");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let hooks = directory.path().to_owned();
        let ours = Pattern::ours(std::path::Path::new("/x/core"), &hooks).unwrap();
        let file = CoreHook {
            socket: "/x".into(),
            deadline_ms: 1,
            spool: "/x".into(),
            spool_max: 1,
            keep_free: 1,
            previous: Pattern::parse("core"),
            previous_pipe_limit: 0,
        };
        file.write(&hooks).unwrap();
        let host = Self {
            directory,
            ours: ours.text().to_owned(),
        };
        host.set(&host.ours);
        std::fs::write(hooks.join("core_pipe_limit"), "1024\n").unwrap();
        Some(host)
    }

    fn set(&self, pattern: &str) {
        std::fs::write(self.directory.path().join("core_pattern"), pattern).unwrap();
    }

    fn pattern(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("core_pattern")).unwrap()
    }

    fn watch(&self, retake: bool) -> Watched<Core> {
        let hooks = self.directory.path().to_owned();
        let sysctl = CoreSysctl::below(&hooks);
        Watched::new(
            Core::new(sysctl, hooks),
            retake,
            &broadcast::Sender::new(16),
        )
    }
}

#[test]
fn a_foreign_write_is_told_once_and_so_is_its_end() {
    let Some(host) = Host::new() else { return };
    let watch = host.watch(false);
    let mut changes = watch.changes.subscribe();
    assert_eq!(watch.look(), HookState::Ours);
    host.set("|/bin/other %p");
    let first = watch.look();
    assert!(matches!(&first, HookState::Foreign { pattern, .. } if pattern == "|/bin/other %p"));
    assert_eq!(
        watch.look(),
        first,
        "since the same moment, and not told again"
    );
    host.set(&host.ours);
    assert_eq!(watch.look(), HookState::Ours);
    std::fs::write(host.directory.path().join("core"), "garbage").unwrap();
    assert_eq!(watch.look(), HookState::Ours);
    host.set("core");
    std::fs::remove_file(host.directory.path().join("core")).unwrap();
    assert_eq!(watch.look(), HookState::NotInstalled);
    let told: Vec<_> = std::iter::from_fn(|| changes.try_recv().ok()).collect();
    let states: Vec<_> = told.iter().map(|change| change.state.as_str()).collect();
    assert_eq!(states, ["foreign", "ours", "not_installed"]);
    assert_eq!(told[0].pattern.as_deref(), Some("|/bin/other %p"));
    assert_eq!(watch.seen().foreign_count, 1);
}

#[test]
fn the_module_hook_is_watched_alike() {
    let Some(host) = Host::new() else { return };
    let at = host.directory.path();
    let (libexec, setting) = (at.join("libexec"), at.join("modprobe"));
    std::fs::create_dir(&libexec).unwrap();
    std::fs::write(libexec.join("modprobe"), "").unwrap();
    std::fs::set_permissions(
        libexec.join("modprobe"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    std::fs::write(&setting, "/sbin/modprobe\n").unwrap();
    let hook = ModuleHook::host(&libexec, &at.join("hooks"), at).below(at);
    let changes = broadcast::Sender::new(16);
    let watch = |retake| Watched::new(hook.clone(), retake, &changes);
    let (passive, active) = (watch(false), watch(true));
    assert_eq!(passive.look(), HookState::NotInstalled);
    hook.install(&hook.lock().unwrap()).unwrap();
    assert_eq!(passive.look(), HookState::Ours);
    std::fs::write(&setting, "/bin/other\n").unwrap();
    let foreign = passive.look();
    assert_eq!(foreign.foreign().map(|(what, _)| what), Some("/bin/other"));
    assert_eq!(active.look(), HookState::Ours);
    assert_eq!(passive.look(), HookState::Ours);
    hook.uninstall(false).unwrap();
    assert_eq!(active.look(), HookState::NotInstalled);
}

#[test]
fn another_installations_hook_is_not_ours() {
    let Some(host) = Host::new() else { return };
    let watch = host.watch(false);
    host.set("|/x/core --hooks=/elsewhere %P");
    assert!(matches!(watch.look(), HookState::Foreign { .. }));
}

#[test]
fn ours_is_taken_back_if_so_configured_and_nobody_is_at_work() {
    let Some(host) = Host::new() else { return };
    let watch = host.watch(true);
    watch.look();
    host.set("|/bin/other %p");
    let lock = CoreSysctl::below(host.directory.path()).lock().unwrap();
    assert!(matches!(watch.look(), HookState::Foreign { .. }));
    assert_eq!(host.pattern(), "|/bin/other %p");
    drop(lock);
    assert_eq!(watch.look(), HookState::Ours);
    assert_eq!(host.pattern(), format!("{}\n", host.ours));
    // What was never seen as ours is not put in.
    let watch = host.watch(true);
    host.set("|/bin/other %p");
    assert!(matches!(watch.look(), HookState::Foreign { .. }));
}

/// A directory in the place of /, with a distribution's request-key, and the key hook of it.
fn key_host() -> Option<(tempfile::TempDir, KeyHook)> {
    let directory = Host::new()?.directory;
    let at = directory.path();
    for name in ["sbin/request-key", "libexec/request-key"] {
        let path = at.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "").unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, executable).unwrap();
    }
    let hook = KeyHook::host(&at.join("libexec"), &at.join("hooks"), at);
    let hook = hook.below(&at.join("sbin"));
    Some((directory, hook))
}

/// As an upgrade does it that was not told.
fn upgrade(hook: &KeyHook) {
    let new = hook.place().with_extension("dpkg-new");
    std::fs::write(&new, "newer").unwrap();
    std::fs::rename(&new, hook.place()).unwrap();
}

#[test]
fn the_key_hook_is_watched_and_taken_back_like_the_others() {
    let Some((_directory, hook)) = key_host() else {
        return;
    };
    let changes = broadcast::Sender::new(16);
    let watch = |retake| Watched::new(Key::new(hook.clone()), retake, &changes);
    let (passive, active) = (watch(false), watch(true));
    let place = hook.place().display().to_string();
    let text = |state: &HookState| state.foreign().map(|(what, _)| what.to_owned());
    assert_eq!(passive.look(), HookState::NotInstalled);
    hook.install(&hook.lock().unwrap()).unwrap();
    assert_eq!(passive.look(), HookState::Ours);
    upgrade(&hook);
    let foreign = passive.look();
    assert_eq!(
        text(&foreign),
        Some(format!("{place} is not ours any more"))
    );
    let lock = hook.lock().unwrap();
    assert_ne!(active.look(), HookState::Ours, "somebody is at work there");
    drop(lock);
    assert_eq!(active.look(), HookState::Ours);
    assert_eq!(std::fs::read_to_string(hook.was()).unwrap(), "newer");
    // What cannot be put back is said.
    std::fs::remove_file(hook.place()).unwrap();
    assert_eq!(text(&active.look()), Some(format!("{place} is gone")));
    hook.install(&hook.lock().unwrap()).unwrap();
    std::fs::remove_file(hook.was()).unwrap();
    let was = hook.was().display().to_string();
    assert_eq!(text(&active.look()), Some(format!("{was} is gone")));
    hook.uninstall().unwrap();
    assert_eq!(active.look(), HookState::NotInstalled);
}

#[test]
fn where_nothing_stood_before_nothing_is_missed() {
    let Some((_directory, hook)) = key_host() else {
        return;
    };
    std::fs::remove_file(hook.place()).unwrap();
    hook.install(&hook.lock().unwrap()).unwrap();
    hook.install(&hook.lock().unwrap()).unwrap();
    assert_eq!(hook.wrong(), None);
    // Nor where an admin has written the file, and installed nothing.
    hook.uninstall().unwrap();
    std::fs::write(hook.path(), "deadline_ms = 500\n").unwrap();
    assert_eq!(hook.wrong(), None);
}

#[test]
fn lines_that_somebody_removed_are_written_again_and_an_admins_are_left() {
    let Some((directory, hook)) = key_host() else {
        return;
    };
    std::fs::create_dir_all(directory.path().join("etc/request-key.d")).unwrap();
    // The distribution's own says which line wins; where upcalld has the hook for keys, it is beside it.
    let mut names = ["/sbin/request-key.upcalld-was", "/sbin/request-key"].into_iter();
    if !names.any(|name| std::fs::copy(name, hook.place()).is_ok()) {
        eprintln!("SKIPPED: needs keyutils");
        return;
    }
    let lines = hook.lines();
    let wanted = lines.plan(&["user".to_owned()]).unwrap();
    let lock = hook.lock().unwrap();
    lines.install(&wanted, None, &lock).unwrap();
    drop(lock);
    let changes = broadcast::Sender::new(16);
    let watch = |retake| Watched::new(Key::new(hook.clone()), retake, &changes);
    let (passive, active) = (watch(false), watch(true));
    assert_eq!(
        (passive.look(), active.look()),
        (HookState::Ours, HookState::Ours)
    );
    let text = std::fs::read_to_string(lines.path()).unwrap();
    std::fs::remove_file(lines.path()).unwrap();
    assert!(matches!(passive.look(), HookState::Foreign { .. }));
    assert_eq!(active.look(), HookState::Ours);
    assert_eq!(std::fs::read_to_string(lines.path()).unwrap(), text);
    std::fs::write(lines.path(), "# mine\n").unwrap();
    assert!(matches!(active.look(), HookState::Foreign { .. }));
    assert_eq!(std::fs::read_to_string(lines.path()).unwrap(), "# mine\n");
}

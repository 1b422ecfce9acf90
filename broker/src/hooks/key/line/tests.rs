use super::*;
use std::os::unix::fs::PermissionsExt;

const CONFIG: &str = "create\tdns_resolver\t*\t*\t/sbin/key.dns_resolver %k\n\
                      create\trxrpc\t*\t*\t|/bin/cat\n\
                      create\tuser\tdebug:*\t*\t/usr/share/debug.sh %k\n";

struct Host {
    directory: tempfile::TempDir,
    hook: KeyHook,
}

/// The distribution's program with a configuration in a directory; `None` without it, or without root, whose the files
/// must be.
fn host() -> Option<Host> {
    // Where upcalld has the hook for keys, it is beside it.
    let names = ["/sbin/request-key.upcalld-was", "/sbin/request-key"];
    let theirs = names.into_iter().find(|name| Path::new(name).exists());
    let root = nix::unistd::Uid::effective().is_root();
    let Some(theirs) = theirs.filter(|_| root) else {
        eprintln!("SKIPPED: needs root and keyutils");
        return None;
    };
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for name in ["sbin", "libexec", "etc/request-key.d"] {
        std::fs::create_dir_all(path(name)).unwrap();
    }
    std::fs::copy(theirs, path("sbin/request-key")).unwrap();
    std::fs::write(path("etc/request-key.conf"), CONFIG).unwrap();
    std::fs::write(path("libexec/request-key"), "shim").unwrap();
    std::fs::set_permissions(
        path("libexec/request-key"),
        PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let hook = KeyHook::host(&path("libexec"), &path("hooks"), Path::new("/run/x"));
    let hook = hook.below(&path("sbin"));
    Some(Host { directory, hook })
}

fn kinds(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn lines_go_in_twice_and_out_again() {
    let Some(host) = host() else { return };
    let lines = host.hook.lines();
    let wanted = lines
        .plan(&kinds(&["dns_resolver", "id_resolver"]))
        .unwrap();
    assert_eq!(
        wanted
            .iter()
            .map(|l| l.before.as_deref())
            .collect::<Vec<_>>(),
        [Some("/sbin/key.dns_resolver %k"), None]
    );
    let lock = host.hook.lock().unwrap();
    lines.install(&wanted, Some("trial:*"), &lock).unwrap();
    let text = std::fs::read_to_string(lines.path()).unwrap();
    assert!(text.contains("create\tuser\ttrial:*\t*\t"), "{text}");
    lines.tried(&wanted, &lock).unwrap();
    assert_eq!(lines.standing(), Lines::Ours(wanted.clone()));
    // What was before us is not we.
    let again = lines
        .plan(&kinds(&["dns_resolver", "id_resolver"]))
        .unwrap();
    assert_eq!(again, wanted);
    let before = lines.install(&again, None, &lock).unwrap();
    lines.undo(&before, &lock).unwrap();
    drop(lock);
    assert_eq!(lines.standing(), Lines::Ours(wanted.clone()));
    assert!(matches!(
        host.hook.install(&host.hook.lock().unwrap()),
        Err(KeyHookError::Line(LineError::Both(_)))
    ));
    assert_eq!(lines.uninstall().unwrap(), Lines::Ours(wanted));
    assert_eq!(lines.standing(), Lines::Nothing);
    assert!(!host.hook.path().exists());
    assert_eq!(lines.uninstall().unwrap(), Lines::Nothing);
}

#[test]
fn who_still_wins_is_said_and_nothing_stays() {
    let Some(host) = host() else { return };
    let lines = host.hook.lines();
    let wanted = lines.plan(&kinds(&["dns_resolver"])).unwrap();
    // Every description but the shortest fits it better than ours.
    let other = host.directory.path().join("etc/request-key.d/other.conf");
    std::fs::write(other, "create\tdns_resolver\tupcalld:*\t*\t/theirs %k\n").unwrap();
    let error = lines
        .install(&wanted, None, &host.hook.lock().unwrap())
        .unwrap_err();
    assert!(
        matches!(&error, KeyHookError::Line(LineError::Preferred { command, .. }) if command == "/theirs %k"),
        "{error}"
    );
    assert_eq!(lines.standing(), Lines::Nothing);
    assert!(!host.hook.path().exists());
}

#[test]
fn what_cannot_be_put_behind_a_line_is_refused() {
    let Some(host) = host() else { return };
    let lines = host.hook.lines();
    let refused = |kind: &str| lines.plan(&kinds(&[kind])).unwrap_err();
    assert!(matches!(
        refused("rxrpc"),
        KeyHookError::Line(LineError::Pipe { .. })
    ));
    for kind in [
        "",
        ".request_key_auth",
        "a b",
        "a\tb",
        "a\n",
        "*",
        &"a".repeat(32),
    ] {
        let error = refused(kind);
        assert!(
            matches!(error, KeyHookError::Line(LineError::Type(_))),
            "{kind}: {error}"
        );
    }
    std::fs::write(lines.path(), "create dns_resolver * * /an/admins %k\n").unwrap();
    assert!(matches!(
        refused("user"),
        KeyHookError::Line(LineError::Taken(_))
    ));
    assert_eq!(lines.uninstall().unwrap(), Lines::Foreign);
    assert!(lines.path().exists());
    std::fs::remove_file(lines.path()).unwrap();
    let mut other = host.hook.clone();
    other.shim.program = host.directory.path().join("libexec/other-request-key");
    std::fs::copy(&host.hook.shim.program, &other.shim.program).unwrap();
    let wanted = other.lines().plan(&kinds(&["user"])).unwrap();
    let lock = other.lock().unwrap();
    other.lines().install(&wanted, None, &lock).unwrap();
    drop(lock);
    assert!(matches!(refused("user"), KeyHookError::Another(_)));
    assert_eq!(lines.uninstall().unwrap(), Lines::Another);
}

#[test]
fn a_host_has_one_way_only() {
    let Some(host) = host() else { return };
    host.hook.install(&host.hook.lock().unwrap()).unwrap();
    let error = host.hook.lines().plan(&kinds(&["user"])).unwrap_err();
    assert!(matches!(error, KeyHookError::Line(LineError::Both(_))));
}

/// The example that is shipped is what would be written.
#[test]
fn the_example_is_what_is_written() {
    let hook = KeyHook::host(
        Path::new("/usr/libexec/upcalld"),
        Path::new("/etc/upcalld/hooks"),
        Path::new("/run/upcalld"),
    );
    let line = Line {
        kind: "dns_resolver".to_owned(),
        before: Some("/sbin/key.dns_resolver %k".to_owned()),
    };
    let example = include_str!("../../../../../config/defaults/request-key.d/upcalld.conf.example");
    assert_eq!(hook.lines().text(&[line], None), example);
}

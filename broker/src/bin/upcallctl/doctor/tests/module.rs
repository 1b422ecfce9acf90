//! The checks of the module hook.

use super::*;

/// A host that is well, with the module hook in.
fn with_modules() -> Option<Private> {
    let mut private = well()?;
    private.write("proc/sys/kernel/modprobe", "/sbin/modprobe\n");
    private.write("sbin/modprobe", "");
    let executable = || PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(private.path("sbin/modprobe"), executable()).unwrap();
    private.write("libexec/modprobe", "");
    std::fs::set_permissions(private.path("libexec/modprobe"), executable()).unwrap();
    let hook = private.context.module.clone();
    let hook = hook.below(&private.path("proc/sys/kernel"));
    hook.install(&hook.lock().unwrap()).unwrap();
    let module = &mut private.daemon.as_mut().unwrap().module;
    module.evidence = Some("kprobe".into());
    Some(private)
}

#[test]
fn modules() {
    let breaks = |check: &str, level: Level, what: &str, harm: &dyn Fn(&mut Private)| {
        let Some(mut private) = with_modules() else {
            return;
        };
        let ill = private
            .findings()
            .into_iter()
            .find(|f| f.level != Level::Ok);
        assert_eq!(ill, None);
        harm(&mut private);
        private.ill(check, level, what);
    };
    let setting = "proc/sys/kernel/modprobe";
    breaks(
        "module",
        Level::Error,
        "is /bin/x, not ours any more",
        &|p| {
            p.write(setting, "/bin/x\n");
        },
    );
    breaks("module", Level::Error, "its file is gone", &|private| {
        std::fs::remove_file(private.path("etc/upcalld/hooks/module")).unwrap();
    });
    breaks("module", Level::Warning, "another upcalld's", &|private| {
        private.write("other/modprobe", "");
        private.write("other/upcall-shim", "");
        let other = private.path("other/modprobe");
        private.write(setting, &format!("{}\n", other.display()));
        std::fs::remove_file(private.path("etc/upcalld/hooks/module")).unwrap();
    });
    breaks(
        "modprobe",
        Level::Error,
        "/sbin/modprobe: ENOENT",
        &|private| {
            std::fs::remove_file(private.path("sbin/modprobe")).unwrap();
        },
    );
    breaks("modprobe", Level::Warning, "modules_disabled is 1", &|p| {
        p.write("proc/sys/kernel/modules_disabled", "1\n");
    });
    breaks(
        "askers",
        Level::Warning,
        "by a scan of /proc: tracefs",
        &|p| {
            let module = &mut p.daemon.as_mut().unwrap().module;
            module.no_kprobe = Some("tracefs: no such device".into());
        },
    );
    breaks("askers", Level::Warning, "locked down", &|private| {
        let text = "none integrity [confidentiality]\n";
        private.write("sys/kernel/security/lockdown", text);
    });
    let diversions = "var/lib/dpkg/diversions";
    breaks(
        "diversions",
        Level::Warning,
        "to /x by own-kmod",
        &|private| {
            private.write(
                diversions,
                "/bin/y\n/bin/y.was\n:\n/sbin/modprobe\n/x\nown-kmod\n",
            );
        },
    );
    breaks("diversions", Level::Warning, "its hook is not in", &|p| {
        p.write(
            diversions,
            "/sbin/request-key\n/sbin/request-key.upcalld-was\n:\n",
        );
    });
    let Some(private) = with_modules() else {
        return;
    };
    // Without SYS_MODULE.
    private.write("proc/sys/kernel/usermodehelper/bset", "4294901759\t511\n");
    assert_eq!(private.of("modprobe").level, Level::Error);
    assert_eq!(private.of("bset").level, Level::Warning);
}

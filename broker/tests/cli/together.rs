//! Two admins at once, and a user who would like to stop both.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::bench::{Bench, is_root};

/// What stood there before us.
const THEIRS: &str = "#!/bin/sh\n# theirs\n";

/// With all three hooks' programs, and what stands in the kernel's places.
fn bench() -> Option<Bench> {
    if !is_root("hooks are root's") {
        return None;
    }
    let bench = Bench::new();
    std::fs::create_dir(bench.path("k/sbin")).unwrap();
    bench.write("k/modprobe", "/sbin/modprobe\n");
    for name in [
        "l/core",
        "l/request-key",
        "l/modprobe",
        "k/sbin/request-key",
    ] {
        bench.write(name, THEIRS);
        let executable = PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(bench.path(name), executable).unwrap();
    }
    Some(bench)
}

/// Each hook is whole: ours with its file, and theirs kept; or theirs, and nothing of ours.
fn whole(bench: &Bench) {
    let file = |name: &str| bench.path(&format!("c/hooks/{name}")).exists();
    let was = bench.path("k/sbin/request-key.upcalld-was");
    let program = bench.read("k/sbin/request-key");
    if program == THEIRS {
        assert!(!file("key") && !was.exists());
    } else {
        assert!(program.contains("--hooks="), "{program}");
        assert!(file("key"));
        assert_eq!(std::fs::read_to_string(was).unwrap(), THEIRS);
    }
    let names = std::fs::read_dir(bench.path("k/sbin")).unwrap().count();
    assert_eq!(names, 1 + usize::from(file("key")), "something is left");
    let ours = bench.read("k/core_pattern") != "core\n";
    assert_eq!(file("core"), ours);
    assert_eq!(bench.read("k/core_pipe_limit") == "1024\n", ours);
    let ours = bench.read("k/modprobe") != "/sbin/modprobe\n";
    assert_eq!(file("module"), ours);
}

#[test]
fn admins_who_install_and_uninstall_at_once_leave_every_hook_whole() {
    let Some(bench) = bench() else { return };
    for round in 0..8 {
        std::thread::scope(|scope| {
            for admin in 0..4 {
                let bench = &bench;
                scope.spawn(move || {
                    for hook in ["key", "core", "module"] {
                        let said = if (admin + round) % 2 == 0 {
                            bench.run(&["install", hook, "--no-self-test"])
                        } else {
                            bench.run(&["uninstall", hook])
                        };
                        assert_eq!(said.status, 0, "{said:?}");
                    }
                });
            }
        });
        whole(&bench);
    }
    assert_eq!(bench.run(&["uninstall"]).status, 0);
    whole(&bench);
    assert_eq!(bench.read("k/sbin/request-key"), THEIRS);
}

/// Everybody may open core_pattern to read it, and whoever has a file open may lock it, for ever.
#[test]
fn a_user_who_locks_all_that_he_can_read_keeps_no_admin_waiting() {
    let Some(bench) = bench() else { return };
    let names = [
        "core_pattern",
        "core_pipe_limit",
        "modprobe",
        "sbin",
        "sbin/request-key",
        "",
    ];
    let locked = names.map(|name| {
        let file = File::open(bench.path(&format!("k/{name}"))).unwrap();
        file.lock().unwrap();
        file
    });
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for hook in ["core", "key", "module"] {
                let installed = bench.run(&["install", hook, "--no-self-test"]);
                let out = bench.run(&["uninstall", hook]);
                done.send((installed.status, out.status)).unwrap();
            }
        });
        for _ in 0..3 {
            let said = finished.recv_timeout(Duration::from_secs(50));
            assert_eq!(said, Ok((0, 0)), "somebody waits for the user's lock");
        }
        drop(locked);
    });
    let lock = std::fs::metadata(bench.path("k/upcalld.lock")).unwrap();
    assert_eq!(lock.permissions().mode() & 0o777, 0o600);
}

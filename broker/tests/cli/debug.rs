//! `cores debug`: gdb is at a tenant's core and at a tenant's files, and is to get no further.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::openpty;

use crate::bench::{Bench, is_root, skipped};
use crate::cores::crashed;
use crate::given;

/// Whether gdb can be run as a stranger here; says so where it cannot.
fn can_debug() -> bool {
    let has = |program: &str| Path::new("/usr/bin").join(program).exists();
    if !is_root("becoming a stranger needs root") {
        return false;
    }
    let able = has("gdb") && has("setpriv");
    if !able {
        skipped("gdb and setpriv");
    }
    able
}

/// What Python in gdb prints: it stands for a gdb that a core or a file has taken over.
fn taken_over(bench: &Bench, python: &str) -> String {
    let terminal = openpty(None, None).unwrap();
    let file = bench.path("taken.py");
    std::fs::write(&file, python).unwrap();
    let source = format!("source {}", file.display());
    let open = PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(bench.path(""), open).unwrap();
    let program = Path::new("/usr/bin/setsid");
    let mut command: Command = bench.wrapped(
        program,
        &["--ctty", "--wait", env!("CARGO_BIN_EXE_upcallctl")],
        &["cores", "debug", "k3m", "--", "-batch", "-ex", &source],
    );
    command.stdin(Stdio::from(terminal.slave));
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8(text).unwrap()
}

#[test]
fn a_gdb_that_was_taken_over_types_nothing_into_the_admins_terminal() {
    if !can_debug() {
        return;
    }
    let python = r#"
import fcntl, struct
for name, request in (("TIOCSTI", 0x5412), ("TIOCLINUX", 0x541c)):
    for high in (0, 1 << 32):
        try:
            fcntl.ioctl(0, request, b"x")
            print(name, "DONE")
        except OSError as error:
            print(name, error.errno)
"#;
    let said = taken_over(&crashed(), python);
    // Elsewhere than on a console the kernel itself knows no TIOCLINUX: EPERM is from us.
    for request in ["TIOCSTI", "TIOCLINUX"] {
        assert_eq!(said.matches(&format!("{request} 1\n")).count(), 2, "{said}");
    }
}

#[test]
fn a_gdb_that_was_taken_over_has_neither_our_keys_nor_our_files_nor_our_processes() {
    if !can_debug() {
        return;
    }
    let bench = crashed();
    upcall_helpers::sys::new_session_keyring().unwrap();
    bench.write("secret", "secret");
    let secret = std::fs::File::open(bench.path("secret")).unwrap();
    fcntl(secret.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let ours = std::fs::read_to_string("/proc/keys").unwrap();
    let python = format!(
        r#"
import os, ctypes
libc = ctypes.CDLL(None, use_errno=True)
print("session %08x." % (libc.syscall(250, 0, -3, 0) & 0xffffffff))
for fd in os.listdir("/proc/self/fd"):
    try:
        print("open", os.readlink("/proc/self/fd/" + fd))
    except OSError:
        pass
print("pid", os.getpid(), "there", os.path.exists("/proc/{}"))
try:
    os.kill({}, 0)
    print("signalled")
except OSError as error:
    print("kill", error.errno)
"#,
        std::process::id(),
        std::process::id()
    );
    let said = taken_over(&bench, &python);
    let session = said.split_once("session ").unwrap().1;
    let session = session.split_once('.').unwrap().0;
    assert_eq!(session.len(), 8, "{said}");
    assert!(!ours.contains(session), "{said} {ours}");
    assert!(
        said.contains("open /") && !said.contains("/secret"),
        "{said}"
    );
    assert!(said.contains("pid 1 there False"), "{said}");
    assert!(said.contains("kill 3\n"), "{said}");
    assert!(secret.as_raw_fd() > 2);
}

#[test]
fn a_core_that_unpacks_to_more_than_there_is_room_for_is_not_unpacked() {
    if !can_debug() {
        return;
    }
    let bench = crashed();
    bench.write("c/upcalld.toml", "[store]\nkeep_free = \"900TiB\"\n");
    let said = bench.run(&["cores", "debug", "k3m", "--", "-batch"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.err.contains("store.keep_free"), "{said:?}");
}

/// A directory with the program of the core that the kernel wrote.
fn sysroot(bench: &Bench) -> String {
    for directory in ["root", "root/srv", "root/srv/demo"] {
        std::fs::create_dir(bench.path(directory)).unwrap();
    }
    let program = bench.path("root/srv/demo/crash");
    std::fs::write(&program, include_bytes!("../core/crash")).unwrap();
    // Who comes from elsewhere may read.
    for directory in [
        "",
        "root",
        "root/srv",
        "root/srv/demo",
        "root/srv/demo/crash",
    ] {
        let open = PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(bench.path(directory), open).unwrap();
    }
    bench.path("root").display().to_string()
}

#[test]
fn gdb_opens_a_core_as_a_stranger_and_runs_nothing_of_the_tenants() {
    if !can_debug() {
        return;
    }
    let bench = crashed();
    let root = sysroot(&bench);
    bench.write("root/.gdbinit", "echo PWNED\\n\nshell touch ran\n");
    bench.write("root/srv/demo/crash-gdb.gdb", "echo PWNED\\n\n");
    let mut record = given::shop();
    record.process.exe = Some("/srv/demo/crash".into());
    let time: jiff::Timestamp = record.time.parse().unwrap();
    let micros = time.as_microsecond().try_into().unwrap();
    let records = upcalld::store::records::Records::at(&bench.path("s"));
    records.write(&record, micros).unwrap();
    let mut words = vec!["cores", "debug", "k3m", "--sysroot", &root, "--"];
    words.extend(["-batch", "-ex", "backtrace", "-ex", "info sharedlibrary"]);
    words.extend([
        "-ex",
        "shell grep -E 'Uid|CapEff|NoNewPrivs' /proc/self/status",
    ]);
    let said = bench.run(&words);
    assert_eq!(said.status, 0, "{said:?}");
    for function in ["nothing ()", "cart_total ()", "checkout ()", "_start ()"] {
        assert!(said.out.contains(function), "{said:?}");
    }
    assert!(said.out.contains("CapEff:\t0000000000000000"), "{said:?}");
    assert!(said.out.contains("NoNewPrivs:\t1"), "{said:?}");
    assert!(said.out.contains("Uid:\t6"), "{said:?}");
    assert!(
        !said.all().contains("PWNED\n") && !bench.path("root/ran").exists(),
        "{said:?}"
    );
    assert!(said.err.contains("set auto-load off") && said.err.contains("files from  /T/root"));
    let left = std::fs::read_dir("/var/tmp").unwrap().flatten();
    let left = left.filter(|entry| {
        entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(b"upcallctl-")
    });
    assert_eq!(left.count(), 0, "an unpacked core has no name");
}

//! The helpers that distributions have, as they are: what answers keys of theirs answers them through us.
//!
//! Types that this kernel does not have cannot be asked for; but which type a key is of their helpers do not look at, so
//! they get the same words with a key of type `user`.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use upcall_e2e::container::Container;
use upcall_e2e::dynamic;
use upcall_e2e::needs;
use upcall_e2e::programs::unpacked;
use upcall_e2e::records::action;
use upcall_e2e::rootfs::Rootfs;
use upcall_e2e::runc::Runc;

use crate::host_key_scene::{KeyScene, ask_in, key};

/// In the container; what is called `idmap:x` is what nfsidmap is asked for.
const INSIDE: &str = r#"
[[rule]]
upcall = "key"
match.container = {}
match.key = { type = "user", description = "inst:*" }
run = { in = "container", command = ["/bin/keyctl", "instantiate", "{key}", "of {description}", "0"] }

[[rule]]
upcall = "key"
match.container = {}
match.key = { type = "user", description = "neg:*" }
run = { in = "container", command = ["/bin/keyctl", "negate", "{key}", "2", "0"] }

[[rule]]
upcall = "key"
match.container = {}
match.key = { type = "user", description = "rej:*" }
run = { in = "container", command = ["/bin/keyctl", "reject", "{key}", "2", "expired", "0"] }

[[rule]]
upcall = "key"
match.container = {}
match.key = { type = "user", description = ["uid:*", "user:*", "gid:*"] }
run = { in = "container", command = ["/usr/sbin/nfsidmap", "-t", "60", "{key}", "{description}"] }
"#;

/// A container that has them.
fn furnished(scene: &KeyScene, name: &str) -> Result<Container> {
    let change = |root: &Rootfs| {
        dynamic::copy(root, "/bin/keyctl".as_ref(), "/bin/keyctl", &[])?;
        let packages = ["libnfsidmap1"];
        let nfsidmap = unpacked("nfs-common").join("usr/sbin/nfsidmap");
        dynamic::copy(root, &nfsidmap, "/usr/sbin/nfsidmap", &packages)?;
        let plugin = "usr/lib/x86_64-linux-gnu/libnfsidmap/nsswitch.so";
        dynamic::copy(
            root,
            &unpacked("libnfsidmap1").join(plugin),
            &["/", plugin].concat(),
            &packages,
        )?;
        root.file(
            "/etc/passwd",
            "root:x:0:0:root:/:/bin/sh\nann:x:1234:1234::/:/bin/sh\n",
            0o644,
        )?;
        root.file("/etc/nsswitch.conf", "passwd: files\ngroup: files\n", 0o644)?;
        root.file(
            "/etc/idmapd.conf",
            "[General]\nDomain = tenant.example\n",
            0o644,
        )
    };
    Runc::new(name)
        .user_namespace()
        .root(change)
        .start(&scene.sandbox)
}

#[test]
fn keyctl_answers_refuses_and_says_that_there_is_none() -> Result<()> {
    needs!(HostHooks, Root, Runc, KeyHelpers);
    let scene = KeyScene::new(INSIDE)?;
    let container = furnished(&scene, "web")?;
    for (name, said, answer) in [
        ("inst:a", "key of inst:a", Some("helper")),
        ("neg:a", "no ENOKEY", Some("helper")),
        ("rej:a", "no EKEYEXPIRED", Some("helper")),
    ] {
        assert_eq!(ask_in(&container, &["user", name, "x"])?, said);
        let record = scene.record(name)?;
        assert_eq!(key(&record)?.answer.as_deref(), answer, "{record:?}");
        assert_eq!(action(&record, "run")?.exit_code, Some(0), "{record:?}");
    }
    drop(container);
    scene.end()
}

#[test]
fn nfsidmap_knows_the_containers_own_users() -> Result<()> {
    needs!(HostHooks, Root, Runc, KeyHelpers);
    let scene = KeyScene::new(INSIDE)?;
    let container = furnished(&scene, "web")?;
    for (name, said) in [
        ("uid:ann@tenant.example", "key 1234\\x00"),
        ("user:1234", "key ann@tenant.example"),
    ] {
        let found = ask_in(&container, &["user", name, ""])?;
        let record = scene.record(name)?;
        assert_eq!(found, said, "{record:?}");
        assert_eq!(
            key(&record)?.answer.as_deref(),
            Some("helper"),
            "{record:?}"
        );
    }
    drop(container);
    scene.end()
}

/// It enters the container of its description's `pid=` by itself, which takes the host's root.
const OUTSIDE: &str = r#"
[[rule]]
upcall = "key"
match.container = {}
match.key = { type = "user", description = "ver=*" }
run = { in = "host", command = ["@/cifs.upcall", "{key}"], timeout = "20s" }
"#;

#[test]
fn cifs_upcall_looks_for_the_credentials_in_the_container() -> Result<()> {
    needs!(HostHooks, Root, Runc, KeyHelpers);
    let scene = KeyScene::new(OUTSIDE)?;
    let program = unpacked("cifs-utils").join("usr/sbin/cifs.upcall");
    let libraries = dynamic::library_path(&["libtalloc2"]);
    let wrapper = scene.sandbox.path("cifs.upcall");
    let text = format!(
        "#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {} \"$@\"\n",
        program.display()
    );
    std::fs::write(&wrapper, text)?;
    std::fs::set_permissions(
        &wrapper,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )?;
    for (name, own) in [("plain", false), ("own", true)] {
        let container = Runc::new(name).with(|bundle| {
            bundle.user_namespace = own.then_some(300_000);
        });
        let container = container.start(&scene.sandbox)?;
        // Never read so far.
        let cache = container.root().inside("/tmp/krb5cc_0");
        std::fs::write(&cache, "no credentials\n")?;
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let times = std::fs::FileTimes::new().set_accessed(long_ago);
        std::fs::File::options()
            .write(true)
            .open(&cache)?
            .set_times(times)?;
        let words = format!(
            "ver=0x2;host=srv.example;ip4=127.0.0.1;sec=krb5;uid=0x0;creduid=0x0;user=root;pid=0x{:x};upcall_target=app",
            container.init()
        );
        // There are none, and nobody to get them from.
        let said = ask_in(&container, &["user", &words, ""])?;
        let record = scene.record(&words)?;
        assert_eq!(said, "no EKEYREJECTED", "{record:?}");
        assert_eq!(action(&record, "run")?.exit_code, Some(0), "{record:?}");
        let read = std::fs::metadata(&cache)?.accessed()?;
        assert!(read > long_ago, "{name}: it was not looked at: {record:?}");
        drop(container);
    }
    scene.end()
}

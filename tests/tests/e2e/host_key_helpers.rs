//! The helpers that distributions have, as they are: what answers keys of theirs answers them through us.
//!
//! Types that this kernel does not have cannot be asked for; but which type a key is of their helpers do not look at, so
//! they get the same words with a key of type `user`.

use anyhow::Result;
use upcall_e2e::ccache;
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
run = { in = "host", command = ["@/cifs.upcall", "-E", "{key}"], timeout = "20s" }
"#;

/// A container whose root has a ticket for a file server, and what the kernel asks for when he mounts something there.
fn with_ticket(
    scene: &KeyScene,
    name: &str,
    own: bool,
    change: impl Fn(&Rootfs) -> Result<()> + 'static,
) -> Result<(Container, String)> {
    let container = Runc::new(name)
        .with(|bundle| bundle.user_namespace = own.then_some(300_000))
        .root(move |root| {
            root.file("/etc/passwd", "root:x:0:0:root:/:/bin/sh\n", 0o644)?;
            root.file("/etc/krb5.conf", ccache::CONFIGURATION, 0o644)?;
            change(root)
        })
        .start(&scene.sandbox)?;
    let cache = container.root().inside("/tmp/krb5cc_0");
    ccache::write(&cache)?;
    let owner = own.then_some(300_000);
    std::os::unix::fs::chown(&cache, owner, owner)?;
    let words = format!(
        "ver=0x2;host=srv.example;ip4=127.0.0.1;sec=krb5;uid=0x0;creduid=0x0;user=root;pid=0x{:x}",
        container.init()
    );
    Ok((container, words))
}

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
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&wrapper, executable)?;
    let ticket = str::from_utf8(ccache::TICKET)?;

    let (plain, words) = with_ticket(&scene, "plain", false, |_| Ok(()))?;
    let said = ask_in(&plain, &["user", &words, ""])?;
    let record = scene.record(&words)?;
    assert!(said.contains(ticket), "{said}: {record:?}");
    assert_eq!(key(&record)?.answer.as_deref(), Some("helper"));
    drop(plain);

    // The user namespace that it joins by itself takes the authority from it: what it ends with when it has the answer is
    // keyctl(2)'s own -1.
    let (own, words) = with_ticket(&scene, "own", true, |_| Ok(()))?;
    let said = ask_in(&own, &["user", &words, ""])?;
    let record = scene.record(&words)?;
    assert_eq!(said, "no EKEYREJECTED", "{record:?}");
    let exit_code = action(&record, "run")?.exit_code;
    assert_eq!(exit_code, Some(255), "{record:?}");
    drop(own);
    scene.end()
}

/// Started in the container it has nobody to enter, since the process of `pid=` is not there by the host's number; and who
/// put it there has taken the authority again.
const ENTERED: &str = r#"
[[rule]]
upcall = "key"
match.container = {}
match.key = { type = "user", description = "ver=*" }
run = { in = "container", command = ["/usr/sbin/cifs.upcall", "-E", "{key}"] }
"#;

#[test]
fn cifs_upcall_answers_from_the_containers_own_credentials() -> Result<()> {
    needs!(HostHooks, Root, Runc, KeyHelpers);
    let scene = KeyScene::new(ENTERED)?;
    let program = unpacked("cifs-utils").join("usr/sbin/cifs.upcall");
    let (container, words) = with_ticket(&scene, "web", true, move |root| {
        dynamic::copy(root, &program, "/usr/sbin/cifs.upcall", &["libtalloc2"])
    })?;
    let said = ask_in(&container, &["user", &words, ""])?;
    let record = scene.record(&words)?;
    let ticket = str::from_utf8(ccache::TICKET)?;
    assert!(said.contains(ticket), "{said}: {record:?}");
    assert_eq!(key(&record)?.answer.as_deref(), Some("helper"));
    drop(container);
    scene.end()
}

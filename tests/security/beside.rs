//! Attacks on whoever reads a container's files for a program of the host's that runs beside it.

use std::cell::RefCell;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::rc::Rc;

use anyhow::Result;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;
use upcall_e2e::fuse::{Fuse, Silent};
use upcall_e2e::needs;
use upcall_e2e::records::action;
use upcall_e2e::runc::Runc;
use upcall_e2e::watch::Watch;
use upcalld::store::record::Outcome;

use crate::host_key_scene::{KeyScene, ask_in};

const RULES: &str = r#"
[[rule]]
upcall = "key"
match.container = {}
match.key = { type = "dns_resolver" }
run = { in = "host", join = ["net"], command = ["/sbin/key.dns_resolver", "{key}"], files = ["/etc/resolv.conf"] }
"#;

/// Lays something at the first path; the second is a directory of its own.
type Lay = fn(&Path, &Path) -> Result<()>;

/// /dev/null: opening it does no harm, and succeeds.
fn device(path: &Path) -> Result<()> {
    mknod(path, SFlag::S_IFCHR, Mode::empty(), makedev(1, 3))?;
    Ok(std::fs::set_permissions(
        path,
        PermissionsExt::from_mode(0o666),
    )?)
}

#[test]
fn a_device_in_the_place_of_a_file_is_not_even_opened() -> Result<()> {
    // To open some is enough: a watchdog resets the machine when it is closed. Whoever reads is in no cgroup of the
    // container's, which is what keeps its own processes from them.
    needs!(HostHooks, Root, Runc);
    let scene = KeyScene::new(RULES)?;
    let container = Runc::new("web").start(&scene.sandbox)?;
    let root = container.root();
    let resolv = root.inside("/etc/resolv.conf");
    let watch = Watch::of(
        root,
        &["/etc", "/dev-of-its-own"].map(|path| {
            drop(std::fs::create_dir(root.inside(path)));
            path
        }),
    )?;
    // runc looks into /etc/passwd for whoever starts something.
    let ours = || -> Result<Vec<String>> {
        let names = watch.opened()?.into_iter();
        Ok(names
            .filter(|name| ["resolv.conf", "node"].contains(&name.as_str()))
            .collect())
    };
    let attacks: [(&str, Lay); 4] = [
        ("node", |path, _| device(path)),
        ("link", |path, other| {
            device(&other.join("node"))?;
            Ok(symlink("/dev-of-its-own/node", path)?)
        }),
        ("fifo", |path, _| {
            Ok(mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?)
        }),
        ("proc", |path, _| Ok(symlink("/proc/1/exe", path)?)),
    ];
    for (name, lay) in attacks {
        drop(std::fs::remove_file(&resolv));
        lay(&resolv, &root.inside("/dev-of-its-own"))?;
        watch.opened()?;
        let description = format!("{name}.example");
        let said = ask_in(&container, &["dns_resolver", &description, ""])?;
        assert!(!said.starts_with("key "), "{name}: {said}");
        let record = scene.record(&description)?;
        assert_eq!(record.outcome, Outcome::Failed, "{name}: {record:?}");
        assert_eq!(ours()?, Vec::<String>::new(), "{name}");
    }
    // The watch does see what is opened.
    container.exec(&["/bin/sh", "-c", ": < /dev-of-its-own/node"])?;
    assert_eq!(ours()?, ["node"]);
    drop(container);
    scene.end()
}

#[test]
fn a_file_that_its_server_never_brings_is_not_waited_for() -> Result<()> {
    needs!(HostHooks, Root, Runc, Fuse);
    let scene = KeyScene::new(RULES)?;
    for silent in [Silent::Lookups, Silent::Reads] {
        let server = Rc::new(RefCell::new(None));
        let mounted = Rc::clone(&server);
        let container = Runc::new(&format!("{silent:?}"))
            .user_namespace()
            .root(move |root| {
                let at = root.inside("/fuse");
                std::fs::create_dir(&at)?;
                mounted.replace(Some(Fuse::mount(&at, silent)?));
                symlink("/fuse/file", root.inside("/etc/resolv.conf"))?;
                Ok(())
            })
            .start(&scene.sandbox)?;
        let description = format!("{silent:?}.example");
        // Its server goes when this has ended: the answer comes before that, or never.
        let said = ask_in(&container, &["dns_resolver", &description, ""])?;
        assert!(!said.starts_with("key "), "{silent:?}: {said}");
        let record = scene.record(&description)?;
        let run = action(&record, "run")?;
        assert_eq!(
            run.stage.as_deref(),
            Some("files"),
            "{silent:?}: {record:?}"
        );
        drop(server);
        drop(container);
    }
    scene.end()
}

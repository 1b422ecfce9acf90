//! `file`: the core where it crashed, as who crashed; and what is put in its way.

use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context, Result};
use upcall_e2e::command::command;
use upcall_e2e::container::{Container, waits};
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::records::action;
use upcall_e2e::runc::Runc;
use upcalld::store::record::{Outcome, Record};

use crate::scene::{Scene, nothing_in};

/// A user of the container's who may write to /cores only because everybody may.
const USER: u32 = 1000;

fn rule(path: &str, more: &str) -> String {
    format!("[[rule]]\nupcall = \"core\"\nfile = {{ path = \"{path}\" }}\n{more}\n")
}

/// A dump of a process that has no core limit.
fn unlimited(pid: u32) -> Result<CoreDump> {
    Ok(CoreDump::of(pid)?.word("%c", u64::MAX.to_string()))
}

/// A process of [`USER`]'s in this directory of a container.
fn victim(container: &Container, directory: &str) -> Result<u32> {
    let flags = [
        format!("--user={USER}:{USER}"),
        format!("--cwd={directory}"),
    ];
    let flags = flags.each_ref().map(String::as_str);
    let pid = container.spawn_with(&flags, &["/crash-me", "--wait"])?;
    upcall_e2e::command::until(std::time::Duration::from_secs(5), "a victim", || {
        waits(pid).then_some(())
    })?;
    Ok(pid)
}

fn inside(record: &Record) -> Result<u32> {
    record.process.pid_inside.context("its number inside")
}

/// What is in a directory, but for `keep`.
fn names(directory: &Path) -> Result<Vec<String>> {
    let names = std::fs::read_dir(directory)?.flatten();
    Ok(names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect())
}

#[test]
fn a_core_lies_in_the_working_directory_as_its_users_alone() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&rule("core.{comm}.{pid}", ""))?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = unlimited(victim(&container, "/cores")?)?;
    let (record, ended) = scene.dump(&dump)?;
    assert_eq!((ended.code, ended.taken), (0, true));
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    let file = action(&record, "file")?;
    assert_eq!(
        (file.uid_inside, file.gid_inside, file.uid),
        (Some(USER), Some(USER), Some(300_000 + USER))
    );
    assert_eq!(file.capabilities.as_deref(), Some(&[][..]));
    let path = container
        .root()
        .inside(&format!("/cores/core.crash-me.{}", inside(&record)?));
    let meta = path.metadata()?;
    assert_eq!((meta.uid(), meta.gid()), (300_000 + USER, 300_000 + USER));
    assert_eq!(meta.mode() & 0o7777, 0o600);
    assert!(std::fs::read(&path)? == dump.core());
    assert!(nothing_in(&scene.sandbox.state().join("cores")));
    scene.end()
}

#[test]
fn a_container_without_a_user_namespace_needs_no_permission_for_it() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&rule("/cores/{pid}", ""))?;
    let container = Runc::new("web").start(&scene.sandbox)?;
    let dump = unlimited(victim(&container, "/tmp")?)?;
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    let path = container
        .root()
        .inside(&format!("/cores/{}", inside(&record)?));
    assert_eq!(path.metadata()?.uid(), USER);
    assert!(std::fs::read(&path)? == dump.core());
    scene.end()
}

#[test]
fn its_own_core_limit_holds() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&rule("core", ""))?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = CoreDump::of(victim(&container, "/cores")?)?;
    let cores = container.root().inside("/cores");
    let (record, _) = scene.dump(&dump)?;
    // It wanted none: nothing failed, and none is kept elsewhere.
    assert_eq!(action(&record, "file")?.outcome, Outcome::Refused);
    assert_eq!(
        action(&record, "file")?.reason.as_deref(),
        Some("core_limit")
    );
    assert_eq!(record.actions.len(), 1, "{record:?}");
    assert_eq!(names(&cores)?, Vec::<String>::new());

    let (record, _) = scene.dump(&dump.word("%c", "10000"))?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    let output = action(&record, "file")?.output.clone().unwrap_or_default();
    assert!(output.contains("cut at its core limit"), "{output}");
    assert_eq!(cores.join("core").metadata()?.len(), 10_000);
    scene.end()
}

/// A dump whose file cannot be written: why, and the core is kept on the host instead.
fn refused(path: &str, directory: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<String> {
    let scene = Scene::new(&rule(path, ""))?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    make(container.root().path())?;
    let dump = unlimited(victim(&container, directory)?)?;
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(record.outcome, Outcome::Partial, "{record:?}");
    assert_eq!(record.reason.as_deref(), Some("file_refused"));
    let file = action(&record, "file")?;
    assert_eq!(file.stage.as_deref(), Some("place"));
    assert_eq!(scene.kept(&record)?, dump.core());
    let errno = file.errno.clone().unwrap_or_default();
    drop(container);
    scene.end()?;
    Ok(errno)
}

#[test]
fn what_the_user_may_not_write_is_not_written() -> Result<()> {
    needs!(Root, Runc);
    assert_eq!(refused("core", "/etc", |_| Ok(()))?, "EACCES");
    assert_eq!(refused("/nowhere/core", "/", |_| Ok(()))?, "ENOENT");
    Ok(())
}

#[test]
fn links_that_a_tenant_lays_lead_nowhere() -> Result<()> {
    needs!(Root, Runc);
    let last = |root: &Path| {
        std::fs::write(root.join("tmp/precious"), "precious")?;
        std::os::unix::fs::chown(root.join("tmp/precious"), Some(300_000 + USER), None)?;
        Ok(symlink("/tmp/precious", root.join("cores/core"))?)
    };
    assert_eq!(refused("core", "/cores", last)?, "EEXIST");
    let between = |root: &Path| Ok(symlink("/tmp", root.join("cores/way"))?);
    assert_eq!(refused("way/core", "/cores", between)?, "ELOOP");
    assert_eq!(refused("/cores/way/core", "/", between)?, "ELOOP");
    let fifo = |root: &Path| {
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
        Ok(nix::unistd::mkfifo(&root.join("cores/core"), mode)?)
    };
    assert_eq!(refused("core", "/cores", fifo)?, "EEXIST");
    Ok(())
}

#[test]
fn a_core_that_is_roots_alone_is_no_file() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&rule("core", ""))?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = unlimited(victim(&container, "/cores")?)?.word("%d", "2");
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(record.reason.as_deref(), Some("not_dumpable"), "{record:?}");
    assert_eq!(
        names(&container.root().inside("/cores"))?,
        Vec::<String>::new()
    );
    assert_eq!(scene.kept(&record)?, dump.core());
    scene.end()
}

/// A process of the host's with a root and a directory of its own choice.
struct Outside(Child);

impl Outside {
    fn start(scene: &Scene, uid: u32, chroot: Option<&Path>, directory: &Path) -> Result<Self> {
        let program = scene.sandbox.path("bin/crash-me");
        let mut process = match chroot {
            Some(root) => {
                // chroot(1) changes the directory too.
                let mut perl = command("perl");
                perl.args(["-e", "chroot shift or die; exec @ARGV"]);
                perl.arg(root).arg("/crash-me");
                perl
            }
            None => command(program),
        };
        process.arg("--wait").current_dir(directory);
        process.stdin(Stdio::null());
        if chroot.is_none() {
            process.uid(uid).gid(uid);
        }
        let child = process.spawn()?;
        upcall_e2e::command::until(std::time::Duration::from_secs(5), "a process", || {
            waits(child.id()).then_some(())
        })?;
        Ok(Self(child))
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_process_of_the_host_gets_its_file_as_its_user() -> Result<()> {
    needs!(Root);
    let scene = Scene::new(&rule("core.{pid}", ""))?;
    let directory = scene.sandbox.path("work");
    std::fs::create_dir(&directory)?;
    let process = Outside::start(&scene, 4242, None, &directory)?;
    let dump = unlimited(process.0.id())?;
    let (record, _) = scene.dump(&dump)?;
    // Not its directory to write to, although root could.
    assert_eq!(action(&record, "file")?.errno.as_deref(), Some("EACCES"));
    assert_eq!(scene.kept(&record)?, dump.core());

    std::os::unix::fs::chown(&directory, Some(4242), Some(4242))?;
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    assert_eq!(action(&record, "file")?.uid, Some(4242));
    let path = directory.join(format!("core.{}", process.0.id()));
    assert_eq!(path.metadata()?.uid(), 4242);
    assert!(std::fs::read(&path)? == dump.core());
    drop(process);
    scene.end()
}

#[test]
fn a_process_that_is_outside_of_its_own_root_is_not_followed_there() -> Result<()> {
    needs!(Root, Perl);
    let scene = Scene::new(&rule("core", ""))?;
    let root = scene.sandbox.path("root");
    std::fs::create_dir_all(&root)?;
    scene.sandbox.program("crash-me", &root.join("crash-me"))?;
    let beside = scene.sandbox.path("beside");
    std::fs::create_dir(&beside)?;
    let process = Outside::start(&scene, 0, Some(&root), &beside)?;
    let dump = unlimited(process.0.id())?;
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(record.reason.as_deref(), Some("file_refused"), "{record:?}");
    assert_eq!(action(&record, "file")?.stage.as_deref(), Some("root"));
    assert!(nothing_in(&beside));
    assert_eq!(scene.kept(&record)?, dump.core());
    drop(process);
    scene.end()
}

#[test]
fn of_a_dump_without_a_byte_no_file_stays() -> Result<()> {
    needs!(Root, Runc);
    let scene = Scene::new(&rule("core", ""))?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = unlimited(victim(&container, "/cores")?)?.bytes(0);
    scene.dump(&dump)?;
    assert_eq!(
        names(&container.root().inside("/cores"))?,
        Vec::<String>::new()
    );
    drop(container);
    scene.end()
}

#[test]
fn helper_copy_and_file_each_get_all_of_it() -> Result<()> {
    needs!(Root, Runc);
    let more = "run = { in = \"container\", command = [\"/bin/sh\", \"-c\", \"cat > /tmp/helper\"] }\n\
                store = { ignore_limit = true }";
    let scene = Scene::new(&rule("core", more))?;
    let container = Runc::new("web").user_namespace().start(&scene.sandbox)?;
    let dump = unlimited(victim(&container, "/cores")?)?.bytes(5 << 20);
    let (record, _) = scene.dump(&dump)?;
    assert_eq!(record.outcome, Outcome::Done, "{record:?}");
    let words: Vec<&str> = record.actions.iter().map(|a| a.action.as_str()).collect();
    assert_eq!(words, ["run", "file", "store"]);
    let read = |path: &str| std::fs::read(container.root().inside(path));
    assert!(read("/cores/core")? == dump.core() && read("/tmp/helper")? == dump.core());
    assert!(scene.kept(&record)? == dump.core());
    scene.end()
}

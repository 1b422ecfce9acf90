//! `deliver` of what really crashes, to who really takes it.

use anyhow::{Context, Result, ensure};
use upcall_e2e::daemon::Daemon;
use upcall_e2e::gdb::Crash;
use upcall_e2e::hook::HostHook;
use upcall_e2e::needs;
use upcall_e2e::sandbox::Sandbox;
use upcall_e2e::skip::Need;
use upcalld::hooks::install::Mode;

use crate::ns_machine_deliver::{Scene, delivered};

#[test]
fn a_crash_in_a_machine_is_in_its_own_coredumpctl() -> Result<()> {
    needs!(HostHooks, Root, Machine, Nspawn, Gdb, Coredumpctl);
    let sandbox = Sandbox::new()?;
    let scene = Scene::new(&sandbox)?;
    let hook = HostHook::borrow()?;
    let daemon = Daemon::start_strict(&sandbox)?;
    let socket = [Mode::Socket]
        .into_iter()
        .filter(|_| Need::CoreSocket.missing().is_none());
    for mode in [Mode::Pipe].into_iter().chain(socket) {
        hook.install_as(&sandbox, mode)?;
        let name = format!("{mode:?}").to_lowercase();
        let pid = scene.victim(&name, "infinity")?;
        let hosts = scene.machine.hosts_number(pid)?;
        scene.sh(&format!("kill -USR1 {pid}"))?;
        let record = daemon.records().of(hosts)?;
        delivered(&record, hosts, pid)?;
        scene.knows(pid).with_context(|| name.clone())?;
        let (program, core) = ("/usr/local/bin/crash-me", "/root/core");
        let crash = Crash::open(&scene.machine.path(program), &scene.machine.path(core))?;
        ensure!(crash.signal.starts_with("SIGSEGV"), "{crash:?}");
        ensure!(crash.thread == pid, "{crash:?}");
    }
    hook.put_back()?;
    drop(scene);
    daemon.stop(&sandbox)
}

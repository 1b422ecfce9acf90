//! The tests' own promise: a host whose tests were killed, with everything they had started, gets its hooks back from the
//! next ones. For cores: `host_hooks`.

use std::path::Path;

use anyhow::Result;
use upcall_e2e::command::{command, run};
use upcall_e2e::key_hook::HostKeyHook;
use upcall_e2e::module_hook::{HostModuleHook, SETTING};
use upcall_e2e::needs;
use upcall_e2e::sandbox::Sandbox;

/// What the kernel starts for a key, and whether a file of ours is on the disk.
fn standing() -> Result<(Vec<u8>, bool)> {
    let ours = Path::new("/etc/upcalld/hooks/key").exists();
    Ok((std::fs::read("/sbin/request-key")?, ours))
}

#[test]
fn host_put_back_after_a_kill_of_whoever_had_borrowed_keys() -> Result<()> {
    needs!(HostHooks, Root);
    let sandbox = Sandbox::new()?;
    let hook = HostKeyHook::borrow(&sandbox)?;
    let (borrowed, ours) = standing()?;
    assert!(ours);
    hook.abandon()?;
    assert_eq!(standing()?, (borrowed.clone(), true));
    HostKeyHook::borrow(&sandbox)?.put_back()?;
    let (program, ours) = standing()?;
    assert!(program != borrowed && !ours);
    let mounted = run(command("findmnt").args(["--noheadings", "/sbin/request-key"]));
    assert!(mounted.is_err(), "{mounted:?}");
    Ok(())
}

#[test]
fn host_put_back_after_a_kill_of_whoever_had_borrowed_modules() -> Result<()> {
    needs!(HostHooks, Root, KernelModprobe);
    let sandbox = Sandbox::new()?;
    let before = std::fs::read(SETTING)?;
    HostModuleHook::borrow(&sandbox)?.abandon()?;
    assert_ne!(std::fs::read(SETTING)?, before);
    HostModuleHook::borrow_setting()?.put_back()?;
    assert_eq!(std::fs::read(SETTING)?, before);
    Ok(())
}

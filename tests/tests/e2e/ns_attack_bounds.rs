//! Attacks on what bounds a helper and its container: devices, cgroups that are taken apart, and names without end.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use anyhow::Result;
use nix::sys::stat::{Mode, SFlag, mknod};
use upcall_e2e::container::Container;
use upcall_e2e::kernel_like::CoreDump;
use upcall_e2e::needs;
use upcall_e2e::records::said;
use upcall_e2e::runc::Runc;

use crate::scene::{Scene, run_rule, script};

/// A device of the host's that no container has unless it is given one, as a node in a container's /dev that everybody
/// may open: an image may have such a node, and the runtimes' defaults let a container's root make it.
fn device(container: &Container) -> Result<()> {
    let fuse = std::fs::metadata("/dev/fuse")?.rdev();
    let node = format!("/proc/{}/root/dev/stolen", container.init());
    mknod(node.as_str(), SFlag::S_IFCHR, Mode::empty(), fuse)?;
    Ok(std::fs::set_permissions(
        node,
        Permissions::from_mode(0o666),
    )?)
}

#[test]
fn a_helper_that_upcalld_pays_for_still_has_no_devices_of_the_hosts() -> Result<()> {
    // A container's devices are bounded by its cgroup, and this helper is not in it.
    needs!(Root, Runc, Fuse);
    let open = "(: </dev/stolen) 2>/dev/null && echo robbed; (: </dev/null) && echo done";
    for cgroup in ["container", "broker"] {
        let more = format!("cgroup = \"{cgroup}\", without_user_namespace = true, ");
        let rule = run_rule(r#""/helper""#, "").replace("timeout", &(more + "timeout"));
        let scene = Scene::new(&rule)?;
        let container = Runc::new("web")
            .root(script("/helper", open))
            .start(&scene.sandbox)?;
        device(&container)?;
        let (record, _) = scene.dump(&CoreDump::of(container.init())?)?;
        assert_eq!(said(&record)?, "done\n", "{cgroup}: {record:?}");
        drop(container);
        scene.end()?;
    }
    Ok(())
}

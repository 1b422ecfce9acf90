//! A policy of SELinux's, for a machine that has none and is the tests' alone: it stays until the machine ends.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};

use crate::command::{command, run};
use crate::programs::unpacked;

const MOUNTED: &str = "/sys/fs/selinux";

/// Whoever is in no container.
pub const HOST: &str = "u:r:host_t";
/// Who is in one.
pub const CONTAINER: &str = "u:r:container_t";
/// Somebody else.
pub const OTHER: &str = "u:r:other_t";

/// The least that the kernel takes, in SELinux's own language (CIL). What it does not name is allowed; what counts here is
/// who may become what: a container nothing but itself, also where no privileges are gained (`nnp_nosuid_transition`), as
/// in the policies of distributions.
const POLICY: &str = "
(handleunknown allow)
(policycap nnp_nosuid_transition)
(mls false)
(class process (transition dyntransition))
(class file (entrypoint))
(classorder (process file))
(sid kernel) (sid security) (sid unlabeled)
(sidorder (kernel security unlabeled))
(sensitivity s0)
(sensitivityorder (s0))
(levelrange low ((s0) (s0)))
(user u) (userlevel u (s0)) (userrange u low)
(role r) (role object_r) (userrole u r) (userrole u object_r)
(type host_t) (type container_t) (type other_t) (type file_t)
(roletype r host_t) (roletype r container_t) (roletype r other_t) (roletype object_r file_t)
(typeattribute domain)
(typeattributeset domain (host_t container_t other_t))
(sidcontext kernel (u r host_t low))
(sidcontext security (u r host_t low))
(sidcontext unlabeled (u object_r file_t low))
(allow host_t domain (process (transition dyntransition)))
(allow container_t container_t (process (transition dyntransition)))
(allow other_t other_t (process (transition dyntransition)))
(allow domain file_t (file (entrypoint)))
(fsuse trans tmpfs (u object_r file_t low))
(fsuse trans devtmpfs (u object_r file_t low))
(fsuse task pipefs (u object_r file_t low))
(fsuse task sockfs (u object_r file_t low))
(genfscon rootfs \"/\" (u object_r file_t low))
(genfscon proc \"/\" (u object_r file_t low))
(genfscon sysfs \"/\" (u object_r file_t low))
(genfscon cgroup2 \"/\" (u object_r file_t low))
(genfscon selinuxfs \"/\" (u object_r file_t low))
";

/// The program that compiles policies, from a package that is not installed.
pub fn compiler() -> PathBuf {
    unpacked("secilc").join("usr/bin/secilc")
}

/// Whether the kernel has SELinux switched on.
pub fn is_on() -> bool {
    let modules = std::fs::read_to_string("/sys/kernel/security/lsm");
    modules.is_ok_and(|modules| modules.split(',').any(|name| name == "selinux"))
}

/// Loads the policy and enforces it.
///
/// # Errors
/// The compiler or the kernel refuses it.
pub fn load(work: &Path) -> Result<()> {
    if !Path::new(MOUNTED).join("load").exists() {
        let flags = MsFlags::empty();
        mount(
            Some("selinuxfs"),
            MOUNTED,
            Some("selinuxfs"),
            flags,
            None::<&str>,
        )
        .context("selinuxfs")?;
    }
    let (text, binary) = (work.join("policy.cil"), work.join("policy"));
    std::fs::write(&text, POLICY)?;
    // Version 30 is of 2015: every kernel here has it.
    let mut compile = command(compiler());
    compile.args(["-c", "30", "-f", "/dev/null", "-o"]);
    run(compile.arg(&binary).arg(&text))?;
    // In one write(2), or not at all.
    let policy = std::fs::read(&binary)?;
    let mut load = File::options()
        .write(true)
        .open(format!("{MOUNTED}/load"))?;
    let written = std::io::Write::write(&mut load, &policy).context("the policy")?;
    ensure!(written == policy.len(), "a part of the policy");
    Ok(std::fs::write(format!("{MOUNTED}/enforce"), "1")?)
}

//! Tests that cannot be run here say so, loudly, and in a file that a later step can look at.

use std::io::Write;
use std::path::{Path, PathBuf};

/// What a test cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Root of the host.
    Root,
    /// runc.
    Runc,
    /// podman and conmon.
    Podman,
    /// crun.
    Crun,
    /// dockerd and docker.
    Docker,
    /// containerd and ctr.
    Containerd,
    /// LXC.
    Lxc,
    /// systemd-nspawn, systemd-machined and dbus-daemon.
    Nspawn,
    /// Python's gRPC, to speak the CRI.
    Grpc,
    /// unshare(2) for everybody, and the unshare and setpriv programs.
    Unprivileged,
    /// systemd's coredumpctl: installed, or unpacked by `make check`.
    Coredumpctl,
    /// nfsidmap and cifs.upcall with their libraries, unpacked by `make check`; keyctl.
    KeyHelpers,
    /// keyutils' own tests: `make check-keyutils`.
    KeyutilsSource,
    /// python3, for what only a program with libc's odd corners does.
    Python,
    /// perl, likewise.
    Perl,
    /// dpkg-divert, and so Debian's own list of files.
    Dpkg,
    /// gdb.
    Gdb,
    /// A gcc that makes 32-bit programs.
    Gcc32,
    /// FUSE.
    Fuse,
    /// systemd-analyze.
    Systemd,
    /// systemd, systemd-nspawn to boot it with, and Debian's package manager.
    Machine,
    /// The cgroup v1 freezer.
    FreezerV1,
    /// The memory controller of cgroup v1, or that of cgroup2 for children of the root.
    MemoryController,
    /// ext4 on a file, and fsfreeze(8).
    LoopDisk,
    /// A machine that is the tests' alone, whose clock they may set.
    Guest,
    /// Leave to change the host's hooks for a moment: `make check-host`.
    HostHooks,
    /// A kernel that connects to sockets for cores.
    CoreSocket,
    /// A kernel with bridges, and ip(8).
    Bridge,
    /// A kernel with modules, and so with kernel.modprobe.
    KernelModprobe,
    /// One that starts one program for all of its helpers.
    StaticHelper,
    /// One that shows nothing of itself, so without kprobes and tracefs (kernel_lockdown(7)).
    Lockdown,
    /// AppArmor, switched on, and the program that loads profiles: unpacked by `make check`.
    AppArmor,
    /// SELinux, switched on and without a policy, and the program that compiles them: unpacked by `make check`.
    SeLinux,
    /// The kernel's AFS client.
    Afs,
    /// The kernel's NFS server and client.
    Nfs,
    /// The kernel's SMB client.
    Cifs,
}

impl Need {
    /// What of it is not there.
    pub fn missing(self) -> Option<&'static str> {
        let (there, what) = match self {
            Self::Runc | Self::Crun | Self::Python | Self::Perl | Self::Dpkg | Self::Gdb => {
                self.program()
            }
            Self::Bridge
            | Self::CoreSocket
            | Self::KernelModprobe
            | Self::MemoryController
            | Self::FreezerV1
            | Self::StaticHelper
            | Self::Lockdown
            | Self::AppArmor
            | Self::SeLinux
            | Self::Afs
            | Self::Nfs
            | Self::Cifs => self.kernel(),
            Self::HostHooks | Self::Guest | Self::KeyutilsSource => self.leave(),
            Self::Root => (nix::unistd::Uid::effective().is_root(), "root"),
            Self::Podman => (has("podman") && has("conmon"), "podman and conmon"),
            Self::Docker => (has("dockerd") && has("docker"), "dockerd and docker"),
            Self::Containerd => (has("containerd") && has("ctr"), "containerd and ctr"),
            Self::Lxc => (has("lxc-start"), "lxc"),
            Self::Nspawn => (
                has("systemd-nspawn")
                    && has("dbus-daemon")
                    && Path::new("/lib/systemd/systemd-machined").exists(),
                "systemd-container and dbus-daemon",
            ),
            Self::Grpc => (
                Path::new("/usr/lib/python3/dist-packages/grpc").is_dir(),
                "python3-grpcio",
            ),
            Self::Unprivileged => (
                has("unshare") && has("setpriv") && may_unshare(),
                "user namespaces for everybody, unshare and setpriv",
            ),
            Self::KeyHelpers => (
                has("keyctl")
                    && ["nfs-common", "cifs-utils", "libnfsidmap1", "libtalloc2"]
                        .map(crate::programs::unpacked)
                        .iter()
                        .all(|place| place.is_dir()),
                "nfsidmap and cifs.upcall (tools/unpack TARGET/unpacked nfs-common …)",
            ),
            Self::Coredumpctl => (
                has("coredumpctl")
                    || crate::programs::unpacked("systemd-coredump")
                        .join("usr/bin/coredumpctl")
                        .exists(),
                "coredumpctl (tools/unpack TARGET/unpacked systemd-coredump)",
            ),
            Self::Gcc32 => (
                crate::programs::makes_32_bit(),
                "gcc -m32 and a kernel that runs its programs",
            ),
            Self::Fuse => (Path::new("/dev/fuse").exists(), "/dev/fuse"),
            Self::Machine => (
                has("systemd-nspawn")
                    && has("dpkg-deb")
                    && Path::new("/lib/systemd/systemd").exists(),
                "systemd, systemd-nspawn and dpkg",
            ),
            Self::LoopDisk => (
                has("mkfs.ext4") && has("fsfreeze") && Path::new("/dev/loop-control").exists(),
                "mkfs.ext4 and fsfreeze",
            ),
            Self::Systemd => (has("systemd-analyze"), "systemd-analyze"),
        };
        (!there).then_some(what)
    }
}

impl Need {
    /// What whoever runs the tests has to say.
    fn leave(self) -> (bool, &'static str) {
        let said = |name: &str| std::env::var_os(name).is_some();
        if self == Self::HostHooks {
            let leave = said("UPCALLD_TEST_HOST_HOOKS");
            return (leave, "the host's own hooks (make check-host)");
        }
        if self == Self::Guest {
            let ours = said("UPCALLD_TEST_GUEST");
            return (ours, "a machine of the tests' own (make check-kernels)");
        }
        let there = crate::programs::target().join("keyutils/tests").is_dir();
        let wanted = said("UPCALLD_TEST_KEYUTILS");
        (
            wanted && there,
            "the tests of keyutils (make check-keyutils)",
        )
    }

    /// The one program that it is, and whether it is there.
    fn program(self) -> (bool, &'static str) {
        const PROGRAMS: [(Need, &str); 6] = [
            (Need::Runc, "runc"),
            (Need::Crun, "crun"),
            (Need::Python, "python3"),
            (Need::Perl, "perl"),
            (Need::Dpkg, "dpkg-divert"),
            (Need::Gdb, "gdb"),
        ];
        let found = PROGRAMS.into_iter().find(|(need, _)| *need == self);
        let program = found.map_or("a program", |(_, program)| program);
        (has(program), program)
    }
}

impl Need {
    /// What the kernel has to have.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the others are not the kernel's"
    )]
    fn kernel(self) -> (bool, &'static str) {
        match self {
            Self::Bridge => (
                has("ip") && Path::new("/sys/module/bridge").exists(),
                "bridges of the network and ip",
            ),
            Self::CoreSocket => (
                std::fs::read_to_string("/proc/sys/kernel/core_modes")
                    .is_ok_and(|modes| modes.contains("socket")),
                "a kernel that dumps to sockets (6.17)",
            ),
            Self::KernelModprobe => (
                Path::new("/proc/sys/kernel/modprobe").exists(),
                "a kernel with modules (kernel.modprobe)",
            ),
            Self::Lockdown => (
                std::fs::read_to_string("/sys/kernel/security/lockdown")
                    .is_ok_and(|modes| modes.contains("[confidentiality]")),
                "a kernel with modules in lockdown (lockdown=confidentiality)",
            ),
            Self::MemoryController => (
                Path::new("/sys/fs/cgroup/memory").is_dir()
                    || std::fs::read_to_string("/sys/fs/cgroup/cgroup.subtree_control")
                        .is_ok_and(|given| given.split_whitespace().any(|name| name == "memory")),
                "the memory controller of cgroups",
            ),
            Self::FreezerV1 => (
                Path::new("/sys/fs/cgroup/freezer").is_dir(),
                "the cgroup v1 freezer at /sys/fs/cgroup/freezer",
            ),
            Self::AppArmor => (
                std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
                    .is_ok_and(|enabled| enabled.starts_with('Y'))
                    && crate::apparmor::parser().is_file(),
                "AppArmor (and tools/unpack TARGET/unpacked apparmor)",
            ),
            Self::SeLinux => (
                crate::selinux::is_on() && crate::selinux::compiler().is_file(),
                "SELinux without a policy (security=selinux and tools/unpack TARGET/unpacked secilc)",
            ),
            Self::Afs => (has_module("kafs"), "a kernel with modules (kafs)"),
            Self::Nfs => (
                has_module("nfsd") && has_module("nfsv4"),
                "a kernel with modules (nfsd, nfsv4)",
            ),
            Self::Cifs => (has_module("cifs"), "a kernel with modules (cifs)"),
            Self::StaticHelper => (
                starts_one_for_all(),
                "a kernel with CONFIG_STATIC_USERMODEHELPER",
            ),
            // Whoever leaves out a test for this is noticed.
            _ => (false, "something that tests/src/skip.rs does not know"),
        }
    }
}

/// Whether the kernel says that it starts one program for all of its helpers.
fn starts_one_for_all() -> bool {
    let config = crate::command::command("zcat")
        .arg("/proc/config.gz")
        .output();
    let wanted = b"CONFIG_STATIC_USERMODEHELPER=y";
    config.is_ok_and(|config| {
        config
            .stdout
            .windows(wanted.len())
            .any(|part| part == wanted)
    })
}

/// Whether a program is in the search path, sbin included.
pub fn has(program: &str) -> bool {
    find(program).is_some()
}

/// Where a program is.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

/// Whether the kernel can load it.
fn has_module(name: &str) -> bool {
    let mut modprobe = crate::command::command("modprobe");
    modprobe.args(["--dry-run", "--quiet", name]);
    modprobe.status().is_ok_and(|status| status.success())
}

fn may_unshare() -> bool {
    let number =
        |path: &str| -> Option<u64> { std::fs::read_to_string(path).ok()?.trim().parse().ok() };
    number("/proc/sys/user/max_user_namespaces").is_some_and(|max| max > 0)
        && number("/proc/sys/kernel/unprivileged_userns_clone") != Some(0)
        && number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").unwrap_or(0) == 0
}

/// Whether this test has to be left out; then that was said.
#[expect(clippy::print_stderr, reason = "whoever runs the tests is to see it")]
pub fn lacks(needs: &[Need]) -> bool {
    let missing: Vec<&str> = needs.iter().filter_map(|need| need.missing()).collect();
    if missing.is_empty() {
        return false;
    }
    let thread = std::thread::current();
    let line = format!(
        "SKIPPED {}: needs {}\n",
        thread.name().unwrap_or("?"),
        missing.join(", ")
    );
    eprint!("{line}");
    let file = std::env::var_os("UPCALLD_TEST_SKIPPED").map(PathBuf::from);
    let file = file.unwrap_or_else(|| crate::programs::target().join("e2e-skipped.txt"));
    let opened = std::fs::File::options()
        .append(true)
        .create(true)
        .open(file);
    drop(opened.and_then(|mut file| file.write_all(line.as_bytes())));
    true
}

/// Leaves a test out, successfully and loudly, where something that it needs is not there.
#[macro_export]
macro_rules! needs {
    ($($need:ident),+ $(,)?) => {
        if $crate::skip::lacks(&[$($crate::skip::Need::$need),+]) {
            return Ok(());
        }
    };
}

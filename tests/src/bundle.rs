//! The configuration of a container for runc (OCI runtime specification, config.json), one option at a time.

use serde_json::{Value, json};

/// Capabilities of a container's init unless said otherwise; the runtimes' own defaults are much like them.
pub const CAPABILITIES: [&str; 8] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETGID",
    "CAP_SETUID",
];

/// What a container is like.
#[expect(clippy::struct_excessive_bools, reason = "as config.json has them")]
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Words of its PID 1.
    pub args: Vec<String>,
    /// The host's id of its root, where it has a user namespace of its own.
    pub user_namespace: Option<u32>,
    /// How many ids are mapped.
    pub mapped: u32,
    /// The first id inside that is mapped.
    pub first: u32,
    /// Whether it has a pid namespace of its own.
    pub pid_namespace: bool,
    /// Whether it has a network namespace of its own.
    pub net_namespace: bool,
    /// Whether its root is read-only.
    pub read_only: bool,
    /// Uid, gid and supplementary groups of its init, as it sees them.
    pub user: (u32, u32, Vec<u32>),
    /// Capabilities of its init.
    pub capabilities: Vec<String>,
    /// Its cgroup, where it is not called by its id.
    pub cgroup: Option<String>,
    /// Annotations.
    pub annotations: Vec<(String, String)>,
    /// Whether its init has no_new_privs.
    pub no_new_privs: bool,
    /// Its profile of AppArmor.
    pub apparmor: Option<String>,
    /// Its label of SELinux.
    pub selinux: Option<String>,
}

impl Default for Bundle {
    fn default() -> Self {
        Self {
            args: vec!["/init".to_owned()],
            user_namespace: None,
            mapped: 65_536,
            first: 0,
            pid_namespace: true,
            net_namespace: true,
            read_only: false,
            user: (0, 0, vec![]),
            capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
            cgroup: None,
            annotations: vec![],
            no_new_privs: true,
            apparmor: None,
            selinux: None,
        }
    }
}

impl Bundle {
    /// config.json for this root.
    pub fn config(&self, id: &str, root: &std::path::Path) -> Value {
        let (uid, gid, groups) = &self.user;
        let mut config = json!({
            "ociVersion": "1.0.2",
            "hostname": id,
            "process": {
                "terminal": false,
                "user": { "uid": uid, "gid": gid, "additionalGids": groups },
                "args": self.args,
                "env": ["PATH=/bin", "TERM=xterm"],
                "cwd": "/",
                "capabilities": {
                    "bounding": self.capabilities,
                    "effective": self.capabilities,
                    "permitted": self.capabilities,
                },
                "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 4096, "soft": 4096 }],
                "noNewPrivileges": self.no_new_privs,
            },
            "root": { "path": root, "readonly": self.read_only },
            "mounts": self.mounts(),
            "linux": {
                "namespaces": self.namespaces(),
                "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            },
            "annotations": self.annotations.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        });
        if let (Some(host), Some(linux)) = (self.user_namespace, config.get_mut("linux")) {
            let map = json!([{ "containerID": self.first, "hostID": host, "size": self.mapped }]);
            set(linux, "uidMappings", map.clone());
            set(linux, "gidMappings", map);
        }
        if let (Some(profile), Some(process)) = (&self.apparmor, config.get_mut("process")) {
            set(process, "apparmorProfile", json!(profile));
        }
        if let (Some(label), Some(process)) = (&self.selinux, config.get_mut("process")) {
            set(process, "selinuxLabel", json!(label));
        }
        if let (Some(path), Some(linux)) = (&self.cgroup, config.get_mut("linux")) {
            set(linux, "cgroupsPath", json!(path));
        }
        config
    }

    fn namespaces(&self) -> Value {
        let wanted = [
            ("mount", true),
            ("ipc", true),
            ("uts", true),
            ("pid", self.pid_namespace),
            ("network", self.net_namespace),
            ("user", self.user_namespace.is_some()),
        ];
        let own = wanted.into_iter().filter(|(_, own)| *own);
        own.map(|(kind, _)| json!({ "type": kind })).collect()
    }

    fn mounts(&self) -> Value {
        let owns_less = self.user_namespace.is_some();
        // A user namespace may mount only what belongs to namespaces of its own; the rest is the host's, bound.
        let bound = |path: &str| {
            json!({ "destination": path, "type": "none", "source": path,
                    "options": ["rbind", "nosuid", "noexec", "nodev"] })
        };
        let proc = if owns_less && !self.pid_namespace {
            bound("/proc")
        } else {
            json!({ "destination": "/proc", "type": "proc", "source": "proc" })
        };
        let sys = if owns_less && !self.net_namespace {
            bound("/sys")
        } else {
            json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs",
                    "options": ["nosuid", "noexec", "nodev", "ro"] })
        };
        json!([
            proc,
            sys,
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
        ])
    }
}

fn set(table: &mut Value, key: &str, value: Value) {
    if let Some(table) = table.as_object_mut() {
        table.insert(key.to_owned(), value);
    }
}

//! Runtimes' state files, read to the end as a resolver does, whatever is in them. The first byte says whose it is.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use upcall_config::settings::RuntimeSettings;
use upcalld::resolve::Resolver;

const ID: &str = "3f9c1e0a77d2";

/// A host whose runtimes have their state in one directory.
struct Host {
    directory: PathBuf,
    resolver: Resolver,
}

/// Of each runtime: who it is, and where a container's state is.
const FILES: [&str; 5] = [
    "runc/3f9c1e0a77d2/state.json",
    "crun/3f9c1e0a77d2/status",
    "docker/containers/3f9c1e0a77d2/config.v2.json",
    "storage/overlay-containers/containers.json",
    "machines/3f9c1e0a77d2",
];

/// Names are asked for containers that runc says are docker's and podman's.
const KNOWN: [(&str, &str); 2] = [
    (
        "docker-state/moby/3f9c1e0a77d2",
        r#"{"id":"3f9c1e0a77d2","init_process_pid":1,"init_process_start":1,"config":{}}"#,
    ),
    (
        "runc/77aa77aa77aa",
        r#"{"id":"77aa77aa77aa","init_process_pid":1,"init_process_start":1,
            "config":{"labels":["io.container.manager=libpod"]}}"#,
    ),
];

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let directory = Path::new("/dev/shm").join(format!("upcall-fuzz-{}", std::process::id()));
    for file in FILES {
        let path = directory.join(file);
        std::fs::create_dir_all(path.parent().expect("below a directory")).expect("room");
    }
    for (below, text) in KNOWN {
        let below = directory.join(below);
        std::fs::create_dir_all(&below).expect("room");
        std::fs::write(below.join("state.json"), text).expect("room");
    }
    let settings = RuntimeSettings {
        runc: vec![directory.join("runc")],
        crun: vec![directory.join("crun")],
        docker: vec![directory.join("docker-state")],
        docker_root: directory.join("docker"),
        containerd: Vec::new(),
        lxc: Vec::new(),
        incus: Vec::new(),
        machines: directory.join("machines"),
        units: directory.join("units"),
        users: directory.join("users"),
        podman_graphroot: directory.join("storage"),
        podman_runroot: directory.join("storage-run"),
    };
    let resolver = Resolver::new(&settings, None).expect("namespaces");
    Host {
        directory,
        resolver,
    }
});

fuzz_target!(|data: &[u8]| {
    let Some((which, text)) = data.split_first() else {
        return;
    };
    let file = FILES[usize::from(*which) % FILES.len()];
    let path = HOST.directory.join(file);
    std::fs::write(&path, text).expect("room");
    for (claim, names) in HOST.resolver.all(&[]) {
        assert!(!claim.id.is_empty() && claim.id.len() <= text.len().max(ID.len()));
        drop(names);
    }
    std::fs::remove_file(&path).expect("it was there");
});

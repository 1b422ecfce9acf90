//! Names that podman keeps about root's containers. They choose among rules and prove nothing.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use upcall_config::facts::PodFacts;

use super::claim::{Claim, Names};
use crate::linux::secure;

/// The largest list of containers that is read: some 100,000 of them.
const LIST_MAX: u64 = 64 << 20;

/// The storage drivers whose lists are looked for.
const DRIVERS: [&str; 3] = ["overlay", "vfs", "btrfs"];

/// What the list says of one container: the first of its names, and the image it was made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Listed {
    name: Option<String>,
    image: Option<String>,
}

/// One list, as it was when its file was last changed.
#[derive(Debug)]
struct List {
    path: PathBuf,
    version: (u64, u64, i64, i64),
    names: Arc<HashMap<Vec<u8>, Listed>>,
}

/// Reads podman's lists of containers, each again when its file has changed.
#[derive(Debug)]
pub(super) struct Podman {
    graphroot: PathBuf,
    lists: Mutex<Vec<List>>,
}

/// One entry of containers.json (containers/storage).
#[derive(Deserialize)]
struct Entry {
    id: String,
    #[serde(default)]
    names: Option<Vec<String>>,
    #[serde(default)]
    metadata: String,
}

/// What podman puts into an entry's `metadata`, which is JSON in a string.
#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Metadata {
    image_name: String,
}

impl Podman {
    /// Looks below root's storage directory.
    pub(super) fn new(graphroot: &Path) -> Self {
        Self {
            graphroot: graphroot.to_owned(),
            lists: Mutex::default(),
        }
    }

    /// The names of a container; unknown where the list cannot be read or does not have it. `state` looks another
    /// one up, by its id, and `pod` is the pod's id that its cgroup names.
    pub(super) fn names(
        &self,
        claim: &Claim,
        pod: Option<Vec<u8>>,
        state: impl FnOnce(&[u8]) -> Option<Claim>,
    ) -> Names {
        let listed = DRIVERS
            .into_iter()
            .map(|driver| {
                self.graphroot
                    .join(format!("{driver}-containers/containers.json"))
            })
            .find_map(|path| self.list(&path)?.get(claim.id.as_slice()).cloned())
            .unwrap_or_default();
        // podman calls a pod's host as the pod, unless told otherwise; its name itself is in its database alone.
        let infra = match claim.annotation("io.kubernetes.cri-o.SandboxID") {
            Some(id) => state(id).and_then(|infra| infra.known.hostname),
            None => claim.known.hostname.clone(),
        };
        Names {
            name: listed.name.map(String::into_bytes),
            image: listed.image.map(String::into_bytes),
            // What podman gives runc as annotations are its own; labels are in its database alone.
            labels: None,
            pod: pod.map(|uid| PodFacts {
                name: infra,
                uid: Some(uid),
                ..PodFacts::default()
            }),
        }
    }

    fn list(&self, path: &Path) -> Option<Arc<HashMap<Vec<u8>, Listed>>> {
        let file = secure::open_file(path).ok()?;
        let meta = file.metadata().ok()?;
        let version = (meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec());
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        lists.retain(|list| list.path != path || list.version == version);
        if let Some(list) = lists.iter().find(|list| list.path == path) {
            return Some(Arc::clone(&list.names));
        }
        let names = Arc::new(read(path)?);
        lists.push(List {
            path: path.to_owned(),
            version,
            names: Arc::clone(&names),
        });
        Some(names)
    }
}

/// Whether podman made it.
pub(super) fn made(claim: &Claim) -> bool {
    claim.annotation("io.container.manager") == Some(b"libpod")
}

fn read(path: &Path) -> Option<HashMap<Vec<u8>, Listed>> {
    let bytes = secure::read_file(path, LIST_MAX).ok()?;
    let entries: Vec<Entry> = serde_json::from_slice(&bytes).ok()?;
    let names = |entry: Entry| {
        let metadata: Metadata = serde_json::from_str(&entry.metadata).unwrap_or_default();
        let listed = Listed {
            name: entry.names.and_then(|names| names.into_iter().next()),
            // A container made from a plain root file system has no image.
            image: Some(metadata.image_name).filter(|image| !image.is_empty()),
        };
        (entry.id.into_bytes(), listed)
    };
    Some(entries.into_iter().map(names).collect())
}

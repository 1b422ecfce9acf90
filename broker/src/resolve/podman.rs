//! Names that podman keeps about root's containers. They choose among rules and prove nothing.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;

use crate::linux::secure;

/// The largest list of containers that is read: some 100,000 of them.
const LIST_MAX: u64 = 64 << 20;

/// The storage drivers whose lists are looked for.
const DRIVERS: [&str; 3] = ["overlay", "vfs", "btrfs"];

/// What podman calls one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The first of its names.
    pub name: Option<String>,
    /// The image it was made from.
    pub image: Option<String>,
}

/// One list, as it was when its file was last changed.
#[derive(Debug)]
struct List {
    path: PathBuf,
    version: (u64, u64, i64, i64),
    names: Arc<HashMap<String, Names>>,
}

/// Reads podman's lists of containers, each again when its file has changed.
#[derive(Debug)]
pub struct Podman {
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
    pub fn new(graphroot: &Path) -> Self {
        Self {
            graphroot: graphroot.to_owned(),
            lists: Mutex::default(),
        }
    }

    /// The names of a container; unknown where the list cannot be read or does not have it.
    pub fn names(&self, id: &str) -> Names {
        DRIVERS
            .into_iter()
            .map(|driver| {
                self.graphroot
                    .join(format!("{driver}-containers/containers.json"))
            })
            .find_map(|path| self.list(&path)?.get(id).cloned())
            .unwrap_or_default()
    }

    fn list(&self, path: &Path) -> Option<Arc<HashMap<String, Names>>> {
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

fn read(path: &Path) -> Option<HashMap<String, Names>> {
    let bytes = secure::read_file(path, LIST_MAX).ok()?;
    let entries: Vec<Entry> = serde_json::from_slice(&bytes).ok()?;
    let names = |entry: Entry| {
        let metadata: Metadata = serde_json::from_str(&entry.metadata).unwrap_or_default();
        let names = Names {
            name: entry.names.and_then(|names| names.into_iter().next()),
            // A container made from a plain root file system has no image.
            image: Some(metadata.image_name).filter(|image| !image.is_empty()),
        };
        (entry.id, names)
    };
    Some(entries.into_iter().map(names).collect())
}

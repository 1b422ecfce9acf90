//! Names that docker keeps about its containers. They choose among rules and prove nothing.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::claim::{Claim, Names, labels, pod_of_kubernetes};
use crate::linux::secure::Directory;

/// The largest file about one container that is read; they have some 5 KiB.
const FILE_MAX: u64 = 4 << 20;

/// How many of docker's directories for mapped users (`userns-remap`) are looked into.
const MAPPED_MAX: usize = 64;

/// Reads `config.v2.json` of single containers.
#[derive(Debug)]
pub(super) struct Docker {
    root: PathBuf,
}

/// config.v2.json: the fields that are used.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    config: Config,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    image: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

impl Docker {
    /// Looks below docker's data directory (`--data-root`).
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// Names of a container; unknown where there is no such file.
    pub(super) fn names(&self, claim: &Claim) -> Names {
        let Some(found) = self.read(&claim.id) else {
            return Names::default();
        };
        let labels = labels(found.config.labels.unwrap_or_default());
        let name = found.name.strip_prefix('/').unwrap_or(&found.name);
        let image = Some(found.config.image).filter(|image| !image.is_empty());
        Names {
            name: Some(name.as_bytes().to_vec()),
            image: image.map(String::into_bytes),
            pod: pod_of_kubernetes(&labels),
            labels: Some(labels),
        }
    }

    fn read(&self, id: &[u8]) -> Option<Container> {
        let root = Directory::open(&self.root).ok()?;
        let of = |directory: &Directory| {
            let containers = directory.child(OsStr::new("containers")).ok()?;
            let container = containers.child(OsStr::from_bytes(id)).ok()?;
            let bytes = container.read("config.v2.json", FILE_MAX).ok()?;
            let found: Container = serde_json::from_slice(&bytes).ok()?;
            (found.id.as_bytes() == id).then_some(found)
        };
        of(&root).or_else(|| {
            // With mapped users everything is once more below UID.GID.
            let mapped = root.names(MAPPED_MAX);
            let mapped = mapped.iter().filter(|name| name.as_bytes().contains(&b'.'));
            mapped
                .filter_map(|name| root.child(name).ok())
                .find_map(|directory| of(&directory))
        })
    }
}

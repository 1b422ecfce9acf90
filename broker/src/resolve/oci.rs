//! What runc and crun keep about a container: its id, its init, its cgroups. podman, docker, containerd and CRI-O all
//! have one of the two below them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use upcall_config::facts::Runtime;

use super::claim::{Claim, Init, Known, Labels, labels};
use super::{crio, podman};
use crate::linux::secure::{Directory, OpenError, Version};

/// The largest state file that is read; runc's have 6 to 60 KiB.
const STATE_MAX: u64 = 4 << 20;

/// The same of a user's own, who can make them as long as he likes.
const USERS_STATE_MAX: u64 = 256 << 10;

/// How many containers' states are looked through at most.
pub(crate) const SCAN_MAX: usize = 10_000;

/// How many namespaces of containerd's are looked into at most.
const NAMESPACES_MAX: usize = 64;

/// What runc writes, and crun.
const FILES: [&str; 2] = ["state.json", "status"];

/// Why a runtime's file is no evidence.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// There is no such container.
    #[error("{runtime} has no container of this name")]
    Absent {
        /// Which runtime was asked.
        runtime: Runtime,
    },
    /// Not its owner's alone, or not readable.
    #[error("{}: {source}", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: OpenError,
    },
    /// Not what this runtime writes.
    #[error("{}: not a state of {runtime}: {source}", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Whose it should be.
        runtime: Runtime,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// One directory in which a runtime keeps its containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Whose.
    pub runtime: Runtime,
    /// Where.
    pub path: PathBuf,
    /// Who may write it: 0, or the user whose containers they are.
    pub owner: u32,
}

impl Root {
    /// One of root's own.
    pub fn new(runtime: Runtime, path: impl Into<PathBuf>) -> Self {
        Self {
            runtime,
            path: path.into(),
            owner: 0,
        }
    }

    /// The roots of a runtime that has one for each of its namespaces, as containerd and docker do.
    pub fn each_below(&self) -> Vec<Self> {
        let Ok(directory) = self.open() else {
            return Vec::new();
        };
        let names = directory.names(NAMESPACES_MAX);
        let root = |name| Self::new(self.runtime, self.path.join(name));
        names.into_iter().map(root).collect()
    }

    /// The container with this id. The id may come from a cgroup's name, so it is looked at before it is looked up.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn get(&self, id: &[u8]) -> Result<Claim, StateError> {
        if !is_id(id) {
            return Err(self.absent());
        }
        // What is not its owner's alone is no state of his.
        let directory = self.open().and_then(|top| top.child(OsStr::from_bytes(id)));
        let directory = directory.map_err(|_| self.absent())?;
        self.read(id, &directory)
    }

    /// The roots of a user who runs containers without root: below /run/user/UID, whatever he has put there.
    pub fn of_user(users: &Path, uid: u32) -> [Self; 2] {
        let own = users.join(uid.to_string());
        [(Runtime::Runc, "runc"), (Runtime::Crun, "crun")].map(|(runtime, name)| Self {
            runtime,
            path: own.join(name),
            owner: uid,
        })
    }

    fn state_max(&self) -> u64 {
        match self.owner {
            0 => STATE_MAX,
            _ => USERS_STATE_MAX,
        }
    }

    /// Ids of all its containers, as far as their number is sane.
    pub fn ids(&self) -> Vec<Vec<u8>> {
        let Ok(directory) = self.open() else {
            return Vec::new();
        };
        let names = directory.names(SCAN_MAX);
        names.iter().map(|id| id.as_bytes().to_vec()).collect()
    }

    /// Which version of its state each of them has, without reading one.
    pub(super) fn versions(&self) -> Vec<(Vec<u8>, Version)> {
        let Ok(directory) = self.open() else {
            return Vec::new();
        };
        let names = directory.names(SCAN_MAX).into_iter();
        let version = |id: OsString| {
            let below = Path::new(&id);
            let mut files = FILES.into_iter();
            let version = files.find_map(|file| directory.version(&below.join(file)))?;
            Some((id.into_vec(), version))
        };
        names.filter_map(version).collect()
    }

    fn absent(&self) -> StateError {
        StateError::Absent {
            runtime: self.runtime,
        }
    }

    fn open(&self) -> Result<Directory, OpenError> {
        match self.owner {
            0 => Directory::open(&self.path),
            // The user's own directory is the one that root made; what is in it is his.
            owner => {
                let (top, name) = (self.path.parent(), self.path.file_name());
                let top = Directory::open_of(top.unwrap_or(&self.path), owner)?;
                top.child(name.unwrap_or_default())
            }
        }
    }

    fn read(&self, id: &[u8], directory: &Directory) -> Result<Claim, StateError> {
        for file in FILES {
            let path = || self.path.join(OsStr::from_bytes(id)).join(file);
            let bytes = match directory.read(file, self.state_max()) {
                Ok(bytes) => bytes,
                Err(error) if error.is_absent() => continue,
                Err(source) => {
                    let path = path();
                    return Err(StateError::Open { path, source });
                }
            };
            let parsed = if file == "status" {
                crun(self, id, &bytes, || config(directory, self.state_max()))
            } else {
                runc(self, &bytes)
            };
            return match parsed {
                Ok(claim) => Ok(made_by(claim)),
                Err(source) => Err(StateError::Parse {
                    path: path(),
                    runtime: self.runtime,
                    source,
                }),
            };
        }
        Err(self.absent())
    }
}

/// podman and CRI-O have their containers where those of plain runc and crun are, and say so in an annotation.
fn made_by(mut claim: Claim) -> Claim {
    if podman::made(&claim) {
        claim.runtime = Runtime::Podman;
    } else if crio::made(&claim) {
        claim.runtime = Runtime::CriO;
    }
    claim
}

/// Letters, digits and `_+.-`, as both runtimes demand of an id; so it is one component of a path and never `..`.
fn is_id(id: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_+.-".contains(byte);
    (1..=1024).contains(&id.len()) && id.first() != Some(&b'.') && id.iter().all(plain)
}

/// runc's state.json (libcontainer's `State`): the fields that are used.
#[derive(Deserialize)]
struct RuncState {
    id: String,
    init_process_pid: u32,
    init_process_start: u64,
    #[serde(default)]
    cgroup_paths: BTreeMap<String, String>,
    config: RuncConfig,
}

#[derive(Deserialize)]
struct RuncConfig {
    #[serde(default)]
    labels: Option<Vec<String>>,
    #[serde(default)]
    hostname: String,
}

fn runc(root: &Root, bytes: &[u8]) -> Result<Claim, serde_json::Error> {
    let state: RuncState = serde_json::from_slice(bytes)?;
    let annotations = state.config.labels.unwrap_or_default();
    let annotations: Labels = annotations
        .iter()
        .filter_map(|label| label.split_once('='))
        // runc's own note of where the bundle is, not the admin's.
        .filter(|(key, _)| *key != "bundle")
        .map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec()))
        .collect();
    Ok(Claim {
        runtime: root.runtime,
        id: state.id.into_bytes(),
        init: Init::Started {
            pid: state.init_process_pid,
            start: state.init_process_start,
        },
        owner: root.owner,
        evidence: "state",
        known: Known {
            name: None,
            annotations: Some(annotations),
            hostname: some(state.config.hostname),
            cgroups: state.cgroup_paths.into_values().collect(),
        },
    })
}

/// crun's status file: the fields that are used.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct CrunStatus {
    pid: u32,
    process_start_time: u64,
    #[serde(default)]
    cgroup_path: String,
}

/// The OCI configuration, which crun keeps beside its status: the fields that are used.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Config {
    annotations: BTreeMap<String, String>,
    hostname: String,
}

fn config(directory: &Directory, max: u64) -> Option<Config> {
    let bytes = directory.read("config.json", max).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn crun(
    root: &Root,
    id: &[u8],
    bytes: &[u8],
    config: impl FnOnce() -> Option<Config>,
) -> Result<Claim, serde_json::Error> {
    let status: CrunStatus = serde_json::from_slice(bytes)?;
    let config = config();
    let hostname = config
        .as_ref()
        .and_then(|config| some(config.hostname.clone()));
    Ok(Claim {
        // Whatever was looked for here: crun it is, where it is plain.
        runtime: if root.runtime == Runtime::Runc {
            Runtime::Crun
        } else {
            root.runtime
        },
        id: id.to_vec(),
        init: Init::Started {
            pid: status.pid,
            start: status.process_start_time,
        },
        owner: root.owner,
        evidence: "state",
        known: Known {
            name: None,
            annotations: config.map(|config| labels(config.annotations)),
            hostname,
            cgroups: vec![status.cgroup_path],
        },
    })
}

fn some(text: String) -> Option<Vec<u8>> {
    Some(text.into_bytes()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_never_a_path() {
        for id in [
            b"..".as_slice(),
            b"",
            b".",
            b"a/b",
            b"../x",
            b"a\0",
            b".hidden",
            b"a b",
            b"\xff",
        ] {
            assert!(!is_id(id), "{}", id.escape_ascii());
        }
        assert!(is_id(b"web-1.a_b+c"));
    }

    #[test]
    fn both_runtimes_states_are_read() {
        let (runc_root, crun_root) = (
            Root::new(Runtime::Runc, "/r"),
            Root::new(Runtime::Crun, "/c"),
        );
        let state = runc(
            &runc_root,
            br#"{"id":"web","init_process_pid":77,"init_process_start":4711,"unknown":[1],
                 "cgroup_paths":{"":"/sys/fs/cgroup/web"},
                 "config":{"labels":["tier=front=end","bundle=/b","odd"],"hostname":"shop","rootfs":"/r"}}"#,
        )
        .unwrap();
        let started = |pid, start| Init::Started { pid, start };
        assert_eq!(state.init, started(77, 4711));
        assert_eq!(state.known.cgroups, ["/sys/fs/cgroup/web"]);
        assert_eq!(state.known.hostname.as_deref(), Some(&b"shop"[..]));
        assert_eq!(state.annotation("tier"), Some(&b"front=end"[..]));
        assert_eq!(state.annotation("bundle"), None);
        let status = br#"{"pid":5,"process-start-time":6,"cgroup-path":""}"#;
        let state = crun(&crun_root, b"x", status, || None).unwrap();
        assert_eq!(
            (state.init, state.id.as_slice()),
            (started(5, 6), &b"x"[..])
        );
        assert_eq!(state.known.annotations, None);
        assert!(runc(&runc_root, b"{}").is_err());
        assert!(crun(&crun_root, b"x", b"[]", || None).is_err());
    }
}

//! What runc and crun keep about a container: its id, its init, its cgroups. Root's own files, or no evidence at all.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use upcall_config::facts::Runtime;

use crate::linux::secure;

/// The largest state file that is read; runc's have 6 to 60 KiB.
const STATE_MAX: u64 = 4 << 20;

/// How many containers' states are looked through for a cgroup's path at most.
const SCAN_MAX: usize = 10_000;

/// A container as its runtime has it on disk, not yet compared with anything the kernel says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Which of the two wrote it.
    pub runtime: Runtime,
    /// Its id.
    pub id: String,
    /// Its init, in the runtime's pid namespace.
    pub pid: u32,
    /// When the init started, in clock ticks since boot.
    pub start: u64,
    /// Directories of its cgroups as the runtime saw them mounted.
    pub cgroups: Vec<String>,
    /// Annotations of the OCI configuration.
    pub annotations: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Why a runtime's file is no evidence.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// There is no such container.
    #[error("{runtime} has no container of this name")]
    Absent {
        /// Which runtime was asked.
        runtime: Runtime,
    },
    /// Not root's alone, or not readable.
    #[error("{}: {source}", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: secure::OpenError,
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
}

impl Root {
    /// The container with this id. The id may come from a cgroup's name, so it is looked at before it is looked up.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn get(&self, id: &[u8]) -> Result<State, StateError> {
        let absent = || StateError::Absent {
            runtime: self.runtime,
        };
        if !is_id(id) {
            return Err(absent());
        }
        let directory = self.path.join(std::ffi::OsStr::from_bytes(id));
        if !is_roots(&self.path) || !is_roots(&directory) {
            return Err(absent());
        }
        let path = directory.join(self.file());
        let bytes = match secure::read_file(&path, STATE_MAX) {
            Ok(bytes) => bytes,
            Err(secure::OpenError::Open(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(absent());
            }
            Err(source) => return Err(StateError::Open { path, source }),
        };
        let parsed = if self.runtime == Runtime::Crun {
            crun(id, &bytes)
        } else {
            runc(&bytes)
        };
        parsed.map_err(|source| StateError::Parse {
            path,
            runtime: self.runtime,
            source,
        })
    }

    /// Containers whose state mentions this cgroup's path: those with a path of the admin's own choice, which names
    /// nothing. Only called for processes that are in *some* namespace of their own and whose cgroup told nothing.
    pub fn with_cgroup(&self, path: &[u8]) -> Vec<State> {
        if !is_roots(&self.path) || path == b"/" {
            return Vec::new();
        }
        let Ok(entries) = std::fs::read_dir(&self.path) else {
            return Vec::new();
        };
        let ids = entries
            .flatten()
            .take(SCAN_MAX)
            .map(|entry| entry.file_name());
        ids.filter(|id| self.mentions(id.as_bytes(), path))
            .filter_map(|id| self.get(id.as_bytes()).ok())
            .filter(|state| {
                state
                    .cgroups
                    .iter()
                    .any(|cgroup| cgroup.as_bytes().ends_with(path))
            })
            .collect()
    }

    /// Whether the raw file holds the path: most do not, and need not be parsed.
    fn mentions(&self, id: &[u8], path: &[u8]) -> bool {
        let file = self
            .path
            .join(std::ffi::OsStr::from_bytes(id))
            .join(self.file());
        secure::read_file(&file, STATE_MAX)
            .is_ok_and(|bytes| bytes.windows(path.len()).any(|window| window == path))
    }

    fn file(&self) -> &'static str {
        if self.runtime == Runtime::Crun {
            "status"
        } else {
            "state.json"
        }
    }
}

/// Letters, digits and `_+.-`, as both runtimes demand of an id; so it is one component of a path and never `..`.
fn is_id(id: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_+.-".contains(byte);
    (1..=1024).contains(&id.len()) && id.first() != Some(&b'.') && id.iter().all(plain)
}

/// Whether a directory is root's, and nobody else can make entries in it.
fn is_roots(path: &Path) -> bool {
    path.symlink_metadata()
        .is_ok_and(|meta| meta.is_dir() && meta.uid() == 0 && meta.mode() & 0o022 == 0)
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
}

fn runc(bytes: &[u8]) -> Result<State, serde_json::Error> {
    let state: RuncState = serde_json::from_slice(bytes)?;
    let labels = state.config.labels.unwrap_or_default();
    let annotations = labels
        .iter()
        .filter_map(|label| label.split_once('='))
        // runc's own note of where the bundle is, not the admin's.
        .filter(|(key, _)| *key != "bundle")
        .map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec()))
        .collect();
    Ok(State {
        runtime: Runtime::Runc,
        id: state.id,
        pid: state.init_process_pid,
        start: state.init_process_start,
        cgroups: state.cgroup_paths.into_values().collect(),
        annotations,
    })
}

/// crun's status file: the fields that are used. Its annotations are in another file.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct CrunStatus {
    pid: u32,
    process_start_time: u64,
    #[serde(default)]
    cgroup_path: String,
}

fn crun(id: &[u8], bytes: &[u8]) -> Result<State, serde_json::Error> {
    let status: CrunStatus = serde_json::from_slice(bytes)?;
    Ok(State {
        runtime: Runtime::Crun,
        id: String::from_utf8_lossy(id).into_owned(),
        pid: status.pid,
        start: status.process_start_time,
        cgroups: vec![status.cgroup_path],
        annotations: BTreeMap::new(),
    })
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
        let state = runc(
            br#"{"id":"web","init_process_pid":77,"init_process_start":4711,"unknown":[1],
                 "cgroup_paths":{"":"/sys/fs/cgroup/web"},
                 "config":{"labels":["tier=front=end","bundle=/b","odd"],"rootfs":"/r"}}"#,
        )
        .unwrap();
        assert_eq!(
            (state.pid, state.start, state.cgroups.as_slice()),
            (77, 4711, &["/sys/fs/cgroup/web".to_owned()][..])
        );
        assert_eq!(
            state.annotations,
            BTreeMap::from([(b"tier".to_vec(), b"front=end".to_vec())])
        );
        let state = crun(
            b"x",
            br#"{"pid":5,"process-start-time":6,"cgroup-path":""}"#,
        )
        .unwrap();
        assert_eq!((state.pid, state.start, state.id.as_str()), (5, 6, "x"));
        assert!(runc(b"{}").is_err() && crun(b"x", b"[]").is_err());
    }
}

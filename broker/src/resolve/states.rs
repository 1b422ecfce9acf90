//! Which cgroups the containers of OCI runtimes have. It is remembered, each as long as its state is the same file: a
//! process whose cgroup names nobody would otherwise have every state of the host read, and anybody can crash one.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::claim::Claim;
use super::oci::Root;
use crate::linux::secure::Version;

/// What states said when they were last read. It says whom to ask and vouches for nobody.
#[derive(Debug, Default)]
pub(super) struct States(Mutex<HashMap<PathBuf, Seen>>);

#[derive(Debug)]
struct Seen {
    version: Version,
    cgroups: Vec<String>,
}

impl States {
    /// Containers whose state has one of these cgroups' paths, each path below the next: those with a path of the
    /// admin's own choice, which names nothing. With each, which path that was. Only for roots of root's own.
    pub(super) fn with_cgroups(&self, roots: &[Root], paths: &[&[u8]]) -> Vec<(usize, Claim)> {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that are gone are not taken over.
        let mut former = std::mem::take(&mut *states);
        let mut asked = Vec::new();
        for root in roots {
            for (id, version) in root.versions() {
                let path = root.path.join(OsStr::from_bytes(&id));
                let seen = former.remove(&path);
                let seen = seen.filter(|seen| seen.version == version);
                // What is written after this look has another version at the next.
                let read = || {
                    let cgroups = root.get(&id).ok()?.known.cgroups;
                    Some(Seen { version, cgroups })
                };
                let Some(seen) = seen.or_else(read) else {
                    continue;
                };
                if innermost(&seen.cgroups, paths).is_some() {
                    asked.push((root, id));
                }
                states.insert(path, seen);
            }
        }
        drop(states);
        // The evidence is what the state says now.
        let now = |(root, id): (&Root, Vec<u8>)| {
            let claim = root.get(&id).ok()?;
            Some((innermost(&claim.known.cgroups, paths)?, claim))
        };
        asked.into_iter().filter_map(now).collect()
    }
}

/// The first of the paths that one of the cgroups has.
fn innermost(cgroups: &[String], paths: &[&[u8]]) -> Option<usize> {
    let of = |path: &&[u8]| {
        let mut cgroups = cgroups.iter();
        cgroups.any(|cgroup| cgroup.as_bytes().ends_with(path))
    };
    paths.iter().position(of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use upcall_config::facts::Runtime;

    fn write(top: &Path, id: &str, cgroup: &str) {
        let directory = top.join(id);
        std::fs::create_dir_all(&directory).unwrap();
        let state = format!(
            r#"{{"id":"{id}","init_process_pid":7,"init_process_start":1,
                 "cgroup_paths":{{"":"/sys/fs/cgroup{cgroup}"}},"config":{{}}}}"#
        );
        // As runc does it.
        std::fs::write(directory.join("new"), state).unwrap();
        std::fs::rename(directory.join("new"), directory.join("state.json")).unwrap();
    }

    #[test]
    fn what_is_remembered_follows_the_files_and_is_no_evidence() {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("SKIPPED: needs root, whose files are read");
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let top = place.path();
        let (states, roots) = (States::default(), [Root::new(Runtime::Runc, top)]);
        let found = |paths: &[&str]| {
            let paths: Vec<&[u8]> = paths.iter().map(|path| path.as_bytes()).collect();
            let found = states.with_cgroups(&roots, &paths).into_iter();
            let mut found: Vec<_> = found
                .map(|(which, claim)| (which, String::from_utf8(claim.id).unwrap()))
                .collect();
            found.sort();
            found
        };
        let one = |which, id: &str| vec![(which, id.to_owned())];
        write(top, "web", "/shop/front");
        write(top, "db", "/shop/back");
        assert_eq!(
            found(&["/shop/front/x", "/shop/front", "/shop"]),
            one(1, "web")
        );
        assert_eq!(found(&["/shop/back"]), one(0, "db"));
        // Changed, with a state that is as long; made; gone.
        write(top, "web", "/shop/trunk");
        write(top, "new", "/shop/front");
        std::fs::remove_dir_all(top.join("db")).unwrap();
        assert_eq!(found(&["/shop/front"]), one(0, "new"));
        assert_eq!(found(&["/shop/trunk"]), one(0, "web"));
        assert_eq!(found(&["/shop/back"]), []);
        assert_eq!(
            states.0.lock().unwrap().len(),
            2,
            "what is gone is forgotten"
        );
        // Whatever is remembered, the state itself has to say it.
        let mut remembered = states.0.lock().unwrap();
        remembered.get_mut(&top.join("web")).unwrap().cgroups = vec!["/shop/front".to_owned()];
        drop(remembered);
        assert_eq!(found(&["/shop/front"]), one(0, "new"));
    }
}

//! systemd-nspawn's containers, as systemd-machined registers them in /run/systemd/machines.
//!
//! That state has the leader's number and no start time. But the leader is the child of nspawn itself, a root process
//! of the host's that stays in the machine's unit beside it and waits for its end: a number that was used again would have
//! another parent ([`super::leader::Leader::open`]), and a file that machined left behind names a unit whose cgroup is
//! gone, or another machine's by that name, which then is the right one.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use upcall_config::facts::Runtime;

use super::claim::{Claim, Init, Known, Supervisor};
use crate::linux::parse;
use crate::linux::secure::Directory;

/// The largest file about one machine that is read; they have some 300 bytes.
const FILE_MAX: u64 = 64 << 10;

/// Where machined has its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Machines(pub(super) PathBuf);

impl Machines {
    /// The machine of a unit, which is what its cgroup is called.
    pub(super) fn of_unit(&self, unit: &[u8]) -> Option<Claim> {
        if !unit.ends_with(b".scope") && !unit.ends_with(b".service") {
            return None;
        }
        let directory = Directory::open(&self.0).ok()?;
        let link = [b"unit:", unit].concat();
        let name = directory.link(OsStr::from_bytes(&link)).ok()?;
        claim(&directory, &name)
            .filter(|(_, of)| of == unit)
            .map(|(claim, _)| claim)
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Claim> {
        let Ok(directory) = Directory::open(&self.0) else {
            return Vec::new();
        };
        let names = directory.names(super::oci::SCAN_MAX);
        let machines = names
            .iter()
            .filter(|name| !name.as_bytes().starts_with(b"unit:"));
        machines
            .filter_map(|name| claim(&directory, name))
            .map(|(claim, _)| claim)
            .collect()
    }
}

/// A machine of nspawn's, and its unit.
fn claim(directory: &Directory, name: &OsString) -> Option<(Claim, Vec<u8>)> {
    let text = directory.read(name.to_str()?, FILE_MAX).ok()?;
    let value = |key: &str| {
        let mut lines = text.split(|byte| *byte == b'\n');
        lines.find_map(|line| line.strip_prefix(key.as_bytes())?.strip_prefix(b"="))
    };
    // libvirt and others register theirs too, and virtual machines are there as well.
    if value("SERVICE") != Some(b"systemd-nspawn") || value("CLASS") != Some(b"container") {
        return None;
    }
    let unit = value("SCOPE").or_else(|| value("UNIT"))?.to_vec();
    let init = Init::Child {
        pid: parse::number(value("LEADER")?)?,
        of: Supervisor::Beside(unit.clone()),
    };
    let id = value("ID").filter(|id| !id.is_empty());
    let id = id.unwrap_or(name.as_bytes());
    let claim = Claim {
        runtime: Runtime::Nspawn,
        id: id.to_vec(),
        init,
        owner: 0,
        evidence: "machine",
        known: Known {
            name: Some(name.as_bytes().to_vec()),
            ..Known::default()
        },
    };
    Some((claim, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_an_id_is_called_by_its_name() {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("SKIPPED: needs root, whose files are read");
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let state = |id: &str| {
            format!(
                "{id}SERVICE=systemd-nspawn\nCLASS=container\nSCOPE=machine-web.scope\nLEADER=7\n"
            )
        };
        for (id, expected) in [("ID=0122\n", "0122"), ("ID=\n", "web"), ("", "web")] {
            std::fs::write(place.path().join("web"), state(id)).unwrap();
            let all = Machines(place.path().to_owned()).all();
            let ids: Vec<_> = all.iter().map(|claim| claim.id.as_slice()).collect();
            assert_eq!(ids, [expected.as_bytes()], "{id}");
        }
    }
}

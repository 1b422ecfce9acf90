//! Names of containerd's containers: all of them are annotations in the state of the OCI runtime below it.

use upcall_config::facts::PodFacts;

use super::claim::{Claim, Names};

/// Names of a container of the CRI, of nerdctl or of `ctr`.
pub(super) fn names(claim: &Claim) -> Names {
    let cri = |key: &str| claim.noted(&format!("io.kubernetes.cri.{key}"));
    if cri("container-type").is_none() {
        let mut names = Names::by_id(claim);
        names.name = claim.noted("nerdctl/name").or(names.name);
        return names;
    }
    Names {
        // A pod's sandbox has no name of its own.
        name: cri("container-name"),
        image: cri("image-name"),
        labels: claim.known.annotations.clone(),
        pod: Some(PodFacts {
            namespace: cri("sandbox-namespace"),
            name: cri("sandbox-name"),
            uid: cri("sandbox-uid"),
            labels: None,
        }),
    }
}

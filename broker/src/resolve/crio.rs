//! Names of CRI-O's containers: annotations in the state of the OCI runtime below it, its own and its sandbox's.

use upcall_config::facts::PodFacts;

use super::claim::{Claim, Labels, Names, labels, pod_of_kubernetes};

/// Whether CRI-O made it.
pub(super) fn made(claim: &Claim) -> bool {
    claim.annotation("io.container.manager") == Some(b"cri-o")
}

/// Names of a container; `state` looks another one up, by its id.
pub(super) fn names(claim: &Claim, state: impl FnOnce(&[u8]) -> Option<Claim>) -> Names {
    let crio = |key: &str| claim.noted(&format!("io.kubernetes.cri-o.{key}"));
    let mut all = claim.known.annotations.clone().unwrap_or_default();
    let pod = pod_of_kubernetes(&all).unwrap_or_default();
    // The pod's labels are the sandbox's; the sandbox itself says them right here.
    let pod_labels = match crio("SandboxID") {
        Some(sandbox) if sandbox != claim.id => state(&sandbox).as_ref().and_then(written),
        _ => written(claim),
    };
    let name = claim.noted("io.kubernetes.container.name");
    all.extend(written(claim).unwrap_or_default());
    Names {
        name: name.or_else(|| crio("ContainerName")),
        image: crio("ImageName").or_else(|| crio("Image")),
        labels: Some(all),
        pod: Some(PodFacts {
            namespace: pod.namespace.or_else(|| crio("Namespace")),
            name: pod.name.or_else(|| crio("KubeName")),
            uid: pod.uid,
            labels: pod_labels,
        }),
    }
}

/// The labels that CRI-O writes as JSON into one annotation.
fn written(claim: &Claim) -> Option<Labels> {
    serde_json::from_slice(claim.annotation("io.kubernetes.cri-o.Labels")?)
        .ok()
        .map(labels)
}

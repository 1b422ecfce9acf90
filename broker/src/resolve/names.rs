//! Names of cgroups, and what they hint at. A name *nominates* and proves nothing: a tenant with a delegated cgroup
//! makes what names it likes.
//!
//! One component of the path is looked at a time, with the two above it, from the innermost out.

/// What a name looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "Family::as_str says it")]
pub enum Family {
    Podman,
    Docker,
    ContainerdCri,
    /// Below kubepods with cgroupfs names, as containerd's CRI and dockershim both make them.
    Cri,
    CriO,
    Nerdctl,
    /// A bare id of 64 digits under a parent of the admin's.
    Oci,
    Lxc,
    Nspawn,
    LibvirtLxc,
    Vm,
    Flatpak,
    Snap,
    /// conmon, an LXC monitor, nspawn's supervisor: beside a container, not in it.
    Monitor,
    Service,
    /// A name that says nothing; runc's and crun's containers may be named so.
    Plain,
}

impl Family {
    /// The word used in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::Docker => "docker",
            Self::ContainerdCri => "containerd-cri",
            Self::Cri => "containerd-cri|docker",
            Self::CriO => "cri-o",
            Self::Nerdctl => "nerdctl",
            Self::Oci => "oci",
            Self::Lxc => "lxc",
            Self::Nspawn => "nspawn",
            Self::LibvirtLxc => "libvirt-lxc",
            Self::Vm => "vm",
            Self::Flatpak => "flatpak",
            Self::Snap => "snap",
            Self::Monitor => "monitor",
            Self::Service => "systemd",
            Self::Plain => "-",
        }
    }
}

/// One component of a cgroup's path, and what it may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nominee<'a> {
    /// What it looks like.
    pub family: Family,
    /// The id or name in it; as text it may be anything.
    pub id: Vec<u8>,
    /// The component itself.
    pub component: &'a [u8],
    /// The path down to and with this component: everything of the container is below it.
    pub root: &'a [u8],
}

/// How deep a container's own cgroup lies at most. Runtimes make them at the top, four to eight deep; below, its
/// processes may make thousands, each in the last one, and each would cost a search.
const DEPTH_MAX: usize = 24;

/// What the components of a path may name, innermost first, of the outermost 24 (`DEPTH_MAX`).
pub fn nominees(path: &[u8]) -> Vec<Nominee<'_>> {
    let mut ends: Vec<usize> = (1..path.len())
        .filter(|index| path.get(*index) == Some(&b'/'))
        .collect();
    ends.push(path.len());
    let components: Vec<&[u8]> = path
        .strip_prefix(b"/")
        .unwrap_or(path)
        .split(|byte| *byte == b'/')
        .collect();
    let above = |index: usize, up: usize| {
        index
            .checked_sub(up)
            .and_then(|index| components.get(index))
            .copied()
            .unwrap_or_default()
    };
    (0..components.len().min(DEPTH_MAX))
        .rev()
        .filter(|index| !above(*index, 0).is_empty())
        .map(|index| {
            let parents = [above(index, 1), above(index, 2), above(index, 3)];
            let (family, id) = classify(above(index, 0), parents);
            let root = ends
                .get(index)
                .and_then(|end| path.get(..*end))
                .unwrap_or(path);
            Nominee {
                family,
                id,
                component: above(index, 0),
                root,
            }
        })
        .collect()
}

/// The Kubernetes or podman pod that a path names, the innermost.
pub fn pod(path: &[u8]) -> Option<Vec<u8>> {
    let components: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    components.windows(2).rev().find_map(|pair| match pair {
        [b"libpod_parent", id] if is_hex64(id) => Some(id.to_vec()),
        [_, component] => pod_of(component),
        _ => None,
    })
}

fn pod_of(component: &[u8]) -> Option<Vec<u8>> {
    // systemd's slices cannot hold dashes in a uid, so the kubelet writes underscores; a `:cri-containerd:` may follow.
    let slice = component
        .split(|byte| *byte == b':')
        .next()
        .unwrap_or_default();
    if let Some(name) = slice.strip_suffix(b".slice") {
        if let Some(id) = [b"machine-libpod_pod_".as_slice(), b"user-libpod_pod_"]
            .into_iter()
            .find_map(|prefix| name.strip_prefix(prefix))
        {
            return is_hex64(id).then(|| id.to_vec());
        }
        let at = find(name, b"kubepods")?;
        let rest = name.get(at + b"kubepods".len()..)?;
        let rest = [b"-burstable-pod".as_slice(), b"-besteffort-pod", b"-pod"]
            .into_iter()
            .find_map(|prefix| rest.strip_prefix(prefix))?;
        return is_pod_uid(rest, b'_').then(|| {
            rest.iter()
                .map(|b| if *b == b'_' { b'-' } else { *b })
                .collect()
        });
    }
    let rest = component.strip_prefix(b"pod")?;
    is_pod_uid(rest, b'-').then(|| rest.to_vec())
}

/// What one component, below these parents (nearest first), looks like.
fn classify(component: &[u8], parents: [&[u8]; 3]) -> (Family, Vec<u8>) {
    let scope = |text: &[u8]| text.strip_suffix(b".scope").map(<[u8]>::to_vec);
    let hex = |text: &[u8]| is_hex64(text).then(|| text.to_vec());
    let hex_scope = |prefix: &[u8]| {
        component
            .strip_prefix(prefix)
            .and_then(scope)
            .filter(|id| is_hex64(id))
    };
    let hex_either = |prefix: &[u8]| {
        let rest = component.strip_prefix(prefix)?;
        hex(rest.strip_suffix(b".scope").unwrap_or(rest))
    };
    let named = |family: Family, id: Option<Vec<u8>>| id.map(|id| (family, id));
    named(Family::ContainerdCri, hex_scope(b"cri-containerd-"))
        .or_else(|| {
            named(
                Family::ContainerdCri,
                after(component, b":cri-containerd:").and_then(hex),
            )
        })
        .or_else(|| named(Family::Monitor, hex_either(b"crio-conmon-")))
        .or_else(|| named(Family::CriO, hex_either(b"crio-")))
        .or_else(|| named(Family::Docker, hex_scope(b"docker-")))
        .or_else(|| named(Family::Nerdctl, hex_scope(b"nerdctl-")))
        .or_else(|| named(Family::Monitor, hex_either(b"libpod-conmon-")))
        .or_else(|| named(Family::Podman, hex_either(b"libpod-payload-")))
        .or_else(|| named(Family::Podman, hex_either(b"libpod-")))
        .or_else(|| classify_by_parent(component, parents))
        .or_else(|| classify_by_prefix(component))
        .or_else(|| named(Family::Oci, hex(component)))
        .or_else(|| {
            component
                .ends_with(b".service")
                .then(|| (Family::Service, component.to_vec()))
        })
        .unwrap_or_else(|| (Family::Plain, component.to_vec()))
}

fn classify_by_parent(component: &[u8], parents: [&[u8]; 3]) -> Option<(Family, Vec<u8>)> {
    let [parent, above, higher] = parents;
    let pod = parent
        .strip_prefix(b"pod")
        .is_some_and(|uid| is_pod_uid(uid, b'-'));
    let quality = above == b"burstable" || above == b"besteffort";
    let below_kubepods = above == b"kubepods" || quality && higher == b"kubepods";
    match (component, parent) {
        (id, b"docker") if is_hex64(id) => Some((Family::Docker, id.to_vec())),
        (id, _) if pod && below_kubepods && is_hex64(id) => Some((Family::Cri, id.to_vec())),
        (b"conmon", b"libpod_parent") => Some((Family::Monitor, Vec::new())),
        (b"conmon", id) if above == b"libpod_parent" && is_hex64(id) => {
            Some((Family::Monitor, Vec::new()))
        }
        (b"supervisor", machine) => nspawn(machine).map(|name| (Family::Monitor, name)),
        (name, b"lxc.monitor") => Some((Family::Monitor, name.to_vec())),
        (name, b"lxc.payload" | b"lxc") => Some((Family::Lxc, name.to_vec())),
        _ => None,
    }
}

fn classify_by_prefix(component: &[u8]) -> Option<(Family, Vec<u8>)> {
    if let Some(name) = component.strip_prefix(b"lxc.monitor.") {
        return Some((Family::Monitor, name.to_vec()));
    }
    if let Some(name) = component.strip_prefix(b"lxc.payload.") {
        return Some((Family::Lxc, name.to_vec()));
    }
    if let Some(machine) = component
        .strip_prefix(b"machine-")
        .and_then(|m| m.strip_suffix(b".scope"))
    {
        let unescaped = unescape(machine);
        for (prefix, family) in [
            (b"lxc-".as_slice(), Family::LibvirtLxc),
            (b"qemu-", Family::Vm),
        ] {
            // libvirt's own: machine-qemu\x2d1\x2dname.scope
            let rest = unescaped
                .strip_prefix(prefix)
                .filter(|_| machine.contains(&b'\\'));
            let digits = rest.map(|rest| rest.iter().take_while(|b| b.is_ascii_digit()).count());
            if let (Some(rest), Some(digits @ 1..)) = (rest, digits)
                && let Some(name) = rest.get(digits..).and_then(|name| name.strip_prefix(b"-"))
            {
                return Some((family, name.to_vec()));
            }
        }
    }
    if let Some(name) = nspawn(component) {
        return Some((Family::Nspawn, name));
    }
    if let Some(name) = component
        .strip_prefix(b"app-flatpak-")
        .and_then(|n| n.strip_suffix(b".scope"))
    {
        let end = name.iter().rposition(|byte| *byte == b'-')?;
        return name
            .get(..end)
            .map(|name| (Family::Flatpak, unescape(name)));
    }
    let snap = component.strip_prefix(b"snap.")?;
    if let Some(name) = snap.strip_suffix(b".service") {
        return Some((Family::Snap, name.to_vec()));
    }
    // A uuid of 36 characters ends it, after a dot or a dash.
    let name = snap.strip_suffix(b".scope")?;
    let end = name.len().checked_sub(37)?;
    name.get(..end).map(|name| (Family::Snap, name.to_vec()))
}

/// The machine's name in a unit of nspawn's.
fn nspawn(component: &[u8]) -> Option<Vec<u8>> {
    let scope = component
        .strip_prefix(b"machine-")
        .and_then(|name| name.strip_suffix(b".scope"));
    let service = component
        .strip_prefix(b"systemd-nspawn@")
        .and_then(|name| name.strip_suffix(b".service"));
    scope.or(service).map(unescape)
}

fn is_hex64(text: &[u8]) -> bool {
    text.len() == 64
        && text
            .iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A pod's uid: a uuid, or for static pods 32 digits.
fn is_pod_uid(text: &[u8], dash: u8) -> bool {
    (32..=36).contains(&text.len())
        && text
            .iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f') || *byte == dash)
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).rposition(|window| window == part)
}

fn after<'a>(text: &'a [u8], part: &[u8]) -> Option<&'a [u8]> {
    find(text, part).and_then(|at| text.get(at + part.len()..))
}

/// systemd's `\xNN` (systemd-escape(1)).
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, tail)) = rest.split_first() {
        let code = tail.strip_prefix(b"x").and_then(|tail| tail.get(..2));
        let code =
            code.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
        if let (b'\\', Some(code)) = (byte, code) {
            result.push(code);
            rest = tail.get(3..).unwrap_or_default();
        } else {
            result.push(*byte);
            rest = tail;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nominee that tells most: the innermost that is neither plain, nor a service, nor a bare id; else the
    /// innermost bare id; else the service.
    fn telling(path: &[u8]) -> Option<(Family, Vec<u8>)> {
        let all = nominees(path);
        let first = |wanted: &dyn Fn(Family) -> bool| {
            all.iter()
                .find(|nominee| wanted(nominee.family))
                .map(|nominee| (nominee.family, nominee.id.clone()))
        };
        first(&|family| !matches!(family, Family::Plain | Family::Service | Family::Oci))
            .or_else(|| first(&|family| family == Family::Oci))
            .or_else(|| first(&|family| family == Family::Service))
    }

    /// Paths as seen on real hosts and as documented, with what they name.
    #[test]
    fn cgroups_without_end_neither_cost_much_nor_hide_whose_they_are() {
        let path = [b"/machine.slice/web".as_slice(), &b"/x".repeat(3000)].concat();
        let all = nominees(&path);
        assert_eq!(all.len(), DEPTH_MAX);
        assert_eq!(
            all.last().map(|first| first.root),
            Some(&b"/machine.slice"[..])
        );
        assert!(all.iter().any(|nominee| nominee.id == b"web"));
    }

    #[test]
    fn every_known_path_names_its_container() {
        let samples = include_str!("cgroup-samples.tsv");
        let mut seen = 0;
        for line in samples.lines().skip(1) {
            let columns: Vec<&str> = line.split('\t').collect();
            let [path, runtime, id, pod_id, _] = columns.as_slice() else {
                panic!("{line}")
            };
            let (family, found) =
                telling(path.as_bytes()).unwrap_or((Family::Plain, b"-".to_vec()));
            let runtime = runtime.split(['|', ' ']).next().unwrap();
            assert_eq!(
                family.as_str().split('|').next().unwrap(),
                runtime,
                "{path}"
            );
            assert_eq!(String::from_utf8_lossy(&found), *id, "{path}");
            let pod =
                pod(path.as_bytes()).map_or("-".to_owned(), |pod| String::from_utf8(pod).unwrap());
            assert_eq!(pod, *pod_id, "{path}");
            seen += 1;
        }
        assert!(seen >= 45, "{seen} samples");
    }

    #[test]
    fn everything_of_a_container_is_below_its_root() {
        let path = b"/lxc.payload.web1/system.slice/nginx.service";
        let all = nominees(path);
        assert_eq!(all[0].root, path);
        assert_eq!(all[2].root, b"/lxc.payload.web1");
        assert_eq!(
            (all[2].family, all[2].id.as_slice()),
            (Family::Lxc, &b"web1"[..])
        );
        assert!(nominees(b"/").is_empty());
        assert!(nominees(b"").is_empty());
    }
}

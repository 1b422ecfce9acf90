//! Families of the aliases by which the kernel asks for modules, and who can make it ask.
//!
//! The aliases are made in the kernel's callers of `request_module` (Linux 7.3); who can reach each is read from the
//! checks before the call. A process with root in a user namespace of its own counts as nobody: everybody can have one
//! where the host lets users make them.

use std::fmt;

/// Who can make the kernel ask for a module of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asker {
    /// Every process, whoever it runs as.
    AnyUser,
    /// Root of any user namespace, with the namespaces below it: in fact every user, where users may make them.
    AnyUserNamespace,
    /// Who has a device node, or a capability of the host's.
    HostRoot,
}

impl Asker {
    /// The word used in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AnyUser => "any_user",
            Self::AnyUserNamespace => "any_user_namespace",
            Self::HostRoot => "host_root",
        }
    }
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Aliases that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// What they begin with, and a `*`.
    pub glob: &'static str,
    /// Who can make the kernel ask.
    pub asker: Asker,
    /// By what.
    pub by: &'static str,
}

const fn family(glob: &'static str, asker: Asker, by: &'static str) -> Family {
    Family { glob, asker, by }
}

/// The families; the first that fits.
pub const FAMILIES: [Family; 31] = [
    family("net-pf-*", Asker::AnyUser, "socket(2), generic netlink"),
    family("algif-*", Asker::AnyUser, "bind(2) of an `AF_ALG` socket"),
    family("crypto-*", Asker::AnyUser, "bind(2) of an `AF_ALG` socket"),
    family("cryptomgr", Asker::AnyUser, "bind(2) of an `AF_ALG` socket"),
    family(
        "tty-ldisc-*",
        Asker::AnyUser,
        "`TIOCSETD`, with dev.tty.ldisc_autoload",
    ),
    family("can-proto-*", Asker::AnyUser, "socket(2) of `AF_CAN`"),
    family("bt-proto-*", Asker::AnyUser, "socket(2) of `AF_BLUETOOTH`"),
    family(
        "binfmt-*",
        Asker::AnyUser,
        "execve(2) of an unknown format, before 6.14",
    ),
    family("fs-*", Asker::AnyUserNamespace, "mount(2), fsopen(2)"),
    family(
        "rtnl-link-*",
        Asker::AnyUserNamespace,
        "making a network interface",
    ),
    family(
        "rtnl-lwt-*",
        Asker::AnyUserNamespace,
        "a route with encapsulation",
    ),
    family("net-sch-*", Asker::AnyUserNamespace, "traffic control"),
    family("net-cls-*", Asker::AnyUserNamespace, "traffic control"),
    family("net-act-*", Asker::AnyUserNamespace, "traffic control"),
    family("ematch-kind-*", Asker::AnyUserNamespace, "traffic control"),
    family(
        "sch_*",
        Asker::AnyUserNamespace,
        "traffic control, older kernels",
    ),
    family(
        "cls_*",
        Asker::AnyUserNamespace,
        "traffic control, older kernels",
    ),
    family(
        "act_*",
        Asker::AnyUserNamespace,
        "traffic control, older kernels",
    ),
    family(
        "nfnetlink-subsys-*",
        Asker::AnyUserNamespace,
        "netfilter's netlink",
    ),
    family("nft-*", Asker::AnyUserNamespace, "nftables"),
    family("nf-*", Asker::AnyUserNamespace, "netfilter"),
    family(
        "nfct-helper-*",
        Asker::AnyUserNamespace,
        "connection tracking",
    ),
    family("ip_set_*", Asker::AnyUserNamespace, "ipset"),
    family("ip*t_*", Asker::AnyUserNamespace, "iptables"),
    family("ip*table_*", Asker::AnyUserNamespace, "iptables"),
    family("xfrm-*", Asker::AnyUserNamespace, "IPsec"),
    family(
        "netdev-*",
        Asker::HostRoot,
        "`SIOCGIF…` of an interface that is not there",
    ),
    family("tcp_*", Asker::HostRoot, "`TCP_CONGESTION`"),
    family("tcp-ulp-*", Asker::HostRoot, "`TCP_ULP`"),
    family("char-major-*", Asker::HostRoot, "open(2) of a device node"),
    family("block-major-*", Asker::HostRoot, "open(2) of a device node"),
];

/// The family of an alias.
pub fn of(alias: &[u8]) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| {
        let pattern = crate::pattern::Pattern::new(family.glob);
        pattern.is_ok_and(|pattern| pattern.matches(alias))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_have_their_families() {
        for (alias, glob) in [
            ("net-pf-10-proto-132", Some("net-pf-*")),
            ("cryptomgr", Some("cryptomgr")),
            ("ip6t_REJECT", Some("ip*t_*")),
            ("iptable_nat", Some("ip*table_*")),
            ("fs-\u{1b}[31m", Some("fs-*")),
            ("wireguard", None),
        ] {
            assert_eq!(
                of(alias.as_bytes()).map(|family| family.glob),
                glob,
                "{alias}"
            );
        }
        for family in FAMILIES {
            let alias = family.glob.replace('*', "x");
            assert_eq!(of(alias.as_bytes()), Some(&family), "{alias}");
        }
    }
}

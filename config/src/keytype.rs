//! A key that wants instantiating, as rules see it, and what is known about types of keys.

use std::fmt;

/// What the kernel said about a key (request-key(8)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUpcall {
    /// Its serial number.
    pub serial: u32,
    /// Its type, such as `dns_resolver`.
    pub kind: Vec<u8>,
    /// Its description, at most 4,095 bytes; a user's own words where a user asked.
    pub description: Vec<u8>,
    /// The callout information, below 4 KiB, any bytes; `None`: it could not be read.
    pub callout: Option<Vec<u8>>,
    /// On whose behalf it is wanted.
    pub caller: Caller,
}

/// The value of `match.key.caller`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Caller {
    /// The kernel itself wants it, proven by a keyring that only the kernel makes.
    Kernel,
    /// A program called request_key(2).
    User,
}

impl Caller {
    /// All values, in documentation order.
    pub const ALL: [Self; 2] = [Self::Kernel, Self::User];

    /// The word used in rules and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::User => "user",
        }
    }

    /// The value with this word, if there is one.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|caller| caller.as_str() == word)
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Types that the kernel asks for on its own behalf, and the keyring by which it does (net/dns_resolver/dns_key.c,
/// fs/nfs/nfs4idmap.c, fs/smb/client/cifs_spnego.c, fs/smb/client/cifsacl.c). No user can make a keyring whose name
/// begins with a point (security/keys/keyctl.c).
const KERNEL: [(&str, &str, Users); 5] = [
    ("dns_resolver", ".dns_resolver", Users::Too),
    ("id_resolver", ".id_resolver", Users::Never),
    ("id_legacy", ".id_resolver", Users::Never),
    ("cifs.spnego", ".cifs_spnego", Users::Never),
    ("cifs.idmap", ".cifs_idmap", Users::Never),
];

/// Whether programs have a use for keys of a type of the kernel's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Users {
    Too,
    Never,
}

/// Types whose keys belong to whoever asked and stay in his own keyrings: a helper among his processes may answer those
/// itself. All others may be looked up by others too, so what is in them is checked outside.
const OWN: [&str; 9] = [
    "user",
    "logon",
    "big_key",
    "encrypted",
    "trusted",
    "asymmetric",
    "rxrpc",
    "ceph",
    "cifs.spnego",
];

/// On whose behalf a key of this type is wanted, by the name of the requester's thread keyring if that is root's;
/// `None`: only the kernel asks for such keys, and this was not the kernel.
pub fn caller(kind: &[u8], keyring: Option<&[u8]>) -> Option<Caller> {
    let known = KERNEL.iter().find(|(word, ..)| word.as_bytes() == kind);
    match known {
        Some((_, name, _)) if keyring == Some(name.as_bytes()) => Some(Caller::Kernel),
        Some((_, _, Users::Never)) => None,
        Some((_, _, Users::Too)) | None => Some(Caller::User),
    }
}

/// The types that the kernel asks for on its own behalf.
pub fn of_the_kernel() -> impl Iterator<Item = &'static str> {
    KERNEL.iter().map(|(kind, ..)| *kind)
}

/// The thread keyring by which the kernel asks for keys of this type; `None`: it does not on its own behalf.
pub fn kernels_keyring(kind: &[u8]) -> Option<&'static str> {
    let known = KERNEL.iter().find(|(word, ..)| word.as_bytes() == kind);
    known.map(|(_, keyring, _)| *keyring)
}

/// Whether a key of this type stays with whoever asked for it, so that his own program may have the authority to answer.
pub fn is_own(kind: &[u8]) -> bool {
    OWN.iter().any(|word| word.as_bytes() == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernel_asks_as_the_kernel() {
        let dns = b"dns_resolver".as_slice();
        assert_eq!(caller(dns, Some(b".dns_resolver")), Some(Caller::Kernel));
        assert_eq!(caller(dns, None), Some(Caller::User));
        assert_eq!(caller(dns, Some(b".id_resolver")), Some(Caller::User));
        for kind in ["id_resolver", "id_legacy", "cifs.spnego", "cifs.idmap"] {
            assert_eq!(caller(kind.as_bytes(), None), None, "{kind}");
            assert_eq!(caller(kind.as_bytes(), Some(b"_tid")), None, "{kind}");
        }
        let spnego = b"cifs.spnego".as_slice();
        assert_eq!(caller(spnego, Some(b".cifs_spnego")), Some(Caller::Kernel));
        assert_eq!(caller(b"user", None), Some(Caller::User));
        assert_eq!(caller(b"user", Some(b".dns_resolver")), Some(Caller::User));
    }

    #[test]
    fn what_is_shared_is_no_ones_own() {
        assert!(is_own(b"user") && is_own(b"cifs.spnego"));
        for kind in [
            "dns_resolver",
            "id_resolver",
            "id_legacy",
            "cifs.idmap",
            "later",
        ] {
            assert!(!is_own(kind.as_bytes()), "{kind}");
        }
    }
}

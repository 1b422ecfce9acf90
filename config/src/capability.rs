//! Names of capabilities (capabilities(7)).

/// The names without `CAP_`, by number.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// All of them, also those that are newer than we are.
pub const ALL: u64 = u64::MAX;

/// The names, without `CAP_`.
pub fn words() -> Vec<&'static str> {
    NAMES.to_vec()
}

/// The set of one name.
pub fn one(name: &str) -> Option<u64> {
    let bit = NAMES.iter().position(|known| *known == name)?;
    Some(1 << bit)
}

/// How many capabilities this kernel generation has.
pub const COUNT: usize = NAMES.len();

/// The set of these; a name that there is none of is left out.
pub fn set(names: &[&str]) -> u64 {
    NAMES
        .iter()
        .zip(0..)
        .filter(|(name, _)| names.contains(name))
        .fold(0, |set, (_, bit)| set | 1 << bit)
}

/// The names of a set; one that is newer than us is its number.
pub fn names(set: u64) -> Vec<String> {
    (0..64_usize)
        .filter(|bit| set >> bit & 1 == 1)
        .map(|bit| {
            NAMES
                .get(bit)
                .map_or_else(|| bit.to_string(), |name| (*name).to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn sets_have_their_names() {
        assert_eq!(super::names(1 << 21 | 1), ["CHOWN", "SYS_ADMIN"]);
        assert_eq!(super::names(1 << 39 | 1 << 50), ["BPF", "50"]);
        assert_eq!(super::set(&["SYS_ADMIN", "CHOWN", "NONE"]), 1 << 21 | 1);
    }
}

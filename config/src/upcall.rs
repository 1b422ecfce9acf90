//! One request of the kernel to user space, as rules see it: its kind and what the kernel said about it.
//!
//! What is known about the *process* that caused it is in [`crate::facts`].

use std::fmt;

use crate::keytype::KeyUpcall;

/// Which of the kernel's hooks was called; the value of a rule's `upcall` key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A process dumps core (core(5), `kernel.core_pattern`).
    Core,
    /// A key wants instantiating (request-key(8)).
    Key,
    /// A module wants loading (`kernel.modprobe`).
    Module,
    /// Any other program that the kernel starts by itself (`CONFIG_STATIC_USERMODEHELPER`, cgroup v1's release agent).
    Umh,
}

impl Kind {
    /// All kinds, in the order in which documentation lists them.
    pub const ALL: [Self; 4] = [Self::Core, Self::Key, Self::Module, Self::Umh];

    /// The word used in rules, records and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Key => "key",
            Self::Module => "module",
            Self::Umh => "umh",
        }
    }

    /// The kind with this word, if there is one.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One upcall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upcall {
    /// A core dump.
    Core(CoreUpcall),
    /// A key that wants instantiating.
    Key(KeyUpcall),
    /// A module that wants loading, by the alias that the kernel asks for.
    Module(Vec<u8>),
    /// Any other program of the kernel's, by the name that it goes by: `/sbin/bridge-stp`, `release_agent`.
    Umh(Vec<u8>),
}

impl Upcall {
    /// The kind of this upcall.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Core(_) => Kind::Core,
            Self::Key(_) => Kind::Key,
            Self::Module(_) => Kind::Module,
            Self::Umh(_) => Kind::Umh,
        }
    }

    /// What the kernel said, of a core dump.
    pub fn core(&self) -> Option<&CoreUpcall> {
        match self {
            Self::Core(core) => Some(core),
            Self::Key(_) | Self::Module(_) | Self::Umh(_) => None,
        }
    }

    /// What the kernel said, of a key.
    pub fn key(&self) -> Option<&KeyUpcall> {
        match self {
            Self::Key(key) => Some(key),
            Self::Core(_) | Self::Module(_) | Self::Umh(_) => None,
        }
    }

    /// The alias, of a module.
    pub fn module(&self) -> Option<&[u8]> {
        match self {
            Self::Module(alias) => Some(alias),
            Self::Core(_) | Self::Key(_) | Self::Umh(_) => None,
        }
    }

    /// What it goes by, of any other program.
    pub fn umh(&self) -> Option<&[u8]> {
        match self {
            Self::Umh(name) => Some(name),
            Self::Core(_) | Self::Key(_) | Self::Module(_) => None,
        }
    }
}

/// What the kernel said about a core dump (core(5), the `%` specifiers).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CoreUpcall {
    /// `%s`, the signal that killed the process; `None` where the kernel's argument was unreadable.
    pub signal: Option<Signal>,
    /// `%d`, the dump mode of prctl(2) `PR_SET_DUMPABLE`: 1 is an ordinary process, 2 a process whose
    /// credentials changed and whose core is root's alone.
    pub dumpable: Option<u8>,
    /// `%c`, the soft `RLIMIT_CORE` in bytes; `u64::MAX` is unlimited.
    pub limit: Option<u64>,
    /// `%t`, seconds since the epoch.
    pub time: Option<u64>,
}

/// A signal number of x86-64 and arm64 Linux (signal(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signal(u8);

/// Signal names without `SIG`, by number; index 0 is unused.
const SIGNALS: [&str; 32] = [
    "", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

impl Signal {
    /// The signal with this number, 1 to 64.
    pub fn from_number(number: u32) -> Option<Self> {
        u8::try_from(number)
            .ok()
            .filter(|n| (1..=64).contains(n))
            .map(Self)
    }

    /// The signal with this name, upper case and without `SIG`, as rules write it.
    pub fn from_name(name: &str) -> Option<Self> {
        if let Some(position) = SIGNALS.iter().skip(1).position(|known| *known == name) {
            return u8::try_from(position + 1).ok().map(Self);
        }
        let offset: u32 = name.strip_prefix("RTMIN+")?.parse().ok()?;
        // The kernel's own first real-time signal; libc's SIGRTMIN lies two above, but a core says the kernel's.
        offset
            .checked_add(32)
            .and_then(Self::from_number)
            .filter(|s| s.0 >= 32)
    }

    /// The number.
    pub fn number(self) -> u8 {
        self.0
    }

    /// The names that a rule may use, for messages.
    pub fn names() -> impl Iterator<Item = &'static str> {
        SIGNALS.into_iter().skip(1)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIGNALS.get(usize::from(self.0)) {
            Some(name) => f.write_str(name),
            None => write!(f, "RTMIN+{}", self.0 - 32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_number_has_a_name_that_leads_back_to_it() {
        for number in 1..=64 {
            let signal = Signal::from_number(number).unwrap();
            assert_eq!(Signal::from_name(&signal.to_string()), Some(signal));
        }
        assert_eq!(Signal::from_number(0), None);
        assert_eq!(Signal::from_number(65), None);
        assert_eq!(Signal::from_name("SIGSEGV"), None);
        assert_eq!(Signal::from_name("RTMIN+4294967295"), None);
        assert_eq!(Signal::from_name("SEGV").map(Signal::number), Some(11));
    }
}

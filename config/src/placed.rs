//! The command line of upcall-place, our own helper: what `deliver` and `file` are done by.
//!
//! `upcall-place file PATH BYTES` writes its standard input to a file of at most BYTES, `-` for as many as there are;
//! `upcall-place deliver PROTOCOL SOCKET MILLISECONDS NAME=VALUE...` hands it to a socket. It decides nothing.

use crate::facts::{ProcessFacts, Reason};
use crate::plan::Refusal;
use crate::upcall::CoreUpcall;

/// The longest path of a socket (unix(7), `sun_path`, without its NUL).
pub const SOCKET_MAX: usize = 107;

/// The longest path of a core (`PATH_MAX`, without its NUL).
pub(crate) const PATH_MAX: usize = 4095;

/// What is spoken at a socket: `deliver.protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// systemd-coredump's: fields as datagrams, then the core's descriptor.
    Systemd,
    /// Our own, docs/deliver-protocol.md: one datagram with fields and descriptor, and an answer.
    Upcalld,
}

impl Protocol {
    /// All protocols, in documentation order.
    pub const ALL: [Self; 2] = [Self::Systemd, Self::Upcalld];

    /// The word used in rules.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::Upcalld => "upcalld",
        }
    }

    /// The protocol with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == word)
    }

    /// Where it is listened for.
    pub fn socket(self) -> &'static str {
        match self {
            Self::Systemd => "/run/systemd/coredump",
            Self::Upcalld => "/run/upcall-receiver",
        }
    }
}

/// A core and where it goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivery<'a> {
    pub(crate) protocol: Protocol,
    pub(crate) socket: &'a str,
    pub(crate) timeout: std::time::Duration,
    pub(crate) core: &'a CoreUpcall,
    pub(crate) process: &'a ProcessFacts,
    /// Whether it goes into the container: then nothing in it may be a number or a name of the host's.
    pub(crate) inside: bool,
    pub(crate) id: &'a str,
}

impl Delivery<'_> {
    /// The words; of what is not known there is none.
    pub(crate) fn argv(&self) -> Vec<Vec<u8>> {
        let process = self.process;
        let either = |there: Option<u32>, here| if self.inside { there } else { here };
        let number = |number: Option<u64>| number.map(|number| number.to_string().into_bytes());
        let small = |small: Option<u32>| number(small.map(u64::from));
        let signal = self.core.signal.map(|signal| u32::from(signal.number()));
        let fields = [
            ("id", Some(self.id.as_bytes().to_vec())),
            ("pid", small(either(process.pid_inside, process.pid))),
            ("tid", small(either(process.tid_inside, process.tid))),
            ("uid", small(either(process.uid_inside, process.uid))),
            ("gid", small(either(process.gid_inside, process.gid))),
            ("signal", small(signal)),
            ("time", number(self.core.time)),
            ("limit", number(self.core.limit)),
            ("dumpable", small(self.core.dumpable.map(u32::from))),
            ("comm", process.comm.clone()),
            ("exe", process.exe.clone()),
        ];
        let milliseconds = self.timeout.as_millis().to_string();
        let (protocol, socket) = (self.protocol.as_str(), self.socket);
        let words = ["upcall-place", "deliver", protocol, socket, &milliseconds];
        let mut argv: Vec<Vec<u8>> = words.map(|word| word.as_bytes().to_vec()).to_vec();
        for (name, value) in fields {
            let Some(value) = value else { continue };
            let mut word = format!("{name}=").into_bytes();
            word.extend(value.into_iter().filter(|byte| *byte != 0));
            word.truncate(crate::template::MAX_WORD);
            argv.push(word);
        }
        argv
    }
}

/// The words that write a file: `max` bytes at most, all there are if that is unlimited.
pub(crate) fn file_argv(path: Vec<u8>, max: Option<u64>) -> Vec<Vec<u8>> {
    let max = max.filter(|max| *max != u64::MAX);
    let max = max.map_or_else(|| "-".to_owned(), |max| max.to_string());
    vec![
        b"upcall-place".to_vec(),
        b"file".to_vec(),
        path,
        max.into_bytes(),
    ]
}

/// Below a page the kernel itself writes no core file (fs/coredump.c).
pub const CORE_MIN: u64 = 4096;

/// The refusal of a file that the process's own core limit forbids.
pub(crate) fn unwanted(limit: Option<u64>) -> Option<Refusal> {
    let limit = limit.filter(|limit| *limit < CORE_MIN)?;
    Some(Refusal {
        action: "file",
        reason: Reason::CoreLimit,
        message: format!("its core limit is {limit}"),
    })
}

/// A tenant's text as a part of a file's name, as the kernel does it (fs/coredump.c, `cn_esc_printf`): no slash leads
/// anywhere, and it is neither nothing nor a way up.
pub fn name_part(text: &mut [u8], out: &mut Vec<u8>) {
    for byte in text.iter_mut().filter(|byte| **byte == b'/') {
        *byte = b'!';
    }
    match text {
        [] => out.push(b'!'),
        [b'.'] | [b'.', b'.'] => {
            out.push(b'!');
            out.extend_from_slice(text.get(1..).unwrap_or_default());
        }
        _ => out.extend_from_slice(text),
    }
}

/// Whether a file can have this path: not too long, a name at its end, no way up in it.
pub(crate) fn is_path(path: &[u8]) -> bool {
    let mut parts = path.split(|byte| *byte == b'/');
    path.len() <= PATH_MAX
        && path.last().is_some_and(|last| *last != b'/')
        && parts.all(|part| part != b"." && part != b"..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_words_are_one_name() {
        let part = |text: &[u8]| {
            let mut out = b"core.".to_vec();
            name_part(&mut text.to_vec(), &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(part(b"/usr/bin/x"), "core.!usr!bin!x");
        assert_eq!(
            [part(b"."), part(b".."), part(b"")],
            ["core.!", "core.!.", "core.!"]
        );
        assert_eq!(part(b"..."), "core....");
    }

    #[test]
    fn what_is_a_path_of_a_core() {
        for good in ["core", "core.1", "/cores/a/b", "...", "a//b"] {
            assert!(is_path(good.as_bytes()), "{good}");
        }
        let long = "x".repeat(PATH_MAX + 1);
        for bad in ["", "/", "a/", "..", "../core", "/a/../b", "./core", &long] {
            assert!(!is_path(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn what_goes_inside_has_the_containers_numbers_only() {
        let process = ProcessFacts {
            pid: Some(4711),
            uid: Some(300_000),
            uid_inside: Some(0),
            comm: Some(b"a\0b c".to_vec()),
            cgroup: Some(b"/machine/secret".to_vec()),
            ..ProcessFacts::default()
        };
        let core = CoreUpcall {
            signal: None,
            dumpable: Some(1),
            limit: Some(u64::MAX),
            time: Some(5),
        };
        let delivery = Delivery {
            protocol: Protocol::Systemd,
            socket: "/run/x",
            timeout: std::time::Duration::from_secs(2),
            core: &core,
            process: &process,
            inside: true,
            id: "r1",
        };
        let text = |argv: Vec<Vec<u8>>| argv.join(&b' ').escape_ascii().to_string();
        assert_eq!(
            text(delivery.argv()),
            "upcall-place deliver systemd /run/x 2000 id=r1 uid=0 time=5 limit=18446744073709551615 dumpable=1 comm=ab c"
        );
        let outside = Delivery {
            inside: false,
            ..delivery
        };
        assert!(text(outside.argv()).contains(" pid=4711 uid=300000 "));
    }
}

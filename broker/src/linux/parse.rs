//! Parsers for what /proc says about a process: bytes in, plain data out, nothing read here.
//!
//! Tenants write into these files (comm, the names of their cgroups), in any bytes; so nothing here is text to begin
//! with, nothing panics, and what has no place in a well-formed file makes the whole answer `None`.

/// The value of `name:` in a file of `name:<space>value` lines, without the space around it.
pub fn field<'a>(text: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    text.split(|byte| *byte == b'\n').find_map(|line| {
        let rest = line.strip_prefix(name)?.strip_prefix(b":")?;
        Some(rest.trim_ascii())
    })
}

/// A decimal number, nothing before or after it.
pub fn unsigned(text: &[u8]) -> Option<u64> {
    let plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    plain
        .then(|| str::from_utf8(text).ok()?.parse().ok())
        .flatten()
}

/// A decimal number that may be negative.
pub fn signed(text: &[u8]) -> Option<i64> {
    str::from_utf8(text).ok()?.parse().ok()
}

/// A decimal number of 32 bits.
pub fn number(text: &[u8]) -> Option<u32> {
    unsigned(text).and_then(|number| u32::try_from(number).ok())
}

/// A label of AppArmor's, `NAME (MODE)`, without its mode; empty where nothing confines. Names have blanks and brackets too
/// (security/apparmor/label.c, `aa_label_snxprint`).
pub fn apparmor_label(text: &[u8]) -> &[u8] {
    let mode = text.windows(2).rposition(|pair| pair == b" (");
    let mode = mode.filter(|_| text.ends_with(b")"));
    let name = mode.and_then(|at| text.get(..at)).unwrap_or(text);
    if name == b"unconfined" { b"" } else { name }
}

fn mask(text: &[u8]) -> Option<u64> {
    u64::from_str_radix(str::from_utf8(text).ok()?, 16).ok()
}

fn numbers(text: &[u8]) -> Option<Vec<u32>> {
    text.split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
        .map(number)
        .collect()
}

/// Real, effective, saved and file-system id.
pub type Ids = [u32; 4];

/// What we use of /proc/PID/status (proc_pid_status(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The ids, as our user namespace sees them.
    pub uids: Ids,
    /// The group ids, as our user namespace sees them.
    pub gids: Ids,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Thread-group ids, from our pid namespace inwards.
    pub pids: Vec<u32>,
    /// Thread ids, from our pid namespace inwards.
    pub tids: Vec<u32>,
    /// Permitted capabilities.
    pub permitted: u64,
    /// Effective capabilities.
    pub effective: u64,
    /// The bounding set.
    pub bounding: u64,
    /// no_new_privs; `None` before 4.10.
    pub no_new_privs: Option<bool>,
    /// Seccomp mode: 0 none, 1 strict, 2 filter.
    pub seccomp: Option<u32>,
    /// Whether it is dumping core now; `None` before 4.15.
    pub dumping: Option<bool>,
    /// Threads, this one included.
    pub threads: Option<u32>,
}

impl Status {
    /// Reads the file's bytes. The only line a tenant writes is `Name:`, whose newlines the kernel escapes.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let list = |name: &[u8]| field(text, name).and_then(numbers);
        let ids = |name: &[u8]| -> Option<Ids> { list(name)?.try_into().ok() };
        let flag = |name: &[u8]| field(text, name).and_then(number).map(|value| value != 0);
        Some(Self {
            uids: ids(b"Uid")?,
            gids: ids(b"Gid")?,
            groups: list(b"Groups")?,
            pids: list(b"NStgid")?,
            tids: list(b"NSpid")?,
            permitted: field(text, b"CapPrm").and_then(mask)?,
            effective: field(text, b"CapEff").and_then(mask)?,
            bounding: field(text, b"CapBnd").and_then(mask)?,
            no_new_privs: flag(b"NoNewPrivs"),
            seccomp: field(text, b"Seccomp").and_then(number),
            dumping: flag(b"CoreDumping"),
            threads: field(text, b"Threads").and_then(number),
        })
    }
}

/// What we use of /proc/PID/stat (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// One letter: `Z` is a zombie.
    pub state: u8,
    /// The parent, 0 where it is outside of our pid namespace.
    pub parent: u32,
    /// The session; 0 for what the kernel started.
    pub session: i64,
    /// `PF_*` flags.
    pub flags: u64,
    /// When it started, in clock ticks since boot.
    pub start: u64,
    /// The processor it ran on last.
    pub processor: Option<u32>,
    /// How it ends, as wait(2) says it: known from the first moment of a core dump on; only to who may trace it.
    pub exit: Option<u32>,
}

/// `PF_KTHREAD` of the kernel's linux/sched.h: a thread of the kernel itself.
const PF_KTHREAD: u64 = 0x0020_0000;

/// `PF_DUMPCORE` of the kernel's linux/sched.h: the thread that writes the core, the one that crashed.
const PF_DUMPCORE: u64 = 0x0000_0200;

impl Stat {
    /// Reads the file's bytes: fields are counted from the *last* `)`, since the name before it may hold any.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let name_end = text.iter().rposition(|byte| *byte == b')')?;
        let rest = text.get(name_end + 1..)?.trim_ascii();
        let fields: Vec<&[u8]> = rest.split(|byte| *byte == b' ').collect();
        let at = |number: usize| fields.get(number - 3).copied();
        Some(Self {
            state: at(3)?.first().copied()?,
            parent: at(4).and_then(number)?,
            session: at(6).and_then(signed)?,
            flags: at(9).and_then(unsigned)?,
            start: at(22).and_then(unsigned)?,
            processor: at(39).and_then(number),
            exit: at(52).and_then(number),
        })
    }

    /// Whether this thread is the one of its process that dumps core.
    pub fn dumps_core(self) -> bool {
        self.flags & PF_DUMPCORE != 0
    }

    /// Whether this is a thread of the kernel.
    pub fn is_kernel_thread(self) -> bool {
        self.flags & PF_KTHREAD != 0
    }
}

/// One line of /proc/PID/cgroup (cgroups(7)): the process's place in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupLine {
    /// The controllers of a v1 hierarchy, as `cpu,cpuacct` or `name=systemd`; empty for cgroup2.
    pub controllers: Vec<u8>,
    /// The path, from the hierarchy's root as we see it.
    pub path: Vec<u8>,
}

/// Reads /proc/PID/cgroup. A path that is not below our own cgroup namespace's root starts with `/..` and is no place
/// we can name: the whole answer is `None` then.
pub fn cgroups(text: &[u8]) -> Option<Vec<CgroupLine>> {
    let mut lines = Vec::new();
    for line in text
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let mut parts = line.splitn(3, |byte| *byte == b':');
        let id = parts.next().and_then(number)?;
        let controllers = parts.next()?.to_vec();
        let path = parts.next()?;
        if (id == 0) != controllers.is_empty() {
            return None;
        }
        // The kernel marks a removed cgroup so.
        let path = path.strip_suffix(b" (deleted)").unwrap_or(path).to_vec();
        if path.first() != Some(&b'/') || path.starts_with(b"/../") || path == b"/.." {
            return None;
        }
        lines.push(CgroupLine { controllers, path });
    }
    Some(lines)
}

/// A user namespace's map of ids (user_namespaces(7)), as read from our own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdMap(Vec<[u32; 3]>);

impl IdMap {
    /// Reads uid_map or gid_map.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let lines = text
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        lines
            .map(|line| numbers(line)?.try_into().ok())
            .collect::<Option<_>>()
            .map(Self)
    }

    /// What an id of ours is inside; `None`: it does not exist there.
    pub fn inside(&self, outside: u32) -> Option<u32> {
        self.0.iter().find_map(|[inside, first, count]| {
            let offset = outside.checked_sub(*first)?;
            if offset < *count {
                inside.checked_add(offset)
            } else {
                None
            }
        })
    }

    /// What an id inside is to us.
    pub fn outside(&self, inside: u32) -> Option<u32> {
        self.0.iter().find_map(|[first, outside, count]| {
            let offset = inside.checked_sub(*first)?;
            if offset < *count {
                outside.checked_add(offset)
            } else {
                None
            }
        })
    }
}

/// Reads /proc/PID/limits: soft and hard of the 16 limits in the kernel's order, `u64::MAX` for none.
pub fn limits(text: &[u8]) -> Option<[(u64, u64); 16]> {
    /// The rows' names in the order of the kernel's numbers (asm-generic/resource.h); the file has the same order.
    const NAMES: [&[u8]; 16] = [
        b"Max cpu time",
        b"Max file size",
        b"Max data size",
        b"Max stack size",
        b"Max core file size",
        b"Max resident set",
        b"Max processes",
        b"Max open files",
        b"Max locked memory",
        b"Max address space",
        b"Max file locks",
        b"Max pending signals",
        b"Max msgqueue size",
        b"Max nice priority",
        b"Max realtime priority",
        b"Max realtime timeout",
    ];
    let value = |word: &[u8]| {
        if word == b"unlimited" {
            Some(u64::MAX)
        } else {
            unsigned(word)
        }
    };
    let mut limits = [(0, 0); 16];
    for (limit, name) in limits.iter_mut().zip(NAMES) {
        let row = text
            .split(|byte| *byte == b'\n')
            .find_map(|line| line.strip_prefix(name))?;
        let mut words = row
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        *limit = (words.next().and_then(value)?, words.next().and_then(value)?);
    }
    Some(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_all_but_its_mode() {
        for (text, name) in [
            ("unconfined", ""),
            ("unconfined (unconfined)", ""),
            ("docker-default (enforce)", "docker-default"),
            ("one and more (complain)", "one and more"),
            ("odd (enforce) (kill)", "odd (enforce)"),
            ("a//&:ns:b (mixed)", "a//&:ns:b"),
            ("no mode", "no mode"),
            ("(", "("),
            ("", ""),
        ] {
            assert_eq!(apparmor_label(text.as_bytes()), name.as_bytes(), "{text}");
        }
    }

    #[test]
    fn our_own_files_are_read_whole() {
        let read = |name: &str| std::fs::read(format!("/proc/self/{name}")).unwrap();
        let status = Status::parse(&read("status")).unwrap();
        assert_eq!(status.pids.first(), Some(&std::process::id()));
        assert_eq!(status.dumping, Some(false));
        let stat = Stat::parse(&read("stat")).unwrap();
        assert!(!stat.is_kernel_thread() && stat.start > 0);
        assert!(cgroups(&read("cgroup")).is_some());
        assert_eq!(IdMap::parse(&read("uid_map")).unwrap().inside(12), Some(12));
        let core = limits(&read("limits")).unwrap()[4];
        assert!(core.0 <= core.1);
        let kthreadd = std::fs::read("/proc/2/stat").unwrap();
        assert!(Stat::parse(&kthreadd).unwrap().is_kernel_thread());
    }

    #[test]
    fn a_name_cannot_move_a_field() {
        let stat =
            Stat::parse(b"12 (a) R 1 1 1) S 7 8 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9")
                .unwrap();
        assert_eq!(
            (stat.state, stat.parent, stat.session, stat.start),
            (b'S', 7, 9, 4711)
        );
        let text = b"Name:\tx\\nUid:\t0 0 0 0\xff\nUid:\t5 6 7 8\n";
        assert_eq!(field(text, b"Uid"), Some(&b"5 6 7 8"[..]));
    }

    #[test]
    fn cgroup_paths_are_bytes_and_must_be_nameable() {
        let lines = cgroups(b"9:name=systemd:/a:b\xff\n0::/c (deleted)\n").unwrap();
        assert_eq!(lines[0].controllers, b"name=systemd");
        assert_eq!(lines[0].path, b"/a:b\xff");
        assert_eq!(
            (lines[1].controllers.as_slice(), lines[1].path.as_slice()),
            (&b""[..], &b"/c"[..])
        );
        assert_eq!(cgroups(b"0::/../other\n"), None);
        assert_eq!(cgroups(b"0:x:/\n"), None);
        assert_eq!(cgroups(b"junk"), None);
    }

    #[test]
    fn ids_are_mapped_both_ways() {
        let map =
            IdMap::parse(b"         0       5501          1\n         1     100000      65536\n")
                .unwrap();
        assert_eq!(map.inside(5501), Some(0));
        assert_eq!(map.inside(100_032), Some(33));
        assert_eq!(map.inside(0), None);
        assert_eq!(map.outside(0), Some(5501));
        assert_eq!(map.outside(65_537), None);
        assert_eq!(IdMap::parse(b"0 0"), None);
        let all = IdMap::parse(b"0 0 4294967295\n").unwrap();
        assert_eq!(
            (all.inside(4_294_967_294), all.inside(u32::MAX)),
            (Some(4_294_967_294), None)
        );
    }
}

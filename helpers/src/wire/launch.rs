//! What the daemon tells the launcher: start this one program, there, as that, within these limits.
//!
//! Launcher and daemon come from one build, but the layout follows the same rules as the shim's.

mod raw;

use super::FDS_MAX;
use super::field::{DecodeError, EncodeError, MessageKind, Reader, Writer};
use super::role::{FDS, FdRole};
use raw::Raw;

const ID: u16 = 1;
const SLOT: u16 = 2;
const ARGV: u16 = 4;
const ENV: u16 = 5;
const PLACE: u16 = 6;
const JOIN: u16 = 7;
const NAMESPACE_IDS: u16 = 8;
const UID: u16 = 9;
const GID: u16 = 10;
const GROUPS: u16 = 11;
const CAPABILITIES: u16 = 12;
const LABEL: u16 = 13;
const LIMITS: u16 = 14;
const PROGRESS: u16 = 15;
const OUTPUT: u16 = 16;
const LEADER: u16 = 17;
const MEMORY: u16 = 18;
const REPORTS: u16 = 19;
const CGROUPS_V1: u16 = 20;
const ORIGIN: u16 = 21;
const READY: u16 = 22;
const KEY: u16 = 23;
const FILES: u16 = 24;
const READER: u16 = 25;
const IN_ALL: u16 = 26;

const ID_MAX: usize = 16;
const WORDS_MAX: usize = 256;
const WORD_MAX: usize = 4096 + 64;
/// `PATH_MAX` (linux/limits.h).
const PATH_MAX: usize = 4096;
/// The kernel's `NGROUPS_MAX` is 65,536; a container's init with more than this is refused, not cut.
const GROUPS_MAX: usize = 1024;
const LABEL_MAX: usize = 4096;
const FILES_MAX: usize = 8;

/// The namespaces of a process, in the order in which every list of them is kept: their names in /proc/PID/ns and
/// their `CLONE_NEW*` flags (namespaces(7)).
pub const NAMESPACES: [(&str, u32); 8] = [
    ("user", 0x1000_0000),
    ("mnt", 0x0002_0000),
    ("pid", 0x2000_0000),
    ("net", 0x4000_0000),
    ("ipc", 0x0800_0000),
    ("uts", 0x0400_0000),
    ("cgroup", 0x0200_0000),
    ("time", 0x0000_0080),
];

/// How many resource limits there are (getrlimit(2), `RLIM_NLIMITS`), numbered as the kernel numbers them.
pub const RLIMITS: usize = 16;

/// What a namespace is told apart by, while something holds it: device and inode of its nsfs file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct NamespaceId {
    /// `st_dev`
    pub dev: u64,
    /// `st_ino`
    pub ino: u64,
}

/// One resource limit; `u64::MAX` is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "setrlimit(2)'s own names")]
pub struct Rlimit {
    pub soft: u64,
    pub hard: u64,
}

/// Where a helper runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the leader's namespaces and root.
    Container,
    /// Where the launcher is.
    Host,
    /// Where the launcher is too, but as a user of the host who has nothing more: the ids and groups, no capability,
    /// the system calls that a helper in a container may use.
    User,
    /// In some of the leader's namespaces, with the host's own tree, as nobody in particular.
    Beside,
}

/// One program to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The record's id, 1 to 16 bytes of `[0-9a-z]`; reports carry it.
    pub id: Vec<u8>,
    /// Tells several launches of one record apart; reports carry it.
    pub slot: u8,
    /// What the descriptors are, in their order.
    pub fds: Vec<FdRole>,
    /// What to do with them.
    pub task: Task,
}

/// The name of a helper's own cgroup, by the [`Launch::id`] and [`Launch::slot`] of its launch.
pub fn cgroup_name(id: &[u8], slot: u8) -> String {
    let id = String::from_utf8_lossy(id);
    if slot == 0 {
        format!("upcall-{id}")
    } else {
        format!("upcall-{id}-{slot}")
    }
}

/// The two ways of starting a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// A helper that is fed, watched and ended: inside a container or on the host.
    Enter(Box<Enter>),
    /// A trusted program of the host that gets its descriptors as they are: the store worker, the previous handler.
    Exec(Exec),
}

/// A helper and everything it may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enter {
    /// Inside the container or on the host. As the host's root nothing of the following up to `label` is applied, as
    /// another user of the host nothing that names the leader.
    pub place: Place,
    /// Words; the first is an absolute path in the place where it runs, or just a name with [`FdRole::Program`].
    pub argv: Vec<Vec<u8>>,
    /// The whole environment, `NAME=value`.
    pub env: Vec<Vec<u8>>,
    /// The leader's pid in the launcher's pid namespace.
    pub leader: u32,
    /// `CLONE_NEW*` of the namespaces to join: those in which the leader's differ from the launcher's.
    pub join: u32,
    /// The namespaces in which the helper must find itself, in the order of [`NAMESPACES`].
    pub namespaces: [NamespaceId; 8],
    /// User id, as seen in the joined user namespace.
    pub uid: u32,
    /// Group id, as seen in the joined user namespace.
    pub gid: u32,
    /// Supplementary groups, as the *launcher's* user namespace sees them.
    pub groups: Vec<u32>,
    /// Capabilities it may hold at most, a bit each.
    pub capabilities: u64,
    /// The LSM label of the leader as `LSM\0label`; empty: no LSM that labels.
    pub label: Vec<u8>,
    /// Resource limits by their number.
    pub limits: [Rlimit; RLIMITS],
    /// The cgroup to join in each of the [`FdRole::CgroupV1`] hierarchies, as an absolute path.
    pub cgroups_v1: Vec<Vec<u8>>,
    /// Process and thread, in the launcher's pid namespace, whose root and working directory the helper gets
    /// ([`FdRole::Origin`]) instead of the leader's root. The thread, because the first of them may have ended.
    pub origin: Option<[u32; 2]>,
    /// Whether the helper says by one byte when it can take the core. Until then nobody claims it; and if it ends
    /// without, its exit code is the error's number, [`super::Stage::Place`].
    pub ready: bool,
    /// What the helper and all it starts may use of memory, in bytes.
    pub memory: Option<u64>,
    /// Ended when this long went by without a byte taken, in milliseconds.
    pub progress: u32,
    /// Whether [`Enter::progress`] is how long it may take in all, whatever moves.
    pub in_all: bool,
    /// Bytes of the helper's own output that are kept.
    pub output: u32,
    /// The key that it works on.
    pub key: Option<KeyWork>,
    /// [`Place::Beside`]: files of the container that are shown in the place of the host's, by absolute path; at most 8.
    pub files: Vec<Vec<u8>>,
    /// [`Place::Beside`]: the uid and gid by which those are read, as the launcher sees them.
    pub reader: [u32; 2],
}

/// What a helper may do about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyWork {
    /// The key's serial number.
    pub serial: u32,
    /// Whether it gets the authority to answer; else it prints the payload.
    pub authority: bool,
}

/// A program of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// Words; the first is an absolute path, or just a name with [`FdRole::Program`].
    pub argv: Vec<Vec<u8>>,
    /// The whole environment.
    pub env: Vec<Vec<u8>>,
    /// Whether it reports to the daemon itself: then it finds the launcher's socket as descriptor 4.
    pub reports: bool,
}

impl Launch {
    /// The record.
    ///
    /// # Errors
    /// Something is over its limit.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let codes: Vec<u8> = self.fds.iter().map(|role| role.code()).collect();
        let mut writer = Writer::new(MessageKind::Launch);
        writer
            .bytes(ID, &self.id, ID_MAX)
            .u8(SLOT, self.slot)
            .bytes(FDS, &codes, FDS_MAX);
        match &self.task {
            Task::Exec(exec) => {
                writer.list(ARGV, &exec.argv, WORDS_MAX, WORD_MAX);
                writer.list(ENV, &exec.env, WORDS_MAX, WORD_MAX);
                writer.u8(REPORTS, u8::from(exec.reports));
            }
            Task::Enter(enter) => enter.write(&mut writer),
        }
        writer.finish()
    }

    /// Reads a record that came with `descriptors` descriptors.
    ///
    /// # Errors
    /// The record is not a launch, or names other descriptors than came.
    pub fn decode(record: &[u8], descriptors: usize) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(record, MessageKind::Launch)?;
        let mut raw = Raw::default();
        while let Some(field) = reader.next()? {
            raw.take(field)?;
        }
        raw.finish(descriptors)
    }

    /// The record's id and the slot of an encoded launch, whose descriptors have not come yet.
    ///
    /// # Errors
    /// The record is not a launch.
    pub fn named(record: &[u8]) -> Result<(Vec<u8>, u8), DecodeError> {
        let mut reader = Reader::new(record, MessageKind::Launch)?;
        let mut raw = Raw::default();
        while let Some(field) = reader.next()? {
            raw.take(field)?;
            if let (Some(id), Some(slot)) = (&raw.id, raw.slot) {
                return Ok((id.clone(), slot));
            }
        }
        Err(DecodeError::Missing(ID))
    }
}

impl Enter {
    fn write(&self, writer: &mut Writer) {
        let place = match self.place {
            Place::Container => 1,
            Place::Host => 2,
            Place::User => 3,
            Place::Beside => 4,
        };
        let namespaces: Vec<u8> = self
            .namespaces
            .iter()
            .flat_map(|ns| [ns.dev, ns.ino])
            .flat_map(u64::to_le_bytes)
            .collect();
        let limits: Vec<u8> = self
            .limits
            .iter()
            .flat_map(|limit| [limit.soft, limit.hard])
            .flat_map(u64::to_le_bytes)
            .collect();
        let groups: Vec<u8> = self
            .groups
            .iter()
            .flat_map(|group| group.to_le_bytes())
            .collect();
        writer
            .list(ARGV, &self.argv, WORDS_MAX, WORD_MAX)
            .list(ENV, &self.env, WORDS_MAX, WORD_MAX)
            .u8(PLACE, place)
            .u32(JOIN, self.join)
            .bytes(NAMESPACE_IDS, &namespaces, 128)
            .u32(UID, self.uid)
            .u32(GID, self.gid)
            .bytes(GROUPS, &groups, GROUPS_MAX * 4)
            .u64(CAPABILITIES, self.capabilities)
            .bytes(LABEL, &self.label, LABEL_MAX)
            .bytes(LIMITS, &limits, RLIMITS * 16)
            .u32(PROGRESS, self.progress)
            .u32(OUTPUT, self.output)
            .u32(LEADER, self.leader)
            .option_u64(MEMORY, self.memory)
            .list(CGROUPS_V1, &self.cgroups_v1, FDS_MAX, PATH_MAX);
        if let Some(origin) = self.origin {
            let bytes: Vec<u8> = origin.into_iter().flat_map(u32::to_le_bytes).collect();
            writer.bytes(ORIGIN, &bytes, 8);
        }
        if self.ready {
            writer.u8(READY, 1);
        }
        if let Some(key) = self.key {
            writer.u64(KEY, u64::from(key.serial) | u64::from(key.authority) << 32);
        }
        if self.place == Place::Beside {
            let [uid, gid] = self.reader.map(u64::from);
            writer
                .list(FILES, &self.files, FILES_MAX, PATH_MAX)
                .u64(READER, uid | gid << 32);
        }
        if self.in_all {
            writer.u8(IN_ALL, 1);
        }
    }
}

//! The byte layout of every message between upcalld and the programs it works with.
//!
//! One message is one record of an `AF_UNIX` `SOCK_SEQPACKET` socket; descriptors travel beside it as `SCM_RIGHTS`.
//! All integers are little-endian and unaligned. A record is
//!
//! ```text
//! offset  size  what
//!      0     4  the bytes "upc" and 0x01
//!      4     2  version of the layout, 1
//!      6     2  kind of message: 1 request, 2 verdict, 3 launch, 4 report
//!      8     4  length of the whole record in bytes, this header included
//!     12        fields, one after the other until the record ends
//! ```
//!
//! and a field is
//!
//! ```text
//! offset  size  what
//!      0     2  tag, its meaning depends on the kind
//!      2     4  length of the value in bytes
//!      6        the value
//! ```
//!
//! Fields come in ascending order of their tags. A tag that may occur several times (the words of an argv) is a
//! list, in order; any other tag occurs at most once. The descriptors that came with a record are named by one field,
//! a byte for each, in their order; a record whose field and descriptors do not agree in number is refused.
//!
//! **Version rule.** A shim may be older or newer than the daemon it meets (a package is upgraded while the kernel
//! still starts the old program). A tag with the high bit set (0x8000) may be skipped by a reader that does not know
//! it; any other unknown tag makes the record unreadable. A new field that old readers may miss gets the high bit.
//! The version is raised only when that does not suffice, and a reader takes every version up to its own.
//! Records of each released version are kept in `tests/golden/` and must stay readable.
//!
//! Every length has a limit, named beside its field. Nothing here panics on any input; the fuzz targets hold it to it.

mod field;
mod id;
mod key;
mod launch;
mod report;
mod request;
mod role;
mod spooled;
mod verdict;

pub use field::{DecodeError, EncodeError};
pub use id::{ID_LENGTH, id, is_id, is_id_prefix};
pub use key::{KEY_WORDS, KeyRequest};
pub use launch::{
    Enter, Exec, KeyWork, Launch, NAMESPACES, NamespaceId, Place, RLIMITS, Rlimit, Task,
    cgroup_name,
};
pub use report::{Answered, Event, Report, Stage, WaitStatus, reports};
pub use request::{CORE_PIDFD_WORD, CORE_WORDS, Hook, Request, RequestFd};
pub use role::FdRole;
pub use spooled::{PROC_FILE_MAX, Seen, Spooled, Why};
pub use verdict::{PAYLOAD_MAX, Verdict};

/// The longest record that anybody sends or takes, in bytes.
pub const RECORD_MAX: usize = 128 * 1024;

/// The most descriptors beside one record (the kernel allows 253).
pub const FDS_MAX: usize = 32;

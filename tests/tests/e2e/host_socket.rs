//! The kernel's own coredump socket: what is tried with its pipe, again; and what is this way's alone.

use upcalld::hooks::install::Mode;

#[expect(
    clippy::duplicate_mod,
    reason = "the same crashes, asked about another way"
)]
#[path = "host_crashes.rs"]
mod crashes;
#[expect(clippy::duplicate_mod, reason = "the same, asked about another way")]
#[path = "host_cut_short.rs"]
mod cut_short;
#[expect(clippy::duplicate_mod, reason = "the same, asked about another way")]
#[path = "host_kinds.rs"]
mod kinds;
#[expect(clippy::duplicate_mod, reason = "the same, asked about another way")]
#[path = "host_storm.rs"]
mod storm;

const MODE: Mode = Mode::Socket;

/// The same needs, and a kernel with the socket.
macro_rules! needs {
    ($($need:ident),+) => { upcall_e2e::needs!(CoreSocket, $($need),+) };
}
use needs;

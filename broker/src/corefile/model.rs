//! What is found out about a crash from its core: plain data, so that it can be handed from one process to another.
//! Text of the tenant's is escaped ([`upcall_config::text`]).

use serde::{Deserialize, Serialize};

/// A crash, as its core has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Crash {
    /// The processor: `x86_64`, `aarch64`, `x86`.
    pub machine: String,
    /// The signal's number.
    pub signal: Option<u32>,
    /// Its code (sigaction(2), `si_code`).
    pub code: Option<i32>,
    /// The code's name where it has one: `MAPERR`, `USER`.
    pub code_name: Option<String>,
    /// The address that could not be used, where the signal is about one.
    pub address: Option<u64>,
    /// Who sent the signal, where it was sent.
    pub sender: Option<Sender>,
    /// The command line as far as the core has it: 80 bytes.
    pub command: Option<String>,
    /// The name of the thread that crashed.
    pub comm: Option<String>,
    /// Ids of the threads, in the container's numbers; the first one crashed.
    pub threads: Vec<u32>,
    /// Whether there were more than are listed.
    pub more_threads: bool,
    /// Files that were mapped.
    pub modules: Vec<Module>,
    /// The stack of the thread that crashed, innermost first.
    pub frames: Vec<Frame>,
    /// What could not be read, and why.
    pub unread: Vec<String>,
}

/// Who sent a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Sender {
    /// Its process, in the container's numbers.
    pub pid: u32,
    /// Its user, in the container's numbers.
    pub uid: u32,
}

/// A file that was mapped, from its beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Module {
    /// Its path in the container.
    pub path: String,
    /// Where it was mapped.
    pub start: u64,
    /// Behind its last byte there.
    pub end: u64,
    /// Its GNU build-id, in hexadecimal digits.
    pub build_id: Option<String>,
}

/// A function that had not returned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Frame {
    /// Where it was.
    pub address: u64,
    /// The file of that, or `[vdso]`.
    pub module: Option<String>,
    /// How far behind the file's beginning in memory.
    pub offset: Option<u64>,
    /// The file's build-id.
    pub build_id: Option<String>,
    /// The function.
    pub symbol: Option<String>,
    /// How far behind its beginning.
    pub symbol_offset: Option<u64>,
}

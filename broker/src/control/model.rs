//! What is asked and answered over control.sock: questions and answers as plain data, shared by both sides.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::metrics::Family;

/// The interface's name.
pub const INTERFACE: &str = "org.upcalld.Control";

/// One question.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Call {
    /// The interface's name, a dot, and what is asked.
    pub method: String,
    /// With what.
    #[serde(default)]
    pub parameters: Value,
    /// Whether there may be more than one answer.
    #[serde(default)]
    pub more: bool,
}

/// The answer of `GetStatus`: what only the daemon knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// Its pid.
    pub pid: u32,
    /// The launcher's pid.
    pub launcher_pid: u32,
    /// When it started, in microseconds since the epoch.
    pub started: u64,
    /// Rules that are loaded.
    pub rules: usize,
    /// Files they came from.
    pub files: usize,
    /// When they were loaded, in microseconds since the epoch.
    pub loaded: u64,
    /// Whether the files on disk are still those.
    pub unchanged: bool,
    /// What stands in core_pattern: `ours`, `foreign`, `not_installed`.
    pub core: String,
    /// How the kernel calls, while it is ours: `pipe`, `socket`.
    #[serde(default)]
    pub mode: Option<String>,
    /// The foreign pattern.
    pub foreign: Option<String>,
    /// Since when it is known, in microseconds since the epoch.
    pub foreign_since: Option<u64>,
    /// When it was looked at, in microseconds since the epoch.
    pub checked: u64,
    /// What stood there before us.
    pub previous: Option<String>,
    /// Why that is not known, although the hook is ours: nobody could put it back.
    pub hook_file_problem: Option<String>,
    /// The module hook.
    #[serde(default)]
    pub module: ModuleStatus,
    /// Bytes that must stay free for cores.
    pub keep_free: u64,
    /// Whether it listens for the kernel itself: `kept` is a socket that systemd keeps while it is started again, `own` one
    /// that goes with it.
    #[serde(default)]
    pub kernel_socket: Option<String>,
}

/// How modules are answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleStatus {
    /// What stands in kernel.modprobe: `ours`, `foreign`, `not_installed`.
    pub state: String,
    /// What is foreign there.
    pub foreign: Option<String>,
    /// Since when it is known, in microseconds since the epoch.
    pub foreign_since: Option<u64>,
    /// What stood there before us.
    pub previous: Option<String>,
    /// How who asks is known: `kprobe`, `scan`; `null` before the first request.
    pub evidence: Option<String>,
    /// Why not by kprobe.
    pub no_kprobe: Option<String>,
}

/// The answer of `GetMetrics`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// All families of numbers.
    pub families: Vec<Family>,
}

/// The parameters of `Reload`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Reload {
    /// Whether the texts of diagnostics may have a terminal's colours.
    pub colour: bool,
}

/// The answer of `Reload`: whether the rules are others now, and what is wrong with those on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Whether the new ones are in force.
    pub replaced: bool,
    /// Rules that were read.
    pub rules: usize,
    /// Files that were read.
    pub files: Vec<String>,
    /// Mistakes.
    pub errors: usize,
    /// Warnings.
    pub warnings: usize,
    /// Everything that is wrong, in order.
    pub diagnostics: Vec<DiagnosticText>,
    /// When the rules in force were loaded, in microseconds since the epoch.
    pub loaded: u64,
}

/// A diagnostic for people and for programs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiagnosticText {
    /// As `upcallctl check` shows it.
    pub text: String,
    /// As `upcallctl check --json` has it ([`upcall_config::diagnostic::PlainDiagnostic`]).
    pub plain: Value,
}

//! The command lines of `cores`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::state::Word;
use crate::filter::Whose;
use crate::since::Since;

/// `cores`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct CoresArgs {
    #[command(subcommand)]
    pub(crate) command: Option<CoresCommand>,
    #[command(flatten)]
    pub(crate) list: ListArgs,
}

impl CoresArgs {
    /// The command, as people type it.
    pub(crate) fn name(&self) -> &'static str {
        match self.command {
            None | Some(CoresCommand::List(_)) => "cores list",
            Some(CoresCommand::Info(_)) => "cores info",
            Some(CoresCommand::Dump(_)) => "cores dump",
            Some(CoresCommand::Debug(_)) => "cores debug",
            Some(CoresCommand::Rm(_)) => "cores rm",
        }
    }
}

/// What is done with cores.
#[derive(Debug, Subcommand)]
pub(crate) enum CoresCommand {
    /// List crashes and what became of their cores, the newest last; `cores` alone does that too
    List(ListArgs),
    /// Show everything about one crash: its record, and what its core says
    ///
    /// Signal and address, threads, the stack of the one that crashed, files with their build-ids. The core is read by
    /// a process without rights, since it is the tenant's.
    Info(InfoArgs),
    /// Write a core to standard output or a file, uncompressed
    ///
    /// Only root can: a core is the memory of a process. Never written to a terminal.
    Dump(DumpArgs),
    /// Open gdb on a core, with the files of its container if that still runs
    ///
    /// Core and files are the tenant's, so root's gdb runs as a user of nobody's, without network and capabilities; it
    /// runs no script that they name. What is run is printed.
    Debug(DebugArgs),
    /// Remove cores; their records stay and say so
    ///
    /// What is removed is named by ids, filters, age, or `--all`; all that are given must hold. Asked for on a
    /// terminal; elsewhere it needs `--yes`.
    Rm(RmArgs),
}

/// `cores list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) whose: Whose,
    /// Only those that are this now
    #[arg(long, value_enum, value_name = "WORD")]
    pub(crate) is: Option<Word>,
    /// Only since then: `10m`, `2h`, `3d`, `today`, `yesterday`, `2026-11-22`, `2026-11-22 13:00`, RFC 3339
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<Since>,
    /// At most this many, the newest; 0 is all
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 50)]
    pub(crate) number: usize,
}

/// `cores info`.
#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    /// The record's id, or the start of it
    pub(crate) id: String,
    /// Every file that was mapped, and up to 256 functions of the stack
    #[arg(long)]
    pub(crate) all: bool,
    /// Files from there, instead of from the container
    #[arg(long, value_name = "DIR")]
    pub(crate) sysroot: Option<PathBuf>,
}

/// `look-at-core`: what a worker does.
#[derive(Debug, Args)]
pub(crate) struct WorkArgs {
    /// Open files for one that reads
    #[arg(long)]
    pub(crate) open: bool,
    /// It is compressed
    #[arg(long)]
    pub(crate) compressed: bool,
    /// Files can be asked for
    #[arg(long)]
    pub(crate) files: bool,
}

/// `cores dump`.
#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    /// The record's id, or the start of it
    pub(crate) id: String,
    /// A new file; readable by its owner alone, and holes where the core has nothing
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// `cores debug`.
#[derive(Debug, Args)]
pub(crate) struct DebugArgs {
    /// The record's id, or the start of it
    pub(crate) id: String,
    /// Files from there, instead of from the container
    #[arg(long, value_name = "DIR")]
    pub(crate) sysroot: Option<PathBuf>,
    /// Run gdb as yourself
    #[arg(long)]
    pub(crate) trust: bool,
    /// Further words for gdb, behind `--`: `-batch -ex backtrace`
    #[arg(last = true)]
    pub(crate) gdb: Vec<OsString>,
}

/// `cores rm`.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Records' ids, or the starts of them
    pub(crate) ids: Vec<String>,
    #[command(flatten)]
    pub(crate) whose: Whose,
    /// Only cores from before then: `7d`, `12h`, `2026-11-22`; as `--since` of list
    #[arg(long, value_name = "WHEN")]
    pub(crate) older_than: Option<Since>,
    /// Every core
    #[arg(long)]
    pub(crate) all: bool,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

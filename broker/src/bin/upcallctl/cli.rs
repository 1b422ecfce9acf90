//! The command line. The man page and the completions are made from this.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::cores::args::{CoresArgs, WorkArgs};
use crate::filter::Filter;
use crate::since::Since;

/// Ask upcalld what it did and why, try its rules, and put it into the kernel's hooks.
///
/// Rules, records and cores are read from files, so all commands but status, metrics, watch and reload also work while upcalld
/// is stopped. Times are local; on a terminal tables fit its width, in a pipe nothing is cut.
#[derive(Debug, Parser)]
#[command(
    name = "upcallctl",
    version,
    max_term_width = 100,
    subcommand_required = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What goes with every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of all commands")]
pub(crate) struct Global {
    /// Rules and settings from DIR alone, hooks' files in DIR/hooks (else /etc, /run and /usr/lib/upcalld)
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) config: Option<PathBuf>,
    /// Where records, cores and spool are
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/var/lib/upcalld"
    )]
    pub(crate) state: PathBuf,
    /// Where the daemon's sockets are
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/run/upcalld"
    )]
    pub(crate) run: PathBuf,
    /// Where the programs beside the daemon are
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = upcalld::options::LIBEXEC
    )]
    pub(crate) libexec: PathBuf,
    /// Print JSON: one document, or with `lines` one record a line
    #[arg(long, global = true, value_enum, value_name = "FORM", num_args = 0..=1,
          require_equals = true, default_missing_value = "document")]
    pub(crate) json: Option<Json>,
    /// Colours: on a terminal (auto; not if NO_COLOR is set), always, never
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "WHEN",
        default_value = "auto"
    )]
    pub(crate) color: Color,
    /// Cut nothing, whatever the terminal's width
    #[arg(long, global = true)]
    pub(crate) no_trunc: bool,
    /// Files in the place of /proc/sys/kernel: for tests
    #[arg(long, global = true, hide = true, value_name = "DIR")]
    pub(crate) sysctl: Option<PathBuf>,
}

/// How JSON is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Json {
    /// One document.
    Document,
    /// One record a line.
    Lines,
}

/// When colours are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// A hook of the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Hook {
    /// kernel.core_pattern: crashes.
    Core,
    /// /sbin/request-key: keys.
    Key,
    /// kernel.modprobe: modules.
    Module,
    /// The program that a kernel with CONFIG_STATIC_USERMODEHELPER starts for everything.
    Umh,
}

/// A kind of upcall that can be explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A crash.
    Core,
    /// A key that it would need.
    Key,
    /// A module that it would make the kernel want.
    Module,
    /// Another program that it would make the kernel start.
    Umh,
}

/// What is generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Generated {
    /// upcallctl.8, upcalld.8
    Man,
    /// For bash, zsh and fish.
    Completions,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say whether everything is as it should be: the daemon, the hooks, the rules, the last hour, the space
    ///
    /// Exit status 1 if something needs you: another program has the hook, cores wait in the spool, the rules on disk
    /// have mistakes.
    Status,
    /// Check this host: what keeps upcalld from doing what its rules say, why that matters, and the cure
    ///
    /// Exit status 1 if there is an error: upcalls are lost, or a rule does not hold. A warning is a weaker path, or
    /// something that will go wrong later.
    Doctor(DoctorArgs),
    /// Print what upcalld counts, as text for Prometheus
    ///
    /// Counters begin at zero with the daemon; what must survive it is in the records. For a collector that reads
    /// files, metrics.textfile in upcalld.toml has upcalld write the same text.
    Metrics,
    /// List records, the newest last
    List(ListArgs),
    /// Show upcalls as they end, and changes of the hooks, until Ctrl-C
    Watch(Filter),
    /// Show everything about one record
    Show {
        /// Its id, or the start of it
        id: String,
    },
    /// List crashes and what became of their cores; write a core out, remove cores
    ///
    /// Cores are root's alone; who may read records may list them.
    Cores(CoresArgs),
    /// List which modules containers made the kernel ask for, and what they got
    ///
    /// Those of the same asker, module and answer are one line, the newest last.
    Modules(ModulesArgs),
    /// Show which rule would take an upcall, why the others would not, and what would run; nothing is run
    Explain(ExplainArgs),
    /// Check rules and settings, and show every mistake with its place
    ///
    /// Without FILES those in the directories are checked. Exit status 1 if there is an error.
    Check {
        /// Files to be checked as rule files, in this order; one named upcalld.toml as settings
        files: Vec<PathBuf>,
    },
    /// Have upcalld load the rules again; with a mistake in any file it keeps those it has
    Reload,
    /// Put upcalld into a hook of the kernel's
    ///
    /// What stood there before is saved. Then a child of this command crashes, or asks for a key or a module; if no
    /// record of it comes, everything is as it was before. For keys the distribution's /sbin/request-key gets another
    /// name, which dpkg is told (dpkg-divert(1)); `--mode line` leaves it and writes a file into /etc/request-key.d. For
    /// modules kernel.modprobe is set.
    Install(InstallArgs),
    /// Put back what stood in the kernel's hooks before upcalld, and leave what is somebody else's
    Uninstall(UninstallArgs),
    /// Write the man pages or the completions
    #[command(hide = true)]
    Generate {
        /// Which
        what: Generated,
        /// Where
        directory: PathBuf,
    },
    /// Look at a tenant's bytes, without rights
    #[command(hide = true)]
    LookAtCore(WorkArgs),
    /// Wait for a byte, then do what this hook is for
    #[command(hide = true)]
    SelfTestChild {
        /// Which
        hook: Hook,
    },
}

/// `list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Only since then: `10m`, `2h`, `3d`, `today`, `yesterday`, `2026-11-22`, `2026-11-22 13:00`, RFC 3339
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<Since>,
    /// At most this many, the newest; 0 is all
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 50)]
    pub(crate) number: usize,
}

/// `modules`.
#[derive(Debug, Args)]
pub(crate) struct ModulesArgs {
    /// Only of this container: name, id or the start of one, runtime/name; `*` and `?` as in file names
    #[arg(long, value_name = "NAME")]
    pub(crate) container: Option<String>,
    /// Only since then, as for `list`
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<Since>,
    /// Print rules that would allow what rules have refused; writes nothing
    #[arg(long)]
    pub(crate) suggest: bool,
}

/// `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Exit status 1 also for a warning
    #[arg(long)]
    pub(crate) strict: bool,
    /// Files below DIR in the place of the host's own: for tests
    #[arg(long, hide = true, value_name = "DIR")]
    pub(crate) host: Option<PathBuf>,
}

/// `explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Which kind of upcall
    #[arg(value_enum, default_value = "core")]
    pub(crate) kind: Kind,
    /// Of a module, the alias that the kernel would ask for, as `list` shows it: `net-pf-10-proto-132`
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Of this process
    #[arg(long, value_name = "PID", group = "whose", required_unless_present_any = ["container", "record"])]
    pub(crate) pid: Option<u32>,
    /// Of the init of this running container, by name or id
    #[arg(long, value_name = "NAME", group = "whose")]
    pub(crate) container: Option<String>,
    /// Of this record, by the rules of now and as far as the record has the facts
    #[arg(long, value_name = "ID", group = "whose")]
    pub(crate) record: Option<String>,
    /// The signal it would crash with, by name or number
    #[arg(long, value_name = "SIGNAL", default_value = "SEGV", value_parser = signal)]
    pub(crate) signal: String,
    /// The type of the key that it would need, as in `dns_resolver`; this and what follows goes with `key`
    #[arg(long = "type", value_name = "TYPE", help_heading = "Options for `key`")]
    pub(crate) key_type: Option<String>,
    /// Its description, such as the name of a host; odd bytes as `list` shows them
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        requires = "key_type",
        help_heading = "Options for `key`"
    )]
    pub(crate) desc: String,
    /// The callout information
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        requires = "key_type",
        help_heading = "Options for `key`"
    )]
    pub(crate) callout: String,
    /// On whose behalf; if it is not said, of whoever usually asks for keys of this type
    #[arg(long, value_name = "WHO", value_parser = ["kernel", "user"], requires = "key_type",
          help_heading = "Options for `key`")]
    pub(crate) caller: Option<String>,
    /// Also the rules behind the one that matches
    #[arg(long)]
    pub(crate) all: bool,
}

/// `install`.
#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are what people may type"
)]
pub(crate) struct InstallArgs {
    /// Which hook
    pub(crate) hook: Hook,
    /// Say what would be changed, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not let a child crash or ask to see whether it works; needs no running daemon
    #[arg(long)]
    pub(crate) no_self_test: bool,
    /// How the kernel calls for a core, or a key comes to upcalld
    #[arg(long, value_enum, value_name = "MODE", default_value_t = Mode::Auto)]
    pub(crate) mode: Mode,
    /// Of `--mode line`: only keys of these types, else those that the kernel itself asks for
    #[arg(
        long = "type",
        value_name = "TYPE",
        value_delimiter = ',',
        requires = "mode"
    )]
    pub(crate) types: Vec<String>,
    /// Of umh: the path that the kernel was built with, if that is not /sbin/usermode-helper
    #[arg(long, value_name = "PATH")]
    pub(crate) path: Option<PathBuf>,
    /// Only where the hook is this upcalld's already; else nothing is done
    #[arg(long)]
    pub(crate) if_ours: bool,
    /// Only where the module hook was in before the boot, or `uninstall --for-now`; else nothing is done
    #[arg(long)]
    pub(crate) again: bool,
}

/// `uninstall`.
#[derive(Debug, Args)]
pub(crate) struct UninstallArgs {
    /// Only this hook; else all
    pub(crate) hook: Option<Hook>,
    /// The module hook alone: `install module --again` puts it in again, as at the next boot
    #[arg(long)]
    pub(crate) for_now: bool,
}

/// How the kernel calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// A core by socket where the kernel and the service manager can, else by pipe; a key by program
    Auto,
    /// A core: it starts a program for every crash
    Pipe,
    /// A core: it connects to upcalld, and asks before it dumps
    Socket,
    /// A key: upcalld's program is in the place of /sbin/request-key
    Program,
    /// A key: a line of request-key.d sends some types, and /sbin/request-key stays the distribution's
    Line,
}

/// A signal as rules write it; `SIG` before it and numbers are understood.
pub(crate) fn signal(text: &str) -> Result<String, String> {
    use upcall_config::upcall::Signal;
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = || text.parse().ok().and_then(Signal::from_number);
    Signal::from_name(name)
        .or_else(number)
        .map(|signal| signal.to_string())
        .ok_or_else(|| "not a signal; for example SEGV, ABRT or 11".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["SEGV", "sigsegv", "11"] {
            assert_eq!(signal(text).as_deref(), Ok("SEGV"));
        }
        assert!(signal("SEGFAULT").is_err() && signal("0").is_err() && signal("65").is_err());
    }

    #[test]
    fn json_takes_its_form_only_behind_an_equals_sign() {
        let json = |words: &[&str]| Cli::try_parse_from(words).map(|cli| cli.global.json).ok();
        assert_eq!(
            json(&["upcallctl", "list", "--json"]),
            Some(Some(Json::Document))
        );
        assert_eq!(
            json(&["upcallctl", "list", "--json=lines"]),
            Some(Some(Json::Lines))
        );
        assert_eq!(
            json(&["upcallctl", "show", "--json", "k3m"]),
            Some(Some(Json::Document))
        );
        assert_eq!(json(&["upcallctl", "list", "--json=xml"]), None);
    }

    #[test]
    fn one_of_process_container_and_record_is_explained() {
        let parsed = |words: &[&str]| {
            let words = ["upcallctl", "explain"].iter().chain(words);
            Cli::try_parse_from(words).is_ok()
        };
        assert!(parsed(&["--pid", "1", "core"]) && parsed(&["core", "--container", "x"]));
        assert!(parsed(&["--record", "k3m"]));
        assert!(!parsed(&[]) && !parsed(&["--pid", "1", "--container", "x"]));
        let key = ["--pid", "1", "key", "--type", "user", "--desc", "a"];
        assert!(parsed(&key) && parsed(&["--record", "k3m", "key"]));
        assert!(!parsed(&["--pid", "1", "--desc", "a"]));
    }
}

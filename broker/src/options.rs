//! The daemon's command line (upcalld(8)).

use std::ffi::OsString;
use std::path::PathBuf;

use upcall_config::Directories;

/// What `upcalld --help` prints.
pub const HELP: &str = "\
upcalld: answers the kernel's upcalls in the container that caused them

usage: upcalld [options]
  --config DIR    rules and settings from DIR alone, hooks' files in DIR/hooks
                  (else /usr/lib/upcalld, /etc/upcalld, /run/upcalld)
  --state DIR     records, cores, spool (/var/lib/upcalld)
  --run DIR       sockets (/run/upcalld)
  --libexec DIR   the programs beside it (/usr/libexec/upcalld)
  --foreground    log to standard error instead of the journal
  --install core  have the kernel's hook while this runs, and put back what stood there at the end:
                  for hosts without systemd, which has upcalld-hooks.service
  --armour kill   end at a system call that upcalld has no use for; else it fails, and the kernel's log says so
  --version, --help

Several can run side by side with other directories. Signals: SIGHUP reloads the rules, SIGTERM and
SIGINT let running work finish. See upcalld(8).
";

/// What becomes of a system call that the daemon has no use for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unlisted {
    /// It fails with `EPERM`: what was overlooked costs one upcall a detail, and not all of them their daemon.
    #[default]
    Refused,
    /// It ends the daemon.
    Kills,
}

/// How to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where rules and settings are.
    pub config: Directories,
    /// Where the hooks' files are.
    pub hooks: PathBuf,
    /// Records, cores, spool.
    pub state: PathBuf,
    /// Sockets.
    pub run: PathBuf,
    /// The programs beside the daemon.
    pub libexec: PathBuf,
    /// Log to standard error.
    pub foreground: bool,
    /// Have the core hook while running.
    pub install_core: bool,
    /// What the daemon's own filter of system calls does.
    pub unlisted: Unlisted,
    /// Files in the place of /proc/sys/kernel: only in builds for tests.
    pub sysctl: Option<PathBuf>,
    /// Take requests from any process of root's: only in builds for tests.
    pub any_peer: bool,
    /// A step at which to stop, for whoever kills it there: only in builds for tests.
    pub stop_at: Option<String>,
}

/// What the command line asks for.
#[derive(Debug, Clone)]
pub enum Asked {
    /// To start.
    Start(Box<Options>),
    /// To print this.
    Print(String),
}

/// The programs beside the daemon: /usr/libexec/upcalld, if it was not built for another place (`make PREFIX=`).
pub const LIBEXEC: &str = match option_env!("UPCALLD_LIBEXEC") {
    Some(path) => path,
    None => "/usr/libexec/upcalld",
};

impl Default for Options {
    fn default() -> Self {
        Self {
            config: Directories::system(),
            hooks: PathBuf::from(crate::hooks::pattern::DEFAULT_HOOKS),
            state: PathBuf::from("/var/lib/upcalld"),
            run: PathBuf::from("/run/upcalld"),
            libexec: PathBuf::from(LIBEXEC),
            foreground: false,
            install_core: false,
            unlisted: Unlisted::default(),
            sysctl: None,
            any_peer: false,
            stop_at: None,
        }
    }
}

impl Options {
    /// Reads a command line, the program's name left out.
    ///
    /// # Errors
    /// An option that is not there, or a value that is.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Asked, lexopt::Error> {
        use lexopt::Arg::{Long, Short};
        let mut options = Self::default();
        let mut parser = lexopt::Parser::from_args(arguments);
        while let Some(argument) = parser.next()? {
            match argument {
                Long("config") => {
                    let directory = directory(&mut parser)?;
                    options.hooks = directory.join("hooks");
                    options.config = Directories::single(directory);
                }
                Long("state") => options.state = directory(&mut parser)?,
                Long("run") => options.run = directory(&mut parser)?,
                Long("libexec") => options.libexec = directory(&mut parser)?,
                Long("foreground") => options.foreground = true,
                Long("install") => {
                    let hook = parser.value()?;
                    if hook != "core" {
                        return Err(format!("there is no hook {}", hook.display()).into());
                    }
                    options.install_core = true;
                }
                Long("armour") => {
                    let kind = parser.value()?;
                    if kind != "kill" {
                        return Err(format!("there is no armour {}", kind.display()).into());
                    }
                    options.unlisted = Unlisted::Kills;
                }
                Long("sysctl") if cfg!(debug_assertions) => {
                    options.sysctl = Some(directory(&mut parser)?);
                }
                Long("any-peer") if cfg!(debug_assertions) => options.any_peer = true,
                Long("stop-at") if cfg!(debug_assertions) => {
                    let step = parser.value()?.into_string();
                    options.stop_at = Some(step.map_err(|_| "not a step")?);
                }
                Long("help") | Short('h') => return Ok(Asked::Print(HELP.to_owned())),
                Long("version") | Short('V') => {
                    return Ok(Asked::Print(format!(
                        "upcalld {}\n",
                        env!("CARGO_PKG_VERSION")
                    )));
                }
                Long(_) | Short(_) | lexopt::Arg::Value(_) => return Err(argument.unexpected()),
            }
        }
        Ok(Asked::Start(Box::new(options)))
    }
}

/// A directory, absolute: the daemon's own working directory is `/`.
fn directory(parser: &mut lexopt::Parser) -> Result<PathBuf, lexopt::Error> {
    let value = parser.value()?;
    Ok(std::path::absolute(PathBuf::from(value)).map_err(|error| error.to_string())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Asked, lexopt::Error> {
        Options::parse(words.iter().map(OsString::from))
    }

    #[test]
    fn a_private_configuration_brings_its_own_hooks() {
        let Ok(Asked::Start(options)) = parse(&["--config", "/x", "--run=/y", "--foreground"])
        else {
            panic!("starts");
        };
        assert_eq!(options.hooks, PathBuf::from("/x/hooks"));
        assert_eq!(
            (options.run, options.foreground),
            (PathBuf::from("/y"), true)
        );
        assert!(parse(&["--nonsense"]).is_err() && parse(&["--state"]).is_err());
        assert!(
            matches!(parse(&["--version"]), Ok(Asked::Print(text)) if text.starts_with("upcalld 0."))
        );
    }
}

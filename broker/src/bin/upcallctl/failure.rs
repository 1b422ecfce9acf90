//! What goes wrong, with its exit status and what helps.
//!
//! The statuses: 1 it ran and the news is bad, 2 wrong usage, 3 upcalld does not run, 4 no such thing, 5 not
//! permitted, 6 cannot be done here and nothing is changed.

mod hook;

use std::io::ErrorKind;
use std::path::PathBuf;

use nix::errno::Errno;
use upcalld::explain::ExplainError;
use upcalld::explain::find::FindError;
use upcalld::hooks::errno_name;
use upcalld::hooks::install::InstallError;
use upcalld::hooks::key::KeyHookError;
use upcalld::hooks::module::ModuleHookError;
use upcalld::hooks::pattern::Pattern;
use upcalld::hooks::umh::UmhHookError;
use upcalld::store::records::RecordError;

use crate::client::CallError;
use crate::context::Context;

/// Why a command ends otherwise than well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The answer was printed, and it is bad news.
    #[error("")]
    BadNews,
    /// Nobody reads the answer any more.
    #[error("")]
    Closed,
    /// The answer cannot be printed.
    #[error("standard output: {}", errno_name(.0))]
    Output(std::io::Error),
    /// The daemon does not run.
    #[error("upcalld does not run: {}: {errno:?}", socket.display())]
    NotRunning {
        /// Where it would listen.
        socket: PathBuf,
        /// What connecting said.
        errno: Errno,
    },
    /// The daemon ended while it was listened to.
    #[error("upcalld has ended")]
    Ended,
    /// The daemon did not answer, or will not.
    #[error(transparent)]
    Call(CallError),
    /// There is no such record, process, container.
    #[error("{what}")]
    NotFound {
        /// What.
        what: String,
        /// How to find the right one.
        help: String,
    },
    /// It was asked for in a way that cannot be meant.
    #[error("{what}")]
    Usage {
        /// What is wrong.
        what: String,
        /// What may be meant.
        help: String,
    },
    /// Nobody of this user's may do this.
    #[error("`upcallctl {command}` needs {needs}; you are {who}")]
    NotPermitted {
        /// Which command.
        command: &'static str,
        /// Who may.
        needs: &'static str,
        /// Who asks.
        who: String,
    },
    /// Records cannot be read.
    #[error(transparent)]
    Records(RecordError),
    /// A file cannot be read or written.
    #[error("{}: {}", path.display(), errno_name(source))]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The hook cannot be put in or taken out.
    #[error(transparent)]
    Install(InstallError),
    /// The key hook cannot be put in or taken out.
    #[error(transparent)]
    InstallKey(KeyHookError),
    /// The module hook cannot be put in or taken out.
    #[error(transparent)]
    InstallModule(ModuleHookError),
    /// The static usermode helper cannot be put in or taken out.
    #[error("{0}")]
    InstallUmh(UmhHookError),
    /// The hook was put in, did not work, and is out again.
    #[error("self-test failed: {what}")]
    SelfTest {
        /// What happened.
        what: String,
        /// What is known about it.
        notes: Vec<String>,
        /// What may help.
        help: String,
    },
    /// The kernel has no socket for cores.
    #[error("this kernel has no core socket: {why}")]
    NoSocket {
        /// How that is known.
        why: String,
    },
    /// There are no rules to explain by.
    #[error("upcalld does not run, and the rules on disk have mistakes")]
    NoRules,
    /// Anything that should not be.
    #[error("{0}")]
    Odd(String),
}

impl Failure {
    /// The daemon cannot be asked.
    pub(crate) fn connect(context: &Context, error: &std::io::Error) -> Self {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        if errno == Errno::EACCES || errno == Errno::EPERM {
            return Self::denied(context);
        }
        Self::NotRunning {
            socket: context.socket(),
            errno,
        }
    }

    /// Root or the group may.
    pub(crate) fn denied(context: &Context) -> Self {
        Self::NotPermitted {
            command: context.command,
            needs: "root or group `upcall`",
            who: who(),
        }
    }

    /// Only root may.
    pub(crate) fn root_only(context: &Context) -> Self {
        Self::NotPermitted {
            command: context.command,
            needs: "root",
            who: who(),
        }
    }

    /// Records cannot be read, or not one of them.
    pub(crate) fn records(context: &Context, error: RecordError) -> Self {
        match &error {
            RecordError::Directory { source, .. }
                if source.kind() == ErrorKind::PermissionDenied =>
            {
                Self::denied(context)
            }
            RecordError::Ambiguous { .. } => Self::NotFound {
                what: error.to_string(),
                help: "write more of it".to_owned(),
            },
            RecordError::Directory { .. }
            | RecordError::Write { .. }
            | RecordError::Encode { .. } => Self::Records(error),
        }
    }

    /// Nothing can be explained.
    pub(crate) fn explain(context: &Context, error: ExplainError) -> Self {
        let help = match &error {
            ExplainError::Records(_) => {
                let ExplainError::Records(error) = error else {
                    return Self::Odd(error.to_string());
                };
                return Self::records(context, error);
            }
            ExplainError::NoSignal(_) => "signals are named as in signal(7)".to_owned(),
            ExplainError::NoProcess(_) | ExplainError::Ended(_) => {
                "ps -e lists processes".to_owned()
            }
            ExplainError::Unreadable { .. } => return Self::Odd(error.to_string()),
            ExplainError::NoText(_) => "write it as upcallctl list shows it: \\\\ and \\xNN".to_owned(),
            ExplainError::NotTheKernels(_) => "--caller user, or without --caller".to_owned(),
            ExplainError::Container(FindError::Ambiguous { .. }) => "use its id".to_owned(),
            ExplainError::Container(FindError::NotRunning(..)) => {
                "start it, or explain one of its records: --record ID".to_owned()
            }
            ExplainError::Container(FindError::None(_)) => {
                "runc list, podman ps; where runtimes keep their state is in [runtimes] of upcalld.toml"
                    .to_owned()
            }
            ExplainError::NoRecord(_) | ExplainError::Kind { .. } => context.typed("list"),
        };
        Self::NotFound {
            what: error.to_string(),
            help,
        }
    }

    /// The daemon's answer was no answer.
    pub(crate) fn call(context: &Context, error: CallError) -> Self {
        match &error {
            CallError::Refused { name, message } => match name.as_str() {
                "NotPermitted" => Self::root_only(context),
                "NoProcess" | "NoContainer" | "NoRecord" => Self::NotFound {
                    help: not_found(context, name),
                    what: message.clone(),
                },
                _ => Self::Call(error),
            },
            CallError::Io(_) if error.is_end() => Self::Ended,
            CallError::Io(_) | CallError::Garbled(_) => Self::Call(error),
        }
    }

    /// The exit status.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::Usage { .. } => 2,
            Self::NotRunning { .. } | Self::Ended => 3,
            Self::NotFound { .. } => 4,
            Self::NotPermitted { .. } => 5,
            Self::File { source, .. } if source.kind() == ErrorKind::NotFound => 4,
            Self::File { source, .. } if source.kind() == ErrorKind::PermissionDenied => 5,
            Self::BadNews
            | Self::Output(_)
            | Self::Call(_)
            | Self::Records(_)
            | Self::File { .. }
            | Self::NoRules
            | Self::Odd(_) => 1,
            Self::Install(_)
            | Self::InstallKey(_)
            | Self::InstallModule(_)
            | Self::InstallUmh(_)
            | Self::SelfTest { .. }
            | Self::NoSocket { .. } => 6,
        }
    }

    /// What to do about it.
    fn help(&self, context: &Context) -> Option<String> {
        Some(match self {
            Self::NotRunning { .. } | Self::Ended if context.options.is_empty() => {
                "systemctl start upcalld; why it stopped: journalctl -u upcalld -n 20".to_owned()
            }
            Self::NotRunning { .. } | Self::Ended => {
                format!("upcalld {} --foreground", context.options)
            }
            Self::NotFound { help, .. }
            | Self::Usage { help, .. }
            | Self::SelfTest { help, .. } => help.clone(),
            Self::NoSocket { .. } => {
                "--mode pipe does the same for one more process per crash; auto takes it by itself \
                 (docs/kernel-support.md)"
                    .to_owned()
            }
            Self::NotPermitted {
                command,
                needs,
                who,
            } => {
                let sudo = format!("sudo {}", context.typed(command));
                let user = who.split(' ').next().unwrap_or("USER");
                if *needs == "root" {
                    sudo
                } else {
                    format!("{sudo}; for good: adduser {user} upcall, then log in again")
                }
            }
            Self::Install(error) => return hook::core(error, context),
            Self::InstallKey(error) => return hook::key(error, context),
            Self::InstallModule(error) => return hook::module(error),
            Self::InstallUmh(error) => return hook::umh(error),
            Self::NoRules => context.typed("check"),
            Self::Call(CallError::Garbled(_)) => {
                "restart upcalld after an upgrade: systemctl restart upcalld".to_owned()
            }
            Self::BadNews
            | Self::Closed
            | Self::Output(_)
            | Self::Call(_)
            | Self::Records(_)
            | Self::File { .. }
            | Self::Odd(_) => return None,
        })
    }

    fn notes(&self, context: &Context) -> Vec<String> {
        match self {
            Self::NotRunning { .. } | Self::Ended => vec![meanwhile(context)],
            Self::SelfTest { notes, .. } => notes.clone(),
            Self::BadNews
            | Self::Closed
            | Self::Output(_)
            | Self::Call(_)
            | Self::NotFound { .. }
            | Self::Usage { .. }
            | Self::NotPermitted { .. }
            | Self::Records(_)
            | Self::File { .. }
            | Self::Install(_)
            | Self::InstallKey(_)
            | Self::InstallModule(_)
            | Self::InstallUmh(_)
            | Self::NoSocket { .. }
            | Self::NoRules
            | Self::Odd(_) => Vec::new(),
        }
    }

    /// All of it, for standard error.
    pub(crate) fn text(&self, context: &Context) -> String {
        if matches!(self, Self::BadNews | Self::Closed) {
            return String::new();
        }
        let mut text = format!("error: {self}\n");
        for note in self.notes(context) {
            text += &["  note: ", &note, "\n"].concat();
        }
        if let Some(help) = self.help(context) {
            text += &["  help: ", &help, "\n"].concat();
        }
        text
    }
}

fn not_found(context: &Context, name: &str) -> String {
    match name {
        "NoProcess" => "ps -e lists processes".to_owned(),
        "NoRecord" => context.typed("list"),
        _ => {
            "runc list, podman ps; where runtimes keep their state is in [runtimes] of upcalld.toml"
                .to_owned()
        }
    }
}

/// What becomes of crashes while the daemon does not run.
fn meanwhile(context: &Context) -> String {
    let works = "list, show, explain, check, doctor work";
    let standing = context.sysctl.read().ok();
    let pattern = standing.map(|standing| standing.pattern);
    match pattern.filter(|pattern| pattern.is_of(&context.hooks)) {
        None => return works.to_owned(),
        Some(Pattern::Socket(_)) => {
            return format!(
                "crashes wait for it, where upcalld.socket keeps the kernel's socket; {works}"
            );
        }
        Some(_) => {}
    }
    let spool = upcalld::store::space::kept(&context.spool()).map(|spool| spool.cores);
    let spool = match spool {
        None => "the spool takes cores".to_owned(),
        Some(0) => "the spool takes cores and is empty".to_owned(),
        Some(1) => "1 core is in the spool".to_owned(),
        Some(more) => format!("{more} cores are in the spool"),
    };
    format!("nothing is lost meanwhile, {spool}; {works}")
}

/// The user, as `ann (1000)`.
fn who() -> String {
    let uid = nix::unistd::Uid::effective();
    let user = nix::unistd::User::from_uid(uid).ok().flatten();
    match user {
        Some(user) => format!("{} ({uid})", user.name),
        None => format!("uid {uid}"),
    }
}

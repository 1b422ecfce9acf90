//! What every command starts from: where everything is, and how answers look.

use std::path::{Path, PathBuf};

use upcall_config::Directories;
use upcalld::control::Status;
use upcalld::hooks::file::CoreHook;
use upcalld::hooks::key::KeyHook;
use upcalld::hooks::module::ModuleHook;
use upcalld::hooks::pattern::DEFAULT_HOOKS;
use upcalld::hooks::sysctl::CoreSysctl;
use upcalld::hooks::sysctl_d::SysctlD;
use upcalld::hooks::umh::UmhHook;
use upcalld::store::records::Records;

use crate::cli::{Cli, Command, Hook, Json};
use crate::client::Client;
use crate::failure::Failure;
use crate::look::Look;

/// A command's surroundings.
#[derive(Debug)]
pub(crate) struct Context {
    /// Its name, as people type it.
    pub(crate) command: &'static str,
    /// Where rules and settings are.
    pub(crate) config: Directories,
    /// Where the hooks' files are.
    pub(crate) hooks: PathBuf,
    /// Records, cores, spool.
    pub(crate) state: PathBuf,
    /// Sockets.
    pub(crate) run: PathBuf,
    /// The programs beside the daemon.
    pub(crate) libexec: PathBuf,
    /// The kernel's settings.
    pub(crate) sysctl: CoreSysctl,
    /// The program that the kernel starts for keys.
    pub(crate) key: KeyHook,
    /// The program that the kernel starts for modules.
    pub(crate) module: ModuleHook,
    /// The program that the kernel starts for everything.
    pub(crate) umh: UmhHook,
    /// Where our hook is said to stay; only the system's own is.
    pub(crate) sysctl_d: Option<SysctlD>,
    /// The options that say that this is not the system's own daemon, to be repeated in advice.
    pub(crate) options: String,
    /// How answers look.
    pub(crate) look: Look,
    /// Whether they are for programs.
    pub(crate) json: Option<Json>,
}

impl Context {
    /// As the command line says.
    pub(crate) fn new(cli: &Cli) -> Self {
        let global = &cli.global;
        let config = global.config.as_deref().map(absolute);
        let [state, run, libexec] =
            [&global.state, &global.run, &global.libexec].map(|p| absolute(p));
        let mut options = String::new();
        let mut option = |name: &str, value: &Path, default: &str| {
            if value != Path::new(default) {
                options += &["--", name, " ", &value.display().to_string(), " "].concat();
            }
        };
        if let Some(config) = &config {
            option("config", config, "");
        }
        option("state", &state, "/var/lib/upcalld");
        option("run", &run, "/run/upcalld");
        option("libexec", &libexec, upcalld::options::LIBEXEC);
        let hooks = config
            .as_ref()
            .map_or_else(|| PathBuf::from(DEFAULT_HOOKS), |dir| dir.join("hooks"));
        let key = KeyHook::host(&libexec, &hooks, &run);
        let module = ModuleHook::host(&libexec, &hooks, &run);
        let umh = UmhHook::host(&libexec, &hooks, &run);
        Self {
            command: name(&cli.command),
            key: match &global.sysctl {
                Some(directory) => key.below(&directory.join("sbin")),
                None => key,
            },
            module: match &global.sysctl {
                Some(directory) => module.below(directory),
                None => module,
            },
            umh: match &global.sysctl {
                Some(directory) => umh.below(directory),
                None => umh,
            },
            hooks,
            config: config.map_or_else(Directories::system, Directories::single),
            state,
            run,
            libexec,
            sysctl: global
                .sysctl
                .as_deref()
                .map_or_else(CoreSysctl::host, CoreSysctl::below),
            sysctl_d: match &global.sysctl {
                Some(directory) => Some(SysctlD::below(&directory.join("sysctl.d"))),
                None => global.config.is_none().then(SysctlD::host),
            },
            options: options.trim_end().to_owned(),
            look: Look::new(global),
            json: global.json,
        }
    }

    /// How somebody would type this command of ours, with the options of now.
    pub(crate) fn typed(&self, command: &str) -> String {
        let words = ["upcallctl", &self.options, command];
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        words.join(" ")
    }

    /// The daemon's socket for us.
    pub(crate) fn socket(&self) -> PathBuf {
        self.run.join("control.sock")
    }

    /// A connection to the daemon.
    pub(crate) fn connect(&self) -> Result<Client, Failure> {
        Client::connect(&self.socket()).map_err(|error| Failure::connect(self, &error))
    }

    /// What the daemon says of itself; `None` where it does not run or does not talk to us.
    pub(crate) fn daemon(&self) -> Option<Status> {
        Client::connect(&self.socket()).ok()?.status().ok()
    }

    /// The records.
    pub(crate) fn records(&self) -> Records {
        Records::at(&self.state)
    }

    /// The core hook's file.
    pub(crate) fn hook_file(&self) -> Option<CoreHook> {
        CoreHook::read(&self.hooks).ok()
    }

    /// Where the shim keeps what the daemon did not take.
    pub(crate) fn spool(&self) -> PathBuf {
        self.hook_file()
            .map_or_else(|| self.state.join("spool"), |file| file.spool)
    }
}

/// The daemon's options are made absolute too; a path that cannot be is left as it is, and not found.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn name(command: &Command) -> &'static str {
    match command {
        Command::Status => "status",
        Command::Doctor(_) => "doctor",
        Command::Metrics => "metrics",
        Command::List(_) => "list",
        Command::Watch(_) => "watch",
        Command::Show { .. } => "show",
        Command::Modules(_) => "modules",
        Command::Explain(_) => "explain",
        Command::Cores(asked) => asked.name(),
        Command::Check { .. } => "check",
        Command::Reload => "reload",
        Command::Install(asked) => match asked.hook {
            Hook::Core => "install core",
            Hook::Key => "install key",
            Hook::Module => "install module",
            Hook::Umh => "install umh",
        },
        Command::Uninstall(_) => "uninstall",
        Command::Generate { .. } => "generate",
        Command::LookAtCore(_) => "look-at-core",
        Command::SelfTestChild { .. } => "self-test-child",
    }
}

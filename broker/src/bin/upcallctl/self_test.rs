//! The live self-test of a hook: a child of ours crashes, or asks for a key or a module, and its record must come.

use std::ffi::CString;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use upcall_helpers::sys::keys;
use upcalld::broker::SELF_TEST;
use upcalld::linux::modreq;

use crate::cli::Hook;
use crate::client::{CallError, Client};
use crate::context::Context;
use crate::failure::Failure;

/// Within this time the record must come.
const WITHIN: Duration = Duration::from_secs(2);

/// What is needed, got before anything is changed.
#[derive(Debug)]
pub(crate) struct Test {
    watching: Client,
    asking: Client,
}

/// Why the hook does not work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// No record came.
    #[error("a child crashed and no record came within {} s", WITHIN.as_secs())]
    Silence {
        /// Whether the kernel says that it dumped core.
        dumped: bool,
    },
    /// It came, and yet the daemon does not see the hook.
    #[error("a child crashed and its record came, but upcalld looks for the hook's file elsewhere")]
    Elsewhere,
    /// The daemon does not answer.
    #[error("upcalld does not answer: {0}")]
    Daemon(CallError),
    /// No record came, or no key.
    #[error("a child asked for a key and {}", if *.recorded { "did not get it, although upcalld was asked" } else { "upcalld did not hear of it" })]
    NoKey {
        /// Whether the record came.
        recorded: bool,
    },
    /// No record came.
    #[error("a child asked for a module and upcalld did not hear of it within {} s", WITHIN.as_secs())]
    NoModule,
    /// No record came.
    #[error("a child caused a program to be started and upcalld did not hear of it within {} s: this kernel was not built with CONFIG_STATIC_USERMODEHELPER, or for another path (--path)", WITHIN.as_secs())]
    NoHelper,
    /// There is no child.
    #[error("no child could be started: {0}")]
    Child(std::io::Error),
}

impl Test {
    /// Connects.
    pub(crate) fn prepare(context: &Context) -> Result<Self, Failure> {
        let mut watching = context.connect()?;
        watching
            .watch()
            .map_err(|error| Failure::call(context, error))?;
        Ok(Self {
            watching,
            asking: context.connect()?,
        })
    }

    /// Lets a child crash; says how long its record took.
    pub(crate) fn run(mut self, context: &Context) -> Result<Duration, Problem> {
        let _ = context;
        let mut child = spawn(Hook::Core).map_err(Problem::Child)?;
        let waited = self.wait_for(&mut child);
        // A dump that nobody reads would go on for ever.
        let ended = match &waited {
            Ok(Some(_)) => child.wait(),
            _ => child.kill().and_then(|()| child.wait()),
        };
        let took = waited?.ok_or_else(|| Problem::Silence {
            dumped: ended.is_ok_and(|status| status.core_dumped()),
        })?;
        let status = self.asking.status().map_err(Problem::Daemon)?;
        if status.core == "ours" {
            Ok(took)
        } else {
            Err(Problem::Elsewhere)
        }
    }

    /// Has a child ask for a key of type `user`; says how long its record took.
    pub(crate) fn run_key(mut self) -> Result<Duration, Problem> {
        let mut child = spawn(Hook::Key).map_err(Problem::Child)?;
        // It cannot be ended while it waits, and whoever answers keys refuses in time.
        let took = self.wait_for(&mut child)?;
        let took = took.ok_or(Problem::NoKey { recorded: false })?;
        let ended = ended_soon(&mut child)?;
        let got = ended.is_some_and(|status| status.success());
        got.then_some(took).ok_or(Problem::NoKey { recorded: true })
    }

    /// Has a child ask for a module that nobody has; says how long its record took.
    pub(crate) fn run_module(mut self) -> Result<Duration, Problem> {
        let mut child = spawn(Hook::Module).map_err(Problem::Child)?;
        let took = self.wait_for(&mut child)?;
        ended_soon(&mut child)?;
        took.ok_or(Problem::NoModule)
    }

    /// Has a child leave a cgroup whose release agent is a name of ours; says how long its record took.
    pub(crate) fn run_umh(mut self) -> Result<Duration, Problem> {
        let mut child = spawn(Hook::Umh).map_err(Problem::Child)?;
        let took = self.wait_for(&mut child)?;
        ended_soon(&mut child)?;
        took.ok_or(Problem::NoHelper)
    }

    /// Tells the daemon and then the child; `None`: no record came in time.
    fn wait_for(&mut self, child: &mut Child) -> Result<Option<Duration>, Problem> {
        let pid = child.id();
        let told: Result<Value, CallError> =
            self.asking.call("ExpectSelfTest", json!({ "pid": pid }));
        told.map_err(Problem::Daemon)?;
        let start = Instant::now();
        let stdin = child.stdin.take();
        let written = stdin.map_or(Ok(()), |mut stdin| stdin.write_all(b"!"));
        written.map_err(Problem::Child)?;
        loop {
            match self.watching.next_before(start + WITHIN) {
                Ok(news) if is_of(&news, pid) => return Ok(Some(start.elapsed())),
                Ok(_) if start.elapsed() < WITHIN => {}
                Ok(_) => return Ok(None),
                Err(error) if error.is_late() => return Ok(None),
                Err(error) => return Err(Problem::Daemon(error)),
            }
        }
    }
}

/// How a child ended whom the kernel has answered.
fn ended_soon(child: &mut Child) -> Result<Option<ExitStatus>, Problem> {
    let until = Instant::now() + WITHIN;
    let mut ended = None;
    while ended.is_none() && Instant::now() < until {
        ended = child.try_wait().map_err(Problem::Child)?;
        let _ = poll(&mut [], PollTimeout::from(2_u8));
    }
    Ok(ended)
}

fn is_of(news: &Value, pid: u32) -> bool {
    let found = news.pointer("/record/process/pid").and_then(Value::as_u64);
    let named = news.pointer("/record/umh/name").and_then(Value::as_str);
    found == Some(u64::from(pid)) || named == Some(&format!("{SELF_TEST}{pid}"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "this process is the admin's command and its child only crashes or asks"
)]
fn spawn(hook: Hook) -> std::io::Result<Child> {
    let hook = hook.to_possible_value();
    let hook = hook.map(|value| value.get_name().to_owned());
    Command::new("/proc/self/exe")
        .arg("self-test-child")
        .args(hook)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// The child: waits for a byte, then crashes or asks. Without a byte its parent has gone, and nothing is to be tried.
pub(crate) fn child(hook: Hook) -> Result<(), Failure> {
    let mut byte = [0; 1];
    let read = std::io::stdin().read(&mut byte);
    if !read.is_ok_and(|count| count == 1) {
        return Ok(());
    }
    let result = match hook {
        Hook::Core => crash(),
        Hook::Key => {
            let description = format!("upcalld:self-test:{}", std::process::id());
            let description = CString::new(description).unwrap_or_default();
            keys::request(c"user", &description, c"upcalld").map(drop)
        }
        Hook::Umh => empty_a_cgroup(),
        Hook::Module => modreq::want_file_system(c"upcalld-self-test"),
    };
    result.map_err(|errno| Failure::Odd(format!("{errno:?}")))
}

/// A hierarchy of cgroup v1 in a mount namespace of our own, and a cgroup in it that we enter and leave (cgroups(7)).
fn empty_a_cgroup() -> Result<(), Errno> {
    let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let options = Some("none,name=upcalld-self-test");
    mount(
        Some("upcalld"),
        "/tmp",
        Some("cgroup"),
        MsFlags::empty(),
        options,
    )?;
    let pid = std::process::id();
    let write = |path: &str, text: &str| std::fs::write(path, text).map_err(errno);
    write("/tmp/release_agent", &format!("{SELF_TEST}{pid}"))?;
    std::fs::create_dir("/tmp/job").map_err(errno)?;
    write("/tmp/job/notify_on_release", "1")?;
    write("/tmp/job/cgroup.procs", "0")?;
    write("/tmp/cgroup.procs", "0")?;
    // The agent is told when it is empty, and told for nothing where it is gone.
    let _ = poll(&mut [], PollTimeout::from(200_u8));
    std::fs::remove_dir("/tmp/job").map_err(errno)
}

fn crash() -> ! {
    // Not the name of the link it was started by.
    let _ = prctl::set_name(c"upcallctl");
    // A core limit of exactly 1 would tell the kernel that this is a handler's own crash.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_CORE) {
        let _ = setrlimit(Resource::RLIMIT_CORE, 0, hard);
    }
    std::process::abort()
}

//! The daemon's life: start, serve, reload, end.
//!
//! The launcher is started first, while this process has one thread and no armour: what the launcher starts inherits
//! neither.

mod accept;
mod activation;
mod armour;
mod hook;
mod log;
mod manager;

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use accept::{Doors, accept};
use activation::Given;
use anyhow::{Context, bail};
use hook::OwnHook;
use nix::unistd::Group;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tracing::{error, info, warn};
use upcall_config::rule::Policy;
use upcall_config::settings::Settings;

use crate::broker::{Broker, Places};
use crate::control::{self, Control};
use crate::hooks::key::KeyHook;
use crate::hooks::module::ModuleHook;
use crate::hooks::pattern;
use crate::hooks::umh::UmhHook;
use crate::hooks::watch::HookWatch;
use crate::intake::accepted::{self, Accepted};
use crate::launch::former::Former;
use crate::launch::{Launcher, OwnPrograms, Process};
use crate::linux::cgroup::Cgroups;
use crate::linux::memfd::SealedProgram;
use crate::linux::modreq::{self, TraceError, Tracefs};
use crate::metrics;
use crate::options::Options;
use crate::policy::Policies;

/// Of rules that were loaded, or not (journalctl MESSAGE_ID=…).
const POLICY: &str = "02de504df69140e5b2b2be3c668df400";

/// How long running work may go on after SIGTERM.
const FAREWELL: Duration = Duration::from_secs(10);

/// How long being ready waits for the kernel's process events; where there are some they come at once.
const LISTENING: Duration = Duration::from_millis(200);

/// Runs until told to end.
///
/// # Errors
/// What kept it from starting, or from going on.
pub fn run(options: Options) -> anyhow::Result<()> {
    log::start(options.foreground);
    // Rules first: a daemon without good rules does not start, and the shim keeps what comes meanwhile.
    let policies = Policies::load(options.config.clone())?;
    // Before anything else is opened: what systemd gave us has the first numbers.
    let kernel = pattern::kernel_socket(&options.run, &options.hooks);
    let sockets = activation::given(&options.run.join("upcall.sock"), &kernel)?;
    let image = seal(&options.libexec, "upcall-enter")?;
    let process = Process::start(&image).context("the launcher cannot be started")?;
    let own = OwnPrograms {
        store: seal(&options.libexec, "upcall-store")?,
        place: seal(&options.libexec, "upcall-place")?,
        enter: image,
    };
    // The last things that take more than what is kept: mounts, and code that libc loads to look up a name.
    let tracefs = Tracefs::mount();
    let cgroups = Cgroups::mount().context("cgroups")?;
    let group = Group::from_name("upcall").context("the group upcall")?;
    let launcher = Started {
        process,
        cgroups,
        own,
        tracefs,
        group: group.map(|group| group.gid.as_raw()),
    };
    armour::put_on(options.unlisted)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .thread_stack_size(512 * 1024)
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let result = runtime.block_on(serve(options, policies, sockets, launcher));
    // A reader of a tenant's command line may hang; it is not waited for.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

fn seal(libexec: &Path, name: &str) -> anyhow::Result<SealedProgram> {
    let path = libexec.join(name);
    SealedProgram::copy(&path).with_context(|| format!("{}", path.display()))
}

/// What our events of tracefs are called, for all of the host to see: each daemon has its own.
fn trace_name(run: &Path) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    if run == Options::default().run {
        return "upcalld".to_owned();
    }
    let mut hasher = DefaultHasher::new();
    run.hash(&mut hasher);
    format!("upcalld_{:016x}", hasher.finish())
}

/// What was made before the armour was put on.
struct Started {
    process: Process,
    cgroups: Cgroups,
    own: OwnPrograms,
    tracefs: Result<Tracefs, TraceError>,
    /// The group `upcall`, where there is one.
    group: Option<u32>,
}

async fn serve(
    options: Options,
    policies: Policies,
    sockets: Given,
    launcher: Started,
) -> anyhow::Result<()> {
    let (policy, settings) = policies.current();
    let _lock = prepare(&options)?;
    let doors = Doors::open(&options, sockets)?;
    let Started {
        process,
        cgroups,
        own,
        tracefs,
        group,
    } = launcher;
    let launcher = Launcher::attach(process, cgroups, own).map(Arc::new);
    let launcher = launcher.context("the launcher")?;
    let mut gone = tokio::spawn(Arc::clone(&launcher).serve());
    let broker = broker(&options, policy, settings, &launcher, tracefs)?;
    show_records(&options.state, group).context("records for the group upcall")?;
    let accepted = take_over(&options, &broker, launcher.pid())?;
    let hooks = watch_hooks(&options, &broker);
    let watching = tokio::spawn(Arc::clone(&hooks).run());
    let control = Arc::new(Control::new(
        Arc::clone(&broker),
        policies,
        hooks,
        doors.kernel(),
    ));
    let controlling = control::listen(&options.run, group, Arc::clone(&control))?;

    if let Some(path) = broker.settings().metrics.textfile.clone() {
        let control = Arc::clone(&control);
        let text = move || metrics::text(&control.metrics().families);
        tokio::spawn(metrics::keep_current(path, text));
    }

    let (stop, stopping) = watch::channel(false);
    let accepting = tokio::spawn(accept(
        doors,
        (Arc::clone(&broker), accepted),
        options.any_peer,
        stopping,
    ));
    // Before anybody is told that we are there and may tell us something.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    info!(
        "upcalld {} serves {}",
        env!("CARGO_PKG_VERSION"),
        options.run.display()
    );
    let own_hook = options
        .install_core
        .then(|| OwnHook::put_in(&options, broker.settings().store.keep_free));
    let own_hook = own_hook.transpose()?;
    let noticing = notice_missed(&options, &broker).await;
    manager::ready();
    let taking_in = tokio::spawn(Arc::clone(&broker).take_in_for_ever());
    keep_house(&broker);
    let ended = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            _ = hangup.recv() => reload(&control),
            _ = &mut gone => break Err(anyhow::anyhow!("the launcher is gone; start upcalld again")),
        }
    };
    manager::stopping().await;
    if let Some(hook) = own_hook {
        hook.put_back();
    }
    stop.send_replace(true);
    let handled = accepting.await.unwrap_or_default();
    farewell(handled).await;
    watching.abort();
    taking_in.abort();
    noticing.iter().for_each(JoinHandle::abort);
    controlling.abort();
    broker.flush();
    info!("upcalld ends");
    ended
}

/// Closes what a former daemon has left.
fn take_over(
    options: &Options,
    broker: &Arc<Broker>,
    launcher: u32,
) -> anyhow::Result<Arc<Accepted>> {
    let former = Former::find(&options.run, launcher).context("launchers of former daemons")?;
    let kept = broker.close_former();
    broker.close_unanswered(&accepted::left(&options.run), &kept);
    let accepted = Accepted::open(&options.run);
    let accepted = accepted.with_context(|| format!("{}/accepted", options.run.display()))?;
    broker.know_kept();
    tokio::spawn(Arc::clone(broker).close_former_later(kept, former));
    Ok(accepted)
}

/// Listens for crashes that bring no upcall; who waits for us to be ready is told when we do.
async fn notice_missed(options: &Options, broker: &Arc<Broker>) -> Option<JoinHandle<()>> {
    // Where upcalls come from anybody, a crash need not bring one.
    if options.any_peer {
        return None;
    }
    let (listens, listening) = oneshot::channel();
    let noticing = tokio::spawn(Arc::clone(broker).notice_missed(listens));
    drop(tokio::time::timeout(LISTENING, listening).await);
    Some(noticing)
}

/// What goes on beside upcalls for as long as we run.
fn keep_house(broker: &Arc<Broker>) {
    tokio::spawn(manager::feed(Arc::clone(broker)));
    tokio::spawn(Arc::clone(broker).forget_for_ever());
    tokio::spawn(Arc::clone(broker).expire_for_ever());
}

/// SIGHUP: as `upcallctl reload`, and what is wrong goes to the log.
fn reload(control: &Control) {
    let reloaded = control.reload(control::Reload::default());
    for diagnostic in &reloaded.diagnostics {
        warn!("{}", diagnostic.text);
    }
    if reloaded.replaced {
        info!(
            MESSAGE_ID = POLICY,
            "{} rules from {} files loaded",
            reloaded.rules,
            reloaded.files.len()
        );
    } else {
        error!(
            MESSAGE_ID = POLICY,
            "the rules on disk have mistakes; those loaded before stay (upcallctl check)"
        );
    }
}

/// The directories and their lock. Two daemons in one place would take each other's sockets.
fn prepare(options: &Options) -> anyhow::Result<File> {
    let make = |path: &Path, mode: u32| -> anyhow::Result<()> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(mode);
        builder
            .create(path)
            .with_context(|| format!("{}", path.display()))
    };
    make(&options.run, 0o755)?;
    // The umask is ours; others have to get through to the control socket, whose own mode decides.
    std::fs::set_permissions(&options.run, PermissionsExt::from_mode(0o755))?;
    // Others get through to a core that they may read, and see no name.
    make(&options.state, 0o751)?;
    let path = options.run.join("lock");
    let lock = File::create(&path).with_context(|| format!("{}", path.display()))?;
    if lock.try_lock().is_err() {
        bail!(
            "another upcalld runs in {}; stop it, or use --run and --state",
            options.run.display()
        );
    }
    Ok(lock)
}

/// The group `upcall`, where there is one, may read the records. Cores stay root's alone.
fn show_records(state: &Path, group: Option<u32>) -> anyhow::Result<()> {
    if group.is_none() {
        return Ok(());
    }
    // What is made in a directory with this bit (2000) belongs to the directory's group; records are made in `open`,
    // which nobody else gets into, and moved.
    for (path, mode) in [
        (state.to_owned(), 0o751),
        (state.join("records"), 0o2750),
        (state.join("open"), 0o2700),
    ] {
        std::os::unix::fs::chown(&path, None, group)?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode))?;
    }
    Ok(())
}

fn broker(
    options: &Options,
    policy: Arc<Policy>,
    settings: Settings,
    launcher: &Arc<Launcher>,
    tracefs: Result<Tracefs, TraceError>,
) -> anyhow::Result<Arc<Broker>> {
    let places = Places {
        state: options.state.clone(),
        run: options.run.clone(),
        hooks: options.hooks.clone(),
        stop_at: options.stop_at.clone(),
    };
    let watch = modreq::Watch::new(tracefs, trace_name(&options.run));
    let broker = Broker::new(places, settings, policy, Arc::clone(launcher), watch)?;
    // Else with the first request, which nobody has seen then.
    if options.hooks.join("module").exists() {
        broker.watch_modules();
    }
    Ok(Arc::new(broker))
}

fn watch_hooks(options: &Options, broker: &Broker) -> Arc<HookWatch> {
    let (libexec, hooks, run) = (&options.libexec, &options.hooks, &options.run);
    let key = KeyHook::host(libexec, hooks, run);
    let module = ModuleHook::host(libexec, hooks, run);
    let retake = broker.settings().hooks.retake;
    let umh = UmhHook::host(libexec, hooks, run);
    Arc::new(HookWatch::new(hooks.clone(), key, module, umh, retake))
}

/// Lets running work finish; what the launcher has begun goes on without us.
async fn farewell(mut handled: JoinSet<()>) {
    let start = Instant::now();
    if !handled.is_empty() {
        info!(
            "{} upcalls are being handled; waiting for them",
            handled.len()
        );
    }
    while !handled.is_empty() && start.elapsed() < FAREWELL {
        let left = FAREWELL.saturating_sub(start.elapsed());
        drop(tokio::time::timeout(left, handled.join_next()).await);
    }
    handled.abort_all();
}

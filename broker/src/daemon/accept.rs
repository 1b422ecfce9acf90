//! Where upcalls come in: the shim's socket and the kernel's, one task for each connection.

use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, error, warn};

use super::activation::Given;
use crate::broker::Broker;
use crate::hooks::pattern;
use crate::hooks::sysctl::CoreSysctl;
use crate::intake;
use crate::intake::accepted::{Accepted, Note};
use crate::intake::coresock::RefusedConnection;
use crate::intake::shim::{Call, IntakeError};
use crate::linux::{coresock, seqpacket};
use crate::options::Options;

/// Requests being read and handled at once; more wait in the sockets' backlogs.
const HANDLED_MAX: usize = 2048;

/// What is in the backlog at the end is there at once.
const LEFT: Duration = Duration::from_millis(1);

/// Both sockets, listening.
#[derive(Debug)]
pub(super) struct Doors {
    upcall: seqpacket::Listener,
    kernel: Option<coresock::Listener>,
    /// Whether the kernel's socket goes with us: nobody else listens there when we have ended.
    own: bool,
}

impl Doors {
    /// Takes what systemd listens at for us, and makes what is missing. The kernel's is there where the kernel connects to
    /// sockets (6.16).
    ///
    /// # Errors
    /// As bind(2).
    pub(super) fn open(options: &Options, given: Given) -> anyhow::Result<Self> {
        let upcall = match given.upcall {
            Some(socket) => seqpacket::Listener::inherited(socket),
            None => seqpacket::Listener::bind(&options.run.join("upcall.sock")),
        };
        let own = given.kernel.is_none();
        let kernel = kernel(options, given.kernel);
        Ok(Self {
            upcall: upcall.context("upcall.sock")?,
            kernel: kernel.context("the kernel's socket")?,
            own,
        })
    }

    /// How the kernel's socket is there: `kept`, also while we are started again, or `own`, or not at all.
    pub(super) fn kernel(&self) -> Option<&'static str> {
        let word = if self.own { "own" } else { "kept" };
        self.kernel.as_ref().map(|_| word)
    }

    async fn kernel_connection(&self) -> std::io::Result<OwnedFd> {
        match &self.kernel {
            Some(kernel) => kernel.accept().await,
            None => std::future::pending().await,
        }
    }
}

/// The kernel's socket. Its directory is root's alone: the kernel looks at no modes on its way to the socket, everybody
/// else has to.
fn kernel(
    options: &Options,
    given: Option<OwnedFd>,
) -> std::io::Result<Option<coresock::Listener>> {
    let path = pattern::kernel_socket(&options.run, &options.hooks);
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(directory)?;
    std::fs::set_permissions(directory, PermissionsExt::from_mode(0o700))?;
    if let Some(socket) = given {
        return coresock::Listener::inherited(socket).map(Some);
    }
    if CoreSysctl::host().has_socket().is_err() {
        return Ok(None);
    }
    coresock::Listener::bind(&path).map(Some)
}

/// Takes requests until told to stop; returns the tasks that still run then.
pub(super) async fn accept(
    doors: Doors,
    (broker, accepted): (Arc<Broker>, Arc<Accepted>),
    any_peer: bool,
    mut stopping: watch::Receiver<bool>,
) -> JoinSet<()> {
    if any_peer {
        warn!("--any-peer: requests are taken from every process of root's; for tests only");
    }
    let mut handled = JoinSet::new();
    loop {
        while handled.try_join_next().is_some() {}
        let accepted = tokio::select! {
            biased;
            _ = stopping.changed() => break,
            _ = handled.join_next(), if handled.len() >= HANDLED_MAX => continue,
            connection = doors.upcall.accept() => connection.map(|connection| {
                handled.spawn(shims(connection, Arc::clone(&broker), any_peer));
            }),
            connection = doors.kernel_connection() => connection.map(|connection| {
                handled.spawn(kernels(accepted.note(&connection), connection, Arc::clone(&broker)));
            }),
        };
        if let Err(error) = accepted {
            // Out of descriptors, most likely: whoever waits in the backlog waits a little longer.
            error!("accept: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    // Whoever waits in the backlog of a socket that somebody keeps for us waits for the next one.
    while handled.len() < HANDLED_MAX
        && doors.own
        && let Ok(Ok(connection)) = tokio::time::timeout(LEFT, doors.kernel_connection()).await
    {
        handled.spawn(kernels(
            accepted.note(&connection),
            connection,
            Arc::clone(&broker),
        ));
    }
    handled
}

/// The shim's.
async fn shims(connection: seqpacket::Connection, broker: Arc<Broker>, any_peer: bool) {
    match intake::shim::take(connection, broker.resolver().host(), any_peer).await {
        Ok(Call::Core(call)) => broker.core(call).await,
        Ok(Call::Key(call)) => broker.key(call).await,
        Ok(Call::Helper(call)) => broker.helper(call).await,
        Err(IntakeError::Late(late)) => broker.late(&late),
        Err(error) => {
            warn!("not taken: {error}");
            // If it was a core dump, its shim keeps it.
            broker.look_into_the_spool();
        }
    }
}

/// The kernel's own, which is noted until it is answered and told, or counted in a refusal that waits to be written.
async fn kernels(noted: Option<Note>, connection: OwnedFd, broker: Arc<Broker>) {
    match intake::coresock::take(connection, broker.resolver().host()).await {
        Ok(call) => broker.core(call).await,
        Err(RefusedConnection::Killed { pid, started }) => broker.killed(pid, started),
        Err(error @ RefusedConnection::Handlers(_)) => debug!("not taken: {error}"),
        Err(error) => warn!("not taken: {error}"),
    }
    drop(noted);
}

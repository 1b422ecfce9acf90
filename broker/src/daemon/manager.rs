//! What the service manager is told (`sd_notify(3)`). It may hang, as systemd does once it has crashed, and its queue be
//! full: then whoever tells it waits, and no thread of those that serve upcalls does.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::broker::Broker;

/// How long it is waited for to hear that we end.
const FAREWELL: Duration = Duration::from_millis(100);

/// Tells it that upcalls are served: later, if it does not listen yet.
pub(super) fn ready() {
    tokio::spawn(tell(NotifyState::Ready));
}

/// Tells it that the daemon ends, if it listens.
pub(super) async fn stopping() {
    drop(tokio::time::timeout(FAREWELL, tell(NotifyState::Stopping)).await);
}

/// Tells it for ever that the daemon moves, twice as often as is asked for (systemd.service(5), `WatchdogSec=`); ends at
/// once where nobody asks. One task of the same runtime as every upcall, which reads the rules as they do: where those do
/// not get on, this does not either.
pub(super) async fn feed(broker: Arc<Broker>) {
    let Some(every) = sd_notify::watchdog_enabled() else {
        return;
    };
    loop {
        drop(broker.policy());
        drop(tell(NotifyState::Watchdog).await);
        tokio::time::sleep(every / 2).await;
    }
}

/// The library's own call would wait in send(2).
async fn tell(state: NotifyState<'static>) -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address(&path)?)?;
    socket.set_nonblocking(true)?;
    let socket = tokio::net::UnixDatagram::from_std(socket)?;
    socket.send(format!("{state}\n").as_bytes()).await.map(drop)
}

/// A path, or `@` and a name without a file (unix(7)).
fn address(path: &OsString) -> io::Result<SocketAddr> {
    match path.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_has_a_path_or_a_name() {
        let named = address(&"@upcalld".into()).unwrap();
        assert_eq!(named.as_abstract_name(), Some(b"upcalld".as_slice()));
        let path = address(&"/run/systemd/notify".into()).unwrap();
        assert!(path.as_pathname().is_some());
    }
}

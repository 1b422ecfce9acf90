//! Tells the service manager that the daemon moves (systemd.service(5), `WatchdogSec=`).

use std::sync::Arc;

use sd_notify::NotifyState;

use crate::broker::Broker;

/// Says so for ever, twice as often as is asked for; ends at once where nobody asks. One task of the same runtime as
/// every upcall, which reads the rules as they do: where those do not get on, this does not either.
pub(super) async fn feed(broker: Arc<Broker>) {
    let Some(every) = sd_notify::watchdog_enabled() else {
        return;
    };
    loop {
        drop(broker.policy());
        drop(sd_notify::notify(&[NotifyState::Watchdog]));
        tokio::time::sleep(every / 2).await;
    }
}

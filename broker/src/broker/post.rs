//! `post`: a program of the host that is told when all is done. Its standard input is the closed record.
//!
//! It is a helper like any other: the launcher starts it, its keeper ends it in time. What comes of it is in the log and
//! the metrics, since the record is closed; so many run at once and so many wait, and what comes beyond that is dropped:
//! a storm of crashes is not to become a storm of notes.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::memfd::{MFdFlags, memfd_create};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::warn;
use upcall_config::plan::Run;
use upcall_config::text::escape;
use upcall_helpers::wire::{Event, Report, WaitStatus};

use super::Broker;
use super::reason::{self, Explained};
use crate::launch::Slot;
use crate::store::record::Record;

/// Programs that run at once.
const RUNNING_MAX: usize = 16;

/// Programs that wait for those.
const WAITING_MAX: usize = 256;

/// Those that are there.
#[derive(Debug)]
pub(super) struct Posts {
    running: Semaphore,
    there: AtomicUsize,
}

impl Default for Posts {
    fn default() -> Self {
        Self {
            running: Semaphore::new(RUNNING_MAX),
            there: AtomicUsize::new(0),
        }
    }
}

impl Broker {
    /// Starts the program soon, if the rule has one, and waits for nothing.
    pub(super) fn post(self: &Arc<Self>, post: Option<Run>, record: Arc<Record>) {
        let Some(run) = post else { return };
        let there = &self.posts.there;
        if there.fetch_add(1, Ordering::Relaxed) >= RUNNING_MAX + WAITING_MAX {
            there.fetch_sub(1, Ordering::Relaxed);
            warn!(
                "{} of {} is not started: too many wait",
                program(&run),
                record.id
            );
            return self.metrics.posted("dropped");
        }
        let broker = Arc::clone(self);
        tokio::spawn(async move {
            let permit = broker.posts.running.acquire().await;
            let wrong = broker.run_post(&run, &record).await.err();
            drop(permit);
            broker.posts.there.fetch_sub(1, Ordering::Relaxed);
            broker
                .metrics
                .posted(if wrong.is_some() { "failed" } else { "done" });
            if let Some(wrong) = wrong {
                warn!("{} of {}: {wrong}", program(&run), record.id);
            }
        });
    }

    async fn run_post(&self, run: &Run, record: &Record) -> Result<(), String> {
        let text = text(record).map_err(|error| format!("its input: {error}"))?;
        let mut reports = self.launcher.listen(&record.id);
        let ended = match self.launcher.post(&record.id, run, text).await {
            Ok(()) => self.post_ended(run, &record.id, &mut reports).await,
            Err(error) => Err(error.to_string()),
        };
        self.launcher.forget(&record.id);
        ended
    }

    /// Waits until nothing of it is there any more.
    async fn post_ended(
        &self,
        run: &Run,
        id: &str,
        reports: &mut UnboundedReceiver<Report>,
    ) -> Result<(), String> {
        let mut ended = None;
        while let Some(report) = reports.recv().await {
            match report.event {
                Event::Failed { stage, errno } => {
                    let errno = nix::errno::Errno::from_raw(i32::try_from(errno).unwrap_or(0));
                    let wrong = reason::stage(stage, errno, &program(run), "the host");
                    ended = Some(Err(wrong.message));
                }
                Event::Ended {
                    status,
                    timed_out,
                    output,
                    ..
                } => {
                    let wrong = reason::ended(status, timed_out, &program(run));
                    let said =
                        |wrong: Explained| format!("{} \"{}\"", wrong.message, escape(&output));
                    ended = Some(wrong.map_or(Ok(()), |wrong| Err(said(wrong))));
                }
                Event::Gone { status } => {
                    self.launcher.gone(id, Slot::Post, status, &[]);
                    return ended.unwrap_or_else(|| Err(format!("no word of its end: {status:?}")));
                }
                Event::Started { .. } | Event::Stored { .. } | Event::Answered { .. } => {}
            }
        }
        // What it had started has nobody else who ends it.
        self.launcher
            .gone(id, Slot::Post, WaitStatus::Signaled(9), &[]);
        Err("the launcher is gone".to_owned())
    }
}

fn program(run: &Run) -> String {
    run.argv()
        .first()
        .map(|word| escape(word))
        .unwrap_or_default()
}

/// The record as a file of its own, to be read from its beginning.
fn text(record: &Record) -> std::io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("record", MFdFlags::MFD_CLOEXEC)?);
    serde_json::to_writer(&mut file, record)?;
    file.write_all(b"\n")?;
    file.rewind()?;
    Ok(file.into())
}

//! What is started on the host as it is: the worker that stores cores, and what stood before us.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use upcall_config::plan::{Compress, Store};
use upcall_helpers::wire::{Exec, FdRole, Task};

use super::{Job, LaunchError, Launcher, Slot};
use crate::intake::call::KernelPipe;
use crate::store::cores;
use crate::store::ledger::Tokens;

/// Where upcall-store finds the pipes of those it feeds.
const FEEDS: std::ops::RangeInclusive<u8> = 6..=15;

/// What takers have not read yet, where no copy is kept, takes at most so many bytes on the disk.
const SPOOL_MAX: u64 = 4 << 30;

/// A copy that is to be kept.
#[derive(Debug, Clone, Copy)]
pub struct Keep<'a> {
    /// How.
    pub store: Store,
    /// Room for it.
    pub tokens: Option<&'a Tokens>,
    /// The user of the host who may read it, beside root.
    pub reader: Option<u32>,
}

impl Launcher {
    /// Starts the worker that reads the kernel's pipe, keeps a copy in `cores` if there is one to be kept, and feeds
    /// takers through `feeds`, at most ten.
    ///
    /// # Errors
    /// See [`LaunchError`]; nothing was started then.
    pub async fn store(
        &self,
        job: Job<'_>,
        keep: Option<Keep<'_>>,
        (cores, keep_free): (&File, u64),
        kernel: &KernelPipe,
        feeds: Vec<OwnedFd>,
    ) -> Result<(), LaunchError> {
        let mut words = vec![
            "upcall-store".to_owned(),
            format!("id={}", job.id),
            format!("slot={}", Slot::Store as u8),
            format!(
                "max_size={}",
                keep.map_or(SPOOL_MAX, |keep| keep.store.max_size())
            ),
            format!("keep_free={keep_free}"),
        ];
        let tokens = keep.and_then(|keep| keep.tokens);
        if let Some(Keep { store, reader, .. }) = keep {
            words.extend(reader.map(|uid| format!("reader={uid}")));
            words.extend(tokens.map(|_| "tokens=1".to_owned()));
            words.push(format!("name={}", cores::name(job.id, store.compress())));
            if let Compress::Zstd(level) = store.compress() {
                words.push(format!("zstd={level}"));
            }
        }
        let argv = words.into_iter().map(String::into_bytes).collect();
        let exec = Exec {
            argv,
            env: vec![],
            reports: true,
        };
        let mut fds = vec![
            (FdRole::Program, self.own.store.fd()),
            (FdRole::Record, job.record.as_fd()),
            (FdRole::Claim, kernel.claim.as_fd()),
            (FdRole::Number(0), kernel.pipe.as_fd()),
            (FdRole::Number(3), cores.as_fd()),
            (FdRole::Number(5), job.record.as_fd()),
        ];
        if let Some(tokens) = tokens {
            fds.push((FdRole::Number(1), tokens.own.as_fd()));
            fds.push((FdRole::Number(2), tokens.all.as_fd()));
        }
        let feeds = FEEDS.zip(&feeds);
        fds.extend(feeds.map(|(number, feed)| (FdRole::Number(number), feed.as_fd())));
        self.send(job.id, Slot::Store, Task::Exec(exec), &fds).await
    }

    /// Starts what stood before us, with the words it would have got, and the kernel's pidfd at its number.
    ///
    /// # Errors
    /// See [`LaunchError`]; nothing was started then.
    pub async fn pass(
        &self,
        job: Job<'_>,
        argv: Vec<Vec<u8>>,
        kernel: &KernelPipe,
        pidfd: Option<BorrowedFd<'_>>,
    ) -> Result<(), LaunchError> {
        let mut fds = vec![
            (FdRole::Record, job.record.as_fd()),
            (FdRole::Claim, kernel.claim.as_fd()),
            (FdRole::Number(0), kernel.pipe.as_fd()),
        ];
        if let Some(pidfd) = pidfd {
            fds.push((FdRole::Number(3), pidfd));
        }
        self.send(
            job.id,
            Slot::Pass,
            Task::Exec(Exec {
                argv,
                env: vec![],
                reports: false,
            }),
            &fds,
        )
        .await
    }
}

//! Where the log goes: to the journal where there is one, else to standard error.
//!
//! The journal may hang, or be the very process that dumps core, and a terminal may be stopped: nobody who does not read the
//! log holds up an upcall. What cannot be written at once is left out, and the next line says how much that was.

use std::fmt::{Debug, Write as _};
use std::io::{ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

/// The journal's (systemd-journald.service(8)).
const JOURNAL: &str = "/run/systemd/journal/socket";

/// So much a pipe takes at once where it takes anything (pipe(7), `PIPE_BUF`).
const PART: usize = 4096;

/// Lines that standard error did not take.
static UNSAID: Lost = Lost(AtomicU64::new(0));

/// Starts it; `foreground`: to standard error.
pub(super) fn start(foreground: bool) {
    let filter = EnvFilter::try_from_env("UPCALLD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let journal = (!foreground).then(|| Journal::at(Path::new(JOURNAL)));
    let journal = journal.and_then(Result::ok);
    let stderr = journal.is_none().then(|| {
        fmt::layer()
            .with_writer(|| Patient)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            // The other fields are the journal's, to search by; the message says the same in words.
            .fmt_fields(fmt::format::debug_fn(|writer, field, value| {
                match field.name() {
                    "message" => write!(writer, "{value:?}"),
                    _ => Ok(()),
                }
            }))
    });
    let log = tracing_subscriber::registry()
        .with(filter)
        .with(journal)
        .with(stderr);
    // A second start in one process (tests) keeps the first one's log.
    drop(log.try_init());
}

/// Lines that nobody took.
#[derive(Debug, Default)]
struct Lost(AtomicU64);

impl Lost {
    fn one_more(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// What is to be said about them, once.
    fn told(&self) -> Option<String> {
        let lost = self.0.swap(0, Ordering::Relaxed);
        (lost > 0).then(|| format!("{lost} lines of the log are missing here: nobody took them"))
    }
}

/// Standard error, which is not waited for.
struct Patient;

impl Write for Patient {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let missing = UNSAID.told().map(|lost| lost + "\n").unwrap_or_default();
        let mut parts = missing.as_bytes().chunks(PART).chain(line.chunks(PART));
        // Before it is asked: two who are told at once that there is room for one would be one who waits.
        let mut stderr = std::io::stderr().lock();
        let written = parts.try_for_each(|part| {
            if !takes(stderr.as_fd()) {
                return Err(ErrorKind::WouldBlock.into());
            }
            stderr.write_all(part)
        });
        if written.is_err() {
            UNSAID.one_more();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Whether it takes something at this moment.
fn takes(fd: std::os::fd::BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
    let ready = poll(&mut fds, PollTimeout::ZERO);
    ready.is_ok()
        && fds
            .iter()
            .any(|fd| fd.revents() == Some(PollFlags::POLLOUT))
}

/// The journal's socket, by its native protocol: a datagram of fields for each line.
#[derive(Debug)]
struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    lost: Lost,
}

impl Journal {
    /// Whether somebody listens there is tried by a datagram without fields.
    fn at(path: &Path) -> std::io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        match socket.send_to(&[], path) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(Self {
                socket,
                path: path.to_owned(),
                lost: Lost::default(),
            }),
        }
    }

    fn send(&self, fields: &Fields) {
        if let Some(lost) = self.lost.told() {
            let mut missing = Fields::of(Level::WARN);
            missing.add("MESSAGE", &lost);
            self.try_send(&missing);
        }
        self.try_send(fields);
    }

    fn try_send(&self, fields: &Fields) {
        if self.socket.send_to(&fields.0, &self.path).is_err() {
            self.lost.one_more();
        }
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut fields = Fields::of(*event.metadata().level());
        fields.add("TARGET", event.metadata().target());
        event.record(&mut fields);
        self.send(&fields);
    }
}

/// Fields as the journal wants them (systemd.journal-fields(7), and its native protocol): `NAME=value`, or the value's length
/// in eight bytes where there is a newline in it.
struct Fields(Vec<u8>);

impl Fields {
    fn of(level: Level) -> Self {
        let priority = match level {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "5",
            Level::DEBUG => "6",
            Level::TRACE => "7",
        };
        let mut fields = Self(Vec::new());
        fields.add("PRIORITY", priority);
        fields.add("SYSLOG_IDENTIFIER", "upcalld");
        fields
    }

    /// The name is one of ours.
    fn add(&mut self, name: &str, value: &str) {
        self.0.extend(name.as_bytes());
        if value.contains('\n') {
            self.0.push(b'\n');
            let length = u64::try_from(value.len()).unwrap_or(0);
            self.0.extend(length.to_le_bytes());
        } else {
            self.0.push(b'=');
        }
        self.0.extend(value.as_bytes());
        self.0.push(b'\n');
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        let name = field.name().to_uppercase();
        self.add(&name.replace('.', "_"), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        let _ = write!(text, "{value:?}");
        self.record_str(field, &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_datagram_of_fields() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::at(&path).unwrap();
        let mut buffer = [0; 4096];
        assert_eq!(listener.recv(&mut buffer).unwrap(), 0);
        let log = tracing_subscriber::registry().with(journal);
        tracing::subscriber::with_default(log, || {
            tracing::warn!(MESSAGE_ID = "0123", pid = 7, "two {}", "lines\nof it");
        });
        let length = listener.recv(&mut buffer).unwrap();
        let said = &buffer[..length];
        let has = |field: &[u8]| said.windows(field.len()).any(|window| window == field);
        for field in [
            b"PRIORITY=4\n".as_slice(),
            b"SYSLOG_IDENTIFIER=upcalld\n",
            b"MESSAGE_ID=0123\n",
            b"PID=7\n",
            b"MESSAGE\n\x0f\0\0\0\0\0\0\0two lines\nof it\n",
        ] {
            assert!(has(field), "{}", said.escape_ascii());
        }
    }

    #[test]
    fn a_journal_that_reads_nothing_is_not_waited_for_and_hears_what_it_missed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::at(&path).unwrap();
        let mut line = Fields::of(Level::INFO);
        line.add("MESSAGE", "a line");
        // More than a socket's queue of datagrams (net.unix.max_dgram_qlen) holds.
        for _ in 0..20_000 {
            journal.send(&line);
        }
        listener.set_nonblocking(true).unwrap();
        let mut buffer = [0; 4096];
        while listener.recv(&mut buffer).is_ok() {}
        journal.send(&line);
        let length = listener.recv(&mut buffer).unwrap();
        let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert!(
            said.contains(" lines of the log are missing here"),
            "{said}"
        );
        assert!(Journal::at(&directory.path().join("none")).is_err());
    }
}

//! The kernel's process events (drivers/connector/cn_proc.c), of which only one is wanted: somebody is about to dump core.
//!
//! A hint and never an identity: it names a number, it can be lost, and it is sent before the kernel looks whether there
//! will be a dump at all (kernel/signal.c, get_signal). A socket filter keeps every other event from waking us, and
//! from 6.6 on the kernel does not even make them for us.
//!
//! Written by hand: the connector's messages have the type `NLMSG_DONE`, which the usual crates take for the end of a
//! list, and the filter and the sender's address need calls of ours anyway.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, NetlinkAddr, bind, recvfrom, sendto};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::sys;

/// `CN_IDX_PROC` and `CN_VAL_PROC` of linux/connector.h; the first is the multicast group too.
const IDX_PROC: u32 = 1;
const VAL_PROC: u32 = 1;

/// `PROC_CN_MCAST_LISTEN` and `PROC_CN_MCAST_IGNORE` of linux/cn_proc.h.
const LISTEN: u32 = 1;
const IGNORE: u32 = 2;

/// `PROC_EVENT_NONE`, the answer to either; `PROC_EVENT_COREDUMP`.
const EVENT_NONE: u32 = 0;
const EVENT_COREDUMP: u32 = 0x4000_0000;

/// Where things are: `struct nlmsghdr`, `struct cn_msg`, `struct proc_event`.
const CN_MSG: usize = 16;
const PROC_EVENT: usize = CN_MSG + 20;
const TIMESTAMP: usize = PROC_EVENT + 8;
const DATA: usize = PROC_EVENT + 16;

/// How long the kernel is given to say that it listens to us; it does so before sendto(2) returns.
const PATIENCE: Duration = Duration::from_secs(1);

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A process is about to dump core, or to be refused it.
    Core(CoreEvent),
    /// The answer to listening: an error's number, or 0.
    Answer(u32),
}

/// A process is about to dump core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoreEvent {
    /// The process, in the initial pid namespace.
    pub pid: u32,
    /// When: nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
}

/// Why events cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// The kernel has none, or we may not.
    #[error("the kernel's process events cannot be had: {0} (CONFIG_PROC_EVENTS, CAP_NET_ADMIN)")]
    Socket(#[from] Errno),
    /// Not from here.
    #[error("the kernel gives process events only to the initial user and pid namespaces")]
    NoAnswer,
    /// The kernel refuses.
    #[error("the kernel refuses process events: {0}")]
    Refused(Errno),
    /// The event loop.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// A socket that hears of core dumps.
#[derive(Debug)]
pub struct Connector(AsyncFd<OwnedFd>);

impl Event {
    /// Reads a message. The kernel writes it; still nothing is taken for granted.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let u32_at = |at: usize| {
            let bytes = message.get(at..at.checked_add(4)?)?.try_into().ok()?;
            Some(u32::from_ne_bytes(bytes))
        };
        if (u32_at(CN_MSG)?, u32_at(CN_MSG + 4)?) != (IDX_PROC, VAL_PROC) {
            return None;
        }
        match u32_at(PROC_EVENT)? {
            EVENT_NONE => Some(Self::Answer(u32_at(DATA)?)),
            EVENT_COREDUMP => {
                let time = message.get(TIMESTAMP..TIMESTAMP + 8)?.try_into().ok()?;
                Some(Self::Core(CoreEvent {
                    pid: u32_at(DATA + 4)?,
                    time: u64::from_ne_bytes(time),
                }))
            }
            _ => None,
        }
    }
}

impl Connector {
    /// Listens. Only in the initial network, user and pid namespaces, with `CAP_NET_ADMIN`.
    ///
    /// # Errors
    /// See [`ConnectorError`].
    pub async fn open() -> Result<Self, ConnectorError> {
        let socket = sys::connector_socket()?;
        sys::attach_filter(&socket, &filter())?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, IDX_PROC))?;
        let connector = Self(sys::watch(socket)?);
        connector.send(&LISTEN.to_ne_bytes())?;
        // `struct proc_input` (6.6): of the events only this one. Older kernels do not know its length, and ignore it.
        let only = [LISTEN.to_ne_bytes(), EVENT_COREDUMP.to_ne_bytes()].concat();
        connector.send(&only)?;
        let answer = async {
            loop {
                if let Ok(Event::Answer(error)) = connector.next().await {
                    return error;
                }
            }
        };
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(0) => Ok(connector),
            Ok(error) => Err(ConnectorError::Refused(Errno::from_raw(
                i32::try_from(error).unwrap_or(0),
            ))),
            Err(_) => Err(ConnectorError::NoAnswer),
        }
    }

    fn send(&self, operation: &[u8]) -> Result<(), Errno> {
        let length = u16::try_from(operation.len()).map_err(|_| Errno::EMSGSIZE)?;
        let mut message = Vec::with_capacity(64);
        // struct nlmsghdr: length, type NLMSG_DONE, flags, sequence, port.
        let whole = u32::try_from(PROC_EVENT).unwrap_or(0) + u32::from(length);
        message.extend(whole.to_ne_bytes());
        message.extend(3_u16.to_ne_bytes());
        message.extend([0; 10]);
        // struct cn_msg: whom, sequence, acknowledgement, length, flags.
        message.extend(IDX_PROC.to_ne_bytes());
        message.extend(VAL_PROC.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(length.to_ne_bytes());
        message.extend([0; 2]);
        message.extend(operation);
        let kernel = NetlinkAddr::new(0, 0);
        let socket = self.0.get_ref().as_raw_fd();
        sendto(socket, &message, &kernel, MsgFlags::empty()).map(drop)
    }

    /// The next event.
    ///
    /// # Errors
    /// `ENOBUFS` where events were lost because too many came; anything else is the end.
    pub async fn next(&self) -> std::io::Result<Event> {
        loop {
            let message = self.0.async_io(Interest::READABLE, |socket| {
                let mut bytes = [0; 512];
                let (length, from) = recvfrom::<NetlinkAddr>(socket.as_raw_fd(), &mut bytes)?;
                // Any process of root's may send to us; the kernel's port is 0 (netlink(7)).
                let kernels = from.is_some_and(|from| from.pid() == 0);
                Ok((bytes, if kernels { length } else { 0 }))
            });
            let (bytes, length) = message.await?;
            if let Some(event) = Event::parse(bytes.get(..length).unwrap_or_default()) {
                return Ok(event);
            }
        }
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        // Before 6.6 the kernel counts listeners that are gone.
        let _ = self.send(&IGNORE.to_ne_bytes());
    }
}

/// Lets through core dumps and answers. A filter's loads are big-endian (linux/filter.h).
fn filter() -> [libc::sock_filter; 5] {
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap_or(0),
        jt,
        jf,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let done = libc::BPF_RET | libc::BPF_K;
    let what = u32::try_from(PROC_EVENT).unwrap_or(0);
    [
        step(load, 0, 0, what),
        step(equal, 1, 0, EVENT_COREDUMP.to_be()),
        step(equal, 0, 1, EVENT_NONE),
        step(done, 0, 0, u32::MAX),
        step(done, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_event_of_ours_is_none() {
        let mut message = vec![0; 76];
        assert_eq!(Event::parse(&message), None, "nobody's");
        message[16] = 1;
        message[20] = 1;
        assert_eq!(Event::parse(&message), Some(Event::Answer(0)));
        message[36..40].copy_from_slice(&EVENT_COREDUMP.to_ne_bytes());
        message[44] = 9;
        message[52..60].copy_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0]);
        let event = Event::Core(CoreEvent { pid: 2, time: 9 });
        assert_eq!(Event::parse(&message), Some(event));
        message[36..40].copy_from_slice(&1_u32.to_ne_bytes());
        assert_eq!(Event::parse(&message), None, "a fork");
        for length in 0..60 {
            assert_eq!(Event::parse(&message[..length]), None);
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a child that crashes")]
    fn shell(line: &str) -> std::process::Child {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", line]).current_dir("/");
        shell.stderr(std::process::Stdio::null()).spawn().unwrap()
    }

    #[tokio::test]
    async fn a_crash_is_heard_of_and_a_thousand_forks_are_not() {
        let connector = match Connector::open().await {
            Ok(connector) => connector,
            Err(error) => return eprintln!("SKIPPED: {error}"),
        };
        let mut forks = shell("i=0; while [ $i -lt 1000 ]; do /bin/true; i=$((i+1)); done");
        let quiet = tokio::time::timeout(Duration::from_mins(1), async {
            let mut heard = 0;
            loop {
                tokio::select! {
                    event = connector.next() => if !matches!(event, Ok(Event::Core(_))) { heard += 1 },
                    () = tokio::time::sleep(Duration::from_millis(20)) => {}
                }
                if forks.try_wait().unwrap().is_some() {
                    return heard;
                }
            }
        });
        assert_eq!(quiet.await, Ok(0), "events that are no crashes");
        // A limit of 1: no handler of the host's is started for it.
        let before = crate::broker::monotonic();
        let mut child = shell("exec prlimit --core=1:1 sh -c 'kill -SEGV $$'");
        let pid = child.id();
        let heard = tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                if let Ok(Event::Core(event)) = connector.next().await
                    && event.pid == pid
                {
                    return event;
                }
            }
        });
        let event = heard.await.unwrap();
        assert!((before..crate::broker::monotonic()).contains(&event.time));
        child.wait().unwrap();
    }
}

//! What systemd-coredump says to the systemd-coredump of a container: a datagram for each field of the journal's entry
//! that is to be (systemd.journal-fields(7)).
//!
//! Its receiver adds only what it learns from the core itself. So what coredumpctl(1) finds entries by is ours to send.

use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::value;

/// The same in every message: what coredumpctl looks for (sd-messages.h, `SD_MESSAGE_COREDUMP`), how bad it is
/// (syslog(3), `LOG_CRIT`), and that somebody outside of the container has sent it.
const ALWAYS: [&str; 3] = [
    "MESSAGE_ID=fc2e22bc6ee647b6b90729ab34a250b1",
    "PRIORITY=2",
    "COREDUMP_FORWARDED=1",
];

/// Ours, theirs, and whether every receiver since version 239 refuses a core without. There is no `COREDUMP_PROC_AUXV`:
/// by that a receiver would decide that the crashed process's user may read the core, and we have no better word for
/// it than the process's own memory.
const NAMES: [(&str, &str, bool); 10] = [
    ("pid", "COREDUMP_PID", true),
    ("uid", "COREDUMP_UID", true),
    ("gid", "COREDUMP_GID", true),
    ("signal", "COREDUMP_SIGNAL", true),
    ("time", "COREDUMP_TIMESTAMP", true),
    ("limit", "COREDUMP_RLIMIT", true),
    ("comm", "COREDUMP_COMM", true),
    ("dumpable", "COREDUMP_DUMPABLE", false),
    ("exe", "COREDUMP_EXE", false),
    ("tid", "COREDUMP_TID", false),
];

/// Our fields by systemd's names.
///
/// # Errors
/// `ENODATA`: one is missing that the receiver cannot do without.
pub(super) fn messages(fields: &[&[u8]], hostname: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
    let mut messages: Vec<Vec<u8>> = ALWAYS.map(|field| field.as_bytes().to_vec()).to_vec();
    for (ours, theirs, needed) in NAMES {
        let Some(value) = value(fields, ours) else {
            if needed {
                return Err(Errno::ENODATA);
            }
            continue;
        };
        let mut message = format!("{theirs}=").into_bytes();
        message.extend_from_slice(value);
        if ours == "time" {
            message.extend_from_slice(b"000000"); // microseconds
        }
        messages.push(message);
    }
    if let Some(name) = signal_name(fields) {
        messages.push(format!("COREDUMP_SIGNAL_NAME={name}").into_bytes());
    }
    messages.push([b"COREDUMP_HOSTNAME=", hostname].concat());
    Ok(messages)
}

fn signal_name(fields: &[&[u8]]) -> Option<&'static str> {
    let number = str::from_utf8(value(fields, "signal")?).ok()?;
    let signal = Signal::try_from(number.parse::<i32>().ok()?).ok()?;
    Some(signal.as_str())
}

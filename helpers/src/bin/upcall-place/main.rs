//! upcall-place: puts the core that is its standard input where people expect it, inside a container or on the host.
//!
//! `upcall-place file PATH BYTES` writes it to a file of at most BYTES (`-`: all of it); `upcall-place deliver PROTOCOL
//! SOCKET MILLISECONDS NAME=VALUE...` hands it to whoever listens there. The launcher starts it as it starts a helper:
//! with the rights it is to have and no others, so nothing here is done for anybody who could not do it himself. It has
//! no descriptors but the first three.
//!
//! When it can take the core it says so by one byte of output; what it says later is for people. When it cannot, its
//! exit code is the number of the error (errno(3)); so is that of what went wrong later, and 0 is that nothing did.

mod deliver;
mod file;
mod socket;
mod sys;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl::set_dumpable;

use crate::deliver::{Delivery, Protocol};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(errno) => ExitCode::from(u8::try_from(errno as i32).unwrap_or(1)),
    }
}

fn run(arguments: &[OsString]) -> Result<(), Errno> {
    // Whoever has our ids could see the core by us otherwise.
    set_dumpable(false)?;
    let words: Vec<&[u8]> = arguments.iter().map(|word| word.as_bytes()).collect();
    match words.as_slice() {
        [b"file", path, max] => {
            let max = match *max {
                b"-" => u64::MAX,
                max => number(max)?,
            };
            file::write(path, max)
        }
        [b"deliver", protocol, socket, milliseconds, fields @ ..] => {
            let protocol = match *protocol {
                b"systemd" => Protocol::Systemd,
                b"upcalld" => Protocol::Upcalld,
                _ => return Err(Errno::EPROTONOSUPPORT),
            };
            let timeout = Duration::from_millis(number(milliseconds)?);
            let delivery = Delivery {
                protocol,
                timeout,
                fields,
            };
            delivery.run(socket)
        }
        _ => Err(Errno::EINVAL),
    }
}

fn number(text: &[u8]) -> Result<u64, Errno> {
    let text = str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
    text.parse().map_err(|_| Errno::EINVAL)
}

/// Says that the core can come.
fn ready() -> Result<(), Errno> {
    match nix::unistd::write(std::io::stdout(), b".")? {
        1 => Ok(()),
        _ => Err(Errno::EPIPE),
    }
}

/// Says something to people; that nobody listens does not matter.
fn say(text: &str) {
    let _ = nix::unistd::write(std::io::stdout(), text.as_bytes());
}

//! A receiver of cores that are delivered to a socket in a container, well-behaved or not.
//!
//! `--at=PATH` is where it listens, `--out=FILE` gets the core, `FILE.fields` a line for each field, and `FILE.here` is
//! made when it listens. `--how=` is `take` (all of it, then it answers or closes), `never` (it accepts and reads
//! nothing), `crumbs` (a page now and then), `refuse`, or `close` (at once).

use std::convert::Infallible;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept, bind, listen, send,
    socket,
};
use upcall_helpers::seqpacket;
use upcall_helpers::sys::inherited;

/// Plays it until it is killed.
pub(crate) fn run(words: &[String]) -> ExitCode {
    let word = |name: &str| {
        let value = words.iter().find_map(|word| word.strip_prefix(name));
        value.unwrap_or_default().to_owned()
    };
    match serve(&word("--at="), &word("--out="), &word("--how=")) {
        Ok(never) => match never {},
        Err(errno) => ExitCode::from(u8::try_from(errno as i32).unwrap_or(1)),
    }
}

fn serve(at: &str, out: &str, how: &str) -> Result<Infallible, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind(listener.as_raw_fd(), &UnixAddr::new(at)?)?;
    listen(&listener, Backlog::new(1)?)?;
    drop(File::create(format!("{out}.here")));
    loop {
        let connection = inherited(accept(listener.as_raw_fd())?)?;
        match how {
            "close" => {}
            "never" => pause(60_000),
            how => answer(&connection, out, how)?,
        }
    }
}

/// Does nothing for so many milliseconds.
fn pause(milliseconds: u16) {
    poll(&mut [], PollTimeout::from(milliseconds)).unwrap_or(0);
}

/// Takes one core, in its way.
fn answer(connection: &OwnedFd, out: &str, how: &str) -> Result<(), Errno> {
    let (fields, core) = receive(connection)?;
    drop(std::fs::write(format!("{out}.fields"), fields.join(&b'\n')));
    let ours = fields.iter().any(|field| field == b"version=1");
    let mut core = File::from(core);
    let said = match how {
        "refuse" => "refused: too much of it",
        "crumbs" => {
            let mut page = [0; 4096];
            while matches!(core.read(&mut page), Ok(1..)) {
                pause(200);
            }
            "ok"
        }
        _ => {
            let part = format!("{out}.part");
            let copied =
                File::create(&part).and_then(|mut file| std::io::copy(&mut core, &mut file));
            drop(copied.and_then(|_| std::fs::rename(&part, out)));
            "ok"
        }
    };
    if ours {
        let flags = MsgFlags::MSG_NOSIGNAL;
        send(connection.as_raw_fd(), said.as_bytes(), flags)?;
    }
    Ok(())
}

/// All fields, of either protocol, and the descriptor that comes with the last or behind them.
fn receive(connection: &OwnedFd) -> Result<(Vec<Vec<u8>>, OwnedFd), Errno> {
    let mut fields = Vec::new();
    loop {
        let mut message = seqpacket::receive(connection.as_fd())?;
        let parts = message.record.split(|byte| *byte == 0);
        let parts = parts.filter(|part| !part.is_empty());
        fields.extend(parts.map(<[u8]>::to_vec));
        match message.fds.pop() {
            Some(core) => return Ok((fields, core)),
            None if message.record.is_empty() => return Err(Errno::ECONNRESET),
            None => {}
        }
    }
}

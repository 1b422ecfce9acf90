//! Asks for a key, answers one, or answers name servers' questions: what the tests of the key hook have in containers.
//!
//! `key-me [--thread] TYPE DESCRIPTION [CALLOUT]` prints `key PAYLOAD`, or `no ERROR`; the callout `@all` is every byte
//! that there can be, 4,095 of them. `key-me --full BYTES TYPE …` has a key of so many bytes before it asks.
//! `key-me --many COUNT FIFO TYPE DESCRIPTION CALLOUT` reads the fifo to its end and then asks so often at once, each time
//! for another description, and prints how often which answer came, and when the last one did.
//! `key-me --time COUNT TYPE DESCRIPTION CALLOUT` asks one after the other, and prints the nanoseconds that each took.
//! `key-me --expire COUNT LEAD TYPE DESCRIPTION CALLOUT` asks LEAD milliseconds before a full second, lets the key expire at that
//! while it waits for it, and has made COUNT other keys, among which the shim has to look for it.
//! `key-me --answer SERIAL PAYLOAD` instantiates, as a helper that has the authority.
//! `key-me --names ADDRESS` says so for every name, on this network namespace's 127.0.0.1.

mod expire;
mod many;
mod sys;

use std::ffi::CString;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

use nix::errno::Errno;
use upcall_helpers::sys::keys;

#[expect(clippy::print_stdout, reason = "it is what the program is for")]
fn main() -> ExitCode {
    let mut words: Vec<Vec<u8>> = std::env::args_os()
        .skip(1)
        .map(OsStringExt::into_vec)
        .collect();
    let first = words.first().cloned().unwrap_or_default();
    let result = match first.as_slice() {
        b"--thread" => {
            words.remove(0);
            let asked = std::thread::spawn(move || ask(&words)).join();
            asked.unwrap_or(Err(Errno::EIO))
        }
        b"--full" => full(&words),
        b"--many" => many::ask(&words),
        b"--time" => many::time(&words),
        b"--expire" => expire::ask(&words),
        b"--answer" => answer(&words),
        b"--names" => names(&words),
        _ => ask(&words),
    };
    match result {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(errno) => {
            println!("no {errno:?}");
            ExitCode::FAILURE
        }
    }
}

fn full(words: &[Vec<u8>]) -> Result<String, Errno> {
    let bytes = words.get(1).and_then(|word| number(word));
    let bytes: usize = bytes.ok_or(Errno::EINVAL)?;
    sys::join_session()?;
    sys::add_user_key(c"filling", &vec![b'x'; bytes])?;
    request(words.get(2..).unwrap_or_default())
}

fn number<T: std::str::FromStr>(word: &[u8]) -> Option<T> {
    str::from_utf8(word).ok()?.parse().ok()
}

fn ask(words: &[Vec<u8>]) -> Result<String, Errno> {
    sys::join_session()?;
    request(words)
}

/// Asks, into the session keyring that there is.
fn request(words: &[Vec<u8>]) -> Result<String, Errno> {
    let word = |at: usize| {
        let word = words.get(at).cloned().unwrap_or_default();
        CString::new(word).map_err(|_| Errno::EINVAL)
    };
    let all: Vec<u8> = (1..=255).cycle().take(4095).collect();
    let callout = match words.get(2).map(Vec::as_slice) {
        Some(b"@all") => CString::new(all).map_err(|_| Errno::EINVAL)?,
        _ => word(2)?,
    };
    let key = sys::request_key(&word(0)?, &word(1)?, &callout)?;
    let payload = sys::read(key)?;
    Ok(format!("key {}", payload.escape_ascii()))
}

fn answer(words: &[Vec<u8>]) -> Result<String, Errno> {
    let serial = words.get(1).and_then(|word| number(word));
    let payload = words.get(2).cloned().unwrap_or_default();
    keys::instantiate(serial.ok_or(Errno::EINVAL)?, &payload)?;
    Ok("answered".to_owned())
}

/// The least of a name server: to every question one address, and no other section (RFC 1035, 4.1).
fn names(words: &[Vec<u8>]) -> Result<String, Errno> {
    let address = words.get(1).and_then(|word| str::from_utf8(word).ok());
    let address: Ipv4Addr = address
        .and_then(|word| word.parse().ok())
        .ok_or(Errno::EINVAL)?;
    let socket = UdpSocket::bind(("127.0.0.1", 53)).map_err(|_| Errno::EADDRINUSE)?;
    let mut buffer = [0; 512];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            return Err(Errno::EIO);
        };
        let Some(question) = buffer.get(..length) else {
            return Err(Errno::EIO);
        };
        drop(socket.send_to(&reply(question, address), from));
    }
}

fn reply(question: &[u8], address: Ipv4Addr) -> Vec<u8> {
    let (id, rest) = question.split_at(question.len().min(2));
    // Behind the header: the name, ended by a zero, then its type and class.
    let body = rest.get(10..).unwrap_or_default();
    let end = body.iter().position(|byte| *byte == 0).unwrap_or(0) + 5;
    let asked = body.get(..end).unwrap_or_default();
    let is_a = asked.len() >= 4 && asked.get(asked.len() - 4..asked.len() - 2) == Some(&[0, 1]);
    let answers = u8::from(is_a);
    let header = [0x81, 0x80, 0, 1, 0, answers, 0, 0, 0, 0];
    let mut reply = [id, &header, asked].concat();
    if is_a {
        // The name at offset 12, type A, class IN, 60 seconds, four bytes.
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend(address.octets());
    }
    reply
}

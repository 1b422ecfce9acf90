//! The least of an SMB server: it agrees on a protocol, so that the kernel's client goes on to who it is, and asks for the
//! key that would say so.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use anyhow::Result;

/// Listens on the loopback until the process ends; where.
///
/// # Errors
/// As listen(2).
pub fn negotiates() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            // Until the client has enough.
            while matches!(serve(&mut client), Ok(true)) {}
        }
    });
    Ok(address)
}

/// Answers one request with the answer to SMB2 NEGOTIATE; whether it was one.
fn serve(client: &mut TcpStream) -> std::io::Result<bool> {
    let mut length = [0; 4];
    client.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length).min(0x1_0000);
    let mut request = Vec::new();
    client.take(u64::from(length)).read_to_end(&mut request)?;
    let command = request.get(12..14);
    let Some(number) = request.get(24..32).filter(|_| command == Some(&[0, 0])) else {
        return Ok(false);
    };
    // [MS-SMB2] 2.2.1.2: an answer to this message, granting one credit.
    let mut answer = [0; 128];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(to) = answer.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    };
    put(0, b"\xfeSMB\x40");
    put(14, &[1, 0, 1]);
    put(24, number);
    // 2.2.4: signing enabled, dialect 2.1, sizes, and a security buffer of no bytes behind it all.
    put(64, &[65, 0, 1, 0, 0x10, 0x02]);
    for size in [92, 96, 100] {
        put(size, &0x1_0000_u32.to_le_bytes());
    }
    put(120, &[128]);
    let framed = [&[0, 0, 0, 128], answer.as_slice()].concat();
    client.write_all(&framed)?;
    Ok(true)
}

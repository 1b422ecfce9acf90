//! A credential cache (krb5's file format, version 4) with a ticket for a file server, as a tenant would have got it from his
//! KDC. What is in a ticket only the server can read, so nobody who carries it on notices that nobody issued it.

use std::path::Path;

use anyhow::Result;

/// The realm of everything here.
pub const REALM: &str = "TENANT.EXAMPLE";

/// What the ticket is, in the place of what the KDC encrypts: to be found in what was made of it.
pub const TICKET: &[u8] = b"this is the ticket that no KDC has issued";

/// What krb5's library must know, so that it asks nobody (krb5.conf(5)).
pub const CONFIGURATION: &str = "[libdefaults]\n\
    default_realm = TENANT.EXAMPLE\n\
    dns_lookup_realm = false\n\
    dns_lookup_kdc = false\n\
    dns_canonicalize_hostname = false\n\
    rdns = false\n\
    [domain_realm]\n\
    srv.example = TENANT.EXAMPLE\n";

/// aes256-cts-hmac-sha1-96 (RFC 3962), whose keys have 32 bytes.
const ENCTYPE: u8 = 18;
const KEY: [u8; 32] = [7; 32];

/// Writes root's cache, with a ticket for `cifs/srv.example` that is good until 2036.
///
/// # Errors
/// As write(2).
pub fn write(path: &Path) -> Result<()> {
    let client = principal(&["root"]);
    let server = principal(&["cifs", "srv.example"]);
    let times = [1_000_000_000_u32, 1_000_000_000, 2_100_000_000, 0];
    let mut credential = [client.as_slice(), &server].concat();
    credential.extend([0, ENCTYPE]);
    credential.extend(counted(&KEY));
    credential.extend(times.iter().flat_map(|time| time.to_be_bytes()));
    // No session key of a user's, no flags, no addresses, no authorisation data.
    credential.extend([0; 1 + 4 + 4 + 4]);
    credential.extend(counted(&ticket()));
    credential.extend(counted(b""));
    // The version, and no fields of a header.
    let head = [5, 4, 0, 0];
    Ok(std::fs::write(
        path,
        [&head, &*client, &credential].concat(),
    )?)
}

fn counted(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(0);
    [&length.to_be_bytes(), bytes].concat()
}

/// Of type `NT_PRINCIPAL`.
fn principal(names: &[&str]) -> Vec<u8> {
    let count = u32::try_from(names.len()).unwrap_or(0);
    let mut bytes = [1_u32.to_be_bytes(), count.to_be_bytes()].concat();
    for name in [&[REALM], names].concat() {
        bytes.extend(counted(name.as_bytes()));
    }
    bytes
}

/// The ticket (RFC 4120, 5.3), in DER.
fn ticket() -> Vec<u8> {
    let names = ["cifs", "srv.example"].map(text).concat();
    let name = sequence(&[tagged(0, &number(1)), tagged(1, &der(0x30, &names))]);
    let encrypted = sequence(&[tagged(0, &number(ENCTYPE)), tagged(2, &der(0x04, TICKET))]);
    let fields = [
        tagged(0, &number(5)),
        tagged(1, &text(REALM)),
        tagged(2, &name),
        tagged(3, &encrypted),
    ];
    der(0x61, &sequence(&fields))
}

/// One value of fewer than 65,536 bytes.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let [.., high, low] = content.len().to_be_bytes();
    let length = match (high, low) {
        (0, 0..=127) => vec![low],
        _ => vec![0x82, high, low],
    };
    [&[tag], &*length, content].concat()
}

fn tagged(number: u8, content: &[u8]) -> Vec<u8> {
    der(0xa0 | number, content)
}

fn sequence(fields: &[Vec<u8>]) -> Vec<u8> {
    der(0x30, &fields.concat())
}

fn number(number: u8) -> Vec<u8> {
    der(0x02, &[number])
}

/// A GeneralString.
fn text(text: &str) -> Vec<u8> {
    der(0x1b, text.as_bytes())
}

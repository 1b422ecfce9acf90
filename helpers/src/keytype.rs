//! From what a program printed to a key's payload, for the types whose cache all namespaces share: a container's program
//! never answers these itself, and what it prints goes no further than it is what the type holds.

use std::net::IpAddr;

/// The longest name or number of an id (linux/nfs_idmap.h, `IDMAP_NAMESZ`).
const NAME_MAX: usize = 128;

/// Why what was printed is no payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPayload;

/// The payload of a key of this type and description, of what a program printed; newlines at its end do not count.
///
/// # Errors
/// [`NoPayload`]: it is not what such a key holds.
pub fn payload(kind: &[u8], description: &[u8], printed: &[u8]) -> Result<Vec<u8>, NoPayload> {
    let text = printed.trim_ascii_end();
    let terminated = || [text, b"\0"].concat();
    match kind {
        // net/dns_resolver/dns_key.c: text, and a NUL at its end.
        b"dns_resolver" if are_addresses(text) => Ok(terminated()),
        // fs/nfs/nfs4idmap.c: of a name its number, of a number its name, which is sent as it is, a NUL too.
        b"id_resolver" | b"id_legacy" if is_id(description, text) => Ok(if is_name(description) {
            terminated()
        } else {
            text.to_vec()
        }),
        b"dns_resolver" | b"id_resolver" | b"id_legacy" => Err(NoPayload),
        // Others hold what their own kernel code understands and checks.
        _ if text.is_empty() => Err(NoPayload),
        _ => Ok(text.to_vec()),
    }
}

/// Addresses with commas between them, each with a port behind a `+` if it likes, as the kernel's callers read them.
fn are_addresses(text: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(text) else {
        return false;
    };
    text.split(',').all(|word| {
        let (address, port) = word.split_once('+').unwrap_or((word, "0"));
        address.parse::<IpAddr>().is_ok() && port.parse::<u16>().is_ok()
    })
}

/// Whether it is a name whose number is wanted.
fn is_name(description: &[u8]) -> bool {
    let names = [b"uid:".as_slice(), b"gid:"];
    names.iter().any(|kind| description.starts_with(kind))
}

fn is_id(description: &[u8], text: &[u8]) -> bool {
    let short = (1..NAME_MAX).contains(&text.len());
    if is_name(description) {
        return short && text.iter().all(u8::is_ascii_digit);
    }
    short && text.iter().all(u8::is_ascii_graphic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_addresses_and_nothing_else() {
        let of = |text: &[u8]| payload(b"dns_resolver", b"a.example", text);
        assert_eq!(of(b"192.0.2.1\n"), Ok(b"192.0.2.1\0".to_vec()));
        let two = b"192.0.2.1+7003,2001:db8::1".as_slice();
        assert_eq!(of(two), Ok([two, b"\0"].concat()));
        for bad in [
            b"".as_slice(),
            b"\n",
            b"192.0.2.1,",
            b"192.0.2.1 192.0.2.2",
            b"host.example",
            b"192.0.2.1#dnserror=2",
            b"192.0.2.1\x002",
            b"\0\0\x01\0",
            b"\xff",
            b"192.0.2.1+x",
        ] {
            assert_eq!(of(bad), Err(NoPayload), "{bad:?}");
        }
    }

    #[test]
    fn an_id_has_a_number_and_a_number_a_name() {
        let of = |description: &[u8], text: &[u8]| payload(b"id_resolver", description, text);
        assert_eq!(of(b"uid:ann@x", b"1000\n"), Ok(b"1000\0".to_vec()));
        assert_eq!(of(b"user:1000", b"ann@x"), Ok(b"ann@x".to_vec()));
        assert_eq!(of(b"uid:ann@x", b"root"), Err(NoPayload));
        assert_eq!(of(b"gid:ann@x", b"-1"), Err(NoPayload));
        assert_eq!(of(b"user:1000", b"a b"), Err(NoPayload));
        assert_eq!(of(b"user:1000", &[b'a'; NAME_MAX]), Err(NoPayload));
    }
}

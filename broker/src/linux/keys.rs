//! What the kernel says about keys, in text: lines of /proc/keys (keyrings(7)) and descriptions (keyctl(2)).

use super::parse;

/// An authorisation key's line of /proc/keys: whom it lets answer which key (security/keys/request_key_auth.c,
/// `request_key_auth_describe`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authorisation {
    /// The key that wants an answer.
    pub key: u32,
    /// The *thread* that asked, in the pid namespace of the /proc that was read.
    pub thread: u32,
}

impl Authorisation {
    /// Reads the line: `SERIAL FLAGS … .request_ key:HEX pid:N ci:N`; the column of the type is cut.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let mut words = line.split(u8::is_ascii_whitespace);
        words.find(|word| word.starts_with(b".request_"))?;
        let (mut key, mut thread) = (None, None);
        for word in words {
            if let Some(hex) = word.strip_prefix(b"key:") {
                let hex = str::from_utf8(hex).ok()?;
                key = Some(u32::from_str_radix(hex, 16).ok()?);
            } else if let Some(number) = word.strip_prefix(b"pid:") {
                thread = Some(parse::number(number)?);
            }
        }
        Some(Self {
            key: key?,
            thread: thread?,
        })
    }
}

/// `type;uid;gid;permissions;description`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// The type.
    pub kind: Vec<u8>,
    /// Whose it is, as our user namespace sees it.
    pub uid: u32,
    /// The description; it may hold semicolons.
    pub description: Vec<u8>,
}

impl Described {
    /// Reads it.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut fields = text.splitn(5, |byte| *byte == b';');
        let (kind, uid) = (fields.next()?, fields.next()?);
        let description = fields.nth(2)?;
        Some(Self {
            kind: kind.to_vec(),
            uid: parse::number(uid)?,
            description: description.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_the_key_and_who_asked() {
        let line =
            b"2c0c4b7d I--Q---     1 perm 1b010000     0     0 .request_ key:1b22c7d1 pid:1234 ci:5";
        let read = Authorisation::parse(line);
        let wanted = Authorisation {
            key: 0x1b22_c7d1,
            thread: 1234,
        };
        assert_eq!(read, Some(wanted));
        for bad in [
            b"".as_slice(),
            b"2c0c4b7d I--Q--- 1 perm 1b010000 0 0 user key:1 pid:1",
            b".request_ key:x pid:1",
            b".request_ key:1",
            b".request_ key:1 pid:-1",
        ] {
            assert_eq!(Authorisation::parse(bad), None);
        }
    }

    #[test]
    fn a_description_may_hold_anything() {
        let text = b"user;1000;1000;3f010000;a;b;\xff;";
        let read = Described::parse(text).unwrap();
        assert_eq!(read.description, b"a;b;\xff;");
        assert_eq!((read.kind.as_slice(), read.uid), (&b"user"[..], 1000));
        assert_eq!(Described::parse(b"user;0;0;3f010000"), None);
        assert_eq!(Described::parse(b"keyring;x;0;1;d"), None);
    }
}

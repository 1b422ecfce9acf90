//! Ids of records: eight characters, never cut anywhere, easily read aloud.

use crate::linux::sys;

/// Digits and small letters without `i l o u`, which look like others or spell words. The letters come first.
const ALPHABET: &[u8; 32] = b"abcdefghjkmnpqrstvwxyz0123456789";

/// How many of [`ALPHABET`] are letters: an id starts with one, so that it is never taken for a number.
const LETTERS: u64 = 22;

/// Length of an id.
pub const LENGTH: usize = 8;

/// A new id, random: 22 × 32⁷, so among 100,000 records the next is a new one in all but one of 7 million cases, and
/// whoever opens a record finds out.
///
/// # Errors
/// As getrandom(2).
pub fn new() -> Result<String, nix::errno::Errno> {
    let mut random = u64::from_le_bytes(sys::random()?);
    let mut id = String::with_capacity(LENGTH);
    for position in 0..LENGTH {
        let choices = if position == 0 { LETTERS } else { 32 };
        let index = usize::try_from(random % choices).unwrap_or(0);
        random /= choices;
        id.push(ALPHABET.get(index).map_or('a', |byte| char::from(*byte)));
    }
    Ok(id)
}

/// Whether this can be an id or the start of one.
pub fn is_prefix(text: &str) -> bool {
    (1..=LENGTH).contains(&text.len()) && text.bytes().all(|byte| ALPHABET.contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_start_with_a_letter_and_are_all_different() {
        let ids: std::collections::BTreeSet<String> = (0..2000).map(|_| new().unwrap()).collect();
        assert_eq!(ids.len(), 2000);
        for id in &ids {
            assert!(id.len() == LENGTH && is_prefix(id));
            assert!(id.starts_with(|c: char| c.is_ascii_lowercase()), "{id}");
        }
        for wrong in ["", "k3m9q0tzz", "../../et", "oops", "K3M"] {
            assert!(!is_prefix(wrong), "{wrong}");
        }
    }
}

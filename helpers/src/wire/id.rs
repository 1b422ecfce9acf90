//! Ids of upcalls, which are their records' ids: eight characters, never cut anywhere, easily read aloud.

/// Digits and small letters without `i l o u`, which look like others or spell words. The letters come first.
const ALPHABET: &[u8; 32] = b"abcdefghjkmnpqrstvwxyz0123456789";

/// How many of [`ALPHABET`] are letters: an id starts with one, so that it is never taken for a number.
const LETTERS: u64 = 22;

/// Length of an id.
pub const ID_LENGTH: usize = 8;

/// The id of these random bits: one of 22 × 32⁷, so among 100,000 records the next is a new one in all but one of 7
/// million cases, and whoever opens a record finds out.
pub fn id(mut random: u64) -> [u8; ID_LENGTH] {
    let mut id = [b'a'; ID_LENGTH];
    let mut choices = LETTERS;
    for place in &mut id {
        let index = usize::try_from(random % choices).unwrap_or(0);
        *place = ALPHABET.get(index).copied().unwrap_or(b'a');
        random /= choices;
        choices = 32;
    }
    id
}

/// Whether this can be an id or the start of one.
pub fn is_id_prefix(text: &[u8]) -> bool {
    (1..=ID_LENGTH).contains(&text.len()) && text.iter().all(|byte| ALPHABET.contains(byte))
}

/// Whether this can be an id.
pub fn is_id(text: &[u8]) -> bool {
    text.len() == ID_LENGTH && is_id_prefix(text)
}

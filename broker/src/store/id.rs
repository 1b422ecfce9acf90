//! Ids of records.

use upcall_helpers::{sys, wire};

/// A new id, random. Whoever opens a record finds out if there is one like it.
///
/// # Errors
/// As getrandom(2).
pub fn new() -> Result<String, nix::errno::Errno> {
    Ok(text(wire::id(sys::random()?)))
}

/// The id that a shim has drawn.
pub fn text(id: [u8; wire::ID_LENGTH]) -> String {
    id.into_iter().map(char::from).collect()
}

/// Whether this can be an id or the start of one.
pub fn is_prefix(text: &str) -> bool {
    wire::is_id_prefix(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_start_with_a_letter_and_are_all_different() {
        let ids: std::collections::BTreeSet<String> = (0..2000).map(|_| new().unwrap()).collect();
        assert_eq!(ids.len(), 2000);
        for id in &ids {
            assert!(id.len() == wire::ID_LENGTH && is_prefix(id));
            assert!(id.starts_with(|c: char| c.is_ascii_lowercase()), "{id}");
        }
        for wrong in ["", "k3m9q0tzz", "../../et", "oops", "K3M"] {
            assert!(!is_prefix(wrong), "{wrong}");
        }
    }
}

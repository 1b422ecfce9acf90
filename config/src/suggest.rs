//! "Did you mean": the known word that is nearest to an unknown one.

/// The nearest of the known words, if one is near enough to be meant.
///
/// Near is a typing slip or two for the word's length (a letter more, less, other, or two swapped); else the known
/// word that begins alike for at least three letters, which catches `SEGFAULT` for `SEGV`.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let allowed = (word.chars().count() / 3).max(1);
    let mut near: Option<(usize, &str)> = None;
    let mut alike: Option<(usize, &str)> = None;
    for candidate in known {
        let lower = candidate.to_lowercase();
        let distance = distance(&word, &lower);
        if distance <= allowed && near.is_none_or(|(best, _)| distance < best) {
            near = Some((distance, candidate));
        }
        let common = word
            .chars()
            .zip(lower.chars())
            .take_while(|(a, b)| a == b)
            .count();
        if common >= 3 && alike.is_none_or(|(best, _)| common > best) {
            alike = Some((common, candidate));
        }
    }
    near.or(alike).map(|(_, candidate)| candidate)
}

/// How many letters must be added, removed, replaced or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    // Long words are no typing slips, and the work is the product of the lengths.
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let at = |row: &[usize], i: usize| row.get(i).copied().unwrap_or(usize::MAX / 2);
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    let mut last = None;
    for (i, letter) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for (j, other) in b.iter().enumerate() {
            let replaced = at(&row, j) + usize::from(letter != *other);
            let mut best = replaced.min(at(&row, j + 1) + 1).min(at(&next, j) + 1);
            let swapped = j > 0 && last == Some(*other) && b.get(j - 1) == Some(&letter);
            if swapped {
                best = best.min(at(&before, j - 1) + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
        last = Some(letter);
    }
    at(&row, b.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("", ""), 0);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("pdi", "pid"), 1);
        assert_eq!(distance("contaner", "container"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("ca", "ac"), 1);
    }

    #[test]
    fn slips_are_understood_and_other_words_are_not() {
        let known = ["container", "process", "pod", "core"];
        assert_eq!(nearest("contaner", known), Some("container"));
        assert_eq!(nearest("prcoess", known), Some("process"));
        assert_eq!(nearest("Pod", known), Some("pod"));
        assert_eq!(nearest("xyz", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(nearest("SEGFAULT", ["ABRT", "SEGV"]), Some("SEGV"));
        assert_eq!(nearest(&"x".repeat(1000), known), None);
    }
}

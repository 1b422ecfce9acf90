//! Two tenants and little room.

use super::*;

const MIB: u64 = 1 << 20;

struct Place {
    ledger: Ledger,
    directory: tempfile::TempDir,
    now: u64,
}

impl Place {
    fn new(total: u64, each: u64, count: u64) -> Self {
        let settings = StoreSettings {
            max_total: total * MIB,
            max_per_container: each * MIB,
            max_count: count,
            max_age: Duration::from_secs(10),
            ..StoreSettings::default()
        };
        Self {
            ledger: Ledger::new(settings).unwrap(),
            directory: tempfile::tempdir().unwrap(),
            now: 0,
        }
    }

    /// Keeps a core of so many MiB; `None` where that is refused.
    fn keep(&mut self, share: &str, id: &str, mib: u64) -> Option<Gone> {
        let (begun, mut gone) = self.ledger.begin(share);
        let tokens = begun.ok()?;
        let had = (0..mib).filter(|_| tokens.own.read().is_ok() && tokens.all.read().is_ok());
        let had = u64::try_from(had.count()).unwrap();
        let path = self.directory.path().join(id);
        std::fs::write(&path, "core").unwrap();
        self.now += 1_000_000;
        gone.extend(
            self.ledger
                .end(id, share, had * MIB, Some((&path, self.now))),
        );
        Some(gone)
    }

    fn kept(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.directory.path()).unwrap().flatten();
        let mut names: Vec<String> = names
            .map(|name| name.file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    }
}

fn evicted(ids: &[&str]) -> Gone {
    ids.iter()
        .map(|id| ((*id).to_owned(), Why::Evicted))
        .collect()
}

#[test]
fn a_tenant_over_his_share_loses_his_own_oldest_and_nobody_elses() {
    let mut place = Place::new(100, 10, 100);
    assert_eq!(place.keep("a", "a1", 4), Some(vec![]));
    assert_eq!(place.keep("b", "b1", 4), Some(vec![]));
    assert_eq!(place.keep("a", "a2", 4), Some(vec![]));
    assert_eq!(place.keep("a", "a3", 6), Some(evicted(&["a1"])));
    assert_eq!(place.keep("a", "a4", 10), Some(evicted(&["a2", "a3"])));
    assert_eq!(place.kept(), ["a4", "b1"]);
}

#[test]
fn where_all_is_full_a_tenant_makes_room_of_his_own_or_is_refused() {
    let mut place = Place::new(10, 8, 100);
    assert_eq!(place.keep("a", "a1", 8), Some(vec![]));
    assert_eq!(place.keep("b", "b1", 2), Some(vec![]));
    assert_eq!(place.keep("c", "c1", 1), None);
    assert_eq!(place.keep("b", "b2", 1), Some(evicted(&["b1"])));
    assert_eq!(place.kept(), ["a1", "b2"]);
    // What an admin removed is room again.
    std::fs::remove_file(place.directory.path().join("a1")).unwrap();
    assert_eq!(place.keep("b", "b3", 1), Some(vec![]));
    assert_eq!(place.keep("c", "c1", 8), Some(vec![]));
    assert_eq!(place.kept(), ["b2", "b3", "c1"]);
}

#[test]
fn what_is_written_at_once_counts_at_once() {
    let place = Place::new(10, 4, 100);
    let first = place.ledger.begin("a").0.unwrap();
    let second = place.ledger.begin("a").0.unwrap();
    let other = place.ledger.begin("b").0.unwrap();
    for _ in 0..4 {
        assert!(first.own.read().is_ok() && first.all.read().is_ok());
    }
    assert!(second.own.read().is_err(), "his share is in use");
    let rest = std::iter::from_fn(|| other.all.read().ok()).count();
    assert_eq!(rest, 6);
    // Two ended well, one was killed with its tokens: when nobody writes, they are back.
    place.ledger.end("a1", "a", 4 * MIB, None);
    place.ledger.end("a2", "a", 0, None);
    place.ledger.end("b1", "b", 0, None);
    let again = place.ledger.begin("b").0.unwrap();
    assert_eq!(std::iter::from_fn(|| again.all.read().ok()).count(), 10);
}

#[test]
fn no_more_are_kept_than_may_be_and_none_longer() {
    let mut place = Place::new(100, 50, 2);
    for id in ["a1", "a2"] {
        assert_eq!(place.keep("a", id, 1), Some(vec![]));
    }
    assert_eq!(place.keep("a", "a3", 1), Some(evicted(&["a1"])));
    let (gone, next) = place.ledger.expire(5_000_000);
    assert_eq!((gone, next), (vec![], Some(Duration::from_secs(7))));
    let (gone, next) = place.ledger.expire(12_500_000);
    assert_eq!(gone, [("a2".to_owned(), Why::Expired)]);
    assert_eq!(next, Some(Duration::from_millis(500)));
    assert_eq!(place.kept(), ["a3"]);
    assert_eq!(
        place.ledger.expire(13_000_000).1,
        None,
        "nothing to wake up for"
    );
}

#[test]
fn what_is_known_better_counts_once() {
    let mut place = Place::new(10, 10, 100);
    let core = place.directory.path().join("core");
    std::fs::write(&core, "core").unwrap();
    for share in ["unknown", "a", "a"] {
        assert_eq!(place.ledger.add("core", share, &core, 6 * MIB, 0), vec![]);
    }
    assert_eq!(place.keep("b", "b1", 4), Some(vec![]));
    assert_eq!(place.keep("a", "a1", 1), Some(evicted(&["core"])));
}

#[test]
fn what_was_there_before_counts() {
    let mut place = Place::new(10, 10, 100);
    let old = place.directory.path().join("old");
    std::fs::write(&old, "core").unwrap();
    assert_eq!(place.ledger.add("old", "a", &old, 9 * MIB, 0), vec![]);
    assert_eq!(place.keep("b", "b1", 1), Some(vec![]));
    assert_eq!(place.keep("b", "b2", 1), Some(evicted(&["b1"])));
    assert_eq!(place.keep("a", "a1", 1), Some(evicted(&["old"])));
}

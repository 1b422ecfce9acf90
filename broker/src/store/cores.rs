//! Kept cores as files: `cores/ID.core` as the kernel gave it, `cores/ID.core.zst` as zstd, ID the record's.

use std::path::{Path, PathBuf};

use upcall_config::plan::Compress;

use super::id;
use super::record::Record;

/// The name of a core's file.
pub fn name(id: &str, compress: Compress) -> String {
    match compress {
        Compress::None => format!("{id}.core"),
        Compress::Zstd(_) => format!("{id}.core.zst"),
    }
}

/// What a record says about how a core is kept, by the name of its file.
pub fn compressed(path: &Path) -> &'static str {
    match path.extension() {
        Some(extension) if extension == "zst" => "zstd",
        Some(_) | None => "none",
    }
}

/// The record's id in the name of a core's file; `None` for a name that is none.
pub fn id_of(name: &str) -> Option<&str> {
    let id = name.strip_suffix(".zst").unwrap_or(name);
    let id = id.strip_suffix(".core")?;
    id::is_prefix(id).then_some(id)
}

/// The file of the core of the record with this id in `directory`.
pub fn find(directory: &Path, id: &str) -> Option<PathBuf> {
    let names = [Compress::Zstd(1), Compress::None].map(|compress| name(id, compress));
    let paths = names.map(|name| directory.join(name));
    paths.into_iter().find(|path| path.exists())
}

/// Notes in its record that a core is no longer there: what became of it, a word, and the same for people.
pub fn gone(record: &mut Record, state: &str, message: &str) {
    for action in &mut record.actions {
        if action.action == "store" {
            action.state = Some(state.to_owned());
            action.message = Some(message.to_owned());
            action.path = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_whose_core_it_is_and_how_it_is_kept() {
        for compress in [Compress::None, Compress::Zstd(3)] {
            assert_eq!(id_of(&name("k3m9q0tz", compress)), Some("k3m9q0tz"));
        }
        for other in ["k3m9q0tz", "k3m9q0tz.zst", "../x.core", ".core", "K.core"] {
            assert_eq!(id_of(other), None, "{other}");
        }
        assert_eq!(compressed(Path::new("a.core.zst")), "zstd");
        assert_eq!(compressed(Path::new("a.core")), "none");
    }

    #[test]
    fn a_core_is_found_whichever_way_it_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(find(directory.path(), "k3m9q0tz"), None);
        for file in ["k3m9q0tz.core", "k3m9q0tz.core.zst"] {
            let path = directory.path().join(file);
            std::fs::write(&path, "x").unwrap();
            assert_eq!(find(directory.path(), "k3m9q0tz"), Some(path));
        }
    }
}

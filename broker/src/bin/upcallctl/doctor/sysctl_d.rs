//! What systemd-sysctl(8) would set: sysctl.d(5), as far as single keys go.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::host::Host;

/// The directories, the one that counts most first.
const DIRECTORIES: [&str; 4] = [
    "etc/sysctl.d",
    "run/sysctl.d",
    "usr/local/lib/sysctl.d",
    "usr/lib/sysctl.d",
];

/// Most files that are read.
const FILES_MAX: usize = 1000;

/// A line that sets a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Its file.
    pub(super) file: PathBuf,
    /// Its number.
    pub(super) number: usize,
    /// What it sets.
    pub(super) value: String,
}

impl Line {
    /// As people cite it.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.file.display(), self.number)
    }
}

/// The line that sets `key` last, if there is one; a later name counts for more, and of the same name the first
/// directory's.
pub(super) fn last(host: &Host<'_>, key: &str) -> Option<Line> {
    let mut files: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for directory in DIRECTORIES {
        let entries = std::fs::read_dir(host.path(directory));
        for entry in entries.into_iter().flatten().flatten().take(FILES_MAX) {
            let name = entry.file_name();
            if Path::new(&name).extension() == Some("conf".as_ref()) {
                files
                    .entry(name)
                    .or_insert(Path::new(directory).join(entry.file_name()));
            }
        }
    }
    let mut found = None;
    for path in files.into_values() {
        let Some(text) = host.read(&path).ok() else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            if let Some(value) = value(line, key) {
                found = Some(Line {
                    file: Path::new("/").join(&path),
                    number: number + 1,
                    value: value.to_owned(),
                });
            }
        }
    }
    found
}

/// What a line sets `key` to. A key may be written with slashes, and with a dash before it that forgives failure.
fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let line = line.trim();
    if line.starts_with(['#', ';']) {
        return None;
    }
    let (name, value) = line.split_once('=')?;
    let name = name.trim().trim_start_matches('-').replace('/', ".");
    (name == key).then(|| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_as_sysctl_d_writes_them() {
        let key = "kernel.core_pattern";
        assert_eq!(value("kernel.core_pattern=|/x %p", key), Some("|/x %p"));
        assert_eq!(value(" -kernel/core_pattern = core ", key), Some("core"));
        for line in [
            "# kernel.core_pattern=x",
            ";kernel.core_pattern=x",
            "kernel.core_pipe_limit=1",
            "",
        ] {
            assert_eq!(value(line, key), None, "{line}");
        }
    }
}

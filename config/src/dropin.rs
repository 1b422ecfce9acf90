//! Which files make up the policy.
//!
//! As with systemd's drop-ins: the same name in `/etc` hides the one in `/run`, and that the one in `/usr/lib`; an
//! empty file so turns a shipped one off. Rule files of all directories are then one list, in the order of their
//! names' bytes.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::diagnostic::{Code, Diagnostic};
use crate::secure::{Directory, ReadError};

/// Most rule files in one policy.
pub(crate) const MAX_FILES: usize = 256;

const SETTINGS: &str = "upcalld.toml";
const RULES: &str = "rules.d";

/// Where the files are looked for, and who must own them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directories {
    /// Each may hold `upcalld.toml` and `rules.d`; the earlier wins where both have a file of the same name.
    pub paths: Vec<PathBuf>,
    /// Owner that directories and files must have; anything but 0 is for tests.
    pub owner: u32,
}

/// What comes with the programs: /usr/lib/upcalld, if it was not built for another place (`make PREFIX=`).
const SHIPPED: &str = match option_env!("UPCALLD_LIB") {
    Some(path) => path,
    None => "/usr/lib/upcalld",
};

impl Directories {
    /// `/etc/upcalld` over `/run/upcalld` over `/usr/lib/upcalld`, all root's.
    pub fn system() -> Self {
        Self {
            paths: ["/etc/upcalld", "/run/upcalld", SHIPPED]
                .map(PathBuf::from)
                .to_vec(),
            owner: 0,
        }
    }

    /// Only this one, root's: `upcalld --config DIR`.
    pub fn single(directory: impl Into<PathBuf>) -> Self {
        Self {
            paths: vec![directory.into()],
            owner: 0,
        }
    }

    /// The same with another owner, for tests that are not root.
    #[must_use]
    pub fn owned_by(self, uid: u32) -> Self {
        Self { owner: uid, ..self }
    }
}

/// A file that was found and read.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) path: Arc<Path>,
    pub(crate) bytes: Vec<u8>,
}

/// All files of a policy.
#[derive(Debug, Default)]
pub(crate) struct Files {
    pub(crate) settings: Option<Found>,
    /// In the order in which their rules are looked at.
    pub(crate) rules: Vec<Found>,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// Finds and reads them; what cannot be trusted or read is a diagnostic, and hides nothing behind it.
pub(crate) fn read(directories: &Directories) -> Files {
    let mut files = Files::default();
    let mut settings = None;
    let mut rules: BTreeMap<OsString, Arc<Directory>> = BTreeMap::new();
    for path in &directories.paths {
        let top = match Directory::open(path, directories.owner) {
            Ok(Some(top)) => top,
            Ok(None) => continue,
            Err(error) => {
                files.refuse(path, &error);
                continue;
            }
        };
        match top.below(RULES).and_then(|found| match found {
            Some(directory) => Ok(Some((directory.rule_files()?, directory))),
            None => Ok(None),
        }) {
            Ok(Some((names, directory))) => {
                let directory = Arc::new(directory);
                for name in names {
                    rules.entry(name).or_insert_with(|| Arc::clone(&directory));
                }
            }
            Ok(None) => {}
            Err(error) => files.refuse(&path.join(RULES), &error),
        }
        if settings.is_none() && top.has(SETTINGS) {
            settings = Some(top);
        }
    }
    if let Some(top) = settings {
        files.settings = files.read_one(&top, SETTINGS.as_ref());
    }
    if let Some((name, directory)) = rules.iter().nth(MAX_FILES) {
        files.diagnostics.push(
            Diagnostic::in_file(
                Code::BadRange,
                format!(
                    "there are {} rule files, and {MAX_FILES} is the most",
                    rules.len()
                ),
                directory.path_of(name).into(),
            )
            .help("put several rules into one file"),
        );
    }
    for (name, directory) in rules.iter().take(MAX_FILES) {
        if let Some(found) = files.read_one(directory, name) {
            files.rules.push(found);
        }
    }
    files
}

impl Files {
    fn read_one(&mut self, directory: &Directory, name: &OsStr) -> Option<Found> {
        let path = directory.path_of(name);
        match directory.read(name) {
            // Not there any more: somebody removed it just now, and it would not have been seen a moment later.
            Ok(bytes) => bytes.map(|bytes| Found {
                path: path.into(),
                bytes,
            }),
            Err(error) => {
                self.refuse(&path, &error);
                None
            }
        }
    }

    fn refuse(&mut self, path: &Path, error: &ReadError) {
        self.diagnostics.push(refusal(path, error));
    }
}

fn refusal(path: &Path, error: &ReadError) -> Diagnostic {
    let shown = path.display();
    let untrusted = |message: &str| Diagnostic::in_file(Code::UntrustedFile, message, path.into());
    match error {
        ReadError::Untrusted { uid, mode, wanted } => {
            let mut cures = Vec::new();
            if uid != wanted {
                cures.push(format!("chown {wanted}:{wanted} {shown}"));
            }
            if mode & 0o022 != 0 {
                cures.push(format!("chmod go-w {shown}"));
            }
            let who = if *wanted == 0 {
                "root".to_owned()
            } else {
                format!("uid {wanted}")
            };
            untrusted(&format!("somebody else than {who} could have written this"))
                .note(format!("its owner is uid {uid}, its mode {mode:04o}"))
                .help(cures.join("; "))
        }
        ReadError::Link => untrusted("this is a symbolic link, and rules are read from files only")
            .help("put the file itself here, or an empty one to turn off a shipped file"),
        ReadError::NotAFile => untrusted("this is not a regular file").help("remove it"),
        ReadError::TooLarge => {
            untrusted("this file is larger than 1 MiB").help("split it, or look at what wrote it")
        }
        ReadError::Io(error) => Diagnostic::in_file(
            Code::UnreadableFile,
            format!("this could not be read: {error}"),
            path.into(),
        )
        .help("only root can read all rules; as root, see that it is there and readable"),
    }
}

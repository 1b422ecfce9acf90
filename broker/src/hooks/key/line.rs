//! Keys without our program in the kernel's place: lines of request-key.conf(5), by which the distribution's program starts
//! ours for some types of keys.
//!
//! What answered such a key before stands behind `--` in its line, and is what `pass` means there. It is never the
//! distribution's program itself, which would find our line again, and again. Which line that program goes by, it is
//! asked itself, before and after.

use std::path::{Path, PathBuf};

use super::{KeyHook, KeyHookError, SIZE_MAX, Standing, Wrong};
use crate::hooks::file;
use crate::hooks::lock::Lock;
use crate::linux::secure;

mod oracle;

pub use oracle::OracleError;

/// Our file, among others whose names end so.
const FILE: &str = "upcalld.conf";

/// Starts every file of ours, whichever upcalld's.
const MARK: &str = "# Written by `upcallctl install key --mode line`";

/// What answers keys that nothing answered before: the key is left unanswered, as then.
pub(super) const NOBODY: &str = "/bin/false";

/// The words that the kernel says, as request-key.conf(5) fills them in.
const WORDS: &str = "%o %k %u %g %T %P %S";

/// The longest name of a type (security/keys/internal.h).
const TYPE_MAX: usize = 31;

/// One type of keys that goes through us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The type.
    pub kind: String,
    /// What answered it before, a command of request-key.conf(5); `None`: nothing did.
    pub before: Option<String>,
}

/// Whose file there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lines {
    /// This upcalld's.
    Ours(Vec<Line>),
    /// Another upcalld's.
    Another,
    /// An admin's own, by the name that ours would have.
    Foreign,
    /// None.
    Nothing,
}

/// Why lines cannot be put in.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The other way is taken already.
    #[error("{} sends keys through upcalld already", .0.display())]
    Both(PathBuf),
    /// The other way was taken, and a package has taken its name back.
    #[error("{} is the distribution's again, and what was diverted still lies beside it", .0.display())]
    Lost(PathBuf),
    /// A file by our name.
    #[error("{} is not ours", .0.display())]
    Taken(PathBuf),
    /// No name of a type.
    #[error("`{0}` is no type of keys")]
    Type(String),
    /// A path that is more than one word of such a line.
    #[error("{}: a blank, a quote or a `%` cannot stand in request-key.conf", .0.display())]
    Path(PathBuf),
    /// What answers the type is not a command that could be started in another's place.
    #[error("keys of type {kind} are answered by `{command}`")]
    Pipe {
        /// The type.
        kind: String,
        /// What stands in the configuration.
        command: String,
    },
    /// Another line wins.
    #[error("keys of type {kind} still go to `{command}`")]
    Preferred {
        /// The type.
        kind: String,
        /// What wins.
        command: String,
    },
    /// More than one file holds.
    #[error("the lines would be longer than {SIZE_MAX} bytes")]
    Long,
    /// Nobody says which line wins.
    #[error(transparent)]
    Oracle(#[from] OracleError),
}

/// What is needed to undo an installation.
#[derive(Debug)]
pub struct Before {
    lines: Option<Vec<u8>>,
    file: Option<Vec<u8>>,
}

/// The lines of one upcalld.
#[derive(Debug)]
pub struct KeyLines<'a> {
    hook: &'a KeyHook,
    /// The directory of request-key.conf.
    config: PathBuf,
}

impl KeyHook {
    /// Its lines.
    pub fn lines(&self) -> KeyLines<'_> {
        let root = self.directory.parent().unwrap_or(Path::new("/"));
        KeyLines {
            hook: self,
            config: root.join("etc"),
        }
    }
}

impl KeyLines<'_> {
    /// The file.
    pub fn path(&self) -> PathBuf {
        self.directory().join(FILE)
    }

    fn directory(&self) -> PathBuf {
        self.config.join("request-key.d")
    }

    /// What there is.
    pub fn standing(&self) -> Lines {
        let path = self.path();
        if path.symlink_metadata().is_err() {
            return Lines::Nothing;
        }
        let text = secure::read_file(&path, SIZE_MAX).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        if !text.starts_with(MARK) {
            return Lines::Foreign;
        }
        let command = self.command();
        let lines: Vec<Line> = text
            .lines()
            .filter_map(|line| parse(line, &command))
            .collect();
        if lines.is_empty() {
            Lines::Another
        } else {
            Lines::Ours(lines)
        }
    }

    /// What would be written for these types.
    ///
    /// # Errors
    /// See [`LineError`].
    pub fn plan(&self, kinds: &[String]) -> Result<Vec<Line>, KeyHookError> {
        for path in [&self.hook.shim.program, &self.hook.shim.hooks] {
            let fits = |text: &str| !text.contains([' ', '\t', '\'', '"', '%', '\n']);
            if !path.to_str().is_some_and(fits) {
                return Err(LineError::Path(path.clone()).into());
            }
        }
        let earlier = match self.standing() {
            Lines::Ours(lines) => lines,
            Lines::Nothing => Vec::new(),
            Lines::Another => return Err(KeyHookError::Another(self.path())),
            Lines::Foreign => return Err(LineError::Taken(self.path()).into()),
        };
        match self.hook.standing() {
            Standing::Ours => return Err(LineError::Both(self.hook.place()).into()),
            Standing::Lost => return Err(LineError::Lost(self.hook.place()).into()),
            Standing::Another | Standing::Foreign | Standing::Nothing => {}
        }
        let line = |kind: &String| self.line(kind, &earlier).map_err(KeyHookError::from);
        kinds.iter().map(line).collect()
    }

    fn line(&self, kind: &String, earlier: &[Line]) -> Result<Line, LineError> {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        let fits = (1..=TYPE_MAX).contains(&kind.len()) && kind.bytes().all(letter);
        if !fits || kind.starts_with('.') {
            return Err(LineError::Type(kind.clone()));
        }
        if let Some(line) = earlier.iter().find(|line| line.kind == *kind) {
            return Ok(line.clone());
        }
        let before = oracle::command(&self.hook.place(), &self.config, kind)?;
        match before {
            Some(command) if !command.starts_with('/') => Err(LineError::Pipe {
                kind: kind.clone(),
                command,
            }),
            before => Ok(Line {
                kind: kind.clone(),
                before,
            }),
        }
    }

    /// Writes these lines, and one by which keys of this description can be tried, until [`KeyLines::tried`].
    ///
    /// # Errors
    /// See [`KeyHookError`]; everything is as it was then.
    pub fn install(
        &self,
        lines: &[Line],
        trial: Option<&str>,
        lock: &Lock,
    ) -> Result<Before, KeyHookError> {
        self.hook.shim.check()?;
        let before = Before {
            lines: secure::read_file(&self.path(), SIZE_MAX).ok(),
            file: secure::read_file(&self.hook.path(), SIZE_MAX).ok(),
        };
        let put_in = || {
            let text = self.hook.text(Path::new(NOBODY), None);
            file::write(&self.hook.shim.hooks, "key", text.as_bytes())?;
            self.write(lines, trial)?;
            lines.iter().try_for_each(|line| self.check(line))
        };
        match put_in() {
            Ok(()) => Ok(before),
            Err(error) => {
                // The first error is the one to be told.
                drop(self.undo(&before, lock));
                Err(error)
            }
        }
    }

    /// Takes the line for trying out again.
    ///
    /// # Errors
    /// As write(2).
    pub fn tried(&self, lines: &[Line], _lock: &Lock) -> Result<(), KeyHookError> {
        self.write(lines, None)
    }

    /// Whether keys of this type go through us.
    ///
    /// # Errors
    /// [`LineError::Preferred`]: they do not.
    pub fn check(&self, line: &Line) -> Result<(), KeyHookError> {
        let command = oracle::command(&self.hook.place(), &self.config, &line.kind);
        let command = command.map_err(LineError::from)?;
        if command.as_ref() == Some(&self.whole(line)) {
            return Ok(());
        }
        let (kind, command) = (
            line.kind.clone(),
            command.unwrap_or_else(|| "nobody".to_owned()),
        );
        Err(LineError::Preferred { kind, command }.into())
    }

    /// Makes everything what it was before [`KeyLines::install`].
    ///
    /// # Errors
    /// See [`KeyHookError`].
    pub fn undo(&self, before: &Before, _lock: &Lock) -> Result<(), KeyHookError> {
        put_back(&self.directory(), FILE, before.lines.as_deref())?;
        put_back(&self.hook.shim.hooks, "key", before.file.as_deref())
    }

    /// Writes lines of ours again that somebody has removed, unless somebody of ours is at work there. Returns whether they are
    /// there now. Whether they win is not asked here, where no program may be started.
    ///
    /// # Errors
    /// See [`KeyHookError`].
    pub fn take_back(&self, lines: &[Line]) -> Result<bool, KeyHookError> {
        let Some(_lock) = self.hook.writer.now()? else {
            return Ok(false);
        };
        match self.hook.wrong() {
            Some(Wrong::NoLines(_)) => self.write(lines, None).map(|()| true),
            _ => Ok(false),
        }
    }

    /// Removes the lines, if they are ours, and the hook's file. Returns what there was.
    ///
    /// # Errors
    /// See [`KeyHookError`].
    pub fn uninstall(&self) -> Result<Lines, KeyHookError> {
        let _lock = self.hook.lock()?;
        let standing = self.standing();
        if let Lines::Ours(_) = &standing {
            file::remove(&self.directory(), FILE)?;
            file::remove(&self.hook.shim.hooks, "key")?;
        }
        Ok(standing)
    }

    fn write(&self, lines: &[Line], trial: Option<&str>) -> Result<(), KeyHookError> {
        let text = self.text(lines, trial);
        // What is longer would not be known as ours again.
        if text.len() > usize::try_from(SIZE_MAX).unwrap_or(usize::MAX) {
            return Err(LineError::Long.into());
        }
        Ok(file::write(&self.directory(), FILE, text.as_bytes())?)
    }

    fn text(&self, lines: &[Line], trial: Option<&str>) -> String {
        let mut text = format!(
            "{MARK}: keys of these types go through upcalld.\n\
             # What stands behind `--` answered them before, and does where a rule passes, or upcalld is stopped\n\
             # (request-key.conf(5)). Of equally good lines the first that is read wins: this directory's before\n\
             # request-key.conf, in no order.\n\
             #OP\tTYPE\tDESC\tCALLOUT\tPROGRAM\n"
        );
        let mut add = |kind: &str, description: &str, command: &str| {
            text += &["create", kind, description, "*", command].join("\t");
            text.push('\n');
        };
        for line in lines {
            add(&line.kind, "*", &self.whole(line));
        }
        if let Some(description) = trial {
            let command = self.whole(&Line {
                kind: "user".to_owned(),
                before: None,
            });
            add("user", description, &command);
        }
        text
    }

    /// What a line starts.
    fn whole(&self, line: &Line) -> String {
        let before = line.before.as_deref().unwrap_or(NOBODY);
        format!("{} -- {before}", self.command())
    }

    /// What starts the command of every line of this upcalld.
    fn command(&self) -> String {
        let program = self.hook.shim.program.display();
        let hooks = if self.hook.shim.is_default() {
            String::new()
        } else {
            format!(" --hooks={}", self.hook.shim.hooks.display())
        };
        format!("{program}{hooks} {WORDS}")
    }
}

/// A line of ours: its type, and what stands behind `--`.
fn parse(line: &str, command: &str) -> Option<Line> {
    let mut fields = line.splitn(5, '\t');
    let head = [
        fields.next()?,
        fields.next()?,
        fields.next()?,
        fields.next()?,
    ];
    let ["create", kind, "*", "*"] = head else {
        return None;
    };
    let before = fields.next()?.strip_prefix(command)?.strip_prefix(" -- ")?;
    Some(Line {
        kind: kind.to_owned(),
        before: Some(before.to_owned()).filter(|before| before != NOBODY),
    })
}

fn put_back(directory: &Path, name: &str, bytes: Option<&[u8]>) -> Result<(), KeyHookError> {
    match bytes {
        Some(bytes) => file::write(directory, name, bytes)?,
        None => file::remove(directory, name)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests;

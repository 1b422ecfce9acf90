//! What stands in kernel.core_pattern (core(5)): ours, or somebody else's.

use std::path::{Path, PathBuf};

use upcall_helpers::wire::CORE_WORDS;

use crate::identify::core::CoreWords;

/// Where the kernel has it.
pub const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

/// How many pipe dumps run at once, and whether the kernel waits for their handlers.
pub const CORE_PIPE_LIMIT: &str = "/proc/sys/kernel/core_pipe_limit";

/// The longest pattern that the kernel keeps; it cuts a longer one without a word.
pub const PATTERN_MAX: usize = 127;

/// A pattern by what the kernel does with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// `|program words`: a program gets the core.
    Pipe(String),
    /// `@path` or `@@path`: a socket gets it.
    Socket(String),
    /// A path: the kernel writes a file.
    File(String),
}

/// Why a pattern of ours cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// The kernel would cut it.
    #[error(
        "the core_pattern would have {length} characters and the kernel keeps {PATTERN_MAX}; \
         use shorter paths than {program} and {hooks}"
    )]
    TooLong {
        /// How long it would be.
        length: usize,
        /// The program's path.
        program: String,
        /// The directory of the hooks' files.
        hooks: String,
    },
    /// The kernel splits it at spaces and reads `%`.
    #[error("{0} has a space or a % in it, which core_pattern cannot hold")]
    Path(String),
}

impl Pattern {
    /// Reads a pattern.
    pub fn parse(text: &str) -> Self {
        let text = text.trim_end_matches('\n');
        match text.chars().next() {
            Some('|') => Self::Pipe(text.to_owned()),
            Some('@') => Self::Socket(text.to_owned()),
            _ => Self::File(text.to_owned()),
        }
    }

    /// The text that makes the kernel do it.
    pub fn text(&self) -> &str {
        match self {
            Self::Pipe(text) | Self::Socket(text) | Self::File(text) => text,
        }
    }

    /// Ours: the link named `core` to the shim, and the words that shim and daemon count on.
    ///
    /// # Errors
    /// See [`PatternError`].
    pub fn ours(program: &Path, hooks: Option<&Path>) -> Result<Self, PatternError> {
        let program = word(program)?;
        let hooks = hooks.map(word).transpose()?;
        let option = hooks
            .as_ref()
            .map(|hooks| format!(" --hooks={hooks}"))
            .unwrap_or_default();
        let text = format!("|{program}{option} {}", CORE_WORDS.join(" "));
        if text.len() > PATTERN_MAX {
            let hooks = hooks.unwrap_or_default();
            return Err(PatternError::TooLong {
                length: text.len(),
                program,
                hooks,
            });
        }
        Ok(Self::Pipe(text))
    }

    /// Whether this is a pattern of ours: of this installation or of any other.
    pub fn is_ours(&self) -> bool {
        let Self::Pipe(text) = self else { return false };
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let ends_as_ours = words.ends_with(&CORE_WORDS);
        ends_as_ours
            && words
                .first()
                .is_some_and(|program| program.ends_with("/core"))
    }

    /// The directory of the hooks' files that a pattern of ours names.
    pub fn hooks_directory(&self) -> Option<PathBuf> {
        let Self::Pipe(text) = self else { return None };
        text.split_ascii_whitespace()
            .find_map(|word| word.strip_prefix("--hooks="))
            .map(PathBuf::from)
    }

    /// The words of a pipe handler's command line with everything filled in, as the kernel does it: split at spaces
    /// first, then filled in; an unknown specifier disappears. Empty for a pattern that is no pipe.
    pub fn command(&self, words: &CoreWords) -> Vec<Vec<u8>> {
        let Self::Pipe(text) = self else {
            return Vec::new();
        };
        let text = text.strip_prefix('|').unwrap_or(text);
        text.split_ascii_whitespace()
            .map(|word| fill_in(word, words))
            .collect()
    }

    /// Whether a pipe handler asks for the kernel's pidfd, which it finds as descriptor 3.
    pub fn wants_pidfd(&self) -> bool {
        matches!(self, Self::Pipe(text) if text.split("%%").any(|part| part.contains("%F")))
    }
}

fn word(path: &Path) -> Result<String, PatternError> {
    match path.to_str() {
        Some(text) if !text.contains([' ', '%', '\n', '\t']) => Ok(text.to_owned()),
        _ => Err(PatternError::Path(path.display().to_string())),
    }
}

fn fill_in(word: &str, words: &CoreWords) -> Vec<u8> {
    let mut filled = Vec::new();
    let mut rest = word.chars();
    while let Some(letter) = rest.next() {
        if letter != '%' {
            let mut buffer = [0; 4];
            filled.extend_from_slice(letter.encode_utf8(&mut buffer).as_bytes());
            continue;
        }
        match rest.next() {
            Some('%') => filled.push(b'%'),
            Some(specifier) => filled.extend_from_slice(words.get(&format!("%{specifier}"))),
            None => {}
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> CoreWords {
        let words = CORE_WORDS
            .iter()
            .map(|word| format!("{}>", word.replace('%', "<")).into_bytes());
        CoreWords::new(words.collect()).unwrap()
    }

    #[test]
    fn ours_fits_and_is_known_again() {
        let ours = Pattern::ours(Path::new("/usr/libexec/upcalld/core"), None).unwrap();
        assert!(
            ours.is_ours() && ours.text().len() <= PATTERN_MAX,
            "{}",
            ours.text()
        );
        assert_eq!(ours.hooks_directory(), None);
        let private =
            Pattern::ours(Path::new("/run/d/core"), Some(Path::new("/run/d/hooks"))).unwrap();
        assert!(private.is_ours());
        assert_eq!(
            private.hooks_directory(),
            Some(PathBuf::from("/run/d/hooks"))
        );
        for other in [
            "core",
            "|/usr/lib/systemd/systemd-coredump %P %u",
            "@@/run/upcalld/core.sock",
            "|/bin/core %P",
        ] {
            assert!(!Pattern::parse(other).is_ours(), "{other}");
        }
    }

    #[test]
    fn a_pattern_the_kernel_would_cut_or_split_is_refused() {
        let long = format!("/{}", "x".repeat(80));
        assert!(matches!(
            Pattern::ours(Path::new(&long), None),
            Err(PatternError::TooLong { .. })
        ));
        assert!(matches!(
            Pattern::ours(Path::new("/a b/core"), None),
            Err(PatternError::Path(_))
        ));
    }

    #[test]
    fn a_former_handlers_words_are_filled_in_as_the_kernel_does() {
        let former = Pattern::parse("|/bin/handler  -p%p %e --at=%t%% %q %P:%F %\n");
        let command = former.command(&words());
        let text: Vec<String> = command
            .into_iter()
            .map(|word| String::from_utf8(word).unwrap())
            .collect();
        assert_eq!(
            text,
            [
                "/bin/handler",
                "-p<p>",
                "<e>",
                "--at=<t>%",
                "",
                "<P>:<F>",
                ""
            ]
        );
        assert!(former.wants_pidfd() && !Pattern::parse("|/bin/h %%F").wants_pidfd());
        assert!(Pattern::parse("core.%p").command(&words()).is_empty());
    }
}

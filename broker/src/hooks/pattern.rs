//! A value of kernel.core_pattern (core(5)): ours, or somebody else's.

use std::path::{Path, PathBuf};

use upcall_helpers::wire::CORE_WORDS;

use crate::identify::core::CoreWords;

/// Where the hooks' files are, for a pattern of ours that names no other place; the shim knows it too.
pub const DEFAULT_HOOKS: &str = "/etc/upcalld/hooks";

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
    pub fn ours(program: &Path, hooks: &Path) -> Result<Self, PatternError> {
        let program = word(program)?;
        let hooks = word(hooks)?;
        let option = if hooks == DEFAULT_HOOKS {
            String::new()
        } else {
            format!(" --hooks={hooks}")
        };
        let text = format!("|{program}{option} {}", CORE_WORDS.join(" "));
        if text.len() > PATTERN_MAX {
            return Err(PatternError::TooLong {
                length: text.len(),
                program,
                hooks,
            });
        }
        Ok(Self::Pipe(text))
    }

    /// Whether this is a pattern of upcalld's: of this installation, of another one, or of another version, whose words
    /// may be others.
    pub fn is_upcallds(&self) -> bool {
        let Self::Pipe(text) = self else { return false };
        let text = text.strip_prefix('|').unwrap_or(text);
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let Some((program, words)) = words.split_first() else {
            return false;
        };
        let names_hooks = words.first().is_some_and(|w| w.starts_with("--hooks="));
        program.ends_with("/core")
            && (names_hooks || program.ends_with("/upcalld/core") || words.ends_with(&CORE_WORDS))
    }

    /// Whether this is the pattern of the installation whose hooks' files are in this directory.
    pub fn is_of(&self, hooks: &Path) -> bool {
        self.hooks_directory().is_some_and(|named| named == hooks)
    }

    /// The directory of the hooks' files, for a pattern of upcalld's.
    pub fn hooks_directory(&self) -> Option<PathBuf> {
        let text = self.is_upcallds().then(|| self.text())?;
        let named = text
            .split_ascii_whitespace()
            .find_map(|word| word.strip_prefix("--hooks="));
        Some(PathBuf::from(named.unwrap_or(DEFAULT_HOOKS)))
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

    fn ours(program: &str, hooks: &str) -> Result<Pattern, PatternError> {
        Pattern::ours(Path::new(program), Path::new(hooks))
    }

    #[test]
    fn ours_fits_and_is_known_again() {
        let system = ours("/usr/libexec/upcalld/core", DEFAULT_HOOKS).unwrap();
        assert!(system.text().len() <= PATTERN_MAX, "{}", system.text());
        assert!(system.is_of(Path::new(DEFAULT_HOOKS)));
        let private = ours("/run/d/core", "/run/d/hooks").unwrap();
        assert!(private.is_of(Path::new("/run/d/hooks")));
        assert!(private.is_upcallds() && !private.is_of(Path::new(DEFAULT_HOOKS)));
        // Of a version with other words.
        let older = Pattern::parse("|/usr/libexec/upcalld/core %P %F");
        assert!(older.is_of(Path::new(DEFAULT_HOOKS)));
        for other in [
            "",
            "|",
            "core",
            "|/usr/lib/systemd/systemd-coredump %P %u",
            "@@/run/upcalld/core.sock",
            "|/bin/core %P",
        ] {
            let other = Pattern::parse(other);
            assert!(!other.is_upcallds(), "{other:?}");
            assert_eq!(other.hooks_directory(), None);
        }
    }

    #[test]
    fn a_pattern_the_kernel_would_cut_or_split_is_refused() {
        let long = format!("/{}", "x".repeat(80));
        assert!(matches!(
            ours(&long, DEFAULT_HOOKS),
            Err(PatternError::TooLong { .. })
        ));
        for odd in ["/a b/core", "/a%p/core"] {
            assert!(matches!(
                ours(odd, DEFAULT_HOOKS),
                Err(PatternError::Path(_))
            ));
        }
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

//! A value of kernel.core_pattern (core(5)): ours, or somebody else's.

use std::path::{Path, PathBuf};

use upcall_config::placed::name_part;
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
    /// A socket's path is no longer.
    #[error("{0} is too long for a socket")]
    SocketTooLong(String),
    /// The kernel splits it at spaces and reads `%`.
    #[error("{0} has a space or a % in it, which core_pattern cannot hold")]
    Path(String),
}

/// Where below the daemon's directory of sockets the kernel's is: the hook's file knows the daemon, and this name the
/// hook's file.
pub fn kernel_socket(run: &Path, hooks: &Path) -> PathBuf {
    run.join("kernel").join(socket_name(hooks))
}

/// `upcalld.sock`, or for another place of the hooks' files one with a number that stands for it (FNV-1a).
fn socket_name(hooks: &Path) -> String {
    if hooks == Path::new(DEFAULT_HOOKS) {
        return "upcalld.sock".to_owned();
    }
    let bytes = hooks.as_os_str().as_encoded_bytes().iter();
    let number = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |number, byte| {
        (number ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("upcalld-{number:016x}.sock")
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

    /// Ours for the kernel's own socket: `asks` with its question first (`@@`, 6.17), else the core at once (`@`, 6.16).
    ///
    /// # Errors
    /// See [`PatternError`].
    pub fn ours_by_socket(run: &Path, hooks: &Path, asks: bool) -> Result<Self, PatternError> {
        /// A socket's address ends here (unix(7)), and so does what the kernel takes (fs/coredump.c).
        const ADDRESS_MAX: usize = 107;
        let socket = word(&kernel_socket(run, hooks))?;
        if socket.len() > ADDRESS_MAX {
            return Err(PatternError::SocketTooLong(socket));
        }
        let at = if asks { "@@" } else { "@" };
        Ok(Self::Socket(format!("{at}{socket}")))
    }

    /// The socket, of a pattern that names one.
    fn socket(&self) -> Option<&Path> {
        let Self::Socket(text) = self else {
            return None;
        };
        Some(Path::new(text.trim_start_matches('@')))
    }

    /// What the kernel does by this pattern, in a word or two.
    pub fn mode(&self) -> &'static str {
        match self {
            Self::Pipe(_) => "pipe",
            Self::Socket(text) if text.starts_with("@@") => "socket",
            Self::Socket(_) => "plain socket",
            Self::File(_) => "file",
        }
    }

    /// Whether this is a pattern of upcalld's: of this installation, of another one, or of another version, whose words
    /// may be others.
    pub fn is_upcallds(&self) -> bool {
        if let Some(socket) = self.socket() {
            let name = socket.file_name().and_then(|name| name.to_str());
            let name = name.and_then(|name| name.strip_suffix(".sock"));
            let directory = socket.parent().and_then(Path::file_name);
            return directory.is_some_and(|name| name == "kernel")
                && name.is_some_and(|name| name.starts_with("upcalld"));
        }
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
        if let Some(socket) = self.socket() {
            let name = socket
                .file_name()
                .is_some_and(|name| *name == *socket_name(hooks));
            return name && self.is_upcallds();
        }
        self.hooks_directory().is_some_and(|named| named == hooks)
    }

    /// The directory of the hooks' files, for a pipe of upcalld's.
    pub fn hooks_directory(&self) -> Option<PathBuf> {
        let ours = matches!(self, Self::Pipe(_)) && self.is_upcallds();
        let text = ours.then(|| self.text())?;
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

    /// The name of the file that the kernel would have written, as it fills it in: `None` where it would write none, or
    /// for a pattern that is no file. `uses_pid` is kernel.core_uses_pid.
    pub fn file(&self, words: &CoreWords, uses_pid: bool) -> Option<Vec<u8>> {
        let Self::File(text) = self else { return None };
        let mut name = fill_in(&text.replace("%F", ""), words);
        let names_pid = text.split("%%").any(|part| part.contains("%p"));
        if uses_pid && !names_pid {
            name.push(b'.');
            name.extend_from_slice(words.get("%p"));
        }
        Some(name).filter(|name| !name.is_empty())
    }

    /// Whether it is the socket at which systemd-coredump hears from the kernel (systemd-coredump(8)).
    pub fn is_systemds_socket(&self) -> bool {
        matches!(self, Self::Socket(text) if text.trim_start_matches('@').starts_with("/run/systemd/coredump"))
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

/// A word as the kernel fills it in (fs/coredump.c, `format_corename`).
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
            Some(specifier) => {
                let value = words.get(&format!("%{specifier}"));
                match specifier {
                    // By its socket the kernel says no names, and who looks them up has them raw.
                    'e' | 'f' | 'h' => name_part(&mut value.to_vec(), &mut filled),
                    _ => filled.extend_from_slice(value),
                }
            }
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
            "@@/run/upcalld/upcall.sock",
            "@@/run/systemd/coredump-kernel",
            "@/run/kernel/other.sock",
            "|/bin/core %P",
        ] {
            let other = Pattern::parse(other);
            assert!(!other.is_upcallds(), "{other:?}");
            assert!(!other.is_of(Path::new(DEFAULT_HOOKS)));
        }
    }

    #[test]
    fn our_socket_is_known_again_by_the_place_of_the_hooks_files() {
        let (run, hooks) = (Path::new("/run/upcalld"), Path::new(DEFAULT_HOOKS));
        let system = Pattern::ours_by_socket(run, hooks, true).unwrap();
        assert_eq!(system.text(), "@@/run/upcalld/kernel/upcalld.sock");
        assert_eq!((system.is_upcallds(), system.mode()), (true, "socket"));
        let other = Pattern::ours_by_socket(run, Path::new("/x/hooks"), false).unwrap();
        assert!(other.is_of(Path::new("/x/hooks")) && !other.is_of(Path::new("/y/hooks")));
        assert!(other.is_upcallds() && !other.is_of(hooks) && !system.is_of(Path::new("/x/hooks")));
        for odd in ["/a b".to_owned(), "/x".repeat(60)] {
            assert!(Pattern::ours_by_socket(Path::new(&odd), hooks, true).is_err());
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

    #[test]
    fn a_tenants_name_in_a_files_name_is_one_part_of_it() {
        let rename = |word: &&str| match *word {
            "%e" => b"x/../y".to_vec(),
            "%h" => b"..".to_vec(),
            _ => Vec::new(),
        };
        let hostile = CoreWords::new(CORE_WORDS.iter().map(rename).collect()).unwrap();
        let name = |text| Pattern::parse(text).file(&hostile, false);
        assert_eq!(name("/c/%e"), Some(b"/c/x!..!y".to_vec()));
        assert_eq!(name("/c/%h/%f/%p"), Some(b"/c/!./!/".to_vec()));
    }

    #[test]
    fn a_files_name_is_filled_in_as_the_kernel_does() {
        let name = |text: &str, uses_pid| {
            let name = Pattern::parse(text).file(&words(), uses_pid);
            name.map(|name| String::from_utf8(name).unwrap())
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(name("core", false), some("core"));
        assert_eq!(name("core", true), some("core.<p>"));
        assert_eq!(name("/c/%e-%p %q%%", true), some("/c/<e>-<p> %"));
        assert_eq!(name("c%%p", true), some("c%p.<p>"));
        assert_eq!([name("", false), name("|/bin/x", true)], [None, None]);
        assert!(Pattern::parse("@@/run/systemd/coredump-kernel").is_systemds_socket());
        assert!(!Pattern::parse("@@/run/other").is_systemds_socket());
    }
}

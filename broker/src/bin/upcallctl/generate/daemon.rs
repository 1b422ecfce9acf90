//! upcalld(8), from what `upcalld --help` prints.

use clap_mangen::roff::{Roff, bold, italic, roman};
use upcalld::options::HELP;

/// The page.
pub(super) fn page() -> Roff {
    let version = format!("upcalld {}", env!("CARGO_PKG_VERSION"));
    let mut page = Roff::new();
    page.control("TH", ["upcalld", "8", "", &version, "upcalld"]);
    page.control("SH", ["NAME"]);
    page.text([roman(
        "upcalld - answers the kernel's upcalls in the container that caused them",
    )]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([bold("upcalld"), roman(" ["), italic("OPTIONS"), roman("]")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(
        "The daemon. It needs root, and all capabilities for its launcher; it keeps few for itself. upcallctl(8) asks it, \
         checks its rules and puts it into the kernel's hooks. /usr/share/doc/upcalld/operations.md goes from the \
         installation to the removal.",
    )]);
    page.control("SH", ["OPTIONS"]);
    let options = HELP.lines().skip_while(|line| !line.starts_with("  "));
    let options = options.take_while(|line| line.starts_with("  "));
    for line in options {
        match line.trim_start().split_once("  ") {
            Some((option, meaning)) if line.starts_with("  --") => {
                page.control("TP", []);
                page.text([bold(option.trim())]);
                page.text([roman(meaning.trim())]);
            }
            // What goes on from the line before, or the options without a word about them.
            _ => {
                if line.starts_with("  --") {
                    page.control("PP", []);
                }
                page.text([roman(line.trim())]);
            }
        }
    }
    page.control("SH", ["SIGNALS"]);
    for (signal, meaning) in [
        (
            "SIGHUP",
            "Loads the rules again; with a mistake in any file it keeps those it has.",
        ),
        (
            "SIGTERM, SIGINT",
            "Takes nothing new, lets running work finish for ten seconds, and ends. Helpers that run go on.",
        ),
    ] {
        page.control("TP", []);
        page.text([bold(signal)]);
        page.text([roman(meaning)]);
    }
    page.control("SH", ["ENVIRONMENT"]);
    for (name, meaning) in [
        (
            "UPCALLD_LOG",
            "What is logged: error, warn, info (the default), debug, trace.",
        ),
        (
            "LISTEN_FDS, NOTIFY_SOCKET",
            "Set by systemd; see sd_listen_fds(3), sd_notify(3).",
        ),
    ] {
        page.control("TP", []);
        page.text([bold(name)]);
        page.text([roman(meaning)]);
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([
        bold("upcallctl"),
        roman("(8), "),
        bold("core"),
        roman("(5)"),
    ]);
    page
}

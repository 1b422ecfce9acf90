//! The man pages and the completions, from the one definition of the command line.

use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use crate::cli::{Cli, Generated};
use crate::failure::Failure;

mod daemon;

/// Runs the command.
pub(crate) fn run(what: Generated, directory: &Path) -> Result<(), Failure> {
    let write = |name: &str, bytes: Vec<u8>| {
        let path = directory.join(name);
        std::fs::write(&path, bytes).map_err(|source| Failure::File { path, source })
    };
    match what {
        Generated::Man => {
            let page = page().map_err(|source| Failure::File {
                path: PathBuf::from("upcallctl.8"),
                source,
            })?;
            write("upcallctl.8", page)?;
            write("upcalld.8", daemon::page().to_roff().into_bytes())
        }
        Generated::Completions => {
            for (shell, name) in [
                (Shell::Bash, "upcallctl.bash"),
                (Shell::Zsh, "_upcallctl"),
                (Shell::Fish, "upcallctl.fish"),
            ] {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "upcallctl", &mut script);
                write(name, script)?;
            }
            Ok(())
        }
    }
}

/// upcallctl(8).
fn page() -> std::io::Result<Vec<u8>> {
    let mut command = Cli::command();
    command.build();
    let man = Man::new(command.clone())
        .section("8")
        .manual("upcalld")
        .source(format!("upcalld {}", env!("CARGO_PKG_VERSION")));
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    synopsis().to_writer(&mut page)?;
    man.render_description_section(&mut page)?;
    commands(&command).to_writer(&mut page)?;
    man.render_options_section(&mut page)?;
    ending().to_writer(&mut page)?;
    Ok(page)
}

fn synopsis() -> Roff {
    let mut page = Roff::new();
    page.control("SH", ["SYNOPSIS"]);
    page.text([
        bold("upcallctl"),
        roman(" ["),
        italic("OPTIONS"),
        roman("] "),
        italic("COMMAND"),
        roman(" ["),
        italic("ARGUMENTS"),
        roman("]"),
    ]);
    page
}

/// Every command with its own options.
fn commands(command: &clap::Command) -> Roff {
    let mut page = Roff::new();
    page.control("SH", ["COMMANDS"]);
    for command in command.get_subcommands() {
        section(&mut page, "", command);
    }
    page
}

/// One command, and those below it; `before` are the words that lead to it.
fn section(page: &mut Roff, before: &str, command: &clap::Command) {
    if command.is_hide_set() || command.get_name() == "help" {
        return;
    }
    let below = command.get_subcommands().next().is_some();
    let name = format!("{before}{}", command.get_name());
    page.control("SS", [usage(&name, command).as_str()]);
    let about = command.get_long_about().or(command.get_about());
    for paragraph in about
        .map(ToString::to_string)
        .unwrap_or_default()
        .split("\n\n")
    {
        let end = if paragraph.ends_with(['.', '?']) {
            ""
        } else {
            "."
        };
        page.control("PP", []);
        page.text([roman(format!("{}{end}", paragraph.replace('\n', " ")))]);
    }
    // Options of a command that stands for one below it are said there.
    let own = command.get_arguments().filter(|argument| {
        !below
            && !argument.is_global_set()
            && !argument.is_hide_set()
            && argument.get_id() != "help"
    });
    for argument in own {
        page.control("TP", []);
        page.text(heading(argument));
        let help = argument.get_help().map(ToString::to_string);
        let defaults: Vec<_> = argument
            .get_default_values()
            .iter()
            .map(|value| value.to_string_lossy())
            .collect();
        let shown = !defaults.is_empty() && !argument.is_positional() && !is_switch(argument);
        let default = shown.then(|| format!("[{}]", defaults.join(" ")));
        let help: Vec<String> = help.into_iter().chain(default).collect();
        page.text([roman(help.join(" "))]);
    }
    for command in command.get_subcommands() {
        section(page, &format!("{name} "), command);
    }
}

fn is_switch(argument: &clap::Arg) -> bool {
    matches!(argument.get_action(), clap::ArgAction::SetTrue)
}

fn usage(name: &str, command: &clap::Command) -> String {
    let mut usage = vec![name.to_owned()];
    for argument in command.get_positionals() {
        let name = argument.get_id().as_str().to_uppercase();
        let name = match argument.get_num_args() {
            Some(range) if range.max_values() > 1 => format!("{name}..."),
            _ => name,
        };
        usage.push(if argument.is_required_set() {
            name
        } else {
            format!("[{name}]")
        });
    }
    usage.join(" ")
}

fn heading(argument: &clap::Arg) -> Vec<clap_mangen::roff::Inline> {
    let Some(long) = argument.get_long() else {
        return vec![italic(argument.get_id().as_str().to_uppercase())];
    };
    let mut heading = Vec::new();
    if let Some(short) = argument.get_short() {
        heading.push(bold(format!("-{short}")));
        heading.push(roman(", "));
    }
    heading.push(bold(format!("--{long}")));
    if !is_switch(argument) {
        let names = argument.get_value_names().unwrap_or_default();
        heading.push(roman(" "));
        heading.push(italic(names.join(" ")));
    }
    heading
}

fn ending() -> Roff {
    let mut page = Roff::new();
    page.control("SH", ["EXIT STATUS"]);
    for (status, meaning) in [
        ("0", "Done; also for an empty list."),
        (
            "1",
            "It ran, and the news is bad: a mistake in the rules, a degraded status.",
        ),
        (
            "2",
            "Wrong usage: an unknown option, a filter that cannot be read.",
        ),
        ("3", "upcalld does not run, and the command needs it."),
        ("4", "There is no such record, process or container."),
        ("5", "Not permitted: neither root nor in the group upcall."),
        (
            "6",
            "It cannot be done here, and nothing is changed: somebody else has the hook, the self-test failed.",
        ),
    ] {
        page.control("TP", []);
        page.text([bold(status)]);
        page.text([roman(meaning)]);
    }
    page.control("SH", ["FILES"]);
    for (path, meaning) in [
        (
            "/etc/upcalld/rules.d/*.toml",
            "Rules; also below /run/upcalld and /usr/lib/upcalld.",
        ),
        (
            "/etc/upcalld/hooks/core",
            "What install writes: the shim's settings, and what stood in the hook before.",
        ),
        (
            "/etc/upcalld/hooks/key",
            "The same for keys; the distribution's program is /sbin/request-key.upcalld-was meanwhile.",
        ),
        ("/var/lib/upcalld/records", "A JSON file for each upcall."),
        (
            "/var/lib/upcalld/cores",
            "Cores that were kept; root's alone.",
        ),
        ("/run/upcalld/control.sock", "Where upcalld is asked."),
    ] {
        page.control("TP", []);
        page.text([italic(path)]);
        page.text([roman(meaning)]);
    }
    page.control("SH", ["ENVIRONMENT"]);
    page.control("TP", []);
    page.text([bold("NO_COLOR")]);
    page.text([roman("No colours, if it is set to anything.")]);
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("upcalld"), roman("(8), "), bold("core"), roman("(5)")]);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_man_pages_in_docs_are_current() {
        current("upcallctl.8", &String::from_utf8(page().unwrap()).unwrap());
        current("upcalld.8", &daemon::page().to_roff());
    }

    #[test]
    fn every_option_of_the_daemon_is_in_its_page() {
        let page = daemon::page().to_roff().replace('\\', "");
        let words = upcalld::options::HELP.split([' ', ',', '\n']);
        let options: Vec<_> = words.filter(|word| word.starts_with("--")).collect();
        assert!(options.len() >= 8, "{options:?}");
        for option in options {
            assert!(page.contains(option), "{option}: {page}");
        }
    }

    fn current(name: &str, page: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../docs/man")
            .join(name);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, page).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == page,
            "{} is not current; UPDATE_DOCS=1 cargo test -p upcalld writes it anew",
            path.display()
        );
    }

    #[test]
    fn all_shells_get_completions() {
        let directory = tempfile::tempdir().unwrap();
        run(Generated::Completions, directory.path()).unwrap();
        for name in ["upcallctl.bash", "_upcallctl", "upcallctl.fish"] {
            let script = std::fs::read_to_string(directory.path().join(name)).unwrap();
            assert!(
                script.contains("explain") && script.contains("no-trunc"),
                "{name}"
            );
        }
        let nowhere = run(Generated::Man, &directory.path().join("none")).unwrap_err();
        assert_eq!(nowhere.status(), 4);
    }
}

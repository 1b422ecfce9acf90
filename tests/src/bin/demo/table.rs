//! The rows, for people and for programs.

use std::io::IsTerminal;

use serde_json::json;
use upcall_e2e::records::action;
use upcalld::store::record::{Outcome, Record};

use crate::crashes::Who;
use crate::expected::{Row, container, core};
use crate::options::Colour;

/// How to write on this terminal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    colour: bool,
    utf8: bool,
}

impl Style {
    /// Colour on a terminal that has not asked for none.
    pub(crate) fn of_this_terminal(colour: Colour) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let terminal = std::io::stdout().is_terminal();
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
            .unwrap_or_default()
            .to_ascii_uppercase();
        Self {
            colour: match colour {
                Colour::Auto => terminal && !plain,
                Colour::Always => true,
                Colour::Never => false,
            },
            utf8: locale.contains("UTF-8") || locale.contains("UTF8"),
        }
    }

    /// The sign of what is not as it should be.
    pub(crate) fn no(self) -> String {
        self.paint("31", if self.utf8 { "✗" } else { "no" })
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Columns of one width each; `right` are aligned to the right. The last cell of a row may stand out.
fn columns(rows: &[Vec<String>], right: &[usize], least: &[usize]) -> Vec<String> {
    let count = rows
        .iter()
        .map(|row| row.len().min(least.len()))
        .max()
        .unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        widest.max(least.get(column).copied().unwrap_or(0))
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let line = |row: &Vec<String>| {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths.get(column).copied().unwrap_or(0);
            let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
            line += "  ";
            line += &if right.contains(&column) {
                padding + cell
            } else {
                cell.clone() + &padding
            };
        }
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// The first block: one line for each crash.
pub(crate) fn crashes(rows: &[Row], style: Style) -> String {
    let head = [
        "UPCALL",
        "PROCESS",
        "UID",
        "CONTAINER",
        "EVIDENCE",
        "RULE",
        "VERDICT",
        "HELD",
    ];
    let mut cells = vec![head.map(str::to_owned).to_vec()];
    cells.extend(rows.iter().map(|row| match &row.record {
        Some(record) => crash(row, record),
        None => vec![format!("core {}", row.number)],
    }));
    let least = [0, 19, 0, 0, 0, 0, 0, 0];
    let mut lines = columns(&cells, &[2, 7], &least);
    for (line, row) in lines.iter_mut().skip(1).zip(rows) {
        if let Some(wrong) = &row.wrong {
            line.push_str("  ");
            line.push_str(&style.no());
            line.push(' ');
            line.push_str(wrong);
        }
    }
    if let Some(head) = lines.first_mut() {
        *head = style.paint("1", head);
    }
    lines.join("\n") + "\n\n"
}

fn crash(row: &Row, record: &Record) -> Vec<String> {
    let process = &record.process;
    let inside = process
        .pid_inside
        .map(|pid| format!(" ({pid})"))
        .unwrap_or_default();
    let pid = process.pid.unwrap_or(0);
    let comm = process.comm.as_deref().unwrap_or("?");
    let nowhere = if process.user_namespace.as_deref() == Some("initial") {
        "- (host)"
    } else {
        "- (unregistered)"
    };
    let rule = record.verdict.rule.as_ref().map_or("-".to_owned(), |rule| {
        let file = std::path::Path::new(&rule.file)
            .file_stem()
            .unwrap_or_default();
        format!("{}:{}", file.display(), rule.line)
    });
    let verdict = match (record.outcome, &record.reason) {
        (Outcome::Done, _) => record.verdict.actions.join(", "),
        (outcome, Some(reason)) => format!("{}: {reason}", outcome.as_str()),
        (outcome, None) => outcome.as_str().to_owned(),
    };
    let held = record.timings_us.held.map_or("-".to_owned(), milliseconds);
    let remark = match row.who {
        Who::Init(_) => "the container's own PID 1",
        Who::Nested(_) => "nested: unshare -Ur inside",
        Who::Unregistered => "unshare -Urmpf by nobody",
        Who::Child(_) | Who::Host => "",
    };
    vec![
        format!("core {}", row.number),
        format!("{pid} {comm}{inside}"),
        process.uid.map_or("-".to_owned(), |uid| uid.to_string()),
        container(record).unwrap_or(nowhere.to_owned()),
        record
            .evidence
            .process
            .as_deref()
            .unwrap_or("-")
            .replace('_', " "),
        rule,
        verdict,
        held,
        remark.to_owned(),
    ]
}

/// Microseconds with three digits that count.
fn milliseconds(micros: u64) -> String {
    let hundredths = micros / 10;
    match hundredths {
        0..1000 => format!("{}.{:02} ms", hundredths / 100, hundredths % 100),
        1000..10_000 => format!("{}.{} ms", hundredths / 100, hundredths % 100 / 10),
        _ => format!("{} ms", hundredths / 100),
    }
}

/// The second block: what ran, where it found itself, and as whom.
pub(crate) fn helpers(rows: &[Row], style: Style) -> String {
    let head = [
        "",
        "RAN",
        "USER",
        "MNT",
        "PID",
        "NET",
        "AS INSIDE",
        "OUTSIDE",
        "CAPS",
    ];
    let mut first = head.map(str::to_owned).to_vec();
    first.push("(all as the helper itself saw it, inside)".to_owned());
    let mut cells = vec![first];
    let host = rows.first().map(|row| row.host.clone()).unwrap_or_default();
    let inode = |kind: &str| host.get(kind).map_or("-".to_owned(), u64::to_string);
    let kinds = ["user", "mnt", "pid", "net"];
    let mut line = vec![String::new(), "(the host)".to_owned()];
    line.extend(kinds.map(inode));
    line.extend([String::new(), String::new(), String::new()]);
    line.push("(namespaces by inode; show has all eight)".to_owned());
    cells.push(line);
    for (names, group) in groups(rows) {
        cells.push(helper(names, &group, &kinds));
    }
    let lines = columns(&cells, &[], &[5, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut lines = lines.into_iter();
    let head = lines
        .next()
        .map(|head| style.paint("1", &head))
        .unwrap_or_default();
    head + "\n" + &lines.collect::<Vec<_>>().join("\n") + "\n\n"
}

/// Rows with the same helper in the same place, by the names of their programs.
fn groups(rows: &[Row]) -> Vec<(String, Vec<&Row>)> {
    let mut groups: Vec<(String, Vec<&Row>)> = Vec::new();
    for row in rows {
        let program = row.record.as_ref().map_or("-".to_owned(), program);
        match groups.iter_mut().find(|(known, group)| {
            *known == program && group.iter().all(|other| other.inside == row.inside)
        }) {
            Some((_, group)) => group.push(row),
            None => groups.push((program, vec![row])),
        }
    }
    groups
}

/// What ran: a path as the container has it, a program of the host by its name.
fn program(record: &Record) -> String {
    let Some(argv) = action(record, "run").ok().and_then(|run| run.argv.as_ref()) else {
        return "upcall-store".to_owned();
    };
    let first = argv.first().map_or("-", String::as_str);
    let of_the_host = first.strip_prefix(crate::scene::PLACE);
    let name = of_the_host.and_then(|path| path.rsplit('/').next());
    name.unwrap_or(first).to_owned()
}

fn helper(program: String, group: &[&Row], kinds: &[&str; 4]) -> Vec<String> {
    let numbers: Vec<String> = group.iter().map(|row| row.number.to_string()).collect();
    let numbers = numbers.join(" ");
    let mut line = vec![numbers, program];
    let first = group.first();
    let Some((row, inside)) = first.and_then(|row| Some((row, row.inside.as_ref()?))) else {
        let host = first.map(|row| row.host.clone()).unwrap_or_default();
        line.extend(kinds.map(|kind| host.get(kind).map_or("-".to_owned(), u64::to_string)));
        line.extend(["-", "0:0", "-", "nothing entered"].map(str::to_owned));
        return line;
    };
    let inode = |kind: &str| {
        inside
            .namespaces
            .get(kind)
            .map_or("-".to_owned(), u64::to_string)
    };
    line.extend(kinds.map(inode));
    let run = row
        .record
        .as_ref()
        .and_then(|record| action(record, "run").ok());
    let outside = run.and_then(|run| Some(format!("{}:{}", run.uid?, run.gid?)));
    line.push(inside.ids.clone());
    line.push(outside.unwrap_or("-".to_owned()));
    line.push(format!(
        "{} of {}",
        inside.capabilities.count_ones(),
        known_capabilities()
    ));
    line.push(remark(group));
    line
}

fn remark(group: &[&Row]) -> String {
    let nested = group.iter().find(|row| matches!(row.who, Who::Nested(_)));
    let what = match group.first().map(|row| row.who) {
        Some(Who::Child("demo-userns")) => "script",
        Some(Who::Child("demo-plain")) => "the container's program, by its rule",
        _ => "host_program, static",
    };
    match nested {
        Some(row) => format!("{what}; {}: not the nested namespaces", row.number),
        None => what.to_owned(),
    }
}

/// How many capabilities this kernel knows.
fn known_capabilities() -> u32 {
    let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap_or_default();
    last.trim().parse::<u32>().map_or(41, |last| last + 1)
}

/// The third block: where the cores are.
pub(crate) fn cores(rows: &[Row]) -> String {
    let sizes: Vec<u64> = rows
        .iter()
        .filter_map(|row| core(row.record.as_ref()?))
        .map(|(_, bytes)| bytes / 1024)
        .collect();
    let (least, most) = (
        sizes.iter().min().copied().unwrap_or(0),
        sizes.iter().max().copied().unwrap_or(0),
    );
    let size = if least == most {
        format!("{most} KiB")
    } else {
        format!("{least} to {most} KiB")
    };
    format!(
        "  cores      1-9 {}/state/cores, {size} each, root only; 1-7 also in their container's /cores, written by \
         its helper\n",
        crate::scene::PLACE
    )
}

/// All of it as one document.
pub(crate) fn json(rows: &[Row]) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "row": row.number,
                "as_expected": row.wrong.is_none(),
                "wrong": row.wrong,
                "helper": row.inside.as_ref().map(|inside| json!({
                    "namespaces": inside.namespaces,
                    "ids": inside.ids,
                    "capabilities": format!("{:x}", inside.capabilities),
                })),
                "record": row.record,
            })
        })
        .collect();
    let document = json!({ "schema": "upcalld.demo", "version": 1, "rows": rows });
    format!("{document}\n")
}

//! Tables that fit: what is too wide loses columns in a stated order, then long cells lose their middle.

use crate::look::{Look, Paint};

/// The narrowest that a cell is cut to.
const CELL_MIN: usize = 8;

/// Between columns.
const GAP: usize = 2;

/// One column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    /// Its heading.
    pub(crate) name: &'static str,
    /// Whether it is aligned to the right.
    pub(crate) right: bool,
    /// When it goes, if there is no room: 1 first; 0 never.
    pub(crate) goes: u8,
    /// Whether its cells may lose their middle.
    pub(crate) cut: bool,
}

/// One cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    /// What it says.
    pub(crate) text: String,
    /// What it says where there is little room, aligned to the right.
    pub(crate) short: Option<String>,
    /// Its colour.
    pub(crate) paint: Paint,
}

impl Cell {
    /// Plain text.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            short: None,
            paint: Paint::Plain,
        }
    }

    /// The same in a colour.
    pub(crate) fn painted(self, paint: Paint) -> Self {
        Self { paint, ..self }
    }
}

/// Draws a table. It is a line of headings and a line for each row, and ends in a line end.
pub(crate) fn draw(columns: &[Column], rows: &[Vec<Cell>], look: &Look) -> String {
    let mut shown: Vec<Drawn> = columns
        .iter()
        .enumerate()
        .map(|(place, column)| {
            let cells = rows.iter().map(|row| row.get(place).cloned());
            Drawn {
                column: *column,
                cells: cells
                    .map(|cell| cell.unwrap_or_else(|| Cell::new("-")))
                    .collect(),
            }
        })
        .collect();
    if let Some(width) = look.width {
        fit(&mut shown, width, look);
    }
    let widths: Vec<usize> = shown.iter().map(Drawn::width).collect();
    let mut text = String::new();
    let headings = shown
        .iter()
        .map(|drawn| Cell::new(drawn.column.name).painted(Paint::Head));
    line(&mut text, &shown, &widths, headings, look);
    for row in 0..rows.len() {
        let cells = shown.iter().map(|drawn| {
            drawn
                .cells
                .get(row)
                .cloned()
                .unwrap_or_else(|| Cell::new("-"))
        });
        line(&mut text, &shown, &widths, cells, look);
    }
    text
}

/// A column with its cells.
struct Drawn {
    column: Column,
    cells: Vec<Cell>,
}

impl Drawn {
    fn width(&self) -> usize {
        let cells = self.cells.iter().map(|cell| length(&cell.text));
        cells.max().unwrap_or(0).max(length(self.column.name))
    }
}

fn total(shown: &[Drawn]) -> usize {
    let widths: usize = shown.iter().map(Drawn::width).sum();
    widths + GAP * shown.len().saturating_sub(1)
}

fn fit(shown: &mut Vec<Drawn>, width: usize, look: &Look) {
    while total(shown) > width {
        let next = shown.iter().map(|drawn| drawn.column.goes);
        let Some(next) = next.filter(|goes| *goes > 0).min() else {
            break;
        };
        shown.retain(|drawn| drawn.column.goes != next);
    }
    if total(shown) > width {
        for drawn in shown.iter_mut() {
            for cell in &mut drawn.cells {
                if let Some(short) = cell.short.take() {
                    cell.text = short;
                    drawn.column.right = true;
                }
            }
        }
    }
    // The widest first, so that short cells stay whole.
    while total(shown) > width {
        let over = total(shown) - width;
        let widest = shown
            .iter_mut()
            .filter(|drawn| {
                drawn.column.cut && drawn.width() > CELL_MIN.max(length(drawn.column.name))
            })
            .max_by_key(|drawn| drawn.width());
        let Some(widest) = widest else { break };
        let step = over.min(1 + over / 4);
        let target = widest.width() - step;
        let target = target.max(CELL_MIN).max(length(widest.column.name));
        for cell in &mut widest.cells {
            cell.text = without_middle(&cell.text, target, look.ellipsis());
        }
    }
}

/// The text in so many letters: its begin and its end.
pub(crate) fn without_middle(text: &str, width: usize, ellipsis: &str) -> String {
    let all = length(text);
    if all <= width {
        return text.to_owned();
    }
    let keep = width.saturating_sub(length(ellipsis));
    let head = keep.div_ceil(2);
    let begin: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(all - (keep - head)).collect();
    format!("{begin}{ellipsis}{end}")
}

fn line(
    text: &mut String,
    shown: &[Drawn],
    widths: &[usize],
    cells: impl Iterator<Item = Cell>,
    look: &Look,
) {
    let mut line = String::new();
    for ((cell, width), drawn) in cells.zip(widths).zip(shown) {
        let padding = " ".repeat(width.saturating_sub(length(&cell.text)));
        let painted = look.paint(cell.paint, &cell.text);
        if !line.is_empty() {
            line.push_str("  ");
        }
        if drawn.column.right {
            line += &padding;
            line += &painted;
        } else {
            line += &painted;
            line += &padding;
        }
    }
    *text += line.trim_end();
    text.push('\n');
}

/// How many places a text takes: everything of tenants' is ASCII, and admins' letters are taken for one place each.
pub(crate) fn length(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [
        column("ID", 0, false),
        column("WHO", 2, true),
        column("WHAT", 0, true),
        column("HELD", 1, false),
    ];

    const fn column(name: &'static str, goes: u8, cut: bool) -> Column {
        Column {
            name,
            right: false,
            goes,
            cut,
        }
    }

    fn drawn(width: Option<usize>) -> String {
        let row = |id: &str, who: &str, what: &str, held: &str| {
            [id, who, what, held].map(Cell::new).to_vec()
        };
        let rows = vec![
            row("k3m9q0tz", "shop/web", "SEGV 412 MiB", "372 ms"),
            row("b7x0c2fe", "-", "dns_resolver srv.corp.example", "3.1 ms"),
        ];
        let look = Look {
            width,
            ..Look::given()
        };
        draw(&COLUMNS, &rows, &look)
    }

    #[test]
    fn columns_go_in_their_order_and_then_cells_lose_their_middle() {
        let whole = drawn(None);
        assert_eq!(drawn(Some(58)), whole, "it fits to the letter");
        let widths = [57, 50, 40, 30, 10];
        let all: Vec<String> = widths
            .iter()
            .map(|width| format!("{width}:\n{}", drawn(Some(*width))))
            .collect();
        insta::assert_snapshot!(format!("{whole}{}", all.concat()));
    }

    #[test]
    fn nothing_is_wider_than_it_may_be_while_ids_fit() {
        for width in 18..80 {
            for line in drawn(Some(width)).lines() {
                assert!(length(line) <= width, "{width}: {line}");
                assert!(line.starts_with("ID") || length(line.split(' ').next().unwrap()) == 8);
            }
        }
    }

    #[test]
    fn a_middle_is_left_out_evenly() {
        assert_eq!(without_middle("abcdefgh", 8, "…"), "abcdefgh");
        assert_eq!(without_middle("abcdefgh", 5, "…"), "ab…gh");
        assert_eq!(without_middle("abcdefgh", 4, "…"), "ab…h");
        assert_eq!(without_middle("abcdefgh", 4, ".."), "a..h");
        assert_eq!(without_middle("abcdefgh", 0, "…"), "…");
    }
}

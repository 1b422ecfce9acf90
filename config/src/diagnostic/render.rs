//! Drawing a diagnostic with annotate-snippets.
//!
//! The renderer gets only the lines that are needed, with every unprintable character already written out, so its
//! spans are moved accordingly.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::{Diagnostic, Label, Severity};
use crate::text::{printable, push_printable};

/// Longest stretch of one file in a drawing, in bytes: two places further apart are drawn as two pieces.
const MAX_PIECE: usize = 16 * 1024;

pub(super) fn render(diagnostic: &Diagnostic, colour: bool) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let path = printable(&diagnostic.file.to_string_lossy());
    let title = level
        .primary_title(printable(&diagnostic.message))
        .id(diagnostic.code.as_str());
    let mut group = Group::with_title(title);
    let pieces = pieces(diagnostic);
    if pieces.is_empty() {
        group = group.element(Origin::path(path));
    }
    for piece in pieces {
        let annotations = piece.labels.iter().map(|(kind, span, text)| {
            let annotation = kind.span(span.clone());
            if text.is_empty() {
                annotation
            } else {
                annotation.label(text.clone())
            }
        });
        group = group.element(
            Snippet::source(piece.text)
                .path(piece.path)
                .line_start(piece.first_line)
                .annotations(annotations),
        );
    }
    if let Some(note) = &diagnostic.note {
        group = group.element(Level::NOTE.message(printable(note)));
    }
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(printable(help)));
    }
    let renderer = if colour {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let mut text = renderer.render(&[group]);
    text.push('\n');
    text
}

/// Neighbouring lines of one file, fit to be drawn.
struct Piece {
    path: String,
    first_line: usize,
    text: String,
    labels: Vec<(AnnotationKind, Range<usize>, String)>,
}

fn pieces(diagnostic: &Diagnostic) -> Vec<Piece> {
    let mut groups: Vec<Vec<(AnnotationKind, &Label)>> = Vec::new();
    let primary = diagnostic
        .primary
        .iter()
        .map(|label| (AnnotationKind::Primary, label));
    let secondary = diagnostic
        .secondary
        .iter()
        .map(|label| (AnnotationKind::Context, label));
    for (kind, label) in primary.chain(secondary) {
        match groups
            .iter_mut()
            .find(|group| group.iter().all(|(_, other)| near(label, other)))
        {
            Some(group) => group.push((kind, label)),
            None => groups.push(vec![(kind, label)]),
        }
    }
    groups.iter().filter_map(|group| piece(group)).collect()
}

fn near(a: &Label, b: &Label) -> bool {
    a.source.path == b.source.path
        && a.span.end.max(b.span.end) - a.span.start.min(b.span.start) < MAX_PIECE
}

fn piece(labels: &[(AnnotationKind, &Label)]) -> Option<Piece> {
    let (_, first) = labels.first()?;
    let text = first.source.text();
    let low = labels.iter().map(|(_, label)| label.span.start).min()?;
    let high = labels.iter().map(|(_, label)| label.span.end).max()?;
    let start = text.get(..low)?.rfind('\n').map_or(0, |at| at + 1);
    let end = text
        .get(high..)?
        .find('\n')
        .map_or(text.len(), |at| high + at);
    let (shown, positions) = shown(text.get(start..end)?);
    // Where a byte of the file is in what is shown.
    let moved = |byte: usize| positions.get(byte - start).copied().unwrap_or(shown.len());
    Some(Piece {
        path: printable(&first.source.path().to_string_lossy()),
        first_line: first.source.position(start).0,
        labels: labels
            .iter()
            .map(|(kind, label)| {
                (
                    *kind,
                    moved(label.span.start)..moved(label.span.end),
                    printable(&label.text),
                )
            })
            .collect(),
        text: shown,
    })
}

/// The text without unprintable characters, and for every byte of the text its place in that.
fn shown(text: &str) -> (String, Vec<usize>) {
    let mut out = String::with_capacity(text.len());
    let mut positions = Vec::with_capacity(text.len() + 1);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        positions.extend(std::iter::repeat_n(out.len(), c.len_utf8()));
        match c {
            '\n' | '\t' => out.push(c),
            '\r' if chars.peek().is_none_or(|next| *next == '\n') => {}
            _ => push_printable(&mut out, c),
        }
    }
    positions.push(out.len());
    (out, positions)
}

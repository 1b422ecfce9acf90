//! Prometheus' text exposition format, version 0.0.4.

use std::fmt::Write as _;

use super::{Family, Sample};

/// The text: `# HELP`, `# TYPE` and a line for each number. A family without numbers is left out.
pub fn text(families: &[Family]) -> String {
    let mut text = String::new();
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        let help = family.help.replace('\\', r"\\").replace('\n', r"\n");
        line(&mut text, format_args!("# HELP {} {help}", family.name));
        line(
            &mut text,
            format_args!("# TYPE {} {}", family.name, family.kind),
        );
        for sample in &family.samples {
            let labels = labels(sample);
            line(
                &mut text,
                format_args!("{}{}{labels} {}", family.name, sample.suffix, sample.value),
            );
        }
    }
    text
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}

fn labels(sample: &Sample) -> String {
    if sample.labels.is_empty() {
        return String::new();
    }
    let label = |(name, value): &(String, String)| format!("{name}=\"{}\"", escaped(value));
    let labels: Vec<String> = sample.labels.iter().map(label).collect();
    format!("{{{}}}", labels.join(","))
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', r"\\")
        .replace('"', r#"\""#)
        .replace('\n', r"\n")
}

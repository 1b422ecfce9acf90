//! What the daemon counts, for whoever watches many hosts: families of numbers, and their text in Prometheus'
//! exposition format.
//!
//! Counters begin at zero with the daemon, as is usual there; what must survive it is in the records. Labels are words
//! of ours alone, never a tenant's, so the number of series is bounded. Nothing here runs by itself: numbers are put
//! together when somebody asks, or for a text file that a setting asks for.

mod standing;
mod text;
mod textfile;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::store::record::{Outcome, Record, Timings};

pub use standing::Standing;
pub use text::text;
pub use textfile::{TextfileError, keep_current, write};

/// Upper bounds of the histograms' buckets, in microseconds: the steps take some ten, a helper may take minutes.
const BUCKETS: [u64; 14] = [
    10, 50, 100, 250, 500, 1_000, 2_500, 10_000, 50_000, 100_000, 500_000, 1_000_000, 10_000_000,
    60_000_000,
];

/// Series of one family; everything behind that goes to one whose labels are `other`.
const SERIES_MAX: usize = 512;

/// Numbers of one name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Family {
    /// `upcalld_…`.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is, in one line.
    pub help: String,
    /// The numbers.
    pub samples: Vec<Sample>,
}

/// One number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What the family's name has behind it: `_bucket`, `_sum`, `_count`, or nothing.
    pub suffix: String,
    /// Words that tell it from the others of its family.
    pub labels: Vec<(String, String)>,
    /// The number; seconds, bytes or a count.
    pub value: f64,
}

/// What was counted since the daemon started.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    upcalls: Series<4>,
    reasons: Series<2>,
    unidentified: Series<1>,
    steps: BTreeMap<(String, &'static str), Histogram>,
    posts: Series<1>,
    unwritten: u64,
}

/// Counters by the values of their labels.
#[derive(Debug)]
struct Series<const LABELS: usize>(BTreeMap<[String; LABELS], u64>);

impl<const LABELS: usize> Default for Series<LABELS> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: u64,
}

impl<const LABELS: usize> Series<LABELS> {
    fn add(&mut self, labels: [&str; LABELS], count: u64) {
        let mut labels = labels.map(str::to_owned);
        if self.0.len() >= SERIES_MAX && !self.0.contains_key(&labels) {
            labels = std::array::from_fn(|_| "other".to_owned());
        }
        *self.0.entry(labels).or_default() += count;
    }

    fn samples(&self, names: [&str; LABELS]) -> Vec<Sample> {
        let sample = |(values, count): (&[String; LABELS], &u64)| {
            let values = values.iter().map(String::as_str);
            let labels: Vec<_> = names.into_iter().zip(values).collect();
            sample("", &labels, float(*count))
        };
        self.0.iter().map(sample).collect()
    }
}

impl Histogram {
    fn add(&mut self, micros: u64) {
        // Buckets hold what is at most their bound, so a number is in all from the first that fits.
        for (bound, bucket) in BUCKETS.iter().zip(&mut self.buckets) {
            *bucket += u64::from(micros <= *bound);
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(micros);
    }

    fn samples(&self, kind: &str, step: &str) -> Vec<Sample> {
        let labels = [("kind", kind), ("step", step)];
        let bucket = |(bound, count): (&u64, &u64)| {
            let bound = seconds(*bound).to_string();
            let labels = [("kind", kind), ("step", step), ("le", &bound)];
            sample("_bucket", &labels, float(*count))
        };
        let mut samples: Vec<_> = BUCKETS.iter().zip(&self.buckets).map(bucket).collect();
        let all = [("kind", kind), ("step", step), ("le", "+Inf")];
        samples.push(sample("_bucket", &all, float(self.count)));
        samples.push(sample("_sum", &labels, seconds(self.sum)));
        samples.push(sample("_count", &labels, float(self.count)));
        samples
    }
}

impl Metrics {
    /// Counts a closed record. One that stands for many upcalls counts as many; its times are those of the first.
    pub fn closed(&self, record: &Record) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let runtime = record.container.as_ref();
        let runtime = runtime.map_or("none", |container| &container.runtime);
        let verdict = match record.verdict.actions.join(",") {
            none if none.is_empty() => "none".to_owned(),
            verdict => verdict,
        };
        let outcome = record.outcome.as_str();
        let labels = [&record.kind, verdict.as_str(), outcome, runtime];
        counts.upcalls.add(labels, record.count);
        if let Some(reason) = &record.reason {
            counts.reasons.add([&record.kind, reason], record.count);
        }
        if record.evidence.process.is_none() && record.outcome != Outcome::Missed {
            counts.unidentified.add([&record.kind], record.count);
        }
        for (step, micros) in steps(&record.timings_us) {
            if let Some(micros) = micros {
                let key = (record.kind.clone(), step);
                counts.steps.entry(key).or_default().add(micros);
            }
        }
    }

    /// Counts a record that could not be written.
    pub fn unwritten(&self) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.unwritten += 1;
    }

    /// Counts a program of `post`: `done`, `failed`, or `dropped` because too many waited.
    pub fn posted(&self, outcome: &str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.posts.add([outcome], 1);
    }

    /// All families.
    pub fn families(&self, now: &Standing) -> Vec<Family> {
        let mut all = self.counted();
        all.extend(now.families());
        all
    }

    fn counted(&self) -> Vec<Family> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let steps = counts.steps.iter();
        let steps = steps.flat_map(|((kind, step), histogram)| histogram.samples(kind, step));
        vec![
            family(
                "upcalls_total",
                "counter",
                "Upcalls that are over, by what was to be done, how it ended and the container's runtime (none: no container).",
                counts
                    .upcalls
                    .samples(["kind", "verdict", "outcome", "runtime"]),
            ),
            family(
                "reasons_total",
                "counter",
                "Upcalls that did not simply work, by the reason in their record (upcalld.rules(5)).",
                counts.reasons.samples(["kind", "reason"]),
            ),
            family(
                "unidentified_total",
                "counter",
                "Upcalls of processes that were gone before it could be proven which they were.",
                counts.unidentified.samples(["kind"]),
            ),
            family(
                "records_unwritten_total",
                "counter",
                "Records that could not be written.",
                vec![sample("", &[], float(counts.unwritten))],
            ),
            family(
                "posts_total",
                "counter",
                "Programs of post, by what became of them.",
                counts.posts.samples(["outcome"]),
            ),
            family(
                "step_seconds",
                "histogram",
                "How long the steps of an upcall took; held is how long the kernel waited.",
                steps.collect(),
            ),
        ]
    }
}

/// The steps by the names that records have for them.
fn steps(timings: &Timings) -> [(&'static str, Option<u64>); 9] {
    [
        ("accept", timings.accept),
        ("identify", timings.identify),
        ("resolve", timings.resolve),
        ("decide", timings.decide),
        ("admit", timings.admit),
        ("launch", timings.launch),
        ("actions", timings.actions),
        ("record", timings.record),
        ("held", timings.held),
    ]
}

fn gauge(name: &str, help: &str, value: f64) -> Family {
    family(name, "gauge", help, vec![sample("", &[], value)])
}

fn family(name: &str, kind: &str, help: &str, samples: Vec<Sample>) -> Family {
    Family {
        name: format!("upcalld_{name}"),
        kind: kind.to_owned(),
        help: help.to_owned(),
        samples,
    }
}

fn sample(suffix: &str, labels: &[(&str, &str)], value: f64) -> Sample {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Sample {
        suffix: suffix.to_owned(),
        labels: labels.iter().map(owned).collect(),
        value,
    }
}

fn seconds(micros: u64) -> f64 {
    float(micros) / 1e6
}

#[expect(
    clippy::cast_precision_loss,
    reason = "numbers over 2^53 are not met here, and a metric may be off by one there"
)]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests;

//! What a measure is, whether it holds, and the JSON of a report.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

/// What a measure has to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bar {
    /// The ratio to the ceiling, at least.
    RatioAtLeast(f64),
    /// The ratio to the ceiling, at most.
    RatioAtMost(f64),
    /// The value, at least.
    AtLeast(f64),
    /// The value, at most.
    AtMost(f64),
}

impl fmt::Display for Bar {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bar::RatioAtLeast(bar) => write!(formatter, "ratio >= {bar}"),
            Bar::RatioAtMost(bar) => write!(formatter, "ratio <= {bar}"),
            Bar::AtLeast(bar) => write!(formatter, ">= {bar}"),
            Bar::AtMost(bar) => write!(formatter, "<= {bar}"),
        }
    }
}

/// One row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Measure {
    /// Its name.
    pub name: String,
    /// What was measured; the median over the rounds. Absent where it could not be.
    pub value: Option<f64>,
    /// Of the value and the ceiling.
    pub unit: String,
    /// What the bare loop gave; the median over the rounds.
    pub ceiling: Option<f64>,
    /// Value over ceiling; the median of the rounds' ratios.
    pub ratio: Option<f64>,
    /// Least and greatest of the rounds: of their ratios, or of their values without a ceiling.
    pub spread: Option<[f64; 2]>,
    /// What it has to reach.
    #[serde(serialize_with = "as_text")]
    pub bar: Option<Bar>,
    /// Whether it does. Absent where it could not be measured, or the measuring did not count.
    pub holds: Option<bool>,
    /// Why there is no value, where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What else was seen; printed, and in the report's machine part.
    #[serde(skip)]
    pub notes: Vec<String>,
}

fn as_text<S: serde::Serializer>(bar: &Option<Bar>, serializer: S) -> Result<S::Ok, S::Error> {
    match bar {
        Some(bar) => serializer.collect_str(bar),
        None => serializer.serialize_none(),
    }
}

impl Measure {
    /// A measure that could not be taken, and why.
    pub fn not_taken(name: &str, reason: String) -> Measure {
        Measure {
            name: name.to_owned(),
            value: None,
            unit: String::new(),
            ceiling: None,
            ratio: None,
            spread: None,
            bar: None,
            holds: None,
            reason: Some(reason),
            notes: Vec::new(),
        }
    }

    /// A measure without a ceiling.
    pub fn of_value(name: &str, unit: &str, value: f64, bar: Bar) -> Measure {
        Measure {
            value: Some(value),
            unit: unit.to_owned(),
            ..Measure::not_taken(name, String::new())
        }
        .judged(bar)
    }

    /// A measure of rounds without a ceiling.
    ///
    /// # Panics
    /// If there are no rounds.
    pub fn of_values(name: &str, unit: &str, values: &[f64], bar: Bar) -> Measure {
        let measure = Measure::of_value(name, unit, median(values), bar);
        Measure {
            spread: Some(extremes(values)),
            ..measure
        }
    }

    /// A measure of pairs of worker and ceiling.
    ///
    /// # Panics
    /// If there are no pairs.
    pub fn of_pairs(name: &str, unit: &str, pairs: &[(f64, f64)], bar: Bar) -> Measure {
        if pairs.iter().any(|(_, ceiling)| *ceiling <= 0.0) {
            // CPU time comes in ticks: a part of a few of them may see none.
            return Measure::not_taken(name, "a ceiling of zero; measure for longer".to_owned());
        }
        let values: Vec<f64> = pairs.iter().map(|(value, _)| *value).collect();
        let ceilings: Vec<f64> = pairs.iter().map(|(_, ceiling)| *ceiling).collect();
        let ratios: Vec<f64> = pairs
            .iter()
            .map(|(value, ceiling)| value / ceiling)
            .collect();
        let measure = Measure {
            value: Some(median(&values)),
            unit: unit.to_owned(),
            ceiling: Some(median(&ceilings)),
            ratio: Some(median(&ratios)),
            spread: Some(extremes(&ratios)),
            ..Measure::not_taken(name, String::new())
        };
        measure.judged(bar)
    }

    fn judged(mut self, bar: Bar) -> Measure {
        self.bar = Some(bar);
        self.reason = None;
        self.holds = match bar {
            Bar::RatioAtLeast(bar) => self.ratio.map(|ratio| ratio >= bar),
            Bar::RatioAtMost(bar) => self.ratio.map(|ratio| ratio <= bar),
            Bar::AtLeast(bar) => self.value.map(|value| value >= bar),
            Bar::AtMost(bar) => self.value.map(|value| value <= bar),
        };
        self
    }

    /// Adds a note.
    #[must_use]
    pub fn with_note(mut self, note: impl Into<String>) -> Measure {
        self.notes.push(note.into());
        self
    }

    /// Takes the verdict away, because the measuring did not count, and says why.
    #[must_use]
    pub fn without_verdict(mut self, reason: impl Into<String>) -> Measure {
        self.holds = None;
        self.with_note(reason)
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:<24}", self.name)?;
        if let Some(value) = self.value {
            write!(formatter, " {} {}", figure(value), self.unit)?;
        }
        if let Some(ceiling) = self.ceiling {
            write!(formatter, ", ceiling {}", figure(ceiling))?;
        }
        if let Some(ratio) = self.ratio {
            write!(formatter, ", ratio {ratio:.3}")?;
        }
        if let Some([least, greatest]) = self.spread {
            write!(formatter, " ({} to {})", figure(least), figure(greatest))?;
        }
        if let Some(bar) = self.bar {
            write!(formatter, ", bar {bar}")?;
        }
        let verdict = match self.holds {
            Some(true) => "holds",
            Some(false) => "MISSED",
            None => "no verdict",
        };
        write!(formatter, ": {verdict}")?;
        if let Some(reason) = &self.reason {
            write!(formatter, "\n    not measured: {reason}")?;
        }
        for note in &self.notes {
            write!(formatter, "\n    {note}")?;
        }
        Ok(())
    }
}

/// A number with as many digits as mean something.
fn figure(value: f64) -> String {
    match value.abs() {
        1000.0.. => crate::quantities::grouped(value),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// The middle of `values`; between the two middle ones of an even number.
///
/// # Panics
/// If there are none.
pub fn median(values: &[f64]) -> f64 {
    assert!(!values.is_empty(), "the median of nothing");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    }
}

fn extremes(values: &[f64]) -> [f64; 2] {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    [least, greatest]
}

/// Where and how a report was made.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Machine {
    /// Model of the CPU, as the kernel names it.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// Release of the kernel.
    pub kernel: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Seconds since the Unix epoch at the start.
    pub started_at: u64,
    /// Rounds, seconds, cores, spin, checksum mode, directories and their file systems.
    pub run: BTreeMap<String, Value>,
    /// Notes of each measure.
    pub notes: BTreeMap<String, Vec<String>>,
    /// Affinity of every thread of every process that was loaded, by what the process was.
    pub affinity: BTreeMap<String, Vec<crate::process::ThreadInfo>>,
}

/// What the gate says in the end.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where and how.
    pub machine: Machine,
    /// The table.
    pub measures: Vec<Measure>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_has_the_keys_that_readers_expect() {
        let pairs = [(80.0, 100.0), (90.0, 100.0), (70.0, 100.0)];
        let measure =
            Measure::of_pairs("dram_1m", "1/s", &pairs, Bar::RatioAtLeast(0.75)).with_note("seen");
        let report = Report {
            machine: Machine::default(),
            measures: vec![measure, Measure::not_taken("dram_1m", "why".to_owned())],
        };
        let json = serde_json::to_value(&report).expect("a report is JSON");
        let row = json["measures"][0].as_object().expect("an object");
        let mut keys: Vec<&str> = row.keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(
            keys,
            [
                "bar", "ceiling", "holds", "name", "ratio", "spread", "unit", "value"
            ]
        );
        assert_eq!(row["bar"], "ratio >= 0.75");
        assert_eq!(row["holds"], true);
        assert_eq!(row["spread"], serde_json::json!([0.7, 0.9]));
        assert_eq!(json["measures"][1]["holds"], Value::Null);
        assert_eq!(json["measures"][1]["reason"], "why");
        assert!(json["machine"].is_object());
    }

    #[test]
    fn a_bar_is_met_or_missed_by_what_it_names() {
        let holds = |pairs: &[(f64, f64)], bar| Measure::of_pairs("m", "", pairs, bar).holds;
        assert_eq!(holds(&[(1.2, 1.0)], Bar::RatioAtMost(1.35)), Some(true));
        assert_eq!(holds(&[(1.4, 1.0)], Bar::RatioAtMost(1.35)), Some(false));
        assert_eq!(holds(&[(0.7, 1.0)], Bar::RatioAtLeast(0.75)), Some(false));
        assert_eq!(
            Measure::of_value("m", "", 48.0, Bar::AtMost(48.0)).holds,
            Some(true)
        );
        assert_eq!(
            Measure::of_values("m", "", &[3.0, 1.0, 2.0], Bar::AtLeast(2.5)).holds,
            Some(false)
        );
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}

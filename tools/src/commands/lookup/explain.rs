//! What a look-up took, in the order in which it happened, for somebody who was woken up by it.
//!
//! The invariant: a line is there only if something in it is not zero, and no number is without its
//! unit.

use std::time::Duration;

use corelane_client::lookup::execute::counts::Counts;
use serde::Serialize;

use crate::failure::Failure;
use crate::output::{Output, pairs};
use crate::quantity::{bytes, count, short_time};

/// What it took.
#[derive(Serialize)]
pub(super) struct Explanation {
    #[serde(flatten)]
    counts: Counts,
    rows: u64,
    /// From the request to the whole answer, as seen from here.
    answer_ns: u64,
}

impl Explanation {
    pub(super) fn new(counts: Counts, rows: u64, took: Duration) -> Self {
        Explanation {
            counts,
            rows,
            answer_ns: u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    /// Prints it behind the table, else on standard error: as JSON if errors are.
    pub(super) fn print(&self, output: Output, is_behind_table: bool) -> Result<(), Failure> {
        let text = self.text();
        if is_behind_table {
            return output.line(&format!("\n{}", text.trim_end()));
        }
        if output.is_json() {
            let json = serde_json::to_string(&serde_json::json!({ "explain": self }));
            output.aside(&json.expect("numbers with names"));
        } else {
            output.aside(text.trim_end());
        }
        Ok(())
    }

    fn text(&self) -> String {
        let lines = [
            ("files", self.files()),
            ("row groups", self.row_groups()),
            ("key index", self.key_index()),
            ("pages", self.pages()),
            ("decoded", self.decoded()),
            ("in memory", self.cached()),
            ("read", self.read()),
            ("from", self.sources()),
            ("rows", self.rows()),
            ("time", self.time()),
            ("of it", self.time_of_work()),
        ];
        pairs(
            lines
                .into_iter()
                .filter_map(|(name, line)| Some((name, line?))),
        )
    }

    fn files(&self) -> Option<String> {
        let counts = &self.counts;
        let pruned = [(
            counts.files_pruned_by_partition,
            "pruned by the values in their paths",
        )];
        let parts = with_rest(counts.files, &pruned, "looked into");
        let footers = match counts.footers_read {
            0 => String::new(),
            1 => ", one footer read".to_owned(),
            footers => format!(", {} footers read", count(footers)),
        };
        whole(counts.files, &parts).map(|text| format!("{text}{footers}"))
    }

    fn row_groups(&self) -> Option<String> {
        let counts = &self.counts;
        let pruned = [
            (counts.groups_pruned_by_statistics, "pruned by statistics"),
            (counts.groups_pruned_by_bloom, "pruned by bloom filters"),
            (counts.groups_pruned_by_dictionary, "pruned by dictionaries"),
        ];
        whole(
            counts.groups,
            &with_rest(counts.groups, &pruned, "searched"),
        )
    }

    fn key_index(&self) -> Option<String> {
        let used = self.counts.key_index_used;
        (used > 0).then(|| format!("led to the rows {}", times(used)))
    }

    fn pages(&self) -> Option<String> {
        let counts = &self.counts;
        let pruned = [(counts.pages_pruned, "pruned by their bounds")];
        let parts = with_rest(counts.pages, &pruned, "left");
        whole(counts.pages, &parts).map(|text| format!("{text} (of compared columns)"))
    }

    fn decoded(&self) -> Option<String> {
        let counts = &self.counts;
        let what = listed(&[
            (counts.pages_decoded, "pages"),
            (counts.dictionaries_decoded, "dictionaries"),
        ])?;
        Some(format!("{what}, {}", bytes(counts.bytes_decoded)))
    }

    fn cached(&self) -> Option<String> {
        let what = listed(&[
            (self.counts.pages_cached, "pages"),
            (self.counts.dictionaries_cached, "dictionaries"),
        ])?;
        Some(format!("{what}, decoded before"))
    }

    fn read(&self) -> Option<String> {
        let counts = &self.counts;
        let rounds = match counts.read_rounds {
            0 => String::new(),
            1 => ", in one round of reads".to_owned(),
            rounds => format!(", in {} rounds of reads", count(rounds)),
        };
        (counts.bytes_read + counts.read_rounds > 0).then(|| {
            format!(
                "{} of pages and dictionaries{rounds}",
                bytes(counts.bytes_read)
            )
        })
    }

    fn sources(&self) -> Option<String> {
        let counts = &self.counts;
        let sources = [
            (counts.bytes_from_dram, "DRAM"),
            (counts.bytes_from_device, "device"),
            (counts.bytes_from_under_store, "under-store"),
        ];
        let parts: Vec<String> = sources
            .iter()
            .filter(|(amount, _)| *amount > 0)
            .map(|(amount, source)| format!("{source} {}", bytes(*amount)))
            .collect();
        let total: u64 = sources.iter().map(|(amount, _)| amount).sum();
        let with_metadata = match total > counts.bytes_read {
            true => ", with footers and page indexes",
            false => "",
        };
        (!parts.is_empty()).then(|| format!("{}{with_metadata}", parts.join(", ")))
    }

    fn rows(&self) -> Option<String> {
        let matched = self.counts.rows_matched;
        Some(match matched == self.rows {
            true => format!("{} found", count(matched)),
            false => format!("{} found, {} answered", count(matched), count(self.rows)),
        })
    }

    fn time(&self) -> Option<String> {
        Some(format!(
            "{} from request to answer",
            short_time(self.answer_ns)
        ))
    }

    /// Files are looked into side by side, so their times may add up to more than passed.
    fn time_of_work(&self) -> Option<String> {
        let counts = &self.counts;
        let timed = |steps: &[(u64, &str)]| {
            let parts: Vec<String> = steps
                .iter()
                .filter(|(spent, _)| *spent > 0)
                .map(|(spent, step)| format!("{} {step}", short_time(*spent)))
                .collect();
            (!parts.is_empty()).then(|| parts.join(", "))
        };
        let steps = timed(&[
            (counts.filter_ns, "finding rows"),
            (counts.project_ns, "building columns"),
        ])?;
        let work = timed(&[(counts.read_ns, "reading"), (counts.decode_ns, "decoding")])
            .map_or(String::new(), |work| format!("; in these {work}"));
        let summed = match counts.files - counts.files_pruned_by_partition {
            0 | 1 => "",
            _ => " (sums over files, which run side by side)",
        };
        Some(format!("{steps}{work}{summed}"))
    }
}

/// A count and what became of it: `10: 9 pruned by statistics, 1 searched`.
fn whole(total: u64, parts: &[(u64, &str)]) -> Option<String> {
    let parts = listed(parts);
    match (total, parts) {
        (0, None) => None,
        (total, None) => Some(count(total)),
        (total, Some(parts)) => Some(format!("{}: {parts}", count(total))),
    }
}

/// The parts, and what they leave of the total.
fn with_rest<'n>(total: u64, parts: &[(u64, &'n str)], rest: &'n str) -> Vec<(u64, &'n str)> {
    let counted: u64 = parts.iter().map(|(part, _)| part).sum();
    let mut all = parts.to_vec();
    all.push((total.saturating_sub(counted), rest));
    all
}

/// Those that are not zero; nothing if all are.
fn listed(parts: &[(u64, &str)]) -> Option<String> {
    let parts: Vec<String> = parts
        .iter()
        .filter(|(part, _)| *part > 0)
        .map(|(part, name)| format!("{} {}", count(*part), singular(*part, name)))
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn singular(amount: u64, name: &str) -> &str {
    match (amount, name) {
        (1, "pages") => "page",
        (1, "dictionaries") => "dictionary",
        (_, name) => name,
    }
}

fn times(amount: u64) -> String {
    match amount {
        1 => "once".to_owned(),
        amount => format!("{} times", count(amount)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_is_a_line_and_what_did_not_happen_is_none() {
        let counts = Counts {
            files: 3,
            files_pruned_by_partition: 2,
            footers_read: 1,
            groups: 10,
            groups_pruned_by_statistics: 9,
            pages: 40,
            pages_pruned: 39,
            pages_decoded: 2,
            dictionaries_cached: 1,
            bytes_read: 20_480,
            bytes_from_dram: 4096,
            bytes_from_device: 32_768,
            bytes_decoded: 65_536,
            read_rounds: 2,
            rows_matched: 1,
            read_ns: 90_000,
            decode_ns: 31_000,
            filter_ns: 120_500,
            project_ns: 40_000,
            ..Counts::default()
        };
        let text = Explanation::new(counts, 1, Duration::from_micros(312)).text();
        let expected = "\
files       3: 2 pruned by the values in their paths, 1 looked into, one footer read
row groups  10: 9 pruned by statistics, 1 searched
pages       40: 39 pruned by their bounds, 1 left (of compared columns)
decoded     2 pages, 64.0 KiB
in memory   1 dictionary, decoded before
read        20.0 KiB of pages and dictionaries, in 2 rounds of reads
from        DRAM 4.0 KiB, device 32.0 KiB, with footers and page indexes
rows        1 found
time        312.0 µs from request to answer
of it       120.5 µs finding rows, 40.0 µs building columns; in these 90.0 µs reading, 31.0 µs decoding
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_look_up_that_nothing_was_left_of_says_so_in_few_lines() {
        let counts = Counts {
            files: 2,
            files_pruned_by_partition: 2,
            ..Counts::default()
        };
        let text = Explanation::new(counts, 0, Duration::from_millis(2)).text();
        assert_eq!(
            text,
            "files  2: 2 pruned by the values in their paths\nrows   0 found\ntime   2.0 ms from request to answer\n"
        );
    }
}

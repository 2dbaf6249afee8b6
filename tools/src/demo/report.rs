//! What the demo found: one JSON object, or a short table.

use std::collections::BTreeMap;
use std::time::Duration;

use corelane_client::Sources;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::reading::{Comparison, Speed};
use crate::output::table;
use crate::quantity::{bytes, count, share};

/// Everything that was measured, and all comparisons summed up.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Files in the folder.
    pub files: usize,
    /// Bytes in them.
    pub bytes: u64,
    /// Bytes that came from the worker and were held against the source.
    pub bytes_compared: u64,
    /// Of them, those that differed.
    pub wrong_bytes: u64,
    /// Part of the bytes that did not come from the under-store, by pass.
    pub hit_rates: BTreeMap<&'static str, f64>,
    /// Random 4 KiB reads, many at a time, by where they came from.
    pub reads_per_second: BTreeMap<&'static str, f64>,
    /// Random 4 KiB reads, one at a time, by where they came from.
    pub latency_us: BTreeMap<&'static str, Latency>,
    /// From the start of the killed worker's successor until it served.
    pub restart_seconds: f64,
    /// Of that, reading records from the device.
    pub recovery_seconds: f64,
    /// Blocks on the device when the load began during which the worker was killed.
    pub blocks_before_load: u64,
    /// Blocks on the device just before the kill.
    pub blocks_before_kill: u64,
    /// Blocks that came back.
    pub blocks_after_restart: u64,
    /// For the table.
    #[serde(skip)]
    pub passes: Vec<Pass>,
}

/// Percentiles, microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    p50: u64,
    p99: u64,
    #[serde(rename = "p99.9")]
    p999: u64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Latency {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
        }
    }
}

/// One line of the table.
#[derive(Debug)]
pub struct Pass {
    name: String,
    comparison: Comparison,
    time: Option<Duration>,
    speed: Option<(f64, Latency)>,
}

impl Report {
    /// Adds a pass over all files.
    pub fn add_pass(
        &mut self,
        key: &'static str,
        name: &str,
        comparison: Comparison,
        time: Duration,
    ) {
        self.hit_rates.insert(key, hit_rate(comparison.sources));
        self.add(Pass {
            name: name.to_owned(),
            comparison,
            time: Some(time),
            speed: None,
        });
    }

    /// Adds random reads.
    pub fn add_speed(&mut self, key: &'static str, name: &str, speed: &Speed) {
        let latency = Latency::of(&speed.latency_us);
        self.reads_per_second
            .insert(key, speed.reads_per_second.round());
        self.latency_us.insert(key, latency);
        self.add(Pass {
            name: name.to_owned(),
            comparison: speed.comparison,
            time: None,
            speed: Some((speed.reads_per_second, latency)),
        });
    }

    /// Adds a comparison to the sums, without a line of its own.
    pub fn add_comparison(&mut self, comparison: Comparison) {
        self.bytes_compared += comparison.bytes;
        self.wrong_bytes += comparison.wrong_bytes;
    }

    fn add(&mut self, pass: Pass) {
        self.add_comparison(pass.comparison);
        self.passes.push(pass);
    }

    /// What is wrong, if anything is.
    pub fn fault(&self) -> Option<String> {
        if self.wrong_bytes > 0 {
            return Some(format!("{} bytes were wrong", self.wrong_bytes));
        }
        if self.blocks_after_restart < self.blocks_before_load {
            return Some(format!(
                "{} blocks were on the device before the load began, and only {} came back after the kill",
                self.blocks_before_load, self.blocks_after_restart
            ));
        }
        None
    }

    /// The table.
    pub fn text(&self) -> String {
        let columns = [
            "",
            ">compared",
            ">dram",
            ">device",
            ">fetched",
            ">time",
            ">reads/s",
            ">p50",
            ">p99",
            ">p99.9",
        ];
        let mut text = table(columns, self.passes.iter().map(Pass::row));
        text.push_str(&format!(
            "\nreads/s with {} at a time; p50, p99, p99.9 in microseconds, one at a time\n\
             killed in the middle of a load with {} blocks on the device; {} came back\n\
             restart {:.3} s, of which {:.3} s reading records\n\
             {} files, {} bytes compared, {} wrong\n",
            super::DEPTH,
            count(self.blocks_before_kill),
            count(self.blocks_after_restart),
            self.restart_seconds,
            self.recovery_seconds,
            self.files,
            count(self.bytes_compared),
            count(self.wrong_bytes),
        ));
        text
    }
}

impl Pass {
    fn row(&self) -> [String; 10] {
        let sources = self.comparison.sources;
        let all = sources.total();
        let rate = |speed: &(f64, Latency)| count(speed.0.round() as u64);
        let latency = |of: fn(&Latency) -> u64| {
            self.speed
                .as_ref()
                .map(|(_, latency)| of(latency).to_string())
                .unwrap_or_default()
        };
        [
            self.name.clone(),
            bytes(self.comparison.bytes),
            share(sources.dram, all),
            share(sources.device, all),
            share(sources.under_store, all),
            self.time
                .map(|time| format!("{:.2} s", time.as_secs_f64()))
                .unwrap_or_default(),
            self.speed.as_ref().map(rate).unwrap_or_default(),
            latency(|latency| latency.p50),
            latency(|latency| latency.p99),
            latency(|latency| latency.p999),
        ]
    }
}

fn hit_rate(sources: Sources) -> f64 {
    match sources.total() {
        0 => 0.0,
        total => (sources.dram + sources.device) as f64 / total as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(wrong_bytes: u64) -> Comparison {
        let sources = Sources {
            dram: 60,
            device: 20,
            under_store: 20,
        };
        Comparison {
            bytes: 100,
            wrong_bytes,
            sources,
        }
    }

    #[test]
    fn the_json_has_the_promised_keys() {
        let mut report = Report::default();
        let mut latency_us = Histogram::new(3).expect("a histogram");
        latency_us.record(40).expect("in range");
        let speed = Speed {
            reads_per_second: 10.4,
            latency_us,
            comparison: comparison(0),
        };
        report.add_speed("dram", "DRAM", &speed);
        report.add_pass("warm", "warm", comparison(0), Duration::from_secs(1));
        let json = serde_json::to_value(&report).expect("JSON");
        for key in [
            "files",
            "bytes_compared",
            "wrong_bytes",
            "reads_per_second",
            "latency_us",
            "restart_seconds",
            "blocks_before_kill",
            "blocks_after_restart",
        ] {
            assert!(json.get(key).is_some(), "{key}");
        }
        assert_eq!(json["bytes_compared"], 200);
        assert_eq!(json["latency_us"]["dram"]["p99.9"], 40);
        assert_eq!(json["hit_rates"]["warm"], 0.8);
    }

    #[test]
    fn a_wrong_byte_or_a_lost_block_is_a_fault() {
        let mut report = Report::default();
        report.add_pass("cold", "cold", comparison(0), Duration::ZERO);
        assert_eq!(report.fault(), None);
        report.add_pass("warm", "warm", comparison(1), Duration::ZERO);
        assert!(
            report
                .fault()
                .is_some_and(|fault| fault.contains("1 bytes"))
        );
        let lost = Report {
            blocks_before_load: 2,
            blocks_after_restart: 1,
            ..Report::default()
        };
        assert!(
            lost.fault()
                .is_some_and(|fault| fault.contains("came back"))
        );
    }
}

//! `corelane status`: identity, devices, hit rates and mounts of a running worker.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use clap::Args;
use corelane_client::control::Stats;
use serde::Serialize;

use crate::connection::ControlFlags;
use crate::failure::Failure;
use crate::output::{Output, pairs, table};
use crate::quantity::{bytes, count, duration, share};

/// Shows how a worker is doing.
#[derive(Args, Debug)]
pub struct Status {
    /// Show every counter, summed over the shards
    #[arg(long)]
    counters: bool,
    #[command(flatten)]
    connection: ControlFlags,
}

#[derive(Serialize)]
struct Answer {
    worker_id: String,
    version: String,
    epoch: u64,
    uptime_ms: u64,
    mounts: u32,
    devices: Vec<Device>,
    /// Sums over the shards, by name.
    counters: BTreeMap<String, u64>,
    shards: Vec<Shard>,
}

#[derive(Serialize)]
struct Device {
    path: String,
    uuid: String,
    healthy: bool,
    bytes: u64,
    bytes_used: u64,
    bytes_written: u64,
    regions: u32,
    regions_free: u32,
    /// Why it is not used now; empty while it is.
    reason: String,
}

#[derive(Serialize)]
struct Shard {
    shard: u16,
    counters: BTreeMap<String, u64>,
}

impl Status {
    /// Runs the command.
    pub fn run(self, output: Output) -> Result<(), Failure> {
        let stats = self.connection.connect()?.stats()?;
        output.answer(&Answer::from(stats), |answer| answer.text(self.counters))
    }
}

impl From<Stats> for Answer {
    fn from(stats: Stats) -> Self {
        let mut counters = BTreeMap::new();
        for (name, value) in stats.shards.iter().flat_map(|shard| &shard.counters) {
            let sum: &mut u64 = counters.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*value);
        }
        let device = |device: corelane_client::control::DeviceStats| Device {
            path: device.path,
            uuid: device.uuid,
            healthy: device.healthy,
            bytes: device.bytes,
            bytes_used: device.bytes_used,
            bytes_written: device.bytes_written,
            regions: device.regions,
            regions_free: device.regions_free,
            reason: device.reason,
        };
        let shard = |shard: corelane_client::control::ShardStats| Shard {
            shard: shard.shard,
            counters: shard.counters.into_iter().collect(),
        };
        Answer {
            worker_id: stats.worker_id,
            version: stats.version,
            epoch: stats.epoch,
            uptime_ms: stats.uptime_ms,
            mounts: stats.mounts,
            devices: stats.devices.into_iter().map(device).collect(),
            counters,
            shards: stats.shards.into_iter().map(shard).collect(),
        }
    }
}

impl Answer {
    fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }

    fn text(&self, all_counters: bool) -> String {
        let by_source =
            ["reads_dram", "reads_device", "reads_under_store"].map(|name| self.counter(name));
        let reads = by_source.iter().sum();
        let mut text = pairs([
            ("worker", self.worker_id.clone()),
            ("version", self.version.clone()),
            (
                "up",
                format!(
                    "{} (start number {})",
                    duration(Duration::from_millis(self.uptime_ms)),
                    self.epoch
                ),
            ),
            ("shards", self.shards.len().to_string()),
            ("mounts", self.mounts.to_string()),
            ("reads", count(reads)),
            ("  from DRAM", share(by_source[0], reads)),
            ("  from devices", share(by_source[1], reads)),
            ("  from under-stores", share(by_source[2], reads)),
            ("  failed", count(self.counter("reads_failed"))),
            ("served", bytes(self.counter("bytes_served"))),
            ("fetched", bytes(self.counter("fetched_bytes"))),
        ]);
        text.push('\n');
        let columns = [
            "device", "state", ">size", ">used", ">written", ">regions", ">free",
        ];
        text.push_str(&table(columns, self.devices.iter().map(Device::row)));
        for device in &self.devices {
            if !device.reason.is_empty() {
                let _ = writeln!(text, "{}: {}", device.path, device.reason);
            }
        }
        if all_counters {
            text.push('\n');
            let rows = self
                .counters
                .iter()
                .map(|(name, value)| [name.clone(), count(*value)]);
            text.push_str(&table(["counter", ">value"], rows));
        }
        text
    }
}

impl Device {
    fn row(&self) -> [String; 7] {
        [
            self.path.clone(),
            match (self.healthy, self.reason.is_empty()) {
                (true, true) => "healthy",
                (true, false) => "not answering",
                (false, _) => "taken out",
            }
            .to_owned(),
            bytes(self.bytes),
            bytes(self.bytes_used),
            bytes(self.bytes_written),
            self.regions.to_string(),
            self.regions_free.to_string(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelane_client::control::{DeviceStats, ShardStats};

    fn answer() -> Answer {
        let shard = |shard, reads| ShardStats {
            shard,
            counters: vec![
                ("reads_dram".to_owned(), reads),
                ("reads_device".to_owned(), 1),
            ],
        };
        Answer::from(Stats {
            worker_id: "w1".to_owned(),
            shards: vec![shard(0, 5), shard(1, 1)],
            devices: vec![DeviceStats {
                path: "/dev/x".to_owned(),
                healthy: false,
                reason: "it has not answered for 60 s".to_owned(),
                ..Default::default()
            }],
            ..Stats::default()
        })
    }

    #[test]
    fn counters_are_summed_over_the_shards_and_kept_for_each() {
        let json = serde_json::to_value(answer()).expect("JSON");
        assert_eq!(json["counters"]["reads_dram"], 6);
        assert_eq!(json["shards"][1]["counters"]["reads_dram"], 1);
    }

    #[test]
    fn the_text_shows_hit_rates_and_devices_that_were_taken_out() {
        let text = answer().text(false);
        assert!(text.contains("75.0 %") && text.contains("25.0 %"), "{text}");
        assert!(text.contains("taken out"), "{text}");
        assert!(
            text.contains("/dev/x: it has not answered for 60 s"),
            "{text}"
        );
        assert!(!text.contains("COUNTER") && answer().text(true).contains("COUNTER"));
    }
}

//! Prometheus text, version 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats).

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::shard::counters::ShardCounters;
use crate::shard::request::{DeviceStats, ShardStats};

/// In front of every name.
const PREFIX: &str = "corelane_";

/// One value with its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    name: String,
    labels: Vec<(&'static str, String)>,
    value: f64,
}

impl Sample {
    /// A value of the metric `name`, which is without the prefix and without `_total`.
    pub fn new(name: &str, labels: Vec<(&'static str, String)>, value: f64) -> Self {
        Sample {
            name: name.to_owned(),
            labels,
            value,
        }
    }
}

/// Names that can go down, with what they mean. Every other name is a counter.
const GAUGES: &[(&str, &str)] = &[
    ("worker_info", "Name and version of the worker; always 1."),
    ("worker_epoch", "Starts of the device set so far."),
    (
        "worker_uptime_seconds",
        "Seconds since the worker began to serve.",
    ),
    ("worker_mounts", "Mounts."),
    ("worker_jobs_running", "Load and verify jobs that run."),
    ("control_connections_open", "Open control connections."),
    (
        "control_bytes",
        "Memory of messages, calls and answers of control connections, estimated.",
    ),
    (
        "read_latency_microseconds",
        "Latency of reads by source, from decode to the last byte queued.",
    ),
    ("device_healthy", "Whether the device takes I/O."),
    ("device_bytes", "Size of the device."),
    ("device_used_bytes", "Bytes of cached blocks on the device."),
    ("device_regions", "Regions of the device."),
    ("device_regions_free", "Of them, free."),
    ("lanes_open", "Open lanes."),
    (
        "lookup_bytes_unsent",
        "Bytes of answers to look-ups that lanes have not sent yet.",
    ),
    (
        "credit_bytes",
        "Memory that unanswered requests of lanes and unsent answers of the S3 face pin, at most.",
    ),
    ("s3_connections_open", "Open connections of the S3 face."),
    (
        "s3_writes_uncertain",
        "Writes that their under-store did not confirm and may carry out yet, or mounts of very many.",
    ),
    ("tier_frames", "Frames of the DRAM tier."),
    ("tier_frames_used", "Of them, in use."),
    ("fills_under_way", "Blocks that are being fetched."),
    (
        "questions_under_way",
        "Questions to other shards that wait for an answer.",
    ),
    ("objects_known", "Objects whose metadata is cached."),
    (
        "lookup_decoded_bytes",
        "Memory of decoded pages and dictionaries that look-ups keep.",
    ),
    (
        "lookup_known_bytes",
        "Memory of footers and key indexes that look-ups keep.",
    ),
    (
        "metadata_bytes",
        "Memory of object metadata that is cached, at most.",
    ),
    (
        "loop_poll_ns_longest",
        "Longest single poll of a task, in nanoseconds.",
    ),
    ("regions_free", "Regions of the shard that are free."),
    ("bytes_live", "Bytes of the blocks on the devices."),
    ("bytes_pinned", "Of them, those of pinned objects."),
    (
        "bytes_in_flight",
        "Bytes of blocks that wait to be written.",
    ),
    (
        "object_bytes",
        "Memory of the records of objects on the devices, estimated; beyond the budget of `dram`.",
    ),
    ("objects", "Objects of which there is a record."),
    (
        "tombstones",
        "Objects whose free, or end of a pin, has to be remembered by a device; summed over devices.",
    ),
    ("under_store_in_flight", "Requests in flight."),
    (
        "under_store_latency_p50_microseconds",
        "Median from sending a request to its last byte.",
    ),
    (
        "under_store_latency_p99_microseconds",
        "99th percentile of the same.",
    ),
];

/// Counters beside those of [`ShardCounters`], with what they mean.
const COUNTERS: &[(&str, &str)] = &[
    (
        "control_connections_refused",
        "Control connections refused because too many were open.",
    ),
    (
        "control_connections_cut",
        "Control connections cut off: over a limit, or answers not taken.",
    ),
    ("reads", "Reads by source."),
    (
        "under_store_requests",
        "Requests sent to the mount's under-store, retries included.",
    ),
    ("under_store_bytes", "Bytes received from it."),
    (
        "under_store_bytes_sent",
        "Bytes sent to it in the bodies of writes.",
    ),
    (
        "under_store_bytes_from_writes",
        "Bytes that went from a write into the cache, and were not asked for.",
    ),
    (
        "under_store_headers_dropped",
        "Objects described whose headers are too long to be kept.",
    ),
    (
        "under_store_names_read",
        "Names in directories that were read for listings.",
    ),
    (
        "under_store_names_skipped",
        "Names left out of listings: not UTF-8, not addressable, or not to be looked at.",
    ),
    (
        "under_store_retries",
        "Requests that repeated a failed one.",
    ),
    (
        "under_store_errors",
        "Jobs and listings that ended in an error.",
    ),
    (
        "device_written_bytes",
        "Bytes written to the device since it was formatted.",
    ),
    (
        "tier_evictions",
        "Frames taken out of the DRAM tier to make room.",
    ),
    ("loop_turns", "Turns of the core's loop."),
    ("loop_enters", "System calls to the ring."),
    (
        "loop_sleeps",
        "Times that the core slept because it had nothing to do.",
    ),
    ("loop_completions", "Completions taken from the ring."),
    ("loop_submissions", "Submissions given to the ring."),
    (
        "loop_stalls",
        "Polls of a task that took more than a millisecond.",
    ),
    ("bytes_admitted", "Bytes of blocks taken to be written."),
    (
        "bytes_written_device",
        "Bytes written to the devices: blocks and the records of them.",
    ),
    (
        "bytes_rewritten",
        "Of them, those of blocks that survived a reclaim.",
    ),
    ("bytes_read", "Bytes read from the devices for readers."),
    (
        "blocks_inserted",
        "Blocks that became readable on a device.",
    ),
    (
        "blocks_evicted",
        "Blocks that reclaim let go: not asked for often enough, or no room for them.",
    ),
    ("blocks_survived", "Blocks that reclaim moved."),
    ("blocks_freed", "Blocks let go because somebody said so."),
    (
        "blocks_healed",
        "Blocks dropped because their bytes or records were wrong or unreadable.",
    ),
    ("corrupt_pages", "Pages that did not match their checksum."),
    (
        "corrupt_summaries",
        "Summaries, footers and first pages of regions that did not check where they should have.",
    ),
    (
        "regions_damaged",
        "Regions of which nothing could be read at the start: what was cached there is lost.",
    ),
    (
        "corrupt_copies",
        "Copies of superblocks and slots of state that did not check.",
    ),
    ("device_errors", "Operations that a device failed."),
    ("devices_failed", "Devices taken out."),
    (
        "device_timeouts",
        "Operations that a device did not answer in time.",
    ),
    (
        "device_stalls",
        "Times that a device stopped answering; its share is served from the under-store meanwhile.",
    ),
    ("not_kept_busy", "Blocks not kept: too much waited."),
    ("not_kept_no_room", "Blocks not kept: no region."),
    (
        "not_kept_index_full",
        "Blocks not kept: the index was full.",
    ),
    ("flushes", "Extents written."),
    ("regions_reclaimed", "Regions reclaimed."),
    (
        "bytes_scrubbed",
        "Bytes that the scrubber read and found right.",
    ),
    (
        "scrub_rounds",
        "Times that the scrubber went over everything.",
    ),
];

/// The samples of shard `shard`.
pub fn of_shard(shard: usize, stats: &ShardStats) -> Vec<Sample> {
    let shard = shard.to_string();
    let mut samples: Vec<Sample> = stats
        .values
        .iter()
        .map(|(name, value)| Sample::new(name, vec![("shard", shard.clone())], *value as f64))
        .collect();
    for (source, [p50, p99, p999, count]) in &stats.latencies {
        let labels = |quantile: &str| {
            vec![
                ("shard", shard.clone()),
                ("source", (*source).to_owned()),
                ("quantile", quantile.to_owned()),
            ]
        };
        for (quantile, value) in [("0.5", p50), ("0.99", p99), ("0.999", p999)] {
            samples.push(Sample::new(
                "read_latency_microseconds",
                labels(quantile),
                *value as f64,
            ));
        }
        let labels = vec![("shard", shard.clone()), ("source", (*source).to_owned())];
        samples.push(Sample::new("reads", labels, *count as f64));
    }
    samples
}

/// The samples of a device.
pub fn of_device(device: &DeviceStats) -> Vec<Sample> {
    let values = [
        ("device_healthy", u64::from(device.healthy)),
        ("device_bytes", device.bytes),
        ("device_used_bytes", device.bytes_used),
        ("device_written_bytes", device.bytes_written),
        ("device_regions", u64::from(device.regions)),
        ("device_regions_free", u64::from(device.regions_free)),
    ];
    let labels = vec![
        ("device", device.path.clone()),
        ("uuid", device.uuid.clone()),
    ];
    values
        .map(|(name, value)| Sample::new(name, labels.clone(), value as f64))
        .into()
}

/// What a metric means; `None` for a name that no table has.
fn help(name: &str) -> Option<&'static str> {
    [GAUGES, COUNTERS, ShardCounters::help()]
        .into_iter()
        .flatten()
        .find(|(known, _)| *known == name)
        .map(|(_, help)| help.trim())
}

fn is_gauge(name: &str) -> bool {
    GAUGES.iter().any(|(gauge, _)| *gauge == name)
}

/// The text of all samples, those of one metric together, each metric with its help and type.
pub fn exposition(samples: &[Sample]) -> String {
    let mut order: Vec<&str> = Vec::new();
    let mut groups: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        let group = groups.entry(&sample.name).or_insert_with(|| {
            order.push(&sample.name);
            Vec::new()
        });
        group.push(sample);
    }
    let mut text = String::new();
    for name in order {
        write_group(&mut text, name, &groups[name]);
    }
    text
}

fn write_group(text: &mut String, name: &str, samples: &[&Sample]) {
    let is_gauge = is_gauge(name);
    // Counters end in _total by convention; what is named so already is not named twice.
    let suffix = if is_gauge || name.ends_with("_total") {
        ""
    } else {
        "_total"
    };
    let kind = if is_gauge { "gauge" } else { "counter" };
    if let Some(help) = help(name) {
        let help = escaped(help, false);
        let _ = writeln!(text, "# HELP {PREFIX}{name}{suffix} {help}");
    }
    let _ = writeln!(text, "# TYPE {PREFIX}{name}{suffix} {kind}");
    for sample in samples {
        let labels: Vec<String> = sample
            .labels
            .iter()
            .map(|(key, value)| format!("{key}=\"{}\"", escaped(value, true)))
            .collect();
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(","))
        };
        let _ = writeln!(text, "{PREFIX}{name}{suffix}{labels} {}", sample.value);
    }
}

fn escaped(text: &str, in_label: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if in_label {
        text.replace('"', "\\\"")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreCounters;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let stats = ShardStats {
            values: vec![("reads_dram", 7), ("lanes_open", 2)],
            latencies: vec![("dram", [1, 2, 3, 7])],
        };
        let mut samples = of_shard(0, &stats);
        samples.extend(of_shard(1, &stats));
        let text = exposition(&samples);
        let expected = "\
# HELP corelane_reads_dram_total Reads answered from the DRAM tier.
# TYPE corelane_reads_dram_total counter
corelane_reads_dram_total{shard=\"0\"} 7
corelane_reads_dram_total{shard=\"1\"} 7
# HELP corelane_lanes_open Open lanes.
# TYPE corelane_lanes_open gauge
corelane_lanes_open{shard=\"0\"} 2
";
        assert!(text.starts_with(expected), "{text}");
        let latency =
            "corelane_read_latency_microseconds{shard=\"1\",source=\"dram\",quantile=\"0.99\"} 2\n";
        assert!(text.contains(latency), "{text}");
        assert_eq!(
            text.matches("# TYPE corelane_reads_total counter").count(),
            1
        );
    }

    #[test]
    fn labels_cannot_break_out_of_their_quotes() {
        let sample = Sample::new("x", vec![("mount", "a\"} 1\nb\\".to_owned())], 1.0);
        let text = exposition(&[sample]);
        assert!(
            text.contains(r#"corelane_x_total{mount="a\"} 1\nb\\"} 1"#),
            "{text}"
        );
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn every_value_of_a_shard_is_explained_once_and_what_can_go_down_is_a_gauge() {
        let store = StoreCounters::default();
        let mut names: Vec<&str> = [ShardCounters::default().values(), store.values()]
            .concat()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        for name in &names {
            let tables = [GAUGES, COUNTERS, ShardCounters::help()];
            let explained = tables
                .iter()
                .flat_map(|table| table.iter())
                .filter(|(known, _)| known == name);
            assert_eq!(explained.count(), 1, "{name}");
        }
        names.retain(|name| is_gauge(name));
        let gauges = [
            "regions_free",
            "bytes_live",
            "bytes_pinned",
            "bytes_in_flight",
            "object_bytes",
            "objects",
            "tombstones",
        ];
        assert_eq!(names, gauges);
        for name in gauges {
            let text = exposition(&[Sample::new(name, Vec::new(), 1.0)]);
            assert!(
                text.contains(&format!("# TYPE corelane_{name} gauge")),
                "{text}"
            );
            assert!(text.ends_with(&format!("corelane_{name} 1\n")), "{text}");
        }
    }

    #[test]
    fn large_counters_keep_their_last_digit() {
        let text = exposition(&[Sample::new("x", Vec::new(), (1u64 << 53) as f64)]);
        assert!(
            text.ends_with("corelane_x_total 9007199254740992\n"),
            "{text}"
        );
    }
}

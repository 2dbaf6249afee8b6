//! One measured load.

use serde::{Deserialize, Serialize};

use super::Latencies;
use crate::load::{LoadResult, LoadSpec, Verify};

/// When requests leave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Arrivals {
    /// When an earlier one was answered: `connections * depth` are always under way. Latencies
    /// are service times.
    Closed,
    /// Evenly spaced.
    Constant {
        /// Operations a second, of all generators together.
        per_second: f64,
    },
    /// With exponentially distributed gaps, as many independent callers give.
    Poisson {
        /// Operations a second, of all generators together.
        per_second: f64,
    },
}

impl Arrivals {
    /// The offered rate; none in a closed loop.
    pub fn per_second(&self) -> Option<f64> {
        match self {
            Arrivals::Closed => None,
            Arrivals::Constant { per_second } | Arrivals::Poisson { per_second } => {
                Some(*per_second)
            }
        }
    }
}

/// One load on one target, measured over one stretch of time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point {
    /// What was loaded, for people: `corelane`, `redis`, `network ceiling`, `2 workers`.
    pub label: String,
    /// The kind of target: `data-plane`, `http`, `redis`, `file`.
    pub target: String,
    /// Name of the workload.
    pub workload: String,
    /// The workload's file as it was read, every default filled in.
    pub workload_toml: String,
    /// When requests left.
    pub arrivals: Arrivals,
    /// Connections.
    pub connections: u32,
    /// Reads in flight on each at the most.
    pub depth: u32,
    /// Generator threads.
    pub generators: u32,
    /// CPUs that they were pinned to, where they were.
    pub generator_cores: Vec<usize>,
    /// Seed of keys and arrivals.
    pub seed: u64,
    /// The measured stretch.
    pub seconds: f64,
    /// Operations that ended in it.
    pub operations: u64,
    /// Operations a second.
    pub rate: f64,
    /// Reads that ended in it: an operation is one or more of them.
    pub reads: u64,
    /// Payload bytes of those.
    pub bytes: u64,
    /// Reads that were answered with an error.
    pub errors: u64,
    /// The first error's text.
    pub first_error: Option<String>,
    /// Which payloads were compared with what they should be.
    pub verify: Verify,
    /// How many were.
    pub verified: u64,
    /// Of them, those that were wrong.
    pub wrong: u64,
    /// Reads by source (DRAM, device, under-store), where the target says so.
    pub by_source: [u64; 3],
    /// From the intended arrival to the end of the operation; in a closed loop the intended
    /// arrival is the moment of the send.
    pub latency: Latencies,
    /// From the send of the first request to the end of the operation: what a harness that omits
    /// the wait would show.
    pub service: Latencies,
    /// From the intended arrival to the send: the wait for room on the connections, and how late the
    /// generator itself was. Empty in a closed loop.
    #[serde(default)]
    pub sent_late: Latencies,
    /// How long the generators polled: before they slept in a closed loop, before the next operation
    /// was due in an open one; in microseconds. Older runs do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator_spin_us: Option<f64>,
    /// Operations that were due in the stretch and had not ended when it was given up waiting for
    /// them. They are in [`Point::latency`] with the time that they had waited.
    pub unfinished: u64,
    /// Whether the backlog passed its bound and the stretch was ended early.
    pub is_overrun: bool,
    /// CPU of the generators, in percent of one core, the greatest: near 100 they were the limit
    /// unless they spin.
    pub generator_busy_percent: f64,
    /// Time that the hypervisor took from the machine, in percent.
    pub steal_percent: f64,
    /// What the server used, where its process is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerCost>,
    /// The bare loop that bounds this load, measured in the same run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<Ceiling>,
}

impl Point {
    /// Whether the offered rate was kept: nothing in a closed loop, else whether the stretch was
    /// not overrun and at least 99 % of the offered operations ended in it.
    pub fn keeps_offered_rate(&self) -> Option<bool> {
        let offered = self.arrivals.per_second()?;
        Some(!self.is_overrun && self.unfinished == 0 && self.rate >= 0.99 * offered)
    }
}

/// What a server's process used while it was loaded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerCost {
    /// CPU of all its threads, in microseconds an operation.
    pub cpu_us_per_operation: f64,
    /// Of that, in user mode.
    pub cpu_user_us_per_operation: f64,
    /// Context switches of all its threads, an operation: voluntary (it slept).
    pub voluntary_switches_per_operation: f64,
    /// The same, involuntary (it was put off the CPU).
    pub involuntary_switches_per_operation: f64,
    /// System calls that entered its rings, an operation, where the server counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring_enters_per_operation: Option<f64>,
    /// Bytes that its code copied for each byte served, where the server counts them; the kernel's
    /// own copies are not in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_copied_per_byte: Option<f64>,
    /// Load of the server's cores, in percent of one core each, interrupts included.
    pub busy_percent: f64,
    /// Resident memory at the end, in bytes.
    pub resident_bytes: u64,
}

/// A bare loop beside a point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// Which: `network`, `device`, `joined`.
    pub name: String,
    /// Its operations a second under the same load (closed loop).
    pub rate: f64,
    /// Its server's CPU, in microseconds an operation.
    pub cpu_us_per_operation: f64,
    /// The point's rate over the ceiling's.
    pub ratio: f64,
}

impl Point {
    /// What `result` of `spec` says, called `label`; without what is known of the server.
    pub fn of(label: &str, spec: &LoadSpec, result: &LoadResult) -> Point {
        let latency = Latencies::of(&result.latency_ns);
        let service = match spec.arrivals {
            Arrivals::Closed => latency.clone(),
            _ => Latencies::of(&result.service_ns),
        };
        let seconds = result.elapsed.as_secs_f64();
        Point {
            label: label.to_owned(),
            target: spec.target.kind().to_owned(),
            workload: spec.workload.name.clone(),
            workload_toml: spec.workload.to_toml(),
            arrivals: spec.arrivals,
            connections: spec.connections,
            depth: spec.depth,
            generators: spec.cores.len().max(1) as u32,
            generator_cores: spec.cores.clone(),
            seed: spec.seed,
            seconds,
            operations: result.operations,
            rate: result.rate(),
            reads: result.reads,
            bytes: result.bytes,
            errors: result.errors,
            first_error: result.first_error.clone(),
            verify: spec.verify,
            verified: result.verified,
            wrong: result.wrong,
            by_source: result.by_source,
            latency,
            service,
            sent_late: match spec.arrivals {
                Arrivals::Closed => Latencies::default(),
                _ => Latencies::of(&result.sent_late_ns),
            },
            generator_spin_us: Some(spec.spin.as_secs_f64() * 1e6),
            unfinished: result.unfinished,
            is_overrun: result.is_overrun,
            generator_busy_percent: 100.0 * result.generator_cpu.as_secs_f64() / seconds.max(1e-9),
            steal_percent: 0.0,
            server: None,
            ceiling: None,
        }
    }
}

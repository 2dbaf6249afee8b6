//! The load generator: closed and open loops over any target, the same for workers, peers and
//! ceilings.
//!
//! | module | holds |
//! |---|---|
//! | [`arrivals`] | when operations are due |
//! | [`operations`] | which are due, under way, waiting, and what they took |
//! | [`crew`] | several generators at once, started together, results merged |
//! | [`interrupt`] | Ctrl-C ends a measurement early |
//!
//! Closed means: each of `connections * depth` operations is sent when the one before it was
//! answered, so a stall delays the requests behind it instead of showing in their latency. The
//! figures that come out are rates and service times. Open means: operations are due by a schedule
//! that does not wait for answers, and latencies count from the instant when they were due.

pub mod arrivals;
pub mod crew;
pub mod interrupt;
pub mod operations;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::target::{Answer, Target};
use crate::workload::Workload;
pub use arrivals::Arrivals;

/// Largest latency that is told apart from longer ones: a minute, in nanoseconds.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// In open loops a generator polls so long before an operation is due: timers of virtual machines
/// are late by less.
pub const OPEN_SPIN: Duration = Duration::from_micros(200);

/// A histogram of nanoseconds, three digits, fixed size.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are valid")
}

/// Which answers' payloads are compared with what they should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// None; the heads' own checksums are compared always.
    None,
    /// One in 64.
    #[default]
    Sample,
    /// All.
    All,
}

/// What to ask of whom, and when.
#[derive(Clone)]
pub struct LoadSpec {
    /// Whom.
    pub target: Arc<dyn Target>,
    /// What is read.
    pub workload: Workload,
    /// Objects to read instead of the workload's own; none for those.
    pub paths: Vec<String>,
    /// When.
    pub arrivals: Arrivals,
    /// Connections, dealt over generators and shards in turn.
    pub connections: u32,
    /// Reads in flight on each, at the most.
    pub depth: u32,
    /// Which answers are checked.
    pub verify: Verify,
    /// Time before the measured part.
    pub warm_up: Duration,
    /// The measured part.
    pub measured: Duration,
    /// Closed loop: how long a generator polls before it sleeps. Open loop: how long before the
    /// next operation is due it polls instead of sleeping.
    pub spin: Duration,
    /// Where the generators run, one each; with none, one runs where the system likes.
    pub cores: Vec<usize>,
    /// Seed of operations and arrivals.
    pub seed: u64,
}

impl fmt::Debug for LoadSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("LoadSpec")
            .field("target", &self.target.kind())
            .field("workload", &self.workload.name)
            .field("arrivals", &self.arrivals)
            .finish_non_exhaustive()
    }
}

/// What came back in the measured part.
#[derive(Clone, Debug)]
pub struct LoadResult {
    /// Operations that ended.
    pub operations: u64,
    /// Reads that ended: one or more an operation.
    pub reads: u64,
    /// Payload bytes of them.
    pub bytes: u64,
    /// Reads answered with an error.
    pub errors: u64,
    /// The first error's text.
    pub first_error: Option<String>,
    /// Answers whose payload was compared with what it should be.
    pub verified: u64,
    /// Of them, those that were not.
    pub wrong: u64,
    /// Answers by source, where the target tells: DRAM, device, under-store.
    pub by_source: [u64; 3],
    /// Operations that were due and had not ended when the wait for them was given up.
    pub unfinished: u64,
    /// Whether more was due than the server took, so that the stretch was ended early.
    pub is_overrun: bool,
    /// Whether the stretch was ended early by Ctrl-C.
    pub is_partial: bool,
    /// The measured part, as it was.
    pub elapsed: Duration,
    /// CPU of the busiest generator thread meanwhile: near the elapsed time it was the limit,
    /// unless it polls.
    pub generator_cpu: Duration,
    /// Nanoseconds from the intended arrival (in a closed loop: the send) to the last byte.
    pub latency_ns: Histogram<u64>,
    /// Nanoseconds from the send of an operation's first request to its last byte; empty in a
    /// closed loop, where it is the same.
    pub service_ns: Histogram<u64>,
    /// Nanoseconds from the intended arrival to the send of an operation's first request: what waited
    /// for room on the connections, and the generator's own lateness. Empty in a closed loop.
    pub sent_late_ns: Histogram<u64>,
}

impl LoadResult {
    /// Nothing yet.
    pub fn new() -> LoadResult {
        LoadResult {
            operations: 0,
            reads: 0,
            bytes: 0,
            errors: 0,
            first_error: None,
            verified: 0,
            wrong: 0,
            by_source: [0; 3],
            unfinished: 0,
            is_overrun: false,
            is_partial: false,
            elapsed: Duration::ZERO,
            generator_cpu: Duration::ZERO,
            latency_ns: new_histogram(),
            service_ns: new_histogram(),
            sent_late_ns: new_histogram(),
        }
    }

    #[inline]
    pub(crate) fn count_read(&mut self, answer: &Answer) {
        if answer.is_error {
            self.errors += 1;
            return;
        }
        self.reads += 1;
        self.bytes += u64::from(answer.payload_bytes);
        self.verified += u64::from(answer.is_checked);
        if let Some(count) = answer
            .source
            .and_then(|source| self.by_source.get_mut(usize::from(source)))
        {
            *count += 1;
        }
    }

    #[inline]
    pub(crate) fn count_latency(&mut self, intended: Instant, now: Instant) {
        let taken = now.saturating_duration_since(intended);
        self.latency_ns.saturating_record(taken.as_nanos() as u64);
    }

    #[inline]
    pub(crate) fn count_service(&mut self, sent: Instant, now: Instant) {
        let taken = now.saturating_duration_since(sent);
        self.service_ns.saturating_record(taken.as_nanos() as u64);
    }

    #[inline]
    pub(crate) fn count_sent(&mut self, intended: Instant, sent: Instant) {
        let late = sent.saturating_duration_since(intended);
        self.sent_late_ns.saturating_record(late.as_nanos() as u64);
    }

    /// Operations a second.
    pub fn rate(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Microseconds at `quantile` (0.5 is the median).
    pub fn latency_us(&self, quantile: f64) -> f64 {
        self.latency_ns.value_at_quantile(quantile) as f64 / 1e3
    }

    /// Adds what another generator measured in the same time.
    pub fn merge(&mut self, other: &LoadResult) {
        self.operations += other.operations;
        self.reads += other.reads;
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.first_error = self
            .first_error
            .take()
            .or_else(|| other.first_error.clone());
        self.verified += other.verified;
        self.wrong += other.wrong;
        self.unfinished += other.unfinished;
        self.is_overrun |= other.is_overrun;
        self.is_partial |= other.is_partial;
        for (mine, theirs) in self.by_source.iter_mut().zip(other.by_source) {
            *mine += theirs;
        }
        self.elapsed = self.elapsed.max(other.elapsed);
        self.generator_cpu = self.generator_cpu.max(other.generator_cpu);
        for (mine, theirs) in [
            (&mut self.latency_ns, &other.latency_ns),
            (&mut self.service_ns, &other.service_ns),
            (&mut self.sent_late_ns, &other.sent_late_ns),
        ] {
            mine.add(theirs)
                .expect("all histograms have the same bounds");
        }
    }
}

impl Default for LoadResult {
    fn default() -> Self {
        LoadResult::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_results_have_the_quantiles_of_all_samples() {
        let mut fast = LoadResult::new();
        let mut slow = LoadResult::new();
        for sample in 1..=1000 {
            fast.latency_ns.saturating_record(sample * 1_000);
            slow.latency_ns.saturating_record(sample * 1_000_000);
        }
        (fast.operations, slow.operations) = (1000, 1000);
        (fast.elapsed, slow.elapsed) = (Duration::from_secs(2), Duration::from_secs(1));
        fast.merge(&slow);
        assert_eq!(fast.operations, 2000);
        assert_eq!(fast.rate(), 1000.0);
        assert!(
            (fast.latency_us(0.5) / 1_000.0 - 1.0).abs() < 0.01,
            "{}",
            fast.latency_us(0.5)
        );
        assert!((fast.latency_us(1.0) / 1_000_000.0 - 1.0).abs() < 0.01);
    }
}

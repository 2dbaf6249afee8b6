//! The load generator: a closed loop over lanes, the same for a worker and for the ceilings.
//!
//! | module | holds |
//! |---|---|
//! | [`generator`] | the loop: one thread, one bare ring, all lanes |
//! | [`keys`] | what is read: objects, offsets, uniform or zipf |
//! | [`zipf`] | the sampler |
//! | [`greeting`] | hello and open, before the clock runs |
//! | `lane` | one connection: requests out, answers in, checked as told |
//!
//! Closed means: each of `connections * depth` requests is sent when the one before it was
//! answered, so a stall delays the requests behind it instead of showing in their latency. The
//! figures that come out are rates and service times, not what an open system would see.

pub mod generator;
pub mod greeting;
pub mod keys;
mod lane;
pub mod zipf;

use std::net::SocketAddr;
use std::time::Duration;

use clap::ValueEnum;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

pub use keys::Distribution;

/// Largest latency that is told apart from longer ones: a minute, in nanoseconds.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// A histogram of nanoseconds, three digits, fixed size.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are valid")
}

/// Which answers' payloads are compared with their checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// None; the heads' own checksums are compared always.
    None,
    /// One in [`SAMPLE_ONE_IN`].
    #[default]
    Sample,
    /// All.
    All,
}

/// Answers to one that is checked under [`Verify::Sample`].
pub const SAMPLE_ONE_IN: u32 = 64;

/// What to ask of a server.
#[derive(Clone, Debug)]
pub struct LoadSpec {
    /// Any shard's data port.
    pub address: SocketAddr,
    /// Sent with hello.
    pub token: String,
    /// Objects to read.
    pub paths: Vec<String>,
    /// Lanes, dealt over the shards in turn.
    pub connections: u32,
    /// Requests in flight on each.
    pub depth: u32,
    /// Bytes a request.
    pub read_bytes: u32,
    /// Which offsets.
    pub distribution: Distribution,
    /// Which answers are checked.
    pub verify: Verify,
    /// Time before the measured part.
    pub warm_up: Duration,
    /// The measured part.
    pub measured: Duration,
    /// How long the generator polls before it sleeps.
    pub spin: Duration,
    /// Where the generator runs; `None` leaves it to the system.
    pub core: Option<usize>,
    /// Seed of the offsets.
    pub seed: u64,
}

/// What came back in the measured part.
#[derive(Clone, Debug)]
pub struct LoadResult {
    /// Reads answered.
    pub operations: u64,
    /// Payload bytes of them.
    pub bytes: u64,
    /// Reads answered with an error.
    pub errors: u64,
    /// The first error's text.
    pub first_error: Option<String>,
    /// Answers whose payload was compared with its checksums.
    pub verified: u64,
    /// Of them, those that did not match.
    pub wrong: u64,
    /// Answers by source: DRAM, device, under-store.
    pub by_source: [u64; 3],
    /// The measured part, as it was.
    pub elapsed: Duration,
    /// CPU of the generator's threads meanwhile: near the elapsed time, they were the limit.
    pub generator_cpu: Duration,
    /// Nanoseconds from the request's send to its answer's last byte.
    pub latency_ns: Histogram<u64>,
}

impl LoadResult {
    /// Nothing yet.
    pub fn new() -> LoadResult {
        LoadResult {
            operations: 0,
            bytes: 0,
            errors: 0,
            first_error: None,
            verified: 0,
            wrong: 0,
            by_source: [0; 3],
            elapsed: Duration::ZERO,
            generator_cpu: Duration::ZERO,
            latency_ns: new_histogram(),
        }
    }

    /// Reads a second.
    pub fn rate(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }

    /// Microseconds at `quantile` (0.5 is the median).
    pub fn latency_us(&self, quantile: f64) -> f64 {
        self.latency_ns.value_at_quantile(quantile) as f64 / 1e3
    }

    /// Adds what another generator measured in the same time.
    pub fn merge(&mut self, other: &LoadResult) {
        self.operations += other.operations;
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.first_error = self
            .first_error
            .take()
            .or_else(|| other.first_error.clone());
        self.verified += other.verified;
        self.wrong += other.wrong;
        for (mine, theirs) in self.by_source.iter_mut().zip(other.by_source) {
            *mine += theirs;
        }
        self.elapsed = self.elapsed.max(other.elapsed);
        self.generator_cpu += other.generator_cpu;
        self.latency_ns
            .add(&other.latency_ns)
            .expect("all histograms have the same bounds");
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

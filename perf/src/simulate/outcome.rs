//! What a simulation counts.

use hdrhistogram::Histogram;

use crate::load::new_histogram;
use crate::run::answers::{Figures, TimelineStep};

/// Latencies and failures of operations that arrived in a stretch of time.
#[derive(Clone, Debug)]
pub struct Stretch {
    latency_ns: Histogram<u64>,
    failures: u64,
    nanoseconds: u64,
}

impl Stretch {
    fn new(nanoseconds: u64) -> Stretch {
        Stretch {
            latency_ns: new_histogram(),
            failures: 0,
            nanoseconds,
        }
    }

    /// Rate of answered operations, and their latencies.
    pub fn figures(&self) -> Figures {
        let us = |quantile| self.latency_ns.value_at_quantile(quantile) as f64 / 1e3;
        Figures {
            rate: self.latency_ns.len() as f64 / (self.nanoseconds as f64 / 1e9),
            p50_us: us(0.5),
            p99_us: us(0.99),
            p999_us: us(0.999),
        }
    }

    /// Mean latency, in nanoseconds.
    pub fn mean_ns(&self) -> f64 {
        self.latency_ns.mean()
    }

    /// Operations that failed for good.
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// Operations that were answered.
    pub fn answered(&self) -> u64 {
        self.latency_ns.len()
    }
}

/// What a simulation gave.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Over the measured stretch: operations that were due in it.
    pub all: Stretch,
    slices: Vec<Stretch>,
    begin_ns: u64,
    slice_ns: u64,
    /// Operations that were due in all, those of the warm-up included.
    pub operations: u64,
    /// Requests that were sent again.
    pub retries: u64,
    /// Requests that were sent to a second replica.
    pub hedges: u64,
    /// Of them, those whose answer came first.
    pub hedges_won: u64,
    /// Reads that went to the under-store, or waited for one that did.
    pub misses: u64,
    /// Requests that arrived at each worker.
    pub requests: Vec<u64>,
    /// Turns of all workers.
    pub turns: u64,
    /// Time that all CPUs were busy.
    pub busy_ns: u64,
}

impl Outcome {
    /// Nothing yet: what is due from `begin_ns` on for `length_ns` will count, in `slices` slices.
    pub fn new(begin_ns: u64, length_ns: u64, slices: usize) -> Outcome {
        let slice_ns = (length_ns / slices.max(1) as u64).max(1);
        Outcome {
            all: Stretch::new(length_ns),
            slices: (0..slices).map(|_| Stretch::new(slice_ns)).collect(),
            begin_ns,
            slice_ns,
            operations: 0,
            retries: 0,
            hedges: 0,
            hedges_won: 0,
            misses: 0,
            requests: Vec::new(),
            turns: 0,
            busy_ns: 0,
        }
    }

    /// An operation that was due at `due_ns` was answered at `now_ns`.
    pub fn answered(&mut self, due_ns: u64, now_ns: u64) {
        let latency = now_ns - due_ns;
        self.stretches(due_ns, |stretch| {
            stretch.latency_ns.saturating_record(latency)
        });
    }

    /// An operation that was due at `due_ns` failed for good.
    pub fn failed(&mut self, due_ns: u64) {
        self.stretches(due_ns, |stretch| stretch.failures += 1);
    }

    fn stretches(&mut self, due_ns: u64, mut note: impl FnMut(&mut Stretch)) {
        let Some(since) = due_ns.checked_sub(self.begin_ns) else {
            return;
        };
        note(&mut self.all);
        // What does not fill a slice at the end belongs to the last one.
        let last = self.slices.len().wrapping_sub(1);
        if let Some(slice) = self
            .slices
            .get_mut(((since / self.slice_ns) as usize).min(last))
        {
            note(slice);
        }
    }

    /// The slices.
    pub fn timeline(&self) -> Vec<TimelineStep> {
        let step = |(number, slice): (usize, &Stretch)| TimelineStep {
            at_ms: number as f64 * self.slice_ns as f64 / 1e6,
            figures: slice.figures(),
            failures: slice.failures,
        };
        self.slices.iter().enumerate().map(step).collect()
    }

    /// The busiest worker's requests over the mean of those that had any.
    pub fn busiest_over_mean(&self) -> f64 {
        let active: Vec<u64> = self
            .requests
            .iter()
            .copied()
            .filter(|count| *count > 0)
            .collect();
        let most = active.iter().copied().max().unwrap_or(0) as f64;
        let mean = active.iter().sum::<u64>() as f64 / active.len().max(1) as f64;
        if mean > 0.0 { most / mean } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_count_in_the_slice_in_which_they_were_due() {
        let mut outcome = Outcome::new(1_000, 4_000, 2);
        outcome.answered(999, 5_000);
        outcome.answered(1_000, 2_000);
        outcome.answered(2_999, 9_999);
        outcome.failed(3_000);
        assert_eq!(outcome.all.answered(), 2);
        assert_eq!(outcome.all.failures(), 1);
        let timeline = outcome.timeline();
        assert_eq!((timeline[0].failures, timeline[1].failures), (0, 1));
        assert_eq!(timeline[0].figures.rate, 1e6, "two in two microseconds");
        assert_eq!(timeline[1].figures.rate, 0.0);
    }

    #[test]
    fn balance_is_of_those_that_were_asked() {
        let mut outcome = Outcome::new(0, 1, 0);
        outcome.requests = vec![0, 10, 20, 30];
        assert_eq!(outcome.busiest_over_mean(), 1.5);
        outcome.requests.clear();
        assert_eq!(outcome.busiest_over_mean(), 1.0);
    }
}

//! When a second replica is asked beside the first: after a delay that most reads do not reach, and
//! for a small share of all reads (Dean, Barroso, "The tail at scale", CACM 56:2, 2013).
//!
//! The invariant: whatever the latencies do, hedges are at most [`HedgeLimits::percent_max`] of the
//! reads and a burst, so that hedging cannot overload a fleet that is slow because it is loaded.

use std::time::Duration;

/// Bounds of hedging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HedgeLimits {
    /// Hedges to a hundred reads.
    pub percent_max: u32,
    /// Hedges that may follow on each other when none was needed before.
    pub burst_max: u32,
    /// The delay is never shorter: below it, asking twice costs more than it gains.
    pub delay_min: Duration,
    /// Longest read that is hedged, in bytes. The time of longer ones is that of their transfer, and
    /// a second transfer would slow down the first.
    pub bytes_max: u64,
}

impl Default for HedgeLimits {
    fn default() -> Self {
        HedgeLimits {
            percent_max: 2,
            burst_max: 16,
            delay_min: Duration::from_micros(200),
            bytes_max: 256 << 10,
        }
    }
}

/// Steps of the estimate are this part of it: it follows a change within a few hundred reads and
/// wavers by about a tenth.
const STEP_DIVISOR: u64 = 1024;

/// A sample above the estimate weighs this much more than one below: where both are in balance,
/// one in twenty is above, which is the 95th percentile.
const WEIGHT_ABOVE: u64 = 19;

/// A moving estimate of the 95th percentile in one number: each sample above moves it up by a step,
/// each one below down by a nineteenth of that (stochastic approximation with a constant step:
/// Robbins, Monro 1951; on a logarithmic scale, as latencies have no scale of their own).
#[derive(Clone, Debug, Default)]
pub struct Percentile95 {
    estimate_ns: u64,
}

impl Percentile95 {
    /// Takes note of a sample.
    pub fn add(&mut self, sample: Duration) {
        let sample_ns = u64::try_from(sample.as_nanos()).unwrap_or(u64::MAX);
        // An hour: so that no sum below overflows.
        let sample_ns = sample_ns.min(3_600_000_000_000);
        if self.estimate_ns == 0 {
            self.estimate_ns = sample_ns;
            return;
        }
        let step = (self.estimate_ns / STEP_DIVISOR).max(1);
        if sample_ns > self.estimate_ns {
            self.estimate_ns += step * WEIGHT_ABOVE;
        } else {
            self.estimate_ns = self.estimate_ns.saturating_sub(step).max(1);
        }
    }

    /// The estimate; none before the first sample.
    pub fn estimate(&self) -> Option<Duration> {
        (self.estimate_ns > 0).then(|| Duration::from_nanos(self.estimate_ns))
    }
}

/// A hundredth of a hedge is the unit of the budget.
const HEDGE_COST: u64 = 100;

/// Delay and budget of a client's hedges.
#[derive(Clone, Debug)]
pub struct Hedging {
    limits: HedgeLimits,
    latencies: Percentile95,
    /// In hundredths of a hedge.
    budget: u64,
}

impl Hedging {
    /// With an empty budget: the first hedges are earned by reads.
    pub fn new(limits: HedgeLimits) -> Self {
        Hedging {
            limits,
            latencies: Percentile95::default(),
            budget: 0,
        }
    }

    /// A read is sent: how long to wait for its answer before a second replica is asked. None
    /// before there is an estimate.
    pub fn read_begins(&mut self) -> Option<Duration> {
        let budget_max = HEDGE_COST * u64::from(self.limits.burst_max);
        self.budget = (self.budget + u64::from(self.limits.percent_max)).min(budget_max);
        let delay = self.latencies.estimate()?;
        Some(delay.max(self.limits.delay_min))
    }

    /// The delay has passed: whether the budget allows to ask a second one. If so, it is charged.
    pub fn may_hedge(&mut self) -> bool {
        let left = self.budget.checked_sub(HEDGE_COST);
        self.budget = left.unwrap_or(self.budget);
        left.is_some()
    }

    /// A read was answered after `latency`, hedged or not.
    pub fn read_ended(&mut self, latency: Duration) {
        self.latencies.add(latency);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A sequence of numbers from 0 to 1 that looks random (SplitMix64).
    fn fractions() -> impl Iterator<Item = f64> {
        let mut state = 7u64;
        std::iter::from_fn(move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            Some(((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64)
        })
    }

    fn exponential(mean_us: f64) -> impl Iterator<Item = Duration> {
        fractions().map(move |fraction| {
            Duration::from_nanos((-(1.0 - fraction).ln() * mean_us * 1e3) as u64)
        })
    }

    #[test]
    fn the_estimate_finds_the_percentile_and_follows_it() {
        let mut percentile = Percentile95::default();
        assert_eq!(percentile.estimate(), None);
        for mean_us in [100.0, 2_000.0, 50.0] {
            exponential(mean_us)
                .take(20_000)
                .for_each(|sample| percentile.add(sample));
            let right_us = mean_us * 20f64.ln();
            // The mean of many estimates, as each one wavers.
            let estimates = exponential(mean_us)
                .skip(20_000)
                .take(20_000)
                .map(|sample| {
                    percentile.add(sample);
                    percentile.estimate().expect("samples came").as_secs_f64() * 1e6
                });
            let mean = estimates.sum::<f64>() / 20_000.0;
            assert!((mean / right_us - 1.0).abs() < 0.1, "{mean} {right_us}");
        }
    }

    #[test]
    fn extreme_samples_do_not_break_the_estimate() {
        let mut percentile = Percentile95::default();
        for _ in 0..10_000 {
            percentile.add(Duration::MAX);
        }
        for _ in 0..10_000 {
            percentile.add(Duration::ZERO);
        }
        assert!(percentile.estimate().is_some());
    }

    #[test]
    fn no_delay_is_shorter_than_the_shortest() {
        let mut hedging = Hedging::new(HedgeLimits::default());
        assert_eq!(hedging.read_begins(), None);
        hedging.read_ended(Duration::from_micros(10));
        assert_eq!(
            hedging.read_begins(),
            Some(HedgeLimits::default().delay_min)
        );
        hedging = Hedging::new(HedgeLimits::default());
        hedging.read_ended(Duration::from_millis(7));
        assert_eq!(hedging.read_begins(), Some(Duration::from_millis(7)));
    }

    proptest! {
        #[test]
        fn hedges_are_within_their_share_whatever_happens(
            is_late in proptest::collection::vec(any::<bool>(), 1..5000), percent_max in 0..20u32,
        ) {
            let limits = HedgeLimits { percent_max, ..HedgeLimits::default() };
            let mut hedging = Hedging::new(limits);
            let mut hedges = 0u64;
            for (reads, is_late) in (1u64..).zip(is_late) {
                hedging.read_begins();
                if is_late {
                    hedges += u64::from(hedging.may_hedge());
                }
                prop_assert!(hedges * 100 <= reads * u64::from(percent_max));
            }
        }
    }

    #[test]
    fn what_was_not_needed_allows_a_burst_and_no_more() {
        let mut hedging = Hedging::new(HedgeLimits::default());
        for _ in 0..100_000 {
            hedging.read_begins();
        }
        let burst = (0..1000).filter(|_| hedging.may_hedge()).count();
        assert_eq!(burst, 16);
    }
}

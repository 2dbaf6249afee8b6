//! Times drawn from a measured distribution.

use crate::random::Random;
use crate::run::Latencies;

/// A distribution of nanoseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples {
    /// `[nanoseconds, samples up to and with these]`, rising.
    steps: Vec<(u64, u64)>,
}

impl Samples {
    /// Always `ns`.
    pub fn constant(ns: u64) -> Samples {
        Samples {
            steps: vec![(ns, 1)],
        }
    }

    /// As measured, each one shorter by `less_ns`, but not below zero. None if nothing was measured.
    pub fn of(latencies: &Latencies, less_ns: u64) -> Option<Samples> {
        let mut sum = 0;
        let steps: Vec<(u64, u64)> = latencies
            .buckets_ns
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(value, count)| {
                sum += count;
                (value.saturating_sub(less_ns), sum)
            })
            .collect();
        (!steps.is_empty()).then_some(Samples { steps })
    }

    /// A log-normal distribution by its median and its 99th percentile, as latencies of object
    /// stores are often described. Cut off at its 99.99th percentile.
    ///
    /// # Panics
    /// If the percentile lies below the median.
    pub fn log_normal(p50_ns: u64, p99_ns: u64) -> Samples {
        assert!(
            0 < p50_ns && p50_ns <= p99_ns,
            "p50 {p50_ns} ns and p99 {p99_ns} ns are no distribution"
        );
        /// Quantile of the standard normal distribution at 0.99.
        const NORMAL_P99: f64 = 2.326_347_874;
        let sigma = (p99_ns as f64 / p50_ns as f64).ln() / NORMAL_P99;
        let steps = (0..10_000u64).map(|rank| {
            let normal = normal_quantile((rank as f64 + 0.5) / 10_000.0);
            ((p50_ns as f64 * (sigma * normal).exp()) as u64, rank + 1)
        });
        Samples {
            steps: steps.collect(),
        }
    }

    /// One of them, in nanoseconds.
    pub fn draw(&self, random: &mut Random) -> u64 {
        if let [(value, _)] = self.steps[..] {
            return value;
        }
        let (_, all) = self.steps[self.steps.len() - 1];
        let rank = random.below(all);
        let step = self.steps.partition_point(|(_, sum)| *sum <= rank);
        self.steps[step].0
    }

    /// The value at `quantile`, from 0 to 1.
    pub fn quantile(&self, quantile: f64) -> u64 {
        let (last, all) = self.steps[self.steps.len() - 1];
        let rank = (quantile * all as f64) as u64;
        let step = self.steps.partition_point(|(_, sum)| *sum <= rank);
        self.steps.get(step).map_or(last, |(value, _)| *value)
    }
}

/// The quantile of the standard normal distribution, by bisection.
fn normal_quantile(probability: f64) -> f64 {
    let (mut low, mut high) = (-6.0, 6.0);
    while high - low > 1e-6 {
        let middle = (low + high) / 2.0;
        if normal_distribution(middle) < probability {
            low = middle;
        } else {
            high = middle;
        }
    }
    (low + high) / 2.0
}

/// Abramowitz, Stegun, "Handbook of mathematical functions", 26.2.17: error below 7.5e-8.
fn normal_distribution(x: f64) -> f64 {
    if x < 0.0 {
        return 1.0 - normal_distribution(-x);
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * x);
    let polynomial = [
        1.330_274_429,
        -1.821_255_978,
        1.781_477_937,
        -0.356_563_782,
        0.319_381_530,
    ]
    .into_iter()
    .fold(0.0, |sum, factor| sum * t + factor)
        * t;
    1.0 - (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * polynomial
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::new_histogram;

    #[test]
    fn draws_have_the_quantiles_of_what_was_measured() {
        let mut histogram = new_histogram();
        for value in 1..=10_000u64 {
            histogram.saturating_record(value * 1000);
        }
        let samples = Samples::of(&Latencies::of(&histogram), 500_000).expect("it has samples");
        let mut random = Random::new(1);
        let mut drawn: Vec<u64> = (0..100_000).map(|_| samples.draw(&mut random)).collect();
        drawn.sort_unstable();
        for quantile in [0.1, 0.5, 0.9, 0.99] {
            let right = quantile * 1e7 - 5e5;
            let found = drawn[(quantile * 1e5) as usize] as f64;
            assert!((found / right - 1.0).abs() < 0.02, "{quantile}: {found}");
            let exact = samples.quantile(quantile) as f64;
            assert!((exact / right - 1.0).abs() < 0.01, "{quantile}: {exact}");
        }
        assert_eq!(
            drawn[0], 0,
            "what is shorter than the deduction takes no time"
        );
    }

    #[test]
    fn nothing_measured_is_no_distribution() {
        assert_eq!(Samples::of(&Latencies::default(), 0), None);
        assert_eq!(Samples::constant(7).draw(&mut Random::new(1)), 7);
    }

    #[test]
    fn a_log_normal_distribution_has_the_quantiles_that_describe_it() {
        let samples = Samples::log_normal(30_000_000, 200_000_000);
        for (quantile, right) in [(0.5, 30e6), (0.99, 200e6)] {
            let found = samples.quantile(quantile) as f64;
            assert!((found / right - 1.0).abs() < 0.01, "{quantile}: {found}");
        }
    }
}

//! Latencies as they are stored: counts by value, so that any reader can merge and re-plot them.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::load::new_histogram;

/// A histogram of nanoseconds, its usual quantiles beside it for people.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latencies {
    /// Number of samples.
    pub count: u64,
    /// Mean, in microseconds.
    pub mean_us: f64,
    /// Quantiles, in microseconds.
    pub p50_us: f64,
    /// See [`Latencies::p50_us`].
    pub p90_us: f64,
    /// See [`Latencies::p50_us`].
    pub p99_us: f64,
    /// See [`Latencies::p50_us`].
    pub p999_us: f64,
    /// See [`Latencies::p50_us`].
    pub p9999_us: f64,
    /// The largest sample.
    pub max_us: f64,
    /// `[nanoseconds, samples]` in rising order: the highest value of each bucket that has any,
    /// three significant digits.
    pub buckets_ns: Vec<(u64, u64)>,
}

impl Latencies {
    /// Of `histogram`, whose values are nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> Latencies {
        let us = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Latencies {
            count: histogram.len(),
            mean_us: histogram.mean() / 1e3,
            p50_us: us(0.5),
            p90_us: us(0.9),
            p99_us: us(0.99),
            p999_us: us(0.999),
            p9999_us: us(0.9999),
            max_us: us(1.0),
            buckets_ns: histogram
                .iter_recorded()
                .map(|step| (step.value_iterated_to(), step.count_since_last_iteration()))
                .collect(),
        }
    }

    /// The histogram again.
    pub fn histogram(&self) -> Histogram<u64> {
        let mut histogram = new_histogram();
        for (value, count) in &self.buckets_ns {
            histogram.saturating_record_n(*value, *count);
        }
        histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_histogram_has_the_same_quantiles() {
        let mut histogram = new_histogram();
        for value in 1..100_000u64 {
            histogram.saturating_record(value * 37);
        }
        let stored = Latencies::of(&histogram);
        let text = serde_json::to_string(&stored).expect("plain numbers");
        let read: Latencies = serde_json::from_str(&text).expect("as written");
        assert_eq!(read, stored);
        let again = read.histogram();
        assert_eq!(again.len(), histogram.len());
        for quantile in [0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0] {
            assert_eq!(
                again.value_at_quantile(quantile),
                histogram.value_at_quantile(quantile)
            );
        }
    }
}

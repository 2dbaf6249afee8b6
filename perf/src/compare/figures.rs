//! What a contestant gave in a round, and its medians over all rounds.

use serde::Serialize;

use crate::gate::measure::median;
use crate::runtimes::ReadFigures;
use crate::sample::Sample;

/// One contestant in one round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Operations a second.
    pub rate: f64,
    /// CPU of the server's process an operation, in microseconds.
    pub cpu_us: f64,
    /// The part of it outside the kernel: the runtime's own, and the loop's.
    pub user_us: f64,
    /// Median latency in microseconds.
    pub p50_us: f64,
    /// 99th percentile of it.
    pub p99_us: f64,
    /// Time that the server's core was not idle, in percent.
    pub busy_percent: f64,
    /// Share of the CPU that kernel threads of the rings used, in percent.
    pub ring_worker_percent: f64,
    /// Time that the hypervisor took, in percent.
    pub steal_percent: f64,
    /// Share of the reads that came from another place than asked, in percent.
    pub elsewhere_percent: f64,
    /// Failed operations.
    pub errors: u64,
    /// Answers with wrong bytes.
    pub wrong: u64,
}

impl Figures {
    /// Of a load on a server whose reads are to come from `source` (0 is DRAM, 1 the device).
    pub fn of_sample(sample: &Sample, source: usize) -> Figures {
        let reads = sample.load.reads as f64;
        let from_source = sample.load.by_source[source] as f64;
        Figures {
            rate: sample.load.rate(),
            cpu_us: sample.cpu_us_per_operation(),
            user_us: sample.user_us_per_operation(),
            p50_us: sample.load.latency_us(0.5),
            p99_us: sample.load.latency_us(0.99),
            busy_percent: sample.busy_percent,
            ring_worker_percent: sample.ring_worker_percent(),
            steal_percent: sample.steal_percent,
            elsewhere_percent: 100.0 * (reads - from_source) / reads.max(1.0),
            errors: sample.load.errors,
            wrong: sample.load.wrong,
        }
    }

    /// Of a loop that reads a file.
    pub fn of_reads(figures: &ReadFigures) -> Figures {
        Figures {
            rate: figures.rate,
            cpu_us: figures.cpu_us,
            user_us: figures.user_us,
            p50_us: figures.p50_us,
            p99_us: figures.p99_us,
            busy_percent: figures.busy_percent,
            ring_worker_percent: figures.ring_worker_percent,
            steal_percent: figures.steal_percent,
            elsewhere_percent: 0.0,
            errors: 0,
            wrong: 0,
        }
    }
}

/// Median, least and greatest over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The greatest.
    pub greatest: f64,
}

impl Spread {
    /// Of `values`.
    ///
    /// # Panics
    /// If there are none.
    pub fn of(values: &[f64]) -> Spread {
        Spread {
            median: median(values),
            least: values.iter().copied().fold(f64::INFINITY, f64::min),
            greatest: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

/// One contestant over all rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Contestant {
    /// Its runtime.
    pub runtime: &'static str,
    /// Operations a second.
    pub rate: Spread,
    /// CPU of the server's process an operation, in microseconds.
    pub cpu_us: Spread,
    /// The part of it outside the kernel, by the kernel's clock ticks.
    pub user_us: Spread,
    /// Its CPU over ours, round by round; absent for ours, and where ours was too little to be seen.
    pub cpu_over_ours: Option<Spread>,
    /// Median latency in microseconds.
    pub p50_us: Spread,
    /// 99th percentile of it.
    pub p99_us: Spread,
    /// Time that the server's core was not idle, in percent.
    pub busy_percent: Spread,
    /// Share of the CPU that kernel threads of the rings used, in percent.
    pub ring_worker_percent: Spread,
}

impl Contestant {
    /// Of `rounds`, beside `ours` of the same rounds.
    ///
    /// # Panics
    /// If there are no rounds.
    pub fn of(runtime: &'static str, rounds: &[Figures], ours: Option<&[Figures]>) -> Contestant {
        let spread = |figure: fn(&Figures) -> f64| {
            Spread::of(&rounds.iter().map(figure).collect::<Vec<_>>())
        };
        let ratios = ours.and_then(|ours| {
            // CPU time comes in ticks: a short part may see none.
            let ratios: Vec<f64> = rounds
                .iter()
                .zip(ours)
                .filter(|(_, ours)| ours.cpu_us > 0.0)
                .map(|(theirs, ours)| theirs.cpu_us / ours.cpu_us)
                .collect();
            (!ratios.is_empty()).then(|| Spread::of(&ratios))
        });
        Contestant {
            runtime,
            rate: spread(|figures| figures.rate),
            cpu_us: spread(|figures| figures.cpu_us),
            user_us: spread(|figures| figures.user_us),
            cpu_over_ours: ratios,
            p50_us: spread(|figures| figures.p50_us),
            p99_us: spread(|figures| figures.p99_us),
            busy_percent: spread(|figures| figures.busy_percent),
            ring_worker_percent: spread(|figures| figures.ring_worker_percent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(cpu_us: f64) -> Figures {
        Figures {
            rate: 1e6 / cpu_us.max(1.0),
            cpu_us,
            user_us: cpu_us / 10.0,
            p50_us: 10.0,
            p99_us: 20.0,
            busy_percent: 99.0,
            ring_worker_percent: 0.0,
            steal_percent: 0.0,
            elsewhere_percent: 0.0,
            errors: 0,
            wrong: 0,
        }
    }

    #[test]
    fn a_ratio_is_that_of_the_rounds_and_not_of_the_medians() {
        let ours = [figures(1.0), figures(2.0), figures(4.0)];
        let theirs = [figures(4.0), figures(4.0), figures(4.0)];
        let contestant = Contestant::of("other", &theirs, Some(&ours));
        let ratio = contestant.cpu_over_ours.expect("ours took some");
        assert_eq!((ratio.least, ratio.median, ratio.greatest), (1.0, 2.0, 4.0));
        let unseen = Contestant::of("other", &theirs, Some(&[figures(0.0); 3]));
        assert_eq!(unseen.cpu_over_ours, None);
    }
}

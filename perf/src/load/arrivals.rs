//! When operations are due: a schedule that does not listen to the server.
//!
//! The invariant of an open loop: what is due is decided before the load begins, so that a stall of
//! the server delays answers but never questions. Latencies are measured from these instants
//! (Tene, "How NOT to measure latency"; the omission of the wait is called coordinated omission).

use std::time::{Duration, Instant};

use crate::random::Random;
pub use crate::run::point::Arrivals;

/// The arrivals of one generator.
#[derive(Clone, Debug)]
pub struct Schedule {
    start: Instant,
    /// Mean gap in nanoseconds.
    gap_ns: f64,
    is_poisson: bool,
    random: Random,
    /// Of the next arrival, since the start. A float keeps fractions of nanoseconds, which at a
    /// million a second would add up.
    next_ns: f64,
}

impl Schedule {
    /// The arrivals of generator `index` of `count` from `start` on; none in a closed loop.
    /// Evenly spaced ones of several generators interleave.
    pub fn new(
        arrivals: Arrivals,
        start: Instant,
        (index, count): (usize, usize),
        seed: u64,
    ) -> Option<Schedule> {
        let gap_ns = 1e9 * count as f64 / arrivals.per_second()?;
        let is_poisson = matches!(arrivals, Arrivals::Poisson { .. });
        let mut schedule = Schedule {
            start,
            gap_ns,
            is_poisson,
            random: Random::new(seed ^ 0x6172_7269_7661_6c73),
            next_ns: gap_ns * index as f64 / count as f64,
        };
        if is_poisson {
            schedule.next_ns = schedule.gap();
        }
        Some(schedule)
    }

    fn gap(&mut self) -> f64 {
        if !self.is_poisson {
            return self.gap_ns;
        }
        // The inverse of the exponential distribution; 1 - fraction is never zero.
        -(1.0 - self.random.fraction()).ln() * self.gap_ns
    }

    /// When the next operation is due.
    #[inline]
    pub fn due(&self) -> Instant {
        self.start + Duration::from_nanos(self.next_ns as u64)
    }

    /// Goes on to the one after it.
    #[inline]
    pub fn advance(&mut self) {
        self.next_ns += self.gap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count_in(mut schedule: Schedule, span: Duration) -> usize {
        let end = schedule.start + span;
        let mut count = 0;
        while schedule.due() < end {
            schedule.advance();
            count += 1;
        }
        count
    }

    #[test]
    fn a_constant_schedule_has_the_rate_over_all_generators() {
        let start = Instant::now();
        let arrivals = Arrivals::Constant {
            per_second: 1_000_003.0,
        };
        let total: usize = (0..3)
            .map(|index| {
                let schedule = Schedule::new(arrivals, start, (index, 3), 1).expect("open");
                count_in(schedule, Duration::from_secs(2))
            })
            .sum();
        assert!(total.abs_diff(2_000_006) <= 3, "{total}");
    }

    #[test]
    fn poisson_gaps_have_their_mean_and_its_deviation() {
        let arrivals = Arrivals::Poisson { per_second: 1000.0 };
        let start = Instant::now();
        let mut schedule = Schedule::new(arrivals, start, (0, 1), 7).expect("open");
        let (mut last, mut sum, mut squares) = (schedule.next_ns, 0.0, 0.0);
        const GAPS: usize = 100_000;
        for _ in 0..GAPS {
            schedule.advance();
            let gap = (schedule.next_ns - last) / 1e6;
            last = schedule.next_ns;
            sum += gap;
            squares += gap * gap;
        }
        let mean = sum / GAPS as f64;
        let deviation = (squares / GAPS as f64 - mean * mean).sqrt();
        // An exponential distribution's deviation is its mean, here 1 ms.
        assert!(
            (mean - 1.0).abs() < 0.02 && (deviation - 1.0).abs() < 0.02,
            "{mean} {deviation}"
        );
    }

    #[test]
    fn a_closed_loop_has_no_schedule() {
        assert!(Schedule::new(Arrivals::Closed, Instant::now(), (0, 1), 1).is_none());
    }
}

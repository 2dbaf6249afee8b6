//! When to ask again: a bounded number of times, after random waits that grow.
//!
//! The wait is random below its bound ("full jitter": Brooker, "Exponential backoff and jitter",
//! AWS 2015), so that clients that were refused together do not come back together.

use std::time::Duration;

/// Bounds of the attempts of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryLimits {
    /// Attempts after the first one.
    pub retries_max: u32,
    /// Longest random wait before the first retry; it doubles with each one.
    pub back_off_first: Duration,
    /// What the longest random wait grows to at most; also bounds what a worker may ask for.
    pub back_off_max: Duration,
}

/// The attempts of one request.
#[derive(Clone, Debug)]
pub struct Attempts {
    left: u32,
    longest: Duration,
    longest_max: Duration,
}

impl Attempts {
    /// With all attempts left.
    pub fn new(limits: RetryLimits) -> Self {
        Attempts {
            left: limits.retries_max,
            longest: limits.back_off_first.min(limits.back_off_max),
            longest_max: limits.back_off_max,
        }
    }

    /// Uses up an attempt: how long to wait before it, or none if there is no attempt left.
    /// `asked` is what the worker wants to be left alone for; `fraction` a random number from 0 to 1.
    pub fn wait(&mut self, asked: Duration, fraction: f64) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        let wait = asked.min(self.longest_max) + self.longest.mul_f64(fraction);
        self.longest = (self.longest * 2).min(self.longest_max);
        Some(wait)
    }

    /// Uses up an attempt that needs no wait, because another worker is asked. False if there is
    /// none left.
    pub fn at_once(&mut self) -> bool {
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RetryLimits = RetryLimits {
        retries_max: 5,
        back_off_first: Duration::from_millis(10),
        back_off_max: Duration::from_millis(40),
    };

    #[test]
    fn waits_grow_with_the_bound_and_end() {
        for (fraction, waits_ms) in [(0.0, [0; 5]), (0.5, [5, 10, 20, 20, 20])] {
            let mut attempts = Attempts::new(LIMITS);
            for wait_ms in waits_ms {
                let wait = attempts.wait(Duration::ZERO, fraction);
                assert_eq!(wait, Some(Duration::from_millis(wait_ms)));
            }
            assert_eq!(attempts.wait(Duration::ZERO, fraction), None);
            assert!(!attempts.at_once());
        }
    }

    #[test]
    fn what_a_worker_asks_for_is_kept_up_to_the_bound() {
        let mut attempts = Attempts::new(LIMITS);
        let wait = attempts.wait(Duration::from_secs(60), 0.0);
        assert_eq!(wait, Some(Duration::from_millis(40)));
        let wait = attempts.wait(Duration::from_millis(3), 0.0);
        assert_eq!(wait, Some(Duration::from_millis(3)));
    }

    #[test]
    fn attempts_at_once_count_and_do_not_grow_the_wait() {
        let mut attempts = Attempts::new(LIMITS);
        assert!((0..4).all(|_| attempts.at_once()));
        let wait = attempts.wait(Duration::ZERO, 1.0);
        assert_eq!(wait, Some(Duration::from_millis(10)));
        assert!(!attempts.at_once());
    }
}

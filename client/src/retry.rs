//! When to ask again: a bounded number of times, after random waits that grow.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use crate::error::Error;
use crate::options::Options;

/// The attempts of one request.
pub(crate) struct Attempts {
    left: u32,
    longest: Duration,
    longest_max: Duration,
}

impl Attempts {
    pub(crate) fn new(options: &Options) -> Self {
        Attempts {
            left: options.retries_max,
            longest: options.back_off_first.min(options.back_off_max),
            longest_max: options.back_off_max,
        }
    }

    /// How long to wait before asking again after `error`, or the error if it is final.
    pub(crate) fn wait_after(&mut self, error: Error) -> Result<Duration, Error> {
        if !error.is_passing() || self.left == 0 {
            return Err(error);
        }
        self.left -= 1;
        let asked = error.retry_after().min(self.longest_max);
        let wait = asked + self.longest.mul_f64(random_fraction());
        self.longest = (self.longest * 2).min(self.longest_max);
        Ok(wait)
    }
}

/// A number from 0 to 1 that differs between clients and calls. Quality does not matter here.
fn random_fraction() -> f64 {
    // The standard library seeds each of these anew.
    let random = RandomState::new().build_hasher().finish();
    (random >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelane_rpc_schema::messages::ErrorCode;

    fn refused(code: ErrorCode, retry_after: Duration) -> Error {
        Error::Refused {
            what: String::new(),
            code,
            message: String::new(),
            retry_after,
        }
    }

    #[test]
    fn waits_are_random_grow_and_end() {
        let options = Options {
            retries_max: 5,
            back_off_first: Duration::from_millis(10),
            back_off_max: Duration::from_millis(40),
            ..Options::default()
        };
        let mut attempts = Attempts::new(&options);
        let busy = || refused(ErrorCode::Busy, Duration::from_secs(60));
        for longest in [10, 20, 40, 40, 40] {
            let wait = attempts.wait_after(busy()).expect("an attempt is left");
            // What the worker asked for is cut to 40 ms, and something random comes on top.
            assert!(wait >= Duration::from_millis(40), "{wait:?}");
            assert!(wait <= Duration::from_millis(40 + longest), "{wait:?}");
        }
        assert!(attempts.wait_after(busy()).is_err());
    }

    #[test]
    fn what_will_not_change_is_not_asked_again() {
        for code in [
            ErrorCode::NotFound,
            ErrorCode::Denied,
            ErrorCode::Invalid,
            ErrorCode::Internal,
        ] {
            let mut attempts = Attempts::new(&Options::default());
            assert!(
                attempts.wait_after(refused(code, Duration::ZERO)).is_err(),
                "{code:?}"
            );
        }
    }

    #[test]
    fn random_fractions_differ_and_stay_in_range() {
        let fractions: Vec<f64> = (0..100).map(|_| random_fraction()).collect();
        assert!(
            fractions
                .iter()
                .all(|fraction| (0.0..1.0).contains(fraction))
        );
        assert!(
            fractions
                .iter()
                .any(|fraction| (fraction - fractions[0]).abs() > 0.01)
        );
    }
}

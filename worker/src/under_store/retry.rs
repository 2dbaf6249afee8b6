//! When a failed request is tried again, and what is said when it is not.
//!
//! The invariant: tries and total time are both bounded, so every job ends.

use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant};

use super::{UnderStoreError, UnderStoreErrorKind};

/// Longest text of a store's answer that goes into a message.
const CAUSE_BYTES_MAX: usize = 400;

/// How failed requests are tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Most requests for one job, the first one included. At least one.
    pub tries_max: u32,
    /// Most time for one job, waiting for limits not counted.
    pub total_max: Duration,
    /// Pause after the first failure; doubles with each one. A random half is taken off.
    pub pause_first: Duration,
    /// Longest pause. A longer `Retry-After` ends the job unless it fits the total.
    pub pause_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            tries_max: 5,
            total_max: Duration::from_secs(60),
            pause_first: Duration::from_millis(100),
            pause_max: Duration::from_secs(5),
        }
    }
}

/// How one request failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub kind: UnderStoreErrorKind,
    /// What happened, without the object's name.
    pub cause: String,
    pub is_worth_retrying: bool,
    pub retry_after: Option<Duration>,
    /// The store has no such range.
    pub is_range_refused: bool,
}

impl Failure {
    /// A failure that another try would repeat.
    pub fn lasting(kind: UnderStoreErrorKind, cause: impl Into<String>) -> Self {
        Failure {
            kind,
            cause: cause.into(),
            is_worth_retrying: false,
            retry_after: None,
            is_range_refused: false,
        }
    }

    /// A failure that may be gone at the next try.
    pub fn passing(kind: UnderStoreErrorKind, cause: impl Into<String>) -> Self {
        Failure {
            is_worth_retrying: true,
            ..Failure::lasting(kind, cause)
        }
    }

    /// The version is another one now.
    pub fn changed(found: &str) -> Self {
        Failure::lasting(
            UnderStoreErrorKind::VersionChanged,
            format!("the object is now of version {found}"),
        )
    }

    fn advice(&self) -> &'static str {
        match self.kind {
            UnderStoreErrorKind::NotFound => "check the path and the mount's URI",
            UnderStoreErrorKind::VersionChanged => "open it again to read the new version",
            UnderStoreErrorKind::Denied => "check the credentials and rights of the mount",
            UnderStoreErrorKind::Unavailable => {
                "check that the store is up and reachable, then read again"
            }
            UnderStoreErrorKind::Malformed => {
                "check the store, and what stands between it and this worker"
            }
            UnderStoreErrorKind::Invalid => "correct the path or the mount's options",
        }
    }

    /// The error that a caller sees, after `tries` requests.
    pub fn into_error(self, uri: &str, tries: u32) -> UnderStoreError {
        let mut cause = self.cause.clone();
        if cause.len() > CAUSE_BYTES_MAX {
            let end = (0..=CAUSE_BYTES_MAX)
                .rev()
                .find(|end| cause.is_char_boundary(*end))
                .unwrap_or(0);
            cause.truncate(end);
            cause.push('…');
        }
        let tried = match tries {
            0 | 1 => String::new(),
            _ => format!(" ({tries} tries)"),
        };
        UnderStoreError {
            kind: self.kind,
            uri: uri.to_owned(),
            message: format!("{cause}{tried}; {}", self.advice()),
        }
    }
}

/// The tries of one job.
#[derive(Debug)]
pub(crate) struct Tries {
    policy: RetryPolicy,
    deadline: Instant,
    failures: u32,
}

impl Tries {
    /// None made yet; time runs from now.
    pub fn new(policy: RetryPolicy) -> Self {
        Tries {
            policy,
            deadline: Instant::now() + policy.total_max,
            failures: 0,
        }
    }

    /// Time that is left for the job.
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Does not count `waited` against the job: it waited for a limit of ours, not for the store.
    pub fn excuse(&mut self, waited: Duration) {
        self.deadline += waited;
    }

    /// Waits until the next try, or gives up.
    ///
    /// # Errors
    /// The failure as an error when there is no next try.
    pub async fn pause_after(
        &mut self,
        failure: Failure,
        uri: &str,
    ) -> Result<(), UnderStoreError> {
        self.failures += 1;
        let pause = self.pause(failure.retry_after);
        if !failure.is_worth_retrying
            || self.failures >= self.policy.tries_max
            || pause >= self.time_left()
        {
            return Err(failure.into_error(uri, self.failures));
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }

    fn pause(&self, retry_after: Option<Duration>) -> Duration {
        let doublings = (self.failures - 1).min(20);
        let longest = (self.policy.pause_first * (1 << doublings)).min(self.policy.pause_max);
        let jittered = longest / 2 + longest.mul_f64(random_fraction() / 2.0);
        jittered.max(retry_after.unwrap_or_default())
    }
}

/// A number in 0..1 that differs between tries and workers, so that they do not come in step.
pub(crate) fn random_fraction() -> f64 {
    let random = std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish();
    (random >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tries(tries_max: u32) -> Tries {
        Tries::new(RetryPolicy {
            tries_max,
            pause_first: Duration::from_millis(1),
            ..RetryPolicy::default()
        })
    }

    #[tokio::test]
    async fn a_lasting_failure_ends_at_once_and_a_passing_one_after_the_last_try() {
        let mut once = tries(9);
        let lasting = Failure::lasting(UnderStoreErrorKind::NotFound, "no such object");
        let error = once
            .pause_after(lasting, "file:///x")
            .await
            .expect_err("lasting");
        assert_eq!(
            error.to_string(),
            "file:///x: no such object; check the path and the mount's URI"
        );
        let mut three = tries(3);
        for _ in 0..2 {
            let passing = Failure::passing(UnderStoreErrorKind::Unavailable, "reset");
            three.pause_after(passing, "u").await.expect("another try");
        }
        let passing = Failure::passing(UnderStoreErrorKind::Unavailable, "reset");
        let error = three
            .pause_after(passing, "u")
            .await
            .expect_err("the last try");
        assert!(error.message.starts_with("reset (3 tries); "), "{error}");
    }

    #[tokio::test]
    async fn a_store_that_wants_longer_than_the_job_has_is_not_waited_for() {
        let mut tries = tries(3);
        let failure = Failure {
            retry_after: Some(Duration::from_secs(3600)),
            ..Failure::passing(UnderStoreErrorKind::Unavailable, "503")
        };
        assert!(tries.pause_after(failure, "u").await.is_err());
    }

    #[test]
    fn pauses_grow_to_their_limit_and_respect_the_stores_wish() {
        let mut tries = tries(100);
        for failures in 1..40 {
            tries.failures = failures;
            let longest =
                Duration::from_millis(1 << (failures - 1).min(20)).min(Duration::from_secs(5));
            let pause = tries.pause(None);
            assert!(
                pause >= longest / 2 && pause <= longest,
                "{pause:?} of {longest:?}"
            );
        }
        assert_eq!(
            tries.pause(Some(Duration::from_secs(9))),
            Duration::from_secs(9)
        );
    }
}

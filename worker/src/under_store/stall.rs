//! Calls into the file system of a mount, and whether it has stalled.
//!
//! A call into a file system that hangs (a file server that is away, a disk that resets) cannot be cancelled:
//! its thread, its memory and its place among the mount's requests stay with it. Only the wait for it can end.
//! Each call is counted while it lasts. A mount whose oldest call has lasted too long has stalled: requests
//! that wait for it fail, and new ones fail at once, until the call returns.
//!
//! Calls that may take long although the file system answers (a flush of a large file, a copy, a directory of a
//! million files) are not counted. Requests that make such calls probe the file system beside them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use slab::Slab;

use super::retry::Failure;
use super::{UnderStoreError, UnderStoreErrorKind};

/// Interval between two checks of the calls by a request that waits.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Age of the last call from which on a request that waits probes the file system.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Calls in flight into one file system.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileCalls(Arc<Mutex<Calls>>);

#[derive(Debug, Default)]
struct Calls {
    in_flight: Slab<Instant>,
    /// Start of the last call, or time of the last probe.
    last: Option<Instant>,
}

/// A call in flight into a file system; it ends when this is dropped.
pub(crate) struct FileCall {
    calls: FileCalls,
    key: usize,
}

impl FileCalls {
    /// Counts a call from now until the guard is dropped.
    pub fn begin(&self) -> FileCall {
        FileCall {
            key: self.with(|calls| {
                let now = Instant::now();
                calls.last = Some(now);
                calls.in_flight.insert(now)
            }),
            calls: self.clone(),
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Calls) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Age of the oldest call; zero without calls.
    pub fn oldest(&self) -> Duration {
        let oldest = self.with(|calls| calls.in_flight.iter().map(|(_, began)| *began).min());
        oldest.map_or(Duration::ZERO, |began| began.elapsed())
    }

    /// Fails with an error about the object at `uri` when a call has lasted `max`.
    pub fn check(&self, max: Duration, uri: &str) -> Result<(), UnderStoreError> {
        let oldest = self.oldest();
        if oldest < max {
            return Ok(());
        }
        let seconds = oldest.as_secs();
        let cause = format!("the file system has not answered for {seconds} s");
        Err(Failure::lasting(UnderStoreErrorKind::Unavailable, cause).into_error(uri, 0))
    }

    /// Resolves when a call has lasted `max`.
    pub async fn until_stalled(&self, max: Duration, uri: &str) -> UnderStoreError {
        loop {
            match self.check(max, uri) {
                Ok(()) => tokio::time::sleep(CHECK_INTERVAL.min(max)).await,
                Err(error) => return error,
            }
        }
    }
}

impl FileCalls {
    /// As [`until_stalled`](Self::until_stalled), for a request whose own calls are not counted. `probe` is a call that
    /// a file system that answers returns from soon; it runs on a thread that may block.
    pub async fn until_stalled_by(
        &self,
        max: Duration,
        uri: &str,
        probe: impl Fn() + Clone + Send + 'static,
    ) -> UnderStoreError {
        let began = Instant::now();
        loop {
            if let Err(error) = self.check(max, uri) {
                return error;
            }
            if self.takes_probe(began, PROBE_INTERVAL.min(max)) {
                let (calls, probe) = (self.clone(), probe.clone());
                // Counted while it runs: a queue for a thread is no stall. Nobody waits for its end but the check.
                drop(tokio::task::spawn_blocking(move || {
                    let _call = calls.begin();
                    probe();
                }));
            }
            tokio::time::sleep(CHECK_INTERVAL.min(max)).await;
        }
    }

    /// Whether a probe is due for a request that began at `began`; notes it.
    fn takes_probe(&self, began: Instant, interval: Duration) -> bool {
        self.with(|calls| {
            let now = Instant::now();
            let last = calls.last.map_or(began, |last| last.max(began));
            let is_due = calls.in_flight.is_empty() && now.duration_since(last) >= interval;
            if is_due {
                calls.last = Some(now);
            }
            is_due
        })
    }
}

impl Drop for FileCall {
    fn drop(&mut self) {
        self.calls.with(|calls| calls.in_flight.remove(self.key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_probe_that_hangs_is_found_and_one_that_returns_is_not() {
        let max = Duration::from_millis(50);
        let calls = FileCalls::default();
        let answers = calls.until_stalled_by(max, "file:///x", || ());
        let ended = tokio::time::timeout(10 * max, answers).await;
        assert!(ended.is_err(), "it answers");
        let (release, released) = std::sync::mpsc::channel::<()>();
        let released = Arc::new(Mutex::new(released));
        let hangs = move || {
            let _ = released.lock().map(|released| released.recv());
        };
        let stalled = calls.until_stalled_by(max, "file:///x", hangs);
        let error = tokio::time::timeout(Duration::from_secs(30), stalled).await;
        let error = error.expect("it is found");
        assert_eq!(error.kind, UnderStoreErrorKind::Unavailable);
        drop(release);
        while calls.oldest() > Duration::ZERO {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        calls.check(max, "file:///x").expect("it answers again");
    }

    #[test]
    fn a_call_counts_until_it_returns() {
        let calls = FileCalls::default();
        let max = Duration::from_millis(20);
        let first = calls.begin();
        std::thread::sleep(max);
        let second = calls.begin();
        let error = calls.check(max, "file:///x").expect_err("the first");
        assert_eq!(error.kind, UnderStoreErrorKind::Unavailable);
        assert!(error.to_string().contains("has not answered"), "{error}");
        drop(first);
        drop(second);
        assert_eq!(calls.oldest(), Duration::ZERO);
        calls.check(max, "file:///x").expect("none is left");
    }
}

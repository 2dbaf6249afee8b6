//! Calls into the file system of a mount, and whether it has stalled.
//!
//! A call into a file system that hangs (a file server that is away, a disk that resets) cannot be cancelled:
//! its thread, its memory and its place among the mount's requests stay with it. Only the wait for it can end.
//! Each call is counted while it lasts. A mount whose oldest call has lasted too long has stalled: requests
//! that wait for it fail, and new ones fail at once, until the call returns.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use slab::Slab;

use super::retry::Failure;
use super::{UnderStoreError, UnderStoreErrorKind};

/// Interval between two checks of the calls by a request that waits.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Calls in flight into one file system.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileCalls(Arc<Mutex<Slab<Instant>>>);

/// A call in flight into a file system; it ends when this is dropped.
pub(crate) struct FileCall {
    calls: FileCalls,
    key: usize,
}

impl FileCalls {
    /// Counts a call from now until the guard is dropped.
    pub fn begin(&self) -> FileCall {
        FileCall {
            key: self.with(|calls| calls.insert(Instant::now())),
            calls: self.clone(),
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Slab<Instant>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Age of the oldest call; zero without calls.
    pub fn oldest(&self) -> Duration {
        let oldest = self.with(|calls| calls.iter().map(|(_, began)| *began).min());
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

impl Drop for FileCall {
    fn drop(&mut self) {
        self.calls.with(|calls| calls.remove(self.key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

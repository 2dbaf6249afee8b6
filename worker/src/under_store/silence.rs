//! Whether the file system of a mount answers.
//!
//! A call into a file system that hangs (a file server that is away, a disk that resets) cannot be taken back:
//! its thread, its memory and its place among the mount's requests stay with it. What can end is the wait for it.
//! So each call is counted while it lasts, and a mount whose oldest call has lasted too long counts as one
//! that does not answer: who waits for it is told so, who comes is told at once, and when the call returns at
//! last, all is as before.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use slab::Slab;

use super::retry::Failure;
use super::{UnderStoreError, UnderStoreErrorKind};

/// How often the calls are looked at by those who wait.
const LOOK: Duration = Duration::from_millis(500);

/// The calls that a file system works on.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileCalls(Arc<Mutex<Slab<Instant>>>);

/// One of them.
pub(crate) struct FileCall {
    calls: FileCalls,
    key: usize,
}

impl FileCalls {
    /// Counts a call from now until what is given is dropped.
    pub fn begin(&self) -> FileCall {
        FileCall {
            key: self.with(|calls| calls.insert(Instant::now())),
            calls: self.clone(),
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Slab<Instant>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How long the oldest call has lasted.
    pub fn oldest(&self) -> Duration {
        let oldest = self.with(|calls| calls.iter().map(|(_, began)| *began).min());
        oldest.map_or(Duration::ZERO, |began| began.elapsed())
    }

    /// An error about the object at `uri` where a call has lasted `max`.
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
    pub async fn until_silent(&self, max: Duration, uri: &str) -> UnderStoreError {
        loop {
            match self.check(max, uri) {
                Ok(()) => tokio::time::sleep(LOOK.min(max)).await,
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

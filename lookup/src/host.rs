//! What a look-up needs of whoever runs it.

use std::future::Future;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

use crate::error::Result;

/// Reads one version of one file, and runs work elsewhere.
pub trait Host {
    /// The bytes of `ranges`, which lie within the file and are not empty, in their order. All of them are
    /// of the version that the look-up began with.
    fn read(&self, ranges: &[Range<u64>]) -> impl Future<Output = Result<Vec<Bytes>>>;

    /// Runs `work`, which takes about `estimate`: in line where that is short.
    fn run<T: Send + 'static>(
        &self,
        estimate: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T>;

    /// Whether what was read last came from somewhere that takes its time: then one long read is better than
    /// many short ones that wait for each other.
    fn is_far(&self) -> bool {
        false
    }

    /// Lets others have their turn.
    fn pause(&self) -> impl Future<Output = ()>;

    /// Time that passes evenly, since some moment.
    fn now(&self) -> Duration;
}

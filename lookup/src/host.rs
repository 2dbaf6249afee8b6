//! What a look-up needs of whoever runs it.

use std::cell::Cell;
use std::future::Future;
use std::ops::Range;
use std::time::{Duration, Instant};

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

/// A file in memory, whose look-ups do all their work in line: their futures are ready at once.
pub struct InMemory {
    bytes: Bytes,
    bytes_read: Cell<u64>,
    began: Instant,
}

impl InMemory {
    /// The file of these bytes.
    pub fn new(bytes: impl Into<Bytes>) -> InMemory {
        InMemory {
            bytes: bytes.into(),
            bytes_read: Cell::new(0),
            began: Instant::now(),
        }
    }

    /// Bytes of the file.
    pub fn length(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Bytes that were read so far.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.get()
    }
}

impl Host for InMemory {
    /// # Panics
    /// If a range is empty or goes beyond the file: nobody asks for that.
    async fn read(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let slices = ranges.iter().map(|range| {
            assert!(range.start < range.end, "nothing is read for nothing");
            self.bytes_read
                .set(self.bytes_read.get() + range.end - range.start);
            self.bytes.slice(range.start as usize..range.end as usize)
        });
        Ok(slices.collect())
    }

    fn run<T: Send + 'static>(
        &self,
        _estimate: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> {
        std::future::ready(work())
    }

    fn pause(&self) -> impl Future<Output = ()> {
        std::future::ready(())
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

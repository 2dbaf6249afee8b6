//! What a look-up needs of whoever runs it.

use std::cell::Cell;
use std::future::Future;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::error::{ErrorKind, Result};
use crate::memory::{Account, Charge};

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

    /// Memory that the look-up may hold: everything is charged to it before it is allocated.
    fn memory(&self) -> &Account;

    /// Waits a moment for memory that other look-ups hold, after so many tries to get it; false: it is not worth
    /// another try.
    fn until_memory(&self, tries: u32) -> impl Future<Output = bool> {
        let _ = tries;
        std::future::ready(false)
    }

    /// Lets others have their turn.
    fn pause(&self) -> impl Future<Output = ()>;

    /// Time that passes evenly, since some moment.
    fn now(&self) -> Duration;
}

/// Charges `bytes` of the look-up's memory, and waits as long as the host does where other look-ups hold it.
///
/// # Errors
/// As [`Account::charge`].
pub async fn charge(host: &impl Host, bytes: u64) -> Result<Charge> {
    let mut tries = 0;
    loop {
        match host.memory().charge(bytes) {
            Err(error) if error.kind == ErrorKind::Busy && host.until_memory(tries).await => {
                tries += 1;
            }
            charged => return charged,
        }
    }
}

/// One range, and the charge of its bytes.
///
/// # Errors
/// What charging and reading give.
pub async fn read_one(host: &impl Host, range: Range<u64>) -> Result<(Bytes, Charge)> {
    let charge = charge(host, range.end - range.start).await?;
    let mut read = host.read(std::slice::from_ref(&range)).await?;
    Ok((read.pop().expect("one range was asked for"), charge))
}

/// A file in memory, whose look-ups do all their work in line: their futures are ready at once.
pub struct InMemory {
    bytes: Bytes,
    bytes_read: Cell<u64>,
    began: Instant,
    memory: Account,
}

impl InMemory {
    /// The file of these bytes.
    pub fn new(bytes: impl Into<Bytes>) -> InMemory {
        InMemory {
            bytes: bytes.into(),
            bytes_read: Cell::new(0),
            began: Instant::now(),
            memory: Account::default(),
        }
    }

    /// The same file for a look-up that may hold what this account does.
    #[must_use]
    pub fn with_memory(self, memory: Account) -> InMemory {
        InMemory { memory, ..self }
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

    fn memory(&self) -> &Account {
        &self.memory
    }

    fn pause(&self) -> impl Future<Output = ()> {
        std::future::ready(())
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

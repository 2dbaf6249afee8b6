//! What was asked of the under-stores, per mount, for the operator.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::UnderStoreErrorKind;
use super::limits::lock;
use super::listing::NameCounts;

/// Kinds of errors, in the order in which they are counted.
const KINDS: [UnderStoreErrorKind; 6] = [
    UnderStoreErrorKind::NotFound,
    UnderStoreErrorKind::VersionChanged,
    UnderStoreErrorKind::Denied,
    UnderStoreErrorKind::Unavailable,
    UnderStoreErrorKind::Malformed,
    UnderStoreErrorKind::Invalid,
];

/// Longest latency that is told apart, in microseconds: ten minutes.
const LATENCY_US_MAX: u64 = 600_000_000;

/// Running counts of one mount.
#[derive(Debug)]
pub(crate) struct MountCounters {
    requests: AtomicU64,
    bytes: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_from_writes: AtomicU64,
    headers_dropped: AtomicU64,
    retries: AtomicU64,
    errors: [AtomicU64; KINDS.len()],
    /// Of directories that were listed.
    pub names: NameCounts,
    latency_us: Mutex<Histogram<u64>>,
}

/// Counts of one mount at one time.
#[derive(Clone, Debug)]
pub struct MountCounts {
    /// Path of the mount.
    pub mount: String,
    /// Requests sent, retries included.
    pub requests: u64,
    /// Bytes received.
    pub bytes: u64,
    /// Bytes sent in the bodies of writes.
    pub bytes_sent: u64,
    /// Bytes that went from writes into the cache and were not asked for.
    pub bytes_from_writes: u64,
    /// Objects that are served without their headers, which have more than 8 KiB.
    pub headers_dropped: u64,
    /// Requests that repeated a failed one.
    pub retries: u64,
    /// Jobs and listings that ended in an error, by its kind.
    pub errors: Vec<(UnderStoreErrorKind, u64)>,
    /// Names in directories that the file system gave for listings.
    pub names_read: u64,
    /// Names that are left out of listings: not UTF-8, not addressable, or not to be looked at.
    pub names_skipped: u64,
    /// Requests in flight.
    pub in_flight: usize,
    /// Microseconds from sending a request to its last byte or failure.
    pub latency_us: Histogram<u64>,
}

impl MountCounters {
    /// All zero.
    pub fn new() -> Self {
        MountCounters {
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            bytes_from_writes: AtomicU64::new(0),
            headers_dropped: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            errors: Default::default(),
            names: NameCounts::default(),
            latency_us: Mutex::new(
                Histogram::new_with_bounds(1, LATENCY_US_MAX, 2).expect("the bounds are in order"),
            ),
        }
    }

    /// A request was sent.
    pub fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// A request ended after `latency`.
    pub fn ended(&self, latency: Duration) {
        let latency_us = latency.as_micros().min(u128::from(LATENCY_US_MAX)) as u64;
        lock(&self.latency_us).saturating_record(latency_us.max(1));
    }

    /// A request is going to be repeated.
    pub fn retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes arrived.
    pub fn received(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of a write were handed over.
    pub fn sent(&self, bytes: u64) {
        self.bytes_sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes went from a write into the cache.
    pub fn spared(&self, bytes: u64) {
        self.bytes_from_writes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// An object has more headers than are kept.
    pub fn headers_dropped(&self) {
        self.headers_dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// A job ended in an error.
    pub fn error(&self, kind: UnderStoreErrorKind) {
        let index = KINDS
            .iter()
            .position(|known| *known == kind)
            .expect("every kind is listed");
        self.errors[index].fetch_add(1, Ordering::Relaxed);
    }

    /// The counts as they are now.
    pub fn read(&self, mount: &str, in_flight: usize) -> MountCounts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MountCounts {
            mount: mount.to_owned(),
            requests: count(&self.requests),
            bytes: count(&self.bytes),
            bytes_sent: count(&self.bytes_sent),
            bytes_from_writes: count(&self.bytes_from_writes),
            headers_dropped: count(&self.headers_dropped),
            retries: count(&self.retries),
            errors: KINDS
                .into_iter()
                .zip(self.errors.iter().map(count))
                .collect(),
            names_read: count(&self.names.read),
            names_skipped: count(&self.names.skipped),
            in_flight,
            latency_us: lock(&self.latency_us).clone(),
        }
    }
}

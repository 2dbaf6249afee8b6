//! Limits on what leaves for the under-stores: requests in flight and bytes a second.
//!
//! Both can be changed while requests wait for them.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Longest sleep of a waiter for bytes, so that a raised limit is noticed.
const BYTE_WAIT_SLICE: Duration = Duration::from_millis(50);

/// Bytes that may be read at once after an idle time, in seconds of the rate.
const BURST_SECONDS: f64 = 0.1;

/// A limit on requests in flight; waiters are served in order.
#[derive(Debug)]
pub(crate) struct Gate {
    semaphore: Arc<Semaphore>,
    limit: Mutex<usize>,
    entered: Arc<AtomicUsize>,
}

/// The right to have one request in flight.
#[derive(Debug)]
pub(crate) struct Pass {
    _permit: OwnedSemaphorePermit,
    entered: Arc<AtomicUsize>,
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.entered.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    /// A gate for `limit` requests; at least one.
    pub fn new(limit: usize) -> Self {
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
        Gate {
            semaphore: Arc::new(Semaphore::new(limit)),
            limit: Mutex::new(limit),
            entered: Arc::default(),
        }
    }

    /// Waits for room.
    pub async fn enter(&self) -> Pass {
        let permit = Arc::clone(&self.semaphore).acquire_owned().await;
        self.entered.fetch_add(1, Ordering::Relaxed);
        Pass {
            _permit: permit.expect("a gate is never closed"),
            entered: Arc::clone(&self.entered),
        }
    }

    /// Requests in flight now.
    pub fn in_flight(&self) -> usize {
        self.entered.load(Ordering::Relaxed)
    }

    /// Changes the limit. A smaller one holds once enough of the requests in flight have ended.
    /// Called on a thread of a tokio runtime.
    pub fn set_limit(&self, limit: usize) {
        let limit = limit.clamp(1, Semaphore::MAX_PERMITS);
        let mut current = lock(&self.limit);
        if limit > *current {
            self.semaphore.add_permits(limit - *current);
        } else if limit < *current {
            let surplus = (*current - limit) as u32;
            let semaphore = Arc::clone(&self.semaphore);
            tokio::spawn(async move {
                if let Ok(permits) = semaphore.acquire_many_owned(surplus).await {
                    permits.forget();
                }
            });
        }
        *current = limit;
    }
}

/// A limit on bytes a second: a token bucket that may go into debt, so that a chunk larger than
/// the bucket passes and the next ones wait for it.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// Zero is no limit.
    bytes_per_second: AtomicU64,
    level: Mutex<Level>,
}

#[derive(Debug)]
struct Level {
    bytes: f64,
    filled_at: Instant,
}

impl Bucket {
    /// A bucket of `bytes_per_second`; zero is no limit.
    pub fn new(bytes_per_second: u64) -> Self {
        Bucket {
            bytes_per_second: AtomicU64::new(bytes_per_second),
            level: Mutex::new(Level {
                bytes: bytes_per_second as f64 * BURST_SECONDS,
                filled_at: Instant::now(),
            }),
        }
    }

    /// Changes the rate, also for those that wait.
    pub fn set_rate(&self, bytes_per_second: u64) {
        self.bytes_per_second
            .store(bytes_per_second, Ordering::Relaxed);
    }

    /// Waits until `bytes` may be read, and returns for how long that was.
    pub async fn take(&self, bytes: u64) -> Duration {
        let mut waited = Duration::ZERO;
        while let Some(wait) = self.try_take(bytes) {
            let wait = wait.min(BYTE_WAIT_SLICE);
            tokio::time::sleep(wait).await;
            waited += wait;
        }
        waited
    }

    /// Takes the bytes, or says after how long to try again.
    fn try_take(&self, bytes: u64) -> Option<Duration> {
        let rate = self.bytes_per_second.load(Ordering::Relaxed) as f64;
        if rate == 0.0 {
            return None;
        }
        let mut level = lock(&self.level);
        let now = Instant::now();
        let gained = rate * now.duration_since(level.filled_at).as_secs_f64();
        level.bytes = (level.bytes + gained).min(rate * BURST_SECONDS);
        level.filled_at = now;
        if level.bytes >= 0.0 {
            level.bytes -= bytes as f64;
            return None;
        }
        Some(Duration::from_secs_f64(
            (-level.bytes / rate).clamp(0.001, 60.0),
        ))
    }
}

/// Locks; a panic elsewhere left plain numbers behind, which stay usable.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_chunk_passes_and_the_next_one_waits_for_it() {
        let bucket = Bucket::new(1000);
        assert_eq!(bucket.try_take(5000), None);
        let wait = bucket.try_take(1).expect("in debt");
        assert!(
            wait > Duration::from_secs(4) && wait < Duration::from_secs(6),
            "{wait:?}"
        );
        bucket.set_rate(0);
        assert_eq!(bucket.try_take(1 << 40), None);
    }

    #[tokio::test]
    async fn a_gate_lets_in_as_many_as_its_limit_also_after_a_change() {
        let gate = Gate::new(2);
        let (first, second) = (gate.enter().await, gate.enter().await);
        assert_eq!(gate.in_flight(), 2);
        gate.set_limit(1);
        drop(first);
        tokio::task::yield_now().await;
        assert!(
            gate.semaphore.available_permits() == 0,
            "one is in flight, one may be"
        );
        drop(second);
        let third = gate.enter().await;
        gate.set_limit(3);
        assert_eq!(gate.semaphore.available_permits(), 2);
        drop(third);
        assert_eq!(gate.in_flight(), 0);
    }
}

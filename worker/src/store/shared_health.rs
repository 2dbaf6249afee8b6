//! What the shards of a worker find out about its devices and have to act on together.
//!
//! The invariant: a device that one shard took out gets no superblock from another, and no shard
//! believes a flush of it. So a device whose superblock is as new as the set's has every mark.
//! See `docs/decisions/0012-failed-flushes-and-missed-marks.md`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use corelane_io::Io;

use super::superblock::DEVICES_MAX;

/// Time between two attempts to take the superblocks: they are written a few times in a life, and
/// a flush takes as long.
const LOCK_RETRY: Duration = Duration::from_micros(200);

const _: () = assert!(DEVICES_MAX as u32 <= u64::BITS);

/// Health of the devices of a worker. Clones share it: the shards of a worker have one.
#[derive(Clone, Debug, Default)]
pub struct SharedHealth(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Devices that are taken out or missing, one bit an ordinal.
    out: AtomicU64,
    /// Why, for those of `out` that a shard took out.
    reasons: Mutex<BTreeMap<u16, String>>,
    /// Marks were written since the start, and the superblocks have a number for it.
    is_noted: AtomicBool,
    /// Devices of which the superblocks of the others say that they lack marks.
    lacking: AtomicU64,
    /// Superblocks are being read and written.
    is_locked: AtomicBool,
}

/// The right to write superblocks.
#[derive(Debug)]
pub(super) struct SuperblockLock(Arc<Shared>);

impl Drop for SuperblockLock {
    fn drop(&mut self) {
        self.0.is_locked.store(false, Ordering::Release);
    }
}

/// The bit of a device.
pub(super) fn bit(ordinal: u16) -> u64 {
    1 << ordinal
}

impl SharedHealth {
    /// Takes a device out for all shards. The first reason stays.
    pub(super) fn take_out(&self, ordinal: u16, reason: &str) {
        let mut reasons = self.reasons();
        reasons.entry(ordinal).or_insert_with(|| reason.to_owned());
        drop(reasons);
        self.0.out.fetch_or(bit(ordinal), Ordering::SeqCst);
    }

    /// Whether a shard took the device out, or did not find it.
    pub(super) fn is_out(&self, ordinal: u16) -> bool {
        self.0.out.load(Ordering::SeqCst) & bit(ordinal) != 0
    }

    /// Why the device is out.
    pub(super) fn reason(&self, ordinal: u16) -> Option<String> {
        self.reasons().get(&ordinal).cloned()
    }

    fn reasons(&self) -> std::sync::MutexGuard<'_, BTreeMap<u16, String>> {
        let reasons = self.0.reasons.lock();
        reasons.unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the superblocks say that marks were written since the start, and that the devices in
    /// `missed` lack some.
    pub(super) fn is_noted(&self, missed: u64) -> bool {
        self.0.is_noted.load(Ordering::SeqCst)
            && missed & !self.0.lacking.load(Ordering::SeqCst) == 0
    }

    /// The superblocks say so now.
    pub(super) fn note(&self, missed: u64) {
        self.0.lacking.fetch_or(missed, Ordering::SeqCst);
        self.0.is_noted.store(true, Ordering::SeqCst);
    }

    /// Waits for the right to write superblocks.
    pub(super) async fn lock<I: Io>(&self, io: &I) -> SuperblockLock {
        while self.0.is_locked.swap(true, Ordering::Acquire) {
            io.sleep(LOCK_RETRY).await;
        }
        SuperblockLock(Arc::clone(&self.0))
    }
}

//! How much was written to each device, by all shards of a process together.
//!
//! The superblocks hold the sum as of the last time that shard 0 wrote them: at the start, whenever
//! [`BYTES_BEHIND_MAX`] more were written, and at the end. A kill loses what was written since: at most that
//! and what [`PERIOD`] takes.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use corelane_io::Io;

use super::Inner;
use super::superblock::DEVICES_MAX;

/// How often shard 0 looks at what was written. Shorter is more exact and wakes an idle core more often.
const PERIOD: Duration = Duration::from_secs(1);

/// Bytes written to a device after which its superblock is written again: a page and a flush for each
/// 64 MiB, at most one a second.
const BYTES_BEHIND_MAX: u64 = 64 << 20;

/// Rounds of [`PERIOD`] after which anything written is noted: ten minutes.
const ROUNDS_BEHIND_MAX: u32 = 600;

/// What all shards of a process do to each device, by ordinal. Clones count together: the shards of a
/// worker have one, and by it know what the superblocks call their worker.
#[derive(Clone, Debug)]
pub struct Wear {
    /// Bytes written since the process started.
    bytes: Arc<[AtomicU64]>,
    /// Shards that marked all of their free regions.
    marked: Arc<[AtomicU16]>,
    owner: Arc<AtomicU64>,
}

impl Default for Wear {
    fn default() -> Self {
        Wear {
            bytes: (0..DEVICES_MAX).map(|_| AtomicU64::new(0)).collect(),
            marked: (0..DEVICES_MAX).map(|_| AtomicU16::new(0)).collect(),
            owner: Arc::default(),
        }
    }
}

impl Wear {
    pub(super) fn add(&self, ordinal: u16, bytes: u64) {
        self.bytes[usize::from(ordinal)].fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self, ordinal: u16) -> u64 {
        self.bytes[usize::from(ordinal)].load(Ordering::Relaxed)
    }

    /// The owner that the superblocks name from this start on; zero before shard 0 has counted it.
    pub(super) fn owner(&self) -> u64 {
        self.owner.load(Ordering::Relaxed)
    }

    pub(super) fn set_owner(&self, owner: u64) {
        self.owner.store(owner, Ordering::Relaxed);
    }

    /// Counts a shard all of whose free regions say so on the device.
    pub(super) fn note_marked(&self, ordinal: u16) {
        self.marked[usize::from(ordinal)].fetch_add(1, Ordering::Release);
    }

    /// How many shards did [`Wear::note_marked`].
    pub(super) fn shards_marked(&self, ordinal: u16) -> u16 {
        self.marked[usize::from(ordinal)].load(Ordering::Acquire)
    }
}

impl<I: Io> Inner<I> {
    /// Brings the superblocks up to date as bytes are written. Shard 0 only.
    pub(super) async fn note_wear(self: Rc<Self>) {
        let wear = &self.config.wear;
        let ordinals = || {
            self.devices
                .iter()
                .flatten()
                .map(|device| device.superblock.ordinal)
        };
        let written = || -> Vec<(u64, u16)> {
            let of = |ordinal| (wear.bytes(ordinal), wear.shards_marked(ordinal));
            ordinals().map(of).collect()
        };
        let (mut noted, mut rounds) = (written(), 0);
        loop {
            self.io.sleep(PERIOD).await;
            if self.stopping.get() {
                return;
            }
            let now = written();
            rounds += 1;
            let is_far_behind = now
                .iter()
                .zip(&noted)
                .any(|(now, noted)| now.0 - noted.0 >= BYTES_BEHIND_MAX || now.1 != noted.1);
            if is_far_behind || rounds >= ROUNDS_BEHIND_MAX && now != noted {
                // The error is counted; the next time may do better.
                let _ = self.write_superblocks().await;
                // What the superblocks themselves took is not worth another round.
                noted = written();
                rounds = 0;
            }
        }
    }
}

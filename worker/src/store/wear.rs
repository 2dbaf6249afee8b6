//! How much was written to each device, by all shards of a process together.
//!
//! The superblocks hold the sum as of the last time that shard 0 wrote them: at the start, from time
//! to time, and at the end. What was written after that and before a crash is not in it.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use corelane_io::Io;

use super::Inner;
use super::superblock::DEVICES_MAX;

/// How far the superblocks may be behind while the worker writes.
const PERIOD: Duration = Duration::from_secs(600);

/// Bytes written since the process started, by ordinal of the device. Clones count together: the
/// shards of a worker have one, and by it know what the superblocks call their worker.
#[derive(Clone, Debug)]
pub struct Wear {
    bytes: Arc<[AtomicU64]>,
    owner: Arc<AtomicU64>,
}

impl Default for Wear {
    fn default() -> Self {
        Wear {
            bytes: (0..DEVICES_MAX).map(|_| AtomicU64::new(0)).collect(),
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
}

impl<I: Io> Inner<I> {
    /// Brings the superblocks up to date from time to time, if something was written. Shard 0 only.
    pub(super) async fn note_wear(self: Rc<Self>) {
        let all = || -> u64 {
            let devices = self.devices.iter().flatten();
            let wear = &self.config.wear;
            devices
                .map(|device| wear.bytes(device.superblock.ordinal))
                .sum()
        };
        let mut noted = all();
        loop {
            self.io.sleep(PERIOD).await;
            if self.stopping.get() {
                return;
            }
            if all() != noted {
                // The error is counted; the next time may do better.
                let _ = self.write_superblocks().await;
                noted = all();
            }
        }
    }
}

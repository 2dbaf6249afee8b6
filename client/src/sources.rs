//! Where the bytes of a read came from.

use corelane_rpc_schema::frame::ReadSource;

/// Bytes by where the worker had them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// From the DRAM tier.
    pub dram: u64,
    /// From the device.
    pub device: u64,
    /// From the under-store: misses.
    pub under_store: u64,
}

impl Sources {
    pub(crate) fn add(&mut self, source: ReadSource, bytes: usize) {
        let sum = match source {
            ReadSource::Dram => &mut self.dram,
            ReadSource::Device => &mut self.device,
            ReadSource::UnderStore => &mut self.under_store,
        };
        *sum += bytes as u64;
    }

    /// All bytes.
    pub fn total(&self) -> u64 {
        self.dram + self.device + self.under_store
    }
}

impl std::ops::AddAssign for Sources {
    fn add_assign(&mut self, other: Sources) {
        self.dram += other.dram;
        self.device += other.device;
        self.under_store += other.under_store;
    }
}

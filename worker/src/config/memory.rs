//! The memory budget: what a device's index and checksums take, and what is left for the DRAM tier.

use corelane_rpc_schema::PAGE_BYTES;

use super::quantity::show_size;

/// Bytes of index a block, at most. Measured by `index_bytes_per_block` of the gate.
pub const INDEX_BYTES_PER_BLOCK: u64 = 48;

/// Bytes of checksum a page.
pub const CHECKSUM_BYTES_PER_PAGE: u64 = 4;

/// Least DRAM tier of a shard: a few fills and answers in flight, of the largest block each.
pub const TIER_BYTES_MIN: u64 = 32 << 20;

/// What a shard's part of the devices needs in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Blocks that the index has room for.
    pub blocks: u64,
    /// Bytes of the index.
    pub index_bytes: u64,
    /// Bytes of the checksums.
    pub checksum_bytes: u64,
}

/// A budget that was divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySplit {
    /// What index and checksums take.
    pub need: MemoryNeed,
    /// What is left for frames.
    pub tier_bytes: u64,
}

/// What does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverBudget {
    /// The shard's budget.
    pub budget_bytes: u64,
    /// What it would have to be.
    pub needed_bytes: u64,
    /// Of the need, index and checksums.
    pub need: MemoryNeed,
}

impl std::fmt::Display for OverBudget {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "a memory budget of {} a shard is too small: the index takes {}, the checksums {} and the DRAM \
             tier at least {}; set `dram` to {} times the number of cores, or use a smaller device",
            show_size(self.budget_bytes),
            show_size(self.need.index_bytes),
            show_size(self.need.checksum_bytes),
            show_size(TIER_BYTES_MIN),
            show_size(self.needed_bytes),
        )
    }
}

impl std::error::Error for OverBudget {}

impl MemoryNeed {
    /// What `device_bytes` of one shard's devices need when blocks are `block_bytes` on average.
    /// Checksums are kept for every page of the regions.
    ///
    /// # Panics
    /// If `block_bytes` is zero.
    pub fn of_device(device_bytes: u64, block_bytes: u32) -> Self {
        let blocks = device_bytes.div_ceil(u64::from(block_bytes));
        let pages = device_bytes.div_ceil(u64::from(PAGE_BYTES));
        MemoryNeed {
            blocks,
            index_bytes: blocks * INDEX_BYTES_PER_BLOCK,
            checksum_bytes: pages * CHECKSUM_BYTES_PER_PAGE,
        }
    }

    /// Divides a shard's `budget_bytes` between this need and the DRAM tier.
    ///
    /// # Errors
    /// With the number needed, when the tier would be smaller than [`TIER_BYTES_MIN`].
    pub fn split(self, budget_bytes: u64) -> Result<MemorySplit, OverBudget> {
        let fixed = self.index_bytes + self.checksum_bytes;
        let needed_bytes = fixed + TIER_BYTES_MIN;
        if budget_bytes < needed_bytes {
            // Rounded up to whole MiB, the number is one that can be written into the file.
            let needed_bytes = needed_bytes.next_multiple_of(1 << 20);
            return Err(OverBudget {
                budget_bytes,
                needed_bytes,
                need: self,
            });
        }
        Ok(MemorySplit {
            need: self,
            tier_bytes: budget_bytes - fixed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terabyte_of_megabyte_blocks_needs_a_gibibyte_of_checksums() {
        let need = MemoryNeed::of_device(1 << 40, 1 << 20);
        assert_eq!((need.blocks, need.index_bytes), (1 << 20, 48 << 20));
        assert_eq!(need.checksum_bytes, 1 << 30);
    }

    #[test]
    fn a_refusal_names_a_number_that_is_then_accepted() {
        let need = MemoryNeed::of_device(100 << 30, 1 << 20);
        let refusal = need.split(64 << 20).expect_err("too small");
        assert!(need.split(refusal.needed_bytes - (1 << 20)).is_err());
        let split = need
            .split(refusal.needed_bytes)
            .expect("the number that was named");
        assert!(split.tier_bytes >= TIER_BYTES_MIN);
        let text = refusal.to_string();
        assert!(text.contains(&show_size(refusal.needed_bytes)), "{text}");
    }
}

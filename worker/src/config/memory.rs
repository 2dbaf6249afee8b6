//! The memory budget: everything that a shard allocates of its part of `dram`.
//!
//! Index, checksums and queues follow from the devices and the shards; buffers and object metadata
//! are shares of the budget with an upper bound; the DRAM tier gets the rest. The invariant: the
//! parts together never exceed the budget, and a budget that is refused comes with one that is not.
//!
//! Not in that budget: the records of objects on the device, whose number nobody knows beforehand
//! (`object_bytes` of `/metrics` shows what they take), and what [`ProcessMemory`] lists beside it.

use corelane_rpc_schema::{PAGE_BYTES, READ_BYTES_MAX};

use super::Config;
use super::quantity::show_size;
use crate::cache::frames::FRAME_BYTES;
use crate::cache::index::Index;
use crate::control_plane::traffic;
use crate::s3_face::gateway::{ANSWERS_BYTES_MAX, BODIES_BYTES_MAX};
use crate::shard::Tuning;
use crate::shard::known::OBJECT_BYTES;
use crate::shard::look_up;
use crate::under_store::just_written;

/// Bytes of checksum a page.
pub const CHECKSUM_BYTES_PER_PAGE: u64 = 4;

/// Least DRAM tier of a shard: two blocks of the largest size, one that is fetched and one that is
/// answered.
pub const TIER_BYTES_MIN: u64 = 32 << 20;

/// Least blocks that the index of a shard has room for.
const INDEX_BLOCKS_MIN: u64 = 1 << 14;

/// Bytes a block of what is as long as the index: a fingerprint each for the admission by second
/// touch (up to the next power of two) and for the ghost of reclaim.
const FINGERPRINT_BYTES: u64 = 4;

/// What a region costs in memory, its checksums aside.
const REGION_BYTES: u64 = 192;

/// What a frame of the tier costs beside its memory: slot, place in the table, policy, ghost.
const TIER_FRAME_OVERHEAD_BYTES: u64 = 512;

/// Metadata of an object in memory: its names, version, headers and places in the tables. Where these are longer,
/// fewer objects are remembered in the same bytes.
const METADATA_BYTES_PER_OBJECT: u64 = OBJECT_BYTES as u64;

/// Shares of a small budget, one part in so many. What they bound is bounded by [`Tuning`] too,
/// which is reached with 256 MiB a shard (metadata: with 8 GiB).
const PAGE_FRAMES_SHARE: u64 = 16;
const READ_FRAMES_SHARE: u64 = 16;
const METADATA_SHARE: u64 = 32;

/// What a shard's part of the devices needs in memory, whatever the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Blocks that the devices hold, all of the size given.
    pub blocks: u64,
    /// Blocks that the index has room for.
    pub index_blocks: u64,
    /// Bytes of the index and what is as long as it.
    pub index_bytes: u64,
    /// Bytes of the checksums.
    pub checksum_bytes: u64,
    /// Bytes of receive buffers, and of queues from and to other threads.
    pub queue_bytes: u64,
}

/// A budget that was divided.
#[derive(Clone, Copy, Debug)]
pub struct MemorySplit {
    /// The tuning with sizes that fit the budget.
    pub tuning: Tuning,
    /// What buffers and metadata take.
    pub buffer_bytes: u64,
    /// What is left for frames of the tier, their management aside.
    pub tier_bytes: u64,
}

/// What does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverBudget {
    /// Shards that share `dram`.
    pub shards: u64,
    /// The shard's budget.
    pub budget_bytes: u64,
    /// What it would have to be.
    pub needed_bytes: u64,
    /// Of it, buffers and metadata.
    pub buffer_bytes: u64,
    /// Of it, what follows from the devices.
    pub need: MemoryNeed,
}

impl std::fmt::Display for OverBudget {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "a memory budget of {} a shard is too small by {} bytes: index {}, checksums {}, buffers \
             and metadata {}, and a DRAM tier of at least {}; set `dram` to {} or more ({} for each of \
             {} `cores`), name fewer `cores`, or use smaller `devices`",
            show_size(self.budget_bytes),
            self.needed_bytes - self.budget_bytes,
            whole(self.need.index_bytes),
            whole(self.need.checksum_bytes),
            whole(self.buffer_bytes + self.need.queue_bytes),
            show_size(TIER_BYTES_MIN),
            show_size(self.needed_bytes * self.shards),
            show_size(self.needed_bytes),
            self.shards,
        )
    }
}

impl std::error::Error for OverBudget {}

/// In whole MiB, rounded up.
fn whole(bytes: u64) -> String {
    show_size(bytes.next_multiple_of(1 << 20))
}

impl MemoryNeed {
    /// What one of `shards` shards needs for `device_bytes` of devices in regions of
    /// `region_bytes`, when blocks are `block_bytes` on average, besides `queue_bytes`.
    ///
    /// # Panics
    /// If `shards`, `region_bytes` or `block_bytes` is zero.
    pub fn of_shard(
        device_bytes: u64,
        region_bytes: u32,
        shards: u64,
        block_bytes: u32,
        queue_bytes: u64,
    ) -> Self {
        let own_bytes = device_bytes.div_ceil(shards);
        let blocks = own_bytes.div_ceil(u64::from(block_bytes));
        // Files shorter than a block take an entry each, too, so the index has room for twice as
        // many; when it is full, reclaim makes room as on a full device.
        let index_blocks = (blocks * 2).max(INDEX_BLOCKS_MIN);
        let fingerprints = index_blocks.next_power_of_two() + index_blocks;
        // Every shard knows every region; checksums it keeps for its own.
        let regions = device_bytes.div_ceil(u64::from(region_bytes));
        let pages = own_bytes.div_ceil(u64::from(PAGE_BYTES));
        MemoryNeed {
            blocks,
            index_blocks,
            index_bytes: Index::bytes_for(index_blocks as usize) as u64
                + fingerprints * FINGERPRINT_BYTES,
            checksum_bytes: pages * CHECKSUM_BYTES_PER_PAGE + regions * REGION_BYTES,
            queue_bytes,
        }
    }

    /// Divides the `budget_bytes` of each of `shards` shards. `tuning` says how large the parts
    /// that are shares of the budget are at the most.
    ///
    /// # Errors
    /// With the number needed, when the tier would be smaller than [`TIER_BYTES_MIN`].
    pub fn split(
        self,
        budget_bytes: u64,
        shards: u64,
        tuning: &Tuning,
    ) -> Result<MemorySplit, OverBudget> {
        if let Some(split) = self.try_split(budget_bytes, tuning) {
            return Ok(split);
        }
        // Some parts grow with the budget, so the least one that fits is looked for, in whole MiB:
        // a number that can be written into the file.
        let (mut refused, mut accepted) = (budget_bytes >> 20, (budget_bytes >> 20).max(1) * 2);
        while self.try_split(accepted << 20, tuning).is_none() {
            (refused, accepted) = (accepted, accepted * 2);
        }
        while refused + 1 < accepted {
            let between = refused.midpoint(accepted);
            match self.try_split(between << 20, tuning) {
                Some(_) => accepted = between,
                None => refused = between,
            }
        }
        let needed_bytes = accepted << 20;
        let split = self.try_split(needed_bytes, tuning);
        Err(OverBudget {
            shards,
            budget_bytes,
            needed_bytes,
            buffer_bytes: split.expect("it was accepted").buffer_bytes,
            need: self,
        })
    }

    fn try_split(self, budget_bytes: u64, tuning: &Tuning) -> Option<MemorySplit> {
        let tuning = sized(tuning, budget_bytes, self.index_blocks);
        let frame_bytes = FRAME_BYTES as u64;
        let buffer_bytes = tuning.page_frames as u64 * u64::from(PAGE_BYTES)
            + (tuning.read_frames + tuning.store_frames) as u64 * frame_bytes
            + tuning.metadata_objects as u64 * METADATA_BYTES_PER_OBJECT;
        let fixed = self.index_bytes + self.checksum_bytes + self.queue_bytes + buffer_bytes;
        let left = budget_bytes.checked_sub(fixed)?;
        let frames = left / (frame_bytes + TIER_FRAME_OVERHEAD_BYTES);
        let tier_bytes = frames * frame_bytes;
        (tier_bytes >= TIER_BYTES_MIN).then_some(MemorySplit {
            tuning,
            buffer_bytes,
            tier_bytes,
        })
    }
}

/// `tuning` with an index of `index_blocks`, and with buffers that suit a budget of `budget_bytes`.
fn sized(tuning: &Tuning, budget_bytes: u64, index_blocks: u64) -> Tuning {
    let share = |parts: u64, unit_bytes: u64, most: usize| {
        most.min((budget_bytes / parts / unit_bytes) as usize)
    };
    // One that does not begin with a frame touches one more.
    let longest_read = READ_BYTES_MAX as usize / FRAME_BYTES + 1;
    Tuning {
        index_blocks: index_blocks as usize,
        page_frames: share(PAGE_FRAMES_SHARE, u64::from(PAGE_BYTES), tuning.page_frames).max(1),
        read_frames: share(READ_FRAMES_SHARE, FRAME_BYTES as u64, tuning.read_frames)
            .max(longest_read),
        metadata_objects: share(
            METADATA_SHARE,
            METADATA_BYTES_PER_OBJECT,
            tuning.metadata_objects,
        )
        .max(1),
        ..*tuning
    }
}

/// Memory that the process may take, whatever its clients do: `--check-config` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessMemory {
    /// Configuration key or use, and its bytes.
    pub parts: Vec<(&'static str, u64)>,
}

/// Memory of the program itself: code, stacks, its threads' arenas, and open connections at work.
pub const PROGRAM_BYTES: u64 = 64 << 20;

impl ProcessMemory {
    /// What a configuration amounts to.
    pub fn of(config: &Config) -> Self {
        let shards = config.cores.len() as u64;
        let mut parts = vec![
            ("dram", config.dram_bytes),
            ("lookup_memory", config.lookup_bytes),
            ("lookup_working_memory", config.lookup_working_bytes),
            ("look-ups under way", shards * look_up::ALLOWANCES_BYTES),
            ("listing_memory", config.listing_bytes),
            ("control connections", traffic::TOTAL_BYTES_MAX),
        ];
        if config.s3.is_open() {
            parts.push(("bodies of S3 writers", BODIES_BYTES_MAX));
            parts.push(("answers to S3 listings", ANSWERS_BYTES_MAX));
            parts.push(("objects just written", just_written::TOTAL_BYTES_MAX));
        }
        parts.push(("program", PROGRAM_BYTES));
        ProcessMemory { parts }
    }

    /// All of it.
    pub fn total_bytes(&self) -> u64 {
        self.parts
            .iter()
            .fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }
}

impl std::fmt::Display for ProcessMemory {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<String> = self
            .parts
            .iter()
            .map(|(name, bytes)| format!("{name} {}", show_size(*bytes)))
            .collect();
        write!(
            formatter,
            "{} at most: {}",
            show_size(self.total_bytes()),
            parts.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(device_bytes: u64, shards: u64) -> MemoryNeed {
        MemoryNeed::of_shard(device_bytes, 64 << 20, shards, 1 << 20, 9 << 20)
    }

    fn total(need: &MemoryNeed, split: &MemorySplit) -> u64 {
        let frames = split.tier_bytes / FRAME_BYTES as u64;
        need.index_bytes
            + need.checksum_bytes
            + need.queue_bytes
            + split.buffer_bytes
            + split.tier_bytes
            + frames * TIER_FRAME_OVERHEAD_BYTES
    }

    #[test]
    fn a_terabyte_of_megabyte_blocks_needs_a_gibibyte_of_checksums() {
        let need = need(1 << 40, 1);
        assert_eq!((need.blocks, need.index_blocks), (1 << 20, 2 << 20));
        assert_eq!(need.checksum_bytes >> 20, (1 << 10) + 3);
        let per_block = need.index_bytes as f64 / need.index_blocks as f64;
        assert!((45.0..55.0).contains(&per_block), "{per_block}");
    }

    #[test]
    fn a_refusal_names_a_number_that_is_then_accepted_and_none_smaller_is() {
        let tuning = Tuning::default();
        for (device_bytes, budget) in [(100 << 30, 64 << 20), (66 << 20, 1 << 20), (1 << 40, 999)] {
            let need = need(device_bytes, 2);
            let refusal = need.split(budget, 2, &tuning).expect_err("too small");
            assert!(
                need.split(refusal.needed_bytes - (1 << 20), 2, &tuning)
                    .is_err()
            );
            let split = need
                .split(refusal.needed_bytes, 2, &tuning)
                .expect("the number that was named");
            assert!(split.tier_bytes >= TIER_BYTES_MIN);
            let text = refusal.to_string();
            assert!(
                text.contains(&show_size(2 * refusal.needed_bytes)),
                "{text}"
            );
            let missing = format!("{} bytes", refusal.needed_bytes - budget);
            assert!(text.contains(&missing) && text.contains("`dram`"), "{text}");
        }
    }

    #[test]
    fn the_parts_never_exceed_the_budget_and_leave_little_of_it() {
        for mebibytes in [80, 100, 256, 1000, 5000, 100_000] {
            let (need, budget) = (need(1 << 30, 1), mebibytes << 20);
            let split = need.split(budget, 1, &Tuning::default()).expect("enough");
            let total = total(&need, &split);
            assert!(
                (budget - (1 << 17)..=budget).contains(&total),
                "{total} of {budget}"
            );
        }
    }

    #[test]
    fn a_large_budget_has_the_buffers_of_the_tuning_and_a_small_one_smaller_ones() {
        let tuning = Tuning::default();
        let of = |bytes| {
            need(1 << 30, 1)
                .split(bytes, 1, &tuning)
                .expect("enough")
                .tuning
        };
        let (large, small) = (of(8 << 30), of(80 << 20));
        assert_eq!(large.page_frames, tuning.page_frames);
        assert_eq!(large.read_frames, tuning.read_frames);
        assert_eq!(large.metadata_objects, tuning.metadata_objects);
        assert!(small.page_frames < tuning.page_frames / 2);
        assert!(small.read_frames * FRAME_BYTES >= READ_BYTES_MAX as usize);
    }

    #[test]
    fn the_memory_of_a_process_has_a_part_for_all_that_clients_can_make_it_hold() {
        let of = |more: &str| {
            let text =
                format!("cores = [0]\ndevices = [\"/nonexistent\"]\ndevice_size = \"8G\"\n{more}");
            let flags = crate::config::WorkerFlags::default();
            let config = Config::on_cpus(std::path::Path::new("w.toml"), &text, &flags, &[0]);
            ProcessMemory::of(&config.unwrap_or_else(|mistakes| panic!("{mistakes}")))
        };
        let (closed, open) = (of(""), of("[s3]\nanonymous = [\"read\"]\n"));
        assert_eq!(
            open.total_bytes() - closed.total_bytes(),
            BODIES_BYTES_MAX + ANSWERS_BYTES_MAX + just_written::TOTAL_BYTES_MAX
        );
        let control = ("control connections", traffic::TOTAL_BYTES_MAX);
        assert!(closed.parts.contains(&control), "{closed}");
    }
}

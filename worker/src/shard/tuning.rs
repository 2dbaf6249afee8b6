//! Sizes and deadlines of a shard: what each bounds, and why the default is what it is.

use std::time::Duration;

use corelane_rpc_schema::ShardId;

use super::look_up::LookupLimits;
use super::request::ShardLimits;
use crate::cache::policy::PolicyKind;
use crate::store::StoreConfig;

/// Sizes and deadlines. All memory that they name is taken at the start.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Policy of the DRAM tier.
    pub policy: PolicyKind,
    /// Fewest frames of the DRAM tier: a few blocks of the default size under way at once.
    pub tier_frames_min: usize,
    /// Single-page buffers for small device reads: as many as one core has in flight at the
    /// highest depth that pays (16 MiB).
    pub page_frames: usize,
    /// 64 KiB buffers for large device reads that bypass the tier (16 MiB).
    pub read_frames: usize,
    /// 64 KiB buffers of the store for summaries, footers and reclaim (8 MiB).
    pub store_frames: usize,
    /// Most blocks that the index has room for.
    pub index_blocks: usize,
    /// Unanswered requests a lane may have: at 4 KiB enough for the bandwidth-delay product of
    /// 100 Gbit/s at 80 µs.
    pub lane_requests_max: u32,
    /// Unanswered bytes a lane may have: two reads of the largest size, so that one is always
    /// under way while the other is sent.
    pub lane_bytes_max: u64,
    /// Most open lanes.
    pub lanes_max: usize,
    /// A client that takes no byte of its answers for so long is cut off.
    pub send_deadline: Duration,
    /// How often that is checked.
    pub lane_watch_interval: Duration,
    /// How long a stop waits for lanes to go.
    pub drain_deadline: Duration,
    /// How long a read waits for memory before it is answered "busy".
    pub memory_deadline: Duration,
    /// Share of the tier that unanswered reads of all lanes may pin, in percent: beyond it lanes
    /// are not read from until answers leave.
    pub pinned_percent_max: usize,
    /// Share of the tier that fills may hold, in percent: the rest keeps serving hits.
    pub fill_percent_max: usize,
    /// Objects whose readers are watched for sequences.
    pub read_ahead_objects: usize,
    /// Most bytes that are fetched ahead of a reader.
    pub read_ahead_bytes_max: u64,
    /// Objects whose metadata is kept by path and by id.
    pub metadata_objects: usize,
    /// What look-ups may take.
    pub lookup: LookupLimits,
    /// Extent size at which a flush starts without waiting for more.
    pub flush_bytes: usize,
    /// Age of an operation at which its device is taken out; zero: never.
    pub device_timeout: Duration,
    /// How long an admitted block waits for others to share its flush.
    pub flush_delay: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning {
            policy: PolicyKind::S3Fifo,
            tier_frames_min: 64,
            page_frames: 4096,
            read_frames: 256,
            store_frames: 128,
            index_blocks: 1 << 20,
            lane_requests_max: 256,
            lane_bytes_max: 8 << 20,
            lanes_max: 8192,
            send_deadline: Duration::from_secs(30),
            lane_watch_interval: Duration::from_secs(1),
            drain_deadline: Duration::from_secs(10),
            memory_deadline: Duration::from_secs(5),
            pinned_percent_max: 50,
            fill_percent_max: 50,
            read_ahead_objects: 1024,
            read_ahead_bytes_max: 16 << 20,
            metadata_objects: 1 << 18,
            lookup: LookupLimits::default(),
            flush_bytes: 2 << 20,
            flush_delay: Duration::from_millis(20),
            device_timeout: Duration::from_secs(60),
        }
    }
}

impl Tuning {
    /// What the store needs of it.
    pub fn store_config(&self, shard: ShardId, shards: u16, limits: ShardLimits) -> StoreConfig {
        StoreConfig {
            shard,
            shards,
            index_capacity: self.index_blocks,
            flush_bytes: self.flush_bytes,
            flush_delay: self.flush_delay,
            device_timeout: self.device_timeout,
            device_write_bytes_per_second: limits.device_write_bytes_per_second,
            scrub_bytes_per_second: limits.scrub_bytes_per_second,
            ..StoreConfig::default()
        }
    }
}

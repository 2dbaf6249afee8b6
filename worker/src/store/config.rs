//! What a store is told at start.

use std::time::Duration;

use corelane_rpc_schema::ShardId;

use super::shared_health::SharedHealth;
use super::wear::Wear;

/// Settings of one shard's store. The defaults suit one NVMe drive a core.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// This shard.
    pub shard: ShardId,
    /// Number of shards of the worker.
    pub shards: u16,
    /// Most blocks that the index holds; fixes its memory (45 bytes each).
    pub index_capacity: usize,
    /// Size at which an extent is written without waiting for more. Larger ones make fewer and
    /// longer writes; blocks are readable from the pending frames meanwhile.
    pub flush_bytes: usize,
    /// Longest time that a block waits for an extent to fill.
    pub flush_delay: Duration,
    /// Most bytes of appended blocks that wait to be written; beyond, `append` says busy.
    pub flush_bytes_in_flight: usize,
    /// Bytes a second written to all devices by this shard; 0: no limit.
    pub device_write_bytes_per_second: u64,
    /// Share of this shard's part of a device that may be pinned.
    pub pin_fraction_max: f64,
    /// Share of a device's regions that the small log may have before it is reclaimed first.
    pub small_log_fraction: f64,
    /// Bytes a second that the scrubber reads; 0: off.
    pub scrub_bytes_per_second: u64,
    /// Errors after which a device is taken out.
    pub device_errors_max: u32,
    /// Age of an operation at which its device is taken out; zero: never.
    pub device_timeout: Duration,
    /// Reads in flight during recovery, reclaim and scrub, one scratch frame each.
    pub reads_in_flight: usize,
    /// Whether regions are discarded (TRIM) when they become free. Off until a measurement on the
    /// drive at hand shows a gain.
    pub discard: bool,
    /// What all shards of the worker write.
    pub wear: Wear,
    /// What all shards of the worker know of its devices.
    pub health: SharedHealth,
}

impl StoreConfig {
    /// The defaults for shard `shard` of `shards` with an index for `index_capacity` blocks.
    pub fn new(shard: ShardId, shards: u16, index_capacity: usize) -> Self {
        StoreConfig {
            shard,
            shards,
            index_capacity,
            flush_bytes: 2 << 20,
            flush_delay: Duration::from_millis(20),
            flush_bytes_in_flight: 64 << 20,
            device_write_bytes_per_second: 0,
            pin_fraction_max: 0.8,
            small_log_fraction: 0.1,
            scrub_bytes_per_second: 0,
            device_errors_max: 16,
            device_timeout: Duration::from_secs(60),
            reads_in_flight: 16,
            discard: false,
            wear: Wear::default(),
            health: SharedHealth::default(),
        }
    }
}

impl Default for StoreConfig {
    /// The only shard of a worker, with an index for a million blocks (45 MB).
    fn default() -> Self {
        StoreConfig::new(ShardId(0), 1, 1_000_000)
    }
}

/// Geometry of a new store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatOptions {
    /// Bytes in a region: a multiple of the page, 1 MiB to 256 MiB.
    pub region_bytes: u32,
    /// Partitions of the worker: a power of two up to 1024.
    pub partitions: u32,
    /// Sixteen random bytes that name the set of devices and, with the ordinal, each device.
    pub set_uuid: [u8; 16],
}

impl FormatOptions {
    /// Regions of 64 MiB and 256 partitions.
    pub fn new(set_uuid: [u8; 16]) -> Self {
        FormatOptions {
            region_bytes: 64 << 20,
            partitions: 256,
            set_uuid,
        }
    }
}

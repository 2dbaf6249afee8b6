//! What the control plane asks of a shard. Requests come through a bounded inbox; each carries
//! the sender of its answer. A dropped answer means that the shard is stopping.

use std::sync::Arc;

use corelane_io::Doorbell;
use corelane_lookup::request::LookupRequest;
use corelane_rpc_schema::ObjectId;
use tokio::sync::oneshot;

use super::look_up::failure::LookupFailure;
use super::look_up::request::LookupAnswer;
use crate::access::Reader;
use crate::mount::{Mount, MountTable};
use crate::object::ObjectMeta;
use crate::under_store::UnderStoreError;

/// One request, with the place for its answer.
#[derive(Debug)]
pub enum ShardRequest {
    /// All shards are ready: accept lanes. The first letter a shard gets.
    Serve {
        /// Data port of each shard.
        ports: Arc<[u16]>,
        /// Starts of the device set so far.
        epoch: u64,
        /// Doorbell of each shard, for the mesh.
        doorbells: Vec<Arc<dyn Doorbell>>,
    },
    /// Every counter and gauge of the shard, by metric name (see `operations::metrics`).
    Stats {
        /// Gets them.
        answer: oneshot::Sender<ShardStats>,
    },
    /// The object at `path`, as fresh as its mount demands. Sent to any shard; it asks the home.
    Describe {
        /// Path in the worker's namespace.
        path: String,
        /// Gets the metadata.
        answer: oneshot::Sender<Result<Arc<ObjectMeta>, DescribeError>>,
    },
    /// What this shard holds of an object.
    Cached {
        /// The object.
        object: ObjectId,
        /// Number of blocks that the object has.
        blocks: u32,
        /// Bytes in a block.
        block_bytes: u32,
        /// Gets it.
        answer: oneshot::Sender<Cached>,
    },
    /// Objects of which this shard has a record, in order of URI, those after `after`.
    CachedObjects {
        /// Only those whose URI starts with this.
        uri_prefix: String,
        /// Only those whose URI is greater.
        after: String,
        /// At most so many.
        limit: usize,
        /// Gets them.
        answer: oneshot::Sender<Vec<(Arc<ObjectMeta>, Cached)>>,
    },
    /// An object was written or deleted by the S3 face: what was known of it is forgotten.
    /// Sent to all shards, in the order of the writes' numbers.
    Written {
        /// The write's number.
        number: u64,
        /// The mount.
        mount: Arc<Mount>,
        /// Path key of the object.
        path_key: Box<str>,
        /// Gets a note once nobody is answered from before any more.
        answer: oneshot::Sender<()>,
    },
    /// Objects of a mount may have been written: what was learned of them after the write `since` is
    /// forgotten. Sent to all shards, in the order of the writes' numbers.
    MountWritten {
        /// The write's number.
        number: u64,
        /// Number of the last write before the first that is meant.
        since: u64,
        /// The mount.
        mount: Arc<Mount>,
        /// What the path keys of its objects begin with.
        path_key_prefix: Box<str>,
        /// Gets a note once nobody is answered from before any more.
        answer: oneshot::Sender<()>,
    },
    /// The object at `path` was written a moment ago, and its bytes are at hand: this shard's blocks of
    /// it go into the cache, as if they had been read. Sent to all shards.
    BringIn {
        /// The mount.
        mount: Arc<Mount>,
        /// Path in the worker's namespace.
        path: String,
        /// Gets a note when no more blocks are going to be brought in.
        answer: oneshot::Sender<()>,
    },
    /// Brings all blocks of the object that this shard owns onto the device.
    Load {
        /// The object.
        object: Arc<ObjectMeta>,
        /// Gets the result when all are on the device or one failed.
        answer: oneshot::Sender<Result<Loaded, DescribeError>>,
    },
    /// Drops all blocks of the object that this shard holds, and remembers it over a restart.
    Free {
        /// The object.
        object: Arc<ObjectMeta>,
        /// Gets what was dropped, once that is durable, or why it is not: it may come back then.
        answer: oneshot::Sender<Result<Cached, String>>,
    },
    /// Exempts an object from eviction, or ends that.
    Pin {
        /// The object.
        object: Arc<ObjectMeta>,
        /// Whether to pin or to unpin.
        pinned: bool,
        /// Gets an error sentence when pins would take more of a device than allowed.
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// Makes sure that what was freed stays so on devices that are missing or were taken out.
    DistrustAbsentDevices {
        /// Gets the reason if it could not be made durable.
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// Reads and checks everything that this shard's devices hold of one object; what is wrong is dropped.
    Verify {
        /// The object.
        object: Arc<ObjectMeta>,
        /// Gets the counts.
        answer: oneshot::Sender<Verified>,
    },
    /// Bytes of an object, for the control plane's plain read. Sent to the owner of the stripe.
    Read {
        /// The object.
        object: Arc<ObjectMeta>,
        /// First byte.
        offset: u64,
        /// Bytes wanted, within one stripe and the object.
        length: u32,
        /// Gets the bytes.
        answer: oneshot::Sender<Result<Vec<u8>, DescribeError>>,
    },
    /// A look-up, as a reader may see it. Sent to any shard; it asks the homes of the objects.
    LookUp {
        /// What is asked.
        request: Box<LookupRequest>,
        /// Who asks.
        reader: Reader,
        /// Gets the rows.
        answer: oneshot::Sender<Result<LookupAnswer, LookupFailure>>,
    },
    /// The devices of this shard.
    Devices {
        /// Gets one entry a device.
        answer: oneshot::Sender<Vec<DeviceStats>>,
    },
    /// Replaces the mounts.
    SetMounts {
        /// The new table.
        mounts: Arc<MountTable>,
    },
    /// Replaces the limits that may change at run time.
    SetLimits {
        /// The new limits.
        limits: ShardLimits,
    },
    /// The slowest requests since the last call.
    Slow {
        /// Gets them, slowest first.
        answer: oneshot::Sender<Vec<SlowRequest>>,
    },
    /// Keeps a blob of state (run-time mounts, jobs) in the devices' state slots. Shard 0 only.
    SaveState {
        /// At most [`STATE_BYTES_MAX`](crate::store::STATE_BYTES_MAX) bytes.
        state: Vec<u8>,
        /// Gets an error sentence when it could not be written.
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// Stops accepting and lets the lanes finish; goes on answering the other shards.
    Drain {
        /// Gets a note when no lane is left, or the deadline has passed.
        answer: oneshot::Sender<()>,
    },
    /// Drains where that has not happened, flushes, and ends the shard. To be sent when all shards have
    /// drained: a lane of one may wait for an answer of another.
    Stop {
        /// Gets a note when everything is on the device.
        answer: oneshot::Sender<()>,
    },
}

/// Counters and gauges of a shard, by metric name.
#[derive(Clone, Debug, Default)]
pub struct ShardStats {
    /// Values, in the order in which they are to be shown.
    pub values: Vec<(&'static str, u64)>,
    /// Latency of reads by source (DRAM, device, under-store), microseconds: p50, p99, p99.9, count.
    pub latencies: Vec<(&'static str, [u64; 4])>,
}

/// What is cached of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cached {
    /// Blocks on the device.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether the object is pinned.
    pub pinned: bool,
}

/// What a load did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Bytes that were fetched and kept.
    pub bytes_fetched: u64,
    /// Bytes that were on the device already.
    pub bytes_skipped: u64,
    /// Bytes that were fetched but found no room on the device.
    pub bytes_not_kept: u64,
}

/// What a verification found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Blocks read and right.
    pub blocks_right: u64,
    /// Blocks that failed their checksum or could not be read, and were dropped.
    pub blocks_wrong: u64,
    /// Bytes read.
    pub bytes: u64,
}

/// A device as seen from one shard.
#[derive(Clone, Debug)]
pub struct DeviceStats {
    /// Where it is.
    pub path: String,
    /// Its uuid.
    pub uuid: String,
    /// Whether it takes I/O.
    pub healthy: bool,
    /// Why it is not used now: taken out, or it does not answer. Empty while it is.
    pub reason: String,
    /// Bytes of the whole device.
    pub bytes: u64,
    /// Live bytes of this shard's blocks.
    pub bytes_used: u64,
    /// Bytes that all shards wrote to it since format.
    pub bytes_written: u64,
    /// Regions that this shard owns.
    pub regions: u32,
    /// Of them, free.
    pub regions_free: u32,
}

/// Limits that may change while the worker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardLimits {
    /// Bytes a second that this shard may write to its devices; 0: no limit.
    pub device_write_bytes_per_second: u64,
    /// Bytes a second that the scrubber reads; 0: off.
    pub scrub_bytes_per_second: u64,
}

/// One slow request and where its time went.
#[derive(Clone, Debug)]
pub struct SlowRequest {
    /// Milliseconds since the Unix epoch when it arrived.
    pub at_ms: u64,
    /// Name that the client gave at hello.
    pub client: String,
    /// The object.
    pub object: ObjectId,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
    /// Where it was served from.
    pub source: &'static str,
    /// Microseconds from decode to the last byte queued.
    pub total_us: u64,
    /// Of them, waiting for the device.
    pub device_us: u64,
    /// Of them, waiting for the under-store.
    pub under_store_us: u64,
}

/// Why an object could not be described or read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DescribeError {
    /// No mount covers the path.
    #[error("no mount covers {0}; `corelane status` lists the mounts")]
    NoMount(String),
    /// There is no such object.
    #[error("{0}")]
    NotFound(String),
    /// The under-store is away or its answer is not usable.
    #[error("{0}")]
    Unavailable(String),
    /// The under-store's answer.
    #[error(transparent)]
    UnderStore(#[from] UnderStoreError),
    /// Too much is waiting.
    #[error("{0}; retry")]
    Busy(String),
    /// The worker's fault, or a request out of bounds.
    #[error("{0}")]
    Invalid(String),
}

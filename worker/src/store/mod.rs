//! The store of one shard: logs of regions on its devices, and the index of what they hold.
//!
//! Blocks are appended to open regions in extents, read back page by page and checked, and leave
//! when their region is reclaimed. See `docs/format.md` for the bytes and `worker/README.md` for
//! what a power cut leaves behind at each step.
//!
//! The invariant: an index entry points at pages that were written completely, in a region that
//! is not written again before the entry is gone and its reads have ended. Nothing leaves this
//! module that did not match its checksum.
//!
//! It must not know what a client, an under-store or a mount's policy is.

mod block;
mod config;
mod counters;
mod error;

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use corelane_io::{Frame, FrameLease, FramePool, Io};
use corelane_rpc_schema::{BlockId, ObjectId, ShardId};

pub use block::{BlockEntry, Held, NewBlock, PendingBlock};
pub use config::{FormatOptions, StoreConfig};
pub use counters::{Counter, StoreCounters};
pub use error::{MarkError, NotKept, ReadError, StoreError};

use crate::mount::{MountId, MountTable};
use crate::object::ObjectMeta;

/// Most bytes of state (run-time mounts and jobs) that the devices keep.
pub const STATE_BYTES_MAX: usize = 512 << 10;

/// A future of this core.
pub type LocalBoxFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// The other shards of the worker, as far as the store has to ask them.
pub trait Siblings {
    /// Resolves when shard `shard` has answered [`Store::release_region`] with these arguments:
    /// it reads nothing from the region any more. A shard that is still opening answers later.
    fn release(&self, shard: ShardId, device: u16, region: u32, sequence: u64) -> LocalBoxFuture<()>;
}

/// What recovery found and how long it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Starts of the worker since format, this one included; from the superblock. Shard 0 counts
    /// the start, the others may still see the count before.
    pub epoch: u64,
    /// Blocks in the index afterwards.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that they belong to.
    pub objects: u64,
    /// Regions with records of this shard.
    pub regions: u64,
    /// Regions without a valid footer, whose summaries were walked.
    pub regions_walked: u64,
    /// Block records without an object record, dropped.
    pub blocks_orphaned: u64,
    /// Block records that did not fit the index, dropped.
    pub blocks_not_fitting: u64,
    /// Bytes of metadata read.
    pub bytes_read: u64,
    /// Nanoseconds from first to last read.
    pub nanoseconds: u64,
}

/// A device as one shard sees it.
#[derive(Clone, Debug)]
pub struct DeviceStatus {
    /// Where it is.
    pub path: String,
    /// Its uuid, in hex.
    pub uuid: String,
    /// Whether it takes I/O.
    pub healthy: bool,
    /// Bytes of the whole device.
    pub bytes: u64,
    /// Bytes of this shard's blocks on it.
    pub bytes_used: u64,
    /// Of them, pinned.
    pub bytes_pinned: u64,
    /// Bytes written to it since format by all shards, as of the last superblock, and by this
    /// shard since then.
    pub bytes_written: u64,
    /// Regions that this shard owns.
    pub regions: u32,
    /// Of them, free.
    pub regions_free: u32,
}

/// The store of one shard. A handle: clones act on the same store.
pub struct Store<I: Io>(Rc<Inner<I>>);

impl<I: Io> Clone for Store<I> {
    fn clone(&self) -> Self {
        Store(Rc::clone(&self.0))
    }
}

struct Inner<I: Io> {
    io: I,
    counters: StoreCounters,
    config: StoreConfig,
    write_limit: Cell<u64>,
}

impl<I: Io> Store<I> {
    /// Opens the devices of a worker for one shard and rebuilds its index from their records.
    ///
    /// `devices` are all devices of the set, in any order. `scratch` lends frames of 64 KiB for
    /// summaries, footers and reclaim: at least eight. Recovered blocks carry [`MountId::NONE`]
    /// until [`Store::remap_mounts`] ran. Flush, reclaim and scrub tasks run on `io`.
    ///
    /// # Errors
    /// When a device is not of this store, the devices do not go together, there are too few
    /// regions for the shards, or none of the devices can be read.
    pub async fn open(
        io: I,
        config: StoreConfig,
        devices: Vec<I::Device>,
        scratch: FramePool,
        siblings: Rc<dyn Siblings>,
    ) -> Result<(Self, Recovery), StoreError> {
        let _ = (io, config, devices, scratch, siblings);
        unimplemented!()
    }

    /// Where `id` is, if it is on a device. Does not count as a use.
    #[inline]
    pub fn lookup(&self, id: BlockId) -> Option<BlockEntry> {
        let _ = id;
        unimplemented!()
    }

    /// Counts a use of `id`, so that reclaim keeps it longer.
    #[inline]
    pub fn touch(&self, id: BlockId) {
        let _ = id;
        unimplemented!()
    }

    /// The stored CRC-32C of page `page` of a block that [`Store::lookup`] just found or
    /// [`Store::read`] just read. Nothing may be awaited in between: the region may be written
    /// again then, and the answer would be of another block.
    ///
    /// # Panics
    /// If the entry reaches past its region.
    #[inline]
    pub fn checksum(&self, entry: &BlockEntry, page: u32) -> u32 {
        let _ = (entry, page);
        unimplemented!()
    }

    /// A block that was appended and is not on the device yet.
    pub fn pending(&self, id: BlockId) -> Option<PendingBlock> {
        let _ = id;
        unimplemented!()
    }

    /// Reads as many pages as `lease` has from page `first_page` of a block, checks each against
    /// its checksum and seals the lease. May outlive the caller's borrow of the store.
    ///
    /// # Errors
    /// Each is a miss; the block is out of the index where that is called for.
    pub fn read(
        &self,
        id: BlockId,
        entry: BlockEntry,
        first_page: u32,
        lease: FrameLease,
    ) -> impl Future<Output = Result<Frame, ReadError>> + use<I> + 'static {
        let _ = (id, entry, first_page, lease);
        let _store = self.clone();
        async { Err(ReadError::Gone) }
    }

    /// Queues a block to be written. It is readable by [`Store::pending`] from now on and by
    /// [`Store::lookup`] once written, unless it is freed or no room is found for it meanwhile.
    ///
    /// # Errors
    /// Why it was not taken.
    pub fn append(&self, block: NewBlock) -> Result<(), NotKept> {
        let _ = block;
        unimplemented!()
    }

    /// Resolves when everything appended so far is written (or was given up) and durable.
    pub async fn flush(&self) {
        unimplemented!()
    }

    /// The object with id `id`, if a block of it is on the devices or waits to be written.
    pub fn object(&self, id: ObjectId) -> Option<Arc<ObjectMeta>> {
        let _ = id;
        unimplemented!()
    }

    /// All known versions and block sizes of the object with home half `home`.
    pub fn find_objects(&self, home: u64) -> Vec<Arc<ObjectMeta>> {
        let _ = home;
        unimplemented!()
    }

    /// At most `limit` objects whose URI starts with `prefix` and is greater than `after`, in
    /// order of URI, with what is held of each. Versions of one URI come together: the limit may
    /// be exceeded by the last URI's.
    pub fn objects(&self, prefix: &str, after: &str, limit: usize) -> Vec<(Arc<ObjectMeta>, Held)> {
        let _ = (prefix, after, limit);
        unimplemented!()
    }

    /// What this shard's devices hold of `object`.
    pub fn held(&self, object: ObjectId) -> Held {
        let _ = object;
        unimplemented!()
    }

    /// Drops all blocks of `object` and remembers it over a restart; gives what was dropped.
    /// The blocks are gone when the call's first poll returns, durably when it resolves.
    ///
    /// # Errors
    /// When the record could not be written.
    pub async fn free(&self, object: ObjectId) -> Result<Held, MarkError> {
        let _ = object;
        unimplemented!()
    }

    /// Exempts the blocks of `object`, present and future, from eviction, or ends that.
    ///
    /// # Errors
    /// When pins would take more of a device than allowed, or the record could not be written.
    pub async fn pin(&self, object: ObjectId, pinned: bool) -> Result<(), MarkError> {
        let _ = (object, pinned);
        unimplemented!()
    }

    /// Whether `object` is pinned.
    pub fn is_pinned(&self, object: ObjectId) -> bool {
        let _ = object;
        unimplemented!()
    }

    /// Gives every entry the mount that covers its object in `mounts`.
    pub async fn remap_mounts(&self, mounts: &MountTable) {
        let _ = (mounts, MountId::NONE);
        unimplemented!()
    }

    /// Whether the device that `id` belongs on takes I/O. A block's device follows from its
    /// object's block size by way of the stripe.
    pub fn device_healthy(&self, id: BlockId, block_bytes: u32) -> bool {
        let _ = (id, block_bytes);
        unimplemented!()
    }

    /// The devices.
    pub fn devices(&self) -> Vec<DeviceStatus> {
        unimplemented!()
    }

    /// Lets go of region `region` of the device with ordinal `device`, which a sibling is about
    /// to write again: drops or moves what this shard has there, and waits for its reads.
    pub async fn release_region(&self, device: u16, region: u32, sequence: u64) {
        let _ = (device, region, sequence);
        unimplemented!()
    }

    /// Number of partitions of the worker, from the superblocks.
    pub fn partitions(&self) -> u32 {
        unimplemented!()
    }

    /// What was counted so far.
    pub fn counters(&self) -> &StoreCounters {
        &self.0.counters
    }

    /// Replaces the limits that may change at run time; 0 means no limit, and no scrubbing.
    pub fn set_limits(&self, device_write_bytes_per_second: u64, scrub_bytes_per_second: u64) {
        let _ = scrub_bytes_per_second;
        self.0.write_limit.set(device_write_bytes_per_second);
        let _ = (&self.0.io, &self.0.config);
    }

    /// Keeps `state` on the devices. Shard 0 only.
    ///
    /// # Errors
    /// When no device took it, or it is longer than [`STATE_BYTES_MAX`].
    pub async fn save_state(&self, state: Vec<u8>) -> Result<(), StoreError> {
        let _ = state;
        unimplemented!()
    }

    /// The state that was kept last, if there is one.
    ///
    /// # Errors
    /// When no device could be read.
    pub async fn load_state(&self) -> Result<Option<Vec<u8>>, StoreError> {
        unimplemented!()
    }

    /// Ends the background tasks after writing what was appended, the footers' worth of wear
    /// counters and all, so that the next start finds everything.
    pub async fn close(&self) {
        unimplemented!()
    }
}

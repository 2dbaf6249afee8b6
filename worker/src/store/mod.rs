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

mod append;
mod block;
mod claim;
mod config;
mod counters;
mod device;
mod entries;
mod error;
mod extent;
mod foreign_data;
mod format;
mod header;
mod identity;
mod marks;
pub mod model;
mod objects;
mod open;
mod policy;
mod read;
mod reclaim;
mod record;
mod recovery;
mod region;
mod region_records;
mod rescue;
mod scrub;
mod shared_health;
mod signal;
mod state;
mod summary;
mod superblock;
pub mod synthetic;
mod tombstones;
mod transfer;
mod untrusted;
mod verify;
mod watch;
mod wear;

use std::cell::{Cell, Ref, RefCell};
use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use corelane_io::{Frame, FrameLease, FramePool, Io};
use corelane_rpc_schema::{BlockId, ObjectId, ShardId};

pub use block::{BlockEntry, Held, Located, NewBlock, PendingBlock};
pub use claim::DeviceLock;
pub use config::{FormatOptions, StoreConfig};
pub use counters::{Counter, StoreCounters};
pub use error::{MarkError, NotKept, ReadError, StoreError};
pub use format::{format_devices, format_paths, is_blank_file};
pub use header::{FORMAT_VERSION, Log};
pub use identity::{DeviceIdentity, public_id, read_identity};
pub use policy::{Ghost, Policy, Verdict};
pub use read::BlockRead;
pub use shared_health::SharedHealth;
pub use untrusted::hold_for_device_bytes;
pub use verify::{DAMAGE_NAMED_MAX, Damage, DeviceReport, inspect_offline, verify_offline};
pub use wear::Wear;

use device::DeviceState;
use objects::Objects;
use region::Region;
use signal::Signal;
use transfer::{Pace, Scratch};

use crate::cache::hashing::IdMap;
use crate::cache::index::Index;
use crate::mount::MountTable;
use crate::object::ObjectMeta;

/// Most bytes of state (run-time mounts and jobs) that the devices keep.
pub const STATE_BYTES_MAX: usize = 512 << 10;

/// A future of this core.
pub type LocalBoxFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// What an owner asks of the other shards before it writes a region again that was written under
/// another number of shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// Ordinal of the device.
    pub device: u16,
    /// Number of the region on it.
    pub region: u32,
    /// The region's sequence number; `None`: of whatever opening, for its owner cannot read it.
    pub sequence: Option<u64>,
    /// Nobody has room: records that find none are given up.
    pub at_any_price: bool,
}

/// The other shards of the worker, as far as the store has to ask them.
pub trait Siblings {
    /// Resolves with what shard `shard` answered to [`Store::release_region`] with these arguments.
    /// A shard that is still opening answers later.
    fn release(&self, shard: ShardId, release: Release) -> LocalBoxFuture<bool>;
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
    /// Why it is not used now: taken out, or it does not answer. Empty while it is.
    pub reason: String,
    /// Bytes of the whole device.
    pub bytes: u64,
    /// Bytes of this shard's blocks on it.
    pub bytes_used: u64,
    /// Of them, pinned.
    pub bytes_pinned: u64,
    /// Bytes written to it since format by all shards.
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
    index: RefCell<Index>,
    /// All regions of all devices; index entries hold numbers into it.
    regions: Box<[Region]>,
    /// By ordinal; `None` where a device of the set is missing.
    devices: Box<[Option<DeviceState<I::Device>>]>,
    counters: StoreCounters,
    /// Appended and not on a device yet.
    pending: RefCell<IdMap<BlockId, Rc<NewBlock>>>,
    objects: RefCell<Objects>,
    pinned: RefCell<HashSet<ObjectId>>,
    /// Objects of which a record of a pin or its end failed to be written: it may be on a device all the
    /// same. One for each that failed since the start; a device takes few errors.
    pins_unsure: RefCell<HashSet<ObjectId>>,
    ghost: RefCell<Ghost>,
    policy: Policy,
    region_pages: u32,
    partitions: u32,
    signal: Signal,
    scratch: Scratch,
    siblings: Rc<dyn Siblings>,
    next_stamp: Cell<u64>,
    next_sequence: Cell<u64>,
    epoch: Cell<u64>,
    write_pace: Pace,
    scrub_pace: Pace,
    /// Background tasks end when they see it.
    stopping: Cell<bool>,
    config: StoreConfig,
    io: I,
}

impl<I: Io> Store<I> {
    /// Opens the devices of a worker for one shard and rebuilds its index from their records.
    ///
    /// `devices` are all devices of the set, in any order. `scratch` lends frames of 64 KiB for
    /// summaries, footers and reclaim: at least eight. Recovered blocks carry `MountId::NONE`
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
        open::open(io, config, devices, scratch, siblings).await
    }

    /// Where `id` is, if it is on a device. Does not count as a use.
    #[inline]
    pub fn lookup(&self, id: BlockId) -> Option<BlockEntry> {
        self.0.index.borrow().get(id)
    }

    /// As [`Store::lookup`], for [`Store::begin_read`].
    #[inline]
    pub fn locate(&self, id: BlockId) -> Option<Located> {
        let (place, entry) = self.0.index.borrow().locate(id)?;
        Some(Located { id, entry, place })
    }

    /// Brings what [`Store::lookup`] of `id` needs closer to the processor.
    #[inline]
    pub fn prefetch(&self, id: BlockId) {
        self.0.index.borrow().prefetch(id);
    }

    /// Counts a use of `id`, so that reclaim keeps it longer.
    #[inline]
    pub fn touch(&self, id: BlockId) {
        self.0.index.borrow_mut().touch(id);
    }

    /// The stored CRC-32C of `pages` pages from `first_page` of a block that [`Store::lookup`] just found or
    /// [`Store::read`] just read. Nothing may be awaited in between: the region may be written
    /// again then, and the answer would be of another block.
    ///
    /// # Panics
    /// If the entry reaches past its region.
    #[inline]
    pub fn checksums(&self, entry: &BlockEntry, first_page: u32, pages: u32) -> Ref<'_, [u32]> {
        let checksums = self.0.regions[entry.region as usize].checksums();
        let first = usize::from(entry.first_page) + first_page as usize;
        Ref::map(checksums, |all| &all[first..first + pages as usize])
    }

    /// A block that was appended and is not on the device yet.
    pub fn pending(&self, id: BlockId) -> Option<PendingBlock> {
        self.0
            .pending
            .borrow()
            .get(&id)
            .map(|block| PendingBlock(Rc::clone(block)))
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
        Rc::clone(&self.0).read_block(id, entry, first_page, lease)
    }

    /// As [`Store::touch`] and [`Store::read`], step by step: the block stays where it is for as long as
    /// the [`BlockRead`] lives, which asks the device and checks what comes.
    ///
    /// # Errors
    /// As [`Store::read`].
    ///
    /// # Panics
    /// If the block has no such pages.
    #[inline(always)]
    pub fn begin_read(
        &self,
        located: &Located,
        first_page: u32,
        pages: u32,
    ) -> Result<BlockRead<I>, ReadError> {
        self.0.begin_read(located, first_page, pages)
    }

    /// Queues a block to be written. It is readable by [`Store::pending`] from now on and by
    /// [`Store::lookup`] once written, unless it is freed or no room is found for it meanwhile.
    ///
    /// # Errors
    /// Why it was not taken.
    pub fn append(&self, block: NewBlock) -> Result<(), NotKept> {
        self.0.append_block(block)
    }

    /// Resolves when everything appended so far is written (or was given up) and durable.
    ///
    /// # Errors
    /// When a device did not make durable what was written to it. It is taken out then: nothing
    /// that was appended since its last good flush may be counted on. One that was taken out before
    /// is no error: what belongs on it is not kept, see [`Store::device_healthy`].
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.0.flush_all().await
    }

    /// The object with id `id`, if a block of it is on the devices or waits to be written.
    pub fn object(&self, id: ObjectId) -> Option<Arc<ObjectMeta>> {
        self.0.objects.borrow().get(id).cloned()
    }

    /// All known versions and block sizes of the object with home half `home`.
    pub fn find_objects(&self, home: u64) -> Vec<Arc<ObjectMeta>> {
        self.0.objects.borrow().versions(home)
    }

    /// At most `limit` objects whose URI starts with `prefix` and is greater than `after`, in
    /// order of URI, with what is held of each. Versions of one URI come together: the limit may
    /// be exceeded by the last URI's. Waits until what a start found is listed: a second or two for
    /// a million objects.
    pub async fn objects(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Vec<(Arc<ObjectMeta>, Held)> {
        let is_listed = || self.0.objects.borrow().is_listed() || self.0.stopping.get();
        self.0.signal.wait_until(is_listed).await;
        let found = self.0.objects.borrow().list(prefix, after, limit);
        found
            .into_iter()
            .map(|meta| (Arc::clone(&meta), self.held(meta.id)))
            .collect()
    }

    /// What this shard's devices hold of `object`.
    pub fn held(&self, object: ObjectId) -> Held {
        Held {
            pinned: self.is_pinned(object),
            ..self.0.objects.borrow().held(object)
        }
    }

    /// Drops all blocks of `object` and remembers it over a restart, also those that were let go
    /// and are still on a device; gives what was dropped.
    /// The blocks of an object that has no more than some hundred are gone when the call's first poll returns, durably
    /// when it resolves.
    ///
    /// # Errors
    /// When the record could not be written, or a device that is absent could come back without it.
    pub async fn free(&self, object: ObjectId) -> Result<Held, MarkError> {
        self.0.free_object(object).await
    }

    /// Exempts the blocks of `object`, present and future, from eviction, or ends that.
    ///
    /// # Errors
    /// When pins would take more of a device than allowed, or the record could not be written.
    pub async fn pin(&self, object: ObjectId, pinned: bool) -> Result<(), MarkError> {
        self.0.pin_object(object, pinned).await
    }

    /// Whether `object` is pinned.
    pub fn is_pinned(&self, object: ObjectId) -> bool {
        self.0.pinned.borrow().contains(&object)
    }

    /// Gives every entry the mount that covers its object in `mounts`.
    pub async fn remap_mounts(&self, mounts: &MountTable) {
        self.0.remap(mounts).await;
    }

    /// Whether the device that `id` belongs on takes I/O. A block's device follows from its
    /// object's block size by way of the stripe.
    pub fn device_healthy(&self, id: BlockId, block_bytes: u32) -> bool {
        let partition = self.0.partition_of(id, block_bytes);
        self.0
            .device(self.0.ordinal_of(partition))
            .is_some_and(|device| self.0.is_well(device))
    }

    /// Makes sure that what is freed now stays so on devices that are missing or were taken out, whose
    /// objects nobody can name: they will be emptied when they come back. Nothing to do when all
    /// devices are there.
    ///
    /// # Errors
    /// When it could not be written.
    pub async fn distrust_absent_devices(&self) -> Result<(), MarkError> {
        self.0.distrust_absent_devices().await
    }

    /// Whether the device that `id` is on answers, if it is on one.
    pub fn is_readable(&self, id: BlockId) -> bool {
        let entry = self.lookup(id);
        let device = entry.map(|entry| self.0.regions[entry.region as usize].device);
        device
            .and_then(|ordinal| self.0.device(ordinal))
            .is_some_and(DeviceState::is_usable)
    }

    /// Whether a device holds the memory of reads that it does not answer, taken out or not.
    pub fn has_silent_device(&self) -> bool {
        let mut devices = self.0.devices.iter().flatten();
        devices.any(|device| device.holds_reads.get())
    }

    /// The devices.
    pub fn devices(&self) -> Vec<DeviceStatus> {
        self.0
            .devices
            .iter()
            .flatten()
            .map(|device| {
                // What another shard found holds here too.
                self.0.is_well(device);
                device.status(&self.0.config.wear, &self.0.config.health)
            })
            .collect()
    }

    /// Lets go of a region that a sibling is about to write again: drops or moves what this shard has
    /// there, and waits for its reads. False when there was no room for a record that still means
    /// something: the region must stay as it is.
    pub async fn release_region(&self, release: Release) -> bool {
        self.0.release(release).await
    }

    /// Number of partitions of the worker, from the superblocks.
    pub fn partitions(&self) -> u32 {
        self.0.partitions
    }

    /// What was counted so far.
    pub fn counters(&self) -> &StoreCounters {
        &self.0.counters
    }

    /// Replaces the limits that may change at run time; 0 means no limit, and no scrubbing.
    pub fn set_limits(&self, device_write_bytes_per_second: u64, scrub_bytes_per_second: u64) {
        self.0
            .write_pace
            .bytes_per_second
            .set(device_write_bytes_per_second);
        self.0
            .scrub_pace
            .bytes_per_second
            .set(scrub_bytes_per_second);
        self.0.signal.raise();
    }

    /// Keeps `state` on the devices. Shard 0 only.
    ///
    /// # Errors
    /// When a device that takes I/O did not take it, or none does, or it is longer than
    /// [`STATE_BYTES_MAX`].
    pub async fn save_state(&self, state: Vec<u8>) -> Result<(), StoreError> {
        self.0.save_state(&state).await
    }

    /// The state that was kept last, if there is one.
    ///
    /// # Errors
    /// When no device could be read.
    pub async fn load_state(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.load_state().await
    }

    /// Ends the background tasks after writing what was appended, the footers' worth of wear
    /// counters and all, so that the next start finds everything. Devices that do not answer are not
    /// waited for longer than 20 s in all.
    ///
    /// # Errors
    /// As [`Store::flush`], and for devices that did not answer in time.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.0.stopping.set(true);
        self.0.signal.raise();
        let last_writes = async {
            let flushed = self.0.flush_all().await;
            // With their footers, damage to any page of the open regions finds a copy.
            for device in self.0.devices_well() {
                self.0.seal_open_regions(device).await;
                // The error is counted; without its footer a region is walked.
                let _ = self.0.flush_device(device).await;
            }
            if self.0.config.shard.0 == 0 {
                // The error is counted; only the count of written bytes is older then.
                let _ = self.0.write_superblocks().await;
            }
            flushed
        };
        let closed = self.0.close_with(last_writes).await;
        closed.unwrap_or_else(|| Err(transfer::taken_out("a device").into()))
    }
}

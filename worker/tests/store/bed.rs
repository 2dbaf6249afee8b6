//! What the tests stand on: a world with devices, stores on its cores, and objects whose bytes
//! follow from their names.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashSet};
use std::future::{Future, poll_fn};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use corelane_io::sim::{Crashed, Faults, SimIo, World};
use corelane_io::{Frame, FramePool, Io, PAGE_SIZE};
use corelane_rpc_schema::{BlockId, ObjectId, ShardId, Stripe};
use corelane_worker::mount::MountId;
use corelane_worker::object::ObjectMeta;
use corelane_worker::store::{
    FormatOptions, LocalBoxFuture, NewBlock, NotKept, ReadError, Recovery, Release, SharedHealth,
    Siblings, Store, StoreConfig, StoreError, Wear, format_devices,
};

pub const REGION_BYTES: u32 = 1 << 20;
pub const BLOCK_BYTES: u32 = 64 << 10;

/// Bytes of a device with `regions` regions.
pub fn device_bytes(regions: u64) -> u64 {
    (2 << 20) + regions * u64::from(REGION_BYTES)
}

/// Other shards of one world, found when their stores are open.
#[derive(Clone, Default)]
pub struct Family {
    members: Rc<RefCell<Vec<Member>>>,
    /// Shards that are open, or are being opened.
    count: Rc<Cell<u16>>,
    /// Those who wait for a shard to open.
    waiting: Rc<RefCell<Vec<Waker>>>,
    /// Sees each answer, before the shard that asked.
    on_answer: Rc<RefCell<Option<OnAnswer>>>,
}

type Member = (ShardId, Store<SimIo>);

/// The shard that answers, what it was asked, and its answer.
type OnAnswer = Box<dyn FnMut(ShardId, Release, bool)>;

impl Family {
    /// Shows each answer of a shard to `see`, before the shard that asked gets it.
    pub fn on_answer(&self, see: impl FnMut(ShardId, Release, bool) + 'static) {
        *self.on_answer.borrow_mut() = Some(Box::new(see));
    }

    fn poll_open(&self, shard: ShardId, context: &Context<'_>) -> Poll<Store<SimIo>> {
        let members = self.members.borrow();
        match members.iter().find(|(number, _)| *number == shard) {
            Some((_, store)) => Poll::Ready(store.clone()),
            None => {
                self.waiting.borrow_mut().push(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn add(&self, member: Member) {
        self.members.borrow_mut().push(member);
        for waker in self.waiting.take() {
            waker.wake();
        }
    }
}

impl Siblings for Family {
    fn release(&self, shard: ShardId, release: Release) -> LocalBoxFuture<bool> {
        let family = self.clone();
        Box::pin(async move {
            if shard.0 >= family.count.get() {
                // A shard that is not there reads nothing.
                return true;
            }
            let store = poll_fn(|context| family.poll_open(shard, context)).await;
            let is_released = store.release_region(release).await;
            if let Some(see) = family.on_answer.borrow_mut().as_mut() {
                see(shard, release, is_released);
            }
            is_released
        })
    }
}

/// Devices in a world.
pub struct Bed {
    pub world: World,
    pub paths: Vec<String>,
    /// Regions of each device.
    pub regions: u64,
    /// Devices that are not there when a store is opened.
    pub absent: RefCell<BTreeSet<String>>,
    /// Blocks that are looked up before anything of a store that was opened runs.
    pub watched: RefCell<Vec<BlockId>>,
}

/// One open store with the memory for its blocks.
pub struct Shard {
    pub store: Store<SimIo>,
    pub recovery: Recovery,
    pub pool: FramePool,
    /// Of [`Bed::watched`], those in the index when the store was opened.
    pub held_at_open: HashSet<BlockId>,
}

impl Bed {
    /// A world with `devices` formatted devices of `regions` regions each.
    pub fn new(seed: u64, faults: Faults, devices: usize, regions: u64) -> Bed {
        let world = World::new(seed, Faults::none());
        let paths: Vec<String> = (0..devices)
            .map(|number| format!("/dev/nvme{number}"))
            .collect();
        for path in &paths {
            world.add_device(path, device_bytes(regions));
        }
        let bed = Bed::over(world, paths, regions);
        let mut options = FormatOptions::new([seed as u8 ^ 0x5a; 16]);
        options.region_bytes = REGION_BYTES;
        let io = bed.world.core();
        bed.run(async {
            let scratch = io.allocate_pool(1, 16).expect("memory");
            format_devices(&bed.devices(&io).await, options, &scratch)
                .await
                .expect("formatted");
        });
        bed.world.set_faults(faults);
        bed
    }

    /// Devices of `regions` regions each that are in `world` already.
    pub fn over(world: World, paths: Vec<String>, regions: u64) -> Bed {
        Bed {
            world,
            paths,
            regions,
            absent: RefCell::default(),
            watched: RefCell::default(),
        }
    }

    pub async fn devices(&self, io: &SimIo) -> Vec<<SimIo as Io>::Device> {
        let mut devices = Vec::new();
        for path in &self.paths {
            if self.absent.borrow().contains(path) {
                continue;
            }
            devices.push(
                io.open_device(Path::new(path))
                    .await
                    .expect("the device is there"),
            );
        }
        devices
    }

    /// Runs `future` to its end.
    pub fn run<F: Future>(&self, future: F) -> F::Output {
        self.world.block_on(future).expect("no crash was asked for")
    }

    /// Opens all shards of a worker of `shards`, one after the other.
    pub fn open_all(&self, shards: u16, change: impl Fn(&mut StoreConfig)) -> Vec<Shard> {
        let opened = self.try_open_all(shards, &Family::default(), change);
        opened.expect("no crash was asked for")
    }

    /// As [`Bed::open_all`], with `family` for siblings and crashes in between.
    pub fn try_open_all(
        &self,
        shards: u16,
        family: &Family,
        change: impl Fn(&mut StoreConfig),
    ) -> Result<Vec<Shard>, Crashed> {
        let (health, wear) = (SharedHealth::default(), Wear::default());
        family.count.set(shards);
        (0..shards)
            .map(|shard| {
                let mut config = StoreConfig::new(ShardId(shard), shards, 4096);
                config.flush_bytes = 256 << 10;
                config.health = health.clone();
                config.wear = wear.clone();
                change(&mut config);
                let opened = self.try_open(config, family.clone())?;
                let opened = opened.expect("the devices are ours");
                family.add((ShardId(shard), opened.store.clone()));
                Ok(opened)
            })
            .collect()
    }

    /// Opens the only shard.
    pub fn open_one(&self) -> Shard {
        self.open_all(1, |_| {}).pop().expect("one shard")
    }

    pub fn open(&self, config: StoreConfig, family: Family) -> Result<Shard, StoreError> {
        let opened = self.try_open(config, family);
        opened.expect("no crash was asked for")
    }

    fn try_open(
        &self,
        config: StoreConfig,
        family: Family,
    ) -> Result<Result<Shard, StoreError>, Crashed> {
        let io = self.world.core();
        self.world.block_on(async {
            let scratch = io.allocate_pool(64, 16).expect("memory");
            let devices = self.devices(&io).await;
            let siblings: Rc<dyn Siblings> = Rc::new(family);
            let (store, recovery) =
                Store::open(io.clone(), config, devices, scratch, siblings).await?;
            let watched = self.watched.borrow();
            let is_held = |block: &&BlockId| store.lookup(**block).is_some();
            let held_at_open = watched.iter().filter(is_held).copied().collect();
            let pool = io.allocate_pool(1024, 16).expect("memory");
            Ok(Shard {
                held_at_open,
                store,
                recovery,
                pool,
            })
        })
    }
}

/// The object number `number` with `length` bytes; its bytes follow from it.
pub fn object(number: u32, length: u64) -> Arc<ObjectMeta> {
    let path_key = format!("s3://bucket/object-{number:05}");
    Arc::new(ObjectMeta {
        id: ObjectId::new(&path_key, "1", length, BLOCK_BYTES),
        uri: path_key.clone(),
        path_key,
        version: "1".to_owned(),
        length,
        last_modified_ms: 1_700_000_000_000,
        block_bytes: BLOCK_BYTES,
        content_type: "application/octet-stream".to_owned(),
        headers: "x-amz-meta-origin:bed\ncache-control:no-cache\n".to_owned(),
    })
}

/// Page `page` of a block; the part behind the block's end is zero.
pub fn page_of(object: &ObjectMeta, block: u32, page: u32) -> Vec<u8> {
    let id = object.block(block);
    let mut state = id.object.version ^ u64::from(id.index) << 32 ^ u64::from(page) << 3 | 1;
    let mut bytes = vec![0; PAGE_SIZE];
    for eight in bytes.as_chunks_mut::<8>().0 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *eight = state.to_le_bytes();
    }
    let length = object.block_length(block) as usize;
    let end = length
        .saturating_sub(page as usize * PAGE_SIZE)
        .min(PAGE_SIZE);
    bytes[end..].fill(0);
    bytes
}

pub fn pages_of(object: &ObjectMeta, block: u32) -> u32 {
    object.block_length(block).div_ceil(PAGE_SIZE as u32)
}

impl Shard {
    /// Whether `block` of `object` is this shard's of `shards`.
    pub fn owns(&self, object: &ObjectMeta, block: u32, shard: u16, shards: u16) -> bool {
        let stripe = Stripe::of_block(block, object.block_bytes);
        let partitions = self.store.partitions();
        let partition = corelane_placement::partition_of(object.id.home, stripe.0, partitions);
        corelane_placement::shard_of(partition, partitions, shards) == shard
    }

    /// Ordinal of the device, of `devices`, that `block` of `object` belongs on.
    pub fn device_of(&self, object: &ObjectMeta, block: u32, devices: usize) -> usize {
        let stripe = Stripe::of_block(block, object.block_bytes);
        let partitions = self.store.partitions();
        let partition = corelane_placement::partition_of(object.id.home, stripe.0, partitions);
        usize::from(partition) % devices
    }

    /// The block with its bytes in fresh frames.
    pub fn new_block(&self, object: &Arc<ObjectMeta>, block: u32, pinned: bool) -> NewBlock {
        let pages = pages_of(object, block);
        let mut frames: Vec<Frame> = Vec::new();
        let mut checksums = Vec::new();
        for page in 0..pages {
            if page % 16 == 0 {
                frames.push(self.pool.take().expect("a free frame"));
            }
            let frame = frames.last().expect("just pushed");
            let at = (page % 16) as usize;
            let mut lease = frame.lease(at..at + 1).expect("a vacant page");
            lease
                .bytes_mut()
                .copy_from_slice(&page_of(object, block, page));
            checksums.push(crc32c::crc32c(lease.bytes()));
            lease.seal();
        }
        NewBlock {
            id: object.block(block),
            object: Arc::clone(object),
            mount: MountId(3),
            frames,
            checksums: checksums.into_boxed_slice(),
            pinned,
        }
    }

    pub fn append(&self, object: &Arc<ObjectMeta>, block: u32) -> Result<(), NotKept> {
        self.store.append(self.new_block(object, block, false))
    }

    /// Appends all blocks of `object`, waiting where the store is busy; gives how many were kept.
    pub async fn append_all(&self, object: &Arc<ObjectMeta>) -> u32 {
        let mut kept = 0;
        for block in 0..object.blocks() {
            loop {
                if self.pool.available() < 64 {
                    // Only to make room.
                    let _ = self.store.flush().await;
                }
                match self.append(object, block) {
                    Ok(()) => kept += 1,
                    Err(NotKept::Busy) => {
                        let _ = self.store.flush().await;
                        continue;
                    }
                    Err(_) => {}
                }
                break;
            }
        }
        kept
    }

    /// Reads all pages of a block and compares them. `None`: not in the index.
    pub async fn read(&self, object: &ObjectMeta, block: u32) -> Option<Result<(), ReadError>> {
        let id: BlockId = object.block(block);
        let entry = self.store.lookup(id)?;
        assert_eq!(entry.length, object.block_length(block), "length of {id}");
        let pages = pages_of(object, block);
        let mut first = 0;
        while first < pages {
            let count = (pages - first).min(16);
            let frame = self.pool.take().expect("a free frame");
            let lease = frame.lease(0..count as usize).expect("vacant pages");
            drop(frame);
            let frame = match self.store.read(id, entry, first, lease).await {
                Ok(frame) => frame,
                Err(error) => return Some(Err(error)),
            };
            for page in 0..count {
                let at = page as usize * PAGE_SIZE;
                let expected = page_of(object, block, first + page);
                assert!(
                    frame.slice(at..at + PAGE_SIZE).bytes() == expected,
                    "wrong bytes in {id} page {page}"
                );
                assert_eq!(
                    self.store.checksums(&entry, first + page, 1)[..],
                    [crc32c::crc32c(&expected)]
                );
            }
            first += count;
        }
        Some(Ok(()))
    }

    /// Number of blocks of `object` that read back right; everything else must be a clean miss.
    pub async fn readable(&self, object: &ObjectMeta) -> u32 {
        let mut count = 0;
        for block in 0..object.blocks() {
            if let Some(Ok(())) = self.read(object, block).await {
                count += 1;
            }
        }
        count
    }
}

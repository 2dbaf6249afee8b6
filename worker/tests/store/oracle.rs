//! Random operations, faults, crashes and restarts against a model that knows what must, may and
//! must not be readable, and what is pinned. Wrong bytes fail a test wherever they are read.
//!
//! A fault excuses what follows from it, and nothing else:
//!
//! | fault | excuses, until |
//! |---|---|
//! | a read that fails, or returns wrong bits once | the loss of the blocks that it was of, for good: they are dropped |
//! | a write or a flush that fails | nothing by itself: what was not written is in no index, and flush says so |
//! | a device that is taken out or missing | the loss of its blocks, until the next start with it; for good if marks were made meanwhile |
//! | a write that is lost or goes astray, a bit that turns at rest | on its device: the loss of blocks and of marks, for good |
//!
//! Never the return of what was freed, but for the last; never a wrong byte.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use corelane_io::sim::{Crash, CrashPoint, Fault, Faults, Prng, check_seeds};
use corelane_rpc_schema::BlockId;
use corelane_worker::object::ObjectMeta;

use crate::bed::{Bed, REGION_BYTES, Shard, object};

const OBJECTS: u32 = 24;

/// Room for all blocks of them on any shard.
const INDEX_BLOCKS: usize = 4096;

const REGIONS_OFFSET: u64 = 2 << 20;

/// What the model knows of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    /// Flushed, and in the index then.
    Durable,
    /// Appended; a crash may lose it.
    Written,
    /// A crash came between, or a free did not come to its end, or it was evicted: it may be there or not.
    Uncertain,
    /// Freed, and that is durable.
    Freed,
}

/// What the model knows of an object's pin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Pin {
    /// Never pinned, or ended for good.
    #[default]
    Unpinned,
    /// Pinned, and that is durable.
    Pinned,
    /// A change did not come to its end.
    Unknown,
}

/// What the model knows of a device.
#[derive(Clone, Copy, Debug, Default)]
struct DeviceModel {
    /// Taken out, or missing since the start.
    is_out: bool,
    /// Marks were tried while it was out: it may be emptied when it is back.
    missed_marks: bool,
    /// Some of them are durable: it must not be the only one that is back.
    lacks_marks: bool,
    /// Marks were tried while it was out, at some time: another device says so.
    was_without_marks: bool,
    /// Writes were lost or went astray there, or bits turned: blocks and marks may be missing.
    is_rotten: bool,
}

/// What happened in the runs of a test: its floor.
#[derive(Default)]
struct Tally {
    reads: Cell<u64>,
    appends: Cell<u64>,
    frees: Cell<u64>,
    pins: Cell<u64>,
    crashes: Cell<u64>,
    recoveries: Cell<u64>,
    recovered: Cell<u64>,
    evicted: Cell<u64>,
    moved: Cell<u64>,
    reclaims: Cell<u64>,
    taken_out: Cell<u64>,
    returns: Cell<u64>,
    faults: Cell<u64>,
}

fn add(cell: &Cell<u64>, count: u64) {
    cell.set(cell.get() + count);
}

impl Tally {
    fn at_least(&self, name: &str, cell: &Cell<u64>, floor: u64) {
        // A few seeds are a replay, not a run.
        if self.recoveries.get() > 60 {
            assert!(
                cell.get() >= floor,
                "{} {name}, {floor} were meant",
                cell.get()
            );
        }
    }

    /// What every run has.
    fn assert_floor(&self) {
        self.at_least("reads", &self.reads, 500);
        self.at_least("appends", &self.appends, 200);
        self.at_least("frees", &self.frees, 20);
        self.at_least("pins", &self.pins, 20);
        self.at_least("crashes", &self.crashes, 20);
        self.at_least("blocks that came back", &self.recovered, 100);
    }
}

struct Model<'a> {
    bed: &'a Bed,
    tally: &'a Tally,
    blocks: BTreeMap<(u32, u32), Block>,
    pins: HashMap<u32, Pin>,
    devices: Vec<DeviceModel>,
    /// Whether a mark is being made.
    is_marking: bool,
    /// Faults that were looked at.
    faults_seen: usize,
    /// Durable blocks that left since the stores were opened: no more than were evicted.
    left: u64,
    /// Blocks evicted by the time of the last look.
    evicted_seen: u64,
    /// Whether nothing may be evicted.
    never_evicts: bool,
}

/// Lengths around the edges of pages and blocks, some of several blocks.
fn length_of(number: u32) -> u64 {
    [1, 4095, 4096, 4097, 65_535, 65_536, 65_537, 200_000][number as usize % 8]
}

fn meta_of(number: u32) -> Arc<ObjectMeta> {
    object(number, length_of(number))
}

fn owner<'a>(shards: &'a [Shard], meta: &ObjectMeta, block: u32) -> &'a Shard {
    let count = shards.len() as u16;
    let at = (0..count).find(|at| shards[usize::from(*at)].owns(meta, block, *at, count));
    &shards[usize::from(at.expect("someone owns it"))]
}

/// All blocks of all objects.
fn all_blocks() -> impl Iterator<Item = (u32, u32)> {
    let of_object = |number| (0..meta_of(number).blocks()).map(move |block| (number, block));
    (0..OBJECTS).flat_map(of_object)
}

impl Model<'_> {
    fn device_of(&self, shards: &[Shard], key: (u32, u32)) -> usize {
        shards[0].device_of(&meta_of(key.0), key.1, self.devices.len())
    }

    /// Takes note of faults that were injected since, and of devices that were taken out.
    fn note(&mut self, shards: &[Shard]) {
        let injections = self.bed.world.injections();
        for injection in &injections[self.faults_seen..] {
            let Some(device) = injection.device else {
                continue;
            };
            match injection.fault {
                Fault::LostWrite | Fault::MisdirectedWrite | Fault::BitFlipAtRest => {
                    self.devices[device].is_rotten = true;
                }
                Fault::ReadError | Fault::BitFlipOnRead | Fault::MisdirectedRead => {
                    self.excuse_read(shards, device, injection.offset, injection.length);
                }
                Fault::WriteError | Fault::FlushError | Fault::FlushDropped => {}
                _ => continue,
            }
            add(&self.tally.faults, 1);
        }
        self.faults_seen = injections.len();
        for shard in shards {
            for (number, path) in self.bed.paths.iter().enumerate() {
                let devices = shard.store.devices();
                let found = devices.iter().find(|device| device.path == *path);
                let is_out = found.is_none_or(|device| !device.healthy);
                if is_out && !self.devices[number].is_out {
                    self.devices[number].is_out = true;
                    add(&self.tally.taken_out, 1);
                    if evicted(shards) != self.evicted_seen {
                        // Of which blocks, nobody can tell any more.
                        self.forget_device(shards, number);
                    }
                }
            }
        }
    }

    /// Nothing is known any more of what is on a device.
    fn forget_device(&mut self, shards: &[Shard], device: usize) {
        let count = self.devices.len();
        for (key, state) in &mut self.blocks {
            let is_there = shards[0].device_of(&meta_of(key.0), key.1, count) == device;
            if is_there && *state == Block::Durable {
                *state = Block::Uncertain;
            }
        }
    }

    /// Blocks of which a read may have seen something wrong are dropped.
    fn excuse_read(&mut self, shards: &[Shard], device: usize, offset: u64, length: u64) {
        for (key, state) in &mut self.blocks {
            let meta = meta_of(key.0);
            if shards[0].device_of(&meta, key.1, self.devices.len()) != device {
                continue;
            }
            let entry = owner(shards, &meta, key.1).store.lookup(meta.block(key.1));
            let is_hit = entry.is_none_or(|entry| {
                let first = u64::from(entry.region) - self.bed.regions * device as u64;
                let start = REGIONS_OFFSET
                    + first * u64::from(REGION_BYTES)
                    + u64::from(entry.first_page) * 4096;
                let end = start + u64::from(entry.length).next_multiple_of(4096);
                start < offset + length && offset < end
            });
            if is_hit && *state == Block::Durable {
                *state = Block::Uncertain;
            }
        }
    }

    /// Durable blocks of devices that are well must be in the index, but for those that were evicted.
    fn look(&mut self, shards: &[Shard]) {
        self.note(shards);
        let keys: Vec<_> = self.blocks.keys().copied().collect();
        for key in keys {
            let (meta, device) = (meta_of(key.0), self.device_of(shards, key));
            let store = &owner(shards, &meta, key.1).store;
            let id = meta.block(key.1);
            let (is_held, is_waiting) = (store.lookup(id).is_some(), store.pending(id).is_some());
            let DeviceModel {
                is_out, is_rotten, ..
            } = self.devices[device];
            match self.blocks[&key] {
                Block::Durable if !is_held && !is_out => {
                    self.left += 1;
                    let is_pinned = self.pins.get(&key.0) == Some(&Pin::Pinned);
                    assert!(
                        is_rotten || !is_pinned,
                        "{} block {} is pinned and gone",
                        meta.uri,
                        key.1
                    );
                    assert!(
                        is_rotten || !self.never_evicts && self.left <= evicted(shards),
                        "{} block {} is gone: {} are, {} were evicted",
                        meta.uri,
                        key.1,
                        self.left,
                        evicted(shards)
                    );
                    self.blocks.insert(key, Block::Uncertain);
                }
                Block::Freed => assert!(
                    self.may_bring_back(device) || !is_held && !is_waiting,
                    "{} block {} was freed",
                    meta.uri,
                    key.1
                ),
                _ => {}
            }
        }
        self.evicted_seen = evicted(shards);
    }

    /// Whether freed blocks of a device may be back: marks of it were lost, or what says on another one that it
    /// lacks marks was.
    fn may_bring_back(&self, device: usize) -> bool {
        let is_any_rotten = self.devices.iter().any(|device| device.is_rotten);
        let DeviceModel {
            is_rotten,
            was_without_marks,
            ..
        } = self.devices[device];
        is_rotten || is_any_rotten && was_without_marks
    }

    /// Whether the latest pins may be lost: no device is left that surely has them.
    fn may_lose_pins(&self) -> bool {
        let mut devices = self.devices.iter().enumerate();
        devices.all(|(number, device)| device.is_out || self.may_bring_back(number))
    }

    /// Reads an object and compares it.
    async fn read(&mut self, shards: &[Shard], number: u32) {
        let meta = meta_of(number);
        for block in 0..meta.blocks() {
            let found = owner(shards, &meta, block).read(&meta, block).await;
            add(&self.tally.reads, u64::from(matches!(found, Some(Ok(())))));
            let was_seen = self.blocks.contains_key(&(number, block));
            assert!(was_seen || found.is_none(), "{} never came", meta.uri);
            if matches!(found, Some(Err(_))) {
                // Why is in the faults, or the device went; what was read of it is dropped.
                self.note(shards);
                let device = self.device_of(shards, (number, block));
                let DeviceModel {
                    is_out, is_rotten, ..
                } = self.devices[device];
                let state = self.blocks[&(number, block)];
                assert!(
                    is_out || is_rotten || state != Block::Durable,
                    "{} block {block}: {found:?} without a reason",
                    meta.uri
                );
            }
            self.look(shards);
        }
    }

    /// A flush that returned: what is in the index on devices that are well is durable.
    fn flushed(&mut self, shards: &[Shard], is_ok: bool) {
        self.note(shards);
        let keys: Vec<_> = self.blocks.keys().copied().collect();
        for key in keys.into_iter().filter(|_| is_ok) {
            let (meta, device) = (meta_of(key.0), self.device_of(shards, key));
            let is_held = owner(shards, &meta, key.1)
                .store
                .lookup(meta.block(key.1))
                .is_some();
            let DeviceModel {
                is_out, is_rotten, ..
            } = self.devices[device];
            let state = self.blocks.get_mut(&key).expect("a key of it");
            if *state == Block::Written {
                // Not held: it found no room, or its write failed.
                *state = if is_held && !is_out && !is_rotten {
                    Block::Durable
                } else {
                    Block::Uncertain
                };
            }
        }
    }

    fn set_all(&mut self, number: u32, state: Block) {
        for block in 0..meta_of(number).blocks() {
            if let Some(known) = self.blocks.get_mut(&(number, block)) {
                *known = state;
            }
        }
    }

    /// One random operation.
    async fn step(&mut self, shards: &[Shard], random: &Prng) {
        let number = random.below(u64::from(OBJECTS)) as u32;
        let meta = meta_of(number);
        match random.below(20) {
            0..8 => {
                let block = random.below(u64::from(meta.blocks())) as u32;
                if owner(shards, &meta, block).append(&meta, block).is_ok() {
                    add(&self.tally.appends, 1);
                    self.blocks.insert((number, block), Block::Written);
                }
            }
            8..10 => {
                let mut is_ok = true;
                for shard in shards {
                    is_ok &= shard.store.flush().await.is_ok();
                }
                self.flushed(shards, is_ok);
            }
            10..14 => self.read(shards, number).await,
            14 => {
                // Between the call and its end anything may be seen after a crash.
                self.set_all(number, Block::Uncertain);
                self.missed_marks();
                self.is_marking = true;
                let mut is_durable = true;
                for shard in shards {
                    is_durable &= shard.store.free(meta.id).await.is_ok();
                }
                self.is_marking = false;
                self.note(shards);
                self.missed_marks();
                if is_durable {
                    self.lacks_marks();
                    add(&self.tally.frees, 1);
                    self.set_all(number, Block::Freed);
                }
            }
            15 => {
                let pinned = random.coin();
                self.pins.insert(number, Pin::Unknown);
                self.missed_marks();
                self.is_marking = true;
                let mut is_durable = true;
                for shard in shards {
                    is_durable &= shard.store.pin(meta.id, pinned).await.is_ok();
                }
                self.is_marking = false;
                self.note(shards);
                self.missed_marks();
                if is_durable {
                    self.lacks_marks();
                    add(&self.tally.pins, 1);
                    let pin = if pinned { Pin::Pinned } else { Pin::Unpinned };
                    self.pins.insert(number, pin);
                }
            }
            16 => {
                let block = random.below(u64::from(meta.blocks())) as u32;
                owner(shards, &meta, block).store.touch(meta.block(block));
            }
            _ => {
                let pause = Duration::from_millis(random.below(50));
                self.bed.world.sleep(pause).await;
            }
        }
        self.look(shards);
    }

    /// A mark is being made: devices that are out lack it.
    fn missed_marks(&mut self) {
        for device in self.devices.iter_mut().filter(|device| device.is_out) {
            device.missed_marks = true;
            device.was_without_marks = true;
        }
    }

    /// A mark is durable, and not on those.
    fn lacks_marks(&mut self) {
        for device in self.devices.iter_mut().filter(|device| device.is_out) {
            device.lacks_marks = true;
        }
    }

    /// The stores are gone. What the index held when the end came must come back, whatever reclaim
    /// was doing.
    fn ended(&mut self, shards: &[Shard]) {
        for (key, state) in &mut self.blocks {
            let meta = meta_of(key.0);
            let device = shards[0].device_of(&meta, key.1, self.devices.len());
            let store = &owner(shards, &meta, key.1).store;
            let was_held = store.lookup(meta.block(key.1)).is_some() || self.devices[device].is_out;
            if *state == Block::Written || *state == Block::Durable && !was_held {
                *state = Block::Uncertain;
            }
        }
        for shard in shards {
            let counters = shard.store.counters();
            add(&self.tally.evicted, counters.blocks_evicted.get());
            add(&self.tally.moved, counters.blocks_survived.get());
            add(&self.tally.reclaims, counters.regions_reclaimed.get());
        }
    }

    /// The stores were opened with `room` for blocks, and nothing of them has run yet but recovery.
    fn opened(&mut self, shards: &[Shard], fits: bool) {
        add(&self.tally.recoveries, 1);
        if std::mem::take(&mut self.is_marking) {
            // The crash came while a mark was made: devices that went out meanwhile may lack it.
            self.missed_marks();
        }
        for (number, path) in self.bed.paths.iter().enumerate() {
            let is_missing = self.bed.absent.borrow().contains(path);
            let device = &mut self.devices[number];
            if device.is_out && !is_missing {
                add(&self.tally.returns, 1);
            }
            let was_emptied = device.is_out && !is_missing && device.missed_marks;
            device.missed_marks &= is_missing;
            device.lacks_marks &= is_missing;
            device.is_out = is_missing;
            if was_emptied {
                self.forget_device(shards, number);
            }
        }
        self.evicted_seen = 0;
        self.note(shards);
        let may_bring_back: Vec<bool> = (0..self.devices.len())
            .map(|device| self.may_bring_back(device))
            .collect();
        let may_lose_pins = self.may_lose_pins();
        for (key, state) in &mut self.blocks {
            let meta = meta_of(key.0);
            let device = shards[0].device_of(&meta, key.1, self.devices.len());
            let DeviceModel {
                is_out, is_rotten, ..
            } = self.devices[device];
            let held = &owner(shards, &meta, key.1).held_at_open;
            let is_held = held.contains(&meta.block(key.1));
            add(&self.tally.recovered, u64::from(is_held));
            match *state {
                Block::Durable if !is_held && !is_out => {
                    assert!(
                        is_rotten || !fits,
                        "{} block {} was durable and held, and did not come back",
                        meta.uri,
                        key.1
                    );
                    *state = Block::Uncertain;
                }
                Block::Freed => assert!(
                    may_bring_back[device] || !is_held,
                    "{} block {} was freed and is back",
                    meta.uri,
                    key.1
                ),
                _ => {}
            }
        }
        for (number, pin) in &self.pins {
            let meta = meta_of(*number);
            for block in 0..meta.blocks() {
                let is_pinned = owner(shards, &meta, block).store.is_pinned(meta.id);
                match pin {
                    _ if may_lose_pins => {}
                    Pin::Pinned => assert!(is_pinned, "{} lost its pin", meta.uri),
                    Pin::Unpinned => assert!(!is_pinned, "{} is pinned again", meta.uri),
                    Pin::Unknown => {}
                }
            }
        }
        self.left = 0;
    }
}

/// Blocks that reclaim let go since the stores were opened.
fn evicted(shards: &[Shard]) -> u64 {
    let of_shard = |shard: &Shard| shard.store.counters().blocks_evicted.get();
    shards.iter().map(of_shard).sum()
}

/// What a run has to do with.
struct Bounds {
    /// Regions of a device.
    regions: u64,
    /// Most devices.
    devices: u64,
    /// Most operations between two crashes.
    steps: u64,
    /// Blocks that a shard has room for in its index.
    index_blocks: usize,
    /// Whether a device may be missing at a start.
    may_miss: bool,
    /// Whether there is room for all that comes.
    never_evicts: bool,
}

/// A run of operations with crashes in between.
fn run(seed: u64, faults: &Faults, bounds: &Bounds, tally: &Tally) {
    let random = Prng::new(seed ^ 0x73_746f_7265);
    let devices = random.between(1, bounds.devices) as usize;
    let bed = Bed::new(seed, faults.clone(), devices, bounds.regions);
    let blocks = all_blocks().map(|(number, block)| meta_of(number).block(block));
    *bed.watched.borrow_mut() = blocks.collect::<Vec<BlockId>>();
    let is_roomy = bounds.index_blocks == INDEX_BLOCKS;
    let mut model = Model {
        bed: &bed,
        tally,
        blocks: BTreeMap::new(),
        pins: HashMap::new(),
        devices: vec![DeviceModel::default(); devices],
        is_marking: false,
        faults_seen: bed.world.injections().len(),
        left: 0,
        evicted_seen: 0,
        never_evicts: bounds.never_evicts,
    };
    for _ in 0..random.between(2, 6) {
        // Errors at the start may be refused as a whole; another life begins then.
        bed.world.set_faults(Faults {
            read_error: 0.0,
            bit_flip_on_read: 0.0,
            misdirected_read: 0.0,
            write_error: 0.0,
            flush_error: 0.0,
            flush_drop: 0.0,
            ..faults.clone()
        });
        let mut absent = BTreeSet::new();
        if bounds.may_miss && devices > 1 && random.below(3) == 0 {
            absent.insert(bed.paths[random.below(devices as u64) as usize].clone());
        }
        if model.devices.iter().any(|device| device.lacks_marks) {
            // Those that have the marks are there when one comes back that has not.
            absent.retain(|path| {
                let number = bed.paths.iter().position(|other| other == path);
                model.devices[number.expect("one of them")].lacks_marks
            });
        }
        *bed.absent.borrow_mut() = absent;
        // A look at all that came back, with room for it.
        let mut index_blocks = vec![bounds.index_blocks];
        if !is_roomy {
            index_blocks.insert(0, INDEX_BLOCKS);
        }
        let count = [1, 1, 2, 3][random.below(4) as usize];
        let scrubs = random.coin();
        let mut shards = Vec::new();
        for blocks in index_blocks {
            bed.world.crash_with(Crash::ProcessKill);
            shards = bed.open_all(count, |config| {
                config.flush_bytes = 64 << 10;
                config.flush_delay = Duration::from_millis(5);
                config.index_capacity = blocks;
                config.scrub_bytes_per_second = if scrubs { 1 << 20 } else { 0 };
            });
            model.opened(&shards, blocks == INDEX_BLOCKS);
        }
        bed.world.set_faults(faults.clone());
        if random.coin() {
            let at = random.between(1, bounds.steps / 2);
            bed.world.crash_at(CrashPoint::AtWrite(at));
        }
        let ended = bed.world.block_on(async {
            for number in 0..OBJECTS {
                model.read(&shards, number).await;
            }
            for _ in 0..random.between(1, bounds.steps) {
                model.step(&shards, &random).await;
            }
            if random.coin() {
                let mut is_ok = true;
                for shard in &shards {
                    is_ok &= shard.store.close().await.is_ok();
                }
                model.flushed(&shards, is_ok);
            }
        });
        model.note(&shards);
        if ended.is_ok() {
            let crash = if random.coin() {
                Crash::ProcessKill
            } else {
                Crash::PowerLoss
            };
            bed.world.crash_with(crash);
        }
        add(&tally.crashes, 1);
        model.note(&shards);
        model.ended(&shards);
    }
}

fn crashing(seed: u64) -> Faults {
    let random = Prng::new(seed);
    let mut faults = Faults::none();
    faults.power_loss = 0.5;
    faults.unflushed_loss = [0.5, 1.0][random.below(2) as usize];
    faults.torn_write = [0.0, 0.5, 1.0][random.below(3) as usize];
    faults
}

const ROOMY: Bounds = Bounds {
    regions: 64,
    devices: 2,
    steps: 120,
    index_blocks: INDEX_BLOCKS,
    may_miss: false,
    never_evicts: true,
};

#[test]
fn without_device_faults_nothing_durable_is_lost_and_nothing_freed_returns() {
    let tally = Tally::default();
    check_seeds(
        "without_device_faults_nothing_durable_is_lost_and_nothing_freed_returns",
        24,
        |seed| run(seed, &crashing(seed), &ROOMY, &tally),
    );
    tally.assert_floor();
    assert_eq!(tally.evicted.get(), 0, "there is room for all");
    assert_eq!(tally.faults.get() + tally.taken_out.get(), 0, "no faults");
}

#[test]
fn a_crash_in_the_middle_of_a_reclaim_loses_nothing_that_was_held() {
    let tally = Tally::default();
    check_seeds(
        "a_crash_in_the_middle_of_a_reclaim_loses_nothing_that_was_held",
        24,
        |seed| {
            // Regions are reclaimed because the index is full.
            let bounds = Bounds {
                steps: 500,
                index_blocks: 24,
                never_evicts: false,
                ..ROOMY
            };
            run(seed, &crashing(seed), &bounds, &tally);
        },
    );
    tally.assert_floor();
    tally.at_least("blocks moved", &tally.moved, 100);
    tally.at_least("blocks evicted", &tally.evicted, 100);
    tally.at_least("reclaims", &tally.reclaims, 100);
}

#[test]
fn reads_that_fail_or_lie_lose_their_own_blocks_and_nothing_else() {
    let tally = Tally::default();
    check_seeds(
        "reads_that_fail_or_lie_lose_their_own_blocks_and_nothing_else",
        24,
        |seed| {
            let mut faults = crashing(seed);
            let rate = [0.002, 0.01, 0.03][seed as usize % 3];
            (faults.read_error, faults.bit_flip_on_read) = (rate, rate);
            faults.misdirected_read = rate;
            run(seed, &faults, &ROOMY, &tally);
        },
    );
    tally.assert_floor();
    tally.at_least("faults", &tally.faults, 50);
}

#[test]
fn writes_and_flushes_that_fail_lose_nothing_that_was_called_durable() {
    let tally = Tally::default();
    check_seeds(
        "writes_and_flushes_that_fail_lose_nothing_that_was_called_durable",
        48,
        |seed| {
            let mut faults = crashing(seed);
            let rate = [0.002, 0.01, 0.03][seed as usize % 3];
            match seed % 4 {
                0 => faults.write_error = rate,
                1 => faults.flush_error = rate,
                _ => faults.flush_drop = rate,
            }
            let bounds = Bounds {
                steps: 300,
                index_blocks: [INDEX_BLOCKS, 24][seed as usize / 4 % 2],
                never_evicts: false,
                ..ROOMY
            };
            run(seed, &faults, &bounds, &tally);
        },
    );
    tally.assert_floor();
    tally.at_least("faults", &tally.faults, 50);
    tally.at_least("devices taken out", &tally.taken_out, 20);
    tally.at_least("devices that came back", &tally.returns, 10);
}

#[test]
fn devices_that_come_and_go_bring_nothing_back_that_was_freed() {
    let tally = Tally::default();
    check_seeds(
        "devices_that_come_and_go_bring_nothing_back_that_was_freed",
        48,
        |seed| {
            let mut faults = crashing(seed);
            faults.flush_drop = [0.0, 0.01][seed as usize % 2];
            let bounds = Bounds {
                devices: 3,
                may_miss: true,
                ..ROOMY
            };
            run(seed, &faults, &bounds, &tally);
        },
    );
    tally.assert_floor();
    tally.at_least("devices out or missing", &tally.taken_out, 10);
    tally.at_least("devices that came back", &tally.returns, 10);
}

#[test]
fn with_any_faults_no_wrong_byte_is_served() {
    let tally = Tally::default();
    check_seeds("with_any_faults_no_wrong_byte_is_served", 24, |seed| {
        let bounds = Bounds {
            regions: 32,
            never_evicts: false,
            ..ROOMY
        };
        run(seed, &Faults::from_seed(seed), &bounds, &tally);
    });
    tally.assert_floor();
    tally.at_least("faults", &tally.faults, 50);
}

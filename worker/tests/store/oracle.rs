//! Random operations, faults, crashes and restarts against a model that knows what must, may and
//! must not be readable. Wrong bytes fail a test wherever they are read.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use corelane_io::sim::{Crash, CrashPoint, Fault, Faults, Prng, check_seeds};
use corelane_worker::object::ObjectMeta;
use corelane_worker::store::NotKept;

use crate::bed::{Bed, Shard, object};

const OBJECTS: u32 = 24;

/// Room for all blocks of them on any shard.
const INDEX_BLOCKS: usize = 4096;

/// What the model knows of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    /// Appended, and flushed since.
    Durable,
    /// Appended; a crash may lose it.
    Written,
    /// A crash came between, or a free did not come to its end: it may be there or not.
    Uncertain,
    /// Freed, and that is durable.
    Freed,
}

struct Model {
    blocks: HashMap<(u32, u32), Block>,
    pinned: HashSet<u32>,
    /// Faults may have taken blocks.
    may_lose: bool,
    /// Durable blocks that left since the stores were opened: no more than the stores let go.
    left: u64,
    /// Faults may have taken tombstones.
    may_return: bool,
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

async fn check(bed: &Bed, shards: &[Shard], model: &mut Model, number: u32) {
    let meta = meta_of(number);
    for block in 0..meta.blocks() {
        let shard = owner(shards, &meta, block);
        let found = shard.read(&meta, block).await;
        let readable = matches!(found, Some(Ok(())));
        note_faults(bed, model);
        let waiting = shard.store.pending(meta.block(block)).is_some();
        match model.blocks.get(&(number, block)) {
            Some(Block::Durable) if !model.may_lose && !readable => {
                model.left += 1;
                let is_gone = shard.store.lookup(meta.block(block)).is_none();
                assert!(
                    is_gone && model.left <= let_go(shards),
                    "{} block {block} must be readable: {found:?}, {} left, {} were let go",
                    meta.uri,
                    model.left,
                    let_go(shards)
                );
                model.blocks.insert((number, block), Block::Uncertain);
            }
            Some(Block::Freed) if !model.may_return => {
                assert!(
                    !readable && !waiting,
                    "{} block {block} was freed",
                    meta.uri
                );
            }
            None => assert!(
                !readable && !waiting,
                "{} block {block} never came",
                meta.uri
            ),
            _ => {}
        }
    }
}

/// Blocks that the stores let go since they were opened, or found no room for.
fn let_go(shards: &[Shard]) -> u64 {
    let of_shard = |shard: &Shard| {
        let counters = shard.store.counters();
        counters.blocks_evicted.get()
            + counters.not_kept_no_room.get()
            + counters.not_kept_index_full.get()
            + shard.recovery.blocks_not_fitting
    };
    shards.iter().map(of_shard).sum()
}

/// One random operation.
async fn step(bed: &Bed, shards: &[Shard], model: &mut Model, random: &Prng) {
    let number = random.below(u64::from(OBJECTS)) as u32;
    let meta = meta_of(number);
    match random.below(20) {
        0..8 => {
            let block = random.below(u64::from(meta.blocks())) as u32;
            match owner(shards, &meta, block).append(&meta, block) {
                Ok(()) => {
                    model.blocks.insert((number, block), Block::Written);
                }
                Err(NotKept::Present) => {}
                Err(NotKept::Busy | NotKept::NoRoom) => {}
            }
        }
        8..10 => {
            for shard in shards {
                let _ = shard.store.flush().await;
            }
            for state in model
                .blocks
                .values_mut()
                .filter(|state| **state == Block::Written)
            {
                *state = Block::Durable;
            }
        }
        10..14 => check(bed, shards, model, number).await,
        14 => {
            // Between the call and its end anything may be seen after a crash.
            for block in 0..meta.blocks() {
                if let Some(state) = model.blocks.get_mut(&(number, block)) {
                    *state = Block::Uncertain;
                }
            }
            let mut durable = true;
            for shard in shards {
                durable &= shard.store.free(meta.id).await.is_ok();
            }
            for block in 0..meta.blocks() {
                if let Some(state) = model.blocks.get_mut(&(number, block)) {
                    *state = if durable {
                        Block::Freed
                    } else {
                        Block::Uncertain
                    };
                }
            }
            check(bed, shards, model, number).await;
        }
        15 => {
            let pinned = random.coin();
            for shard in shards {
                let _ = shard.store.pin(meta.id, pinned).await;
            }
            if pinned {
                model.pinned.insert(number)
            } else {
                model.pinned.remove(&number)
            };
        }
        16 => {
            let block = random.below(u64::from(meta.blocks())) as u32;
            owner(shards, &meta, block).store.touch(meta.block(block));
        }
        _ => {
            bed.world
                .sleep(Duration::from_millis(random.below(50)))
                .await
        }
    }
}

/// What a run has to do with.
struct Bounds {
    /// Regions of a device.
    regions: u64,
    /// Most operations between two crashes.
    steps: u64,
    /// Blocks that a shard has room for in its index.
    index_blocks: usize,
}

/// A run of operations with crashes in between. Returns how many blocks reclaim moved.
fn run(seed: u64, faults: Faults, bounds: Bounds) -> u64 {
    let Bounds {
        regions,
        steps,
        index_blocks,
    } = bounds;
    let mut survived = 0;
    let random = Prng::new(seed ^ 0x73_746f_7265);
    let bed = Bed::new(seed, faults, 1 + random.below(2) as usize, regions);
    let mut model = Model {
        blocks: HashMap::new(),
        pinned: HashSet::new(),
        may_lose: false,
        left: 0,
        may_return: false,
    };
    let lives = random.between(2, 6);
    for _ in 0..lives {
        let count = [1, 1, 2, 3][random.below(4) as usize];
        // Errors at the start may be refused as a whole; another life begins then.
        let faults = bed.world.faults();
        bed.world.set_faults(Faults {
            read_error: 0.0,
            bit_flip_on_read: 0.0,
            misdirected_read: 0.0,
            write_error: 0.0,
            flush_error: 0.0,
            ..faults.clone()
        });
        let shards = bed.open_all(count, |config| {
            config.flush_bytes = 64 << 10;
            config.flush_delay = Duration::from_millis(5);
            config.index_capacity = index_blocks;
            config.scrub_bytes_per_second = if random.coin() { 1 << 20 } else { 0 };
        });
        bed.world.set_faults(faults);
        if random.coin() {
            bed.world
                .crash_at(CrashPoint::AtWrite(random.between(1, steps / 2)));
        }
        let ended = bed.world.block_on(async {
            for number in 0..OBJECTS {
                check(&bed, &shards, &mut model, number).await;
            }
            for _ in 0..random.between(1, steps) {
                step(&bed, &shards, &mut model, &random).await;
                note_faults(&bed, &mut model);
            }
            if random.coin() {
                for shard in &shards {
                    let _ = shard.store.close().await;
                }
                note_faults(&bed, &mut model);
                for state in model
                    .blocks
                    .values_mut()
                    .filter(|state| **state == Block::Written)
                {
                    *state = Block::Durable;
                }
            }
        });
        note_faults(&bed, &mut model);
        if ended.is_ok() {
            bed.world.crash_with(if random.coin() {
                Crash::ProcessKill
            } else {
                Crash::PowerLoss
            });
        }
        note_faults(&bed, &mut model);
        for shard in &shards {
            survived += shard.store.counters().blocks_survived.get();
        }
        // What the index held when the end came must come back, whatever reclaim was doing.
        model.left = 0;
        for ((number, block), state) in &mut model.blocks {
            let meta = meta_of(*number);
            let store = &owner(&shards, &meta, *block).store;
            let was_held = store.lookup(meta.block(*block)).is_some();
            if *state == Block::Written || *state == Block::Durable && !was_held {
                *state = Block::Uncertain;
            }
        }
    }
    survived
}

/// Faults that no store can see through loosen what the model demands.
fn note_faults(bed: &Bed, model: &mut Model) {
    let silent = [
        Fault::LostWrite,
        Fault::MisdirectedWrite,
        Fault::BitFlipAtRest,
        Fault::MisdirectedRead,
        Fault::BitFlipOnRead,
    ];
    let loud = [
        Fault::ReadError,
        Fault::WriteError,
        Fault::FlushError,
        Fault::DeviceFailed,
    ];
    let happened = |faults: &[Fault]| faults.iter().any(|fault| bed.world.injected(*fault) > 0);
    model.may_lose |= happened(&silent) || happened(&loud);
    model.may_return |= happened(&silent) || happened(&loud);
}

#[test]
fn without_device_faults_nothing_durable_is_lost_and_nothing_freed_returns() {
    check_seeds(
        "without_device_faults_nothing_durable_is_lost_and_nothing_freed_returns",
        24,
        |seed| {
            let random = Prng::new(seed);
            let mut faults = Faults::none();
            faults.power_loss = 0.5;
            faults.unflushed_loss = 0.5;
            faults.torn_write = [0.0, 0.5, 1.0][random.below(3) as usize];
            let bounds = Bounds {
                regions: 64,
                steps: 120,
                index_blocks: INDEX_BLOCKS,
            };
            run(seed, faults, bounds);
        },
    );
}

#[test]
fn a_crash_in_the_middle_of_a_reclaim_loses_nothing_that_was_held() {
    let survived = Cell::new(0);
    check_seeds(
        "a_crash_in_the_middle_of_a_reclaim_loses_nothing_that_was_held",
        24,
        |seed| {
            let mut faults = Faults::none();
            faults.power_loss = 0.5;
            faults.unflushed_loss = 0.5;
            // Regions are reclaimed because the index is full.
            let bounds = Bounds {
                regions: 64,
                steps: 500,
                index_blocks: 24,
            };
            survived.set(survived.get() + run(seed, faults, bounds));
        },
    );
    let survived = survived.get();
    assert!(
        survived > 100,
        "only {survived} blocks were moved by a reclaim"
    );
}

#[test]
fn with_any_faults_no_wrong_byte_is_served() {
    check_seeds("with_any_faults_no_wrong_byte_is_served", 24, |seed| {
        let bounds = Bounds {
            regions: 32,
            steps: 120,
            index_blocks: INDEX_BLOCKS,
        };
        run(seed, Faults::from_seed(seed), bounds);
    });
}

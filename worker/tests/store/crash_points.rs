//! Crashes at the moments on which durability hangs: a region is given up, a sibling answers, a region is
//! opened that was lost. What a drive kept of its cache is decided for the worst.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use corelane_io::PAGE_SIZE;
use corelane_io::sim::{Crash, Faults, Prng, check_seeds};
use corelane_rpc_schema::ShardId;
use corelane_worker::store::Release;

use crate::bed::{BLOCK_BYTES, Bed, Family, REGION_BYTES, Shard, object};

const PATH: &str = "/dev/nvme0";
const REGIONS_OFFSET: u64 = 2 << 20;

/// Objects of one block that are freed before anything else happens.
const FREED: std::ops::Range<u32> = 0..24;

fn power_cut(random: &Prng) -> Faults {
    let mut faults = Faults::none();
    faults.power_loss = 1.0;
    faults.unflushed_loss = [0.5, 1.0][random.below(2) as usize];
    // A flush that takes long leaves time for writes around it.
    faults.device_ns = (40_000, 40_000 * random.between(1, 20));
    faults
}

fn is_held(shard: &Shard, number: u32) -> bool {
    let meta = object(number, u64::from(BLOCK_BYTES));
    shard.store.lookup(meta.block(0)).is_some()
}

/// Whether a write makes a region free: it is of its first page, and no summary.
fn gives_region_up(offset: u64, bytes: &[u8]) -> bool {
    let is_first = offset >= REGIONS_OFFSET
        && (offset - REGIONS_OFFSET).is_multiple_of(u64::from(REGION_BYTES));
    is_first && bytes.len() == PAGE_SIZE && bytes[12..16] != [3, 0, 0, 0]
}

/// Whether a write is the summary of an extent of the main log, where reclaims write.
fn is_summary_of_main_log(bytes: &[u8]) -> bool {
    bytes.starts_with(b"CORELANE") && bytes[12..16] == [3, 0, 0, 0] && bytes[52] == 1
}

async fn append(shards: &[Shard], numbers: impl IntoIterator<Item = u32>) {
    let count = shards.len() as u16;
    for number in numbers {
        let meta = object(number, u64::from(BLOCK_BYTES));
        let at = (0..count).find(|at| shards[usize::from(*at)].owns(&meta, 0, *at, count));
        shards[usize::from(at.expect("someone owns it"))]
            .append_all(&meta)
            .await;
    }
}

/// Appends to a device until it was reclaimed for a while; gives what is durable and indexed now.
async fn wear_in(shards: &[Shard], random: &Prng) -> HashSet<u32> {
    append(shards, FREED).await;
    for shard in shards {
        shard.store.flush().await.expect("durable");
    }
    for number in FREED {
        for shard in shards {
            let meta = object(number, u64::from(BLOCK_BYTES));
            shard.store.free(meta.id).await.expect("durable");
        }
    }
    let count = 1000 + random.between(500, 700) as u32;
    append(shards, 1000..count).await;
    for shard in shards {
        shard.store.flush().await.expect("durable");
    }
    let held = |number: &u32| shards.iter().any(|shard| is_held(shard, *number));
    (1000..count).filter(held).collect()
}

/// Touches some blocks again and again while new ones come, so that reclaims have something to move.
async fn turn_over(shards: &[Shard], durable: &HashSet<u32>, random: &Prng, world: &Bed) {
    let mut hot: Vec<u32> = durable.iter().copied().collect();
    hot.sort_unstable();
    let every = random.between(2, 6) as usize;
    for number in 0..2000 {
        for number in hot.iter().step_by(every) {
            let meta = object(*number, u64::from(BLOCK_BYTES));
            shards
                .iter()
                .for_each(|shard| shard.store.touch(meta.block(0)));
        }
        append(shards, [5000 + number]).await;
        let pause = Duration::from_micros(random.between(10, 2000));
        world.world.sleep(pause).await;
    }
}

#[test]
fn what_a_reclaim_moved_is_durable_when_it_counts_and_when_its_source_is_given_up() {
    let (crashes, moved) = (Cell::new(0), Cell::new(0));
    let name = "what_a_reclaim_moved_is_durable_when_it_counts_and_when_its_source_is_given_up";
    check_seeds(name, 8, |seed| {
        let random = Prng::new(seed ^ 0x0072_6563_6c61_696d);
        let bed = Bed::new(seed, Faults::none(), 1, 40);
        let shards = bed.open_all(1, |_| {});
        let durable = bed.run(wear_in(&shards, &random));
        bed.world.set_faults(power_cut(&random));
        let left = Cell::new(random.between(1, 12));
        let reached = Rc::new(Cell::new(None));
        let seen = Rc::clone(&reached);
        let at_summary = seed % 2 == 1;
        bed.world.crash_when_written(move |_, offset, bytes| {
            let is_due = if at_summary {
                is_summary_of_main_log(bytes)
            } else {
                gives_region_up(offset, bytes)
            };
            if !is_due {
                return false;
            }
            left.set(left.get() - 1);
            seen.set(Some((offset, bytes.to_vec())));
            left.get() == 0
        });
        let ended = bed
            .world
            .block_on(turn_over(&shards, &durable, &random, &bed));
        if ended.is_ok() {
            return;
        }
        crashes.set(crashes.get() + 1);
        moved.set(moved.get() + shards[0].store.counters().blocks_survived.get());
        // Of all that was not flushed, this write reached the medium.
        let (offset, bytes) = reached.take().expect("it ended the world");
        bed.world.write_device_bytes(PATH, offset, &bytes);
        let all = durable.iter().copied().chain(FREED);
        let blocks = all.map(|number| object(number, u64::from(BLOCK_BYTES)).block(0));
        *bed.watched.borrow_mut() = blocks.collect();
        let opened = bed.open_one();
        let back = |number: u32| {
            let meta = object(number, u64::from(BLOCK_BYTES));
            opened.held_at_open.contains(&meta.block(0))
        };
        let held = durable
            .iter()
            .filter(|number| is_held(&shards[0], **number));
        let lost: Vec<_> = held.filter(|number| !back(**number)).collect();
        assert!(lost.is_empty(), "{lost:?} were held and are gone");
        bed.world.set_faults(Faults::none());
        bed.run(async {
            for number in &durable {
                let meta = object(*number, u64::from(BLOCK_BYTES));
                let found = opened.read(&meta, 0).await;
                assert!(!matches!(found, Some(Err(_))), "{number}: {found:?}");
            }
        });
        assert!(!FREED.into_iter().any(back), "what was freed is back");
    });
    assert!(crashes.get() > 0, "{} crashes", crashes.get());
    assert!(moved.get() > 20, "{} blocks were moved", moved.get());
}

#[test]
fn what_a_sibling_moved_is_durable_when_it_answers() {
    let (crashes, moved) = (Cell::new(0), Cell::new(0));
    let name = "what_a_sibling_moved_is_durable_when_it_answers";
    check_seeds(name, 8, |seed| {
        let random = Prng::new(seed ^ 0x0073_6962_6c69_6e67);
        let bed = Bed::new(seed, Faults::none(), 1, 64);
        let shards = bed.open_all(1, |_| {});
        let durable = bed.run(wear_in(&shards, &random));
        bed.world.crash_with(Crash::ProcessKill);
        let family = Family::default();
        let count = random.between(2, 3) as u16;
        let shards = bed.try_open_all(count, &family, |_| {});
        let shards = shards.expect("no crash was asked for");
        bed.world.set_faults(power_cut(&random));
        let answered: Rc<RefCell<Option<(ShardId, Release)>>> = Rc::default();
        let (seen, switch) = (Rc::clone(&answered), bed.world.crash_switch());
        let left = Cell::new(random.between(1, 20));
        family.on_answer(move |shard, release, is_released| {
            left.set(left.get().saturating_sub(u64::from(is_released)));
            if left.get() == 0 && seen.borrow().is_none() {
                *seen.borrow_mut() = Some((shard, release));
                switch.pull();
            }
        });
        let ended = bed
            .world
            .block_on(turn_over(&shards, &durable, &random, &bed));
        if ended.is_ok() {
            return;
        }
        crashes.set(crashes.get() + 1);
        // From then on the owner may write the region again, as far as this shard goes.
        let (shard, release) = answered.take().expect("it ended the world");
        let offset = REGIONS_OFFSET + u64::from(release.region) * u64::from(REGION_BYTES);
        bed.world.write_device_bytes(PATH, offset, &[0; PAGE_SIZE]);
        let number = usize::from(shard.0);
        let of_shard = &shards[number];
        moved.set(moved.get() + of_shard.store.counters().blocks_survived.get());
        let owned = |number: &u32| {
            let meta = object(*number, u64::from(BLOCK_BYTES));
            of_shard.owns(&meta, 0, shard.0, count)
        };
        let freed: Vec<u32> = FREED.filter(owned).collect();
        let held = durable
            .iter()
            .filter(|number| owned(number) && is_held(of_shard, **number));
        let held: Vec<u32> = held.copied().collect();
        let blocks = held.iter().chain(&freed);
        let blocks = blocks.map(|number| object(*number, u64::from(BLOCK_BYTES)).block(0));
        *bed.watched.borrow_mut() = blocks.collect();
        bed.world.set_faults(Faults::none());
        let opened = bed.open_all(count, |_| {});
        let back = |number: &u32| {
            let meta = object(*number, u64::from(BLOCK_BYTES));
            opened[usize::from(shard.0)]
                .held_at_open
                .contains(&meta.block(0))
        };
        let lost: Vec<_> = held.iter().filter(|number| !back(number)).collect();
        assert!(lost.is_empty(), "{lost:?} of {} are gone", held.len());
        assert!(!freed.iter().any(back), "what was freed is back");
    });
    assert!(crashes.get() > 0, "{} crashes", crashes.get());
    assert!(moved.get() > 10, "{} blocks were moved", moved.get());
}

#[test]
fn what_a_lost_opening_of_a_region_left_behind_does_not_join_the_next() {
    let name = "what_a_lost_opening_of_a_region_left_behind_does_not_join_the_next";
    check_seeds(name, 12, |seed| {
        let random = Prng::new(seed ^ 0x6f70_656e);
        let mut faults = Faults::none();
        faults.power_loss = 1.0;
        let bed = Bed::new(seed, faults, 1, 32);
        let free_page = bed.world.device_bytes(PATH, REGIONS_OFFSET, PAGE_SIZE);
        let last_page_at = REGIONS_OFFSET + u64::from(REGION_BYTES) - PAGE_SIZE as u64;
        let last_page = bed.world.device_bytes(PATH, last_page_at, PAGE_SIZE);
        let shard = bed.open_one();
        // Extents of two pages, each in the first region, none of them flushed.
        let extents = random.between(9, 14) as u32;
        let page_objects: Vec<_> = (0..=extents).map(|number| object(number, 4096)).collect();
        bed.run(async {
            for meta in &page_objects {
                shard.append_all(meta).await;
                while shard.store.lookup(meta.block(0)).is_none() {
                    bed.world.sleep(Duration::from_millis(1)).await;
                }
            }
        });
        let last = &page_objects[extents as usize];
        let entry = shard.store.lookup(last.block(0)).expect("just seen");
        assert_eq!(
            (entry.region, u32::from(entry.first_page)),
            (0, 2 * extents + 1)
        );
        bed.world.crash_with(Crash::PowerLoss);
        // All that was not flushed is lost but the last extent.
        let mut lost = free_page;
        lost.resize(2 * extents as usize * PAGE_SIZE, 0);
        bed.world.write_device_bytes(PATH, REGIONS_OFFSET, &lost);
        bed.world.write_device_bytes(PATH, last_page_at, &last_page);

        let shard = bed.open_one();
        assert_eq!(shard.recovery.blocks, 0, "the region looks free");
        // With its summary it takes all up to where that extent is.
        let between = object(100, u64::from(2 * extents - 1) * 4096);
        bed.run(async {
            shard.append_all(&between).await;
            shard.store.flush().await.expect("durable");
        });
        let entry = shard.store.lookup(between.block(0)).expect("kept");
        assert_eq!((entry.region, entry.first_page), (0, 1), "as before");
        bed.world.crash_with(Crash::ProcessKill);

        let shard = bed.open_one();
        assert!(
            shard.store.lookup(between.block(0)).is_some(),
            "it was flushed"
        );
        assert!(
            shard.store.lookup(last.block(0)).is_none(),
            "it is back by an extent of an earlier opening"
        );
    });
}

//! Damage anywhere is a miss, never wrong bytes, never a panic.

use std::sync::Arc;
use std::time::Duration;

use corelane_io::PAGE_SIZE;
use corelane_io::sim::{Crash, Faults, Prng, check_seeds};
use corelane_rpc_schema::ShardId;
use corelane_worker::object::ObjectMeta;
use corelane_worker::store::{ReadError, StoreConfig, StoreError};

use crate::bed::{Bed, Family, REGION_BYTES, Shard, device_bytes, object};

const PATH: &str = "/dev/nvme0";
const REGIONS_OFFSET: u64 = 2 << 20;

/// Where a header says what it is, and two of the things that it says (docs/format.md).
const TYPE_AT: usize = 12;
const SUMMARY: u8 = 3;
const FREE: u8 = 5;
/// Where it says the sequence of the opening.
const SEQUENCE_AT: usize = 24;

/// A device with a few sealed and open regions of 20 objects, cleanly closed.
fn filled(seed: u64) -> Bed {
    let bed = Bed::new(seed, Faults::none(), 1, 32);
    let shard = bed.open_one();
    bed.run(async {
        for number in 0..20 {
            assert_eq!(shard.append_all(&object(number, 300_000)).await, 5);
        }
        shard.store.close().await.expect("durable");
    });
    bed.world.crash();
    bed
}

fn readable(bed: &Bed, shard: &Shard) -> u32 {
    bed.run(async {
        let mut count = 0;
        for number in 0..20 {
            count += shard.readable(&object(number, 300_000)).await;
        }
        count
    })
}

#[test]
fn a_wrong_page_is_a_counted_miss_and_the_block_leaves() {
    let bed = filled(20);
    let shard = bed.open_one();
    let meta = object(7, 300_000);
    let entry = shard.store.lookup(meta.block(2)).expect("kept");
    let offset = REGIONS_OFFSET
        + u64::from(entry.region) * u64::from(REGION_BYTES)
        + (u64::from(entry.first_page) + 3) * PAGE_SIZE as u64;
    bed.world.corrupt(PATH, offset + 100, 1, 1);
    bed.run(async {
        assert!(matches!(
            shard.read(&meta, 2).await,
            Some(Err(ReadError::Corrupt))
        ));
        assert!(shard.store.lookup(meta.block(2)).is_none());
        assert_eq!(shard.store.counters().corrupt_pages.get(), 1);
        assert_eq!(shard.append(&meta, 2), Ok(()), "it can come again");
        shard.store.flush().await.expect("durable");
        assert!(matches!(shard.read(&meta, 2).await, Some(Ok(()))));
    });
    assert_eq!(readable(&bed, &shard), 100);
}

/// A device with freed and pinned objects in sealed and in open regions, as it was left.
struct Scene {
    bed: Bed,
    /// As it was formatted.
    blank: Vec<u8>,
    image: Vec<u8>,
    freed: Vec<Arc<ObjectMeta>>,
    pinned: Vec<Arc<ObjectMeta>>,
    kept: Vec<Arc<ObjectMeta>>,
}

/// Regions of the device of a scene; those behind the first eleven are never used.
const SCENE_REGIONS: u64 = 32;

impl Scene {
    /// `is_closed`: the store was closed, and not killed.
    fn new(seed: u64, is_closed: bool) -> Scene {
        let bed = Bed::new(seed, Faults::none(), 1, SCENE_REGIONS);
        let bytes = device_bytes(SCENE_REGIONS) as usize;
        let blank = bed.world.device_bytes(PATH, 0, bytes);
        let small = |number| object(number, [3_000, 10_000, 66_000][number as usize % 3]);
        let (mut freed, mut pinned) = (Vec::new(), Vec::new());
        let shard = bed.open_one();
        bed.run(async {
            for round in 0..3 {
                for number in 0..8 {
                    shard.append_all(&small(round * 8 + number)).await;
                }
                shard.append_all(&object(100 + round, 1_500_000)).await;
                shard.store.flush().await.expect("a flush");
                for (number, is_pin) in [(1, false), (2, true), (5, false), (6, true)] {
                    let meta = small(round * 8 + number);
                    if is_pin {
                        shard.store.pin(meta.id, true).await.expect("durable");
                        pinned.push(meta);
                    } else {
                        shard.store.free(meta.id).await.expect("durable");
                        freed.push(meta);
                    }
                }
                // Each freed object has a block behind its tombstone's extent as well.
                shard.append_all(&object(200 + round, 1_000_000)).await;
                let state = vec![round as u8; 9_000];
                shard.store.save_state(state).await.expect("kept");
            }
            // The last marks are in open regions, which have no footer after a kill.
            for number in 24..28 {
                shard.append_all(&small(number)).await;
            }
            shard.store.flush().await.expect("a flush");
            shard.store.free(small(25).id).await.expect("durable");
            shard.store.pin(small(26).id, true).await.expect("durable");
            freed.push(small(25));
            pinned.push(small(26));
            if is_closed {
                shard.store.close().await.expect("a flush");
            }
        });
        let kept = (0..24).map(small);
        let kept = kept
            .filter(|meta| freed.iter().chain(&pinned).all(|other| other.id != meta.id))
            .collect();
        bed.world.crash_with(Crash::ProcessKill);
        let image = bed.world.device_bytes(PATH, 0, bytes);
        Scene {
            bed,
            blank,
            image,
            freed,
            pinned,
            kept,
        }
    }

    fn page(&self, page: usize) -> &[u8] {
        &self.image[page * PAGE_SIZE..][..PAGE_SIZE]
    }

    /// First and last pages of all regions, all that begins like a record, superblocks, and every page of the
    /// slots of state.
    fn metadata(&self) -> Vec<usize> {
        let region_pages = REGION_BYTES as usize / PAGE_SIZE;
        let regions = REGIONS_OFFSET as usize / PAGE_SIZE;
        let is_metadata = |page: &usize| {
            let in_region = page.checked_sub(regions).map(|page| page % region_pages);
            let is_edge = in_region.is_some_and(|page| page == 0 || page == region_pages - 1);
            is_edge
                || self.page(*page).starts_with(b"CORELANE")
                || in_region.is_none() && self.page(*page).iter().any(|byte| *byte != 0)
        };
        (0..self.image.len() / PAGE_SIZE)
            .filter(is_metadata)
            .collect()
    }

    /// Whether a summary stands at `page`, and none behind it in its region.
    fn is_last_summary(&self, page: usize) -> bool {
        if !Scene::is_in_region(page) {
            return false;
        }
        let region_pages = REGION_BYTES as usize / PAGE_SIZE;
        let first = REGIONS_OFFSET as usize / PAGE_SIZE;
        let end = first + (page - first) / region_pages * region_pages + region_pages;
        let is_summary = |page: usize| {
            self.page(page).starts_with(b"CORELANE") && self.page(page)[TYPE_AT] == SUMMARY
        };
        is_summary(page) && !(page + 1..end).any(is_summary)
    }

    fn is_in_region(page: usize) -> bool {
        (page * PAGE_SIZE) as u64 >= REGIONS_OFFSET
    }

    /// Puts the device back as it was, but for `pages`, and holds the promises after a start.
    /// `may_lose_quietly`: the damage looks exactly like what was never written.
    fn check(&self, pages: &[(usize, Vec<u8>)], may_lose_quietly: bool, what: &str) {
        let length = self.image.len();
        let now = self.bed.world.device_bytes(PATH, 0, length);
        let both = now
            .chunks_exact(PAGE_SIZE)
            .zip(self.image.chunks_exact(PAGE_SIZE));
        for (number, (now, before)) in both.enumerate() {
            if now != before {
                let offset = (number * PAGE_SIZE) as u64;
                self.bed.world.write_device_bytes(PATH, offset, before);
            }
        }
        for (page, bytes) in pages {
            let offset = (page * PAGE_SIZE) as u64;
            self.bed.world.write_device_bytes(PATH, offset, bytes);
        }
        let shard = self.bed.open_one();
        let counters = shard.store.counters();
        let noticed = || {
            counters.corrupt_summaries.get()
                + counters.corrupt_pages.get()
                + counters.corrupt_copies.get()
        };
        self.bed.run(async {
            for meta in &self.freed {
                let found = shard.readable(meta).await;
                assert_eq!(found, 0, "{what}: {} was freed", meta.uri);
                assert!(
                    shard.store.object(meta.id).is_none(),
                    "{what}: {}",
                    meta.uri
                );
            }
            let mut lost = 0;
            for meta in &self.pinned {
                assert!(
                    shard.store.is_pinned(meta.id),
                    "{what}: {} is pinned",
                    meta.uri
                );
                lost += meta.blocks() - shard.readable(meta).await;
            }
            for meta in &self.kept {
                lost += meta.blocks() - shard.readable(meta).await;
            }
            let state = shard.store.load_state().await.expect("readable");
            let is_newest = state == Some(vec![2; 9_000]);
            assert!(
                lost == 0 && is_newest || noticed() > 0 || may_lose_quietly,
                "{what}: {lost} blocks lost without a word, state {}",
                state.map_or(0, |state| state.len())
            );
        });
        let is_used = |page: &usize| !Scene::is_in_region(*page) || self.is_first(*page);
        if pages.iter().all(|(page, _)| is_used(page)) && pages.len() == 1 {
            assert!(noticed() > 0, "{what}: nothing was counted");
        }
        drop(shard);
        self.bed.world.crash_with(Crash::ProcessKill);
    }

    fn is_first(&self, page: usize) -> bool {
        let region_pages = REGION_BYTES as usize / PAGE_SIZE;
        (page - REGIONS_OFFSET as usize / PAGE_SIZE).is_multiple_of(region_pages)
    }

    /// The page with a flipped bit among its first `used` bytes.
    fn flipped(&self, page: usize, used: u64, random: &Prng) -> Vec<u8> {
        let mut bytes = self.page(page).to_vec();
        bytes[random.below(used) as usize] ^= 1 << random.below(8);
        bytes
    }

    /// The page that stands in the same place of the next region.
    fn of_next_region(&self, page: usize) -> Vec<u8> {
        let other = page + REGION_BYTES as usize / PAGE_SIZE;
        self.page(if other * PAGE_SIZE < self.image.len() {
            other
        } else {
            page - 256
        })
        .to_vec()
    }
}

#[test]
fn a_flipped_bit_in_any_page_of_a_closed_device_brings_nothing_back_and_loses_nothing_quietly() {
    let scene = Scene::new(31, true);
    let random = Prng::new(31);
    let pages = scene.metadata();
    assert!(pages.len() > 120, "{} pages", pages.len());
    for page in pages {
        // All of a header, so that each of its fields has its turn.
        let bytes = scene.flipped(page, 64, &random);
        scene.check(&[(page, bytes)], false, &format!("a bit of page {page}"));
    }
    // A sample of all others.
    let metadata = scene.metadata();
    let regions = REGIONS_OFFSET as usize / PAGE_SIZE;
    for page in (regions..scene.image.len() / PAGE_SIZE / 3).step_by(31) {
        if !metadata.contains(&page) {
            let bytes = scene.flipped(page, PAGE_SIZE as u64, &random);
            scene.check(&[(page, bytes)], false, &format!("a bit of page {page}"));
        }
    }
}

#[test]
fn a_flipped_bit_in_any_page_that_a_kill_left_brings_nothing_back_and_loses_nothing_quietly() {
    let scene = Scene::new(32, false);
    let random = Prng::new(32);
    for page in scene.metadata() {
        let bytes = scene.flipped(page, 64, &random);
        scene.check(&[(page, bytes)], false, &format!("a bit of page {page}"));
    }
}

#[test]
fn a_page_of_zeroes_or_of_another_region_brings_nothing_back() {
    for is_closed in [true, false] {
        let scene = Scene::new(33, is_closed);
        // Every other one of an open device: the others are alike.
        let step = if is_closed { 1 } else { 2 };
        for page in scene.metadata().into_iter().step_by(step) {
            let mut wrong = vec![("zeroes", vec![0; PAGE_SIZE])];
            if Scene::is_in_region(page) {
                wrong.push(("another region's", scene.of_next_region(page)));
            }
            for (name, bytes) in wrong {
                if bytes == scene.page(page) {
                    continue;
                }
                // After a kill the last summary of a region, overwritten whole, is as if it had
                // never been written.
                let may_lose_quietly = !is_closed && scene.is_last_summary(page);
                let what = format!("{name} in page {page}, closed: {is_closed}");
                scene.check(&[(page, bytes)], may_lose_quietly, &what);
            }
        }
    }
}

#[test]
fn a_lost_first_write_of_a_region_brings_nothing_back_and_loses_nothing_quietly() {
    for is_closed in [true, false] {
        let scene = Scene::new(34, is_closed);
        let region_pages = REGION_BYTES as usize / PAGE_SIZE;
        let first = REGIONS_OFFSET as usize / PAGE_SIZE;
        let used = (first..scene.image.len() / PAGE_SIZE)
            .step_by(region_pages)
            .filter(|page| scene.page(*page)[TYPE_AT] == SUMMARY);
        let mut count = 0;
        for page in used {
            let blank = scene.blank[page * PAGE_SIZE..][..PAGE_SIZE].to_vec();
            assert_eq!(blank[TYPE_AT], FREE, "format says that a region is free");
            let what = format!("no first write of page {page}, closed: {is_closed}");
            scene.check(&[(page, blank)], false, &what);
            count += 1;
        }
        assert!(count > 6, "{count} regions were used");
    }
}

#[test]
fn a_lost_write_that_makes_a_region_free_brings_nothing_back() {
    let bed = Bed::new(35, Faults::none(), 1, SCENE_REGIONS);
    let first_page = |region: u64| {
        let offset = REGIONS_OFFSET + region * u64::from(REGION_BYTES);
        (offset, bed.world.device_bytes(PATH, offset, PAGE_SIZE))
    };
    let shard = bed.open_one();
    let (mut freed, mut before) = (Vec::new(), Vec::new());
    bed.run(async {
        for round in 0..40 {
            let (goes, stays) = (object(round, 200_000), object(1000 + round, 1_500_000));
            shard.append_all(&goes).await;
            shard.append_all(&stays).await;
            shard.store.flush().await.expect("a flush");
            before.extend((0..SCENE_REGIONS).map(first_page));
            shard.store.free(goes.id).await.expect("durable");
            freed.push(goes);
        }
        shard.store.flush().await.expect("a flush");
    });
    bed.world.crash_with(Crash::ProcessKill);
    let mut count = 0;
    for region in 0..SCENE_REGIONS {
        let (offset, now) = first_page(region);
        let is_what_ended = |(at, page): &&(u64, Vec<u8>)| {
            let sequence = |page: &[u8]| page[SEQUENCE_AT..SEQUENCE_AT + 8].to_vec();
            *at == offset && page[TYPE_AT] == SUMMARY && sequence(page) == sequence(&now)
        };
        let found = before.iter().find(is_what_ended);
        if let Some((_, page)) = found.filter(|_| now[TYPE_AT] == FREE) {
            bed.world.write_device_bytes(PATH, offset, page);
            count += 1;
        }
    }
    assert!(count > 0, "a region that was used is free");
    let shard = bed.open_one();
    assert_eq!(shard.store.counters().corrupt_summaries.get(), count);
    bed.run(async {
        for meta in &freed {
            assert_eq!(shard.readable(meta).await, 0, "{} was freed", meta.uri);
        }
        // And they are used again.
        for round in 0..20 {
            shard.append_all(&object(2000 + round, 1_500_000)).await;
        }
        shard.store.flush().await.expect("a flush");
    });
}

#[test]
fn two_damaged_pages_at_a_time_bring_nothing_back() {
    check_seeds(
        "two_damaged_pages_at_a_time_bring_nothing_back",
        2,
        |seed| {
            let scene = Scene::new(seed, true);
            let random = Prng::new(seed);
            let metadata = scene.metadata();
            let in_regions: Vec<usize> = metadata
                .into_iter()
                .filter(|page| Scene::is_in_region(*page))
                .collect();
            for _ in 0..60 {
                let pages: Vec<(usize, Vec<u8>)> = (0..2)
                    .map(|_| {
                        let page = in_regions[random.below(in_regions.len() as u64) as usize];
                        let bytes = match random.below(3) {
                            0 => vec![0; PAGE_SIZE],
                            1 => scene.of_next_region(page),
                            _ => scene.flipped(page, 64, &random),
                        };
                        (page, bytes)
                    })
                    .collect();
                let what = format!("pages {} and {}", pages[0].0, pages[1].0);
                scene.check(&pages, false, &what);
            }
        },
    );
}

#[test]
fn a_block_that_is_shorter_than_its_object_is_said_to_be_is_a_miss_and_leaves() {
    let bed = Bed::new(22, Faults::none(), 1, 32);
    let shard = bed.open_one();
    let short = object(1, 1000);
    bed.run(async {
        assert_eq!(shard.append(&short, 0), Ok(()));
        shard.store.flush().await.expect("durable");
        let id = short.block(0);
        // First pages and counts of pages, none of which the block has.
        for (first, pages) in [(0, 16), (1, 1), (15, 1), (u32::MAX, 1), (u32::MAX - 15, 16)] {
            let entry = shard.store.lookup(id).expect("kept");
            let frame = shard.pool.take().expect("a free frame");
            let lease = frame.lease(0..pages).expect("vacant pages");
            let read = shard.store.read(id, entry, first, lease).await;
            assert!(matches!(read, Err(ReadError::Gone)), "{first}+{pages}");
            assert!(shard.store.lookup(id).is_none(), "{first}+{pages}");
            assert_eq!(shard.append(&short, 0), Ok(()), "it can come again");
            shard.store.flush().await.expect("durable");
        }
        assert!(matches!(shard.read(&short, 0).await, Some(Ok(()))));
    });
}

#[test]
fn a_device_with_objects_of_two_lengths_under_one_id_opens_and_serves_what_fits() {
    // As ids without the length left them.
    for (before, after) in [
        (1000, 300_000),
        (300_000, 1000),
        (70_000, 200_000),
        (0, 5000),
    ] {
        let bed = Bed::new(23, Faults::none(), 1, 32);
        let shard = bed.open_one();
        let old = object(1, before);
        let new = Arc::new(ObjectMeta {
            length: after,
            ..old.as_ref().clone()
        });
        bed.run(async {
            for meta in [&old, &new, &old] {
                shard.append_all(meta).await;
                shard.store.flush().await.expect("durable");
            }
            shard.store.close().await.expect("durable");
        });
        bed.world.crash();
        for _ in 0..2 {
            let shard = bed.open_one();
            bed.run(async {
                for meta in [&old, &new] {
                    for block in 0..meta.blocks() {
                        let Some(entry) = shard.store.lookup(meta.block(block)) else {
                            continue;
                        };
                        let known = shard.store.object(meta.id).expect("a block's object");
                        assert_eq!(entry.length, known.block_length(block));
                        let frame = shard.pool.take().expect("a free frame");
                        let lease = frame.lease(0..16).expect("vacant pages");
                        // Fits or not: an answer.
                        let _ = shard.store.read(meta.block(block), entry, 0, lease).await;
                    }
                }
                shard.append_all(&new).await;
                shard.store.flush().await.expect("durable");
                shard.store.close().await.expect("durable");
            });
            bed.world.crash();
        }
    }
}

#[test]
fn damage_in_any_page_of_the_regions_loses_blocks_and_nothing_else() {
    let random = Prng::new(21);
    let mut lost = 0;
    for seed in 0..20 {
        let bed = filled(21);
        for _ in 0..random.between(1, 40) {
            let length = random.between(1, 9000);
            let offset = REGIONS_OFFSET + random.below(8 * u64::from(REGION_BYTES) - length);
            bed.world.corrupt(PATH, offset, length as usize, seed);
        }
        let shard = bed.open_one();
        let left = readable(&bed, &shard);
        let counters = shard.store.counters();
        let noticed = counters.corrupt_pages.get() + counters.corrupt_summaries.get();
        assert!(
            left == 100 || noticed > 0,
            "seed {seed}: {left} of 100 are left"
        );
        assert!(left > 0, "seed {seed}: all is lost");
        lost += 100 - left;
        bed.run(async {
            for number in 0..20 {
                shard.append_all(&object(number, 300_000)).await;
            }
            shard.store.flush().await.expect("durable");
        });
        assert_eq!(readable(&bed, &shard), 100, "what was lost came again");
    }
    assert!(lost > 100, "only {lost} blocks were damaged");
}

#[test]
fn a_torn_summary_costs_its_own_extent_and_no_other() {
    let bed = Bed::new(22, Faults::none(), 1, 32);
    let shard = bed.open_one();
    let metas: Vec<_> = (0..3).map(|number| object(number, 64 << 10)).collect();
    let mut entries = Vec::new();
    bed.run(async {
        for meta in &metas {
            shard.append_all(meta).await;
            shard.store.flush().await.expect("durable");
            entries.push(shard.store.lookup(meta.block(0)).expect("written"));
        }
    });
    bed.world.crash();
    // The summary is the page before the block.
    let summary = u64::from(entries[1].first_page - 1) * PAGE_SIZE as u64;
    let offset = REGIONS_OFFSET + u64::from(entries[1].region) * u64::from(REGION_BYTES) + summary;
    bed.world.corrupt(PATH, offset + 200, 8, 1);
    let shard = bed.open_one();
    bed.run(async {
        assert_eq!(shard.readable(&metas[0]).await, 1);
        assert_eq!(shard.readable(&metas[1]).await, 0);
        assert_eq!(shard.readable(&metas[2]).await, 1);
    });
    assert_eq!(
        (shard.recovery.blocks, shard.recovery.regions_walked),
        (2, 1)
    );
    assert_eq!(shard.store.counters().corrupt_summaries.get(), 1);
    // The region got its footer with what is left.
    bed.world.crash();
    let shard = bed.open_one();
    assert_eq!(
        (shard.recovery.blocks, shard.recovery.regions_walked),
        (2, 0)
    );
}

#[test]
fn a_lost_first_summary_is_told_once_and_its_region_is_not_free() {
    let bed = Bed::new(36, Faults::none(), 1, 32);
    let shard = bed.open_one();
    let metas: Vec<_> = (0..3).map(|number| object(number, 64 << 10)).collect();
    let mut region = 0;
    bed.run(async {
        for meta in &metas {
            shard.append_all(meta).await;
            shard.store.flush().await.expect("a flush");
            region = shard.store.lookup(meta.block(0)).expect("written").region;
        }
    });
    for (start, noticed) in [1, 0, 0].into_iter().enumerate() {
        bed.world.crash();
        if start == 0 {
            let offset = REGIONS_OFFSET + u64::from(region) * u64::from(REGION_BYTES);
            bed.world.write_device_bytes(PATH, offset, &[0; PAGE_SIZE]);
        }
        let shard = bed.open_one();
        bed.run(async {
            assert_eq!(shard.readable(&metas[0]).await, 0);
            assert_eq!(shard.readable(&metas[1]).await, 1);
            assert_eq!(shard.readable(&metas[2]).await, 1);
        });
        let counters = shard.store.counters();
        let told = (
            counters.corrupt_summaries.get(),
            counters.regions_damaged.get(),
        );
        assert_eq!(told, (noticed, 0), "start {start}");
    }
}

#[test]
fn the_scrubber_writes_summaries_again_that_only_the_footer_has() {
    let bed = filled(37);
    let scrub = |seconds| {
        let shard = bed
            .open_all(1, |config| config.scrub_bytes_per_second = 16 << 20)
            .remove(0);
        bed.world
            .run_for(Duration::from_secs(seconds))
            .expect("no crash");
        let found = shard.store.counters().corrupt_summaries.get();
        let readable = readable(&bed, &shard);
        bed.world.crash();
        (found, readable)
    };
    // The second summary of the first region.
    let page = (1..256).find(|page| {
        let offset = REGIONS_OFFSET + page * PAGE_SIZE as u64;
        bed.world.device_bytes(PATH, offset, 16)[..13] == *b"CORELANE\x01\0\0\0\x03"
    });
    let offset = REGIONS_OFFSET + page.expect("several extents") * PAGE_SIZE as u64;
    bed.world.corrupt(PATH, offset + 70, 1, 1);
    assert_eq!(scrub(5), (1, 100));
    assert_eq!(scrub(5), (0, 100), "it was written again");
}

#[test]
fn a_region_of_which_nothing_checks_is_counted_and_used_again() {
    let bed = filled(29);
    let first = REGIONS_OFFSET + 2 * u64::from(REGION_BYTES);
    bed.world
        .write_device_bytes(PATH, first, &vec![0; REGION_BYTES as usize]);
    let shard = bed.open_one();
    let counters = shard.store.counters();
    assert_eq!(
        (
            counters.regions_damaged.get(),
            counters.corrupt_summaries.get()
        ),
        (1, 1)
    );
    assert!((70..100).contains(&readable(&bed, &shard)));
    bed.world.crash();
    let shard = bed.open_one();
    assert_eq!(
        shard.store.counters().regions_damaged.get(),
        0,
        "it says that it is free"
    );
    bed.run(async {
        for number in 0..20 {
            shard.append_all(&object(number, 300_000)).await;
        }
        shard.store.flush().await.expect("a flush");
    });
    assert_eq!(readable(&bed, &shard), 100);
}

#[test]
fn a_device_that_an_earlier_version_formatted_opens_and_is_marked() {
    let bed = filled(34);
    // Such a device has zeroes where free regions begin and no sign in its superblocks, at byte
    // 40 of the header, whose CRC starts from 0.
    let unmark = || {
        for offset in [0, 64 << 10] {
            let mut page = bed.world.device_bytes(PATH, offset, PAGE_SIZE);
            assert_eq!(page[40..44], [1, 0, 0, 0]);
            page[40] = 0;
            let crc = crc32c::crc32c_append(crc32c::crc32c(&page[..60]), &page[64..64 + 72]);
            page[60..64].copy_from_slice(&crc.to_le_bytes());
            bed.world.write_device_bytes(PATH, offset, &page);
        }
    };
    unmark();
    for region in 0..32 {
        let offset = REGIONS_OFFSET + region * u64::from(REGION_BYTES);
        let kind = bed.world.device_bytes(PATH, offset + 12, 1)[0];
        if kind == 5 {
            // What an unused region of a device with an earlier life may hold.
            let bytes = if region % 2 == 0 { 0 } else { 0x5a };
            bed.world
                .write_device_bytes(PATH, offset, &[bytes; PAGE_SIZE]);
        }
    }
    for offset in [128 << 10, 768 << 10] {
        bed.world
            .write_device_bytes(PATH, offset, &[0x5a; PAGE_SIZE]);
    }
    let shard = bed.open_one();
    assert_eq!(readable(&bed, &shard), 100);
    let counters = shard.store.counters();
    assert_eq!(
        counters.regions_damaged.get() + counters.corrupt_summaries.get(),
        0
    );
    assert_eq!(bed.run(shard.store.load_state()).expect("readable"), None);
    bed.run(shard.store.close()).expect("a flush");
    bed.world.crash();
    // Now a page of zeroes is damage.
    let free = REGIONS_OFFSET + 30 * u64::from(REGION_BYTES);
    assert_eq!(bed.world.device_bytes(PATH, free + 12, 1), [5]);
    bed.world.write_device_bytes(PATH, free, &[0; PAGE_SIZE]);
    let shard = bed.open_one();
    assert_eq!(shard.store.counters().corrupt_summaries.get(), 1);
    assert_eq!(shard.store.counters().corrupt_copies.get(), 0);
    assert_eq!(readable(&bed, &shard), 100);
}

#[test]
fn a_stale_or_damaged_footer_does_not_count() {
    let bed = filled(23);
    // Footers end in the last page of a region; the first five regions are sealed.
    for region in 0..5u64 {
        let end = REGIONS_OFFSET + (region + 1) * u64::from(REGION_BYTES);
        let page = bed
            .world
            .device_bytes(PATH, end - PAGE_SIZE as u64, PAGE_SIZE);
        match region % 2 {
            0 => bed.world.corrupt(PATH, end - PAGE_SIZE as u64 + 24, 1, 1),
            // The footer of another region, right in itself.
            _ => bed.world.write_device_bytes(
                PATH,
                end - PAGE_SIZE as u64 + u64::from(REGION_BYTES),
                &page,
            ),
        }
    }
    let shard = bed.open_one();
    assert_eq!(
        readable(&bed, &shard),
        100,
        "the summaries are walked instead"
    );
    assert!(shard.recovery.regions_walked >= 3, "{:?}", shard.recovery);
    assert!(shard.store.counters().corrupt_summaries.get() >= 3);
}

#[test]
fn one_damaged_superblock_is_survived_and_two_are_refused() {
    let bed = filled(24);
    bed.world.corrupt(PATH, 10, 1, 1);
    let shard = bed.open_one();
    assert_eq!(shard.store.counters().corrupt_copies.get(), 1);
    assert_eq!(readable(&bed, &shard), 100);
    bed.world.crash();
    let shard = bed.open_one();
    assert_eq!(
        shard.store.counters().corrupt_copies.get(),
        0,
        "the start wrote it again"
    );
    bed.world.crash();
    bed.world.corrupt(PATH, 10, 1, 1);
    bed.world.corrupt(PATH, (64 << 10) + 10, 1, 1);
    let config = StoreConfig::new(ShardId(0), 1, 100);
    let error = bed.open(config, Family::default()).err().expect("refused");
    assert!(matches!(error, StoreError::NotOurs { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("corelane device format /dev/nvme0 --size"),
        "{error}"
    );
}

#[test]
fn a_device_that_fails_is_taken_out_and_the_others_serve_on() {
    let bed = Bed::new(25, Faults::none(), 2, 32);
    let shard = bed.open_one();
    bed.run(async {
        for number in 0..60 {
            shard.append_all(&object(number, 64 << 10)).await;
        }
        shard.store.flush().await.expect("durable");
        bed.world.fail_device("/dev/nvme1");
        let mut readable = 0;
        for number in 0..60 {
            readable += shard.readable(&object(number, 64 << 10)).await;
        }
        assert!(
            (15..45).contains(&readable),
            "{readable} of 60 are on the other device"
        );
        for number in 100..160 {
            let _ = shard.append(&object(number, 64 << 10), 0);
        }
        shard.store.flush().await.expect("durable");
        assert_eq!(shard.store.counters().devices_failed.get(), 1);
        let health: Vec<_> = shard
            .store
            .devices()
            .iter()
            .map(|device| device.healthy)
            .collect();
        assert_eq!(health, [true, false]);
        let mut more = 0;
        for number in 100..160 {
            let meta = object(number, 64 << 10);
            let served = shard.readable(&meta).await;
            assert_eq!(
                served == 1,
                shard.store.device_healthy(meta.block(0), meta.block_bytes)
            );
            more += served;
        }
        assert!(
            (15..45).contains(&more),
            "{more} of 60 new ones are on the other device"
        );
    });
}

#[test]
fn the_scrubber_finds_what_nobody_asked_for() {
    let bed = filled(26);
    let shard = bed
        .open_all(1, |config| config.scrub_bytes_per_second = 4 << 20)
        .remove(0);
    let entry = shard
        .store
        .lookup(object(7, 300_000).block(2))
        .expect("kept");
    let region = REGIONS_OFFSET + u64::from(entry.region) * u64::from(REGION_BYTES);
    bed.world.corrupt(
        PATH,
        region + u64::from(entry.first_page) * PAGE_SIZE as u64,
        1,
        1,
    );
    bed.world
        .run_for(Duration::from_secs(20))
        .expect("no crash");
    assert!(shard.store.lookup(object(7, 300_000).block(2)).is_none());
    let counters = shard.store.counters();
    assert_eq!(
        (counters.corrupt_pages.get(), counters.blocks_healed.get()),
        (1, 1)
    );
    assert!(counters.scrub_rounds.get() >= 1 && counters.bytes_scrubbed.get() > 5 << 20);
    assert_eq!(readable(&bed, &shard), 99);
}

#[test]
fn state_survives_a_torn_write_as_it_was_before() {
    let bed = Bed::new(27, Faults::none(), 2, 32);
    let shard = bed.open_one();
    bed.run(async {
        assert_eq!(shard.store.load_state().await.expect("readable"), None);
        for round in 0..5u8 {
            shard
                .store
                .save_state(vec![round; 100_000])
                .await
                .expect("kept");
        }
        assert_eq!(
            shard.store.load_state().await.expect("readable"),
            Some(vec![4; 100_000])
        );
        assert!(
            shard
                .store
                .save_state(vec![0; (512 << 10) + 1])
                .await
                .is_err()
        );
    });
    bed.world.crash();
    // The fifth state is in slot 1 of both devices.
    for path in ["/dev/nvme0", "/dev/nvme1"] {
        bed.world.corrupt(path, (768 << 10) + 50_000, 1, 1);
    }
    let shard = bed.open_one();
    bed.run(async {
        assert_eq!(
            shard.store.load_state().await.expect("readable"),
            Some(vec![3; 100_000])
        );
        assert_eq!(shard.store.counters().corrupt_copies.get(), 2);
        shard.store.load_state().await.expect("readable");
        assert_eq!(
            shard.store.counters().corrupt_copies.get(),
            2,
            "they were written again"
        );
    });
    bed.world.crash();
    for path in ["/dev/nvme0", "/dev/nvme1"] {
        bed.world
            .write_device_bytes(path, 128 << 10, &[0; PAGE_SIZE]);
        bed.world.corrupt(path, (768 << 10) + 50_000, 1, 1);
    }
    let shard = bed.open_one();
    bed.run(async {
        assert_eq!(shard.store.load_state().await.expect("readable"), None);
        assert_eq!(shard.store.counters().corrupt_copies.get(), 4);
        shard.store.save_state(vec![9]).await.expect("kept");
        shard.store.save_state(vec![9]).await.expect("kept");
        let state = shard.store.load_state().await.expect("readable");
        assert_eq!(state, Some(vec![9]));
        assert_eq!(shard.store.counters().corrupt_copies.get(), 4);
    });
}

#[test]
fn devices_that_do_not_go_together_or_are_too_small_are_refused() {
    let bed = Bed::new(28, Faults::none(), 1, 32);
    let config = StoreConfig::new(ShardId(4), 8, 100);
    let error = bed
        .open(config, Family::default())
        .err()
        .expect("refused")
        .to_string();
    assert!(error.contains("use fewer cores"), "{error}");
    assert_eq!(device_bytes(32), (2 << 20) + (32 << 20));
}

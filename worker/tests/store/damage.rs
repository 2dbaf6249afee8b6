//! Damage anywhere is a miss, never wrong bytes, never a panic.

use std::time::Duration;

use corelane_io::PAGE_SIZE;
use corelane_io::sim::{Faults, Prng};
use corelane_rpc_schema::ShardId;
use corelane_worker::store::{ReadError, StoreConfig, StoreError};

use crate::bed::{Bed, Family, REGION_BYTES, Shard, device_bytes, object};

const PATH: &str = "/dev/nvme0";
const REGIONS_OFFSET: u64 = 2 << 20;

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
        let new = std::sync::Arc::new(corelane_worker::object::ObjectMeta {
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
    for seed in 0..60 {
        let bed = filled(21);
        for _ in 0..random.between(1, 40) {
            let length = random.between(1, 9000);
            let offset = REGIONS_OFFSET + random.below(8 * u64::from(REGION_BYTES) - length);
            bed.world.corrupt(PATH, offset, length as usize, seed);
        }
        let shard = bed.open_one();
        assert!(readable(&bed, &shard) <= 100);
        bed.run(async {
            for number in 0..20 {
                shard.append_all(&object(number, 300_000)).await;
            }
            shard.store.flush().await.expect("durable");
        });
        assert_eq!(readable(&bed, &shard), 100, "what was lost came again");
    }
}

#[test]
fn a_torn_summary_ends_recovery_at_the_extent_before_it() {
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
        assert_eq!(shard.readable(&metas[2]).await, 0);
    });
    assert_eq!(
        (shard.recovery.blocks, shard.recovery.regions_walked),
        (1, 1)
    );
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
    assert!(shard.recovery.regions_walked >= 4, "{:?}", shard.recovery);
}

#[test]
fn one_damaged_superblock_is_survived_and_two_are_refused() {
    let bed = filled(24);
    bed.world.corrupt(PATH, 10, 1, 1);
    let shard = bed.open_one();
    assert_eq!(readable(&bed, &shard), 100);
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

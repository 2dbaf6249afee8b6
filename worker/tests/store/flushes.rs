//! Flushes that fail: nobody is told "durable", and nothing is given up on the strength of a later one.

use std::cell::Cell;
use std::collections::HashSet;
use std::time::Duration;

use corelane_io::sim::{Crash, Fault, Faults, Prng, check_seeds};
use corelane_worker::store::NotKept;

use crate::bed::{BLOCK_BYTES, Bed, object};

#[test]
fn a_failed_flush_takes_the_device_out_at_once_and_says_so() {
    let bed = Bed::new(60, Faults::none(), 1, 32);
    let shard = bed.open_one();
    let meta = object(1, 300_000);
    bed.run(async {
        shard.append_all(&meta).await;
        bed.world.set_faults(Faults {
            flush_error: 1.0,
            ..Faults::none()
        });
        shard.store.flush().await.expect_err("the flush failed");
        bed.world.set_faults(Faults::none());
        let device = &shard.store.devices()[0];
        assert!(
            !device.healthy && device.reason.contains("flush"),
            "{device:?}"
        );
        assert_eq!(shard.store.counters().devices_failed.get(), 1);
        assert_eq!(
            bed.world.injected(Fault::FlushError),
            1,
            "it is not tried again"
        );
        let other = object(2, 4096);
        assert_eq!(shard.append(&other, 0).err(), Some(NotKept::NoRoom));
        assert!(shard.store.free(meta.id).await.is_err());
        assert!(shard.store.save_state(vec![1]).await.is_err());
    });
}

#[test]
fn a_flush_does_not_vouch_for_what_a_failed_one_of_another_shard_gave_up() {
    let (mut faults, power) = (Faults::none(), Crash::PowerLoss);
    faults.unflushed_loss = 1.0;
    let bed = Bed::new(61, faults.clone(), 1, 64);
    let shards = bed.open_all(2, |_| {});
    let meta = (0..100)
        .map(|number| object(number, u64::from(BLOCK_BYTES)))
        .find(|meta| shards[1].owns(meta, 0, 1, 2))
        .expect("shard 1 owns some");
    bed.run(async {
        shards[1].append_all(&meta).await;
        while shards[1].store.lookup(meta.block(0)).is_none() {
            bed.world.sleep(Duration::from_millis(5)).await;
        }
        bed.world.set_faults(Faults {
            flush_drop: 1.0,
            ..faults.clone()
        });
        shards[0].store.flush().await.expect_err("it failed");
        bed.world.set_faults(faults);
        shards[1]
            .store
            .flush()
            .await
            .expect("no device is left that it could fail on");
        assert!(!shards[1].store.device_healthy(meta.block(0), BLOCK_BYTES));
        assert!(!shards[1].store.devices()[0].healthy);
        assert!(shards[1].store.free(meta.id).await.is_err());
    });
    bed.world.crash_with(power);
}

#[test]
fn no_region_is_given_up_after_a_flush_that_failed() {
    let (dropped, checked) = (Cell::new(0), Cell::new(0));
    check_seeds(
        "no_region_is_given_up_after_a_flush_that_failed",
        10,
        |seed| {
            let random = Prng::new(seed ^ 0x66_6c75_7368);
            let mut faults = Faults::none();
            faults.unflushed_loss = [0.5, 1.0][random.below(2) as usize];
            let bed = Bed::new(seed, faults.clone(), 1, 40);
            let shard = bed.open_one();
            let mut durable = HashSet::new();
            bed.run(async {
                let hot = random.between(32, 160) as u32;
                for number in 0..640 {
                    shard
                        .append_all(&object(number, u64::from(BLOCK_BYTES)))
                        .await;
                }
                if shard.store.flush().await.is_ok() {
                    durable.extend((0..640).filter(|number| {
                        let meta = object(*number, u64::from(BLOCK_BYTES));
                        shard.store.lookup(meta.block(0)).is_some()
                    }));
                }
                bed.world.set_faults(Faults {
                    flush_drop: 0.2,
                    ..faults.clone()
                });
                // More, so that the device is reclaimed while flushes fail.
                let counters = shard.store.counters();
                let mut evicted = counters.blocks_evicted.get();
                for number in 1000..1000 + random.between(50, 400) as u32 {
                    for number in 0..hot {
                        let meta = object(number * 3, u64::from(BLOCK_BYTES));
                        shard.store.touch(meta.block(0));
                    }
                    shard
                        .append_all(&object(number, u64::from(BLOCK_BYTES)))
                        .await;
                    for _ in 0..20 {
                        // Shorter than a flush: what is let go is seen before the flush that follows it.
                        bed.world.sleep(Duration::from_micros(20)).await;
                        if !shard.store.devices()[0].healthy {
                            return;
                        }
                        if counters.blocks_evicted.get() != evicted {
                            evicted = counters.blocks_evicted.get();
                            durable.retain(|number| {
                                let meta = object(*number, u64::from(BLOCK_BYTES));
                                shard.store.lookup(meta.block(0)).is_some()
                            });
                        }
                    }
                }
            });
            bed.world.crash_with(Crash::PowerLoss);
            bed.world.set_faults(faults);
            dropped.set(dropped.get() + bed.world.injected(Fault::FlushDropped));
            // What the device held when it went out was moved durably, or is where it was.
            let shard = bed.open_one();
            let held = |number: &u32| {
                let meta = object(*number, u64::from(BLOCK_BYTES));
                shard.store.lookup(meta.block(0)).is_some()
            };
            let lost: Vec<_> = durable.iter().filter(|number| !held(number)).collect();
            assert!(lost.is_empty(), "{lost:?} of {} are gone", durable.len());
            checked.set(checked.get() + durable.len());
        },
    );
    assert!(dropped.get() > 0, "{} flushes failed", dropped.get());
    assert!(
        checked.get() > 100,
        "{} blocks were looked at",
        checked.get()
    );
}

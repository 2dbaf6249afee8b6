//! Freed blocks stay freed.

use std::time::Duration;

use corelane_io::sim::{Crash, Faults};
use corelane_rpc_schema::ObjectId;
use corelane_worker::mount::{Admission, Freshness, Mount, MountId, MountTable};

use crate::bed::{BLOCK_BYTES, Bed, REGION_BYTES, object};

#[test]
fn freed_blocks_stay_freed_over_a_power_cut_and_many_reclaims() {
    let mut faults = Faults::none();
    (faults.power_loss, faults.unflushed_loss) = (1.0, 1.0);
    let bed = Bed::new(8, faults, 1, 40);
    let shard = bed.open_one();
    let freed = object(1, 1 << 20);
    let kept = object(2, 1 << 20);
    bed.run(async {
        shard.append_all(&freed).await;
        shard.append_all(&kept).await;
        shard
            .store
            .pin(kept.id, true)
            .await
            .expect("within the share");
        shard.store.flush().await.expect("durable");
        let held = shard.store.free(freed.id).await.expect("durable");
        assert_eq!((held.blocks, held.bytes), (16, 1 << 20));
        assert!(shard.store.object(freed.id).is_none());
    });
    bed.world.crash_with(Crash::PowerLoss);
    let shard = bed.open_one();
    bed.run(async {
        assert_eq!(shard.readable(&freed).await, 0);
        assert_eq!(shard.readable(&kept).await, 16);
        // The tombstone's region is reclaimed long before the pinned region of the freed blocks.
        for number in 1000..1000 + 40 * 16 * 3 {
            shard
                .append_all(&object(number, u64::from(BLOCK_BYTES)))
                .await;
        }
        shard.store.flush().await.expect("durable");
        assert!(shard.store.counters().regions_reclaimed.get() > 60);
    });
    bed.world.crash_with(Crash::PowerLoss);
    let shard = bed.open_one();
    bed.run(async {
        assert_eq!(shard.readable(&freed).await, 0);
        assert_eq!(shard.readable(&kept).await, 16);
        shard.append_all(&freed).await;
        shard.store.flush().await.expect("durable");
    });
    bed.world.crash_with(Crash::PowerLoss);
    let shard = bed.open_one();
    bed.run(async {
        assert_eq!(
            shard.readable(&freed).await,
            16,
            "what came again after the free counts"
        );
    });
}

#[test]
fn tombstones_stay_within_their_bound_though_a_pinned_region_is_older_than_all_of_them() {
    /// Half a region of 1 MiB, 128 bytes each: the second bound.
    const TOMBSTONES_MAX: u64 = 4096;
    /// Frees at once: so many may come after the bound was looked at.
    const FREES_AT_ONCE: u64 = 256;
    let bed = Bed::new(15, Faults::none(), 1, 40);
    let shard = bed.open_one();
    let (pinned, freed) = (object(1, 3 << 20), object(2, 500_000));
    bed.run(async {
        shard.append_all(&pinned).await;
        shard.store.pin(pinned.id, true).await.expect("durable");
        shard.append_all(&freed).await;
        shard.store.flush().await.expect("a flush");
        shard.store.free(freed.id).await.expect("durable");
        let (mut most, mut kept) = (0, 0);
        for round in 0..80 {
            let frees = (0..FREES_AT_ONCE).map(|number| {
                let object = ObjectId {
                    home: round * 10_000 + number,
                    version: 7,
                };
                shard.store.free(object)
            });
            for outcome in futures::future::join_all(frees).await {
                outcome.expect("durable");
            }
            let now = shard.store.counters().tombstones.get();
            assert!(
                now <= TOMBSTONES_MAX + FREES_AT_ONCE,
                "round {round}: {now}"
            );
            most = most.max(now);
            // The device turns over slowly besides.
            let meta = object(1000 + round as u32, 200_000);
            kept += shard.append_all(&meta).await;
        }
        shard.store.flush().await.expect("a flush");
        assert!(most > TOMBSTONES_MAX / 2, "only {most} were kept at a time");
        assert!(kept > 300, "{kept}");
        assert_eq!(shard.readable(&pinned).await, pinned.blocks());
        assert_eq!(shard.readable(&freed).await, 0);
        assert!(shard.store.counters().blocks_survived.get() >= u64::from(pinned.blocks()));
    });
    bed.world.crash();
    let shard = bed.open_one();
    bed.run(async {
        assert!(shard.store.is_pinned(pinned.id));
        assert_eq!(shard.readable(&pinned).await, pinned.blocks());
        assert_eq!(shard.readable(&freed).await, 0);
        shard.store.flush().await.expect("a flush");
        let now = shard.store.counters().tombstones.get();
        assert!(now <= 2 * TOMBSTONES_MAX, "{now} after a restart");
    });
}

#[test]
fn many_frees_evict_nothing_that_was_not_freed_as_long_as_there_is_room() {
    /// Beyond a quarter of a region of 1 MiB, 128 bytes each; not beyond half of it.
    const FREES: u64 = 3_500;
    let bed = Bed::new(19, Faults::none(), 1, 64);
    let shard = bed.open_one();
    let kept: Vec<_> = (0..20).map(|number| object(number, 1 << 20)).collect();
    bed.run(async {
        for meta in &kept {
            shard.append_all(meta).await;
        }
        shard.store.flush().await.expect("a flush");
        for first in (0..FREES).step_by(250) {
            let frees = (first..first + 250).map(|number| {
                shard.store.free(ObjectId {
                    home: 10_000 + number,
                    version: 7,
                })
            });
            for outcome in futures::future::join_all(frees).await {
                outcome.expect("durable");
            }
        }
        assert_eq!(shard.store.counters().tombstones.get(), FREES);
        assert_eq!(shard.store.counters().blocks_evicted.get(), 0);
        for meta in &kept {
            assert_eq!(shard.readable(meta).await, meta.blocks(), "{}", meta.uri);
        }
    });
}

#[test]
fn a_mark_that_lost_a_copy_gets_another_one() {
    let bed = Bed::new(16, Faults::none(), 1, 32);
    let (freed, pinned) = (object(1, 100_000), object(2, 100_000));
    let shard = bed.open_one();
    bed.run(async {
        shard.append_all(&freed).await;
        shard.append_all(&pinned).await;
        shard.store.flush().await.expect("a flush");
        shard.store.pin(pinned.id, true).await.expect("durable");
        shard.store.free(freed.id).await.expect("durable");
        shard.store.close().await.expect("a flush");
    });
    let small = shard.store.lookup(pinned.block(0)).expect("kept").region;
    bed.world.crash();
    let clear = |region: u32| {
        let offset = (2 << 20) + u64::from(region) * u64::from(REGION_BYTES);
        bed.world
            .write_device_bytes("/dev/nvme0", offset, &vec![0; REGION_BYTES as usize]);
    };
    // The region of the main log has nothing but the copies: they come again.
    let main = (0..32).find(|region| {
        let offset = (2 << 20) + u64::from(*region) * u64::from(REGION_BYTES);
        let head = bed.world.device_bytes("/dev/nvme0", offset, 64);
        head[12] == 3 && head[52] == 1
    });
    clear(main.expect("marks are in the main log, too"));
    let shard = bed.open_one();
    assert_eq!(shard.store.counters().regions_damaged.get(), 1);
    bed.run(async {
        assert_eq!(shard.readable(&freed).await, 0);
        bed.world.sleep(Duration::from_secs(1)).await;
        shard.store.flush().await.expect("a flush");
    });
    bed.world.crash();
    // And the first copies go, with the blocks.
    clear(small);
    let shard = bed.open_one();
    bed.run(async {
        assert!(shard.store.is_pinned(pinned.id), "the copy says so");
        assert_eq!(shard.readable(&freed).await, 0);
    });
}

#[test]
fn a_block_freed_while_it_waits_is_never_seen_again() {
    let bed = Bed::new(9, Faults::none(), 1, 32);
    let shard = bed.open_one();
    let meta = object(1, 1 << 20);
    bed.run(async {
        shard.append_all(&meta).await;
        shard.store.free(meta.id).await.expect("durable");
        assert!(shard.store.pending(meta.block(0)).is_none());
        shard.store.flush().await.expect("durable");
        assert_eq!(shard.readable(&meta).await, 0);
        assert_eq!(shard.store.counters().bytes_in_flight.get(), 0);
    });
    bed.world.crash();
    let shard = bed.open_one();
    bed.run(async { assert_eq!(shard.readable(&meta).await, 0) });
}

#[test]
fn entries_get_the_mount_that_covers_their_object() {
    let bed = Bed::new(10, Faults::none(), 1, 32);
    let shard = bed.open_one();
    let meta = object(1, 1 << 20);
    let table = MountTable::new([Mount {
        id: MountId(7),
        path: "/x".to_owned(),
        uri: "s3://bucket".to_owned(),
        block_bytes: BLOCK_BYTES,
        freshness: Freshness::Immutable,
        admission: Admission::Always,
        key_indexes: Vec::new(),
        readers: Vec::new(),
        options: Default::default(),
        is_runtime: false,
    }])
    .expect("a valid table");
    bed.run(async {
        shard.append_all(&meta).await;
        shard.store.flush().await.expect("durable");
        shard.store.remap_mounts(&table).await;
        assert_eq!(
            shard.store.lookup(meta.block(3)).map(|entry| entry.mount),
            Some(MountId(7))
        );
        shard.store.remap_mounts(&MountTable::default()).await;
        assert_eq!(
            shard.store.lookup(meta.block(3)).map(|entry| entry.mount),
            Some(MountId::NONE)
        );
    });
}

#[test]
fn objects_are_listed_by_uri_with_what_is_held() {
    let bed = Bed::new(11, Faults::none(), 1, 32);
    let shard = bed.open_one();
    bed.run(async {
        for number in [3, 1, 2] {
            shard.append_all(&object(number, 100_000)).await;
        }
        shard.store.flush().await.expect("durable");
        let listed = shard
            .store
            .objects("s3://bucket/", "s3://bucket/object-00001", 1)
            .await;
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].0.uri, "s3://bucket/object-00002");
        assert_eq!((listed[0].1.blocks, listed[0].1.bytes), (2, 100_000));
    });
}

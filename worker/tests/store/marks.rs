//! Freed blocks stay freed.

use corelane_io::sim::{Crash, Faults};
use corelane_worker::mount::{Admission, Freshness, Mount, MountId, MountTable};

use crate::bed::{BLOCK_BYTES, Bed, object};

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

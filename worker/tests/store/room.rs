//! What happens when more is appended than fits.

use corelane_io::sim::Faults;
use corelane_worker::store::NotKept;

use crate::bed::{BLOCK_BYTES, Bed, object};

/// Objects of one block each, as many as fill `share` of a device of `regions` regions.
fn objects_for(regions: u64, share: f64) -> u32 {
    (regions as f64 * share * f64::from(1 << 20) / f64::from(BLOCK_BYTES)) as u32
}

#[test]
fn old_blocks_make_room_for_new_ones_and_used_ones_stay() {
    let bed = Bed::new(3, Faults::none(), 1, 40);
    let shard = bed.open_one();
    let hot: Vec<_> = (0..64)
        .map(|number| object(number, u64::from(BLOCK_BYTES)))
        .collect();
    let count = objects_for(40, 6.0);
    bed.run(async {
        for meta in &hot {
            assert_eq!(shard.append_all(meta).await, 1);
        }
        shard.store.flush().await.expect("durable");
        let mut kept = 0;
        for number in 1000..1000 + count {
            kept += shard
                .append_all(&object(number, u64::from(BLOCK_BYTES)))
                .await;
            if number % 50 == 0 {
                hot.iter().for_each(|meta| shard.store.touch(meta.block(0)));
            }
        }
        shard.store.flush().await.expect("durable");
        assert_eq!(kept, count, "every block was taken");
        let mut readable = 0;
        for meta in &hot {
            readable += shard.readable(meta).await;
        }
        assert_eq!(readable, 64, "what is used stays");
        let mut recent = 0;
        for number in 1000 + count - 32..1000 + count {
            recent += shard
                .readable(&object(number, u64::from(BLOCK_BYTES)))
                .await;
        }
        assert_eq!(recent, 32, "what just came is there");
        let counters = shard.store.counters();
        assert!(
            counters.regions_reclaimed.get() > 150,
            "{}",
            counters.regions_reclaimed.get()
        );
        assert!(counters.blocks_evicted.get() > u64::from(count) / 2);
        assert_eq!(
            counters.corrupt_pages.get() + counters.corrupt_summaries.get(),
            0
        );
        let live = counters.bytes_live.get();
        assert!(
            live > 26 << 20,
            "{live} bytes of a device of 40 MiB are used"
        );
    });
    bed.world.crash();
    let shard = bed.open_one();
    bed.run(async {
        let mut readable = 0;
        for meta in &hot {
            readable += shard.readable(meta).await;
        }
        assert_eq!(readable, 64, "and over a restart");
        assert_eq!(shard.store.counters().corrupt_pages.get(), 0);
    });
}

#[test]
fn a_full_index_makes_room_like_a_full_device() {
    let bed = Bed::new(4, Faults::none(), 1, 32);
    let shard = bed
        .open_all(1, |config| config.index_capacity = 128)
        .remove(0);
    bed.run(async {
        for number in 0..400 {
            shard.append_all(&object(number, 4096)).await;
            if number % 16 == 0 {
                shard.store.flush().await.expect("durable");
            }
        }
        shard.store.flush().await.expect("durable");
        let counters = shard.store.counters();
        let kept = counters.blocks_inserted.get() + counters.not_kept_index_full.get();
        assert_eq!(kept, 400);
        assert!(shard.store.counters().bytes_live.get() <= 128 * 4096);
    });
}

#[test]
fn pins_up_to_their_share_stay_and_the_rest_still_turns_over() {
    let bed = Bed::new(5, Faults::none(), 1, 40);
    let shard = bed.open_one();
    bed.run(async {
        let big = object(1, 24 << 20);
        assert_eq!(shard.append_all(&big).await, big.blocks());
        shard.store.flush().await.expect("durable");
        // 24 MiB of 40 MiB; another 16 MiB would be beyond 80 %.
        shard
            .store
            .pin(big.id, true)
            .await
            .expect("within the share");
        let second = object(2, 10 << 20);
        shard.append_all(&second).await;
        shard.store.flush().await.expect("durable");
        let error = shard
            .store
            .pin(second.id, true)
            .await
            .expect_err("beyond the share");
        assert!(error.to_string().contains("unpin something"), "{error}");
        for number in 1000..1000 + objects_for(40, 4.0) {
            shard
                .append_all(&object(number, u64::from(BLOCK_BYTES)))
                .await;
        }
        shard.store.flush().await.expect("durable");
        assert_eq!(
            shard.readable(&big).await,
            big.blocks(),
            "pinned blocks stay"
        );
        assert!(
            shard.readable(&second).await < second.blocks(),
            "others leave"
        );
        assert!(shard.store.is_pinned(big.id) && !shard.store.is_pinned(second.id));
    });
    bed.world.crash();
    let shard = bed.open_one();
    bed.run(async {
        let big = object(1, 24 << 20);
        assert!(shard.store.is_pinned(big.id));
        assert_eq!(shard.readable(&big).await, big.blocks());
        shard.store.pin(big.id, false).await.expect("unpinned");
        for number in 5000..5000 + objects_for(40, 4.0) {
            shard
                .append_all(&object(number, u64::from(BLOCK_BYTES)))
                .await;
        }
        shard.store.flush().await.expect("durable");
        // The few that reclaim moved to the main log stay until something else is used again.
        assert!(shard.readable(&big).await < 40, "unpinned blocks leave");
    });
}

#[test]
fn more_than_the_queue_holds_is_busy() {
    let bed = Bed::new(6, Faults::none(), 1, 32);
    let shard = bed
        .open_all(1, |config| config.flush_bytes_in_flight = 256 << 10)
        .remove(0);
    bed.run(async {
        let meta = object(1, 1 << 20);
        for block in 0..4 {
            assert_eq!(shard.append(&meta, block), Ok(()));
        }
        assert_eq!(shard.append(&meta, 4), Err(NotKept::Busy));
        assert_eq!(shard.store.counters().not_kept_busy.get(), 1);
        shard.store.flush().await.expect("durable");
        assert_eq!(shard.append(&meta, 4), Ok(()));
    });
}

#[test]
fn writes_keep_to_their_limit() {
    let bed = Bed::new(7, Faults::none(), 1, 32);
    let shard = bed
        .open_all(1, |config| config.device_write_bytes_per_second = 1 << 20)
        .remove(0);
    let started = bed.world.now();
    bed.run(async {
        shard.append_all(&object(1, 8 << 20)).await;
        shard.store.flush().await.expect("durable");
    });
    let seconds = bed.world.now().since(started).as_secs_f64();
    assert!(
        (7.0..10.0).contains(&seconds),
        "8 MiB at 1 MiB/s took {seconds} s"
    );
}

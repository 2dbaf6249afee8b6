//! A restart with another number of shards keeps the cache.

use std::time::Duration;

use corelane_io::sim::Faults;
use corelane_rpc_schema::ObjectId;
use corelane_worker::store::Wear;

use crate::bed::{BLOCK_BYTES, Bed, Shard, object};

/// Blocks of objects `numbers`, one each, that the shard owning them reads back right.
async fn readable(shards: &[Shard], numbers: std::ops::Range<u32>) -> u32 {
    let mut count = 0;
    for number in numbers {
        let meta = object(number, u64::from(BLOCK_BYTES));
        for (at, shard) in shards.iter().enumerate() {
            let found = shard.readable(&meta).await;
            let owns = shard.owns(&meta, 0, at as u16, shards.len() as u16);
            assert!(owns || found == 0, "a shard serves its own partitions only");
            count += found;
        }
    }
    count
}

async fn append(shards: &[Shard], numbers: std::ops::Range<u32>) {
    for number in numbers {
        let meta = object(number, u64::from(BLOCK_BYTES));
        let owner = (0..shards.len())
            .find(|at| shards[*at].owns(&meta, 0, *at as u16, shards.len() as u16));
        shards[owner.expect("someone owns it")]
            .append_all(&meta)
            .await;
    }
    for shard in shards {
        shard.store.flush().await.expect("durable");
    }
}

#[test]
fn blocks_follow_their_partitions_when_the_number_of_shards_changes() {
    let bed = Bed::new(12, Faults::none(), 2, 64);
    let shards = bed.open_all(2, |_| {});
    bed.run(append(&shards, 0..400));
    for count in [3, 1, 4, 2] {
        bed.world.crash();
        let shards = bed.open_all(count, |_| {});
        assert_eq!(
            bed.run(readable(&shards, 0..400)),
            400,
            "with {count} shards"
        );
    }
}

#[test]
fn a_region_of_another_number_of_shards_is_reused_only_after_all_let_go() {
    let bed = Bed::new(13, Faults::none(), 1, 64);
    let shards = bed.open_all(1, |_| {});
    bed.run(append(&shards, 0..600));
    bed.world.crash();
    let shards = bed.open_all(4, |_| {});
    assert_eq!(bed.run(readable(&shards, 0..600)), 600);
    // Twice the devices' bytes: all regions of the first run are written again.
    for round in 1..5 {
        bed.run(append(&shards, round * 1000..round * 1000 + 600));
        bed.run(readable(&shards, 0..600));
        let recent = bed.run(readable(&shards, round * 1000 + 500..round * 1000 + 600));
        assert!(recent >= 90, "{recent} of the last 100");
    }
    for shard in &shards {
        assert_eq!(
            shard.store.counters().corrupt_pages.get(),
            0,
            "no region changed under a read"
        );
    }
    bed.world.crash();
    let shards = bed.open_all(3, |_| {});
    let recent = bed.run(readable(&shards, 4500..4600));
    assert!(recent >= 90, "{recent} of the last 100");
}

#[test]
fn tombstones_expire_though_regions_of_another_number_of_shards_were_older() {
    /// Half a region of 1 MiB, 128 bytes each: the second bound.
    const TOMBSTONES_MAX: u64 = 4096;
    let bed = Bed::new(18, Faults::none(), 1, 64);
    let shards = bed.open_all(1, |_| {});
    bed.run(append(&shards, 0..600));
    bed.world.crash();
    let shards = bed.open_all(4, |_| {});
    // All regions of the first run are written again.
    for round in 1..5 {
        bed.run(append(&shards, round * 1000..round * 1000 + 600));
    }
    bed.run(async {
        for first in (0..12_000).step_by(250) {
            let frees = (first..first + 250).map(|number| {
                shards[0].store.free(ObjectId {
                    home: 1_000_000 + number,
                    version: 7,
                })
            });
            for outcome in futures::future::join_all(frees).await {
                outcome.expect("durable");
            }
            let now = shards[0].store.counters().tombstones.get();
            assert!(now <= TOMBSTONES_MAX + 250, "{now} after {first}");
        }
    });
}

#[test]
fn what_all_shards_wrote_is_counted_once_and_outlives_a_kill() {
    let bed = Bed::new(14, Faults::none(), 1, 64);
    let open = || {
        let wear = Wear::default();
        bed.open_all(2, |config| config.wear = wear.clone())
    };
    let written = |shards: &[Shard]| {
        let of_each: Vec<u64> = shards
            .iter()
            .map(|shard| shard.store.devices()[0].bytes_written)
            .collect();
        assert!(of_each[0].abs_diff(of_each[1]) <= 64 << 10, "{of_each:?}");
        of_each[0]
    };
    let shards = open();
    let before = written(&shards);
    bed.run(append(&shards, 0..200));
    let most = written(&shards);
    assert!(most - before >= 200 * u64::from(BLOCK_BYTES));
    // Long enough for the superblocks to be written again.
    bed.run(bed.world.sleep(Duration::from_secs(1200)));
    bed.world.crash();
    let after = written(&open());
    assert!(
        (most..=most + (1 << 20)).contains(&after),
        "{after} of {most}"
    );
}

#[test]
fn a_kill_forgets_little_of_what_was_written() {
    let bed = Bed::new(17, Faults::none(), 1, 64);
    let shards = bed.open_all(1, |_| {});
    let before = shards[0].store.devices()[0].bytes_written;
    for round in 0..3 {
        bed.run(append(&shards, round * 600..(round + 1) * 600));
        bed.run(bed.world.sleep(Duration::from_secs(2)));
    }
    let written = shards[0].store.devices()[0].bytes_written;
    assert!(written - before > 100 << 20, "{written} bytes were written");
    bed.world.crash();
    let after = bed.open_all(1, |_| {})[0].store.devices()[0].bytes_written;
    assert!(
        after + (64 << 20) >= written,
        "{after} of {written} are known"
    );
}

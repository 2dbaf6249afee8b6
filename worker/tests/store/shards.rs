//! A restart with another number of shards keeps the cache.

use corelane_io::sim::Faults;

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
        shard.store.flush().await;
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

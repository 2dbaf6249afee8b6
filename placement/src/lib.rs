//! Where a stripe of an object lives. Pure arithmetic, the same in client, worker, master and
//! simulator: whoever knows an object's home half and the number of partitions knows the partition,
//! and whoever knows the members of a fleet knows the workers ([`fleet`]).

pub mod fleet;

/// The odd increment of SplitMix64: 2^64 over the golden ratio.
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The partition of `stripe` of the object with home half `home`, among `partitions`.
///
/// Stripe 0 of an object defines its home shard. The mix is the finalizer of SplitMix64 (Steele,
/// Lea, Flood 2014), applied to the home half plus the stripe times its odd increment.
///
/// # Panics
/// If `partitions` is not a power of two up to 65,536.
pub fn partition_of(home: u64, stripe: u32, partitions: u32) -> u16 {
    assert!(
        partitions.is_power_of_two() && partitions <= 1 << 16,
        "partitions {partitions} is not a power of two up to 65536"
    );
    let mixed = mix(home.wrapping_add(u64::from(stripe).wrapping_mul(GOLDEN_GAMMA)));
    (mixed & u64::from(partitions - 1)) as u16
}

/// The shard that owns `partition` when `partitions` are dealt to `shards` cores.
///
/// Contiguous runs, so that neighbouring core counts keep most partitions where they were.
///
/// # Panics
/// If `shards` is zero.
pub fn shard_of(partition: u16, partitions: u32, shards: u16) -> u16 {
    assert!(shards > 0, "a worker has at least one shard");
    (u32::from(partition) * u32::from(shards) / partitions) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mapping_is_the_one_that_devices_were_written_with() {
        let golden: Vec<u16> = [
            (0, 0),
            (1, 0),
            (1, 1),
            (0xdead_beef, 7),
            (u64::MAX, u32::MAX),
        ]
        .into_iter()
        .map(|(home, stripe)| partition_of(home, stripe, 256))
        .collect();
        assert_eq!(golden, [0, 229, 193, 179, 3]);
    }

    #[test]
    fn every_shard_owns_a_fair_share() {
        for shards in 1..=64u16 {
            let mut counts = vec![0u32; usize::from(shards)];
            for partition in 0..256 {
                counts[usize::from(shard_of(partition, 256, shards))] += 1;
            }
            let (least, most) = (counts.iter().min(), counts.iter().max());
            assert!(
                most.zip(least)
                    .is_some_and(|(most, least)| most - least <= 1),
                "{counts:?}"
            );
        }
    }

    #[test]
    fn stripes_of_one_object_spread_over_partitions() {
        let mut seen = std::collections::BTreeSet::new();
        for stripe in 0..1024 {
            seen.insert(partition_of(42, stripe, 256));
        }
        assert!(seen.len() > 240, "{}", seen.len());
    }
}

//! What is read: aligned pieces of the objects, each lane those of its shard.
//!
//! A key is a piece of `read_bytes` of an object. Keys of a stripe belong to the stripe's shard
//! and are read on that shard's lanes, as a placement-aware client does.

use std::fmt;
use std::str::FromStr;

use corelane_placement::{partition_of, shard_of};
use corelane_rpc_schema::{ObjectId, STRIPE_BYTES};

use super::zipf::Zipf;
use crate::random::Random;

/// How often each key is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// All alike.
    Uniform,
    /// By Zipf's law, the ranks scattered over the keys.
    Zipf {
        /// The law's exponent.
        theta: f64,
    },
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "uniform" {
            return Ok(Distribution::Uniform);
        }
        let expected =
            || format!("expected uniform, zipf or zipf:THETA such as zipf:0.99, found `{text}`");
        let rest = text.strip_prefix("zipf").ok_or_else(expected)?;
        let theta = match rest.strip_prefix(':') {
            Some(number) => number.parse().map_err(|_| expected())?,
            None if rest.is_empty() => 0.99,
            None => return Err(expected()),
        };
        if !(0.0..=10.0).contains(&theta) {
            return Err(format!("theta {theta} is not from 0 to 10"));
        }
        Ok(Distribution::Zipf { theta })
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Distribution::Uniform => formatter.write_str("uniform"),
            Distribution::Zipf { theta } => write!(formatter, "zipf:{theta}"),
        }
    }
}

/// An object to read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its id.
    pub object: ObjectId,
    /// Its bytes.
    pub length: u64,
}

/// One read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Of which object.
    pub object: ObjectId,
    /// From where.
    pub offset: u64,
    /// How much.
    pub length: u32,
}

#[derive(Clone, Debug)]
struct StripeKeys {
    first_key: u64,
    object: ObjectId,
    start: u64,
    end: u64,
}

/// The keys of one shard.
#[derive(Clone, Debug)]
pub struct KeySet {
    stripes: Vec<StripeKeys>,
    keys: u64,
    read_bytes: u32,
    zipf: Option<Zipf>,
}

impl KeySet {
    /// The keys of `targets` that `shard` of `shards` owns, where there are `partitions`.
    ///
    /// # Panics
    /// If `read_bytes` is zero or does not divide the stripe.
    pub fn of_shard(
        targets: &[Target],
        read_bytes: u32,
        distribution: Distribution,
        shard: u16,
        shards: u16,
        partitions: u32,
    ) -> KeySet {
        let read = u64::from(read_bytes);
        assert!(
            read > 0 && STRIPE_BYTES.is_multiple_of(read),
            "reads of {read} bytes"
        );
        let mut stripes = Vec::new();
        let mut keys = 0;
        for target in targets {
            for stripe in 0..target.length.div_ceil(STRIPE_BYTES) {
                let partition = partition_of(target.object.home, stripe as u32, partitions);
                if shard_of(partition, partitions, shards) != shard {
                    continue;
                }
                let start = stripe * STRIPE_BYTES;
                let end = target.length.min(start + STRIPE_BYTES);
                stripes.push(StripeKeys {
                    first_key: keys,
                    object: target.object,
                    start,
                    end,
                });
                keys += (end - start).div_ceil(read);
            }
        }
        let zipf = match distribution {
            Distribution::Zipf { theta } if keys > 0 => Some(Zipf::new(keys, theta)),
            _ => None,
        };
        KeySet {
            stripes,
            keys,
            read_bytes,
            zipf,
        }
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.keys
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.keys == 0
    }

    /// Key `index`.
    ///
    /// # Panics
    /// If there is none.
    #[inline]
    pub fn key(&self, index: u64) -> Key {
        assert!(index < self.keys, "key {index} of {}", self.keys);
        let stripe = &self.stripes[self
            .stripes
            .partition_point(|stripe| stripe.first_key <= index)
            - 1];
        let offset = stripe.start + (index - stripe.first_key) * u64::from(self.read_bytes);
        let length = (stripe.end - offset).min(u64::from(self.read_bytes)) as u32;
        Key {
            object: stripe.object,
            offset,
            length,
        }
    }

    /// A key by the distribution.
    #[inline]
    pub fn draw(&self, random: &mut Random) -> Key {
        match &self.zipf {
            None => self.key(random.below(self.keys)),
            Some(zipf) => self.key(scatter(zipf.sample(random) - 1, self.keys)),
        }
    }
}

/// A permutation of the numbers below `count`, so that popular ranks are not neighbours: a walk
/// over the cycle of an affine map on the next power of two.
pub fn scatter(rank: u64, count: u64) -> u64 {
    let mask = count.next_power_of_two() - 1;
    let mut at = rank;
    loop {
        // An odd factor and any addend permute the numbers below a power of two.
        at = at
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(0x632b_e59b_d9b4_e019)
            & mask;
        at ^= at >> (64 - mask.leading_zeros()).div_ceil(2).max(1);
        if at < count {
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets() -> Vec<Target> {
        [(1, 40 << 20), (2, 5000), (3, 16 << 20)]
            .map(|(home, length)| Target {
                object: ObjectId { home, version: 9 },
                length,
            })
            .to_vec()
    }

    #[test]
    fn the_shards_together_read_every_byte_once() {
        let mut bytes = 0;
        for shard in 0..3 {
            let keys = KeySet::of_shard(&targets(), 64 << 10, Distribution::Uniform, shard, 3, 256);
            for index in 0..keys.len() {
                let key = keys.key(index);
                assert_eq!(key.offset % (64 << 10), 0);
                bytes += u64::from(key.length);
            }
        }
        assert_eq!(
            bytes,
            targets().iter().map(|target| target.length).sum::<u64>()
        );
    }

    #[test]
    fn scattering_is_a_permutation() {
        for count in [1, 2, 3, 7, 8, 100, 1000, 4097] {
            let mut seen: Vec<u64> = (0..count).map(|rank| scatter(rank, count)).collect();
            seen.sort_unstable();
            assert!(seen.iter().copied().eq(0..count), "{count}");
        }
    }

    #[test]
    fn distributions_are_read_back_as_written() {
        for text in ["uniform", "zipf:0.99", "zipf:1.2"] {
            assert_eq!(
                text.parse::<Distribution>().expect("valid").to_string(),
                text
            );
        }
        assert_eq!("zipf".parse(), Ok(Distribution::Zipf { theta: 0.99 }));
        for text in ["", "normal", "zipf:", "zipf:x", "zipf:-1", "zipfian"] {
            assert!(text.parse::<Distribution>().is_err(), "{text}");
        }
    }

    #[test]
    fn zipf_prefers_few_keys_that_are_not_neighbours() {
        let keys = KeySet::of_shard(
            &targets(),
            4096,
            Distribution::Zipf { theta: 0.99 },
            0,
            1,
            256,
        );
        let mut random = Random::new(5);
        let mut counts = std::collections::HashMap::new();
        for _ in 0..50_000 {
            let key = keys.draw(&mut random);
            *counts.entry((key.object, key.offset)).or_insert(0u32) += 1;
        }
        let mut ranked: Vec<_> = counts.into_iter().collect();
        ranked.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        assert!(ranked[0].1 > 2_000, "{}", ranked[0].1);
        assert!(ranked[0].0.1.abs_diff(ranked[1].0.1) > 1 << 20);
    }
}

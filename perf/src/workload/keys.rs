//! Which of many equal places comes next: uniform, by Zipf's law, or mostly from a window that
//! moves.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::zipf::Zipf;
use crate::random::Random;

/// How often each place is asked for. Written `uniform`, `zipf`, `zipf:0.99` or
/// `hot-spot:SHARE:WIDTH:SECONDS`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Keys {
    /// All alike.
    Uniform,
    /// By Zipf's law, the ranks scattered over the places.
    Zipf {
        /// The law's exponent.
        theta: f64,
    },
    /// A share of the draws goes to a window of the places, the rest to all alike.
    HotSpot {
        /// The window's share of the draws, 0 to 1.
        share: f64,
        /// The window's share of the places, 0 to 1.
        width: f64,
        /// The window moves by its own width each so many seconds.
        seconds: f64,
    },
}

impl Keys {
    pub(super) fn check(&self) -> Result<(), String> {
        match *self {
            Keys::Uniform => Ok(()),
            Keys::Zipf { theta } if (0.0..=10.0).contains(&theta) => Ok(()),
            Keys::Zipf { theta } => Err(format!("theta {theta} is not from 0 to 10")),
            Keys::HotSpot {
                share,
                width,
                seconds,
            } => {
                let is_share = |number: f64| (0.0..=1.0).contains(&number) && number > 0.0;
                if is_share(share) && is_share(width) && seconds.is_finite() && seconds > 0.0 {
                    Ok(())
                } else {
                    Err(format!(
                        "{self}: share and width are over 0 and up to 1, seconds over 0"
                    ))
                }
            }
        }
    }
}

impl FromStr for Keys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "expected uniform, zipf, zipf:THETA such as zipf:0.99, or \
                 hot-spot:SHARE:WIDTH:SECONDS such as hot-spot:0.9:0.05:5, found `{text}`"
            )
        };
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let numbers: Vec<f64> = parts
            .map(|part| part.parse().map_err(|_| expected()))
            .collect::<Result<_, _>>()?;
        let keys = match (name, numbers.as_slice()) {
            ("uniform", []) => Keys::Uniform,
            ("zipf", []) => Keys::Zipf { theta: 0.99 },
            ("zipf", &[theta]) => Keys::Zipf { theta },
            ("hot-spot", &[share, width, seconds]) => Keys::HotSpot {
                share,
                width,
                seconds,
            },
            _ => return Err(expected()),
        };
        keys.check()?;
        Ok(keys)
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Keys::Uniform => formatter.write_str("uniform"),
            Keys::Zipf { theta } => write!(formatter, "zipf:{theta}"),
            Keys::HotSpot {
                share,
                width,
                seconds,
            } => write!(formatter, "hot-spot:{share}:{width}:{seconds}"),
        }
    }
}

impl Serialize for Keys {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Draws among `count` places.
#[derive(Clone, Debug)]
pub struct Draw {
    keys: Keys,
    count: u64,
    zipf: Option<Zipf>,
}

impl Draw {
    /// Among `count` places by `keys`.
    ///
    /// # Panics
    /// If there are none.
    pub fn new(keys: Keys, count: u64) -> Draw {
        assert!(count > 0, "nothing to draw from");
        let zipf = match keys {
            Keys::Zipf { theta } => Some(Zipf::new(count, theta)),
            Keys::Uniform | Keys::HotSpot { .. } => None,
        };
        Draw { keys, count, zipf }
    }

    /// A place, `since_start` into the load.
    #[inline]
    pub fn next(&self, random: &mut Random, since_start: Duration) -> u64 {
        match (self.keys, &self.zipf) {
            (_, Some(zipf)) => scatter(zipf.sample(random) - 1, self.count, 0),
            (
                Keys::HotSpot {
                    share,
                    width,
                    seconds,
                },
                None,
            ) if random.fraction() < share => {
                let window = ((self.count as f64 * width) as u64).max(1);
                let moves = (since_start.as_secs_f64() / seconds) as u64;
                let start = moves.wrapping_mul(window) % self.count;
                (start + random.below(window)) % self.count
            }
            (_, None) => random.below(self.count),
        }
    }
}

/// A permutation of the numbers below `count`, another for each `seed`, so that popular ranks are
/// not neighbours and epochs differ: a walk over the cycle of an invertible map on the next power
/// of two.
pub fn scatter(rank: u64, count: u64, seed: u64) -> u64 {
    let mask = count.next_power_of_two() - 1;
    let shift = (64 - mask.leading_zeros()).div_ceil(2).max(1);
    // The finalizer of SplitMix64 makes neighbouring seeds unlike.
    let mut addend = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    addend = (addend ^ (addend >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    addend = (addend ^ (addend >> 27)).wrapping_add(0x632b_e59b_d9b4_e019);
    let mut at = rank;
    loop {
        // An odd factor, any addend and a shifted xor each permute the numbers below a power of two.
        for _ in 0..ROUNDS {
            at = at.wrapping_add(addend).wrapping_mul(0x9e37_79b9_7f4a_7c15) & mask;
            at ^= at >> shift;
        }
        if at < count {
            return at;
        }
    }
}

/// Rounds of [`scatter`]: with one, seeds would only turn the same order.
const ROUNDS: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattering_is_a_permutation_for_every_seed() {
        for count in [1, 2, 3, 7, 8, 100, 1000, 4097] {
            for seed in 0..5 {
                let mut seen: Vec<u64> =
                    (0..count).map(|rank| scatter(rank, count, seed)).collect();
                seen.sort_unstable();
                assert!(seen.iter().copied().eq(0..count), "{count} {seed}");
            }
        }
    }

    #[test]
    fn seeds_give_unlike_orders() {
        const COUNT: u64 = 1000;
        for seed in 1..20 {
            let same = (0..COUNT)
                .filter(|rank| scatter(*rank, COUNT, 0) == scatter(*rank, COUNT, seed))
                .count();
            let same_neighbours = (0..COUNT - 1)
                .filter(|rank| {
                    let step = |seed| {
                        scatter(rank + 1, COUNT, seed).wrapping_sub(scatter(*rank, COUNT, seed))
                    };
                    step(0) == step(seed)
                })
                .count();
            assert!(
                same < 20 && same_neighbours < 100,
                "{same} {same_neighbours}"
            );
        }
    }

    #[test]
    fn keys_are_read_back_as_written() {
        for text in ["uniform", "zipf:0.99", "zipf:1.2", "hot-spot:0.9:0.05:5"] {
            assert_eq!(text.parse::<Keys>().expect("valid").to_string(), text);
        }
        assert_eq!("zipf".parse(), Ok(Keys::Zipf { theta: 0.99 }));
        for text in [
            "",
            "normal",
            "zipf:",
            "zipf:x",
            "zipf:-1",
            "zipfian",
            "uniform:1",
            "hot-spot",
            "hot-spot:2:0.1:5",
            "hot-spot:0.5:0:5",
            "hot-spot:0.5:0.1:0",
        ] {
            assert!(text.parse::<Keys>().is_err(), "{text}");
        }
    }

    #[test]
    fn zipf_prefers_few_places_that_are_not_neighbours() {
        let draw = Draw::new(Keys::Zipf { theta: 0.99 }, 14_000);
        let mut random = Random::new(5);
        let mut counts = vec![0u32; 14_000];
        for _ in 0..50_000 {
            counts[draw.next(&mut random, Duration::ZERO) as usize] += 1;
        }
        let mut ranked: Vec<usize> = (0..counts.len()).collect();
        ranked.sort_by_key(|place| std::cmp::Reverse(counts[*place]));
        assert!(counts[ranked[0]] > 2_000, "{}", counts[ranked[0]]);
        assert!(ranked[0].abs_diff(ranked[1]) > 16);
    }

    #[test]
    fn a_hot_spot_takes_its_share_and_moves() {
        let keys = "hot-spot:0.9:0.1:2".parse().expect("valid");
        let draw = Draw::new(keys, 1000);
        let mut random = Random::new(6);
        let mut inside = |at_seconds: u64, window: std::ops::Range<u64>| {
            let at = Duration::from_secs(at_seconds);
            (0..10_000)
                .filter(|_| window.contains(&draw.next(&mut random, at)))
                .count()
        };
        // Nine tenths go to the window, and a tenth of the rest falls into it too.
        assert!((8_950..9_250).contains(&inside(1, 0..100)));
        assert!((8_950..9_250).contains(&inside(3, 100..200)));
        assert!(inside(3, 0..100) < 200);
        assert!(
            (8_950..9_250).contains(&inside(20, 0..100)),
            "around the end"
        );
    }
}

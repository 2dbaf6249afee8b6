//! The generator that decides everything in a world.
//!
//! xoshiro256++ seeded by splitmix64 (Blackman and Vigna, prng.di.unimi.it): small, fast, and the
//! same on every platform. Not for secrets.

use std::cell::Cell;

/// A seeded generator. Methods take `&self`, so that the parts of a world can share one.
#[derive(Debug)]
pub struct Prng {
    state: Cell<[u64; 4]>,
}

impl Prng {
    /// The generator of `seed`.
    pub fn new(seed: u64) -> Self {
        let mut counter = seed;
        let state = std::array::from_fn(|_| {
            counter = counter.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(counter)
        });
        Prng {
            state: Cell::new(state),
        }
    }

    /// A generator whose numbers are independent of what this one gives later.
    pub fn fork(&self) -> Prng {
        Prng::new(self.next())
    }

    /// Sixty-four random bits.
    pub fn next(&self) -> u64 {
        let mut state = self.state.get();
        let result = state[0]
            .wrapping_add(state[3])
            .rotate_left(23)
            .wrapping_add(state[0]);
        let shifted = state[1] << 17;
        state[2] ^= state[0];
        state[3] ^= state[1];
        state[1] ^= state[2];
        state[0] ^= state[3];
        state[2] ^= shifted;
        state[3] = state[3].rotate_left(45);
        self.state.set(state);
        result
    }

    /// A number in `0..bound`.
    ///
    /// The bias of the multiplication is below 2^-32 for the bounds in use here.
    ///
    /// # Panics
    /// If `bound` is zero.
    pub fn below(&self, bound: u64) -> u64 {
        assert!(bound > 0, "a number below zero was asked for");
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `low..=high`.
    ///
    /// # Panics
    /// If `low` is above `high`.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "no number in {low}..={high}");
        match (high - low).checked_add(1) {
            Some(width) => low + self.below(width),
            None => self.next(),
        }
    }

    /// True with `probability`. Draws nothing when that is zero, so that a rate of zero leaves the
    /// other decisions of a seed as they were.
    pub fn chance(&self, probability: f64) -> bool {
        if probability <= 0.0 {
            return false;
        }
        let unit = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        unit < probability
    }

    /// One of two, with equal probability.
    pub fn coin(&self) -> bool {
        self.next() >> 63 == 1
    }

    /// Overwrites `bytes` with random ones.
    pub fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let random = self.next().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
    }
}

/// The finaliser of splitmix64: every bit of the result depends on every bit of `value`.
pub(super) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_splitmix_finaliser_gives_the_published_first_output_of_seed_zero() {
        assert_eq!(mix(0x9e37_79b9_7f4a_7c15), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn numbers_stay_in_their_range_and_reach_both_ends() {
        let prng = Prng::new(3);
        let drawn: Vec<u64> = (0..1000).map(|_| prng.between(5, 8)).collect();
        assert_eq!(drawn.iter().min(), Some(&5));
        assert_eq!(drawn.iter().max(), Some(&8));
    }

    #[test]
    fn a_chance_comes_as_often_as_it_says() {
        let prng = Prng::new(4);
        let hits = (0..10_000).filter(|_| prng.chance(0.1)).count();
        assert!((800..1200).contains(&hits), "{hits} of 10000 at one in ten");
        assert!(!prng.chance(0.0));
        assert!(prng.chance(1.0));
    }
}

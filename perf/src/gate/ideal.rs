//! The ideal that the store's hit rate is compared with: S3-FIFO in memory (Yang et al., "FIFO
//! queues are all you need for cache eviction", SOSP 2023), block by block, without regions.

use std::collections::{HashMap, HashSet, VecDeque};

/// A cache of keys.
#[derive(Debug)]
pub struct IdealCache {
    capacity: usize,
    small_max: usize,
    promoted_at: u8,
    small: VecDeque<u64>,
    main: VecDeque<u64>,
    frequency: HashMap<u64, u8>,
    ghost: VecDeque<u64>,
    ghost_keys: HashSet<u64>,
}

impl IdealCache {
    /// A cache for `capacity` keys, a tenth of them in the small queue, as in the paper. Keys that
    /// were asked for `promoted_at` times more go from there to the main queue: two in the paper's
    /// pseudocode, one in its text.
    ///
    /// # Panics
    /// If `capacity` is below two.
    pub fn new(capacity: usize, promoted_at: u8) -> IdealCache {
        assert!(capacity >= 2, "an S3-FIFO of {capacity} keys");
        IdealCache {
            capacity,
            small_max: (capacity / 10).max(1),
            promoted_at,
            small: VecDeque::new(),
            main: VecDeque::new(),
            frequency: HashMap::new(),
            ghost: VecDeque::new(),
            ghost_keys: HashSet::new(),
        }
    }

    /// Asks for `key`; true if it was there, else it is now.
    pub fn request(&mut self, key: u64) -> bool {
        if let Some(frequency) = self.frequency.get_mut(&key) {
            *frequency = (*frequency + 1).min(3);
            return true;
        }
        while self.small.len() + self.main.len() >= self.capacity {
            self.evict();
        }
        if self.ghost_keys.remove(&key) {
            self.main.push_back(key);
        } else {
            self.small.push_back(key);
        }
        self.frequency.insert(key, 0);
        false
    }

    fn evict(&mut self) {
        if self.small.len() >= self.small_max || self.main.is_empty() {
            self.evict_small();
        } else {
            self.evict_main();
        }
    }

    fn evict_small(&mut self) {
        while let Some(key) = self.small.pop_front() {
            let frequency = self
                .frequency
                .get_mut(&key)
                .expect("a queued key has a frequency");
            if *frequency >= self.promoted_at {
                *frequency = 0;
                self.main.push_back(key);
                continue;
            }
            self.frequency.remove(&key);
            self.remember(key);
            return;
        }
    }

    fn evict_main(&mut self) {
        while let Some(key) = self.main.pop_front() {
            let frequency = self
                .frequency
                .get_mut(&key)
                .expect("a queued key has a frequency");
            if *frequency > 0 {
                *frequency -= 1;
                self.main.push_back(key);
                continue;
            }
            self.frequency.remove(&key);
            return;
        }
    }

    fn remember(&mut self, key: u64) {
        if self.ghost_keys.insert(key) {
            self.ghost.push_back(key);
        }
        // As many ghosts as the main queue holds keys; stale entries leave with the rest.
        while self.ghost.len() > self.capacity - self.small_max {
            if let Some(oldest) = self.ghost.pop_front() {
                self.ghost_keys.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use crate::workload::zipf::Zipf;

    #[test]
    fn it_never_holds_more_than_its_capacity_and_what_it_holds_it_hits() {
        let mut cache = IdealCache::new(50, 2);
        let mut random = Random::new(1);
        let zipf = Zipf::new(400, 0.99);
        let mut hits = 0;
        for _ in 0..20_000 {
            let key = zipf.sample(&mut random);
            hits += u32::from(cache.request(key));
            assert!(cache.frequency.len() <= 50);
            assert!(cache.request(key), "a key just asked for is there");
        }
        assert!(hits > 8_000, "{hits}");
    }

    #[test]
    fn a_scan_does_not_push_out_what_is_asked_for_again() {
        let mut cache = IdealCache::new(100, 1);
        for _ in 0..4 {
            for key in 0..40 {
                cache.request(key);
            }
        }
        for key in 1000..3000 {
            cache.request(key);
        }
        let left = (0..40).filter(|key| cache.request(*key)).count();
        assert!(left >= 35, "{left} of 40");
    }
}

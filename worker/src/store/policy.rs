//! What enters which log, which log is reclaimed and what survives: S3-FIFO (Yang et al., SOSP
//! 2023) over regions instead of blocks. Pure decisions, shared by the store and by [`model`],
//! which measures them.
//!
//! New blocks enter the small log. When its oldest region is reclaimed, blocks that were used twice
//! since move to the main log and the others leave, remembered as fingerprints by the [`Ghost`];
//! a block that comes back while it is remembered enters the main log at once. When the oldest
//! region of the main log is reclaimed, used blocks go round once more for each use.
//!
//! [`model`]: super::model

use super::header::Log;

/// The decisions, with their constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Share of the regions that the small log may have before it is reclaimed first.
    pub small_fraction: f64,
    /// Uses after which a block of the small log moves to the main log.
    pub promote_frequency: u8,
    /// Most rounds that a block of the main log goes without a use; frequencies are cut to it.
    pub main_frequency_max: u8,
}

/// What becomes of a block of a region that is reclaimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It leaves; whether the ghost remembers it.
    Evict {
        /// Whether it is remembered.
        remember: bool,
    },
    /// It moves to the main log with this frequency.
    Keep {
        /// The frequency there.
        frequency: u8,
    },
}

impl Policy {
    /// The policy with a small log of `small_fraction` and the constants that did best in
    /// [`model`](super::model).
    pub fn new(small_fraction: f64) -> Self {
        Policy {
            small_fraction,
            promote_frequency: 2,
            main_frequency_max: 3,
        }
    }

    /// The log that a new block enters; `remembered`: the ghost knew it.
    pub fn admit(&self, remembered: bool) -> Log {
        if remembered { Log::Main } else { Log::Small }
    }

    /// The log to reclaim from, with `small` and `main` sealed regions of `total`.
    pub fn victim(&self, small: usize, main: usize, total: usize) -> Option<Log> {
        match (small, main) {
            (0, 0) => None,
            (_, 0) => Some(Log::Small),
            (0, _) => Some(Log::Main),
            _ if small as f64 >= (total as f64 * self.small_fraction).max(1.0) => Some(Log::Small),
            _ => Some(Log::Main),
        }
    }

    /// What becomes of a block with `frequency` uses in a region of `log`.
    pub fn verdict(&self, log: Log, frequency: u8) -> Verdict {
        match log {
            Log::Small if frequency >= self.promote_frequency => Verdict::Keep { frequency: 0 },
            Log::Small => Verdict::Evict { remember: true },
            Log::Main if frequency > 0 => Verdict::Keep {
                frequency: (frequency - 1).min(self.main_frequency_max - 1),
            },
            Log::Main => Verdict::Evict { remember: false },
        }
    }
}

/// Fingerprints in a bucket: one cache line of 4-byte slots.
const BUCKET: usize = 16;

/// Steps of the clock that a full table spans. The clock is 16 bits wide and so goes round after
/// sixteen spans, when nothing of the span before is left.
const STEPS_PER_SPAN: u64 = 4096;

/// Remembers keys that left the small log, as 16-bit fingerprints in a fixed table.
///
/// A bucket is a small queue: the newest pushes the oldest out. A key that never left is taken for
/// one that did in 1 of 4,000 cases; that costs one place in the main log.
#[derive(Debug)]
pub struct Ghost {
    slots: Box<[(u16, u16)]>,
    /// Keys remembered so far.
    clock: u64,
    keys_per_step: u64,
}

impl Ghost {
    /// A table for `capacity` keys, 4 bytes each.
    pub fn new(capacity: usize) -> Self {
        let buckets = capacity.div_ceil(BUCKET).max(1);
        let keys_per_step = ((buckets * BUCKET) as u64).div_ceil(STEPS_PER_SPAN);
        // Fingerprint zero marks a vacant slot.
        Ghost {
            slots: vec![(0, 0); buckets * BUCKET].into_boxed_slice(),
            clock: 0,
            keys_per_step,
        }
    }

    /// Bytes that a table for `capacity` keys takes.
    pub fn bytes_for(capacity: usize) -> usize {
        capacity.div_ceil(BUCKET).max(1) * BUCKET * 4
    }

    fn bucket(&mut self, hash: u64) -> (&mut [(u16, u16)], u16) {
        let buckets = (self.slots.len() / BUCKET) as u128;
        let start = ((u128::from(hash) * buckets) >> 64) as usize * BUCKET;
        (&mut self.slots[start..start + BUCKET], (hash as u16).max(1))
    }

    fn step(&self) -> u16 {
        (self.clock / self.keys_per_step) as u16
    }

    /// Remembers the key with `hash`.
    pub fn remember(&mut self, hash: u64) {
        let step = self.step();
        let (bucket, fingerprint) = self.bucket(hash);
        bucket.rotate_right(1);
        bucket[0] = (fingerprint, step);
        self.clock += 1;
    }

    /// Whether the key with `hash` is among the last `span` remembered; forgets it.
    pub fn take(&mut self, hash: u64, span: u64) -> bool {
        let step = self.step();
        let steps_max = span.div_ceil(self.keys_per_step).min(u64::from(u16::MAX));
        let (bucket, fingerprint) = self.bucket(hash);
        let found = bucket.iter().position(|slot| slot.0 == fingerprint);
        let Some(found) = found else { return false };
        let age = u64::from(step.wrapping_sub(bucket[found].1));
        bucket[found] = (0, 0);
        age <= steps_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(key: u64) -> u64 {
        key.wrapping_add(1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(31)
            .wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }

    #[test]
    fn the_ghost_remembers_the_last_keys_once_each() {
        let mut ghost = Ghost::new(1 << 14);
        (0..100_000).for_each(|key| ghost.remember(hash(key)));
        let recent = (95_000..100_000)
            .filter(|key| ghost.take(hash(*key), 1 << 14))
            .count();
        assert!(recent > 4_900, "{recent} of the last 5,000");
        let again = (95_000..100_000)
            .filter(|key| ghost.take(hash(*key), 1 << 14))
            .count();
        assert!(again < 20, "{again} taken twice");
        let old = (0..50_000)
            .filter(|key| ghost.take(hash(*key), 1 << 14))
            .count();
        assert!(old < 50, "{old} of keys long gone");
    }

    #[test]
    fn what_was_remembered_before_the_span_does_not_count() {
        let mut ghost = Ghost::new(1 << 14);
        (0..8_000).for_each(|key| ghost.remember(hash(key)));
        assert!(!ghost.take(hash(10), 4_000));
        assert!(ghost.take(hash(7_000), 4_000));
    }

    #[test]
    fn the_small_log_is_reclaimed_once_it_has_its_share() {
        let policy = Policy::new(0.1);
        assert_eq!(policy.victim(4, 50, 60), Some(Log::Main));
        assert_eq!(policy.victim(6, 50, 60), Some(Log::Small));
        assert_eq!(policy.victim(0, 0, 60), None);
    }
}

//! Reads of what a worker does not have yet: the first one fetches the block, those that come
//! meanwhile wait with it, those that come later find it.

use std::collections::HashMap;

use corelane_placement::fleet::MemberIndex;

use crate::random::Random;
use crate::simulate::samples::Samples;

/// Blocks of a stripe: 1 MiB each.
pub const BLOCKS_PER_STRIPE: u64 = 16;

/// What workers fetched that they did not hold at the start.
#[derive(Debug)]
pub struct Fills {
    under_store: Samples,
    /// When each block of a worker is there.
    there_at: HashMap<(MemberIndex, u64), u64>,
    misses: u64,
}

impl Fills {
    /// Nothing was fetched; a fetch takes a time drawn from `under_store`.
    pub fn new(under_store: Samples) -> Fills {
        Fills {
            under_store,
            there_at: HashMap::new(),
            misses: 0,
        }
    }

    /// `worker` is asked at `now` for a block that it did not hold at the start: how long the
    /// answer has to wait for it.
    pub fn read(&mut self, worker: MemberIndex, block: u64, now: u64, random: &mut Random) -> u64 {
        let under_store = &self.under_store;
        let there_at = *self
            .there_at
            .entry((worker, block))
            .or_insert_with(|| now + under_store.draw(random));
        let wait = there_at.saturating_sub(now);
        self.misses += u64::from(wait > 0);
        wait
    }

    /// Reads that had to wait.
    pub fn misses(&self) -> u64 {
        self.misses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_fetched_once_and_then_there() {
        let mut fills = Fills::new(Samples::constant(100));
        let mut random = Random::new(1);
        assert_eq!(fills.read(1, 7, 1000, &mut random), 100);
        assert_eq!(fills.read(1, 7, 1040, &mut random), 60);
        assert_eq!(fills.read(1, 7, 1100, &mut random), 0);
        assert_eq!(fills.read(2, 7, 1100, &mut random), 100, "another worker");
        assert_eq!(fills.misses(), 3);
    }
}

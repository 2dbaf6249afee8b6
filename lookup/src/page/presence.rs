//! Which rows of a page have a value, and the place of a row's value among those that are there.

use super::hybrid::Hybrid;
use crate::error::Result;
use crate::memory::Charge;

/// Bytes of memory of 64 rows: their bits, and the count before them.
const WORD_BYTES: u64 = 12;

/// One bit a row, and counts that make ranks a matter of one word.
#[derive(Clone, Debug)]
pub struct Presence {
    words: Vec<u64>,
    /// Values before each word.
    before: Vec<u32>,
    rows: u32,
    present: u32,
}

impl Presence {
    /// From definition levels: a value is there where the level is `max`. `None` if all are.
    ///
    /// # Errors
    /// What charging it to `memory` gives.
    pub fn of_levels(levels: &Hybrid, max: u32, memory: &mut Charge) -> Result<Option<Self>> {
        if levels.constant() == Some(max) {
            return Ok(None);
        }
        let rows = levels.len();
        memory.add((rows as usize).div_ceil(64) as u64 * WORD_BYTES)?;
        let mut words = vec![0u64; (rows as usize).div_ceil(64)];
        levels.each(0, rows, |start, count, level| {
            if level == max {
                set(&mut words, start, count);
            }
        });
        Ok(Presence::of_words(words, rows))
    }

    /// From one level a row.
    pub fn of_each(levels: &[i16], max: i16) -> Option<Self> {
        let mut words = vec![0u64; levels.len().div_ceil(64)];
        for (row, level) in levels.iter().enumerate() {
            words[row / 64] |= u64::from(*level == max) << (row % 64);
        }
        Presence::of_words(words, levels.len() as u32)
    }

    fn of_words(words: Vec<u64>, rows: u32) -> Option<Self> {
        let mut before = Vec::with_capacity(words.len());
        let mut present = 0;
        for word in &words {
            before.push(present);
            present += word.count_ones();
        }
        (present < rows).then_some(Presence {
            words,
            before,
            rows,
            present,
        })
    }

    /// Rows that have a value.
    pub fn present(&self) -> u32 {
        self.present
    }

    /// Place of the row's value among those that are there, if it has one.
    ///
    /// # Panics
    /// If the page has no such row.
    #[inline]
    pub fn place(&self, row: u32) -> Option<u32> {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let (word, bit) = (row as usize / 64, row % 64);
        let bits = self.words[word];
        let below = bits & ((1 << bit) - 1);
        (bits >> bit & 1 == 1).then(|| self.before[word] + below.count_ones())
    }

    /// Values before `row`, which may be the number of rows.
    pub fn values_before(&self, row: u32) -> u32 {
        match self.words.get(row as usize / 64) {
            Some(bits) => {
                self.before[row as usize / 64] + (bits & ((1 << (row % 64)) - 1)).count_ones()
            }
            None => self.present,
        }
    }

    /// Bytes of memory that it takes.
    pub fn memory_bytes(&self) -> usize {
        self.words.len() * WORD_BYTES as usize
    }
}

fn set(words: &mut [u64], start: u32, count: u32) {
    let (mut row, end) = (start, start + count);
    while row < end {
        let bit = row % 64;
        let in_word = (64 - bit).min(end - row);
        let ones = if in_word == 64 {
            u64::MAX
        } else {
            ((1u64 << in_word) - 1) << bit
        };
        words[row as usize / 64] |= ones;
        row += in_word;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn places_count_the_values_before(levels in proptest::collection::vec(0i16..3, 0..400)) {
            let presence = Presence::of_each(&levels, 2);
            let mut place = 0;
            for (row, level) in levels.iter().enumerate() {
                let expected = (*level == 2).then_some(place);
                let found = match &presence {
                    Some(presence) => {
                        prop_assert_eq!(presence.values_before(row as u32), place);
                        presence.place(row as u32)
                    }
                    None => Some(row as u32),
                };
                prop_assert_eq!(found, expected);
                place += u32::from(*level == 2);
            }
        }
    }

    #[test]
    fn runs_are_set_across_words() {
        let mut words = vec![0; 3];
        set(&mut words, 60, 70);
        assert_eq!(words, [0xf << 60, u64::MAX, 0b11]);
    }
}

//! Key index: the rows of a file in which a column has a given value, without a page being read.
//!
//! An index is built of one column of one version of a file, kept as bytes, and read where they
//! lie. Values stand in it as [`image`]s of 64 bits. The invariant: every row whose value has the
//! image is among the answer. Where [`KeyIndex::is_exact`] says so no other row is; else the caller
//! compares the values of the rows with what it looks for. NULLs and NaNs are not in it.
//!
//! | part | in | what it holds |
//! |---|---|---|
//! | header | `header` | what the index is of, and its checksums |
//! | fences and offsets | `header` | the first key and the place of each block |
//! | blocks of 128 pairs | `block` | keys in order in Elias-Fano code, rows packed |
//!
//! A look-up is a search of some fences and a few words of one block. What bytes say is
//! checked where it is used: with right checksums they may give wrong rows, but rows of the file,
//! in bounded time, and no panic.

pub mod image;

mod bits;
mod block;
mod build;
mod header;
mod sort;

use std::fmt;
use std::ops::RangeInclusive;

use bytes::Bytes;

pub use self::build::Builder;

use self::bits::{mask, word};
use self::block::{Block, PAIRS_PER_BLOCK};
use self::header::{Header, Sections, corrupt};
use crate::error::{LookupError, Result};

/// What the images of an index are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexKind {
    /// In the order of the values, one for each value.
    Ordered,
    /// Hashes: of strings and wide values.
    Hashed,
}

/// Least distance, in blocks, from where a key is guessed to where it is looked for. Of `n` random
/// keys the rank strays from the guess by a standard deviation of at most `sqrt(n) / 2`, which is a
/// twenty-third of the square root of the blocks; the search covers five times that and this.
const SPREAD_BLOCKS_MIN: usize = 4;

/// An index, read in place.
#[derive(Clone)]
pub struct KeyIndex {
    bytes: Bytes,
    header: Header,
    sections: Sections,
    blocks: usize,
    /// Blocks for each key that there could be.
    blocks_per_key: f64,
    /// How far from its place by its size a key is looked for, in blocks.
    spread: usize,
}

impl KeyIndex {
    /// The index that `bytes` are, from first to last, as [`Builder::finish`] made them.
    ///
    /// Every byte is read once, for the checksum: 0.02 ms for each MiB, twice that where no cache
    /// has it.
    ///
    /// # Errors
    /// `Corrupt` where they are not the bytes of an index, `Unsupported` where they are in another
    /// version of the format.
    pub fn open(bytes: Bytes) -> Result<KeyIndex> {
        let (header, sections) = Header::open(&bytes)?;
        let blocks = header.blocks() as usize;
        let greatest_key = header.key(header.max);
        Ok(KeyIndex {
            blocks,
            blocks_per_key: blocks as f64 / (greatest_key as f64 + 1.0),
            spread: SPREAD_BLOCKS_MIN + blocks.isqrt() / 4,
            bytes,
            header,
            sections,
        })
    }

    /// What the images are.
    pub fn kind(&self) -> IndexKind {
        self.header.kind
    }

    /// Whether the rows of an answer have exactly the images that were asked for.
    ///
    /// Never for hashes: the caller compares the values of every row. Nor for ordered keys of which
    /// the lowest bits are not kept: a few of their rows may be of a neighbouring value.
    pub fn is_exact(&self) -> bool {
        self.header.exact && self.header.kind == IndexKind::Ordered
    }

    /// Pairs of image and row in the index.
    pub fn len(&self) -> u64 {
        self.header.pairs
    }

    /// Whether the index has no pair.
    pub fn is_empty(&self) -> bool {
        self.header.pairs == 0
    }

    /// Rows of the file that it is of, NULLs among them.
    pub fn rows_in_file(&self) -> u32 {
        self.header.rows
    }

    /// Bytes of the index.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Appends the rows that have `image` to `rows`, at most `limit`. Answers how many there are.
    ///
    /// They ascend, except in an index of ordered keys that is not exact.
    ///
    /// # Errors
    /// `Corrupt` where the bytes contradict themselves. Some rows may have been appended.
    #[inline]
    pub fn get(&self, image: u64, limit: usize, rows: &mut impl Extend<u32>) -> Result<u64> {
        let Some(key) = self.key_of(image) else {
            return Ok(0);
        };
        let block = self.blocks_below(key);
        self.rows_of_key(key, block.saturating_sub(1), limit, rows)
    }

    /// Rows of many images at once: appends `(i, row)` for the rows that have `images[i]`, in the
    /// order of the images and at most `limit` in all. Answers how many there are.
    ///
    /// Each is looked up by itself: to sort a thousand of them first took longer than what
    /// neighbours then shared, in an index that a cache holds and in one of 48 MB that none does.
    ///
    /// # Errors
    /// `Corrupt` where the bytes contradict themselves. Some rows may have been appended.
    ///
    /// # Panics
    /// If there are more than `u32::MAX` images.
    pub fn get_many(
        &self,
        images: &[u64],
        limit: usize,
        rows: &mut Vec<(u32, u32)>,
    ) -> Result<u64> {
        let count = u32::try_from(images.len()).expect("fewer than 2^32 images");
        let mut found = 0;
        let mut left = limit;
        for (number, image) in (0..count).zip(images) {
            let with_image = self.get(*image, left, &mut Numbered { number, rows })?;
            found += with_image;
            left -= left.min(with_image as usize);
        }
        Ok(found)
    }

    /// Appends the rows whose images are in `images`, in the order of their images, at most
    /// `limit`. Answers how many there are.
    ///
    /// # Errors
    /// `Invalid` for an index of hashes, which have no order; `Corrupt` where the bytes contradict
    /// themselves. Some rows may have been appended.
    pub fn range(
        &self,
        images: RangeInclusive<u64>,
        limit: usize,
        rows: &mut impl Extend<u32>,
    ) -> Result<u64> {
        let Some((low, high)) = self.keys_of(&images)? else {
            return Ok(0);
        };
        let start = self.rank(low)?;
        let end = match high.checked_add(1) {
            Some(above) => self.rank(above)?,
            None => self.header.pairs,
        };
        // Where fences are not in order, so may ranks.
        let found = end.saturating_sub(start);
        let end = start + found.min(limit as u64);
        let mut place = start;
        while place < end {
            let block = self.block((place / PAIRS_PER_BLOCK as u64) as usize)?;
            let number = (place % PAIRS_PER_BLOCK as u64) as usize;
            let numbers = number..block.pairs().min(number + (end - place) as usize);
            place += numbers.len() as u64;
            self.append(&block, numbers, rows)?;
        }
        Ok(found)
    }

    /// At least as many as there are rows whose images are in `images`, and at most two blocks'
    /// pairs more, from the fences alone. All pairs, for an index of hashes.
    pub fn estimate_range(&self, images: RangeInclusive<u64>) -> u64 {
        match self.keys_of(&images) {
            Err(_) => self.header.pairs,
            Ok(None) => 0,
            Ok(Some((low, high))) => {
                let start = self.blocks_below(low);
                let end = match high.checked_add(1) {
                    Some(above) => self.blocks_below(above).max(start),
                    None => self.blocks,
                };
                let pairs =
                    |blocks: usize| (blocks as u64 * PAIRS_PER_BLOCK as u64).min(self.header.pairs);
                pairs(end) - pairs(start.saturating_sub(1))
            }
        }
    }

    /// The key of `image`, if the index may have it.
    #[inline]
    fn key_of(&self, image: u64) -> Option<u64> {
        let header = &self.header;
        if image < header.min || image > header.max || header.pairs == 0 {
            return None;
        }
        let dropped = (image - header.min) & mask(header.shift);
        (dropped == 0 || !header.exact).then(|| header.key(image))
    }

    /// The least and the greatest key of these images, if the index may have one of them.
    fn keys_of(&self, images: &RangeInclusive<u64>) -> Result<Option<(u64, u64)>> {
        let header = &self.header;
        if header.kind == IndexKind::Hashed {
            return Err(LookupError::invalid(
                "an index of hashes knows no ranges; look for equal values, or scan",
            ));
        }
        let low = header.min.max(*images.start());
        let high = header.max.min(*images.end());
        if low > high || header.pairs == 0 {
            return Ok(None);
        }
        let below = (low - header.min) & mask(header.shift);
        let low = header.key(low) + u64::from(header.exact && below != 0);
        let high = header.key(high);
        Ok((low <= high).then_some((low, high)))
    }

    /// How many blocks start with a key less than `key`.
    ///
    /// Evenly spread keys are looked for near the place that their size says; where the fences
    /// there show that they are elsewhere, among all.
    #[inline]
    fn blocks_below(&self, key: u64) -> usize {
        let guess = (key as f64 * self.blocks_per_key) as usize;
        let low = guess.saturating_sub(self.spread);
        let high = (guess + self.spread).min(self.blocks);
        if low < high
            && (low == 0 || self.fence(low - 1) < key)
            && (high == self.blocks || self.fence(high) >= key)
        {
            return self.blocks_below_among(key, low, high);
        }
        self.blocks_below_among(key, 0, self.blocks)
    }

    /// The same, where it is known to be at least `low` and at most `high`.
    #[inline]
    fn blocks_below_among(&self, key: u64, low: usize, high: usize) -> usize {
        let mut base = low;
        let mut size = high - low;
        while size > 0 {
            let half = size.div_ceil(2);
            // Without a branch, which would be mispredicted half the time.
            base += if self.fence(base + half - 1) < key {
                half
            } else {
                0
            };
            size -= half;
        }
        base
    }

    /// The first key of `block`.
    #[inline]
    fn fence(&self, block: usize) -> u64 {
        let bytes = self.header.fence_bytes;
        let at = header::HEADER_BYTES + block * bytes;
        word(&self.bytes, at) & mask(bytes as u32 * 8)
    }

    /// The block `number`, which must be less than the blocks that there are.
    #[inline]
    fn block(&self, number: usize) -> Result<Block<'_>> {
        let bytes = self.header.offset_bytes;
        let at = self.sections.offsets + number * bytes;
        let offset = word(&self.bytes, at) & mask(bytes as u32 * 8);
        let before = number as u64 * PAIRS_PER_BLOCK as u64;
        let pairs = (self.header.pairs - before).min(PAIRS_PER_BLOCK as u64);
        usize::try_from(offset)
            .ok()
            .and_then(|offset| self.bytes.get(self.sections.blocks.checked_add(offset)?..))
            .and_then(|bytes| Block::open(bytes, pairs as usize, self.fence(number)))
            .ok_or_else(|| corrupt("a block makes no sense"))
    }

    /// How many keys are less than `key`.
    fn rank(&self, key: u64) -> Result<u64> {
        let blocks = self.blocks_below(key);
        let Some(last) = blocks.checked_sub(1) else {
            return Ok(0);
        };
        let within = self.block(last)?.lower_bound(key);
        Ok((last * PAIRS_PER_BLOCK + within) as u64)
    }

    /// Appends the rows of `key`, at most `limit`, of which none is before block `number`. Answers
    /// how many there are.
    #[inline]
    fn rows_of_key(
        &self,
        key: u64,
        mut number: usize,
        limit: usize,
        rows: &mut impl Extend<u32>,
    ) -> Result<u64> {
        let mut found = 0;
        loop {
            let block = self.block(number)?;
            let (start, end) = block.equal_range(key);
            let appended = end.min(start.saturating_add(limit.saturating_sub(found)));
            self.append(&block, start..appended, rows)?;
            found += end - start;
            number += 1;
            // Another block may start with the key only if this one ends before or with it.
            if end < block.pairs() || number == self.blocks || self.fence(number) != key {
                return Ok(found as u64);
            }
        }
    }

    #[inline]
    fn append(
        &self,
        block: &Block<'_>,
        numbers: std::ops::Range<usize>,
        rows: &mut impl Extend<u32>,
    ) -> Result<()> {
        for number in numbers {
            let row = block.row(number);
            if row >= self.header.rows {
                return Err(corrupt("it has a row that the file has not"));
            }
            rows.extend([row]);
        }
        Ok(())
    }
}

impl fmt::Debug for KeyIndex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("KeyIndex")
            .field("header", &self.header)
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// Rows with the number of the image that they have.
struct Numbered<'a> {
    number: u32,
    rows: &'a mut Vec<(u32, u32)>,
}

impl Extend<u32> for Numbered<'_> {
    fn extend<I: IntoIterator<Item = u32>>(&mut self, rows: I) {
        let number = self.number;
        self.rows.extend(rows.into_iter().map(|row| (number, row)));
    }
}

#[cfg(test)]
mod tests;

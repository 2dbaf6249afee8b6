//! Building of an index: pairs are gathered, sorted where they are not, and packed.
//!
//! Pairs stand as images and, where rows have gaps, row numbers: 8 to 12 bytes each. They are
//! sorted as words of 64 bits, in two buffers at most: key and row where both fit, and otherwise
//! the upper bits of the key with the pair's place, so that nothing but words is moved.

use super::IndexKind;
use super::bits::{TAIL_BYTES, bits_of, mask};
use super::block::{BLOCK_BYTES_MAX, PAIRS_PER_BLOCK, encode};
use super::header::{HEADER_BYTES, Header, bytes_for};
use super::sort::{by_upper_bits, for_each_tie};
use crate::error::{LookupError, Result};

/// Bits of a hash beyond those that number the pairs. A key that is not there meets a row in one
/// look-up of 65,536, and a page is read for nothing; each bit more costs every row of every index
/// a bit.
const HASH_BITS_SPARE: u32 = 16;

/// Bytes that an index of ordered keys has for each row of its file. Random keys of 64 bits in
/// random order hold 64 bits a row, so with what finds them they cannot fit exactly: their lowest
/// bits go, three or four, and such an index is not exact.
const BYTES_PER_ROW_MAX: usize = 8;

/// An index of up to this many bytes is exact whatever it has a row: nothing is won there.
const EXACT_BYTES_MAX: usize = 1 << 20;

/// Most bits that ordered keys lose to fit [`BYTES_PER_ROW_MAX`]. Random keys need four; beyond
/// that, keys that differ in their lowest bits alone would be taken for each other.
const LOST_BITS_MAX: u32 = 6;

/// Gathers pairs of image and row, and packs them into an index.
#[derive(Debug)]
pub struct Builder {
    kind: IndexKind,
    rows_in_file: u32,
    images: Vec<u64>,
    /// Rows of the pairs; empty as long as they are a run from `first_row` on.
    rows: Vec<u32>,
    first_row: u32,
    last_row: u32,
    min: u64,
    max: u64,
    /// Bits in which an image differs from the first.
    differing: u64,
    images_ascend: bool,
    rows_ascend: bool,
}

impl Builder {
    /// For the pairs of one column of a file of `rows_in_file` rows.
    ///
    /// # Errors
    /// `Unsupported` where row numbers do not fit 32 bits.
    pub fn new(kind: IndexKind, rows_in_file: u64) -> Result<Builder> {
        let rows_in_file = u32::try_from(rows_in_file).map_err(|_| {
            LookupError::unsupported(format!(
                "a file of {rows_in_file} rows has no key index: at most {} rows have one; \
                 write it as several files",
                u32::MAX
            ))
        })?;
        Ok(Builder {
            kind,
            rows_in_file,
            images: Vec::new(),
            rows: Vec::new(),
            first_row: 0,
            last_row: 0,
            min: u64::MAX,
            max: 0,
            differing: 0,
            images_ascend: true,
            rows_ascend: true,
        })
    }

    /// Adds the images of `images.len()` rows from `first_row` on.
    ///
    /// # Errors
    /// `Corrupt` where a row is not in the file: pages hold more rows than the footer says. Nothing
    /// is added.
    pub fn push_run(&mut self, first_row: u32, images: &[u64]) -> Result<()> {
        let Some(last) = images.len().checked_sub(1) else {
            return Ok(());
        };
        let last_row = u64::from(first_row) + last as u64;
        self.check(last_row, images.len())?;
        if self.continues(first_row) {
            if !self.rows.is_empty() {
                self.rows.extend(first_row..=last_row as u32);
            }
        } else {
            self.name_rows();
            self.rows_ascend &= first_row >= self.last_row;
            self.rows.extend(first_row..=last_row as u32);
        }
        self.last_row = last_row as u32;
        self.add(images);
        Ok(())
    }

    /// Adds pairs of a row and its image: what is left of a page without its NULLs.
    ///
    /// # Errors
    /// `Corrupt` where a row is not in the file. Nothing is added.
    ///
    /// # Panics
    /// If there are not as many rows as images.
    pub fn push_rows(&mut self, rows: &[u32], images: &[u64]) -> Result<()> {
        assert_eq!(rows.len(), images.len(), "a row for each image");
        let (Some(&first), Some(&last)) = (rows.first(), rows.last()) else {
            return Ok(());
        };
        let run = rows.is_sorted_by(|a, b| a.checked_add(1) == Some(*b));
        if run {
            return self.push_run(first, images);
        }
        let greatest = rows.iter().max().map_or(0, |row| u64::from(*row));
        self.check(greatest, images.len())?;
        self.name_rows();
        let after_the_others = self.rows.is_empty() || first >= self.last_row;
        self.rows_ascend &= after_the_others && rows.is_sorted();
        self.rows.extend_from_slice(rows);
        self.last_row = last;
        self.add(images);
        Ok(())
    }

    /// Pairs that were added.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Bytes that the builder holds now.
    pub fn memory_bytes(&self) -> usize {
        self.images.capacity() * size_of::<u64>() + self.rows.capacity() * size_of::<u32>()
    }

    /// About the most bytes that [`Builder::finish`] holds at a time, the builder's own and the index
    /// among them.
    pub fn finish_memory_bytes(&self) -> usize {
        let words = self.len() * size_of::<u64>();
        // Of the two buffers of words one is gone when the index is packed.
        self.memory_bytes() + words + words.max(index_bytes(&self.header(), self.len()))
    }

    /// The bytes of the index, for [`KeyIndex::open`](super::KeyIndex::open).
    ///
    /// It takes tens of milliseconds for a million pairs: not for a data core.
    pub fn finish(self) -> Vec<u8> {
        let header = self.header();
        let rows_in_file = self.rows_in_file as usize;
        let kind = self.kind;
        let pairs = self.sorted(&header);
        let mut index = pack(&pairs, header, 0);
        let budget = (rows_in_file.max(pairs.len()) * BYTES_PER_ROW_MAX).max(EXACT_BYTES_MAX);
        let mut lost_bits = 0;
        while kind == IndexKind::Ordered && index.len() > budget && lost_bits < LOST_BITS_MAX {
            let excess_bits = ((index.len() - budget) * 8).div_ceil(pairs.len()) as u32;
            lost_bits = (lost_bits + excess_bits).min(LOST_BITS_MAX);
            drop(index);
            index = pack(&pairs, header, lost_bits);
        }
        index
    }

    /// Whether a run from `row` on continues what was pushed last.
    fn continues(&mut self, row: u32) -> bool {
        if self.images.is_empty() {
            self.first_row = row;
            return true;
        }
        self.last_row.checked_add(1) == Some(row)
    }

    /// Writes down the rows of the pairs so far, where they were a run.
    fn name_rows(&mut self) {
        if self.rows.is_empty() && !self.images.is_empty() {
            self.rows.extend(self.first_row..=self.last_row);
        }
    }

    fn check(&self, greatest_row: u64, pairs: usize) -> Result<()> {
        if greatest_row >= u64::from(self.rows_in_file) {
            return Err(LookupError::corrupt(format!(
                "its pages hold row {greatest_row}, and its footer says {} rows; \
                 write the file again",
                self.rows_in_file
            )));
        }
        if self.images.len() + pairs > u32::MAX as usize {
            return Err(LookupError::unsupported(format!(
                "a column of more than {} values has no key index; write it as several files",
                u32::MAX
            )));
        }
        Ok(())
    }

    fn add(&mut self, images: &[u64]) {
        let first = *self.images.first().unwrap_or(&images[0]);
        self.images_ascend = self.images_ascend
            && self.images.last().is_none_or(|last| *last <= images[0])
            && images.is_sorted();
        for image in images {
            self.min = self.min.min(*image);
            self.max = self.max.max(*image);
            self.differing |= image ^ first;
        }
        self.images.extend_from_slice(images);
    }

    /// The header of the index, but for what packing decides.
    fn header(&self) -> Header {
        let (min, max) = (self.min.min(self.max), self.max);
        let common = if self.differing == 0 {
            0
        } else {
            self.differing.trailing_zeros()
        };
        let shift = match self.kind {
            IndexKind::Ordered => common,
            IndexKind::Hashed => {
                let kept = bits_of(self.images.len() as u64) + HASH_BITS_SPARE;
                common.max(bits_of(max - min).saturating_sub(kept))
            }
        };
        Header {
            kind: self.kind,
            shift,
            exact: shift == common,
            fence_bytes: 0,
            offset_bytes: 0,
            rows: self.rows_in_file,
            pairs: self.images.len() as u64,
            min,
            max,
        }
    }

    /// The pairs in order of key and row.
    fn sorted(self, header: &Header) -> Pairs {
        let Builder {
            mut images,
            rows,
            first_row,
            ..
        } = self;
        let rows = Rows {
            named: rows,
            first: first_row,
        };
        if self.images_ascend && self.rows_ascend {
            return Pairs::AsPushed { images, rows };
        }
        let key_bits = bits_of(header.key(header.max));
        let row_bits = bits_of(u64::from(self.rows_in_file - 1));
        if key_bits + row_bits <= 64 {
            for (place, image) in images.iter_mut().enumerate() {
                let row = u64::from(rows.at(place));
                *image = header.key(*image) << row_bits | row;
            }
            drop(rows);
            let lowest = by_upper_bits(&mut images, row_bits, row_bits + key_bits);
            if lowest > row_bits || !self.rows_ascend {
                for_each_tie(&mut images, lowest, |run| run.sort_unstable());
            }
            return Pairs::Words {
                words: images,
                row_bits,
            };
        }
        let place_bits = bits_of(images.len() as u64 - 1);
        let prefix_bits = key_bits.min(64 - place_bits);
        let place_mask = mask(place_bits);
        let mut words: Vec<u64> = (0..)
            .zip(&images)
            .map(|(place, image)| {
                header.key(*image) >> (key_bits - prefix_bits) << place_bits | place
            })
            .collect();
        let lowest = by_upper_bits(&mut words, place_bits, place_bits + prefix_bits);
        for_each_tie(&mut words, lowest, |run| {
            run.sort_unstable_by_key(|word| {
                let place = (word & place_mask) as usize;
                (images[place], rows.at(place))
            });
        });
        Pairs::Places {
            words,
            place_mask,
            images,
            rows,
        }
    }
}

/// Rows of the pairs as they were pushed.
struct Rows {
    /// Empty for a run.
    named: Vec<u32>,
    first: u32,
}

impl Rows {
    #[inline]
    fn at(&self, place: usize) -> u32 {
        if self.named.is_empty() {
            self.first + place as u32
        } else {
            self.named[place]
        }
    }
}

/// Pairs in order of key and row.
enum Pairs {
    AsPushed {
        images: Vec<u64>,
        rows: Rows,
    },
    /// Key and row in one word.
    Words {
        words: Vec<u64>,
        row_bits: u32,
    },
    /// Places in the lowest bits of words.
    Places {
        words: Vec<u64>,
        place_mask: u64,
        images: Vec<u64>,
        rows: Rows,
    },
}

impl Pairs {
    fn len(&self) -> usize {
        match self {
            Pairs::AsPushed { images, .. } => images.len(),
            Pairs::Words { words, .. } | Pairs::Places { words, .. } => words.len(),
        }
    }

    /// Keys and rows of the pairs from `start` on, as many as there is room for.
    fn copy(&self, header: &Header, start: usize, keys: &mut [u64], rows_out: &mut [u32]) {
        let out = keys.iter_mut().zip(rows_out);
        match self {
            Pairs::AsPushed { images, rows } => {
                for (place, (key, row)) in (start..).zip(out) {
                    *key = header.key(images[place]);
                    *row = rows.at(place);
                }
            }
            Pairs::Words { words, row_bits } => {
                for (word, (key, row)) in words[start..].iter().zip(out) {
                    *key = word >> row_bits;
                    *row = (word & mask(*row_bits)) as u32;
                }
            }
            Pairs::Places {
                words,
                place_mask,
                images,
                rows,
            } => {
                for (word, (key, row)) in words[start..].iter().zip(out) {
                    let place = (word & place_mask) as usize;
                    *key = header.key(images[place]);
                    *row = rows.at(place);
                }
            }
        }
    }
}

/// The index of these pairs, with keys that lose their `lost_bits` lowest bits.
fn pack(pairs: &Pairs, mut header: Header, lost_bits: u32) -> Vec<u8> {
    let blocks = pairs.len().div_ceil(PAIRS_PER_BLOCK);
    let greatest_key = header.key(header.max) >> lost_bits;
    header.fence_bytes = bytes_for(greatest_key);
    header.offset_bytes = bytes_for((blocks * BLOCK_BYTES_MAX) as u64);
    let directory_bytes = blocks * (header.fence_bytes + header.offset_bytes);
    let blocks_start = HEADER_BYTES + directory_bytes;

    let mut index = Vec::with_capacity(index_bytes(&header, pairs.len()));
    index.resize(blocks_start, 0);
    let (mut keys, mut rows) = ([0; PAIRS_PER_BLOCK], [0; PAIRS_PER_BLOCK]);
    for block in 0..blocks {
        let start = block * PAIRS_PER_BLOCK;
        let count = PAIRS_PER_BLOCK.min(pairs.len() - start);
        let (keys, rows) = (&mut keys[..count], &mut rows[..count]);
        pairs.copy(&header, start, keys, rows);
        for key in &mut *keys {
            *key >>= lost_bits;
        }
        let offset = (index.len() - blocks_start) as u64;
        let fence_at = HEADER_BYTES + block * header.fence_bytes;
        index[fence_at..fence_at + header.fence_bytes]
            .copy_from_slice(&keys[0].to_le_bytes()[..header.fence_bytes]);
        let offset_at = HEADER_BYTES + blocks * header.fence_bytes + block * header.offset_bytes;
        index[offset_at..offset_at + header.offset_bytes]
            .copy_from_slice(&offset.to_le_bytes()[..header.offset_bytes]);
        encode(keys, rows, &mut index);
    }
    index.extend([0; TAIL_BYTES]);

    header.shift += lost_bits;
    header.exact &= lost_bits == 0;
    let (head, body) = index.split_at_mut(HEADER_BYTES);
    head.copy_from_slice(&header.encode(body));
    index.shrink_to_fit();
    index
}

/// About as many bytes as the index of so many pairs can have: evenly spread keys and shuffled rows
/// are the worst.
fn index_bytes(header: &Header, pairs: usize) -> usize {
    let blocks = pairs.div_ceil(PAIRS_PER_BLOCK);
    let gap_bits = bits_of(header.key(header.max)).saturating_sub(pairs.max(1).ilog2());
    let pair_bits = gap_bits + 3 + bits_of(header.rows.into());
    // A fence, an offset, a block's head and what is rounded up.
    let block_bytes = 8 + 8 + 8 + 2;
    HEADER_BYTES + pairs * pair_bits as usize / 8 + blocks * block_bytes + TAIL_BYTES
}

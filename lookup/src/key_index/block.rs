//! Blocks of an index: up to [`PAIRS_PER_BLOCK`] pairs of key and row, found without decoding.
//!
//! ```text
//!  0  row_base    u32   rows are relative to it, modulo 2^32
//!  4  low_bits    u8    bits of a key below its high part
//!  5  row_bits    u8    bits 0-5: bits of a row; bit 7: row i is relative to row_base + i
//!  6  high_bytes  u8    bytes of the bitmap
//!  7  reserved    u8    zero
//!  8  bitmap            for pair i, bit (high part of key i) + i is set
//!     records           for each pair low_bits of its key, then row_bits of its row; no padding
//! ```
//!
//! Keys are relative to the block's first, which the directory has. This is Elias and Fano's code:
//! a key costs `log2(gap) + 2` to 3 bits, and both the n-th key and the first key that is not less
//! than a given one are a few instructions away. Low part and row of a pair lie side by side, so
//! that a hit touches one cache line of the records.

use super::bits::{Writer, bits_of, field, mask, select, word};

/// Most pairs in a block. Of what a block costs beside its pairs, 128 leave 0.15 byte a pair; 256
/// would halve that and double the bitmap that every look-up walks.
pub(super) const PAIRS_PER_BLOCK: usize = 128;

/// Bytes before the bitmap.
const HEAD_BYTES: usize = 8;

/// Most bytes of a bitmap: a bit for each pair, and fewer than two for each that its high part
/// grows.
const HIGH_BYTES_MAX: usize = PAIRS_PER_BLOCK * 3 / 8;

/// Most bytes of a block.
pub(super) const BLOCK_BYTES_MAX: usize =
    HEAD_BYTES + HIGH_BYTES_MAX + PAIRS_PER_BLOCK * (64 + 32) / 8;

/// Set where rows are relative to `row_base` plus the number of the pair.
const ROWS_RUN: u8 = 0x80;

/// Appends the block of these pairs, which are in order, at least one and at most
/// [`PAIRS_PER_BLOCK`].
pub(super) fn encode(keys: &[u64], rows: &[u32], out: &mut Vec<u8>) {
    let pairs = keys.len();
    let first = keys[0];
    let span = keys[pairs - 1] - first;
    let low_bits = (span / pairs as u64).checked_ilog2().unwrap_or(0);
    let high_bytes = ((span >> low_bits) as usize + pairs).div_ceil(8);
    let mut bitmap = [0u64; HIGH_BYTES_MAX / 8];
    for (number, key) in keys.iter().enumerate() {
        let bit = ((key - first) >> low_bits) as usize + number;
        bitmap[bit / 64] |= 1 << (bit % 64);
    }
    let rows_code = RowsCode::narrowest(rows);

    out.extend_from_slice(&rows_code.base.to_le_bytes());
    let run = if rows_code.step == 1 { ROWS_RUN } else { 0 };
    out.extend_from_slice(&[
        low_bits as u8,
        rows_code.bits as u8 | run,
        high_bytes as u8,
        0,
    ]);
    let bitmap_start = out.len();
    for bits in bitmap {
        out.extend_from_slice(&bits.to_le_bytes());
    }
    out.truncate(bitmap_start + high_bytes);
    let mut writer = Writer::new(out);
    let low_mask = mask(low_bits);
    for (number, (key, row)) in keys.iter().zip(rows).enumerate() {
        writer.push((key - first) & low_mask, low_bits);
        writer.push(rows_code.encode(number, *row), rows_code.bits);
    }
    writer.finish();
}

/// What rows are relative to.
struct RowsCode {
    base: u32,
    /// What is added to the base from pair to pair: 0 or 1.
    step: u32,
    bits: u32,
}

impl RowsCode {
    /// Relative to the least row, or to a run of rows where that is narrower.
    fn narrowest(rows: &[u32]) -> RowsCode {
        let (mut least, mut most) = (u32::MAX, 0);
        let (mut run_least, mut run_most) = (i64::MAX, i64::MIN);
        for (number, row) in rows.iter().enumerate() {
            (least, most) = (least.min(*row), most.max(*row));
            let beyond = i64::from(*row) - number as i64;
            (run_least, run_most) = (run_least.min(beyond), run_most.max(beyond));
        }
        let bits = bits_of(u64::from(most - least));
        let run_bits = bits_of((run_most - run_least) as u64);
        if run_bits < bits {
            RowsCode {
                base: run_least as u32,
                step: 1,
                bits: run_bits,
            }
        } else {
            RowsCode {
                base: least,
                step: 0,
                bits,
            }
        }
    }

    #[inline]
    fn encode(&self, number: usize, row: u32) -> u64 {
        u64::from(
            row.wrapping_sub(self.base)
                .wrapping_sub(self.step * number as u32),
        )
    }
}

/// A block where it lies.
pub(super) struct Block<'a> {
    /// Bitmap, records, and whatever follows them.
    bytes: &'a [u8],
    pairs: usize,
    first_key: u64,
    low_bits: u32,
    row_bits: u32,
    row_base: u32,
    row_step: u32,
    /// Bits of the bitmap; the records start after them.
    high_bits: usize,
}

impl<'a> Block<'a> {
    /// The block at the start of `bytes`, of `pairs` pairs, or `None` where it cannot be one.
    #[inline]
    pub(super) fn open(bytes: &'a [u8], pairs: usize, first_key: u64) -> Option<Block<'a>> {
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let [b0, b1, b2, b3, low_bits, rows, high_bytes, reserved] = *head;
        let (low_bits, row_bits) = (u32::from(low_bits), u32::from(rows & 0x3f));
        let high_bits = usize::from(high_bytes) * 8;
        let record_bits = pairs * (low_bits + row_bits) as usize;
        let sane = low_bits < 64
            && row_bits <= 32
            && rows & 0x40 == 0
            && reserved == 0
            && high_bits >= pairs
            && usize::from(high_bytes) <= HIGH_BYTES_MAX
            && (high_bits + record_bits).div_ceil(8) <= rest.len();
        sane.then(|| Block {
            bytes: rest,
            pairs,
            first_key,
            low_bits,
            row_bits,
            row_base: u32::from_le_bytes([b0, b1, b2, b3]),
            row_step: u32::from(rows & ROWS_RUN != 0),
            high_bits,
        })
    }

    /// Pairs in the block.
    #[inline]
    pub(super) fn pairs(&self) -> usize {
        self.pairs
    }

    /// Row of pair `number`.
    #[inline]
    pub(super) fn row(&self, number: usize) -> u32 {
        let bit = self.record(number) + self.low_bits as usize;
        (field(self.bytes, bit, self.row_bits) as u32)
            .wrapping_add(self.row_base)
            .wrapping_add(self.row_step * number as u32)
    }

    /// How many keys are less than `key`.
    #[inline]
    pub(super) fn lower_bound(&self, key: u64) -> usize {
        if key <= self.first_key {
            return 0;
        }
        let target = key - self.first_key;
        let (start, end) = self.group(target >> self.low_bits);
        self.lower_bound_in(start, end, target & mask(self.low_bits))
    }

    /// The pairs that have `key`, as a range of numbers. An empty range says where they would be.
    #[inline]
    pub(super) fn equal_range(&self, key: u64) -> (usize, usize) {
        if key < self.first_key {
            return (0, 0);
        }
        let target = key - self.first_key;
        let low = target & mask(self.low_bits);
        let (start, end) = self.group(target >> self.low_bits);
        let from = self.lower_bound_in(start, end, low);
        let mut to = from;
        while to < end && self.low(to) == low {
            to += 1;
        }
        (from, to)
    }

    /// The pairs whose keys have this high part, as a range of numbers.
    #[inline]
    fn group(&self, high: u64) -> (usize, usize) {
        // Zeros end the groups of the high parts before, ones are keys.
        let bit = match high.checked_sub(1) {
            None => 0,
            Some(rank) => match self.zero(rank) {
                Some(zero) => zero + 1,
                None => return (self.pairs, self.pairs),
            },
        };
        let start = (bit - high as usize).min(self.pairs);
        let mut end = start;
        let mut bit = bit;
        while end < self.pairs {
            let ones = (word(self.bytes, bit / 8) >> (bit % 8)).trailing_ones() as usize;
            let seen = 64 - bit % 8;
            end += ones;
            bit += ones;
            if ones < seen {
                break;
            }
        }
        (start, end.min(self.pairs))
    }

    /// Place of the zero of the bitmap that has `rank` zeros before it.
    #[inline]
    fn zero(&self, rank: u64) -> Option<usize> {
        let mut left = rank;
        let mut bit = 0;
        while bit < self.high_bits {
            let zeros = !word(self.bytes, bit / 8);
            let count = u64::from(zeros.count_ones());
            if left < count {
                let place = bit + select(zeros, left as u32) as usize;
                // What follows the bitmap is no part of it.
                return (place < self.high_bits).then_some(place);
            }
            left -= count;
            bit += 64;
        }
        None
    }

    /// The first pair in `start..end`, whose keys share their high part, with a low part of at
    /// least `low`.
    #[inline]
    fn lower_bound_in(&self, mut start: usize, mut end: usize, low: u64) -> usize {
        while start < end {
            let middle = start.midpoint(end);
            if self.low(middle) < low {
                start = middle + 1;
            } else {
                end = middle;
            }
        }
        start
    }

    #[inline]
    fn low(&self, number: usize) -> u64 {
        field(self.bytes, self.record(number), self.low_bits)
    }

    /// Bit at which the record of pair `number` starts.
    #[inline]
    fn record(&self, number: usize) -> usize {
        self.high_bits + number * (self.low_bits + self.row_bits) as usize
    }
}

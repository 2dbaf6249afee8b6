//! Fields of so many bits in bytes, least significant bit first.
//!
//! Reading believes nothing: what lies beyond the bytes reads as zeros.

/// Zero bytes at the end of an index, so that a field is read as one word wherever it lies.
pub(super) const TAIL_BYTES: usize = 16;

/// The lowest `width` bits set. `width` is at most 64.
#[inline]
pub(super) const fn mask(width: u32) -> u64 {
    if width == 0 {
        0
    } else {
        u64::MAX >> (64 - width)
    }
}

/// Bits that `value` needs: 0 for 0.
#[inline]
pub(super) const fn bits_of(value: u64) -> u32 {
    64 - value.leading_zeros()
}

/// Eight bytes at `at`, little-endian, or zero where they are not all there.
#[inline]
pub(super) fn word(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => 0,
    }
}

/// The field of `width` bits, at most 64, that starts at bit `bit`.
#[inline]
pub(super) fn field(bytes: &[u8], bit: usize, width: u32) -> u64 {
    let (at, skipped) = (bit / 8, (bit % 8) as u32);
    let mut value = word(bytes, at) >> skipped;
    if skipped + width > 64 {
        value |= word(bytes, at + 8) << (64 - skipped);
    }
    value & mask(width)
}

/// Place of the set bit of `word` that has `rank` set bits below it, of which there must be one.
///
/// Sums of bytes by multiplication (Vigna, "Broadword implementation of rank/select queries",
/// 2008), then bit by bit within the byte.
#[inline]
pub(super) fn select(word: u64, rank: u32) -> u32 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = ONES << 7;
    debug_assert!(rank < word.count_ones());
    let pairs = word - ((word >> 1) & 0x5555_5555_5555_5555);
    let fours = (pairs & 0x3333_3333_3333_3333) + ((pairs >> 2) & 0x3333_3333_3333_3333);
    let bytes = (fours + (fours >> 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    let sums = bytes.wrapping_mul(ONES);
    let below = (((u64::from(rank) * ONES) | TOPS) - sums) & TOPS;
    let shift = (((below >> 7).wrapping_mul(ONES) >> 56) as u32 * 8).min(56);
    let mut rest = (word >> shift) & 0xff;
    for _ in 0..rank - ((sums << 8) >> shift & 0xff) as u32 {
        rest &= rest.wrapping_sub(1);
    }
    shift + (rest.trailing_zeros() & 7)
}

/// Appends fields to bytes.
pub(super) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// Bits that are not in `out` yet, fewer than 64.
    pending: u64,
    pending_bits: u32,
}

impl<'a> Writer<'a> {
    /// The first field starts at the next byte of `out`.
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Writer {
            out,
            pending: 0,
            pending_bits: 0,
        }
    }

    /// Appends the lowest `width` bits of `value`, which has no others.
    #[inline]
    pub(super) fn push(&mut self, value: u64, width: u32) {
        debug_assert!(value <= mask(width));
        self.pending |= value << self.pending_bits;
        let room = 64 - self.pending_bits;
        if width < room {
            self.pending_bits += width;
            return;
        }
        self.out.extend_from_slice(&self.pending.to_le_bytes());
        self.pending = value.checked_shr(room).unwrap_or(0);
        self.pending_bits = width - room;
    }

    /// Pads the last byte with zeros.
    pub(super) fn finish(self) {
        let bytes = self.pending_bits.div_ceil(8) as usize;
        self.out
            .extend_from_slice(&self.pending.to_le_bytes()[..bytes]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fields_are_read_as_they_were_written(
            fields in proptest::collection::vec((0u32..=64, any::<u64>()), 0..100)
        ) {
            let mut bytes = Vec::new();
            let mut writer = Writer::new(&mut bytes);
            for &(width, value) in &fields {
                writer.push(value & mask(width), width);
            }
            writer.finish();
            bytes.extend([0; TAIL_BYTES]);
            let mut bit = 0;
            for (width, value) in fields {
                prop_assert_eq!(field(&bytes, bit, width), value & mask(width));
                bit += width as usize;
            }
        }

        #[test]
        fn select_finds_each_set_bit(word: u64) {
            let places = (0..64).filter(|place| word >> place & 1 == 1);
            for (rank, place) in places.enumerate() {
                prop_assert_eq!(select(word, rank as u32), place);
            }
        }
    }

    #[test]
    fn beyond_the_bytes_there_are_zeros() {
        assert_eq!(field(&[0xff; 3], 0, 24), 0);
        assert_eq!(field(&[], usize::MAX, 64), 0);
        assert_eq!(select(u64::MAX, 63), 63);
    }
}

//! Values of one width without the bytes that all of them share at the front and at the back.
//!
//! Numbers of one page lie close together: of the eight bytes of a key, two or three differ. What is kept takes so
//! much less, and a value is put together where it is asked for.

use std::ops::{Deref, Range};

use bytes::Bytes;

/// Widest values that are trimmed: decimals and UUIDs.
const WIDTH_MAX: usize = 16;

/// Fewest values for which it is done.
const COUNT_MIN: usize = 64;

/// The bytes of a value.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// As they are kept.
    Kept(&'a [u8]),
    /// Put together.
    Whole {
        /// The value, and behind it anything.
        bytes: [u8; WIDTH_MAX],
        /// Its bytes.
        width: u8,
    },
}

impl Deref for Value<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Value::Kept(bytes) => bytes,
            Value::Whole { bytes, width } => &bytes[..usize::from(*width)],
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Trimmed {
    width: u8,
    /// Which bytes of each value are kept.
    from: u8,
    length: u8,
    /// What all values share; zeros where they differ.
    shared: [u8; WIDTH_MAX],
    /// The rest of each value, and eight bytes more.
    bytes: Bytes,
}

impl Trimmed {
    /// Of `bytes`, values of `width` bytes; `None` where that would save less than a quarter.
    pub fn new(width: usize, bytes: &[u8]) -> Option<Trimmed> {
        if !(2..=WIDTH_MAX).contains(&width) || bytes.len() < width * COUNT_MIN {
            return None;
        }
        let kept = differing(width, bytes);
        if kept.len() * 4 > width * 3 {
            return None;
        }
        let rest = without_shared(width, bytes, &kept);
        let mut shared = [0; WIDTH_MAX];
        shared[..width].copy_from_slice(&bytes[..width]);
        shared[kept.clone()].fill(0);
        Some(Trimmed {
            width: width as u8,
            from: kept.start as u8,
            length: kept.len() as u8,
            shared,
            bytes: rest.into(),
        })
    }

    /// Bytes of a value.
    pub fn width(&self) -> usize {
        usize::from(self.width)
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The value at `place`.
    ///
    /// # Panics
    /// If there is none.
    #[inline]
    pub fn get(&self, place: u32) -> Value<'_> {
        let (from, length) = (usize::from(self.from), usize::from(self.length));
        let start = place as usize * length;
        assert!(start + length + 8 <= self.bytes.len(), "a value {place}");
        let mut bytes = self.shared;
        bytes[from..from + length].copy_from_slice(&self.bytes[start..start + length]);
        Value::Whole {
            bytes,
            width: self.width,
        }
    }

    /// Calls `each` with the places among `places` whose value, eight bytes in the order of little-endian
    /// machines, lies between `from` and `to`.
    ///
    /// # Panics
    /// If there are no such places, or values have other than eight bytes.
    pub fn each_between(
        &self,
        places: Range<u32>,
        (from, to): (i64, i64),
        mut each: impl FnMut(u32),
    ) {
        assert_eq!(self.width, 8, "values of eight bytes");
        let length = usize::from(self.length);
        let end = places.end as usize * length;
        assert!(end + 8 <= self.bytes.len(), "places {places:?}");
        let shift = u32::from(self.from) * 8;
        let mask = u64::MAX.unbounded_shr(64 - 8 * u32::from(self.length));
        let shared = u64::from_le_bytes(self.shared[..8].try_into().expect("eight bytes"));
        for place in places {
            let start = place as usize * length;
            let word: [u8; 8] = self.bytes[start..start + 8].try_into().expect("eight");
            let own = (u64::from_le_bytes(word) & mask).unbounded_shl(shift);
            let value = (shared | own).cast_signed();
            if from <= value && value <= to {
                each(place);
            }
        }
    }
}

/// Which bytes of the values differ, from the first to the last of them.
fn differing(width: usize, bytes: &[u8]) -> Range<usize> {
    let first = &bytes[..width];
    // Eight values are as many words as a value has bytes: these are laid over eight of the first, one after
    // the other.
    let mut pattern = [0u8; 8 * WIDTH_MAX];
    for place in pattern[..8 * width].chunks_exact_mut(width) {
        place.copy_from_slice(first);
    }
    let (pattern, _) = pattern.as_chunks::<8>();
    let mut words = [0u64; WIDTH_MAX];
    let eights = bytes.chunks_exact(8 * width);
    let rest = eights.remainder();
    for eight in eights {
        let (eight, _) = eight.as_chunks::<8>();
        for ((differ, own), first) in words.iter_mut().zip(eight).zip(pattern) {
            *differ |= u64::from_le_bytes(*own) ^ u64::from_le_bytes(*first);
        }
    }
    let mut differ = [0u8; WIDTH_MAX];
    let of_words = words[..width].iter().flat_map(|word| word.to_le_bytes());
    for (place, byte) in of_words.enumerate() {
        differ[place % width] |= byte;
    }
    for (place, byte) in rest.iter().enumerate() {
        differ[place % width] |= byte ^ first[place % width];
    }
    let from = differ.iter().position(|byte| *byte != 0).unwrap_or(0);
    let end = differ
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(from, |last| last + 1);
    from..end
}

/// The bytes `kept` of each value, and eight bytes more.
fn without_shared(width: usize, bytes: &[u8], kept: &Range<usize>) -> Vec<u8> {
    let length = kept.len();
    let count = bytes.len() / width;
    let mut rest = vec![0; count * length + WIDTH_MAX];
    // More than is kept is copied of each value, and overwritten by the next.
    let wide = count.saturating_sub(WIDTH_MAX.div_ceil(width));
    for value in 0..wide {
        let from: &[u8; WIDTH_MAX] = bytes[value * width + kept.start..]
            .first_chunk()
            .expect("values enough follow");
        rest[value * length..][..WIDTH_MAX].copy_from_slice(from);
    }
    for (value, own) in bytes.chunks_exact(width).enumerate().skip(wide) {
        rest[value * length..][..length].copy_from_slice(&own[kept.clone()]);
    }
    rest.truncate(count * length + 8);
    rest[count * length..].fill(0);
    rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn values_come_out_as_they_went_in(
            width in 2usize..=16,
            varying in any::<[bool; 16]>(),
            seeds in prop::collection::vec(any::<[u8; 16]>(), 64..200),
        ) {
            let template = seeds[0];
            let values: Vec<Vec<u8>> = seeds
                .iter()
                .map(|seed| {
                    (0..width)
                        .map(|at| if varying[at] { seed[at] } else { template[at] })
                        .collect()
                })
                .collect();
            let bytes = values.concat();
            if let Some(trimmed) = Trimmed::new(width, &bytes) {
                prop_assert!(trimmed.memory_bytes() <= bytes.len() * 3 / 4 + 8);
                for (place, value) in values.iter().enumerate() {
                    prop_assert_eq!(&*trimmed.get(place as u32), value.as_slice());
                }
            }
        }

        #[test]
        fn comparing_trimmed_numbers_is_comparing_numbers(
            base in any::<i64>(),
            shift in 0u32..40,
            small in prop::collection::vec(any::<u16>(), 64..300),
            from in 0usize..64,
            to in 0usize..64,
        ) {
            let values: Vec<i64> = small
                .iter()
                .map(|own| base ^ (i64::from(*own) << shift))
                .collect();
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let trimmed = Trimmed::new(8, &bytes).expect("three bytes differ");
            let (from, to) = (values[from], values[to]);
            let mut found = Vec::new();
            trimmed.each_between(3..values.len() as u32, (from, to), |place| found.push(place));
            let expected: Vec<u32> = (3..values.len() as u32)
                .filter(|place| (from..=to).contains(&values[*place as usize]))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn one_value_over_and_over_takes_nothing() {
        let bytes = 7i64.to_le_bytes().repeat(1000);
        let trimmed = Trimmed::new(8, &bytes).expect("nothing differs");
        assert_eq!(trimmed.memory_bytes(), 8);
        assert_eq!(&*trimmed.get(999), 7i64.to_le_bytes());
        let mut found = 0;
        trimmed.each_between(0..1000, (7, 7), |_| found += 1);
        assert_eq!(found, 1000);
    }

    #[test]
    fn random_numbers_stay_as_they_are() {
        let bytes: Vec<u8> = (0..1000u64)
            .flat_map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
            .collect();
        assert!(Trimmed::new(8, &bytes).is_none());
    }
}

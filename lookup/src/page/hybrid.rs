//! The RLE and bit-packing hybrid, which levels and dictionary codes are written in, with access to
//! single values.
//!
//! Format: [Encodings.md](https://github.com/apache/parquet-format/blob/master/Encodings.md), "Run Length
//! Encoding / Bit-Packing Hybrid". Only the heads of the runs are looked at when it is opened; values
//! stay packed. The invariant: every place below [`Hybrid::len`] lies in one run, whose bytes are there.

use bytes::Bytes;

use crate::error::{LookupError, Result};
use crate::memory::Charge;

/// Widest value: codes and levels are of 32 bits at most.
const WIDTH_MAX: u32 = 32;

/// Values in their packed form.
#[derive(Clone, Debug)]
pub struct Hybrid {
    bytes: Bytes,
    width: u32,
    count: u32,
    runs: Vec<Run>,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    /// Place of its first value.
    start: u32,
    /// Where its packed values begin, or the one value that it repeats.
    at: u32,
    is_packed: bool,
}

fn corrupt(what: &str) -> LookupError {
    LookupError::corrupt(format!("run-length encoding: {what}"))
}

impl Hybrid {
    /// The first `count` values of `width` bits each. Its runs are charged to `memory`: one takes a byte in the
    /// page and twelve here.
    ///
    /// # Errors
    /// Corrupt, if there are not as many or a run does not fit; what charging gives.
    pub fn open(bytes: Bytes, width: u32, count: u32, memory: &mut Charge) -> Result<Self> {
        if width > WIDTH_MAX {
            return Err(corrupt("values of more than 32 bits"));
        }
        let value_bytes = width.div_ceil(8) as usize;
        let mut runs = Vec::new();
        let (mut at, mut start) = (0usize, 0u32);
        while start < count {
            let head = varint(&bytes, &mut at).ok_or_else(|| corrupt("a run's head is cut"))?;
            let length = u64::from(head >> 1);
            let is_packed = head & 1 == 1;
            let run = Run {
                start,
                at: at as u32,
                is_packed,
            };
            let values = if is_packed {
                let values = (length * 8).min(u64::from(count - start));
                // Some writers leave the padding of the last group out.
                let needed = (values * u64::from(width)).div_ceil(8);
                if at as u64 + needed > bytes.len() as u64 {
                    return Err(corrupt("packed values are cut"));
                }
                at = (at as u64 + length * u64::from(width)).min(bytes.len() as u64) as usize;
                if values > 0 {
                    memory.push(&mut runs, run)?;
                }
                values
            } else {
                let raw = bytes
                    .get(at..at + value_bytes)
                    .ok_or_else(|| corrupt("a run's value is cut"))?;
                at += value_bytes;
                let value = raw
                    .iter()
                    .rev()
                    .fold(0u32, |value, byte| value << 8 | u32::from(*byte));
                if width < 32 && value >> width != 0 {
                    return Err(corrupt("a run's value is too wide"));
                }
                if length > 0 {
                    memory.push(&mut runs, Run { at: value, ..run })?;
                }
                length.min(u64::from(count - start))
            };
            start += values as u32;
        }
        Ok(Hybrid {
            bytes,
            width,
            count,
            runs,
        })
    }

    /// Number of values.
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of memory that it takes.
    pub fn memory_bytes(&self) -> usize {
        self.bytes.len() + self.runs_bytes()
    }

    /// Bytes of memory of its runs alone.
    pub fn runs_bytes(&self) -> usize {
        self.runs.capacity() * size_of::<Run>()
    }

    /// Bits of a value.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Most bytes that [`Hybrid::write_runs`] appends.
    pub fn written_bytes(&self) -> usize {
        // A head of five bytes and a value of four, or values that lie in the page, padded.
        self.bytes.len() + self.runs.len() * (9 + self.width as usize)
    }

    /// Appends the same values in the same encoding, as few runs as there are here, and nothing else.
    pub fn write_runs(&self, out: &mut Vec<u8>) {
        for (index, run) in self.runs.iter().enumerate() {
            let end = self
                .runs
                .get(index + 1)
                .map_or(self.count, |next| next.start);
            let count = end - run.start;
            if run.is_packed {
                let groups = count.div_ceil(8);
                push_varint(out, u64::from(groups) << 1 | 1);
                let start = out.len();
                let length = groups as usize * self.width as usize;
                let here = &self.bytes[(run.at as usize).min(self.bytes.len())..];
                out.extend_from_slice(&here[..here.len().min(length)]);
                out.resize(start + length, 0);
            } else {
                push_varint(out, u64::from(count) << 1);
                let bytes = self.width.div_ceil(8) as usize;
                out.extend_from_slice(&run.at.to_le_bytes()[..bytes]);
            }
        }
    }

    /// The one value that all have, if there is one run only.
    pub fn constant(&self) -> Option<u32> {
        match self.runs.as_slice() {
            [run] if !run.is_packed => Some(run.at),
            _ => None,
        }
    }

    /// The value at `place`.
    ///
    /// # Panics
    /// If there is none.
    #[inline]
    pub fn get(&self, place: u32) -> u32 {
        assert!(place < self.count, "value {place} of {}", self.count);
        let run = &self.runs[self.runs.partition_point(|run| run.start <= place) - 1];
        if run.is_packed {
            self.unpack(run, place - run.start)
        } else {
            run.at
        }
    }

    #[inline]
    fn unpack(&self, run: &Run, place: u32) -> u32 {
        let bit = u64::from(place) * u64::from(self.width);
        let at = run.at as usize + (bit / 8) as usize;
        let mask = ((1u64 << self.width) - 1) as u32;
        let word = match self.bytes.get(at..at + 8) {
            Some(word) => u64::from_le_bytes(word.try_into().expect("eight bytes")),
            None => {
                let mut word = [0; 8];
                let rest = &self.bytes[at.min(self.bytes.len())..];
                word[..rest.len()].copy_from_slice(rest);
                u64::from_le_bytes(word)
            }
        };
        (word >> (bit % 8)) as u32 & mask
    }

    /// Gives each stretch of equal places from `from` to `to`: its first place, its length, and its value.
    /// Packed values are stretches of one.
    ///
    /// # Panics
    /// If there are fewer than `to`.
    #[inline]
    pub fn each(&self, from: u32, to: u32, mut each: impl FnMut(u32, u32, u32)) {
        assert!(to <= self.count, "values to {to} of {}", self.count);
        if from >= to {
            return;
        }
        let first = self.runs.partition_point(|run| run.start <= from) - 1;
        for (index, run) in self.runs.iter().enumerate().skip(first) {
            if run.start >= to {
                break;
            }
            let end = self
                .runs
                .get(index + 1)
                .map_or(self.count, |next| next.start);
            let (start, end) = (run.start.max(from), end.min(to));
            if run.is_packed {
                for place in start..end {
                    each(place, 1, self.unpack(run, place - run.start));
                }
            } else {
                each(start, end - start, run.at);
            }
        }
    }
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint(bytes: &[u8], at: &mut usize) -> Option<u32> {
    let mut value = 0u32;
    for shift in (0..35).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u32::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memory::Account;

    fn open(bytes: impl Into<Bytes>, width: u32, count: u32) -> Result<Hybrid> {
        Hybrid::open(bytes.into(), width, count, &mut Account::default().empty())
    }

    /// Packs runs: (is_packed, values).
    fn encode(width: u32, runs: &[(bool, Vec<u32>)]) -> (Vec<u8>, Vec<u32>) {
        let (mut bytes, mut values) = (Vec::new(), Vec::new());
        let varint = |bytes: &mut Vec<u8>, mut value: u32| {
            while value >= 0x80 {
                bytes.push(value as u8 | 0x80);
                value >>= 7;
            }
            bytes.push(value as u8);
        };
        for (is_packed, run) in runs {
            if *is_packed {
                let groups = run.len().div_ceil(8);
                varint(&mut bytes, (groups as u32) << 1 | 1);
                let mut bits: Vec<bool> = Vec::new();
                for place in 0..groups * 8 {
                    let value = run.get(place).copied().unwrap_or(0);
                    values.push(value);
                    bits.extend((0..width).map(|bit| value >> bit & 1 == 1));
                }
                for byte in bits.chunks(8) {
                    bytes.push(
                        byte.iter()
                            .rev()
                            .fold(0, |byte, bit| byte << 1 | u8::from(*bit)),
                    );
                }
            } else {
                varint(&mut bytes, (run.len() as u32) << 1);
                bytes.extend(&run[0].to_le_bytes()[..width.div_ceil(8) as usize]);
                values.extend(std::iter::repeat_n(run[0], run.len()));
            }
        }
        (bytes, values)
    }

    proptest! {
        #[test]
        fn every_value_is_found_where_it_was_packed(
            width in 0u32..=32,
            runs in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u32>(), 1..40)), 1..8),
            cut in 0usize..8,
        ) {
            let mask = ((1u64 << width) - 1) as u32;
            let runs: Vec<(bool, Vec<u32>)> = runs
                .into_iter()
                .map(|(is_packed, run)| (is_packed, run.into_iter().map(|value| value & mask).collect()))
                .collect();
            let (bytes, mut values) = encode(width, &runs);
            values.truncate(values.len() - cut.min(values.len() - 1));
            let hybrid = open(bytes, width, values.len() as u32).unwrap();
            for (place, value) in values.iter().enumerate() {
                prop_assert_eq!(hybrid.get(place as u32), *value);
            }
            let (from, to) = (cut as u32 % hybrid.len(), hybrid.len());
            let mut seen = Vec::new();
            hybrid.each(from, to, |_, count, value| seen.extend(std::iter::repeat_n(value, count as usize)));
            prop_assert_eq!(&seen[..], &values[from as usize..]);
            let mut again = Vec::new();
            hybrid.write_runs(&mut again);
            prop_assert!(again.len() <= hybrid.written_bytes());
            let again = open(again, width, hybrid.len()).unwrap();
            for place in 0..hybrid.len() {
                prop_assert_eq!(again.get(place), hybrid.get(place));
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), width in 0u32..40, count in 0u32..10_000) {
            if let Ok(hybrid) = open(bytes, width, count) {
                let mut seen = 0;
                hybrid.each(0, count, |_, count, _| seen += count);
                prop_assert_eq!(seen, count);
            }
        }
    }
}

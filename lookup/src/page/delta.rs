//! The delta encodings and BYTE_STREAM_SPLIT, into values one behind the other.
//!
//! Format: [Encodings.md](https://github.com/apache/parquet-format/blob/master/Encodings.md). `parquet` has
//! decoders of them, which a corrupt page can make panic; a worker must not. The invariant: what comes out
//! takes at most as much as the largest page, whatever the page says, and is charged before it is there: some
//! hundred bytes may say millions of equal numbers, or repeat a long prefix.

use super::decode::PAGE_BYTES_MAX;
use super::values::Values;
use crate::error::{LookupError, Result};
use crate::memory::Charge;

/// Most bytes that come out of a page: prefixes that are repeated could make many out of few.
const OUTPUT_BYTES_MAX: usize = PAGE_BYTES_MAX as usize;

/// Largest block of DELTA_BINARY_PACKED. Writers use 128 to some thousand.
const BLOCK_VALUES_MAX: u64 = 1 << 20;

fn corrupt(what: &str) -> LookupError {
    LookupError::corrupt(format!("delta encoding: {what}"))
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Input<'_> {
    fn byte(&mut self) -> Result<u8> {
        let byte = self
            .bytes
            .get(self.at)
            .ok_or_else(|| corrupt("it is cut"))?;
        self.at += 1;
        Ok(*byte)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(corrupt("a number has too many bytes"))
    }

    fn zigzag(&mut self) -> Result<i64> {
        let raw = self.varint()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    /// The value of `width` bits, `place` such values behind here. Bits behind the end are 0.
    fn packed(&self, width: u32, place: u64) -> u64 {
        let bit = place * u64::from(width);
        let start = self.at + (bit / 8) as usize;
        let mut window = [0; 16];
        let rest = self.bytes.get(start..).unwrap_or_default();
        let here = rest.len().min(16);
        window[..here].copy_from_slice(&rest[..here]);
        let value = (u128::from_le_bytes(window) >> (bit % 8)) as u64;
        if width == 64 {
            value
        } else {
            value & ((1 << width) - 1)
        }
    }

    /// `count` numbers in DELTA_BINARY_PACKED, charged to `memory`; leaves the input behind them.
    fn numbers(&mut self, count: usize, memory: &mut Charge) -> Result<Vec<i64>> {
        let block = self.varint()?;
        let miniblocks = self.varint()?;
        let total = self.varint()?;
        let mut value = self.zigzag()?;
        if total != count as u64 {
            return Err(corrupt("there are not as many values as the page says"));
        }
        let is_regular = (1..=BLOCK_VALUES_MAX).contains(&block)
            && miniblocks > 0
            && miniblocks <= block
            && block.is_multiple_of(miniblocks)
            && (block / miniblocks).is_multiple_of(8);
        if !is_regular {
            return Err(corrupt("its blocks are irregular"));
        }
        let per_miniblock = block / miniblocks;
        memory.add_values::<i64>(count)?;
        let mut numbers = Vec::with_capacity(count);
        if count > 0 {
            numbers.push(value);
        }
        while numbers.len() < count {
            let least = self.zigzag()?;
            let widths_at = self.at;
            self.at += miniblocks as usize;
            let widths = self
                .bytes
                .get(widths_at..self.at)
                .ok_or_else(|| corrupt("it is cut"))?;
            for width in widths {
                let left = (count - numbers.len()) as u64;
                if left == 0 {
                    break;
                }
                let width = u32::from(*width);
                if width > 64 {
                    return Err(corrupt("values of more than 64 bits"));
                }
                let here = per_miniblock.min(left);
                let needed = (here * u64::from(width)).div_ceil(8) as usize;
                if needed > self.bytes.len() - self.at {
                    return Err(corrupt("it is cut"));
                }
                for place in 0..here {
                    let delta = self.packed(width, place).cast_signed();
                    value = value.wrapping_add(least).wrapping_add(delta);
                    numbers.push(value);
                }
                // Some writers leave the padding of the last miniblock out.
                let whole = (per_miniblock * u64::from(width) / 8) as usize;
                self.at = (self.at + whole).min(self.bytes.len());
            }
        }
        Ok(numbers)
    }

    /// `count` lengths.
    fn lengths(&mut self, count: usize, memory: &mut Charge) -> Result<Vec<usize>> {
        let numbers = self.numbers(count, memory)?;
        numbers
            .into_iter()
            .map(|length| {
                // They are of 32 bits, whose sums wrap around.
                usize::try_from(length as i32).map_err(|_| corrupt("a negative length"))
            })
            .collect()
    }

    fn take(&mut self, length: usize) -> Result<&[u8]> {
        let taken = self
            .bytes
            .get(self.at..)
            .and_then(|rest| rest.get(..length))
            .ok_or_else(|| corrupt("it is cut"))?;
        self.at += length;
        Ok(taken)
    }
}

/// `count` integers of 4 or 8 bytes in DELTA_BINARY_PACKED.
///
/// # Errors
/// Corrupt; what charging to `memory` gives.
pub fn integers(bytes: &[u8], width: usize, count: u32, memory: &mut Charge) -> Result<Values> {
    let mut scratch = memory.account().empty();
    let numbers = Input { bytes, at: 0 }.numbers(checked(count, width)?, &mut scratch)?;
    memory.add((numbers.len() * width) as u64)?;
    let mut output = Vec::with_capacity(numbers.len() * width);
    for number in numbers {
        output.extend_from_slice(&number.to_le_bytes()[..width]);
    }
    Ok(Values::Fixed {
        width,
        bytes: output.into(),
    })
}

/// `count` byte strings in DELTA_LENGTH_BYTE_ARRAY.
///
/// # Errors
/// Corrupt; what charging to `memory` gives.
pub fn strings(bytes: &[u8], count: u32, memory: &mut Charge) -> Result<Values> {
    let mut input = Input { bytes, at: 0 };
    let mut scratch = memory.account().empty();
    let lengths = input.lengths(checked(count, 4)?, &mut scratch)?;
    let start = input.at;
    // At most the page's own bytes are copied.
    memory.add((bytes.len() - start) as u64)?;
    memory.add_values::<u32>(lengths.len() + 1)?;
    let mut offsets = Vec::with_capacity(lengths.len() + 1);
    let mut end = 0usize;
    offsets.push(0);
    for length in lengths {
        end = end
            .checked_add(length)
            .ok_or_else(|| corrupt("it is cut"))?;
        if end > bytes.len() - start {
            return Err(corrupt("it is cut"));
        }
        offsets.push(end as u32);
    }
    Ok(Values::Variable {
        offsets,
        bytes: bytes[start..start + end].to_vec().into(),
        gap: 0,
    })
}

/// `count` byte strings in DELTA_BYTE_ARRAY: of one length if there is a `width`.
///
/// # Errors
/// Corrupt; unsupported, if too much comes out; what charging to `memory` gives.
pub fn prefixed(
    bytes: &[u8],
    width: Option<usize>,
    count: u32,
    memory: &mut Charge,
) -> Result<Values> {
    let mut input = Input { bytes, at: 0 };
    let count = checked(count, 4)?;
    let mut scratch = memory.account().empty();
    let prefixes = input.lengths(count, &mut scratch)?;
    let suffixes = input.lengths(count, &mut scratch)?;
    let lengths = prefixes.iter().chain(&suffixes);
    let length = lengths.fold(0usize, |sum, length| sum.saturating_add(*length));
    if length > OUTPUT_BYTES_MAX {
        return Err(LookupError::unsupported(format!(
            "a page whose values take more than {OUTPUT_BYTES_MAX} bytes"
        )));
    }
    memory.add(length as u64)?;
    memory.add_values::<u32>(count + 1)?;
    let mut offsets = Vec::with_capacity(count + 1);
    offsets.push(0u32);
    let mut output: Vec<u8> = Vec::with_capacity(length);
    let mut last = 0..0;
    for (prefix, suffix) in prefixes.into_iter().zip(suffixes) {
        if prefix > last.len() {
            return Err(corrupt("a prefix is longer than the value before"));
        }
        let start = output.len();
        output.extend_from_within(last.start..last.start + prefix);
        output.extend_from_slice(input.take(suffix)?);
        last = start..output.len();
        if width.is_some_and(|width| width != last.len()) {
            return Err(corrupt("a value has a wrong length"));
        }
        offsets.push(output.len() as u32);
    }
    Ok(match width {
        Some(width) => Values::Fixed {
            width,
            bytes: output.into(),
        },
        None => Values::Variable {
            offsets,
            bytes: output.into(),
            gap: 0,
        },
    })
}

/// `count` values of `width` bytes in BYTE_STREAM_SPLIT.
///
/// # Errors
/// Corrupt; what charging to `memory` gives.
pub fn split(bytes: &[u8], width: usize, count: u32, memory: &mut Charge) -> Result<Values> {
    let count = checked(count, width)?;
    if bytes.len() < count * width {
        return Err(corrupt(
            "there are fewer values than the page's header says",
        ));
    }
    memory.add((count * width) as u64)?;
    let mut output = vec![0; count * width];
    for (byte, stream) in bytes.chunks_exact(count.max(1)).take(width).enumerate() {
        for (place, value) in stream.iter().enumerate() {
            output[place * width + byte] = *value;
        }
    }
    Ok(Values::Fixed {
        width,
        bytes: output.into(),
    })
}

fn checked(count: u32, width: usize) -> Result<usize> {
    let count = count as usize;
    if count
        .checked_mul(width)
        .is_none_or(|bytes| bytes > OUTPUT_BYTES_MAX)
    {
        return Err(LookupError::unsupported(format!(
            "a page whose values take more than {OUTPUT_BYTES_MAX} bytes"
        )));
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memory::{Account, Pool};

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), count in 0u32..100_000) {
            let account = Account::new(&Pool::new(u64::MAX), 1 << 20);
            let memory = &mut account.empty();
            let _ = integers(&bytes, 8, count, memory);
            let _ = strings(&bytes, count % 50, memory);
            let _ = prefixed(&bytes, None, count % 50, memory);
            let _ = prefixed(&bytes, Some(4), count % 50, memory);
            let _ = split(&bytes, 4, count, memory);
        }
    }

    #[test]
    fn numbers_are_those_of_the_specification() {
        // 7, 5, 3, 1, 2, 3, 4, 5: its second example. Block 128, 4 miniblocks, first value 7, least delta
        // -2, width 2 of the first miniblock.
        let mut bytes = vec![0x80, 0x01, 0x04, 0x08, 0x0e, 0x03, 0x02, 0, 0, 0];
        bytes.extend([0xc0, 0x3f, 0, 0, 0, 0, 0, 0]);
        let numbers = Input {
            bytes: &bytes,
            at: 0,
        }
        .numbers(8, &mut Account::default().empty())
        .unwrap();
        assert_eq!(numbers, [7, 5, 3, 1, 2, 3, 4, 5]);
    }
}

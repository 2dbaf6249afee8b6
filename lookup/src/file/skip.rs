//! Finding the ends of thrift's values without decoding them, fast.
//!
//! Functions take the bytes and a place in them and give the place behind a value, or `None` where the
//! bytes are not what they must be, or end. A place may lie behind the end of the bytes: what is read there
//! is none.

use crate::thrift::{BINARY, FALSE, LIST, STRUCT, TRUE};

/// Deepest nesting of fields. A footer's own go to six.
pub(super) const DEPTH_MAX: u32 = 16;

/// Kinds of fields, beside those that [`crate::thrift`] names.
pub(super) const BYTE: u8 = 3;
pub(super) const DOUBLE: u8 = 7;
const SET: u8 = 10;

/// Eight bytes; behind the end of all there are zeros. `None` if even the first is behind the end.
#[inline(always)]
fn word(bytes: &[u8], at: usize) -> Option<u64> {
    match bytes.get(at..).and_then(<[u8]>::first_chunk) {
        Some(word) => Some(u64::from_le_bytes(*word)),
        None => word_at_end(bytes, at),
    }
}

#[cold]
fn word_at_end(bytes: &[u8], at: usize) -> Option<u64> {
    let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
    let mut word = [0; 8];
    word[..rest.len()].copy_from_slice(rest);
    Some(u64::from_le_bytes(word))
}

/// Behind `expected`, if it is what is there.
pub(super) fn expect(bytes: &[u8], at: usize, expected: u8) -> Option<usize> {
    (*bytes.get(at)? == expected).then_some(at + 1)
}

/// A number of variable length, and where it ends.
pub(super) fn varint(bytes: &[u8], mut at: usize) -> Option<(u64, usize)> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(at)?;
        at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, at));
        }
    }
    None
}

/// A signed number.
pub(super) fn integer(bytes: &[u8], at: usize) -> Option<i64> {
    let (raw, _) = varint(bytes, at)?;
    Some((raw >> 1) as i64 ^ -((raw & 1) as i64))
}

pub(super) fn skip_integer(bytes: &[u8], at: usize) -> Option<usize> {
    Some(varint(bytes, at)?.1)
}

/// How many elements a list has, if they are of this kind.
pub(super) fn list_of(bytes: &[u8], at: &mut usize, kind: u8) -> Option<usize> {
    let head = *bytes.get(*at)?;
    *at += 1;
    if head & 0x0f != kind {
        return None;
    }
    match head >> 4 {
        15 => {
            let (count, end) = varint(bytes, *at)?;
            *at = end;
            usize::try_from(count).ok()
        }
        count => Some(usize::from(count)),
    }
}

/// The next field's number and kind, `Some(None)` at the end of the structure; `None` if numbers do not
/// rise.
pub(super) fn field(bytes: &[u8], at: &mut usize, last: i64) -> Option<Option<(i64, u8)>> {
    let head = *bytes.get(*at)?;
    *at += 1;
    if head == 0 {
        return Some(None);
    }
    let number = match head >> 4 {
        0 => {
            let number = integer(bytes, *at)?;
            *at = skip_integer(bytes, *at)?;
            number
        }
        delta => last + i64::from(delta),
    };
    let kind = head & 0x0f;
    (kind != 0 && number > last && number <= i64::from(i16::MAX)).then_some(Some((number, kind)))
}

/// Behind a value of `kind`.
pub(super) fn skip(bytes: &[u8], at: usize, kind: u8, depth: u32) -> Option<usize> {
    match kind {
        TRUE | FALSE => Some(at),
        BYTE => (at < bytes.len()).then_some(at + 1),
        4..=6 => skip_integer(bytes, at),
        DOUBLE => {
            let end = at.checked_add(8)?;
            (end <= bytes.len()).then_some(end)
        }
        BINARY => {
            let (length, at) = varint(bytes, at)?;
            let end = at.checked_add(usize::try_from(length).ok()?)?;
            (end <= bytes.len()).then_some(end)
        }
        LIST | SET => skip_list(bytes, at, depth.checked_sub(1)?),
        STRUCT => skip_struct(bytes, at, depth.checked_sub(1)?),
        // Footers have no maps.
        _ => None,
    }
}

/// Behind a list.
fn skip_list(bytes: &[u8], mut at: usize, depth: u32) -> Option<usize> {
    let kind = *bytes.get(at)? & 0x0f;
    let count = list_of(bytes, &mut at, kind)?;
    // Each element takes a byte at least.
    if count > bytes.len().checked_sub(at)? {
        return None;
    }
    for _ in 0..count {
        at = match kind {
            STRUCT => skip_struct(bytes, at, depth)?,
            TRUE | FALSE => return None,
            kind => skip(bytes, at, kind, depth)?,
        };
    }
    Some(at)
}

/// Behind a structure. Most of the time of an outline is spent here: a number is skipped without a loop
/// over its bytes, and where a field ends is known from one load.
pub(super) fn skip_struct(bytes: &[u8], mut at: usize, depth: u32) -> Option<usize> {
    depth.checked_sub(1)?;
    loop {
        let word = word(bytes, at)?;
        let head = word as u8;
        if head < 0x10 {
            if head == 0 {
                return Some(at + 1);
            }
            // The number is written out.
            at = skip(bytes, skip_integer(bytes, at + 1)?, head, depth)?;
            continue;
        }
        at = match head & 0x0f {
            4..=6 => {
                let ends = !word & 0x8080_8080_8080_8000;
                if ends != 0 {
                    at + (ends.trailing_zeros() as usize >> 3) + 1
                } else {
                    skip_integer(bytes, at + 1)?
                }
            }
            BINARY => {
                let length = word >> 8 & 0xff;
                if length < 0x80 {
                    at + 2 + length as usize
                } else {
                    skip(bytes, at + 1, BINARY, depth)?
                }
            }
            TRUE | FALSE => at + 1,
            kind => skip(bytes, at + 1, kind, depth)?,
        };
    }
}

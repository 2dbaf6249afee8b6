//! Thrift's compact protocol, as far as page headers and the shape of a schema need it.
//!
//! Format: [thrift-compact-protocol](https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md).
//! Lengths are checked before they are believed, and nesting is bounded.

/// Deepest nesting of fields that are skipped.
const DEPTH_MAX: u32 = 16;

/// Why there is no value.
pub(crate) enum Stop {
    /// The bytes end before it does.
    End,
    /// What is wrong.
    Wrong(&'static str),
}

/// A value, or why there is none.
pub(crate) type Step<T> = Result<T, Stop>;

/// Reads values one behind the other.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    binary_bytes_max: usize,
}

/// Types of fields.
pub(crate) const TRUE: u8 = 1;
pub(crate) const FALSE: u8 = 2;
const BYTE: u8 = 3;
const DOUBLE: u8 = 7;
pub(crate) const BINARY: u8 = 8;
pub(crate) const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
pub(crate) const STRUCT: u8 = 12;

impl<'a> Reader<'a> {
    /// From the first of `bytes`, with texts of at most so many bytes.
    pub(crate) fn new(bytes: &'a [u8], binary_bytes_max: usize) -> Self {
        Reader {
            bytes,
            at: 0,
            binary_bytes_max,
        }
    }

    /// Bytes read so far.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// The head of a list: how many elements, no more than there are bytes, and of which type.
    pub(crate) fn list(&mut self) -> Step<(u64, u8)> {
        let head = self.byte()?;
        let count = match head >> 4 {
            15 => self.varint()?,
            count => u64::from(count),
        };
        self.check_count(count)?;
        Ok((count, head & 0x0f))
    }

    /// Each element takes a byte at least: what says that it has more of them than there are bytes goes on
    /// behind the end.
    fn check_count(&self, count: u64) -> Step<()> {
        let left = self.bytes.len() - self.at;
        if count > left as u64 {
            return Err(Stop::End);
        }
        Ok(())
    }

    fn byte(&mut self) -> Step<u8> {
        let byte = *self.bytes.get(self.at).ok_or(Stop::End)?;
        self.at += 1;
        Ok(byte)
    }

    pub(crate) fn varint(&mut self) -> Step<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Stop::Wrong("a number has too many bytes"))
    }

    pub(crate) fn integer(&mut self) -> Step<i64> {
        let raw = self.varint()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    pub(crate) fn size(&mut self) -> Step<u32> {
        u32::try_from(self.integer()?)
            .ok()
            .filter(|size| *size <= i32::MAX as u32)
            .ok_or(Stop::Wrong("a size is negative or too large"))
    }

    pub(crate) fn binary(&mut self) -> Step<&'a [u8]> {
        let length = self.varint()?;
        if length > self.binary_bytes_max as u64 {
            return Err(Stop::Wrong("a text is too long"));
        }
        let end = self.at + length as usize;
        let bytes = self.bytes.get(self.at..end).ok_or(Stop::End)?;
        self.at = end;
        Ok(bytes)
    }

    /// The next field's number and type; `None` at the end of the structure.
    pub(crate) fn field(&mut self, last: &mut i16) -> Step<Option<(i16, u8)>> {
        let head = self.byte()?;
        if head == 0 {
            return Ok(None);
        }
        let delta = head >> 4;
        *last = if delta == 0 {
            i16::try_from(self.integer()?).map_err(|_| Stop::Wrong("a field's number"))?
        } else {
            last.checked_add(i16::from(delta))
                .ok_or(Stop::Wrong("a field's number"))?
        };
        Ok(Some((*last, head & 0x0f)))
    }

    /// Skips a value of this type.
    pub(crate) fn skip(&mut self, kind: u8) -> Step<()> {
        self.skip_nested(kind, DEPTH_MAX)
    }

    /// Skips `count` elements of a list of this type.
    pub(crate) fn skip_elements(&mut self, count: u64, kind: u8) -> Step<()> {
        self.skip_each(count, &[kind], DEPTH_MAX)
    }

    /// Skips as many elements, or keys and values, of these types. In a collection a boolean takes a byte; as a
    /// field it is in the field's head.
    fn skip_each(&mut self, count: u64, kinds: &[u8], depth: u32) -> Step<()> {
        for _ in 0..count {
            for kind in kinds {
                let kind = match *kind {
                    TRUE | FALSE => BYTE,
                    kind => kind,
                };
                self.skip_nested(kind, depth)?;
            }
        }
        Ok(())
    }

    fn skip_nested(&mut self, kind: u8, depth: u32) -> Step<()> {
        if depth == 0 {
            return Err(Stop::Wrong("fields are nested too deep"));
        }
        match kind {
            TRUE | FALSE => {}
            BYTE => {
                self.byte()?;
            }
            4..=6 => {
                self.varint()?;
            }
            DOUBLE => {
                for _ in 0..8 {
                    self.byte()?;
                }
            }
            BINARY => {
                self.binary()?;
            }
            LIST | SET => {
                let (count, element) = self.list()?;
                self.skip_each(count, &[element], depth - 1)?;
            }
            MAP => {
                let count = self.varint()?;
                self.check_count(count)?;
                if count > 0 {
                    let kinds = self.byte()?;
                    self.skip_each(count, &[kinds >> 4, kinds & 0x0f], depth - 1)?;
                }
            }
            STRUCT => {
                let mut last = 0;
                while let Some((_, kind)) = self.field(&mut last)? {
                    self.skip_nested(kind, depth - 1)?;
                }
            }
            _ => return Err(Stop::Wrong("a field is of an unknown type")),
        }
        Ok(())
    }
}

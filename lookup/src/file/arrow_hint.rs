//! Arrow's schema that a footer may have, read a field at a time.
//!
//! Writers that know Arrow put its schema into the footer, as a hint which types were meant. Checking and
//! decoding all of a wide one takes longer than finding the parts of the footer. Here, only its names are
//! looked at; of the columns that are asked for, a schema of their own is made, and that is checked and
//! decoded as any other.
//!
//! Format: [Schema.fbs](https://github.com/apache/arrow/blob/main/format/Schema.fbs) in
//! [FlatBuffers](https://flatbuffers.dev/internals/), in base64.

use arrow_schema::{Fields, Schema};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Places of fields in their tables: of the header's kind and the header in a message, of the fields in a
/// schema, of the name in a field.
const HEADER_KIND: usize = 1;
const HEADER: usize = 2;
const FIELDS: usize = 1;
const NAME: usize = 0;

/// The kind of a header that is a schema.
const SCHEMA: u8 = 1;

/// Bytes of an offset and of a length.
const WORD: usize = 4;

/// Arrow's schema, not decoded.
#[derive(Debug)]
pub(super) struct ArrowHint {
    message: Vec<u8>,
    /// Where the schema's list of fields is, its length first.
    list: usize,
    fields: usize,
}

impl ArrowHint {
    /// Of what a footer has for `ARROW:schema`. `None` if that is none, or its root columns have not these
    /// names.
    pub fn new<'a>(encoded: &[u8], names: impl ExactSizeIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut message = STANDARD.decode(encoded).ok()?;
        // In front of newer messages stand a mark and the length.
        if message.starts_with(&[0xff; WORD]) {
            message.drain(..(2 * WORD).min(message.len()));
        }
        let bytes = &message[..];
        let root = indirect(bytes, 0)?;
        if *bytes.get(slot(bytes, root, HEADER_KIND)?)? != SCHEMA {
            return None;
        }
        let schema = indirect(bytes, slot(bytes, root, HEADER)?)?;
        let list = indirect(bytes, slot(bytes, schema, FIELDS)?)?;
        let fields = number(bytes, list)?;
        if fields != names.len() {
            return None;
        }
        for (field, expected) in names.enumerate() {
            let table = indirect(bytes, list.checked_add(WORD * (field + 1))?)?;
            let name = indirect(bytes, slot(bytes, table, NAME)?)?;
            let text = name.checked_add(WORD)?;
            let end = text.checked_add(number(bytes, name)?)?;
            if bytes.get(text..end)? != expected {
                return None;
            }
        }
        Some(ArrowHint {
            message,
            list,
            fields,
        })
    }

    /// The fields at `places`, which rise; `None` if what is said of one of them is damaged.
    ///
    /// # Panics
    /// If a place is behind the last field.
    pub fn of(&self, places: &[usize]) -> Option<Fields> {
        let mut message = self.message.clone();
        for (own, field) in places.iter().enumerate() {
            assert!(*field < self.fields, "the field is there");
            let entry = |field: usize| self.list + WORD * (field + 1);
            // Offsets count from where they stand, and none of these moves back.
            let offset = indirect(&self.message, entry(*field))?.checked_sub(entry(own))?;
            put(&mut message, entry(own), offset)?;
        }
        put(&mut message, self.list, places.len())?;
        let message = arrow_ipc::root_as_message(&message).ok()?;
        let schema: Schema =
            arrow_ipc::convert::try_fb_to_schema(message.header_as_schema()?).ok()?;
        Some(schema.fields)
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> usize {
        self.message.len()
    }
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*word) as usize)
}

/// What the offset at `at` leads to.
fn indirect(bytes: &[u8], at: usize) -> Option<usize> {
    at.checked_add(number(bytes, at)?)
}

/// Where a field of a table is.
fn slot(bytes: &[u8], table: usize, field: usize) -> Option<usize> {
    let short = |at: usize| Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let back = i32::from_le_bytes(*bytes.get(table..)?.first_chunk()?);
    let slots = usize::try_from(i64::try_from(table).ok()? - i64::from(back)).ok()?;
    let own = WORD + 2 * field;
    if own + 2 > usize::from(short(slots)?) {
        return None;
    }
    let offset = usize::from(short(slots.checked_add(own)?)?);
    (offset != 0).then_some(table.checked_add(offset)?)
}

fn put(bytes: &mut [u8], at: usize, value: usize) -> Option<()> {
    let word = bytes.get_mut(at..at.checked_add(WORD)?)?;
    word.copy_from_slice(&u32::try_from(value).ok()?.to_le_bytes());
    Some(())
}

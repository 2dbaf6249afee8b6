//! Decoded values: of a page, and of a dictionary.
//!
//! A value is taken out as its bytes (in the PLAIN encoding of its type), which [`Decode`] makes keys of
//! and answers are built from.
//!
//! [`Decode`]: crate::column::Decode

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::hybrid::Hybrid;
use super::presence::Presence;
use super::trimmed::{Trimmed, Value};
use crate::column::{Decode, Key, Order};
use crate::error::{LookupError, Result};
use crate::predicate::intervals::{Bound, Intervals};

/// Values in order, without NULLs.
#[derive(Clone, Debug)]
pub enum Values {
    /// Of one width, one behind the other.
    Fixed {
        /// Bytes of a value.
        width: usize,
        /// All of them.
        bytes: Bytes,
    },
    /// Of several lengths.
    Variable {
        /// Where each begins, and where the last ends: one more than there are values.
        offsets: Vec<u32>,
        /// All of them; there may be gaps between them.
        bytes: Bytes,
        /// Bytes before each value that are not its own.
        gap: u32,
    },
    /// Booleans: a byte each.
    Booleans(Bytes),
    /// Of one width, without what all of them share.
    Trimmed(Trimmed),
    /// Codes of a dictionary.
    Codes {
        /// The codes.
        codes: Hybrid,
        /// What they stand for. A corrupt page may have codes beyond it.
        dictionary: Arc<Dictionary>,
    },
}

/// The values of a dictionary page.
#[derive(Clone, Debug)]
pub struct Dictionary {
    /// Its values: never codes.
    pub values: Values,
    /// How many.
    pub count: u32,
    /// Bytes of the buffer that the values lie in, all of which they keep.
    pub buffer_bytes: usize,
}

impl Dictionary {
    /// Bytes of memory that it takes.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.values.memory_bytes_in(self.buffer_bytes)
    }

    /// Which codes stand for values in the intervals: one byte each.
    pub fn matching(&self, decode: Decode, intervals: &Intervals) -> Result<Matching> {
        let mut matching = Matching {
            codes: vec![false; self.count as usize],
            any: 0,
            only: None,
        };
        let mut note = |code: u32| {
            matching.codes[code as usize] = true;
            matching.any += 1;
            matching.only = Some(code);
        };
        if let (Values::Fixed { width: 8, bytes }, Decode::Int64, Intervals::Narrow(list)) =
            (&self.values, decode, intervals)
            && let [(from, to)] = list.as_slice()
        {
            // The usual case, as a loop that the compiler makes wide.
            let (words, _) = bytes.as_chunks::<8>();
            for (code, word) in words.iter().enumerate() {
                let value = i64::from_le_bytes(*word);
                if *from <= value && value <= *to {
                    note(code as u32);
                }
            }
        } else {
            for code in 0..self.count {
                let value = self.values.get(code).expect("it is not of codes");
                let key = decode.key(&value).ok_or_else(wrong_length)?;
                if intervals.contains(key) {
                    note(code);
                }
            }
        }
        if matching.any != 1 {
            matching.only = None;
        }
        Ok(matching)
    }
}

/// Codes of a dictionary whose values match.
#[derive(Clone, Debug)]
pub struct Matching {
    codes: Vec<bool>,
    any: u32,
    only: Option<u32>,
}

impl Matching {
    /// Whether no code matches.
    pub fn is_empty(&self) -> bool {
        self.any == 0
    }

    /// Whether this code matches.
    #[inline]
    fn contains(&self, code: u32) -> bool {
        self.codes.get(code as usize).copied().unwrap_or(false)
    }
}

impl Values {
    /// The bytes of the value at `place`. Of codes: of what they stand for; `None` if that is nothing,
    /// which a corrupt page may say.
    ///
    /// # Panics
    /// If there is no such place.
    #[inline]
    pub fn get(&self, place: u32) -> Option<Value<'_>> {
        Some(Value::Kept(match self {
            Values::Fixed { width, bytes } => {
                let start = place as usize * width;
                &bytes[start..start + width]
            }
            Values::Variable {
                offsets,
                bytes,
                gap,
            } => {
                let place = place as usize;
                &bytes[(offsets[place] + gap) as usize..offsets[place + 1] as usize]
            }
            Values::Booleans(bytes) => &bytes[place as usize..=place as usize],
            Values::Trimmed(trimmed) => return Some(trimmed.get(place)),
            Values::Codes { codes, dictionary } => {
                let code = codes.get(place);
                if code >= dictionary.count {
                    return None;
                }
                return dictionary.values.get(code);
            }
        }))
    }

    /// Length of the value at `place`; of codes 0.
    ///
    /// # Panics
    /// If there is no such place.
    #[inline]
    pub fn length(&self, place: u32) -> usize {
        match self {
            Values::Fixed { width, .. } => *width,
            Values::Variable { offsets, gap, .. } => {
                let place = place as usize;
                (offsets[place + 1] - offsets[place] - gap) as usize
            }
            Values::Booleans(_) => 1,
            Values::Trimmed(trimmed) => trimmed.width(),
            Values::Codes { .. } => 0,
        }
    }

    /// Bytes of memory that they take where they lie in a buffer of `buffer_bytes`, or in none: that is kept whole
    /// by any part of it.
    fn memory_bytes_in(&self, buffer_bytes: usize) -> usize {
        let within = match self {
            Values::Fixed { bytes, .. } | Values::Variable { bytes, .. } => bytes.len(),
            Values::Codes { codes, .. } => codes.memory_bytes() - codes.runs_bytes(),
            Values::Booleans(_) | Values::Trimmed(_) => 0,
        };
        self.memory_bytes() + buffer_bytes.saturating_sub(within)
    }

    /// Bytes of memory that they take, without a dictionary.
    pub fn memory_bytes(&self) -> usize {
        match self {
            Values::Fixed { bytes, .. } | Values::Booleans(bytes) => bytes.len(),
            Values::Variable { offsets, bytes, .. } => bytes.len() + offsets.len() * 4,
            Values::Trimmed(trimmed) => trimmed.memory_bytes(),
            Values::Codes { codes, .. } => codes.memory_bytes(),
        }
    }
}

/// A page, decoded.
#[derive(Clone, Debug)]
pub struct DecodedPage {
    /// Rows.
    pub rows: u32,
    /// Which have a value; `None`: all.
    pub presence: Option<Presence>,
    /// The values.
    pub values: Values,
    /// Bytes of the buffer that the values lie in, all of which they keep; 0 if they have their own.
    pub buffer_bytes: usize,
}

impl DecodedPage {
    /// Bytes of memory that it takes, without a dictionary.
    pub fn memory_bytes(&self) -> usize {
        let presence = self.presence.as_ref().map_or(0, Presence::memory_bytes);
        size_of::<Self>() + presence + self.values.memory_bytes_in(self.buffer_bytes)
    }

    /// The same in less memory, if that is much less.
    #[must_use]
    pub fn trimmed(self) -> Self {
        let trimmed = match &self.values {
            Values::Fixed { width, bytes } => Trimmed::new(*width, bytes),
            _ => None,
        };
        match trimmed {
            Some(trimmed) => DecodedPage {
                values: Values::Trimmed(trimmed),
                buffer_bytes: 0,
                ..self
            },
            None => self,
        }
    }

    /// The value of a row, if it has one.
    ///
    /// # Errors
    /// Corrupt, if a code stands for nothing.
    ///
    /// # Panics
    /// If the page has no such row.
    #[inline]
    pub fn value(&self, row: u32) -> Result<Option<Value<'_>>> {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let place = match &self.presence {
            None => row,
            Some(presence) => match presence.place(row) {
                Some(place) => place,
                None => return Ok(None),
            },
        };
        self.values.get(place).map(Some).ok_or_else(no_such_code)
    }

    /// Gives the rows among `rows` for whose value `bound` holds, in order.
    ///
    /// # Errors
    /// Corrupt, if a value is not as long as its type says.
    pub fn matching(
        &self,
        rows: Range<u32>,
        decode: Decode,
        bound: &Bound,
        matching: Option<&Matching>,
        mut each: impl FnMut(u32),
    ) -> Result<()> {
        let intervals = match bound {
            Bound::IsNull => {
                if let Some(presence) = &self.presence {
                    rows.filter(|row| presence.place(*row).is_none())
                        .for_each(each);
                }
                return Ok(());
            }
            Bound::IsNotNull => {
                rows.filter(|row| match &self.presence {
                    None => true,
                    Some(presence) => presence.place(*row).is_some(),
                })
                .for_each(each);
                return Ok(());
            }
            Bound::Values(intervals) => intervals,
        };
        match &self.presence {
            None => self.each_match(rows, decode, intervals, matching, &mut each),
            Some(presence) => {
                // Places of values to rows: one step forward for each match.
                let places = presence.values_before(rows.start)..presence.values_before(rows.end);
                let mut row = rows.start;
                self.each_match(places, decode, intervals, matching, |place| {
                    while presence.place(row) != Some(place) {
                        row += 1;
                    }
                    each(row);
                })
            }
        }
    }

    fn each_match(
        &self,
        places: Range<u32>,
        decode: Decode,
        intervals: &Intervals,
        matching: Option<&Matching>,
        mut each: impl FnMut(u32),
    ) -> Result<()> {
        if places.is_empty() {
            return Ok(());
        }
        match (&self.values, matching, intervals) {
            (Values::Codes { codes, .. }, Some(matching), _) => {
                match matching.only {
                    Some(only) => codes.each(places.start, places.end, |start, count, code| {
                        if code == only {
                            (start..start + count).for_each(&mut each);
                        }
                    }),
                    None => codes.each(places.start, places.end, |start, count, code| {
                        if matching.contains(code) {
                            (start..start + count).for_each(&mut each);
                        }
                    }),
                }
                Ok(())
            }
            (Values::Fixed { width: 8, bytes }, _, Intervals::Narrow(list))
                if decode == Decode::Int64 && list.len() == 1 =>
            {
                let (from, to) = list[0];
                let (words, _) = bytes.as_chunks::<8>();
                let words = &words[places.start as usize..places.end as usize];
                // Groups are looked at as a whole first: most have no match.
                for (group, words) in words.chunks(64).enumerate() {
                    let is_match = |word: &[u8; 8]| {
                        let value = i64::from_le_bytes(*word);
                        (from <= value) & (value <= to)
                    };
                    if words.iter().fold(false, |any, word| any | is_match(word)) {
                        for (place, word) in words.iter().enumerate() {
                            if is_match(word) {
                                each(places.start + (group * 64 + place) as u32);
                            }
                        }
                    }
                }
                Ok(())
            }
            (Values::Trimmed(trimmed), _, Intervals::Narrow(list))
                if decode == Decode::Int64 && list.len() == 1 && trimmed.width() == 8 =>
            {
                trimmed.each_between(places, list[0], each);
                Ok(())
            }
            (values, _, Intervals::Narrow(_)) if decode.order() == Order::Narrow => {
                for place in places {
                    let key = decode
                        .narrow(&values.get(place).ok_or_else(no_such_code)?)
                        .ok_or_else(wrong_length)?;
                    if intervals.contains(Key::Narrow(key)) {
                        each(place);
                    }
                }
                Ok(())
            }
            (values, _, intervals) => {
                for place in places {
                    let value = values.get(place).ok_or_else(no_such_code)?;
                    let key = decode.key(&value).ok_or_else(wrong_length)?;
                    if intervals.contains(key) {
                        each(place);
                    }
                }
                Ok(())
            }
        }
    }
}

fn wrong_length() -> LookupError {
    LookupError::corrupt("a value has a wrong length, or is no number of this precision")
}

fn no_such_code() -> LookupError {
    LookupError::corrupt("a code stands for nothing in its dictionary")
}

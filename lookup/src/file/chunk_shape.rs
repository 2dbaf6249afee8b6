//! Ends of column chunks, found by likeness.
//!
//! A footer has thousands of chunks with the same fields in the same order, and only the numbers and texts
//! in them differ. A chunk is therefore laid beside one that was walked through field by field before: where
//! all bytes that say what comes next are equal, eight of them are passed at a time, and nothing waits for
//! the length of anything. Where a number or a text has another length, it is passed on both sides. The
//! invariant: the end is that which a walk would find, or there is none.

use super::skip::{BYTE, DEPTH_MAX, DOUBLE, field, list_of, skip, skip_struct, varint};
use crate::thrift::{BINARY, FALSE, LIST, STRUCT, TRUE};

/// Shapes that are kept: one for each physical type, of those with and without a dictionary, bounds and
/// nulls.
const SHAPES_MAX: usize = 16;

/// Longest chunk whose shape is kept: bounds what is laid beside others in vain.
const SHAPE_BYTES_MAX: usize = 1024;

/// All of a byte has to be equal: it says which field comes, or how long something is.
const EQUAL: u8 = 0xff;

/// A byte of a number: only whether it is the last one.
const NUMBER: u8 = 0x80;

/// A byte of a text, which may be any.
const ANY: u8 = 0;

/// Bytes that are looked at at a time.
const STEP: usize = 8;

/// A chunk that others are laid beside.
struct Shape {
    /// Its bytes, and some more.
    bytes: Vec<u8>,
    /// For each of them, which bits have to be equal.
    masks: Vec<u8>,
    length: usize,
}

/// The shapes of chunks seen so far.
pub(super) struct Shapes {
    kept: Vec<Shape>,
    /// For each leaf, which shape its last chunk had.
    of_leaves: Vec<u8>,
    /// The next to go.
    oldest: usize,
}

impl Shapes {
    /// None yet, for so many leaves.
    pub fn new(leaves: usize) -> Self {
        Shapes {
            kept: Vec::with_capacity(SHAPES_MAX),
            of_leaves: vec![0; leaves],
            oldest: 0,
        }
    }

    /// Behind a chunk of a leaf.
    #[inline(always)]
    pub fn skip(&mut self, bytes: &[u8], at: usize, leaf: usize) -> Option<usize> {
        // Chunks of a leaf are alike in all row groups.
        let likely = self.kept.get(usize::from(self.of_leaves[leaf]));
        match likely.and_then(|shape| shape.follow(bytes, at)) {
            Some(end) => Some(end),
            None => self.skip_other(bytes, at, leaf),
        }
    }

    #[inline(never)]
    fn skip_other(&mut self, bytes: &[u8], at: usize, leaf: usize) -> Option<usize> {
        for (place, shape) in self.kept.iter().enumerate() {
            if let Some(end) = shape.follow(bytes, at) {
                self.of_leaves[leaf] = place as u8;
                return Some(end);
            }
        }
        let end = skip_struct(bytes, at, DEPTH_MAX)?;
        if let Some(own) = bytes
            .get(at..end)
            .filter(|own| own.len() <= SHAPE_BYTES_MAX)
            && let Some(shape) = Shape::new(own)
        {
            self.of_leaves[leaf] = self.oldest as u8;
            if self.kept.len() < SHAPES_MAX {
                self.kept.push(shape);
            } else {
                self.kept[self.oldest] = shape;
            }
            self.oldest = (self.oldest + 1) % SHAPES_MAX;
        }
        Some(end)
    }
}

impl Shape {
    /// Of a structure.
    fn new(chunk: &[u8]) -> Option<Self> {
        let mut masks = vec![ANY; chunk.len() + STEP];
        let mut at = 0;
        mark_struct(chunk, &mut masks, &mut at, DEPTH_MAX)?;
        let mut bytes = chunk.to_vec();
        bytes.resize(chunk.len() + STEP, 0);
        Some(Shape {
            bytes,
            masks,
            length: chunk.len(),
        })
    }

    /// The end of the structure at `at`, if it is of this shape.
    fn follow(&self, bytes: &[u8], mut at: usize) -> Option<usize> {
        let mut own = 0;
        while own < self.length {
            let mask = word(&self.masks, own)?;
            let differ = (word(&self.bytes, own)? ^ word(bytes, at)?) & mask;
            if differ == 0 {
                own += STEP;
                at += STEP;
                continue;
            }
            let place = differ.trailing_zeros() as usize / 8;
            (own, at) = self.pass(bytes, own + place, at + place)?;
        }
        // What is behind the shape's end was not compared.
        Some(at - (own - self.length))
    }

    /// Passes a number or a text that has not the length of the shape's.
    fn pass(&self, bytes: &[u8], mut own: usize, mut at: usize) -> Option<(usize, usize)> {
        if self.masks[own] == NUMBER {
            while self.bytes[own] & 0x80 != 0 {
                own += 1;
            }
            while bytes.get(at)? & 0x80 != 0 {
                at += 1;
            }
            return Some((own + 1, at + 1));
        }
        // A text's length stands behind its kind, be it a field's or a list's.
        let before = own.checked_sub(1)?;
        let is_length = self.masks[before] == EQUAL
            && self.bytes[before] & 0x8f == BINARY
            && self.bytes[own] < 0x80;
        let length = *bytes.get(at)?;
        (is_length && length < 0x80).then_some((
            own + 1 + usize::from(self.bytes[own]),
            at + 1 + usize::from(length),
        ))
    }
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*word))
}

fn mark(masks: &mut [u8], range: std::ops::Range<usize>, mask: u8) -> Option<()> {
    masks.get_mut(range)?.fill(mask);
    Some(())
}

/// Marks the bytes of a structure. `None` where it has what would make [`Shape::pass`] ambiguous: numbers of
/// fields that are written out, lists that are empty or long.
fn mark_struct(bytes: &[u8], masks: &mut [u8], at: &mut usize, depth: u32) -> Option<()> {
    let mut last = 0;
    loop {
        let start = *at;
        let next = field(bytes, at, last)?;
        mark(masks, start..*at, EQUAL)?;
        let Some((number, kind)) = next else {
            return Some(());
        };
        if *at != start + 1 {
            return None;
        }
        last = number;
        mark_value(bytes, masks, at, kind, depth.checked_sub(1)?)?;
    }
}

fn mark_value(bytes: &[u8], masks: &mut [u8], at: &mut usize, kind: u8, depth: u32) -> Option<()> {
    let start = *at;
    match kind {
        TRUE | FALSE => {}
        4..=6 => {
            *at = skip(bytes, start, kind, depth)?;
            mark(masks, start..*at, NUMBER)?;
        }
        BYTE | DOUBLE => *at = skip(bytes, start, kind, depth)?,
        BINARY => {
            let (_, text) = varint(bytes, start)?;
            mark(masks, start..text, EQUAL)?;
            *at = skip(bytes, start, kind, depth)?;
        }
        STRUCT => mark_struct(bytes, masks, at, depth)?,
        LIST => {
            let kind = *bytes.get(start)? & 0x0f;
            let count = list_of(bytes, at, kind)?;
            if count == 0 || *at != start + 1 || matches!(kind, TRUE | FALSE) {
                return None;
            }
            mark(masks, start..*at, EQUAL)?;
            for _ in 0..count {
                mark_value(bytes, masks, at, kind, depth.checked_sub(1)?)?;
            }
        }
        _ => return None,
    }
    Some(())
}

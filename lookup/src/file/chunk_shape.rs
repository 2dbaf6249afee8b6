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
const STEP: usize = 32;

/// Chunks with numbers or texts of other lengths that a shape stands, before it is made anew of the last of
/// them: offsets grow with the file, so what comes is like what came last.
const MISFITS_MAX: u32 = 16;

/// A chunk that others are laid beside.
struct Shape {
    /// Its bytes, and some more.
    bytes: Vec<u8>,
    /// For each of them, which bits have to be equal.
    masks: Vec<u8>,
    length: usize,
    /// Chunks so far that had to be passed in parts.
    misfits: u32,
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
        let likely = self.kept.get_mut(usize::from(self.of_leaves[leaf]));
        match likely.and_then(|shape| shape.follow(bytes, at)) {
            Some(end) => Some(end),
            None => self.skip_other(bytes, at, leaf),
        }
    }

    #[inline(never)]
    fn skip_other(&mut self, bytes: &[u8], at: usize, leaf: usize) -> Option<usize> {
        for (place, shape) in self.kept.iter_mut().enumerate() {
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
            misfits: 0,
        })
    }

    /// The end of the structure at `at`, if it is of this shape.
    #[inline(always)]
    fn follow(&mut self, bytes: &[u8], start: usize) -> Option<usize> {
        let (mut own, mut at) = (0, start);
        let mut fits = true;
        while own < self.length {
            let (shape, masks) = (&self.bytes[own..], &self.masks[own..]);
            let alike = alike(shape, masks, bytes.get(at..at + shape.len())?);
            (own, at) = (own + alike, at + alike);
            if own >= self.length {
                break;
            }
            (own, at) = self.pass(bytes, own, at)?;
            fits = false;
        }
        // What is behind the shape's end was not compared.
        let end = at - (own - self.length);
        if !fits {
            self.misfits += 1;
            if self.misfits > MISFITS_MAX {
                self.remake(&bytes[start..end]);
            }
        }
        Some(end)
    }

    #[inline(never)]
    fn remake(&mut self, chunk: &[u8]) {
        match Shape::new(chunk) {
            Some(shape) if chunk.len() <= SHAPE_BYTES_MAX => *self = shape,
            _ => self.misfits = 0,
        }
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

/// How many bytes of `theirs` are as in `shape`, where `masks` say that they have to be. All three have the
/// same length.
#[inline(always)]
fn alike(shape: &[u8], masks: &[u8], theirs: &[u8]) -> usize {
    let (shape, own_end) = shape.as_chunks::<STEP>();
    let (masks, _) = masks.as_chunks::<STEP>();
    let (theirs, _) = theirs.as_chunks::<STEP>();
    let mut alike = 0;
    for ((shape, mask), theirs) in shape.iter().zip(masks).zip(theirs) {
        let mut differ = 0;
        for byte in 0..STEP {
            differ |= (shape[byte] ^ theirs[byte]) & mask[byte];
        }
        if differ != 0 {
            let mut bytes = 0..STEP;
            let place = bytes.find(|byte| (shape[*byte] ^ theirs[*byte]) & mask[*byte] != 0);
            return alike + place.unwrap_or(STEP);
        }
        alike += STEP;
    }
    alike + own_end.len()
}

fn mark(masks: &mut [u8], range: std::ops::Range<usize>, mask: u8) -> Option<()> {
    masks.get_mut(range)?.fill(mask);
    Some(())
}

/// Marks the bytes of a structure. `None` where it has what would make [`Shape::pass`] ambiguous: numbers of
/// fields that are written out, long lists, empty ones of texts.
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
            // The head of a list without texts would be taken for what stands before a text's length.
            let is_ambiguous = count == 0 && kind == BINARY;
            if is_ambiguous || *at != start + 1 || matches!(kind, TRUE | FALSE) {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A chunk with an offset, a name, an empty list of numbers, and its end.
    fn chunk(offset: u32, name: &str) -> Vec<u8> {
        let mut bytes = vec![0x16];
        let mut left = offset;
        while left >= 0x80 {
            bytes.push(left as u8 | 0x80);
            left >>= 7;
        }
        bytes.extend([left as u8, 0x18, name.len() as u8]);
        bytes.extend(name.as_bytes());
        bytes.extend([0x19, 0x06, 0x00]);
        bytes
    }

    #[test]
    fn chunks_end_where_a_walk_ends_whatever_their_lengths() {
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for place in 0..200 {
            // Offsets of one byte up to five, and names that are longer now and then.
            let name = "x".repeat(1 + place % 3 * usize::from(place > 100));
            bytes.extend(chunk(1 << (place % 30), &name));
            ends.push(bytes.len());
        }
        bytes.extend([0; STEP]);
        let mut shapes = Shapes::new(1);
        let mut at = 0;
        for end in ends {
            assert_eq!(skip_struct(&bytes, at, DEPTH_MAX), Some(end));
            at = shapes.skip(&bytes, at, 0).expect("it ends");
            assert_eq!(at, end);
        }
        assert_eq!(shapes.kept.len(), 1, "all of them are of one shape");
    }
}

//! Where the parts of a footer are, without decoding them.
//!
//! One pass over the bytes finds where each root column's part of the schema and each column chunk begins
//! and ends. [`Outline::part`] then writes a small footer of some root columns only, which `parquet`
//! decodes as it would any other. The invariant: a part has the very bytes of the footer for each chunk
//! that it has, and its chunks are in the footer's order.
//!
//! An outline is only made of footers of the shape that writers give them: fields in the order of their
//! numbers, none of them twice. Of any other there is none, and the whole footer has to be decoded.
//!
//! Format: [parquet.thrift](https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift)
//! in thrift's [compact protocol](https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md).

use std::ops::Range;

use bytes::Bytes;

use super::chunk_shape::Shapes;
use super::shape;
use super::skip::{
    DEPTH_MAX, expect, field, integer, list_of, skip, skip_integer, skip_struct, varint,
};
use crate::thrift::{BINARY, LIST, STRUCT};

/// Most columns and groups in a schema.
const ELEMENTS_MAX: usize = 1 << 20;

/// The kinds of integers: 16, 32 and 64 bits.
const INTEGERS: std::ops::RangeInclusive<u8> = 4..=6;

/// Heads of fields, number and kind, as they stand behind the field before.
const VERSION: u8 = 0x15;
const NEXT_LIST: u8 = 0x19;
const NEXT_LONG: u8 = 0x16;

/// A root column in the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootPart {
    /// Its elements, its own first.
    elements: Range<u32>,
    /// Its name.
    name: Range<u32>,
    /// The place of its first leaf among all leaves.
    pub first_leaf: u32,
    /// Its leaves.
    pub leaves: u32,
    /// Whether it is one leaf that has one value a row at most.
    pub is_plain: bool,
}

impl RootPart {
    /// Its columns and groups, itself among them.
    pub fn elements(&self) -> usize {
        (self.elements.end - self.elements.start) as usize
    }
}

/// A row group.
#[derive(Clone, Debug, PartialEq, Eq)]
struct GroupPart {
    /// Its rows, as it says.
    rows: i64,
    /// What stands behind its chunks.
    tail: Range<u32>,
}

/// Where the parts of a footer are.
#[derive(Debug, PartialEq, Eq)]
pub struct Outline {
    footer: Bytes,
    /// The first field.
    version: Range<u32>,
    /// The schema's first element.
    schema: Range<u32>,
    /// In it, how many root columns there are.
    schema_count: Range<u32>,
    roots: Vec<RootPart>,
    leaves: u32,
    /// Field of the number of rows.
    rows: Range<u32>,
    groups: Vec<GroupPart>,
    /// Row group by row group, where its chunks begin, and behind them where the last ends.
    chunks: Vec<u32>,
    /// Where the order of each leaf begins, and behind them where the last ends.
    orders: Vec<u32>,
    /// Pairs of texts, where there are some.
    key_values: Option<Range<u32>>,
}

impl Outline {
    /// Of a footer; `None` if it is not as writers make them.
    pub fn new(footer: &Bytes) -> Option<Self> {
        let bytes = &footer[..];
        if u32::try_from(bytes.len()).is_err() || *bytes.first()? != VERSION {
            return None;
        }
        let version = 0..skip_integer(bytes, 1)?;
        let mut at = expect(bytes, version.end, NEXT_LIST)?;
        let schema = Schema::new(bytes, &mut at)?;
        let rows = at..skip_integer(bytes, expect(bytes, at, NEXT_LONG)?)?;
        at = expect(bytes, rows.end, NEXT_LIST)?;
        let (groups, chunks) = groups(bytes, &mut at, schema.leaves)?;
        let mut outline = Outline {
            footer: footer.clone(),
            version: narrow(version),
            schema: narrow(schema.first),
            schema_count: narrow(schema.count),
            roots: schema.roots,
            leaves: schema.leaves,
            rows: narrow(rows),
            groups,
            chunks,
            orders: Vec::new(),
            key_values: None,
        };
        outline.find_optional(at)?;
        Some(outline)
    }

    /// The fields behind the row groups.
    fn find_optional(&mut self, mut at: usize) -> Option<()> {
        let bytes = &self.footer[..];
        let mut last = 4;
        while let Some((number, kind)) = field(bytes, &mut at, last)? {
            let start = at;
            match (number, kind) {
                (5, LIST) => {
                    at = skip(bytes, at, kind, DEPTH_MAX)?;
                    self.key_values = Some(narrow(start..at));
                }
                (7, LIST) => {
                    let count = list_of(bytes, &mut at, STRUCT)?;
                    if count != self.leaves as usize {
                        return None;
                    }
                    self.orders.reserve_exact(count + 1);
                    self.orders.push(at as u32);
                    for _ in 0..count {
                        at = skip_struct(bytes, at, DEPTH_MAX)?;
                        self.orders.push(at as u32);
                    }
                }
                (5 | 7, _) => return None,
                _ => at = skip(bytes, at, kind, DEPTH_MAX)?,
            }
            last = number;
        }
        (at <= bytes.len()).then_some(())
    }

    /// The root columns.
    pub fn roots(&self) -> &[RootPart] {
        &self.roots
    }

    /// The name of a root column.
    pub fn name(&self, root: usize) -> &[u8] {
        self.slice(&self.roots[root].name)
    }

    /// Leaf columns.
    pub fn leaves(&self) -> usize {
        self.leaves as usize
    }

    /// Rows of each row group, as the groups say.
    pub fn group_rows(&self) -> impl Iterator<Item = i64> {
        self.groups.iter().map(|group| group.rows)
    }

    /// The last value that the footer has for `key`.
    pub fn value_of(&self, key: &[u8]) -> Option<&[u8]> {
        let range = self.key_values.clone()?;
        let bytes = &self.footer[..range.end as usize];
        let mut at = range.start as usize;
        let mut found = None;
        for _ in 0..list_of(bytes, &mut at, STRUCT)? {
            let (mut own, mut value, mut last) = (None, None, 0);
            while let Some((number, kind)) = field(bytes, &mut at, last)? {
                let start = at;
                at = skip(bytes, at, kind, DEPTH_MAX)?;
                let text = || bytes.get(varint(bytes, start)?.1..at);
                match (number, kind) {
                    (1, BINARY) => own = text(),
                    (2, BINARY) => value = text(),
                    _ => {}
                }
                last = number;
            }
            if own == Some(key) && value.is_some() {
                found = value;
            }
        }
        found
    }

    /// Bytes of the footer.
    pub fn footer_bytes(&self) -> u64 {
        self.footer.len() as u64
    }

    /// Bytes of memory that it takes, with the footer.
    pub fn memory_bytes(&self) -> usize {
        self.footer.len()
            + (self.chunks.len() + self.orders.len()) * size_of::<u32>()
            + self.roots.len() * size_of::<RootPart>()
            + self.groups.len() * size_of::<GroupPart>()
    }

    /// A footer of the root columns `roots`, which rise: all their chunks, or none.
    pub fn part(&self, roots: &[usize], with_groups: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + roots.len() * 64);
        out.extend_from_slice(self.slice(&self.version));
        let elements = roots.iter().map(|root| &self.roots[*root].elements);
        let count: usize = elements.clone().map(|own| self.elements_of(own)).sum();
        out.push(NEXT_LIST);
        put_list(&mut out, count + 1);
        out.extend_from_slice(self.slice(&(self.schema.start..self.schema_count.start)));
        put_varint(&mut out, roots.len() as u64 * 2);
        out.extend_from_slice(self.slice(&(self.schema_count.end..self.schema.end)));
        for own in elements {
            out.extend_from_slice(self.slice(own));
        }
        out.extend_from_slice(self.slice(&self.rows));
        out.push(NEXT_LIST);
        if with_groups {
            put_list(&mut out, self.groups.len());
            for group in 0..self.groups.len() {
                self.put_group(&mut out, roots, group);
            }
        } else {
            put_list(&mut out, 0);
        }
        if !self.orders.is_empty() {
            // Field 7, three behind the row groups.
            out.push(3 << 4 | LIST);
            put_list(&mut out, self.leaves_of(roots));
            for root in roots.iter().map(|root| &self.roots[*root]) {
                let first = root.first_leaf as usize;
                let end = first + root.leaves as usize;
                out.extend_from_slice(self.slice(&(self.orders[first]..self.orders[end])));
            }
        }
        out.push(0);
        out
    }

    fn put_group(&self, out: &mut Vec<u8>, roots: &[usize], group: usize) {
        let starts = &self.chunks[group * (self.leaves() + 1)..];
        out.push(NEXT_LIST);
        put_list(out, self.leaves_of(roots));
        for root in roots.iter().map(|root| &self.roots[*root]) {
            let first = root.first_leaf as usize;
            let end = first + root.leaves as usize;
            out.extend_from_slice(self.slice(&(starts[first]..starts[end])));
        }
        out.extend_from_slice(self.slice(&self.groups[group].tail));
    }

    fn leaves_of(&self, roots: &[usize]) -> usize {
        let leaves = roots.iter().map(|root| self.roots[*root].leaves as usize);
        leaves.sum()
    }

    /// How many elements of the schema `range` has.
    fn elements_of(&self, range: &Range<u32>) -> usize {
        let bytes = &self.footer[..range.end as usize];
        let (mut at, mut count) = (range.start as usize, 0);
        while at < bytes.len() {
            at = skip_struct(bytes, at, DEPTH_MAX).expect("it was walked when it was found");
            count += 1;
        }
        count
    }

    fn slice(&self, range: &Range<u32>) -> &[u8] {
        &self.footer[range.start as usize..range.end as usize]
    }
}

/// What the schema's elements say.
struct Schema {
    first: Range<usize>,
    count: Range<usize>,
    roots: Vec<RootPart>,
    leaves: u32,
}

impl Schema {
    fn new(bytes: &[u8], at: &mut usize) -> Option<Self> {
        let count = list_of(bytes, at, STRUCT)?;
        if count > ELEMENTS_MAX.min(bytes.len()) {
            return None;
        }
        let first = Element::new(bytes, at)?;
        let mut children = Vec::with_capacity(count);
        children.push(first.children);
        let mut roots = Vec::with_capacity((first.children as usize).min(count));
        let mut leaves = 0;
        // Elements of the root column that are still to come.
        let mut left = 0u64;
        for _ in 1..count {
            let own = Element::new(bytes, at)?;
            if left == 0 {
                left = 1;
                roots.push(RootPart {
                    elements: narrow(own.range.clone()),
                    name: narrow(own.name),
                    first_leaf: leaves,
                    leaves: 0,
                    is_plain: own.children == 0 && !own.is_repeated,
                });
            }
            let root = roots.last_mut()?;
            root.elements.end = own.range.end as u32;
            left = left - 1 + u64::from(own.children);
            if own.children == 0 {
                // A group without children is none that writers make.
                if !own.has_type {
                    return None;
                }
                root.leaves += 1;
                leaves += 1;
            }
            children.push(own.children);
        }
        shape::check_tree(&children).ok()?;
        Some(Schema {
            first: first.range,
            count: first.count?,
            roots,
            leaves,
        })
    }
}

/// An element of the schema.
struct Element {
    range: Range<usize>,
    name: Range<usize>,
    children: u32,
    /// Where the number of children is.
    count: Option<Range<usize>>,
    has_type: bool,
    is_repeated: bool,
}

impl Element {
    fn new(bytes: &[u8], at: &mut usize) -> Option<Self> {
        let start = *at;
        let mut element = Element {
            range: start..start,
            name: start..start,
            children: 0,
            count: None,
            has_type: false,
            is_repeated: false,
        };
        let mut last = 0;
        while let Some((number, kind)) = field(bytes, at, last)? {
            let start = *at;
            *at = skip(bytes, start, kind, DEPTH_MAX)?;
            match (number, kind) {
                (1, 4..=6) => element.has_type = true,
                (3, 4..=6) => element.is_repeated = integer(bytes, start)? == 2,
                (4, BINARY) => element.name = varint(bytes, start)?.1..*at,
                (5, 4..=6) => {
                    let children = i32::try_from(integer(bytes, start)?).ok()?;
                    element.children = u32::try_from(children).ok()?;
                    element.count = Some(start..*at);
                }
                (1 | 3 | 4 | 5, _) => return None,
                _ => {}
            }
            last = number;
        }
        element.range.end = *at;
        Some(element)
    }
}

/// The row groups, and where their chunks are.
fn groups(bytes: &[u8], at: &mut usize, leaves: u32) -> Option<(Vec<GroupPart>, Vec<u32>)> {
    let count = list_of(bytes, at, STRUCT)?;
    // A chunk takes a byte at least.
    let chunks = count.checked_mul(leaves as usize + 1)?;
    if chunks > bytes.len() - *at {
        return None;
    }
    let mut groups = Vec::with_capacity(count);
    let mut starts = Vec::with_capacity(chunks);
    let mut shapes = Shapes::new(leaves as usize);
    for _ in 0..count {
        *at = expect(bytes, *at, NEXT_LIST)?;
        if list_of(bytes, at, STRUCT)? != leaves as usize {
            return None;
        }
        let mut own = *at;
        starts.push(own as u32);
        for leaf in 0..leaves as usize {
            own = shapes.skip(bytes, own, leaf)?;
            starts.push(own as u32);
        }
        *at = own;
        groups.push(group_tail(bytes, at)?);
    }
    Some((groups, starts))
}

/// What stands behind the chunks of a row group.
fn group_tail(bytes: &[u8], at: &mut usize) -> Option<GroupPart> {
    let (start, mut last, mut rows) = (*at, 1, None);
    while let Some((number, kind)) = field(bytes, at, last)? {
        let start = *at;
        *at = skip(bytes, start, kind, DEPTH_MAX)?;
        if number == 3 {
            rows = Some(INTEGERS.contains(&kind).then(|| integer(bytes, start))??);
        }
        last = number;
    }
    let tail = narrow(start..(*at <= bytes.len()).then_some(*at)?);
    Some(GroupPart { rows: rows?, tail })
}

fn narrow(range: Range<usize>) -> Range<u32> {
    range.start as u32..range.end as u32
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The head of a list of structures.
fn put_list(out: &mut Vec<u8>, count: usize) {
    if count < 15 {
        out.push((count as u8) << 4 | STRUCT);
    } else {
        out.push(0xf0 | STRUCT);
        put_varint(out, count as u64);
    }
}

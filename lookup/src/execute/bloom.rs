//! Bloom filters of column chunks, of which one block a value is read.
//!
//! Format: [BloomFilter.md](https://github.com/apache/parquet-format/blob/master/BloomFilter.md), split block
//! filters with XXH64. A filter of a megabyte is asked at the price of a few blocks of 32 bytes.

use std::hash::Hasher;

use parquet::bloom_filter::Sbbf;

use super::Search;
use super::plan::{Leaf, Node};
use crate::column::{Column, Decode, Key};
use crate::error::Result;
use crate::host::{Host, read_one};
use crate::predicate::intervals::Bound;
use crate::thrift::{Reader, STRUCT, Step};

/// Bytes of a block.
const BLOCK_BYTES: u64 = 32;

/// Bytes that a filter's header takes at most: an integer and three empty structures.
const HEADER_BYTES_MAX: u64 = 64;

/// Most values of a test for which filters are asked: each costs a read.
const POINTS_MAX: usize = 16;

impl<H: Host> Search<'_, H> {
    /// Whether bloom filters say that no row of the group matches.
    pub(super) async fn bloom_rules_out(&self, group: usize, node: &Node) -> Result<bool> {
        match node {
            Node::Leaf(leaf) => self.leaf_ruled_out(group, leaf).await,
            Node::And(children) => {
                for child in children {
                    if let Node::Leaf(leaf) = child
                        && self.leaf_ruled_out(group, leaf).await?
                    {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Node::Or(children) => {
                for child in children {
                    match child {
                        Node::Leaf(leaf) if self.leaf_ruled_out(group, leaf).await? => {}
                        _ => return Ok(false),
                    }
                }
                Ok(!children.is_empty())
            }
            Node::Constant(holds) => Ok(!holds),
        }
    }

    async fn leaf_ruled_out(&self, group: usize, leaf: &Leaf) -> Result<bool> {
        let chunk = self.file.chunk(group, &leaf.column);
        let Some(offset) = chunk.bloom_filter_offset() else {
            return Ok(false);
        };
        let Bound::Values(intervals) = &leaf.bound else {
            return Ok(false);
        };
        let Some(points) = intervals.points(POINTS_MAX) else {
            return Ok(false);
        };
        let start = u64::try_from(offset).unwrap_or(u64::MAX);
        if start >= self.file.length {
            return Ok(false);
        }
        let head_end = (start + HEADER_BYTES_MAX).min(self.file.length);
        let (head, _charge) = read_one(self, start..head_end).await?;
        let Ok((bytes, header_bytes)) = header(&head) else {
            return Ok(false);
        };
        let bits = start + header_bytes as u64;
        let blocks = u64::from(bytes) / BLOCK_BYTES;
        if blocks == 0 || bits + u64::from(bytes) > self.file.length {
            return Ok(false);
        }
        let mut values = Vec::with_capacity(points.len());
        let mut ranges = Vec::with_capacity(points.len());
        for point in points {
            let Some(value) = physical(&leaf.column, point) else {
                return Ok(false);
            };
            let mut hasher = twox_hash::XxHash64::with_seed(0);
            hasher.write(&value);
            let block = ((hasher.finish() >> 32) * blocks) >> 32;
            let at = bits + block * BLOCK_BYTES;
            ranges.push(at..at + BLOCK_BYTES);
            values.push(value);
        }
        let read = Host::read(self, &ranges).await?;
        // A filter of one block has every value in that block.
        let may_be = values
            .iter()
            .zip(read)
            .any(|(value, block)| Sbbf::new(&block).check(&value[..]));
        Ok(!may_be)
    }
}

/// Bytes of the filter, and of its header.
fn header(bytes: &[u8]) -> Step<(u32, usize)> {
    let mut reader = Reader::new(bytes, bytes.len());
    let (mut size, mut last) = (0, 0);
    while let Some((number, kind)) = reader.field(&mut last)? {
        match (number, kind) {
            (1, 4..=6) => size = reader.size()?,
            // Algorithm, hash and compression have one choice each.
            (_, STRUCT) => reader.skip(STRUCT)?,
            (_, kind) => reader.skip(kind)?,
        }
    }
    Ok((size, reader.position()))
}

/// A value as the filter hashes it; `None` where several byte strings mean one value.
fn physical(column: &Column, key: Key<'_>) -> Option<Vec<u8>> {
    Some(match (column.decode, key) {
        (Decode::Int32 | Decode::Unsigned32, Key::Narrow(value)) => {
            (value as u32).to_le_bytes().to_vec()
        }
        (Decode::Int64, Key::Narrow(value)) => value.to_le_bytes().to_vec(),
        (Decode::Unsigned64, Key::Narrow(value)) => {
            (value.cast_unsigned() ^ (1 << 63)).to_le_bytes().to_vec()
        }
        (Decode::DecimalNarrow, Key::Narrow(value)) => {
            let width = column.width?;
            value.to_be_bytes()[8usize.checked_sub(width)?..].to_vec()
        }
        (Decode::Bytes, Key::Bytes(bytes)) => bytes.to_vec(),
        _ => return None,
    })
}

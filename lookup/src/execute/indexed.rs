//! Key indexes: which rows they find for a predicate, and how they are built.

use std::sync::Arc;
use std::time::Duration;

use super::KeyIndexes;
use super::Search;
use super::load::Want;
use super::plan::{Leaf, Node};
use crate::column::{Column, Decode, Key, Order};
use crate::error::{LookupError, Result};
use crate::host::Host;
use crate::key_index::{Builder, IndexKind, KeyIndex, image};
use crate::page::values::{DecodedPage, Values};
use crate::predicate::intervals::{Bound, Intervals};

/// Most rows that an index is asked for: beyond, a look-up is a scan, and pages are read in their order.
const ROWS_MAX: u64 = 262_144;

/// Most values that an index is asked for one by one.
const POINTS_MAX: usize = 65_536;

/// Sorting and packing take about so long a row.
const FINISH_NS_PER_ROW: u64 = 40;

/// Most bytes of memory for each row of a file while its index is built: image and row number in vectors that double,
/// the words that are sorted, and the index. Numbers of rows are bounded by whoever builds.
const BUILD_BYTES_PER_ROW: u64 = 48;

/// Bytes of a page's row before it is added: its image and its number.
const IMAGE_BYTES: u64 = 12;

/// Compressed bytes of pages that are decoded at a time while an index is built.
const STEP_BYTES: u64 = 8 << 20;

/// What an index of a column holds.
pub fn kind_of(column: &Column) -> IndexKind {
    match column.decode.order() {
        Order::Narrow => IndexKind::Ordered,
        Order::Wide | Order::Bytes => IndexKind::Hashed,
    }
}

/// The image of a key.
pub(super) fn image_of(key: Key<'_>) -> u64 {
    match key {
        Key::Narrow(key) => narrow_image(key),
        Key::Wide(key) => image::hash_bytes(&key.to_le_bytes()),
        Key::Bytes(bytes) => image::hash_bytes(bytes),
    }
}

fn narrow_image(key: i64) -> u64 {
    key.cast_unsigned() ^ (1 << 63)
}

/// Rows that an index found, and what is still to be tested.
pub(super) struct Indexed {
    /// Rows of the file, rising.
    pub rows: Vec<u32>,
    /// What they have to pass.
    pub rest: Node,
}

/// Rows that one of the indexes finds; `None` if there is none that helps.
///
/// # Errors
/// Corrupt, if an index is.
pub(super) fn rows_by_index(filter: &Node, indexes: &KeyIndexes) -> Result<Option<Indexed>> {
    if indexes.is_empty() {
        return Ok(None);
    }
    let leaves = match filter {
        Node::And(children) => children.as_slice(),
        leaf => std::slice::from_ref(leaf),
    };
    for (place, node) in leaves.iter().enumerate() {
        let Node::Leaf(leaf) = node else { continue };
        let Some((_, index)) = indexes.iter().find(|(of, _)| *of == leaf.column.leaf) else {
            continue;
        };
        if let Some(mut rows) = rows_of(index, leaf)? {
            rows.sort_unstable();
            rows.dedup();
            let rest = if index.is_exact() {
                let others = leaves
                    .iter()
                    .enumerate()
                    .filter(|(other, _)| *other != place);
                Node::And(others.map(|(_, node)| node.clone()).collect()).simplified()
            } else {
                filter.clone()
            };
            return Ok(Some(Indexed { rows, rest }));
        }
    }
    Ok(None)
}

fn rows_of(index: &KeyIndex, leaf: &Leaf) -> Result<Option<Vec<u32>>> {
    let Bound::Values(intervals) = &leaf.bound else {
        return Ok(None);
    };
    let mut rows = Vec::new();
    match intervals {
        // Ranges: a few of them, that lead to few rows.
        Intervals::Narrow(list) if index.is_exact() => {
            let mut left = ROWS_MAX;
            for (from, to) in list {
                let images = narrow_image(*from)..=narrow_image(*to);
                if from < to && index.estimate_range(images.clone()) > left {
                    return Ok(None);
                }
                let found = if from == to {
                    index.get(narrow_image(*from), left as usize, &mut rows)?
                } else {
                    index.range(images, left as usize, &mut rows)?
                };
                if found > left {
                    return Ok(None);
                }
                left -= found;
            }
        }
        _ => {
            let Some(points) = intervals.points(POINTS_MAX) else {
                return Ok(None);
            };
            let mut left = ROWS_MAX;
            for point in points {
                let found = index.get(image_of(point), left as usize, &mut rows)?;
                if found > left {
                    return Ok(None);
                }
                left -= found;
            }
        }
    }
    Ok(Some(rows))
}

impl<H: Host> Search<'_, H> {
    /// Builds the key index of a column, of which alone pages are read.
    ///
    /// # Errors
    /// Unsupported, if the file has too many rows; what reading and decoding give.
    pub async fn build_key_index(mut self, column: &Arc<Column>) -> Result<Vec<u8>> {
        self.keeps_pages = false;
        if column.is_repeated {
            return Err(LookupError::invalid(format!(
                "column {} has many values a row and cannot be indexed",
                column.path
            )));
        }
        let rows = *self.file.group_starts.last().expect("there is an end");
        let mut builder = Builder::new(kind_of(column), rows)?;
        // Rows that hold no value take nothing, but nobody knows beforehand.
        let _charge = self
            .charge(rows.saturating_mul(BUILD_BYTES_PER_ROW))
            .await?;
        for group in 0..self.file.groups() {
            let start = self.file.group_starts[group] as u32;
            let pages = self.file.pages(&self, group, column).await?;
            let mut next = 0;
            while next < pages.pages.len() {
                let mut wants = Vec::new();
                let mut bytes = 0;
                while next < pages.pages.len() && (wants.is_empty() || bytes < STEP_BYTES) {
                    let range = &pages.pages[next].range;
                    bytes += range.end - range.start;
                    wants.push(Want {
                        column,
                        pages: &pages,
                        page: next,
                    });
                    next += 1;
                }
                let loaded = self.load_first(group, &wants).await?;
                next -= wants.len() - loaded.pages.len();
                for (want, page) in wants.iter().zip(loaded.pages.iter().cloned()) {
                    let span = &pages.pages[want.page];
                    let first = start + span.first_row;
                    let of = Arc::clone(column);
                    let _images = self.charge(u64::from(span.rows) * IMAGE_BYTES).await?;
                    let estimate = Duration::from_nanos(u64::from(span.rows) * 10);
                    builder = self
                        .host
                        .run(estimate, move || add(builder, &of, first, &page))
                        .await
                        .map_err(|error| self.file.blame(group, column, error))?;
                    self.host.pause().await;
                }
            }
        }
        let estimate = Duration::from_nanos(builder.len() as u64 * FINISH_NS_PER_ROW);
        Ok(self.host.run(estimate, move || builder.finish()).await)
    }
}

fn add(
    mut builder: Builder,
    column: &Column,
    first_row: u32,
    page: &DecodedPage,
) -> Result<Builder> {
    let image = |value: &[u8]| {
        let key = column.decode.key(value).ok_or_else(|| {
            LookupError::corrupt("a value has a wrong length, or is no number of this precision")
        })?;
        Ok(image_of(key))
    };
    let mut images = Vec::with_capacity(page.rows as usize);
    if page.presence.is_none() {
        match (&page.values, column.decode) {
            // The usual case, as a loop that the compiler makes wide.
            (Values::Fixed { width: 8, bytes }, Decode::Int64)
                if bytes.len() >= 8 * page.rows as usize =>
            {
                let (words, _) = bytes.as_chunks();
                let keys = words.iter().map(|word| i64::from_le_bytes(*word));
                images.extend(keys.take(page.rows as usize).map(narrow_image));
            }
            _ => {
                for row in 0..page.rows {
                    let value = page.value(row)?.ok_or_else(|| {
                        LookupError::corrupt("a page has fewer values than it says")
                    })?;
                    images.push(image(&value)?);
                }
            }
        }
        builder.push_run(first_row, &images)?;
    } else {
        let mut rows = Vec::with_capacity(page.rows as usize);
        for row in 0..page.rows {
            if let Some(value) = page.value(row)? {
                images.push(image(&value)?);
                rows.push(first_row + row);
            }
        }
        builder.push_rows(&rows, &images)?;
    }
    Ok(builder)
}

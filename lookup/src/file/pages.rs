//! Where the pages of a column chunk are, and what is known of their values.
//!
//! The offset index says it where a writer left one; else the headers of the pages are read one after
//! the other, once a version. Statistics come from the column index or from these headers.

use std::cell::{Cell, OnceCell};
use std::ops::Range;

use bytes::Bytes;
use parquet::basic::{Encoding, Type as Physical};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::page_index::index_reader::{decode_column_index, decode_offset_index};

use super::File;
use super::columns::chunk_range;
use super::footer::read_one;
use crate::column::Column;
use crate::error::{LookupError, Result};
use crate::host::Host;
use crate::page::header::{HEADER_BYTES_MAX, Kind, PageHeader, Parsed, parse};

/// Bytes of a column that are read at once where reads take their time, in pieces side by side: a dozen pages and
/// more.
const WINDOW_BYTES: u64 = 2 << 20;
const WINDOW_PIECE_BYTES: u64 = 512 << 10;

/// Bytes that are read for a header at first: more than most take.
const HEADER_GUESS_BYTES: u64 = 4 << 10;

/// Most pages of a chunk. Writers make them of 8 KiB at least, and chunks of some GiB at most.
const PAGES_MAX: usize = 1 << 20;

/// Largest page index of a chunk: 64 bytes a page, and statistics of some hundred.
const INDEX_BYTES_MAX: u64 = 256 << 20;

/// Most rows of a page that is read value by value: pages of NULLs only may say any number.
const PAGE_ROWS_MAX: u32 = 1 << 26;

/// Pages whose headers are read until others have their turn.
const HEADERS_PER_TURN: usize = 16;

/// A data page.
#[derive(Clone, Debug)]
pub struct PageSpan {
    /// Where it is in the file, its header first.
    pub range: Range<u64>,
    /// First row in its row group.
    pub first_row: u32,
    /// Rows.
    pub rows: u32,
    /// Whether its values are codes of the dictionary; `None`: not known before it was read.
    pub has_codes: Cell<Option<bool>>,
}

/// What is known of a page's values.
#[derive(Clone, Debug, Default)]
pub struct PageBounds {
    /// No value is less.
    pub min: Option<Box<[u8]>>,
    /// No value is greater.
    pub max: Option<Box<[u8]>>,
    /// NULLs.
    pub nulls: Option<u64>,
    /// Whether it has NULLs only.
    pub is_null: bool,
}

/// The pages of a column chunk.
#[derive(Debug)]
pub struct ChunkPages {
    /// Where the dictionary page is, if there is one.
    pub dictionary: Option<Range<u64>>,
    /// Data pages in order. Of a column that is repeated and has no offset index, their rows are not known.
    pub pages: Vec<PageSpan>,
    /// Whether rows of pages are known.
    pub has_rows: bool,
    bounds: OnceCell<Option<Vec<PageBounds>>>,
}

impl ChunkPages {
    /// What is known of the values of its pages, if that was read.
    pub fn bounds(&self) -> Option<&[PageBounds]> {
        self.bounds.get()?.as_deref()
    }

    /// The pages that hold one of `rows`, whose row numbers rise.
    pub fn page_of(&self, row: u32) -> usize {
        self.pages.partition_point(|page| page.first_row <= row) - 1
    }

    /// Bytes of memory that it takes, about.
    pub fn memory_bytes(&self) -> usize {
        let bounds = self.bounds().map_or(0, |bounds| bounds.len() * 96);
        self.pages.len() * size_of::<PageSpan>() + bounds
    }
}

/// Whether deprecated statistics of a column count: their order is that of signed numbers.
pub fn deprecated_counts(column: &Column) -> bool {
    use crate::column::Decode;
    matches!(
        column.decode,
        Decode::Int32 | Decode::Int64 | Decode::Single | Decode::Double | Decode::Boolean
    )
}

impl File {
    /// Where the pages of a chunk are.
    ///
    /// # Errors
    /// Corrupt or unsupported, with the chunk's place in front; what reading gives.
    pub async fn pages(
        &self,
        host: &impl Host,
        group: usize,
        column: &Column,
    ) -> Result<std::rc::Rc<ChunkPages>> {
        if let Some(pages) = self.known_pages(group, column.leaf) {
            return Ok(pages);
        }
        let read = self.read_pages(host, group, column).await;
        let pages = read.map_err(|error| self.blame(group, column, error))?;
        Ok(self.learn_pages(group, column.leaf, pages))
    }

    /// Reads what is known of the values of a chunk's pages, where the file says it.
    ///
    /// # Errors
    /// What reading gives. An index that is corrupt is as good as none.
    pub async fn read_bounds(
        &self,
        host: &impl Host,
        group: usize,
        column: &Column,
        pages: &ChunkPages,
    ) -> Result<()> {
        if pages.bounds.get().is_some() {
            return Ok(());
        }
        let chunk = self.chunk(group, column);
        let bounds =
            match self.index_range(chunk.column_index_offset(), chunk.column_index_length()) {
                Some(range) => {
                    let bytes = read_one(host, range).await?;
                    decode_column_index(&bytes, column.physical())
                        .ok()
                        .filter(|index| index.num_pages() == pages.pages.len() as u64)
                        .map(|index| bounds_of(&index, pages.pages.len()))
                }
                None => None,
            };
        // Another look-up may have been faster.
        let _ = pages.bounds.set(bounds);
        Ok(())
    }

    fn index_range(&self, offset: Option<i64>, length: Option<i32>) -> Option<Range<u64>> {
        let start = u64::try_from(offset?).ok()?;
        let bytes = u64::try_from(length?).ok()?;
        let end = start.checked_add(bytes)?;
        (bytes > 0 && bytes <= INDEX_BYTES_MAX && end <= self.length).then_some(start..end)
    }

    async fn read_pages(
        &self,
        host: &impl Host,
        group: usize,
        column: &Column,
    ) -> Result<ChunkPages> {
        let chunk = self.chunk(group, column);
        if chunk.crypto_metadata().is_some() {
            return Err(LookupError::unsupported("it is encrypted"));
        }
        let range = chunk_range(chunk).expect("chunks were checked with the footer");
        let rows = self.group_rows(group);
        if let Some(index) =
            self.index_range(chunk.offset_index_offset(), chunk.offset_index_length())
        {
            let bytes = read_one(host, index).await?;
            if let Some(pages) = of_offset_index(&bytes, &range, rows) {
                mark_encodings(&pages, chunk);
                return Ok(pages);
            }
            // A corrupt index is as good as none: the headers say the same.
        }
        self.scan_headers(host, column, chunk, range, rows).await
    }

    /// Reads the headers of all pages, one after the other.
    async fn scan_headers(
        &self,
        host: &impl Host,
        column: &Column,
        chunk: &ColumnChunkMetaData,
        range: Range<u64>,
        rows: u32,
    ) -> Result<ChunkPages> {
        let values = u64::try_from(chunk.num_values())
            .map_err(|_| LookupError::corrupt("it has a negative number of values"))?;
        let use_deprecated = deprecated_counts(column);
        let mut dictionary = None;
        let (mut pages, mut bounds) = (Vec::new(), Vec::new());
        let mut at = range.start;
        let mut window = Window::default();
        let (mut seen, mut row) = (0u64, 0u64);
        let mut headers = 0;
        while seen < values {
            // Some writers of old do not count the last header; what is behind must be one.
            let limit = self.length.min(range.end + 100);
            if at >= limit {
                return Err(LookupError::corrupt(format!(
                    "its pages have {seen} values, not {values}"
                )));
            }
            let header = match window.header(at, use_deprecated)? {
                Some(header) => header,
                None => read_header(host, at..range.end, limit, use_deprecated).await?,
            };
            let end = at + header.header_bytes as u64 + u64::from(header.compressed_bytes);
            if end > limit {
                return Err(LookupError::corrupt(format!(
                    "the page at {at} lies behind the end of the column"
                )));
            }
            match header.kind {
                Kind::Dictionary if dictionary.is_none() && pages.is_empty() => {
                    dictionary = Some(at..end);
                }
                Kind::Dictionary => {
                    return Err(LookupError::corrupt("it has two dictionaries"));
                }
                Kind::Data { .. } | Kind::DataV2 { .. } => {
                    if pages.len() == PAGES_MAX {
                        return Err(LookupError::unsupported(format!(
                            "it has more than {PAGES_MAX} pages"
                        )));
                    }
                    let own = match header.kind {
                        Kind::DataV2 { rows, .. } => rows,
                        _ => header.values,
                    };
                    pages.push(PageSpan {
                        range: at..end,
                        first_row: row as u32,
                        rows: own,
                        has_codes: Cell::new(Some(is_coded(&header, column))),
                    });
                    bounds.push(PageBounds {
                        is_null: header.statistics.nulls == Some(u64::from(header.values)),
                        min: header.statistics.min,
                        max: header.statistics.max,
                        nulls: header.statistics.nulls,
                    });
                    seen += u64::from(header.values);
                    row += u64::from(own);
                }
                Kind::Other => {}
            }
            at = end;
            if seen < values && !window.reaches(at) && host.is_far() {
                window.fill(host, at..range.end).await?;
            }
            headers += 1;
            if headers > PAGES_MAX {
                return Err(LookupError::unsupported(format!(
                    "it has more than {PAGES_MAX} pages"
                )));
            }
            if headers % HEADERS_PER_TURN == 0 {
                host.pause().await;
            }
        }
        let has_rows = !column.is_repeated;
        if has_rows && row != u64::from(rows) {
            return Err(LookupError::corrupt(format!(
                "its pages have {row} rows, its row group {rows}"
            )));
        }
        Ok(ChunkPages {
            dictionary,
            pages,
            has_rows,
            bounds: OnceCell::from(Some(bounds)),
        })
    }
}

/// A stretch of a column that was read at once, where each header by itself would wait for the one before.
#[derive(Default)]
struct Window {
    start: u64,
    bytes: Bytes,
    /// Before it, headers begin whose ends are here, too, most of them.
    usable_end: u64,
}

impl Window {
    /// Whether the header at `at` begins in it.
    fn reaches(&self, at: u64) -> bool {
        (self.start..self.usable_end).contains(&at)
    }

    /// Reads the beginning of `range`.
    async fn fill(&mut self, host: &impl Host, range: Range<u64>) -> Result<()> {
        let end = range.end.min(range.start + WINDOW_BYTES);
        let starts = (range.start..end).step_by(WINDOW_PIECE_BYTES as usize);
        let pieces: Vec<Range<u64>> = starts
            .map(|start| start..end.min(start + WINDOW_PIECE_BYTES))
            .collect();
        if pieces.is_empty() {
            return Ok(());
        }
        self.start = range.start;
        self.usable_end = match end == range.end {
            true => end,
            false => end - HEADER_GUESS_BYTES,
        };
        self.bytes = host.read(&pieces).await?.concat().into();
        Ok(())
    }

    /// The header at `at`, if all of it is here.
    fn header(&self, at: u64, use_deprecated: bool) -> Result<Option<PageHeader>> {
        if !self.reaches(at) {
            return Ok(None);
        }
        let rest = self.bytes.slice((at - self.start) as usize..);
        Ok(match parse(&rest, use_deprecated)? {
            Parsed::Complete(header) => Some(*header),
            Parsed::Incomplete => None,
        })
    }
}

/// The header at the beginning of `range`, the rest of the column; some end behind it, before `limit`.
async fn read_header(
    host: &impl Host,
    range: Range<u64>,
    limit: u64,
    use_deprecated: bool,
) -> Result<PageHeader> {
    let longest = (limit - range.start).min(HEADER_BYTES_MAX as u64);
    let within = range.end.max(range.start + 1) - range.start;
    let mut length = longest.min(HEADER_GUESS_BYTES).min(within);
    loop {
        let bytes = read_one(host, range.start..range.start + length).await?;
        match parse(&bytes, use_deprecated)? {
            Parsed::Complete(header) => return Ok(*header),
            Parsed::Incomplete if length < longest => length = (length * 16).min(longest),
            Parsed::Incomplete => {
                return Err(LookupError::corrupt(format!(
                    "the header of the page at {} is cut",
                    range.start
                )));
            }
        }
    }
}

fn is_coded(header: &PageHeader, column: &Column) -> bool {
    matches!(
        header.encoding,
        Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY
    ) && column.physical() != Physical::BOOLEAN
}

/// `None` if the index does not fit the chunk.
fn of_offset_index(bytes: &Bytes, chunk: &Range<u64>, rows: u32) -> Option<ChunkPages> {
    let index = decode_offset_index(bytes).ok()?;
    let locations = index.page_locations();
    if locations.len() > PAGES_MAX || (locations.is_empty() && rows > 0) {
        return None;
    }
    let mut pages = Vec::with_capacity(locations.len());
    let mut at = chunk.start;
    for (place, location) in locations.iter().enumerate() {
        let start = u64::try_from(location.offset).ok()?;
        let end = start + u64::try_from(location.compressed_page_size).ok()?;
        let first_row = u32::try_from(location.first_row_index).ok()?;
        let next_row = match locations.get(place + 1) {
            Some(next) => u32::try_from(next.first_row_index).ok()?,
            None => rows,
        };
        let fits = start >= at && end <= chunk.end && end > start && first_row <= next_row;
        if !fits || next_row > rows || (place == 0 && first_row != 0) {
            return None;
        }
        at = end;
        pages.push(PageSpan {
            range: start..end,
            first_row,
            rows: next_row - first_row,
            has_codes: Cell::new(None),
        });
    }
    let first = pages.first().map_or(chunk.end, |page| page.range.start);
    Some(ChunkPages {
        dictionary: (first > chunk.start).then_some(chunk.start..first),
        pages,
        has_rows: true,
        bounds: OnceCell::new(),
    })
}

/// Notes which pages have codes, where the chunk's metadata decides it.
fn mark_encodings(pages: &ChunkPages, chunk: &ColumnChunkMetaData) {
    let known = if pages.dictionary.is_none() {
        Some(false)
    } else {
        let only_codes = |mask: &parquet::basic::EncodingMask| {
            mask.is_only(Encoding::RLE_DICTIONARY) || mask.is_only(Encoding::PLAIN_DICTIONARY)
        };
        chunk
            .page_encoding_stats_mask()
            .and_then(|mask| only_codes(mask).then_some(true))
    };
    if known.is_some() {
        for page in &pages.pages {
            page.has_codes.set(known);
        }
    }
}

/// A value's bytes, if there is one.
type Value = Option<Box<[u8]>>;

fn bounds_of(index: &ColumnIndexMetaData, pages: usize) -> Vec<PageBounds> {
    macro_rules! primitive {
        ($index:expr, $page:expr) => {
            (
                $index
                    .min_value($page)
                    .map(|value| value.to_le_bytes().into()),
                $index
                    .max_value($page)
                    .map(|value| value.to_le_bytes().into()),
            )
        };
    }
    (0..pages)
        .map(|page| {
            let (min, max): (Value, Value) = match index {
                ColumnIndexMetaData::BOOLEAN(index) => (
                    index.min_value(page).map(|value| [u8::from(*value)].into()),
                    index.max_value(page).map(|value| [u8::from(*value)].into()),
                ),
                ColumnIndexMetaData::INT32(index) => primitive!(index, page),
                ColumnIndexMetaData::INT64(index) => primitive!(index, page),
                ColumnIndexMetaData::FLOAT(index) => primitive!(index, page),
                ColumnIndexMetaData::DOUBLE(index) => primitive!(index, page),
                ColumnIndexMetaData::INT96(_) => (None, None),
                ColumnIndexMetaData::BYTE_ARRAY(index)
                | ColumnIndexMetaData::FIXED_LEN_BYTE_ARRAY(index) => (
                    index.min_value(page).map(Into::into),
                    index.max_value(page).map(Into::into),
                ),
            };
            PageBounds {
                min,
                max,
                nulls: index
                    .null_count(page)
                    .and_then(|nulls| u64::try_from(nulls).ok()),
                is_null: index.is_null_page(page),
            }
        })
        .collect()
}

/// Refuses pages whose values would take too much memory one by one.
///
/// # Errors
/// Unsupported.
pub fn check_rows(page: &PageSpan) -> Result<()> {
    if page.rows > PAGE_ROWS_MAX {
        return Err(LookupError::unsupported(format!(
            "a page of {} rows; pages of up to {PAGE_ROWS_MAX} are read",
            page.rows
        )));
    }
    Ok(())
}

//! Where the pages of a column chunk are, and what is known of their values.
//!
//! The offset index says it where a writer left one; else the headers of the pages are read one after
//! the other, once a version. Statistics come from the column index or from these headers.

use std::cell::{Cell, OnceCell, RefCell};
use std::ops::Range;

use bytes::Bytes;
use parquet::basic::{Encoding, Type as Physical};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::page_index::index_reader::decode_column_index;

use super::File;
use super::columns::chunk_range;
use crate::column::Column;
use crate::error::{ErrorKind, LookupError, Result};
use crate::host::{Host, charge, read_one};
use crate::memory::Charge;
use crate::page::header::{HEADER_BYTES_MAX, Kind, PageHeader, Parsed, parse};
use crate::thrift::{LIST, Reader, STRUCT, Step, Stop};

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

/// Bytes of memory that an element of a list in a column index takes while it is decoded and made bounds of, its own
/// bytes aside: a slice of 16 bytes, and a box of as many.
const INDEX_ELEMENT_BYTES: u64 = 48;

/// Bytes of memory that an allocation takes beside what was asked for.
const ALLOCATION_BYTES: usize = 16;

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
    /// What stands for their memory where the file does not count it.
    held: RefCell<Vec<Charge>>,
}

impl PageBounds {
    /// Bytes of memory of its values, itself aside.
    fn values_bytes(&self) -> usize {
        let values = [&self.min, &self.max].into_iter().flatten();
        values.map(|value| value.len() + ALLOCATION_BYTES).sum()
    }
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
        self.pages.capacity() * size_of::<PageSpan>() + self.bounds_bytes()
    }

    /// Of these, bytes of what is known of the values.
    pub(super) fn bounds_bytes(&self) -> usize {
        let bytes = |bounds: &Vec<PageBounds>| {
            let values = bounds.iter().map(PageBounds::values_bytes).sum::<usize>();
            bounds.capacity() * size_of::<PageBounds>() + values
        };
        self.bounds.get().and_then(Option::as_ref).map_or(0, bytes)
    }

    /// Keeps a charge as long as this is there.
    pub(super) fn hold(&self, charge: Charge) {
        self.held.borrow_mut().push(charge);
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
        let (pages, charge) = read.map_err(|error| self.blame(group, column, error))?;
        Ok(self.learn_pages(group, column.leaf, pages, charge))
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
        let index = self.index_range(chunk.column_index_offset(), chunk.column_index_length());
        let (bounds, charge) = match index {
            Some(range) => match read_index(host, range, column, pages.pages.len()).await {
                // One that takes too much memory is as good as none, as one that is corrupt.
                Err(error) if error.kind == ErrorKind::TooMuch => (None, host.memory().empty()),
                read => read.map_err(|error| self.blame(group, column, error))?,
            },
            None => (None, host.memory().empty()),
        };
        // Another look-up may have been faster.
        if pages.bounds.set(bounds).is_ok() {
            self.count_bounds(group, column.leaf, pages, charge);
        }
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
    ) -> Result<(ChunkPages, Charge)> {
        let chunk = self.chunk(group, column);
        if chunk.crypto_metadata().is_some() {
            return Err(LookupError::unsupported("it is encrypted"));
        }
        let range = chunk_range(chunk).expect("chunks were checked with the footer");
        let rows = self.group_rows(group);
        if let Some(index) =
            self.index_range(chunk.offset_index_offset(), chunk.offset_index_length())
        {
            let mut memory = host.memory().empty();
            let found = match read_one(host, index).await {
                Ok((bytes, _read)) => of_offset_index(&bytes, &range, rows, &mut memory),
                Err(error) => Err(error),
            };
            match found {
                Ok(Some(pages)) => {
                    mark_encodings(&pages, chunk);
                    return Ok((pages, memory));
                }
                Err(error) if error.kind != ErrorKind::TooMuch => return Err(error),
                _ => {}
            }
            // One that is corrupt or takes too much memory is as good as none: the headers say the same.
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
    ) -> Result<(ChunkPages, Charge)> {
        let mut memory = host.memory().empty();
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
                    let span = PageSpan {
                        range: at..end,
                        first_row: row as u32,
                        rows: own,
                        has_codes: Cell::new(Some(is_coded(&header, column))),
                    };
                    let known = PageBounds {
                        is_null: header.statistics.nulls == Some(u64::from(header.values)),
                        min: header.statistics.min,
                        max: header.statistics.max,
                        nulls: header.statistics.nulls,
                    };
                    // Statistics have up to a MiB in each header.
                    memory.add(known.values_bytes() as u64)?;
                    memory.push(&mut pages, span)?;
                    memory.push(&mut bounds, known)?;
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
        let pages = ChunkPages {
            dictionary,
            pages,
            has_rows,
            bounds: OnceCell::from(Some(bounds)),
            held: RefCell::default(),
        };
        Ok((pages, memory))
    }
}

/// Reads a column index of so many pages; `None` if it is corrupt. With it comes the charge of what it takes.
async fn read_index(
    host: &impl Host,
    range: Range<u64>,
    column: &Column,
    pages: usize,
) -> Result<(Option<Vec<PageBounds>>, Charge)> {
    let (bytes, _read) = read_one(host, range).await?;
    let Ok(elements) = elements_of(&bytes) else {
        return Ok((None, host.memory().empty()));
    };
    let own = pages * size_of::<PageBounds>();
    let bytes_max = bytes.len() as u64 + elements * INDEX_ELEMENT_BYTES + own as u64;
    let mut charge = charge(host, bytes_max).await?;
    let bounds = decode_column_index(&bytes, column.physical())
        .ok()
        .filter(|index| index.num_pages() == pages as u64)
        .map(|index| bounds_of(&index, pages));
    let values = bounds.iter().flatten().map(PageBounds::values_bytes);
    let held = values.sum::<usize>() + bounds.as_ref().map_or(0, |_| own);
    charge.reduce(bytes_max.saturating_sub(held as u64));
    Ok((bounds, charge))
}

/// Elements of all lists of a page index, which are there.
fn elements_of(bytes: &[u8]) -> Step<u64> {
    let mut reader = Reader::new(bytes, bytes.len());
    let (mut elements, mut last) = (0, 0);
    while let Some((_, kind)) = reader.field(&mut last)? {
        if kind == LIST {
            let (count, element) = reader.list()?;
            reader.skip_elements(count, element)?;
            // Each took a byte at least.
            elements += count;
        } else {
            reader.skip(kind)?;
        }
    }
    Ok(elements)
}

/// A stretch of a column that was read at once, where each header by itself would wait for the one before.
#[derive(Default)]
struct Window {
    start: u64,
    bytes: Bytes,
    charge: Option<Charge>,
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
        // The pieces, and what they are joined to.
        self.bytes = Bytes::new();
        self.charge = None;
        self.charge = Some(charge(host, 2 * (end - range.start)).await?);
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
        let (bytes, _read) = read_one(host, range.start..range.start + length).await?;
        // Statistics are copied.
        let _parsed = charge(host, length).await?;
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

/// A page as an offset index has it.
struct Location {
    offset: u64,
    compressed_bytes: u64,
    first_row: u32,
}

fn location(reader: &mut Reader<'_>) -> Step<Location> {
    let (mut offset, mut compressed_bytes, mut first_row) = (None, None, None);
    let mut last = 0;
    while let Some((number, kind)) = reader.field(&mut last)? {
        match (number, kind) {
            (1, 4..=6) => offset = u64::try_from(reader.integer()?).ok(),
            (2, 4..=6) => compressed_bytes = u64::try_from(reader.integer()?).ok(),
            (3, 4..=6) => first_row = u32::try_from(reader.integer()?).ok(),
            (_, kind) => reader.skip(kind)?,
        }
    }
    match (offset, compressed_bytes, first_row) {
        (Some(offset), Some(compressed_bytes), Some(first_row)) => Ok(Location {
            offset,
            compressed_bytes,
            first_row,
        }),
        _ => Err(Stop::Wrong("a page is nowhere")),
    }
}

/// `None` if the index is corrupt or does not fit the chunk. The pages are charged to `memory`.
fn of_offset_index(
    bytes: &Bytes,
    chunk: &Range<u64>,
    rows: u32,
    memory: &mut Charge,
) -> Result<Option<ChunkPages>> {
    let mut reader = Reader::new(bytes, bytes.len());
    let mut last = 0;
    let count = loop {
        match reader.field(&mut last) {
            Ok(Some((1, LIST))) => match reader.list() {
                Ok((count, STRUCT)) => break count,
                _ => return Ok(None),
            },
            Ok(Some((_, kind))) if reader.skip(kind).is_ok() => {}
            _ => return Ok(None),
        }
    };
    if count > PAGES_MAX as u64 || (count == 0 && rows > 0) {
        return Ok(None);
    }
    let mut pages: Vec<PageSpan> = Vec::new();
    let mut at = chunk.start;
    for place in 0..count {
        let Ok(own) = location(&mut reader) else {
            return Ok(None);
        };
        let start = own.offset;
        let Some(end) = start.checked_add(own.compressed_bytes) else {
            return Ok(None);
        };
        let fits = start >= at && end <= chunk.end && end > start && own.first_row <= rows;
        if !fits || (place == 0 && own.first_row != 0) {
            return Ok(None);
        }
        if let Some(before) = pages.last_mut() {
            match own.first_row.checked_sub(before.first_row) {
                Some(rows) => before.rows = rows,
                None => return Ok(None),
            }
        }
        at = end;
        let span = PageSpan {
            range: start..end,
            first_row: own.first_row,
            // Until the next page says where it ends.
            rows: rows - own.first_row,
            has_codes: Cell::new(None),
        };
        memory.push(&mut pages, span)?;
    }
    let first = pages.first().map_or(chunk.end, |page| page.range.start);
    Ok(Some(ChunkPages {
        dictionary: (first > chunk.start).then_some(chunk.start..first),
        pages,
        has_rows: true,
        bounds: OnceCell::new(),
        held: RefCell::default(),
    }))
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

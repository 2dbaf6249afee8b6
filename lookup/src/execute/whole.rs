//! Columns that are nested or repeated, by `parquet`'s own readers, over pages that are fed to them.
//!
//! Only pages that hold wanted rows are read where the offset index tells which; the others are skipped
//! unread. Where it does not, pages are read in pieces, up to the last wanted row, and only those that hold wanted
//! rows are kept. Decompression is this crate's, so that it is bounded; pages, and the arrays that are made of them,
//! are charged before they are there.

use std::sync::Arc;

use bytes::Bytes;

use arrow_array::{Array, ArrayRef, RecordBatchReader, StructArray};
use arrow_schema::SchemaRef;
use parquet::arrow::ProjectionMask;

use parquet::arrow::arrow_reader::{
    ParquetRecordBatchReader, RowGroups, RowSelection, RowSelector,
};
use parquet::arrow::parquet_to_arrow_field_levels;
use parquet::column::page::{Page, PageIterator, PageMetadata, PageReader};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};

use super::Search;
use super::counts::nanoseconds;
use super::load::{estimate_of, take_apart};
use crate::column::Column;
use crate::error::{ErrorKind, LookupError, Result};
use crate::file::columns::Root;
use crate::file::pages::{ChunkPages, check_rows};
use crate::host::Host;
use crate::memory::Charge;
use crate::page::decode::{CheckedPage, checked_page, dictionary_page, inflate, metadata_of};
use crate::page::values::Dictionary;

/// Most values of a column that are decoded at a time: some bytes may say two billion.
const VALUES_MAX: u64 = 1 << 26;

/// Compressed bytes of pages of a column that are read at a time.
const PIECE_BYTES: u64 = 8 << 20;

/// Compressed bytes of pages of a column whose rows are made arrays of at a time.
const NEAR_BYTES: u64 = 16 << 20;

/// Copies of values that are there while `parquet` makes an array of them: its buffer, what vectors have in reserve
/// while they grow, and the array of the list around it.
const COPIES_BY_PARQUET: u64 = 4;

/// A page of a chunk, as its reader sees it.
#[derive(Clone)]
pub(super) enum Item {
    /// It is there.
    Here {
        page: Box<Page>,
        /// Its rows, where they are known.
        rows: Option<u32>,
    },
    /// It was not read, since none of its rows is wanted.
    Skipped { rows: u32 },
}

/// The pages of one leaf.
pub(super) struct Chunk {
    /// Its place in the metadata that it was decoded with.
    pub leaf: usize,
    pub items: Vec<Item>,
}

struct Pages {
    items: std::vec::IntoIter<Item>,
}

impl Iterator for Pages {
    type Item = parquet::errors::Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> parquet::errors::Result<Option<Page>> {
        match self.items.next() {
            Some(Item::Here { page, .. }) => Ok(Some(*page)),
            Some(Item::Skipped { .. }) => Err(ParquetError::General(
                "rows of pages are not as the offset index says".to_owned(),
            )),
            None => Ok(None),
        }
    }

    fn peek_next_page(&mut self) -> parquet::errors::Result<Option<PageMetadata>> {
        Ok(self.items.as_slice().first().map(|item| match item {
            Item::Here { page, rows } => PageMetadata {
                num_rows: rows
                    .map(|rows| rows as usize)
                    .filter(|_| page.is_data_page()),
                ..metadata_of(page)
            },
            Item::Skipped { rows } => PageMetadata {
                num_rows: Some(*rows as usize),
                num_levels: None,
                is_dict: false,
            },
        }))
    }

    fn skip_next_page(&mut self) -> parquet::errors::Result<()> {
        self.items.next();
        Ok(())
    }
}

struct OneChunk(Option<Pages>);

impl Iterator for OneChunk {
    type Item = parquet::errors::Result<Box<dyn PageReader>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(|pages| Ok(Box::new(pages) as _))
    }
}

impl PageIterator for OneChunk {}

struct InMemory<'a> {
    metadata: &'a ParquetMetaData,
    chunks: Vec<Chunk>,
    rows: usize,
}

impl RowGroups for InMemory<'_> {
    fn num_rows(&self) -> usize {
        self.rows
    }

    fn column_chunks(&self, leaf: usize) -> parquet::errors::Result<Box<dyn PageIterator>> {
        let chunk = self
            .chunks
            .iter()
            .find(|chunk| chunk.leaf == leaf)
            .ok_or_else(|| ParquetError::General(format!("leaf {leaf} was not read")))?;
        Ok(Box::new(OneChunk(Some(Pages {
            items: chunk.items.clone().into_iter(),
        }))))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(self.metadata.row_groups().iter())
    }

    fn metadata(&self) -> &ParquetMetaData {
        self.metadata
    }
}

/// The root column of `leaves`, from their pages, which hold `rows` rows: all of them, or those that
/// `selection` names.
pub(super) fn read_root(
    metadata: &ParquetMetaData,
    schema: &SchemaRef,
    leaves: &[usize],
    chunks: Vec<Chunk>,
    rows: usize,
    selection: Option<RowSelection>,
) -> Result<ArrayRef> {
    let description = metadata.file_metadata().schema_descr();
    let wrong = |error: ParquetError| LookupError::corrupt(error.to_string());
    let mask = ProjectionMask::leaves(description, leaves.iter().copied());
    let levels =
        parquet_to_arrow_field_levels(description, mask, Some(schema.fields())).map_err(wrong)?;
    let wanted = selection.as_ref().map_or(rows, RowSelection::row_count);
    let groups = InMemory {
        metadata,
        chunks,
        rows,
    };
    let reader = ParquetRecordBatchReader::try_new_with_row_groups(
        &levels,
        &groups,
        wanted.max(1),
        selection,
    )
    .map_err(wrong)?;
    let schema = reader.schema();
    let batches = reader
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|error| LookupError::corrupt(error.to_string()))?;
    let batch = arrow_select::concat::concat_batches(&schema, &batches)
        .map_err(|error| LookupError::corrupt(error.to_string()))?;
    if batch.num_rows() != wanted || batch.num_columns() != 1 {
        return Err(LookupError::corrupt(format!(
            "there are {} rows where {wanted} should be",
            batch.num_rows()
        )));
    }
    Ok(StructArray::from(batch).column(0).clone())
}

/// The wanted pages of a leaf, and what making arrays of them takes.
struct Gathered {
    items: Vec<Item>,
    array_bytes: u64,
    values: u64,
    /// Of all of the pages.
    charge: Charge,
}

impl Gathered {
    fn push(&mut self, column: &Column, own: CheckedPage, rows: Option<u32>) -> Result<()> {
        let values = u64::from(own.page.num_values());
        // All of them become levels and values at once.
        self.values += values;
        if self.values > VALUES_MAX {
            return Err(LookupError::new(
                ErrorKind::TooMuch,
                format!("pages with more than {VALUES_MAX} values are needed at once"),
            ));
        }
        self.array_bytes += own.expanded_bytes * COPIES_BY_PARQUET + values * value_bytes(column);
        self.items.push(Item::Here {
            page: Box::new(own.page),
            rows,
        });
        Ok(())
    }

    fn skip(&mut self, rows: u64) {
        if rows > 0 {
            let rows = rows as u32;
            self.items.push(Item::Skipped { rows });
        }
    }
}

/// Bytes that a value of a column takes while arrays are made, its own bytes aside: its levels, and an offset in
/// each list around it.
fn value_bytes(column: &Column) -> u64 {
    let of = |level: i16| u64::from(level.unsigned_abs());
    16 + 8 * of(column.descriptor.max_rep_level()) + 2 * of(column.max_definition)
}

/// Whether one of `rows`, which rise, is in `span`.
fn holds_any(rows: &[u32], span: std::ops::Range<u64>) -> bool {
    let first = rows.partition_point(|row| u64::from(*row) < span.start);
    rows.get(first)
        .is_some_and(|row| u64::from(*row) < span.end)
}

impl<H: Host> Search<'_, H> {
    /// A whole root column of `rows`, which rise, and the charge of what it takes.
    pub(super) async fn read_whole(
        &self,
        group: usize,
        root: usize,
        rows: &[u32],
    ) -> Result<(ArrayRef, Charge)> {
        let root = self
            .file
            .root(root)
            .map_err(|error| error.of_file(&self.file.name, ""))?;
        let leaves = root.columns();
        let (mut arrays, mut bytes) = (Vec::new(), 0);
        let mut charge = self.charge(0).await?;
        let mut rest = rows;
        while !rest.is_empty() {
            let mut near = self.near(group, leaves, rest).await?;
            let (array, own) = loop {
                match self.read_near(group, root, &rest[..near]).await {
                    // Fewer rows need fewer pages, and make shorter arrays.
                    Err(error) if error.kind == ErrorKind::TooMuch && near > 1 => near /= 2,
                    read => break read?,
                }
            };
            bytes += array.get_array_memory_size();
            if bytes > self.limits.answer_bytes {
                return Err(self.answer_too_long());
            }
            charge.absorb(own);
            arrays.push(array);
            rest = &rest[near..];
        }
        if let [array] = arrays.as_slice() {
            return Ok((Arc::clone(array), charge));
        }
        let mut whole = self.charge(bytes as u64).await?;
        let arrays: Vec<&dyn Array> = arrays.iter().map(AsRef::as_ref).collect();
        let array = arrow_select::concat::concat(&arrays)
            .map_err(|error| LookupError::corrupt(format!("{}: {error}", self.file.name)))?;
        whole.settle(array.get_array_memory_size() as u64)?;
        Ok((array, whole))
    }

    /// How many of `rows`, at least one, have no page between them that holds none of them, and few enough bytes of
    /// pages: readers look at all rows between the first and the last.
    async fn near(&self, group: usize, leaves: &[Arc<Column>], rows: &[u32]) -> Result<usize> {
        let mut near = rows.len();
        for column in leaves {
            let pages = self.file.pages(self, group, column).await?;
            if !pages.has_rows {
                continue;
            }
            let bytes_of = |page: usize| {
                let range = &pages.pages[page].range;
                range.end - range.start
            };
            let mut last = pages.page_of(rows[0]);
            let mut bytes = bytes_of(last);
            for (place, row) in rows[..near].iter().enumerate().skip(1) {
                if *row < pages.pages[last].first_row + pages.pages[last].rows {
                    continue;
                }
                let page = pages.page_of(*row);
                bytes += bytes_of(page);
                if page > last + 1 || bytes > NEAR_BYTES {
                    near = place;
                    break;
                }
                last = page;
            }
        }
        Ok(near)
    }

    async fn read_near(
        &self,
        group: usize,
        root: &Root,
        rows: &[u32],
    ) -> Result<(ArrayRef, Charge)> {
        let name = root.field().name().clone();
        let blame = |error: LookupError| {
            let place = format_args!(", column {name}, row group {group}");
            error.of_file(&self.file.name, place)
        };
        let mut chunks = Vec::with_capacity(root.columns().len());
        let mut charge = self.charge(0).await?;
        let mut array_bytes = 0;
        for column in root.columns() {
            let gathered = self.read_chunk(group, column, rows).await?;
            array_bytes += gathered.array_bytes;
            charge.absorb(gathered.charge);
            let (_, leaf) = self.file.decoded(column);
            let items = gathered.items;
            chunks.push(Chunk { leaf, items });
        }
        charge.add(array_bytes).map_err(blame)?;
        let leaves: Vec<usize> = chunks.iter().map(|chunk| chunk.leaf).collect();
        let selection = selection_of(rows, self.file.group_rows(group));
        let metadata = Arc::clone(&root.decoded.metadata);
        let schema = Arc::clone(&root.decoded.schema);
        let group_rows = self.file.group_rows(group) as usize;
        let bytes: usize = chunks
            .iter()
            .flat_map(|chunk| &chunk.items)
            .map(|item| match item {
                Item::Here { page, .. } => page.buffer().len(),
                Item::Skipped { .. } => 0,
            })
            .sum();
        let estimate = std::time::Duration::from_nanos(bytes as u64);
        let array = self
            .host
            .run(estimate, move || {
                read_root(
                    &metadata,
                    &schema,
                    &leaves,
                    chunks,
                    group_rows,
                    Some(selection),
                )
            })
            .await
            .map_err(blame)?;
        charge
            .settle(array.get_array_memory_size() as u64)
            .map_err(blame)?;
        Ok((array, charge))
    }

    /// The pages of a leaf that hold `rows`.
    async fn read_chunk(
        &self,
        group: usize,
        column: &Arc<Column>,
        rows: &[u32],
    ) -> Result<Gathered> {
        let blame = |error| self.file.blame(group, column, error);
        let pages = self.file.pages(self, group, column).await?;
        let mut gathered = Gathered {
            items: Vec::new(),
            array_bytes: 0,
            values: 0,
            charge: self.charge(0).await?,
        };
        let dictionary = match &pages.dictionary {
            Some(_) => match self.cached_dictionary(group, column).await? {
                Some(dictionary) => Some(dictionary),
                None => Some(self.load_dictionary(group, column, &pages).await?),
            },
            None => None,
        };
        if let Some((dictionary, _)) = &dictionary {
            // The page, and the reader's copy of its values.
            let bytes = 2 * dictionary.memory_bytes() as u64;
            gathered.charge.add(bytes).map_err(blame)?;
            gathered.items.push(Item::Here {
                page: Box::new(dictionary_page(dictionary)),
                rows: None,
            });
        }
        let dictionary = dictionary.map(|(dictionary, _)| dictionary);
        if pages.has_rows {
            self.gather_placed(group, column, &pages, rows, dictionary, &mut gathered)
                .await?;
        } else {
            self.gather_unplaced(group, column, &pages, rows, dictionary, &mut gathered)
                .await?;
        }
        Ok(gathered)
    }

    /// Pages whose rows are known.
    async fn gather_placed(
        &self,
        group: usize,
        column: &Arc<Column>,
        pages: &ChunkPages,
        rows: &[u32],
        dictionary: Option<Arc<Dictionary>>,
        gathered: &mut Gathered,
    ) -> Result<()> {
        let blame = |error| self.file.blame(group, column, error);
        let is_wanted = |page: &usize| {
            let span = &pages.pages[*page];
            let first = u64::from(span.first_row);
            holds_any(rows, first..first + u64::from(span.rows))
        };
        let wanted: Vec<usize> = (0..pages.pages.len()).filter(is_wanted).collect();
        let (mut rest, mut next) = (wanted.as_slice(), 0);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(piece_of(pages, rest));
            let (read, _charge) = self.read_piece(pages, now).await?;
            for (page, bytes) in now.iter().zip(read) {
                while next < *page {
                    gathered.skip(u64::from(pages.pages[next].rows));
                    next += 1;
                }
                next += 1;
                let span = &pages.pages[*page];
                check_rows(span).map_err(blame)?;
                let (own, charge) = self
                    .check(group, column, &bytes, dictionary.clone())
                    .await?;
                gathered.charge.absorb(charge);
                gathered.push(column, own, Some(span.rows)).map_err(blame)?;
            }
            rest = later;
        }
        for page in &pages.pages[next..] {
            gathered.skip(u64::from(page.rows));
        }
        Ok(())
    }

    /// Pages whose rows are found out by their levels: from the first that holds a wanted row to the last, since
    /// readers look at all rows between. A row may begin in one page and end in a later one; to the reader, what a
    /// page begins with behind pages that are skipped is a row of its own, so that is not counted among these.
    async fn gather_unplaced(
        &self,
        group: usize,
        column: &Arc<Column>,
        pages: &ChunkPages,
        rows: &[u32],
        dictionary: Option<Arc<Dictionary>>,
        gathered: &mut Gathered,
    ) -> Result<()> {
        let blame = |error| self.file.blame(group, column, error);
        let corrupt = |what: &str| blame(LookupError::corrupt(what));
        let group_rows = u64::from(self.file.group_rows(group));
        let last_wanted = u64::from(*rows.last().expect("rows are wanted"));
        let all: Vec<usize> = (0..pages.pages.len()).collect();
        let mut rest = all.as_slice();
        // Rows that began so far.
        let mut begun = 0u64;
        let mut has_kept = false;
        'pages: while !rest.is_empty() {
            let (now, later) = rest.split_at(piece_of(pages, rest));
            let (read, _charge) = self.read_piece(pages, now).await?;
            for (page, bytes) in now.iter().zip(read) {
                check_rows(&pages.pages[*page]).map_err(blame)?;
                let (own, charge) = self
                    .check(group, column, &bytes, dictionary.clone())
                    .await?;
                if own.continues && begun == 0 {
                    return Err(corrupt("its first page begins within a row"));
                }
                let first = begun - u64::from(own.continues);
                if first > last_wanted {
                    break 'pages;
                }
                let before = begun;
                begun += u64::from(own.rows_begun);
                if begun > group_rows {
                    return Err(corrupt("its pages have more rows than its row group"));
                }
                if !has_kept && !holds_any(rows, first..begun) {
                    continue;
                }
                if !has_kept {
                    gathered.skip(before - u64::from(own.continues));
                }
                has_kept = true;
                gathered.charge.absorb(charge);
                gathered.push(column, own, None).map_err(blame)?;
            }
            rest = later;
        }
        if begun <= last_wanted {
            return Err(corrupt("its pages have fewer rows than its row group"));
        }
        gathered.skip(group_rows - begun);
        Ok(())
    }

    async fn read_piece(
        &self,
        chunk: &ChunkPages,
        pages: &[usize],
    ) -> Result<(Vec<Bytes>, Charge)> {
        let ranges = pages.iter().map(|page| chunk.pages[*page].range.clone());
        self.read_pages(ranges.collect()).await
    }

    /// Decompresses and checks a page.
    async fn check(
        &self,
        group: usize,
        column: &Arc<Column>,
        bytes: &Bytes,
        dictionary: Option<Arc<Dictionary>>,
    ) -> Result<(CheckedPage, Charge)> {
        let blame = |error| self.file.blame(group, column, error);
        let raw = take_apart(bytes, column).map_err(blame)?;
        let codec = self.file.chunk(group, column).compression();
        let estimate = estimate_of(codec, &raw.header);
        let size = u64::from(raw.header.uncompressed_bytes);
        let began = self.host.now();
        let checked = self
            .with_memory(estimate, column, raw, move |column, raw, memory| {
                let mut scratch = memory.account().empty();
                let bytes = inflate(codec, &raw.header, &raw.body, &mut scratch)?;
                checked_page(column, &raw.header, &bytes, dictionary.as_ref(), memory)
            })
            .await
            .map_err(blame)?;
        let mut counts = self.counts.borrow_mut();
        counts.bytes_decoded += size;
        counts.decode_ns += nanoseconds(self.host.now().saturating_sub(began));
        counts.pages_decoded += 1;
        Ok(checked)
    }
}

/// How many of `pages` are read at a time: at least one.
fn piece_of(chunk: &ChunkPages, pages: &[usize]) -> usize {
    let mut bytes = 0;
    let fitting = pages.iter().take_while(|page| {
        let range = &chunk.pages[**page].range;
        bytes += range.end - range.start;
        bytes <= PIECE_BYTES
    });
    fitting.count().max(1)
}

fn selection_of(rows: &[u32], total: u32) -> RowSelection {
    let mut selectors = Vec::new();
    let (mut at, mut rest) = (0, rows);
    while let Some(first) = rest.first() {
        let run = rest
            .iter()
            .zip(*first..)
            .take_while(|(row, expected)| *row == expected)
            .count();
        selectors.push(RowSelector::skip((first - at) as usize));
        selectors.push(RowSelector::select(run));
        at = first + run as u32;
        rest = &rest[run..];
    }
    selectors.push(RowSelector::skip((total - at) as usize));
    selectors.into()
}

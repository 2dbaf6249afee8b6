//! Columns that are nested or repeated, by `parquet`'s own readers, over pages that are fed to them.
//!
//! Only pages that hold wanted rows are read where the offset index tells which; the others are skipped
//! unread. Decompression is this crate's, so that it is bounded.

use std::sync::Arc;

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
use super::load::{Raw, estimate_of, take_apart};
use crate::column::Column;
use crate::error::{ErrorKind, LookupError, Result};
use crate::file::columns::Root;
use crate::file::pages::check_rows;
use crate::host::Host;
use crate::page::decode::{checked_page, dictionary_page, inflate, metadata_of};

/// Most values of a column that are decoded at a time: some bytes may say two billion.
const VALUES_MAX: u64 = 1 << 26;

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

impl<H: Host> Search<'_, H> {
    /// A whole root column of `rows`, which rise.
    pub(super) async fn read_whole(
        &self,
        group: usize,
        root: usize,
        rows: &[u32],
    ) -> Result<ArrayRef> {
        let root = self
            .file
            .root(root)
            .map_err(|error| error.of_file(&self.file.name, ""))?;
        let leaves = root.columns();
        let mut arrays = Vec::new();
        let mut rest = rows;
        while !rest.is_empty() {
            let near = self.near(group, leaves, rest).await?;
            let (now, later) = rest.split_at(near);
            arrays.push(self.read_near(group, root, now).await?);
            rest = later;
        }
        let arrays: Vec<&dyn Array> = arrays.iter().map(AsRef::as_ref).collect();
        arrow_select::concat::concat(&arrays)
            .map_err(|error| LookupError::corrupt(format!("{}: {error}", self.file.name)))
    }

    /// How many of `rows`, at least one, have no page between them that holds none of them: readers look
    /// at all rows between the first and the last.
    async fn near(&self, group: usize, leaves: &[Arc<Column>], rows: &[u32]) -> Result<usize> {
        let mut near = rows.len();
        for column in leaves {
            let pages = self.file.pages(self.host, group, column).await?;
            if !pages.has_rows {
                continue;
            }
            let mut last = pages.page_of(rows[0]);
            for (place, row) in rows[..near].iter().enumerate().skip(1) {
                if *row < pages.pages[last].first_row + pages.pages[last].rows {
                    continue;
                }
                let page = pages.page_of(*row);
                if page > last + 1 {
                    near = place;
                    break;
                }
                last = page;
            }
        }
        Ok(near)
    }

    async fn read_near(&self, group: usize, root: &Root, rows: &[u32]) -> Result<ArrayRef> {
        let mut chunks = Vec::with_capacity(root.columns().len());
        for column in root.columns() {
            chunks.push(self.read_chunk(group, column, rows).await?);
        }
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
        let name = root.field().name().clone();
        self.host
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
            .map_err(|error| {
                let place = format_args!(", column {name}, row group {group}");
                error.of_file(&self.file.name, place)
            })
    }

    async fn read_chunk(&self, group: usize, column: &Arc<Column>, rows: &[u32]) -> Result<Chunk> {
        let blame = |error| self.file.blame(group, column, error);
        let pages = self.file.pages(self.host, group, column).await?;
        let is_wanted = |page: usize| {
            let span = &pages.pages[page];
            if !pages.has_rows {
                return true;
            }
            let first = rows.partition_point(|row| *row < span.first_row);
            rows.get(first)
                .is_some_and(|row| *row < span.first_row + span.rows)
        };
        let wanted: Vec<usize> = (0..pages.pages.len())
            .filter(|page| is_wanted(*page))
            .collect();
        let mut ranges: Vec<_> = wanted
            .iter()
            .map(|page| pages.pages[*page].range.clone())
            .collect();
        ranges.extend(pages.dictionary.clone());
        let mut read = self.read(ranges).await?;
        let codec = self.file.chunk(group, column).compression();
        let dictionary = match &pages.dictionary {
            Some(_) => read.pop(),
            None => None,
        };
        let dictionary = match dictionary {
            Some(bytes) => Some(self.decode_dictionary(group, column, bytes).await?),
            None => None,
        };
        let mut here = Vec::with_capacity(read.len() + 1);
        here.extend(
            dictionary
                .as_deref()
                .map(|dictionary| Box::new(dictionary_page(dictionary))),
        );
        let mut values = 0;
        for bytes in read {
            let Raw { header, body } = take_apart(&bytes, column).map_err(blame)?;
            // All of them become levels and values at once.
            values += u64::from(header.values);
            if values > VALUES_MAX {
                return Err(blame(LookupError::new(
                    ErrorKind::TooMuch,
                    format!("pages with more than {VALUES_MAX} values are needed at once"),
                )));
            }
            let estimate = estimate_of(codec, &header);
            let size = u64::from(header.uncompressed_bytes);
            let began = self.host.now();
            let (of, dictionary) = (Arc::clone(column), dictionary.clone());
            let page = self
                .host
                .run(estimate, move || {
                    let bytes = inflate(codec, &header, &body)?;
                    checked_page(&of, &header, &bytes, dictionary.as_ref())
                })
                .await
                .map_err(blame)?;
            let mut counts = self.counts.borrow_mut();
            counts.bytes_decoded += size;
            counts.decode_ns += nanoseconds(self.host.now().saturating_sub(began));
            counts.pages_decoded += 1;
            here.push(Box::new(page));
        }
        let mut here = here.into_iter();
        let mut items = Vec::with_capacity(pages.pages.len() + 1);
        if pages.dictionary.is_some() {
            items.extend(here.next().map(|page| Item::Here { page, rows: None }));
        }
        for (page, span) in pages.pages.iter().enumerate() {
            let rows = pages.has_rows.then_some(span.rows);
            if is_wanted(page) {
                check_rows(span).map_err(blame)?;
                let page = here.next().expect("every wanted page was read");
                items.push(Item::Here { page, rows });
            } else if span.rows > 0 {
                items.push(Item::Skipped { rows: span.rows });
            }
        }
        let (_, leaf) = self.file.decoded(column);
        Ok(Chunk { leaf, items })
    }
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

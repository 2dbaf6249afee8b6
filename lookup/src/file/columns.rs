//! What is decoded of a footer: root columns with their leaves and chunks, all at once or a few at a time.
//!
//! Leaves and roots have their places in the whole file everywhere but here, where those in the metadata
//! of the few are told apart from them. The invariant: what is decoded is what the decoder gives for the
//! whole footer, and was checked against the file.

use std::sync::Arc;

use arrow_schema::{DataType, FieldRef, Fields, Schema, SchemaRef};
use parquet::arrow::{ARROW_SCHEMA_META_KEY, encode_arrow_schema, parquet_to_arrow_schema};
use parquet::basic::ColumnOrder;
use parquet::file::metadata::{
    ColumnChunkMetaData, KeyValue, ParquetMetaData, ParquetMetaDataOptions, ParquetMetaDataReader,
    ParquetStatisticsPolicy,
};

use super::arrow_hint::ArrowHint;
use super::footer::{decode_memory_of, memory_of};
use super::outline::Outline;
use crate::column::Column;
use crate::error::{LookupError, Result};
use crate::memory::Account;

/// Root columns that were decoded together.
#[derive(Debug)]
pub struct Decoded {
    /// A footer of them alone.
    pub metadata: Arc<ParquetMetaData>,
    /// Their fields.
    pub schema: SchemaRef,
    columns: Vec<Arc<Column>>,
}

/// A root column.
#[derive(Clone, Debug)]
pub struct Root {
    /// It, among others.
    pub decoded: Arc<Decoded>,
    /// Its place in the schema there.
    field: usize,
    /// The place of its first leaf there.
    first: usize,
    leaves: usize,
}

impl Root {
    /// Its leaves, with their places in the file.
    pub fn columns(&self) -> &[Arc<Column>] {
        &self.decoded.columns[self.first..self.first + self.leaves]
    }

    /// As Arrow has it.
    pub fn field(&self) -> &FieldRef {
        &self.decoded.schema.fields()[self.field]
    }

    /// The place in the metadata of one of its leaves.
    pub fn leaf_of(&self, column: &Column) -> usize {
        let before = column.leaf - self.columns()[0].leaf;
        assert!(before < self.leaves, "the column is one of this root");
        self.first + before
    }

    /// A column chunk of a leaf that is there at `leaf`.
    pub fn chunk(&self, group: usize, leaf: usize) -> &ColumnChunkMetaData {
        self.decoded.metadata.row_group(group).column(leaf)
    }

    /// The order that bounds of a leaf are in, if the file says one.
    pub fn order(&self, leaf: usize) -> Option<ColumnOrder> {
        let orders = self.decoded.metadata.file_metadata().column_orders()?;
        Some(orders[leaf])
    }
}

/// Decodes a whole footer of a file of `length` bytes; gives its root columns, and the first row of each
/// row group with the number of rows behind.
pub(super) fn decode_all(footer: &[u8], length: u64) -> Result<(Vec<Root>, Vec<u64>)> {
    let metadata = metadata_of(footer)?;
    let schema = schema_of(
        &metadata,
        metadata.file_metadata().key_value_metadata().cloned(),
    )?;
    let rows = metadata.row_groups().iter().map(|group| group.num_rows());
    let starts = group_starts(rows)?;
    let roots: Vec<usize> = (0..schema.fields().len()).collect();
    Ok((
        roots_of(metadata, schema, &roots, |leaf| leaf, length)?,
        starts,
    ))
}

/// Decodes root columns that an outline has found, whose places rise; gives the bytes of memory that they take, too.
/// What decoding takes is charged to `memory` meanwhile.
pub(super) fn decode_some(
    outline: &Outline,
    roots: &[usize],
    hint: Option<&ArrowHint>,
    length: u64,
    memory: &Account,
) -> Result<(Vec<Root>, usize)> {
    let elements = roots
        .iter()
        .map(|root| outline.roots()[*root].elements())
        .sum();
    let part = outline.part(roots, true);
    let _charge = memory.charge(decode_memory_of(part.len(), elements))?;
    let metadata = metadata_of(&part)?;
    let schema = schema_of(
        &metadata,
        hint.and_then(|hint| hint.of(roots)).map(key_values_of),
    )?;
    let leaves: Vec<usize> = roots
        .iter()
        .map(|root| &outline.roots()[*root])
        .flat_map(|root| root.first_leaf..root.first_leaf + root.leaves)
        .map(|leaf| leaf as usize)
        .collect();
    let roots = roots_of(metadata, schema, roots, |leaf| leaves[leaf], length)?;
    Ok((roots, memory_of(part.len(), elements)))
}

/// Arrow's schema that a footer may have, if it fits: all its fields count, or none.
pub(super) fn hint_in(outline: &Outline) -> Option<ArrowHint> {
    let encoded = outline.value_of(ARROW_SCHEMA_META_KEY.as_bytes())?;
    let roots = outline.roots();
    let hint = ArrowHint::new(encoded, (0..roots.len()).map(|root| outline.name(root)))?;
    // Any field goes with a column of plain values; groups and lists have to be of the same shape.
    let nested: Vec<usize> = (0..roots.len())
        .filter(|root| !roots[*root].is_plain)
        .collect();
    if !nested.is_empty() {
        let metadata = metadata_of(&outline.part(&nested, false)).ok()?;
        let description = metadata.file_metadata().schema_descr();
        parquet_to_arrow_schema(description, Some(&key_values_of(hint.of(&nested)?))).ok()?;
    }
    Some(hint)
}

/// A footer's texts that have Arrow's schema of these fields.
fn key_values_of(fields: Fields) -> Vec<KeyValue> {
    let encoded = encode_arrow_schema(&Schema::new(fields));
    vec![KeyValue::new(ARROW_SCHEMA_META_KEY.to_owned(), encoded)]
}

fn metadata_of(footer: &[u8]) -> Result<ParquetMetaData> {
    // Sizes of what columns would take in memory are not asked for, and some writers get them wrong.
    let options =
        ParquetMetaDataOptions::new().with_size_stats_policy(ParquetStatisticsPolicy::SkipAll);
    ParquetMetaDataReader::decode_metadata_with_options(footer, Some(&options))
        .map_err(|error| LookupError::corrupt(format!("the footer: {error}")))
}

fn schema_of(metadata: &ParquetMetaData, key_values: Option<Vec<KeyValue>>) -> Result<Schema> {
    let description = metadata.file_metadata().schema_descr();
    parquet_to_arrow_schema(description, key_values.as_ref())
        // A schema of Arrow's that does not fit the file's is only a hint.
        .or_else(|_| parquet_to_arrow_schema(description, None))
        .map_err(|error| LookupError::unsupported(format!("the schema: {error}")))
}

/// The root columns of `metadata`, which are at `roots` in the file, as its leaves are at `leaf_in_file`.
fn roots_of(
    metadata: ParquetMetaData,
    schema: Schema,
    roots: &[usize],
    leaf_in_file: impl Fn(usize) -> usize,
    length: u64,
) -> Result<Vec<Root>> {
    let description = metadata.file_metadata().schema_descr();
    let fields = leaf_fields(schema.fields());
    let mut columns = Vec::with_capacity(description.num_columns());
    let mut places: Vec<(usize, usize)> = vec![(0, 0); roots.len()];
    for (leaf, descriptor) in description.columns().iter().enumerate() {
        // Groups without leaves have no field, so roots are counted as fields are.
        let (root, field) = fields.get(leaf).ok_or_else(|| {
            LookupError::unsupported(format!("column {} has no Arrow type", descriptor.path()))
        })?;
        let (first, leaves) = &mut places[*root];
        if *leaves == 0 {
            *first = leaf;
        }
        *leaves += 1;
        let column = Column::new(
            leaf_in_file(leaf),
            roots[*root],
            Arc::clone(field),
            Arc::clone(descriptor),
        );
        columns.push(Arc::new(column));
    }
    check_chunks(&metadata, columns.len(), length)?;
    let decoded = Arc::new(Decoded {
        metadata: Arc::new(metadata),
        schema: Arc::new(schema),
        columns,
    });
    let roots = places
        .into_iter()
        .enumerate()
        .map(|(field, (first, leaves))| Root {
            decoded: Arc::clone(&decoded),
            field,
            first,
            leaves,
        });
    Ok(roots.collect())
}

/// The first row of each row group, and behind the last the number of rows.
pub(super) fn group_starts(group_rows: impl Iterator<Item = i64>) -> Result<Vec<u64>> {
    let mut starts = vec![0];
    let mut rows = 0;
    for (index, own) in group_rows.enumerate() {
        let own = u32::try_from(own).map_err(|_| wrong(index, "an impossible number of rows"))?;
        rows += u64::from(own);
        starts.push(rows);
    }
    Ok(starts)
}

/// Checks what later steps believe: where chunks are.
fn check_chunks(metadata: &ParquetMetaData, leaves: usize, length: u64) -> Result<()> {
    for (index, group) in metadata.row_groups().iter().enumerate() {
        if group.num_columns() != leaves {
            return Err(wrong(index, "it has not the columns of the schema"));
        }
        for chunk in group.columns() {
            if chunk.file_path().is_some_and(|path| !path.is_empty()) {
                return Err(LookupError::unsupported(format!(
                    "row group {index}: its data is in another file"
                )));
            }
            if chunk.crypto_metadata().is_some() {
                continue;
            }
            let range =
                chunk_range(chunk).ok_or_else(|| wrong(index, "a column begins nowhere"))?;
            if range.end > length {
                return Err(wrong(index, "a column lies behind the end of the file"));
            }
        }
    }
    Ok(())
}

fn wrong(group: usize, what: &str) -> LookupError {
    LookupError::corrupt(format!("row group {group}: {what}"))
}

/// Where a column chunk is in its file; `None` if it says nonsense.
pub fn chunk_range(chunk: &ColumnChunkMetaData) -> Option<std::ops::Range<u64>> {
    let data = u64::try_from(chunk.data_page_offset()).ok()?;
    // Some writers say 0 where there is no dictionary, and some give its offset behind the data.
    let start = match chunk.dictionary_page_offset() {
        Some(offset) if offset > 0 && (offset as u64) < data => offset as u64,
        _ => data,
    };
    let bytes = u64::try_from(chunk.compressed_size()).ok()?;
    Some(start..start.checked_add(bytes)?)
}

/// The Arrow fields of all leaves below `fields`, each with the place of its root among them.
fn leaf_fields(fields: &Fields) -> Vec<(usize, FieldRef)> {
    fn walk(root: usize, field: &FieldRef, found: &mut Vec<(usize, FieldRef)>) {
        match field.data_type() {
            DataType::Struct(fields) => fields.iter().for_each(|field| walk(root, field, found)),
            DataType::List(field)
            | DataType::LargeList(field)
            | DataType::ListView(field)
            | DataType::LargeListView(field)
            | DataType::FixedSizeList(field, _)
            | DataType::Map(field, _) => walk(root, field, found),
            _ => found.push((root, Arc::clone(field))),
        }
    }
    let mut found = Vec::with_capacity(fields.len());
    for (root, field) in fields.iter().enumerate() {
        walk(root, field, &mut found);
    }
    found
}

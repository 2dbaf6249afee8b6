//! Footers: read with one guess at their length, checked, decoded once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parquet::arrow::parquet_to_arrow_schema;
use parquet::file::metadata::{
    ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataOptions, ParquetMetaDataReader,
    ParquetStatisticsPolicy,
};

use super::{File, FileId, leaf_field, shape};
use crate::column::Column;
use crate::error::{LookupError, Result};
use crate::host::Host;

/// Bytes that are read from the end of a file at first. Most footers are shorter, page index and all.
const GUESS_BYTES: u64 = 64 << 10;

/// Longest footer. Those of 1,000 columns and 10 row groups take 1.4 MB.
const FOOTER_BYTES_MAX: u64 = 64 << 20;

/// Length of the footer and magic, at the end of the file.
const TAIL_BYTES: u64 = 8;

/// Decoding a footer takes about so long a byte: 2.6 ms for 1.37 MB.
const DECODE_NS_PER_BYTE: u64 = 2;

/// Bytes of memory for each byte of a footer, about: 48 KB for small files of 5 KB.
const MEMORY_PER_FOOTER_BYTE: usize = 8;

/// Reads and decodes the footer of a file of `length` bytes that is called `name` in messages.
///
/// # Errors
/// Unsupported for encrypted files; corrupt for what is no Parquet file; what reading gives.
pub async fn open(host: &impl Host, name: &str, length: u64) -> Result<File> {
    open_named(host, name, length)
        .await
        .map_err(|error| error.of(name))
}

async fn open_named(host: &impl Host, name: &str, length: u64) -> Result<File> {
    if length < TAIL_BYTES + 4 {
        return Err(LookupError::corrupt(format!(
            "{length} bytes are no Parquet file"
        )));
    }
    let guess = GUESS_BYTES.min(length);
    let tail = read_one(host, length - guess..length).await?;
    let (_, end) = tail.split_at(tail.len() - TAIL_BYTES as usize);
    let footer_bytes = u64::from(u32::from_le_bytes(end[..4].try_into().expect("four bytes")));
    match &end[4..] {
        b"PAR1" => {}
        b"PARE" => {
            return Err(LookupError::unsupported(
                "the footer is encrypted; look-ups read files that are not",
            ));
        }
        _ => {
            return Err(LookupError::corrupt(
                "it does not end as a Parquet file does",
            ));
        }
    }
    if footer_bytes + TAIL_BYTES + 4 > length {
        return Err(LookupError::corrupt(format!(
            "a footer of {footer_bytes} bytes in a file of {length}"
        )));
    }
    if footer_bytes > FOOTER_BYTES_MAX {
        return Err(LookupError::unsupported(format!(
            "a footer of {footer_bytes} bytes; up to {FOOTER_BYTES_MAX} are read"
        )));
    }
    let footer = if footer_bytes + TAIL_BYTES <= guess {
        let start = tail.len() - (footer_bytes + TAIL_BYTES) as usize;
        tail.slice(start..start + footer_bytes as usize)
    } else {
        let end = length - TAIL_BYTES;
        read_one(host, end - footer_bytes..end).await?
    };
    let estimate = Duration::from_nanos(footer_bytes * DECODE_NS_PER_BYTE);
    let name = name.to_owned();
    host.run(estimate, move || decode(&footer, name, length))
        .await
        .map(Decoded::into_file)
}

/// One range.
pub(crate) async fn read_one(host: &impl Host, range: std::ops::Range<u64>) -> Result<Bytes> {
    let mut read = host.read(std::slice::from_ref(&range)).await?;
    Ok(read.pop().expect("one range was asked for"))
}

/// What [`File`] is made of, which may cross threads.
struct Decoded {
    name: String,
    length: u64,
    metadata: Arc<ParquetMetaData>,
    schema: arrow_schema::SchemaRef,
    columns: Vec<Arc<Column>>,
    group_starts: Vec<u64>,
    memory_bytes: usize,
}

impl Decoded {
    fn into_file(self) -> File {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut by_path = HashMap::with_capacity(self.columns.len());
        for column in &self.columns {
            // Where a file has two columns of one name, the first is meant, as in DuckDB.
            by_path.entry(column.path.clone()).or_insert(column.leaf);
        }
        File {
            id: FileId(NEXT.fetch_add(1, Ordering::Relaxed)),
            name: self.name,
            length: self.length,
            metadata: self.metadata,
            schema: self.schema,
            columns: self.columns,
            by_path,
            group_starts: self.group_starts,
            memory_bytes: self.memory_bytes,
            pages: Default::default(),
        }
    }
}

fn decode(footer: &[u8], name: String, length: u64) -> Result<Decoded> {
    shape::check(footer)?;
    // Sizes of what columns would take in memory are not asked for, and some writers get them wrong.
    let options =
        ParquetMetaDataOptions::new().with_size_stats_policy(ParquetStatisticsPolicy::SkipAll);
    let metadata = ParquetMetaDataReader::decode_metadata_with_options(footer, Some(&options))
        .map_err(|error| LookupError::corrupt(format!("the footer: {error}")))?;
    let description = metadata.file_metadata().schema_descr();
    let key_values = metadata.file_metadata().key_value_metadata();
    let schema = parquet_to_arrow_schema(description, key_values)
        // A schema of Arrow's that does not fit the file's is only a hint.
        .or_else(|_| parquet_to_arrow_schema(description, None))
        .map_err(|error| LookupError::unsupported(format!("the schema: {error}")))?;
    let mut columns = Vec::with_capacity(description.num_columns());
    for (leaf, descriptor) in description.columns().iter().enumerate() {
        let root = description.get_column_root_idx(leaf);
        let field = leaf_field(schema.fields(), leaf).ok_or_else(|| {
            LookupError::unsupported(format!("column {} has no Arrow type", descriptor.path()))
        })?;
        let column = Column::new(leaf, root, field, Arc::clone(descriptor));
        columns.push(Arc::new(column));
    }
    let group_starts = check_groups(&metadata, columns.len(), length)?;
    Ok(Decoded {
        name,
        length,
        memory_bytes: footer.len() * MEMORY_PER_FOOTER_BYTE,
        metadata: Arc::new(metadata),
        schema: Arc::new(schema),
        columns,
        group_starts,
    })
}

/// Checks what later steps believe: where chunks are, and how many rows there are.
fn check_groups(metadata: &ParquetMetaData, leaves: usize, length: u64) -> Result<Vec<u64>> {
    let mut starts = Vec::with_capacity(metadata.num_row_groups() + 1);
    let mut rows = 0u64;
    for (index, group) in metadata.row_groups().iter().enumerate() {
        let wrong = |what: &str| LookupError::corrupt(format!("row group {index}: {what}"));
        starts.push(rows);
        let own =
            u32::try_from(group.num_rows()).map_err(|_| wrong("an impossible number of rows"))?;
        rows += u64::from(own);
        if group.num_columns() != leaves {
            return Err(wrong("it has not the columns of the schema"));
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
            let range = chunk_range(chunk).ok_or_else(|| wrong("a column begins nowhere"))?;
            if range.end > length {
                return Err(wrong("a column lies behind the end of the file"));
            }
        }
    }
    starts.push(rows);
    Ok(starts)
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

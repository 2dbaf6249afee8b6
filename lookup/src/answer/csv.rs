//! Answers as CSV. How each type is written: [`Format::Csv`](super::Format::Csv).

use std::io::Write;

use arrow_array::RecordBatch;
use arrow_csv::WriterBuilder;
use arrow_schema::SchemaRef;

use super::cannot_hold;
use super::in_utc::in_utc;
use crate::error::Result;

/// Appends the header and the rows of `batches`, all of `schema`, to `out`.
pub(super) fn write(
    schema: &SchemaRef,
    batches: &[RecordBatch],
    out: &mut impl Write,
) -> Result<()> {
    let mut writer = WriterBuilder::new().with_header(true).build(out);
    // The header comes with the first batch, and must come without rows too.
    let header = RecordBatch::new_empty(schema.clone());
    for batch in std::iter::once(&header).chain(batches) {
        in_utc(batch.clone())
            .and_then(|batch| writer.write(&batch))
            .map_err(|error| cannot_hold("CSV", error))?;
    }
    Ok(())
}

//! Answers as JSON, an object on each line. How each type is written:
//! [`Format::JsonLines`](super::Format::JsonLines).

use std::io::Write;

use arrow_array::RecordBatch;
use arrow_json::writer::{LineDelimited, WriterBuilder};

use super::cannot_hold;
use super::in_utc::in_utc;
use crate::error::Result;

/// Appends the rows of `batches` to `out`.
pub(super) fn write(batches: &[RecordBatch], out: &mut impl Write) -> Result<()> {
    let mut writer = WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, LineDelimited>(out);
    for batch in batches {
        in_utc(batch.clone())
            .and_then(|batch| writer.write(&batch))
            .map_err(|error| cannot_hold("JSON", error))?;
    }
    writer.finish().map_err(|error| cannot_hold("JSON", error))
}

//! Timestamps with a time zone, told in UTC.
//!
//! Text formats write a timestamp with its offset, for which the zone's rules would be needed; and
//! a zone's name, even that of UTC, as Parquet files have it, is not known without them. The instant is the
//! same in UTC, so only the column's type changes.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_cast::cast;
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Fields, Schema};

/// The offset of UTC, which is written as `Z`.
const UTC: &str = "+00:00";

/// The same batch with every time zone, at any depth, replaced by UTC.
pub(super) fn in_utc(batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
    let fields = fields_in_utc(batch.schema_ref().fields());
    if fields == *batch.schema_ref().fields() {
        return Ok(batch);
    }
    let columns = batch.columns().iter().zip(&fields);
    let columns = columns
        .map(|(column, field)| cast(column, field.data_type()))
        .collect::<Result<_, _>>()?;
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

fn fields_in_utc(fields: &Fields) -> Fields {
    fields.iter().map(field_in_utc).collect()
}

fn field_in_utc(field: &FieldRef) -> FieldRef {
    let field = Field::clone(field);
    let data_type = match field.data_type() {
        DataType::Timestamp(unit, Some(_)) => DataType::Timestamp(*unit, Some(UTC.into())),
        DataType::List(child) => DataType::List(field_in_utc(child)),
        DataType::LargeList(child) => DataType::LargeList(field_in_utc(child)),
        DataType::FixedSizeList(child, length) => {
            DataType::FixedSizeList(field_in_utc(child), *length)
        }
        DataType::Map(entries, sorted) => DataType::Map(field_in_utc(entries), *sorted),
        DataType::Struct(children) => DataType::Struct(fields_in_utc(children)),
        other => other.clone(),
    };
    Arc::new(field.with_data_type(data_type))
}

#[cfg(test)]
mod tests {
    use arrow_array::{ArrayRef, ListArray, StructArray, TimestampMillisecondArray};
    use arrow_buffer::OffsetBuffer;

    use super::*;
    use crate::answer::Format;

    #[test]
    fn any_zone_at_any_depth_is_told_in_utc() {
        let times = TimestampMillisecondArray::from(vec![Some(788_918_400_123), None])
            .with_timezone("Europe/Berlin");
        let times: ArrayRef = Arc::new(times);
        let item = |array: &ArrayRef| Arc::new(Field::new("t", array.data_type().clone(), true));
        let lists = ListArray::new(
            item(&times),
            OffsetBuffer::from_lengths([2, 0]),
            times.clone(),
            None,
        );
        let lists: ArrayRef = Arc::new(lists);
        let structs: ArrayRef = Arc::new(StructArray::from(vec![(item(&lists), lists)]));
        let batch = RecordBatch::try_from_iter([("z", times), ("s", structs)]).expect("valid");
        let mut out = Vec::new();
        Format::JsonLines
            .write(&batch.schema(), &[batch], &mut out)
            .expect("valid");
        let expected = concat!(
            r#"{"z":"1995-01-01T00:00:00.123Z","s":{"t":["1995-01-01T00:00:00.123Z",null]}}"#,
            "\n",
            r#"{"z":null,"s":{"t":[]}}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(out).expect("UTF-8"), expected);
    }
}

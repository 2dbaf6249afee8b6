//! Rows as a table for people: NULL is `NULL`, floats are as they are, all else is as in JSON lines
//! without the quotes of strings.
//!
//! The invariant: a row is one line, and no value can do anything to the terminal: control
//! characters are escaped.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{Field, Schema, SchemaRef};
use corelane_client::lookup::answer::Format;
use corelane_worker::printable::printable;

use crate::failure::Failure;
use crate::output::{Column, table_of};

const NULL: &str = "NULL";

/// The rows of `batches`, all of `schema`.
pub(super) fn table(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<String, Failure> {
    let columns: Vec<Column> = schema
        .fields()
        .iter()
        .map(|field| Column {
            name: printable(field.name()).into_owned(),
            is_number: field.data_type().is_numeric(),
        })
        .collect();
    let mut rows = Vec::new();
    for batch in batches {
        let cells = batch
            .columns()
            .iter()
            .map(cells)
            .collect::<Result<Vec<_>, _>>()?;
        let mut cells: Vec<_> = cells.into_iter().map(Vec::into_iter).collect();
        rows.extend((0..batch.num_rows()).map(|_| {
            cells
                .iter_mut()
                .map(|column| column.next().expect("a cell for each row"))
                .collect::<Vec<String>>()
        }));
    }
    Ok(table_of(&columns, rows))
}

/// The values of a column.
fn cells(array: &ArrayRef) -> Result<Vec<String>, Failure> {
    let wrong = |error: String| Failure::failed(format!("a column cannot be printed: {error}"));
    if array.data_type().is_floating() {
        // JSON has no NaN and no infinities.
        let options = FormatOptions::new().with_null(NULL);
        let formatter = ArrayFormatter::try_new(array.as_ref(), &options)
            .map_err(|error| wrong(error.to_string()))?;
        return (0..array.len())
            .map(|row| {
                let value = formatter.value(row);
                value
                    .try_to_string()
                    .map_err(|error| wrong(error.to_string()))
            })
            .collect();
    }
    let field = Field::new("v", array.data_type().clone(), true);
    let schema = Arc::new(Schema::new(vec![field]));
    let column = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::clone(array)])
        .map_err(|error| wrong(error.to_string()))?;
    let mut lines = Vec::new();
    Format::JsonLines
        .write(&schema, &[column], &mut lines)
        .map_err(|error| wrong(error.to_string()))?;
    let lines = String::from_utf8(lines).map_err(|error| wrong(error.to_string()))?;
    lines
        .lines()
        .map(|line| {
            let value = line
                .strip_prefix("{\"v\":")
                .and_then(|line| line.strip_suffix('}'))
                .ok_or_else(|| wrong(format!("{line} is no object of one value")))?;
            Ok(cell(value))
        })
        .collect()
}

/// A JSON value as people read it.
fn cell(json: &str) -> String {
    if json == "null" {
        return NULL.to_owned();
    }
    match serde_json::from_str::<String>(json) {
        Ok(text) => printable(&text).into_owned(),
        Err(_) => printable(json).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::types::Int32Type;
    use arrow_array::{
        Float64Array, Int64Array, ListArray, StringArray, TimestampMicrosecondArray,
    };

    use super::*;

    #[test]
    fn numbers_stand_to_the_right_and_values_are_readable() {
        let zoned =
            TimestampMicrosecondArray::from(vec![Some(0), None]).with_timezone("Europe/Berlin");
        let lists =
            ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1), None]), None]);
        let columns: [(&str, ArrayRef); 5] = [
            ("key", Arc::new(Int64Array::from(vec![7, 12_345]))),
            ("share", Arc::new(Float64Array::from(vec![f64::NAN, 0.5]))),
            (
                "name",
                Arc::new(StringArray::from(vec![Some("a\n\u{1b}[2J\"ü"), None])),
            ),
            ("seen", Arc::new(zoned)),
            ("list", Arc::new(lists)),
        ];
        let batch = RecordBatch::try_from_iter(columns).expect("columns of two rows");
        let text = table(&batch.schema(), &[batch]).expect("a table");
        assert_eq!(
            text,
            "  key  share  name            seen                  list\n".to_owned()
                + "    7    NaN  a\\n\\u{1b}[2J\"ü  1970-01-01T00:00:00Z  [1,null]\n"
                + "12345    0.5  NULL            NULL                  NULL\n"
        );
    }
}

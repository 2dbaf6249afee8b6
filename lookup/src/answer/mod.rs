//! Answers as bytes: Arrow IPC, JSON lines, CSV.
//!
//! Every format is of the same rows and columns; an answer of no rows still tells its columns where
//! the format can. What a format cannot hold is refused, never left out.

pub mod arrow_ipc;
mod csv;
mod in_utc;
mod json_lines;

use std::io;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, DataType, FieldRef, SchemaRef};

use crate::error::{ErrorKind, LookupError, Result};
use crate::memory::Charge;

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A stream of Arrow IPC: schema, batches, end.
    ArrowIpc,
    /// A JSON object on each line, as `read_json` of DuckDB and `pyarrow.json` take it.
    ///
    /// | type | JSON |
    /// |---|---|
    /// | NULL | `null`, never left out |
    /// | integers, decimals | a number with all its digits, which the reader may round: ask for Arrow if it does |
    /// | floats | a number; NaN and the infinities, which JSON has not, are `null` |
    /// | date, time, timestamp | ISO 8601 in a string; in UTC with `Z` if the column has a time zone |
    /// | binary | lower-case hexadecimal in a string, as in `x'0aff'`; `unhex` of DuckDB, `bytes.fromhex` |
    /// | list, struct, map | array, object, object |
    ///
    /// A date or timestamp some 262 000 years away, of which Arrow's calendar knows nothing, is a
    /// string that begins with `ERROR`.
    JsonLines,
    /// CSV with a header, quoted where needed; values as in [`Format::JsonLines`] without the
    /// quotes of strings. NULL is an empty field, as is the empty string, and floats that are no
    /// numbers are `NaN`, `inf`, `-inf`. Lists, structs and maps are refused.
    Csv,
}

/// In the order in which they are given to whoever takes all of them alike.
const FORMATS: [Format; 3] = [Format::JsonLines, Format::ArrowIpc, Format::Csv];

impl Format {
    /// The format that an `Accept` header likes most: by its q-values, then by what is named more
    /// closely, then by what comes first. JSON lines for an empty one and for `*/*`; nothing if it
    /// takes none of them.
    pub fn of_accept(accept: &str) -> Option<Format> {
        if accept.trim().is_empty() {
            return Some(Format::JsonLines);
        }
        let mut best: Option<(Format, Liking)> = None;
        for format in FORMATS {
            let Some(liking) = format.liking(accept) else {
                continue;
            };
            if liking.quality > 0.0 && best.is_none_or(|(_, other)| liking.is_above(&other)) {
                best = Some((format, liking));
            }
        }
        best.map(|(format, _)| format)
    }

    /// The `Content-Type` of an answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::ArrowIpc => "application/vnd.apache.arrow.stream",
            Format::JsonLines => "application/x-ndjson",
            Format::Csv => "text/csv; charset=utf-8",
        }
    }

    /// Appends the whole answer of `batches`, all of `schema`, to `out`. Whoever answers often with
    /// the same columns in Arrow IPC keeps a [`SchemaMessage`](arrow_ipc::SchemaMessage) instead.
    ///
    /// # Errors
    /// [`Unsupported`](crate::error::ErrorKind::Unsupported): the format cannot hold a column.
    pub fn write(
        self,
        schema: &SchemaRef,
        batches: &[RecordBatch],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        self.write_within(usize::MAX, schema, batches, out, None)
    }

    /// As [`Format::write`], until `out` has `bytes_max` bytes: a name that is repeated in every line makes
    /// much text of small arrays. What `out` takes, and the rows of a batch take while they are made text of, is
    /// charged to `memory` before it is there.
    ///
    /// # Errors
    /// As [`Format::write`], and [`TooMuch`](crate::error::ErrorKind::TooMuch), when it gets longer; what charging
    /// gives. What is in `out` then is a part of the answer.
    pub fn write_within(
        self,
        bytes_max: usize,
        schema: &SchemaRef,
        batches: &[RecordBatch],
        out: &mut Vec<u8>,
        mut memory: Option<&mut Charge>,
    ) -> Result<()> {
        // Text is written by pieces of rows.
        let pieces = match self {
            Format::ArrowIpc => Vec::new(),
            Format::JsonLines | Format::Csv => in_pieces(batches),
        };
        let most = pieces.iter().map(|piece| piece.bytes).max().unwrap_or(0);
        let _text = match &memory {
            Some(memory) => {
                let bytes = most.saturating_mul(TEXT_BYTES_PER_BYTE);
                let charge = memory.account().charge(bytes as u64);
                Some(charge.map_err(|error| error.of("the answer as text"))?)
            }
            None => None,
        };
        let parts: Vec<RecordBatch> = pieces.into_iter().map(|piece| piece.rows).collect();
        if self == Format::ArrowIpc
            && let Some(memory) = &mut memory
        {
            let bytes = stream_bytes(batches);
            memory.add(bytes as u64)?;
            out.reserve_exact(bytes);
        }
        let mut within = Within {
            out,
            bytes_max,
            is_full: false,
            memory,
            refused: None,
        };
        let written = match self {
            Format::ArrowIpc => arrow_ipc::SchemaMessage::new(schema).map(|schema| {
                schema.write_stream(batches, within.out);
                within.is_full = within.out.len() > bytes_max;
            }),
            Format::JsonLines => json_lines::write(&parts, &mut within),
            Format::Csv => csv::write(schema, &parts, &mut within),
        };
        if let Some(refused) = within.refused {
            return Err(refused);
        }
        match within.is_full {
            true => Err(LookupError::new(
                ErrorKind::TooMuch,
                format!(
                    "the answer has more than {bytes_max} bytes: select fewer columns, narrow the predicate or set a \
                     limit"
                ),
            )),
            false => written,
        }
    }

    /// How an `Accept` header likes this format, by the range that names it most closely.
    fn liking(self, accept: &str) -> Option<Liking> {
        let mut found: Option<Liking> = None;
        for (position, range) in accept.split(',').enumerate() {
            let mut parts = range.split(';').map(str::trim);
            let Some(closeness) = self.closeness(parts.next().unwrap_or_default()) else {
                continue;
            };
            let liking = Liking {
                quality: parts.find_map(quality).unwrap_or(1.0),
                closeness,
                position,
            };
            if found
                .as_ref()
                .is_none_or(|found| closeness > found.closeness)
            {
                found = Some(liking);
            }
        }
        found
    }

    /// How closely a media range names this format; nothing if it does not.
    fn closeness(self, range: &str) -> Option<u8> {
        let is = |name: &str| range.eq_ignore_ascii_case(name);
        let (named, kind) = match self {
            Format::ArrowIpc => (is("application/vnd.apache.arrow.stream"), "application/*"),
            Format::JsonLines => (
                is("application/x-ndjson") || is("application/jsonl") || is("application/json"),
                "application/*",
            ),
            Format::Csv => (is("text/csv"), "text/*"),
        };
        match (named, is(kind), is("*/*")) {
            (true, ..) => Some(2),
            (_, true, _) => Some(1),
            (_, _, true) => Some(0),
            _ => None,
        }
    }
}

/// Bytes of arrays, and of names that stand before each value, that are made text of at a time: `arrow-json` writes
/// a piece to a buffer of its own first.
const TEXT_PIECE_BYTES: usize = 64 << 10;

/// Bytes of text for each byte of an array or a name: a control character takes six.
const TEXT_BYTES_PER_BYTE: usize = 8;

/// A few rows, and the bytes that they take as arrays with the names of their columns.
struct Piece {
    rows: RecordBatch,
    bytes: usize,
}

/// The same rows in batches of a few.
fn in_pieces(batches: &[RecordBatch]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for batch in batches {
        let names = batch
            .schema_ref()
            .fields()
            .iter()
            .map(|field| field.name().len() + 8);
        let names = names.sum::<usize>();
        let row_bytes = batch.get_array_memory_size() / batch.num_rows().max(1) + names;
        let most = (TEXT_PIECE_BYTES / row_bytes.max(1)).max(1);
        for start in (0..batch.num_rows()).step_by(most) {
            let rows = batch.slice(start, most.min(batch.num_rows() - start));
            let columns = rows.schema_ref().fields().iter().zip(rows.columns());
            let bytes = columns
                .map(|(field, column)| text_bytes(field, column))
                .sum();
            pieces.push(Piece { rows, bytes });
        }
    }
    pieces
}

/// Bytes of the values of a column, at any depth, each with its name and what separates it from the next.
fn text_bytes(field: &FieldRef, column: &ArrayRef) -> usize {
    let own = (field.name().len() + 8).saturating_mul(column.len());
    let below = |child: &FieldRef, values: &ArrayRef, start: usize, end: usize| {
        text_bytes(child, &values.slice(start, end - start))
    };
    let inner = match field.data_type() {
        DataType::Struct(fields) => {
            let columns = column.as_struct().columns();
            let inner = fields.iter().zip(columns);
            inner.map(|(field, column)| text_bytes(field, column)).sum()
        }
        DataType::List(child) => {
            let list = column.as_list::<i32>();
            let (start, end) = (list.offsets()[0], list.offsets()[list.len()]);
            below(child, list.values(), start as usize, end as usize)
        }
        DataType::LargeList(child) => {
            let list = column.as_list::<i64>();
            let (start, end) = (list.offsets()[0], list.offsets()[list.len()]);
            below(child, list.values(), start as usize, end as usize)
        }
        DataType::Map(child, _) => {
            let map = column.as_map();
            let (start, end) = (map.offsets()[0], map.offsets()[map.len()]);
            let entries: ArrayRef = Arc::new(map.entries().clone());
            below(child, &entries, start as usize, end as usize)
        }
        DataType::FixedSizeList(child, length) => {
            let list = column.as_fixed_size_list();
            below(
                child,
                list.values(),
                0,
                list.len() * length.unsigned_abs() as usize,
            )
        }
        _ => {
            let bytes = column.to_data().get_slice_memory_size();
            bytes.unwrap_or_else(|_| column.get_array_memory_size())
        }
    };
    own.saturating_add(inner)
}

/// Bytes of a stream of these batches, at most, about: their buffers, and what goes before each.
fn stream_bytes(batches: &[RecordBatch]) -> usize {
    let own = |batch: &RecordBatch| {
        let columns = batch.num_columns();
        batch.get_array_memory_size() + 256 * (columns + 1)
    };
    4096 + batches.iter().map(own).sum::<usize>()
}

/// Takes bytes up to a limit, then fails.
struct Within<'o> {
    out: &'o mut Vec<u8>,
    bytes_max: usize,
    is_full: bool,
    memory: Option<&'o mut Charge>,
    refused: Option<LookupError>,
}

impl Within<'_> {
    /// Makes room for `bytes` more, which is charged before.
    fn make_room(&mut self, bytes: usize) -> Result<()> {
        let (old, wanted) = (self.out.capacity(), self.out.len() + bytes);
        let Some(memory) = &mut self.memory else {
            return Ok(());
        };
        if wanted > old {
            let new = wanted.max(old * 2).min(self.bytes_max.max(wanted));
            // Both are there while bytes move.
            memory.add(new as u64)?;
            self.out.reserve_exact(new - self.out.len());
            memory.reduce(old as u64);
        }
        Ok(())
    }
}

impl io::Write for Within<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.is_full |= self.out.len() + bytes.len() > self.bytes_max;
        if self.is_full {
            return Err(io::Error::other("the answer is too long"));
        }
        if let Err(error) = self.make_room(bytes.len()) {
            self.refused = Some(error);
            return Err(io::Error::other("there is no memory for the answer"));
        }
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How much a format is liked.
#[derive(Clone, Copy)]
struct Liking {
    quality: f32,
    closeness: u8,
    position: usize,
}

impl Liking {
    fn is_above(&self, other: &Liking) -> bool {
        let key = |liking: &Liking| (liking.closeness, std::cmp::Reverse(liking.position));
        self.quality > other.quality || self.quality == other.quality && key(self) > key(other)
    }
}

/// The value of a `q` parameter; 0 if it is none, so that nonsense is not preferred.
fn quality(parameter: &str) -> Option<f32> {
    let (name, value) = parameter.split_once('=')?;
    let is_quality = name.trim().eq_ignore_ascii_case("q");
    is_quality.then(|| {
        let value = value.trim().parse().unwrap_or(0.0);
        if (0.0..=1.0).contains(&value) {
            value
        } else {
            0.0
        }
    })
}

/// A column that `format` cannot hold.
fn cannot_hold(format: &str, error: ArrowError) -> LookupError {
    LookupError::unsupported(format!(
        "the answer in {format}: {error}; ask for Arrow IPC, or select other columns"
    ))
}

#[cfg(test)]
mod tests {
    use arrow_array::{
        ArrayRef, BinaryArray, Date32Array, Decimal128Array, Float64Array, Int64Array, ListArray,
        StringArray, TimestampMicrosecondArray,
    };
    use arrow_schema::{DataType, Field, Schema};

    use super::*;

    #[test]
    fn accept_headers_choose_what_they_like_most() {
        let cases = [
            ("", Some(Format::JsonLines)),
            ("*/*", Some(Format::JsonLines)),
            (
                "application/vnd.apache.arrow.stream",
                Some(Format::ArrowIpc),
            ),
            ("application/x-ndjson", Some(Format::JsonLines)),
            ("application/jsonl", Some(Format::JsonLines)),
            ("Application/JSON", Some(Format::JsonLines)),
            ("text/csv;charset=utf-8", Some(Format::Csv)),
            ("text/*", Some(Format::Csv)),
            ("application/*", Some(Format::JsonLines)),
            (
                "text/csv;q=0.5, application/vnd.apache.arrow.stream;q=0.9",
                Some(Format::ArrowIpc),
            ),
            (
                "application/json;q=0.5, text/csv ; q=0.8",
                Some(Format::Csv),
            ),
            ("*/*, text/csv", Some(Format::Csv)),
            ("text/csv, application/json", Some(Format::Csv)),
            ("*/*;q=0.1, application/json;q=0", Some(Format::ArrowIpc)),
            ("text/csv;q=nan", None),
            ("text/csv;q=0", None),
            ("text/html", None),
            ("text/html, */*;q=0.8", Some(Format::JsonLines)),
        ];
        for (accept, expected) in cases {
            assert_eq!(Format::of_accept(accept), expected, "{accept}");
        }
    }

    #[test]
    fn a_format_accepts_its_own_content_type() {
        for format in FORMATS {
            assert_eq!(Format::of_accept(format.content_type()), Some(format));
        }
    }

    fn batch() -> RecordBatch {
        let columns: Vec<(&str, ArrayRef)> = vec![
            (
                "i",
                Arc::new(Int64Array::from(vec![Some(9_007_199_254_740_993), None])),
            ),
            (
                "d",
                Arc::new(
                    Decimal128Array::from(vec![Some(12_345_678_901_234_567_890), None])
                        .with_precision_and_scale(38, 2)
                        .expect("valid"),
                ),
            ),
            (
                "s",
                Arc::new(StringArray::from(vec![Some("a,\"b\""), None])),
            ),
            (
                "b",
                Arc::new(BinaryArray::from(vec![Some(&[10, 255][..]), None])),
            ),
            (
                "f",
                Arc::new(Float64Array::from(vec![Some(0.5), Some(f64::NAN)])),
            ),
            ("day", Arc::new(Date32Array::from(vec![Some(9131), None]))),
            (
                "t",
                Arc::new(TimestampMicrosecondArray::from(vec![
                    Some(788_918_400_123_000),
                    None,
                ])),
            ),
            (
                "z",
                Arc::new(
                    TimestampMicrosecondArray::from(vec![Some(788_918_400_000_000), None])
                        .with_timezone("UTC"),
                ),
            ),
        ];
        RecordBatch::try_from_iter_with_nullable(
            columns.into_iter().map(|(name, array)| (name, array, true)),
        )
        .expect("valid")
    }

    fn written(format: Format, batches: &[RecordBatch]) -> String {
        let mut out = Vec::new();
        format
            .write(&batch().schema(), batches, &mut out)
            .expect("valid");
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn json_lines_hold_every_digit_and_every_null() {
        let expected = concat!(
            r#"{"i":9007199254740993,"d":123456789012345678.90,"s":"a,\"b\"","b":"0aff","f":0.5,"#,
            r#""day":"1995-01-01","t":"1995-01-01T00:00:00.123","z":"1995-01-01T00:00:00Z"}"#,
            "\n",
            r#"{"i":null,"d":null,"s":null,"b":null,"f":null,"day":null,"t":null,"z":null}"#,
            "\n"
        );
        assert_eq!(written(Format::JsonLines, &[batch()]), expected);
        assert_eq!(written(Format::JsonLines, &[]), "");
    }

    #[test]
    fn csv_has_a_header_even_without_rows() {
        let expected = concat!(
            "i,d,s,b,f,day,t,z\n",
            "9007199254740993,123456789012345678.90,\"a,\"\"b\"\"\",0aff,0.5,1995-01-01,1995-01-01T00:00:00.123,",
            "1995-01-01T00:00:00Z\n",
            ",,,,NaN,,,\n"
        );
        assert_eq!(written(Format::Csv, &[batch()]), expected);
        assert_eq!(written(Format::Csv, &[batch(), batch()]).lines().count(), 5);
        assert_eq!(written(Format::Csv, &[]), "i,d,s,b,f,day,t,z\n");
    }

    #[test]
    fn an_answer_that_gets_too_long_is_refused() {
        for format in FORMATS {
            let mut whole = Vec::new();
            let batches = vec![batch(); 100];
            format
                .write(&batch().schema(), &batches, &mut whole)
                .expect("valid");
            let within = |bytes_max: usize| {
                let mut out = Vec::new();
                let written =
                    format.write_within(bytes_max, &batch().schema(), &batches, &mut out, None);
                written.map(|()| out)
            };
            assert_eq!(within(whole.len()).expect("it fits"), whole);
            for bytes_max in [0, 1, 10_000, whole.len() - 1] {
                let error = within(bytes_max).expect_err("it does not fit");
                assert_eq!(error.kind, ErrorKind::TooMuch, "{format:?} {error}");
            }
        }
    }

    #[test]
    fn csv_refuses_lists() {
        let item = Arc::new(Field::new("item", DataType::Int64, true));
        let schema = Arc::new(Schema::new(vec![Field::new(
            "l",
            DataType::List(item.clone()),
            true,
        )]));
        let lists: ArrayRef = Arc::new(ListArray::new_null(item, 1));
        let batch = RecordBatch::try_new(schema.clone(), vec![lists]).expect("valid");
        let error = Format::Csv
            .write(&schema, &[batch], &mut Vec::new())
            .expect_err("a list");
        assert!(error.message.contains("ask for Arrow IPC"), "{error}");
    }
}

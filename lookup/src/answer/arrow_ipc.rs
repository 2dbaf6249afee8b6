//! Answers as a stream of Arrow IPC: the schema, batches, the end.
//!
//! An answer is mostly one row of a few columns, for which building the flatbuffers of a batch
//! anew costs more than finding the row. But the metadata of a batch is the same bytes for all batches of a
//! schema except for numbers at places that are known, so it is written directly; the schema's own
//! message is made once by `arrow-ipc` and kept. The invariant: `arrow-ipc`, which verifies the
//! flatbuffers, reads back what was written.
//!
//! A batch, all integers little-endian ([format](https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc),
//! [flatbuffers](https://flatbuffers.dev/internals/)), `n` nodes and `b` buffers:
//!
//! ```text
//!   0  u32  continuation, 0xffffffff
//!   4  u32  bytes of metadata: 88 + 16 n + 16 b
//!           the metadata, whose positions are
//!   0  u32  position of the Message                 16
//!   4  u16  vtable of it: its bytes                 12
//!   6  u16  bytes of a Message                      20
//!   8  u16  where in it: version                    16
//!  10  u16               header's type              18
//!  12  u16               header                      4
//!  14  u16               bodyLength                  8
//!  16  i32  Message: back to its vtable             12
//!  20  u32  on to the header                        28
//!  24  i64  bytes of the body
//!  32  i16  version: V5                              4
//!  34  u8   header's type: RecordBatch               3
//!  35       0
//!  36  u16  vtable of the RecordBatch: its bytes    10
//!  38  u16  bytes of a RecordBatch                  20
//!  40  u16  where in it: length                      8
//!  42  u16               nodes                       4
//!  44  u16               buffers                    16
//!  46       0
//!  48  i32  RecordBatch: back to its vtable         12
//!  52  u32  on to the nodes                         16
//!  56  i64  length: rows
//!  64  u32  on to the buffers                       12 + 16 n
//!  68  u32  nodes: how many                         n
//!  72       each: i64 rows, i64 NULLs
//!  72 + 16 n       0 (4 bytes)
//!  76 + 16 n  u32  buffers: how many                b
//!  80 + 16 n       each: i64 position in the body, i64 bytes
//!  80 + 16 n + 16 b   0 (8 bytes), so that the body begins at a multiple of 16
//!           the body: the buffers, each at a multiple of 16
//! ```

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, OffsetSizeTrait, RecordBatch, downcast_primitive_array};
use arrow_buffer::{OffsetBuffer, ToByteSlice};
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions, write_message};
use arrow_ipc::{MessageHeader, MetadataVersion};
use arrow_schema::{DataType, SchemaRef};

use crate::error::{LookupError, Result};

/// What follows the last batch.
pub const END_OF_STREAM: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// What each buffer's position is a multiple of: the alignment of the widest value, so that a reader
/// uses decimals where they lie. The 64 that the format recommends would triple an answer of one row.
const ALIGNMENT: usize = 16;

/// Positions in a batch message that are patched, behind the 8 bytes in front of the metadata.
const BODY_LENGTH_AT: usize = 8 + 24;
const ROWS_AT: usize = 8 + 56;
const NODES_AT: usize = 8 + 72;

/// Bytes of a node, and of a buffer's position and length.
const ENTRY_BYTES: usize = 16;

/// The schema of answers as it is sent, made once for a projection and kept.
#[derive(Clone, Debug)]
pub struct SchemaMessage {
    schema: SchemaRef,
    bytes: Box<[u8]>,
    /// All that precedes the body of a batch, with zeroes for what each batch has of its own.
    batch_header: Box<[u8]>,
    nodes: usize,
}

impl SchemaMessage {
    /// The message of `schema`.
    ///
    /// # Errors
    /// [`Unsupported`](crate::error::ErrorKind::Unsupported): a column is dictionary or run-end
    /// encoded, a view or a union. Answers have none of these.
    pub fn new(schema: &SchemaRef) -> Result<Self> {
        let mut layout = Layout::default();
        for field in schema.fields() {
            layout
                .add(field.data_type())
                .map_err(|error| error.of(format_args!("column \"{}\"", field.name())))?;
        }
        let options = IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5)
            .expect("it is one of the alignments that there are");
        let encoded = IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(
            schema,
            &mut DictionaryTracker::new(true),
            &options,
        );
        let mut bytes = Vec::new();
        write_message(&mut bytes, encoded, &options).expect("memory takes whatever is written");
        Ok(SchemaMessage {
            schema: schema.clone(),
            bytes: bytes.into(),
            batch_header: layout.batch_header(),
            nodes: layout.nodes,
        })
    }

    /// The schema that it is of.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The message, which begins a stream.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends a whole answer: the schema, the batches, the end.
    ///
    /// # Panics
    /// If a batch is not of this schema.
    pub fn write_stream(&self, batches: &[RecordBatch], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes);
        for batch in batches {
            self.write_batch(batch, out);
        }
        out.extend_from_slice(&END_OF_STREAM);
    }

    /// Appends the message of `batch`, and nothing else: the schema comes before the first, and
    /// [`END_OF_STREAM`] after the last.
    ///
    /// # Panics
    /// If the batch is not of this schema.
    pub fn write_batch(&self, batch: &RecordBatch, out: &mut Vec<u8>) {
        assert!(
            self.is_of(batch),
            "a batch of another schema: {:?}",
            batch.schema()
        );
        let start = out.len();
        out.extend_from_slice(&self.batch_header);
        let mut writer = BodyWriter {
            node_at: start + NODES_AT,
            buffer_at: start + NODES_AT + ENTRY_BYTES * self.nodes + 8,
            body_at: out.len(),
            out,
        };
        for column in batch.columns() {
            writer.array(column.as_ref());
        }
        let end = writer.body_at - 8;
        assert_eq!(writer.buffer_at, end, "as many buffers as the schema has");
        let body_length = (writer.out.len() - writer.body_at) as i64;
        let mut patch = |at: usize, value: i64| {
            writer.out[start + at..][..8].copy_from_slice(&value.to_le_bytes());
        };
        patch(BODY_LENGTH_AT, body_length);
        patch(ROWS_AT, batch.num_rows() as i64);
    }

    fn is_of(&self, batch: &RecordBatch) -> bool {
        let fields = self.schema.fields();
        let same_types = || {
            let columns = batch.columns().iter();
            fields
                .iter()
                .zip(columns)
                .all(|(field, column)| field.data_type() == column.data_type())
        };
        Arc::ptr_eq(&self.schema, batch.schema_ref())
            || fields.len() == batch.num_columns() && same_types()
    }
}

/// How many nodes and buffers a batch has.
#[derive(Default)]
struct Layout {
    nodes: usize,
    buffers: usize,
}

impl Layout {
    fn add(&mut self, data_type: &DataType) -> Result<()> {
        self.nodes += 1;
        self.buffers += match data_type {
            DataType::Null => 0,
            DataType::FixedSizeList(..) | DataType::Struct(_) => 1,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => 3,
            DataType::Dictionary(..)
            | DataType::RunEndEncoded(..)
            | DataType::Union(..)
            | DataType::Utf8View
            | DataType::BinaryView
            | DataType::ListView(_)
            | DataType::LargeListView(_) => {
                return Err(LookupError::unsupported(format!(
                    "{data_type} is not answered in; cast it to the type of its values"
                )));
            }
            _ => 2,
        };
        match data_type {
            DataType::List(child)
            | DataType::LargeList(child)
            | DataType::FixedSizeList(child, _)
            | DataType::Map(child, _) => self.add(child.data_type()),
            DataType::Struct(children) => children
                .iter()
                .try_for_each(|child| self.add(child.data_type())),
            _ => Ok(()),
        }
    }

    /// Everything in front of a batch's body, as the module's table has it.
    fn batch_header(&self) -> Box<[u8]> {
        let (nodes, buffers) = (self.nodes as u32, self.buffers as u32);
        let entry_bytes = ENTRY_BYTES as u32;
        let metadata_bytes = 88 + entry_bytes * (nodes + buffers);
        let mut out = Vec::with_capacity(8 + metadata_bytes as usize);
        out.extend_from_slice(&[0xff; 4]);
        out.extend_from_slice(&metadata_bytes.to_le_bytes());
        out.extend_from_slice(&16_u32.to_le_bytes());
        for number in [12_u16, 20, 16, 18, 4, 8] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&12_i32.to_le_bytes());
        out.extend_from_slice(&28_u32.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&MetadataVersion::V5.0.to_le_bytes());
        out.extend_from_slice(&[MessageHeader::RecordBatch.0, 0]);
        for number in [10_u16, 20, 8, 4, 16, 0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&12_i32.to_le_bytes());
        out.extend_from_slice(&16_u32.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&(12 + entry_bytes * nodes).to_le_bytes());
        out.extend_from_slice(&nodes.to_le_bytes());
        out.resize(out.len() + ENTRY_BYTES * self.nodes + 4, 0);
        out.extend_from_slice(&buffers.to_le_bytes());
        out.resize(out.len() + ENTRY_BYTES * self.buffers + 8, 0);
        assert_eq!(out.len(), 8 + metadata_bytes as usize, "the table adds up");
        out.into()
    }
}

/// Appends a batch's buffers, and enters each where the header has room for it.
struct BodyWriter<'o> {
    out: &'o mut Vec<u8>,
    /// Where the next node and the next buffer are entered.
    node_at: usize,
    buffer_at: usize,
    body_at: usize,
}

impl BodyWriter<'_> {
    fn array(&mut self, array: &dyn Array) {
        let rows = array.len();
        let is_null_type = *array.data_type() == DataType::Null;
        let nulls = if is_null_type {
            rows
        } else {
            array.null_count()
        };
        enter(self.out, &mut self.node_at, rows, nulls);
        if is_null_type {
            return;
        }
        self.validity(array);
        downcast_primitive_array!(
            array => self.buffer(array.values().inner().as_slice()),
            DataType::Boolean => self.buffer(array.as_boolean().values().sliced().as_slice()),
            DataType::Utf8 => {
                let array = array.as_string::<i32>();
                self.bytes(array.offsets(), array.value_data());
            }
            DataType::LargeUtf8 => {
                let array = array.as_string::<i64>();
                self.bytes(array.offsets(), array.value_data());
            }
            DataType::Binary => {
                let array = array.as_binary::<i32>();
                self.bytes(array.offsets(), array.value_data());
            }
            DataType::LargeBinary => {
                let array = array.as_binary::<i64>();
                self.bytes(array.offsets(), array.value_data());
            }
            DataType::FixedSizeBinary(width) => {
                let values = array.as_fixed_size_binary().value_data();
                self.buffer(&values[..rows * *width as usize]);
            }
            DataType::List(_) => {
                let array = array.as_list::<i32>();
                self.list(array.offsets(), array.values().as_ref());
            }
            DataType::LargeList(_) => {
                let array = array.as_list::<i64>();
                self.list(array.offsets(), array.values().as_ref());
            }
            DataType::Map(..) => {
                let array = array.as_map();
                self.list(array.offsets(), array.entries());
            }
            DataType::FixedSizeList(_, length) => {
                let values = array.as_fixed_size_list().values();
                self.slice(values.as_ref(), 0, rows * *length as usize);
            }
            DataType::Struct(_) => {
                for column in array.as_struct().columns() {
                    self.array(column.as_ref());
                }
            }
            other => unreachable!("no schema message was made of {other}"),
        )
    }

    /// Which values are not NULL; nothing if all are.
    fn validity(&mut self, array: &dyn Array) {
        match array.nulls() {
            Some(nulls) if nulls.null_count() > 0 => self.buffer(nulls.inner().sliced().as_slice()),
            _ => self.buffer(&[]),
        }
    }

    fn bytes<O: OffsetSizeTrait>(&mut self, offsets: &OffsetBuffer<O>, values: &[u8]) {
        let (start, end) = self.offsets(offsets);
        self.buffer(&values[start..end]);
    }

    fn list<O: OffsetSizeTrait>(&mut self, offsets: &OffsetBuffer<O>, values: &dyn Array) {
        let (start, end) = self.offsets(offsets);
        self.slice(values, start, end);
    }

    fn slice(&mut self, values: &dyn Array, start: usize, end: usize) {
        if (start, end) == (0, values.len()) {
            return self.array(values);
        }
        self.array(values.slice(start, end - start).as_ref());
    }

    /// Writes offsets that begin at 0. Gives where the values begin and end.
    fn offsets<O: OffsetSizeTrait>(&mut self, offsets: &OffsetBuffer<O>) -> (usize, usize) {
        let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
        if first == O::zero() {
            self.buffer(offsets.inner().inner().as_slice());
        } else {
            let position = self.out.len();
            for offset in offsets.iter() {
                self.out
                    .extend_from_slice((*offset - first).to_byte_slice());
            }
            self.enter_buffer(position);
        }
        (first.as_usize(), last.as_usize())
    }

    fn buffer(&mut self, bytes: &[u8]) {
        let position = self.out.len();
        self.out.extend_from_slice(bytes);
        self.enter_buffer(position);
    }

    /// What has been written from `position` on is a buffer.
    fn enter_buffer(&mut self, position: usize) {
        let length = self.out.len() - position;
        enter(
            self.out,
            &mut self.buffer_at,
            position - self.body_at,
            length,
        );
        let padding = length.next_multiple_of(ALIGNMENT) - length;
        self.out.extend_from_slice(&[0; ALIGNMENT][..padding]);
    }
}

/// Writes a pair at `at`, and goes on behind it.
fn enter(out: &mut [u8], at: &mut usize, first: usize, second: usize) {
    let entry = &mut out[*at..*at + ENTRY_BYTES];
    entry[..8].copy_from_slice(&(first as i64).to_le_bytes());
    entry[8..].copy_from_slice(&(second as i64).to_le_bytes());
    *at += ENTRY_BYTES;
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use arrow_array::builder::{LargeStringBuilder, StringBuilder};
    use arrow_array::{
        ArrayRef, BooleanArray, Decimal128Array, DictionaryArray, FixedSizeListArray,
        GenericBinaryArray, GenericListArray, Int32Array, Int64Array, MapArray, NullArray,
        RecordBatchOptions, StringArray, StructArray, make_array, types::Int32Type,
    };
    use arrow_buffer::{Buffer, NullBuffer};
    use arrow_data::ArrayData;
    use arrow_ipc::reader::{StreamDecoder, StreamReader};
    use arrow_schema::{Field, FieldRef, Fields, IntervalUnit, Schema, TimeUnit};
    use proptest::prelude::*;

    use super::*;

    /// Arrays of any type and content, from a seed.
    struct Filler(u64);

    impl Filler {
        fn next(&mut self) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let mixed = (self.0 ^ self.0 >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
            mixed ^ mixed >> 29
        }

        fn below(&mut self, limit: u64) -> usize {
            (self.next() % limit) as usize
        }

        fn bytes(&mut self, count: usize) -> Vec<u8> {
            (0..count).map(|_| self.next() as u8).collect()
        }

        fn nulls(&mut self, rows: usize) -> Option<NullBuffer> {
            let one_in = 1 + self.below(3) as u64;
            (self.below(3) > 0).then(|| (0..rows).map(|_| self.below(one_in) == 0).collect())
        }

        fn offsets<O: OffsetSizeTrait>(&mut self, rows: usize) -> OffsetBuffer<O> {
            OffsetBuffer::from_lengths((0..rows).map(|_| self.below(4)))
        }

        fn array(&mut self, data_type: &DataType, rows: usize) -> ArrayRef {
            let spare = self.below(3);
            let whole = self.whole(data_type, rows + 2 * spare);
            whole.slice(spare, rows)
        }

        fn whole(&mut self, data_type: &DataType, rows: usize) -> ArrayRef {
            if let Some(width) = data_type.primitive_width() {
                return self.fixed(data_type, width, rows);
            }
            match data_type {
                DataType::Null => Arc::new(NullArray::new(rows)),
                DataType::Boolean => {
                    let values: Vec<_> = (0..rows).map(|_| self.below(2) == 0).collect();
                    Arc::new(BooleanArray::new(values.into(), self.nulls(rows)))
                }
                DataType::FixedSizeBinary(width) => self.fixed(data_type, *width as usize, rows),
                DataType::Utf8 => {
                    let mut builder = StringBuilder::new();
                    (0..rows).for_each(|_| builder.append_option(self.text()));
                    Arc::new(builder.finish())
                }
                DataType::LargeUtf8 => {
                    let mut builder = LargeStringBuilder::new();
                    (0..rows).for_each(|_| builder.append_option(self.text()));
                    Arc::new(builder.finish())
                }
                DataType::Binary => self.binary::<i32>(rows),
                DataType::LargeBinary => self.binary::<i64>(rows),
                DataType::List(child) => self.list::<i32>(child, rows),
                DataType::LargeList(child) => self.list::<i64>(child, rows),
                DataType::FixedSizeList(child, length) => {
                    let values = self.array(child.data_type(), rows * *length as usize);
                    let nulls = self.nulls(rows);
                    Arc::new(FixedSizeListArray::new(
                        child.clone(),
                        *length,
                        values,
                        nulls,
                    ))
                }
                DataType::Map(entries, _) => {
                    let offsets = self.offsets(rows);
                    let DataType::Struct(fields) = entries.data_type() else {
                        unreachable!("entries are structs")
                    };
                    let count = offsets[rows] as usize;
                    let keys: StringArray = (0..count).map(|key| Some(key.to_string())).collect();
                    let values = self.array(fields[1].data_type(), count);
                    let pairs =
                        StructArray::new(fields.clone(), vec![Arc::new(keys), values], None);
                    let nulls = self.nulls(rows);
                    Arc::new(MapArray::new(entries.clone(), offsets, pairs, nulls, false))
                }
                DataType::Struct(fields) => {
                    let columns = fields
                        .iter()
                        .map(|field| self.array(field.data_type(), rows))
                        .collect();
                    Arc::new(StructArray::new(fields.clone(), columns, self.nulls(rows)))
                }
                other => unreachable!("{other} is not asked for"),
            }
        }

        fn fixed(&mut self, data_type: &DataType, width: usize, rows: usize) -> ArrayRef {
            let values = Buffer::from(&self.bytes(rows * width)[..]);
            let data = ArrayData::builder(data_type.clone())
                .len(rows)
                .add_buffer(values)
                .nulls(self.nulls(rows));
            make_array(data.build().expect("any bytes are values"))
        }

        fn text(&mut self) -> Option<String> {
            (self.below(4) > 0).then(|| "aé€😀".chars().cycle().take(self.below(9)).collect())
        }

        fn binary<O: OffsetSizeTrait>(&mut self, rows: usize) -> ArrayRef {
            let offsets = self.offsets::<O>(rows);
            let values = self.bytes(offsets[rows].as_usize());
            Arc::new(GenericBinaryArray::new(
                offsets,
                values.into(),
                self.nulls(rows),
            ))
        }

        fn list<O: OffsetSizeTrait>(&mut self, child: &FieldRef, rows: usize) -> ArrayRef {
            let offsets = self.offsets::<O>(rows);
            let values = self.array(child.data_type(), offsets[rows].as_usize());
            let nulls = self.nulls(rows);
            Arc::new(GenericListArray::new(child.clone(), offsets, values, nulls))
        }
    }

    fn flat_type() -> impl Strategy<Value = DataType> {
        let unit = || {
            prop::sample::select(vec![
                TimeUnit::Second,
                TimeUnit::Millisecond,
                TimeUnit::Microsecond,
                TimeUnit::Nanosecond,
            ])
        };
        prop_oneof![
            prop::sample::select(vec![
                DataType::Null,
                DataType::Boolean,
                DataType::Int8,
                DataType::Int16,
                DataType::Int32,
                DataType::Int64,
                DataType::UInt8,
                DataType::UInt16,
                DataType::UInt32,
                DataType::UInt64,
                DataType::Date32,
                DataType::Date64,
                DataType::Time32(TimeUnit::Millisecond),
                DataType::Time64(TimeUnit::Nanosecond),
                DataType::Interval(IntervalUnit::YearMonth),
                DataType::Interval(IntervalUnit::DayTime),
                DataType::Interval(IntervalUnit::MonthDayNano),
                DataType::Decimal32(9, 2),
                DataType::Decimal64(18, 2),
                DataType::Decimal128(38, 10),
                DataType::Decimal256(76, -2),
            ]),
            prop::sample::select(vec![
                DataType::Utf8,
                DataType::LargeUtf8,
                DataType::Binary,
                DataType::LargeBinary,
                DataType::FixedSizeBinary(5),
                DataType::FixedSizeBinary(16),
            ]),
            unit().prop_map(|unit| DataType::Timestamp(unit, None)),
            unit().prop_map(|unit| DataType::Timestamp(unit, Some("+02:00".into()))),
            unit().prop_map(DataType::Duration),
        ]
    }

    fn any_type() -> impl Strategy<Value = DataType> {
        flat_type().prop_recursive(3, 12, 3, |inner| {
            let child = inner
                .clone()
                .prop_map(|inner| Arc::new(Field::new("item", inner, true)));
            let map = inner.clone().prop_map(|inner| {
                let pair = [
                    Field::new("keys", DataType::Utf8, false),
                    Field::new("values", inner, true),
                ];
                let pair = DataType::Struct(Fields::from_iter(pair));
                DataType::Map(Arc::new(Field::new("entries", pair, false)), false)
            });
            let structure = prop::collection::vec(inner, 1..4).prop_map(|inner| {
                let fields = inner.into_iter().enumerate();
                DataType::Struct(
                    fields
                        .map(|(index, inner)| Field::new(format!("f{index}"), inner, true))
                        .collect(),
                )
            });
            prop_oneof![
                child.clone().prop_map(DataType::List),
                child.clone().prop_map(DataType::LargeList),
                (child, 1..4).prop_map(|(child, length)| DataType::FixedSizeList(child, length)),
                map,
                structure,
            ]
        })
    }

    fn stream(schema: &SchemaRef, batches: &[RecordBatch]) -> Vec<u8> {
        let mut out = Vec::new();
        SchemaMessage::new(schema)
            .expect("types of answers")
            .write_stream(batches, &mut out);
        out
    }

    fn read(bytes: Vec<u8>) -> (SchemaRef, Vec<RecordBatch>) {
        let reader = StreamReader::try_new(Cursor::new(bytes), None).expect("a schema");
        let schema = reader.schema();
        (
            schema,
            reader
                .collect::<std::result::Result<_, _>>()
                .expect("batches"),
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_by_arrow(
            types in prop::collection::vec(any_type(), 0..5),
            rows in prop::collection::vec(0..20_usize, 0..3),
            seed in any::<u64>(),
        ) {
            let fields = types.iter().enumerate();
            let fields: Vec<_> = fields.map(|(index, inner)| Field::new(format!("c{index}"), inner.clone(), true)).collect();
            let schema = Arc::new(Schema::new(fields));
            let mut filler = Filler(seed);
            let batches: Vec<_> = rows
                .into_iter()
                .map(|rows| {
                    let columns = types.iter().map(|inner| filler.array(inner, rows)).collect();
                    let options = RecordBatchOptions::new().with_row_count(Some(rows));
                    RecordBatch::try_new_with_options(schema.clone(), columns, &options).expect("valid")
                })
                .collect();
            let (read_schema, read_batches) = read(stream(&schema, &batches));
            prop_assert_eq!(read_schema, schema);
            prop_assert_eq!(read_batches, batches);
        }
    }

    fn row() -> RecordBatch {
        let price = Decimal128Array::from(vec![12_345])
            .with_precision_and_scale(15, 2)
            .expect("valid");
        let columns: [(&str, ArrayRef); 3] = [
            ("k", Arc::new(Int64Array::from(vec![1]))),
            ("p", Arc::new(price)),
            ("s", Arc::new(StringArray::from(vec!["1-URGENT"]))),
        ];
        RecordBatch::try_from_iter(columns).expect("valid")
    }

    #[test]
    fn values_are_used_where_they_lie_in_the_stream() {
        let batch = row();
        let mut bytes = Buffer::from(&stream(&batch.schema(), std::slice::from_ref(&batch))[..]);
        let mut decoder = StreamDecoder::new().with_require_alignment(true);
        let decoded = decoder
            .decode(&mut bytes)
            .expect("aligned")
            .expect("a batch");
        assert_eq!(decoded, batch);
    }

    #[test]
    fn an_answer_of_one_row_is_small() {
        let batch = row();
        let mut out = Vec::new();
        let message = SchemaMessage::new(&batch.schema()).expect("valid");
        message.write_batch(&batch, &mut out);
        // 96 bytes and 16 for each of 3 nodes and 7 buffers; 16 for each of 4 buffers that are not empty.
        assert_eq!(out.len(), 96 + 16 * (3 + 7) + 16 * 4);
    }

    #[test]
    fn dictionaries_are_refused_with_the_column() {
        let dictionary = DictionaryArray::<Int32Type>::from_iter(["a"]);
        let schema = Schema::new(vec![Field::new("d", dictionary.data_type().clone(), true)]);
        let error = SchemaMessage::new(&Arc::new(schema)).expect_err("a dictionary");
        assert!(error.message.starts_with("column \"d\""), "{error}");
    }

    #[test]
    #[should_panic(expected = "a batch of another schema")]
    fn a_batch_of_another_schema_is_our_mistake() {
        let other: ArrayRef = Arc::new(Int32Array::from(vec![1]));
        let other = RecordBatch::try_from_iter([("k", other)]).expect("valid");
        SchemaMessage::new(&row().schema())
            .expect("valid")
            .write_batch(&other, &mut Vec::new());
    }
}

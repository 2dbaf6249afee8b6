//! Values of a leaf column to an Arrow array.
//!
//! The usual types are built here, from the bytes that pages hold. All others are written as one small
//! page in the PLAIN encoding and read by `parquet`, which knows how every type becomes Arrow's.

use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, BooleanBuilder, PrimitiveBuilder, StringBuilder};
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef};
use arrow_buffer::NullBuffer;
use arrow_schema::{DataType, TimeUnit};
use parquet::basic::{Encoding, Type as Physical};
use parquet::column::page::Page;

use super::whole::{Chunk, Item, read_root};
use crate::column::{Column, Decode, Unit, ValueType};
use crate::error::{ErrorKind, LookupError, Result};
use crate::file::File;
use crate::memory::Charge;
use crate::page::values::DecodedPage;

/// Rows of one page.
pub(super) struct Part<'a> {
    pub page: Arc<DecodedPage>,
    /// The page's first row in the row group.
    pub first_row: u32,
    /// The wanted rows in the row group.
    pub rows: &'a [u32],
}

fn each(parts: &[Part<'_>], mut each: impl FnMut(Option<&[u8]>) -> Result<()>) -> Result<()> {
    for part in parts {
        for row in part.rows {
            each(part.page.value(row - part.first_row)?.as_deref())?;
        }
    }
    Ok(())
}

/// Bytes of all values. Refuses those that have more than `bytes_max` bytes together: a dictionary may have long
/// ones, and pages each of them a thousand times.
fn bytes_of(parts: &[Part<'_>], bytes_max: usize) -> Result<usize> {
    // What no array of Arrow's with 32-bit offsets holds.
    let bytes_max = bytes_max.min(i32::MAX as usize);
    let mut bytes = 0;
    each(parts, |value| {
        bytes += value.map_or(0, <[u8]>::len);
        if bytes > bytes_max {
            return Err(LookupError::new(
                ErrorKind::TooMuch,
                format!(
                    "the rows have more than {bytes_max} bytes in it: select fewer columns, narrow the predicate or \
                     set a limit"
                ),
            ));
        }
        Ok(())
    })?;
    Ok(bytes)
}

/// Bytes of memory of a value of an array, its bytes aside: the widest fixed one, or an offset, and its bit.
const VALUE_BYTES: usize = 32;

/// Copies of values that are there while `parquet` makes an array of them: a page, its buffer, the array, and what
/// vectors have in reserve.
const COPIES_BY_PARQUET: usize = 5;

/// The values of `parts`, `count` in all and of no more than `bytes_max` bytes, charged to `memory`.
pub(super) fn build(
    file: &File,
    column: &Column,
    parts: &[Part<'_>],
    count: usize,
    bytes_max: usize,
    memory: &mut Charge,
) -> Result<ArrayRef> {
    let is_bytes = matches!(
        column.physical(),
        Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY
    );
    let bytes = if is_bytes {
        bytes_of(parts, bytes_max)?
    } else {
        0
    };
    let is_built_here = matches!(column.field.data_type(), DataType::Utf8 | DataType::Binary);
    let copies = if is_built_here { 1 } else { COPIES_BY_PARQUET };
    memory.add(((bytes + count * VALUE_BYTES) * copies) as u64)?;
    let data_type = column.field.data_type();
    let physical = column.physical();
    macro_rules! primitive {
        ($type:ty, $value:expr) => {
            primitive::<$type>(column, parts, count, $value)
        };
    }
    let int32 = |bytes: &[u8]| Some(i32::from_le_bytes(bytes.try_into().ok()?));
    let int64 = |bytes: &[u8]| Some(i64::from_le_bytes(bytes.try_into().ok()?));
    match (data_type, physical) {
        (DataType::Int8, Physical::INT32) => primitive!(Int8Type, |b| int32(b).map(|v| v as i8)),
        (DataType::Int16, Physical::INT32) => primitive!(Int16Type, |b| int32(b).map(|v| v as i16)),
        (DataType::Int32, Physical::INT32) => primitive!(Int32Type, int32),
        (DataType::Int64, Physical::INT64) => primitive!(Int64Type, int64),
        (DataType::UInt8, Physical::INT32) => primitive!(UInt8Type, |b| int32(b).map(|v| v as u8)),
        (DataType::UInt16, Physical::INT32) => {
            primitive!(UInt16Type, |b| int32(b).map(|v| v as u16))
        }
        (DataType::UInt32, Physical::INT32) => {
            primitive!(UInt32Type, |b| int32(b).map(i32::cast_unsigned))
        }
        (DataType::UInt64, Physical::INT64) => {
            primitive!(UInt64Type, |b| int64(b).map(i64::cast_unsigned))
        }
        (DataType::Date32, Physical::INT32) => primitive!(Date32Type, int32),
        (DataType::Float32, Physical::FLOAT) => {
            primitive!(Float32Type, |b| Some(f32::from_le_bytes(
                b.try_into().ok()?
            )))
        }
        (DataType::Float64, Physical::DOUBLE) => {
            primitive!(Float64Type, |b| Some(f64::from_le_bytes(
                b.try_into().ok()?
            )))
        }
        (DataType::Timestamp(unit, _), Physical::INT64) if has_unit(column, *unit) => match unit {
            TimeUnit::Millisecond => primitive!(TimestampMillisecondType, int64),
            TimeUnit::Microsecond => primitive!(TimestampMicrosecondType, int64),
            TimeUnit::Nanosecond => primitive!(TimestampNanosecondType, int64),
            TimeUnit::Second => through_parquet(file, column, parts, count),
        },
        (DataType::Decimal128(_, _), _) if is_decimal(column) => {
            let decode = column.decode;
            primitive!(Decimal128Type, |b| match decode {
                Decode::DecimalWide => decode.wide(b),
                _ => decode.narrow(b).map(i128::from),
            })
        }
        // `parquet` would let what does not fit wrap around.
        (DataType::Timestamp(TimeUnit::Nanosecond, _), Physical::INT96) => {
            let mut builder = PrimitiveBuilder::<TimestampNanosecondType>::with_capacity(count)
                .with_data_type(data_type.clone());
            each(parts, |value| {
                let nanoseconds = value.map(|bytes| {
                    let wide = column.decode.wide(bytes)?;
                    i64::try_from(wide).ok()
                });
                builder.append_option(match nanoseconds {
                    Some(None) => {
                        return Err(LookupError::unsupported(
                            "a twelve-byte timestamp lies outside of the years 1677 to 2262, which \
                             nanoseconds reach",
                        ));
                    }
                    value => value.flatten(),
                });
                Ok(())
            })?;
            Ok(Arc::new(builder.finish()))
        }
        (DataType::Boolean, Physical::BOOLEAN) => {
            let mut builder = BooleanBuilder::with_capacity(count);
            each(parts, |value| {
                builder.append_option(value.map(|bytes| bytes.first() == Some(&1)));
                Ok(())
            })?;
            Ok(Arc::new(builder.finish()))
        }
        (DataType::Utf8, Physical::BYTE_ARRAY) => {
            let mut builder = StringBuilder::with_capacity(count, bytes);
            each(parts, |value| {
                match value {
                    Some(bytes) => builder.append_value(
                        std::str::from_utf8(bytes)
                            .map_err(|_| LookupError::corrupt("a text is not UTF-8"))?,
                    ),
                    None => builder.append_null(),
                }
                Ok(())
            })?;
            Ok(Arc::new(builder.finish()))
        }
        (DataType::Binary, Physical::BYTE_ARRAY) => {
            let mut builder = BinaryBuilder::with_capacity(count, bytes);
            each(parts, |value| {
                builder.append_option(value);
                Ok(())
            })?;
            Ok(Arc::new(builder.finish()))
        }
        _ => through_parquet(file, column, parts, count),
    }
}

fn has_unit(column: &Column, unit: TimeUnit) -> bool {
    let ValueType::Timestamp { unit: own, .. } = column.value_type else {
        return false;
    };
    matches!(
        (own, unit),
        (Unit::Milliseconds, TimeUnit::Millisecond)
            | (Unit::Microseconds, TimeUnit::Microsecond)
            | (Unit::Nanoseconds, TimeUnit::Nanosecond)
    )
}

/// Whether the array's type is the file's: it may be one of Arrow's that only the schema in the
/// file's metadata names.
fn is_decimal(column: &Column) -> bool {
    let ValueType::Decimal { precision, scale } = column.value_type else {
        return false;
    };
    *column.field.data_type() == DataType::Decimal128(precision as u8, scale as i8)
}

fn primitive<T: ArrowPrimitiveType>(
    column: &Column,
    parts: &[Part<'_>],
    count: usize,
    value_of: impl Fn(&[u8]) -> Option<T::Native>,
) -> Result<ArrayRef> {
    let mut builder = PrimitiveBuilder::<T>::with_capacity(count)
        .with_data_type(column.field.data_type().clone());
    each(parts, |value| {
        match value {
            Some(bytes) => builder.append_value(value_of(bytes).ok_or_else(|| {
                LookupError::corrupt(
                    "a value has a wrong length, or is no number of this precision",
                )
            })?),
            None => builder.append_null(),
        }
        Ok(())
    })?;
    Ok(Arc::new(builder.finish()))
}

/// By `parquet`: the values as one small page.
fn through_parquet(
    file: &File,
    column: &Column,
    parts: &[Part<'_>],
    count: usize,
) -> Result<ArrayRef> {
    let (mut present, mut values) = (Vec::with_capacity(count), Vec::new());
    let mut booleans = Vec::new();
    each(parts, |value| {
        present.push(value.is_some());
        if let Some(bytes) = value {
            match (column.physical(), column.width) {
                (Physical::BOOLEAN, _) => booleans.push(bytes.first() == Some(&1)),
                (_, Some(_)) => values.extend_from_slice(bytes),
                (_, None) => {
                    values.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                    values.extend_from_slice(bytes);
                }
            }
        }
        Ok(())
    })?;
    for group in booleans.chunks(8) {
        let bits = group.iter().enumerate();
        values.push(bits.fold(0, |byte, (bit, value)| byte | u8::from(*value) << bit));
    }
    let mut page = Vec::new();
    if column.max_definition > 0 {
        let levels = levels(&present, column.max_definition);
        page.extend_from_slice(&(levels.len() as u32).to_le_bytes());
        page.extend_from_slice(&levels);
    }
    page.extend_from_slice(&values);
    let page = Page::DataPage {
        buf: page.into(),
        num_values: count as u32,
        encoding: Encoding::PLAIN,
        def_level_encoding: Encoding::RLE,
        rep_level_encoding: Encoding::RLE,
        statistics: None,
    };
    let (decoded, leaf) = file.decoded(column);
    let chunk = Chunk {
        leaf,
        items: vec![Item::Here {
            page: Box::new(page),
            rows: Some(count as u32),
        }],
    };
    let root = read_root(
        &decoded.metadata,
        &decoded.schema,
        &[leaf],
        vec![chunk],
        count,
        None,
    )?;
    Ok(leaf_of(root))
}

/// Levels of values that are there, and of ones that are not: one level below.
fn levels(present: &[bool], max: i16) -> Vec<u8> {
    let max = max as u16;
    let bytes = (u16::BITS - max.leading_zeros()).div_ceil(8) as usize;
    let mut levels = Vec::new();
    let mut rest = present;
    while let Some(first) = rest.first() {
        let run = rest.iter().take_while(|value| *value == first).count();
        let mut head = (run as u32) << 1;
        while head >= 0x80 {
            levels.push(head as u8 | 0x80);
            head >>= 7;
        }
        levels.push(head as u8);
        let level = if *first { max } else { max - 1 };
        levels.extend_from_slice(&level.to_le_bytes()[..bytes]);
        rest = &rest[run..];
    }
    levels
}

/// The one leaf of nested structures, NULL where one of them is.
fn leaf_of(mut array: ArrayRef) -> ArrayRef {
    let mut nulls: Option<NullBuffer> = None;
    while let DataType::Struct(_) = array.data_type() {
        nulls = NullBuffer::union(nulls.as_ref(), array.nulls());
        let structure = array
            .as_any()
            .downcast_ref::<arrow_array::StructArray>()
            .expect("its type says so");
        array = Arc::clone(structure.column(0));
    }
    let Some(nulls) = nulls.filter(|nulls| nulls.null_count() > 0) else {
        return array;
    };
    let nulls = NullBuffer::union(Some(&nulls), array.nulls());
    let data = array.to_data().into_builder().nulls(nulls).build();
    arrow_array::make_array(data.expect("only its NULLs changed"))
}

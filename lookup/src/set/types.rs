//! Types that hold the values of two types, and arrays in them.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, GenericListArray, MapArray, OffsetSizeTrait, StructArray, new_null_array,
};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, FieldRef, TimeUnit};

use crate::error::{LookupError, Result};

/// The field that holds the values of both.
pub(super) fn widened(one: &FieldRef, other: &FieldRef) -> Result<FieldRef> {
    let nullable = one.is_nullable() || other.is_nullable();
    let data_type = wider(one.data_type(), other.data_type()).ok_or_else(|| {
        LookupError::invalid(format!(
            "column {} is {} in one file and {} in another, which do not go together: select other \
             columns, or name the files of one kind",
            one.name(),
            one.data_type(),
            other.data_type()
        ))
    })?;
    Ok(Arc::new(
        Field::new(one.name(), data_type, nullable).with_metadata(one.metadata().clone()),
    ))
}

fn wider(one: &DataType, other: &DataType) -> Option<DataType> {
    use DataType::{
        Binary, Date32, Date64, Dictionary, Float32, Float64, Int64, LargeBinary, LargeUtf8, Null,
        Timestamp, Utf8, Utf8View,
    };
    if one == other {
        return Some(one.clone());
    }
    if one.is_integer() && other.is_integer() {
        return Some(wider_integer(one, other));
    }
    if let (Some((precision, scale)), Some((more, other_scale))) = (decimal(one), decimal(other)) {
        return Some(wider_decimal(
            (precision - scale).max(more - other_scale),
            scale.max(other_scale),
        ));
    }
    Some(match (one, other) {
        (DataType::Struct(one), DataType::Struct(other)) => {
            let mut fields: Vec<FieldRef> = Vec::with_capacity(one.len());
            for field in one {
                fields.push(match other.find(field.name()) {
                    Some((_, more)) => widened(field, more).ok()?,
                    None => Arc::new(field.as_ref().clone().with_nullable(true)),
                });
            }
            for field in other
                .iter()
                .filter(|field| one.find(field.name()).is_none())
            {
                fields.push(Arc::new(field.as_ref().clone().with_nullable(true)));
            }
            DataType::Struct(fields.into())
        }
        (DataType::List(one), DataType::List(other)) => DataType::List(widened(one, other).ok()?),
        (
            DataType::List(one) | DataType::LargeList(one),
            DataType::List(other) | DataType::LargeList(other),
        ) => DataType::LargeList(widened(one, other).ok()?),
        (DataType::Map(one, sorted), DataType::Map(other, also)) => {
            DataType::Map(widened(one, other).ok()?, *sorted && *also)
        }
        (Null, other) => other.clone(),
        (one, Null) => one.clone(),
        (Float32 | DataType::Float16, Float32 | DataType::Float16) => Float32,
        (one, other)
            if (one.is_floating() || one.is_integer())
                && (other.is_floating() || other.is_integer()) =>
        {
            Float64
        }
        (one, other) if decimal(one).is_some() && other.is_floating() => Float64,
        (one, other) if one.is_floating() && decimal(other).is_some() => Float64,
        (number, other) | (other, number) if decimal(number).is_some() && other.is_integer() => {
            let (precision, scale) = decimal(number)?;
            wider_decimal((precision - scale).max(20), scale)
        }
        (Utf8 | LargeUtf8 | Utf8View, Utf8 | LargeUtf8 | Utf8View) => LargeUtf8,
        (Binary | LargeBinary, Binary | LargeBinary) => LargeBinary,
        (Dictionary(_, value), other) => return wider(value, other),
        (one, Dictionary(_, value)) => return wider(one, value),
        (Date32, Date64) | (Date64, Date32) => Date64,
        (
            DataType::Time32(one) | DataType::Time64(one),
            DataType::Time32(other) | DataType::Time64(other),
        ) => match finer(*one, *other) {
            unit @ (TimeUnit::Second | TimeUnit::Millisecond) => DataType::Time32(unit),
            unit => DataType::Time64(unit),
        },
        (Date32, Timestamp(unit, None)) | (Timestamp(unit, None), Date32) => Timestamp(*unit, None),
        (Timestamp(one, zone), Timestamp(other, other_zone))
            if zone.is_some() == other_zone.is_some() =>
        {
            Timestamp(finer(*one, *other), zone.clone())
        }
        (DataType::Boolean, other) | (other, DataType::Boolean) if other.is_integer() => Int64,
        _ => return None,
    })
}

/// Digits, and those behind the point.
fn decimal(data_type: &DataType) -> Option<(i16, i16)> {
    match data_type {
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => {
            Some((i16::from(*precision), i16::from(*scale)))
        }
        _ => None,
    }
}

/// For so many digits before the point, and behind it.
fn wider_decimal(whole: i16, scale: i16) -> DataType {
    let precision = (whole + scale).clamp(1, 76) as u8;
    if precision <= 38 {
        DataType::Decimal128(precision, scale as i8)
    } else {
        DataType::Decimal256(precision, scale as i8)
    }
}

fn wider_integer(one: &DataType, other: &DataType) -> DataType {
    let bits = |data_type: &DataType| data_type.primitive_width().unwrap_or(8) * 8;
    let signed = |data_type: &DataType| data_type.is_signed_integer();
    let (most, both_signed, both_unsigned) = (
        bits(one).max(bits(other)),
        signed(one) && signed(other),
        !signed(one) && !signed(other),
    );
    let unsigned_bits = [one, other]
        .into_iter()
        .filter(|data_type| !signed(data_type))
        .map(bits)
        .max()
        .unwrap_or(0);
    match () {
        () if both_unsigned && most == 64 => DataType::UInt64,
        () if both_unsigned && most == 32 => DataType::UInt32,
        () if both_unsigned => DataType::UInt16,
        () if both_signed && most <= 16 => DataType::Int16,
        () if both_signed && most <= 32 => DataType::Int32,
        () if both_signed => DataType::Int64,
        // No integer of Arrow's holds both.
        () if unsigned_bits == 64 => DataType::Decimal128(20, 0),
        () if unsigned_bits == 32 || most == 64 => DataType::Int64,
        () => DataType::Int32,
    }
}

fn finer(one: TimeUnit, other: TimeUnit) -> TimeUnit {
    one.max(other)
}

/// An array in a wider type.
pub(super) fn conform(array: &ArrayRef, wide: &DataType) -> Result<ArrayRef> {
    if array.data_type() == wide {
        return Ok(Arc::clone(array));
    }
    let wrong = |error: arrow_schema::ArrowError| LookupError::invalid(error.to_string());
    match (array.data_type(), wide) {
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let own: &StructArray = array.as_any().downcast_ref().expect("its type says so");
            let columns = fields
                .iter()
                .map(|field| match own.column_by_name(field.name()) {
                    Some(column) => conform(column, field.data_type()),
                    None => Ok(new_null_array(field.data_type(), own.len())),
                })
                .collect::<Result<Vec<ArrayRef>>>()?;
            let nulls = own.nulls().cloned();
            StructArray::try_new_with_length(fields.clone(), columns, nulls, own.len())
                .map(|array| Arc::new(array) as ArrayRef)
                .map_err(wrong)
        }
        (DataType::List(own), DataType::LargeList(field)) if own != field => {
            let large = conform(array, &DataType::LargeList(Arc::clone(own)))?;
            conform(&large, wide)
        }
        (DataType::List(_), DataType::List(field)) => conform_list::<i32>(array, field),
        (DataType::LargeList(_), DataType::LargeList(field)) => conform_list::<i64>(array, field),
        (DataType::Map(_, _), DataType::Map(field, sorted)) => {
            let own: &MapArray = array.as_any().downcast_ref().expect("its type says so");
            let entries: ArrayRef = Arc::new(own.entries().clone());
            let entries = conform(&entries, field.data_type())?;
            let entries: &StructArray = entries.as_any().downcast_ref().expect("a structure");
            let (offsets, nulls) = (own.offsets().clone(), own.nulls().cloned());
            MapArray::try_new(Arc::clone(field), offsets, entries.clone(), nulls, *sorted)
                .map(|array| Arc::new(array) as ArrayRef)
                .map_err(wrong)
        }
        _ => {
            let strict = CastOptions {
                safe: false,
                ..CastOptions::default()
            };
            cast_with_options(array, wide, &strict).map_err(wrong)
        }
    }
}

fn conform_list<O: OffsetSizeTrait>(array: &ArrayRef, field: &FieldRef) -> Result<ArrayRef> {
    let own: &GenericListArray<O> = array.as_any().downcast_ref().expect("its type says so");
    let values = conform(own.values(), field.data_type())?;
    let (offsets, nulls) = (own.offsets().clone(), own.nulls().cloned());
    GenericListArray::try_new(Arc::clone(field), offsets, values, nulls)
        .map(|array| Arc::new(array) as ArrayRef)
        .map_err(|error| LookupError::invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_widen_and_never_lose_a_value() {
        use DataType::{Decimal128, Float64, Int16, Int32, Int64, UInt8, UInt32, UInt64, Utf8};
        for (one, other, wide) in [
            (Int32, Int64, Some(Int64)),
            (UInt8, Int16, Some(Int32)),
            (UInt32, Int32, Some(Int64)),
            (UInt64, Int64, Some(Decimal128(20, 0))),
            (Int32, DataType::Float32, Some(Float64)),
            (
                Decimal128(10, 2),
                Decimal128(12, 4),
                Some(Decimal128(12, 4)),
            ),
            (Utf8, Int32, None),
        ] {
            assert_eq!(wider(&one, &other), wide, "{one} {other}");
            assert_eq!(wider(&other, &one), wide, "{other} {one}");
        }
    }
}

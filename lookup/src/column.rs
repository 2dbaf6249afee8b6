//! A leaf column of a file: what its values are and how they compare.
//!
//! Every type that compares is mapped to one of three orders: 64-bit integers, 128-bit integers or
//! byte strings. The maps keep the order, so intervals, statistics, pages, dictionaries and key
//! indexes all speak of the same few things.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow_schema::{DataType, FieldRef};
use parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type as Physical};
use parquet::schema::types::{ColumnDescPtr, ColumnDescriptor};

/// What a leaf's values mean, as the file's schema says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// Booleans.
    Boolean,
    /// Integers of so many bits.
    Integer {
        /// 8, 16, 32 or 64.
        bits: u8,
        /// Whether they have a sign.
        signed: bool,
    },
    /// Floats: 16, 32 or 64 bits.
    Float {
        /// Their bits.
        bits: u8,
    },
    /// Decimals: an integer of so many digits, of which `scale` are behind the point.
    Decimal {
        /// Digits.
        precision: u32,
        /// Of them, behind the point.
        scale: u32,
    },
    /// Days since 1970-01-01.
    Date,
    /// Time of the day.
    Time(Unit),
    /// Time since 1970-01-01.
    Timestamp {
        /// Its unit.
        unit: Unit,
        /// Whether it is an instant (UTC), or a reading of a clock of unknown zone.
        is_instant: bool,
    },
    /// Old timestamps of twelve bytes: nanoseconds of a Julian day.
    Int96,
    /// UTF-8, compared bytewise.
    Text,
    /// Bytes, compared bytewise.
    Binary,
    /// Sixteen bytes, written as UUID.
    Uuid,
    /// Values without an order, by the name of their type.
    Unordered(&'static str),
}

/// A unit of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// 1/1,000 s.
    Milliseconds,
    /// 1/1,000,000 s.
    Microseconds,
    /// 1/1,000,000,000 s.
    Nanoseconds,
}

impl Unit {
    /// How many there are in a second.
    pub fn per_second(self) -> i64 {
        match self {
            Unit::Milliseconds => 1_000,
            Unit::Microseconds => 1_000_000,
            Unit::Nanoseconds => 1_000_000_000,
        }
    }

    fn of(unit: &TimeUnit) -> Self {
        match unit {
            TimeUnit::MILLIS => Unit::Milliseconds,
            TimeUnit::MICROS => Unit::Microseconds,
            TimeUnit::NANOS => Unit::Nanoseconds,
        }
    }
}

/// The order that a column's values are compared in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As `i64` images: integers, booleans, dates, times, floats, decimals of up to 8 bytes.
    Narrow,
    /// As `i128`: longer decimals, twelve-byte timestamps.
    Wide,
    /// As byte strings.
    Bytes,
}

/// A value in its column's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// See [`Order::Narrow`].
    Narrow(i64),
    /// See [`Order::Wide`].
    Wide(i128),
    /// See [`Order::Bytes`].
    Bytes(&'a [u8]),
}

impl Key<'_> {
    /// Compares two keys of one order.
    pub fn compare(&self, other: &Key<'_>) -> Option<Ordering> {
        match (self, other) {
            (Key::Narrow(a), Key::Narrow(b)) => Some(a.cmp(b)),
            (Key::Wide(a), Key::Wide(b)) => Some(a.cmp(b)),
            (Key::Bytes(a), Key::Bytes(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }
}

/// How bytes of a value become its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decode {
    /// Little-endian `i32`.
    Int32,
    /// Little-endian `u32`.
    Unsigned32,
    /// Little-endian `i64`.
    Int64,
    /// Little-endian `u64`.
    Unsigned64,
    /// Little-endian half.
    Half,
    /// Little-endian `f32`.
    Single,
    /// Little-endian `f64`.
    Double,
    /// Big-endian two's complement of at most 8 bytes.
    DecimalNarrow,
    /// Big-endian two's complement of at most 16 bytes of significance.
    DecimalWide,
    /// Eight bytes of nanoseconds, four of the Julian day.
    Int96,
    /// One byte, 0 or 1.
    Boolean,
    /// As it is.
    Bytes,
}

/// Days from the Julian epoch to 1970-01-01.
const JULIAN_DAY_OF_EPOCH: i128 = 2_440_588;

/// Nanoseconds in a day.
const DAY_NS: i128 = 86_400_000_000_000;

/// The image of a float: the order of images is that of the floats, both zeros have one image, and
/// NaNs lie beyond both infinities.
pub fn image_of_float(value: f64) -> i64 {
    let value = if value == 0.0 { 0.0 } else { value };
    let bits = value.to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

/// A half as a double.
pub fn half_to_double(bits: u16) -> f64 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from(bits >> 10 & 0x1f);
    let fraction = f64::from(bits & 0x3ff);
    match exponent {
        0 => sign * fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => sign * f64::INFINITY,
        31 => f64::NAN,
        _ => sign * (1024.0 + fraction) * 2f64.powi(exponent - 25),
    }
}

impl Decode {
    /// The key of a value's bytes; `None` if they are not as long as such a value is, or mean none that
    /// can be compared.
    #[inline]
    pub fn key<'a>(self, bytes: &'a [u8]) -> Option<Key<'a>> {
        Some(match self {
            Decode::Bytes => Key::Bytes(bytes),
            Decode::DecimalWide | Decode::Int96 => Key::Wide(self.wide(bytes)?),
            _ => Key::Narrow(self.narrow(bytes)?),
        })
    }

    /// The same for [`Order::Narrow`].
    #[inline]
    pub fn narrow(self, bytes: &[u8]) -> Option<i64> {
        Some(match self {
            Decode::Int32 => i64::from(i32::from_le_bytes(bytes.try_into().ok()?)),
            Decode::Unsigned32 => i64::from(u32::from_le_bytes(bytes.try_into().ok()?)),
            Decode::Int64 => i64::from_le_bytes(bytes.try_into().ok()?),
            Decode::Unsigned64 => {
                (u64::from_le_bytes(bytes.try_into().ok()?) ^ (1 << 63)).cast_signed()
            }
            Decode::Half => {
                image_of_float(half_to_double(u16::from_le_bytes(bytes.try_into().ok()?)))
            }
            Decode::Single => image_of_float(f64::from(f32::from_le_bytes(bytes.try_into().ok()?))),
            Decode::Double => image_of_float(f64::from_le_bytes(bytes.try_into().ok()?)),
            Decode::DecimalNarrow => big_endian(bytes)? as i64,
            Decode::Boolean => match bytes {
                [byte] => i64::from(*byte != 0),
                _ => return None,
            },
            Decode::DecimalWide | Decode::Int96 | Decode::Bytes => return None,
        })
    }

    /// The same for [`Order::Wide`].
    pub fn wide(self, bytes: &[u8]) -> Option<i128> {
        match self {
            Decode::DecimalWide => big_endian(bytes),
            Decode::Int96 => {
                let bytes: &[u8; 12] = bytes.try_into().ok()?;
                let [nanoseconds @ .., a, b, c, d] = *bytes;
                let day = i128::from(i32::from_le_bytes([a, b, c, d])) - JULIAN_DAY_OF_EPOCH;
                Some(day * DAY_NS + i128::from(i64::from_le_bytes(nanoseconds)))
            }
            _ => None,
        }
    }

    /// The order of its keys.
    pub fn order(self) -> Order {
        match self {
            Decode::Bytes => Order::Bytes,
            Decode::DecimalWide | Decode::Int96 => Order::Wide,
            _ => Order::Narrow,
        }
    }

    /// Whether keys are images of floats.
    pub fn is_float(self) -> bool {
        matches!(self, Decode::Half | Decode::Single | Decode::Double)
    }
}

/// A big-endian two's complement of up to 16 bytes of significance; an empty one is 0.
fn big_endian(bytes: &[u8]) -> Option<i128> {
    let filler = match bytes.first() {
        Some(first) if first & 0x80 != 0 => 0xff,
        _ => 0,
    };
    let excess = bytes.len().saturating_sub(16);
    let (extension, significant) = bytes.split_at(excess);
    let fits = extension.iter().all(|byte| *byte == filler)
        && (excess == 0 || (significant[0] & 0x80 != 0) == (filler == 0xff));
    if !fits {
        return None;
    }
    let mut whole = [filler; 16];
    whole[16 - significant.len()..].copy_from_slice(significant);
    Some(i128::from_be_bytes(whole))
}

/// A leaf column of a file.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its place among the leaves of the file.
    pub leaf: usize,
    /// Place of the root column that it belongs to.
    pub root: usize,
    /// Dotted path.
    pub path: String,
    /// What its values mean.
    pub value_type: ValueType,
    /// How its bytes become keys.
    pub decode: Decode,
    /// Bytes of a value in the PLAIN encoding; `None` where they differ, and for booleans.
    pub width: Option<usize>,
    /// Level of a value that is there.
    pub max_definition: i16,
    /// Whether a row may have several values.
    pub is_repeated: bool,
    /// As Arrow has it.
    pub field: FieldRef,
    /// As `parquet` has it.
    pub descriptor: ColumnDescPtr,
}

impl Column {
    /// The leaf number `leaf` of a schema.
    pub fn new(leaf: usize, root: usize, field: FieldRef, descriptor: ColumnDescPtr) -> Self {
        let value_type = value_type_of(&descriptor);
        // Nobody knows the zone of these, so engines show them without one.
        let field = match field.data_type() {
            DataType::Timestamp(unit, Some(_)) if value_type == ValueType::Int96 => {
                let plain = DataType::Timestamp(*unit, None);
                Arc::new(field.as_ref().clone().with_data_type(plain))
            }
            _ => field,
        };
        Column {
            leaf,
            root,
            path: descriptor.path().string(),
            decode: decode_of(&value_type, &descriptor),
            width: width_of(&descriptor),
            value_type,
            max_definition: descriptor.max_def_level(),
            is_repeated: descriptor.max_rep_level() > 0,
            field,
            descriptor,
        }
    }

    /// The physical type.
    pub fn physical(&self) -> Physical {
        self.descriptor.physical_type()
    }
}

fn width_of(descriptor: &ColumnDescriptor) -> Option<usize> {
    match descriptor.physical_type() {
        Physical::BOOLEAN | Physical::BYTE_ARRAY => None,
        Physical::INT32 | Physical::FLOAT => Some(4),
        Physical::INT64 | Physical::DOUBLE => Some(8),
        Physical::INT96 => Some(12),
        Physical::FIXED_LEN_BYTE_ARRAY => usize::try_from(descriptor.type_length()).ok(),
    }
}

fn decode_of(value_type: &ValueType, descriptor: &ColumnDescriptor) -> Decode {
    let physical = descriptor.physical_type();
    match (physical, value_type) {
        (Physical::BOOLEAN, _) => Decode::Boolean,
        (Physical::INT32, ValueType::Integer { signed: false, .. }) => Decode::Unsigned32,
        (Physical::INT64, ValueType::Integer { signed: false, .. }) => Decode::Unsigned64,
        (Physical::INT32, _) => Decode::Int32,
        (Physical::INT64, _) => Decode::Int64,
        (Physical::INT96, _) => Decode::Int96,
        (Physical::FLOAT, _) => Decode::Single,
        (Physical::DOUBLE, _) => Decode::Double,
        (Physical::FIXED_LEN_BYTE_ARRAY, ValueType::Float { .. }) => Decode::Half,
        (Physical::FIXED_LEN_BYTE_ARRAY, ValueType::Decimal { .. })
            if descriptor.type_length() <= 8 =>
        {
            Decode::DecimalNarrow
        }
        (_, ValueType::Decimal { .. }) => Decode::DecimalWide,
        (Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY, _) => Decode::Bytes,
    }
}

fn value_type_of(descriptor: &ColumnDescriptor) -> ValueType {
    let decimal = || ValueType::Decimal {
        precision: descriptor.type_precision().max(0) as u32,
        scale: descriptor.type_scale().max(0) as u32,
    };
    let physical = descriptor.physical_type();
    if let Some(logical) = descriptor.logical_type_ref() {
        match logical {
            LogicalType::Integer(int) => {
                return ValueType::Integer {
                    bits: int.bit_width.clamp(8, 64) as u8,
                    signed: int.is_signed,
                };
            }
            LogicalType::Decimal(decimal) => {
                return ValueType::Decimal {
                    precision: decimal.precision.max(0) as u32,
                    scale: decimal.scale.max(0) as u32,
                };
            }
            LogicalType::Date => return ValueType::Date,
            LogicalType::Time(time) => return ValueType::Time(Unit::of(&time.unit)),
            LogicalType::Timestamp(timestamp) => {
                return ValueType::Timestamp {
                    unit: Unit::of(&timestamp.unit),
                    is_instant: timestamp.is_adjusted_to_u_t_c,
                };
            }
            LogicalType::Uuid => return ValueType::Uuid,
            LogicalType::Float16 => return ValueType::Float { bits: 16 },
            LogicalType::String | LogicalType::Json | LogicalType::Enum => {
                return ValueType::Text;
            }
            LogicalType::Bson => return ValueType::Binary,
            // Compared as the bytes that they are, as in pyarrow.
            LogicalType::Geometry(_) | LogicalType::Geography(_) => return ValueType::Binary,
            LogicalType::Variant(_) => return ValueType::Unordered("variant"),
            _ => {}
        }
    }
    match descriptor.converted_type() {
        ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON => ValueType::Text,
        ConvertedType::DECIMAL => decimal(),
        ConvertedType::DATE => ValueType::Date,
        ConvertedType::TIME_MILLIS => ValueType::Time(Unit::Milliseconds),
        ConvertedType::TIME_MICROS => ValueType::Time(Unit::Microseconds),
        ConvertedType::TIMESTAMP_MILLIS => ValueType::Timestamp {
            unit: Unit::Milliseconds,
            is_instant: true,
        },
        ConvertedType::TIMESTAMP_MICROS => ValueType::Timestamp {
            unit: Unit::Microseconds,
            is_instant: true,
        },
        ConvertedType::UINT_8 => unsigned(8),
        ConvertedType::UINT_16 => unsigned(16),
        ConvertedType::UINT_32 => unsigned(32),
        ConvertedType::UINT_64 => unsigned(64),
        ConvertedType::INT_8 => signed(8),
        ConvertedType::INT_16 => signed(16),
        ConvertedType::INT_32 => signed(32),
        ConvertedType::INT_64 => signed(64),
        ConvertedType::INTERVAL => ValueType::Unordered("interval"),
        _ => match physical {
            Physical::BOOLEAN => ValueType::Boolean,
            Physical::INT32 => signed(32),
            Physical::INT64 => signed(64),
            Physical::INT96 => ValueType::Int96,
            Physical::FLOAT => ValueType::Float { bits: 32 },
            Physical::DOUBLE => ValueType::Float { bits: 64 },
            Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY => ValueType::Binary,
        },
    }
}

fn signed(bits: u8) -> ValueType {
    ValueType::Integer { bits, signed: true }
}

fn unsigned(bits: u8) -> ValueType {
    ValueType::Integer {
        bits,
        signed: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_floats_are_ordered_as_the_floats_are() {
        let ordered = [
            f64::NEG_INFINITY,
            -1e300,
            -1.5,
            -f64::MIN_POSITIVE,
            0.0,
            f64::MIN_POSITIVE,
            1.5,
            1e300,
            f64::INFINITY,
        ];
        for pair in ordered.windows(2) {
            assert!(
                image_of_float(pair[0]) < image_of_float(pair[1]),
                "{pair:?}"
            );
        }
        assert_eq!(image_of_float(-0.0), image_of_float(0.0));
        assert!(image_of_float(f64::NAN) > image_of_float(f64::INFINITY));
        assert!(image_of_float(-f64::NAN) < image_of_float(f64::NEG_INFINITY));
    }

    #[test]
    fn halves_are_what_ieee_754_says() {
        for (bits, value) in [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, 5.960464477539063e-8),
            (0x0400, 6.103515625e-5),
            (0x7c00, f64::INFINITY),
        ] {
            assert_eq!(half_to_double(bits), value);
        }
        assert!(half_to_double(0x7e00).is_nan());
    }

    #[test]
    fn decimals_are_read_whatever_their_width() {
        assert_eq!(big_endian(&[]), Some(0));
        assert_eq!(big_endian(&[0xff]), Some(-1));
        assert_eq!(big_endian(&[0x01, 0x00]), Some(256));
        assert_eq!(big_endian(&[0xff; 20]), Some(-1));
        assert_eq!(big_endian(&[0x01; 20]), None);
        let mut wide = [0; 17];
        wide[1] = 0x80;
        assert_eq!(big_endian(&wide), None, "its sign is in the 17th byte");
    }
}

//! Literals to the types of the columns that they are compared with.
//!
//! A literal takes the column's type, as in DuckDB: one compared with 32-bit floats is rounded to such
//! a float. Where the column's type cannot hold it (1.5 for integers, a nanosecond for milliseconds),
//! the comparison stays exact: it is made between the two neighbours.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Timelike};
use half::f16;
use smallvec::{SmallVec, smallvec};

use super::intervals::{Bound, ByteInterval, Intervals, end_of_prefix, next_of};
use super::position::{Position, position};
use super::{Literal, Test};
use crate::column::{Column, Decode, Order, Unit, ValueType, image_of_float};
use crate::error::{LookupError, Result};

const DAY_NS: i128 = 86_400_000_000_000;

/// What `test` asks of the values of `column`.
///
/// # Errors
/// Invalid, if a literal is not of the column's type or the type has no order.
pub fn bind(column: &Column, test: &Test) -> Result<Bound> {
    let intervals = match test {
        Test::IsNull => return Ok(Bound::IsNull),
        Test::IsNotNull => return Ok(Bound::IsNotNull),
        _ if column.is_repeated => {
            return Err(LookupError::invalid(format!(
                "column {} has many values a row: compare a column that has one",
                column.path
            )));
        }
        Test::Equal(literal) => compare(column, literal, Comparison::Equal)?,
        Test::NotEqual(literal) => compare(column, literal, Comparison::NotEqual)?,
        Test::Less(literal) => compare(column, literal, Comparison::Less)?,
        Test::LessOrEqual(literal) => compare(column, literal, Comparison::LessOrEqual)?,
        Test::Greater(literal) => compare(column, literal, Comparison::Greater)?,
        Test::GreaterOrEqual(literal) => compare(column, literal, Comparison::GreaterOrEqual)?,
        Test::In(literals) => {
            let mut whole = Intervals::never(column.decode.order());
            for literal in literals {
                append(&mut whole, compare(column, literal, Comparison::Equal)?);
            }
            whole
        }
        Test::Prefix(literal) => prefix(column, literal)?,
    };
    Ok(Bound::Values(intervals.normalised()))
}

#[derive(Clone, Copy)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

fn append(whole: &mut Intervals, more: Intervals) {
    match (whole, more) {
        (Intervals::Narrow(whole), Intervals::Narrow(more)) => whole.extend(more),
        (Intervals::Wide(whole), Intervals::Wide(more)) => whole.extend(more),
        (Intervals::Bytes(whole), Intervals::Bytes(more)) => whole.extend(more),
        _ => unreachable!("a column has one order"),
    }
}

fn compare(column: &Column, literal: &Literal, comparison: Comparison) -> Result<Intervals> {
    let wrong = |wanted: &str| wrong_type(column, literal, wanted);
    match &column.value_type {
        ValueType::Unordered(name) => Err(LookupError::invalid(format!(
            "column {} holds {name} values, which do not compare: only IS NULL and IS NOT NULL do",
            column.path
        ))),
        ValueType::Boolean => {
            let value = match literal {
                Literal::Boolean(value) => *value,
                Literal::Text(text) if text.eq_ignore_ascii_case("true") => true,
                Literal::Text(text) if text.eq_ignore_ascii_case("false") => false,
                _ => return Err(wrong("true or false")),
            };
            let position = exactly(i128::from(value));
            Ok(integers(column, position, comparison))
        }
        ValueType::Integer { .. } => {
            let place = number(literal, 0).ok_or_else(|| wrong("an integer"))?;
            Ok(place.map_or_else(
                || without_order(column, comparison),
                |place| integers(column, place, comparison),
            ))
        }
        ValueType::Decimal { scale, .. } => {
            let place = number(literal, *scale).ok_or_else(|| wrong("a number"))?;
            Ok(place.map_or_else(
                || without_order(column, comparison),
                |place| integers(column, place, comparison),
            ))
        }
        ValueType::Float { bits } => {
            let value = float(literal).ok_or_else(|| wrong("a number"))?;
            let value = match bits {
                16 => f16::from_f64(value).to_f64(),
                32 => f64::from(value as f32),
                _ => value,
            };
            Ok(floats(column, value, comparison))
        }
        ValueType::Date => {
            let instant = match literal {
                Literal::Text(text) => Instant::parse(text),
                _ => None,
            }
            .filter(|instant| !instant.has_zone)
            .ok_or_else(|| wrong("a date such as 1995-01-31"))?;
            let place = divided(instant.nanoseconds, DAY_NS);
            Ok(integers(column, place, comparison))
        }
        ValueType::Time(unit) => {
            let time = match literal {
                Literal::Text(text) => parse_time(text),
                _ => None,
            }
            .ok_or_else(|| wrong("a time such as '12:34:56.789'"))?;
            let nanoseconds = i128::from(time.num_seconds_from_midnight()) * 1_000_000_000
                + i128::from(time.nanosecond());
            Ok(integers(column, in_unit(nanoseconds, *unit), comparison))
        }
        ValueType::Timestamp { unit, is_instant } => {
            let instant = timestamp(column, literal, *is_instant)?;
            Ok(integers(
                column,
                in_unit(instant.nanoseconds, *unit),
                comparison,
            ))
        }
        ValueType::Int96 => {
            let instant = timestamp(column, literal, false)?;
            Ok(integers(column, exactly(instant.nanoseconds), comparison))
        }
        ValueType::Text => match literal {
            Literal::Text(text) => Ok(strings(text.as_bytes(), comparison)),
            _ => Err(wrong("text in quotes")),
        },
        ValueType::Binary => match literal {
            Literal::Text(text) => Ok(strings(text.as_bytes(), comparison)),
            Literal::Binary(bytes) => Ok(strings(bytes, comparison)),
            _ => Err(wrong("bytes such as x'00ff', or text in quotes")),
        },
        ValueType::Uuid => {
            let bytes = match literal {
                Literal::Text(text) => parse_uuid(text),
                Literal::Binary(bytes) => <[u8; 16]>::try_from(&**bytes).ok(),
                _ => None,
            }
            .ok_or_else(|| wrong("a UUID such as '123e4567-e89b-12d3-a456-426614174000'"))?;
            Ok(strings(&bytes, comparison))
        }
    }
}

fn prefix(column: &Column, literal: &Literal) -> Result<Intervals> {
    let bytes = match (&column.value_type, literal) {
        (ValueType::Text | ValueType::Binary, Literal::Text(text)) => text.as_bytes(),
        (ValueType::Binary, Literal::Binary(bytes)) => bytes,
        _ => {
            return Err(LookupError::invalid(format!(
                "column {}: only text and binary columns have prefixes, and the prefix is text",
                column.path
            )));
        }
    };
    Ok(Intervals::Bytes(vec![(bytes.into(), end_of_prefix(bytes))]))
}

fn wrong_type(column: &Column, literal: &Literal, wanted: &str) -> LookupError {
    LookupError::invalid(format!(
        "column {} cannot be compared with {literal}: write {wanted}",
        column.path
    ))
}

fn exactly(value: i128) -> Position {
    Position::At {
        floor: value,
        is_exact: true,
    }
}

fn divided(value: i128, by: i128) -> Position {
    Position::At {
        floor: value.div_euclid(by),
        is_exact: value.rem_euclid(by) == 0,
    }
}

fn in_unit(nanoseconds: i128, unit: Unit) -> Position {
    divided(nanoseconds, 1_000_000_000 / i128::from(unit.per_second()))
}

/// Where a number lies; `Some(None)` for NaN, `None` if it is no number.
fn number(literal: &Literal, scale: u32) -> Option<Option<Position>> {
    match literal {
        Literal::Integer(value) if scale == 0 => Some(Some(exactly(i128::from(*value)))),
        Literal::Integer(value) => position(&value.to_string(), scale).map(Some),
        Literal::Number(digits) | Literal::Text(digits) => {
            if let Some(place) = position(digits, scale) {
                return Some(Some(place));
            }
            let value: f64 = match literal {
                Literal::Number(_) => digits.parse().ok()?,
                _ => return None,
            };
            Some(if value.is_nan() {
                None
            } else if value > 0.0 {
                Some(Position::Above)
            } else {
                Some(Position::Below)
            })
        }
        Literal::Boolean(_) | Literal::Binary(_) => None,
    }
}

fn float(literal: &Literal) -> Option<f64> {
    match literal {
        Literal::Integer(value) => Some(*value as f64),
        Literal::Number(digits) | Literal::Text(digits) => digits.parse().ok(),
        Literal::Boolean(_) | Literal::Binary(_) => None,
    }
}

/// A comparison with NaN: of all, only "not equal" holds.
fn without_order(column: &Column, comparison: Comparison) -> Intervals {
    match comparison {
        Comparison::NotEqual => everything(column.decode.order()),
        _ => Intervals::never(column.decode.order()),
    }
}

fn everything(order: Order) -> Intervals {
    match order {
        Order::Narrow => Intervals::Narrow(vec![(i64::MIN, i64::MAX)]),
        Order::Wide => Intervals::Wide(vec![(i128::MIN, i128::MAX)]),
        Order::Bytes => Intervals::Bytes(vec![(Box::default(), None)]),
    }
}

/// The integers that compare so with a number at `place`.
fn integers(column: &Column, place: Position, comparison: Comparison) -> Intervals {
    const LEAST: i128 = i128::MIN;
    const GREATEST: i128 = i128::MAX;
    let list: SmallVec<[(i128, i128); 2]> = match (place, comparison) {
        (Position::Above, Comparison::Less | Comparison::LessOrEqual | Comparison::NotEqual)
        | (
            Position::Below,
            Comparison::Greater | Comparison::GreaterOrEqual | Comparison::NotEqual,
        )
        | (
            Position::At {
                is_exact: false, ..
            },
            Comparison::NotEqual,
        ) => smallvec![(LEAST, GREATEST)],
        (Position::Above | Position::Below, _) => SmallVec::new(),
        (Position::At { floor, is_exact }, comparison) => {
            let up_to = |last: i128| -> SmallVec<_> { smallvec![(LEAST, last)] };
            let from = |first: Option<i128>| {
                first
                    .map(|first| smallvec![(first, GREATEST)])
                    .unwrap_or_default()
            };
            match comparison {
                Comparison::Equal if is_exact => smallvec![(floor, floor)],
                Comparison::Equal => SmallVec::new(),
                Comparison::NotEqual => {
                    let mut list = from(floor.checked_add(1));
                    if let Some(last) = floor.checked_sub(1) {
                        list.extend(up_to(last));
                    }
                    list
                }
                Comparison::Less if is_exact => floor.checked_sub(1).map(up_to).unwrap_or_default(),
                Comparison::Less | Comparison::LessOrEqual => up_to(floor),
                Comparison::GreaterOrEqual if is_exact => from(Some(floor)),
                Comparison::Greater | Comparison::GreaterOrEqual => from(floor.checked_add(1)),
            }
        }
    };
    if column.decode.order() == Order::Wide {
        return Intervals::Wide(list.into_vec());
    }
    let shift = match column.decode {
        Decode::Unsigned64 => 1 << 63,
        _ => 0,
    };
    let (least, greatest) = (i128::from(i64::MIN), i128::from(i64::MAX));
    let narrowed = list.into_iter().filter_map(|(from, to)| {
        let from = from.saturating_sub(shift).max(least);
        let to = to.saturating_sub(shift).min(greatest);
        (from <= to).then_some((from as i64, to as i64))
    });
    Intervals::Narrow(narrowed.collect())
}

/// The images of the floats that compare so with `value`.
fn floats(column: &Column, value: f64, comparison: Comparison) -> Intervals {
    if value.is_nan() {
        return without_order(column, comparison);
    }
    let image = image_of_float(value);
    let (least, greatest) = (
        image_of_float(f64::NEG_INFINITY),
        image_of_float(f64::INFINITY),
    );
    Intervals::Narrow(match comparison {
        Comparison::Equal => vec![(image, image)],
        Comparison::NotEqual => vec![(i64::MIN, image - 1), (image + 1, i64::MAX)],
        Comparison::Less => vec![(least, image - 1)],
        Comparison::LessOrEqual => vec![(least, image)],
        Comparison::Greater => vec![(image + 1, greatest)],
        Comparison::GreaterOrEqual => vec![(image, greatest)],
    })
}

fn strings(value: &[u8], comparison: Comparison) -> Intervals {
    let least: Box<[u8]> = Box::default();
    let list: Vec<ByteInterval> = match comparison {
        Comparison::Equal => vec![(value.into(), Some(next_of(value)))],
        Comparison::NotEqual => vec![(least, Some(value.into())), (next_of(value), None)],
        Comparison::Less => vec![(least, Some(value.into()))],
        Comparison::LessOrEqual => vec![(least, Some(next_of(value)))],
        Comparison::Greater => vec![(next_of(value), None)],
        Comparison::GreaterOrEqual => vec![(value.into(), None)],
    };
    Intervals::Bytes(list)
}

/// A point in time as it was written.
struct Instant {
    /// Since 1970-01-01, in UTC where no zone was written.
    nanoseconds: i128,
    has_zone: bool,
}

impl Instant {
    fn parse(text: &str) -> Option<Self> {
        let naive = |at: NaiveDateTime| Instant {
            nanoseconds: since_epoch(at),
            has_zone: false,
        };
        if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
            return Some(naive(date.and_time(NaiveTime::MIN)));
        }
        for format in [
            "%Y-%m-%dT%H:%M:%S%.f",
            "%Y-%m-%d %H:%M:%S%.f",
            "%Y-%m-%dT%H:%M",
            "%Y-%m-%d %H:%M",
        ] {
            if let Ok(at) = NaiveDateTime::parse_from_str(text, format) {
                return Some(naive(at));
            }
        }
        let zoned = DateTime::parse_from_rfc3339(text)
            .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z"))
            .or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%#z"))
            .ok()?;
        Some(Instant {
            nanoseconds: since_epoch(zoned.naive_utc()),
            has_zone: true,
        })
    }
}

fn since_epoch(at: NaiveDateTime) -> i128 {
    let at = at.and_utc();
    i128::from(at.timestamp()) * 1_000_000_000 + i128::from(at.timestamp_subsec_nanos())
}

fn timestamp(column: &Column, literal: &Literal, is_instant: bool) -> Result<Instant> {
    let example = if is_instant {
        "a timestamp such as '1995-01-31T12:34:56Z'"
    } else {
        "a timestamp such as '1995-01-31T12:34:56', without a zone"
    };
    match literal {
        Literal::Text(text) => Instant::parse(text),
        _ => None,
    }
    .filter(|instant| is_instant || !instant.has_zone)
    .ok_or_else(|| wrong_type(column, literal, example))
}

fn parse_time(text: &str) -> Option<NaiveTime> {
    NaiveTime::parse_from_str(text, "%H:%M:%S%.f")
        .or_else(|_| NaiveTime::parse_from_str(text, "%H:%M"))
        .ok()
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| *byte != b'-')
        .map(|byte| (byte as char).to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    let pairs: Vec<u8> = digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair.get(1).unwrap_or(&0))
        .collect();
    (digits.len() == 32)
        .then(|| <[u8; 16]>::try_from(pairs).ok())
        .flatten()
}

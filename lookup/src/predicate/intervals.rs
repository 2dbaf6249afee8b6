//! Tests of values as intervals in their column's order.
//!
//! Every test but IS NULL and IS NOT NULL becomes a sorted list of disjoint intervals, so one search
//! decides about a value, and one more about a range of values that statistics speak of.

use crate::column::{Key, Order, image_of_float};

/// A test of a column whose literals have the column's type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Holds for NULL.
    IsNull,
    /// Holds for everything else.
    IsNotNull,
    /// Holds for values in these intervals. With none, for nothing.
    Values(Intervals),
}

/// Sorted, disjoint intervals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intervals {
    /// From and to, both included.
    Narrow(Vec<(i64, i64)>),
    /// From and to, both included.
    Wide(Vec<(i128, i128)>),
    /// From (included) and to (not included; `None`: no end).
    Bytes(Vec<ByteInterval>),
}

/// From (included) and to (not included; `None`: no end).
pub type ByteInterval = (Box<[u8]>, Option<Box<[u8]>>);

/// What is known of all values of a page, a chunk or a dictionary.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// None is less.
    pub min: Key<'a>,
    /// None is greater.
    pub max: Key<'a>,
}

impl Intervals {
    /// None, in this order.
    pub fn never(order: Order) -> Self {
        match order {
            Order::Narrow => Intervals::Narrow(Vec::new()),
            Order::Wide => Intervals::Wide(Vec::new()),
            Order::Bytes => Intervals::Bytes(Vec::new()),
        }
    }

    /// Whether no value is in them.
    pub fn is_empty(&self) -> bool {
        match self {
            Intervals::Narrow(list) => list.is_empty(),
            Intervals::Wide(list) => list.is_empty(),
            Intervals::Bytes(list) => list.is_empty(),
        }
    }

    /// Sorted and joined where they touch, whatever order they were given in.
    pub fn normalised(self) -> Self {
        match self {
            Intervals::Narrow(list) => Intervals::Narrow(joined(list, i64::checked_add)),
            Intervals::Wide(list) => Intervals::Wide(joined(list, i128::checked_add)),
            Intervals::Bytes(mut list) => {
                list.retain(|(from, to)| to.as_ref().is_none_or(|to| from < to));
                list.sort();
                let mut whole: Vec<ByteInterval> = Vec::with_capacity(list.len());
                for (from, to) in list {
                    match whole.last_mut() {
                        Some((_, None)) => {}
                        // Points stay apart, which bloom filters and indexes need: only overlaps join.
                        Some((_, Some(end))) if from < *end => {
                            if to.as_ref().is_none_or(|to| *to > *end) {
                                whole.last_mut().expect("it is there").1 = to;
                            }
                        }
                        _ => whole.push((from, to)),
                    }
                }
                Intervals::Bytes(whole)
            }
        }
    }

    /// Whether a value is in one of them.
    #[inline]
    pub fn contains(&self, key: Key<'_>) -> bool {
        match (self, key) {
            (Intervals::Narrow(list), Key::Narrow(key)) => contains_ordered(list, key),
            (Intervals::Wide(list), Key::Wide(key)) => contains_ordered(list, key),
            (Intervals::Bytes(list), Key::Bytes(key)) => {
                let after = list.partition_point(|(from, _)| **from <= *key);
                after > 0 && list[after - 1].1.as_ref().is_none_or(|to| *key < **to)
            }
            _ => false,
        }
    }

    /// Whether a value within a span may be in one of them.
    pub fn overlaps(&self, span: Span<'_>) -> bool {
        match (self, span.min, span.max) {
            (Intervals::Narrow(list), Key::Narrow(min), Key::Narrow(max)) => {
                overlaps_ordered(list, min, max)
            }
            (Intervals::Wide(list), Key::Wide(min), Key::Wide(max)) => {
                overlaps_ordered(list, min, max)
            }
            (Intervals::Bytes(list), Key::Bytes(min), Key::Bytes(max)) => {
                let first =
                    list.partition_point(|(_, to)| to.as_ref().is_some_and(|to| **to <= *min));
                list.get(first).is_some_and(|(from, _)| **from <= *max)
            }
            _ => true,
        }
    }

    /// Whether all values within a span are in one of them.
    pub fn covers(&self, span: Span<'_>) -> bool {
        match (self, span.min, span.max) {
            (Intervals::Narrow(list), Key::Narrow(min), Key::Narrow(max)) => {
                list.iter().any(|(from, to)| *from <= min && max <= *to)
            }
            (Intervals::Wide(list), Key::Wide(min), Key::Wide(max)) => {
                list.iter().any(|(from, to)| *from <= min && max <= *to)
            }
            (Intervals::Bytes(list), Key::Bytes(min), Key::Bytes(max)) => list
                .iter()
                .any(|(from, to)| **from <= *min && to.as_ref().is_none_or(|to| *max < **to)),
            _ => false,
        }
    }

    /// Whether images of NaNs are in one of them: statistics say nothing of those.
    pub fn reaches_nan(&self) -> bool {
        let (least, greatest) = (
            image_of_float(f64::NEG_INFINITY),
            image_of_float(f64::INFINITY),
        );
        match self {
            Intervals::Narrow(list) => {
                list.first().is_some_and(|(from, _)| *from < least)
                    || list.last().is_some_and(|(_, to)| *to > greatest)
            }
            Intervals::Wide(_) | Intervals::Bytes(_) => false,
        }
    }

    /// The values, if there are only single ones: at most `most`.
    pub fn points(&self, most: usize) -> Option<Vec<Key<'_>>> {
        match self {
            Intervals::Narrow(list) => {
                let mut points = Vec::with_capacity(list.len());
                for (from, to) in list {
                    let count = to.checked_sub(*from)?;
                    if points.len() + count as usize >= most {
                        return None;
                    }
                    points.extend((*from..=*to).map(Key::Narrow));
                }
                Some(points)
            }
            Intervals::Wide(list) if list.len() <= most => list
                .iter()
                .map(|(from, to)| (from == to).then_some(Key::Wide(*from)))
                .collect(),
            Intervals::Bytes(list) if list.len() <= most => list
                .iter()
                .map(|(from, to)| {
                    let to = to.as_ref()?;
                    let is_next = to.len() == from.len() + 1 && to.starts_with(from);
                    (is_next && to.last() == Some(&0)).then_some(Key::Bytes(from))
                })
                .collect(),
            Intervals::Wide(_) | Intervals::Bytes(_) => None,
        }
    }
}

fn joined<T: Ord + Copy + From<u8>>(
    mut list: Vec<(T, T)>,
    add: impl Fn(T, T) -> Option<T>,
) -> Vec<(T, T)> {
    list.retain(|(from, to)| from <= to);
    if list.len() < 2 {
        return list;
    }
    list.sort_unstable();
    let mut whole: Vec<(T, T)> = Vec::with_capacity(list.len());
    for (from, to) in list {
        match whole.last_mut() {
            Some(last) if add(last.1, T::from(1)).is_none_or(|next| from <= next) => {
                last.1 = last.1.max(to);
            }
            _ => whole.push((from, to)),
        }
    }
    whole
}

#[inline]
fn contains_ordered<T: Ord + Copy>(list: &[(T, T)], key: T) -> bool {
    match list {
        [(from, to)] => *from <= key && key <= *to,
        _ => {
            let after = list.partition_point(|(from, _)| *from <= key);
            after > 0 && key <= list[after - 1].1
        }
    }
}

fn overlaps_ordered<T: Ord + Copy>(list: &[(T, T)], min: T, max: T) -> bool {
    let first = list.partition_point(|(_, to)| *to < min);
    list.get(first).is_some_and(|(from, _)| *from <= max)
}

/// The byte string right behind `bytes`.
pub fn next_of(bytes: &[u8]) -> Box<[u8]> {
    let mut next = Vec::with_capacity(bytes.len() + 1);
    next.extend_from_slice(bytes);
    next.push(0);
    next.into()
}

/// The least byte string behind all that begin with `prefix`; `None` if there is none.
pub fn end_of_prefix(prefix: &[u8]) -> Option<Box<[u8]>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(list: &[(&str, Option<&str>)]) -> Intervals {
        Intervals::Bytes(
            list.iter()
                .map(|(from, to)| (from.as_bytes().into(), to.map(|to| to.as_bytes().into())))
                .collect(),
        )
    }

    #[test]
    fn intervals_that_overlap_or_touch_become_one() {
        let list = vec![
            (5, 9),
            (1, 2),
            (3, 4),
            (20, 10),
            (i64::MAX, i64::MAX),
            (i64::MAX - 1, i64::MAX),
        ];
        let expected = vec![(1, 9), (i64::MAX - 1, i64::MAX)];
        assert_eq!(
            Intervals::Narrow(list).normalised(),
            Intervals::Narrow(expected)
        );
        assert_eq!(
            bytes(&[
                ("b", Some("d")),
                ("a", Some("c")),
                ("x", None),
                ("y", Some("z"))
            ])
            .normalised(),
            bytes(&[("a", Some("d")), ("x", None)])
        );
    }

    #[test]
    fn ends_belong_to_intervals_as_they_say() {
        let narrow = Intervals::Narrow(vec![(1, 3), (7, 7)]);
        let held: Vec<i64> = (0..10)
            .filter(|key| narrow.contains(Key::Narrow(*key)))
            .collect();
        assert_eq!(held, [1, 2, 3, 7]);
        let list = bytes(&[("b", Some("b\0")), ("d", Some("f")), ("x", None)]);
        for (text, holds) in [
            ("a", false),
            ("b", true),
            ("b\0", false),
            ("d", true),
            ("ezz", true),
            ("f", false),
            ("zz", true),
        ] {
            assert_eq!(list.contains(Key::Bytes(text.as_bytes())), holds, "{text}");
        }
    }

    #[test]
    fn points_are_told_from_ranges() {
        let points = Intervals::Narrow(vec![(1, 2), (5, 5)]);
        assert_eq!(points.points(16).map(|points| points.len()), Some(3));
        assert_eq!(
            Intervals::Narrow(vec![(i64::MIN, i64::MAX)]).points(16),
            None
        );
        assert_eq!(Intervals::Narrow(vec![(0, 1_000)]).points(16), None);
        assert_eq!(
            bytes(&[("b", Some("b\0"))]).points(16),
            Some(vec![Key::Bytes(b"b")])
        );
        assert_eq!(bytes(&[("b", Some("c"))]).points(16), None);
    }

    #[test]
    fn a_prefix_ends_where_its_last_byte_can_grow() {
        assert_eq!(end_of_prefix(b"ab").as_deref(), Some(b"ac".as_slice()));
        assert_eq!(end_of_prefix(b"a\xff").as_deref(), Some(b"b".as_slice()));
        assert_eq!(end_of_prefix(b"\xff\xff"), None);
    }
}

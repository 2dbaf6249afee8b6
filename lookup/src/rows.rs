//! Sets of rows of a row group: sorted, disjoint ranges that do not touch.

use std::ops::Range;

/// Rows of a row group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    ranges: Vec<Range<u32>>,
}

impl Rows {
    /// None.
    pub fn none() -> Self {
        Rows::default()
    }

    /// The first `count`.
    pub fn first(count: u32) -> Self {
        let mut rows = Rows::none();
        rows.push(0..count);
        rows
    }

    /// Single rows, in rising order; one may be there twice.
    pub fn of_sorted(sorted: &[u32]) -> Self {
        let mut rows = Rows::none();
        for row in sorted {
            if rows.ranges.last().is_none_or(|last| *row >= last.end) {
                rows.push(*row..row + 1);
            }
        }
        rows
    }

    /// Adds rows behind all that are there.
    ///
    /// # Panics
    /// If they are not.
    #[inline]
    pub fn push(&mut self, range: Range<u32>) {
        if range.is_empty() {
            return;
        }
        match self.ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            Some(last) => {
                assert!(last.end < range.start, "rows are added in order");
                self.ranges.push(range);
            }
            None => self.ranges.push(range),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.ranges
            .iter()
            .map(|range| u64::from(range.end - range.start))
            .sum()
    }

    /// Bytes of memory that they take.
    pub fn memory_bytes(&self) -> usize {
        self.ranges.capacity() * size_of::<Range<u32>>()
    }

    /// The ranges.
    pub fn ranges(&self) -> &[Range<u32>] {
        &self.ranges
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.ranges.iter().cloned().flatten()
    }

    /// Those within `span`.
    pub fn within(&self, span: Range<u32>) -> impl Iterator<Item = Range<u32>> + '_ {
        let first = self.ranges.partition_point(|range| range.end <= span.start);
        self.ranges[first..]
            .iter()
            .take_while(move |range| range.start < span.end)
            .map(move |range| range.start.max(span.start)..range.end.min(span.end))
    }

    /// Whether one of them is within `span`.
    pub fn touches(&self, span: Range<u32>) -> bool {
        self.within(span).next().is_some()
    }

    /// Those of both.
    pub fn intersection(&self, other: &Rows) -> Rows {
        let mut both = Rows::none();
        for range in &self.ranges {
            for shared in other.within(range.clone()) {
                both.push(shared);
            }
        }
        both
    }

    /// Those of either.
    pub fn union(&self, other: &Rows) -> Rows {
        let (mut left, mut right) = (
            self.ranges.iter().peekable(),
            other.ranges.iter().peekable(),
        );
        let mut either: Vec<Range<u32>> =
            Vec::with_capacity(self.ranges.len() + other.ranges.len());
        loop {
            let next = match (left.peek(), right.peek()) {
                (Some(a), Some(b)) if a.start <= b.start => left.next(),
                (_, Some(_)) => right.next(),
                (Some(_), None) => left.next(),
                (None, None) => return Rows { ranges: either },
            };
            let next = next.expect("it was peeked at");
            match either.last_mut() {
                Some(last) if next.start <= last.end => last.end = last.end.max(next.end),
                _ => either.push(next.clone()),
            }
        }
    }

    /// Those that `other` has not.
    pub fn difference(&self, other: &Rows) -> Rows {
        let mut left = Rows::none();
        for range in &self.ranges {
            let mut start = range.start;
            for taken in other.within(range.clone()) {
                left.push(start..taken.start);
                start = taken.end;
            }
            left.push(start..range.end);
        }
        left
    }

    /// The first `most` of them.
    pub fn truncated(&self, most: u64) -> Rows {
        let (mut rows, mut left) = (Rows::none(), most);
        for range in &self.ranges {
            let taken = u64::from(range.end - range.start).min(left);
            rows.push(range.start..range.start + taken as u32);
            left -= taken;
            if left == 0 {
                break;
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sets_of_ranges_are_sets_of_rows(
            a in proptest::collection::btree_set(0u32..60, 0..40),
            b in proptest::collection::btree_set(0u32..60, 0..40),
            most in 0u64..50,
        ) {
            let rows = |set: &BTreeSet<u32>| Rows::of_sorted(&set.iter().copied().collect::<Vec<_>>());
            let list = |rows: Rows| rows.iter().collect::<BTreeSet<u32>>();
            let (left, right) = (rows(&a), rows(&b));
            prop_assert_eq!(left.count(), a.len() as u64);
            prop_assert_eq!(list(left.intersection(&right)), &a & &b);
            prop_assert_eq!(list(left.union(&right)), &a | &b);
            prop_assert_eq!(list(left.difference(&right)), &a - &b);
            let cut: BTreeSet<u32> = a.iter().copied().take(most as usize).collect();
            prop_assert_eq!(list(left.truncated(most)), cut);
        }
    }
}

//! What statistics say of a test: for a chunk, for a page, for a partition.

use parquet::basic::{ColumnOrder, SortOrder};
use parquet::file::metadata::ColumnChunkMetaData;

use crate::column::{Column, Decode, Key};
use crate::file::pages::{PageBounds, deprecated_counts};
use crate::predicate::intervals::{Bound, Intervals, Span};

/// For how many rows a test holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// For none.
    Never,
    /// Perhaps for some.
    Maybe,
    /// For all.
    Always,
}

impl Verdict {
    /// Of tests that all have to hold.
    pub fn and(self, other: Verdict) -> Verdict {
        match (self, other) {
            (Verdict::Never, _) | (_, Verdict::Never) => Verdict::Never,
            (Verdict::Always, Verdict::Always) => Verdict::Always,
            _ => Verdict::Maybe,
        }
    }

    /// Of tests of which one has to hold.
    pub fn or(self, other: Verdict) -> Verdict {
        match (self, other) {
            (Verdict::Always, _) | (_, Verdict::Always) => Verdict::Always,
            (Verdict::Never, Verdict::Never) => Verdict::Never,
            _ => Verdict::Maybe,
        }
    }
}

/// What is known of some values.
struct Known<'a> {
    min: Option<Key<'a>>,
    max: Option<Key<'a>>,
    nulls: Option<u64>,
    rows: u64,
}

fn decide(column: &Column, bound: &Bound, known: &Known<'_>) -> Verdict {
    let all_null = known.nulls.is_some_and(|nulls| nulls >= known.rows);
    let no_null = known.nulls == Some(0) || column.max_definition == 0;
    match bound {
        Bound::IsNull if no_null => Verdict::Never,
        Bound::IsNull if all_null => Verdict::Always,
        Bound::IsNotNull if all_null && !no_null => Verdict::Never,
        Bound::IsNotNull if no_null => Verdict::Always,
        Bound::IsNull | Bound::IsNotNull => Verdict::Maybe,
        Bound::Values(intervals) if intervals.is_empty() => Verdict::Never,
        Bound::Values(_) if all_null && !no_null => Verdict::Never,
        Bound::Values(intervals) => decide_values(column, intervals, known, no_null),
    }
}

fn decide_values(
    column: &Column,
    intervals: &Intervals,
    known: &Known<'_>,
    no_null: bool,
) -> Verdict {
    let (Some(min), Some(max)) = (known.min, known.max) else {
        return Verdict::Maybe;
    };
    let span = Span { min, max };
    let is_float = column.decode.is_float();
    if min.compare(&max).is_none_or(std::cmp::Ordering::is_gt)
        || is_float && (is_nan(min) || is_nan(max))
    {
        return Verdict::Maybe;
    }
    if !intervals.overlaps(span) {
        // Bounds of floats say nothing of NaNs.
        return if is_float && intervals.reaches_nan() {
            Verdict::Maybe
        } else {
            Verdict::Never
        };
    }
    if no_null && !is_float && intervals.covers(span) {
        Verdict::Always
    } else {
        Verdict::Maybe
    }
}

fn is_nan(key: Key<'_>) -> bool {
    match key {
        Key::Narrow(image) => {
            image < crate::column::image_of_float(f64::NEG_INFINITY)
                || image > crate::column::image_of_float(f64::INFINITY)
        }
        Key::Wide(_) | Key::Bytes(_) => false,
    }
}

/// What a chunk's statistics say of a test of its column, whose values the file says to be in `order`.
pub fn of_chunk(
    order: Option<ColumnOrder>,
    column: &Column,
    chunk: &ColumnChunkMetaData,
    rows: u64,
    bound: &Bound,
) -> Verdict {
    let mut known = Known {
        min: None,
        max: None,
        nulls: None,
        rows,
    };
    if let Some(statistics) = chunk.statistics() {
        known.nulls = statistics.null_count_opt();
        if bounds_count(order, column, statistics.is_min_max_deprecated()) {
            known.min = statistics
                .min_bytes_opt()
                .and_then(|bytes| column.decode.key(bytes));
            known.max = statistics
                .max_bytes_opt()
                .and_then(|bytes| column.decode.key(bytes));
        }
    }
    decide(column, bound, &known)
}

/// What a page's bounds say of a test of its column, whose values the file says to be in `order`.
pub fn of_page(
    order: Option<ColumnOrder>,
    column: &Column,
    bounds: &PageBounds,
    rows: u32,
    bound: &Bound,
) -> Verdict {
    let mut known = Known {
        min: None,
        max: None,
        nulls: bounds.nulls,
        rows: u64::from(rows),
    };
    if bounds.is_null {
        known.nulls = Some(u64::from(rows));
    } else if bounds_count(order, column, false) {
        known.min = bounds
            .min
            .as_deref()
            .and_then(|bytes| column.decode.key(bytes));
        known.max = bounds
            .max
            .as_deref()
            .and_then(|bytes| column.decode.key(bytes));
    }
    decide(column, bound, &known)
}

/// Whether bounds are in the order that values are compared in here.
fn bounds_count(order: Option<ColumnOrder>, column: &Column, is_deprecated: bool) -> bool {
    if column.decode == Decode::Int96 {
        return false;
    }
    if is_deprecated {
        return deprecated_counts(column);
    }
    match order {
        Some(order) => {
            order != ColumnOrder::UNDEFINED && order.sort_order() != SortOrder::UNDEFINED
        }
        None => deprecated_counts(column),
    }
}

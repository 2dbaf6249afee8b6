//! `Range`, as S3 takes it: one range of bytes, its end clamped to the object.
//!
//! What S3 does not take for a range (bad syntax, several ranges, another unit) is ignored, and the
//! whole object answered: the invariant is that a bad header never fails a read, only a range that
//! lies behind the end of the object does.

use std::ops::Range;

/// A range as it was asked for, before the length of the object is known. Ends are inclusive: whoever
/// calculates takes [`RangeSpec::resolve`] or [`RangeSpec::bounded`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeSpec {
    /// `bytes=a-b`, with a <= b.
    FromTo(u64, u64),
    /// `bytes=a-`
    From(u64),
    /// `bytes=-n`: the last n bytes.
    Suffix(u64),
}

/// The range begins behind the end of the object, or asks for its last zero bytes: 416.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the range lies outside of the object")]
pub struct Unsatisfiable;

impl RangeSpec {
    /// Reads the value of a `Range` header; `None` if the whole object is to be answered.
    pub fn parse(value: &str) -> Option<RangeSpec> {
        let (unit, range) = value.split_at_checked("bytes=".len())?;
        if !unit.eq_ignore_ascii_case("bytes=") {
            return None;
        }
        let range = range.trim();
        let (first, dash_last) = range.split_at(range.bytes().position(|byte| byte == b'-')?);
        let last = &dash_last[1..];
        match (first, last) {
            ("", last) => position(last).map(RangeSpec::Suffix),
            (first, "") => position(first).map(RangeSpec::From),
            (first, last) => {
                let (first, last) = (position(first)?, position(last)?);
                (first <= last).then_some(RangeSpec::FromTo(first, last))
            }
        }
    }

    /// The bytes of an object of `length` bytes that are meant; never empty.
    ///
    /// # Errors
    /// If none are: the answer is 416.
    pub fn resolve(self, length: u64) -> Result<Range<u64>, Unsatisfiable> {
        let range = match self {
            RangeSpec::FromTo(first, last) => first..last.saturating_add(1).min(length),
            RangeSpec::From(first) => first..length,
            RangeSpec::Suffix(bytes) => length.saturating_sub(bytes)..length,
        };
        if range.is_empty() {
            Err(Unsatisfiable)
        } else {
            Ok(range)
        }
    }

    /// The bytes of `bytes=first-last`, whatever object they are of: the end is exclusive. None for the
    /// other forms, and where the end is beyond 64 bits.
    pub fn bounded(self) -> Option<Range<u64>> {
        match self {
            RangeSpec::FromTo(first, last) => Some(first..last.checked_add(1)?),
            RangeSpec::From(_) | RangeSpec::Suffix(_) => None,
        }
    }
}

/// A number of digits only; one that is too large for 64 bits is as good as the largest.
fn position(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resolved(value: &str, length: u64) -> Option<Result<Range<u64>, Unsatisfiable>> {
        RangeSpec::parse(value).map(|range| range.resolve(length))
    }

    #[test]
    fn ends_are_inclusive_and_clamped_to_the_object() {
        assert_eq!(resolved("bytes=0-0", 10), Some(Ok(0..1)));
        assert_eq!(resolved("bytes=2-5", 10), Some(Ok(2..6)));
        // The CRT asks for 8 MiB of whatever object.
        assert_eq!(resolved("bytes=0-8388607", 5_120), Some(Ok(0..5_120)));
        assert_eq!(
            resolved("bytes=9-18446744073709551615", 10),
            Some(Ok(9..10))
        );
        assert_eq!(
            resolved("bytes=9-99999999999999999999999", 10),
            Some(Ok(9..10))
        );
        assert_eq!(resolved("bytes=4-", 10), Some(Ok(4..10)));
        assert_eq!(resolved("bytes=-4", 10), Some(Ok(6..10)));
        assert_eq!(resolved("bytes=-400", 10), Some(Ok(0..10)));
        assert_eq!(resolved("Bytes=1-2", 10), Some(Ok(1..3)));
    }

    #[test]
    fn bounded_ranges_end_exclusively_or_not_at_all() {
        let bounded = |value: &str| RangeSpec::parse(value).and_then(RangeSpec::bounded);
        assert_eq!(bounded("bytes=2-5"), Some(2..6));
        assert_eq!(bounded("bytes=0-18446744073709551614"), Some(0..u64::MAX));
        for value in [
            "bytes=0-18446744073709551615",
            "bytes=18446744073709551615-18446744073709551615",
            "bytes=0-99999999999999999999999",
            "bytes=2-",
            "bytes=-2",
        ] {
            assert_eq!(bounded(value), None, "{value}");
        }
    }

    #[test]
    fn only_a_begin_behind_the_end_is_unsatisfiable() {
        for value in [
            "bytes=10-",
            "bytes=10-10",
            "bytes=-0",
            "bytes=99999999999999999999-",
        ] {
            assert_eq!(resolved(value, 10), Some(Err(Unsatisfiable)), "{value}");
        }
        for value in ["bytes=0-", "bytes=0-0", "bytes=-1"] {
            assert_eq!(resolved(value, 0), Some(Err(Unsatisfiable)), "{value}");
        }
    }

    #[test]
    fn what_is_no_single_range_means_the_whole_object() {
        for value in [
            "bytes=5-2",
            "bytes=0-1,4-5",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=1-+2",
            "bytes 0-1",
            "items=0-1",
            "bytes=1 - 2",
            "bytes=1--2",
            "",
            "0-1",
        ] {
            assert_eq!(RangeSpec::parse(value), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn what_is_resolved_lies_within_the_object(value in "bytes=[0-9]{0,21}-[0-9]{0,21}", length: u64) {
            if let Some(Ok(range)) = resolved(&value, length) {
                prop_assert!(!range.is_empty() && range.end <= length);
            }
        }
    }
}

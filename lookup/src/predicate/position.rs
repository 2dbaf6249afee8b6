//! Numbers as they are written, kept exact until a column's type is known.

/// A number relative to the multiples of some power of ten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// At a multiple, or between it and the next.
    At {
        /// The multiple that is not greater.
        floor: i128,
        /// Whether the number is that multiple.
        is_exact: bool,
    },
    /// Greater than all that 128 bits hold.
    Above,
    /// Less than all that 128 bits hold.
    Below,
}

/// Where `digits`, such as `-1.50e3`, lies among the multiples of `10^-scale`; `None` if it is no number.
pub fn position(digits: &str, scale: u32) -> Option<Position> {
    let (is_negative, digits) = match digits.as_bytes().first()? {
        b'-' => (true, &digits[1..]),
        b'+' => (false, &digits[1..]),
        _ => (false, digits),
    };
    let (mantissa, exponent) = match digits.find(['e', 'E']) {
        Some(at) => (&digits[..at], digits[at + 1..].parse::<i32>().ok()?),
        None => (digits, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = whole.bytes().chain(fraction.bytes());
    if whole.len() + fraction.len() == 0 || !all.clone().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // The number is 0.DIGITS times 10 to the power of `point`: so many of its digits count.
    let significant: Vec<u8> = all.skip_while(|byte| *byte == b'0').collect();
    let zeros = whole.len() + fraction.len() - significant.len();
    let point = whole.len() as i64 - zeros as i64 + i64::from(exponent) + i64::from(scale);
    if significant.is_empty() {
        return Some(Position::At {
            floor: 0,
            is_exact: true,
        });
    }
    if point > 39 {
        return Some(if is_negative {
            Position::Below
        } else {
            Position::Above
        });
    }
    let counted = point.max(0) as usize;
    let mut magnitude: i128 = 0;
    for place in 0..counted {
        let digit = i128::from(significant.get(place).map_or(0, |byte| byte - b'0'));
        let next = magnitude
            .checked_mul(10)
            .and_then(|tenfold| tenfold.checked_add(digit));
        match next {
            Some(next) => magnitude = next,
            None if is_negative => return Some(Position::Below),
            None => return Some(Position::Above),
        }
    }
    let is_exact = significant.iter().skip(counted).all(|digit| *digit == b'0');
    let floor = match (is_negative, is_exact) {
        (false, _) => magnitude,
        (true, true) => -magnitude,
        (true, false) => -magnitude - 1,
    };
    Some(Position::At { floor, is_exact })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(floor: i128, is_exact: bool) -> Option<Position> {
        Some(Position::At { floor, is_exact })
    }

    #[test]
    fn numbers_are_placed_exactly() {
        assert_eq!(position("42", 0), at(42, true));
        assert_eq!(position("-1.5", 0), at(-2, false));
        assert_eq!(position("-1.5", 1), at(-15, true));
        assert_eq!(position("1.50", 1), at(15, true));
        assert_eq!(position("0.05", 1), at(0, false));
        assert_eq!(position("-0.05", 1), at(-1, false));
        assert_eq!(position("1.5e3", 2), at(150_000, true));
        assert_eq!(position("12e-1", 0), at(1, false));
        assert_eq!(position("0e99", 0), at(0, true));
        assert_eq!(position("000", 3), at(0, true));
        assert_eq!(position("1e39", 0), Some(Position::Above));
        assert_eq!(position("-9e99999", 0), Some(Position::Below));
        for wrong in ["", "-", ".", "1.2.3", "abc", "1e", "0x10", "--1"] {
            assert_eq!(position(wrong, 0), None, "{wrong}");
        }
    }
}

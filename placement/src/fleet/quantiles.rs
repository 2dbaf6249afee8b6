//! Quantiles of the exponential distribution, in fixed point, from integer arithmetic alone.

/// Binary digits after the point of a quantile.
pub(super) const FRACTION_BITS: u32 = 32;

/// log2(`number`) with [`FRACTION_BITS`] digits after the point, cut off.
///
/// Digit by digit: squaring a number in [1, 2) doubles its logarithm, and the square's integer part
/// is the next digit.
///
/// # Panics
/// If `number` is zero.
pub(super) fn log2(number: u32) -> u64 {
    let integer = number.ilog2();
    // The fraction in [1, 2), one digit before the point and 31 after it.
    let mut fraction = u64::from(number) << (31 - integer);
    let mut digits = u64::from(integer);
    for _ in 0..FRACTION_BITS {
        // At most 2^32 - 1, so that the square fits.
        fraction = (fraction * fraction) >> 31;
        digits <<= 1;
        if fraction >= 1 << 32 {
            fraction >>= 1;
            digits |= 1;
        }
    }
    digits
}

/// The quantile at (2 `rank` + 1) / 2^(`log2_count` + 1) of the exponential distribution with a half-life
/// of one: `-log2(1 - that)`. Rises with the rank.
///
/// # Panics
/// If `rank` is not below 2^`log2_count`.
pub(super) fn quantile(rank: u32, log2_count: u32) -> u64 {
    let all = 2u32 << log2_count;
    (u64::from(log2_count + 1) << FRACTION_BITS) - log2(all - 2 * rank - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_right_to_a_part_in_a_hundred_million() {
        for number in (1..5000).chain([1 << 20, (1 << 21) - 1, u32::MAX]) {
            let found = log2(number) as f64 / (1u64 << FRACTION_BITS) as f64;
            let right = f64::from(number).log2();
            assert!((found - right).abs() < 1e-8, "{number}: {found}, {right}");
        }
    }

    #[test]
    fn quantiles_rise_and_their_median_is_the_half_life() {
        let mut last = 0;
        for rank in 0..1 << 12 {
            let quantile = quantile(rank, 12);
            assert!(quantile > last, "rank {rank}");
            last = quantile;
        }
        let middle = quantile(1 << 11, 12) as f64 / (1u64 << FRACTION_BITS) as f64;
        assert!((middle - 1.0).abs() < 1e-3, "{middle}");
    }
}

//! Images: the 64 bits under which a value stands in a key index.
//!
//! The invariant of the ordered ones: `a < b` in the column's order exactly where
//! `image(a) < image(b)`, and equal values have equal images. A hash has only the second half of
//! it, and not its converse: different values may share one.

use twox_hash::XxHash64;

/// Image of a signed integer, and of what Parquet stores as one: dates, times, timestamps, decimals
/// of up to 18 digits.
#[inline]
pub const fn of_i64(value: i64) -> u64 {
    (value as u64) ^ (1 << 63)
}

/// Image of an unsigned integer.
#[inline]
pub const fn of_u64(value: u64) -> u64 {
    value
}

/// Image of a truth value: false before true.
#[inline]
pub const fn of_bool(value: bool) -> u64 {
    value as u64
}

/// Image of a double, or `None` for a NaN, which equals nothing and is not added to an index.
///
/// The two zeros are equal, so they have one image.
#[inline]
pub fn of_f64(value: f64) -> Option<u64> {
    if value.is_nan() {
        return None;
    }
    // Minus zero plus zero is plus zero.
    let bits = (value + 0.0).to_bits();
    Some(if bits >> 63 == 1 {
        !bits
    } else {
        bits | (1 << 63)
    })
}

/// Image of a float of 32 bits, or `None` for a NaN.
///
/// Not the image of the same number as a double: 32 bits take half the room.
#[inline]
pub fn of_f32(value: f32) -> Option<u64> {
    if value.is_nan() {
        return None;
    }
    let bits = (value + 0.0).to_bits();
    Some(u64::from(if bits >> 31 == 1 {
        !bits
    } else {
        bits | (1 << 31)
    }))
}

/// Hash of a string, or of the big-endian bytes of a wide value: XXH64 with seed 0.
///
/// It is the hash of Parquet's bloom filters, so that a literal is hashed once for both. Whoever
/// chooses the keys can make them collide, which costs time and never a wrong answer: what has the
/// hash of a key is compared with it.
///
/// Source: <https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md>.
#[inline]
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_zeros_have_one_image_and_nan_has_none() {
        assert_eq!(of_f64(-0.0), of_f64(0.0));
        assert_eq!(of_f32(-0.0), of_f32(0.0));
        assert_eq!(of_f64(f64::NAN), None);
        assert_eq!(of_f64(-f64::NAN), None);
        assert_eq!(of_f32(f32::NAN), None);
    }

    #[test]
    fn images_keep_the_order_at_the_ends_of_the_types() {
        assert_eq!((of_i64(i64::MIN), of_i64(i64::MAX)), (0, u64::MAX));
        assert!(of_i64(-1) < of_i64(0));
        assert!(of_bool(false) < of_bool(true));
        let doubles = [
            f64::NEG_INFINITY,
            f64::MIN,
            -1.0,
            -f64::MIN_POSITIVE,
            -5e-324,
            0.0,
            5e-324,
            1.0,
            f64::MAX,
            f64::INFINITY,
        ];
        assert!(
            doubles
                .windows(2)
                .all(|pair| of_f64(pair[0]) < of_f64(pair[1]))
        );
    }

    #[test]
    fn hashes_are_pinned() {
        // Of the reference implementation, `XXH64_sanityCheck` and `xxhsum -H1`.
        assert_eq!(hash_bytes(b""), 0xEF46_DB37_51D8_E999);
        assert_eq!(hash_bytes(b"a"), 0xD24E_C4F1_A98C_6E5B);
        assert_eq!(hash_bytes(b"abc"), 0x44BC_2CF5_AD77_0999);
        assert_eq!(
            hash_bytes(b"Nobody inspects the spammish repetition"),
            0xFBCE_A83C_8A37_8BF1
        );
    }

    proptest! {
        #[test]
        fn images_are_in_the_order_of_the_values(a: i64, b: i64, c: f64, d: f64, e: f32, f: f32) {
            prop_assert_eq!(a.cmp(&b), of_i64(a).cmp(&of_i64(b)));
            if let (Some(c_image), Some(d_image)) = (of_f64(c), of_f64(d)) {
                prop_assert_eq!(c.partial_cmp(&d), Some(c_image.cmp(&d_image)));
            }
            if let (Some(e_image), Some(f_image)) = (of_f32(e), of_f32(f)) {
                prop_assert_eq!(e.partial_cmp(&f), Some(e_image.cmp(&f_image)));
            }
        }
    }
}

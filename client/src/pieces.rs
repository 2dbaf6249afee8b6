//! Cuts a range into reads that a worker serves: none crosses a stripe or is longer than a piece.
//! Inner cuts lie at multiples of the piece length, so that all pieces but the first start at a page.

use std::ops::Range;

use corelane_rpc_schema::{PAGE_BYTES, Stripe};

/// One read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) length: u32,
    pub(crate) stripe: Stripe,
}

/// Longest piece for a lane with these limits.
pub(crate) fn piece_bytes(read_bytes_max: u32, bytes_in_flight_max: u64) -> u32 {
    let bytes = u64::from(read_bytes_max).min(bytes_in_flight_max).max(1) as u32;
    if bytes > PAGE_BYTES {
        bytes - bytes % PAGE_BYTES
    } else {
        bytes
    }
}

/// The pieces of `range`, in order.
pub(crate) fn pieces(
    range: Range<u64>,
    piece_bytes: u32,
    stripe_bytes: u64,
) -> impl Iterator<Item = Piece> {
    let mut offset = range.start;
    std::iter::from_fn(move || {
        if offset >= range.end {
            return None;
        }
        let in_stripe = offset % stripe_bytes;
        let left_in_piece = u64::from(piece_bytes) - in_stripe % u64::from(piece_bytes);
        let length = left_in_piece
            .min(stripe_bytes - in_stripe)
            .min(range.end - offset);
        let piece = Piece {
            offset,
            length: length as u32,
            stripe: Stripe((offset / stripe_bytes) as u32),
        };
        offset += length;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelane_rpc_schema::{READ_BYTES_MAX, STRIPE_BYTES};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_cover_the_range_once_and_keep_every_limit(
            start in 0..5 * STRIPE_BYTES, length in 0..3 * STRIPE_BYTES,
            read_bytes_max in 1..=READ_BYTES_MAX, bytes_in_flight_max in 4096..u64::MAX,
        ) {
            // Small limits would only make millions of pieces.
            let read_bytes_max = read_bytes_max.max(60_000);
            let bytes = piece_bytes(read_bytes_max, bytes_in_flight_max);
            prop_assert!(bytes > 0 && bytes <= read_bytes_max && u64::from(bytes) <= bytes_in_flight_max);
            let mut next = start;
            for piece in pieces(start..start + length, bytes, STRIPE_BYTES) {
                prop_assert_eq!(piece.offset, next);
                prop_assert!(piece.length > 0 && piece.length <= bytes);
                prop_assert!(piece.offset % 4096 == 0 || piece.offset == start);
                let last = piece.offset + u64::from(piece.length) - 1;
                prop_assert_eq!(Stripe::of_offset(piece.offset), piece.stripe);
                prop_assert_eq!(Stripe::of_offset(last), piece.stripe);
                next += u64::from(piece.length);
            }
            prop_assert_eq!(next, start + length);
        }
    }

    #[test]
    fn a_lane_with_tiny_credits_still_gets_pieces() {
        assert_eq!(piece_bytes(READ_BYTES_MAX, 0), 1);
        assert_eq!(piece_bytes(READ_BYTES_MAX, 10_000), 8192);
    }
}

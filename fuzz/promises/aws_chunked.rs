//! What the decoder of aws-chunked payloads promises for any input at all: no panic, the same
//! outcome however the input is cut, and never more or less data than was announced.

use bytes::Bytes;
use corelane_s3::ErrorCode;
use corelane_s3::aws_chunked::Decoder;

/// Decodes `input`, whose first byte says how much data is announced and whether there is a
/// trailer, whole and in pieces.
///
/// # Panics
/// If a promise does not hold.
pub fn hold(input: &[u8]) {
    let Some((&first, coded)) = input.split_first() else {
        return;
    };
    let length = u64::from(first >> 1);
    let whole = decode(coded, coded.len().max(1), length, first & 1 == 1);
    for piece in [1, 2, 3, 7, 64] {
        assert_eq!(decode(coded, piece, length, first & 1 == 1), whole);
    }
    if let Ok((data, _)) = whole {
        assert_eq!(data.len() as u64, length);
        assert!(data.len() < coded.len());
    }
}

type Decoded = (Vec<u8>, Vec<(String, String)>);

fn decode(
    coded: &[u8],
    piece: usize,
    length: u64,
    has_trailer: bool,
) -> Result<Decoded, ErrorCode> {
    let mut decoder = Decoder::new(None, has_trailer, length);
    let mut out = Vec::new();
    for piece in coded.chunks(piece) {
        let outcome = decoder.push(Bytes::copy_from_slice(piece), &mut out);
        outcome.map_err(|error| error.code)?;
    }
    let trailers = decoder.finish().map_err(|error| error.code)?;
    Ok((out.concat(), trailers))
}

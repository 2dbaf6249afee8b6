//! The coding against the documented example, any splitting, and whoever would break it.

use proptest::prelude::*;

use super::*;

fn decode(mut decoder: Decoder, input: &[u8], piece: usize) -> Result<Decoded, Error> {
    let mut out = Vec::new();
    for piece in input.chunks(piece) {
        decoder.push(Bytes::copy_from_slice(piece), &mut out)?;
    }
    let trailers = decoder.finish()?;
    Ok((out.concat(), trailers))
}

type Decoded = (Vec<u8>, Vec<(String, String)>);

/// What a client sends: `signer` where it signs, `trailer` where it has one.
fn encode(
    chunks: &[Vec<u8>],
    mut signer: Option<ChunkSigner>,
    trailer: Option<(&str, &str)>,
) -> Vec<u8> {
    let mut coded = Vec::new();
    let last = Vec::new();
    for chunk in chunks.iter().chain([&last]) {
        coded.extend_from_slice(format!("{:x}", chunk.len()).as_bytes());
        if let Some(signer) = &mut signer {
            let sha256 = digest::digest(&digest::SHA256, chunk);
            let signature = signer.chunk(sha256.as_ref().try_into().expect("32 bytes"));
            coded.extend_from_slice(b";chunk-signature=");
            coded.extend_from_slice(&signature);
        }
        coded.extend_from_slice(b"\r\n");
        if !chunk.is_empty() {
            coded.extend_from_slice(chunk);
            coded.extend_from_slice(b"\r\n");
        }
    }
    if let Some((name, value)) = trailer {
        coded.extend_from_slice(format!("{name}:{value}\r\n").as_bytes());
        if let Some(signer) = &mut signer {
            let block = format!("{name}:{value}\n");
            let sha256 = digest::digest(&digest::SHA256, block.as_bytes());
            let signature = signer.trailer(sha256.as_ref().try_into().expect("32 bytes"));
            coded.extend_from_slice(b"x-amz-trailer-signature:");
            coded.extend_from_slice(&signature);
            coded.extend_from_slice(b"\r\n");
        }
    }
    coded.extend_from_slice(b"\r\n");
    coded
}

const EXAMPLE_SIGNATURES: [&str; 3] = [
    "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
    "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
    "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
];

fn example() -> Vec<u8> {
    let mut coded = Vec::new();
    for (length, signature) in [65536, 1024, 0].into_iter().zip(EXAMPLE_SIGNATURES) {
        coded.extend_from_slice(format!("{length:x};chunk-signature={signature}\r\n").as_bytes());
        coded.extend_from_slice(&vec![b'a'; length]);
        coded.extend_from_slice(b"\r\n");
    }
    coded
}

#[test]
fn the_documented_example_decodes_in_pieces_of_any_size() {
    let coded = example();
    assert_eq!(coded.len(), 66_824, "the Content-Length of the example");
    for piece in [1, 7, 4096, 65_536, coded.len()] {
        let decoder = Decoder::new(Some(ChunkSigner::of_the_example()), false, 66_560);
        assert_eq!(
            decode(decoder, &coded, piece),
            Ok((vec![b'a'; 66_560], Vec::new()))
        );
    }
}

#[test]
fn data_of_a_chunk_is_given_out_before_the_chunk_ends_and_without_a_copy() {
    let coded = Bytes::from(example());
    let mut decoder = Decoder::new(Some(ChunkSigner::of_the_example()), false, 66_560);
    let mut out = Vec::new();
    decoder
        .push(coded.slice(..1000), &mut out)
        .expect("a part of a chunk");
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].as_ptr(), coded[88..].as_ptr());
}

#[test]
fn forged_swapped_and_dropped_chunks_are_found() {
    const CHUNK: usize = CHUNK_BYTES_MIN as usize;
    let chunks = [vec![1; CHUNK], vec![2; CHUNK]];
    let coded = encode(&chunks, Some(ChunkSigner::of_the_example()), None);
    let decoder = |length| Decoder::new(Some(ChunkSigner::of_the_example()), false, length);
    let (one, both) = (CHUNK as u64, 2 * CHUNK as u64);
    assert!(decode(decoder(both), &coded, 13).is_ok());
    let line = "2000;chunk-signature=".len() + 64 + 2;
    let chunk = line + CHUNK + 2;
    let mut swapped = coded[chunk..2 * chunk].to_vec();
    swapped.extend_from_slice(&coded[..chunk]);
    swapped.extend_from_slice(&coded[2 * chunk..]);
    let mut dropped = coded[..chunk].to_vec();
    dropped.extend_from_slice(&coded[2 * chunk..]);
    let mut data = coded.clone();
    data[line] ^= 1;
    let mut signature = coded.clone();
    signature[line - 3] ^= 1;
    for (coded, length) in [
        (swapped, both),
        (dropped, one),
        (data, both),
        (signature, both),
    ] {
        let error = decode(decoder(length), &coded, 50).expect_err("forged");
        assert_eq!(error.code, ErrorCode::SignatureDoesNotMatch);
    }
    let unsigned = encode(&chunks, None, None);
    assert!(decode(decoder(both), &unsigned, 50).is_err());
}

#[test]
fn only_the_last_chunk_may_be_small() {
    const CHUNK: usize = CHUNK_BYTES_MIN as usize;
    for is_signed in [false, true] {
        let signer = || is_signed.then(ChunkSigner::of_the_example);
        let code = |lengths: &[usize]| {
            let chunks: Vec<Vec<u8>> = lengths.iter().map(|length| vec![3; *length]).collect();
            let coded = encode(&chunks, signer(), None);
            let decoder = Decoder::new(signer(), false, chunks.concat().len() as u64);
            let decoded = decode(decoder, &coded, 1000);
            decoded.map(|_| ()).map_err(|error| error.code)
        };
        let refused = Err(ErrorCode::InvalidChunkSizeError);
        for lengths in [&[][..], &[1], &[CHUNK, 1], &[CHUNK, CHUNK + 1, CHUNK - 1]] {
            assert_eq!(code(lengths), Ok(()), "{lengths:?}");
        }
        for lengths in [
            &[1, 1][..],
            &[CHUNK - 1, CHUNK],
            &[CHUNK, 1, CHUNK],
            &[1; 1000],
        ] {
            assert_eq!(code(lengths), refused, "{lengths:?}");
        }
    }
}

#[test]
fn a_byte_of_data_never_comes_in_more_slices_than_it_has_large_chunks() {
    // What is refused gives out no more than the slices of the chunks before it.
    let coded = Bytes::from("1\r\nx\r\n".repeat(10_000));
    let mut out = Vec::new();
    let pushed = Decoder::new(None, true, 10_000).push(coded, &mut out);
    assert!(pushed.is_err() && out.len() == 1, "{}", out.len());
}

#[test]
fn the_length_must_be_the_announced_one() {
    let coded = encode(&[vec![7; 10]], None, None);
    let code = |length, coded: &[u8]| {
        let result = decode(Decoder::new(None, false, length), coded, 3);
        result
            .map(|decoded| decoded.0.len())
            .map_err(|error| error.code)
    };
    assert_eq!(code(10, &coded), Ok(10));
    assert_eq!(code(9, &coded), Err(ErrorCode::InvalidRequest));
    assert_eq!(code(11, &coded), Err(ErrorCode::IncompleteBody));
    for cut in 0..coded.len() {
        assert_eq!(code(10, &coded[..cut]), Err(ErrorCode::IncompleteBody));
    }
}

#[test]
fn trailers_are_read_in_the_ways_that_sdks_write_them() {
    let trailer = ("x-amz-checksum-crc32".to_owned(), "y/Q5Jg==".to_owned());
    for end in [
        "x-amz-checksum-crc32:y/Q5Jg==\r\n\r\n",
        "X-Amz-Checksum-CRC32: y/Q5Jg== \r\n\r\n",
        "x-amz-checksum-crc32:y/Q5Jg==\n\r\n\r\n",
    ] {
        let coded = format!("9\r\n123456789\r\n0\r\n{end}");
        for piece in 1..coded.len() {
            let decoded = decode(Decoder::new(None, true, 9), coded.as_bytes(), piece);
            assert_eq!(decoded, Ok((b"123456789".to_vec(), vec![trailer.clone()])));
        }
    }
    let pair = Some(("x-amz-checksum-crc32", "y/Q5Jg=="));
    let coded = encode(
        &[b"123456789".to_vec()],
        Some(ChunkSigner::of_the_example()),
        pair,
    );
    let split = coded
        .windows(3)
        .rposition(|bytes| bytes == b"\nx-")
        .expect("a signature");
    // As minio-go writes it: an LF, then an empty line, then the signature.
    let mut go = coded[..split - 1].to_vec();
    go.extend_from_slice(b"\n\r\n");
    go.extend_from_slice(&coded[split + 1..]);
    for coded in [coded, go] {
        let decoder = Decoder::new(Some(ChunkSigner::of_the_example()), true, 9);
        let decoded = decode(decoder, &coded, 5);
        assert_eq!(decoded, Ok((b"123456789".to_vec(), vec![trailer.clone()])));
    }
}

#[test]
fn a_signed_trailer_cannot_be_changed_or_its_signature_left_out() {
    let pair = Some(("x-amz-checksum-crc32", "y/Q5Jg=="));
    let coded = encode(
        &[b"123456789".to_vec()],
        Some(ChunkSigner::of_the_example()),
        pair,
    );
    let mut changed = coded.clone();
    let value = coded
        .windows(8)
        .position(|bytes| bytes == b"y/Q5Jg==")
        .expect("a value");
    changed[value] = b'z';
    let end = coded.len() - 2 - 64 - 2 - "x-amz-trailer-signature:".len();
    let mut bare = coded[..end].to_vec();
    bare.extend_from_slice(b"\r\n\r\n");
    for coded in [changed, bare] {
        let decoder = Decoder::new(Some(ChunkSigner::of_the_example()), true, 9);
        decode(decoder, &coded, 9).expect_err("not as signed");
    }
}

#[test]
fn broken_framing_is_refused() {
    let long = format!("{}\r\n", "1;x=".repeat(100));
    let endless = "1".repeat(10_000);
    let trailers = format!("0\r\n{}", "a:b\r\n".repeat(1000));
    for coded in [
        "\r\n",
        "x\r\n",
        "+1\r\na\r\n",
        "1\na\r\n",
        "1\r\nab\r\n",
        "1\r\na\n",
        "1\r\na\r\n0\r\n\r\n0\r\n\r\n",
        "ffffffffffffffff\r\n",
        "10000000000000001\r\n",
        "1\r\na\r\n0\r\nno trailer\r\n\r\n",
        "1\r\na\r\n0\r\na:1\r\nA:2\r\n\r\n",
        "1\r\na\r\n0\r\na b:1\r\n\r\n",
        "1\r\na\r\n0\r\nx-amz-trailer-signature:0\r\n\r\n",
        &long,
        &endless,
        &trailers,
    ] {
        for piece in [1, 2, 1000] {
            let decoder = Decoder::new(None, true, 1);
            decode(decoder, coded.as_bytes(), piece).expect_err(coded);
        }
    }
}

proptest! {
    #[test]
    fn any_chunking_and_any_splitting_decode_to_the_data(
        mut chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..60), 0..6),
        piece in 1usize..2000,
        is_signed: bool,
        has_trailer: bool,
    ) {
        let large = chunks.len().saturating_sub(1);
        for chunk in &mut chunks[..large] {
            let length = chunk.len() + CHUNK_BYTES_MIN as usize - 1;
            chunk.resize(length, 0xa5);
        }
        let signer = || is_signed.then(ChunkSigner::of_the_example);
        let trailer = has_trailer.then_some(("x-amz-checksum-sha1", "v"));
        let coded = encode(&chunks, signer(), trailer);
        let data = chunks.concat();
        let decoder = Decoder::new(signer(), has_trailer, data.len() as u64);
        let trailers = trailer.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let expected = (data, Vec::from_iter(trailers));
        prop_assert_eq!(decode(decoder, &coded, piece), Ok(expected));
    }

    #[test]
    fn no_bytes_make_it_panic(coded in "[0-3a;:\r\nx=\0-\u{ff}]{0,120}", piece in 1usize..9) {
        let _ = decode(Decoder::new(Some(ChunkSigner::of_the_example()), true, 20), coded.as_bytes(), piece);
        let _ = decode(Decoder::new(None, true, 20), coded.as_bytes(), piece);
    }
}

//! Payloads as clients send them, and as they come when something went wrong on the way.

use super::*;

/// A body of `body` behind a head with `headers`, in pieces of `piece` bytes.
fn receive(headers: &str, mode: PayloadMode, body: &[u8], piece: usize) -> Result<Outcome, Error> {
    let head = format!("PUT /b/k HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
    let (head, _) = Head::parse(head.as_bytes())
        .expect("a head that is well formed")
        .expect("a head that is whole");
    let mut payload = Payload::new(PayloadSpec::of(&head, mode)?);
    let mut out = Vec::new();
    for piece in body.chunks(piece) {
        payload.push(Bytes::copy_from_slice(piece), &mut out)?;
    }
    Ok((out.concat(), payload.finish()?))
}

type Outcome = (Vec<u8>, Received);

fn code(headers: &str, mode: PayloadMode, body: &[u8]) -> Result<Vec<u8>, ErrorCode> {
    let outcome = receive(headers, mode, body, 5);
    outcome.map(|outcome| outcome.0).map_err(|error| error.code)
}

const DATA: &[u8] = b"123456789";
const CRC64: &str = "rosUhgp5mIg=";

/// As pyarrow writes: HTTP chunks around, no `Content-Length`.
const STREAMED: &str = "Transfer-Encoding: chunked\r\nContent-Encoding: aws-chunked\r\n\
    x-amz-decoded-content-length: 9\r\nx-amz-trailer: x-amz-checksum-crc64nvme\r\n";

fn streamed(trailer: &str) -> Vec<u8> {
    format!("9\r\n123456789\r\n0\r\n{trailer}\r\n").into_bytes()
}

#[test]
fn a_stream_with_an_unsigned_trailer_is_decoded_and_checked() {
    let body = streamed(&format!("x-amz-checksum-crc64nvme:{CRC64}\r\n"));
    // Without the content coding, which some clients leave out, it is the same.
    for headers in [
        STREAMED,
        &STREAMED.replace("Content-Encoding: aws-chunked\r\n", ""),
    ] {
        for piece in 1..body.len() {
            let outcome = receive(headers, PayloadMode::UnsignedTrailer, &body, piece);
            let (data, received) = outcome.expect("a payload");
            assert_eq!(data, DATA);
            assert_eq!(received.length, 9);
            assert_eq!(
                received.checksums,
                [(Algorithm::Crc64Nvme, CRC64.to_owned())]
            );
        }
    }
}

#[test]
fn trailers_must_be_those_announced_and_true() {
    let outcome = |headers: &str, trailer: &str| {
        code(headers, PayloadMode::UnsignedTrailer, &streamed(trailer))
    };
    let crc32 = "x-amz-checksum-crc32:y/Q5Jg==\r\n";
    let right = format!("x-amz-checksum-crc64nvme:{CRC64}\r\n");
    let wrong = "x-amz-checksum-crc64nvme:AAAAAAAAAAA=\r\n";
    assert_eq!(outcome(STREAMED, ""), Err(ErrorCode::InvalidRequest));
    assert_eq!(outcome(STREAMED, crc32), Err(ErrorCode::InvalidRequest));
    assert_eq!(
        outcome(STREAMED, &(right.clone() + crc32)),
        Err(ErrorCode::InvalidRequest)
    );
    assert_eq!(outcome(STREAMED, wrong), Err(ErrorCode::BadDigest));
    let short = "x-amz-checksum-crc64nvme:AAAA\r\n";
    assert_eq!(outcome(STREAMED, short), Err(ErrorCode::InvalidDigest));
    let odd = STREAMED.replace("x-amz-checksum-crc64nvme", "etag");
    assert_eq!(outcome(&odd, &right), Err(ErrorCode::InvalidRequest));
    let unknown = STREAMED.replace("x-amz-decoded-content-length: 9\r\n", "");
    assert_eq!(
        outcome(&unknown, &right),
        Err(ErrorCode::MissingContentLength)
    );
    let longer = STREAMED.replace("length: 9", "length: 10");
    assert_eq!(outcome(&longer, &right), Err(ErrorCode::IncompleteBody));
    for length in ["+9", "9.0", "", "-1", "99999999999999999999"] {
        let malformed = STREAMED.replace("length: 9", &format!("length: {length}"));
        assert!(outcome(&malformed, &right).is_err(), "{length}");
    }
}

#[test]
fn every_checksum_of_the_headers_is_compared() {
    let md5 = "Content-MD5: JfnnlDI7RTiF9RgfGzK5bg==\r\n".replace("JfnnlDI7RTiF9RgfGzK5bg==", &{
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(Md5::digest(DATA))
    });
    let all: String = Algorithm::ALL
        .map(|algorithm| {
            let value = Checksum::of(algorithm, DATA).to_base64();
            format!("{}: {value}\r\n", algorithm.header())
        })
        .concat();
    let headers = format!("Content-Length: 9\r\n{md5}{all}");
    let outcome = receive(&headers, PayloadMode::Unsigned, DATA, 4).expect("a payload");
    assert_eq!(outcome.0, DATA);
    assert_eq!(outcome.1.checksums.len(), 5);
    assert!(outcome.1.md5.is_some() && outcome.1.sha256.is_some());
    let changed = b"123456780";
    for header in headers.lines().skip(1) {
        let headers = format!("Content-Length: 9\r\n{header}\r\n");
        assert_eq!(
            code(&headers, PayloadMode::Unsigned, DATA),
            Ok(DATA.to_vec())
        );
        let outcome = code(&headers, PayloadMode::Unsigned, changed);
        assert_eq!(outcome, Err(ErrorCode::BadDigest), "{header}");
    }
    let malformed = "Content-Length: 9\r\nContent-MD5: x\r\n";
    assert_eq!(
        code(malformed, PayloadMode::Unsigned, DATA),
        Err(ErrorCode::InvalidDigest)
    );
}

#[test]
fn the_signed_hash_and_the_length_are_checked_at_the_end() {
    let sha256 = |data| {
        let sum = Checksum::of(Algorithm::Sha256, data);
        PayloadMode::Sha256(sum.value().try_into().expect("32 bytes"))
    };
    let nine = "Content-Length: 9\r\n";
    assert_eq!(code(nine, sha256(DATA), DATA), Ok(DATA.to_vec()));
    let mismatch = Err(ErrorCode::XAmzContentSha256Mismatch);
    assert_eq!(code(nine, sha256(b"other"), DATA), mismatch);
    assert_eq!(
        code(nine, sha256(DATA), &DATA[..8]),
        Err(ErrorCode::IncompleteBody)
    );
    assert_eq!(code("", sha256(b""), b""), Ok(Vec::new()));
    assert_eq!(
        code("", PayloadMode::Unsigned, b"x"),
        Err(ErrorCode::InvalidRequest)
    );
}

#[test]
fn an_algorithm_that_is_only_named_is_computed() {
    let headers = "Content-Length: 9\r\nx-amz-sdk-checksum-algorithm: crc32\r\n";
    let (_, received) = receive(headers, PayloadMode::Unsigned, DATA, 9).expect("a payload");
    assert_eq!(
        received.checksums,
        [(Algorithm::Crc32, "y/Q5Jg==".to_owned())]
    );
    let unknown = headers.replace("crc32", "md7");
    assert_eq!(
        code(&unknown, PayloadMode::Unsigned, DATA),
        Err(ErrorCode::InvalidRequest)
    );
}

#[test]
fn a_spec_and_its_payload_may_go_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<PayloadSpec>();
    is_send::<Payload>();
}

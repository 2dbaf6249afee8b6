//! The examples of the Amazon S3 API reference, request by request.

use super::*;

#[test]
fn the_documented_get_of_an_object_verifies() {
    let caller = verify(&get_object()).expect("the example");
    assert_eq!(caller.key.as_ref().map(|key| key.id.as_str()), Some(KEY_ID));
    assert_eq!(caller.auth, AuthType::Header);
    assert!(matches!(caller.payload, PayloadMode::Sha256(_)));
    assert!(caller.may(Verb::Read, "examplebucket"));
}

#[test]
fn the_documented_put_of_an_object_verifies() {
    let put = example(
        "PUT /test$file.text",
        "Date: Fri, 24 May 2013 00:00:00 GMT\r\nx-amz-storage-class: REDUCED_REDUNDANCY\r\n\
         x-amz-content-sha256: 44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072\r\n",
        "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
    );
    verify(&put).expect("the example");
    verify(&put.replace("test$file", "test%24file")).expect("escaped on the wire");
}

#[test]
fn the_documented_reads_of_a_bucket_verify() {
    let lines = format!("x-amz-content-sha256: {EMPTY}\r\n");
    let signed = "host;x-amz-content-sha256;x-amz-date";
    let lifecycle = "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543";
    verify(&example("GET /?lifecycle", &lines, signed, lifecycle)).expect("the example");
    let list = "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7";
    verify(&example("GET /?max-keys=2&prefix=J", &lines, signed, list)).expect("the example");
    verify(&example(
        "GET /?prefix=%4a&max-keys=2",
        &lines,
        signed,
        list,
    ))
    .expect("in another order");
}

#[test]
fn the_documented_presigned_get_verifies_until_it_expires() {
    let verifier = verifier("us-east-1");
    let caller = verify_with(&verifier, &presigned(), SIGNED_MS + DAY_MS - 1).expect("the example");
    assert_eq!(caller.auth, AuthType::Query);
    assert!(matches!(caller.payload, PayloadMode::Unsigned));
    let at = |now_ms| verify_with(&verifier, &presigned(), now_ms).map_err(|error| error.code);
    assert!(at(SIGNED_MS - CLOCK_SKEW_MS_MAX).is_ok());
    assert_eq!(at(SIGNED_MS + DAY_MS).err(), Some(ErrorCode::AccessDenied));
    assert_eq!(
        at(SIGNED_MS - CLOCK_SKEW_MS_MAX - 1).err(),
        Some(ErrorCode::AccessDenied)
    );
}

/// "Transferring Payload in Multiple Chunks", with and without a trailer.
#[test]
fn the_documented_streams_verify_and_sign_their_chunks() {
    let stream = |mode: &str, more: &str, signed: &str, signature: &str| {
        format!(
            "PUT /examplebucket/chunkObject.txt HTTP/1.1\r\nHost: s3.amazonaws.com\r\nx-amz-date: {AMZ_DATE}\r\n\
             x-amz-storage-class: REDUCED_REDUNDANCY\r\nx-amz-content-sha256: {mode}\r\nContent-Encoding: aws-chunked\r\n\
             x-amz-decoded-content-length: 66560\r\nContent-Length: 66824\r\n{more}\
             Authorization: AWS4-HMAC-SHA256 Credential={KEY_ID}/{SCOPE},SignedHeaders={signed},Signature={signature}\r\n\r\n"
        )
    };
    let caller = verify(&stream(
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "",
        "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class",
        "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
    ))
    .expect("the example");
    let PayloadMode::Signed(mut signer) = caller.payload else {
        panic!("{caller:?}");
    };
    let hash = ring::digest::digest(&ring::digest::SHA256, &[b'a'; 65_536]);
    let first = signer.chunk(hash.as_ref().try_into().expect("32 bytes"));
    assert_eq!(
        &first,
        b"ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"
    );

    let caller = verify(&stream(
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
        "x-amz-trailer: x-amz-checksum-crc32c\r\n",
        "content-encoding;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class;x-amz-trailer",
        "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e",
    ))
    .expect("the example");
    assert!(matches!(caller.payload, PayloadMode::SignedTrailer(_)));
}

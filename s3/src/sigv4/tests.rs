//! What is promised of signatures. The examples are those of the Amazon S3 API reference.

use proptest::prelude::*;

use super::*;
use crate::target::Hosts;

#[path = "../../tests/signing/mod.rs"]
mod signing;

mod documented;

use signing::{AMZ_DATE, KEY_ID, SCOPE, SECRET, SIGNED_MS};

const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const EXAMPLE_HOST: &str = "examplebucket.s3.amazonaws.com";
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

fn verifier(region: &str) -> Verifier {
    let key = AccessKey::new(
        "example".into(),
        KEY_ID.into(),
        SECRET.into(),
        vec![Rule::all()],
    );
    Verifier::new(Arc::new(Credentials::new(vec![key], None)), region.into())
}

fn verify_with(verifier: &Verifier, text: &str, now_ms: u64) -> Result<Caller, Error> {
    let (head, _) = Head::parse(text.as_bytes()).expect(text).expect(text);
    let hosts = Hosts::new(&["s3.amazonaws.com".to_owned()]);
    let target = Target::parse(&head, &hosts)?;
    verifier.verify(&head, &target, now_ms)
}

fn verify(text: &str) -> Result<Caller, Error> {
    verify_with(&verifier("us-east-1"), text, SIGNED_MS)
}

fn code(text: &str) -> ErrorCode {
    verify(text).expect_err(text).code
}

/// An example of the documentation: its request line, its lines, what it signs and its signature.
fn example(request_line: &str, lines: &str, signed: &str, signature: &str) -> String {
    format!(
        "{request_line} HTTP/1.1\r\nHost: {EXAMPLE_HOST}\r\n{lines}x-amz-date: {AMZ_DATE}\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential={KEY_ID}/{SCOPE},SignedHeaders={signed},Signature={signature}\r\n\r\n"
    )
}

fn get_object() -> String {
    example(
        "GET /test.txt",
        &format!("Range: bytes=0-9\r\nx-amz-content-sha256: {EMPTY}\r\n"),
        "host;range;x-amz-content-sha256;x-amz-date",
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
    )
}

fn presigned() -> String {
    format!(
        "GET /test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={KEY_ID}%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
         &X-Amz-Date={AMZ_DATE}&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
         &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404 HTTP/1.1\r\nHost: {EXAMPLE_HOST}\r\n\r\n"
    )
}

/// A signed GET with these signed headers beside the usual ones, which sort before `x-amz-content`.
fn signed_get(
    path: &str,
    query: &str,
    target: &str,
    more: &[(&str, &str)],
    more_lines: &str,
) -> String {
    let mut headers = vec![
        ("host", "s3"),
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        ("x-amz-date", AMZ_DATE),
    ];
    headers.extend_from_slice(more);
    headers.sort();
    signing::Canonical {
        method: "GET",
        path,
        query,
        headers: &headers,
        payload: "UNSIGNED-PAYLOAD",
    }
    .request(target, more_lines)
}

#[test]
fn whatever_is_signed_cannot_be_changed() {
    let sound = get_object();
    verify(&sound).expect("the example");
    for (from, to) in [
        ("GET /", "HEAD /"),
        ("/test.txt", "/test.txs"),
        ("/test.txt", "/test.txt?versionId=1"),
        ("bytes=0-9", "bytes=0-8"),
        ("Host: examplebucket", "Host: examplebuckes"),
        (EMPTY, "UNSIGNED-PAYLOAD"),
        ("T000000Z\r\n", "T000001Z\r\n"),
        ("Signature=f0e8", "Signature=f0e9"),
        ("bdb41\r\n", "bdb42\r\n"),
        ("host;range;", "host;"),
    ] {
        let changed = sound.replacen(from, to, 1);
        assert_ne!(changed, sound, "{from}");
        assert_eq!(
            code(&changed),
            ErrorCode::SignatureDoesNotMatch,
            "{from} to {to}"
        );
    }
    let longer = presigned().replace("Expires=86400", "Expires=86401");
    assert_eq!(code(&longer), ErrorCode::SignatureDoesNotMatch);
}

#[test]
fn a_signature_is_written_in_one_way() {
    let sound = get_object();
    for (from, to) in [
        ("Signature=f0e8bdb8", "Signature=F0E8BDB8"),
        ("bdb41\r\n", "bdb4\r\n"),
        ("bdb41\r\n", "bdb411\r\n"),
        ("bdb41\r\n", "bdb41,\r\n"),
        ("bdb41\r\n", "bdb41,X=1\r\n"),
        ("host;range", "range;host"),
        ("host;range", "host;host;range"),
        ("host;range", "Host;range"),
        ("host;range", ";host;range"),
        ("host;range", "range"),
        (",SignedHeaders=", ",SignedHeaders=host,SignedHeaders="),
        ("aws4_request,", "aws4_requesx,"),
        ("/s3/", "/ec2/"),
        ("/s3/", "/"),
        ("20130524/us", "20130523/us"),
        ("/us-east-1/", "/us east/"),
        ("/us-east-1/", "//"),
        ("Credential=AKIAIOSFODNN7EXAMPLE/", "Credential=/"),
        ("Credential=", "credential="),
    ] {
        let changed = sound.replacen(from, to, 1);
        assert_ne!(changed, sound, "{from}");
        assert_eq!(
            code(&changed),
            ErrorCode::AuthorizationHeaderMalformed,
            "{from} to {to}"
        );
    }
}

#[test]
fn a_wrong_region_is_told_the_right_one() {
    let error =
        verify_with(&verifier("eu-west-1"), &get_object(), SIGNED_MS).expect_err("other region");
    assert_eq!(error.code, ErrorCode::AuthorizationHeaderMalformed);
    assert!(
        error
            .message
            .contains("'us-east-1' is wrong; expecting 'eu-west-1'"),
        "{error}"
    );
    let error =
        verify_with(&verifier("eu-west-1"), &presigned(), SIGNED_MS).expect_err("other region");
    assert_eq!(error.code, ErrorCode::AuthorizationQueryParametersError);
    verify_with(&verifier(""), &get_object(), SIGNED_MS).expect("any region");
}

#[test]
fn a_request_is_valid_for_fifteen_minutes_around_its_time() {
    let verifier = verifier("us-east-1");
    let at = |now_ms| verify_with(&verifier, &get_object(), now_ms).map_err(|error| error.code);
    assert!(at(SIGNED_MS + CLOCK_SKEW_MS_MAX).is_ok() && at(SIGNED_MS - CLOCK_SKEW_MS_MAX).is_ok());
    assert_eq!(
        at(SIGNED_MS + CLOCK_SKEW_MS_MAX + 1).err(),
        Some(ErrorCode::RequestTimeTooSkewed)
    );
    assert_eq!(
        at(SIGNED_MS - CLOCK_SKEW_MS_MAX - 1).err(),
        Some(ErrorCode::RequestTimeTooSkewed)
    );
    assert_eq!(at(0).err(), Some(ErrorCode::RequestTimeTooSkewed));
    assert_eq!(at(u64::MAX).err(), Some(ErrorCode::RequestTimeTooSkewed));
}

#[test]
fn the_time_may_stand_in_date_instead() {
    let headers = [
        ("date", "Fri, 24 May 2013 00:00:00 GMT"),
        ("host", "s3"),
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
    ];
    let sound = signing::Canonical {
        method: "GET",
        path: "/lake/a",
        query: "",
        headers: &headers,
        payload: "UNSIGNED-PAYLOAD",
    }
    .request("/lake/a", "");
    verify(&sound).expect("signed with `Date`");
    assert_eq!(
        code(&sound.replace("date: Fri", "x-date: Fri")),
        ErrorCode::AccessDenied
    );
    assert_eq!(
        code(&sound.replace("date: Fri", "date: Fry")),
        ErrorCode::AccessDenied
    );
}

#[test]
fn every_amz_header_that_has_an_effect_is_signed() {
    for line in [
        "x-amz-copy-source: /lake/secret\r\n",
        "X-Amz-Meta-Owner: me\r\n",
        "x-amz-storage-class: GLACIER\r\n",
        "x-amz-security-token: abc\r\n",
        "x-amz-metadata-directive: REPLACE\r\n",
        "x-amz-decoded-content-length: 5\r\n",
        "x-amz-trailer: x-amz-checksum-crc32\r\n",
    ] {
        assert_eq!(
            code(&signed_get("/lake/a", "", "/lake/a", &[], line)),
            ErrorCode::AccessDenied,
            "{line}"
        );
    }
    assert_eq!(
        code(&presigned().replace("\r\n\r\n", "\r\nx-amz-copy-source: /lake/a\r\n\r\n")),
        ErrorCode::AccessDenied
    );
    for line in [
        // DuckDB leaves `Range` out; proxies add the others.
        "Range: bytes=0-9\r\n",
        "x-amzn-trace-id: Root=1\r\n",
        "X-Amz-Checksum-Mode: ENABLED\r\n",
        "x-amz-user-agent: x\r\n",
        "amz-sdk-invocation-id: x\r\n",
        "User-Agent: x\r\nAccept-Encoding: gzip\r\n",
    ] {
        verify(&signed_get("/lake/a", "", "/lake/a", &[], line)).expect(line);
    }
}

#[test]
fn a_signed_header_that_is_missing_or_doubled_does_not_pass() {
    let sound = signed_get("/lake/a", "", "/lake/a", &[("x-amz-meta-a", "1")], "");
    verify(&sound).expect("sound");
    assert_eq!(
        code(&sound.replace("x-amz-meta-a: 1\r\n", "")),
        ErrorCode::SignatureDoesNotMatch
    );
    let doubled = sound.replace(
        "x-amz-meta-a: 1\r\n",
        "x-amz-meta-a: 1\r\nx-amz-meta-a: 2\r\n",
    );
    assert_eq!(code(&doubled), ErrorCode::SignatureDoesNotMatch);
    let list = signed_get("/lake/a", "", "/lake/a", &[("x-amz-meta-a", "1,2")], "");
    verify(&list.replace(
        "x-amz-meta-a: 1,2\r\n",
        "x-amz-meta-a: 1\r\nx-amz-meta-a: 2\r\n",
    ))
    .expect("a list");
}

#[test]
fn white_space_in_values_counts_as_one_space() {
    let sound = signed_get("/lake/a", "", "/lake/a", &[("x-amz-meta-a", "b c d")], "");
    verify(&sound.replace("b c d", "  b   c \t d  ")).expect("collapsed");
    assert_eq!(
        code(&sound.replace("b c d", "bc d")),
        ErrorCode::SignatureDoesNotMatch
    );
}

#[test]
fn escapes_on_the_wire_need_not_be_those_of_the_signature() {
    let path = "/lake/day%3D1/a%20b~c%2B%C3%A9";
    for target in [
        path,
        "/lake/day=1/a%20b~c+%c3%a9",
        "/lake/day%3d1/a%20b%7Ec%2B\u{e9}",
        "/la%6be/day=1%2Fa%20b~c+%C3%A9",
    ] {
        verify(&signed_get(path, "", target, &[], "")).expect(target);
    }
    assert_eq!(
        code(&signed_get("/lake/a%2520b", "", "/lake/a%20b", &[], "")),
        ErrorCode::SignatureDoesNotMatch
    );
    verify(&signed_get("/lake/a%2520b", "", "/lake/a%2520b", &[], ""))
        .expect("a literal percent sign");
}

#[test]
fn parameters_are_signed_in_the_order_of_their_encoded_names() {
    let canonical = "a=%20&a-b=&a.b=1&aB=%2B&b=%2F&%C3%A9=";
    for target in [
        "/lake?a-b&aB=%2b&a=+&b=/&a.b=1&\u{e9}=",
        "/lake?a=%20&a-b=&a.b=1&aB=%2B&b=%2F&%C3%A9",
        "/lake?&b=%2F&&a=+&a-b=&a.b=1&aB=%2B&%c3%a9=&",
    ] {
        let sorted = {
            let mut pairs: Vec<&str> = canonical.split('&').collect();
            pairs.sort_by_key(|pair| pair.split_once('='));
            pairs.join("&")
        };
        verify(&signed_get("/lake", &sorted, target, &[], "")).expect(target);
    }
}

#[test]
fn one_request_has_one_signature() {
    let both = presigned().replace("\r\n\r\n", "\r\nAuthorization: AWS4-HMAC-SHA256 x\r\n\r\n");
    assert_eq!(code(&both), ErrorCode::InvalidArgument);
    let twice = presigned().replace(
        "&X-Amz-Expires=86400",
        "&X-Amz-Expires=86400&X-Amz-Expires=604800",
    );
    assert_eq!(code(&twice), ErrorCode::InvalidArgument);
}

#[test]
fn a_presigned_request_has_all_of_its_parameters_within_bounds() {
    for (from, to) in [
        ("X-Amz-Algorithm=", "X-Algorithm="),
        ("X-Amz-Credential=", "X-Credential="),
        ("X-Amz-Date=", "X-Date="),
        ("X-Amz-Expires=", "X-Expires="),
        ("X-Amz-SignedHeaders=", "X-SignedHeaders="),
        ("X-Amz-Signature=", "X-Signature="),
        ("=86400", "=0"),
        ("=86400", "=604801"),
        ("=86400", "=-1"),
        ("=86400", "=%2B86400"),
        ("=86400", "="),
        ("=86400", "=99999999999999999999"),
        ("=host", "="),
        ("=host", "=range"),
        ("=aeee", "=AEEE"),
        ("20130524T000000Z", "20130524"),
        ("%2Fs3%2F", "%2Fsts%2F"),
    ] {
        let changed = presigned().replacen(from, to, 1);
        assert_eq!(
            code(&changed),
            ErrorCode::AuthorizationQueryParametersError,
            "{from} to {to}"
        );
    }
}

#[test]
fn other_ways_to_sign_are_told_what_to_do() {
    let request = |authorization: &str| {
        format!("GET /lake/a HTTP/1.1\r\nHost: s3\r\nAuthorization: {authorization}\r\n\r\n")
    };
    for (authorization, expected) in [
        ("AWS AKIA:abc=", "Version 2"),
        ("AWS4-ECDSA-P256-SHA256 Credential=a", "Version 4A"),
        ("Bearer abc", "AWS4-HMAC-SHA256"),
        ("Basic abc", "AWS4-HMAC-SHA256"),
        ("", "AWS4-HMAC-SHA256"),
    ] {
        let error = verify(&request(authorization)).expect_err(authorization);
        assert_eq!(error.code, ErrorCode::InvalidRequest, "{authorization}");
        assert!(error.message.contains(expected), "{error}");
    }
    let error =
        verify("GET /lake/a?AWSAccessKeyId=A&Signature=b&Expires=1 HTTP/1.1\r\nHost: s3\r\n\r\n")
            .expect_err("V2");
    assert!(error.message.contains("Version 2"), "{error}");
}

#[test]
fn an_unknown_key_is_named_as_such_whatever_its_signature() {
    let unknown = get_object().replace(KEY_ID, "AKIAIOSFODNN7EXAMPLF");
    let error = verify(&unknown).expect_err("unknown");
    assert_eq!(error.code, ErrorCode::InvalidAccessKeyId);
    // The stand-in's secret opens nothing either.
    let verifier = Verifier::new(Arc::new(Credentials::new(Vec::new(), None)), String::new());
    assert_eq!(
        verify_with(&verifier, &get_object(), SIGNED_MS)
            .expect_err("no keys")
            .code,
        ErrorCode::InvalidAccessKeyId
    );
}

#[test]
fn no_error_and_no_debug_text_holds_a_secret() {
    let verifier = verifier("us-east-1");
    let text = format!(
        "{verifier:?} {:?} {:?}",
        verify_with(&verifier, &get_object(), SIGNED_MS),
        verify_with(&verifier, &get_object().replace("f0e8", "0000"), SIGNED_MS)
    );
    assert!(
        text.contains(KEY_ID) && !text.contains(&SECRET[..8]),
        "{text}"
    );
}

#[test]
fn anonymous_requests_pass_only_if_the_configuration_says_so() {
    let text = "GET /lake/a HTTP/1.1\r\nHost: s3\r\n\r\n";
    assert_eq!(code(text), ErrorCode::AccessDenied);
    let rule = Rule {
        buckets: vec!["lake".into()],
        verbs: [Verb::Read].into_iter().collect(),
    };
    let open = Verifier::new(
        Arc::new(Credentials::new(Vec::new(), Some(vec![rule]))),
        String::new(),
    );
    let caller = verify_with(&open, text, SIGNED_MS).expect("anonymous");
    assert!(caller.key.is_none() && caller.auth == AuthType::None);
    assert!(
        caller.may(Verb::Read, "lake")
            && !caller.may(Verb::Write, "lake")
            && !caller.may(Verb::Read, "other")
    );
    // A signature that is there is checked even so.
    assert!(verify_with(&open, &get_object(), SIGNED_MS).is_err());
    let stream = text.replace(
        "\r\n\r\n",
        "\r\nx-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD\r\n\r\n",
    );
    assert_eq!(
        verify_with(&open, &stream, SIGNED_MS)
            .expect_err("no seed")
            .code,
        ErrorCode::InvalidRequest
    );
}

#[test]
fn the_body_is_what_the_signature_says() {
    let mode = |payload: &str| {
        let headers = [
            ("host", "s3"),
            ("x-amz-content-sha256", payload),
            ("x-amz-date", AMZ_DATE),
        ];
        let text = signing::Canonical {
            method: "PUT",
            path: "/lake/a",
            query: "",
            headers: &headers,
            payload,
        }
        .request("/lake/a", "");
        verify(&text)
            .map(|caller| format!("{:?}", caller.payload))
            .map_err(|error| error.code)
    };
    assert_eq!(mode("UNSIGNED-PAYLOAD").as_deref(), Ok("Unsigned"));
    assert_eq!(
        mode("STREAMING-UNSIGNED-PAYLOAD-TRAILER").as_deref(),
        Ok("UnsignedTrailer")
    );
    assert_eq!(
        mode("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER").as_deref(),
        Ok("SignedTrailer")
    );
    assert_eq!(mode(&EMPTY.to_uppercase()).as_deref(), Ok("Sha256"));
    assert_eq!(
        mode("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"),
        Err(ErrorCode::NotImplemented)
    );
    assert_eq!(mode(&EMPTY[1..]), Err(ErrorCode::InvalidArgument));
    let missing = get_object().replace("x-amz-content-sha256: ", "x-content-sha256: ");
    assert_eq!(code(&missing), ErrorCode::InvalidRequest);
}

#[test]
fn only_signatures_that_verified_keep_a_signing_key() {
    let verifier = verifier("");
    for region in 0..200 {
        let other = get_object().replace("us-east-1", &format!("region-{region}"));
        assert!(verify_with(&verifier, &other, SIGNED_MS).is_err());
    }
    assert_eq!(verifier.keys.borrow().kept(), 0);
    for _ in 0..3 {
        verify_with(&verifier, &get_object(), SIGNED_MS).expect("the example");
    }
    assert_eq!(verifier.keys.borrow().kept(), 1);
}

proptest! {
    #[test]
    fn any_claim_is_judged_without_panic(authorization in "(AWS4-HMAC-SHA256 )?(Credential=|SignedHeaders=|Signature=|[a-z0-9/;,= ]){0,12}", query in "(X-Amz-(Algorithm|Credential|Date|Expires|Signature|SignedHeaders)=[A-Za-z0-9%-]{0,20}&){0,7}") {
        let text = format!("GET /lake/a?{query} HTTP/1.1\r\nHost: s3\r\nx-amz-date: {AMZ_DATE}\r\nx-amz-content-sha256: UNSIGNED-PAYLOAD\r\nAuthorization: {authorization}\r\n\r\n");
        prop_assert!(verify(&text).is_err());
    }

    #[test]
    fn the_order_of_parameters_does_not_matter(names in proptest::collection::btree_map("[a-zA-Z0-9._~-]{1,6}", "[a-zA-Z0-9._~-]{0,6}", 1..8), seed: u64) {
        let canonical: Vec<String> = names.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut sent = canonical.clone();
        let turn = seed as usize % sent.len();
        sent.rotate_left(turn);
        let text = signed_get("/lake", &canonical.join("&"), &format!("/lake?{}", sent.join("&")), &[], "");
        prop_assert!(verify(&text).is_ok());
    }
}

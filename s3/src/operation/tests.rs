//! What is promised of routes.

use super::*;
use crate::range::RangeSpec;
use crate::target::Hosts;

/// Routes a request and hands what came out to `judge`.
fn routed<R>(
    method: &str,
    target: &str,
    lines: &str,
    judge: impl FnOnce(Result<Routed<'_>, Error>) -> R,
) -> R {
    let text = format!("{method} {target} HTTP/1.1\r\nHost: s3\r\n{lines}\r\n");
    let (head, _) = Head::parse(text.as_bytes()).expect(&text).expect(&text);
    let target = Target::parse(&head, &Hosts::default()).expect(&text);
    judge(route(&head, &target))
}

fn name(method: &str, target: &str) -> &'static str {
    routed(method, target, "", |routed| routed.expect(target).name())
}

fn code(method: &str, target: &str, lines: &str) -> ErrorCode {
    routed(method, target, lines, |routed| {
        routed.expect_err(target).code
    })
}

fn operation(method: &str, target: &str, lines: &str) -> Operation {
    routed(method, target, lines, |routed| match routed {
        Ok(Routed::Operation(operation)) => *operation,
        other => panic!("{other:?}"),
    })
}

fn read<R>(target: &str, lines: &str, judge: impl FnOnce(Read<'_>) -> R) -> R {
    routed("GET", target, lines, |routed| match routed {
        Ok(Routed::Read(read)) => judge(read),
        other => panic!("{other:?}"),
    })
}

#[test]
fn every_operation_is_found_by_its_method_and_sub_resource() {
    for (method, target, expected, verb) in [
        ("GET", "/", "ListBuckets", Verb::List),
        (
            "GET",
            "/?x-id=ListBuckets&max-buckets=5",
            "ListBuckets",
            Verb::List,
        ),
        ("HEAD", "/lake", "HeadBucket", Verb::List),
        ("GET", "/lake?location", "GetBucketLocation", Verb::List),
        ("GET", "/lake?versioning", "GetBucketVersioning", Verb::List),
        ("GET", "/lake/?acl", "GetBucketAcl", Verb::List),
        ("PUT", "/lake", "CreateBucket", Verb::Write),
        ("GET", "/lake", "ListObjects", Verb::List),
        ("GET", "/lake/?list-type=2", "ListObjectsV2", Verb::List),
        ("GET", "/lake?uploads", "ListMultipartUploads", Verb::List),
        ("POST", "/lake?delete", "DeleteObjects", Verb::Delete),
        ("GET", "/lake/a", "GetObject", Verb::Read),
        ("GET", "/lake/a?x-id=GetObject", "GetObject", Verb::Read),
        ("HEAD", "/lake/a", "HeadObject", Verb::Read),
        ("PUT", "/lake/a", "PutObject", Verb::Write),
        ("PUT", "/lake/a?x-id=PutObject", "PutObject", Verb::Write),
        (
            "POST",
            "/lake/a?uploads",
            "CreateMultipartUpload",
            Verb::Write,
        ),
        (
            "PUT",
            "/lake/a?partNumber=1&uploadId=u",
            "UploadPart",
            Verb::Write,
        ),
        (
            "POST",
            "/lake/a?uploadId=u",
            "CompleteMultipartUpload",
            Verb::Write,
        ),
        (
            "DELETE",
            "/lake/a?uploadId=u",
            "AbortMultipartUpload",
            Verb::Write,
        ),
        ("GET", "/lake/a?uploadId=u", "ListParts", Verb::List),
        ("DELETE", "/lake/a", "DeleteObject", Verb::Delete),
    ] {
        assert_eq!(name(method, target), expected, "{method} {target}");
        routed(method, target, "", |routed| {
            assert_eq!(routed.expect(target).verb(), verb)
        });
    }
    let copy = "x-amz-copy-source: lake/a\r\n";
    assert_eq!(operation("PUT", "/lake/b", copy).name(), "CopyObject");
    assert_eq!(
        operation("PUT", "/lake/b?partNumber=1&uploadId=u", copy).name(),
        "UploadPartCopy"
    );
}

#[test]
fn a_sub_resource_that_is_not_served_never_becomes_the_plain_operation() {
    for method in ["GET", "HEAD", "PUT", "POST", "DELETE"] {
        for sub_resource in FOREIGN_SUB_RESOURCES {
            for path in ["/lake", "/lake/a"] {
                let target = format!("{path}?{sub_resource}");
                assert_eq!(
                    code(method, &target, ""),
                    ErrorCode::NotImplemented,
                    "{method} {target}"
                );
                let target = format!("{path}?x-id=a&{sub_resource}=1");
                assert_eq!(
                    code(method, &target, ""),
                    ErrorCode::NotImplemented,
                    "{method} {target}"
                );
            }
        }
        for target in [
            "/lake/a?acl",
            "/lake/a?torrent",
            "/lake?versions",
            "/lake?website",
        ] {
            assert_eq!(
                code(method, target, ""),
                ErrorCode::NotImplemented,
                "{method} {target}"
            );
        }
    }
    for (method, target) in [
        ("PUT", "/lake?acl"),
        ("PUT", "/lake?versioning"),
        ("DELETE", "/lake?uploads"),
        ("DELETE", "/lake"),
        ("POST", "/lake"),
        ("PUT", "/lake/a?versionId=1"),
        ("DELETE", "/lake/a?versionId=1"),
    ] {
        assert_eq!(
            code(method, target, ""),
            ErrorCode::NotImplemented,
            "{method} {target}"
        );
    }
    for (method, target) in [
        ("DELETE", "/lake/a?uploads"),
        ("DELETE", "/lake/a?partNumber=1"),
        ("PUT", "/lake/a?uploads"),
        ("PUT", "/lake/a?delete"),
        ("POST", "/lake/a"),
        ("PATCH", "/lake/a"),
        ("get", "/lake/a"),
        ("GET", "/lake/a?uploads"),
        ("GET", "/lake/a?delete"),
        ("HEAD", "/lake/a?uploadId=u"),
        ("PATCH", "/lake"),
        ("PUT", "/"),
        ("TRACE", "/lake/a"),
    ] {
        assert_eq!(
            code(method, target, ""),
            ErrorCode::MethodNotAllowed,
            "{method} {target}"
        );
    }
}

#[test]
fn a_read_carries_what_the_head_says() {
    read(
        "/lake/a",
        "Range: bytes=0-9\r\nIf-Match: \"e\"\r\nx-amz-checksum-mode: enabled\r\n",
        |read| {
            assert_eq!(read.range, Some(RangeSpec::FromTo(0, 9)));
            assert_eq!(read.conditions.if_match, Some("\"e\""));
            assert!(read.wants_checksum && !read.is_head && read.overrides.is_none());
        },
    );
    read("/lake/a", "Range: bytes=0-1,3-4\r\n", |read| {
        assert_eq!(read.range, None)
    });
    read(
        "/lake/a?partNumber=3&versionId=null&unknown=1",
        "content-type: application/xml\r\n",
        |read| {
            assert_eq!(
                (read.part_number, read.version_id.as_deref()),
                (Some(3), Some("null"))
            );
        },
    );
    read("/lake/a?response-content-type=a%2Fb", "", |read| {
        assert_eq!(
            read.overrides.expect("there").content_type.as_deref(),
            Some("a/b")
        );
    });
    for (target, lines) in [
        ("/lake/a?partNumber=0", ""),
        ("/lake/a?partNumber=10001", ""),
        ("/lake/a?partNumber=+1", ""),
        ("/lake/a?partNumber=1", "Range: bytes=0-1\r\n"),
        ("/lake/a?versionId=", ""),
        ("/lake/a?versionId=a%0d%0a", ""),
    ] {
        assert_eq!(
            code("GET", target, lines),
            ErrorCode::InvalidArgument,
            "{target}"
        );
    }
}

#[test]
fn no_query_puts_a_header_into_an_answer() {
    for name in ["type", "language", "disposition", "encoding"] {
        let target = format!("/lake/a?response-content-{name}=a%0d%0aSet-Cookie:%20b");
        assert_eq!(
            code("GET", &target, ""),
            ErrorCode::InvalidArgument,
            "{name}"
        );
    }
    assert_eq!(
        code("GET", "/lake/a?response-expires=%0a", ""),
        ErrorCode::InvalidArgument
    );
    assert_eq!(
        code("GET", "/lake/a?response-cache-control=%C2%85", ""),
        ErrorCode::InvalidArgument
    );
}

#[test]
fn keys_of_the_client_never_reach_the_cache() {
    for (method, target) in [
        ("GET", "/lake/a"),
        ("HEAD", "/lake/a"),
        ("PUT", "/lake/a"),
        ("POST", "/lake/a?uploads"),
    ] {
        let line = "X-Amz-Server-Side-Encryption-Customer-Algorithm: AES256\r\n";
        assert_eq!(
            code(method, target, line),
            ErrorCode::NotImplemented,
            "{method}"
        );
    }
}

#[test]
fn listings_are_bounded_and_stay_below_their_bucket() {
    let list = |query: &str| match operation("GET", &format!("/lake?{query}"), "") {
        Operation::ListObjects(list) => list,
        other => panic!("{other:?}"),
    };
    let v2 = list(
        "list-type=2&prefix=a%2F&delimiter=%2F&max-keys=5000&start-after=b&continuation-token=t&encoding-type=url&fetch-owner=true",
    );
    assert_eq!(
        (v2.version, v2.prefix.as_str(), v2.delimiter.as_deref()),
        (ListVersion::V2, "a/", Some("/"))
    );
    assert_eq!(
        (
            v2.max_keys,
            v2.start_after.as_deref(),
            v2.continuation_token.as_deref()
        ),
        (1_000, Some("b"), Some("t"))
    );
    assert!(v2.encoding_url && v2.fetch_owner);
    let v1 = list("delimiter=&marker=b&max-keys=0&prefix=&start-after=x");
    assert_eq!(
        (v1.version, v1.prefix.as_str(), v1.delimiter),
        (ListVersion::V1, "", None)
    );
    assert_eq!(
        (v1.max_keys, v1.start_after.as_deref(), v1.encoding_url),
        (0, Some("b"), false)
    );
    for query in [
        "list-type=1",
        "list-type=3",
        "max-keys=-1",
        "max-keys=",
        "max-keys=1e3",
        "max-keys=2147483648",
        "encoding-type=base64",
        "list-type=2&continuation-token=",
        "prefix=..",
        "prefix=../",
        "prefix=a/../b",
        "prefix=a/.",
        "prefix=a%2F%2e%2e%2F",
    ] {
        assert_eq!(
            code("GET", &format!("/lake?{query}"), ""),
            ErrorCode::InvalidArgument,
            "{query}"
        );
    }
    let delimiter = format!("/lake?delimiter={}", "a".repeat(65));
    assert_eq!(code("GET", &delimiter, ""), ErrorCode::InvalidArgument);
}

#[test]
fn uploads_are_named_and_numbered_within_bounds() {
    assert_eq!(
        operation("PUT", "/lake/a?partNumber=10000&uploadId=a%2Fb", ""),
        Operation::UploadPart(UploadPart {
            upload_id: "a/b".into(),
            part_number: 10_000
        })
    );
    for target in [
        "/lake/a?uploadId=u",
        "/lake/a?uploadId=u&partNumber=0",
        "/lake/a?uploadId=u&partNumber=99999999999",
    ] {
        assert_eq!(
            code("PUT", target, ""),
            ErrorCode::InvalidArgument,
            "{target}"
        );
    }
    for target in [
        "/lake/a?partNumber=1&uploadId=",
        "/lake/a?partNumber=1",
        "/lake/a?partNumber=1&uploadId=%0a",
    ] {
        assert_eq!(code("PUT", target, ""), ErrorCode::NoSuchUpload, "{target}");
    }
    let parts = operation(
        "GET",
        "/lake/a?uploadId=u&max-parts=2147483647&part-number-marker=7",
        "",
    );
    assert_eq!(
        parts,
        Operation::ListParts(ListParts {
            upload_id: "u".into(),
            max_parts: 1_000,
            part_number_marker: 7
        })
    );
    assert_eq!(
        code("GET", "/lake/a?uploadId=u&max-parts=99999999999", ""),
        ErrorCode::InvalidArgument
    );
}

#[test]
fn what_is_stored_beside_an_object_is_kept_and_the_framing_is_not() {
    let lines = "Content-Type: a/b\r\nContent-Encoding: aws-chunked, gzip\r\nCache-Control: a\r\nCache-Control: b\r\n\
                 X-Amz-Meta-B: 2\r\nx-amz-meta-a: 1\r\nx-amz-meta-a: 3\r\nx-amz-acl: private\r\n\
                 x-amz-server-side-encryption: AES256\r\nx-amz-sdk-checksum-algorithm: CRC32\r\nx-other: 1\r\n";
    let Operation::PutObject(put) = operation("PUT", "/lake/a", lines) else {
        panic!("not a PutObject");
    };
    let headers = put.headers;
    assert_eq!(headers.content_type.as_deref(), Some("a/b"));
    assert_eq!(headers.content_encoding.as_deref(), Some("gzip"));
    assert_eq!(headers.cache_control.as_deref(), Some("a, b"));
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(headers.metadata, [pair("a", "1,3"), pair("b", "2")]);
    assert_eq!(
        headers.passed,
        [pair("x-amz-server-side-encryption", "AES256")]
    );

    let Operation::PutObject(put) =
        operation("PUT", "/lake/a", "Content-Encoding: aws-chunked\r\n")
    else {
        panic!("not a PutObject");
    };
    assert_eq!(put.headers.content_encoding, None);
    for lines in [
        "x-amz-acl: public-read\r\n",
        "x-amz-acl: private\r\nx-amz-acl: public-read\r\n",
        "x-amz-grant-read: id=1\r\n",
        "x-amz-website-redirect-location: /\r\n",
    ] {
        assert_eq!(
            code("PUT", "/lake/a", lines),
            ErrorCode::NotImplemented,
            "{lines}"
        );
    }
    for lines in [
        "x-amz-meta-: 1\r\n",
        "x-amz-tagging: a\r\nx-amz-tagging: b\r\n",
    ] {
        assert_eq!(
            code("PUT", "/lake/a", lines),
            ErrorCode::InvalidArgument,
            "{lines}"
        );
    }
}

#[test]
fn writes_know_the_conditions_that_s3_knows() {
    let put = |lines: &str| match operation("PUT", "/lake/a", lines) {
        Operation::PutObject(put) => (put.if_none_match_any, put.if_match),
        other => panic!("{other:?}"),
    };
    assert_eq!(put("If-None-Match: *\r\n"), (true, None));
    assert_eq!(put("If-Match: \"e\"\r\n"), (false, Some("\"e\"".into())));
    assert_eq!(
        code("PUT", "/lake/a", "If-None-Match: \"e\"\r\n"),
        ErrorCode::NotImplemented
    );
    assert_eq!(
        code("PUT", "/lake/a", "If-None-Match: *\r\nIf-Match: \"e\"\r\n"),
        ErrorCode::InvalidArgument
    );
    assert_eq!(
        code("DELETE", "/lake/a", "If-Match: \"e\"\r\n"),
        ErrorCode::NotImplemented
    );
}

#[test]
fn the_source_of_a_copy_is_checked_like_a_target() {
    let source =
        |value: &str| match operation("PUT", "/lake/b", &format!("x-amz-copy-source: {value}\r\n"))
        {
            Operation::CopyObject(copy) => copy.source,
            other => panic!("{other:?}"),
        };
    for value in ["lake/a%20b", "/lake/a%20b", "/lake/a b", "lake%2Fa%20b"] {
        assert_eq!(
            (source(value).bucket.as_str(), source(value).key.as_str()),
            ("lake", "a b"),
            "{value}"
        );
    }
    assert_eq!(
        source("lake/a?versionId=v%2F1").version_id.as_deref(),
        Some("v/1")
    );
    for (value, expected) in [
        ("lake", ErrorCode::InvalidArgument),
        ("lake/", ErrorCode::InvalidArgument),
        ("", ErrorCode::InvalidArgument),
        ("lake/../a", ErrorCode::InvalidArgument),
        ("lake/%2e%2e/a", ErrorCode::InvalidArgument),
        ("lake/a%00", ErrorCode::InvalidArgument),
        ("lake/%c0%ae", ErrorCode::InvalidArgument),
        ("lake//a", ErrorCode::InvalidArgument),
        ("lake/a?versionId=", ErrorCode::InvalidArgument),
        ("//lake/a", ErrorCode::InvalidBucketName),
        ("../a", ErrorCode::InvalidBucketName),
    ] {
        let lines = format!("x-amz-copy-source: {value}\r\n");
        assert_eq!(code("PUT", "/lake/b", &lines), expected, "{value}");
    }
    let range =
        |value: &str| format!("x-amz-copy-source: lake/a\r\nx-amz-copy-source-range: {value}\r\n");
    let target = "/lake/b?partNumber=1&uploadId=u";
    let Operation::UploadPartCopy(copy) = operation("PUT", target, &range("bytes=0-9")) else {
        panic!("not an UploadPartCopy");
    };
    assert_eq!(copy.source_range, Some(0..10));
    for value in [
        "bytes=0-18446744073709551615",
        "bytes=18446744073709551615-18446744073709551615",
        "bytes=0-18446744073709551616",
    ] {
        let code = code("PUT", target, &range(value));
        assert_eq!(code, ErrorCode::InvalidRange, "{value}");
    }
    for value in ["bytes=-9", "bytes=9-", "bytes=9-0", "0-9"] {
        assert_eq!(
            code("PUT", target, &range(value)),
            ErrorCode::InvalidArgument,
            "{value}"
        );
    }
}

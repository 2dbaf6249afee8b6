//! What is promised of targets.

use proptest::prelude::*;

use super::*;

fn parsed<'a>(text: &'a str, hosts: &Hosts) -> Result<Target<'a>, Error> {
    let (head, _) = Head::parse(text.as_bytes())
        .expect("sound")
        .expect("complete");
    Target::parse(&head, hosts)
}

fn aimed(host: &str, target: &str, domains: &[&str]) -> Result<(String, String), Error> {
    let text = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let domains: Vec<String> = domains.iter().map(|&domain| domain.to_owned()).collect();
    parsed(&text, &Hosts::new(&domains))
        .map(|target| (target.bucket.into_owned(), target.key.into_owned()))
}

fn path_style(target: &str) -> Result<(String, String), Error> {
    aimed("127.0.0.1:9000", target, &[])
}

fn place(bucket: &str, key: &str) -> Result<(String, String), Error> {
    Ok((bucket.to_owned(), key.to_owned()))
}

#[test]
fn the_first_segment_of_a_path_is_the_bucket() {
    assert_eq!(path_style("/"), place("", ""));
    assert_eq!(path_style("/lake"), place("lake", ""));
    assert_eq!(path_style("/lake/"), place("lake", ""));
    assert_eq!(path_style("/lake?list-type=2"), place("lake", ""));
    assert_eq!(path_style("/lake/?list-type=2"), place("lake", ""));
    assert_eq!(
        path_style("/lake/a/b.parquet"),
        place("lake", "a/b.parquet")
    );
    assert_eq!(path_style("/lake/folder/"), place("lake", "folder/"));
}

#[test]
fn a_host_below_a_domain_names_the_bucket() {
    let domains = ["s3.example.com", "example.com", "s3.local"];
    assert_eq!(
        aimed("lake.s3.example.com", "/a", &domains),
        place("lake", "a")
    );
    assert_eq!(
        aimed("Lake.S3.Example.com:9000", "/a", &domains),
        place("lake", "a")
    );
    assert_eq!(aimed("a.b.s3.local", "/", &domains), place("a.b", ""));
    for host in [
        "s3.example.com",
        "example.com",
        "localhost",
        "127.0.0.1",
        "[::1]",
        "s3.local:1",
        "xs3.locals",
    ] {
        assert_eq!(
            aimed(host, "/lake/a", &domains),
            place("lake", "a"),
            "{host}"
        );
    }
    for host in ["..s3.local", ".s3.local", "...s3.local"] {
        let error = aimed(host, "/x", &domains).expect_err(host);
        assert_eq!(error.code, ErrorCode::InvalidBucketName, "{host}");
    }
}

#[test]
fn keys_are_decoded_once() {
    assert_eq!(
        path_style("/lake/day%3D1/a%20b+c"),
        place("lake", "day=1/a b+c")
    );
    assert_eq!(path_style("/lake/a%2Fb"), place("lake", "a/b"));
    assert_eq!(path_style("/lake/%252e%252e/a"), place("lake", "%2e%2e/a"));
    assert_eq!(path_style("/lake/%C3%A9"), place("lake", "\u{e9}"));
    assert_eq!(path_style("/lake/..a/b.."), place("lake", "..a/b.."));
}

#[test]
fn no_key_leads_out_of_its_bucket() {
    for key in [
        "../a",
        "a/../../b",
        "a/..",
        "..",
        ".",
        "./a",
        "a/./b",
        "%2e%2e/a",
        "%2E%2e%2Fa",
        "a%2f..%2fb",
        "..%2fetc%2fpasswd",
        "/a",
        "a//b",
        "a//",
        "%2Fa",
        "a%2F%2Fb",
        "a%00b",
        "%00",
        "a%0d%0ab",
        "a%0Ab",
        "a%09b",
        "a%7fb",
        "a%C2%85b",
    ] {
        let error = path_style(&format!("/lake/{key}")).expect_err(key);
        assert_eq!(error.code, ErrorCode::InvalidArgument, "{key}");
    }
    for key in [
        "%c0%ae%c0%ae/a",
        "a%c0%afb",
        "%e0%80%ae",
        "%ff",
        "%",
        "a%2",
        "a%g0",
    ] {
        assert_eq!(
            path_style(&format!("/lake/{key}")).expect_err(key).code,
            ErrorCode::InvalidUri,
            "{key}"
        );
    }
}

#[test]
fn no_bucket_is_a_path() {
    for path in [
        "/..",
        "/./a",
        "/%2e%2e/a",
        "/a%2Fb/c",
        "/a%00/c",
        "//a",
        "//",
        "/%0d%0a/c",
        "/a%20b/c",
        "/\u{e9}/c",
    ] {
        assert_eq!(
            path_style(path).expect_err(path).code,
            ErrorCode::InvalidBucketName,
            "{path}"
        );
    }
}

#[test]
fn keys_are_bounded_in_bytes() {
    let longest = "a".repeat(KEY_BYTES_MAX);
    assert_eq!(
        path_style(&format!("/lake/{longest}")),
        place("lake", &longest)
    );
    assert_eq!(
        path_style(&format!("/lake/{longest}a"))
            .expect_err("too long")
            .code,
        ErrorCode::KeyTooLongError
    );
    // Counted after decoding.
    assert!(path_style(&format!("/lake/{}", "%61".repeat(KEY_BYTES_MAX))).is_ok());
}

#[test]
fn parameters_are_decoded_one_by_one() {
    let query =
        Query::parse("list-type=2&prefix=a%2Fb+c&delimiter=&uploads&x=%26%3D").expect("sound");
    assert_eq!(query.get("prefix").as_deref(), Some("a/b c"));
    assert_eq!(query.get("delimiter").as_deref(), Some(""));
    assert_eq!(query.get("uploads").as_deref(), Some(""));
    assert_eq!(query.get("x").as_deref(), Some("&="));
    assert_eq!(query.get("Prefix"), None);
    assert!(query.has("uploads") && !query.has("upload"));
    assert!(Query::parse("&&").expect("sound").is_empty());
}

#[test]
fn a_query_that_could_mean_two_things_is_refused() {
    let code = |raw: &str| Query::parse(raw).expect_err(raw).code;
    assert_eq!(code("prefix=a&prefix=b"), ErrorCode::InvalidArgument);
    assert_eq!(code("prefix=a&pre%66ix=b"), ErrorCode::InvalidArgument);
    assert_eq!(code("prefix=%"), ErrorCode::InvalidUri);
    assert_eq!(code("prefix=%ff"), ErrorCode::InvalidUri);
    assert_eq!(code("prefix=%00"), ErrorCode::InvalidArgument);
    let many: String = (0..=QUERY_PARAMETERS_MAX)
        .map(|index| format!("p{index}&"))
        .collect();
    assert_eq!(code(&many), ErrorCode::InvalidArgument);
}

proptest! {
    #[test]
    fn whatever_is_accepted_stays_below_its_bucket(path in "(/|%2[fF]|\\.|%2e|a|%00|%c0%af|%25){0,12}") {
        if let Ok((bucket, key)) = path_style(&format!("/{path}")) {
            prop_assert!(!bucket.contains('/') && bucket != ".." && bucket != ".");
            prop_assert!(!key.contains('\0') && !key.starts_with('/'));
            prop_assert!(key.split('/').all(|segment| segment != ".." && segment != "."));
        }
    }
}

//! What is promised of heads.

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<Option<(Head<'_>, usize)>, HeadError> {
    Head::parse(text.as_bytes())
}

fn accepted(text: &str) -> Head<'_> {
    let (head, bytes) = parse(text).expect(text).expect(text);
    assert_eq!(bytes, text.len());
    head
}

/// A head with these lines beside a request line and `Host`.
fn with(lines: &str) -> String {
    format!("GET /lake/key HTTP/1.1\r\nHost: s3\r\n{lines}\r\n")
}

fn status(text: &str) -> u16 {
    match parse(text) {
        Err(error) => error.status(),
        other => panic!("{text:?} is accepted: {other:?}"),
    }
}

#[test]
fn a_get_with_a_range_is_taken_apart() {
    let text = "GET /lake/a%20b?x-id=GetObject HTTP/1.1\r\nHOST: s3.local:9000\r\nrange:  bytes=0-1 \r\n\
                X-Custom:\t\u{e9} \r\nX-Custom: 2\r\n\r\n";
    let head = accepted(text);
    assert_eq!(
        (head.method, head.path, head.query),
        ("GET", "/lake/a%20b", "x-id=GetObject")
    );
    assert_eq!(head.known.host, Some("s3.local:9000"));
    assert_eq!(head.known.range, Some("bytes=0-1"));
    assert_eq!(head.header("x-custom"), Some("\u{e9}".as_bytes()));
    assert_eq!(head.values("x-custom").count(), 2);
    assert_eq!(head.headers().count(), 4);
    assert_eq!(head.framing, Framing::None);
    assert!(head.keeps_alive && !head.expects_continue);
}

#[test]
fn what_follows_a_head_is_left_alone() {
    let text = "GET /a HTTP/1.1\r\nHost: s3\r\n\r\nGET /b HTTP/1.1\r\nHost: s3\r\n\r\n";
    let (head, bytes) = parse(text).expect("sound").expect("complete");
    assert_eq!(head.path, "/a");
    let (head, _) = parse(&text[bytes..]).expect("sound").expect("complete");
    assert_eq!(head.path, "/b");
}

#[test]
fn the_end_of_a_body_is_known_in_one_way_only() {
    assert_eq!(
        accepted(&with("Content-Length: 5\r\n")).framing,
        Framing::Length(5)
    );
    assert_eq!(
        accepted(&with("Transfer-Encoding: Chunked\r\n")).framing,
        Framing::Chunked
    );
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length:\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    ] {
        assert_eq!(status(&with(lines)), 400, "{lines:?}");
    }
    for coding in [
        "gzip, chunked",
        "chunked, gzip",
        "identity",
        "xchunked",
        "\"chunked\"",
        "chunked,",
        "chunked;q=1",
        "",
    ] {
        assert_eq!(
            status(&with(&format!("Transfer-Encoding: {coding}\r\n"))),
            501,
            "{coding}"
        );
    }
    assert_eq!(
        status("PUT /a HTTP/1.0\r\nHost: s3\r\nTransfer-Encoding: chunked\r\n\r\n"),
        400
    );
}

#[test]
fn lines_that_others_read_differently_are_refused() {
    for lines in [
        "Content-Length : 5\r\n",
        "Content-Length\t: 5\r\n",
        " Content-Length: 5\r\n",
        "X-A: 1\r\n folded\r\n",
        "X-A: 1\r\n\tfolded\r\n",
        "X-A: 1\nContent-Length: 5\r\n",
        "X-A: 1\rContent-Length: 5\r\n",
        "X-A: 1\r\rContent-Length: 5\r\n",
        "X-A: a\0b\r\n",
        "X-A: a\u{7f}b\r\n",
        ": value\r\n",
        "X A: value\r\n",
        "X-\u{e9}: value\r\n",
        "no colon\r\n",
    ] {
        assert_eq!(status(&with(lines)), 400, "{lines:?}");
    }
    assert_eq!(status("GET /a HTTP/1.1\nHost: s3\n\n"), 400);
    assert_eq!(status("GET /a HTTP/1.1\r\nHost: s3\r\n\n"), 400);
    assert_eq!(status("GET /a HTTP/1.1\r\n Host: s3\r\n\r\n"), 400);
}

#[test]
fn a_request_has_one_host() {
    assert_eq!(status("GET /a HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(status("GET /a HTTP/1.0\r\n\r\n"), 400);
    assert_eq!(status("GET /a HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"), 400);
    for host in [
        "", "a b", "a,b", "a/b", "user@a", "a?b", "a#b", "\u{e9}", "a%2eb",
    ] {
        assert_eq!(
            status(&format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n")),
            400,
            "{host}"
        );
    }
    assert_eq!(
        accepted("GET /a HTTP/1.1\r\nHost: [::1]:9000\r\n\r\n")
            .known
            .host,
        Some("[::1]:9000")
    );
}

#[test]
fn an_absolute_target_names_the_host_that_host_names() {
    let head = accepted("GET http://S3:9000/lake/a?b HTTP/1.1\r\nHost: s3:9000\r\n\r\n");
    assert_eq!((head.path, head.query), ("/lake/a", "b"));
    for target in [
        "http://other/a",
        "http://s3@other/a",
        "http://s3",
        "http://s3?x",
        "ftp://s3/a",
        "*",
        "s3:9000",
        "lake/a",
        "/a#b",
    ] {
        assert_eq!(
            status(&format!("GET {target} HTTP/1.1\r\nHost: s3\r\n\r\n")),
            400,
            "{target}"
        );
    }
}

#[test]
fn other_versions_of_http_are_told_so() {
    assert_eq!(status("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
    assert_eq!(status("GET /a HTTP/1.2\r\nHost: s3\r\n\r\n"), 505);
    assert!(status("GET /a\r\n") >= 400);
    assert!(status("GET  /a HTTP/1.1\r\nHost: s3\r\n\r\n") >= 400);
    assert!(status("\x16\x03\x01\x02\x00\x01") >= 400);
}

#[test]
fn connections_close_when_asked_to_and_after_http_1_0() {
    assert!(!accepted(&with("Connection: Close\r\n")).keeps_alive);
    assert!(!accepted(&with("Connection: x, close\r\n")).keeps_alive);
    assert!(!accepted(&with("Connection: keep-alive\r\nConnection: close\r\n")).keeps_alive);
    assert!(
        accepted(&with(
            "Connection: keep-alive, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        ))
        .keeps_alive
    );
    assert!(!accepted("GET /a HTTP/1.0\r\nHost: s3\r\n\r\n").keeps_alive);
}

#[test]
fn a_client_that_waits_is_known_to_wait() {
    assert!(accepted(&with("Expect: 100-Continue\r\nContent-Length: 5\r\n")).expects_continue);
    assert!(
        accepted(&with(
            "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n"
        ))
        .expects_continue
    );
    assert!(!accepted(&with("Expect: 100-continue\r\n")).expects_continue);
    assert!(accepted(&with("Expect: 100-continue\r\nContent-Length: 0\r\n")).expects_continue);
    assert!(
        !accepted(
            "PUT /a HTTP/1.0\r\nHost: s3\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"
        )
        .expects_continue
    );
    assert_eq!(status(&with("Expect: 200-ok\r\n")), 417);
}

#[test]
fn heads_are_bounded_in_bytes_and_headers() {
    let long = with(&format!("X-A: {}\r\n", "a".repeat(HEAD_BYTES_MAX)));
    assert_eq!(status(&long), 400);
    assert!(matches!(parse(&long[..HEAD_BYTES_MAX - 1]), Ok(None)));
    assert_eq!(status(&long[..HEAD_BYTES_MAX]), 400);
    let room = HEAD_BYTES_MAX - with("X-A: \r\n").len();
    accepted(&with(&format!("X-A: {}\r\n", "a".repeat(room))));
    accepted(&with(&"X-A: 1\r\n".repeat(HEADERS_MAX - 1)));
    assert_eq!(status(&with(&"X-A: 1\r\n".repeat(HEADERS_MAX))), 400);
}

#[test]
fn every_header_that_decides_is_there_once() {
    for name in [
        "Range",
        "Authorization",
        "x-amz-date",
        "X-Amz-Content-Sha256",
        "If-Match",
        "Date",
        "Content-MD5",
    ] {
        assert_eq!(
            status(&with(&format!("{name}: a\r\n{name}: a\r\n"))),
            400,
            "{name}"
        );
    }
}

#[test]
fn content_encodings_may_stand_on_lines_of_their_own() {
    let text = with("Content-Encoding: gzip\r\ncontent-encoding: aws-chunked\r\n");
    let head = accepted(&text);
    assert_eq!(head.known.content_encoding, Some("gzip"));
    let values: Vec<&[u8]> = head.values("content-encoding").collect();
    assert_eq!(values, [b"gzip".as_slice(), b"aws-chunked"]);
}

#[test]
fn every_error_says_what_to_do_and_hides_nothing_of_the_status() {
    let error = parse("PRI * HTTP/2.0\r\n\r\n").expect_err("not HTTP/1");
    assert!(error.error.message.contains("HTTP/1.1"), "{error}");
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
        let _ = Head::parse(&bytes);
    }

    #[test]
    fn what_is_read_does_not_depend_on_how_the_bytes_were_cut(
        lines in proptest::collection::vec("(Host|Range|X-A|Content-Length|Transfer-Encoding|Connection)(: | :|:)[a-z0-9 \\r\\n-]{0,9}(\\r\\n|\\n|\\r\\n\\t)", 0..5),
        cut: proptest::sample::Index,
    ) {
        let text = format!("GET /a?b HTTP/1.1\r\nHost: s3\r\n{}\r\nrest", lines.concat());
        let whole = parse(&text);
        let cut = cut.index(text.len());
        match (Head::parse(&text.as_bytes()[..cut]), whole) {
            // What is not complete has said nothing yet, and what has failed does not recover.
            (Ok(None), _) | (Err(_), Err(_)) => {}
            (Ok(Some((head, bytes))), Ok(Some((same, same_bytes)))) => {
                prop_assert_eq!(bytes, same_bytes);
                prop_assert_eq!(format!("{:?}", head.known), format!("{:?}", same.known));
                prop_assert!(head.headers().eq(same.headers()));
            }
            (part, whole) => prop_assert!(false, "{:?} but {:?}", part.map(|_| ()), whole.map(|_| ())),
        }
    }
}

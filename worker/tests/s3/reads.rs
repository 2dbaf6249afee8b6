//! Reads of single objects, as clients of S3 ask for them.

use std::fs;
use std::time::{Duration, SystemTime};

use crate::client::{Received, get, request};
use crate::harness::{BLOCK, Bed, assert_same};
use crate::scene::{OPEN, Scene};
use crate::signing::Signer;

const SECRET: &str = "a-secret-of-the-one-who-reads";

/// A GET of a range.
fn ranged(target: &str, range: &str) -> String {
    request("GET", target, &format!("Range: {range}\r\n"))
}

#[test]
fn get_and_head_say_the_same_and_get_gives_the_bytes() {
    let scene = Scene::open();
    let bytes = scene.bed.write("folder/object.bin", 1, 3 * BLOCK + 17);
    let mut connection = scene.connect();
    // Twice: from the file, then from memory.
    for turn in 0..2 {
        let got = connection.ask(get("/data/folder/object.bin"));
        assert_eq!(got.status, 200, "{got:?}");
        assert_same(&got.body, &bytes, "the object");
        let head = connection.ask(request("HEAD", "/data/folder/object.bin", ""));
        assert_eq!(head.status, 200, "{head:?}");
        let about = |answer: &crate::client::Answer| {
            let mut headers = answer.headers.clone();
            headers.retain(|(name, _)| name != "date" && name != "x-amz-request-id");
            headers
        };
        assert_eq!(about(&got), about(&head), "turn {turn}");
        let length = bytes.len().to_string();
        assert_eq!(got.expect("content-length"), length);
        assert_eq!(got.expect("accept-ranges"), "bytes");
        assert_eq!(got.expect("content-type"), "binary/octet-stream");
        let etag = got.expect("etag");
        assert!(etag.len() > 2 && etag.starts_with('"') && etag.ends_with('"'));
        let modified = fs::metadata(scene.file("folder/object.bin"))
            .and_then(|metadata| metadata.modified())
            .expect("it is there");
        let modified = modified.duration_since(SystemTime::UNIX_EPOCH);
        let modified = modified.expect("after 1970").as_secs() * 1000;
        assert_eq!(
            got.expect("last-modified").as_bytes(),
            corelane_s3::date::http_date(modified)
        );
        for name in ["content-encoding", "content-range", "connection"] {
            assert_eq!(got.header(name), None, "{got:?}");
        }
    }
    scene.terminate();
}

#[test]
fn ranges_are_clamped_and_only_those_behind_the_end_are_416() {
    let scene = Scene::open();
    let length = 2 * BLOCK as u64 + 5;
    let bytes = scene.bed.write("object", 2, length as usize);
    let mut connection = scene.connect();
    let last = length - 1;
    let satisfiable = [
        ("bytes=0-0".to_owned(), 0, 0),
        ("bytes=1-4096".to_owned(), 1, 4096),
        ("bytes=65535-65536".to_owned(), 65535, 65536),
        ("bytes=0-8388607".to_owned(), 0, last),
        ("bytes=0-18446744073709551615".to_owned(), 0, last),
        ("bytes=7-99999999999999999999999".to_owned(), 7, last),
        ("bytes=5-".to_owned(), 5, last),
        (format!("bytes={last}-"), last, last),
        (format!("bytes={last}-{length}"), last, last),
        ("bytes=-1".to_owned(), last, last),
        ("bytes=-70000".to_owned(), length - 70000, last),
        ("bytes=-999999999".to_owned(), 0, last),
        ("BYTES=2-3".to_owned(), 2, 3),
    ];
    // Twice: from the file, then from memory.
    for turn in 0..2 {
        for (range, start, end) in &satisfiable {
            let answer = connection.ask(ranged("/data/object", range));
            assert_eq!(answer.status, 206, "{range}: {answer:?}");
            let place = format!("bytes {start}-{end}/{length}");
            assert_eq!(answer.expect("content-range"), place, "{range}");
            let expected = &bytes[*start as usize..=*end as usize];
            assert_same(&answer.body, expected, range);
            let head = connection.ask(request(
                "HEAD",
                "/data/object",
                &format!("Range: {range}\r\n"),
            ));
            assert_eq!(head.status, 206, "{range}: {head:?}");
            assert_eq!(head.expect("content-range"), place, "{range}");
            assert_eq!(head.expect("content-length"), expected.len().to_string());
        }
        for range in [
            format!("bytes={length}-"),
            format!("bytes={length}-{length}"),
            "bytes=99999999999-".to_owned(),
            "bytes=-0".to_owned(),
        ] {
            let answer = connection.ask(ranged("/data/object", &range));
            answer.assert_error(416, "InvalidRange");
        }
        // What S3 does not take for a range is no range.
        for range in [
            "bytes=3-2",
            "bytes=a-b",
            "bytes=",
            "bytes=0-1,4-5",
            "items=0-1",
            "bytes=--1",
            "0-1",
        ] {
            let answer = connection.ask(ranged("/data/object", range));
            assert_eq!(answer.status, 200, "turn {turn}, {range}: {answer:?}");
            assert_same(&answer.body, &bytes, range);
        }
    }
    scene.terminate();
}

#[test]
fn an_empty_object_is_an_answer_without_bytes() {
    let scene = Scene::open();
    scene.bed.write("empty", 0, 0);
    let mut connection = scene.connect();
    for _ in 0..2 {
        let got = connection.ask(get("/data/empty"));
        assert_eq!((got.status, got.expect("content-length")), (200, "0"));
        let head = connection.ask(request("HEAD", "/data/empty", ""));
        assert_eq!((head.status, head.expect("content-length")), (200, "0"));
        let ranged = connection.ask(ranged("/data/empty", "bytes=0-"));
        ranged.assert_error(416, "InvalidRange");
    }
    scene.terminate();
}

#[test]
fn conditions_decide_between_bytes_304_and_412() {
    let scene = Scene::open();
    let bytes = scene.bed.write("object", 3, 5000);
    let mut connection = scene.connect();
    let first = connection.ask(get("/data/object"));
    let etag = first.expect("etag").to_owned();
    let modified = first.expect("last-modified").to_owned();
    let naked = etag.trim_matches('"').to_owned();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now_ms = now.expect("after 1970").as_millis() as u64;
    let date =
        |ms: u64| String::from_utf8(corelane_s3::date::http_date(ms).to_vec()).expect("text");
    let (past, future) = (date(784_111_777_000), date(now_ms + 86_400_000));
    let rows: Vec<(u16, String)> = vec![
        (200, format!("If-Match: {etag}\r\n")),
        (200, format!("If-Match: \"other\", {etag}\r\n")),
        (200, "If-Match: *\r\n".to_owned()),
        (200, format!("If-Match: {naked}\r\n")),
        (412, "If-Match: \"other\"\r\n".to_owned()),
        (304, format!("If-None-Match: {etag}\r\n")),
        (304, format!("If-None-Match: W/{etag}\r\n")),
        (304, "If-None-Match: *\r\n".to_owned()),
        (304, format!("If-None-Match: \"other\", {etag}\r\n")),
        (200, "If-None-Match: \"other\"\r\n".to_owned()),
        (304, format!("If-Modified-Since: {modified}\r\n")),
        (304, format!("If-Modified-Since: {future}\r\n")),
        (200, format!("If-Modified-Since: {past}\r\n")),
        (200, "If-Modified-Since: some day\r\n".to_owned()),
        (200, format!("If-Unmodified-Since: {modified}\r\n")),
        (412, format!("If-Unmodified-Since: {past}\r\n")),
        // The first of each pair decides alone (RFC 9110, 13.2.2).
        (
            200,
            format!("If-Match: {etag}\r\nIf-Unmodified-Since: {past}\r\n"),
        ),
        (
            200,
            format!("If-None-Match: \"other\"\r\nIf-Modified-Since: {future}\r\n"),
        ),
        (
            304,
            format!("If-None-Match: {etag}\r\nIf-Modified-Since: {past}\r\n"),
        ),
        (
            412,
            format!("If-Match: \"other\"\r\nIf-None-Match: {etag}\r\n"),
        ),
        // A range is looked at only where the conditions hold.
        (
            304,
            format!("If-None-Match: {etag}\r\nRange: bytes=9999-\r\n"),
        ),
        (
            412,
            "If-Match: \"other\"\r\nRange: bytes=9999-\r\n".to_owned(),
        ),
    ];
    for (status, lines) in rows {
        let got = connection.ask(request("GET", "/data/object", &lines));
        assert_eq!(got.status, status, "{lines}{got:?}");
        let head = connection.ask(request("HEAD", "/data/object", &lines));
        assert_eq!(head.status, status, "HEAD {lines}{head:?}");
        match status {
            200 => assert_same(&got.body, &bytes, &lines),
            304 => {
                assert!(got.body.is_empty());
                assert_eq!(got.expect("etag"), etag);
                assert_eq!(got.expect("last-modified"), modified);
            }
            _ => got.assert_error(412, "PreconditionFailed"),
        }
    }
    scene.terminate();
}

#[test]
fn a_range_of_another_version_is_answered_with_the_whole_object() {
    let scene = Scene::open();
    let bytes = scene.bed.write("object", 7, 3 * BLOCK);
    // Asked on every core, from the file and from memory.
    for mut connection in crate::cores::on_every_core(&scene, 2) {
        let plain = connection.ask(get("/data/object"));
        let etag = plain.expect("etag");
        let modified = plain.expect("last-modified");
        for (if_range, is_range) in [
            (etag, true),
            (modified, true),
            ("\"another\"", false),
            (&format!("W/{etag}"), false),
            ("Sun, 06 Nov 1994 08:49:37 GMT", false),
        ] {
            for range in ["bytes=100-299", "bytes=-5", "bytes=99999999-"] {
                let lines = format!("Range: {range}\r\nIf-Range: {if_range}\r\n");
                let answer = connection.ask(request("GET", "/data/object", &lines));
                match (is_range, range) {
                    (false, _) => {
                        assert_eq!(answer.status, 200, "{lines}{answer:?}");
                        assert_same(&answer.body, &bytes, &lines);
                    }
                    (true, "bytes=100-299") => assert_same(&answer.body, &bytes[100..300], &lines),
                    (true, "bytes=-5") => {
                        assert_same(&answer.body, &bytes[bytes.len() - 5..], &lines);
                    }
                    _ => answer.assert_error(416, "InvalidRange"),
                }
            }
        }
    }
    scene.terminate();
}

#[test]
fn response_parameters_replace_headers_of_signed_requests_and_nothing_else() {
    let mut bed = Bed::in_memory();
    bed.sections = format!(
        "{OPEN}[[s3_key]]\nname = \"reader\"\nid = \"AKIAREADER\"\nsecret = \"{SECRET}\"\n\
         verbs = [\"read\"]\n"
    );
    let scene = Scene::with(bed);
    let signer = Signer::new("AKIAREADER", SECRET);
    let bytes = scene.bed.write("object", 4, 300);
    let mut connection = scene.connect();
    let plain = connection.ask(get("/data/object"));
    let target = "/data/object?response-cache-control=no-store\
                  &response-content-disposition=attachment%3B%20filename%3D%22a.bin%22\
                  &response-content-encoding=identity\
                  &response-content-language=de\
                  &response-content-type=text%2Fplain%3B%20charset%3Dutf-8\
                  &response-expires=never";
    for _ in 0..2 {
        let answer = connection.ask(signer.get(target));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_same(&answer.body, &bytes, "the object");
        for (name, value) in [
            ("content-type", "text/plain; charset=utf-8"),
            ("content-language", "de"),
            ("expires", "never"),
            ("cache-control", "no-store"),
            ("content-disposition", "attachment; filename=\"a.bin\""),
            ("content-encoding", "identity"),
        ] {
            assert_eq!(answer.expect(name), value);
        }
        assert_eq!(answer.expect("etag"), plain.expect("etag"));
    }
    // The next request without them is not touched.
    let again = connection.ask(get("/data/object"));
    assert_eq!(again.expect("content-type"), plain.expect("content-type"));
    let broken = "/data/object?response-content-type=a%0D%0ASet-Cookie%3A%20b";
    connection
        .ask(signer.get(broken))
        .assert_error(400, "InvalidArgument");
    // Whoever sends somebody a link does not choose what his browser takes the object for.
    connection
        .ask(get(target))
        .assert_error(400, "InvalidRequest");
    scene.terminate();
}

#[test]
fn keys_are_names_of_files_however_they_are_escaped() {
    let scene = Scene::open();
    let mut connection = scene.connect();
    let names = [
        ("plain.txt", vec!["/data/plain.txt", "/data/%70lain%2Etxt"]),
        ("a b", vec!["/data/a%20b"]),
        ("a+b", vec!["/data/a+b", "/data/a%2Bb"]),
        ("%41", vec!["/data/%2541"]),
        ("ä/ö ü", vec!["/data/%C3%A4/%C3%B6%20%C3%BC"]),
        (
            "year=2024/part-0.parquet",
            vec![
                "/data/year=2024/part-0.parquet",
                "/data/year%3D2024/part-0.parquet",
                "/data/year%3d2024%2Fpart-0.parquet",
            ],
        ),
        ("*'()!~;:@&=$,_-", vec!["/data/*'()!~;:@&=$,_-"]),
        ("q?x#y", vec!["/data/q%3Fx%23y"]),
        ("...", vec!["/data/..."]),
        (".hidden", vec!["/data/.hidden"]),
    ];
    for (seed, (name, targets)) in names.iter().enumerate() {
        let bytes = scene.bed.write(name, seed as u64, 1000 + seed);
        for target in targets {
            let answer = connection.ask(get(target));
            assert_eq!(answer.status, 200, "{target}: {answer:?}");
            assert_same(&answer.body, &bytes, target);
        }
    }
    for (target, code) in [
        ("/data/plain.txt/", 404),
        ("/data/nothing", 404),
        ("/data/plain.txt/below", 404),
        ("/data/year=2024", 404),
        ("/nobucket/plain.txt", 404),
    ] {
        let answer = connection.ask(get(target));
        assert_eq!(answer.status, code, "{target}: {answer:?}");
    }
    let missing = connection.ask(get("/data/a%3Cb"));
    missing.assert_error(404, "NoSuchKey");
    assert_eq!(missing.element("Key"), "a&lt;b");
    connection
        .ask(get("/nobucket/a"))
        .assert_error(404, "NoSuchBucket");
    connection
        .ask(get("/data/%zz"))
        .assert_error(400, "InvalidURI");
    scene.terminate();
}

#[test]
fn buckets_are_named_by_the_host_too() {
    let mut bed = Bed::in_memory();
    bed.sections = format!("{OPEN}domains = [\"s3.example.com\"]\n");
    let scene = Scene::with(bed);
    let bytes = scene.bed.write("a/object", 5, 700);
    let mut connection = scene.connect();
    for host in [
        "data.s3.example.com",
        "data.s3.example.com:7480",
        "DATA.S3.Example.Com",
    ] {
        let answer = connection.ask(format!("GET /a/object HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(answer.status, 200, "{host}: {answer:?}");
        assert_same(&answer.body, &bytes, host);
    }
    for host in ["s3.example.com", "127.0.0.1:7480", "localhost", "[::1]:80"] {
        let answer = connection.ask(format!(
            "GET /data/a/object HTTP/1.1\r\nHost: {host}\r\n\r\n"
        ));
        assert_eq!(answer.status, 200, "{host}: {answer:?}");
        assert_same(&answer.body, &bytes, host);
    }
    let other = connection.ask("GET /a/object HTTP/1.1\r\nHost: other.s3.example.com\r\n\r\n");
    other.assert_error(404, "NoSuchBucket");
    scene.terminate();
}

#[test]
fn the_first_part_is_the_object_and_there_is_no_other() {
    let scene = Scene::open();
    let bytes = scene.bed.write("object", 6, 2000);
    let mut connection = scene.connect();
    let part = connection.ask(get("/data/object?partNumber=1"));
    assert_eq!(part.status, 206, "{part:?}");
    assert_eq!(part.expect("content-range"), "bytes 0-1999/2000");
    assert_same(&part.body, &bytes, "the part");
    connection
        .ask(get("/data/object?partNumber=2"))
        .assert_error(416, "InvalidRange");
    for bad in ["0", "x", "10001", ""] {
        connection
            .ask(get(&format!("/data/object?partNumber={bad}")))
            .assert_error(400, "InvalidArgument");
    }
    scene.terminate();
}

#[test]
fn an_empty_object_has_a_first_part() {
    let scene = Scene::open();
    scene.bed.write("empty", 0, 0);
    let part = scene.ask(get("/data/empty?partNumber=1"));
    assert_eq!((part.status, part.expect("content-length")), (200, "0"));
    scene.terminate();
}

#[test]
fn what_clients_add_for_s3_is_ignored_and_nothing_is_ever_compressed() {
    let scene = Scene::open();
    let bytes = vec![b'a'; 100_000];
    fs::write(scene.file("zeros.json"), &bytes).expect("a file");
    let mut connection = scene.connect();
    for lines in [
        "Accept-Encoding: gzip, deflate, br, zstd\r\n",
        "Accept-Encoding: identity;q=0, gzip\r\n",
        "x-amz-checksum-mode: ENABLED\r\n",
        "amz-sdk-invocation-id: 1\r\namz-sdk-request: attempt=1; max=3\r\n",
        "X-Made-Up: yes\r\nTE: trailers\r\nUpgrade-Insecure-Requests: 1\r\n",
        "Connection: keep-alive\r\n",
        "Cookie: a=b\r\nCookie: c=d\r\n",
    ] {
        let answer = connection.ask(request("GET", "/data/zeros.json?x-id=GetObject", lines));
        assert_eq!(answer.status, 200, "{lines}{answer:?}");
        assert_eq!(answer.header("content-encoding"), None);
        assert_same(&answer.body, &bytes, lines);
    }
    scene.terminate();
}

#[test]
fn a_connection_ends_where_the_client_says_so() {
    let scene = Scene::open();
    let bytes = scene.bed.write("object", 7, 3 * BLOCK);
    for (target, status) in [("/data/object", 200), ("/data/nothing", 404)] {
        for head in [
            format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
            format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: x, Close\r\n\r\n"),
            format!("GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n"),
        ] {
            let mut connection = scene.connect();
            // What comes behind it is not served.
            connection.send(format!("{head}{}", get("/data/object")));
            let answer = connection.answer();
            assert_eq!(answer.status, status, "{head}{answer:?}");
            assert_eq!(answer.expect("connection"), "close", "{head}");
            if status == 200 {
                assert_same(&answer.body, &bytes, &head);
            }
            assert!(matches!(connection.receive(false), Received::Closed));
        }
    }
    // A client that says that it sends no more still gets its answer.
    let mut connection = scene.connect();
    connection.send(get("/data/object"));
    connection.finish();
    assert_same(&connection.answer().body, &bytes, "after the client's end");
    connection.assert_closed();
    scene.terminate();
}

#[test]
fn old_objects_have_their_dates() {
    let scene = Scene::open();
    scene.bed.write("old", 8, 10);
    let file = fs::File::options().write(true).open(scene.file("old"));
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    file.and_then(|file| file.set_modified(long_ago))
        .expect("a time can be set");
    let answer = scene.ask(get("/data/old"));
    assert_eq!(
        answer.expect("last-modified"),
        "Sun, 06 Nov 1994 08:49:37 GMT"
    );
    scene.terminate();
}

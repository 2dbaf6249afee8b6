//! `POST /v1/lookup` as any HTTP client sees it: formats, statuses, rights.

use corelane_client::{ErrorCode, Options};
use serde_json::{Value, json};

use crate::harness::{Bed, Http, HttpAnswer, Process};
use crate::lookup_table::{
    TABLE, files, json_request, post, request, rows_of_arrow, rows_of_csv, rows_of_json,
    rows_where, write_table,
};

#[test]
fn each_format_holds_the_same_rows() {
    let bed = Bed::in_memory();
    write_table(&bed);
    let process = bed.start();
    let expected = rows_where(|row| row.key < 300);
    let ask = |accept: &[&str]| {
        let answer = post(&process, accept, &json_request("key < 300"));
        assert_eq!(answer.status, 200, "{accept:?}: {}", answer.text());
        let rows = answer.header("x-corelane-rows");
        assert_eq!(rows, expected.len().to_string(), "{accept:?}");
        assert_eq!(answer.header("x-corelane-explain"), "");
        answer
    };
    for accept in [
        &[][..],
        &["Accept: */*"],
        &["Accept: application/x-ndjson"],
        &["Accept: text/html, application/json;q=0.9"],
    ] {
        let answer = ask(accept);
        assert_eq!(answer.header("content-type"), "application/x-ndjson");
        assert_eq!(rows_of_json(answer.text()), expected);
    }
    let answer = ask(&["Accept: text/html", "Accept: text/csv"]);
    assert!(answer.header("content-type").starts_with("text/csv"));
    assert_eq!(rows_of_csv(answer.text()), expected);
    let answer = ask(&["Accept: text/csv;q=0.1, application/vnd.apache.arrow.stream"]);
    let arrow = "application/vnd.apache.arrow.stream";
    assert_eq!(answer.header("content-type"), arrow);
    assert_eq!(rows_of_arrow(answer.body), expected);

    // So much that it is neither parsed nor encoded on the thread that took it.
    let all = rows_where(|_| true);
    let mut long = json_request("price >= 0");
    let keys: Vec<String> = all.iter().map(|row| row.key.to_string()).collect();
    long["where"] = json!(format!("key in ({})", keys.join(", ")));
    for (accept, rows_of) in [
        (
            "Accept: application/x-ndjson",
            rows_of_json as fn(&str) -> _,
        ),
        ("Accept: text/csv", rows_of_csv),
    ] {
        let answer = post(&process, &[accept], &long);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(rows_of(answer.text()) == all, "all rows, {accept}");
    }
    let answer = post(&process, &[&format!("Accept: {arrow}")], &long);
    assert!(rows_of_arrow(answer.body) == all, "all rows, {arrow}");

    let mut explain = json_request("key = 17");
    explain["explain"] = json!(true);
    let answer = post(&process, &[], &explain);
    let counts: Value =
        serde_json::from_str(answer.header("x-corelane-explain")).expect("one line of JSON");
    assert_eq!(counts["rows_matched"], 1, "{counts}");
    assert_eq!(counts["files"], files().len(), "{counts}");
    process.terminate();
}

#[track_caller]
fn assert_refused(answer: &HttpAnswer, status: u16, code: &str, words: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    let (found, message) = answer.error();
    assert_eq!(found, code, "{message}");
    assert!(message.contains(words), "{message}");
    assert_eq!(answer.header("content-type"), "application/json");
}

#[test]
fn what_cannot_be_answered_has_a_status_a_code_and_a_sentence() {
    let bed = Bed::in_memory();
    write_table(&bed);
    std::fs::write(bed.path("source/notes.parquet"), "no such thing").expect("a file");
    let process = bed.start();
    let object = files()[0].0.clone();
    let with = |field: &str, value: Value| {
        let mut request = json_request("key = 1");
        request[field] = value;
        request
    };
    let cases = [
        (json_request("key = "), 400, "invalid", "\"where\""),
        (json_request("nothing = 1"), 400, "invalid", "nothing"),
        (with("paths", json!([TABLE])), 400, "invalid", "both"),
        (with("speed", json!(1)), 400, "invalid", "unknown field"),
        (
            with("path", json!("gs://data/x")),
            400,
            "invalid",
            "outside of",
        ),
        (with("path", json!("/data/../data/")), 400, "invalid", ".."),
        (
            with("path", json!("/else/x.parquet")),
            404,
            "noMount",
            "/else/x.parquet",
        ),
        (with("path", json!("/else/")), 404, "notFound", "/else"),
        (
            with("path", json!("/data/none.parquet")),
            404,
            "notFound",
            "none.parquet",
        ),
        (
            with("path", json!("/data/orders/*.csv")),
            404,
            "notFound",
            "*.csv",
        ),
        (
            with("path", json!("/data/notes.parquet")),
            422,
            "corrupt",
            "/data/notes.parquet",
        ),
        (with("scan_bytes_max", json!(1)), 422, "tooMuch", "1"),
    ];
    for (request, status, code, words) in cases {
        assert_refused(&post(&process, &[], &request), status, code, words);
    }
    let ask = |method: &str, headers: &[&str], body: &[u8]| {
        Http::connect(process.operations)
            .and_then(|mut http| http.ask(method, "/v1/lookup", headers, body))
            .expect("an answer")
    };
    let answer = ask("POST", &[], b"{\"path\": \"/data/\",\n \"where\" 1}");
    assert_refused(&answer, 400, "invalid", "line 2");
    let answer = ask("POST", &[], b"\xff\xfe");
    assert_refused(&answer, 400, "invalid", "not JSON");
    assert_refused(&ask("POST", &[], b""), 400, "invalid", "not JSON");
    for method in ["GET", "PUT", "DELETE"] {
        let answer = ask(method, &[], b"");
        assert_refused(&answer, 405, "methodNotAllowed", "POST");
        assert_eq!(answer.header("allow"), "POST");
    }
    let answer = ask("HEAD", &[], b"");
    assert_eq!((answer.status, answer.header("allow")), (405, "POST"));
    for accept in ["text/html", "application/parquet", "text/csv;q=0"] {
        let body = json_request("key = 1").to_string();
        let answer = ask("POST", &[&format!("Accept: {accept}")], body.as_bytes());
        for format in [
            "application/vnd.apache.arrow.stream",
            "application/x-ndjson",
            "text/csv",
        ] {
            assert_refused(&answer, 406, "notAcceptable", format);
        }
    }
    // Longer than is taken: a little, much, and so much that it is not even read.
    let spaces = vec![b' '; (4 << 20) + 1];
    let answer = ask("POST", &[], &spaces);
    assert_refused(&answer, 413, "bodyTooLong", "4194304");
    let mut http = Http::connect(process.operations).expect("it listens");
    http.send_head("POST", "/v1/lookup", &[], 1 << 30)
        .expect("it reads");
    let answer = http.receive(true).expect("an answer");
    assert_refused(&answer, 413, "bodyTooLong", "4194304");
    // One that is as long as may be, and says something.
    let mut longest = json!({ "path": object, "where": "key < 0" }).to_string();
    longest.extend(std::iter::repeat_n(' ', (4 << 20) - longest.len()));
    assert_eq!(ask("POST", &[], longest.as_bytes()).status, 200);
    process.terminate();
}

#[track_caller]
fn post_as(process: &Process, token: &str, path: &str) -> HttpAnswer {
    let bearer = format!("Authorization: Bearer {token}");
    let headers: &[&str] = if token.is_empty() { &[] } else { &[&bearer] };
    post(
        process,
        headers,
        &json!({ "path": path, "where": "key = 1" }),
    )
}

#[test]
fn rows_are_for_readers_of_their_mount_on_either_face() {
    let mut bed = Bed::in_memory();
    bed.mounts[0].keys.push_str("\nreaders = [\"trainer\"]");
    bed.sections = ["trainer", "other"]
        .map(|name| format!("[[token]]\nname = \"{name}\"\nsecret = \"secret-of-the-{name}\"\n"))
        .concat();
    write_table(&bed);
    let process = bed.start();
    let object = files()[0].0.clone();
    for token in ["", "secret-of-nobody", "secret-of-the-"] {
        let answer = post_as(&process, token, &object);
        assert_refused(&answer, 401, "unauthenticated", "token");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    for path in [object.as_str(), TABLE, "/data/*/"] {
        let answer = post_as(&process, "secret-of-the-other", path);
        assert_refused(&answer, 403, "denied", "/data");
        let answer = post_as(&process, "secret-of-the-trainer", path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert_eq!(answer.header("x-corelane-rows"), "1", "{path}");
    }
    // From loopback, pages want no token.
    assert!(process.metrics().starts_with("HTTP/1.1 200"));

    let asked = request(vec![object], "key = 0");
    let trainer = process.client_with("secret-of-the-trainer", Options::default());
    assert_eq!(trainer.look_up(&asked).expect("it may").rows, 1);
    let other = process.client_with("secret-of-the-other", Options::default());
    let error = other.look_up(&asked).expect_err("it may not");
    assert_eq!(error.code(), Some(ErrorCode::Denied), "{error}");
    let log = process.terminate();
    assert!(!log.contains("secret-of"), "a secret in the log:\n{log}");
}

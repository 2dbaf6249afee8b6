//! The access log: a line a request, which no request can forge.

use std::fs;
use std::path::Path;

use crate::client::{get, request};
use crate::harness::{Bed, eventually};
use crate::scene::{OPEN, Scene};
use crate::signing::Signer;

const SECRET: &str = "a-secret-that-no-log-shows";

/// A worker that logs accesses to `access.log` in its bed.
fn logging() -> Scene {
    let mut bed = Bed::in_memory();
    bed.sections = format!(
        "{OPEN}access_log = \"{}\"\n[[s3_key]]\nname = \"someone\"\nid = \"AKIASOMEONE\"\n\
         secret = \"{SECRET}\"\n",
        bed.path("access.log").display()
    );
    Scene::with(bed)
}

/// The fields of a line, quoted ones and the time as one.
fn fields(line: &str) -> Vec<String> {
    let mut fields = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let end = match rest.as_bytes()[0] {
            b'"' => rest[1..].find('"').expect("an end") + 2,
            b'[' => rest.find(']').expect("an end") + 1,
            _ => rest.find(' ').unwrap_or(rest.len()),
        };
        fields.push(rest[..end].to_owned());
        rest = rest[end..].strip_prefix(' ').unwrap_or(&rest[end..]);
    }
    fields
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn every_request_has_a_line_that_tells_what_became_of_it() {
    let scene = logging();
    scene.bed.write("folder/object", 1, 200_000);
    let key = Signer::new("AKIASOMEONE", SECRET);
    let target = "/data/folder/object";
    let asked = [
        get(target),
        get(target),
        request("GET", target, "Range: bytes=1-10\r\n"),
        request("HEAD", target, "Range: bytes=1-10\r\n"),
        request("GET", target, "If-None-Match: *\r\n"),
        get("/data/missing"),
        key.get(target),
        get(&key.presigned("GET", target, 60)),
        key.get(target).replace("Signature=", "Signature=0"),
        request(
            "GET",
            target,
            "User-Agent: a \"quoted\" one\r\nReferer: b\tc\r\n",
        ),
        get("/data/a%22%20b%C3%A4"),
        // A head that cannot be read has a line too, and is the last.
        "GET /data/folder/object HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(),
    ];
    // Of operation, key, status, error, bytes, object's bytes, requester.
    let expected = [
        [
            "REST.GET.OBJECT",
            "folder/object",
            "200",
            "-",
            "200000",
            "200000",
            "-",
        ],
        [
            "REST.GET.OBJECT",
            "folder/object",
            "200",
            "-",
            "200000",
            "200000",
            "-",
        ],
        [
            "REST.GET.OBJECT",
            "folder/object",
            "206",
            "-",
            "10",
            "200000",
            "-",
        ],
        [
            "REST.HEAD.OBJECT",
            "folder/object",
            "206",
            "-",
            "-",
            "200000",
            "-",
        ],
        [
            "REST.GET.OBJECT",
            "folder/object",
            "304",
            "-",
            "-",
            "200000",
            "-",
        ],
        [
            "REST.GET.OBJECT",
            "missing",
            "404",
            "NoSuchKey",
            "",
            "-",
            "-",
        ],
        [
            "REST.GET.OBJECT",
            "folder/object",
            "200",
            "-",
            "200000",
            "200000",
            "someone",
        ],
        [
            "REST.GET.OBJECT",
            "folder/object",
            "200",
            "-",
            "200000",
            "200000",
            "someone",
        ],
        ["", "", "400", "AuthorizationHeaderMalformed", "", "-", "-"],
        [
            "REST.GET.OBJECT",
            "folder/object",
            "200",
            "-",
            "200000",
            "200000",
            "-",
        ],
        ["REST.GET.OBJECT", "", "404", "NoSuchKey", "", "-", "-"],
        ["-", "-", "400", "InvalidRequest", "", "-", "-"],
    ];
    let mut connection = scene.connect();
    let ids: Vec<String> = asked
        .iter()
        .map(|request| {
            connection
                .ask(request)
                .expect("x-amz-request-id")
                .to_owned()
        })
        .collect();
    let path = scene.bed.path("access.log");
    eventually("a line a request", || lines(&path).len() == asked.len());
    for (((line, expected), id), request) in
        lines(&path).iter().zip(&expected).zip(&ids).zip(&asked)
    {
        let fields = fields(line);
        assert!(fields.len() >= 24, "{line}");
        assert_eq!(&fields[5], id, "{line}");
        assert_eq!(fields[3], "127.0.0.1", "{line}");
        let shown = [6, 7, 9, 10, 11, 12, 4].map(|at| fields[at].as_str());
        for (found, expected) in shown.iter().zip(expected) {
            assert!(expected.is_empty() || found == expected, "{request}{line}");
        }
        assert!(!line.contains(SECRET), "{line}");
    }
    let log = scene.terminate();
    assert!(!log.contains(SECRET));
}

#[test]
fn a_log_that_was_renamed_goes_on_in_a_new_file() {
    let scene = logging();
    scene.bed.write("object", 2, 10);
    let (path, old) = (scene.bed.path("access.log"), scene.bed.path("access.log.1"));
    let mut connection = scene.connect();
    connection.ask(get("/data/object"));
    eventually("the first line", || lines(&path).len() == 1);
    fs::rename(&path, &old).expect("it moves");
    let mut asked = 1;
    eventually("a new file has lines", || {
        connection.ask(get("/data/object"));
        asked += 1;
        !lines(&path).is_empty()
    });
    eventually("no line is lost", || {
        lines(&path).len() + lines(&old).len() == asked
    });
    scene.terminate();
}

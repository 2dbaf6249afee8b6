//! What is not cached yet: what the origin is asked for, and when its bytes go on to clients.

use crate::client::{get, request};
use crate::harness::{Bed, assert_same, content, eventually};
use crate::origin::{Manner, Origin, stored};
use crate::scene::Scene;

const BLOCK: usize = 256 << 10;

/// A worker whose bucket `cold` is the origin's bucket.
fn before(origin: &Origin) -> Scene {
    let mut bed = Bed::in_memory();
    let options: Vec<String> = origin
        .s3_options()
        .into_iter()
        .map(|(name, value)| format!("{name} = \"{value}\""))
        .collect();
    bed.mounts.push(crate::harness::bed::Mount {
        path: "/cold",
        uri: "s3://bucket".to_owned(),
        keys: format!(
            "freshness = \"immutable\"\nblock_size = \"256K\"\noptions = {{ {} }}",
            options.join(", ")
        ),
    });
    Scene::on(bed)
}

#[test]
fn the_first_bytes_leave_before_the_block_is_complete_and_all_readers_share_one_request() {
    let origin = Origin::start();
    let bytes = content(1, BLOCK);
    origin.put_with("/bucket/object", bytes.clone(), &[Manner::HalfThenWait]);
    let scene = before(&origin);
    let mut readers = scene.connections(12);
    for reader in &mut readers {
        reader.send(get("/cold/object"));
    }
    // The origin holds the second half back until every reader has begun.
    for reader in &mut readers {
        let begun = reader.answer_begun();
        assert_eq!(begun.status, 200, "{begun:?}");
    }
    let mut latecomer = scene.connect();
    let early = latecomer.ask(request("GET", "/cold/object", "Range: bytes=100-199\r\n"));
    assert_same(&early.body, &bytes[100..200], "of the half that is there");
    origin.release();
    for reader in &mut readers {
        assert_same(&reader.answer().body, &bytes, "the object");
    }
    let gets = origin.gets("/bucket/object");
    assert_eq!((gets.len(), &gets[0]), (1, &(0..BLOCK as u64)));
    // From now on it is cached.
    let again = scene.ask(get("/cold/object"));
    assert_same(&again.body, &bytes, "the object");
    assert_eq!(origin.gets("/bucket/object").len(), 1);
    scene.terminate();
}

#[test]
fn headers_of_the_origin_are_those_of_the_answer() {
    let origin = Origin::start();
    origin.put("/bucket/object", stored(content(2, 100), "some-etag"));
    let scene = before(&origin);
    let answer = scene.ask(get("/cold/object"));
    assert_eq!(answer.expect("etag"), "\"some-etag\"");
    assert_eq!(answer.expect("content-type"), "text/plain");
    assert_eq!(
        answer.expect("last-modified"),
        "Sun, 06 Nov 1994 08:49:37 GMT"
    );
    scene.terminate();
}

#[test]
fn an_origin_that_breaks_off_never_makes_an_answer_whole() {
    let origin = Origin::start();
    let bytes = content(3, 3 * BLOCK);
    // Again and again, so that no retry helps.
    origin.put_with("/bucket/broken", bytes.clone(), &[Manner::Truncated]);
    origin.put_with("/bucket/refusing", bytes, &[Manner::Refused(403, None)]);
    let scene = before(&origin);
    let mut connection = scene.connect();
    connection.send(get("/cold/broken"));
    match connection.receive(false) {
        crate::client::Received::Cut(_) | crate::client::Received::Closed => {}
        crate::client::Received::Answer(answer) => {
            assert!(answer.status >= 500, "{answer:?}");
        }
    }
    // Not the client's fault, so no status of its own.
    let refused = scene.ask(get("/cold/refusing"));
    refused.assert_error(503, "ServiceUnavailable");
    scene.terminate();
}

#[test]
fn head_of_the_first_byte_brings_the_whole_object_in() {
    let origin = Origin::start();
    let bytes = content(4, 5 * BLOCK + 7);
    for name in ["wanted", "other"] {
        origin.put(&format!("/bucket/{name}"), stored(bytes.clone(), "v1"));
    }
    let scene = before(&origin);
    let head = |key: &str, lines: &str| {
        let answer = scene.ask(request("HEAD", &format!("/cold/{key}"), lines));
        assert!(matches!(answer.status, 200 | 206), "{answer:?}");
    };
    // Other HEADs ask for nothing.
    head("other", "");
    head("other", "Range: bytes=0-1\r\n");
    head("other", "Range: bytes=1-1\r\n");
    head("wanted", "Range: bytes=0-0\r\n");
    let fetched = |key: &str| {
        let ranges = origin.gets(&format!("/bucket/{key}"));
        ranges
            .iter()
            .map(|range| range.end - range.start)
            .sum::<u64>()
    };
    eventually("the whole object is asked for", || {
        fetched("wanted") >= bytes.len() as u64
    });
    let answer = scene.ask(get("/cold/wanted"));
    assert_same(&answer.body, &bytes, "the object");
    assert_eq!(fetched("wanted"), bytes.len() as u64, "nothing came twice");
    assert_eq!(fetched("other"), 0);
    scene.terminate();
}

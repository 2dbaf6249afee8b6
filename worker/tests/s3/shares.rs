//! What one client may have of a worker, where others want some of it: writers' places, memory of bodies,
//! the cache.

use std::fs::File;
use std::time::{Duration, Instant};

use crate::client::{Connection, get, request, with_body};
use crate::harness::bed::Mount;
use crate::harness::{Bed, assert_same, content, eventually};
use crate::origin::{Origin, WriteManner};
use crate::scene::Scene;
use crate::signing::{Signer, UNSIGNED};

const SECRET: &str = "a-secret-of-a-key-that-is-long-enough";

/// Places for calls with a body; see `CALLS_MAX` of the gateway.
const PLACES: usize = 1024;

fn key(name: &str) -> Signer {
    Signer::new(&format!("AKIA{name}"), SECRET)
}

/// A worker with two keys that may do everything, and a bucket `remote` at `origin`.
fn scene(origin: &Origin) -> Scene {
    let mut bed = Bed::in_memory();
    let options: Vec<String> = origin
        .s3_options()
        .into_iter()
        .map(|(name, value)| format!("{name} = \"{value}\""))
        .collect();
    bed.mounts.push(Mount {
        path: "/remote",
        uri: "s3://bucket".to_owned(),
        keys: format!(
            "freshness = \"immutable\"\noptions = {{ {} }}",
            options.join(", ")
        ),
    });
    bed.sections = "[s3]\nlisten = \"127.0.0.1:0\"\n".to_owned();
    for name in ["SLOW", "OTHER"] {
        bed.sections += &format!(
            "[[s3_key]]\nname = \"{name}\"\nid = \"AKIA{name}\"\nsecret = \"{SECRET}\"\n\
             verbs = [\"read\", \"list\", \"write\", \"delete\"]\n"
        );
    }
    Scene::with(bed)
}

fn put(signer: &Signer, target: &str, body: &[u8]) -> Vec<u8> {
    let lines = format!("Content-Length: {}\r\n", body.len());
    let head = signer.request("PUT", target, &lines, UNSIGNED);
    [head.as_bytes(), body].concat()
}

/// Connections that each began a request and send no more of its body.
fn begun(scene: &Scene, head: impl Fn(usize) -> String, count: usize) -> Vec<Connection> {
    (0..count)
        .map(|number| {
            let mut connection = scene.connect();
            connection.send([head(number).as_bytes(), b"x"].concat());
            connection
        })
        .collect()
}

#[test]
fn a_key_whose_bodies_come_slowly_keeps_no_other_key_from_writing() {
    let origin = Origin::start();
    let scene = scene(&origin);
    let (slow, other) = (key("SLOW"), key("OTHER"));
    for bucket in ["data", "remote"] {
        // Long ones: each of them holds a place of the mount, too.
        let head = |number: usize| {
            let target = format!("/{bucket}/slow-{number}");
            slow.request("PUT", &target, "Content-Length: 104857600\r\n", UNSIGNED)
        };
        let held = begun(&scene, head, PLACES + 20);
        let short = content(1, 5000);
        let long = content(2, 3 << 20);
        for (name, body) in [("short", &short), ("long", &long)] {
            let answer = scene.ask(put(&other, &format!("/{bucket}/{name}"), body));
            assert_eq!(answer.status, 200, "{bucket}/{name}: {answer:?}");
        }
        // So do parts of an upload, and documents.
        if bucket == "data" {
            let created = scene.ask(other.request("POST", "/data/parts?uploads=", "", UNSIGNED));
            let id = created.element("UploadId");
            let target = format!("/data/parts?partNumber=1&uploadId={id}");
            let part = scene.ask(put(&other, &target, &long));
            assert_eq!(part.status, 200, "{part:?}");
            let document = format!(
                "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part>\
                 </CompleteMultipartUpload>",
                part.expect("etag")
            );
            let target = format!("/data/parts?uploadId={id}");
            let lines = format!("Content-Length: {}\r\n", document.len());
            let complete = other.request("POST", &target, &lines, UNSIGNED);
            let completed = scene.ask([complete.as_bytes(), document.as_bytes()].concat());
            assert_eq!(completed.status, 200, "{completed:?}");
            assert_same(&scene.ask(other.get("/data/parts")).body, &long, "of parts");
        }
        drop(held);
    }
    scene.terminate();
}

#[test]
fn documents_that_are_held_open_keep_no_other_key_from_deleting() {
    let origin = Origin::start();
    let scene = scene(&origin);
    let (slow, other) = (key("SLOW"), key("OTHER"));
    scene.bed.write("object", 1, 10);
    // A presigned request counts for its key.
    let presigned = slow.presigned("PUT", "/data/presigned", 600);
    let head = |number: usize| match number % 2 {
        0 => slow.request(
            "POST",
            "/data?delete=",
            "Content-Length: 20000\r\n",
            UNSIGNED,
        ),
        _ => request("PUT", &presigned, "Content-Length: 20000\r\n"),
    };
    let held = begun(&scene, head, PLACES + 20);
    let document = "<Delete><Object><Key>object</Key></Object></Delete>";
    let lines = format!("Content-Length: {}\r\n", document.len());
    let delete = other.request("POST", "/data?delete=", &lines, UNSIGNED);
    let answer = scene.ask([delete.as_bytes(), document.as_bytes()].concat());
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!scene.file("object").exists());
    drop(held);
    scene.terminate();
}

#[test]
fn a_listing_with_a_body_has_the_place_of_a_listing() {
    let scene = scene(&Origin::start());
    let slow = key("SLOW");
    let head = |number: usize| {
        let target = format!("/data/slow-{number}");
        slow.request("PUT", &target, "Content-Length: 104857600\r\n", UNSIGNED)
    };
    let held = begun(&scene, head, PLACES + 20);
    eventually("it has no place for a body", || {
        scene.ask(put(&slow, "/data/one-more", b"x")).status == 503
    });
    let listing = slow.request(
        "GET",
        "/data?list-type=2",
        "Content-Length: 1\r\n",
        UNSIGNED,
    );
    let answer = scene.ask([listing.as_bytes(), b"x"].concat());
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.expect("connection"), "close", "its body is not read");
    drop(held);
    scene.terminate();
}

#[test]
fn a_body_that_comes_too_slowly_for_its_length_is_cut_off() {
    let scene = Scene::open();
    let mut connection = scene.connect();
    connection.send(request(
        "PUT",
        "/data/slow",
        "Content-Length: 104857600\r\n",
    ));
    let began = Instant::now();
    // More than half a KiB a second: it would take two days.
    while connection.try_send([0; 4096]) {
        assert!(began.elapsed() < Duration::from_secs(120), "it goes on");
        std::thread::sleep(Duration::from_secs(2));
    }
    eventually("nothing is left of it", || {
        scene
            .bed
            .path("source")
            .join(".corelane-uploads/files")
            .read_dir()
            .is_ok_and(|mut files| files.next().is_none())
    });
    scene.terminate();
}

#[test]
fn a_body_that_nobody_wants_is_taken_for_a_bounded_time_however_it_comes() {
    let scene = scene(&Origin::start());
    let mut connection = scene.connect();
    connection.send(request(
        "PUT",
        "/data/denied",
        "Content-Length: 104857600\r\n",
    ));
    let began = Instant::now();
    while connection.try_send([0]) {
        assert!(began.elapsed() < Duration::from_secs(90), "it goes on");
        std::thread::sleep(Duration::from_secs(1));
    }
    assert!(
        began.elapsed() > Duration::from_secs(10),
        "the client has some time"
    );
    scene.terminate();
}

#[test]
fn deletions_that_an_origin_refuses_leave_nothing_behind_and_lost_answers_little() {
    let origin = Origin::start();
    let scene = scene(&origin);
    let other = key("OTHER");
    let uncertain = || scene.counter("s3_writes_uncertain");
    let delete = |round: usize| {
        let objects: String = (0..1000)
            .map(|number| format!("<Object><Key>{round}-{number:0>200}</Key></Object>"))
            .collect();
        let document = format!("<Delete>{objects}</Delete>");
        let lines = format!("Content-Length: {}\r\n", document.len());
        let head = other.request("POST", "/remote?delete=", &lines, UNSIGNED);
        scene.ask([head.as_bytes(), document.as_bytes()].concat())
    };
    origin.write_with(&[WriteManner::Refused(403, None)]);
    for round in 0..3 {
        assert_eq!(delete(round).status, 403);
    }
    assert_eq!(uncertain(), 0);
    // It may have deleted some of them: they are noted, as far as there is room, then their mount is.
    origin.write_with(&[WriteManner::Refused(500, None)]);
    let mut most = 0;
    for round in 0..13 {
        assert_eq!(delete(round).status, 503);
        most = most.max(uncertain());
    }
    assert!((1000..20_000).contains(&most), "{most} were noted");
    assert_eq!(uncertain(), 1, "the mount");
    scene.terminate();
}

#[test]
fn a_write_whose_answer_was_lost_is_seen() {
    let origin = Origin::start();
    let scene = scene(&origin);
    let other = key("OTHER");
    let (old, new) = (content(1, 1000), content(2, 2000));
    assert_eq!(scene.ask(put(&other, "/remote/object", &old)).status, 200);
    assert_same(&scene.ask(other.get("/remote/object")).body, &old, "before");
    // Kept by the origin, which then says nothing.
    origin.write_with(&[WriteManner::Silent]);
    let lines = "Content-Length: 2000\r\nIf-None-Match: *\r\n";
    let head = other.request("PUT", "/remote/object", lines, UNSIGNED);
    let answer = scene.ask([head.as_bytes(), &new[..]].concat());
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_same(&scene.ask(other.get("/remote/object")).body, &new, "after");
    assert_eq!(scene.counter("s3_writes_uncertain"), 1);
    scene.terminate();
}

#[test]
fn chunks_of_a_byte_are_refused_in_one_coding_and_joined_in_the_other() {
    let scene = Scene::open();
    let body = content(3, 40_000);
    let mut coded = Vec::new();
    for byte in &body {
        coded.extend_from_slice(&[b'1', b'\r', b'\n', *byte, b'\r', b'\n']);
    }
    coded.extend_from_slice(b"0\r\n\r\n");
    let lines = format!(
        "x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER\r\n\
         x-amz-decoded-content-length: {}\r\n",
        body.len()
    );
    let refused = scene.ask(with_body("PUT", "/data/object", &lines, &coded));
    refused.assert_error(403, "InvalidChunkSizeError");
    assert!(!scene.file("object").exists());
    let chunked = request("PUT", "/data/object", "Transfer-Encoding: chunked\r\n");
    let answer = scene.ask([chunked.as_bytes(), &coded].concat());
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_same(&scene.ask(get("/data/object")).body, &body, "the object");
    scene.terminate();
}

#[test]
fn an_object_that_is_longer_than_the_cache_is_not_fetched_ahead_over_all_of_it() {
    const DEVICE: u64 = 66 << 20;
    let mut bed = Bed::in_memory();
    bed.mounts[0].keys.push_str("\nblock_size = \"256K\"");
    let scene = Scene::on(bed);
    let hot = scene.bed.write("hot", 7, 100_000);
    let long = File::create(scene.file("long")).expect("made");
    long.set_len(1 << 40).expect("a sparse file");
    assert_same(&scene.ask(get("/data/hot")).body, &hot, "the hot object");
    let fetched = || scene.under_store_counter("bytes", "/data");
    let ask = || {
        let head = request("HEAD", "/data/long", "Range: bytes=0-0\r\n");
        assert_eq!(scene.ask(head).status, 206);
    };
    ask();
    eventually("some of it is fetched", || fetched() > 1 << 20);
    // Asked again and again, by connections that are gone.
    let mut last = 0;
    eventually("it comes to an end", || {
        ask();
        std::mem::replace(&mut last, fetched()) == fetched()
    });
    for _ in 0..50 {
        ask();
    }
    assert!(fetched() < DEVICE, "{} bytes were fetched", fetched());
    assert!(scene.counter("prefetches_cut") > 0);
    // Reads of a byte here and there bring blocks and what follows them, and no more.
    let (before, mut next) = (fetched(), 1_u64 << 39);
    for _ in 0..8 {
        let range = format!("Range: bytes={next}-{next}\r\n");
        assert_eq!(scene.ask(request("GET", "/data/long", &range)).status, 206);
        next += 1;
    }
    let mut last = 0;
    eventually("it comes to an end", || {
        std::thread::sleep(Duration::from_millis(50));
        std::mem::replace(&mut last, fetched()) == fetched()
    });
    let ahead = fetched() - before;
    assert!(ahead <= 4 << 20, "{ahead} bytes were fetched for 8 bytes");
    let before = fetched();
    assert_same(&scene.ask(get("/data/hot")).body, &hot, "the hot object");
    assert_eq!(fetched(), before, "it is cached still");
    scene.terminate();
}

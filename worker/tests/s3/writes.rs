//! Writes: through to the origin, and at once what every core answers with.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use md5::{Digest, Md5};

use crate::client::{Answer, Connection, Received, get, request, with_body};
use crate::cores::on_every_core;
use crate::harness::{BLOCK, Bed, assert_same, content, eventually};
use crate::scene::Scene;
use crate::signing::sha256;

fn put(key: &str, lines: &str, body: &[u8]) -> Vec<u8> {
    with_body("PUT", &format!("/data/{key}"), lines, body)
}

#[track_caller]
fn written(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.expect("etag").to_owned()
}

/// Base64 (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let group = three
            .iter()
            .fold(0u32, |group, byte| group << 8 | u32::from(*byte))
            << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = DIGITS[(group >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= three.len() {
                digit as char
            } else {
                '='
            });
        }
    }
    text
}

/// Files below `folder`, by their path in it. What vanishes meanwhile is left out.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    fn visit(folder: &Path, prefix: &str, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if path.is_dir() {
                visit(&path, &format!("{name}/"), found);
            } else if let Ok(bytes) = fs::read(&path) {
                found.insert(name, bytes);
            }
        }
    }
    let mut found = BTreeMap::new();
    visit(folder, "", &mut found);
    found
}

/// Fails unless the objects are these and nothing else is left behind.
#[track_caller]
fn assert_files(scene: &Scene, expected: &[(&str, &[u8])]) {
    let found = files(&scene.bed.path("source"));
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    let mut wanted: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
    wanted.sort_unstable();
    assert_eq!(names, wanted);
    for (name, bytes) in expected {
        assert_same(&found[*name], bytes, name);
    }
}

#[test]
fn what_was_written_is_read_at_once_on_every_core() {
    for freshness in ["immutable", "max-age=3600", "always-check"] {
        let scene = Scene::on(Bed::in_memory().freshness(freshness));
        let mut connections = on_every_core(&scene, 6);
        for turn in 0..12u64 {
            let bytes = content(turn, (turn as usize * 37_777) % (4 * BLOCK));
            let key = if turn % 3 == 2 {
                "a/new/folder/other"
            } else {
                "object"
            };
            let at = turn as usize % connections.len();
            let etag = written(&connections[at].ask(put(key, "", &bytes)));
            for connection in &mut connections {
                let answer = connection.ask(get(&format!("/data/{key}")));
                assert_eq!(answer.status, 200, "{freshness}: {answer:?}");
                assert_same(&answer.body, &bytes, freshness);
                assert_eq!(answer.expect("etag"), etag, "{freshness}");
            }
            assert_same(
                &fs::read(scene.file(key)).expect("a file"),
                &bytes,
                "the file",
            );
        }
        scene.terminate();
    }
}

#[test]
fn readers_of_an_object_that_is_written_see_one_version_and_none_older_than_acknowledged() {
    let scene = Scene::open();
    let version = |number: u64| {
        let mut bytes = content(number, 4 * BLOCK + number as usize % 1000);
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        bytes
    };
    let mut writers = on_every_core(&scene, 3);
    written(&writers[0].ask(put("object", "", &version(1))));
    const LAST: u64 = 80;
    let acknowledged = Arc::new(AtomicU64::new(1));
    let readers: Vec<_> = on_every_core(&scene, 4)
        .into_iter()
        .map(|mut connection| {
            let acknowledged = Arc::clone(&acknowledged);
            let address = scene.s3.expect("the face is open");
            std::thread::spawn(move || {
                let mut seen = 0;
                while seen < LAST {
                    let oldest = acknowledged.load(Ordering::SeqCst);
                    connection.send(get("/data/object"));
                    match connection.receive(false) {
                        Received::Answer(answer) => {
                            assert_eq!(answer.status, 200, "{answer:?}");
                            let number = answer.body[..8].try_into().expect("eight bytes");
                            seen = u64::from_le_bytes(number);
                            assert!(seen >= oldest, "{seen} is older than {oldest}");
                            assert_same(&answer.body, &version(seen), "a version");
                        }
                        Received::Cut(_) => connection = Connection::to(address),
                        Received::Closed => panic!("closed without an answer"),
                    }
                }
            })
        })
        .collect();
    for number in 2..=LAST {
        let writer = number as usize % writers.len();
        written(&writers[writer].ask(put("object", "", &version(number))));
        acknowledged.store(number, Ordering::SeqCst);
    }
    for reader in readers {
        reader.join().expect("no mix and nothing old");
    }
    scene.terminate();
}

#[test]
fn what_was_overwritten_does_not_come_back_with_a_restart() {
    // Blocks on the device are believed again after a start where objects never change.
    let mut scene = Scene::on(Bed::on_disk());
    for is_sudden in [false, true] {
        let (old, new) = (content(20, 8 * BLOCK), content(21, 8 * BLOCK));
        written(&scene.ask(put("object", "", &old)));
        written(&scene.ask(put("deleted", "", &old)));
        scene.load("/data");
        assert_same(&scene.ask(get("/data/object")).body, &old, "the old one");
        written(&scene.ask(put("object", "", &new)));
        let deleted = scene.ask(request("DELETE", "/data/deleted", ""));
        assert_eq!(deleted.status, 204);
        scene.restart(is_sudden);
        for connection in &mut on_every_core(&scene, 2) {
            let answer = connection.ask(get("/data/object"));
            assert_same(&answer.body, &new, "after the restart");
            let gone = connection.ask(get("/data/deleted"));
            gone.assert_error(404, "NoSuchKey");
        }
    }
    scene.terminate();
}

#[test]
fn what_the_origin_refuses_changes_nothing() {
    let scene = Scene::open();
    let bytes = content(22, 2 * BLOCK);
    written(&scene.ask(put("file", "", &bytes)));
    written(&scene.ask(put("folder/file", "", &bytes)));
    for key in ["file/below", "folder", ".corelane-uploads/files/x"] {
        let mut connection = scene.connect();
        connection.send(put(key, "", &content(23, BLOCK)));
        let answer = connection.answer();
        assert!(matches!(answer.status, 400..=499), "{key}: {answer:?}");
    }
    for key in ["file", "folder/file"] {
        let answer = scene.ask(get(&format!("/data/{key}")));
        assert_same(&answer.body, &bytes, key);
    }
    assert_files(&scene, &[("file", &bytes), ("folder/file", &bytes)]);
    scene.terminate();
}

#[test]
fn what_is_still_being_written_can_neither_be_read_nor_listed() {
    let scene = Scene::open();
    let whole = put("object", "", &content(24, 30 * BLOCK));
    let mut connection = scene.connect();
    connection.send(&whole[..20 * BLOCK]);
    let mut staged = String::new();
    eventually("a part of it is in a file", || {
        let found = files(&scene.bed.path("source"));
        let name = found.iter().find(|(_, bytes)| !bytes.is_empty());
        name.is_some_and(|(name, _)| {
            name.clone_into(&mut staged);
            true
        })
    });
    let answer = scene.ask(get(&format!("/data/{staged}")));
    assert!(matches!(answer.status, 400..=499), "{staged}: {answer:?}");
    assert_eq!(scene.ask(get("/data/object")).status, 404);
    let list = scene.ask(get("/data?list-type=2"));
    assert!(!list.text().contains("<Key>"), "{list:?}");
    connection.send(&whole[20 * BLOCK..]);
    written(&connection.answer());
    assert_eq!(scene.ask(get("/data/object")).status, 200);
    scene.terminate();
}

#[test]
fn a_key_that_ends_in_a_slash_is_an_empty_object() {
    let scene = Scene::open();
    let mut connection = scene.connect();
    connection
        .ask(get("/data/folder/"))
        .assert_error(404, "NoSuchKey");
    written(&connection.ask(put("folder/", "", b"")));
    let answer = connection.ask(get("/data/folder/"));
    assert_eq!((answer.status, answer.expect("content-length")), (200, "0"));
    let head = connection.ask(request("HEAD", "/data/folder/", ""));
    assert_eq!((head.status, head.expect("content-length")), (200, "0"));
    assert_eq!(head.expect("etag"), answer.expect("etag"));
    connection
        .ask(get("/data/folder"))
        .assert_error(404, "NoSuchKey");
    let deleted = connection.ask(request("DELETE", "/data/folder/", ""));
    assert_eq!(deleted.status, 204);
    assert_eq!(connection.ask(get("/data/folder/")).status, 404);
    scene.terminate();
}

#[test]
fn a_body_that_is_not_what_was_promised_changes_nothing() {
    let scene = Scene::open();
    let (old, new) = (content(1, 3 * BLOCK), content(2, 5 * BLOCK + 9));
    written(&scene.ask(put("object", "", &old)));
    let md5 = |bytes: &[u8]| base64(&Md5::digest(bytes));
    let crc32c = |bytes: &[u8]| base64(&crc32c::crc32c(bytes).to_be_bytes());
    let wrong = [
        (format!("Content-MD5: {}\r\n", md5(&old)), "BadDigest"),
        ("Content-MD5: nonsense\r\n".to_owned(), "InvalidDigest"),
        (
            format!("x-amz-checksum-crc32c: {}\r\n", crc32c(&old)),
            "BadDigest",
        ),
        (
            format!("x-amz-content-sha256: {}\r\n", sha256(&old)),
            "XAmzContentSHA256Mismatch",
        ),
    ];
    for (line, code) in &wrong {
        for key in ["object", "fresh/one"] {
            let mut connection = scene.connect();
            connection.send(put(key, line, &new));
            let answer = connection.answer();
            answer.assert_error(400, code);
        }
        assert_same(&scene.ask(get("/data/object")).body, &old, line);
        assert_eq!(scene.ask(get("/data/fresh/one")).status, 404);
        assert_files(&scene, &[("object", &old)]);
    }
    let right = format!(
        "Content-MD5: {}\r\nx-amz-checksum-crc32c: {}\r\nx-amz-content-sha256: {}\r\n",
        md5(&new),
        crc32c(&new),
        sha256(&new)
    );
    written(&scene.ask(put("object", &right, &new)));
    assert_same(&scene.ask(get("/data/object")).body, &new, "the right one");
    assert_files(&scene, &[("object", &new)]);
    scene.terminate();
}

/// A PUT in aws-chunked framing, with its CRC-32C behind it.
fn streamed(key: &str, body: &[u8], checksum: &str) -> Vec<u8> {
    let mut framed = Vec::new();
    for chunk in body.chunks(65_536) {
        framed.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        framed.extend_from_slice(chunk);
        framed.extend_from_slice(b"\r\n");
    }
    framed.extend_from_slice(format!("0\r\nx-amz-checksum-crc32c:{checksum}\r\n\r\n").as_bytes());
    let lines = format!(
        "x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER\r\n\
         x-amz-decoded-content-length: {}\r\nx-amz-trailer: x-amz-checksum-crc32c\r\n\
         Content-Encoding: aws-chunked\r\n",
        body.len()
    );
    put(key, &lines, &framed)
}

#[test]
fn streamed_bodies_are_unframed_and_their_trailers_believed() {
    let scene = Scene::open();
    let (old, new) = (content(3, 10), content(4, 3 * BLOCK + 1));
    written(&scene.ask(put("object", "", &old)));
    let checksum = |bytes: &[u8]| base64(&crc32c::crc32c(bytes).to_be_bytes());
    let refused = scene.ask(streamed("object", &new, &checksum(&old)));
    refused.assert_error(400, "BadDigest");
    assert_files(&scene, &[("object", &old)]);
    written(&scene.ask(streamed("object", &new, &checksum(&new))));
    let answer = scene.ask(get("/data/object"));
    assert_same(&answer.body, &new, "without the framing");
    assert_eq!(answer.header("content-encoding"), None);
    assert_files(&scene, &[("object", &new)]);
    scene.terminate();
}

#[test]
fn an_upload_that_breaks_off_leaves_nothing() {
    let mut scene = Scene::open();
    let (old, new) = (content(5, BLOCK), content(6, 20 * BLOCK));
    written(&scene.ask(put("object", "", &old)));
    let whole = put("object", "", &new);
    let chunked = request("PUT", "/data/object", "Transfer-Encoding: chunked\r\n");
    for at in [1, BLOCK, whole.len() - new.len(), whole.len() - 1] {
        for resets in [false, true] {
            let mut connection = scene.connect();
            connection.send(&whole[..at]);
            if resets {
                drop(connection);
            } else {
                connection.finish();
                assert!(matches!(connection.receive(false), Received::Closed));
            }
        }
    }
    let mut connection = scene.connect();
    connection.send(format!("{chunked}5\r\nabcde\r\n"));
    connection.finish();
    assert!(matches!(connection.receive(false), Received::Closed));
    eventually("what was begun is removed", || {
        files(&scene.bed.path("source")).len() == 1
    });
    assert_same(&scene.ask(get("/data/object")).body, &old, "the old one");
    // Now none of them can still be on its way.
    scene.stop();
    assert_files(&scene, &[("object", &old)]);
}

#[test]
fn a_client_that_waits_for_a_word_gets_it_and_then_the_answer() {
    let scene = Scene::open();
    let bytes = content(7, 3 * BLOCK);
    let mut connection = scene.connect();
    let lines = format!(
        "Content-Length: {}\r\nExpect: 100-continue\r\n",
        bytes.len()
    );
    for _ in 0..3 {
        connection.send(request("PUT", "/data/object", &lines));
        assert_eq!(connection.answer().status, 100);
        // The next request comes right behind the body.
        connection.send([&bytes[..], get("/data/object").as_bytes()].concat());
        written(&connection.answer());
        assert_same(&connection.answer().body, &bytes, "what was written");
    }
    scene.terminate();
}

#[test]
fn writes_and_reads_of_one_packet_happen_in_their_order() {
    let scene = Scene::open();
    let mut connection = scene.connect();
    let versions: Vec<Vec<u8>> = (0..20).map(|seed| content(seed, 5000)).collect();
    let mut packet = Vec::new();
    for bytes in &versions {
        packet.extend(put("object", "", bytes));
        packet.extend(get("/data/object").into_bytes());
        packet.extend(request("DELETE", "/data/object", "").into_bytes());
        packet.extend(get("/data/object").into_bytes());
    }
    connection.send(packet);
    for bytes in &versions {
        written(&connection.answer());
        assert_same(&connection.answer().body, bytes, "after the write");
        assert_eq!(connection.answer().status, 204);
        connection.answer().assert_error(404, "NoSuchKey");
    }
    assert_files(&scene, &[]);
    scene.terminate();
}

#[test]
fn only_one_of_many_writers_of_what_must_not_exist_succeeds() {
    let scene = Scene::open();
    for round in 0..5 {
        let key = format!("object-{round}");
        let writers: Vec<_> = scene
            .connections(8)
            .into_iter()
            .enumerate()
            .map(|(number, mut connection)| {
                let bytes = content(number as u64, BLOCK);
                let put = put(&key, "If-None-Match: *\r\n", &bytes);
                std::thread::spawn(move || (connection.ask(put).status, bytes))
            })
            .collect();
        let ended: Vec<(u16, Vec<u8>)> = writers
            .into_iter()
            .map(|writer| writer.join().expect("an answer"))
            .collect();
        let winners: Vec<_> = ended.iter().filter(|(status, _)| *status == 200).collect();
        assert_eq!(winners.len(), 1, "round {round}");
        assert!(
            ended
                .iter()
                .all(|(status, _)| matches!(status, 200 | 412 | 409))
        );
        let answer = scene.ask(get(&format!("/data/{key}")));
        assert_same(&answer.body, &winners[0].1, "the winner's");
    }
    scene.terminate();
}

#[test]
fn deleted_objects_are_gone_on_every_core() {
    let scene = Scene::open();
    let mut connections = on_every_core(&scene, 4);
    for turn in 0..4 {
        let bytes = content(turn, 1000);
        for key in ["a", "folder/b", "folder/c", "d&<"] {
            let escaped = key.replace('&', "%26").replace('<', "%3C");
            written(&connections[0].ask(put(&escaped, "", &bytes)));
        }
        for connection in &mut connections {
            assert_eq!(connection.ask(get("/data/folder/b")).status, 200);
        }
        assert_eq!(
            connections[1].ask(request("DELETE", "/data/a", "")).status,
            204
        );
        // What is not there is deleted as well.
        assert_eq!(
            connections[1].ask(request("DELETE", "/data/a", "")).status,
            204
        );
        let document =
            b"<Delete><Object><Key>folder/b</Key></Object><Object><Key>d&amp;&lt;</Key></Object>\
                         <Object><Key>missing</Key></Object></Delete>";
        let line = format!("Content-MD5: {}\r\n", base64(&Md5::digest(document)));
        let answer = connections[2].ask(with_body("POST", "/data?delete", &line, document));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(!answer.text().contains("<Error>"), "{answer:?}");
        for connection in &mut connections {
            for key in ["a", "folder/b", "d%26%3C"] {
                let answer = connection.ask(get(&format!("/data/{key}")));
                answer.assert_error(404, "NoSuchKey");
            }
            assert_eq!(connection.ask(get("/data/folder/c")).status, 200);
        }
        assert_files(&scene, &[("folder/c", &bytes)]);
    }
    scene.terminate();
}

#[test]
fn copies_are_objects_of_their_own() {
    let scene = Scene::on(Bed::on_disk());
    let bytes = content(8, 3 * BLOCK);
    let lines = "Content-Type: text/x-one\r\nx-amz-meta-colour: red\r\n";
    written(&scene.ask(put("source/one", lines, &bytes)));
    let copy = scene.ask(request(
        "PUT",
        "/data/two",
        "x-amz-copy-source: /data/source/one\r\nContent-Length: 0\r\n",
    ));
    assert_eq!(copy.status, 200, "{copy:?}");
    scene.ask(request("DELETE", "/data/source/one", ""));
    let answer = scene.ask(get("/data/two"));
    assert_same(&answer.body, &bytes, "the copy");
    assert_eq!(answer.expect("content-type"), "text/x-one");
    assert_eq!(answer.expect("x-amz-meta-colour"), "red");
    let missing = scene.ask(request(
        "PUT",
        "/data/three",
        "x-amz-copy-source: data/source/one\r\nContent-Length: 0\r\n",
    ));
    missing.assert_error(404, "NoSuchKey");
    for source in [
        "data/../worker.toml",
        "data/%2e%2e/worker.toml",
        "data",
        "",
        "%00",
    ] {
        let answer = scene.ask(request(
            "PUT",
            "/data/three",
            &format!("x-amz-copy-source: {source}\r\nContent-Length: 0\r\n"),
        ));
        assert!(matches!(answer.status, 400 | 404), "{source}: {answer:?}");
    }
    assert_files(&scene, &[("two", &bytes)]);
    scene.terminate();
}

#[test]
fn a_part_that_is_a_range_ends_where_it_says_or_is_refused() {
    let scene = Scene::on(Bed::on_disk());
    let bytes = content(8, 3 * BLOCK);
    written(&scene.ask(put("source", "", &bytes)));
    let begun = scene.ask(with_body("POST", "/data/parts?uploads", "", b""));
    let id = begun.element("UploadId");
    let part = |range: &str| {
        scene.ask(request(
            "PUT",
            &format!("/data/parts?partNumber=1&uploadId={id}"),
            &format!(
                "x-amz-copy-source: /data/source\r\nx-amz-copy-source-range: {range}\r\nContent-Length: 0\r\n"
            ),
        ))
    };
    for range in [
        "bytes=0-18446744073709551615",
        "bytes=0-18446744073709551614",
        "bytes=0-99999999999999999999999",
        "bytes=18446744073709551615-18446744073709551615",
        &format!("bytes=0-{}", bytes.len()),
    ] {
        part(range).assert_error(416, "InvalidRange");
    }
    let last = bytes.len() - 1;
    let copied = part(&format!("bytes=1-{last}"));
    assert_eq!(copied.status, 200, "{copied:?}");
    let document = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part></CompleteMultipartUpload>",
        copied.element("ETag")
    );
    let target = format!("/data/parts?uploadId={id}");
    let completed = scene.ask(with_body("POST", &target, "", document.as_bytes()));
    assert_eq!(completed.status, 200, "{completed:?}");
    assert_same(&scene.ask(get("/data/parts")).body, &bytes[1..], "the part");
    scene.terminate();
}

#[test]
fn an_upload_in_parts_is_there_when_it_is_completed_and_not_before() {
    let scene = Scene::open();
    let part_bytes = 5 << 20;
    let parts = [
        content(9, part_bytes),
        content(10, part_bytes),
        content(11, 777),
    ];
    let mut connections = on_every_core(&scene, 3);
    let begun = connections[0].ask(with_body("POST", "/data/large?uploads", "", b""));
    assert_eq!(begun.status, 200, "{begun:?}");
    let id = begun.element("UploadId");
    let mut etags = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        let at = number % connections.len();
        let target = format!("large?partNumber={}&uploadId={id}", number + 1);
        etags.push(written(&connections[at].ask(put(&target, "", part))));
    }
    connections[0]
        .ask(get("/data/large"))
        .assert_error(404, "NoSuchKey");
    let listed = connections[1].ask(get(&format!("/data/large?uploadId={id}")));
    assert_eq!(listed.text().matches("<Part>").count(), 3, "{listed:?}");
    let list = |etags: &[String]| {
        let rows: String = etags
            .iter()
            .enumerate()
            .map(|(at, etag)| {
                let etag = etag.replace('"', "&quot;");
                let number = at + 1;
                format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
            })
            .collect();
        format!("<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>")
    };
    let target = format!("/data/large?uploadId={id}");
    // Of a part, another ETag than it has.
    let swapped = [etags[1].clone(), etags[0].clone(), etags[2].clone()];
    let refused = connections[0].ask(with_body("POST", &target, "", list(&swapped).as_bytes()));
    refused.assert_error(400, "InvalidPart");
    // Asked by everyone at once, as by a client that lost the answer, and once more.
    let last = connections.len() - 1;
    let complete = with_body("POST", &target, "", list(&etags).as_bytes());
    for connection in &mut connections {
        connection.send(&complete);
    }
    let answers: Vec<Answer> = connections.iter_mut().map(Connection::answer).collect();
    let completed = connections[last].ask(&complete);
    assert_eq!(completed.status, 200, "{completed:?}");
    for answer in &answers {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.element("ETag"), completed.element("ETag"));
    }
    let whole = parts.concat();
    for connection in &mut connections {
        let answer = connection.ask(get("/data/large"));
        assert_same(&answer.body, &whole, "the parts in their order");
        let shown = completed.element("ETag").replace("&quot;", "\"");
        assert_eq!(answer.expect("etag"), shown);
    }
    // Another one is given up.
    let begun = connections[0].ask(with_body("POST", "/data/other?uploads", "", b""));
    let id = begun.element("UploadId");
    let target = format!("other?partNumber=1&uploadId={id}");
    written(&connections[0].ask(put(&target, "", &parts[0])));
    let aborted = connections[1].ask(request("DELETE", &format!("/data/other?uploadId={id}"), ""));
    assert_eq!(aborted.status, 204, "{aborted:?}");
    let late = connections[0].ask(put(&target, "", &parts[0]));
    late.assert_error(404, "NoSuchUpload");
    assert_files(&scene, &[("large", &whole)]);
    scene.terminate();
}

/// The keys and common prefixes of all pages, each page asked for with what the one before said.
fn listed(scene: &Scene, query: &str, is_v2: bool) -> (Vec<String>, Vec<String>) {
    let (mut keys, mut prefixes) = (Vec::new(), Vec::new());
    let mut place = String::new();
    let mut connection = scene.connect();
    loop {
        let answer = connection.ask(get(&format!("/data?{query}{place}")));
        assert_eq!(answer.status, 200, "{answer:?}");
        let text = answer.text();
        let all = |text: &str, name: &str| -> Vec<String> {
            let (start, end) = (format!("<{name}>"), format!("</{name}>"));
            text.split(&start)
                .skip(1)
                .map(|rest| rest.split(&end).next().expect("an end").to_owned())
                .collect()
        };
        keys.extend(all(&text, "Key"));
        for common in all(&text, "CommonPrefixes") {
            prefixes.extend(all(&common, "Prefix"));
        }
        if answer.element("IsTruncated") == "false" {
            return (keys, prefixes);
        }
        place = if is_v2 {
            let token = answer.element("NextContinuationToken");
            let token: String = token.bytes().map(|byte| format!("%{byte:02X}")).collect();
            format!("&continuation-token={token}")
        } else {
            let last = text
                .contains("<NextMarker>")
                .then(|| answer.element("NextMarker"));
            let last = last.unwrap_or_else(|| keys.last().expect("a key").clone());
            format!("&marker={last}")
        };
    }
}

#[test]
fn pages_of_listings_are_the_files_in_the_order_of_their_keys() {
    let scene = Scene::open();
    let mut names: Vec<String> = (0..120)
        .map(|number| match number % 4 {
            0 => format!("a/{number:03}"),
            1 => format!("a-{number}/x"),
            2 => format!("b/c/{number}.parquet"),
            _ => format!("top-{number}"),
        })
        .collect();
    for (number, name) in names.iter().enumerate() {
        if number % 2 == 0 {
            scene.bed.write(name, number as u64, number);
        } else {
            written(&scene.ask(put(name, "", &content(number as u64, number))));
        }
    }
    names.sort();
    let below = |prefix: &str| -> Vec<String> {
        let names = names.iter().filter(|name| name.starts_with(prefix));
        names.cloned().collect()
    };
    for size in [1, 7, 50, 1000] {
        for is_v2 in [true, false] {
            let version = if is_v2 { "list-type=2&" } else { "" };
            let query = format!("{version}max-keys={size}");
            assert_eq!(listed(&scene, &query, is_v2).0, names, "{query}");
            let query = format!("{version}max-keys={size}&prefix=a");
            assert_eq!(listed(&scene, &query, is_v2).0, below("a"), "{query}");
            let query = format!("{version}max-keys={size}&delimiter=%2F");
            let (keys, prefixes) = listed(&scene, &query, is_v2);
            assert_eq!(keys, below("top-"), "{query}");
            let mut expected: Vec<String> = names
                .iter()
                .filter_map(|name| name.split_once('/'))
                .map(|(first, _)| format!("{first}/"))
                .collect();
            expected.dedup();
            assert_eq!(prefixes, expected, "{query}");
        }
    }
    let (keys, _) = listed(&scene, "list-type=2&start-after=b%2F&max-keys=9", true);
    let expected: Vec<String> = names
        .iter()
        .filter(|name| name.as_str() > "b/")
        .cloned()
        .collect();
    assert_eq!(keys, expected);
    let (none, _) = listed(&scene, "list-type=2&prefix=nothing", true);
    assert!(none.is_empty());
    // What is written and deleted shows at once.
    written(&scene.ask(put("zz", "", b"1")));
    assert_eq!(listed(&scene, "list-type=2&prefix=z", true).0, ["zz"]);
    scene.ask(request("DELETE", "/data/zz", ""));
    assert!(listed(&scene, "list-type=2&prefix=z", true).0.is_empty());
    scene.terminate();
}

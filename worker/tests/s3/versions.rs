//! Objects that change while they are read.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::client::{Received, get, request};
use crate::harness::{BLOCK, Bed, assert_same, content};
use crate::scene::Scene;

/// A bed whose files are believed at once: here they are only ever replaced as a whole.
fn settled(freshness: &str) -> Bed {
    let mut bed = Bed::in_memory().freshness(freshness);
    bed.mounts[0]
        .keys
        .push_str("\noptions = { settle_ms = \"0\" }");
    bed
}

/// Puts a file in the place of another at once, as `mv` does.
fn replace(scene: &Scene, key: &str, bytes: &[u8]) {
    let beside = scene.bed.path("beside");
    fs::write(&beside, bytes).expect("a file");
    fs::rename(&beside, scene.file(key)).expect("it moves");
}

#[test]
fn a_changed_object_has_another_etag_and_its_own_bytes_at_once() {
    for freshness in ["always-check", "max-age=0"] {
        let scene = Scene::on(settled(freshness));
        let old = scene.bed.write("object", 1, 3 * BLOCK);
        let mut connections = scene.connections(6);
        let mut etag = String::new();
        for connection in &mut connections {
            let answer = connection.ask(get("/data/object"));
            assert_same(&answer.body, &old, freshness);
            answer.expect("etag").clone_into(&mut etag);
        }
        for seed in 2..6 {
            let new = content(seed, 2 * BLOCK + seed as usize);
            replace(&scene, "object", &new);
            for connection in &mut connections {
                let line = format!("If-None-Match: {etag}\r\n");
                let answer = connection.ask(request("GET", "/data/object", &line));
                assert_eq!(answer.status, 200, "{freshness}: {answer:?}");
                assert_same(&answer.body, &new, freshness);
                let stale = connection.ask(request(
                    "GET",
                    "/data/object",
                    &format!("If-Match: {etag}\r\n"),
                ));
                stale.assert_error(412, "PreconditionFailed");
            }
            let head = scene.ask(request("HEAD", "/data/object", ""));
            assert_ne!(head.expect("etag"), etag);
            head.expect("etag").clone_into(&mut etag);
        }
        fs::remove_file(scene.file("object")).expect("it was there");
        for connection in &mut connections {
            let answer = connection.ask(get("/data/object"));
            answer.assert_error(404, "NoSuchKey");
        }
        scene.terminate();
    }
}

#[test]
fn an_object_that_changes_under_a_long_answer_is_cut_off_or_the_old_one() {
    let mut bed = settled("always-check");
    bed.mounts[0].keys.push_str("\nblock_size = \"256K\"");
    let scene = Scene::on(bed);
    let length = 40 << 20;
    for seed in [1, 11, 21] {
        let (old, new) = (content(seed, length), content(seed + 1, length));
        replace(&scene, "object", &old);
        let mut connections = scene.connections(4);
        for connection in &mut connections {
            connection.send(get("/data/object"));
        }
        for connection in &mut connections {
            assert_eq!(connection.answer_begun().status, 200);
        }
        replace(&scene, "object", &new);
        for connection in &mut connections {
            match connection.receive(false) {
                Received::Answer(answer) => assert_same(&answer.body, &old, "a whole answer"),
                Received::Cut(answer) => {
                    let part = &old[..answer.body.len()];
                    assert_same(&answer.body, part, "an answer that was cut");
                }
                Received::Closed => panic!("its head was there"),
            }
        }
        let after = scene.ask(get("/data/object"));
        assert_same(&after.body, &new, "after the change");
    }
    scene.terminate();
}

#[test]
fn readers_of_an_object_that_is_replaced_again_and_again_see_one_version_each() {
    let scene = Scene::on(settled("always-check"));
    let versions: Arc<HashMap<Vec<u8>, Vec<u8>>> = Arc::new(
        (0..60)
            .map(|seed| content(100 + seed, 5 * BLOCK + seed as usize))
            .map(|bytes| (bytes[..16].to_vec(), bytes))
            .collect(),
    );
    let order: Vec<&Vec<u8>> = versions.values().collect();
    replace(&scene, "object", order[0]);
    let is_over = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let address = scene.s3.expect("the face is open");
            let (is_over, versions) = (Arc::clone(&is_over), Arc::clone(&versions));
            std::thread::spawn(move || {
                let (mut whole, mut cut) = (0, 0);
                let mut connection = crate::client::Connection::to(address);
                while !is_over.load(Ordering::SeqCst) || whole == 0 {
                    connection.send(get("/data/object"));
                    match connection.receive(false) {
                        Received::Answer(answer) => {
                            // Of versions that go faster than they can be read, nothing.
                            if answer.status == 503 {
                                answer.assert_error(503, "ServiceUnavailable");
                                continue;
                            }
                            assert_eq!(answer.status, 200, "{answer:?}");
                            let version = &versions[&answer.body[..16]];
                            assert_same(&answer.body, version, "a version");
                            whole += 1;
                        }
                        Received::Cut(answer) => {
                            if let Some(start) = answer.body.get(..16) {
                                let version = &versions[start][..answer.body.len()];
                                assert_same(&answer.body, version, "the part of a version");
                            }
                            cut += 1;
                            connection = crate::client::Connection::to(address);
                        }
                        Received::Closed => panic!("closed without an answer"),
                    }
                }
                (whole, cut)
            })
        })
        .collect();
    for _ in 0..5 {
        for version in &order {
            replace(&scene, "object", version);
        }
    }
    is_over.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.join().expect("no mix");
    }
    scene.terminate();
}

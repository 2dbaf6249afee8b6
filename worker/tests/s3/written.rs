//! What was written goes into the cache, and does not come back from its origin.

use crate::client::{get, with_body};
use crate::cores::on_every_core;
use crate::harness::{BLOCK, assert_same, content, eventually};
use crate::scene::Scene;

fn put(scene: &Scene, key: &str, body: &[u8]) {
    let answer = scene.ask(with_body("PUT", &format!("/data/{key}"), "", body));
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn bytes_of_a_write_are_read_from_the_cache_and_never_from_the_origin() {
    let scene = Scene::open();
    let lengths = [1, 4096, BLOCK - 1, BLOCK, 20 * BLOCK + 77];
    let objects: Vec<(String, Vec<u8>)> = lengths
        .iter()
        .map(|length| (format!("object-{length}"), content(*length as u64, *length)))
        .collect();
    for (key, bytes) in &objects {
        put(&scene, key, bytes);
    }
    let all: usize = lengths.iter().sum();
    eventually("all of it is in the cache", || {
        scene.under_store_counter("bytes_from_writes", "/data") == all as u64
    });
    let mut connections = on_every_core(&scene, 2);
    for (key, bytes) in &objects {
        for connection in &mut connections {
            let answer = connection.ask(get(&format!("/data/{key}")));
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_same(&answer.body, bytes, key);
        }
    }
    assert_eq!(scene.under_store_counter("bytes", "/data"), 0);
    scene.terminate();
}

#[test]
fn a_reader_right_behind_a_write_needs_no_origin_either() {
    let scene = Scene::open();
    let mut connection = scene.connect();
    for round in 0..50 {
        let bytes = content(round, 3 * BLOCK + round as usize);
        // One key again and again: each time another version.
        let answer = connection.ask(with_body("PUT", "/data/object", "", &bytes));
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = connection.ask(get("/data/object"));
        assert_same(&answer.body, &bytes, "the object");
    }
    assert_eq!(scene.under_store_counter("bytes", "/data"), 0);
    scene.terminate();
}

#[test]
fn an_object_that_is_too_long_to_be_kept_is_read_from_its_origin() {
    let scene = Scene::open();
    let bytes = content(1, (8 << 20) + 1);
    put(&scene, "long", &bytes);
    let answer = scene.ask(get("/data/long"));
    assert_same(&answer.body, &bytes, "the object");
    assert_eq!(scene.under_store_counter("bytes_from_writes", "/data"), 0);
    assert_eq!(
        scene.under_store_counter("bytes", "/data"),
        bytes.len() as u64
    );
    scene.terminate();
}

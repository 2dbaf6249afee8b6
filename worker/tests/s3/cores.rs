//! Objects whose stripes belong to several cores, and connections that live on any of them.

use std::io::Read;
use std::sync::Arc;

use crate::client::{Connection, get, request};
use crate::harness::{Bed, Process, Random, assert_same, content};
use crate::scene::Scene;

const STRIPE: usize = corelane_rpc_schema::STRIPE_BYTES as usize;

/// Connections of the face that each core has accepted.
fn accepted(process: &Process) -> Vec<u64> {
    let stats = process.control().stats().expect("it serves");
    let of_shard = |shard: &corelane_client::control::ShardStats| {
        let counters = shard.counters.iter();
        counters
            .filter(|(name, _)| name == "s3_connections")
            .map(|(_, value)| *value)
            .sum()
    };
    stats.shards.iter().map(of_shard).collect()
}

/// So many connections, or more where one core had none of them.
pub fn on_every_core(scene: &Scene, count: usize) -> Vec<Connection> {
    let mut connections = Vec::new();
    while connections.len() < count || accepted(scene).contains(&0) {
        assert!(connections.len() < 1000, "one core takes no connections");
        let mut connection = scene.connect();
        // Answered, so that it was accepted.
        connection.ask(request("HEAD", "/nobucket", ""));
        connections.push(connection);
    }
    connections
}

/// A bed with an object of three stripes.
fn large(seed: u64) -> (Bed, Arc<Vec<u8>>) {
    let mut bed = Bed::in_memory();
    bed.device_size = "130M";
    bed.mounts[0].keys = "freshness = \"immutable\"\nblock_size = \"256K\"".to_owned();
    let bytes = bed.write("large", seed, 2 * STRIPE + (8 << 20) + 12345);
    (bed, Arc::new(bytes))
}

#[test]
fn every_core_gives_all_bytes_whoever_owns_them() {
    let (bed, bytes) = large(1);
    let scene = Scene::on(bed);
    let connections = on_every_core(&scene, 4);
    // The first of them read it cold, side by side.
    let readers: Vec<_> = connections
        .into_iter()
        .enumerate()
        .map(|(number, mut connection)| {
            let bytes = Arc::clone(&bytes);
            std::thread::spawn(move || {
                let whole = connection.ask(get("/data/large"));
                assert_eq!(whole.status, 200, "{whole:?}");
                assert_same(&whole.body, &bytes, "the whole object");
                let mut random = Random::new(number as u64);
                for turn in 0..60 {
                    // Every third one lies across a stripe's end.
                    let start = match turn % 3 {
                        0 => STRIPE * (1 + turn / 3 % 2) - 1 - random.below(5000) as usize,
                        _ => random.below(bytes.len() as u64) as usize,
                    };
                    let length = 1 + random.below(3 << 20) as usize;
                    let end = (start + length).min(bytes.len());
                    let line = format!("Range: bytes={start}-{}\r\n", end - 1);
                    let answer = connection.ask(request("GET", "/data/large", &line));
                    assert_eq!(answer.status, 206, "{answer:?}");
                    assert_same(&answer.body, &bytes[start..end], &line);
                }
            })
        })
        .collect();
    for reader in readers {
        reader.join().expect("no wrong byte");
    }
    scene.terminate();
}

#[test]
fn small_objects_are_the_same_from_every_core() {
    let scene = Scene::open();
    let objects: Vec<(String, Vec<u8>)> = (0..40u64)
        .map(|seed| {
            let name = format!("object-{seed}");
            let bytes = scene
                .bed
                .write(&name, seed, 1 + (seed as usize * 4099) % 200_000);
            (format!("/data/{name}"), bytes)
        })
        .collect();
    for turn in 0..2 {
        for connection in &mut on_every_core(&scene, 4) {
            for (target, bytes) in &objects {
                let answer = connection.ask(get(target));
                assert_eq!(answer.status, 200, "turn {turn}: {answer:?}");
                assert_same(&answer.body, bytes, target);
                let head = connection.ask(request("HEAD", target, ""));
                assert_eq!(head.expect("etag"), answer.expect("etag"));
            }
        }
    }
    scene.terminate();
}

#[test]
fn memory_comes_back_from_downloads_that_were_cancelled() {
    let (bed, bytes) = large(2);
    let scene = Scene::on(bed);
    let warm = scene.ask(get("/data/large"));
    assert_same(&warm.body, &bytes, "before");
    let mut random = Random::new(3);
    for _ in 0..2000 {
        let mut connection = scene.connect();
        let start = random.below(bytes.len() as u64 - 1);
        connection.send(request(
            "GET",
            "/data/large",
            &format!("Range: bytes={start}-\r\n"),
        ));
        // Some go at once, some with the first bytes.
        if random.below(2) == 0 {
            let mut first = [0; 1000];
            let count = connection.stream.read(&mut first).expect("an answer");
            assert!(first[..count].starts_with(b"HTTP/1.1 206 "));
        }
    }
    // Each of them held up to a window or two: all together many times the memory that there is.
    for connection in &mut on_every_core(&scene, 4) {
        let answer = connection.ask(get("/data/large"));
        assert_same(&answer.body, &bytes, "after");
    }
    // What was not kept of it before needs memory to be read into.
    let other = content(4, 30 << 20);
    std::fs::write(scene.file("other"), &other).expect("an object");
    let answer = scene.ask(get("/data/other"));
    assert_same(&answer.body, &other, "another object");
    scene.terminate();
}

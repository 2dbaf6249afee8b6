//! The worker is asked to stop while clients are at work.

use std::net::TcpStream;

use crate::client::{Received, get, request};
use crate::harness::{Bed, assert_same, eventually};
use crate::scene::Scene;

#[test]
fn downloads_under_way_finish_idle_connections_close_and_new_ones_are_refused() {
    let mut bed = Bed::in_memory();
    bed.mounts[0].keys.push_str("\nblock_size = \"256K\"");
    let scene = Scene::on(bed);
    let bytes = scene.bed.write("large", 1, 40 << 20);
    let address = scene.s3.expect("the face is open");
    let mut idle = scene.connections(6);
    for connection in &mut idle {
        connection.ask(request("HEAD", "/data/large", ""));
    }
    let mut fresh = scene.connections(4);
    let mut busy = scene.connections(4);
    for connection in &mut busy {
        connection.send(get("/data/large"));
        // Behind it another request, which is not the present answer.
        connection.send(get("/data/large"));
    }
    for connection in &mut busy {
        assert_eq!(connection.answer_begun().status, 200);
    }
    scene.signal(libc::SIGTERM);
    for connection in idle.iter_mut().chain(&mut fresh) {
        connection.assert_closed();
    }
    eventually("new connections are refused", || {
        TcpStream::connect(address).is_err()
    });
    for connection in &mut busy {
        assert_same(&connection.answer().body, &bytes, "a download under way");
        match connection.receive(false) {
            Received::Closed => {}
            // It was taken before the stop was known there, and is the last.
            Received::Answer(answer) => assert_same(&answer.body, &bytes, "the one behind it"),
            Received::Cut(answer) => panic!("a second answer was begun and cut: {answer:?}"),
        }
    }
    scene.ended();
}

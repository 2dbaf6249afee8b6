//! Requests that do not wait for answers, in any packets.

use crate::client::{Received, get, request, with_body};
use crate::harness::{BLOCK, assert_same};
use crate::scene::Scene;

/// What is asked, and the status and body that answer it; `None`: any body.
type Asked = (String, u16, Option<Vec<u8>>);

/// Reads of every kind: small and large, known and not, whole and in part, and errors among them.
fn mixture(scene: &Scene) -> Vec<Asked> {
    let small = scene.bed.write("small", 1, 900);
    let large = scene.bed.write("large", 2, 5 * BLOCK + 3);
    let other = scene.bed.write("other", 3, 4097);
    let range =
        |target: &str, range: &str| request("GET", target, &format!("Range: bytes={range}\r\n"));
    vec![
        (get("/data/small"), 200, Some(small.clone())),
        (get("/data/large"), 200, Some(large.clone())),
        (get("/data/missing"), 404, None),
        (
            range("/data/large", "65530-65540"),
            206,
            Some(large[65530..=65540].to_vec()),
        ),
        (request("HEAD", "/data/large", ""), 200, Some(Vec::new())),
        (get("/data/other"), 200, Some(other.clone())),
        (range("/data/other", "5000-"), 416, None),
        (request("HEAD", "/data/missing", ""), 404, Some(Vec::new())),
        (get("/nobucket/x"), 404, None),
        (
            request("GET", "/data/small", "If-None-Match: *\r\n"),
            304,
            Some(Vec::new()),
        ),
        (get("/data/..%2Fescape"), 400, None),
        (request("PATCH", "/data/small", ""), 405, None),
        (get("/data?location"), 200, None),
        (range("/data/small", "-1"), 206, Some(small[899..].to_vec())),
        (get("/data/large?x-id=GetObject"), 200, Some(large)),
        (get("/data/small"), 200, Some(small)),
    ]
}

/// Fails unless the answers come, in their order.
#[track_caller]
fn assert_answers(connection: &mut crate::client::Connection, asked: &[Asked], when: &str) {
    for (request, status, body) in asked {
        let answer = if request.starts_with("HEAD") {
            connection.answer_to_head()
        } else {
            connection.answer()
        };
        assert_eq!(answer.status, *status, "{when}: {request}{answer:?}");
        if let Some(body) = body {
            assert_same(&answer.body, body, request);
        }
    }
}

#[test]
fn answers_come_in_the_order_of_requests_that_share_a_packet() {
    let scene = Scene::open();
    let asked = mixture(&scene);
    let all: String = asked.iter().map(|(request, ..)| request.as_str()).collect();
    for (turn, mut connection) in scene.connections(6).into_iter().enumerate() {
        // The first turns find nothing in memory.
        for _ in 0..3 {
            connection.send(&all);
            assert_answers(&mut connection, &asked, &format!("turn {turn}"));
        }
    }
    scene.terminate();
}

#[test]
fn a_thousand_small_reads_in_one_packet_are_answered_in_order() {
    let scene = Scene::open();
    let bytes = scene.bed.write("object", 4, BLOCK);
    let mut connection = scene.connect();
    let ranges: Vec<usize> = (0..1000).map(|number| number * 61 % (BLOCK - 16)).collect();
    let all: String = ranges
        .iter()
        .map(|start| {
            let line = format!("Range: bytes={start}-{}\r\n", start + 15);
            request("GET", "/data/object", &line)
        })
        .collect();
    for _ in 0..3 {
        connection.send(&all);
        for start in &ranges {
            let answer = connection.answer();
            assert_eq!(answer.status, 206, "{answer:?}");
            assert_same(&answer.body, &bytes[*start..start + 16], "a range");
        }
    }
    scene.terminate();
}

#[test]
fn requests_are_understood_wherever_packets_split_them() {
    let scene = Scene::open();
    let asked: Vec<Asked> = mixture(&scene)
        .into_iter()
        .filter(|(request, ..)| !request.contains("large"))
        .take(4)
        .collect();
    let all: String = asked.iter().map(|(request, ..)| request.as_str()).collect();
    let mut connection = scene.connect();
    for at in 1..all.len() {
        connection.send(&all[..at]);
        // Asked on another connection, so that the first part was very probably received before
        // the second is sent; the promise holds either way.
        if at % 8 == 0 {
            scene.ask(request("HEAD", "/data/small", ""));
        }
        connection.send(&all[at..]);
        assert_answers(&mut connection, &asked, &format!("split at {at}"));
    }
    for byte in all.as_bytes() {
        connection.send([*byte]);
    }
    assert_answers(&mut connection, &asked, "byte by byte");
    scene.terminate();
}

#[test]
fn a_refused_body_is_never_taken_for_a_request() {
    let scene = Scene::open();
    scene.bed.write("object", 5, 100);
    let hidden = get("/data/object");
    let chunked = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
    for (refused, status) in [
        (
            with_body("GET", "/data/missing", "", hidden.as_bytes()),
            404,
        ),
        (
            with_body("PUT", "/nobucket/object", "", hidden.as_bytes()),
            404,
        ),
        (
            with_body("PUT", "/data/..%2Fobject", "", hidden.as_bytes()),
            400,
        ),
        (
            with_body("PATCH", "/data/object", "", hidden.as_bytes()),
            405,
        ),
        (
            with_body("PUT", "/data/object?tagging", "", hidden.as_bytes()),
            501,
        ),
        (
            format!(
                "{}{chunked}",
                request("PUT", "/nobucket/object", "Transfer-Encoding: chunked\r\n")
            )
            .into_bytes(),
            404,
        ),
    ] {
        let shown = String::from_utf8_lossy(&refused).into_owned();
        let mut connection = scene.connect();
        connection.send(&refused);
        let answer = connection.answer();
        assert_eq!(answer.status, status, "{shown}{answer:?}");
        assert_eq!(answer.expect("connection"), "close", "{shown}");
        assert!(
            matches!(connection.receive(false), Received::Closed),
            "{shown}"
        );
    }
    scene.terminate();
}

#[test]
fn a_body_of_a_read_is_not_taken_for_a_request() {
    let scene = Scene::open();
    let bytes = scene.bed.write("object", 6, 100);
    let hidden = get("/data/missing");
    // Twice: the first answer waits for the file, the second is at hand.
    for _ in 0..2 {
        let mut connection = scene.connect();
        connection.send(with_body("GET", "/data/object", "", hidden.as_bytes()));
        match connection.receive(false) {
            Received::Answer(answer) if answer.status == 200 => {
                assert_same(&answer.body, &bytes, "the object");
            }
            Received::Answer(answer) => assert_eq!(answer.status, 400, "{answer:?}"),
            other => panic!("{other:?}"),
        }
        match connection.receive(false) {
            Received::Closed => {}
            other => panic!("the body was taken for a request: {other:?}"),
        }
    }
    scene.terminate();
}

//! Clients that mean harm, or do it without meaning to.

use std::fs;
use std::io::Read;

use crate::client::{Connection, Received, get, request, with_body};
use crate::harness::{Bed, assert_same, content, eventually};
use crate::scene::Scene;

/// Fails unless `bytes` are answered with an error, or nothing, and the connection ends: what is
/// behind them is not served.
#[track_caller]
fn assert_refused(scene: &Scene, bytes: &[u8]) {
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
    let mut connection = scene.connect();
    // The worker may close before all of it is sent.
    connection.try_send(bytes);
    connection.try_send(get("/data/object"));
    connection.finish();
    match connection.receive(false) {
        Received::Answer(answer) => {
            assert!(matches!(answer.status, 400..=599), "{shown:?}: {answer:?}");
            assert_eq!(answer.expect("connection"), "close", "{shown:?}");
            assert!(
                matches!(connection.receive(false), Received::Closed),
                "{shown:?} is not the last"
            );
        }
        Received::Closed => {}
        other => panic!("{shown:?}: {other:?}"),
    }
}

#[test]
fn what_two_servers_could_read_differently_is_refused_and_ends_the_connection() {
    let scene = Scene::open();
    scene.bed.write("object", 1, 10);
    let line = "GET /data/object HTTP/1.1\r\n";
    let post = "POST /data?delete HTTP/1.1\r\nHost: localhost\r\n";
    for bytes in [
        format!("{post}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{post}Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde"),
        format!("{post}Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd"),
        format!("{post}Content-Length: 4, 4\r\n\r\nabcd"),
        format!("{post}Content-Length: +4\r\n\r\nabcd"),
        format!("{post}Content-Length: 0x4\r\n\r\nabcd"),
        format!("{post}Content-Length: -1\r\n\r\n"),
        format!("{post}Content-Length: 99999999999999999999999\r\n\r\n"),
        format!("{post}Content-Length:\r\n\r\n"),
        format!("{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        format!("{post}Transfer-Encoding: identity\r\n\r\n"),
        format!("{post}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        format!("{post}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{post}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
        format!("{post}Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
        "POST /data?delete HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            .to_owned(),
        format!("{line}Host: localhost\r\n folded: yes\r\n\r\n"),
        format!("{line}Host: localhost\r\nX-A: b\r\n\tc\r\n\r\n"),
        format!("{line}Host : worker\r\n\r\n"),
        format!("{line}\r\n"),
        format!("{line}Host: localhost\r\nHost: localhost\r\n\r\n"),
        format!("{line}Host: localhost\r\nHost: other\r\n\r\n"),
        format!("{line}Host: wor ker\r\n\r\n"),
        format!("{line}Host: a@worker\r\n\r\n"),
        format!("{line}Host: localhost\nX-A: b\r\n\r\n"),
        format!("{line}Host: localhost\r\nX-A: b\rX-B: c\r\n\r\n"),
        format!("{line}Host: localhost\r\nX-A: b\0c\r\n\r\n"),
        format!("{line}Host: localhost\r\nX\0A: b\r\n\r\n"),
        format!("{line}Host: localhost\r\n: b\r\n\r\n"),
        format!("{line}Host: localhost\r\nno colon\r\n\r\n"),
        format!("{line}Host: localhost\n\n"),
        "GET http://other/data/object HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET data/object HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET /data/object#x HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET /data/obj ect HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET /data/object HTTP/2.0\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET /data/object HTTP/0.9\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET /data/object\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET /data/object HTTP/1.1 \r\nHost: localhost\r\n\r\n".to_owned(),
        "G\0T /data/object HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "CONNECT worker:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n".to_owned(),
        format!("{line}Host: localhost\r\nExpect: 200-maybe\r\n\r\n"),
    ] {
        assert_refused(&scene, bytes.as_bytes());
    }
    assert_eq!(scene.ask(get("/data/object")).status, 200);
    scene.terminate();
}

#[test]
fn statuses_of_http_are_said_where_s3_has_none() {
    let scene = Scene::open();
    for (head, status) in [
        ("GET / HTTP/2.0\r\nHost: localhost\r\n\r\n".to_owned(), 505),
        (request("GET", "/", "Expect: more\r\n"), 417),
        (request("GET", "/", "Transfer-Encoding: gzip\r\n"), 501),
    ] {
        let answer = scene.ask(&head);
        assert_eq!(answer.status, status, "{head}{answer:?}");
    }
    scene.terminate();
}

#[test]
fn bodies_with_broken_framing_end_the_connection_and_leave_nothing() {
    let scene = Scene::open();
    let head = request("PUT", "/data/object", "Transfer-Encoding: chunked\r\n");
    for body in [
        "zz\r\n",
        "5\r\nabcdefgh\r\n0\r\n\r\n",
        "5 \r\nabcde\r\n0\r\n\r\n",
        "-5\r\nabcde\r\n0\r\n\r\n",
        "0x5\r\nabcde\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nabcde",
        "5\nabcde\n0\n\n",
        "5\r\nabcde",
        "",
    ] {
        assert_refused(&scene, format!("{head}{body}").as_bytes());
        assert!(!scene.file("object").exists(), "{body:?}");
    }
    // Extensions and trailers without end.
    assert_refused(
        &scene,
        format!("{head}5;{}", "a=b;".repeat(1 << 16)).as_bytes(),
    );
    let trailers = "X-Trailer: 1\r\n".repeat(1 << 16);
    assert_refused(&scene, format!("{head}0\r\n{trailers}").as_bytes());
    assert!(!scene.file("object").exists());
    scene.terminate();
}

#[test]
fn heads_without_end_are_refused_in_bounded_memory() {
    let scene = Scene::open();
    scene.bed.write("object", 2, 10);
    let before = scene.resident_bytes();
    let lines = |count: usize| "X-Line: 1\r\n".repeat(count);
    for bytes in [
        request("GET", "/data/object", &lines(10_000)),
        request("GET", "/data/object", &lines(101)),
        request(
            "GET",
            "/data/object",
            &format!("X-Long: {}\r\n", "a".repeat(1 << 20)),
        ),
        get(&format!("/data/{}", "a".repeat(1 << 20))),
        get(&format!("/data/object?{}", "a=b&".repeat(1 << 18))),
        "A".repeat(1 << 20),
        "\r\n".repeat(1 << 19),
        "\0".repeat(1 << 20),
    ] {
        for _ in 0..3 {
            assert_refused(&scene, bytes.as_bytes());
        }
    }
    // A head that fits is read, however it comes.
    let fitting = request(
        "GET",
        "/data/object",
        &format!("X-Long: {}\r\n", "a".repeat(15_000)),
    );
    assert_eq!(scene.ask(&fitting).status, 200);
    assert_eq!(
        scene.ask(request("GET", "/data/object", &lines(90))).status,
        200
    );
    // Hundreds of unfinished ones side by side hold 16 KiB each at most.
    let mut unfinished = scene.connections(300);
    for connection in &mut unfinished {
        connection.send(&fitting[..fitting.len() - 2]);
    }
    assert_eq!(scene.ask(get("/data/object")).status, 200);
    let more = scene.resident_bytes().saturating_sub(before);
    assert!(more < 64 << 20, "{more} bytes for unfinished heads");
    drop(unfinished);
    scene.terminate();
}

#[test]
fn random_bytes_disturb_nobody() {
    let scene = Scene::open();
    let bytes = scene.bed.write("object", 3, 1000);
    let mut bystander = scene.connect();
    for seed in 0..100 {
        let mut connection = scene.connect();
        let noise = content(seed, 10 + 331 * seed as usize);
        connection.try_send(if seed % 2 == 0 {
            noise
        } else {
            [
                b"GET /data/object HTTP/1.1\r\nHost: localhost\r\n",
                &noise[..],
            ]
            .concat()
        });
        if seed % 3 == 0 {
            connection.finish();
        }
        let answer = bystander.ask(get("/data/object"));
        assert_same(&answer.body, &bytes, "of the bystander");
    }
    scene.terminate();
}

#[test]
fn half_a_request_and_then_nothing_leaves_nothing_open() {
    let scene = Scene::open();
    scene.bed.write("object", 4, 1000);
    for at in [1, 10, 30] {
        for ends in [true, false] {
            let mut connection = scene.connect();
            connection.send(&get("/data/object")[..at]);
            if ends {
                connection.finish();
                connection.assert_closed();
            }
        }
    }
    let mut half_a_body = scene.connect();
    half_a_body.send(request("PUT", "/data/half", "Content-Length: 100\r\n"));
    half_a_body.send("only this");
    drop(half_a_body);
    assert_eq!(scene.ask(get("/data/object")).status, 200);
    scene.terminate();
}

#[test]
fn no_key_leads_out_of_the_mount() {
    let scene = Scene::open();
    let secret = "nobody may read this";
    fs::write(scene.bed.path("outside"), secret).expect("a file");
    fs::create_dir(scene.bed.path("source/folder")).expect("a folder");
    let mut connection = scene.connect();
    for key in [
        "../outside",
        "%2e%2e/outside",
        "..%2Foutside",
        "%2E%2E%2Foutside",
        "folder/../../outside",
        "folder/..%2f..%2foutside",
        "./../outside",
        "%252e%252e/outside",
        "..%255coutside",
        "..\\outside",
        "%2Fetc%2Fpasswd",
        "/etc/passwd",
        "//outside",
        "folder//../../outside",
        "outside%00",
        "%00",
        "..%00/outside",
        "a%0D%0Ab",
        "a%0ab",
        "%c0%ae%c0%ae/outside",
        "%ff",
        "folder/..",
        "..",
        ".",
        "../",
        "%2e",
        "..;/outside",
    ] {
        for method in ["GET", "HEAD", "DELETE"] {
            let bytes = request(method, &format!("/data/{key}"), "");
            let answer = connection.ask(&bytes);
            let is_refused = matches!(answer.status, 400 | 404)
                // Deleting what cannot exist is no error.
                || method == "DELETE" && answer.status == 204;
            assert!(is_refused, "{method} {key}: {answer:?}");
            assert!(!answer.text().contains(secret), "{method} {key}");
        }
        let mut writer = scene.connect();
        writer.send(with_body(
            "PUT",
            &format!("/data/{key}"),
            "",
            b"overwritten",
        ));
        writer.answer();
    }
    for target in [
        "/../outside",
        "/..",
        "/%2e%2e/outside",
        "/.",
        "/data/../../outside",
        "/.%2e",
    ] {
        let answer = connection.ask(get(target));
        assert!(matches!(answer.status, 400 | 404), "{target}: {answer:?}");
    }
    let kept = fs::read_to_string(scene.bed.path("outside")).expect("still there");
    assert_eq!(kept, secret);
    let beside: Vec<_> = fs::read_dir(scene.bed.path(""))
        .expect("a folder")
        .map(|entry| entry.expect("a name").file_name())
        .collect();
    assert_eq!(
        beside.len(),
        4,
        "device, source, outside, worker.toml: {beside:?}"
    );
    scene.terminate();
}

#[test]
fn a_link_in_the_folder_leads_nowhere_outside() {
    let scene = Scene::open();
    fs::write(scene.bed.path("outside"), "secret").expect("a file");
    std::os::unix::fs::symlink(scene.bed.path("outside"), scene.file("link")).expect("a link");
    std::os::unix::fs::symlink(scene.bed.path(""), scene.file("up")).expect("a link");
    let mut connection = scene.connect();
    for key in ["link", "up/outside", "up/worker.toml"] {
        let answer = connection.ask(get(&format!("/data/{key}")));
        assert!(answer.status >= 400, "{key}: {answer:?}");
        assert!(!answer.text().contains("secret"), "{key}");
    }
    scene.terminate();
}

#[test]
fn names_of_files_and_metadata_never_become_headers_or_markup() {
    // On a file system that keeps attributes.
    let scene = Scene::on(Bed::on_disk());
    for name in [
        "a\r\nSet-Cookie: b",
        "c\nd",
        "<Key>",
        "&amp;",
        "\u{1}",
        "\"'",
    ] {
        fs::write(scene.file(name), "x").expect("a file");
    }
    let mut connection = scene.connect();
    // The client fails at any header that it cannot read.
    for target in [
        "/data",
        "/data?list-type=2",
        "/data?list-type=2&encoding-type=url",
    ] {
        let list = connection.ask(get(target));
        assert_eq!(list.status, 200, "{list:?}");
        let text = list.text();
        assert!(!text.contains("\r\nSet-Cookie"), "{text}");
        assert!(!text.contains("<Key><Key>"), "{text}");
        assert!(!text.contains('\u{1}'), "{text}");
    }
    let put = with_body(
        "PUT",
        "/data/object",
        "x-amz-meta-a: b\r\nx-amz-meta-umlaut: \u{e4}\r\nContent-Type: text/x-y\r\n",
        b"bytes",
    );
    let written = connection.ask(&put);
    if written.status == 200 {
        let answer = connection.ask(get("/data/object"));
        assert_eq!(answer.expect("x-amz-meta-a"), "b");
    } else {
        assert_eq!(written.status, 400, "{written:?}");
    }
    scene.terminate();
}

#[test]
fn a_client_that_reads_nothing_holds_up_nobody_else() {
    let mut bed = Bed::in_memory();
    bed.mounts[0].keys.push_str("\nblock_size = \"256K\"");
    let scene = Scene::on(bed);
    let bytes = scene.bed.write("large", 5, 40 << 20);
    // More than the tier would hold, if each of them pinned a window.
    let mut idle = scene.connections(200);
    for connection in &mut idle {
        connection.send(get("/data/large").repeat(20));
    }
    let mut first = [0; 1];
    for connection in &mut idle {
        let count = connection
            .stream
            .read(&mut first)
            .expect("an answer begins");
        assert_eq!(count, 1);
    }
    for _ in 0..3 {
        let answer = scene.ask(get("/data/large"));
        assert_same(&answer.body, &bytes, "beside clients that do not read");
    }
    drop(idle);
    scene.terminate();
}

#[test]
fn writers_who_take_their_time_keep_no_reader_waiting() {
    let scene = Scene::open();
    let bytes = scene.bed.write("object", 6, 100_000);
    let mut slow = scene.connections(40);
    let head = "Content-Length: 5000000000\r\n";
    for (number, connection) in slow.iter_mut().enumerate() {
        connection.send(request("PUT", &format!("/data/slow-{number}"), head));
        connection.send(content(number as u64, 300_000));
    }
    // Nothing of it is cached, so all of this asks the folder.
    let answer = scene.ask(get("/data/object"));
    assert_same(&answer.body, &bytes, "beside slow writers");
    let list = scene.ask(get("/data?list-type=2"));
    assert_eq!(list.text().matches("<Key>").count(), 1, "{list:?}");
    let put = scene.ask(with_body("PUT", "/data/other", "", b"short"));
    assert_eq!(put.status, 200, "{put:?}");
    let deleted = scene.ask(request("DELETE", "/data/object", ""));
    assert_eq!(deleted.status, 204, "{deleted:?}");
    drop(slow);
    scene.terminate();
}

#[test]
fn the_deepest_key_hides_no_other() {
    let scene = Scene::open();
    let deep = format!("{}x", "d/".repeat(500));
    for key in [deep.as_str(), "z"] {
        let put = scene.ask(with_body("PUT", &format!("/data/{key}"), "", b"bytes"));
        assert_eq!(put.status, 200, "{put:?}");
    }
    let list = scene.ask(get("/data?list-type=2"));
    assert_eq!(list.status, 200, "{list:?}");
    for key in [deep.as_str(), "z"] {
        assert!(list.text().contains(&format!("<Key>{key}</Key>")), "{key}");
    }
    scene.terminate();
}

#[test]
fn whoever_may_write_does_not_say_who_may_read() {
    let scene = Scene::open();
    for line in ["x-amz-acl: public-read", "x-amz-grant-read: id=1"] {
        let put = with_body("PUT", "/data/object", &format!("{line}\r\n"), b"bytes");
        scene.ask(put).assert_error(501, "NotImplemented");
    }
    let put = with_body("PUT", "/data/object", "x-amz-acl: private\r\n", b"bytes");
    assert_eq!(scene.ask(put).status, 200);
    scene.terminate();
}

#[test]
fn connections_beyond_the_limit_are_closed_and_their_places_come_back() {
    let mut bed = Bed::in_memory();
    bed.cores = 1;
    bed.sections = format!("{}connections = 8\n", crate::scene::OPEN);
    let scene = Scene::with(bed);
    let bytes = scene.bed.write("object", 6, 1000);
    let mut open = scene.connections(8);
    for connection in &mut open {
        assert_same(
            &connection.ask(get("/data/object")).body,
            &bytes,
            "within the limit",
        );
    }
    let mut ninth = scene.connect();
    ninth.try_send(get("/data/object"));
    ninth.assert_closed();
    assert_eq!(scene.counter("s3_connections_refused"), 1);
    for connection in &mut open {
        assert_same(
            &connection.ask(get("/data/object")).body,
            &bytes,
            "still there",
        );
    }
    drop(open.pop());
    eventually("the place comes back", || {
        let mut next = scene.connect();
        next.try_send(get("/data/object"));
        matches!(next.receive(false), Received::Answer(answer) if answer.status == 200)
    });
    scene.terminate();
}

/// Kept alive, so that its answers can be asked for later.
#[test]
fn a_slow_sender_of_a_head_is_answered_when_it_ends_it() {
    let scene = Scene::open();
    let bytes = scene.bed.write("object", 7, 1000);
    let head = request("GET", "/data/object", &"X-Line: something\r\n".repeat(80));
    let mut slow: Vec<Connection> = scene.connections(10);
    for byte in head.as_bytes() {
        for connection in &mut slow {
            connection.send([*byte]);
        }
    }
    for connection in &mut slow {
        assert_same(&connection.answer().body, &bytes, "the object");
    }
    scene.terminate();
}

#[test]
fn connections_that_send_nothing_or_half_a_head_keep_nobody_out() {
    let mut bed = Bed::in_memory();
    bed.cores = 1;
    bed.sections = format!("{}connections = 8\n", crate::scene::OPEN);
    let scene = Scene::with(bed);
    let bytes = scene.bed.write("object", 6, 1000);
    let mut silent = scene.connections(20);
    for connection in silent.iter_mut().skip(10) {
        connection.try_send("GET /data/object HTTP/1.1\r\n");
    }
    let answer = scene.connect().ask(get("/data/object"));
    assert_same(&answer.body, &bytes, "beside those that only wait");
    drop(silent);
    scene.terminate();
}

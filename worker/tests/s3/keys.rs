//! Who may do what: signatures, rules, and keys that change while the worker runs.

use std::fs;
use std::time::Duration;

use crate::client::{Connection, Received, get, request};
use crate::harness::{Bed, assert_same, eventually};
use crate::scene::Scene;
use crate::signing::{Signer, UNSIGNED, sha256};

const WRITER_SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYWRITERKEY";
const READER_SECRET: &str = "another-secret-that-is-long-enough";
const LOOKER_SECRET: &str = "a-third-secret-of-some-length-here";

fn writer() -> Signer {
    Signer::new("AKIAWRITER", WRITER_SECRET)
}

fn reader() -> Signer {
    Signer::new("AKIAREADER", READER_SECRET)
}

fn looker() -> Signer {
    Signer::new("AKIALOOKER", LOOKER_SECRET)
}

/// Three keys and nobody else: one for everything, one that reads `data`, one that reads and lists
/// buckets that begin with `pub`.
fn keys() -> String {
    format!(
        "[s3]\nlisten = \"127.0.0.1:0\"\n[log]\nlevel = \"debug\"\n\
         [[s3_key]]\nname = \"writer\"\nid = \"AKIAWRITER\"\nsecret = \"{WRITER_SECRET}\"\n\
         verbs = [\"read\", \"list\", \"write\", \"delete\"]\n\
         [[s3_key]]\nname = \"reader\"\nid = \"AKIAREADER\"\nsecret = \"{READER_SECRET}\"\n\
         buckets = [\"data\", \"private\"]\nverbs = [\"read\"]\n\
         [[s3_key]]\nname = \"looker\"\nid = \"AKIALOOKER\"\nsecret = \"{LOOKER_SECRET}\"\n\
         buckets = [\"pub*\"]\n"
    )
}

fn bed_with_keys() -> Bed {
    let mut bed = Bed::in_memory();
    bed.sections = keys();
    bed
}

/// Ends the worker; fails if its log tells a secret or a signature.
#[track_caller]
fn end_quietly(scene: Scene) {
    let log = scene.terminate();
    for secret in [WRITER_SECRET, READER_SECRET, LOOKER_SECRET, "Signature="] {
        assert!(!log.contains(secret), "{secret} is in the log: {log}");
    }
}

#[test]
fn signed_requests_are_answered_and_unsigned_ones_are_not() {
    let scene = Scene::with(bed_with_keys());
    let bytes = scene.bed.write("folder/an object+é", 1, 5000);
    let path = "/data/folder/an%20object%2B%C3%A9";
    let mut connection = scene.connect();
    for signer in [writer(), reader()] {
        let answer = connection.ask(signer.get(path));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_same(&answer.body, &bytes, "signed in the header");
        // What else is sent beside it is not signed and does not matter.
        let answer = connection.ask(signer.request("GET", path, "Range: bytes=5-9\r\n", UNSIGNED));
        assert_same(&answer.body, &bytes[5..10], "a range");
        let answer = connection.ask(signer.request("GET", path, "", &sha256(b"")));
        assert_same(&answer.body, &bytes, "with the hash of no body");
        let presigned = signer.presigned("GET", path, 60);
        let answer = connection.ask(get(&presigned));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_same(&answer.body, &bytes, "signed in the query");
        let head = connection.ask(signer.request("HEAD", path, "", UNSIGNED));
        assert_eq!(head.status, 200, "{head:?}");
    }
    connection.ask(get(path)).assert_error(403, "AccessDenied");
    connection
        .ask(get("/data/nothing"))
        .assert_error(403, "AccessDenied");
    connection.ask(get("/")).assert_error(403, "AccessDenied");
    end_quietly(scene);
}

#[test]
fn a_signature_is_of_one_request_one_secret_and_one_time() {
    let scene = Scene::with(bed_with_keys());
    scene.bed.write("object", 2, 100);
    scene.bed.write("other", 3, 100);
    let mut connection = scene.connect();
    let good = writer();
    let wrong = Signer::new("AKIAWRITER", READER_SECRET);
    connection
        .ask(wrong.get("/data/object"))
        .assert_error(403, "SignatureDoesNotMatch");
    let nobody = Signer::new("AKIANOBODY", WRITER_SECRET);
    connection
        .ask(nobody.get("/data/object"))
        .assert_error(403, "InvalidAccessKeyId");
    let quarter = Duration::from_secs(16 * 60);
    for skewed in [good.ago(quarter), good.at(good.time_s + quarter.as_secs())] {
        connection
            .ask(skewed.get("/data/object"))
            .assert_error(403, "RequestTimeTooSkewed");
    }
    assert_eq!(
        connection
            .ask(good.ago(Duration::from_secs(60)).get("/data/object"))
            .status,
        200
    );
    // Another key, method, query or header than was signed.
    let signed = good.get("/data/object");
    for changed in [
        signed.replace("/data/object", "/data/other"),
        signed.replace("GET /data/object", "GET /data/object?partNumber=1"),
        signed.replace("GET ", "HEAD "),
        signed.replace("Host: localhost", "Host: other"),
    ] {
        let answer = connection.ask(&changed);
        assert_eq!(answer.status, 403, "{changed}{answer:?}");
    }
    let presigned = good.presigned("GET", "/data/object", 60);
    for changed in [
        presigned.replace("/data/object", "/data/other"),
        presigned.replace("X-Amz-Expires=60", "X-Amz-Expires=600"),
        format!("{presigned}&versionId=null"),
    ] {
        let answer = connection.ask(get(&changed));
        answer.assert_error(403, "SignatureDoesNotMatch");
    }
    let expired = good
        .ago(Duration::from_secs(100))
        .presigned("GET", "/data/object", 60);
    connection
        .ask(get(&expired))
        .assert_error(403, "AccessDenied");
    let endless = good.presigned("GET", "/data/object", 604_801);
    connection
        .ask(get(&endless))
        .assert_error(400, "AuthorizationQueryParametersError");
    end_quietly(scene);
}

#[test]
fn a_region_that_is_configured_is_the_only_one() {
    let mut bed = bed_with_keys();
    bed.sections = bed
        .sections
        .replace("[s3]\n", "[s3]\nregion = \"eu-north-1\"\n");
    let scene = Scene::with(bed);
    scene.bed.write("object", 2, 100);
    let mut connection = scene.connect();
    let elsewhere = connection.ask(reader().get("/data/object"));
    elsewhere.assert_error(400, "AuthorizationHeaderMalformed");
    let here = Signer {
        region: "eu-north-1",
        ..reader()
    };
    assert_eq!(connection.ask(here.get("/data/object")).status, 200);
    end_quietly(scene);
}

#[test]
fn rules_are_per_bucket_and_verb() {
    let mut bed = bed_with_keys();
    for (path, folder, keys) in [
        ("/public", "public", ""),
        ("/private", "private", "readers = [\"writer\"]"),
    ] {
        bed.add_mount(path, folder, keys);
        fs::write(bed.path(folder).join("object"), folder).expect("an object");
    }
    bed.write("object", 4, 10);
    let scene = Scene::with(bed);
    let mut connection = scene.connect();
    let (writer, reader, looker) = (writer(), reader(), looker());
    let rows = [
        (&writer, "/data/object", 200),
        (&writer, "/data", 200),
        (&writer, "/public/object", 200),
        (&writer, "/private/object", 200),
        (&reader, "/data/object", 200),
        (&reader, "/data", 403),
        (&reader, "/data?location", 403),
        (&reader, "/public/object", 403),
        // Its own rule allows it, the mount's readers do not.
        (&reader, "/private/object", 403),
        (&looker, "/data/object", 403),
        (&looker, "/public/object", 200),
        (&looker, "/public", 200),
        (&looker, "/private/object", 403),
    ];
    for (signer, path, status) in rows {
        let target = if path.contains('?') {
            format!("{path}=")
        } else {
            path.to_owned()
        };
        let answer = connection.ask(signer.get(&target));
        assert_eq!(answer.status, status, "{} {path}: {answer:?}", signer.id);
    }
    end_quietly(scene);
}

#[test]
fn a_write_that_is_not_allowed_is_refused_before_its_body() {
    let scene = Scene::with(bed_with_keys());
    let (reader, looker) = (reader(), looker());
    for (signer, method) in [(&reader, "PUT"), (&looker, "PUT"), (&reader, "DELETE")] {
        // With no byte of the body, and with a client that waits for a word before it sends it.
        for lines in [
            "Content-Length: 100000000\r\n",
            "Content-Length: 1000\r\nExpect: 100-continue\r\n",
            "Transfer-Encoding: chunked\r\n",
        ] {
            let mut connection = scene.connect();
            connection.send(signer.request(method, "/data/object", lines, UNSIGNED));
            let answer = connection.answer();
            answer.assert_error(403, "AccessDenied");
            assert_eq!(answer.expect("connection"), "close");
            connection.finish();
            assert!(matches!(connection.receive(false), Received::Closed));
        }
    }
    let mut connection = scene.connect();
    connection.send(request(
        "PUT",
        "/data/object",
        "Content-Length: 1000\r\nExpect: 100-continue\r\n",
    ));
    connection.answer().assert_error(403, "AccessDenied");
    assert!(!scene.file("object").exists());
    end_quietly(scene);
}

#[test]
fn why_a_large_write_is_refused_reaches_a_client_that_sends_it_all_first() {
    let scene = Scene::with(bed_with_keys());
    let body = vec![7; 8 << 20];
    let line = format!("Content-Length: {}\r\n", body.len());
    for _ in 0..5 {
        let mut connection = scene.connect();
        connection.send(reader().request("PUT", "/data/object", &line, UNSIGNED));
        connection.send(&body);
        connection.answer().assert_error(403, "AccessDenied");
        assert!(matches!(connection.receive(false), Received::Closed));
    }
    // What has no end is not taken.
    let mut connection = scene.connect();
    let endless = "Transfer-Encoding: chunked\r\n";
    connection.send(reader().request("PUT", "/data/object", endless, UNSIGNED));
    let chunk = [b"800000\r\n", &body[..], b"\r\n"].concat();
    let taken = (0..20).take_while(|_| connection.try_send(&chunk)).count();
    assert!(taken < 20, "160 MiB of a body that nobody wants");
    assert!(!scene.file("object").exists());
    end_quietly(scene);
}

#[test]
fn a_reload_of_keys_holds_for_connections_that_are_open() {
    let mut scene = Scene::with(bed_with_keys());
    scene.bed.write("object", 5, 100);
    let mut connections = scene.connections(6);
    for connection in &mut connections {
        assert_eq!(connection.ask(reader().get("/data/object")).status, 200);
        connection
            .ask(get("/data/object"))
            .assert_error(403, "AccessDenied");
    }
    // The reader's key goes, another secret for the writer, and everyone may read.
    let without_reader = keys()
        .replace("AKIAREADER", "AKIASOMEONE")
        .replace(WRITER_SECRET, LOOKER_SECRET)
        .replace("[s3]\n", "[s3]\nanonymous = [\"read\"]\n");
    scene.bed.sections = without_reader;
    scene.bed.write_config();
    scene.signal(libc::SIGHUP);
    let mut last = scene.connect();
    eventually("the new keys hold", || {
        last.ask(get("/data/object")).status == 200
    });
    for connection in &mut connections {
        eventually("the new keys hold on every core", || {
            connection.ask(get("/data/object")).status == 200
        });
        connection
            .ask(reader().get("/data/object"))
            .assert_error(403, "InvalidAccessKeyId");
        connection
            .ask(writer().get("/data/object"))
            .assert_error(403, "SignatureDoesNotMatch");
        let renewed = Signer::new("AKIAWRITER", LOOKER_SECRET);
        assert_eq!(connection.ask(renewed.get("/data/object")).status, 200);
    }
    end_quietly(scene);
}

#[test]
fn answers_and_bodies_under_way_end_with_the_key_that_they_are_for() {
    // More than the sockets between hold.
    const LENGTH: usize = 16 << 20;
    let mut scene = Scene::with(bed_with_keys());
    scene.bed.write("object", 7, LENGTH);
    let mut download = Connection::with_little_room(scene.s3.expect("the face is open"));
    download.send(writer().get("/data/object"));
    assert_eq!(download.answer_begun().status, 200);
    let mut upload = scene.connect();
    // The word to go on says that the request was allowed.
    let lines = "Content-Length: 1000000\r\nExpect: 100-continue\r\n";
    upload.send(writer().request("PUT", "/data/new", lines, UNSIGNED));
    assert_eq!(upload.answer().status, 100);
    upload.send(vec![b'x'; 400_000]);
    // The other key stays, and so does what is under way for it.
    let mut other = scene.connect();
    other.send(reader().get("/data/object"));
    scene.bed.sections = keys().replace("AKIAWRITER", "AKIASOMEONE");
    scene.bed.write_config();
    scene.signal(libc::SIGHUP);
    let mut probe = scene.connect();
    eventually("the key is gone", || {
        let head = writer().request("HEAD", "/data/object", "", UNSIGNED);
        probe.ask(head).status == 403
    });
    // Every core knows when its mounts were set, which comes behind the keys.
    upload.send(vec![b'x'; 100_000]);
    upload.answer().assert_error(403, "AccessDenied");
    match download.receive(false) {
        Received::Cut(_) => {}
        other => panic!("the answer went on: {other:?}"),
    }
    assert_eq!(other.answer().body.len(), LENGTH);
    assert!(!scene.file("new").exists(), "nothing of the upload is kept");
    end_quietly(scene);
}

#[test]
fn web_pages_cannot_make_a_browser_on_this_machine_read_or_write() {
    let scene = Scene::open();
    scene.bed.write("object", 8, 100);
    let mut connection = scene.connect();
    assert_eq!(connection.ask(get("/data/object")).status, 200);
    for host in ["127.0.0.1", "[::1]:7480", "LOCALHOST:1"] {
        let asked = get("/data/object").replace("Host: localhost", &format!("Host: {host}"));
        assert_eq!(connection.ask(asked).status, 200, "{host}");
    }
    for host in ["evil.example", "127.0.0.1.evil.example", "x"] {
        let foreign = |asked: String| asked.replace("Host: localhost", &format!("Host: {host}"));
        for asked in [
            get("/data/object"),
            get("/data"),
            request("DELETE", "/data/object", ""),
        ] {
            scene.ask(foreign(asked)).assert_error(403, "AccessDenied");
        }
    }
    let line = "Origin: http://evil.example\r\n";
    for (method, target) in [("DELETE", "/data/object"), ("PUT", "/data/new")] {
        let lines = format!("{line}Content-Length: 0\r\n");
        let answer = scene.ask(request(method, target, &lines));
        answer.assert_error(403, "AccessDenied");
    }
    assert!(scene.file("object").exists() && !scene.file("new").exists());
    scene.terminate();
}

#[test]
fn anonymous_requests_may_do_what_is_said_in_buckets_that_name_no_readers() {
    let mut bed = bed_with_keys();
    bed.sections = keys().replace("[s3]\n", "[s3]\nanonymous = [\"read\"]\n");
    bed.add_mount("/private", "private", "readers = [\"writer\"]");
    fs::write(bed.path("private").join("object"), "private").expect("an object");
    bed.write("object", 6, 10);
    let scene = Scene::with(bed);
    let mut connection = scene.connect();
    assert_eq!(connection.ask(get("/data/object")).status, 200);
    for (method, target) in [
        ("GET", "/private/object"),
        ("GET", "/data"),
        ("DELETE", "/data/object"),
        ("GET", "/private"),
    ] {
        let answer = connection.ask(request(method, target, ""));
        answer.assert_error(403, "AccessDenied");
    }
    // A signature that is there must be right, also where none is needed.
    let wrong = Signer::new("AKIAWRITER", READER_SECRET);
    connection
        .ask(wrong.get("/data/object"))
        .assert_error(403, "SignatureDoesNotMatch");
    end_quietly(scene);
}

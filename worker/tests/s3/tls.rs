//! The face under TLS.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::client::{Connection, Received, get, request, with_body};
use crate::harness::{BLOCK, Bed, HANG, assert_same, content};
use crate::scene::{OPEN, Scene};

/// A worker with a certificate for `worker`, and a client that trusts it.
fn secret() -> (Scene, Arc<ClientConfig>) {
    let mut bed = Bed::in_memory();
    let made = rcgen::generate_simple_self_signed(["worker".to_owned()]).expect("a certificate");
    let (certificate, key) = (bed.path("certificate.pem"), bed.path("key.pem"));
    fs::write(&certificate, made.cert.pem()).expect("a file");
    fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
    bed.sections = format!(
        "{OPEN}tls_certificate = \"{}\"\ntls_key = \"{}\"\n",
        certificate.display(),
        key.display()
    );
    (Scene::with(bed), trusting(made.cert.der()))
}

fn trusting(certificate: &CertificateDer<'static>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

fn connect(
    scene: &Scene,
    config: &Arc<ClientConfig>,
) -> Connection<StreamOwned<ClientConnection, TcpStream>> {
    let stream = TcpStream::connect(scene.s3.expect("the face is open")).expect("it accepts");
    stream.set_nodelay(true).expect("an option");
    stream.set_read_timeout(Some(HANG)).expect("an option");
    let name = ServerName::try_from("worker").expect("a name");
    let session = ClientConnection::new(Arc::clone(config), name).expect("a session");
    Connection::over(StreamOwned::new(session, stream))
}

#[test]
fn reads_and_writes_are_the_same_under_tls() {
    let (scene, config) = secret();
    let large = scene.bed.write("large", 1, 60 * BLOCK + 5);
    let small = scene.bed.write("small", 2, 100);
    for _ in 0..3 {
        let mut connection = connect(&scene, &config);
        let answer = connection.ask(get("/data/large"));
        assert_same(&answer.body, &large, "a large object");
        let range = request("GET", "/data/large", "Range: bytes=65530-70000\r\n");
        // Several in one record.
        let head = request("HEAD", "/data/small", "");
        connection.send(format!(
            "{}{range}{head}{}",
            get("/data/small"),
            get("/data/none")
        ));
        assert_same(&connection.answer().body, &small, "a small object");
        assert_same(&connection.answer().body, &large[65530..=70000], "a range");
        assert_eq!(connection.answer_to_head().status, 200);
        assert_eq!(connection.answer().status, 404);
        // A request in a record per byte.
        for byte in get("/data/small").as_bytes() {
            connection.send([*byte]);
        }
        assert_same(&connection.answer().body, &small, "byte by byte");
        let written = content(3, 3 * BLOCK);
        let put = connection.ask(with_body("PUT", "/data/written", "", &written));
        assert_eq!(put.status, 200, "{put:?}");
        let read = connection.ask(get("/data/written"));
        assert_same(&read.body, &written, "what was written");
        // Records of all sizes: full ones with short ones behind, which arrive together.
        for size in [16_384 + 8, 16_484, 40_000, 1_000] {
            let request = with_body("PUT", "/data/written", "", &written);
            for piece in request.chunks(size) {
                connection.send(piece);
            }
            let put = connection.answer();
            assert_eq!(put.status, 200, "in pieces of {size}: {put:?}");
        }
    }
    scene.terminate();
}

#[test]
fn without_tls_there_is_no_answer_on_its_port() {
    let (scene, config) = secret();
    let bytes = scene.bed.write("object", 4, 1000);
    for noise in [
        get("/data/object").into_bytes(),
        get("/data/object").repeat(100).into_bytes(),
        content(5, 5000),
        // A handshake record that promises more than it has, and one of a made up version.
        [&[0x16, 3, 1, 0x3f, 0xff][..], &content(6, 100)].concat(),
        [&[0x16, 9, 9, 0, 5][..], &content(7, 5)].concat(),
        vec![0x16],
    ] {
        let mut stream = TcpStream::connect(scene.s3.expect("open")).expect("it accepts");
        stream.set_read_timeout(Some(HANG)).expect("an option");
        // It may close before all of it is sent.
        let _ = stream.write_all(&noise);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut said = Vec::new();
        // A reset is an end as well.
        let _ = stream.read_to_end(&mut said);
        // An alert at most.
        assert!(said.len() < 64, "{said:?}");
        assert!(said.is_empty() || said[0] == 0x15, "{said:?}");
    }
    let mut connection = connect(&scene, &config);
    assert_same(
        &connection.ask(get("/data/object")).body,
        &bytes,
        "afterwards",
    );
    scene.terminate();
}

#[test]
fn a_client_that_trusts_another_certificate_sends_nothing() {
    let (scene, _) = secret();
    let other = rcgen::generate_simple_self_signed(["worker".to_owned()]).expect("a certificate");
    let mut connection = connect(&scene, &trusting(other.cert.der()));
    assert!(!connection.try_send(get("/data/object")));
    assert_eq!(scene.counter("s3_requests"), 0);
    scene.terminate();
}

#[test]
fn a_stop_lets_downloads_under_tls_finish() {
    let (scene, config) = secret();
    let bytes = scene.bed.write("large", 8, 300 * BLOCK);
    let mut connection = connect(&scene, &config);
    connection.send(get("/data/large"));
    assert_eq!(connection.answer_begun().status, 200);
    scene.signal(libc::SIGTERM);
    assert_same(&connection.answer().body, &bytes, "a download under way");
    assert!(matches!(connection.receive(false), Received::Closed));
    scene.ended();
}

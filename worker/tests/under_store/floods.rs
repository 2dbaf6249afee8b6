//! Stores whose answers do not end and come as fast as the network takes them: a bounded part is read.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use corelane_worker::mount::{Freshness, Mount};
use corelane_worker::under_store::UnderStoreErrorKind;
use corelane_worker::under_store::listing::{Depth, ListingBounds, Listings};
use corelane_worker::under_store::runtime::{FetchOptions, FetchRuntime, Timeouts};

use crate::harness::{Shard, mount, quick_options};

/// Bytes of the object that the server announces.
const LENGTH: u64 = 50_000;

/// What the server sends before it gives up on a client that reads without end.
const FLOOD_BYTES_MAX: u64 = 256 << 20;

/// Bytes that the sockets hold, which the server sends and nobody reads.
const SOCKET_BYTES_MAX: u64 = 16 << 20;

/// A web server that describes objects, and answers anything else without end.
struct Flood {
    address: SocketAddr,
    /// Bytes of bodies.
    sent: Arc<AtomicU64>,
}

impl Flood {
    fn start() -> Flood {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let sent: Arc<AtomicU64> = Arc::default();
        let counter = Arc::clone(&sent);
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let counter = Arc::clone(&counter);
                std::thread::spawn(move || answer_without_end(connection, &counter));
            }
        });
        Flood { address, sent }
    }

    fn mount(&self) -> Arc<Mount> {
        let uri = format!("http://{}/folder", self.address);
        mount(&uri, Freshness::AlwaysCheck, &[("allow_http", "true")])
    }

    /// Bytes of bodies that were sent since this was called last.
    fn take_sent(&self) -> u64 {
        self.sent.swap(0, Ordering::Relaxed)
    }
}

fn answer_without_end(mut connection: TcpStream, sent: &AtomicU64) {
    let mut reader = BufReader::new(connection.try_clone().expect("a handle"));
    let chunk = [b"10000\r\n", &[b'x'; 0x10000][..], b"\r\n"].concat();
    loop {
        let (mut head, mut line) = (String::new(), String::new());
        while reader.read_line(&mut line).is_ok_and(|bytes| bytes > 2) {
            head.push_str(&line);
            line.clear();
        }
        let (status, length) = match head.split(' ').next() {
            Some("HEAD") => ("200 OK", format!("content-length: {LENGTH}")),
            Some("GET") => ("404 Not Found", "transfer-encoding: chunked".to_owned()),
            _ => ("207 Multi-Status", "transfer-encoding: chunked".to_owned()),
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\n{length}\r\netag: \"1\"\r\n\
             last-modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n\r\n"
        );
        if head.is_empty() || connection.write_all(answer.as_bytes()).is_err() {
            return;
        }
        if head.starts_with("HEAD") {
            continue;
        }
        while sent.load(Ordering::Relaxed) < FLOOD_BYTES_MAX && connection.write_all(&chunk).is_ok()
        {
            sent.fetch_add(0x10000, Ordering::Relaxed);
        }
        return;
    }
}

/// Times that end nothing before the flood does.
fn patient_options() -> FetchOptions {
    let quick = quick_options();
    FetchOptions {
        timeouts: Timeouts {
            first_byte: Duration::from_secs(20),
            stall: Duration::from_secs(20),
            ..quick.timeouts
        },
        ..quick
    }
}

#[test]
fn of_the_text_of_an_error_the_beginning_is_read() {
    let flood = Flood::start();
    let mount = flood.mount();
    let runtime = FetchRuntime::start(patient_options()).expect("threads");
    let mut shard = Shard::new(&runtime);
    let object = shard.describe(&mount, "/m/key").expect("a head comes");
    let fetched = shard.fetch(&mount, &object, 0..LENGTH);
    let error = fetched.result.expect_err("it is gone");
    assert_eq!(error.kind, UnderStoreErrorKind::NotFound, "{error}");
    let sent = flood.take_sent();
    assert!(sent < SOCKET_BYTES_MAX, "{sent} bytes");
}

#[test]
fn a_listing_that_does_not_end_is_refused_once() {
    let flood = Flood::start();
    let runtime = FetchRuntime::start(patient_options()).expect("threads");
    let listings = Listings::new(&runtime, ListingBounds::default());
    let waiting = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let listed = waiting.block_on(listings.list(&flood.mount(), "/m/", Depth::All, "", 10));
    let error = listed.expect_err("it does not end");
    assert_eq!(error.kind, UnderStoreErrorKind::Malformed, "{error}");
    let sent = flood.take_sent();
    assert!(sent < (16 << 20) + SOCKET_BYTES_MAX, "{sent} bytes");
}

//! Stores that take a request and never answer, or answer a byte at a time: each wait ends.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use corelane_worker::mount::{Freshness, Mount};
use corelane_worker::under_store::UnderStoreErrorKind;
use corelane_worker::under_store::listing::{Depth, ListingBounds, Listings};
use corelane_worker::under_store::origin::{
    CopyDirective, OriginBody, OriginErrorKind, OriginHeaders, WriteCondition,
};
use corelane_worker::under_store::runtime::{FetchOptions, FetchRuntime};
use futures::FutureExt;
use tempfile::TempDir;

use crate::harness::{Shard, mount, quick_options};
use crate::origins::{Bench, PLAIN, files_mount};

/// Bytes that an answer announces. At ten a second it would take hours.
const ANNOUNCED: usize = 500_000;

/// What the longest wait here may take: the total of a job (20 s), and some for a loaded machine.
const ALL_MAX: Duration = Duration::from_secs(45);

/// A server whose connections are served by `serve`, each on a thread that lives as long as the test.
fn server(serve: fn(TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            std::thread::spawn(move || serve(connection));
        }
    });
    address
}

/// Never answers.
fn silent(connection: TcpStream) {
    std::thread::sleep(Duration::from_secs(600));
    drop(connection);
}

/// Answers each request with a head, and then a byte every tenth of a second.
fn trickling(mut connection: TcpStream) {
    let mut reader = BufReader::new(connection.try_clone().expect("a handle"));
    loop {
        let (mut head, mut line) = (String::new(), String::new());
        while reader.read_line(&mut line).is_ok_and(|bytes| bytes > 2) {
            head.push_str(&line);
            line.clear();
        }
        let last = ANNOUNCED - 1;
        let (status, range) = if head.to_lowercase().contains("\nrange:") {
            let range = format!("content-range: bytes 0-{last}/{ANNOUNCED}\r\n");
            ("206 Partial Content", range)
        } else {
            ("200 OK", String::new())
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {ANNOUNCED}\r\netag: \"1\"\r\n{range}\
             last-modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n\r\n"
        );
        if head.is_empty() || connection.write_all(answer.as_bytes()).is_err() {
            return;
        }
        if head.starts_with("HEAD") {
            continue;
        }
        while connection.write_all(b" ").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
        return;
    }
}

/// Pages that [`without_end`] answered.
static PAGES: AtomicU64 = AtomicU64::new(0);

/// Answers each request with a page of a listing that has nothing in it and goes on, for minutes in all.
fn without_end(mut connection: TcpStream) {
    let mut reader = BufReader::new(connection.try_clone().expect("a handle"));
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
        if line != "\r\n" {
            line.clear();
            continue;
        }
        line.clear();
        std::thread::sleep(Duration::from_millis(100));
        let page = PAGES.fetch_add(1, Ordering::Relaxed);
        let body = format!(
            "<ListBucketResult><IsTruncated>true</IsTruncated>\
             <NextContinuationToken>{page}</NextContinuationToken></ListBucketResult>"
        );
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        if connection.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

#[track_caller]
fn in_time<T>(work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let done = work();
    let took = began.elapsed();
    assert!(took < ALL_MAX, "it took {took:?}");
    done
}

/// A bucket at `address`, with credentials of its options or of the service at `credentials`.
fn bucket(address: SocketAddr, credentials: Option<SocketAddr>) -> Arc<Mount> {
    let endpoint = format!("http://{address}");
    let service = credentials.map(|address| format!("http://{address}"));
    let mut options = vec![
        ("endpoint", endpoint.as_str()),
        ("allow_http", "true"),
        ("region", "nowhere"),
    ];
    match &service {
        Some(service) => options.push(("metadata_endpoint", service)),
        None => options.extend([("access_key_id", "key"), ("secret_access_key", "secret")]),
    }
    mount("s3://bucket", Freshness::AlwaysCheck, &options)
}

#[test]
fn credentials_that_do_not_come_are_not_waited_for_without_end() {
    let mount = bucket(server(silent), Some(server(silent)));
    let runtime = FetchRuntime::start(quick_options()).expect("threads");
    let mut shard = Shard::new(&runtime);
    let error = in_time(|| {
        shard
            .describe(&mount, "/m/key")
            .expect_err("no credentials")
    });
    assert_eq!(error.kind, UnderStoreErrorKind::Unavailable, "{error}");
    let bench = Bench::new();
    let error = in_time(|| put(&bench, &mount).expect_err("no credentials"));
    assert_eq!(error, OriginErrorKind::Unavailable);
}

fn put(bench: &Bench, mount: &Arc<Mount>) -> Result<String, OriginErrorKind> {
    let body = OriginBody::whole(Bytes::from_static(b"some bytes"));
    let headers = OriginHeaders::default();
    let condition = WriteCondition::None;
    let put = bench.origins.put(mount, "key", &headers, condition, body);
    bench
        .run(put)
        .map(|written| written.etag)
        .map_err(|error| error.kind)
}

#[test]
fn an_answer_to_a_write_that_trickles_is_not_read_for_hours() {
    let bench = Bench::new();
    let mount = bucket(server(trickling), None);
    in_time(|| put(&bench, &mount)).expect_err("the answer does not end");
}

#[test]
fn a_fetch_and_a_copy_that_trickle_end() {
    let uri = format!("http://{}/folder", server(trickling));
    let mount = mount(&uri, Freshness::AlwaysCheck, &[("allow_http", "true")]);
    let runtime = FetchRuntime::start(quick_options()).expect("threads");
    let mut shard = Shard::new(&runtime);
    let object = shard.describe(&mount, "/m/key").expect("a head comes");
    let fetched = in_time(|| shard.fetch(&mount, &object, 0..ANNOUNCED as u64));
    let error = fetched.result.expect_err("it does not end");
    assert_eq!(error.kind, UnderStoreErrorKind::Unavailable, "{error}");

    let (bench, folder) = (Bench::new(), TempDir::new().expect("a folder"));
    let copies = files_mount(&folder);
    let copied = in_time(|| {
        bench.run(bench.origins.copy(
            (&mount, "key"),
            PLAIN,
            &copies,
            "copy",
            CopyDirective::Copy,
            WriteCondition::None,
        ))
    });
    let error = copied.expect_err("it does not end");
    assert!(error.message.contains("too few bytes"), "{error:?}");
}

#[test]
fn a_listing_of_page_after_page_with_nothing_in_it_ends() {
    let runtime = FetchRuntime::start(FetchOptions {
        listing_timeout: Duration::from_secs(1),
        ..quick_options()
    })
    .expect("threads");
    let listings = Listings::new(&runtime, ListingBounds::default());
    let mount = bucket(server(without_end), None);
    let list = listings.list(&mount, "/m/", Depth::All, "", 10);
    let listed = in_time(|| Bench::new().run(list));
    let error = listed.expect_err("it does not end");
    assert_eq!(error.kind, UnderStoreErrorKind::Unavailable, "{error}");
}

#[test]
fn listings_of_slow_stores_do_not_stop_those_of_other_mounts() {
    let runtime = FetchRuntime::start(quick_options()).expect("threads");
    let listings = Listings::new(&runtime, ListingBounds::default());
    let slow = bucket(server(without_end), None);
    let before = PAGES.load(Ordering::Relaxed);
    for number in 0..3 {
        let mount = Arc::new(Mount {
            path: format!("/slow-{number}"),
            ..Mount::clone(&slow)
        });
        let prefix = format!("{}/", mount.path);
        for _ in 0..20 {
            // The listing goes on when its caller is gone.
            let list = listings.list(&mount, &prefix, Depth::All, "", 10);
            assert!(list.now_or_never().is_none());
        }
    }
    in_time(|| {
        while PAGES.load(Ordering::Relaxed) < before + 300 {
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let folder = TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("object"), b"x").expect("written");
    let (bench, mount) = (Bench::new(), files_mount(&folder));
    let list = listings.list(&mount, "/m/", Depth::All, "", 10);
    let listed = bench.run(async { tokio::time::timeout(ALL_MAX, list).await });
    let page = listed.expect("it has a permit").expect("listed");
    assert_eq!(page.entries.len(), 1);
}

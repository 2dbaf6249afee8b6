//! Under-stores that are slow, gone or closed: a clear error in bounded time for what needs them,
//! nothing at all for the others.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use corelane_client::{Error, ErrorCode, Options};

use crate::harness::{BLOCK, Bed, Mount, assert_same, content};

/// What the HTTP store does with requests for bytes.
#[derive(Clone, Copy)]
enum Manner {
    /// Answers with the bytes.
    Well,
    /// Takes the request and says nothing.
    Silent,
    /// Says 503.
    Refusing,
    /// Promises all bytes, sends half, closes.
    Truncating,
    /// Sends bytes of another length than the range.
    Lying,
}

/// A small HTTP store with one object under any name.
fn http_store(bytes: Vec<u8>, manner: Manner) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let bytes = Arc::new(bytes);
    // Lives as long as the tests do.
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let bytes = Arc::clone(&bytes);
            std::thread::spawn(move || serve(stream, &bytes, manner));
        }
    });
    address
}

fn serve(mut stream: TcpStream, bytes: &[u8], manner: Manner) -> Option<()> {
    let mut held = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = held.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
            held.extend_from_slice(&buffer[..count]);
        };
        let head = String::from_utf8_lossy(&held[..end]).to_lowercase();
        held.drain(..end);
        let about =
            "ETag: \"one\"\r\nLast-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\nAccept-Ranges: bytes";
        let range = head
            .lines()
            .find_map(|line| line.strip_prefix("range: bytes="));
        let Some((start, end)) = range.and_then(|range| range.split_once('-')) else {
            let whole = if head.starts_with("head") {
                &[][..]
            } else {
                bytes
            };
            let length = bytes.len();
            let answer = format!("HTTP/1.1 200 OK\r\n{about}\r\nContent-Length: {length}\r\n\r\n");
            stream.write_all(answer.as_bytes()).ok()?;
            stream.write_all(whole).ok()?;
            continue;
        };
        let (start, end): (usize, usize) = (start.trim().parse().ok()?, end.trim().parse().ok()?);
        let part = &bytes[start..(end + 1).min(bytes.len())];
        let answer = |length: usize| {
            format!(
                "HTTP/1.1 206 Partial Content\r\n{about}\r\nContent-Range: bytes {start}-{end}/{}\r\n\
                 Content-Length: {length}\r\n\r\n",
                bytes.len()
            )
        };
        match manner {
            Manner::Well => {
                stream.write_all(answer(part.len()).as_bytes()).ok()?;
                stream.write_all(part).ok()?;
            }
            Manner::Silent => std::thread::sleep(Duration::from_secs(3600)),
            Manner::Refusing => {
                let refusal = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(refusal).ok()?;
            }
            Manner::Truncating => {
                stream.write_all(answer(part.len()).as_bytes()).ok()?;
                stream.write_all(&part[..part.len() / 2]).ok()?;
                return None;
            }
            Manner::Lying => {
                stream.write_all(answer(part.len() - 1).as_bytes()).ok()?;
                stream.write_all(&part[1..]).ok()?;
            }
        }
    }
}

/// Reads the object at `path` while another mount is read without end, which must never fail.
#[track_caller]
fn error_beside_a_healthy_mount(bed: &Bed, path: &str, healthy: &[u8]) -> Error {
    let process = bed.start();
    let is_over = Arc::new(AtomicBool::new(false));
    let bystander = std::thread::spawn({
        let client = process.client_with(
            "",
            Options {
                retries_max: 0,
                ..Options::default()
            },
        );
        let (is_over, healthy) = (Arc::clone(&is_over), healthy.to_vec());
        move || {
            let mut reads = 0;
            while !is_over.load(Ordering::SeqCst) || reads == 0 {
                let (_, found) = client
                    .read_file("/data/object")
                    .expect("the other mount is well");
                assert_same(&found, &healthy, "of the other mount");
                reads += 1;
                // Enough to notice; a whole core would slow down what is waited for.
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
    // Longer than the worker tries by itself: the answer is to be its own.
    let patient = Options {
        request_timeout: Duration::from_secs(120),
        retries_max: 0,
        ..Options::default()
    };
    let client = process.client_with("", patient);
    let error = client
        .read_file(path)
        .expect_err("its under-store is not well");
    is_over.store(true, Ordering::SeqCst);
    bystander.join().expect("the other mount was not disturbed");
    process.terminate();
    error
}

#[test]
fn an_http_store_that_answers_well_is_read_like_files() {
    let mut bed = Bed::in_memory();
    let bytes = content(7, 9 * BLOCK + 5);
    let address = http_store(bytes.clone(), Manner::Well);
    bed.add_remote("/web", &format!("http://{address}"));
    let process = bed.start();
    let (_, found) = process
        .client()
        .read_file("/web/folder/object")
        .expect("it can be read");
    assert_same(&found, &bytes, "over HTTP");
    process.terminate();
}

#[test]
fn stores_that_refuse_truncate_or_lie_end_in_an_error_that_names_the_object() {
    // Side by side: each takes as long as the worker tries again.
    let manners = [Manner::Refusing, Manner::Truncating, Manner::Lying];
    std::thread::scope(|scope| {
        for manner in manners {
            scope.spawn(move || {
                let mut bed = Bed::in_memory();
                let healthy = bed.write("object", 1, 3 * BLOCK);
                let address = http_store(content(8, 3 * BLOCK), manner);
                bed.add_remote("/web", &format!("http://{address}"));
                let error = error_beside_a_healthy_mount(&bed, "/web/sick", &healthy);
                assert_eq!(error.code(), Some(ErrorCode::UnderStore), "{error}");
                assert!(error.to_string().contains("sick"), "{error}");
            });
        }
    });
}

#[test]
fn a_store_that_is_not_there_ends_in_an_error_that_names_the_object() {
    let mut bed = Bed::in_memory();
    let healthy = bed.write("object", 2, 3 * BLOCK);
    // Nobody listens on a port that was just given back.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    bed.add_remote("/web", &format!("http://{address}"));
    let error = error_beside_a_healthy_mount(&bed, "/web/sick", &healthy);
    assert_eq!(error.code(), Some(ErrorCode::UnderStore), "{error}");
    assert!(error.to_string().contains("sick"), "{error}");
}

#[test]
fn a_store_that_says_nothing_does_not_keep_other_mounts_or_the_end_waiting() {
    let mut bed = Bed::in_memory();
    let healthy = bed.write("object", 3, 3 * BLOCK);
    let address = http_store(content(9, 3 * BLOCK), Manner::Silent);
    bed.add_remote("/web", &format!("http://{address}"));
    let process = bed.start();
    let waiting: Vec<_> = (0..4)
        .map(|number| {
            let client = process.client_with(
                "",
                Options {
                    retries_max: 0,
                    ..Options::default()
                },
            );
            std::thread::spawn(move || client.read_file(&format!("/web/sick-{number}")).map(drop))
        })
        .collect();
    let client = process.client();
    for _ in 0..50 {
        let (_, found) = client
            .read_file("/data/object")
            .expect("the other mount is well");
        assert_same(&found, &healthy, "of the other mount");
        assert!(client.open("/data/absent").is_err());
    }
    process.terminate();
    for thread in waiting {
        thread
            .join()
            .expect("the thread ends")
            .expect_err("there was no answer");
    }
}

#[test]
fn folders_that_are_gone_or_closed_are_named_and_cached_objects_still_read() {
    let mut bed = Bed::on_disk();
    bed.add_mount("/other", "other", "freshness = \"immutable\"");
    fs::write(bed.path("other").join("a"), b"well").expect("an object");
    let bytes = bed.write("cached", 4, 3 * BLOCK);
    bed.write("uncached", 5, 3 * BLOCK);
    let process = bed.start();
    let client = process.client();
    client.read_file("/data/cached").expect("it can be read");
    fs::rename(bed.path("source"), bed.path("away")).expect("the folder goes away");
    let error = client
        .read_file("/data/uncached")
        .expect_err("it is not there");
    assert!(error.to_string().contains("uncached"), "{error}");
    let (_, found) = client.read_file("/data/cached").expect("it is cached");
    assert_same(&found, &bytes, "without the folder");
    assert_eq!(
        &client.read_file("/other/a").expect("the other mount").1[..],
        b"well"
    );
    fs::rename(bed.path("away"), bed.path("source")).expect("the folder comes back");
    client
        .read_file("/data/uncached")
        .expect("it is there again");

    // A link that leads out of the mount is as closed as one without permission, which root
    // would not notice.
    std::os::unix::fs::symlink("/etc/hostname", bed.path("source").join("out")).expect("a link");
    let error = client
        .read_file("/data/out")
        .expect_err("it leads out of the mount");
    assert_eq!(error.code(), Some(ErrorCode::UnderStore), "{error}");
    assert!(error.to_string().contains("/out"), "{error}");
    process.terminate();
}

/// One object of an HTTP store, that changes.
#[derive(Default)]
struct Changing {
    bytes: Vec<u8>,
    etag: &'static str,
}

/// A store that has this object under any name, and one modification time for all that it becomes.
fn changing_store(changing: &Arc<Mutex<Changing>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let changing = Arc::clone(changing);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let changing = Arc::clone(&changing);
            std::thread::spawn(move || serve_changing(stream, &changing));
        }
    });
    address
}

fn serve_changing(mut stream: TcpStream, changing: &Mutex<Changing>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let (bytes, etag) = {
        let now = changing.lock().expect("no panic");
        (now.bytes.clone(), now.etag)
    };
    let about = format!(
        "ETag: {etag}\r\nLast-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\nConnection: close"
    );
    let range = head
        .lines()
        .find_map(|line| line.strip_prefix("range: bytes="))
        .and_then(|range| range.split_once('-'));
    let (status, extra, body) = match range {
        None => ("200 OK", String::new(), &bytes[..]),
        Some((start, end)) => {
            let start: usize = start.trim().parse().ok()?;
            let end = end
                .trim()
                .parse::<usize>()
                .ok()?
                .saturating_add(1)
                .min(bytes.len());
            if start >= end {
                let refusal = "HTTP/1.1 416 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                return stream.write_all(refusal.as_bytes()).ok();
            }
            let extra = format!(
                "Content-Range: bytes {start}-{}/{}\r\n",
                end - 1,
                bytes.len()
            );
            ("206 Partial Content", extra, &bytes[start..end])
        }
    };
    let length = body.len();
    let answer = format!("HTTP/1.1 {status}\r\n{about}\r\n{extra}Content-Length: {length}\r\n\r\n");
    stream.write_all(answer.as_bytes()).ok()?;
    if !head.starts_with("head") {
        stream.write_all(body).ok()?;
    }
    Some(())
}

#[test]
fn an_object_that_changes_its_length_under_one_etag_is_served_as_it_is_over_restarts_too() {
    let mut bed = Bed::on_disk();
    let kinds = [
        ("/web-strong", "http", "\"const\""),
        ("/web-weak", "http", "W/\"const\""),
        ("/s3-strong", "s3", "\"const\""),
        ("/s3-weak", "s3", "W/\"const\""),
    ];
    let mut stores = Vec::new();
    for (path, scheme, etag) in kinds {
        let changing = Arc::new(Mutex::new(Changing {
            bytes: Vec::new(),
            etag,
        }));
        let address = changing_store(&changing);
        let (uri, options) = match scheme {
            "s3" => (
                "s3://bucket".to_owned(),
                format!(
                    "endpoint = \"http://{address}\", allow_http = \"true\", region = \"nowhere\", \
                     access_key_id = \"key\", secret_access_key = \"secret\""
                ),
            ),
            _ => (
                format!("http://{address}/files"),
                "allow_http = \"true\"".to_owned(),
            ),
        };
        bed.mounts.push(Mount {
            path,
            uri,
            keys: format!("freshness = \"always-check\"\noptions = {{ {options} }}"),
        });
        stores.push((path, changing));
    }
    let mut process = bed.start();
    for (turn, length) in [1000, 3_000_000, 1001, 17_000_000, 70_000]
        .into_iter()
        .enumerate()
    {
        let bytes = content(turn as u64, length);
        for (_, changing) in &stores {
            changing.lock().expect("no panic").bytes = bytes.clone();
        }
        for round in 0..2 {
            for (path, _) in &stores {
                let path = format!("{path}/object");
                let read = process.client().read_file(&path);
                let (_, found) = read.unwrap_or_else(|error| panic!("{path}, {length}: {error}"));
                assert_same(&found, &bytes, &format!("{path} of {length} bytes"));
            }
            if round == 0 && turn % 2 == 0 {
                process.kill();
                process = bed.start();
            } else if round == 0 {
                process.terminate();
                process = bed.start();
            }
        }
    }
    process.terminate();
}

//! Ceilings and generator end to end over loopback. No figure decides anything here.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use corelane_perf::ceiling::server::BareServer;
use corelane_perf::ceiling::{Protocol, Source, open_direct, prepare_file};
use corelane_perf::load::crew::{self, Mark};
use corelane_perf::load::{Arrivals, LoadResult, LoadSpec, Verify};
use corelane_perf::target::data_plane::DataPlane;
use corelane_perf::target::redis::Redis;
use corelane_perf::target::{TargetOptions, greeting, parse};
use corelane_perf::workload::{Keys, Workload};

/// Runs `client` against a bare server of `source` in this process.
fn with_server<T>(source: &Source, reply: u32, client: impl FnOnce(SocketAddr) -> T) -> T {
    with_server_of(Protocol::Frames, source, reply, client)
}

fn with_server_of<T>(
    protocol: Protocol,
    source: &Source,
    reply: u32,
    client: impl FnOnce(SocketAddr) -> T,
) -> T {
    let is_done = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let done = Arc::clone(&is_done);
        let server = scope.spawn(move || {
            let server =
                BareServer::new(source, protocol, reply, Duration::ZERO).expect("a bare server");
            sender
                .send(server.address().expect("an address"))
                .expect("somebody waits");
            server
                .run(|| done.load(Ordering::Relaxed))
                .expect("the loop goes on");
        });
        let address = receiver.recv().expect("the server starts");
        let result = client(address);
        is_done.store(true, Ordering::Relaxed);
        // Wakes the loop, which looks at the flag once a turn.
        drop(greeting::connect(address, ""));
        server.join().expect("the server ends");
        result
    })
}

fn spec(address: SocketAddr, connections: u32, depth: u32, read_bytes: u32) -> LoadSpec {
    LoadSpec {
        target: Arc::new(DataPlane::of(address)),
        workload: Workload::points(read_bytes, Keys::Uniform),
        paths: vec!["/ceiling".to_owned()],
        arrivals: Arrivals::Closed,
        connections,
        depth,
        verify: Verify::All,
        warm_up: Duration::from_millis(20),
        measured: Duration::from_millis(200),
        spin: Duration::ZERO,
        cores: Vec::new(),
        seed: 1,
    }
}

fn check(result: &LoadResult, read_bytes: u64, source: usize) {
    assert!(result.operations > 0);
    assert_eq!(result.reads, result.operations);
    assert_eq!(result.bytes, result.operations * read_bytes);
    assert_eq!((result.errors, result.wrong), (0, 0));
    assert_eq!(result.verified, result.operations);
    assert_eq!(result.by_source[source], result.operations);
    assert_eq!(result.latency_ns.len(), result.operations);
}

#[test]
fn memory_answers_pipelined_and_single_requests_with_bytes_that_verify() {
    for (connections, depth, read_bytes) in [(4, 32, 4096), (3, 1, 4096), (2, 2, 1 << 20)] {
        let mut marks = Vec::new();
        let result = with_server(&Source::Memory { bytes: 8 << 20 }, read_bytes, |address| {
            crew::run(&spec(address, connections, depth, read_bytes), |mark| {
                marks.push(mark)
            })
        })
        .expect("the load ends");
        check(&result, u64::from(read_bytes), 0);
        assert_eq!(marks, [Mark::Begin, Mark::End]);
    }
}

#[test]
fn memory_answers_over_http_with_bytes_that_are_right() {
    let options = TargetOptions::default();
    for (connections, depth, read_bytes) in [(3, 1, 4096), (2, 4, 1 << 20)] {
        let source = Source::Memory { bytes: 8 << 20 };
        let result = with_server_of(Protocol::Http, &source, read_bytes, |address| {
            let target = parse(&format!("http://{address}/"), &options).expect("a target");
            let spec = LoadSpec {
                target,
                ..spec(address, connections, depth, read_bytes)
            };
            crew::run(&spec, |_| {})
        })
        .expect("the load ends");
        assert!(result.operations > 0);
        assert_eq!(result.bytes, result.operations * u64::from(read_bytes));
        assert_eq!(result.verified, result.operations);
        assert_eq!((result.errors, result.wrong), (0, 0));
    }
}

#[test]
fn an_open_loop_measures_every_operation_that_was_due() {
    let arrivals = Arrivals::Constant { per_second: 1000.0 };
    let result = with_server(&Source::Memory { bytes: 8 << 20 }, 4096, |address| {
        let spec = LoadSpec {
            arrivals,
            spin: Duration::from_micros(100),
            ..spec(address, 2, 4, 4096)
        };
        crew::run(&spec, |_| {})
    })
    .expect("the load ends");
    // 200 ms at 1000 a second, whatever the machine was doing meanwhile.
    assert!(
        (199..=201).contains(&result.latency_ns.len()),
        "{}",
        result.latency_ns.len()
    );
    assert_eq!(result.service_ns.len(), result.latency_ns.len());
    assert!(result.service_ns.max() <= result.latency_ns.max());
    assert_eq!(result.sent_late_ns.len(), result.latency_ns.len());
    assert!(result.sent_late_ns.max() <= result.latency_ns.max());
    assert_eq!(
        (result.errors, result.wrong, result.is_overrun),
        (0, 0, false)
    );
}

#[test]
fn more_than_a_server_can_take_ends_early_and_says_so() {
    let result = with_server(&Source::Memory { bytes: 8 << 20 }, 1 << 20, |address| {
        let spec = LoadSpec {
            arrivals: Arrivals::Poisson {
                per_second: 5_000_000.0,
            },
            measured: Duration::from_secs(20),
            ..spec(address, 1, 2, 1 << 20)
        };
        crew::run(&spec, |_| {})
    })
    .expect("the load ends");
    assert!(result.is_overrun && result.unfinished > 0);
    // What was never sent is late too, by all of its wait.
    assert_eq!(result.sent_late_ns.len(), result.latency_ns.len());
    assert!(result.service_ns.len() < result.latency_ns.len());
    assert!(
        result.elapsed < Duration::from_secs(20),
        "{:?}",
        result.elapsed
    );
}

/// A server of one connection that answers GETs with a page each, but stalls once, at its
/// `stalls_at`th.
fn stalling_redis(stalls_at: usize, stall: Duration) -> SocketAddr {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a generator");
        let mut answer = b"$4096\r\n".to_vec();
        answer.extend_from_slice(&corelane_perf::ceiling::page());
        answer.extend_from_slice(b"\r\n");
        let (mut lines, mut answered) = (0, 0);
        let mut input = [0; 4096];
        while let Ok(bytes @ 1..) = stream.read(&mut input) {
            lines += input[..bytes].iter().filter(|byte| **byte == b'\n').count();
            // A GET takes five lines: how many words, and two with their lengths.
            while answered < lines / 5 {
                answered += 1;
                if answered == stalls_at {
                    std::thread::sleep(stall);
                }
                if stream.write_all(&answer).is_err() {
                    return;
                }
            }
        }
    });
    address
}

#[test]
fn a_stall_shows_in_the_latency_of_all_that_was_due_meanwhile() {
    let address = stalling_redis(100, Duration::from_millis(300));
    let spec = LoadSpec {
        target: Arc::new(Redis {
            address,
            prefix: String::new(),
        }),
        workload: Workload::load("uniform-4k").expect("it comes along"),
        paths: Vec::new(),
        arrivals: Arrivals::Constant { per_second: 1000.0 },
        measured: Duration::from_millis(600),
        ..spec(address, 1, 1, 4096)
    };
    let result = crew::run(&spec, |_| {}).expect("the load ends");
    assert_eq!((result.errors, result.wrong, result.unfinished), (0, 0, 0));
    // Of the 300 operations that were due in the stall, 200 waited for longer than a third of it.
    let slow = |histogram: &hdrhistogram::Histogram<u64>| {
        histogram.count_between(100_000_000, histogram.high())
    };
    let (latency, service) = (slow(&result.latency_ns), slow(&result.service_ns));
    assert!(latency >= 190, "{latency}");
    assert!(service >= 1 && service < latency, "{service} of {latency}");
}

#[test]
fn two_generators_read_an_epoch_of_local_files_once() {
    let Some(directory) = direct_directory() else {
        eprintln!("skipped: neither /dev/shm nor the temporary directory has direct I/O");
        return;
    };
    let workload = Workload::load("smoke").expect("it comes along");
    workload
        .objects
        .make_files(directory.path())
        .expect("files");
    let target = format!("file://{}", directory.path().display());
    let spec = LoadSpec {
        target: parse(&target, &TargetOptions::default()).expect("a target"),
        workload,
        paths: Vec::new(),
        // No CPU of their own: CI machines may have one.
        cores: vec![0, 0],
        ..spec(([127, 0, 0, 1], 1).into(), 2, 4, 4096)
    };
    let result = crew::run(&spec, |_| {}).expect("the load ends");
    assert!(result.operations > 0 && result.reads >= result.operations);
    assert_eq!((result.errors, result.wrong), (0, 0));
    assert_eq!(result.verified, result.reads);
    assert_eq!(result.by_source[1], result.reads);
}

/// A directory whose file system has direct I/O, if the machine has one for us.
fn direct_directory() -> Option<tempfile::TempDir> {
    [Path::new("/dev/shm"), &std::env::temp_dir()]
        .into_iter()
        .find_map(|place| {
            let directory = tempfile::tempdir_in(place).ok()?;
            let path = directory.path().join("probe");
            prepare_file(&path, 1 << 20).ok()?;
            open_direct(&path, true).is_ok().then_some(directory)
        })
}

#[test]
fn a_device_answers_with_one_read_a_request() {
    let Some(directory) = direct_directory() else {
        eprintln!("skipped: neither /dev/shm nor the temporary directory has direct I/O");
        return;
    };
    let path = directory.path().join("device");
    prepare_file(&path, 8 << 20).expect("a file");
    let source = Source::Device {
        path,
        nonblocking: directory.path().starts_with("/dev/shm"),
        bytes: 8 << 20,
    };
    let result = with_server(&source, 4096, |address| {
        crew::run(&spec(address, 4, 16, 4096), |_| {})
    })
    .expect("the load ends");
    check(&result, 4096, 1);
}

#[test]
fn lanes_that_go_away_in_the_middle_leave_the_server_serving() {
    use corelane_rpc_schema::frame::{ReadFlags, ReadRequest, encode_read_request};
    use std::io::Write;

    let result = with_server(&Source::Memory { bytes: 8 << 20 }, 4096, |address| {
        for _ in 0..50 {
            let (mut stream, _) = greeting::connect(address, "").expect("connected");
            let opened = greeting::open(&stream, "/ceiling").expect("opened");
            let mut requests = Vec::new();
            for request_id in 1..=64 {
                let flags = ReadFlags::CHECKSUMS;
                let request = ReadRequest {
                    request_id,
                    object: opened.object,
                    offset: 0,
                    length: 4096,
                    flags,
                };
                encode_read_request(&mut requests, &request);
            }
            stream.write_all(&requests).expect("sent");
        }
        crew::run(&spec(address, 2, 4, 4096), |_| {})
    })
    .expect("the load ends");
    check(&result, 4096, 0);
}

#[test]
fn an_object_is_read_whole_and_checked() {
    // The ceiling does not look at what is asked, so only reads of its reply's size get their bytes.
    let bytes = with_server(&Source::Memory { bytes: 4 << 20 }, 1 << 20, |address| {
        let (stream, hello) = greeting::connect(address, "").expect("connected");
        let opened = greeting::open(&stream, "/ceiling").expect("opened");
        greeting::read_all(&stream, &opened, hello.read_bytes_max).expect("every byte is right");
        opened.length
    });
    assert_eq!(bytes, 4 << 20);
}

#[test]
fn a_server_that_is_not_there_is_an_error_with_its_address() {
    // Bound and dropped: nobody listens there now.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let error = crew::run(&spec(address, 1, 1, 4096), |_| {}).expect_err("nobody listens");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

//! The io_uring backend as its users see it: over loopback and real files.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::sync::mpsc;
use std::task::Poll;
use std::time::{Duration, Instant};

use corelane_io::uring::{self, Options, UringIo, UringStream};
use corelane_io::{
    Device, Doorbell, Io, IoErrorKind, Listener, PAGE_SIZE, Payload, Priority, SendBatch, Stream,
};

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

/// Few and small buffers, so that tests get to their ends.
fn small() -> Options {
    Options {
        entries: 64,
        spin: Duration::ZERO,
        receive_buffers: 64,
        receive_buffer_bytes: 4096,
        ..Options::default()
    }
}

async fn send_bytes(stream: &UringStream, bytes: &[u8]) {
    let mut batch = Box::new(SendBatch::default());
    batch.push_head(bytes);
    stream.send(batch).await.0.expect("the peer listens");
}

async fn receive_exactly(stream: &UringStream, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let received = stream.receive().await.expect("the connection holds");
        assert!(
            !received.is_empty(),
            "the peer closed after {} of {length} bytes",
            bytes.len()
        );
        bytes.extend_from_slice(&received);
    }
    assert_eq!(bytes.len(), length);
    bytes
}

/// Sends back what comes, until the peer closes.
async fn echo(stream: UringStream) {
    let mut batch = Box::new(SendBatch::default());
    loop {
        let Ok(received) = stream.receive().await else {
            return;
        };
        if received.is_empty() {
            return;
        }
        batch.clear();
        batch.push_head(&received);
        drop(received);
        let (sent, back) = stream.send(batch).await;
        if sent.is_err() {
            return;
        }
        batch = back;
    }
}

async fn start_echo(io: &UringIo) -> SocketAddr {
    let listener = io.listen(loopback()).await.expect("a free port");
    let address = listener.local_address();
    let server = io.clone();
    io.spawn(Priority::Foreground, async move {
        while let Ok(stream) = listener.accept().await {
            server.spawn(Priority::Foreground, echo(stream));
        }
    });
    address
}

/// Resolves when `done` says so; looks again every turn.
async fn until(io: &UringIo, what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        io.sleep(Duration::from_micros(200)).await;
    }
}

#[test]
fn many_pipelined_connections_get_their_own_bytes_back_in_order() {
    const CONNECTIONS: usize = 64;
    const ROUNDS: usize = 20;
    uring::run(&small(), |io| async move {
        let address = start_echo(&io).await;
        let done = Rc::new(Cell::new(0));
        for connection in 0..CONNECTIONS {
            let stream = io.connect(address).await.expect("the echo listens");
            let done = Rc::clone(&done);
            io.spawn(Priority::Foreground, async move {
                for round in 0..ROUNDS {
                    // Lengths around the size of a receive buffer.
                    let length = 1 + (connection * 977 + round * 5_381) % 9_000;
                    let bytes: Vec<u8> = (0..length)
                        .map(|at| (at * 31 + connection * 7 + round) as u8)
                        .collect();
                    send_bytes(&stream, &bytes).await;
                    assert!(
                        receive_exactly(&stream, length).await == bytes,
                        "other bytes came back"
                    );
                }
                done.set(done.get() + 1);
            });
        }
        until(&io, "all echoes", || done.get() == CONNECTIONS).await;
    })
    .expect("a core");
}

async fn round_trip(io: UringIo, path: &Path) {
    const PAGES: usize = 16;
    let pool = io.allocate_pool(64, PAGES).expect("memory");
    let device = io.open_device(path).await.expect("a device");
    let frame = pool.take().expect("a free frame");
    let mut lease = frame.lease(0..PAGES).expect("vacant pages");
    assert!(
        lease.registered_buffer().is_some(),
        "pools of a ring are registered"
    );
    for (at, byte) in lease.bytes_mut().iter_mut().enumerate() {
        *byte = (at / 512 + at) as u8;
    }
    let written = lease.seal();
    let slice = written.slice(0..PAGES * PAGE_SIZE);
    device
        .write(PAGE_SIZE as u64, slice.clone())
        .await
        .expect("room");
    device.flush().await.expect("a flush");
    let other = pool.take().expect("a free frame");
    let lease = other.lease(0..PAGES).expect("vacant pages");
    let lease = device
        .read(PAGE_SIZE as u64, lease)
        .await
        .expect("what was written");
    assert!(
        lease.bytes() == slice.bytes(),
        "the device returned other bytes"
    );
    // Single pages, many at a time.
    let done = Rc::new(Cell::new(0));
    for page in 0..PAGES {
        let (device, frame, slice) = (device.clone(), pool.take().expect("free"), slice.clone());
        let done = Rc::clone(&done);
        io.spawn(Priority::Flush, async move {
            let lease = frame.lease(3..4).expect("vacant page");
            let lease = device
                .read((1 + page as u64) * PAGE_SIZE as u64, lease)
                .await
                .expect("a page");
            assert!(lease.bytes() == &slice.bytes()[page * PAGE_SIZE..(page + 1) * PAGE_SIZE]);
            done.set(done.get() + 1);
        });
    }
    until(&io, "all pages", || done.get() == PAGES).await;
    device
        .discard(0, PAGE_SIZE as u64)
        .await
        .expect("a hint is never refused");
}

fn device_file(directory: &Path, pages: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new_in(directory).expect("a file");
    file.as_file()
        .set_len(pages * PAGE_SIZE as u64)
        .expect("room");
    file
}

/// The build directory: on a disk, where /tmp may be memory.
fn on_disk() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

#[test]
fn a_file_on_disk_gives_back_what_was_written() {
    let file = device_file(on_disk(), 64);
    let path = file.path().to_owned();
    uring::run(&small(), |io| async move { round_trip(io, &path).await }).expect("a core");
}

#[test]
fn a_file_in_memory_gives_back_what_was_written_without_kernel_threads() {
    let file = device_file(Path::new("/dev/shm"), 64);
    let path = file.path().to_owned();
    let workers = uring::run(&small(), |io| async move {
        let device = io.open_device(&path).await.expect("tmpfs has direct I/O");
        let pool = io.allocate_pool(32, 1).expect("memory");
        for round in 0..50 {
            for page in 0..32u64 {
                let lease = pool.take().expect("free").lease(0..1).expect("vacant");
                device
                    .read((page + round) % 64 * PAGE_SIZE as u64, lease)
                    .await
                    .expect("a page");
            }
        }
        corelane_io::cores::thread_affinities()
            .expect("/proc")
            .into_iter()
            .filter(|thread| thread.name.starts_with("iou-wrk"))
            // Tests run in one process: workers of other tests' rings are named by their thread.
            .filter(|thread| thread.name.ends_with(&own_thread_number()))
            .count()
    })
    .expect("a core");
    assert_eq!(workers, 0, "reads went to kernel threads");
    let path = file.path().to_owned();
    uring::run(&small(), |io| async move { round_trip(io, &path).await }).expect("a core");
}

/// Kernel workers of a ring are named `iou-wrk-<thread that made it>`.
fn own_thread_number() -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("/proc");
    let thread = corelane_io::cores::parse_thread_status(&status)
        .expect("a status")
        .thread;
    format!("-{thread}")
}

/// Polls `future` once and gives it up.
async fn poll_and_drop<F: Future>(future: F) {
    let mut future = pin!(future);
    poll_fn(|context| {
        assert!(
            future.as_mut().poll(context).is_pending(),
            "the kernel cannot have answered yet"
        );
        Poll::Ready(())
    })
    .await;
}

#[test]
fn a_dropped_read_keeps_its_pages_until_the_kernel_is_done() {
    let file = device_file(on_disk(), 64);
    let path = file.path().to_owned();
    uring::run(&small(), |io| async move {
        let device = io.open_device(&path).await.expect("a device");
        let pool = io.allocate_pool(8, 16).expect("memory");
        for round in 0..50 {
            for _ in 0..8 {
                let lease = pool
                    .take()
                    .expect("all frames are back")
                    .lease(0..16)
                    .expect("vacant");
                poll_and_drop(device.read(0, lease)).await;
            }
            assert_eq!(
                pool.available(),
                0,
                "round {round}: a page in flight may not be reused"
            );
            until(&io, "the frames", || pool.available() == 8).await;
        }
    })
    .expect("a core");
}

#[test]
fn a_core_that_ends_with_work_in_flight_waits_for_the_kernel() {
    let file = device_file(on_disk(), 64);
    let path = file.path().to_owned();
    uring::run(&small(), |io| async move {
        let device = io.open_device(&path).await.expect("a device");
        let pool = io.allocate_pool(8, 16).expect("memory");
        let address = start_echo(&io).await;
        let stream = io.connect(address).await.expect("the echo listens");
        send_bytes(&stream, b"unread").await;
        for _ in 0..8 {
            let (io, device, pool) = (io.clone(), device.clone(), pool.clone());
            let stream = stream.clone();
            io.clone().spawn(Priority::Background, async move {
                let lease = pool.take().expect("free").lease(0..16).expect("vacant");
                device.read(0, lease).await.expect("a read");
                stream.receive().await.ok();
                io.sleep(Duration::from_secs(3600)).await;
            });
        }
        io.yield_now().await;
    })
    .expect("a core");
}

#[test]
fn a_dropped_send_closes_the_connection_and_keeps_its_payload_meanwhile() {
    uring::run(&small(), |io| async move {
        let pool = io.allocate_pool(4, 16).expect("memory");
        let listener = io.listen(loopback()).await.expect("a port");
        let client = io
            .connect(listener.local_address())
            .await
            .expect("it listens");
        let server = listener.accept().await.expect("a connection");
        let slice = pool
            .take()
            .expect("free")
            .lease(0..16)
            .expect("vacant")
            .seal()
            .slice(0..16 * PAGE_SIZE);
        let mut batch = Box::new(SendBatch::default());
        // Far more than the sockets hold, so that the send stays in flight.
        for _ in 0..500 {
            batch.push_payload(Payload::Frame(slice.clone()));
        }
        drop(slice);
        poll_and_drop(client.send(batch)).await;
        until(&io, "the payload", || pool.available() == 4).await;
        let (sent, _) = client
            .send({
                let mut batch = Box::new(SendBatch::default());
                batch.push_head(b"more");
                batch
            })
            .await;
        assert_eq!(sent.expect_err("closed").kind(), IoErrorKind::Disconnected);
        while !server.receive().await.expect("an orderly end").is_empty() {}
    })
    .expect("a core");
}

#[test]
fn a_ring_from_another_thread_wakes_a_sleeping_core() {
    const RINGS: usize = 500;
    uring::run(&small(), |io| async move {
        let doorbell = io.doorbell();
        let (answer, answered) = mpsc::channel::<()>();
        let ringing = std::thread::spawn(move || {
            for ring in 0..RINGS {
                if ring % 10 == 0 {
                    std::thread::sleep(Duration::from_micros(300));
                }
                doorbell.ring();
                answered
                    .recv_timeout(Duration::from_secs(30))
                    .expect("no ring is lost");
            }
        });
        for _ in 0..RINGS {
            io.rung().await;
            answer.send(()).expect("the ringer waits");
        }
        ringing.join().expect("the ringer got every answer");
        assert!(io.counters().sleeps > 0, "the core slept in between");
    })
    .expect("a core");
}

#[test]
fn cores_wake_each_other_through_their_rings() {
    const ROUNDS: u32 = 2_000;
    let (bells_in, bells_out) = mpsc::channel();
    let mut mesh = corelane_io::mesh::build::<u32>(2, 8);
    let mut back_channels = Vec::new();
    let mut cores = Vec::new();
    for (number, mut end) in mesh.drain(..).enumerate() {
        let bells_in = bells_in.clone();
        let (bells_to, bells_from) = mpsc::channel::<Vec<std::sync::Arc<dyn Doorbell>>>();
        back_channels.push(bells_to);
        let core = uring::spawn_core(small(), move |io| async move {
            bells_in
                .send((number, io.doorbell()))
                .expect("the test waits");
            end.set_doorbells(bells_from.recv().expect("all doorbells"));
            let other = 1 - number;
            if number == 0 {
                end.send(other, 0).expect("room");
            }
            loop {
                while let Some((from, round)) = end.try_receive() {
                    assert_eq!(from, other);
                    if round < ROUNDS {
                        end.send(other, round + 1).expect("room");
                    }
                    if round >= ROUNDS - 1 {
                        return io.counters().sleeps;
                    }
                }
                io.rung().await;
            }
        })
        .expect("a thread");
        cores.push(core);
    }
    let mut bells: Vec<_> = (0..2)
        .map(|_| bells_out.recv().expect("two cores"))
        .collect();
    bells.sort_by_key(|(number, _)| *number);
    let bells: Vec<_> = bells.into_iter().map(|(_, bell)| bell).collect();
    for channel in back_channels {
        channel.send(bells.clone()).expect("the core waits");
    }
    for core in cores {
        let sleeps = core.join().expect("no panic").expect("a core");
        assert!(sleeps > 0, "they slept while the other was at work");
    }
}

#[test]
fn sleeps_end_in_the_order_of_their_deadlines_and_never_early() {
    uring::run(&small(), |io| async move {
        let order = Rc::new(RefCell::new(Vec::new()));
        for millis in [30u64, 5, 20, 1, 10, 0, 15] {
            let (sleeper, order) = (io.clone(), Rc::clone(&order));
            io.spawn(Priority::Foreground, async move {
                let start = Instant::now();
                sleeper.sleep(Duration::from_millis(millis)).await;
                assert!(
                    start.elapsed() >= Duration::from_millis(millis),
                    "{millis} ms were short"
                );
                order.borrow_mut().push(millis);
            });
        }
        // Dropped sleeps leave nothing behind.
        poll_and_drop(io.sleep(Duration::from_millis(7))).await;
        until(&io, "all sleepers", || order.borrow().len() == 7).await;
        assert_eq!(*order.borrow(), [0, 1, 5, 10, 15, 20, 30]);
    })
    .expect("a core");
}

#[test]
fn connections_whose_readers_are_behind_do_not_keep_others_from_receiving() {
    const FLOODS: usize = 8;
    uring::run(&small(), |io| async move {
        let listener = io.listen(loopback()).await.expect("a port");
        let mut unread = Vec::new();
        for _ in 0..FLOODS {
            let flooder = io
                .connect(listener.local_address())
                .await
                .expect("it listens");
            unread.push(listener.accept().await.expect("a connection"));
            io.spawn(Priority::Background, async move {
                let mut batch = Box::new(SendBatch::default());
                batch.push_head(&[7; 64 * 1024]);
                loop {
                    let (sent, back) = flooder.send(batch).await;
                    if sent.is_err() {
                        return;
                    }
                    batch = back;
                }
            });
        }
        // The first receive arms each connection; nobody reads on.
        for stream in &unread {
            assert!(!stream.receive().await.expect("a flood").is_empty());
        }
        io.sleep(Duration::from_millis(50)).await;
        let address = start_echo(&io).await;
        let stream = io.connect(address).await.expect("the echo listens");
        for round in 0..100u32 {
            send_bytes(&stream, &round.to_le_bytes()).await;
            assert_eq!(receive_exactly(&stream, 4).await, round.to_le_bytes());
        }
        // A reader that comes back finds its bytes, and more after them.
        receive_at_least(&unread[0], 4 * 1024 * 1024).await;
    })
    .expect("a core");
}

async fn receive_at_least(stream: &UringStream, length: usize) {
    let mut bytes = 0;
    while bytes < length {
        let received = stream.receive().await.expect("a flood");
        assert!(received.iter().all(|byte| *byte == 7));
        bytes += received.len();
    }
}

#[test]
fn a_peer_that_never_reads_stalls_its_own_connection_only() {
    uring::run(&small(), |io| async move {
        let listener = io.listen(loopback()).await.expect("a port");
        let _silent = io
            .connect(listener.local_address())
            .await
            .expect("it listens");
        let stream = listener.accept().await.expect("a connection");
        let outcome = Rc::new(Cell::new(None));
        let (sender, slot) = (stream.clone(), Rc::clone(&outcome));
        io.spawn(Priority::Foreground, async move {
            let mut batch = Box::new(SendBatch::default());
            (0..4_000).for_each(|_| batch.push_payload(Payload::Static(&[1; 16 * 1024])));
            slot.set(Some(
                sender.send(batch).await.0.map_err(|error| error.kind()),
            ));
        });
        let address = start_echo(&io).await;
        let other = io.connect(address).await.expect("the echo listens");
        for _ in 0..100 {
            send_bytes(&other, b"still here").await;
            receive_exactly(&other, 10).await;
        }
        assert!(outcome.get().is_none(), "64 MB do not fit the sockets");
        stream.close();
        until(&io, "the end of the send", || outcome.get().is_some()).await;
        assert_eq!(outcome.get(), Some(Err(IoErrorKind::Disconnected)));
    })
    .expect("a core");
}

#[test]
fn a_batch_of_thousands_of_parts_arrives_whole() {
    for send_zero_copy_above in [None, Some(0)] {
        let options = Options {
            send_zero_copy_above,
            ..small()
        };
        uring::run(&options, |io| async move {
            let listener = io.listen(loopback()).await.expect("a port");
            let client = io
                .connect(listener.local_address())
                .await
                .expect("it listens");
            let server = listener.accept().await.expect("a connection");
            let pool = io.allocate_pool(1, 1).expect("memory");
            for _ in 0..3 {
                let mut lease = pool
                    .take()
                    .expect("given back")
                    .lease(0..1)
                    .expect("vacant");
                (0..=u8::MAX)
                    .zip(lease.bytes_mut().chunks_mut(16))
                    .for_each(|(at, chunk)| chunk.fill(at));
                let frame = lease.seal();
                let mut batch = Box::new(SendBatch::default());
                let mut expected = Vec::new();
                for part in 0..3_000usize {
                    batch.push_head(&(part as u32).to_le_bytes());
                    expected.extend_from_slice(&(part as u32).to_le_bytes());
                    let slice = frame.slice(part..part + 500);
                    expected.extend_from_slice(slice.bytes());
                    batch.push_payload(Payload::Frame(slice));
                }
                drop(frame);
                let sender = client.clone();
                io.spawn(Priority::Foreground, async move {
                    let (sent, mut back) = sender.send(batch).await;
                    sent.expect("the peer reads");
                    back.clear();
                });
                assert!(receive_exactly(&server, expected.len()).await == expected);
                until(&io, "the payload", || pool.available() == 1).await;
            }
        })
        .expect("a core");
    }
}

#[test]
fn closing_ends_what_waits_and_the_peer_sees_the_end() {
    uring::run(&small(), |io| async move {
        let listener = io.listen(loopback()).await.expect("a port");
        let client = io
            .connect(listener.local_address())
            .await
            .expect("it listens");
        let server = listener.accept().await.expect("a connection");
        let closer = client.clone();
        io.spawn(Priority::Background, async move { closer.close() });
        assert!(client.receive().await.expect("an orderly end").is_empty());
        assert!(server.receive().await.expect("an orderly end").is_empty());
        // Dropping the last handle is closing, too.
        let client = io
            .connect(listener.local_address())
            .await
            .expect("it listens");
        let server = listener.accept().await.expect("a connection");
        send_bytes(&client, b"last words").await;
        drop(client);
        receive_exactly(&server, 10).await;
        assert!(server.receive().await.expect("an orderly end").is_empty());
    })
    .expect("a core");
}

#[test]
fn connecting_to_nobody_says_so() {
    uring::run(&small(), |io| async move {
        let address = io.listen(loopback()).await.expect("a port").local_address();
        io.sleep(Duration::from_millis(5)).await;
        let error = io
            .connect(address)
            .await
            .err()
            .expect("nobody listens there");
        assert_eq!(error.kind(), IoErrorKind::Disconnected);
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    })
    .expect("a core");
}

#[test]
fn an_end_of_file_is_an_error_that_names_the_device() {
    let file = device_file(on_disk(), 16);
    let path = file.path().to_owned();
    uring::run(&small(), |io| async move {
        let device = io.open_device(&path).await.expect("a device");
        file.as_file()
            .set_len(8 * PAGE_SIZE as u64)
            .expect("shorter");
        let pool = io.allocate_pool(1, 16).expect("memory");
        let lease = pool.take().expect("free").lease(0..16).expect("vacant");
        let error = device.read(0, lease).await.expect_err("half of it is gone");
        assert_eq!(error.kind(), IoErrorKind::Device);
        assert!(error.to_string().contains("missing_bytes 32768"), "{error}");
        assert_eq!(pool.available(), 1);
    })
    .expect("a core");
}

#[test]
fn an_idle_core_sleeps() {
    uring::run(
        &Options {
            spin: Duration::from_micros(10),
            ..small()
        },
        |io| async move {
            let before = io.counters();
            io.sleep(Duration::from_millis(100)).await;
            let turns = io.counters().turns - before.turns;
            // One for the sleep to start, a few as the wheel's levels come near its end.
            assert!(turns < 20, "{turns} turns to sleep once");
        },
    )
    .expect("a core");
}

/// Set in a child process that is to panic in a task.
const PANIC_SWITCH: &str = "CORELANE_TEST_PANIC_IN_TASK";

#[test]
fn a_panic_in_a_task_ends_the_process() {
    if std::env::var_os(PANIC_SWITCH).is_some() {
        let outcome = uring::run(&small(), |io| async move {
            io.spawn(Priority::Background, async { panic!("as the test wants") });
            io.sleep(Duration::from_secs(30)).await;
        });
        panic!("the task was lost: {outcome:?}");
    }
    let this = std::env::current_exe().expect("a test binary");
    let output = std::process::Command::new(this)
        .args([
            "--exact",
            "a_panic_in_a_task_ends_the_process",
            "--nocapture",
        ])
        .env(PANIC_SWITCH, "1")
        .output()
        .expect("the test runs itself");
    let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
    assert_eq!(signal, Some(6), "not aborted: {:?}", output.status);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("as the test wants") && text.contains("ending the process"),
        "{text}"
    );
}

#[test]
fn a_panic_of_the_core_itself_reaches_the_caller() {
    let caught = std::panic::catch_unwind(|| {
        uring::run(&small(), |io| async move {
            io.yield_now().await;
            panic!("as the test wants");
        })
    });
    assert!(caught.is_err());
    // The thread can be a core again.
    assert_eq!(uring::run(&small(), |_| async { 7 }).expect("a core"), 7);
}

#[test]
fn what_outlives_its_core_can_be_dropped() {
    let file = device_file(on_disk(), 64);
    let path = file.path().to_owned();
    let left_over = uring::run(&small(), |io| async move {
        let device = io.open_device(&path).await.expect("a device");
        let pool = io.allocate_pool(2, 16).expect("memory");
        let address = start_echo(&io).await;
        let stream = io.connect(address).await.expect("the echo listens");
        send_bytes(&stream, b"kept").await;
        let received = stream.receive().await.expect("an echo");
        let lease = pool.take().expect("free").lease(0..16).expect("vacant");
        let reader = device.clone();
        let mut read = Box::pin(async move { reader.read(0, lease).await.map(drop) });
        poll_fn(|context| Poll::Ready(read.as_mut().poll(context).is_pending())).await;
        (io, device, pool, stream, received, read)
    })
    .expect("a core");
    assert_eq!(&*left_over.4, b"kept");
}

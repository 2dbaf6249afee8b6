//! The io_uring backend as its users see it: over loopback and real files.

use std::cell::Cell;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use corelane_io::uring::{self, Options, UringIo, UringStream};
use corelane_io::{Device, Io, Listener, PAGE_SIZE, Priority, SendBatch, Stream};

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

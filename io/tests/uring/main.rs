//! The io_uring backend as its users see it: over loopback and real files.

mod device;
mod ends;
mod network;
mod wakes;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::sync::mpsc;
use std::task::Poll;
use std::time::{Duration, Instant};

use corelane_io::uring::{self, Options, UringIo, UringListener, UringStream};
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

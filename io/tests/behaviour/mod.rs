//! What every backend on a real machine must do, as its users see it: over loopback and real files.
//!
//! Each test program that includes this names its backend in a module `backend`: `run`,
//! `spawn_core`, the types of its handles, and `small()`, options with few and small buffers, so
//! that tests get to their ends.

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

use corelane_io::{
    Device, Doorbell, Io, IoErrorKind, Listener, PAGE_SIZE, Payload, Priority, SendBatch, Stream,
};

use super::backend::{self, CoreIo, CoreListener, CoreStream, Options, small};

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

async fn send_bytes(stream: &CoreStream, bytes: &[u8]) {
    let mut batch = Box::new(SendBatch::default());
    batch.push_head(bytes);
    stream.send(batch).await.0.expect("the peer listens");
}

async fn receive_exactly(stream: &CoreStream, length: usize) -> Vec<u8> {
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
async fn echo(stream: CoreStream) {
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

async fn start_echo(io: &CoreIo) -> SocketAddr {
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
async fn until(io: &CoreIo, what: &str, done: impl Fn() -> bool) {
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
    // What is a device has a superblock, so its first page is no hole.
    std::os::unix::fs::FileExt::write_all_at(file.as_file(), &[0; PAGE_SIZE], 0).expect("room");
    file.as_file().sync_all().expect("a flush");
    file
}

/// The build directory: on a disk, where /tmp may be memory.
fn on_disk() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

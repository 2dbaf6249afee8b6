//! The way of a request through a core allocates nothing once it is warm.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use corelane_io::uring::{self, Options, UringStream};
use corelane_io::{Device, Io, Listener, PAGE_SIZE, Payload, Priority, SendBatch, Stream};

/// The system's allocator, counting for the thread that asks.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has no counter any more, and is of no interest.
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: passed on to the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: passed on to the caller.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: passed on to the caller.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const REQUEST: [u8; 64] = [3; 64];

/// Reads a page from the device for each request and sends it, with a timer running beside.
async fn serve(stream: UringStream, io: impl Io, device: impl Device, frame: corelane_io::Frame) {
    let mut batch = Box::new(SendBatch::default());
    let mut lease = Some(frame.lease(0..1).expect("vacant"));
    let answer = frame.lease(1..2).expect("vacant").seal();
    let mut partial = 0;
    loop {
        let received = stream.receive().await.expect("the client lives");
        if received.is_empty() {
            return;
        }
        partial += received.len();
        drop(received);
        batch.clear();
        while partial >= REQUEST.len() {
            partial -= REQUEST.len();
            let vacant = lease.take().expect("one read at a time");
            lease = Some(device.read(0, vacant).await.expect("a page"));
            batch.push_head(&[1; 16]);
            batch.push_payload(Payload::Frame(answer.slice(PAGE_SIZE..2 * PAGE_SIZE)));
        }
        io.sleep(Duration::from_micros(1)).await;
        io.yield_now().await;
        let (sent, back) = stream.send(batch).await;
        sent.expect("the client reads");
        batch = back;
    }
}

async fn ask(stream: &UringStream, batch: Box<SendBatch>) -> Box<SendBatch> {
    let (sent, batch) = stream.send(batch).await;
    sent.expect("the server lives");
    let mut left = batch.bytes() / REQUEST.len() * (16 + PAGE_SIZE);
    while left > 0 {
        left -= stream.receive().await.expect("the server lives").len();
    }
    batch
}

#[test]
fn a_warm_core_serves_without_allocating() {
    let file = tempfile::NamedTempFile::new_in("/dev/shm").expect("a file");
    file.as_file().set_len(16 * PAGE_SIZE as u64).expect("room");
    let path = file.path().to_owned();
    let allocations = uring::run(&Options::default(), |io| async move {
        let device = io.open_device(&path).await.expect("a device");
        let pool = io.allocate_pool(16, 2).expect("memory");
        let listener = io
            .listen("127.0.0.1:0".parse().expect("an address"))
            .await
            .expect("a port");
        let mut streams = Vec::new();
        for _ in 0..16 {
            let stream = io
                .connect(listener.local_address())
                .await
                .expect("it listens");
            let server = listener.accept().await.expect("a connection");
            let frame = pool.take().expect("free");
            io.spawn(
                Priority::Foreground,
                serve(server, io.clone(), device.clone(), frame),
            );
            let mut batch = Box::new(SendBatch::default());
            (0..8).for_each(|_| batch.push_head(&REQUEST));
            streams.push((stream, Some(batch)));
        }
        let mut after_warm_up = 0;
        for round in 0..400 {
            if round == 100 {
                after_warm_up = ALLOCATIONS.get();
            }
            for (stream, batch) in &mut streams {
                let full = batch.take().expect("given back each time");
                *batch = Some(ask(stream, full).await);
            }
        }
        ALLOCATIONS.get() - after_warm_up
    })
    .expect("a core");
    assert_eq!(
        allocations, 0,
        "allocations in 300 rounds of 16 connections"
    );
}

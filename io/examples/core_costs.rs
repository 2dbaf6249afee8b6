//! What a core of this backend costs with nothing on top: server CPU per request over loopback,
//! and CPU per direct read. Run it in release mode on an idle machine, server on the first
//! allowed processor and load on the last:
//!
//! ```text
//! cargo run --release -p corelane-io --example core_costs [-- SECONDS [DEVICE_FILE...]]
//! ```

use std::cell::Cell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use corelane_io::uring::{self, Options, UringIo, UringStream};
use corelane_io::{
    Device, FrameSlice, Io, Listener, LoopCounters, PAGE_SIZE, Payload, Priority, SendBatch,
    Stream, cores,
};

const REQUEST_BYTES: usize = 64;
const HEAD_BYTES: usize = 32;

fn thread_cpu() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Work and time of the server between two looks.
#[derive(Clone, Copy)]
struct Look {
    operations: u64,
    cpu: Duration,
    at: Instant,
    counters: LoopCounters,
}

impl Look {
    fn now(io: &UringIo, operations: &Cell<u64>) -> Look {
        Look {
            operations: operations.get(),
            cpu: thread_cpu(),
            at: Instant::now(),
            counters: io.counters(),
        }
    }

    fn print(&self, name: &str, before: &Look) {
        let operations = (self.operations - before.operations).max(1) as f64;
        let cpu = (self.cpu - before.cpu).as_secs_f64();
        let wall = (self.at - before.at).as_secs_f64();
        println!(
            "{name}: {:.2} us CPU an operation, {:.0} k operations/s, {:.0} % busy, {:.3} enters an operation, {} sleeps, {} stalls",
            cpu * 1e6 / operations,
            operations / wall / 1e3,
            cpu / wall * 100.0,
            (self.counters.enters - before.counters.enters) as f64 / operations,
            self.counters.sleeps - before.counters.sleeps,
            self.counters.stalls - before.counters.stalls,
        );
    }
}

async fn serve(stream: UringStream, payload: Option<FrameSlice>, served: Rc<Cell<u64>>) {
    let mut batch = Box::new(SendBatch::with_capacity(4096, 128));
    let mut partial = 0;
    while let Ok(received) = stream.receive().await {
        if received.is_empty() {
            return;
        }
        partial += received.len();
        drop(received);
        batch.clear();
        while partial >= REQUEST_BYTES {
            partial -= REQUEST_BYTES;
            served.set(served.get() + 1);
            batch.push_head(&[0; HEAD_BYTES]);
            if let Some(payload) = &payload {
                batch.push_payload(Payload::Frame(payload.clone()));
            }
        }
        let (sent, back) = stream.send(batch).await;
        batch = back;
        if sent.is_err() {
            return;
        }
    }
}

async fn load(stream: UringStream, depth: usize, reply_bytes: usize) {
    let mut batch = Box::new(SendBatch::with_capacity(4096, 4));
    let mut free = depth;
    let mut partial = 0;
    loop {
        batch.clear();
        for _ in 0..free {
            batch.push_head(&[1; REQUEST_BYTES]);
        }
        let (sent, back) = stream.send(batch).await;
        batch = back;
        if sent.is_err() {
            return;
        }
        free = 0;
        while free == 0 {
            let Ok(received) = stream.receive().await else {
                return;
            };
            if received.is_empty() {
                return;
            }
            partial += received.len();
            free = partial / reply_bytes;
            partial %= reply_bytes;
        }
    }
}

fn options(core: usize, name: &str, spin: Duration) -> Options {
    Options {
        core: Some(core),
        name: name.into(),
        spin,
        receive_buffers: 1024,
        receive_buffer_bytes: 32 * 1024,
        ..Options::default()
    }
}

fn network(name: &str, seconds: f64, connections: usize, depth: usize, payload_bytes: usize) {
    let cpus = cores::allowed_cpus().expect("processors");
    let (server_core, client_core) = (cpus[0], cpus[cpus.len() - 1]);
    let (to_client, from_server) = mpsc::channel::<SocketAddr>();
    let case = name.to_owned();
    let server = uring::spawn_core(
        options(server_core, "server", Duration::ZERO),
        move |io| async move {
            let pool = io.allocate_pool(1, 16).expect("memory");
            let payload = (payload_bytes > 0).then(|| {
                pool.take()
                    .expect("free")
                    .lease(0..16)
                    .expect("vacant")
                    .seal()
                    .slice(0..payload_bytes)
            });
            let listener = io
                .listen("127.0.0.1:0".parse().expect("an address"))
                .await
                .expect("a port");
            to_client.send(listener.local_address()).expect("a client");
            let served = Rc::new(Cell::new(0));
            for _ in 0..connections {
                let stream = listener.accept().await.expect("a connection");
                io.spawn(
                    Priority::Foreground,
                    serve(stream, payload.clone(), Rc::clone(&served)),
                );
            }
            io.sleep(Duration::from_millis(300)).await;
            let before = Look::now(&io, &served);
            io.sleep(Duration::from_secs_f64(seconds)).await;
            Look::now(&io, &served).print(&case, &before);
        },
    )
    .expect("a thread");
    let address = from_server.recv().expect("an address");
    let client = uring::spawn_core(
        options(client_core, "client", Duration::ZERO),
        move |io| async move {
            let ended = Rc::new(Cell::new(0));
            for _ in 0..connections {
                let stream = io.connect(address).await.expect("the server listens");
                let ended = Rc::clone(&ended);
                io.spawn(Priority::Foreground, async move {
                    load(stream, depth, HEAD_BYTES + payload_bytes).await;
                    ended.set(ended.get() + 1);
                });
            }
            while ended.get() < connections {
                io.sleep(Duration::from_millis(10)).await;
            }
        },
    )
    .expect("a thread");
    server.join().expect("no panic").expect("a core");
    client.join().expect("no panic").expect("a core");
}

fn device(path: &Path, seconds: f64, depth: usize) {
    let cpus = cores::allowed_cpus().expect("processors");
    let path = path.to_owned();
    uring::spawn_core(
        options(cpus[0], "device", Duration::ZERO),
        move |io| async move {
            let pool = io.allocate_pool(depth, 1).expect("memory");
            let device = io.open_device(&path).await.expect("a device");
            let pages = device.geometry().length / PAGE_SIZE as u64;
            let read = Rc::new(Cell::new(0));
            for _ in 0..depth {
                let (io, device, read) = (io.clone(), device.clone(), Rc::clone(&read));
                let frame = pool.take().expect("free");
                io.clone().spawn(Priority::Foreground, async move {
                    let mut lease = frame.lease(0..1).expect("vacant");
                    loop {
                        let page = io.random() % pages;
                        lease = device
                            .read(page * PAGE_SIZE as u64, lease)
                            .await
                            .expect("a page");
                        read.set(read.get() + 1);
                    }
                });
            }
            io.sleep(Duration::from_millis(200)).await;
            let before = Look::now(&io, &read);
            io.sleep(Duration::from_secs_f64(seconds)).await;
            let name = format!("4 KiB reads of {}, depth {depth}", path.display());
            Look::now(&io, &read).print(&name, &before);
            for thread in cores::thread_affinities().expect("/proc") {
                if thread.name.starts_with("iou-wrk") {
                    println!("  kernel worker: {thread}");
                }
            }
        },
    )
    .expect("a thread")
    .join()
    .expect("no panic")
    .expect("a core");
}

/// The cost of waking and polling a task that does nothing.
fn wake_and_poll() {
    let turns = 2_000_000u64;
    let per_wake = uring::run(&Options::default(), move |io| async move {
        let start = Instant::now();
        let mut left = turns;
        std::future::poll_fn(move |context| {
            left -= 1;
            if left == 0 {
                return std::task::Poll::Ready(());
            }
            context.waker().wake_by_ref();
            std::task::Poll::Pending
        })
        .await;
        drop(io);
        start.elapsed().as_nanos() as f64 / turns as f64
    })
    .expect("a core");
    println!("wake and poll of a task: {per_wake:.0} ns");
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments
        .next()
        .map_or(2.0, |text| text.parse().expect("seconds"));
    wake_and_poll();
    network("64 B / 32 B, 64 connections, depth 1", seconds, 64, 1, 0);
    network(
        "64 B / 4 KiB, 64 connections, depth 1",
        seconds,
        64,
        1,
        PAGE_SIZE,
    );
    network(
        "64 B / 4 KiB, 64 connections, depth 32",
        seconds,
        64,
        32,
        PAGE_SIZE,
    );
    network(
        "64 B / 4 KiB, 4 connections, depth 32",
        seconds,
        4,
        32,
        PAGE_SIZE,
    );
    for path in arguments.map(PathBuf::from) {
        device(&path, seconds, 128);
    }
}

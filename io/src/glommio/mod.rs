//! A second backend, on the glommio executor: for comparison with [`uring`](crate::uring) only.
//!
//! [`run`] turns the calling thread into a core whose tasks, sockets, files and timers are
//! glommio 0.9's. The invariant is that of the crate: a core's handles stay on its thread, only
//! [`Io::doorbell`] leaves it. The traits ask more than glommio offers; what it lacks is copied or
//! emulated here, and nothing of that may show to those who stand on the traits.
//!
//! | module | holds |
//! |---|---|
//! | `core` | the tasks of a core, in glommio's task queues |
//! | `operation` | device operations that outlive the future that asked for them |
//! | `device` | direct I/O through `DmaFile`, by way of glommio's own buffers |
//! | `connection`, `listener` | TCP |
//! | `doorbell` | waking a core from another thread |
//!
//! What it copies or emulates, and what then costs more than on a ring of our own:
//! - **Registered frames.** glommio reads into and writes from buffers of its own, so each device
//!   operation copies its pages once. Frames are plain memory.
//! - **Vectored sends.** glommio's streams send one slice. A batch leaves by the sendmsg(2) that does
//!   not block, as glommio itself sends first and asks later; it waits for room through glommio.
//! - **Priorities** are task queues with shares of the processor, so they are kept over time and not
//!   within each turn.
//! - **`yield_now`** is a timer of a microsecond: glommio's own yield runs the next task of the same
//!   queue and looks at no completion.
//! - **Counters.** Stalls and polls are counted by wrapping each task, sleeps are the thread's
//!   voluntary context switches, operations are those of devices and connections; glommio does not
//!   tell how often it enters its three rings, so that one stays zero.
//!
//! What is known to be wrong with glommio 0.9.0, and what is done about it here:
//! - The first timer or sleep of an executor takes tens of milliseconds (it registers for
//!   membarrier(2)): [`run`] sleeps once before it starts.
//! - It goes to sleep with tasks ready to run when its preemption timer fires at the wrong moment,
//!   as it does on a busy machine: the timer keeps its default of 100 ms, since a shorter one does so
//!   more often, and a heartbeat of 50 ms ends such a sleep.
//! - Reads above the device's largest request hang in the kernel: a lease is
//!   [`FRAME_PAGES_MAX`](crate::buffer::FRAME_PAGES_MAX) pages at most, far below.
//! - Whether a drive can be polled is tried once, on what may be a hole of a file, where every drive
//!   seems to be able to; reads then fail with EOPNOTSUPP. A file whose first page is a hole is refused.
//! - A task's waker may be cloned 32,767 times at most. A core keeps one clone a task, and those
//!   that wait for something keep one a waiter; more is a panic that ends the process.
//! - Tasks alive at the end of an executor leak: all are woken and dropped before it ends.
//! - It closes no file once its executor has ended: the device does then.
//! - A block device is taken for a file of the file system that /dev is on, and opened without
//!   O_DIRECT where that is tmpfs: the flag is always given by hand.
//! - Its listeners share their port with any other that asks: the socket is opened here.
//! - Each executor leaves an eventfd behind when wakers of its tasks are held by other threads:
//!   of the core's own wakers none is. A worker makes its cores once.
//! - It spins only on a pinned thread, and refuses to start with less than 512 KiB of locked memory.

mod connection;
mod core;
mod device;
mod doorbell;
mod listener;
mod operation;

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use ::glommio::timer::Timer;
use ::glommio::{GlommioError, LocalExecutorBuilder, Placement};
use futures::channel::oneshot;

pub use self::connection::{GlommioStream, Received};
use self::core::Core;
pub use self::device::GlommioDevice;
use self::doorbell::GlommioDoorbell;
pub use self::listener::GlommioListener;
use crate::buffer::FramePool;
use crate::cores;
use crate::error::{IoError, IoErrorKind};
use crate::{Doorbell, Io, LoopCounters, Nanos, Priority};

/// How a core is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Processor that the core's thread is pinned to; `None` leaves it to the scheduler, and then
    /// glommio does not spin.
    pub core: Option<usize>,
    /// Name of the thread that [`spawn_core`] starts. The kernel keeps 15 bytes of it.
    pub name: String,
    /// How long an idle core watches its rings before it sleeps. 10 µs by default, as on our ring.
    pub spin: Duration,
    /// Submissions that fit each of the three rings. 256 by default: twice the reads that a busy
    /// shard has in flight.
    pub entries: u32,
    /// Bytes of registered memory that glommio cuts its device buffers from. 32 MiB by default:
    /// 256 whole frames and as much again for what its allocator wastes. Reads beyond use memory
    /// that is not registered.
    pub device_buffer_bytes: usize,
    /// Bytes that one receive takes at most. 16 KiB by default, as on our ring.
    pub receive_buffer_bytes: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            core: None,
            name: "corelane-core".into(),
            spin: Duration::from_micros(10),
            entries: 256,
            device_buffer_bytes: 32 << 20,
            receive_buffer_bytes: 16 * 1024,
        }
    }
}

impl Options {
    /// Bytes that a core takes beside its frames, with `entry_bytes` an entry of a ring.
    pub fn memory_bytes(&self, entry_bytes: u64) -> u64 {
        const RINGS: u64 = 3;
        self.device_buffer_bytes as u64
            + core::RECEIVE_BUFFERS_KEPT_MAX as u64 * u64::from(self.receive_buffer_bytes)
            + RINGS * u64::from(self.entries) * entry_bytes
    }
}

/// Runs a core on the calling thread until the future that `start` returns ends. Tasks that are
/// still alive then are dropped, and the kernel has let go of their memory when this returns.
///
/// # Errors
/// When the thread cannot be pinned or glommio cannot be set up; the message says what to do.
///
/// # Panics
/// If the future panics, with its panic; if the thread already runs a core. A panic in a spawned
/// task ends the process.
pub fn run<T: 'static, F>(
    options: &Options,
    start: impl FnOnce(GlommioIo) -> F,
) -> Result<T, IoError>
where
    F: Future<Output = T> + 'static,
{
    let placement = match options.core {
        Some(cpu) => {
            cores::pin_current_thread(cpu)?;
            Placement::Fixed(cpu)
        }
        None => Placement::Unbound,
    };
    let executor = LocalExecutorBuilder::new(placement)
        .spin_before_park(options.spin)
        .ring_depth(options.entries as usize)
        .io_memory(options.device_buffer_bytes)
        .make()
        .map_err(|error| start_failed(&error))?;
    let outcome = executor.run(async {
        // The first sleep of an executor takes tens of milliseconds: now is the time for it.
        Timer::new(Duration::from_micros(1)).await;
        let core = Core::open(options);
        let future = start(GlommioIo(Rc::clone(&core)));
        let (report, reported) = oneshot::channel();
        core.spawn(Priority::Foreground, async move {
            // Boxed once a core: the future of a whole shard is large.
            let mut future = Box::pin(future);
            let outcome = poll_fn(|context| {
                match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
                    Ok(Poll::Pending) => Poll::Pending,
                    Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
                    Err(panic) => Poll::Ready(Err(panic)),
                }
            })
            .await;
            // The core waits for it until it has come.
            let _ = report.send(outcome);
        });
        let outcome = reported.await.expect("the task of a core ends by itself");
        (outcome, core.end().await)
    });
    let (outcome, left) = outcome;
    if left > 0 {
        // The kernel may still write to glommio's buffers, which would go with the executor.
        tracing::warn!(
            left,
            "device operations outlive their core; its memory is given up"
        );
        std::mem::forget(executor);
    }
    outcome.or_else(|panic| resume_unwind(panic))
}

/// Starts a thread that runs a core; see [`run`].
///
/// # Errors
/// When the thread cannot be started. What [`run`] returns comes out of the handle.
pub fn spawn_core<T, F>(
    options: Options,
    start: impl FnOnce(GlommioIo) -> F + Send + 'static,
) -> Result<JoinHandle<Result<T, IoError>>, IoError>
where
    T: Send + 'static,
    F: Future<Output = T> + 'static,
{
    std::thread::Builder::new()
        .name(options.name.clone())
        .spawn(move || run(&options, start))
        .map_err(|error| {
            IoError::from_std(
                &error,
                "cannot start a thread; raise the limit of processes",
            )
        })
}

fn start_failed(error: &GlommioError<()>) -> IoError {
    IoError::new(
        IoErrorKind::Limit,
        format!(
            "glommio cannot start: {error}; raise the limit of locked memory (ulimit -l) to 64 MiB, \
             or use the backend `uring`"
        ),
    )
}

/// An error of glommio with the system's code, which it keeps in two places.
fn system_error(error: &GlommioError<()>, message: &'static str) -> IoError {
    match error {
        GlommioError::IoError(source) | GlommioError::EnhancedIoError { source, .. } => {
            IoError::from_std(source, message)
        }
        other => IoError::new(IoErrorKind::Other, format!("{message}: {other}")),
    }
}

/// A core on glommio.
#[derive(Clone)]
pub struct GlommioIo(Rc<Core>);

impl Io for GlommioIo {
    type Device = GlommioDevice;
    type Stream = GlommioStream;
    type Listener = GlommioListener;

    fn now(&self) -> Nanos {
        self.0.now()
    }

    fn wall_clock_ms(&self) -> u64 {
        // A clock before 1970 is as good as none; nothing may panic on it.
        SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(0, |since| since.as_millis() as u64)
    }

    fn random(&self) -> u64 {
        self.0.random.next()
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        core::sleep(duration)
    }

    fn spawn(&self, priority: Priority, task: impl Future<Output = ()> + 'static) {
        self.0.spawn(priority, task);
    }

    fn yield_now(&self) -> impl Future<Output = ()> + 'static {
        core::next_turn()
    }

    /// Maps the frames. glommio registers buffers of its own only.
    fn allocate_pool(&self, frames: usize, frame_pages: usize) -> Result<FramePool, IoError> {
        FramePool::map(frames, frame_pages)
    }

    async fn open_device(&self, path: &Path) -> Result<GlommioDevice, IoError> {
        GlommioDevice::open(&self.0, path).await
    }

    async fn listen(&self, address: SocketAddr) -> Result<GlommioListener, IoError> {
        GlommioListener::bind(&self.0, address)
    }

    fn adopt_listener(&self, listener: std::net::TcpListener) -> Result<GlommioListener, IoError> {
        GlommioListener::on(&self.0, crate::uring::socket::adopt(listener)?)
    }

    async fn connect(&self, address: SocketAddr) -> Result<GlommioStream, IoError> {
        GlommioStream::connect(&self.0, address).await
    }

    fn doorbell(&self) -> Arc<dyn Doorbell> {
        Arc::new(GlommioDoorbell(Arc::clone(&self.0.bell)))
    }

    fn rung(&self) -> impl Future<Output = ()> + 'static {
        let bell = Arc::clone(&self.0.bell);
        poll_fn(move |context| bell.poll_rung(context))
    }

    fn counters(&self) -> LoopCounters {
        self.0.counters()
    }
}

//! The default backend: one io_uring for each core, and everything on it.
//!
//! [`run`] turns the calling thread into a core; [`spawn_core`] starts a pinned thread that is one.
//! The invariant is that of the crate: a core's handles stay on its thread. Only
//! [`Io::doorbell`] leaves it. Nothing here may know what the bytes mean.
//!
//! | module | holds |
//! |---|---|
//! | `core` | the loop |
//! | `ring` | the ring itself: submit, enter, complete |
//! | `operation` | what the kernel is working on, and the memory that it uses |
//! | `device`, `device_open` | direct I/O, and what can do it |
//! | `connection`, `send`, `listener`, `socket` | TCP |
//! | `receive_ring`, `registered_memory`, `files` | what is registered with the ring |
//! | `timer` | the timer wheel |
//! | `doorbell` | waking a core from another thread |
//! | [`probe`] | what the kernel must offer, and what to say when it does not |

pub(crate) mod connection;
mod core;
mod device;
pub(crate) mod device_open;
mod doorbell;
mod files;
mod listener;
mod operation;
pub mod probe;
mod receive_ring;
mod registered_memory;
mod ring;
mod send;
pub(crate) mod socket;
mod timer;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use io_uring::opcode;

use self::connection::Connection;
pub use self::connection::Received;
use self::core::Core;
pub use self::device::UringDevice;
use self::doorbell::UringDoorbell;
use self::listener::Acceptor;
use self::operation::{Completion, Kind};
use self::timer::TimerKey;
use crate::buffer::FramePool;
use crate::cores;
use crate::error::IoError;
use crate::stream::SendBatch;
use crate::{Doorbell, Io, Listener, LoopCounters, Nanos, Priority, Stream};

/// How a core is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Processor that the core's thread is pinned to; `None` leaves it to the scheduler.
    pub core: Option<usize>,
    /// Name of the thread that [`spawn_core`] starts. The kernel keeps 15 bytes of it.
    pub name: String,
    /// Submissions that fit the ring before it has to be entered. 1,024 by default: far more
    /// than the 16 to 64 from which on the cost of entering is spread thin.
    pub entries: u32,
    /// How long an idle core watches its ring before it sleeps in the kernel. 10 µs by default:
    /// about what a sleep and a wake-up cost, so at most half of an idle spell is wasted.
    /// Zero sleeps at once.
    pub spin: Duration,
    /// Buffers that received bytes arrive in, a power of two up to 32,768. 512 by default. They
    /// are shared by all connections; one holds 48 at the most while its reader is behind.
    pub receive_buffers: u16,
    /// Bytes in each receive buffer. 16 KiB by default: a batch of requests, or a few replies.
    pub receive_buffer_bytes: u32,
    /// Registered files: connections, listeners and devices. 16,384 by default, or the limit of
    /// open files if that is lower. Those beyond work, a little slower.
    pub files: u32,
    /// Batches of more bytes than this are sent without copying them in the kernel. Off by
    /// default: it pays on real network cards from a few tens of KiB, and never on loopback.
    /// The sender of such a batch gets another, empty one back: the payloads stay held until the
    /// kernel says that they have left.
    pub send_zero_copy_above: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            core: None,
            name: "corelane-core".into(),
            entries: 1024,
            spin: Duration::from_micros(10),
            receive_buffers: 512,
            receive_buffer_bytes: 16 * 1024,
            files: 16 * 1024,
            send_zero_copy_above: None,
        }
    }
}

/// Runs a core on the calling thread until the future that `start` returns ends. Tasks that are
/// still alive then are dropped, and the kernel has let go of their memory when this returns.
///
/// # Errors
/// When the thread cannot be pinned or the ring cannot be set up; the message says what to do.
///
/// # Panics
/// If the future panics, with its panic; if the thread already runs a core. A panic in a spawned
/// task ends the process.
pub fn run<T: 'static, F>(options: &Options, start: impl FnOnce(UringIo) -> F) -> Result<T, IoError>
where
    F: Future<Output = T> + 'static,
{
    if let Some(cpu) = options.core {
        cores::pin_current_thread(cpu)?;
    }
    let core = Core::open(options)?;
    let outcome = Rc::new(RefCell::new(None));
    let future = start(UringIo(Rc::clone(&core)));
    let slot = Rc::clone(&outcome);
    core.executor.spawn(Priority::Foreground, async move {
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
        slot.replace(Some(outcome));
    });
    core.run(|| outcome.borrow().is_some());
    core.end();
    match outcome
        .take()
        .expect("the loop ends when there is an outcome")
    {
        Ok(value) => Ok(value),
        Err(panic) => resume_unwind(panic),
    }
}

/// Starts a thread that runs a core; see [`run`].
///
/// # Errors
/// When the thread cannot be started. What [`run`] returns comes out of the handle.
pub fn spawn_core<T, F>(
    options: Options,
    start: impl FnOnce(UringIo) -> F + Send + 'static,
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

/// A core on its io_uring.
#[derive(Clone)]
pub struct UringIo(Rc<Core>);

impl Io for UringIo {
    type Device = UringDevice;
    type Stream = UringStream;
    type Listener = UringListener;

    /// The clock at the start of this turn of the loop.
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
        self.0.random()
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        Sleep {
            core: Rc::clone(&self.0),
            state: SleepState::New(duration),
        }
    }

    fn spawn(&self, priority: Priority, task: impl Future<Output = ()> + 'static) {
        self.0.executor.spawn(priority, task);
    }

    fn yield_now(&self) -> impl Future<Output = ()> + 'static {
        let core = Rc::clone(&self.0);
        let mut yielded = false;
        poll_fn(move |context| {
            if yielded {
                return Poll::Ready(());
            }
            yielded = true;
            core.wake_next_turn(context.waker().clone());
            Poll::Pending
        })
    }

    fn allocate_pool(&self, frames: usize, frame_pages: usize) -> Result<FramePool, IoError> {
        self.0.memory.allocate(&self.0.ring, frames, frame_pages)
    }

    async fn open_device(&self, path: &Path) -> Result<UringDevice, IoError> {
        UringDevice::open(&self.0, path)
    }

    async fn listen(&self, address: SocketAddr) -> Result<UringListener, IoError> {
        Acceptor::bind(&self.0, address).map(UringListener)
    }

    fn adopt_listener(&self, listener: std::net::TcpListener) -> Result<UringListener, IoError> {
        Acceptor::on(&self.0, socket::adopt(listener)?).map(UringListener)
    }

    async fn connect(&self, address: SocketAddr) -> Result<UringStream, IoError> {
        let socket = socket::open(address)?;
        let (encoded, length) = socket::encode(address);
        let file = io_uring::types::Fd(std::os::fd::AsRawFd::as_raw_fd(&socket));
        let entry = opcode::Connect::new(file, (&raw const *encoded).cast(), length).build();
        let kind = Kind::Connect {
            socket,
            _address: encoded,
        };
        // SAFETY: the operation owns the boxed address.
        match unsafe { Completion::of(&self.0, kind, entry) }.await {
            (0.., Kind::Connect { socket, .. }) => {
                Ok(UringStream::new(Connection::new(&self.0, socket, address)))
            }
            (result, _) => {
                let advice = "cannot connect; check that the peer runs and its address is right";
                Err(IoError::from_errno(-result, advice).with("peer", address))
            }
        }
    }

    fn doorbell(&self) -> Arc<dyn Doorbell> {
        Arc::new(UringDoorbell(Arc::clone(&self.0.bell)))
    }

    fn rung(&self) -> impl Future<Output = ()> + 'static {
        let core = Rc::clone(&self.0);
        poll_fn(move |context| core.poll_rung(context))
    }

    fn counters(&self) -> LoopCounters {
        self.0.counters()
    }
}

struct Sleep {
    core: Rc<Core>,
    state: SleepState,
}

enum SleepState {
    New(Duration),
    Waiting(TimerKey),
    Done,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let core = Rc::clone(&self.core);
        match self.state {
            SleepState::New(duration) => {
                // From the real time, not the turn's: a sleep is never short.
                let deadline = core.time_now().plus(duration);
                let key = core
                    .timers
                    .borrow_mut()
                    .insert(deadline.0, context.waker().clone());
                self.state = SleepState::Waiting(key);
                Poll::Pending
            }
            SleepState::Waiting(key) => {
                let mut timers = core.timers.borrow_mut();
                if !timers.poll(key, context.waker()) {
                    return Poll::Pending;
                }
                timers.remove(key);
                self.state = SleepState::Done;
                Poll::Ready(())
            }
            SleepState::Done => panic!("polled after it was ready"),
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let SleepState::Waiting(key) = self.state {
            self.core.timers.borrow_mut().remove(key);
        }
    }
}

/// A listening socket of a [`UringIo`].
pub struct UringListener(Rc<Acceptor>);

impl Listener for UringListener {
    type Stream = UringStream;

    fn local_address(&self) -> SocketAddr {
        self.0.local_address
    }

    async fn accept(&self) -> Result<UringStream, IoError> {
        poll_fn(|context| self.0.poll_accept(context))
            .await
            .map(UringStream::new)
    }
}

impl Drop for UringListener {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// A connection of a [`UringIo`]. It is closed when the last clone is dropped.
#[derive(Clone)]
pub struct UringStream(Rc<Handle>);

/// Apart from the connection, because operations in flight hold that too.
struct Handle(Rc<Connection>);

impl UringStream {
    fn new(connection: Rc<Connection>) -> Self {
        UringStream(Rc::new(Handle(connection)))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Stream for UringStream {
    type Received = Received;

    fn peer(&self) -> SocketAddr {
        self.0.0.peer
    }

    async fn receive(&self) -> Result<Received, IoError> {
        poll_fn(|context| self.0.0.poll_receive(context)).await
    }

    /// Dropping the future before it is ready closes the connection: how much has left is unknown.
    fn send(
        &self,
        batch: Box<SendBatch>,
    ) -> impl Future<Output = (Result<(), IoError>, Box<SendBatch>)> {
        send::Send::new(&self.0.0, batch)
    }

    fn close(&self) {
        self.0.0.close();
    }
}

//! The [`Io`] of one simulated core.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::task::Poll;
use std::time::Duration;

use super::device::SimDevice;
use super::net::{SimListener, SimStream};
use super::state::{Core, State, nanoseconds};
use crate::{Doorbell, FramePool, Io, IoError, LoopCounters, Nanos, Priority};

/// Wall-clock milliseconds at the start of every world: 2026-01-01 00:00 UTC.
const WALL_CLOCK_START_MS: u64 = 1_767_225_600_000;

/// A timer is late by up to this once in eight, as real ones are.
const TIMER_LATE_NS_MAX: u64 = 20_000;

/// A handle to one core of a [`World`](super::World).
///
/// When its core is killed, tasks that are spawned by it are dropped at once, and operations that
/// are started by it never end: the process that would see the end is gone.
#[derive(Clone)]
pub struct SimIo {
    pub(super) state: Rc<State>,
    pub(super) core: Rc<Core>,
}

impl SimIo {
    /// The number of the core in its world. Numbers are never given twice.
    pub fn core_id(&self) -> u64 {
        self.core.id
    }

    /// Whether the core still runs.
    pub fn is_alive(&self) -> bool {
        self.core.is_alive.get()
    }

    /// Goes on only in a core that lives.
    pub(super) async fn require_alive(&self) {
        if !self.is_alive() {
            std::future::pending::<()>().await;
        }
    }

    pub(super) async fn sleep_ns(self, duration_ns: u64) {
        self.require_alive().await;
        let timer = self.state.sleep(Some(self.core.id), duration_ns);
        timer.await.expect("a timer does not fail");
    }
}

impl Io for SimIo {
    type Device = SimDevice;
    type Stream = SimStream;
    type Listener = SimListener;

    fn now(&self) -> Nanos {
        Nanos(self.state.now.get())
    }

    fn wall_clock_ms(&self) -> u64 {
        (WALL_CLOCK_START_MS + self.state.now.get() / 1_000_000)
            .saturating_add_signed(self.state.wall_clock_step_ms.get())
    }

    fn random(&self) -> u64 {
        self.core.random.next()
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        let is_late = self.state.timing.below(8) == 0;
        let late_ns = if is_late {
            self.state.timing.below(TIMER_LATE_NS_MAX)
        } else {
            0
        };
        // The time counts from the call, not from the first poll.
        let until = self
            .state
            .now
            .get()
            .saturating_add(nanoseconds(duration))
            .saturating_add(late_ns);
        let io = self.clone();
        async move {
            let left_ns = until.saturating_sub(io.state.now.get());
            io.sleep_ns(left_ns).await;
        }
    }

    fn spawn(&self, priority: Priority, task: impl Future<Output = ()> + 'static) {
        if self.is_alive() && !self.state.is_ending.get() {
            self.state
                .tasks
                .borrow_mut()
                .insert(self.core.id, priority, Box::pin(task));
        }
    }

    fn yield_now(&self) -> impl Future<Output = ()> + 'static {
        let state = Rc::clone(&self.state);
        let has_yielded = Cell::new(false);
        poll_fn(move |context| {
            if has_yielded.replace(true) {
                return Poll::Ready(());
            }
            state
                .tasks
                .borrow_mut()
                .wake_next_round(context.waker().clone());
            Poll::Pending
        })
    }

    fn allocate_pool(&self, frames: usize, frame_pages: usize) -> Result<FramePool, IoError> {
        FramePool::map(frames, frame_pages)
    }

    async fn open_device(&self, path: &Path) -> Result<SimDevice, IoError> {
        self.require_alive().await;
        let open_ns = self.state.between((1_000, 50_000));
        self.clone().sleep_ns(open_ns).await;
        SimDevice::open(self, path)
    }

    async fn listen(&self, address: SocketAddr) -> Result<SimListener, IoError> {
        self.require_alive().await;
        SimListener::bind(self, address)
    }

    /// Listens on the simulated address that reads like the socket's. The socket is closed: nobody reaches
    /// a simulated core through the kernel.
    fn adopt_listener(&self, listener: std::net::TcpListener) -> Result<SimListener, IoError> {
        let address = listener
            .local_addr()
            .map_err(|error| IoError::from_std(&error, "the socket has no address"))?;
        SimListener::bind(self, address)
    }

    async fn connect(&self, address: SocketAddr) -> Result<SimStream, IoError> {
        self.require_alive().await;
        SimStream::connect(self, address).await
    }

    fn doorbell(&self) -> Arc<dyn Doorbell> {
        let doorbell: Arc<dyn Doorbell> = self.core.doorbell.clone();
        doorbell
    }

    fn rung(&self) -> impl Future<Output = ()> + 'static {
        let doorbell = Arc::clone(&self.core.doorbell);
        poll_fn(move |context| {
            let mut waiter = doorbell
                .waiter
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            // Under the lock, so that a ring between the look and the wait is not missed.
            if doorbell.is_rung.swap(false, Ordering::AcqRel) {
                return Poll::Ready(());
            }
            *waiter = Some(context.waker().clone());
            Poll::Pending
        })
    }

    fn counters(&self) -> LoopCounters {
        self.core.counters.get()
    }
}

//! The tasks of one core: glommio's, with a wrapper around each.
//!
//! The wrapper times the polls, ends the process on a panic and keeps a waker, so that the end of
//! a core can reach every task: glommio itself would leak those that wait. Its invariant: a task
//! is counted from its spawn to the drop of its future, and a core has ended only when none is.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ::glommio::timer::Timer;
use ::glommio::{Latency, Shares, TaskQueueHandle};
use slab::Slab;

use super::Options;
use super::doorbell::Bell;
use crate::executor::{AbortOnUnwind, ticks};
use crate::sim::Prng;
use crate::{LoopCounters, Nanos, Priority, STALL_NS_MAX};

/// Shares of the three priorities where all have work: answers get four fifths, and the
/// background still moves.
const SHARES: [(&str, usize); Priority::COUNT] =
    [("foreground", 1000), ("flush", 200), ("background", 50)];

/// Receive buffers that a core keeps for reuse. More are in use only while that many connections
/// have unread bytes at once.
pub(super) const RECEIVE_BUFFERS_KEPT_MAX: usize = 512;

/// How often an otherwise idle core wakes. glommio goes to sleep with tasks ready to run when its
/// preemption timer fires between its look at the rings and its first task; this ends such a sleep.
/// Twenty wake-ups a second cost an idle core a thousandth of its time.
const HEARTBEAT: Duration = Duration::from_millis(50);

/// How long the end of a core waits for device operations in flight, as on our own ring.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Everything of a core. Shared by handles of one thread.
pub(super) struct Core {
    pub bell: Arc<Bell>,
    pub random: Prng,
    queues: [TaskQueueHandle; Priority::COUNT],
    /// One waker for each task that was polled and has not ended.
    alive: RefCell<Slab<Waker>>,
    tasks: Cell<usize>,
    /// Device operations that the kernel may be working on.
    in_flight: Cell<usize>,
    /// Those among them whose futures were dropped, which run to their end by themselves.
    abandoned: Cell<usize>,
    turns: Cell<u64>,
    submissions: Cell<u64>,
    completions: Cell<u64>,
    stalls: Cell<u64>,
    ticks_longest: Cell<u64>,
    stall_ticks: u64,
    switches_before: u64,
    started: Instant,
    receive_buffer_bytes: usize,
    receive_buffers: RefCell<Vec<Box<[u8]>>>,
    ending: Cell<bool>,
    ended: Cell<bool>,
}

impl Core {
    /// The core of the glommio executor that the caller runs on.
    pub fn open(options: &Options) -> Rc<Core> {
        // No queue is said to be latency-critical: all that would do is a write to the eventfd at
        // each wake from another thread, awake or not.
        let queues = SHARES.map(|(name, shares)| {
            ::glommio::executor().create_task_queue(
                Shares::Static(shares),
                Latency::NotImportant,
                name,
            )
        });
        let core = Rc::new(Core {
            bell: Arc::default(),
            random: Prng::new(random_seed()),
            queues,
            alive: RefCell::default(),
            tasks: Cell::new(0),
            in_flight: Cell::new(0),
            abandoned: Cell::new(0),
            turns: Cell::new(0),
            submissions: Cell::new(0),
            completions: Cell::new(0),
            stalls: Cell::new(0),
            ticks_longest: Cell::new(0),
            stall_ticks: ticks::from_ns(STALL_NS_MAX),
            switches_before: voluntary_switches(),
            started: Instant::now(),
            receive_buffer_bytes: options.receive_buffer_bytes as usize,
            receive_buffers: RefCell::default(),
            ending: Cell::new(false),
            ended: Cell::new(false),
        });
        core.spawn(Priority::Background, async {
            loop {
                Timer::new(HEARTBEAT).await;
            }
        });
        core
    }

    pub fn now(&self) -> Nanos {
        Nanos(self.started.elapsed().as_nanos() as u64)
    }

    /// Runs `future` in the queue of `priority` until it ends. A panic in it ends the process.
    pub fn spawn<F: Future<Output = ()> + 'static>(self: &Rc<Self>, priority: Priority, future: F) {
        assert!(!self.ended.get(), "the core of this handle has ended");
        self.tasks.set(self.tasks.get() + 1);
        let task = Task {
            future,
            presence: Presence {
                core: Rc::clone(self),
                key: None,
            },
        };
        self.spawn_bare(priority, task);
    }

    /// Runs a device operation that nobody waits for to its end.
    pub fn abandon(self: &Rc<Self>, operation: impl Future<Output = ()> + 'static) {
        self.abandoned.set(self.abandoned.get() + 1);
        let core = Rc::clone(self);
        self.spawn_bare(Priority::Flush, async move {
            operation.await;
            core.abandoned.set(core.abandoned.get() - 1);
        });
    }

    fn spawn_bare(&self, priority: Priority, future: impl Future<Output = ()> + 'static) {
        ::glommio::spawn_local_into(future, self.queues[priority as usize])
            .expect("the queues of a core live as long as its executor")
            .detach();
    }

    fn account(&self, task: &'static str, spent: u64) {
        self.ticks_longest.set(self.ticks_longest.get().max(spent));
        if spent <= self.stall_ticks {
            return;
        }
        self.stalls.set(self.stalls.get() + 1);
        // One line for each power of two: a task that always stalls must not also flood the log.
        if self.stalls.get().is_power_of_two() {
            let (ns, stalls) = (ticks::to_ns(spent), self.stalls.get());
            tracing::warn!(task, ns, stalls, "a task held its core too long");
        }
    }

    /// Marks an operation as begun until the value is dropped.
    pub fn begin(self: &Rc<Self>) -> InFlight {
        self.count_submission();
        self.in_flight.set(self.in_flight.get() + 1);
        InFlight(Rc::clone(self))
    }

    /// Counts an operation of a socket, which leaves nothing behind with the kernel.
    pub fn count_submission(&self) {
        self.submissions.set(self.submissions.get() + 1);
    }

    /// Counts the end of an operation.
    pub fn count_completion(&self) {
        self.completions.set(self.completions.get() + 1);
    }

    /// Whether the core has ended, so that glommio must not be called any more.
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// A buffer to receive into.
    pub fn take_receive_buffer(&self) -> Box<[u8]> {
        let kept = self.receive_buffers.borrow_mut().pop();
        kept.unwrap_or_else(|| vec![0; self.receive_buffer_bytes].into_boxed_slice())
    }

    /// Gives a buffer back.
    pub fn put_back_receive_buffer(&self, buffer: Box<[u8]>) {
        let mut buffers = self.receive_buffers.borrow_mut();
        if buffers.len() < RECEIVE_BUFFERS_KEPT_MAX && !self.ended.get() {
            buffers.push(buffer);
        }
    }

    pub fn counters(&self) -> LoopCounters {
        // What glommio counted since it was last asked.
        let more = ::glommio::executor().executor_stats().scheduler_runs();
        self.turns.set(self.turns.get() + more);
        LoopCounters {
            turns: self.turns.get(),
            enters: 0,
            sleeps: voluntary_switches().saturating_sub(self.switches_before),
            completions: self.completions.get(),
            stalls: self.stalls.get(),
            poll_ns_longest: ticks::to_ns(self.ticks_longest.get()),
            submissions: self.submissions.get(),
        }
    }

    /// Drops all tasks and waits for the kernel to be done with the device operations that they
    /// left. Returns how many others are in flight: their futures are with somebody who polls them
    /// no more, or the device does not answer.
    pub async fn end(&self) -> usize {
        self.ending.set(true);
        let deadline = Instant::now() + DRAIN_MAX;
        while self.tasks.get() > 0 || self.abandoned.get() > 0 {
            let wakers: Vec<Waker> = self
                .alive
                .borrow()
                .iter()
                .map(|(_, waker)| waker.clone())
                .collect();
            wakers.into_iter().for_each(Waker::wake);
            if Instant::now() > deadline {
                let (tasks, left) = (self.tasks.get(), self.abandoned.get());
                tracing::error!(
                    tasks,
                    left,
                    "operations did not end; their memory is given up"
                );
                break;
            }
            next_turn().await;
        }
        self.bell.forget_waiter();
        self.receive_buffers.borrow_mut().clear();
        self.ended.set(true);
        self.in_flight.get()
    }
}

/// Counts one device operation of a core until it is dropped.
pub(super) struct InFlight(Rc<Core>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        self.0.count_completion();
    }
}

/// A future that counts as alive until it is dropped.
struct Task<F> {
    future: F,
    presence: Presence,
}

struct Presence {
    core: Rc<Core>,
    /// Where its waker is kept, from the first poll on.
    key: Option<usize>,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.core.tasks.set(self.core.tasks.get() - 1);
        let waker = self.key.map(|key| self.core.alive.borrow_mut().remove(key));
        // Dropped after the borrow ended: glommio may run code of its own then.
        drop(waker);
    }
}

impl<F: Future<Output = ()>> Future for Task<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // SAFETY: `future` is structurally pinned: it is never moved out of `self`, and `Task`
        // neither implements `Drop` nor `Unpin` by hand. `presence` is never pinned.
        let this = unsafe { self.get_unchecked_mut() };
        let core = &this.presence.core;
        if core.ending.get() {
            return Poll::Ready(());
        }
        if this.presence.key.is_none() {
            let key = core.alive.borrow_mut().insert(context.waker().clone());
            this.presence.key = Some(key);
        }
        let name = std::any::type_name::<F>();
        let guard = AbortOnUnwind { name };
        let before = ticks::now();
        // SAFETY: as above.
        let outcome = unsafe { Pin::new_unchecked(&mut this.future) }.poll(context);
        this.presence
            .core
            .account(name, ticks::now().wrapping_sub(before));
        std::mem::forget(guard);
        outcome
    }
}

/// Resolves after `duration`, counted from the first poll.
pub(super) async fn sleep(duration: Duration) {
    if duration.is_zero() {
        // A timer that is due at once does not even let others run.
        next_turn().await;
    } else {
        Timer::new(duration).await;
    }
}

/// What a yield sleeps at first: glommio takes a timer that is due when it is first polled for
/// fired, and one that is not makes the task wait for the next look at the rings.
const YIELD_FIRST: Duration = Duration::from_micros(1);

/// Resolves after glommio has been through its rings and its other tasks.
pub(super) async fn next_turn() {
    let mut wait = YIELD_FIRST;
    let mut timer = Timer::new(wait);
    let mut has_waited = false;
    poll_fn(|context| {
        while Pin::new(&mut timer).poll(context).is_ready() {
            if has_waited {
                return Poll::Ready(());
            }
            wait *= 2;
            timer = Timer::new(wait);
        }
        has_waited = true;
        Poll::Pending
    })
    .await;
}

/// Times that the current thread gave up its processor to wait.
fn voluntary_switches() -> u64 {
    // SAFETY: an all-zero rusage is a valid value of it.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the call writes one rusage.
    let outcome = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    if outcome < 0 {
        return 0;
    }
    usage.ru_nvcsw as u64
}

fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library seeds its hasher from the system's random bits.
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

//! The executor of one core: tasks that never leave their thread, in three priorities.
//!
//! One invariant carries the rest: a task's future is polled and dropped by the thread that owns
//! the executor, and by no other. Wakers may go anywhere; a wake from another thread puts the task
//! into a locked queue and rings the core, a wake from the core itself is a push and nothing else.
//!
//! A turn runs every foreground task that is ready, then a few flushing ones, then at least one
//! of the background: what answers clients comes first, and nothing starves. The executor must
//! not do I/O, sleep or read a system clock; the backend's loop does that between turns.

pub(crate) mod ticks;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use async_task::{Builder, Runnable};
use slab::Slab;

use crate::{Doorbell, Priority, STALL_NS_MAX};

/// Foreground polls a turn. Tasks that wake each other without end must not keep completions
/// and timers waiting: at 0.2 to 1 µs a poll this is a few hundred microseconds.
pub const FOREGROUND_POLLS_MAX: usize = 512;

/// Flush polls a turn: enough to keep a device's queue full, few enough to be hidden behind one
/// batch of answers.
pub const FLUSH_POLLS_MAX: usize = 16;

/// Background polls a turn. One is what keeps reclaim moving under full load; two halve the
/// loop's overhead when nothing else is to do.
pub const BACKGROUND_POLLS_MAX: usize = 2;

#[derive(Clone, Copy)]
struct TaskInfo {
    priority: Priority,
    /// Type of the future: what the stall log names.
    name: &'static str,
}

type ReadyTask = Runnable<TaskInfo>;

/// Queues that only the owning thread touches.
#[derive(Default)]
struct Local {
    ready: [RefCell<VecDeque<ReadyTask>>; Priority::COUNT],
    /// One waker for each task that has not ended, so that all can be dropped at the end.
    alive: RefCell<Slab<Waker>>,
}

struct Shared {
    local: Local,
    /// Tasks woken by other threads.
    foreign: Mutex<Vec<ReadyTask>>,
    foreign_waiting: AtomicBool,
    doorbell: Arc<dyn Doorbell>,
}

// SAFETY: `local` is touched only by the thread that owns the executor: `schedule` compares
// `CURRENT`, which only the owner sets to this value's address, and `Executor` is not `Send`.
// A thread that drops the last reference finds `local` empty, because `Executor::drop` empties it.
unsafe impl Send for Shared {}
// SAFETY: as above; every other field is `Sync`.
unsafe impl Sync for Shared {}

thread_local! {
    static CURRENT: Cell<*const Shared> = const { Cell::new(std::ptr::null()) };
}

impl Shared {
    fn schedule(&self, task: ReadyTask) {
        if std::ptr::eq(CURRENT.get(), self) {
            let priority = task.metadata().priority;
            self.local.ready[priority as usize]
                .borrow_mut()
                .push_back(task);
        } else {
            self.foreign
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(task);
            // Release: whoever sees the flag finds the task in the queue.
            self.foreign_waiting.store(true, Ordering::Release);
            self.doorbell.ring();
        }
    }
}

/// Runs the tasks of one core. Belongs to the thread that made it.
pub struct Executor {
    shared: Arc<Shared>,
    stalls: Cell<u64>,
    ticks_longest: Cell<u64>,
    stall_ticks: u64,
    /// Tasks were spawned here, so the executor stays here.
    not_send: PhantomData<Rc<()>>,
}

impl Executor {
    /// An executor whose core is woken by `doorbell` when another thread wakes one of its tasks.
    pub fn new(doorbell: Arc<dyn Doorbell>) -> Self {
        Executor {
            shared: Arc::new(Shared {
                local: Local::default(),
                foreign: Mutex::default(),
                foreign_waiting: AtomicBool::new(false),
                doorbell,
            }),
            stalls: Cell::new(0),
            ticks_longest: Cell::new(0),
            stall_ticks: ticks::from_ns(STALL_NS_MAX),
            not_send: PhantomData,
        }
    }

    /// Makes this the executor of the current thread, so that its wakes take the short way.
    ///
    /// # Panics
    /// If the thread already runs an executor.
    pub fn enter(&self) -> Entered<'_> {
        assert!(
            CURRENT.get().is_null(),
            "a thread runs one executor at a time"
        );
        CURRENT.set(Arc::as_ptr(&self.shared));
        Entered {
            executor: PhantomData,
        }
    }

    /// Runs `future` in turns of `priority` until it ends. A panic in it ends the process.
    pub fn spawn<F: Future<Output = ()> + 'static>(&self, priority: Priority, future: F) {
        let info = TaskInfo {
            priority,
            name: std::any::type_name::<F>(),
        };
        let key = self.shared.local.alive.borrow().vacant_key();
        let task = Task {
            future,
            _presence: Presence {
                shared: NonNull::from(&*self.shared),
                key,
            },
        };
        let shared = Arc::clone(&self.shared);
        let schedule = move |runnable: ReadyTask| shared.schedule(runnable);
        // SAFETY: the schedule function is `Send + Sync + 'static` (it holds an `Arc<Shared>`).
        // The future is `'static` and not `Send`: it is polled and dropped only by running or
        // dropping a `Runnable`, which happens only in `run` and `end_all`, on this thread.
        let (runnable, handle) = unsafe {
            Builder::new()
                .metadata(info)
                .spawn_unchecked(move |_| task, schedule)
        };
        let inserted = self
            .shared
            .local
            .alive
            .borrow_mut()
            .insert(runnable.waker());
        assert_eq!(inserted, key, "nothing was spawned in between");
        handle.detach();
        runnable.schedule();
    }

    /// Runs what is ready, each priority within its bound. Returns the number of polls.
    pub fn turn(&self) -> usize {
        self.collect_foreign();
        self.run(Priority::Foreground, FOREGROUND_POLLS_MAX)
            + self.run(Priority::Flush, FLUSH_POLLS_MAX)
            + self.run(Priority::Background, BACKGROUND_POLLS_MAX)
    }

    /// Whether no task is ready to run.
    pub fn is_idle(&self) -> bool {
        self.shared
            .local
            .ready
            .iter()
            .all(|queue| queue.borrow().is_empty())
            && !self.shared.foreign_waiting.load(Ordering::Relaxed)
    }

    /// Number of tasks that have not ended.
    pub fn tasks(&self) -> usize {
        self.shared.local.alive.borrow().len()
    }

    /// Polls that took longer than [`STALL_NS_MAX`].
    pub fn stalls(&self) -> u64 {
        self.stalls.get()
    }

    /// The longest poll in nanoseconds.
    pub fn poll_ns_longest(&self) -> u64 {
        ticks::to_ns(self.ticks_longest.get())
    }

    fn collect_foreign(&self) {
        if !self.shared.foreign_waiting.load(Ordering::Relaxed) {
            return;
        }
        // Cleared before the queue is read: a task that comes later sets it again.
        self.shared.foreign_waiting.swap(false, Ordering::AcqRel);
        let mut foreign = self
            .shared
            .foreign
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for task in foreign.drain(..) {
            let priority = task.metadata().priority;
            self.shared.local.ready[priority as usize]
                .borrow_mut()
                .push_back(task);
        }
    }

    fn next_ready(&self, priority: Priority) -> Option<ReadyTask> {
        self.shared.local.ready[priority as usize]
            .borrow_mut()
            .pop_front()
    }

    fn run(&self, priority: Priority, polls_max: usize) -> usize {
        let Some(mut next) = self.next_ready(priority) else {
            return 0;
        };
        let mut polls = 0;
        // The end of one poll is the start of the next, so a poll costs one read of the counter.
        let mut before = ticks::now();
        loop {
            let name = next.metadata().name;
            let guard = AbortOnUnwind { name };
            next.run();
            std::mem::forget(guard);
            polls += 1;
            let after = ticks::now();
            self.account(name, after.wrapping_sub(before));
            before = after;
            if polls == polls_max {
                return polls;
            }
            match self.next_ready(priority) {
                Some(task) => next = task,
                None => return polls,
            }
        }
    }

    #[inline]
    fn account(&self, name: &'static str, spent: u64) {
        if spent > self.ticks_longest.get() {
            self.ticks_longest.set(spent);
        }
        if spent > self.stall_ticks {
            self.stalled(name, spent);
        }
    }

    #[cold]
    fn stalled(&self, task: &'static str, spent: u64) {
        self.stalls.set(self.stalls.get() + 1);
        // One line for each power of two: a task that always stalls must not also flood the log.
        if self.stalls.get().is_power_of_two() {
            let stalls = self.stalls.get();
            tracing::warn!(
                task,
                ns = ticks::to_ns(spent),
                stalls,
                "a task held its core too long"
            );
        }
    }

    /// Drops every task that has not ended.
    pub(crate) fn end_all(&self) {
        loop {
            let wakers: Vec<Waker> = self
                .shared
                .local
                .alive
                .borrow()
                .iter()
                .map(|(_, waker)| waker.clone())
                .collect();
            if wakers.is_empty() {
                return;
            }
            wakers.into_iter().for_each(Waker::wake);
            self.collect_foreign();
            for priority in [Priority::Foreground, Priority::Flush, Priority::Background] {
                while let Some(task) = self.next_ready(priority) {
                    drop(task);
                }
            }
            // A task that is still counted is on its way into the foreign queue right now.
            if self.tasks() > 0 {
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.end_all();
    }
}

/// Marks the current thread as the one that runs an [`Executor`], until dropped.
pub struct Entered<'executor> {
    executor: PhantomData<(&'executor Executor, Rc<()>)>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        CURRENT.set(std::ptr::null());
    }
}

/// A future that counts as alive until it is dropped.
struct Task<F> {
    future: F,
    _presence: Presence,
}

/// Points at what the task's schedule function holds: a second count of it would cost two atomic
/// operations a task.
struct Presence {
    shared: NonNull<Shared>,
    key: usize,
}

impl Drop for Presence {
    fn drop(&mut self) {
        // SAFETY: the future, and this with it, is dropped before the schedule function that stands in
        // the same allocation and holds an `Arc<Shared>`. Before it is in that allocation it is dropped
        // by nobody but `spawn`, which borrows the executor.
        let shared = unsafe { self.shared.as_ref() };
        let waker = shared.local.alive.borrow_mut().try_remove(self.key);
        // Dropped after the borrow ended: it may be the last reference to the task.
        drop(waker);
    }
}

impl<F: Future<Output = ()>> Future for Task<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // SAFETY: `future` is structurally pinned: it is never moved out of `self`, and `Task`
        // neither implements `Drop` nor `Unpin` by hand.
        unsafe { self.map_unchecked_mut(|task| &mut task.future) }.poll(context)
    }
}

/// Ends the process when a task panics: its shard's state is half changed, and a core that goes
/// on without the task would hang its clients instead of restarting.
pub(crate) struct AbortOnUnwind {
    /// Type of the future, for the message.
    pub name: &'static str,
}

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        eprintln!("corelane: task {} panicked, ending the process", self.name);
        std::process::abort();
    }
}

#[cfg(test)]
mod tests;

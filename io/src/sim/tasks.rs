//! Runnable tasks of all cores, and the seeded choice among them.
//!
//! Tasks run in rounds. Within a round the order is drawn, with a preference for the higher
//! priority that is broken often enough to shake out code that relies on it. A woken task joins the
//! round that runs or the next one, by a coin; a task that yielded always waits for the next, so
//! that every other runnable task runs before it goes on.
//!
//! A waker never owns a task: dropping the tasks of a core frees what they hold at once.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use slab::Slab;

use super::random::Prng;
use crate::Priority;

/// The key of the future that the caller of [`World::block_on`](super::World::block_on) passed.
pub(super) const ROOT: TaskName = TaskName {
    key: usize::MAX,
    id: 0,
};

/// One in this many choices ignores the priorities.
const PRIORITY_IGNORED_ONE_IN: u64 = 8;

/// After this many turns no task joins the round that runs, so that tasks that keep waking each
/// other cannot hold up those of the next round.
const ROUND_TURNS_MAX: u32 = 256;

/// A place among the tasks, and the number of the task that was given it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TaskName {
    pub(super) key: usize,
    pub(super) id: u64,
}

pub(super) type TaskFuture = Pin<Box<dyn Future<Output = ()>>>;

struct Task {
    id: u64,
    core: u64,
    priority: Priority,
    /// `None` while it is polled.
    future: Option<TaskFuture>,
    waker: Arc<TaskWaker>,
}

/// Names of tasks that were woken. Shared with wakers, which must be `Send` by their type.
#[derive(Default)]
struct Inbox {
    woken: Mutex<Vec<TaskName>>,
    is_empty_hint: AtomicBool,
}

pub(super) struct TaskWaker {
    name: TaskName,
    queued: AtomicBool,
    inbox: Arc<Inbox>,
}

impl TaskWaker {
    /// Called before a poll: a wake from here on queues the task again.
    pub(super) fn start_poll(&self) {
        self.queued.store(false, Ordering::Relaxed);
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.inbox
                .woken
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(self.name);
            self.inbox.is_empty_hint.store(false, Ordering::Release);
        }
    }
}

/// A task that is about to be polled.
pub(super) struct Running {
    pub(super) name: TaskName,
    pub(super) core: u64,
    pub(super) future: TaskFuture,
    pub(super) waker: Arc<TaskWaker>,
}

/// What the scheduler found.
pub(super) enum Choice {
    Root,
    Task(Running),
    /// Nothing can run now.
    Idle,
}

#[derive(Default)]
struct Round([Vec<TaskName>; Priority::COUNT]);

impl Round {
    fn is_empty(&self) -> bool {
        self.0.iter().all(Vec::is_empty)
    }

    fn draw(&mut self, prng: &Prng) -> Option<TaskName> {
        let highest = self.0.iter().position(|level| !level.is_empty())?;
        let level = if prng.below(PRIORITY_IGNORED_ONE_IN) == 0 {
            let lower = highest + prng.below((Priority::COUNT - highest) as u64) as usize;
            if self.0[lower].is_empty() {
                highest
            } else {
                lower
            }
        } else {
            highest
        };
        let names = &mut self.0[level];
        let index = if names.len() == 1 {
            0
        } else {
            prng.below(names.len() as u64) as usize
        };
        Some(names.swap_remove(index))
    }
}

pub(super) struct Tasks {
    slots: Slab<Task>,
    next_id: u64,
    inbox: Arc<Inbox>,
    current: Round,
    /// Turns that the current round took so far.
    round_turns: u32,
    next: Round,
    yielded: Vec<Waker>,
    drained: Vec<TaskName>,
}

impl Tasks {
    pub(super) fn new() -> Self {
        Tasks {
            slots: Slab::new(),
            next_id: 1,
            inbox: Arc::default(),
            current: Round::default(),
            round_turns: 0,
            next: Round::default(),
            yielded: Vec::new(),
            drained: Vec::new(),
        }
    }

    pub(super) fn root_waker(&self) -> Arc<TaskWaker> {
        self.waker(ROOT)
    }

    fn waker(&self, name: TaskName) -> Arc<TaskWaker> {
        Arc::new(TaskWaker {
            name,
            queued: AtomicBool::new(false),
            inbox: Arc::clone(&self.inbox),
        })
    }

    pub(super) fn insert(&mut self, core: u64, priority: Priority, future: TaskFuture) {
        let id = self.next_id;
        self.next_id += 1;
        let name = TaskName {
            key: self.slots.vacant_key(),
            id,
        };
        let waker = self.waker(name);
        self.slots.insert(Task {
            id,
            core,
            priority,
            future: Some(future),
            waker: Arc::clone(&waker),
        });
        waker.wake();
    }

    /// Wakes `waker` when the round that runs is over.
    pub(super) fn wake_next_round(&mut self, waker: Waker) {
        self.yielded.push(waker);
    }

    /// Takes out the task that runs next.
    pub(super) fn choose(&mut self, prng: &Prng) -> Choice {
        loop {
            let is_round_open = self.round_turns < ROUND_TURNS_MAX;
            self.drain_inbox(|| is_round_open && prng.coin());
            if self.current.is_empty() {
                std::mem::swap(&mut self.current, &mut self.next);
                self.round_turns = 0;
                self.yielded.drain(..).for_each(Waker::wake);
                self.drain_inbox(|| false);
                if self.current.is_empty() && self.next.is_empty() {
                    return Choice::Idle;
                }
                continue;
            }
            let Some(name) = self.current.draw(prng) else {
                continue;
            };
            self.round_turns += 1;
            if name == ROOT {
                return Choice::Root;
            }
            let Some(task) = self
                .slots
                .get_mut(name.key)
                .filter(|task| task.id == name.id)
            else {
                continue;
            };
            let Some(future) = task.future.take() else {
                continue;
            };
            return Choice::Task(Running {
                name,
                core: task.core,
                future,
                waker: Arc::clone(&task.waker),
            });
        }
    }

    /// Puts woken tasks into the current round, where `is_current` says so, or the next.
    fn drain_inbox(&mut self, is_current: impl Fn() -> bool) {
        if self.inbox.is_empty_hint.swap(true, Ordering::AcqRel) {
            return;
        }
        std::mem::swap(
            &mut *self
                .inbox
                .woken
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
            &mut self.drained,
        );
        for name in self.drained.drain(..) {
            let priority = match self.slots.get(name.key) {
                Some(task) if task.id == name.id => task.priority,
                _ if name == ROOT => Priority::Foreground,
                _ => continue,
            };
            let round = if is_current() {
                &mut self.current
            } else {
                &mut self.next
            };
            round.0[priority as usize].push(name);
        }
    }

    /// Whether nothing but tasks that yielded can run.
    pub(super) fn only_yielded(&self) -> bool {
        !self.yielded.is_empty()
            && self.current.is_empty()
            && self.next.is_empty()
            && self.inbox.is_empty_hint.load(Ordering::Acquire)
    }

    /// Puts back a task that is not done; gives the future back if its core was killed meanwhile.
    pub(super) fn put_back(&mut self, name: TaskName, future: TaskFuture) -> Option<TaskFuture> {
        match self.slots.get_mut(name.key) {
            Some(task) if task.id == name.id => {
                task.future = Some(future);
                None
            }
            _ => Some(future),
        }
    }

    pub(super) fn remove(&mut self, name: TaskName) {
        if self
            .slots
            .get(name.key)
            .is_some_and(|task| task.id == name.id)
        {
            self.slots.remove(name.key);
        }
    }

    /// Takes out the tasks of `core`, or all. The caller drops them while it borrows nothing,
    /// because their destructors act on the world.
    pub(super) fn take_of(&mut self, core: Option<u64>) -> Vec<TaskFuture> {
        let keys: Vec<usize> = self
            .slots
            .iter()
            .filter(|(_, task)| core.is_none_or(|core| task.core == core))
            .map(|(key, _)| key)
            .collect();
        keys.into_iter()
            .filter_map(|key| self.slots.remove(key).future)
            .collect()
    }

    /// Core and priority of every task that waits, for the message about a deadlock.
    pub(super) fn waiting(&self) -> Vec<(u64, Priority)> {
        self.slots
            .iter()
            .map(|(_, task)| (task.core, task.priority))
            .collect()
    }
}

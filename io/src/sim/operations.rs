//! Timers and device operations in flight, and the queue of events in virtual time.
//!
//! An operation owns its lease or slice from submission to completion, also when the future that
//! waits for it is dropped: as with a kernel, the pages stay leased until the device is done with
//! them. Events of operations that are gone are skipped without moving the clock.

use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;

use super::state::State;
use crate::{FrameLease, FrameSlice, IoError, IoErrorKind, OldestOperations};

/// Stale events are swept out when there are this many and they are the greater part.
const STALE_EVENTS_MIN: usize = 256;

/// What an operation does when its time comes.
pub(super) enum Work {
    Timer,
    Read {
        device: usize,
        offset: u64,
        lease: FrameLease,
        /// Whether somebody waits for it who can go elsewhere.
        is_urgent: bool,
    },
    Write {
        device: usize,
        offset: u64,
        slice: FrameSlice,
    },
    Flush {
        device: usize,
        writes_before: u64,
    },
    Discard {
        device: usize,
        offset: u64,
        length: u64,
    },
}

/// What came of it; a lease if it was a read that succeeded.
pub(super) type Outcome = Result<Option<FrameLease>, IoError>;

enum Stage {
    InFlight(Work),
    /// In flight, and nobody waits for it any more.
    Abandoned(Work),
    /// The work is being done right now.
    Finishing,
    Done(Outcome),
}

struct Operation {
    id: u64,
    /// `None` for timers of the world itself, which survive every crash.
    core: Option<u64>,
    waker: Option<Waker>,
    stage: Stage,
    /// When it was put in flight.
    began: u64,
    /// Whoever waits is to be told that the device does not answer, and leave the operation to it.
    is_timed_out: bool,
}

impl Operation {
    /// The device that works on it.
    fn device(&self) -> Option<usize> {
        match &self.stage {
            Stage::InFlight(work) | Stage::Abandoned(work) => match work {
                Work::Timer => None,
                Work::Read { device, .. }
                | Work::Write { device, .. }
                | Work::Flush { device, .. }
                | Work::Discard { device, .. } => Some(*device),
            },
            Stage::Finishing | Stage::Done(_) => None,
        }
    }
}

/// What happens at a time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Operation {
        key: usize,
        id: u64,
    },
    Delivery {
        connection: usize,
        id: u64,
        end: usize,
    },
    Crash {
        number: u64,
    },
}

struct Scheduled {
    at: u64,
    /// Random in the upper half, so that events of one instant come in a seeded order.
    order: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        // Reversed: the heap gives its greatest element first, and the earliest is wanted.
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

pub(super) struct Operations {
    slots: Slab<Operation>,
    next_id: u64,
    events: BinaryHeap<Scheduled>,
    scheduled: u64,
    cancelled_timers: usize,
    /// The number of the scheduled crash that counts.
    crash: Option<u64>,
    /// Operations that are not answered until their device is told to: their keys and ids.
    hung: Vec<(usize, u64)>,
}

impl Operations {
    pub(super) fn new() -> Self {
        Operations {
            slots: Slab::new(),
            next_id: 1,
            events: BinaryHeap::new(),
            scheduled: 0,
            cancelled_timers: 0,
            crash: None,
            hung: Vec::new(),
        }
    }

    pub(super) fn schedule(&mut self, at: u64, tie_break: u32, event: Event) {
        self.scheduled += 1;
        let order = u64::from(tie_break) << 32 | (self.scheduled & u64::from(u32::MAX));
        self.events.push(Scheduled { at, order, event });
    }

    pub(super) fn schedule_crash(&mut self, at: u64) {
        let number = self.scheduled + 1;
        self.crash = Some(number);
        self.schedule(at, 0, Event::Crash { number });
    }

    pub(super) fn cancel_crash(&mut self) {
        self.crash = None;
    }

    /// Puts `work` in flight from `began` until `at`; its key and id.
    pub(super) fn insert(
        &mut self,
        core: Option<u64>,
        work: Work,
        (began, at): (u64, u64),
        tie_break: u32,
    ) -> (usize, u64) {
        let (key, id) = self.put(core, work, began);
        self.schedule(at, tie_break, Event::Operation { key, id });
        (key, id)
    }

    /// Puts `work` in flight from `began` until it is scheduled; see [`Operations::take_hung`].
    pub(super) fn insert_hung(
        &mut self,
        core: Option<u64>,
        work: Work,
        began: u64,
    ) -> (usize, u64) {
        let (key, id) = self.put(core, work, began);
        self.hung.push((key, id));
        (key, id)
    }

    fn put(&mut self, core: Option<u64>, work: Work, began: u64) -> (usize, u64) {
        let id = self.next_id;
        self.next_id += 1;
        let key = self.slots.insert(Operation {
            id,
            core,
            waker: None,
            stage: Stage::InFlight(work),
            began,
            is_timed_out: false,
        });
        (key, id)
    }

    /// Takes out the operations of `device` that hang, to be scheduled.
    pub(super) fn take_hung(&mut self, device: usize) -> Vec<(usize, u64)> {
        let slots = &self.slots;
        let (taken, left) = std::mem::take(&mut self.hung)
            .into_iter()
            .filter(|(key, id)| slots.get(*key).is_some_and(|known| known.id == *id))
            .partition(|(key, _)| slots[*key].device() == Some(device));
        self.hung = left;
        taken
    }

    /// See [`Device::time_out`](crate::Device::time_out).
    pub(super) fn time_out(
        &mut self,
        (core, device): (u64, usize),
        now: u64,
        (read_max_ns, other_max_ns): (u64, u64),
    ) -> OldestOperations {
        let mut oldest = OldestOperations::default();
        for (_, operation) in &mut self.slots {
            let is_awaited = matches!(operation.stage, Stage::InFlight(_));
            if operation.core != Some(core) || operation.device() != Some(device) {
                continue;
            }
            let age_ns = now.saturating_sub(operation.began);
            let is_urgent = matches!(
                operation.stage,
                Stage::InFlight(Work::Read {
                    is_urgent: true,
                    ..
                }) | Stage::Abandoned(Work::Read {
                    is_urgent: true,
                    ..
                })
            );
            oldest.note(is_urgent, Duration::from_nanos(age_ns));
            let max_ns = if is_urgent { read_max_ns } else { other_max_ns };
            if is_awaited && age_ns >= max_ns {
                operation.is_timed_out = true;
                if let Some(waker) = operation.waker.take() {
                    waker.wake();
                }
            }
        }
        oldest
    }

    fn get(&mut self, key: usize, id: u64) -> Option<&mut Operation> {
        self.slots
            .get_mut(key)
            .filter(|operation| operation.id == id)
    }

    /// The next event that still means something, if it is due by `now`, and its time.
    pub(super) fn pop_due(
        &mut self,
        now: u64,
        is_live_delivery: impl Fn(usize, u64) -> bool,
    ) -> Option<Event> {
        match self.next_at(is_live_delivery) {
            Some(at) if at <= now => self.events.pop().map(|scheduled| scheduled.event),
            _ => None,
        }
    }

    /// When the next event that still means something happens.
    pub(super) fn next_at(&mut self, is_live_delivery: impl Fn(usize, u64) -> bool) -> Option<u64> {
        loop {
            let Scheduled { at, event, .. } = self.events.peek()?;
            let (at, event) = (*at, *event);
            let is_live = match event {
                Event::Operation { key, id } => self.get(key, id).is_some(),
                Event::Delivery { connection, id, .. } => is_live_delivery(connection, id),
                Event::Crash { number } => self.crash == Some(number),
            };
            if is_live {
                return Some(at);
            }
            self.events.pop();
            self.cancelled_timers = self.cancelled_timers.saturating_sub(1);
        }
    }

    /// Takes out the work of an operation whose time has come: its core, the work, and whether
    /// somebody waits for it.
    pub(super) fn start_finish(
        &mut self,
        key: usize,
        id: u64,
    ) -> Option<(Option<u64>, Work, bool)> {
        let operation = self.get(key, id)?;
        let core = operation.core;
        match std::mem::replace(&mut operation.stage, Stage::Finishing) {
            Stage::InFlight(work) => Some((core, work, true)),
            Stage::Abandoned(work) => {
                self.slots.remove(key);
                Some((core, work, false))
            }
            stage @ (Stage::Finishing | Stage::Done(_)) => {
                operation.stage = stage;
                None
            }
        }
    }

    pub(super) fn finish(&mut self, key: usize, id: u64, outcome: Outcome) {
        if let Some(operation) = self.get(key, id) {
            operation.stage = Stage::Done(outcome);
            if let Some(waker) = operation.waker.take() {
                waker.wake();
            }
        }
    }

    /// Takes out the unfinished device work of `core`, and forgets its timers and results.
    pub(super) fn take_of(&mut self, core: u64) -> Vec<Work> {
        let keys: Vec<usize> = self
            .slots
            .iter()
            .filter(|(_, operation)| operation.core == Some(core))
            .map(|(key, _)| key)
            .collect();
        keys.into_iter()
            .filter_map(|key| match self.slots.remove(key).stage {
                Stage::InFlight(Work::Timer) | Stage::Finishing | Stage::Done(_) => None,
                Stage::InFlight(work) | Stage::Abandoned(work) => Some(work),
            })
            .collect()
    }

    /// Forgets everything, for the end of the world.
    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.events.clear();
    }

    fn poll(&mut self, key: usize, id: u64, context: &Context<'_>) -> Poll<Outcome> {
        let Some(operation) = self.get(key, id) else {
            // Its core was killed: whoever still holds the future waits for a dead process.
            return Poll::Pending;
        };
        if matches!(operation.stage, Stage::Done(_)) {
            let Stage::Done(outcome) = self.slots.remove(key).stage else {
                unreachable!("the stage was just seen to be done")
            };
            return Poll::Ready(outcome);
        }
        if operation.is_timed_out
            && let Stage::InFlight(work) = std::mem::replace(&mut operation.stage, Stage::Finishing)
        {
            operation.stage = Stage::Abandoned(work);
            let message = "the device does not answer; if this goes on, replace it";
            return Poll::Ready(Err(IoError::new(IoErrorKind::Timeout, message)));
        }
        match &mut operation.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    fn abandon(&mut self, key: usize, id: u64) {
        let Some(operation) = self.get(key, id) else {
            return;
        };
        operation.waker = None;
        match std::mem::replace(&mut operation.stage, Stage::Finishing) {
            Stage::InFlight(Work::Timer) => {
                self.slots.remove(key);
                self.cancelled_timers += 1;
                self.sweep();
            }
            Stage::InFlight(work) => operation.stage = Stage::Abandoned(work),
            Stage::Abandoned(_) | Stage::Finishing | Stage::Done(_) => {
                self.slots.remove(key);
            }
        }
    }

    /// Keeps the queue short where most timers are cancelled, as timeouts are.
    fn sweep(&mut self) {
        if self.cancelled_timers < STALE_EVENTS_MIN || self.cancelled_timers * 2 < self.events.len()
        {
            return;
        }
        let slots = &self.slots;
        self.events.retain(|scheduled| match scheduled.event {
            Event::Operation { key, id } => {
                slots.get(key).is_some_and(|operation| operation.id == id)
            }
            Event::Delivery { .. } | Event::Crash { .. } => true,
        });
        self.cancelled_timers = 0;
    }
}

/// Resolves when an operation is done.
pub(super) struct Completion {
    state: Rc<State>,
    key: usize,
    id: u64,
    is_taken: Cell<bool>,
}

impl Completion {
    pub(super) fn new(state: Rc<State>, (key, id): (usize, u64)) -> Self {
        Completion {
            state,
            key,
            id,
            is_taken: Cell::new(false),
        }
    }
}

impl Future for Completion {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let polled = self
            .state
            .operations
            .borrow_mut()
            .poll(self.key, self.id, context);
        self.is_taken.set(polled.is_ready());
        polled
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if !self.is_taken.get() {
            self.state
                .operations
                .borrow_mut()
                .abandon(self.key, self.id);
        }
    }
}

//! What all handles of a world share: clock, tasks, operations, disks, network, and the log.
//!
//! Tasks hold handles and handles hold this, which holds the tasks: the [`World`](super::World)
//! breaks the circle when it is dropped. Nothing here calls into a task or drops one while a part
//! is borrowed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use super::disk::Disk;
use super::faults::{Fault, Faults, Injection, InjectionLog};
use super::net::{self, Network};
use super::operations::{Completion, Event, Operations, Outcome, Work};
use super::random::Prng;
use super::tasks::Tasks;
use super::trace::{Step, Trace};
use super::world::Crash;
use crate::{Doorbell, LoopCounters, Nanos};

/// One core's part of the state.
pub(super) struct Core {
    pub(super) id: u64,
    pub(super) is_alive: Cell<bool>,
    pub(super) counters: Cell<LoopCounters>,
    pub(super) doorbell: Arc<SimDoorbell>,
    /// What [`Io::random`](crate::Io::random) draws from.
    pub(super) random: Prng,
}

impl Core {
    pub(super) fn count(&self, change: impl FnOnce(&mut LoopCounters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }
}

#[derive(Default)]
pub(super) struct SimDoorbell {
    pub(super) is_rung: AtomicBool,
    pub(super) waiter: Mutex<Option<Waker>>,
}

impl Doorbell for SimDoorbell {
    fn ring(&self) {
        self.is_rung.store(true, Ordering::Release);
        let waiter = self
            .waiter
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

/// Whether a crash is due with a write: number of the device, offset, bytes.
pub(super) type WriteJudge = Box<dyn FnMut(usize, u64, &[u8]) -> bool>;

pub(super) struct State {
    pub(super) seed: u64,
    pub(super) now: Cell<u64>,
    pub(super) wall_clock_step_ms: Cell<i64>,
    pub(super) faults: RefCell<Faults>,
    pub(super) injections: RefCell<InjectionLog>,
    pub(super) trace: Trace,
    pub(super) tasks: RefCell<Tasks>,
    pub(super) operations: RefCell<Operations>,
    pub(super) disks: RefCell<Vec<Disk>>,
    pub(super) network: RefCell<Network>,
    pub(super) cores: RefCell<Vec<Rc<Core>>>,
    /// Writes submitted so far, and the one at which to crash.
    pub(super) writes_submitted: Cell<u64>,
    pub(super) crash_at_write: Cell<Option<u64>>,
    /// Says of which write the world crashes.
    pub(super) crash_when: RefCell<Option<WriteJudge>>,
    pub(super) is_crash_due: Cell<bool>,
    /// Set while the world goes down: tasks that destructors spawn are dropped at once.
    pub(super) is_ending: Cell<bool>,
    /// Separate generators, so that a program that draws more does not reshape the faults.
    pub(super) order: Prng,
    pub(super) fate: Prng,
    pub(super) timing: Prng,
}

impl State {
    pub(super) fn core(&self, id: u64) -> Option<Rc<Core>> {
        let cores = self.cores.borrow();
        // Ids rise along the list; killed cores leave it.
        let index = cores.binary_search_by_key(&id, |core| core.id).ok()?;
        Some(Rc::clone(&cores[index]))
    }

    pub(super) fn record(&self, step: Step, first: u64, second: u64) {
        self.trace.record(self.now.get(), step, first, second);
    }

    pub(super) fn inject(&self, fault: Fault, device: Option<usize>, offset: u64, length: u64) {
        self.record(Step::Injected(fault), offset, length);
        let at = Nanos(self.now.get());
        self.injections.borrow_mut().push(Injection {
            at,
            fault,
            device,
            offset,
            length,
        });
    }

    pub(super) fn sleep(self: &Rc<Self>, core: Option<u64>, duration_ns: u64) -> Completion {
        let now = self.now.get();
        let at = now.saturating_add(duration_ns);
        let inserted =
            self.operations
                .borrow_mut()
                .insert(core, Work::Timer, (now, at), self.tie_break());
        Completion::new(Rc::clone(self), inserted)
    }

    pub(super) fn schedule(&self, at: u64, event: Event) {
        self.operations
            .borrow_mut()
            .schedule(at, self.tie_break(), event);
    }

    fn tie_break(&self) -> u32 {
        (self.order.next() >> 32) as u32
    }

    pub(super) fn between(&self, range: (u64, u64)) -> u64 {
        self.timing.between(range.0, range.1)
    }

    /// Puts a device operation of `core` in flight.
    pub(super) fn submit(self: &Rc<Self>, core: &Core, work: Work) -> Completion {
        let (device, pages) = match &work {
            Work::Timer => unreachable!("timers do not go to a device"),
            Work::Read {
                device,
                offset,
                lease,
                ..
            } => {
                self.record(Step::SubmitRead, *offset, lease.len() as u64);
                (*device, lease.pages().len() as u64)
            }
            Work::Write {
                device,
                offset,
                slice,
            } => {
                self.record(Step::SubmitWrite, *offset, slice.bytes().len() as u64);
                self.count_write();
                self.show_write(*device, *offset, slice.bytes());
                (*device, (slice.bytes().len() / crate::PAGE_SIZE) as u64)
            }
            Work::Flush {
                device,
                writes_before,
            } => {
                self.record(Step::SubmitFlush, *device as u64, *writes_before);
                (*device, 0)
            }
            Work::Discard {
                device,
                offset,
                length,
            } => {
                self.record(Step::SubmitDiscard, *offset, *length);
                (*device, 0)
            }
        };
        core.count(|counters| {
            counters.submissions += 1;
            counters.enters += 1;
        });
        let now = self.now.get();
        if self.hangs(device, &work) {
            let mut operations = self.operations.borrow_mut();
            let inserted = operations.insert_hung(Some(core.id), work, now);
            return Completion::new(Rc::clone(self), inserted);
        }
        let at = now.saturating_add(self.device_ns(device, pages));
        let inserted =
            self.operations
                .borrow_mut()
                .insert(Some(core.id), work, (now, at), self.tie_break());
        Completion::new(Rc::clone(self), inserted)
    }

    /// Whether the device does not answer to `work`, which is noted.
    fn hangs(&self, device: usize, work: &Work) -> bool {
        let hang = self.disks.borrow()[device].hang;
        let (hangs, offset, length) = match work {
            Work::Timer => return false,
            Work::Read { offset, lease, .. } => (hang.reads, *offset, lease.len() as u64),
            Work::Write { offset, slice, .. } => (hang.writes, *offset, slice.bytes().len() as u64),
            Work::Flush { .. } => (hang.flushes, 0, 0),
            Work::Discard { offset, length, .. } => (hang.writes, *offset, *length),
        };
        if hangs {
            self.inject(Fault::Unanswered, Some(device), offset, length);
        }
        hangs
    }

    /// How long an operation on `pages` pages takes.
    fn device_ns(&self, device: usize, pages: u64) -> u64 {
        let faults = self.faults.borrow();
        let usual_ns = self.between(faults.device_ns) + pages * faults.device_page_ns;
        if !self.fate.chance(faults.latency_spike) {
            return usual_ns;
        }
        self.inject(Fault::LatencySpike, Some(device), 0, 0);
        usual_ns + self.timing.between(0, faults.latency_spike_ns_max)
    }

    fn count_write(&self) {
        let submitted = self.writes_submitted.get() + 1;
        self.writes_submitted.set(submitted);
        if self.crash_at_write.get().is_some_and(|at| at <= submitted) {
            self.crash_at_write.set(None);
            self.is_crash_due.set(true);
        }
    }

    fn show_write(&self, device: usize, offset: u64, bytes: &[u8]) {
        let mut crash_when = self.crash_when.borrow_mut();
        if crash_when
            .as_mut()
            .is_some_and(|is_due| is_due(device, offset, bytes))
        {
            *crash_when = None;
            self.is_crash_due.set(true);
        }
    }

    /// Fires everything that is due.
    pub(super) fn fire_due(self: &Rc<Self>) {
        loop {
            let event = {
                let network = self.network.borrow();
                let is_live = |connection, id| network.is_live(connection, id);
                self.operations
                    .borrow_mut()
                    .pop_due(self.now.get(), is_live)
            };
            match event {
                None => return,
                Some(Event::Operation { key, id }) => self.complete(key, id),
                Some(Event::Delivery {
                    connection, end, ..
                }) => {
                    self.network
                        .borrow_mut()
                        .deliver(connection, end, self.now.get());
                }
                Some(Event::Crash { .. }) => self.is_crash_due.set(true),
            }
        }
    }

    /// When the next event is, if there is one.
    pub(super) fn next_event_at(&self) -> Option<u64> {
        let network = self.network.borrow();
        self.operations
            .borrow_mut()
            .next_at(|connection, id| network.is_live(connection, id))
    }

    fn complete(self: &Rc<Self>, key: usize, id: u64) {
        let Some((core, work, is_awaited)) = self.operations.borrow_mut().start_finish(key, id)
        else {
            return;
        };
        if let Some(core) = core.and_then(|core| self.core(core)) {
            core.count(|counters| counters.completions += 1);
        }
        let is_timer = matches!(work, Work::Timer);
        let outcome = self.perform(work, is_awaited);
        if is_timer {
            self.record(Step::TimerFired, id, 0);
        } else {
            self.record(Step::Complete, id, u64::from(outcome.is_err()));
        }
        self.operations.borrow_mut().finish(key, id, outcome);
    }

    fn perform(&self, work: Work, is_awaited: bool) -> Outcome {
        match work {
            Work::Timer => Ok(None),
            // Nobody will look at the pages: the lease only had to last until now.
            Work::Read { .. } if !is_awaited => Ok(None),
            Work::Read {
                device,
                offset,
                lease,
                ..
            } => self.disks.borrow_mut()[device]
                .read(self, offset, lease)
                .map(Some),
            Work::Write {
                device,
                offset,
                slice,
            } => self.disks.borrow_mut()[device]
                .write(self, offset, slice.bytes())
                .map(|()| None),
            Work::Flush {
                device,
                writes_before,
            } => self.disks.borrow_mut()[device]
                .flush(self, writes_before)
                .map(|()| None),
            Work::Discard {
                device,
                offset,
                length,
            } => self.disks.borrow_mut()[device]
                .discard(self, offset, length)
                .map(|()| None),
        }
    }

    /// Ends `core` as `crash` does: its operations in flight are settled, its tasks dropped.
    pub(super) fn kill(&self, core: &Core, crash: Crash) {
        if !core.is_alive.replace(false) {
            return;
        }
        self.record(Step::CoreKilled, core.id, 0);
        self.cores.borrow_mut().retain(|other| other.id != core.id);
        let in_flight = self.operations.borrow_mut().take_of(core.id);
        for work in in_flight {
            if let Work::Write {
                device,
                offset,
                slice,
            } = work
            {
                self.disks.borrow_mut()[device].settle_in_flight(
                    self,
                    offset,
                    slice.bytes(),
                    crash,
                );
            }
        }
        let tasks = self.tasks.borrow_mut().take_of(Some(core.id));
        drop(tasks);
        net::close_all_of(self, core.id);
    }
}

/// Nanoseconds of `duration`, as far as they fit.
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

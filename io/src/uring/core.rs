//! The loop of one core: ring, executor, timers and doorbell turning together.
//!
//! A turn looks at the doorbell, fires timers, runs tasks, and then enters the kernel at most
//! once, which submits everything the tasks asked for and brings what has completed. With nothing
//! to do the core spins for a bounded time and then sleeps in the kernel until a completion, a
//! ring of the doorbell or the next timer.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use io_uring::{cqueue, opcode, squeue, types};
use slab::Slab;

use super::doorbell::{Bell, TaskDoorbell};
use super::files::FileTable;
use super::operation::{Kind, Operation};
use super::receive_ring::ReceiveRing;
use super::registered_memory::RegisteredMemory;
use super::ring::{Ring, Wait};
use super::timer::TimerWheel;
use super::{Options, probe};
use crate::error::IoError;
use crate::executor::Executor;
use crate::{LoopCounters, Nanos};

/// User data of submissions whose completion nobody wants.
pub(super) const IGNORED: u64 = u64::MAX;
/// User data of messages from other cores: their arrival is all they say.
const WOKEN: u64 = u64::MAX - 1;

/// The longest a core sleeps in one go. Only a bound for the kernel's arithmetic.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// How long the end of a core waits for the kernel to finish what is in flight. Cancelled
/// receives end at once; a device answers within its own time-out or not at all.
const DRAIN_MAX: Duration = Duration::from_secs(10);

thread_local! {
    /// The core that the current thread is running.
    static CURRENT: Cell<*const Core> = const { Cell::new(std::ptr::null()) };
}

/// Everything of a core. Shared by handles of one thread.
pub(super) struct Core {
    // First: its memory maps go before what the kernel wrote to.
    pub ring: Ring,
    pub executor: Executor,
    pub operations: RefCell<Slab<Operation>>,
    pub timers: RefCell<TimerWheel>,
    pub receive_ring: ReceiveRing,
    pub files: FileTable,
    pub memory: RegisteredMemory,
    pub bell: Arc<Bell>,
    pub send_zero_copy_above: Option<usize>,
    spin: Duration,
    started: Instant,
    now_ns: Cell<u64>,
    woken: RefCell<Vec<Waker>>,
    yielded: RefCell<Vec<Waker>>,
    rung: Cell<bool>,
    rung_waker: Cell<Option<Waker>>,
    random: Cell<u64>,
    turns: Cell<u64>,
    sleeps: Cell<u64>,
    completions: Cell<u64>,
    ended: Cell<bool>,
}

impl Core {
    /// Sets up a core for the calling thread.
    pub fn open(options: &Options) -> Result<Rc<Core>, IoError> {
        probe::check()?;
        let ring = Ring::open(options.entries)?;
        let duplicate = ring.duplicate().map_err(|error| {
            IoError::from_std(
                &error,
                "cannot duplicate the ring's descriptor; raise the limit of open files",
            )
        })?;
        let bell = Arc::new(Bell::new(duplicate)?);
        let core = Rc::new(Core {
            executor: Executor::new(Arc::new(TaskDoorbell(Arc::clone(&bell)))),
            operations: RefCell::new(Slab::with_capacity(options.entries as usize)),
            timers: RefCell::default(),
            receive_ring: ReceiveRing::register(
                &ring,
                options.receive_buffers,
                options.receive_buffer_bytes,
            )?,
            files: FileTable::register(&ring, options.files)?,
            memory: RegisteredMemory::register(&ring)?,
            ring,
            bell,
            send_zero_copy_above: options.send_zero_copy_above,
            spin: options.spin,
            started: Instant::now(),
            now_ns: Cell::new(0),
            woken: RefCell::default(),
            yielded: RefCell::default(),
            rung: Cell::new(false),
            rung_waker: Cell::new(None),
            random: Cell::new(random_seed()),
            turns: Cell::new(0),
            sleeps: Cell::new(0),
            completions: Cell::new(0),
            ended: Cell::new(false),
        });
        core.arm_event(Box::new(0));
        Ok(core)
    }

    /// Turns until `done` says so.
    pub fn run(self: &Rc<Self>, done: impl Fn() -> bool) {
        assert!(CURRENT.get().is_null(), "a thread runs one core at a time");
        CURRENT.set(Rc::as_ptr(self));
        let _current = CurrentGuard;
        let _entered = self.executor.enter();
        loop {
            self.work();
            if done() {
                return;
            }
            if self.is_idle() {
                self.wait();
            } else if self.ring.needs_enter() {
                self.ring.enter(Wait::No);
            }
            self.complete_all();
        }
    }

    /// Everything of a turn that needs no kernel.
    fn work(self: &Rc<Self>) {
        self.turns.set(self.turns.get() + 1);
        self.update_clock();
        if self.bell.is_pending() && self.bell.take() {
            self.rung.set(true);
            if let Some(waker) = self.rung_waker.take() {
                waker.wake();
            }
        }
        let mut woken = self.woken.take();
        woken.append(&mut self.yielded.borrow_mut());
        self.timers
            .borrow_mut()
            .advance(self.now_ns.get(), &mut woken);
        woken.drain(..).for_each(Waker::wake);
        self.woken.replace(woken);
        self.executor.turn();
    }

    fn is_idle(&self) -> bool {
        self.executor.is_idle() && self.yielded.borrow().is_empty() && !self.bell.is_pending()
    }

    /// Returns when there may be something to do.
    fn wait(&self) {
        if self.ring.has_completions() {
            return;
        }
        if !self.spin.is_zero() && self.spin_for_work() {
            return;
        }
        let next_ns = self.timers.borrow().next_ns();
        self.update_clock();
        let wait = match next_ns {
            Some(next) if next <= self.now_ns.get() => return,
            Some(next) => {
                Wait::AtMost(Duration::from_nanos(next - self.now_ns.get()).min(SLEEP_MAX))
            }
            None => Wait::Forever,
        };
        if self.bell.announce_sleep() {
            self.sleeps.set(self.sleeps.get() + 1);
            self.ring.enter(wait);
            self.bell.announce_awake();
        }
    }

    /// Submits and watches for work without sleeping; whether some came.
    fn spin_for_work(&self) -> bool {
        let next_ns = self.timers.borrow().next_ns().unwrap_or(u64::MAX);
        // Submitting to a drive may take longer than the drive: the time counts from then on.
        if self.ring.needs_enter() {
            self.ring.enter(Wait::No);
        }
        self.update_clock();
        let until = self.now_ns.get() + self.spin.as_nanos() as u64;
        loop {
            if self.ring.needs_enter() {
                self.ring.enter(Wait::No);
            }
            if self.ring.has_completions() || self.bell.is_pending() {
                return true;
            }
            self.update_clock();
            if self.now_ns.get() >= next_ns {
                return true;
            }
            if self.now_ns.get() >= until {
                return false;
            }
            std::hint::spin_loop();
        }
    }

    fn complete_all(self: &Rc<Self>) {
        let taken = self.ring.take_completions(|entry| self.complete(&entry));
        self.completions.set(self.completions.get() + taken);
    }

    fn complete(self: &Rc<Self>, entry: &cqueue::Entry) {
        let (data, result, flags) = (entry.user_data(), entry.result(), entry.flags());
        if data >= WOKEN {
            return;
        }
        let key = data as usize;
        let more = cqueue::more(flags);
        let mut operations = self.operations.borrow_mut();
        let operation = &mut operations[key];
        match &mut operation.kind {
            Kind::Transfer(transfer) => match transfer.advance(result) {
                Some(again) => {
                    drop(operations);
                    // SAFETY: the transfer, which stays in the slab, owns the memory.
                    unsafe { self.push(key, again) };
                }
                None => {
                    let result = transfer.result();
                    self.finish(operations, key, result);
                }
            },
            Kind::Maintain { .. } | Kind::Connect { .. } => self.finish(operations, key, result),
            Kind::TimedOut { .. } => unreachable!("no operation is one that timed out"),
            Kind::Send(sending) => {
                let outcome = sending.advance(result, flags);
                drop(operations);
                self.continue_send(key, outcome);
            }
            Kind::Receive(connection) => {
                let connection = Rc::clone(connection);
                let ended = (!more).then(|| operations.remove(key));
                drop(operations);
                connection.on_receive(result, flags, more);
                drop(ended);
            }
            Kind::ReceiveAlone { .. } => {
                let operation = operations.remove(key);
                drop(operations);
                if let Kind::ReceiveAlone { connection, memory } = operation.kind {
                    connection.on_receive_alone(result, memory);
                }
            }
            Kind::Accept(acceptor) => {
                let acceptor = Rc::clone(acceptor);
                let ended = (!more).then(|| operations.remove(key));
                drop(operations);
                acceptor.on_accept(result, more);
                drop(ended);
            }
            Kind::Wake(bell) => {
                // The message did not arrive: its ring is full or ending.
                if result < 0 {
                    bell.write_event();
                }
                operations.remove(key);
            }
            Kind::Event { .. } => {
                let operation = operations.remove(key);
                drop(operations);
                if let Kind::Event { counter } = operation.kind
                    && !self.ended.get()
                {
                    self.arm_event(counter);
                }
            }
        }
    }

    /// Hands the result to the future that waits, or drops an operation that nobody waits for.
    fn finish(
        &self,
        mut operations: std::cell::RefMut<'_, Slab<Operation>>,
        key: usize,
        result: i32,
    ) {
        let operation = &mut operations[key];
        if operation.orphaned {
            let operation = operations.remove(key);
            drop(operations);
            drop(operation);
            return;
        }
        operation.result = Some(result);
        let waker = operation.waker.take();
        drop(operations);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Puts `operation` into the slab and queues `entry` for it. Returns its key.
    ///
    /// # Safety
    /// The entry may only point at memory that the operation owns at a stable address.
    ///
    /// # Panics
    /// If the core has ended.
    pub unsafe fn start(&self, operation: Operation, entry: squeue::Entry) -> usize {
        assert!(!self.ended.get(), "the core of this handle has ended");
        let key = self.operations.borrow_mut().insert(operation);
        // SAFETY: passed on to the caller.
        unsafe { self.push(key, entry) };
        key
    }

    /// Queues another submission of operation `key`.
    ///
    /// # Safety
    /// As [`Core::start`].
    pub unsafe fn push(&self, key: usize, entry: squeue::Entry) {
        // SAFETY: passed on to the caller.
        unsafe { self.ring.push(&entry.user_data(key as u64)) };
    }

    /// Asks the kernel to end operation `key`. Its completion still comes.
    pub fn cancel(&self, key: usize) {
        let builder = types::CancelBuilder::user_data(key as u64);
        let entry = opcode::AsyncCancel2::new(builder)
            .build()
            .user_data(IGNORED);
        // SAFETY: a cancellation points at nothing.
        unsafe { self.ring.push(&entry) };
    }

    fn arm_event(&self, mut counter: Box<u64>) {
        let pointer: *mut u64 = &raw mut *counter;
        let entry = opcode::Read::new(types::Fd(self.bell.event()), pointer.cast(), 8).build();
        // SAFETY: the operation owns the box, which does not move.
        unsafe { self.start(Operation::unattended(Kind::Event { counter }), entry) };
    }

    fn update_clock(&self) {
        self.now_ns.set(self.time_now().0);
    }

    /// The clock as it was at the start of this turn.
    pub fn now(&self) -> Nanos {
        Nanos(self.now_ns.get())
    }

    /// The clock as it is.
    pub fn time_now(&self) -> Nanos {
        Nanos(self.started.elapsed().as_nanos() as u64)
    }

    /// Wakes `waker` in the next turn.
    pub fn wake_next_turn(&self, waker: Waker) {
        self.yielded.borrow_mut().push(waker);
    }

    pub fn poll_rung(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.rung.replace(false) {
            return Poll::Ready(());
        }
        self.rung_waker.set(Some(context.waker().clone()));
        Poll::Pending
    }

    /// A step of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
    pub fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn counters(&self) -> LoopCounters {
        LoopCounters {
            turns: self.turns.get(),
            enters: self.ring.enters(),
            sleeps: self.sleeps.get(),
            completions: self.completions.get(),
            stalls: self.executor.stalls(),
            poll_ns_longest: self.executor.poll_ns_longest(),
            submissions: self.ring.submissions(),
        }
    }

    /// Whether the core has ended, so that nothing can be submitted any more.
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Drops all tasks and waits for the kernel to be done with every operation.
    pub fn end(self: &Rc<Self>) {
        self.executor.end_all();
        self.ended.set(true);
        let everything = opcode::AsyncCancel2::new(types::CancelBuilder::any()).build();
        let deadline = Instant::now() + DRAIN_MAX;
        while self.in_flight() > 0 {
            // SAFETY: a cancellation points at nothing.
            unsafe { self.ring.push(&everything.clone().user_data(IGNORED)) };
            self.ring.enter(Wait::AtMost(Duration::from_millis(10)));
            self.complete_all();
            if Instant::now() > deadline {
                let left = self.in_flight();
                tracing::error!(left, "operations did not end; their memory is given up");
                std::mem::forget(Rc::clone(self));
                return;
            }
        }
        self.files.unregister(&self.ring);
        self.memory.unregister(&self.ring);
    }

    /// Operations that the kernel is not done with.
    fn in_flight(&self) -> usize {
        let operations = self.operations.borrow();
        operations
            .iter()
            .filter(|(_, operation)| operation.result.is_none())
            .count()
    }
}

struct CurrentGuard;

impl Drop for CurrentGuard {
    fn drop(&mut self) {
        CURRENT.set(std::ptr::null());
    }
}

/// Sends a wake-up from the current thread's ring to the core of `bell`; false if this thread
/// runs no core.
pub(super) fn send_wake(bell: &Arc<Bell>) -> bool {
    let current = CURRENT.get();
    if current.is_null() {
        return false;
    }
    // SAFETY: set by `run` to the core that it borrows, and cleared before that borrow ends.
    let core = unsafe { &*current };
    if core.has_ended() {
        return false;
    }
    let entry = opcode::MsgRingData::new(types::Fd(bell.ring_descriptor()), 0, WOKEN, None).build();
    // SAFETY: the operation keeps the descriptor open; the entry points at no memory.
    unsafe { core.start(Operation::unattended(Kind::Wake(Arc::clone(bell))), entry) };
    true
}

fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library seeds its hasher from the system's random bits.
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

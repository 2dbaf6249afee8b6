//! [`World`]: the loop over the tasks of all cores, and crashes.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::faults::{Faults, InjectionLog};
use super::handle::SimIo;
use super::net::Network;
use super::operations::Operations;
use super::random::Prng;
use super::seeds::REPLAY_VARIABLE;
use super::state::{Core, State, nanoseconds};
use super::tasks::{Choice, Running, Tasks};
use super::trace::{Step, Trace};
use crate::{Nanos, Priority};

/// Polls that one [`World::block_on`] may take before the world calls it a livelock. A test of
/// several thousand operations takes a few hundred thousand.
pub const TURNS_MAX_DEFAULT: u64 = 50_000_000;

/// Virtual time that a poll of a task takes.
const POLL_NS: (u64, u64) = (50, 400);

/// Virtual time that passes when only tasks that yielded can run.
const SPIN_NS_MAX: u64 = 2_000;

/// How cores come to their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process is gone, the machine is not: completed writes stay.
    ProcessKill,
    /// The machine is gone: completed writes that were not flushed may be lost.
    PowerLoss,
}

/// When a scheduled crash happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashPoint {
    /// When this much virtual time has passed from now.
    After(Duration),
    /// Right after this many more device writes were submitted: at one, the next write is in flight.
    AtWrite(u64),
}

/// A scheduled crash ended [`World::block_on`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crashed {
    /// When.
    pub at: Nanos,
    /// How.
    pub crash: Crash,
}

/// A simulated machine room: devices, a network, a clock, and cores that come and go.
///
/// Owns everything: when it is dropped, so are the tasks of all its cores. Handles that are kept
/// longer still answer, but nothing of theirs makes progress any more.
pub struct World {
    pub(super) state: Rc<State>,
    turns_max: Cell<u64>,
    is_running: Cell<bool>,
    cores_started: Cell<u64>,
    /// What cores draw their random numbers from.
    core_random: Prng,
}

impl World {
    /// A world in which `seed` decides everything and `faults` how often things go wrong.
    pub fn new(seed: u64, faults: Faults) -> World {
        let root = Prng::new(seed);
        let state = State {
            seed,
            now: Cell::new(0),
            wall_clock_step_ms: Cell::new(0),
            faults: RefCell::new(faults),
            injections: RefCell::new(InjectionLog::default()),
            trace: Trace::new(seed),
            tasks: RefCell::new(Tasks::new()),
            operations: RefCell::new(Operations::new()),
            disks: RefCell::default(),
            network: RefCell::new(Network::new()),
            cores: RefCell::default(),
            writes_submitted: Cell::new(0),
            crash_at_write: Cell::new(None),
            crash_when: RefCell::default(),
            is_crash_due: Cell::new(false),
            is_ending: Cell::new(false),
            order: root.fork(),
            fate: root.fork(),
            timing: root.fork(),
        };
        World {
            state: Rc::new(state),
            turns_max: Cell::new(TURNS_MAX_DEFAULT),
            is_running: Cell::new(false),
            cores_started: Cell::new(0),
            core_random: root.fork(),
        }
    }

    /// The seed that the world was made of.
    pub fn seed(&self) -> u64 {
        self.state.seed
    }

    /// The virtual time since the world was made. All cores have the same clock.
    pub fn now(&self) -> Nanos {
        Nanos(self.state.now.get())
    }

    /// Sets how many polls one [`World::block_on`] may take; at first [`TURNS_MAX_DEFAULT`].
    pub fn set_turns_max(&self, turns: u64) {
        self.turns_max.set(turns);
    }

    /// Starts a core.
    pub fn core(&self) -> SimIo {
        let id = self.cores_started.get();
        self.cores_started.set(id + 1);
        let core = Rc::new(Core {
            id,
            is_alive: Cell::new(true),
            counters: Cell::default(),
            doorbell: Default::default(),
            random: self.core_random.fork(),
        });
        self.state.record(Step::CoreStarted, id, 0);
        self.state.cores.borrow_mut().push(Rc::clone(&core));
        SimIo {
            state: Rc::clone(&self.state),
            core,
        }
    }

    /// Resolves after `duration`, on no core: it survives crashes.
    pub fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        let state = Rc::clone(&self.state);
        async move {
            let timer = state.sleep(None, nanoseconds(duration));
            timer.await.expect("a timer does not fail");
        }
    }

    /// Runs the tasks of all cores until `future` is done. It belongs to no core, and may crash
    /// cores and start others.
    ///
    /// # Errors
    /// [`Crashed`] when a crash that was scheduled by [`World::crash_at`] happened; `future` is dropped.
    ///
    /// # Panics
    /// On a deadlock: nothing can run, and nothing that could wake anybody is under way. When the
    /// bound on turns is exceeded. When it is called from within itself. When a task panics.
    pub fn block_on<F: Future>(&self, future: F) -> Result<F::Output, Crashed> {
        assert!(
            !self.is_running.replace(true),
            "a world does not run inside itself"
        );
        let _running = ResetOnDrop(&self.is_running);
        let mut future = pin!(future);
        let root_waker = self.state.tasks.borrow().root_waker();
        let waker = Waker::from(root_waker.clone());
        waker.wake_by_ref();
        for _ in 0..self.turns_max.get() {
            match self.advance() {
                Turn::Crash => return Err(self.crash_now()),
                Turn::Root => {
                    root_waker.start_poll();
                    if let Poll::Ready(output) =
                        future.as_mut().poll(&mut Context::from_waker(&waker))
                    {
                        return Ok(output);
                    }
                    self.pass_poll_time();
                }
                Turn::Task(running) => self.poll_task(running),
                Turn::Nothing => self.panic_of_deadlock(),
            }
        }
        panic!(
            "{}: no end after {} turns, a livelock",
            self.place(),
            self.turns_max.get()
        );
    }

    /// Runs the tasks of all cores for `duration` of virtual time.
    ///
    /// # Errors
    /// As [`World::block_on`].
    pub fn run_for(&self, duration: Duration) -> Result<(), Crashed> {
        self.block_on(self.sleep(duration))
    }

    /// Runs until no task can run and no timer or operation is under way. Not for programs with
    /// periodic timers.
    ///
    /// # Errors
    /// As [`World::block_on`].
    ///
    /// # Panics
    /// When the bound on turns is exceeded, or when a task panics.
    pub fn run_until_idle(&self) -> Result<(), Crashed> {
        assert!(
            !self.is_running.replace(true),
            "a world does not run inside itself"
        );
        let _running = ResetOnDrop(&self.is_running);
        for _ in 0..self.turns_max.get() {
            match self.advance() {
                Turn::Crash => return Err(self.crash_now()),
                // A stale wake of a future that an earlier `block_on` finished.
                Turn::Root => {}
                Turn::Task(running) => self.poll_task(running),
                Turn::Nothing => return Ok(()),
            }
        }
        panic!(
            "{}: not idle after {} turns",
            self.place(),
            self.turns_max.get()
        );
    }

    /// Fires what is due and finds what runs next, moving the clock only if nothing runs now.
    fn advance(&self) -> Turn {
        let state = &self.state;
        loop {
            state.fire_due();
            if state.is_crash_due.replace(false) {
                return Turn::Crash;
            }
            if state.tasks.borrow().only_yielded() {
                self.pass_spin_time();
            }
            let choice = state.tasks.borrow_mut().choose(&state.order);
            match choice {
                Choice::Root => return Turn::Root,
                Choice::Task(running) => return Turn::Task(running),
                Choice::Idle => {}
            }
            let Some(next) = state.next_event_at() else {
                return Turn::Nothing;
            };
            state.now.set(state.now.get().max(next));
            for core in state.cores.borrow().iter() {
                core.count(|counters| counters.sleeps += 1);
            }
        }
    }

    fn poll_task(&self, running: Running) {
        let Running {
            name,
            core,
            mut future,
            waker,
        } = running;
        self.state.record(Step::Poll, core, name.id);
        waker.start_poll();
        let waker = Waker::from(waker);
        let is_done = future
            .as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_ready();
        let passed_ns = self.pass_poll_time();
        if let Some(core) = self.state.core(core) {
            core.count(|counters| {
                counters.turns += 1;
                counters.poll_ns_longest = counters.poll_ns_longest.max(passed_ns);
            });
        }
        // What is left of the task is dropped here, where nothing is borrowed.
        if is_done {
            self.state.tasks.borrow_mut().remove(name);
            drop(future);
        } else {
            let killed = self.state.tasks.borrow_mut().put_back(name, future);
            drop(killed);
        }
    }

    fn pass_poll_time(&self) -> u64 {
        let passed_ns = self.state.between(POLL_NS);
        self.state.now.set(self.state.now.get() + passed_ns);
        passed_ns
    }

    fn pass_spin_time(&self) {
        let now = self.state.now.get();
        let spin_ns = self.state.timing.between(1, SPIN_NS_MAX);
        let until_event_ns = self
            .state
            .next_event_at()
            .map_or(spin_ns, |next| next.saturating_sub(now));
        self.state.now.set(now + spin_ns.min(until_event_ns));
    }

    /// Kills `core` like a process: its tasks are dropped wherever they stand, its streams closed,
    /// its writes in flight applied wholly, in part or not at all. Everything that completed stays.
    pub fn kill_core(&self, core: &SimIo) {
        self.state.kill(&core.core, Crash::ProcessKill);
    }

    /// Crashes all cores; [`Faults::power_loss`] decides how.
    pub fn crash(&self) -> Crash {
        let is_power_loss = self
            .state
            .fate
            .chance(self.state.faults.borrow().power_loss);
        let crash = if is_power_loss {
            Crash::PowerLoss
        } else {
            Crash::ProcessKill
        };
        self.crash_with(crash);
        crash
    }

    /// Crashes all cores in the way of `crash`.
    pub fn crash_with(&self, crash: Crash) {
        self.cancel_crash();
        let state = &self.state;
        let is_power_loss = crash == Crash::PowerLoss;
        state.record(Step::Crash, u64::from(is_power_loss), 0);
        let cores = state.cores.borrow().clone();
        for core in cores {
            state.kill(&core, crash);
        }
        if is_power_loss {
            state
                .disks
                .borrow_mut()
                .iter_mut()
                .for_each(|disk| disk.cut_power(state));
        }
    }

    /// Schedules a [`World::crash`]. The [`World::block_on`] that runs then ends with [`Crashed`]. At
    /// most one of each [`CrashPoint`] is scheduled; any crash of all cores cancels them.
    pub fn crash_at(&self, point: CrashPoint) {
        let state = &self.state;
        match point {
            CrashPoint::After(duration) => {
                let at = state.now.get().saturating_add(nanoseconds(duration));
                state.operations.borrow_mut().schedule_crash(at);
            }
            CrashPoint::AtWrite(writes) => {
                state
                    .crash_at_write
                    .set(Some(state.writes_submitted.get() + writes.max(1)));
            }
        }
    }

    /// Schedules a [`World::crash`] right after the first write that `is_due` says so of was submitted: it gets the
    /// number of the device in the order of addition, the offset and the bytes. That write is in
    /// flight then; the crash decides what becomes of it.
    pub fn crash_when_written(&self, is_due: impl FnMut(usize, u64, &[u8]) -> bool + 'static) {
        *self.state.crash_when.borrow_mut() = Some(Box::new(is_due));
    }

    /// A handle for the world's own programs to crash it with.
    pub fn crash_switch(&self) -> CrashSwitch {
        CrashSwitch(Rc::downgrade(&self.state))
    }

    /// Forgets what was scheduled by [`World::crash_at`] and [`World::crash_when_written`].
    pub fn cancel_crash(&self) {
        self.state.operations.borrow_mut().cancel_crash();
        self.state.crash_at_write.set(None);
        self.state.crash_when.borrow_mut().take();
        self.state.is_crash_due.set(false);
    }

    fn crash_now(&self) -> Crashed {
        Crashed {
            at: self.now(),
            crash: self.crash(),
        }
    }

    fn place(&self) -> String {
        let seed = self.state.seed;
        format!(
            "seed {seed} at {} ns (replay with {REPLAY_VARIABLE}={seed})",
            self.state.now.get()
        )
    }

    fn panic_of_deadlock(&self) -> ! {
        let waiting = self.state.tasks.borrow().waiting();
        let of = |priority| {
            waiting
                .iter()
                .filter(|(_, other)| *other == priority)
                .count()
        };
        panic!(
            "{}: deadlock: no task can run, and no timer or operation is under way; waiting tasks: \
             {} foreground, {} flush, {} background",
            self.place(),
            of(Priority::Foreground),
            of(Priority::Flush),
            of(Priority::Background),
        );
    }
}

/// Crashes a world from inside. See [`World::crash_switch`].
#[derive(Clone)]
pub struct CrashSwitch(Weak<State>);

impl CrashSwitch {
    /// The world crashes before anything else of it runs.
    pub fn pull(&self) {
        if let Some(state) = self.0.upgrade() {
            state.is_crash_due.set(true);
        }
    }
}

enum Turn {
    Root,
    Task(Running),
    Crash,
    Nothing,
}

struct ResetOnDrop<'a>(&'a Cell<bool>);

impl Drop for ResetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "{}: the last steps were\n{}",
                self.place(),
                self.state.trace
            );
            // The tasks are leaked: a destructor that panics over broken state would abort the
            // process before the seed is printed.
            return;
        }
        let state = &self.state;
        state.is_ending.set(true);
        let tasks = state.tasks.borrow_mut().take_of(None);
        drop(tasks);
        state.operations.borrow_mut().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, Io, PAGE_SIZE};

    #[test]
    fn a_dropped_world_is_freed_with_all_that_its_tasks_held() {
        let world = World::new(1, Faults::none());
        world.add_device("/dev/sim", 1 << 20);
        let io = world.core();
        let task_io = io.clone();
        io.spawn(Priority::Background, async move {
            let device = task_io
                .open_device("/dev/sim".as_ref())
                .await
                .expect("the device is there");
            let pool = task_io
                .allocate_pool(4, 16)
                .expect("memory for four frames");
            loop {
                let frame = pool.take().expect("a free frame");
                let lease = frame.lease(0..4).expect("vacant pages");
                drop(device.read(0, lease).await);
                task_io.spawn(Priority::Flush, task_io.sleep(Duration::from_secs(1)));
            }
        });
        world
            .run_for(Duration::from_millis(5))
            .expect("no crash was scheduled");
        let weak = Rc::downgrade(&world.state);
        drop(io);
        drop(world);
        assert!(weak.upgrade().is_none(), "the world outlived its owner");
    }

    #[test]
    fn a_killed_core_leaves_no_operation_and_no_connection() {
        let world = World::new(2, Faults::none());
        world.add_device("/dev/sim", 64 * PAGE_SIZE as u64);
        let server = world.core();
        let client = world.core();
        let listener = world
            .block_on(server.listen("127.0.0.1:0".parse().expect("an address")))
            .expect("no crash was scheduled")
            .expect("a free port");
        let address = crate::Listener::local_address(&listener);
        server.spawn(Priority::Foreground, async move {
            let stream = crate::Listener::accept(&listener).await;
            std::future::pending::<()>().await;
            drop(stream);
        });
        let connecting = client.clone();
        client.spawn(Priority::Foreground, async move {
            let stream = connecting.connect(address).await;
            std::future::pending::<()>().await;
            drop(stream);
        });
        world.run_until_idle().expect("no crash was scheduled");
        assert_eq!(world.state.network.borrow().connections(), 1);
        world.crash_with(Crash::ProcessKill);
        assert_eq!(world.state.network.borrow().connections(), 0);
        assert_eq!(world.state.next_event_at(), None);
    }
}

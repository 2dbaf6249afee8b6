//! What a reading loop took: operations, CPU and latency of the measured part.
//!
//! Its invariant: it costs every runtime the same, one look at the clock a read.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::ReadOptions;
use crate::ceiling::PAGE;
use crate::load::new_histogram;
use crate::process::{self, CpuTime, MachineTime};
use crate::random::Random;

/// What a loop took to read pages.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadFigures {
    /// Reads that ended in the measured part.
    pub operations: u64,
    /// Reads a second.
    pub rate: f64,
    /// CPU of the process a read, all threads, in microseconds.
    pub cpu_us: f64,
    /// The part of it outside the kernel.
    pub user_us: f64,
    /// Median of the time from a read's start to its end, in microseconds.
    pub p50_us: f64,
    /// The 99th percentile of it.
    pub p99_us: f64,
    /// Time that the loop's CPU was not idle, in percent.
    pub busy_percent: f64,
    /// Share of the CPU that the kernel's ring workers used, in percent.
    pub ring_worker_percent: f64,
    /// Time that the hypervisor took from this machine, in percent.
    pub steal_percent: f64,
}

/// Shared by the tasks of one loop.
#[derive(Clone)]
pub(super) struct Meter(Rc<RefCell<State>>);

struct State {
    core: usize,
    warm_up: Duration,
    measured: Duration,
    phase: Phase,
    operations: u64,
    latency_ns: Histogram<u64>,
    error: Option<String>,
}

enum Phase {
    WarmingUp(Instant),
    Measuring(Instant, Look),
    Over(Result<ReadFigures, String>),
}

struct Look {
    cpu: CpuTime,
    ring_workers: Duration,
    machine: MachineTime,
    core: MachineTime,
}

fn look(core: usize) -> io::Result<Look> {
    let pid = std::process::id();
    Ok(Look {
        cpu: CpuTime::of(pid)?,
        ring_workers: process::ring_worker_time(pid)?,
        machine: MachineTime::now()?,
        core: MachineTime::of_core(core)?,
    })
}

impl Meter {
    /// One that begins now.
    pub fn new(options: &ReadOptions) -> Result<Meter, String> {
        if options.depth == 0 || options.bytes < PAGE as u64 {
            return Err("a loop reads at least one page at a depth of at least one".to_owned());
        }
        Ok(Meter(Rc::new(RefCell::new(State {
            core: options.core,
            warm_up: Duration::from_secs_f64(options.seconds / 10.0),
            measured: Duration::from_secs_f64(options.seconds),
            phase: Phase::WarmingUp(Instant::now()),
            operations: 0,
            latency_ns: new_histogram(),
            error: None,
        }))))
    }

    /// A page was read, since `started`. When the next read starts; `None` when the part is over.
    #[inline]
    pub fn read(&self, started: Instant) -> Option<Instant> {
        let now = Instant::now();
        let mut state = self.0.borrow_mut();
        match &state.phase {
            Phase::Measuring(begin, _) => {
                let is_over = now - *begin >= state.measured;
                state.operations += 1;
                state
                    .latency_ns
                    .saturating_record((now - started).as_nanos() as u64);
                if is_over {
                    state.end(now);
                    return None;
                }
            }
            Phase::WarmingUp(begin) => {
                if now - *begin >= state.warm_up {
                    state.begin();
                }
            }
            Phase::Over(_) => return None,
        }
        Some(now)
    }

    /// A read failed: the others end as well.
    pub fn fail(&self, error: impl std::fmt::Display) {
        let mut state = self.0.borrow_mut();
        let first = state.error.take().unwrap_or_else(|| error.to_string());
        state.phase = Phase::Over(Err(first.clone()));
        state.error = Some(first);
    }

    /// What came out.
    pub fn figures(&self) -> Result<ReadFigures, String> {
        match &self.0.borrow().phase {
            Phase::Over(figures) => figures.clone(),
            _ => Err("the loop ended before its time".to_owned()),
        }
    }
}

impl State {
    #[cold]
    fn begin(&mut self) {
        self.phase = match look(self.core) {
            Ok(look) => Phase::Measuring(Instant::now(), look),
            Err(error) => Phase::Over(Err(error.to_string())),
        };
    }

    #[cold]
    fn end(&mut self, now: Instant) {
        let Phase::Measuring(begin, before) = &self.phase else {
            unreachable!("it ends what is being measured");
        };
        let figures = look(self.core).map(|after| {
            let used = after.cpu.since(before.cpu);
            let cpu = used.total();
            let each = |time: Duration| time.as_secs_f64() * 1e6 / self.operations.max(1) as f64;
            let worker = after.ring_workers.saturating_sub(before.ring_workers);
            let microseconds = |quantile| self.latency_ns.value_at_quantile(quantile) as f64 / 1e3;
            ReadFigures {
                operations: self.operations,
                rate: self.operations as f64 / (now - *begin).as_secs_f64(),
                cpu_us: each(cpu),
                user_us: each(used.user),
                p50_us: microseconds(0.5),
                p99_us: microseconds(0.99),
                busy_percent: after.core.busy_percent_since(before.core),
                ring_worker_percent: 100.0 * worker.as_secs_f64() / cpu.as_secs_f64().max(1e-9),
                steal_percent: after.machine.steal_percent_since(before.machine),
            }
        });
        self.phase = Phase::Over(figures.map_err(|error| error.to_string()));
    }
}

/// Offsets of pages at random, another sequence for each task.
pub(super) struct Offsets {
    random: Random,
    pages: u64,
}

impl Offsets {
    /// The sequence of task `number`.
    pub fn new(options: &ReadOptions, number: u32) -> Offsets {
        Offsets {
            random: Random::new(u64::from(number) + 1),
            pages: options.bytes / PAGE as u64,
        }
    }

    /// The next one.
    #[inline]
    pub fn draw(&mut self) -> u64 {
        self.random.below(self.pages) * PAGE as u64
    }
}

//! What happened, as a hash over everything and as the last steps for a human.
//!
//! Two runs with equal hashes took the same steps at the same virtual times. The tail is printed
//! when a world ends in a panic.

use std::cell::{Cell, RefCell};
use std::fmt;

use super::faults::Fault;
use super::random::mix;

/// Steps kept for a human: enough to see the last operations of each core, short enough to read.
const TAIL_STEPS: usize = 48;

/// What a step was. The two numbers beside it are named by the variant's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Core, task.
    Poll,
    /// Device offset, bytes.
    SubmitRead,
    /// Device offset, bytes.
    SubmitWrite,
    /// Device number, writes completed before.
    SubmitFlush,
    /// Device offset, bytes.
    SubmitDiscard,
    /// Operation, 1 if it failed.
    Complete,
    /// Timer, zero.
    TimerFired,
    /// Device offset, bytes; or the connection and zero.
    Injected(Fault),
    /// Connection, port.
    Connect,
    /// Connection, bytes.
    Send,
    /// Connection, bytes.
    Receive,
    /// Core, zero.
    CoreStarted,
    /// Core, zero.
    CoreKilled,
    /// One if power was lost, zero.
    Crash,
}

#[derive(Clone, Copy)]
struct Entry {
    at: u64,
    step: Step,
    first: u64,
    second: u64,
}

pub(super) struct Trace {
    hash: Cell<u64>,
    steps: Cell<u64>,
    tail: RefCell<[Option<Entry>; TAIL_STEPS]>,
}

impl Trace {
    pub(super) fn new(seed: u64) -> Self {
        Trace {
            hash: Cell::new(mix(seed)),
            steps: Cell::new(0),
            tail: RefCell::new([None; TAIL_STEPS]),
        }
    }

    pub(super) fn record(&self, at: u64, step: Step, first: u64, second: u64) {
        let kind = match step {
            Step::Injected(fault) => 64 + fault as u64,
            Step::Poll => 1,
            Step::SubmitRead => 2,
            Step::SubmitWrite => 3,
            Step::SubmitFlush => 4,
            Step::SubmitDiscard => 5,
            Step::Complete => 6,
            Step::TimerFired => 7,
            Step::Connect => 8,
            Step::Send => 9,
            Step::Receive => 10,
            Step::CoreStarted => 11,
            Step::CoreKilled => 12,
            Step::Crash => 13,
        };
        let step_hash = mix(at ^ kind << 56).wrapping_add(first).rotate_left(29) ^ second;
        self.hash.set(mix(self.hash.get() ^ step_hash));
        let steps = self.steps.get();
        self.steps.set(steps + 1);
        self.tail.borrow_mut()[(steps % TAIL_STEPS as u64) as usize] = Some(Entry {
            at,
            step,
            first,
            second,
        });
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash.get()
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tail = self.tail.borrow();
        let oldest = (self.steps.get() % TAIL_STEPS as u64) as usize;
        for index in 0..TAIL_STEPS {
            if let Some(entry) = tail[(oldest + index) % TAIL_STEPS] {
                let Entry {
                    at,
                    step,
                    first,
                    second,
                } = entry;
                writeln!(formatter, "  {at:>14} ns  {step:?} {first} {second}")?;
            }
        }
        Ok(())
    }
}

//! The timers of one core: a hierarchical wheel, so that a sleep costs no system call and no
//! allocation once the wheel has grown to the number of sleepers.
//!
//! Time is counted in ticks of 1,024 ns, rounded up, so a timer never fires early. Level `l` has
//! 64 slots of `64^l` ticks; a timer sits in the level of the highest bit in which its tick
//! differs from the wheel's, and moves down as the wheel gets there.
//! Timers fire in the order of their ticks; those of one tick in no particular order.

use std::task::Waker;

use slab::Slab;

const TICK_SHIFT: u32 = 10;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// 54 bits of ticks hold every u64 of nanoseconds.
const LEVELS: usize = 9;
const NIL: u32 = u32::MAX;

enum State {
    Waiting {
        level: u8,
        slot: u8,
        previous: u32,
        next: u32,
        waker: Option<Waker>,
    },
    Fired,
}

struct Timer {
    tick: u64,
    state: State,
}

pub(super) struct TimerWheel {
    timers: Slab<Timer>,
    heads: [[u32; SLOTS]; LEVELS],
    /// Bit map of the slots that hold timers, by level.
    occupied: [u64; LEVELS],
    /// Every timer of an earlier or equal tick has fired.
    tick: u64,
}

/// Names a timer in the wheel, from [`TimerWheel::insert`] to [`TimerWheel::remove`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimerKey(u32);

impl Default for TimerWheel {
    fn default() -> Self {
        TimerWheel {
            timers: Slab::new(),
            heads: [[NIL; SLOTS]; LEVELS],
            occupied: [0; LEVELS],
            tick: 0,
        }
    }
}

impl TimerWheel {
    /// A timer that fires once the clock reaches `deadline_ns`.
    pub fn insert(&mut self, deadline_ns: u64, waker: Waker) -> TimerKey {
        let tick = deadline_ns.div_ceil(1 << TICK_SHIFT);
        let key = self.timers.insert(Timer {
            tick,
            state: State::Fired,
        }) as u32;
        if tick > self.tick {
            self.link(key, Some(waker));
        } else {
            waker.wake();
        }
        TimerKey(key)
    }

    /// Whether the timer has fired; if not, `waker` is woken when it does.
    pub fn poll(&mut self, key: TimerKey, waker: &Waker) -> bool {
        match &mut self.timers[key.0 as usize].state {
            State::Fired => true,
            State::Waiting { waker: waiting, .. } => {
                match waiting {
                    Some(waiting) => waiting.clone_from(waker),
                    None => *waiting = Some(waker.clone()),
                }
                false
            }
        }
    }

    /// Forgets a timer, fired or not.
    pub fn remove(&mut self, key: TimerKey) {
        drop(self.unlink(key.0));
        self.timers.remove(key.0 as usize);
    }

    /// Fires everything that is due at `now_ns`, in order.
    pub fn advance(&mut self, now_ns: u64, woken: &mut Vec<Waker>) {
        let target = now_ns >> TICK_SHIFT;
        while let Some((level, slot, start)) = self.earliest_slot() {
            if start > target {
                break;
            }
            self.tick = self.tick.max(start);
            self.empty_slot(level, slot, woken);
        }
        self.tick = self.tick.max(target);
    }

    /// When [`TimerWheel::advance`] next has something to do, in nanoseconds. At a higher level
    /// this is the start of a slot: early, never late.
    pub fn next_ns(&self) -> Option<u64> {
        self.earliest_slot()
            .map(|(_, _, start)| start << TICK_SHIFT)
    }

    /// Fires the due timers of a slot and moves the others down.
    fn empty_slot(&mut self, level: usize, slot: usize, woken: &mut Vec<Waker>) {
        while self.heads[level][slot] != NIL {
            let key = self.heads[level][slot];
            let waker = self.unlink(key);
            if self.timers[key as usize].tick <= self.tick {
                woken.extend(waker);
            } else {
                self.link(key, waker);
            }
        }
    }

    /// Level, slot and first tick of the slot that comes next.
    fn earliest_slot(&self) -> Option<(usize, usize, u64)> {
        // A timer of a lower level is always earlier than one of a higher level.
        let level = (0..LEVELS).find(|level| self.occupied[*level] != 0)?;
        let slot = self.occupied[level].trailing_zeros() as usize;
        let shift = SLOT_BITS * level as u32;
        let above = self.tick >> shift >> SLOT_BITS << SLOT_BITS;
        Some((level, slot, (above | slot as u64) << shift))
    }

    fn link(&mut self, key: u32, waker: Option<Waker>) {
        let tick = self.timers[key as usize].tick;
        let level = (63 - (tick ^ self.tick).leading_zeros()) / SLOT_BITS;
        let slot = (tick >> (SLOT_BITS * level)) as usize & (SLOTS - 1);
        let level = level as usize;
        let next = std::mem::replace(&mut self.heads[level][slot], key);
        if next != NIL {
            self.set_previous(next, key);
        }
        self.occupied[level] |= 1 << slot;
        self.timers[key as usize].state = State::Waiting {
            level: level as u8,
            slot: slot as u8,
            previous: NIL,
            next,
            waker,
        };
    }

    /// Takes a timer out of its slot and gives its waker; a fired one is in no slot.
    fn unlink(&mut self, key: u32) -> Option<Waker> {
        let state = std::mem::replace(&mut self.timers[key as usize].state, State::Fired);
        let State::Waiting {
            level,
            slot,
            previous,
            next,
            waker,
        } = state
        else {
            return None;
        };
        let (level, slot) = (level as usize, slot as usize);
        if previous == NIL {
            self.heads[level][slot] = next;
        } else {
            self.set_next(previous, next);
        }
        if next != NIL {
            self.set_previous(next, previous);
        }
        if self.heads[level][slot] == NIL {
            self.occupied[level] &= !(1 << slot);
        }
        waker
    }

    fn set_previous(&mut self, key: u32, value: u32) {
        match &mut self.timers[key as usize].state {
            State::Waiting { previous, .. } => *previous = value,
            State::Fired => unreachable!("a fired timer is in no slot"),
        }
    }

    fn set_next(&mut self, key: u32, value: u32) {
        match &mut self.timers[key as usize].state {
            State::Waiting { next, .. } => *next = value,
            State::Fired => unreachable!("a fired timer is in no slot"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};
    use std::task::Wake;

    use proptest::prelude::*;

    use super::*;

    struct Note(u64, Arc<Mutex<Vec<u64>>>);

    impl Wake for Note {
        fn wake(self: Arc<Self>) {
            self.1.lock().expect("no test thread panicked").push(self.0);
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert {
            after_ns: u64,
        },
        Remove {
            nth: usize,
        },
        Advance {
            by_ns: u64,
        },
        /// To what `next_ns` says, as the loop does when nothing else happens.
        AdvanceToNext,
    }

    fn span() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..5_000u64,
            0..1_000_000u64,
            0..10_000_000_000u64,
            0..(1u64 << 52)
        ]
    }

    fn operation() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => span().prop_map(|after_ns| Op::Insert { after_ns }),
            1 => (0..20usize).prop_map(|nth| Op::Remove { nth }),
            1 => span().prop_map(|by_ns| Op::Advance { by_ns }),
            2 => Just(Op::AdvanceToNext),
        ]
    }

    proptest! {
        #[test]
        fn timers_fire_once_in_order_never_early_and_never_late(
            operations in prop::collection::vec(operation(), 0..200),
        ) {
            let fired = Arc::new(Mutex::new(Vec::new()));
            let mut wheel = TimerWheel::default();
            let mut waiting: BTreeMap<(u64, u64), TimerKey> = BTreeMap::new();
            let mut now = 0u64;
            for (number, operation) in operations.into_iter().enumerate() {
                let number = number as u64;
                match operation {
                    Op::Insert { after_ns } => {
                        let deadline = now + after_ns;
                        let waker = Waker::from(Arc::new(Note(number, Arc::clone(&fired))));
                        let key = wheel.insert(deadline, waker);
                        let tick = deadline.div_ceil(1 << TICK_SHIFT);
                        if tick <= now >> TICK_SHIFT {
                            prop_assert_eq!(fired.lock().expect("not poisoned").pop(), Some(number));
                            wheel.remove(key);
                        } else {
                            waiting.insert((tick, number), key);
                        }
                    }
                    Op::Remove { nth } => {
                        if let Some((&name, &key)) = waiting.iter().nth(nth) {
                            wheel.remove(key);
                            waiting.remove(&name);
                        }
                    }
                    Op::Advance { .. } | Op::AdvanceToNext => {
                        now = match operation {
                            Op::Advance { by_ns } => now.saturating_add(by_ns).min(1 << 60),
                            _ => wheel.next_ns().unwrap_or(now).max(now),
                        };
                        let mut woken = Vec::new();
                        wheel.advance(now, &mut woken);
                        woken.into_iter().for_each(Waker::wake);
                        let order: Vec<u64> = std::mem::take(&mut *fired.lock().expect("not poisoned"));
                        let later = waiting.split_off(&((now >> TICK_SHIFT) + 1, 0));
                        let due = std::mem::replace(&mut waiting, later);
                        let ticks: BTreeMap<u64, u64> = due.keys().map(|(tick, number)| (*number, *tick)).collect();
                        prop_assert_eq!(order.len(), due.len());
                        let mut last = 0;
                        for number in order {
                            let tick = ticks.get(&number).copied();
                            prop_assert!(tick.is_some_and(|tick| tick >= last), "{} out of order", number);
                            last = tick.unwrap_or(last);
                        }
                        due.into_values().for_each(|key| wheel.remove(key));
                        if let Some((&(tick, _), _)) = waiting.first_key_value() {
                            let next = wheel.next_ns().expect("a timer waits");
                            prop_assert!(next > now && next <= tick << TICK_SHIFT);
                        } else {
                            prop_assert_eq!(wheel.next_ns(), None);
                        }
                    }
                }
            }
        }
    }
}

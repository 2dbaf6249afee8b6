//! S3-FIFO (Yang et al., SOSP 2023): a small queue for what is new, a main queue for what was
//! asked for again, and a ghost of what the small queue let go.
//!
//! Queues hold slots with a generation, so that a removed slot is skipped when its stale entry
//! comes up instead of being searched for.

use std::collections::VecDeque;

use super::{Policy, Slot};

/// Share of the slots that the small queue may take, in percent. The paper's value.
const SMALL_PERCENT: usize = 10;

/// A frequency saturates here: two bits are enough, by the paper.
const FREQUENCY_MAX: u8 = 3;

/// Ghost entries per slot. The ghost also sees keys that were read from the device and not kept,
/// so it is larger than the main queue.
const GHOST_PER_SLOT: usize = 2;

#[derive(Clone, Copy)]
struct Entry {
    slot: Slot,
    generation: u32,
}

#[derive(Clone, Copy, Default)]
struct SlotState {
    key: u64,
    generation: u32,
    frequency: u8,
    is_small: bool,
    is_live: bool,
}

/// The policy's state: about 40 bytes a slot.
pub struct S3Fifo {
    small: VecDeque<Entry>,
    main: VecDeque<Entry>,
    slots: Box<[SlotState]>,
    small_live: usize,
    small_live_max: usize,
    ghost: Ghost,
}

impl S3Fifo {
    /// A policy for `slots` slots.
    pub fn new(slots: usize) -> Self {
        S3Fifo {
            small: VecDeque::with_capacity(slots),
            main: VecDeque::with_capacity(slots),
            slots: vec![SlotState::default(); slots].into_boxed_slice(),
            small_live: 0,
            small_live_max: (slots * SMALL_PERCENT / 100).max(1),
            ghost: Ghost::new(slots * GHOST_PER_SLOT),
        }
    }

    fn is_current(&self, entry: Entry) -> bool {
        let state = self.slots[entry.slot as usize];
        state.is_live && state.generation == entry.generation
    }

    /// Drops the stale entries of a queue that has twice as many entries as there are slots: where
    /// frames are taken out and nothing has to go for room, they would pile up without end.
    fn sweep(queue: &mut VecDeque<Entry>, slots: &[SlotState]) {
        if queue.len() >= 2 * slots.len() {
            queue.retain(|entry| {
                let state = slots[entry.slot as usize];
                state.is_live && state.generation == entry.generation
            });
        }
    }

    fn forget(&mut self, slot: Slot) {
        let state = &mut self.slots[slot as usize];
        assert!(state.is_live, "slot {slot} is not in the policy");
        state.is_live = false;
        if state.is_small {
            self.small_live -= 1;
        }
    }

    fn victim_of_small(&mut self) -> Option<Slot> {
        while let Some(entry) = self.small.pop_front() {
            if !self.is_current(entry) {
                continue;
            }
            let state = &mut self.slots[entry.slot as usize];
            if state.frequency > 0 {
                state.is_small = false;
                state.frequency = 0;
                self.small_live -= 1;
                self.main.push_back(entry);
                continue;
            }
            let key = state.key;
            self.ghost.insert(key);
            self.forget(entry.slot);
            return Some(entry.slot);
        }
        None
    }

    fn victim_of_main(&mut self) -> Option<Slot> {
        while let Some(entry) = self.main.pop_front() {
            if !self.is_current(entry) {
                continue;
            }
            let state = &mut self.slots[entry.slot as usize];
            if state.frequency > 0 {
                state.frequency -= 1;
                self.main.push_back(entry);
                continue;
            }
            self.forget(entry.slot);
            return Some(entry.slot);
        }
        None
    }
}

impl Policy for S3Fifo {
    fn inserted(&mut self, slot: Slot, key: u64) {
        let is_small = !self.ghost.take(key);
        let state = &mut self.slots[slot as usize];
        assert!(!state.is_live, "slot {slot} is in the policy already");
        let generation = state.generation.wrapping_add(1);
        *state = SlotState {
            key,
            generation,
            frequency: 0,
            is_small,
            is_live: true,
        };
        let entry = Entry { slot, generation };
        if is_small {
            self.small_live += 1;
            self.small.push_back(entry);
            Self::sweep(&mut self.small, &self.slots);
        } else {
            self.main.push_back(entry);
            Self::sweep(&mut self.main, &self.slots);
        }
    }

    #[inline]
    fn touched(&mut self, slot: Slot) {
        let state = &mut self.slots[slot as usize];
        state.frequency = (state.frequency + 1).min(FREQUENCY_MAX);
    }

    fn removed(&mut self, slot: Slot) {
        self.forget(slot);
    }

    fn victim(&mut self) -> Option<Slot> {
        if self.small_live > self.small_live_max
            && let Some(slot) = self.victim_of_small()
        {
            return Some(slot);
        }
        self.victim_of_main().or_else(|| self.victim_of_small())
    }

    fn admits(&mut self, key: u64) -> bool {
        if self.ghost.contains(key) {
            return true;
        }
        self.ghost.insert(key);
        false
    }
}

/// Fingerprints of keys, in a direct-mapped table: a newer key displaces an older one in its place.
struct Ghost {
    fingerprints: Box<[u32]>,
}

impl Ghost {
    fn new(entries: usize) -> Self {
        Ghost {
            fingerprints: vec![0; entries.next_power_of_two()].into_boxed_slice(),
        }
    }

    fn place(&self, key: u64) -> (usize, u32) {
        let place = key as usize & (self.fingerprints.len() - 1);
        // Zero means empty, so a fingerprint never is.
        (place, (key >> 32) as u32 | 1)
    }

    fn insert(&mut self, key: u64) {
        let (place, fingerprint) = self.place(key);
        self.fingerprints[place] = fingerprint;
    }

    fn contains(&self, key: u64) -> bool {
        let (place, fingerprint) = self.place(key);
        self.fingerprints[place] == fingerprint
    }

    fn take(&mut self, key: u64) -> bool {
        let (place, fingerprint) = self.place(key);
        let is_present = self.fingerprints[place] == fingerprint;
        if is_present {
            self.fingerprints[place] = 0;
        }
        is_present
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_does_not_push_out_what_is_asked_for_again() {
        let mut policy = S3Fifo::new(100);
        let mut free: Vec<Slot> = (0..100).collect();
        let key = |number: u64| (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut kept = vec![None; 100];
        let mut insert = |policy: &mut S3Fifo, number: u64| {
            let slot = free.pop().or_else(|| policy.victim()).expect("a slot");
            kept[slot as usize] = Some(number);
            policy.inserted(slot, key(number));
            (slot, kept.clone())
        };
        for number in 0..50 {
            let (slot, _) = insert(&mut policy, number);
            policy.touched(slot);
        }
        let mut last = Vec::new();
        for number in 1000..1200 {
            last = insert(&mut policy, number).1;
        }
        let survivors = last.iter().flatten().filter(|number| **number < 50).count();
        assert!(survivors >= 45, "{survivors} of the 50 hot frames are left");
    }

    #[test]
    fn what_comes_back_soon_after_it_went_is_admitted() {
        let mut policy = S3Fifo::new(4);
        assert!(!policy.admits(77 << 32 | 5));
        assert!(policy.admits(77 << 32 | 5));
    }

    #[test]
    fn frames_that_come_and_are_taken_out_leave_nothing_behind() {
        let mut policy = S3Fifo::new(4);
        for round in 0..10_000 {
            policy.inserted(round % 4, u64::from(round));
            policy.removed(round % 4);
        }
        assert!(policy.small.len() <= 8 && policy.main.len() <= 8);
    }

    #[test]
    fn a_removed_slot_is_never_a_victim() {
        let mut policy = S3Fifo::new(4);
        for slot in 0..4 {
            policy.inserted(slot, u64::from(slot) + 1);
        }
        policy.removed(2);
        let mut victims: Vec<Slot> = std::iter::from_fn(|| policy.victim()).collect();
        victims.sort_unstable();
        assert_eq!(victims, [0, 1, 3]);
    }
}

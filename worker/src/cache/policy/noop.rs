//! Keeps only what fills bring, first in first out, and nothing that was read from the device.
//! For measuring the device path alone.

use std::collections::VecDeque;

use super::{Policy, Slot};

/// First in, first out; admits nothing from the device.
pub struct Noop {
    queue: VecDeque<Slot>,
}

impl Noop {
    /// A policy for `slots` slots.
    pub fn new(slots: usize) -> Self {
        Noop {
            queue: VecDeque::with_capacity(slots),
        }
    }
}

impl Policy for Noop {
    fn inserted(&mut self, slot: Slot, _key: u64) {
        self.queue.push_back(slot);
    }

    fn touched(&mut self, _slot: Slot) {}

    fn removed(&mut self, slot: Slot) {
        self.queue.retain(|other| *other != slot);
    }

    fn victim(&mut self) -> Option<Slot> {
        self.queue.pop_front()
    }

    fn admits(&mut self, _key: u64) -> bool {
        false
    }
}

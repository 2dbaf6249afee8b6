//! What happens next: events in the order of their times, those of one time in the order in which
//! they were added, so that a run can be repeated.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Events of type `E`. Times are nanoseconds since the start of the simulation.
#[derive(Debug)]
pub struct Events<E> {
    queue: BinaryHeap<Reverse<Entry<E>>>,
    added: u64,
    now: u64,
}

#[derive(Debug)]
struct Entry<E> {
    at: u64,
    number: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl<E> Default for Events<E> {
    fn default() -> Self {
        Events {
            queue: BinaryHeap::new(),
            added: 0,
            now: 0,
        }
    }
}

impl<E> Events<E> {
    /// The time of the event that happened last.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Adds an event that happens `after` from now.
    pub fn add(&mut self, after: u64, event: E) {
        self.added += 1;
        self.queue.push(Reverse(Entry {
            at: self.now.saturating_add(after),
            number: self.added,
            event,
        }));
    }

    /// Takes the next event; the clock moves to it.
    pub fn pop(&mut self) -> Option<E> {
        let Reverse(entry) = self.queue.pop()?;
        assert!(entry.at >= self.now, "time runs forward");
        self.now = entry.at;
        Some(entry.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_and_then_by_age() {
        let mut events = Events::default();
        for (after, event) in [(5, 'c'), (1, 'a'), (5, 'd'), (2, 'b')] {
            events.add(after, event);
        }
        let mut order = String::new();
        while let Some(event) = events.pop() {
            order.push(event);
            if event == 'b' {
                events.add(3, 'e');
            }
        }
        assert_eq!(order, "abcde");
        assert_eq!(events.now(), 5);
    }
}

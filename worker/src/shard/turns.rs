//! Turns at memory that a task needs several pieces of before it can give any back.
//!
//! Tasks that each hold a part and wait for the rest wait for ever. So whoever needs several pieces
//! takes its turn first: what all turns together may need is never more than there is.
//!
//! The invariant: turns are given in the order in which they were asked for, so that one that needs
//! much is not overtaken without end by those that need little.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use super::signal::WaitList;

/// Turns for a fixed number of pieces.
pub struct Turns {
    pieces: usize,
    free: Cell<usize>,
    waiting: RefCell<VecDeque<u64>>,
    next_ticket: Cell<u64>,
    changed: WaitList,
}

/// The right to hold some pieces; given back when dropped.
pub struct Turn<'a> {
    turns: &'a Turns,
    pieces: usize,
}

/// A place in the queue; given up when dropped.
struct Place<'a> {
    turns: &'a Turns,
    ticket: u64,
}

impl Turns {
    /// Turns for `pieces` pieces.
    pub fn new(pieces: usize) -> Self {
        Turns {
            pieces,
            free: Cell::new(pieces),
            waiting: RefCell::default(),
            next_ticket: Cell::new(0),
            changed: WaitList::default(),
        }
    }

    /// Whether nobody has a turn or waits for one.
    pub fn is_free(&self) -> bool {
        self.free.get() == self.pieces && self.waiting.borrow().is_empty()
    }

    /// Waits for a turn at `pieces` pieces; for all of them where that is more than there are.
    pub async fn take(&self, pieces: usize) -> Turn<'_> {
        let pieces = pieces.min(self.pieces);
        if !self.waiting.borrow().is_empty() || self.free.get() < pieces {
            let place = self.queue_up();
            self.changed
                .until(|| (place.is_first() && self.free.get() >= pieces).then_some(()))
                .await;
        }
        self.free.set(self.free.get() - pieces);
        Turn {
            turns: self,
            pieces,
        }
    }

    fn queue_up(&self) -> Place<'_> {
        let ticket = self.next_ticket.get();
        self.next_ticket.set(ticket + 1);
        self.waiting.borrow_mut().push_back(ticket);
        Place {
            turns: self,
            ticket,
        }
    }
}

impl Place<'_> {
    fn is_first(&self) -> bool {
        self.turns.waiting.borrow().front() == Some(&self.ticket)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let ticket = self.ticket;
        self.turns
            .waiting
            .borrow_mut()
            .retain(|other| *other != ticket);
        // The next one may go on at once.
        self.turns.changed.wake_all();
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.free.set(self.turns.free.get() + self.pieces);
        self.turns.changed.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn turns_together_never_exceed_what_there_is_and_come_in_order() {
        let turns = Turns::new(10);
        let first = turns.take(6).now_or_never().expect("room for six");
        let mut large = Box::pin(turns.take(8));
        let mut small = Box::pin(turns.take(1));
        assert!(large.as_mut().now_or_never().is_none());
        assert!(
            small.as_mut().now_or_never().is_none(),
            "the small one waits behind the large one, though it would fit"
        );
        drop(first);
        assert!(small.as_mut().now_or_never().is_none());
        let second = large.as_mut().now_or_never().expect("room for eight");
        let third = small.as_mut().now_or_never().expect("first in the queue");
        assert_eq!(turns.free.get(), 1);
        drop((second, third));
        assert_eq!(turns.free.get(), 10);
    }

    #[test]
    fn who_gives_up_lets_the_next_one_pass() {
        let turns = Turns::new(4);
        let _first = turns.take(3).now_or_never().expect("room for three");
        let mut gone = Box::pin(turns.take(4));
        let mut next = Box::pin(turns.take(1));
        assert!(gone.as_mut().now_or_never().is_none());
        assert!(next.as_mut().now_or_never().is_none());
        drop(gone);
        assert!(next.as_mut().now_or_never().is_some());
    }

    #[test]
    fn more_than_there_is_gets_all() {
        let turns = Turns::new(2);
        assert!(turns.take(5).now_or_never().is_some());
    }
}

//! The open connections of a core, and which of them are cut off.
//!
//! The invariant: every connection that waits for its client waits for a bounded time.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use corelane_io::{Nanos, Stream};
use slab::Slab;

use crate::data_plane::outbox::{PeerCredit, SharedCredit};
use crate::places::{Standing, Taken, open_max, to_free};
use crate::shard::lanes::Credits;
use crate::shard::signal::WaitList;

/// A connection without a request: longer than the pools of the usual clients keep one, so that it is
/// the client that ends it.
const IDLE_MAX: Duration = Duration::from_secs(180);

/// The rest of a head: it is sent at once, by anyone who means it.
const HEAD_MAX: Duration = Duration::from_secs(20);

/// Between two pieces of a body: what S3 waits for, about.
const BODY_MAX: Duration = Duration::from_secs(30);

/// A body that nobody wants, all of it: the client is given its answer meanwhile.
const DISCARD_MAX: Duration = Duration::from_secs(30);

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The next request.
    Idle,
    /// The rest of a head.
    Head,
    /// More of a body.
    Body,
    /// More of a body whose request was answered already.
    Discarding,
    /// Us.
    Working,
    /// The client to take what is sent.
    Sending,
}

/// What the watch sees of a connection.
#[derive(Debug)]
pub struct Watched {
    phase: Cell<Phase>,
    since: Cell<Nanos>,
    /// Whether a whole request has come.
    has_asked: Cell<bool>,
    is_going: Cell<bool>,
    /// Whether it was closed because others need its place.
    is_closed: Cell<bool>,
}

impl Watched {
    /// A connection that was opened at `now`.
    pub fn new(now: Nanos) -> Self {
        Watched {
            phase: Cell::new(Phase::Idle),
            since: Cell::new(now),
            has_asked: Cell::new(false),
            is_going: Cell::new(false),
            is_closed: Cell::new(false),
        }
    }

    /// It waits for something else since `now`.
    #[inline]
    pub fn enter(&self, phase: Phase, now: Nanos) {
        self.phase.set(phase);
        self.since.set(now);
        if matches!(phase, Phase::Working | Phase::Sending) {
            self.has_asked.set(true);
        }
    }

    /// What the connection is doing, for whoever needs its place.
    fn standing(&self, now: Nanos) -> Standing {
        let waited = now.since(self.since.get());
        match self.phase.get() {
            _ if self.is_closed.get() => Standing::Busy,
            Phase::Idle | Phase::Head if !self.has_asked.get() => Standing::Unproven(waited),
            Phase::Idle | Phase::Head | Phase::Discarding => Standing::Idle(waited),
            Phase::Body | Phase::Working | Phase::Sending => Standing::Busy,
        }
    }

    /// What it waits for.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Whether the worker is about to stop: the present answer is the last.
    pub fn is_going(&self) -> bool {
        self.is_going.get()
    }

    fn is_overdue(&self, now: Nanos, send_max: Duration) -> bool {
        let waited = now.since(self.since.get());
        match self.phase.get() {
            Phase::Idle => waited > IDLE_MAX,
            Phase::Head => waited > HEAD_MAX,
            Phase::Body => waited > BODY_MAX,
            Phase::Discarding => waited > DISCARD_MAX,
            Phase::Sending => waited > send_max,
            Phase::Working => false,
        }
    }
}

/// The open connections of a core, at most a fixed number.
pub struct Connections<S> {
    open: RefCell<Slab<(Rc<Watched>, S)>>,
    limit: usize,
    left: WaitList,
    /// The part of each peer in what these connections share. What lanes hold is not in it, so that lanes
    /// never keep these waiting.
    credits: Credits,
    shared: OnceCell<Rc<SharedCredit>>,
}

impl<S: Stream> Connections<S> {
    /// None yet, at most `limit`.
    pub fn new(limit: usize) -> Self {
        Connections {
            open: RefCell::default(),
            limit,
            left: WaitList::default(),
            credits: Credits::default(),
            shared: OnceCell::new(),
        }
    }

    /// The part of `peer` in what these connections share, which is as much as `all`.
    pub fn credit_of(&self, all: &SharedCredit, peer: IpAddr, now: Nanos) -> Rc<PeerCredit> {
        let shared = self.shared.get_or_init(|| Rc::new(all.another()));
        self.credits.of(shared, peer, now)
    }

    /// A ticket for a new connection, or `None` when too many are open that do not only wait.
    pub fn enter(&self, watched: &Rc<Watched>, stream: &S, now: Nanos) -> Option<usize> {
        if !self.has_place(stream.peer().ip(), now) {
            return None;
        }
        let mut open = self.open.borrow_mut();
        Some(open.insert((Rc::clone(watched), stream.clone())))
    }

    /// Whether a connection of `newcomer` has a place; where all are taken, those are closed that only wait.
    /// They leave in their own time.
    fn has_place(&self, newcomer: IpAddr, now: Nanos) -> bool {
        let open = self.open.borrow();
        let stay = || {
            open.iter()
                .filter(|(_, (watched, _))| !watched.is_closed.get())
        };
        if open.len() < self.limit
            || open.len() < open_max(self.limit) && stay().count() < self.limit
        {
            return true;
        }
        if open.len() >= open_max(self.limit) {
            return false;
        }
        let taken = open.iter().map(|(key, (watched, stream))| Taken {
            key,
            peer: stream.peer().ip(),
            standing: watched.standing(now),
        });
        let freed = to_free(taken, newcomer);
        for key in &freed {
            let (watched, stream) = &open[*key];
            watched.is_closed.set(true);
            stream.close();
        }
        !freed.is_empty()
    }

    /// Gives the ticket back.
    pub fn leave(&self, ticket: usize) {
        self.open.borrow_mut().remove(ticket);
        self.left.wake_all();
    }

    /// Open connections.
    pub fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes those whose clients took too long; gives their number.
    pub fn close_overdue(&self, now: Nanos, send_max: Duration) -> u64 {
        let open = self.open.borrow();
        let overdue = open
            .iter()
            .filter(|(_, (watched, _))| watched.is_overdue(now, send_max));
        // Closing only sets flags and wakes tasks, which leave the table in their own time.
        overdue.map(|(_, (_, stream))| stream.close()).count() as u64
    }

    /// Asks all to go after their present answer, and closes those that have none to give.
    pub fn go(&self) {
        for (_, (watched, stream)) in self.open.borrow().iter() {
            watched.is_going.set(true);
            if watched.phase.get() == Phase::Idle {
                stream.close();
            }
        }
    }

    /// Resolves when none is open.
    pub async fn until_empty(&self) {
        self.left.until(|| self.is_empty().then_some(())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_is_waited_for_so_long_and_no_longer() {
        let send_max = Duration::from_secs(7);
        let began = Nanos(1_000);
        let at = |waited: Duration| Nanos(began.0 + waited.as_nanos() as u64);
        for (phase, most) in [
            (Phase::Idle, IDLE_MAX),
            (Phase::Head, HEAD_MAX),
            (Phase::Body, BODY_MAX),
            (Phase::Discarding, DISCARD_MAX),
            (Phase::Sending, send_max),
        ] {
            let watched = Watched::new(Nanos(0));
            watched.enter(phase, began);
            assert!(!watched.is_overdue(at(most), send_max), "{phase:?}");
            let late = at(most + Duration::from_nanos(1));
            assert!(watched.is_overdue(late, send_max), "{phase:?}");
            // What the worker itself takes is not the client's fault.
            watched.enter(Phase::Working, began);
            assert!(!watched.is_overdue(late, send_max), "{phase:?}");
        }
    }
}

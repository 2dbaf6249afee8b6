//! The open connections of a shard, and which of them are cut off.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use corelane_io::{Io, Nanos, Stream};
use corelane_rpc_schema::messages::ErrorCode;

use futures::FutureExt;

use super::Shard;
use super::signal::WaitList;
use crate::data_plane::lane::LaneState;
use crate::data_plane::outbox::{PeerCredit, SharedCredit};
use crate::places::{Taken, network_of, open_max, to_free};
use crate::under_store::UnderStore;
use crate::watchdog::Watchdog;

/// How long clients that were asked to go have for going by themselves: what they sent before they
/// knew has arrived by then.
const GOING_GRACE: Duration = Duration::from_millis(250);

/// How often lanes are looked at while they go.
const DRAIN_STEP: Duration = Duration::from_millis(20);

/// The open lanes of a shard, at most a fixed number.
pub struct Lanes<S> {
    open: RefCell<slab::Slab<(Rc<LaneState>, S)>>,
    limit: usize,
    left: WaitList,
    credits: Credits,
}

/// The part of each peer in what all share: of its lanes, or of its connections to the S3 face.
#[derive(Default)]
pub struct Credits(RefCell<HashMap<IpAddr, Rc<PeerCredit>>>);

/// Peers of which a credit is kept at most beside those that have a connection.
const CREDITS_KEPT: usize = 256;

impl Credits {
    /// The part of `peer` in `shared`.
    pub fn of(&self, shared: &Rc<SharedCredit>, peer: IpAddr, now: Nanos) -> Rc<PeerCredit> {
        let mut credits = self.0.borrow_mut();
        let peer = network_of(peer);
        if let Some(credit) = credits.get(&peer) {
            return Rc::clone(credit);
        }
        if credits.len() >= CREDITS_KEPT {
            let is_used = |credit: &Rc<PeerCredit>| Rc::strong_count(credit) > 1;
            credits.retain(|_, credit| is_used(credit) || credit.has_offended(now));
        }
        if credits.len() >= 2 * CREDITS_KEPT {
            credits.retain(|_, credit| Rc::strong_count(credit) > 1);
        }
        let credit = Rc::new(PeerCredit::new(shared));
        credits.insert(peer, Rc::clone(&credit));
        credit
    }
}

impl<S: Stream> Lanes<S> {
    /// None yet, at most `limit`.
    pub fn new(limit: usize) -> Self {
        Lanes {
            open: RefCell::default(),
            limit,
            left: WaitList::default(),
            credits: Credits::default(),
        }
    }

    /// The part of `peer` in `shared`, for its lanes.
    pub fn credit_of(&self, shared: &Rc<SharedCredit>, peer: IpAddr, now: Nanos) -> Rc<PeerCredit> {
        self.credits.of(shared, peer, now)
    }

    /// A ticket for a new lane, or `None` when too many are open that do not only wait.
    pub fn enter(&self, lane: &Rc<LaneState>, stream: &S, now: Nanos) -> Option<usize> {
        if !self.has_place(stream.peer().ip(), now) {
            return None;
        }
        let mut open = self.open.borrow_mut();
        Some(open.insert((Rc::clone(lane), stream.clone())))
    }

    /// Whether a lane of `newcomer` has a place; where all are taken, those go that only wait. They leave
    /// in their own time.
    fn has_place(&self, newcomer: IpAddr, now: Nanos) -> bool {
        let open = self.open.borrow();
        let is_open = |lane: &LaneState| !lane.outbox.is_closed();
        let stay = || open.iter().filter(|(_, (lane, _))| is_open(lane));
        if open.len() < self.limit
            || open.len() < open_max(self.limit) && stay().count() < self.limit
        {
            return true;
        }
        if open.len() >= open_max(self.limit) {
            return false;
        }
        let taken = open.iter().map(|(key, (lane, stream))| Taken {
            key,
            peer: stream.peer().ip(),
            standing: lane.standing(now),
        });
        let freed = to_free(taken, newcomer);
        for key in &freed {
            let (lane, stream) = &open[*key];
            lane.end(
                ErrorCode::Busy,
                "others need its place, and it only waited".to_owned(),
            );
            stream.close();
        }
        !freed.is_empty()
    }

    /// Gives the ticket back.
    pub fn leave(&self, ticket: usize) {
        self.open.borrow_mut().remove(ticket);
        self.left.wake_all();
    }

    /// Open lanes.
    pub fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `visit` with every open lane. It must not open or close one at once.
    pub fn for_each(&self, mut visit: impl FnMut(&LaneState)) {
        for (_, (lane, _)) in self.open.borrow().iter() {
            visit(lane);
        }
    }

    /// Resolves when no lane is open.
    pub async fn until_empty(&self) {
        self.left.until(|| self.is_empty().then_some(())).await;
    }
}

/// How long a client may take for what is sent at a time, a MiB at most, while others wait for the memory.
const SEND_MAX_WITHOUT_ROOM: Duration = Duration::from_secs(5);

/// The same for a lane of a peer of which others were cut off for that: connecting anew does not give it
/// more time.
const SEND_MAX_OFFENDED: Duration = Duration::from_secs(1);

impl<I: Io, U: UnderStore> Shard<I, U> {
    /// Decides anew what every lane may read, and ends those whose token is gone.
    pub(crate) fn renew_access(&self) {
        self.access_generation.set(self.access.generation());
        self.access_renewals.set(self.access_renewals.get() + 1);
        self.lanes.for_each(|lane| {
            let Some(reader) = lane.reader.borrow().clone() else {
                return;
            };
            *lane.access.borrow_mut() = Arc::new(self.access_of(&reader));
            if self.access.standing(&reader).is_none() {
                // Hello begins it anew, which needs a token of now.
                *lane.reader.borrow_mut() = None;
                self.counters.lanes_failed.increase();
                let sentence =
                    "the token of this lane is not valid any more; connect again with a new one";
                lane.end(ErrorCode::Unauthenticated, sentence.to_owned());
            }
        });
    }

    /// Closes lanes whose clients do not say hello or stop reading, for as long as the shard lives.
    pub(crate) async fn watch_lanes(self: Rc<Self>) {
        let mut watchdog = Watchdog::new(self.tuning.lane_watch_interval);
        loop {
            let is_in_time = watchdog.tick(&self.io).await;
            let now = self.io.now();
            let is_short = !self.shared_credit.has_room();
            let send_max = self.tuning.send_deadline;
            // Where memory is short, whoever does not take what is sent is not waited for long.
            let send_max_short = send_max.min(SEND_MAX_WITHOUT_ROOM);
            let mut connections = self.lanes.len();
            self.slow.borrow_mut().drop_old(self.io.wall_clock_ms());
            if self.access_generation.get() != self.access.generation() {
                // The letter that says so did not come, or not yet.
                self.renew_access();
            }
            if !is_in_time {
                continue;
            }
            if let Some(face) = &self.s3 {
                connections += face.connections.len();
                let send_max = if is_short { send_max_short } else { send_max };
                let closed = face.connections.close_overdue(now, send_max);
                self.counters.s3_connections_timed_out.add(closed);
            }
            let part = self.shared_credit.part_of(connections);
            let is_short_of_lookups = self.lookups.unsent().is_short();
            for (_, (lane, stream)) in self.lanes.open.borrow().iter() {
                let outbox = &lane.outbox;
                let holds_too_much = is_short && outbox.held() > part
                    || is_short_of_lookups && outbox.lookup_bytes() > 0;
                let send_max = match holds_too_much {
                    true if outbox.peer().has_offended(now) => {
                        send_max_short.min(SEND_MAX_OFFENDED)
                    }
                    true => send_max_short,
                    false => send_max,
                };
                let Some(reason) = lane.overdue(now, send_max) else {
                    continue;
                };
                self.counters.lanes_timed_out.increase();
                if holds_too_much {
                    outbox.peer().offend(now);
                }
                // Clients choose how many of these there are, so the log has them on demand only.
                tracing::debug!(
                    shard = self.id.0,
                    peer = %stream.peer(),
                    client = %lane.client_name.borrow(),
                    reason,
                    "lane closed"
                );
                // All of it only sets flags and wakes tasks, which leave the table in their own time.
                lane.end(ErrorCode::Invalid, reason.to_owned());
                if lane.outbox.sending_since().is_some() {
                    // What is being sent is not taken, so that the reason would not be either.
                    stream.close();
                }
            }
        }
    }

    /// Asks clients to go, lets what is under way finish, and waits until the lanes have gone.
    /// A client that has nothing under way and stays is not waited for.
    pub(crate) async fn drain_lanes(&self) {
        self.lanes.for_each(LaneState::go_away);
        let face = self.s3.as_ref();
        if let Some(face) = face {
            face.connections.go();
        }
        let began = self.io.now();
        while !self.lanes.is_empty() || face.is_some_and(|face| !face.connections.is_empty()) {
            let waited = self.io.now().since(began);
            if waited >= self.tuning.drain_deadline {
                let lanes = self.lanes.len();
                let s3_connections = face.map_or(0, |face| face.connections.len());
                tracing::warn!(
                    shard = self.id.0,
                    lanes,
                    s3_connections,
                    "lanes were still busy at the deadline"
                );
                return;
            }
            if waited >= GOING_GRACE {
                self.lanes.for_each(LaneState::end_if_idle);
            }
            let all_gone = async {
                self.lanes.until_empty().await;
                if let Some(face) = face {
                    face.connections.until_empty().await;
                }
            };
            futures::select_biased! {
                () = all_gone.fuse() => {}
                () = self.io.sleep(DRAIN_STEP).fuse() => {}
            }
        }
    }
}

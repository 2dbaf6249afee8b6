//! The open connections of a shard, and which of them are cut off.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use corelane_io::{Io, Stream};
use corelane_rpc_schema::messages::ErrorCode;

use futures::FutureExt;

use super::Shard;
use super::signal::WaitList;
use crate::data_plane::lane::LaneState;
use crate::under_store::UnderStore;

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
}

impl<S: Stream> Lanes<S> {
    /// None yet, at most `limit`.
    pub fn new(limit: usize) -> Self {
        Lanes {
            open: RefCell::default(),
            limit,
            left: WaitList::default(),
        }
    }

    /// A ticket for a new lane, or `None` when too many are open.
    pub fn enter(&self, lane: &Rc<LaneState>, stream: &S) -> Option<usize> {
        let mut open = self.open.borrow_mut();
        (open.len() < self.limit).then(|| open.insert((Rc::clone(lane), stream.clone())))
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

/// How long a client of the S3 face may take for what is sent at a time, a MiB at most, while others
/// wait for the memory.
const SEND_MAX_WITHOUT_ROOM: Duration = Duration::from_secs(5);

impl<I: Io, U: UnderStore> Shard<I, U> {
    /// Decides anew what every lane may read, and ends those whose token is gone.
    pub(crate) fn renew_access(&self) {
        self.access_generation.set(self.access.generation());
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
        loop {
            self.io.sleep(self.tuning.lane_watch_interval).await;
            let now = self.io.now();
            self.slow.borrow_mut().drop_old(self.io.wall_clock_ms());
            if self.access_generation.get() != self.access.generation() {
                // The letter that says so did not come, or not yet.
                self.renew_access();
            }
            if let Some(face) = &self.s3 {
                // Where memory is short, whoever does not take what is sent is not waited for long.
                let send_max = match self.shared_credit.has_room() {
                    true => self.tuning.send_deadline,
                    false => self.tuning.send_deadline.min(SEND_MAX_WITHOUT_ROOM),
                };
                let closed = face.connections.close_overdue(now, send_max);
                self.counters.s3_connections_timed_out.add(closed);
            }
            for (_, (lane, stream)) in self.lanes.open.borrow().iter() {
                let Some(reason) = lane.overdue(now, self.tuning.send_deadline) else {
                    continue;
                };
                self.counters.lanes_timed_out.increase();
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

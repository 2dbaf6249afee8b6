//! Answers on their way out of a lane.
//!
//! Answers are appended to a batch while the previous batch is being sent, so that all that were
//! ready leave in one vectored call. Two batches take turns; in steady state nothing allocates.
//! The invariant: `requests` and `bytes` count every request from its decoding until its answer
//! was handed to the network, so what a client can pin is bounded by the limits given here.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use corelane_io::{Nanos, Payload, SendBatch};
use corelane_rpc_schema::frame::padding;

use crate::shard::signal::{Signal, WaitList};

/// Room for heads in a fresh batch. It grows with the depth that the lane is used at and keeps what
/// it grew to, so that thousands of idle lanes cost next to nothing.
const HEAD_BYTES: usize = 512;

/// Room for parts in a fresh batch; grows as well.
const PARTS: usize = 16;

static ZEROS: [u8; 8] = [0; 8];

/// What all lanes of a shard together may have unanswered: clients that do not read must not pin
/// the DRAM tier. When it is used up, a lane that has nothing unanswered may still have one
/// request, so that those who do not read keep nobody else waiting.
pub struct SharedCredit {
    bytes: Cell<u64>,
    bytes_max: u64,
    room: WaitList,
}

impl SharedCredit {
    /// Credit for `bytes_max` bytes; a read that starts below it may go over.
    pub fn new(bytes_max: u64) -> Self {
        SharedCredit {
            bytes: Cell::new(0),
            bytes_max,
            room: WaitList::default(),
        }
    }

    /// Unanswered bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    #[inline]
    fn has_room(&self) -> bool {
        self.bytes.get() < self.bytes_max
    }

    #[inline]
    fn take(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() + bytes);
    }

    fn give_back(&self, bytes: u64) {
        let was_full = !self.has_room();
        self.bytes.set(self.bytes.get() - bytes);
        if was_full && self.has_room() {
            self.room.wake_all();
        }
    }
}

/// What is owed in the batch that is being filled.
#[derive(Clone, Copy, Default)]
struct Owed {
    requests: u32,
    bytes: u64,
}

/// The answers of one lane.
pub struct Outbox {
    filling: RefCell<Box<SendBatch>>,
    owed: Cell<Owed>,
    requests: Cell<u32>,
    bytes: Cell<u64>,
    requests_max: u32,
    bytes_max: u64,
    shared: Rc<SharedCredit>,
    has_answers: Signal,
    room: WaitList,
    is_closed: Cell<bool>,
    sending_since: Cell<Option<Nanos>>,
}

impl Outbox {
    /// An outbox for at most so many unanswered requests and bytes, and no more than all lanes share.
    pub fn new(requests_max: u32, bytes_max: u64, shared: Rc<SharedCredit>) -> Self {
        Outbox {
            filling: RefCell::new(Box::new(SendBatch::with_capacity(HEAD_BYTES, PARTS))),
            owed: Cell::default(),
            requests: Cell::new(0),
            bytes: Cell::new(0),
            requests_max,
            bytes_max,
            shared,
            has_answers: Signal::default(),
            room: WaitList::default(),
            is_closed: Cell::new(false),
            sending_since: Cell::new(None),
        }
    }

    /// Counts a request for `bytes` bytes in.
    #[inline]
    pub fn begin(&self, bytes: u32) {
        self.requests.set(self.requests.get() + 1);
        self.bytes.set(self.bytes.get() + u64::from(bytes));
        self.shared.take(u64::from(bytes));
    }

    /// Whether another request may be taken.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.has_own_room() && self.has_shared_room()
    }

    #[inline]
    fn has_shared_room(&self) -> bool {
        self.shared.has_room() || self.is_idle()
    }

    /// Whether no request is unanswered.
    pub fn is_idle(&self) -> bool {
        self.requests.get() == 0
    }

    #[inline]
    fn has_own_room(&self) -> bool {
        self.requests.get() < self.requests_max && self.bytes.get() < self.bytes_max
    }

    /// Resolves when another request may be taken, or the lane is closed.
    pub async fn until_room(&self) {
        while !self.has_room() && !self.is_closed.get() {
            self.until_message_room().await;
            self.shared
                .room
                .until(|| (self.has_shared_room() || self.is_closed.get()).then_some(()))
                .await;
        }
    }

    /// Resolves when another message, which pins no memory, may be taken, or the lane is closed.
    pub async fn until_message_room(&self) {
        self.room
            .until(|| (self.has_own_room() || self.is_closed.get()).then_some(()))
            .await;
    }

    /// Resolves when every request was answered and the answers were sent, or the lane is closed.
    pub async fn until_empty(&self) {
        self.room
            .until(|| (self.requests.get() == 0 || self.is_closed.get()).then_some(()))
            .await;
    }

    /// Appends the answer to a request that was counted in with `bytes`.
    #[inline]
    pub fn answer(&self, bytes: u32, write: impl FnOnce(&mut SendBatch)) {
        let mut owed = self.owed.get();
        owed.requests += 1;
        owed.bytes += u64::from(bytes);
        self.owed.set(owed);
        self.append(write);
    }

    /// Appends something that answers no request.
    pub fn append(&self, write: impl FnOnce(&mut SendBatch)) {
        if self.is_closed.get() {
            return;
        }
        write(&mut self.filling.borrow_mut());
        self.has_answers.set();
    }

    /// Pads a payload of `bytes` bytes as the protocol wants.
    #[inline]
    pub fn pad(batch: &mut SendBatch, bytes: u32) {
        let padding = padding(bytes);
        if padding > 0 {
            batch.push_payload(Payload::Static(&ZEROS[..padding]));
        }
    }

    /// No more answers: the connection is broken or done.
    pub fn close(&self) {
        self.is_closed.set(true);
        self.has_answers.set();
        self.room.wake_all();
        self.shared.room.wake_all();
    }

    /// Whether [`Outbox::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.is_closed.get()
    }

    /// Since when the present send has been under way.
    pub fn sending_since(&self) -> Option<Nanos> {
        self.sending_since.get()
    }

    /// Sends batches until the lane is closed. Returns the error that ended it, if any.
    pub async fn drain<S: corelane_io::Stream>(
        &self,
        stream: &S,
        now: impl Fn() -> Nanos,
    ) -> Result<(), corelane_io::IoError> {
        let mut spare = Box::new(SendBatch::with_capacity(HEAD_BYTES, PARTS));
        loop {
            self.has_answers.wait().await;
            if self.filling.borrow().is_empty() {
                if self.is_closed.get() {
                    return Ok(());
                }
                continue;
            }
            std::mem::swap(&mut *self.filling.borrow_mut(), &mut spare);
            let owed = self.owed.take();
            self.sending_since.set(Some(now()));
            let (result, mut batch) = stream.send(spare).await;
            self.sending_since.set(None);
            batch.clear();
            spare = batch;
            self.requests.set(self.requests.get() - owed.requests);
            self.bytes.set(self.bytes.get() - owed.bytes);
            self.shared.give_back(owed.bytes);
            self.room.wake_all();
            if self.is_idle() && !self.shared.has_room() {
                // This lane may be waiting there, and may go on alone.
                self.shared.room.wake_all();
            }
            result?;
            if self.is_closed.get() {
                // An error frame may have been appended just before the close.
                self.has_answers.set();
            }
        }
    }
}

impl Drop for Outbox {
    /// What a closed lane never sent is no longer anybody's.
    fn drop(&mut self) {
        self.shared.give_back(self.bytes.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_share_a_bound_and_a_lane_that_ends_gives_its_part_back() {
        let shared = Rc::new(SharedCredit::new(100));
        let outbox = || Outbox::new(8, 1000, Rc::clone(&shared));
        let (one, two) = (outbox(), outbox());
        one.begin(120);
        assert!(!one.has_room(), "it has used up the share");
        assert!(
            two.has_room(),
            "who has nothing unanswered is never kept waiting"
        );
        two.begin(1);
        assert!(!two.has_room(), "one request at a time is enough then");
        drop(one);
        assert!(two.has_room());
        assert_eq!(shared.bytes(), 1);
    }
}

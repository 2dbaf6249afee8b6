//! Answers on their way out of a lane.
//!
//! Answers are appended to a batch while the previous batch is being sent, so that all that were
//! ready leave in one vectored call, up to a bound: the end of each send shows that the client reads.
//! Batches are used again; in steady state nothing allocates. The invariant: `requests` and `bytes` count every request from its decoding until its answer
//! was handed to the network, so what a client can pin is bounded by the limits given here.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use corelane_io::{Nanos, Payload, SendBatch};
use corelane_rpc_schema::frame::padding;

use crate::shard::signal::{Signal, WaitList};

/// Room for heads in a fresh batch. It grows with the depth that the lane is used at and keeps what
/// it grew to, so that thousands of idle lanes cost next to nothing.
const HEAD_BYTES: usize = 512;

/// Room for parts in a fresh batch; grows as well.
const PARTS: usize = 16;

/// A batch that has so many bytes takes no further payload. A client that takes a batch within the
/// deadline is not cut off, so this bounds how slow it may read; shorter batches would cost calls.
const BATCH_BYTES: usize = 512 << 10;

/// Bytes that are copied into a batch at a time.
const COPY_BYTES: usize = 64 << 10;

/// Empty batches that a lane keeps: those of a usual burst.
const SPARE_BATCHES: usize = 4;

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

    /// Whether further bytes may be taken by one who has some already.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.bytes.get() < self.bytes_max
    }

    /// Whether even one who has none yet should wait.
    pub(crate) fn is_overdrawn(&self) -> bool {
        self.bytes.get() >= 2 * self.bytes_max
    }

    /// Resolves when it is not overdrawn any more.
    pub(crate) async fn until_not_overdrawn(&self) {
        self.room
            .until(|| (!self.is_overdrawn()).then_some(()))
            .await;
    }

    /// Counts `bytes` in.
    #[inline]
    pub(crate) fn take(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() + bytes);
    }

    /// Counts `bytes` out, and wakes those who wait for room.
    pub(crate) fn give_back(&self, bytes: u64) {
        let was = (self.has_room(), self.is_overdrawn());
        self.bytes.set(self.bytes.get() - bytes);
        if was != (self.has_room(), self.is_overdrawn()) {
            self.room.wake_all();
        }
    }
}

/// What is given back when a batch was sent: the answers that end in it.
#[derive(Clone, Copy, Default)]
struct Owed {
    requests: u32,
    bytes: u64,
}

/// What waits to be sent, in batches of bounded size. An answer may begin in one and end in another.
pub struct Batches {
    filling: Box<SendBatch>,
    owed: Owed,
    full: VecDeque<(Box<SendBatch>, Owed)>,
    #[expect(clippy::vec_box, reason = "a send takes and gives back boxes")]
    spare: Vec<Box<SendBatch>>,
}

impl Batches {
    fn new() -> Self {
        Batches {
            filling: empty_batch(),
            owed: Owed::default(),
            full: VecDeque::new(),
            spare: Vec::new(),
        }
    }

    /// Appends a copy of a head.
    #[inline]
    pub fn push_head(&mut self, head: &[u8]) {
        self.filling.push_head(head);
    }

    /// Appends what `write` appends to the arena of heads. It must only append.
    pub fn push_head_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.filling.push_head_with(write);
    }

    /// Appends a payload, held until it was sent.
    #[inline]
    pub fn push_payload(&mut self, payload: Payload) {
        if self.filling.bytes() >= BATCH_BYTES {
            self.begin_another();
        }
        self.filling.push_payload(payload);
    }

    /// Appends a copy of bytes of any number, cut into batches where they are many.
    pub fn push_copy(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(COPY_BYTES) {
            if self.filling.bytes() >= BATCH_BYTES {
                self.begin_another();
            }
            self.filling.push_head(part);
        }
    }

    #[cold]
    fn begin_another(&mut self) {
        let next = self.spare.pop().unwrap_or_else(empty_batch);
        let full = std::mem::replace(&mut self.filling, next);
        self.full.push_back((full, std::mem::take(&mut self.owed)));
    }

    /// The batch that leaves next.
    fn take(&mut self) -> Option<(Box<SendBatch>, Owed)> {
        if self.full.is_empty() && !self.filling.is_empty() {
            self.begin_another();
        }
        self.full.pop_front()
    }

    /// Takes a batch back that was sent.
    fn recycle(&mut self, mut batch: Box<SendBatch>) {
        batch.clear();
        if self.spare.len() < SPARE_BATCHES {
            self.spare.push(batch);
        }
    }
}

fn empty_batch() -> Box<SendBatch> {
    Box::new(SendBatch::with_capacity(HEAD_BYTES, PARTS))
}

/// An answer while it is appended.
pub struct Answering<'a> {
    batches: RefMut<'a, Batches>,
    has_answers: &'a Signal,
    bytes: u32,
}

impl Deref for Answering<'_> {
    type Target = Batches;

    #[inline]
    fn deref(&self) -> &Batches {
        &self.batches
    }
}

impl DerefMut for Answering<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Batches {
        &mut self.batches
    }
}

impl Drop for Answering<'_> {
    #[inline]
    fn drop(&mut self) {
        // Behind the answer: the request is answered when the batch with its end was sent.
        self.batches.owed.requests += 1;
        self.batches.owed.bytes += u64::from(self.bytes);
        self.has_answers.set();
    }
}

/// The answers of one lane.
pub struct Outbox {
    batches: RefCell<Batches>,
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
            batches: RefCell::new(Batches::new()),
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
    pub fn answer(&self, bytes: u32, write: impl FnOnce(&mut Batches)) {
        if let Some(mut answering) = self.begin_answer(bytes) {
            write(&mut answering);
        }
    }

    /// The same in two steps: what is appended until the guard goes is the answer. `None` where the
    /// lane is closed.
    #[inline]
    pub fn begin_answer(&self, bytes: u32) -> Option<Answering<'_>> {
        (!self.is_closed.get()).then(|| Answering {
            batches: self.batches.borrow_mut(),
            has_answers: &self.has_answers,
            bytes,
        })
    }

    /// Appends something that answers no request.
    pub fn append(&self, write: impl FnOnce(&mut Batches)) {
        if self.is_closed.get() {
            return;
        }
        write(&mut self.batches.borrow_mut());
        self.has_answers.set();
    }

    /// Pads a payload of `bytes` bytes as the protocol wants.
    #[inline]
    pub fn pad(batches: &mut Batches, bytes: u32) {
        let padding = padding(bytes);
        if padding > 0 {
            batches.push_payload(Payload::Static(&ZEROS[..padding]));
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

    /// Since when the present send has been under way: the client took nothing of the last bytes of
    /// its batch since then.
    pub fn sending_since(&self) -> Option<Nanos> {
        self.sending_since.get()
    }

    /// Sends batches until the lane is closed. Returns the error that ended it, if any.
    pub async fn drain<S: corelane_io::Stream>(
        &self,
        stream: &S,
        now: impl Fn() -> Nanos,
    ) -> Result<(), corelane_io::IoError> {
        loop {
            self.has_answers.wait().await;
            loop {
                let next = self.batches.borrow_mut().take();
                let Some((batch, owed)) = next else { break };
                self.sending_since.set(Some(now()));
                let (result, batch) = stream.send(batch).await;
                self.sending_since.set(None);
                self.batches.borrow_mut().recycle(batch);
                self.give_back(owed);
                result?;
            }
            // What was appended just before the close has been sent.
            if self.is_closed.get() {
                return Ok(());
            }
        }
    }

    fn give_back(&self, owed: Owed) {
        if owed.requests == 0 {
            return;
        }
        self.requests.set(self.requests.get() - owed.requests);
        self.bytes.set(self.bytes.get() - owed.bytes);
        self.shared.give_back(owed.bytes);
        self.room.wake_all();
        if self.is_idle() && !self.shared.has_room() {
            // This lane may be waiting there, and may go on alone.
            self.shared.room.wake_all();
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
    fn a_long_answer_leaves_in_bounded_batches_and_is_owed_until_the_last() {
        static PIECE: [u8; 64 << 10] = [7; 64 << 10];
        let outbox = Outbox::new(8, 8 << 20, Rc::new(SharedCredit::new(8 << 20)));
        outbox.begin(4 << 20);
        outbox.answer(4 << 20, |batches| {
            batches.push_head_with(|out| out.extend_from_slice(b"head"));
            (0..64).for_each(|_| batches.push_payload(Payload::Static(&PIECE)));
        });
        let mut sent = 0;
        let take = || outbox.batches.borrow_mut().take();
        while let Some((batch, owed)) = take() {
            assert!(
                batch.bytes() <= BATCH_BYTES + PIECE.len(),
                "{}",
                batch.bytes()
            );
            sent += batch.bytes();
            let is_last = sent == (4 << 20) + 4;
            assert_eq!(owed.requests, u32::from(is_last));
            outbox.batches.borrow_mut().recycle(batch);
            outbox.give_back(owed);
            assert_eq!(outbox.is_idle(), is_last);
        }
        assert_eq!(sent, (4 << 20) + 4);
        assert!(outbox.batches.borrow().spare.len() <= SPARE_BATCHES);
    }

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

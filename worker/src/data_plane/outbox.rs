//! Answers on their way out of a lane.
//!
//! Answers are appended to a batch while the previous batch is being sent, so that all that were
//! ready leave in one vectored call, up to a bound: the end of each send shows that the client reads.
//! Batches are used again; in steady state nothing allocates. The invariant: `requests` and `bytes` count every request from its decoding until its answer
//! was handed to the network, by what it asks for and, once the answer is made, by what that takes; so
//! what a client can pin is bounded by the limits given here.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use corelane_io::{Nanos, Payload, SendBatch};
use corelane_rpc_schema::frame::padding;

use crate::cache::frames::FRAME_BYTES;
use crate::shard::signal::{Signal, WaitList};

/// Room for heads in a fresh batch. It grows with the depth that the lane is used at and keeps what
/// it grew to, so that thousands of idle lanes cost next to nothing.
const HEAD_BYTES: usize = 256;

/// Room for parts in a fresh batch; grows as well.
const PARTS: usize = 4;

/// A batch that has so many bytes takes no further payload. A client that takes a batch within the
/// deadline is not cut off, so this bounds how slow it may read; shorter batches would cost calls.
const BATCH_BYTES: usize = 512 << 10;

/// Bytes that are copied into a batch at a time.
const COPY_BYTES: usize = 64 << 10;

/// Empty batches that a lane keeps: those of a usual burst.
const SPARE_BATCHES: usize = 4;

/// What a request is charged with in what all share, beyond its bytes: however few bytes it reads, it pins a
/// frame.
const REQUEST_BYTES: u64 = FRAME_BYTES as u64;

/// Unsent answers to look-ups of a lane at which no more are begun: some usual ones, so that the lane is
/// never without work for a client that reads.
const LOOKUPS_LANE_BYTES_MAX: u64 = 4 << 20;

/// Unsent answers to look-ups of all lanes of a worker at which further ones are told to come again, half of
/// it for one lane: two of the longest.
const LOOKUPS_BYTES_MAX: u64 = 32 << 20;

/// How long a peer is waited for less after a connection of it was cut off for what it held.
const OFFENCE_LASTS: Duration = Duration::from_secs(60);

static ZEROS: [u8; 8] = [0; 8];

/// Bytes of answers to look-ups that wait to be sent, of all lanes of a worker. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct UnsentLookups(Arc<AtomicU64>);

impl UnsentLookups {
    /// The bytes.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether further answers are refused soon.
    pub fn is_short(&self) -> bool {
        self.bytes() >= LOOKUPS_BYTES_MAX / 2
    }

    /// Whether no look-up is to be begun.
    pub fn is_full(&self) -> bool {
        self.bytes() >= LOOKUPS_BYTES_MAX
    }

    fn take(&self, bytes: u64) -> bool {
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                (held + bytes <= LOOKUPS_BYTES_MAX).then_some(held + bytes)
            });
        taken.is_ok()
    }

    fn give_back(&self, bytes: u64) {
        if bytes > 0 {
            self.0.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

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

    /// Bytes that may still be taken.
    #[inline]
    fn room_bytes(&self) -> u64 {
        self.bytes_max.saturating_sub(self.bytes.get())
    }

    /// As much again, for another kind of connection.
    pub(crate) fn another(&self) -> Self {
        SharedCredit::new(self.bytes_max)
    }

    /// The part of each of `connections` that share it equally.
    pub(crate) fn part_of(&self, connections: usize) -> u64 {
        self.bytes_max / connections.max(1) as u64
    }

    /// Counts `bytes` in.
    #[inline]
    pub(crate) fn take(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() + bytes);
    }

    /// Counts `bytes` out, and wakes those who wait for room.
    pub(crate) fn give_back(&self, bytes: u64) {
        let had_room = self.has_room();
        self.bytes.set(self.bytes.get() - bytes);
        if had_room != self.has_room() {
            self.room.wake_all();
        }
    }
}

/// The part of one peer in what all share, of one kind of connection.
pub struct PeerCredit {
    shared: Rc<SharedCredit>,
    bytes: Cell<u64>,
    /// When a connection of the peer was cut off last because it did not take what it held while memory was
    /// short.
    offended: Cell<Option<Nanos>>,
}

impl PeerCredit {
    /// Nothing taken yet of `shared`.
    pub fn new(shared: &Rc<SharedCredit>) -> Self {
        PeerCredit {
            shared: Rc::clone(shared),
            bytes: Cell::new(0),
            offended: Cell::new(None),
        }
    }

    /// Notes that a connection was cut off for what it held.
    pub(crate) fn offend(&self, now: Nanos) {
        self.offended.set(Some(now));
    }

    /// Whether a connection of the peer was cut off so a while ago.
    pub(crate) fn has_offended(&self, now: Nanos) -> bool {
        let since = self.offended.get().map(|at| now.since(at));
        since.is_some_and(|since| since < OFFENCE_LASTS)
    }

    /// Whether a connection that holds nothing may go on where there is no room: one that has taken an
    /// answer before always, and another as long as its peer has not used up the whole credit by itself.
    fn may_go_on(&self, has_taken: bool) -> bool {
        has_taken || self.bytes.get() < self.shared.bytes_max
    }

    /// Whether the peer has left a part to others.
    fn has_left_some(&self) -> bool {
        self.bytes.get() < self.shared.bytes_max / 4 * 3
    }

    /// Whether there is room in what all share.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.shared.has_room()
    }

    /// Resolves when there is memory for one who has none yet.
    pub(crate) async fn until_memory(&self) {
        let has_memory = || self.shared.has_room() && self.has_left_some();
        self.shared.room.until(|| has_memory().then_some(())).await;
    }

    /// Counts `bytes` in.
    #[inline]
    pub(crate) fn take(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() + bytes);
        self.shared.take(bytes);
    }

    /// Counts `bytes` out, and wakes those who wait for room.
    pub(crate) fn give_back(&self, bytes: u64) {
        let was = (self.may_go_on(false), self.has_left_some());
        self.bytes.set(self.bytes.get() - bytes);
        self.shared.give_back(bytes);
        if was != (self.may_go_on(false), self.has_left_some()) {
            self.shared.room.wake_all();
        }
    }
}

/// What is given back when a batch was sent: the answers that end in it.
#[derive(Clone, Copy, Default)]
struct Owed {
    requests: u32,
    bytes: u64,
    /// Of them, those of answers to look-ups.
    lookup_bytes: u64,
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
    bytes: u64,
    lookup_bytes: u64,
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
        self.batches.owed.bytes += self.bytes;
        self.batches.owed.lookup_bytes += self.lookup_bytes;
        self.has_answers.set();
    }
}

/// Requests of a lane that arrived together. Dropping it charges the shared credit with all of them at once.
/// Nothing else may be charged or given back before, so it does not live across an await.
pub struct Burst<'a> {
    outbox: &'a Outbox,
    /// Credit to take from the shared credit at the end of the burst.
    taken: u64,
    /// Shared credit that was left when the burst began.
    shared_room: u64,
}

impl Burst<'_> {
    /// As [`Outbox::has_room`].
    #[inline]
    pub fn has_room(&self) -> bool {
        let outbox = self.outbox;
        outbox.has_own_room()
            && (self.taken < self.shared_room
                || outbox.is_idle() && outbox.shared.may_go_on(outbox.has_taken.get()))
    }

    /// As [`Outbox::begin`].
    #[inline]
    pub fn begin(&mut self, bytes: u32) {
        self.outbox.begin_own(bytes);
        self.taken += u64::from(bytes) + REQUEST_BYTES;
    }
}

impl Drop for Burst<'_> {
    #[inline]
    fn drop(&mut self) {
        self.outbox.shared.take(self.taken);
    }
}

/// The answers of one lane.
pub struct Outbox {
    batches: RefCell<Batches>,
    requests: Cell<u32>,
    bytes: Cell<u64>,
    requests_max: u32,
    bytes_max: u64,
    shared: Rc<PeerCredit>,
    lookup_bytes: Cell<u64>,
    unsent_lookups: UnsentLookups,
    /// Whether the client has taken an answer.
    has_taken: Cell<bool>,
    has_answers: Signal,
    room: WaitList,
    is_closed: Cell<bool>,
    sending_since: Cell<Option<Nanos>>,
}

impl Outbox {
    /// An outbox for at most so many unanswered requests and bytes, and no more than all lanes share.
    pub fn new(
        requests_max: u32,
        bytes_max: u64,
        shared: Rc<PeerCredit>,
        unsent_lookups: UnsentLookups,
    ) -> Self {
        Outbox {
            batches: RefCell::new(Batches::new()),
            requests: Cell::new(0),
            bytes: Cell::new(0),
            requests_max,
            bytes_max,
            shared,
            lookup_bytes: Cell::new(0),
            unsent_lookups,
            has_taken: Cell::new(false),
            has_answers: Signal::default(),
            room: WaitList::default(),
            is_closed: Cell::new(false),
            sending_since: Cell::new(None),
        }
    }

    /// Counts a request for `bytes` bytes in.
    #[inline]
    pub fn begin(&self, bytes: u32) {
        self.begin_own(bytes);
        self.shared.take(u64::from(bytes) + REQUEST_BYTES);
    }

    #[inline]
    fn begin_own(&self, bytes: u32) {
        self.requests.set(self.requests.get() + 1);
        self.bytes.set(self.bytes.get() + u64::from(bytes));
    }

    /// Begins requests that arrived together.
    #[inline]
    pub fn begin_burst(&self) -> Burst<'_> {
        Burst {
            outbox: self,
            taken: 0,
            shared_room: self.shared.shared.room_bytes(),
        }
    }

    /// What the lane is charged with in what all share.
    pub fn held(&self) -> u64 {
        self.bytes.get() + u64::from(self.requests.get()) * REQUEST_BYTES
    }

    /// The part of the lane's peer in what all share.
    pub(crate) fn peer(&self) -> &PeerCredit {
        &self.shared
    }

    /// Bytes of unsent answers to look-ups.
    pub fn lookup_bytes(&self) -> u64 {
        self.lookup_bytes.get()
    }

    /// Whether another request may be taken.
    #[inline]
    pub fn has_room(&self) -> bool {
        self.has_own_room() && self.has_shared_room()
    }

    #[inline]
    fn has_shared_room(&self) -> bool {
        self.shared.has_room() || self.is_idle() && self.shared.may_go_on(self.has_taken.get())
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
            self.until_own_room().await;
            self.shared
                .shared
                .room
                .until(|| (self.has_shared_room() || self.is_closed.get()).then_some(()))
                .await;
        }
    }

    async fn until_own_room(&self) {
        self.room
            .until(|| (self.has_own_room() || self.is_closed.get()).then_some(()))
            .await;
    }

    /// Whether another message may be taken: it pins no frame, so one that has nothing unanswered may always
    /// have one.
    pub fn has_message_room(&self) -> bool {
        self.has_own_room() && (self.shared.has_room() || self.is_idle())
    }

    /// Resolves when another message may be taken, or the lane is closed.
    pub async fn until_message_room(&self) {
        while !self.has_message_room() && !self.is_closed.get() {
            self.until_own_room().await;
            let may_go_on = || self.shared.has_room() || self.is_idle() || self.is_closed.get();
            let room = &self.shared.shared.room;
            room.until(|| may_go_on().then_some(())).await;
        }
    }

    /// Whether another look-up may be begun.
    pub fn has_lookup_room(&self) -> bool {
        self.lookup_bytes.get() <= LOOKUPS_LANE_BYTES_MAX && self.has_room()
    }

    /// Resolves when another look-up may be begun, or the lane is closed.
    pub async fn until_lookup_room(&self) {
        while !self.has_lookup_room() && !self.is_closed.get() {
            let is_below =
                || self.lookup_bytes.get() <= LOOKUPS_LANE_BYTES_MAX || self.is_closed.get();
            self.room.until(|| is_below().then_some(())).await;
            self.until_room().await;
        }
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
            bytes: u64::from(bytes),
            lookup_bytes: 0,
        })
    }

    /// Appends an answer that is copied, to a request that was counted in with `bytes`. It is charged with
    /// what `write` says that it wrote, where that is more.
    pub fn answer_copied(&self, bytes: u32, write: impl FnOnce(&mut Batches) -> u64) {
        if let Some(mut answering) = self.begin_answer(bytes) {
            let copied = write(&mut answering);
            self.charge(&mut answering, copied);
        }
    }

    fn charge(&self, answering: &mut Answering<'_>, bytes: u64) {
        let more = bytes.saturating_sub(answering.bytes);
        answering.bytes += more;
        self.bytes.set(self.bytes.get() + more);
        self.shared.take(more);
    }

    /// Appends the answer to a look-up, which has `bytes` bytes, to a request that was counted in with
    /// `counted`; false where there is no room for it, and nothing was appended.
    pub fn answer_lookup(
        &self,
        counted: u32,
        bytes: u64,
        write: impl FnOnce(&mut Batches),
    ) -> bool {
        if self.is_closed.get() {
            return true;
        }
        let own = self.lookup_bytes.get();
        if own > 0 && own + bytes > LOOKUPS_BYTES_MAX / 2 || !self.unsent_lookups.take(bytes) {
            return false;
        }
        self.lookup_bytes.set(own + bytes);
        let mut answering = self.begin_answer(counted).expect("it is not closed");
        answering.lookup_bytes = bytes;
        write(&mut answering);
        self.charge(&mut answering, bytes);
        true
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
        self.shared.shared.room.wake_all();
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
        self.has_taken.set(true);
        self.requests.set(self.requests.get() - owed.requests);
        self.bytes.set(self.bytes.get() - owed.bytes);
        self.lookup_bytes
            .set(self.lookup_bytes.get() - owed.lookup_bytes);
        self.unsent_lookups.give_back(owed.lookup_bytes);
        self.shared
            .give_back(owed.bytes + u64::from(owed.requests) * REQUEST_BYTES);
        self.room.wake_all();
        if self.is_idle() && !self.shared.has_room() {
            // This lane may be waiting there, and may go on alone.
            self.shared.shared.room.wake_all();
        }
    }
}

impl Drop for Outbox {
    /// What a closed lane never sent is no longer anybody's.
    fn drop(&mut self) {
        self.shared.give_back(self.held());
        self.unsent_lookups.give_back(self.lookup_bytes.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(requests_max: u32, bytes_max: u64, shared: &Rc<SharedCredit>) -> Outbox {
        let peer = Rc::new(PeerCredit::new(shared));
        Outbox::new(requests_max, bytes_max, peer, UnsentLookups::default())
    }

    /// Lets everything leave that is appended; the bytes.
    fn send_all(outbox: &Outbox) -> usize {
        let mut sent = 0;
        loop {
            let next = outbox.batches.borrow_mut().take();
            let Some((batch, owed)) = next else {
                return sent;
            };
            sent += batch.bytes();
            outbox.batches.borrow_mut().recycle(batch);
            outbox.give_back(owed);
        }
    }

    #[test]
    fn requests_of_a_burst_have_room_and_count_as_those_that_come_alone() {
        for (requests_max, bytes_max, shared_max) in [
            (3, 1 << 20, 1 << 20),
            (100, 4096, 1 << 20),
            (100, 1 << 20, 3 * REQUEST_BYTES),
            (100, 1 << 20, 1),
        ] {
            let [alone, together] = [(); 2].map(|()| {
                let shared = Rc::new(SharedCredit::new(shared_max));
                (outbox(requests_max, bytes_max, &shared), shared)
            });
            let mut burst = together.0.begin_burst();
            for number in 0..10 {
                assert_eq!(burst.has_room(), alone.0.has_room(), "{number}");
                if burst.has_room() {
                    alone.0.begin(1000);
                    burst.begin(1000);
                }
            }
            drop(burst);
            assert!(alone.0.held() > 0);
            assert_eq!(together.0.held(), alone.0.held());
            assert_eq!(together.1.bytes(), alone.1.bytes());
        }
    }

    #[test]
    fn a_long_answer_leaves_in_bounded_batches_and_is_owed_until_the_last() {
        static PIECE: [u8; 64 << 10] = [7; 64 << 10];
        let outbox = outbox(8, 8 << 20, &Rc::new(SharedCredit::new(8 << 20)));
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
        let shared = Rc::new(SharedCredit::new(100 * REQUEST_BYTES));
        let (one, two) = (outbox(800, 1 << 30, &shared), outbox(800, 1 << 30, &shared));
        (0..100).for_each(|_| one.begin(1));
        assert!(!one.has_room(), "each pins a frame, however short it is");
        assert!(two.has_room(), "who has nothing unanswered goes on");
        two.begin(1);
        assert!(!two.has_room(), "one request at a time is enough then");
        drop(one);
        assert!(two.has_room());
        assert_eq!(shared.bytes(), REQUEST_BYTES + 1);
    }

    #[test]
    fn lanes_of_one_peer_that_took_nothing_yet_never_use_more_than_all_share() {
        let shared = Rc::new(SharedCredit::new(10 * REQUEST_BYTES));
        let peer = Rc::new(PeerCredit::new(&shared));
        let lane = |peer: &Rc<PeerCredit>| {
            Outbox::new(256, 8 << 20, Rc::clone(peer), UnsentLookups::default())
        };
        let proven = lane(&peer);
        proven.begin(0);
        proven.answer_copied(0, |batches| {
            batches.push_head(&[1]);
            1
        });
        assert_eq!(send_all(&proven), 1);
        let mut lanes = Vec::new();
        while lanes.len() < 1000 {
            let next = lane(&peer);
            if next.has_room() {
                next.begin(0);
            }
            lanes.push(next);
        }
        assert_eq!(shared.bytes(), 10 * REQUEST_BYTES);
        assert!(
            proven.has_room(),
            "who has shown that it takes its answers goes on"
        );
        let other = Rc::new(PeerCredit::new(&shared));
        assert!(lane(&other).has_room(), "and so does another peer");
    }

    #[test]
    fn answers_that_are_copied_are_charged_with_their_bytes_until_they_were_sent() {
        let shared = Rc::new(SharedCredit::new(1 << 30));
        let outbox = outbox(8, 8 << 20, &shared);
        outbox.begin(16);
        outbox.answer_copied(16, |batches| {
            batches.push_head(&[1; 5000]);
            5000
        });
        assert_eq!((outbox.bytes.get(), outbox.requests.get()), (5000, 1));
        assert_eq!(shared.bytes(), 5000 + REQUEST_BYTES);
        assert_eq!(send_all(&outbox), 5000);
        assert_eq!((outbox.bytes.get(), shared.bytes()), (0, 0));
    }

    #[test]
    fn unsent_answers_to_look_ups_are_bounded_for_a_lane_and_for_all() {
        let unsent = UnsentLookups::default();
        let shared = Rc::new(SharedCredit::new(1 << 30));
        let lane = || {
            let peer = Rc::new(PeerCredit::new(&shared));
            Outbox::new(256, 8 << 20, peer, unsent.clone())
        };
        let answer = vec![7; 3 << 20];
        let push = |outbox: &Outbox| {
            outbox.begin(16);
            let bytes = answer.len() as u64;
            let is_taken = outbox.answer_lookup(16, bytes, |batches| batches.push_copy(&answer));
            if !is_taken {
                outbox.answer_copied(16, |_| 0);
            }
            is_taken
        };
        let one = lane();
        let taken = (0..100).filter(|_| push(&one)).count() as u64;
        assert_eq!(one.lookup_bytes(), taken * (3 << 20));
        assert!(one.lookup_bytes() <= LOOKUPS_BYTES_MAX / 2 && taken > 1);
        assert!(one.bytes.get() >= one.lookup_bytes());
        let others: Vec<Outbox> = (0..20).map(|_| lane()).collect();
        others.iter().for_each(|other| {
            push(other);
        });
        assert!(unsent.bytes() <= LOOKUPS_BYTES_MAX && unsent.is_short());
        assert_eq!(send_all(&one), taken as usize * (3 << 20));
        assert_eq!((one.lookup_bytes(), one.bytes.get()), (0, 0));
        drop(others);
        assert_eq!((unsent.bytes(), shared.bytes()), (0, 0));
    }
}

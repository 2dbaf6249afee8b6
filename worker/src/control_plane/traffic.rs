//! What control connections cost: memory for messages, calls and answers, and its bounds.
//!
//! capnp-rpc reads messages as fast as they come, keeps an entry for each unfinished answer and queues
//! what it sends without a bound. So each message in either direction is charged, from the moment that it
//! is there until capnp-rpc lets go of it or the peer has taken it; so is what a call is about to make.
//!
//! The invariant: the charges of a connection stay below `CONNECTION_BYTES_MAX` and those of all
//! connections below [`TOTAL_BYTES_MAX`], one message each aside; entries in capnp-rpc's tables stay
//! below `UNFINISHED_MAX` and the calls in flight. Whoever goes over is not read from, waits, or is cut
//! off.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque, hash_map};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use capnp_rpc::IncomingMessage;
use futures::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::error::CallError;
use crate::places::Standing;
use crate::shard::signal::WaitList;

/// Charges of a connection at which no more messages are read and no more large answers are begun: some
/// plain reads of the largest size, so that one is made while another is sent.
const CONNECTION_BYTES_MAX: u64 = 8 << 20;

/// Charges of all connections at which memory is short: two of them at their bound.
const ALL_BYTES_MAX: u64 = 16 << 20;

/// Charges of all connections with what those who have nothing get beyond `ALL_BYTES_MAX`.
pub const TOTAL_BYTES_MAX: u64 = 2 * ALL_BYTES_MAX;

/// Charges of a connection that is read from even where memory is short: some ordinary calls.
const SMALL_BYTES: u64 = 64 << 10;

/// What a message takes beside its bytes: its first segment, an entry in a queue or a table.
const MESSAGE_BYTES: u64 = 1024;

/// Unfinished answers beside the calls in flight: a client finishes an answer when it has read it.
const UNFINISHED_MAX: usize = 512;

/// Worker capabilities of a connection, one for each `enter` that was not released: a client needs one.
const WORKERS_MAX: usize = 64;

/// Messages of a connection that has not passed the gate: a bootstrap, and for each try of a token a call,
/// a finish and some releases.
const UNENTERED_MESSAGES_MAX: u64 = 64;

/// Bytes of them: a token has 1 KiB at most.
const UNENTERED_BYTES_MAX: u64 = 64 << 10;

/// Slowest rate at which a peer may take its answers, in bytes a second.
const RATE_MIN: u64 = 16 << 10;

/// How long the rate is measured: a peer that takes less than [`RATE_MIN`] for so long is cut off.
const RATE_WINDOW: Duration = Duration::from_secs(30);

/// The same where memory is short.
const RATE_WINDOW_SHORT: Duration = Duration::from_secs(5);

/// How long a call waits until there is memory for its answer: longer than it takes until those who do not
/// take theirs are cut off.
const RESERVE_DEADLINE: Duration = Duration::from_secs(30);

/// The traffic of all control connections.
#[derive(Default)]
pub struct AllTraffic {
    bytes: Cell<u64>,
    room: WaitList,
    open: Cell<usize>,
    refused: Cell<u64>,
    cut: Cell<u64>,
}

impl AllTraffic {
    /// Bytes that messages and answers take now, estimated.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Open connections.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Connections that were refused because too many were open.
    pub fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// Connections that were cut off because they went over a bound or did not take their answers.
    pub fn cut(&self) -> u64 {
        self.cut.get()
    }

    pub(super) fn count_refused(&self) {
        self.refused.set(self.refused.get() + 1);
    }

    pub(super) fn count_cut(&self) {
        self.cut.set(self.cut.get() + 1);
    }

    fn is_short(&self) -> bool {
        self.bytes.get() > ALL_BYTES_MAX
    }
}

/// An answer in capnp-rpc's table.
enum Answer {
    /// Its return has not been sent.
    Running,
    /// The same, and the peer has finished it already: it is told when the return was sent.
    Finished(Box<dyn IncomingMessage>),
    /// The return was sent; the peer has to finish it.
    Returned,
}

/// Bytes of a sent message, as a position in all that was sent, and what it was charged with.
struct Sent {
    end: u64,
    charge: u64,
}

/// The traffic of one connection.
pub(super) struct Traffic {
    all: Rc<AllTraffic>,
    began: Instant,
    bytes: Cell<u64>,
    /// Of them, for what calls are about to make.
    reserved: Cell<u64>,
    calls: Cell<usize>,
    workers: Cell<usize>,
    has_entered: Cell<bool>,
    messages: Cell<u64>,
    /// Bytes that were received, and where the present message began.
    received: Cell<u64>,
    message_start: Cell<u64>,
    answers: RefCell<HashMap<u32, Answer>>,
    /// Messages to handle before more are received.
    ready: RefCell<VecDeque<Box<dyn IncomingMessage>>>,
    sent: RefCell<VecDeque<Sent>>,
    /// Bytes that capnp-rpc sent, and those that the socket took.
    sent_bytes: Cell<u64>,
    written_bytes: Cell<u64>,
    /// When the peer was measured last, and how many bytes had been written.
    measured: Cell<Option<(Instant, u64)>>,
    last_message: Cell<Instant>,
    fault: RefCell<Option<String>>,
    is_broken: Cell<bool>,
    has_fault: Notify,
    reader: RefCell<Option<Waker>>,
}

impl Traffic {
    pub(super) fn new(all: &Rc<AllTraffic>) -> Rc<Self> {
        all.open.set(all.open.get() + 1);
        let now = Instant::now();
        Rc::new(Traffic {
            all: Rc::clone(all),
            began: now,
            bytes: Cell::new(0),
            reserved: Cell::new(0),
            calls: Cell::new(0),
            workers: Cell::new(0),
            has_entered: Cell::new(false),
            messages: Cell::new(0),
            received: Cell::new(0),
            message_start: Cell::new(0),
            answers: RefCell::default(),
            ready: RefCell::default(),
            sent: RefCell::default(),
            sent_bytes: Cell::new(0),
            written_bytes: Cell::new(0),
            measured: Cell::new(None),
            last_message: Cell::new(now),
            fault: RefCell::new(None),
            is_broken: Cell::new(false),
            has_fault: Notify::new(),
            reader: RefCell::new(None),
        })
    }

    /// Counts a call in, or refuses it when `limit` are in flight.
    pub(super) fn begin(self: &Rc<Self>, limit: usize) -> Option<CallInFlight> {
        if self.calls.get() >= limit {
            return None;
        }
        self.calls.set(self.calls.get() + 1);
        Some(CallInFlight(Rc::clone(self)))
    }

    /// The peer has passed the gate.
    pub(super) fn enter(&self) {
        self.has_entered.set(true);
    }

    pub(super) fn has_entered(&self) -> bool {
        self.has_entered.get()
    }

    /// Counts a worker capability in, or refuses it when there are too many.
    pub(super) fn begin_worker(self: &Rc<Self>) -> Option<WorkerInUse> {
        if self.workers.get() >= WORKERS_MAX {
            return None;
        }
        self.workers.set(self.workers.get() + 1);
        Some(WorkerInUse(Rc::clone(self)))
    }

    /// Waits until a call may make an answer that takes `bytes`, and charges it.
    ///
    /// # Errors
    /// Busy, when that takes too long.
    pub(super) async fn reserve(self: &Rc<Self>, bytes: u64) -> Result<Charge, CallError> {
        let room = self
            .all
            .room
            .until(|| self.has_room_for(bytes).then_some(()));
        timeout(RESERVE_DEADLINE, room).await.map_err(|_| {
            CallError::Busy("too many large answers were not taken; retry".to_owned())
        })?;
        self.reserved.set(self.reserved.get() + bytes);
        self.take(bytes);
        Ok(Charge {
            traffic: Rc::clone(self),
            bytes,
            is_reserved: true,
        })
    }

    fn has_room_for(&self, bytes: u64) -> bool {
        let is_first = self.reserved.get() == 0;
        let all = self.all.bytes.get() + bytes;
        let has_own = is_first || self.bytes.get() + bytes <= CONNECTION_BYTES_MAX;
        // Where memory is short, who has nothing may still have one answer.
        let is_modest = is_first && self.bytes.get() <= SMALL_BYTES;
        has_own && (all <= ALL_BYTES_MAX || is_modest && all <= TOTAL_BYTES_MAX)
    }

    /// Ends the connection for this reason.
    pub(super) fn cut(&self, reason: impl Into<String>) {
        let mut fault = self.fault.borrow_mut();
        if fault.is_none() {
            *fault = Some(reason.into());
            self.has_fault.notify_one();
            if let Some(waker) = self.reader.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    /// Ends the connection because it is broken.
    fn break_off(&self, error: &io::Error) {
        self.is_broken.set(true);
        self.cut(format!("it is broken: {error}"));
    }

    /// Whether it was the peer or the network that ended the connection.
    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.get()
    }

    /// Resolves with the reason once the connection has to end.
    pub(super) async fn until_cut(&self) -> String {
        loop {
            if let Some(reason) = self.fault.borrow().clone() {
                return reason;
            }
            self.has_fault.notified().await;
        }
    }

    /// Why the connection has to end, if it has to.
    pub(super) fn is_cut(&self) -> Option<String> {
        self.fault.borrow().clone()
    }

    /// Lets go of messages that were kept: the connection has ended.
    pub(super) fn clear(&self) {
        let answers = std::mem::take(&mut *self.answers.borrow_mut());
        let ready = std::mem::take(&mut *self.ready.borrow_mut());
        drop((answers, ready));
    }

    /// What the connection is doing, for whoever needs its place.
    pub(super) fn standing(&self) -> Standing {
        if self.fault.borrow().is_some() {
            Standing::Busy
        } else if !self.has_entered.get() {
            Standing::Unproven(self.began.elapsed())
        } else if self.calls.get() == 0 && self.bytes.get() == 0 {
            Standing::Idle(self.last_message.get().elapsed())
        } else {
            Standing::Busy
        }
    }

    /// Cuts the connection off if its peer takes its answers too slowly.
    pub(super) fn watch(&self, now: Instant) {
        if self.sent_bytes.get() == self.written_bytes.get() {
            self.measured.set(None);
            return;
        }
        let written = self.written_bytes.get();
        let (since, before) = self.measured.get().unwrap_or((now, written));
        self.measured.set(Some((since, before)));
        let window = match self.all.is_short() {
            true => RATE_WINDOW_SHORT,
            false => RATE_WINDOW,
        };
        if now - since < window {
            return;
        }
        if written - before < RATE_MIN * window.as_secs() {
            self.cut("the client does not take its answers in time");
        }
        self.measured.set(Some((now, written)));
    }

    /// Takes in a message that was received; `None` where it is kept for later.
    ///
    /// # Errors
    /// Why the connection has to end.
    pub(super) fn admit(
        self: &Rc<Self>,
        message: Box<dyn IncomingMessage>,
        calls_max: usize,
    ) -> Result<Option<Box<dyn IncomingMessage>>, String> {
        self.messages.set(self.messages.get() + 1);
        self.last_message.set(Instant::now());
        if !self.has_entered.get() && self.messages.get() > UNENTERED_MESSAGES_MAX {
            return Err(format!(
                "more than {UNENTERED_MESSAGES_MAX} messages before the gate"
            ));
        }
        let start = self.message_start.replace(self.received.get());
        let charge = Charge::new(self, self.received.get() - start + MESSAGE_BYTES);
        let kind = super::network::Kind::of(&*message).map_err(|error| error.to_string())?;
        let message: Box<dyn IncomingMessage> = Box::new(super::network::Received {
            message,
            _charge: charge,
        });
        match kind {
            super::network::Kind::Question(id) => {
                let mut answers = self.answers.borrow_mut();
                let unfinished = answers.len();
                if unfinished >= UNFINISHED_MAX + calls_max {
                    return Err(format!(
                        "{unfinished} answers are not finished: send Finish for each"
                    ));
                }
                match answers.entry(id) {
                    hash_map::Entry::Occupied(_) => Err(format!("question {id} is in use")),
                    hash_map::Entry::Vacant(entry) => {
                        entry.insert(Answer::Running);
                        Ok(Some(message))
                    }
                }
            }
            super::network::Kind::Finish(id) => {
                let mut answers = self.answers.borrow_mut();
                match answers.get_mut(&id) {
                    // A call that has begun ends by itself: cancelled, it would leave its entry
                    // behind and its work uncounted.
                    Some(answer @ Answer::Running) => {
                        *answer = Answer::Finished(message);
                        Ok(None)
                    }
                    Some(Answer::Finished(_)) => Err(format!("question {id} is finished twice")),
                    Some(Answer::Returned) => {
                        answers.remove(&id);
                        Ok(Some(message))
                    }
                    None => Ok(Some(message)),
                }
            }
            super::network::Kind::Other => Ok(Some(message)),
        }
    }

    /// Puts `message` behind those that are to be handled first; gives the next.
    pub(super) fn behind_ready(
        &self,
        message: Box<dyn IncomingMessage>,
    ) -> Box<dyn IncomingMessage> {
        let mut ready = self.ready.borrow_mut();
        ready.push_back(message);
        ready.pop_front().expect("it has one")
    }

    /// A message to handle before more are received.
    pub(super) fn next_ready(&self) -> Option<Box<dyn IncomingMessage>> {
        self.ready.borrow_mut().pop_front()
    }

    /// Messages received so far.
    pub(super) fn messages(&self) -> u64 {
        self.messages.get()
    }

    /// Charges a message of `bytes` that capnp-rpc sends.
    pub(super) fn sent(&self, bytes: u64) {
        self.sent_bytes.set(self.sent_bytes.get() + bytes);
        let charge = bytes + MESSAGE_BYTES;
        let end = self.sent_bytes.get();
        self.sent.borrow_mut().push_back(Sent { end, charge });
        self.take(charge);
    }

    /// A return leaves for question `id`.
    pub(super) fn returned(&self, id: u32, needs_finish: bool) {
        let mut answers = self.answers.borrow_mut();
        let Some(answer) = answers.get_mut(&id) else {
            return;
        };
        match std::mem::replace(answer, Answer::Returned) {
            Answer::Finished(finish) => {
                answers.remove(&id);
                drop(answers);
                self.ready.borrow_mut().push_back(finish);
            }
            _ if !needs_finish => {
                answers.remove(&id);
            }
            _ => {}
        }
    }

    fn wrote(&self, bytes: u64) {
        self.written_bytes.set(self.written_bytes.get() + bytes);
        let written = self.written_bytes.get();
        let mut freed = 0;
        let mut sent = self.sent.borrow_mut();
        while sent.front().is_some_and(|message| message.end <= written) {
            freed += sent.pop_front().map_or(0, |message| message.charge);
        }
        drop(sent);
        self.give_back(freed);
    }

    fn take(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() + bytes);
        self.all.bytes.set(self.all.bytes.get() + bytes);
    }

    fn give_back(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        self.bytes.set(self.bytes.get() - bytes);
        self.all.bytes.set(self.all.bytes.get() - bytes);
        if !self.is_full()
            && let Some(waker) = self.reader.borrow_mut().take()
        {
            waker.wake();
        }
        self.all.room.wake_all();
    }

    /// Whether nothing more is to be received for now.
    fn is_full(&self) -> bool {
        let bytes = self.bytes.get();
        bytes > CONNECTION_BYTES_MAX || bytes > SMALL_BYTES && self.all.is_short()
    }

    #[cfg(test)]
    fn unfinished(&self) -> usize {
        self.answers.borrow().len()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.all.open.set(self.all.open.get() - 1);
        // What was sent and not taken.
        self.all.bytes.set(self.all.bytes.get() - self.bytes.get());
        self.all.room.wake_all();
    }
}

/// Memory that is in use until this is dropped.
pub(super) struct Charge {
    traffic: Rc<Traffic>,
    bytes: u64,
    is_reserved: bool,
}

impl Charge {
    fn new(traffic: &Rc<Traffic>, bytes: u64) -> Self {
        traffic.take(bytes);
        Charge {
            traffic: Rc::clone(traffic),
            bytes,
            is_reserved: false,
        }
    }

    /// Charges what it takes now that it is known, if that is more.
    pub(super) fn grow_to(&mut self, bytes: u64) {
        let more = bytes.saturating_sub(self.bytes);
        self.traffic.take(more);
        if self.is_reserved {
            self.traffic
                .reserved
                .set(self.traffic.reserved.get() + more);
        }
        self.bytes += more;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.is_reserved {
            let reserved = &self.traffic.reserved;
            reserved.set(reserved.get() - self.bytes);
        }
        self.traffic.give_back(self.bytes);
    }
}

/// A call that was counted in.
pub(super) struct CallInFlight(Rc<Traffic>);

impl Drop for CallInFlight {
    fn drop(&mut self) {
        self.0.calls.set(self.0.calls.get() - 1);
    }
}

/// A worker capability that was counted in.
pub(super) struct WorkerInUse(Rc<Traffic>);

impl Drop for WorkerInUse {
    fn drop(&mut self) {
        self.0.workers.set(self.0.workers.get() - 1);
    }
}

/// The incoming side.
pub(super) struct Incoming<R> {
    pub(super) inner: R,
    pub(super) traffic: Rc<Traffic>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Incoming<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let traffic = Rc::clone(&self.traffic);
        if !traffic.has_entered.get() && traffic.received.get() > UNENTERED_BYTES_MAX {
            traffic.cut(format!(
                "more than {UNENTERED_BYTES_MAX} bytes before the gate"
            ));
        }
        if let Some(reason) = &*traffic.fault.borrow() {
            return Poll::Ready(Err(io::Error::other(reason.clone())));
        }
        let polled = match traffic.is_full() {
            true => Poll::Pending,
            false => Pin::new(&mut self.inner).poll_read(context, buffer),
        };
        match &polled {
            Poll::Ready(Ok(count)) => traffic.received.set(traffic.received.get() + *count as u64),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                traffic.reader.borrow_mut().replace(context.waker().clone());
            }
        }
        polled
    }
}

/// The outgoing side, right before the socket.
pub(super) struct Outgoing<W> {
    pub(super) inner: W,
    pub(super) traffic: Rc<Traffic>,
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Outgoing<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(context, buffer);
        match &polled {
            Poll::Ready(Ok(written)) => self.traffic.wrote(*written as u64),
            // The reader may be waiting until something was written.
            Poll::Ready(Err(error)) => self.traffic.break_off(error),
            Poll::Pending => {}
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic() -> (Rc<AllTraffic>, Rc<Traffic>) {
        let all = Rc::new(AllTraffic::default());
        let traffic = Traffic::new(&all);
        traffic.enter();
        (all, traffic)
    }

    fn poll_read(traffic: &Rc<Traffic>) -> Poll<io::Result<usize>> {
        let mut incoming = Incoming {
            inner: futures::io::Cursor::new(vec![1u8; 8]),
            traffic: Rc::clone(traffic),
        };
        let mut context = Context::from_waker(futures::task::noop_waker_ref());
        Pin::new(&mut incoming).poll_read(&mut context, &mut [0; 4])
    }

    #[test]
    fn calls_beyond_the_limit_are_refused_until_one_ends() {
        let (_, traffic) = traffic();
        let first = traffic.begin(2).expect("the first fits");
        let _second = traffic.begin(2).expect("the second fits");
        assert!(traffic.begin(2).is_none());
        drop(first);
        assert!(traffic.begin(2).is_some());
    }

    #[test]
    fn nothing_is_read_while_too_much_is_charged() {
        let (all, traffic) = traffic();
        traffic.sent(CONNECTION_BYTES_MAX);
        assert!(poll_read(&traffic).is_pending());
        traffic.wrote(CONNECTION_BYTES_MAX - 1);
        assert!(
            poll_read(&traffic).is_pending(),
            "a message is charged until its end"
        );
        traffic.wrote(1);
        assert!(matches!(poll_read(&traffic), Poll::Ready(Ok(4))));
        assert_eq!(all.bytes(), 0);
    }

    #[test]
    fn a_connection_that_ends_gives_back_what_was_not_taken() {
        let (all, traffic) = traffic();
        traffic.sent(1000);
        let charge = Charge::new(&traffic, 500);
        assert_eq!(all.bytes(), 1500 + MESSAGE_BYTES);
        drop(charge);
        assert_eq!((all.bytes(), all.open()), (1000 + MESSAGE_BYTES, 1));
        drop(traffic);
        assert_eq!((all.bytes(), all.open()), (0, 0));
    }

    #[tokio::test]
    async fn where_memory_is_short_who_has_nothing_is_served_and_others_wait() {
        let all = Rc::new(AllTraffic::default());
        let hogs: Vec<Rc<Traffic>> = (0..4).map(|_| Traffic::new(&all)).collect();
        let mib = 1 << 20;
        let mut held = Vec::new();
        for hog in hogs.iter().cycle().take(400) {
            let reserving = hog.reserve(2 * mib);
            held.extend(futures::FutureExt::now_or_never(reserving).and_then(Result::ok));
        }
        assert!(all.bytes() > ALL_BYTES_MAX - 2 * mib && all.bytes() <= ALL_BYTES_MAX);
        // One at a time for whoever has nothing, up to a bound.
        let others: Vec<Rc<Traffic>> = (0..64).map(|_| Traffic::new(&all)).collect();
        for other in &others {
            for _ in 0..2 {
                let reserving = other.reserve(2 * mib);
                held.extend(futures::FutureExt::now_or_never(reserving).and_then(Result::ok));
            }
        }
        assert_eq!(all.bytes(), TOTAL_BYTES_MAX);
        held.clear();
        assert_eq!(all.bytes(), 0);
    }

    #[test]
    fn a_peer_that_takes_too_little_is_cut_off_earlier_where_memory_is_short() {
        for (others, window) in [(0, RATE_WINDOW), (ALL_BYTES_MAX, RATE_WINDOW_SHORT)] {
            let (all, slow) = traffic();
            let hog = Traffic::new(&all);
            hog.sent(others);
            slow.sent(1 << 20);
            let began = Instant::now();
            let mut waited = Duration::ZERO;
            while slow.is_cut().is_none() {
                slow.watch(began + waited);
                // A little now and then.
                slow.wrote(1000);
                waited += Duration::from_secs(1);
                assert!(waited < window * 2);
            }
            assert!(waited > window);
        }
        let (_, good) = traffic();
        good.sent(1 << 30);
        let began = Instant::now();
        for second in 0..300 {
            good.watch(began + Duration::from_secs(second));
            good.wrote(RATE_MIN);
        }
        assert_eq!(good.is_cut(), None);
    }

    #[test]
    fn an_answer_is_unfinished_until_its_return_was_sent_and_it_was_finished() {
        let (_, traffic) = traffic();
        for (id, needs_finish) in [(1, true), (2, false)] {
            traffic.answers.borrow_mut().insert(id, Answer::Running);
            traffic.returned(id, needs_finish);
        }
        assert_eq!(traffic.unfinished(), 1);
    }
}

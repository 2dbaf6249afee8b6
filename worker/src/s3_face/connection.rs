//! One connection: requests in, answers out, in their order.
//!
//! Requests are served one after the other. What can be answered at once is appended to a batch that
//! leaves when the input is used up, so that a client that pipelines gets many answers in one send;
//! whatever waits is served alone. The invariant: bytes held of an unfinished head are bounded by
//! [`HEAD_BYTES_MAX`], bytes pinned for answers by a window or two, counted in the shard's credit.

use std::rc::Rc;

use corelane_io::{Io, IoError, Nanos, SendBatch, Stream};
use corelane_s3::body::BodyReader;
use corelane_s3::head::{Framing, HEAD_BYTES_MAX, Head};

use super::Face;
use super::access_log::Entry;
use super::call::Call;
use super::connections::{Phase, Watched};
use super::get::{Get, WINDOW_BYTES_MAX};
use super::transport::{Received, Transport};
use crate::data_plane::outbox::PeerCredit;
use crate::shard::Shard;
use crate::under_store::UnderStore;

/// Room for heads and parts in a fresh batch: a few answers.
const HEAD_BYTES: usize = 1024;
const PARTS: usize = 20;

/// Answers that are batched before they leave, whatever their size: their heads are copied.
const ANSWERS_PER_BATCH_MAX: usize = 64;

/// Bytes of a body that nobody wants which are taken all the same: a connection that is closed with
/// bytes unread is reset, and a client that is still sending may never read why. A part of an upload,
/// as most clients cut them; whoever sends more is reset.
const UNWANTED_BYTES_MAX: u64 = 16 << 20;

/// The connection cannot go on: the peer is gone, or must not get another byte.
pub(super) struct Gone;

impl From<IoError> for Gone {
    fn from(_: IoError) -> Self {
        Gone
    }
}
/// What to do when the input gave all that can be served at once.
pub(super) enum Next {
    /// More input is needed.
    Receive,
    /// What is batched leaves first, then the rest of the input is served.
    Flush,
    /// A read that waits.
    Get(Box<Get>),
    /// Anything else.
    Call(Box<Call>),
    /// The last answer is batched.
    Close,
}

/// The request that is being served.
pub(super) struct Current {
    pub(super) id: u64,
    pub(super) began: Nanos,
    pub(super) is_head: bool,
    /// What the access log says of it, if there is one.
    pub(super) entry: Option<Box<Entry>>,
}

/// One connection and what it shares with its core.
pub(super) struct Connection<I: Io, U: UnderStore> {
    pub(super) shard: Rc<Shard<I, U>>,
    pub(super) face: Rc<Face<I::Stream>>,
    pub(super) transport: Transport<I::Stream>,
    pub(super) watched: Rc<Watched>,
    /// Input that is not served yet.
    pub(super) held: Vec<u8>,
    pub(super) batch: Option<Box<SendBatch>>,
    /// Answers in the batch.
    pub(super) batched: usize,
    /// Bytes of bodies in the batch.
    pub(super) batched_bytes: u64,
    /// Bytes pinned by the batch, counted in the shard's credit: whole frames, however little of each
    /// is sent, and bodies that were copied.
    pub(super) pinned: u64,
    /// Whether the present answer is the last.
    pub(super) closes: bool,
    /// The rest of a body that nobody wants, behind the last answer.
    pub(super) unwanted: Option<BodyReader>,
    pub(super) path_key: String,
    pub(super) current: Current,
    /// The peer's part of what connections of the face share.
    pub(super) credit: Rc<PeerCredit>,
}

/// Serves one connection until it ends. Runs as a task of its own.
pub async fn serve<I: Io, U: UnderStore>(
    shard: Rc<Shard<I, U>>,
    face: Rc<Face<I::Stream>>,
    stream: I::Stream,
) {
    let watched = Rc::new(Watched::new(shard.io.now()));
    let Some(ticket) = face.connections.enter(&watched, &stream, shard.io.now()) else {
        shard.counters.s3_connections_refused.increase();
        stream.close();
        return;
    };
    shard.counters.s3_connections.increase();
    let began = shard.io.now();
    match Transport::accept(stream.clone(), face.shared.tls.as_ref()).await {
        Ok(transport) => {
            let mut connection = Connection {
                transport,
                watched,
                held: Vec::new(),
                batch: Some(Box::new(SendBatch::with_capacity(HEAD_BYTES, PARTS))),
                batched: 0,
                batched_bytes: 0,
                pinned: 0,
                closes: false,
                unwanted: None,
                path_key: String::new(),
                current: Current {
                    id: 0,
                    began,
                    is_head: false,
                    entry: None,
                },
                credit: face
                    .connections
                    .credit_of(&shard.shared_credit, stream.peer().ip(), began),
                shard: Rc::clone(&shard),
                face: Rc::clone(&face),
            };
            // Whoever is gone has nothing to be told.
            if connection.run().await.is_ok() {
                let _ = connection.discard_unwanted().await;
            }
            connection.let_go();
        }
        Err(error) => tracing::debug!(peer = %stream.peer(), %error, "no TLS"),
    }
    stream.close();
    face.connections.leave(ticket);
}

impl<I: Io, U: UnderStore> Connection<I, U> {
    async fn run(&mut self) -> Result<(), Gone> {
        loop {
            let mut next = Next::Receive;
            if !self.held.is_empty() {
                let input = std::mem::take(&mut self.held);
                let (consumed, after) = self.serve_input(&input);
                self.held = input;
                self.held.drain(..consumed);
                next = after;
            }
            while matches!(next, Next::Receive) {
                self.flush().await?;
                if self.closes || self.watched.is_going() {
                    return Ok(());
                }
                let phase = if self.held.is_empty() {
                    Phase::Idle
                } else {
                    Phase::Head
                };
                if phase != self.watched.phase() {
                    self.watched.enter(phase, self.shard.io.now());
                }
                let received = self.transport.receive().await?;
                if received.is_empty() {
                    return Ok(());
                }
                if self.held.is_empty() {
                    let (consumed, after) = self.serve_input(&received);
                    self.held.extend_from_slice(&received[consumed..]);
                    next = after;
                    continue;
                }
                let is_more = received.contains(&b'\n');
                self.held.extend_from_slice(&received);
                drop(received);
                // Without a line's end the head cannot be complete: looking at it again for every
                // byte of a slow sender would cost what its length squared costs.
                if is_more || self.held.len() > HEAD_BYTES_MAX {
                    let input = std::mem::take(&mut self.held);
                    let (consumed, after) = self.serve_input(&input);
                    self.held = input;
                    self.held.drain(..consumed);
                    next = after;
                }
            }
            self.flush().await?;
            match next {
                Next::Receive | Next::Flush => {}
                Next::Get(get) => self.get(*get).await?,
                Next::Call(call) => self.call(*call).await?,
                Next::Close => return Ok(()),
            }
            if self.closes {
                return Ok(());
            }
        }
    }

    /// Notes that the body behind `head` stays unread. One that waits for a word is not sent.
    pub(super) fn leave_body(&mut self, head: &Head<'_>) {
        let is_sent = has_body(head) && !head.expects_continue;
        self.unwanted = is_sent.then(|| BodyReader::new(head.framing));
    }

    /// Takes what is left of a body that nobody wants, as far as [`UNWANTED_BYTES_MAX`].
    pub(super) async fn discard_unwanted(&mut self) -> Result<(), Gone> {
        let Some(mut body) = self.unwanted.take() else {
            return Ok(());
        };
        let mut input = Received::Tls(std::mem::take(&mut self.held));
        let mut taken = 0;
        // Once: however it is sent, it has so much time and no more.
        self.watched.enter(Phase::Discarding, self.shard.io.now());
        loop {
            let mut rest: &[u8] = &input;
            while body.next(&mut rest).map_err(|_| Gone)?.is_some() {}
            taken += input.len() as u64;
            if body.is_complete() || taken > UNWANTED_BYTES_MAX || self.watched.is_going() {
                return Ok(());
            }
            drop(input);
            input = self.transport.receive().await?;
            if input.is_empty() {
                return Ok(());
            }
        }
    }

    /// Serves whole requests at the start of `input` for as long as they can be served at once; gives
    /// the bytes that were used, and what to do then.
    fn serve_input(&mut self, input: &[u8]) -> (usize, Next) {
        let mut used = 0;
        loop {
            if self.batched_bytes >= WINDOW_BYTES_MAX
                || self.batched >= ANSWERS_PER_BATCH_MAX
                || self.pinned > 0 && !self.shard.shared_credit.has_room()
            {
                return (used, Next::Flush);
            }
            match Head::parse(&input[used..]) {
                Ok(None) => return (used, Next::Receive),
                Ok(Some((head, consumed))) => {
                    used += consumed;
                    if let Some(next) = self.serve_request(&head) {
                        return (used, next);
                    }
                }
                Err(refused) => {
                    self.begin("");
                    if self.face.shared.log.is_some() {
                        let peer = self.transport.peer();
                        self.current.entry = Some(Box::new(Entry::unread(peer)));
                    }
                    self.closes = true;
                    self.answer_error_as(refused.status(), &refused.error, "", "");
                    return (used, Next::Close);
                }
            }
        }
    }

    pub(super) fn begin(&mut self, method: &str) {
        self.current = Current {
            id: self.face.next_request_id(),
            began: self.shard.io.now(),
            is_head: method == "HEAD",
            entry: None,
        };
        self.shard.counters.s3_requests.increase();
    }
}

/// Whether bytes follow the head that are not the next one's.
pub(super) fn has_body(head: &Head<'_>) -> bool {
    !matches!(head.framing, Framing::None | Framing::Length(0))
}

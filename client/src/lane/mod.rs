//! One lane: a connection to one shard, a task that writes and a task that reads.
//!
//! The invariants: a request's credits are held until its answer has come or the lane is dead,
//! also when its caller has given up, because the worker counts it until then; and a closed lane
//! ends both tasks and everyone who waits, whatever the socket is doing.

mod receiver;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use corelane_rpc_schema::ShardId;
use corelane_rpc_schema::frame::{
    Checksums, DecodedHead, Head, LookupAnswerHead, ReadAnswer, ReadRequest, ReadSource,
    decode_head, encode_lookup, encode_read_request,
};
use corelane_rpc_schema::messages::{ErrorMessage, Hello, HelloAnswer, Message};
use slab::Slab;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::local_token;
use crate::options::Options;
use crate::policy::credits::CreditLimits;
use receiver::Receiver;

/// The hello's request id; those of requests have a one in the upper half.
const HELLO_REQUEST_ID: u64 = 1;

/// A connection to one shard, past its hello.
pub(crate) struct Lane {
    shared: Arc<Shared>,
    tasks: [AbortHandle; 2],
}

impl Drop for Lane {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

struct Shared {
    address: SocketAddr,
    state: Mutex<State>,
    /// Something is in the outbox.
    wake_writer: Notify,
    /// Cancelled with the lane: both tasks end, also one that waits for the socket.
    closed: CancellationToken,
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    limits: CreditLimits,
    /// Counts what arrives: tells a slow answer from a dead lane.
    receipts: Arc<AtomicU64>,
    going_away: AtomicBool,
}

struct State {
    waiting: Slab<Waiting>,
    generation: u32,
    outbox: Vec<u8>,
    closed: Option<Error>,
}

struct Waiting {
    generation: u32,
    /// The payload's length if the request is a READ.
    read_bytes: Option<u32>,
    caller: oneshot::Sender<Result<Answer, Error>>,
    _credits: Credits,
}

type Credits = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

/// What came for a request.
pub(crate) enum Answer {
    Read(ReadPayload),
    Message(Message),
    /// Rows that a look-up found, behind their statistics.
    Lookup(LookupAnswerHead, Bytes),
}

/// A READ answer.
pub(crate) struct ReadPayload {
    /// Prefix and header, which hold the checksums.
    head: Bytes,
    pub(crate) payload: Bytes,
    pub(crate) shard_hint: Option<ShardId>,
}

impl ReadPayload {
    /// The checksums that came with the payload.
    pub(crate) fn checksums(&self) -> Checksums<'_> {
        self.answer().checksums
    }

    /// Where the worker had the payload.
    pub(crate) fn source(&self) -> ReadSource {
        self.answer().head.source
    }

    fn answer(&self) -> ReadAnswer<'_> {
        match decode_head(&self.head) {
            Ok(DecodedHead::Head {
                head: Head::ReadAnswer(answer),
                ..
            }) => answer,
            other => unreachable!("these bytes were decoded before: {other:?}"),
        }
    }
}

impl Lane {
    /// Connects, says hello and starts the two tasks.
    pub(crate) async fn connect(
        address: SocketAddr,
        token: &str,
        options: &Options,
    ) -> Result<(Lane, HelloAnswer), Error> {
        match timeout(
            options.connect_timeout,
            Self::connect_unbounded(address, token, options),
        )
        .await
        {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::Timeout {
                what: String::from("connect and hello"),
                address: address.to_string(),
                after: options.connect_timeout,
            }),
        }
    }

    async fn connect_unbounded(
        address: SocketAddr,
        token: &str,
        options: &Options,
    ) -> Result<(Lane, HelloAnswer), Error> {
        let cannot_connect = |error: std::io::Error| Error::Connect {
            address: address.to_string(),
            reason: error.to_string(),
        };
        let stream = TcpStream::connect(address).await.map_err(cannot_connect)?;
        stream.set_nodelay(true).map_err(cannot_connect)?;
        let (reader, mut writer) = stream.into_split();
        let mut hello = Vec::new();
        Message::Hello(Hello {
            token: local_token::or_local(token, &address.to_string()),
            client_name: options.client_name.clone(),
        })
        .to_frame(HELLO_REQUEST_ID, &mut hello)
        .map_err(|error| protocol(address, error))?;
        writer
            .write_all(&hello)
            .await
            .map_err(|error| disconnected(address, error))?;
        let receipts = Arc::new(AtomicU64::new(0));
        let mut receiver = Receiver::new(reader, address, Arc::clone(&receipts));
        let answer = receiver.hello_answer().await?;

        let limits =
            CreditLimits::granted(answer.requests_in_flight_max, answer.bytes_in_flight_max);
        let shared = Arc::new(Shared {
            address,
            state: Mutex::new(State {
                waiting: Slab::new(),
                generation: 0,
                outbox: Vec::new(),
                closed: None,
            }),
            wake_writer: Notify::new(),
            closed: CancellationToken::new(),
            requests: Arc::new(Semaphore::new(limits.requests() as usize)),
            bytes: Arc::new(Semaphore::new(limits.bytes() as usize)),
            limits,
            receipts,
            going_away: AtomicBool::new(false),
        });
        let tasks = [
            tokio::spawn(write(Arc::clone(&shared), writer)).abort_handle(),
            tokio::spawn(receive(Arc::clone(&shared), receiver)).abort_handle(),
        ];
        Ok((Lane { shared, tasks }, answer))
    }

    /// Whether new requests may be sent here.
    pub(crate) fn is_open(&self) -> bool {
        !self.shared.going_away.load(Ordering::Acquire) && self.shared.state().closed.is_none()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Sends a READ, except for its request id, and waits for the answer.
    pub(crate) async fn read(
        &self,
        mut request: ReadRequest,
        what: &(dyn Fn() -> String + Sync),
        patience: Duration,
    ) -> Result<ReadPayload, Error> {
        let length = request.length;
        let answer = self
            .ask(Some(length), what, patience, |request_id, outbox| {
                request.request_id = request_id;
                encode_read_request(outbox, &request);
                Ok(())
            })
            .await?;
        match answer {
            Answer::Read(answer) => Ok(answer),
            Answer::Message(message) => Err(self.unexpected(message, what())),
            Answer::Lookup(..) => unreachable!("rows are only taken for a look-up"),
        }
    }

    /// Looks up what `request` encodes.
    pub(crate) async fn look_up(
        &self,
        request: &[u8],
        what: &(dyn Fn() -> String + Sync),
        patience: Duration,
    ) -> Result<(LookupAnswerHead, Bytes), Error> {
        let answer = self
            .ask(None, what, patience, |request_id, outbox| {
                encode_lookup(outbox, request_id, request)
                    .map_err(|error| protocol(self.shared.address, error))
            })
            .await?;
        match answer {
            Answer::Lookup(head, payload) => Ok((head, payload)),
            Answer::Message(message) => Err(self.unexpected(message, what())),
            Answer::Read(_) => unreachable!("a READ answer is only taken for a READ"),
        }
    }

    /// Sends a message and waits for the answer; an error message is an error.
    pub(crate) async fn call(
        &self,
        message: &Message,
        what: &(dyn Fn() -> String + Sync),
        patience: Duration,
    ) -> Result<Message, Error> {
        let answer = self
            .ask(None, what, patience, |request_id, outbox| {
                message
                    .to_frame(request_id, outbox)
                    .map_err(|error| protocol(self.shared.address, error))
            })
            .await?;
        match answer {
            Answer::Message(Message::Error(error)) => Err(refused(error, what())),
            Answer::Message(message) => Ok(message),
            Answer::Lookup(head, _) => Err(protocol(
                self.shared.address,
                format!("rows in answer to {}, id {:#x}", what(), head.request_id),
            )),
            Answer::Read(_) => unreachable!("a READ answer is only taken for a READ"),
        }
    }

    async fn ask(
        &self,
        read_bytes: Option<u32>,
        what: &(dyn Fn() -> String + Sync),
        patience: Duration,
        encode: impl FnOnce(u64, &mut Vec<u8>) -> Result<(), Error>,
    ) -> Result<Answer, Error> {
        let deadline = Instant::now() + patience;
        let too_late = |_| Error::Timeout {
            what: what(),
            address: self.shared.address.to_string(),
            after: patience,
        };
        let credits = timeout_at(deadline, self.credits(read_bytes))
            .await
            .map_err(too_late)??;
        let receipts_before = self.shared.receipts.load(Ordering::Acquire);
        let answer = self.send(read_bytes, credits, encode)?;
        match timeout_at(deadline, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(disconnected(self.shared.address, "the lane was dropped")),
            Err(elapsed) => {
                let error = too_late(elapsed);
                if self.shared.receipts.load(Ordering::Acquire) == receipts_before {
                    // Nothing at all came meanwhile: whoever asks next shall not wait as long.
                    self.shared.close(error.clone());
                }
                Err(error)
            }
        }
    }

    async fn credits(&self, read_bytes: Option<u32>) -> Result<Credits, Error> {
        // The semaphores are closed with the lane.
        let closed = |_| self.shared.closed_error();
        let request = Arc::clone(&self.shared.requests)
            .acquire_owned()
            .await
            .map_err(closed)?;
        let bytes = match read_bytes {
            None => None,
            Some(bytes) => Some(
                Arc::clone(&self.shared.bytes)
                    .acquire_many_owned(self.shared.limits.bytes_of_read(bytes))
                    .await
                    .map_err(closed)?,
            ),
        };
        Ok((request, bytes))
    }

    fn send(
        &self,
        read_bytes: Option<u32>,
        credits: Credits,
        encode: impl FnOnce(u64, &mut Vec<u8>) -> Result<(), Error>,
    ) -> Result<oneshot::Receiver<Result<Answer, Error>>, Error> {
        let (caller, answer) = oneshot::channel();
        let mut state = self.shared.state();
        if let Some(error) = &state.closed {
            return Err(error.clone());
        }
        // A late answer of the slot's last user has another generation.
        state.generation = state.generation.wrapping_add(1).max(1);
        let generation = state.generation;
        let slot = state.waiting.vacant_key();
        encode(request_id(generation, slot), &mut state.outbox)?;
        state.waiting.insert(Waiting {
            generation,
            read_bytes,
            caller,
            _credits: credits,
        });
        drop(state);
        self.shared.wake_writer.notify_one();
        Ok(answer)
    }

    fn unexpected(&self, message: Message, what: String) -> Error {
        match message {
            Message::Error(error) => refused(error, what),
            other => protocol(
                self.shared.address,
                format!("{other:?} in answer to {what}"),
            ),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the lane; everyone who waits gets `error`. Only the first reason counts.
    fn close(&self, error: Error) {
        let mut state = self.state();
        if state.closed.is_some() {
            return;
        }
        tracing::debug!(address = %self.address, %error, "lane closed");
        state.closed = Some(error.clone());
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.requests.close();
        self.bytes.close();
        for (_, waiting) in waiting {
            // A caller that gave up does not listen any more.
            let _ = waiting.caller.send(Err(error.clone()));
        }
        self.closed.cancel();
    }

    fn closed_error(&self) -> Error {
        let closed = self.state().closed.clone();
        closed.unwrap_or_else(|| disconnected(self.address, "the lane is closing"))
    }

    /// Takes the request with this id out of the waiting ones.
    fn take(&self, request_id: u64) -> Option<Waiting> {
        let mut state = self.state();
        let (generation, slot) = ((request_id >> 32) as u32, request_id as u32 as usize);
        if state.waiting.get(slot)?.generation == generation {
            state.waiting.try_remove(slot)
        } else {
            None
        }
    }
}

fn request_id(generation: u32, slot: usize) -> u64 {
    // Slots are bounded by the credits, which are a u32.
    u64::from(generation) << 32 | slot as u64
}

async fn write(shared: Arc<Shared>, writer: OwnedWriteHalf) {
    let error = tokio::select! {
        error = write_until_error(&shared, writer) => error,
        () = shared.closed.cancelled() => return,
    };
    shared.close(disconnected(shared.address, error));
}

async fn write_until_error(shared: &Shared, mut writer: OwnedWriteHalf) -> std::io::Error {
    let mut sending = Vec::new();
    loop {
        shared.wake_writer.notified().await;
        // What was queued since the last write leaves in one call.
        std::mem::swap(&mut shared.state().outbox, &mut sending);
        if let Err(error) = writer.write_all(&sending).await {
            return error;
        }
        sending.clear();
    }
}

async fn receive(shared: Arc<Shared>, mut receiver: Receiver) {
    let error = tokio::select! {
        error = receive_until_error(&shared, &mut receiver) => error,
        () = shared.closed.cancelled() => return,
    };
    shared.close(error);
}

async fn receive_until_error(shared: &Shared, receiver: &mut Receiver) -> Error {
    loop {
        if let Err(error) = receiver.take_frame(shared).await {
            return error;
        }
    }
}

fn disconnected(address: SocketAddr, reason: impl ToString) -> Error {
    Error::Disconnected {
        address: address.to_string(),
        reason: reason.to_string(),
    }
}

fn protocol(address: SocketAddr, reason: impl ToString) -> Error {
    Error::Protocol {
        address: address.to_string(),
        reason: reason.to_string(),
    }
}

fn refused(error: ErrorMessage, what: String) -> Error {
    Error::Refused {
        what,
        code: error.code,
        message: error.message,
        retry_after: Duration::from_millis(u64::from(error.retry_after_ms)),
    }
}

//! A lane: one data-plane connection to one shard.
//!
//! The reader decodes every frame that arrived, answers DRAM hits on the spot and starts a task
//! for everything else; the writer sends what is ready. A malformed frame, one that is never
//! finished, a missing hello or an unknown token closes this lane with an error frame that says
//! why; other lanes never notice.
//!
//! The invariant: bytes held for an incomplete frame are bounded by the longest request that the client
//! may send; before hello that is a message.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use corelane_io::{Io, Nanos, Priority, Stream};
use corelane_lookup::answer::arrow_ipc::SchemaMessage;
use corelane_lookup::request::LookupRequest;
use corelane_rpc_schema::frame::{
    self, Decoded, Frame, HEADER_WORDS_LOOKUP, HEADER_WORDS_MAX_MESSAGE, LOOKUP_ANSWER_BYTES_MAX,
    LOOKUP_BYTES_MAX, LookupAnswerHead, LookupHead, PREFIX_BYTES, READ_REQUEST_BYTES, ReadRequest,
    ReadRequestInPlace, lookup_checksum,
};
use corelane_rpc_schema::messages::{
    ErrorCode, ErrorMessage, Hello, HelloAnswer, Message, OpenAnswer,
};
use corelane_rpc_schema::{READ_BYTES_MAX, STRIPE_BYTES, ShardId};

use futures::FutureExt;

use super::outbox::Outbox;
use crate::access::Reader;
use crate::cache::frames::Expected;
use crate::mount::AccessSet;
use crate::object::ObjectMeta;
use crate::places::Standing;
use crate::shard::Shard;
use crate::shard::known::Known;
use crate::shard::look_up::failure::{LookupFailure, Why};
use crate::shard::look_up::request::LookupAnswer;
use crate::shard::read::error;
use crate::shard::signal::Signal;
use crate::under_store::UnderStore;

/// Longest frame of a client that has not said hello. Bounds what a lane holds of an unfinished one.
const HELD_BYTES_MAX_UNGREETED: usize = PREFIX_BYTES + HEADER_WORDS_MAX_MESSAGE as usize * 8;

/// Longest frame of one that has: a look-up of many keys.
const HELD_BYTES_MAX: usize =
    PREFIX_BYTES + HEADER_WORDS_LOOKUP as usize * 8 + LOOKUP_BYTES_MAX as usize + 8;

/// What a look-up counts of a lane's credit, beside its request, while it is unanswered: how long its answer gets
/// is not known, and most are short. The answer counts as long as it is.
const LOOKUP_CREDIT_BYTES: u32 = 16 << 10;

/// A connection that has not said hello by then is closed.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

/// A frame whose rest has not come by then never will: requests are a few hundred bytes, sent at once.
const FRAME_DEADLINE: Duration = Duration::from_secs(10);

/// Why the worker ends a lane, and the code that the client branches on.
struct Broken(ErrorCode, String);

impl Broken {
    fn invalid(reason: impl ToString) -> Self {
        Broken(ErrorCode::Invalid, reason.to_string())
    }

    fn no_hello() -> Self {
        Broken(
            ErrorCode::Unauthenticated,
            "the first frame on a lane is a hello".to_owned(),
        )
    }
}

/// What the tasks of a lane share.
pub struct LaneState {
    /// Answers on their way out.
    pub outbox: Outbox,
    /// Object of the last read that took the short way to the device: the next one is often of it.
    pub last_from_device: RefCell<Option<Rc<Known>>>,
    /// Mounts that the client may read; set by hello, renewed when mounts change.
    pub access: RefCell<Arc<AccessSet>>,
    /// Whose lane it is; `None` before hello, and once its token is gone.
    pub reader: RefCell<Option<Reader>>,
    /// Name that the client gave itself.
    pub client_name: RefCell<Rc<str>>,
    has_greeted: Cell<bool>,
    opened: Nanos,
    /// Since when the rest of a frame has been missing.
    unfinished_since: Cell<Option<Nanos>>,
    ended: Signal,
}

impl LaneState {
    /// Appends a message frame that answers a request.
    pub fn answer_message(&self, request_id: u64, bytes: u32, message: &Message) {
        self.outbox.answer_copied(bytes, |batch| {
            let mut copied = 0;
            batch.push_head_with(|out| {
                let start = out.len();
                encode(message, request_id, out);
                copied = (out.len() - start) as u64;
            });
            copied
        });
    }

    /// Tells the client to send no new requests.
    pub fn go_away(&self) {
        self.outbox
            .append(|batch| batch.push_head_with(|out| encode(&Message::GoAway, 0, out)));
    }

    /// Ends the lane, unless a request is unanswered.
    pub fn end_if_idle(&self) {
        if self.outbox.is_idle() {
            self.outbox.close();
        }
    }

    /// What the lane is doing, for whoever needs its place.
    pub fn standing(&self, now: Nanos) -> Standing {
        let age = now.since(self.opened);
        if self.outbox.is_closed() {
            Standing::Busy
        } else if !self.has_greeted.get() {
            Standing::Unproven(age)
        } else if self.outbox.is_idle() {
            Standing::Idle(age)
        } else {
            Standing::Busy
        }
    }

    /// Why the client is to be cut off, if it is.
    pub fn overdue(&self, now: Nanos, send_deadline: Duration) -> Option<&'static str> {
        let is_late =
            |since: Option<Nanos>, deadline| since.is_some_and(|at| now.since(at) > deadline);
        if !self.has_greeted.get() && is_late(Some(self.opened), HELLO_DEADLINE) {
            Some("no hello came in time")
        } else if is_late(self.unfinished_since.get(), FRAME_DEADLINE) {
            Some("the rest of a frame did not come in time")
        } else if is_late(self.outbox.sending_since(), send_deadline) {
            Some("the client does not read its answers")
        } else {
            None
        }
    }

    /// Ends the lane: the writer sends this reason behind what is ready already, then closes the stream.
    pub fn end(&self, code: ErrorCode, message: String) {
        self.outbox.append(|batch| {
            let message = Message::Error(ErrorMessage {
                code,
                message,
                retry_after_ms: 0,
            });
            batch.push_head_with(|out| encode(&message, 0, out));
        });
        self.outbox.close();
    }

    /// Appends the answer to a look-up.
    fn answer_lookup(&self, request_id: u64, counted: u32, answer: &EncodedLookup) {
        let head = LookupAnswerHead {
            request_id,
            checksum: lookup_checksum([&answer.payload[..]]),
            statistics_bytes: answer.statistics_bytes,
            rows: answer.rows,
            home: answer.home,
        };
        let bytes = answer.payload.len() as u32;
        let charge = u64::from(bytes);
        let is_taken = self.outbox.answer_lookup(counted, charge, |batch| {
            batch.push_head_with(|out| frame::encode_lookup_answer_head(out, &head, bytes));
            batch.push_copy(&answer.payload);
            Outbox::pad(batch, bytes);
        });
        if !is_taken {
            self.answer_error(request_id, counted, too_many_unsent());
        }
    }

    /// Appends an error that answers a request.
    pub fn answer_error(&self, request_id: u64, bytes: u32, error: ErrorMessage) {
        self.answer_message(request_id, bytes, &Message::Error(error));
    }
}

fn too_many_unsent() -> ErrorMessage {
    error(
        ErrorCode::Busy,
        "too many answers to look-ups wait to be taken; take them and retry",
    )
}

fn encode(message: &Message, request_id: u64, out: &mut Vec<u8>) {
    if let Err(error) = message.to_frame(request_id, out) {
        let message = Message::Error(ErrorMessage {
            code: ErrorCode::Internal,
            message: format!("the answer does not fit the protocol: {error}"),
            retry_after_ms: 0,
        });
        message
            .to_frame(request_id, out)
            .expect("error messages are cut to fit");
    }
}

/// Serves one connection until it ends. Runs as a task of its own.
pub async fn serve<I: Io, U: UnderStore>(shard: Rc<Shard<I, U>>, stream: I::Stream) {
    let tuning = &shard.tuning;
    let lane = Rc::new(LaneState {
        outbox: Outbox::new(
            tuning.lane_requests_max,
            tuning.lane_bytes_max,
            shard
                .lanes
                .credit_of(&shard.shared_credit, stream.peer().ip(), shard.io.now()),
            shard.lookups.unsent().clone(),
        ),
        last_from_device: RefCell::new(None),
        access: RefCell::new(Arc::new(AccessSet::none())),
        reader: RefCell::default(),
        client_name: RefCell::new(Rc::from("")),
        has_greeted: Cell::new(false),
        opened: shard.io.now(),
        unfinished_since: Cell::new(None),
        ended: Signal::default(),
    });
    let Some(ticket) = shard.lanes.enter(&lane, &stream, shard.io.now()) else {
        shard.counters.lanes_refused.increase();
        stream.close();
        return;
    };
    shard.counters.lanes_opened.increase();
    shard.io.spawn(
        Priority::Foreground,
        write(Rc::clone(&shard), stream.clone(), Rc::clone(&lane)),
    );
    if let Err(Broken(code, reason)) = read(&shard, &stream, &lane).await {
        shard.counters.lanes_failed.increase();
        tracing::debug!(peer = %stream.peer(), client = %lane.client_name.borrow(), reason, "lane closed");
        lane.end(code, reason);
    }
    lane.outbox.close();
    lane.ended.wait().await;
    shard.lanes.leave(ticket);
}

async fn write<I: Io, U: UnderStore>(
    shard: Rc<Shard<I, U>>,
    stream: I::Stream,
    lane: Rc<LaneState>,
) {
    // An error means that the client is gone, which the reader finds out by itself.
    let _ = lane.outbox.drain(&stream, || shard.io.now()).await;
    lane.outbox.close();
    stream.close();
    lane.ended.set();
}

/// Reads and serves frames until the peer ends the stream or breaks the protocol; the error is
/// for the peer.
async fn read<I: Io, U: UnderStore>(
    shard: &Rc<Shard<I, U>>,
    stream: &I::Stream,
    lane: &Rc<LaneState>,
) -> Result<(), Broken> {
    let mut held: Vec<u8> = Vec::new();
    loop {
        let received = match stream.receive().await {
            Ok(received) if !received.is_empty() => received,
            // The end of the stream: what was asked for is still answered, since a client may
            // close its sending side first. On a broken connection the next send fails.
            Ok(_) | Err(_) => {
                lane.outbox.until_empty().await;
                return Ok(());
            }
        };
        let mut input: &[u8] = &received;
        while !held.is_empty() && !input.is_empty() {
            // Complete the held frame with as few bytes as it needs, then go on in place.
            let needed = match decode(lane, &held)? {
                Decoded::Incomplete { needed } => needed,
                Decoded::Frame { .. } => unreachable!("a complete frame is never held"),
            };
            let take = (needed - held.len()).min(input.len());
            held.extend_from_slice(&input[..take]);
            input = &input[take..];
            if let Decoded::Frame { frame, consumed } = decode(lane, &held)? {
                assert_eq!(
                    consumed,
                    held.len(),
                    "a held frame ends where it was completed"
                );
                // The next frame has a time of its own, and waiting for room is not the client's fault.
                lane.unfinished_since.set(None);
                serve_frame(shard, lane, frame).await?;
                held.clear();
            }
        }
        loop {
            // The usual case stays out of the state machine below.
            input = serve_reads(shard, lane, input);
            if input.is_empty() {
                break;
            }
            match decode(lane, input)? {
                Decoded::Frame { frame, consumed } => {
                    input = &input[consumed..];
                    serve_frame(shard, lane, frame).await?;
                }
                Decoded::Incomplete { .. } => {
                    held.extend_from_slice(input);
                    break;
                }
            }
        }
        assert!(
            held.len() < HELD_BYTES_MAX,
            "an incomplete head is shorter than the longest"
        );
        if held.is_empty() {
            lane.unfinished_since.set(None);
        } else if lane.unfinished_since.get().is_none() {
            lane.unfinished_since.set(Some(shard.io.now()));
        }
    }
}

/// Serves whole and valid reads at the start of `input` for as long as there are such and the lane
/// has room; gives the rest.
///
/// Each request is checked while the one before is served, so that what it will look at is in the
/// processor's cache.
#[inline(never)]
fn serve_reads<'a, I: Io, U: UnderStore>(
    shard: &Rc<Shard<I, U>>,
    lane: &Rc<LaneState>,
    mut input: &'a [u8],
) -> &'a [u8] {
    if !lane.has_greeted.get() {
        return input;
    }
    let mut burst = lane.outbox.begin_burst();
    let mut next = check_ahead(shard, lane, input);
    while let Some((request, expected)) = next
        && burst.has_room()
    {
        input = &input[READ_REQUEST_BYTES..];
        next = check_ahead(shard, lane, input);
        let request = request.request();
        burst.begin(request.length);
        shard.read(lane, &request, expected);
    }
    input
}

/// The READ at the start of `input`, if a whole and valid one stands there, and what to expect of it.
#[inline(always)]
fn check_ahead<'a, I: Io, U: UnderStore>(
    shard: &Shard<I, U>,
    lane: &LaneState,
    input: &'a [u8],
) -> Option<(ReadRequestInPlace<'a>, Expected)> {
    let request = ReadRequestInPlace::check(input)?;
    let expected = shard.expect_read(lane, request.object(), request.offset());
    Some((request, expected))
}

/// Serves one read that was not checked ahead.
#[inline(never)]
fn serve_read<I: Io, U: UnderStore>(
    shard: &Rc<Shard<I, U>>,
    lane: &Rc<LaneState>,
    request: &ReadRequest,
) {
    lane.outbox.begin(request.length);
    let expected = shard.expect_read(lane, request.object, request.offset);
    shard.read(lane, request, expected);
}

#[inline]
fn decode<'a>(lane: &LaneState, input: &'a [u8]) -> Result<Decoded<'a>, Broken> {
    let longest = if lane.has_greeted.get() {
        HELD_BYTES_MAX
    } else {
        HELD_BYTES_MAX_UNGREETED
    };
    frame::decode(input)
        .map_err(Broken::invalid)
        .and_then(|decoded| match decoded {
            Decoded::Incomplete { needed } if needed > longest => Err(Broken::invalid(format!(
                "a frame of {needed} bytes; requests have at most {longest}"
            ))),
            decoded => Ok(decoded),
        })
}

/// Answers with id 0 are about the lane, so a request with it could not be answered.
fn check_request_id(request_id: u64) -> Result<(), Broken> {
    if request_id == 0 {
        return Err(Broken::invalid(
            "request id 0; the ids of requests are not 0",
        ));
    }
    Ok(())
}

async fn serve_frame<I: Io, U: UnderStore>(
    shard: &Rc<Shard<I, U>>,
    lane: &Rc<LaneState>,
    frame: Frame<'_>,
) -> Result<(), Broken> {
    match frame {
        Frame::Read(request) => {
            if !lane.has_greeted.get() {
                return Err(Broken::no_hello());
            }
            check_request_id(request.request_id)?;
            if !lane.outbox.has_room() {
                Box::pin(lane.outbox.until_room()).await;
            }
            serve_read(shard, lane, &request);
            Ok(())
        }
        Frame::Message(header) => {
            let (request_id, message) = Message::from_header(header).map_err(Broken::invalid)?;
            serve_message(shard, lane, request_id, message).await
        }
        Frame::Lookup(head, payload) => serve_lookup(shard, lane, head, payload).await,
        Frame::ReadAnswer(..) | Frame::LookupAnswer(..) => {
            Err(Broken::invalid("a client does not send answers"))
        }
    }
}

async fn serve_lookup<I: Io, U: UnderStore>(
    shard: &Rc<Shard<I, U>>,
    lane: &Rc<LaneState>,
    head: LookupHead,
    payload: &[u8],
) -> Result<(), Broken> {
    if !lane.has_greeted.get() {
        return Err(Broken::no_hello());
    }
    if lookup_checksum([payload]) != head.checksum {
        return Err(Broken::invalid("the checksum of a look-up does not match"));
    }
    check_request_id(head.request_id)?;
    if !lane.outbox.has_lookup_room() {
        // Boxed, as below: thousands of idle lanes need not have room for what they seldom wait for.
        Box::pin(lane.outbox.until_lookup_room()).await;
    }
    // The request is kept until it is answered.
    let counted = LOOKUP_CREDIT_BYTES + payload.len() as u32;
    lane.outbox.begin(counted);
    if shard.lookups.unsent().is_full() {
        lane.answer_error(head.request_id, counted, too_many_unsent());
        return Ok(());
    }
    let request = LookupRequest::decode(payload);
    let (task_shard, task_lane) = (Rc::clone(shard), Rc::clone(lane));
    shard.io.spawn(Priority::Foreground, async move {
        let (shard, lane) = (task_shard, task_lane);
        let answer = match request {
            Ok(request) => {
                let access = Arc::clone(&lane.access.borrow());
                let explain = request.explain;
                let found = {
                    let mut looking = pin!(shard.look_up(request, &access).fuse());
                    let mut gone = pin!(until_gone(&shard, &lane).fuse());
                    futures::select_biased! {
                        found = looking => found,
                        () = gone => return,
                    }
                };
                // It may have taken long.
                match lane.access.borrow().covers(&access) {
                    true => found.and_then(|found| encoded(&found, explain)),
                    false => Err(rights_changed().into()),
                }
            }
            Err(error) => Err(error.into()),
        };
        match answer {
            Ok(answer) => lane.answer_lookup(head.request_id, counted, &answer),
            Err(failure) => lane.answer_error(head.request_id, counted, failure.to_wire()),
        }
    });
    Ok(())
}

/// How often it is looked whether the client of a look-up has gone.
const GONE_INTERVAL: Duration = Duration::from_millis(100);

/// Resolves once nobody takes answers from `lane` any more.
async fn until_gone<I: Io, U: UnderStore>(shard: &Shard<I, U>, lane: &LaneState) {
    while !lane.outbox.is_closed() {
        shard.io.sleep(GONE_INTERVAL).await;
    }
}

/// Opens of one request while rights are lost again and again.
const OPEN_TRIES: u32 = 3;

/// Opens an object for the client of `lane`. Rights that are lost meanwhile, of whichever mount, make it decide again.
async fn open_by_rights_of_now<I: Io, U: UnderStore>(
    shard: &Rc<Shard<I, U>>,
    lane: &LaneState,
    path: &str,
) -> Result<Arc<ObjectMeta>, ErrorMessage> {
    for _ in 0..OPEN_TRIES {
        let access = Arc::clone(&lane.access.borrow());
        let opened = shard.open(path, &access).await;
        if lane.access.borrow().covers(&access) {
            return opened;
        }
    }
    Err(rights_changed())
}

/// The answer to a request during which rights were lost. Another try finds out what is allowed now.
fn rights_changed() -> ErrorMessage {
    ErrorMessage {
        code: ErrorCode::Busy,
        message: "mounts or their readers have changed meanwhile; retry".to_owned(),
        retry_after_ms: 0,
    }
}

/// An answer to a look-up, as its payload.
struct EncodedLookup {
    payload: Vec<u8>,
    statistics_bytes: u32,
    rows: u64,
    home: ShardId,
}

fn encoded(found: &LookupAnswer, explain: bool) -> Result<EncodedLookup, LookupFailure> {
    let rows = found.batches.iter().map(RecordBatch::get_array_memory_size);
    let bytes = rows.sum::<usize>().min(LOOKUP_ANSWER_BYTES_MAX as usize) as u64;
    // What it is copied to counts in the outbox.
    let _charge = found.memory.own.account().charge(2 * bytes)?;
    let mut payload = Vec::new();
    if explain {
        let statistics = serde_json::to_writer(&mut payload, &found.counts);
        statistics.expect("numbers are written to memory");
    }
    let statistics_bytes = payload.len() as u32;
    SchemaMessage::new(&found.schema)?.write_stream(&found.batches, &mut payload);
    if payload.len() > LOOKUP_ANSWER_BYTES_MAX as usize {
        let sentence = format!(
            "the answer has {} bytes, more than {LOOKUP_ANSWER_BYTES_MAX}: select fewer columns, narrow the \
             predicate or set a limit",
            payload.len()
        );
        return Err(LookupFailure::new(Why::TooMuch, sentence));
    }
    Ok(EncodedLookup {
        payload,
        statistics_bytes,
        rows: found.rows(),
        home: found.home,
    })
}

async fn serve_message<I: Io, U: UnderStore>(
    shard: &Rc<Shard<I, U>>,
    lane: &Rc<LaneState>,
    request_id: u64,
    message: Message,
) -> Result<(), Broken> {
    match message {
        Message::Hello(hello) => {
            check_request_id(request_id)?;
            // Repeated hellos are answered like requests: no faster than their answers are read.
            if !lane.outbox.has_message_room() {
                Box::pin(lane.outbox.until_message_room()).await;
            }
            lane.outbox.begin(0);
            let answer = greet(shard, lane, hello)
                .map_err(|reason| Broken(ErrorCode::Unauthenticated, reason))?;
            lane.answer_message(request_id, 0, &Message::HelloAnswer(answer));
            Ok(())
        }
        _ if !lane.has_greeted.get() => Err(Broken::no_hello()),
        Message::Open(open) => {
            check_request_id(request_id)?;
            if !lane.outbox.has_message_room() {
                Box::pin(lane.outbox.until_message_room()).await;
            }
            lane.outbox.begin(0);
            let (task_shard, task_lane) = (Rc::clone(shard), Rc::clone(lane));
            shard.io.spawn(Priority::Foreground, async move {
                match open_by_rights_of_now(&task_shard, &task_lane, &open.path).await {
                    Ok(meta) => {
                        let answer = Message::OpenAnswer(OpenAnswer {
                            object: meta.id,
                            length: meta.length,
                            block_bytes: meta.block_bytes,
                            version: meta.version.clone(),
                            last_modified_ms: meta.last_modified_ms,
                            content_type: meta.content_type.clone(),
                        });
                        task_lane.answer_message(request_id, 0, &answer);
                    }
                    Err(error) => task_lane.answer_error(request_id, 0, error),
                }
            });
            Ok(())
        }
        Message::GoAway => Ok(()),
        Message::HelloAnswer(_) | Message::OpenAnswer(_) | Message::Error(_) => {
            Err(Broken::invalid("a client does not send answers"))
        }
    }
}

fn greet<I: Io, U: UnderStore>(
    shard: &Rc<Shard<I, U>>,
    lane: &Rc<LaneState>,
    hello: Hello,
) -> Result<HelloAnswer, String> {
    let reader = shard.enter(&hello.token)?;
    *lane.access.borrow_mut() = Arc::new(shard.access_of(&reader));
    *lane.reader.borrow_mut() = Some(reader);
    *lane.client_name.borrow_mut() = Rc::from(hello.client_name.as_str());
    lane.has_greeted.set(true);
    let topology = shard.topology();
    Ok(HelloAnswer {
        worker_id: shard.worker_id.clone(),
        epoch: topology.epoch,
        shard: shard.id,
        shard_ports: topology.ports.to_vec(),
        partition_shards: shard.partition_shards(),
        requests_in_flight_max: shard.tuning.lane_requests_max,
        bytes_in_flight_max: shard.tuning.lane_bytes_max,
        read_bytes_max: READ_BYTES_MAX,
        stripe_bytes: STRIPE_BYTES,
    })
}

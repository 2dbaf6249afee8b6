//! `POST /v1/lookup`: rows of Parquet objects over HTTP.
//!
//! | file | does |
//! |---|---|
//! | [`paths`] | objects, directories and patterns to objects |
//! | [`refusal`] | errors to statuses and JSON |
//!
//! Rows are data, so the bearer's token has to be a reader of each mount, on loopback as well, just as on a
//! lane.
//!
//! The invariant: answers of [`RUNNING_MAX`] look-ups are held at most, each until it was sent, or its peer took
//! too little of it; a look-up ends with its connection; beside them, a request a connection; and the control thread neither parses nor encodes anything
//! long itself.

mod paths;
mod refusal;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use corelane_lookup::answer::Format;
use corelane_lookup::memory::Charge;
use corelane_lookup::request::{LookupRequest, REQUEST_BYTES_MAX};
use corelane_rpc_schema::messages::ErrorCode;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, EXPECT, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::body::Body;
use super::server::bearer_of;
use super::status::{Phase, Status};
use crate::access::{Access, Reader};
use crate::control_plane::Control;
use crate::control_plane::shards::WORK_DEADLINE;
use crate::shard::look_up::request::LookupAnswer;
use crate::shard::request::ShardRequest;
use refusal::Refusal;

/// Where it is.
pub(super) const PATH: &str = "/v1/lookup";

/// Look-ups over HTTP at a time. Each holds 64 MiB of arrays and as much text at most, while most hold a few
/// KiB and take less than a millisecond; who needs more speed has the data plane, which goes past this thread.
const RUNNING_MAX: usize = 8;

/// Look-ups that wait for one of these to end, each on a connection of its own; the next is told to come again,
/// so that of the usual 32 connections some are left for whoever watches the worker.
const WAITING_MAX: usize = 16;

/// A request's body has to come within this time: 4 MiB at 4 Mbit/s.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// A body of up to so many bytes is taken to its end even if it is too long: a client that is still sending
/// would see a reset connection and not the answer.
const BODY_BYTES_SWALLOWED: usize = 4 * REQUEST_BYTES_MAX;

/// Time from the whole request to the answer's first byte. As a read's, it is longer than the retries of an
/// under-store that is away.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(60);

/// Longest answer, as the arrays that it is made of: the longest that a client has to be ready for.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What is parsed or encoded on the control thread itself: some 100 µs.
const IN_LINE_BYTES: usize = 16 << 10;

/// As [`IN_LINE_BYTES`]; text repeats the names of columns in each row.
const IN_LINE_ROWS: u64 = 64;

/// The look-ups that are under way.
pub(super) struct Lookups {
    running: Arc<Semaphore>,
    waiting: Semaphore,
}

/// What a look-up is made for.
struct Caller {
    control: Rc<Control>,
    reader: Reader,
    format: Format,
}

impl Lookups {
    /// None yet.
    pub(super) fn new() -> Self {
        Lookups {
            running: Arc::new(Semaphore::new(RUNNING_MAX)),
            waiting: Semaphore::new(WAITING_MAX),
        }
    }

    /// Answers a request for [`PATH`]. `begin` is called when all of it has come.
    pub(super) async fn answer(
        &self,
        status: &Status,
        access: &Access,
        request: Request<Incoming>,
        begin: &dyn Fn(),
    ) -> Response<Body> {
        self.answered(status, access, request, begin)
            .await
            .unwrap_or_else(Refusal::response)
    }

    async fn answered(
        &self,
        status: &Status,
        access: &Access,
        request: Request<Incoming>,
        begin: &dyn Fn(),
    ) -> Result<Response<Body>, Refusal> {
        if request.method() != Method::POST {
            return Err(Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "methodNotAllowed",
                "look-ups are asked with POST, and a JSON object as body",
            ));
        }
        let headers = request.headers();
        let reader = access
            .enter(bearer_of(headers))
            .map_err(|error| Refusal::of_code(ErrorCode::Unauthenticated, error.to_string()))?;
        let caller = Caller {
            control: control_of(status)?,
            reader,
            format: format_of(headers)?,
        };
        // Before a place is taken: a client that sends slowly keeps nobody waiting.
        let body = body_of(request).await?;
        begin();
        let deadline = Instant::now() + LOOKUP_DEADLINE;
        let place = self.place(deadline).await?;
        // It ends when the client has gone: this is dropped then, and the shard notices.
        let look_up = caller.look_up(body, Arc::new(place));
        match timeout_at(deadline, look_up).await {
            Ok(answer) => answer,
            Err(_) => Err(Refusal::new(
                StatusCode::GATEWAY_TIMEOUT,
                "deadline",
                format!(
                    "no answer within {} s; narrow the predicate, name fewer objects, or load them first",
                    LOOKUP_DEADLINE.as_secs()
                ),
            )),
        }
    }

    /// Whether others wait for whoever takes an answer slowly.
    pub(super) fn are_awaited(&self) -> bool {
        self.running.available_permits() == 0
    }

    /// A place among those that run, in the order in which they were asked for.
    async fn place(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, Refusal> {
        let sentence = "too many look-ups over HTTP are under way; retry, or use the data plane";
        let _waits = self
            .waiting
            .try_acquire()
            .map_err(|_| Refusal::busy(sentence))?;
        let place = timeout_at(deadline, Arc::clone(&self.running).acquire_owned()).await;
        match place {
            Ok(Ok(place)) => Ok(place),
            _ => Err(Refusal::busy(sentence)),
        }
    }
}

impl Caller {
    async fn look_up(
        self,
        body: Vec<u8>,
        place: Arc<OwnedSemaphorePermit>,
    ) -> Result<Response<Body>, Refusal> {
        let Caller {
            control,
            reader,
            format,
        } = self;
        let is_short = body.len() <= IN_LINE_BYTES;
        let mut request = elsewhere(is_short, &place, move || parsed(&body)).await??;
        let rights = control.rights_of(&reader)?;
        request.paths = paths::objects(&control, &rights, &request.paths).await?;
        let home = paths::home(&control, &request.paths[0])?;
        let explain = request.explain;
        let found = control.shards.ask(home, WORK_DEADLINE, |answer| {
            let (request, reader) = (Box::new(request), reader.clone());
            ShardRequest::LookUp {
                request,
                reader,
                answer,
            }
        });
        let found = found.await??;
        control.rights_of(&reader)?.still_allow(&rights)?;
        let rows = found.rows();
        let counts = explain.then(|| serde_json::to_string(&found.counts));
        let is_short = rows <= IN_LINE_ROWS && array_bytes(&found) <= IN_LINE_BYTES;
        // The rows go when their text is there; that is charged until it was sent.
        let (bytes, memory) = elsewhere(is_short, &place, move || encoded(format, found)).await??;

        let mut body = Body::new(bytes);
        body.hold(place);
        body.hold(memory);
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        let content_type = HeaderValue::from_static(format.content_type());
        headers.insert(CONTENT_TYPE, content_type);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert("x-corelane-rows", HeaderValue::from(rows));
        if let Some(counts) = counts {
            let counts = counts.expect("numbers with names");
            let counts = HeaderValue::try_from(counts).expect("JSON of numbers is ASCII");
            headers.insert("x-corelane-explain", counts);
        }
        Ok(response)
    }
}

/// Runs `work` here if it is short, else on a thread that may be kept for long. `place` is held until it has
/// ended, whoever waits for it.
async fn elsewhere<T: Send + 'static>(
    is_short: bool,
    place: &Arc<OwnedSemaphorePermit>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    if is_short {
        return Ok(work());
    }
    let place = Arc::clone(place);
    let working = move || {
        let made = work();
        drop(place);
        made
    };
    tokio::task::spawn_blocking(working)
        .await
        .map_err(|_| Refusal::of_code(ErrorCode::Internal, "the look-up failed; the log says why"))
}

fn parsed(body: &[u8]) -> Result<LookupRequest, Refusal> {
    let text = std::str::from_utf8(body).map_err(|error| {
        let sentence = format!("request: not JSON: {error}");
        Refusal::of_code(ErrorCode::Invalid, sentence)
    })?;
    Ok(LookupRequest::from_json(text)?)
}

fn encoded(format: Format, found: LookupAnswer) -> Result<(Vec<u8>, Charge), Refusal> {
    let mut bytes = Vec::new();
    let mut memory = found.memory.own.account().empty();
    let (schema, batches) = (&found.schema, &found.batches);
    format.write_within(
        ANSWER_BYTES_MAX,
        schema,
        batches,
        &mut bytes,
        Some(&mut memory),
    )?;
    Ok((bytes, memory))
}

fn array_bytes(found: &LookupAnswer) -> usize {
    let batches = found.batches.iter();
    batches.map(RecordBatch::get_array_memory_size).sum()
}

fn control_of(status: &Status) -> Result<Rc<Control>, Refusal> {
    match (status.control(), status.phase()) {
        (Some(control), Phase::Serving) => Ok(Rc::clone(control)),
        (_, Phase::Stopping) => Err(Refusal::of_code(
            ErrorCode::Draining,
            "the worker is stopping; retry when it is up again",
        )),
        _ => Err(Refusal::busy("the worker is starting; retry")),
    }
}

fn format_of(headers: &HeaderMap) -> Result<Format, Refusal> {
    let accepted: Vec<&str> = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    Format::of_accept(&accepted.join(",")).ok_or_else(|| {
        let formats = [Format::ArrowIpc, Format::JsonLines, Format::Csv];
        let [arrow, json, csv] = formats.map(Format::content_type);
        Refusal::new(
            StatusCode::NOT_ACCEPTABLE,
            "notAcceptable",
            format!("answers are {arrow}, {json} or {csv}; accept one of them"),
        )
    })
}

/// The whole body, if it comes in time and is not too long.
async fn body_of(request: Request<Incoming>) -> Result<Vec<u8>, Refusal> {
    let too_long = || {
        Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "bodyTooLong",
            format!("a request has at most {REQUEST_BYTES_MAX} bytes; ask in several requests"),
        )
    };
    let said = usize::try_from(request.body().size_hint().lower()).unwrap_or(usize::MAX);
    // Who expects a word before sending has not begun to.
    let is_waiting = request.headers().contains_key(EXPECT);
    if said > BODY_BYTES_SWALLOWED || said > REQUEST_BYTES_MAX && is_waiting {
        return Err(too_long());
    }
    let mut body = request.into_body();
    let mut whole = Vec::new();
    let mut received = 0;
    let receive = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                let sentence = format!("the body did not come whole: {error}");
                Refusal::of_code(ErrorCode::Invalid, sentence)
            })?;
            let Ok(piece) = frame.into_data() else {
                continue;
            };
            received += piece.len();
            if received > BODY_BYTES_SWALLOWED {
                break;
            } else if received > REQUEST_BYTES_MAX {
                whole = Vec::new();
            } else {
                whole.extend_from_slice(&piece);
            }
        }
        Ok::<(), Refusal>(())
    };
    timeout(BODY_DEADLINE, receive).await.map_err(|_| {
        Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            "bodyLate",
            format!("the body did not come within {} s", BODY_DEADLINE.as_secs()),
        )
    })??;
    match received > REQUEST_BYTES_MAX {
        true => Err(too_long()),
        false => Ok(whole),
    }
}

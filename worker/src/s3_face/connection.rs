//! One connection: requests in, answers out, in their order.
//!
//! Requests are served one after the other. What can be answered at once is appended to a batch that
//! leaves when the input is used up, so that a client that pipelines gets many answers in one send;
//! whatever waits is served alone. The invariant: bytes held of an unfinished head are bounded by
//! [`HEAD_BYTES_MAX`], bytes pinned for answers by a window or two, counted in the shard's credit.

use std::rc::Rc;
use std::sync::Arc;

use corelane_io::{FrameSlice, Io, IoError, Nanos, Payload, SendBatch, Stream};
use corelane_s3::body::BodyReader;
use corelane_s3::credentials::Verb;
use corelane_s3::head::{Framing, HEAD_BYTES_MAX, Head};
use corelane_s3::operation::{Operation, Read, Routed, route};
use corelane_s3::payload::PayloadSpec;
use corelane_s3::response::{CONTINUE, Extent, request_id_text, write_head, write_object_head};
use corelane_s3::sigv4::{Caller, PayloadMode};
use corelane_s3::target::Target;
use corelane_s3::xml::error::Subject;
use corelane_s3::{Error, ErrorCode, xml};

use super::Face;
use super::access_log::{End, Entry, operation_name};
use super::buckets::{Bucket, may};
use super::call::{Call, Response, Task};
use super::connections::{Phase, Watched};
use super::get::{
    FIRST_PART, Found, Get, Outcome, OwnedConditions, WINDOW_BYTES_MAX, Windows, error_of,
    lines_of, lines_with, outcome_of,
};
use super::transport::{Received, Transport};
use crate::shard::Shard;
use crate::shard::gather::ReadParts;
use crate::shard::metadata::Known;
use crate::shard::object_read::read_of;
use crate::under_store::UnderStore;
use corelane_rpc_schema::Stripe;
use corelane_rpc_schema::messages::{ErrorCode as FailureCode, ErrorMessage};

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

/// Versions of an object that may go between their description and their first byte until a reader is
/// told to come again: who replaces it faster than this starves its readers anywhere.
const CHANGES_MAX: u32 = 8;

/// Why a read was not answered.
enum Refused {
    /// The version that was described is gone; there is another one.
    Changed(Error),
    /// Something that another try would not mend.
    Told(Error),
}

impl Refused {
    fn of(failure: &ErrorMessage) -> Self {
        let error = error_of(failure);
        if failure.code == FailureCode::VersionChanged {
            Refused::Changed(error)
        } else {
            Refused::Told(error)
        }
    }
}

/// What to do when the input gave all that can be served at once.
enum Next {
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
    id: u64,
    began: Nanos,
    is_head: bool,
    /// What the access log says of it, if there is one.
    entry: Option<Box<Entry>>,
}

/// One connection and what it shares with its core.
pub(super) struct Connection<I: Io, U: UnderStore> {
    pub(super) shard: Rc<Shard<I, U>>,
    pub(super) face: Rc<Face<I::Stream>>,
    pub(super) transport: Transport<I::Stream>,
    pub(super) watched: Rc<Watched>,
    /// Input that is not served yet.
    pub(super) held: Vec<u8>,
    batch: Option<Box<SendBatch>>,
    /// Answers in the batch.
    batched: usize,
    /// Bytes pinned by the batch, counted in the shard's credit.
    pinned: u64,
    /// Whether the present answer is the last.
    pub(super) closes: bool,
    /// The rest of a body that nobody wants, behind the last answer.
    pub(super) unwanted: Option<BodyReader>,
    path_key: String,
    pub(super) current: Current,
}

/// Serves one connection until it ends. Runs as a task of its own.
pub async fn serve<I: Io, U: UnderStore>(
    shard: Rc<Shard<I, U>>,
    face: Rc<Face<I::Stream>>,
    stream: I::Stream,
) {
    let watched = Rc::new(Watched::new(shard.io.now()));
    let Some(ticket) = face.connections.enter(&watched, &stream) else {
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
    fn leave_body(&mut self, head: &Head<'_>) {
        let is_sent = has_body(head) && !head.expects_continue;
        self.unwanted = is_sent.then(|| BodyReader::new(head.framing));
    }

    /// Takes what is left of a body that nobody wants, as far as [`UNWANTED_BYTES_MAX`].
    async fn discard_unwanted(&mut self) -> Result<(), Gone> {
        let Some(mut body) = self.unwanted.take() else {
            return Ok(());
        };
        let mut input = Received::Tls(std::mem::take(&mut self.held));
        let mut taken = 0;
        loop {
            let mut rest: &[u8] = &input;
            while body.next(&mut rest).map_err(|_| Gone)?.is_some() {}
            taken += input.len() as u64;
            if body.is_complete() || taken > UNWANTED_BYTES_MAX || self.watched.is_going() {
                return Ok(());
            }
            drop(input);
            self.watched.enter(Phase::Body, self.shard.io.now());
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
            if self.pinned >= WINDOW_BYTES_MAX
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
                    self.closes = true;
                    self.answer_error_as(refused.status(), &refused.error, "", "");
                    return (used, Next::Close);
                }
            }
        }
    }

    fn begin(&mut self, method: &str) {
        self.current = Current {
            id: self.face.next_request_id(),
            began: self.shard.io.now(),
            is_head: method == "HEAD",
            entry: None,
        };
        self.shard.counters.s3_requests.increase();
    }

    /// Serves one request; `None` where its answer is batched.
    fn serve_request(&mut self, head: &Head<'_>) -> Option<Next> {
        self.begin(head.method);
        self.closes = !head.keeps_alive || self.watched.is_going();
        let served = self.route_request(head);
        match served {
            Ok(None) if self.closes => Some(Next::Close),
            Ok(next) => next,
            Err(error) => {
                // A body that nobody wants is not read: it would be taken for the next head.
                self.closes |= has_body(head) || head.expects_continue;
                self.leave_body(head);
                let (bucket, key) = named(head, &self.face);
                self.answer_error(&error, &bucket, &key);
                self.closes.then_some(Next::Close)
            }
        }
    }

    fn route_request(&mut self, head: &Head<'_>) -> Result<Option<Next>, Error> {
        let face = Rc::clone(&self.face);
        if face.shared.log.is_some() {
            self.current.entry = Some(Box::new(Entry::of(head, self.transport.peer())));
        }
        let target = Target::parse(head, &face.shared.hosts)?;
        let verifier = face.verifier();
        let now_ms = self.shard.io.wall_clock_ms();
        let caller = verifier.verify(head, &target, now_ms)?;
        if let Some(entry) = &mut self.current.entry {
            entry.name(&caller, &target);
        }
        let routed = route(head, &target)?;
        if let Some(entry) = &mut self.current.entry {
            entry.operation = operation_name(&routed);
        }
        match routed {
            Routed::Read(read) => {
                // Nor is one that means nothing, which a read may have (RFC 9110, 9.3.1).
                self.closes |= has_body(head);
                self.leave_body(head);
                self.serve_read(&target, read, caller)
            }
            Routed::Operation(operation) => self
                .prepare_call(head, &target, operation, caller)
                .map(Some),
        }
    }

    /// Serves a read whose object and bytes are at hand; else says what to do.
    fn serve_read(
        &mut self,
        target: &Target<'_>,
        read: Read<'_>,
        caller: Caller,
    ) -> Result<Option<Next>, Error> {
        let buckets = self.face.buckets();
        let bucket = buckets.get(&target.bucket).ok_or_else(no_such_bucket)?;
        if !may(&caller, Verb::Read, &bucket.mount) {
            return Err(denied());
        }
        if read.version_id.as_deref().is_some_and(|id| id != "null") {
            return Err(Error::new(
                ErrorCode::NotImplemented,
                "single versions are not served: the worker caches what is current; ask the origin",
            ));
        }
        let range = match read.part_number {
            None => read.range,
            // Parts are the origin's to know: the object is its first and only one.
            Some(1) => Some(FIRST_PART),
            Some(_) => {
                let sentence = "The requested part does not exist: objects are one part here";
                return Err(Error::new(ErrorCode::InvalidRange, sentence));
            }
        };
        let read = Read { range, ..read };
        if target.key.ends_with('/') {
            let task = Task::Marker {
                is_head: read.is_head,
            };
            return Ok(Some(self.call_without_body(target, task, caller, bucket)));
        }
        let mut path_key = std::mem::take(&mut self.path_key);
        let home = bucket.home(&target.key, &mut path_key);
        self.path_key = path_key;
        let home = home.ok_or_else(|| {
            let sentence =
                "Your key is too long for this worker together with the place of its bucket";
            Error::new(ErrorCode::KeyTooLongError, sentence)
        })?;
        let shard = Rc::clone(&self.shard);
        let mut known = None;
        if shard.owner_of(home, Stripe(0)) == shard.id {
            known = shard.fresh_object(&bucket.mount, home, &self.path_key);
            if let Some(known) = &known
                && self.answer_known(known, &read)?
            {
                return Ok(None);
            }
        }
        Ok(Some(Next::Get(Box::new(Get {
            bucket: Rc::clone(bucket),
            path_key: self.path_key.as_str().into(),
            home,
            is_head: read.is_head,
            range: read.range,
            conditions: OwnedConditions::of(&read.conditions),
            overrides: read.overrides,
            known,
        }))))
    }

    /// Answers a read of a known object if that takes no waiting.
    #[inline]
    fn answer_known(&mut self, known: &Rc<Known>, read: &Read<'_>) -> Result<bool, Error> {
        if read.overrides.is_some() {
            return Ok(false);
        }
        let extent = match outcome_of(&known.meta, read.range, &read.conditions) {
            Outcome::Bytes(extent) => extent,
            Outcome::NotModified => {
                self.answer_not_modified(known);
                return Ok(true);
            }
            Outcome::Refused(error) => return Err(error),
        };
        let length = extent.end - extent.start;
        if read.is_head {
            self.prefetch_if_asked(known, extent);
        } else if length > WINDOW_BYTES_MAX {
            return Ok(false);
        }
        if read.is_head || length == 0 {
            self.push_object_head(extent, lines_of(known));
            self.finish(status_of(extent), None, 0, known.meta.length);
            return Ok(true);
        }
        // The head goes first, so the pieces wait here: mostly one.
        let mut slices: smallvec::SmallVec<[FrameSlice; 1]> = smallvec::SmallVec::new();
        let request = read_of(known, extent.start, length as u32);
        if !self
            .shard
            .slices_in_tier(&request, |slice| slices.push(slice))
        {
            return Ok(false);
        }
        self.push_object_head(extent, lines_of(known));
        let batch = self.batch.as_mut().expect("no send is under way");
        for slice in slices {
            batch.push_payload(Payload::Frame(slice));
        }
        self.shard.shared_credit.take(length);
        self.pinned += length;
        self.shard.counters.s3_reads_dram.increase();
        self.shard.counters.bytes_served.add(length);
        self.finish(status_of(extent), None, length, known.meta.length);
        Ok(true)
    }

    /// A read that waits: for metadata, another core, the device or the under-store.
    async fn get(&mut self, mut get: Get) -> Result<(), Gone> {
        self.watched.enter(Phase::Working, self.shard.io.now());
        let mut changes = 0;
        loop {
            match self.get_once(&get).await? {
                Ok(()) => return self.flush().await,
                // The next version is there, and its conditions are its own.
                Err(Refused::Changed(_)) if changes < CHANGES_MAX => {
                    changes += 1;
                    get.known = None;
                }
                Err(Refused::Changed(error) | Refused::Told(error)) => {
                    let (name, key) = (get.bucket_name(), get.key());
                    self.answer_error(&error, name, key);
                    return self.flush().await;
                }
            }
        }
    }

    async fn get_once(&mut self, get: &Get) -> Result<Result<(), Refused>, Gone> {
        let shard = Rc::clone(&self.shard);
        let Found { known, mut first } = match shard.find_for_get(get).await {
            Ok(found) => found,
            Err(failure) => return Ok(Err(Refused::of(&failure))),
        };
        let extent = match get.outcome(&known.meta) {
            Outcome::Bytes(extent) => extent,
            Outcome::NotModified => {
                self.answer_not_modified(&known);
                return Ok(Ok(()));
            }
            Outcome::Refused(error) => return Ok(Err(Refused::Told(error))),
        };
        let overridden = get
            .overrides
            .as_ref()
            .map(|overrides| lines_with(&known.meta, overrides));
        let lines = overridden.as_deref().unwrap_or_else(|| lines_of(&known));
        let length = extent.end - extent.start;
        if get.is_head {
            self.prefetch_if_asked(&known, extent);
        }
        if get.is_head || length == 0 {
            self.push_object_head(extent, lines);
            self.finish(status_of(extent), None, 0, known.meta.length);
            return Ok(Ok(()));
        }
        let mut windows = Windows::new();
        let began = match first.take() {
            Some(began) => began,
            None => {
                let length = windows.next(extent.start, extent.end);
                shard
                    .window(&get.bucket, &known, extent.start, length)
                    .await
            }
        };
        let parts = match began {
            Ok(parts) => parts,
            Err(failure) => return Ok(Err(Refused::of(&failure))),
        };
        // From here on the head is under way: what fails now cuts the answer off.
        self.push_object_head(extent, lines);
        let sent = self
            .stream_windows(get, &known, extent, parts, windows)
            .await;
        let bytes = match &sent {
            Ok(()) => length,
            Err(_) => 0,
        };
        self.finish(status_of(extent), None, bytes, known.meta.length);
        sent.map(Ok)
    }

    /// Sends `parts`, then the rest of `extent`, each window while the next is gathered.
    async fn stream_windows(
        &mut self,
        get: &Get,
        known: &Rc<Known>,
        extent: Extent,
        parts: ReadParts,
        mut windows: Windows,
    ) -> Result<(), Gone> {
        let shard = Rc::clone(&self.shard);
        let mut offset = extent.start;
        let mut parts = parts;
        loop {
            let bytes = self.push_parts(parts);
            offset += bytes;
            assert!(
                bytes > 0 && offset <= extent.end,
                "an answer is as long as its head says"
            );
            if offset == extent.end {
                return Ok(());
            }
            let length = windows.next(offset, extent.end);
            let gathering = shard.window(&get.bucket, known, offset, length);
            let gathered = if shard.shared_credit.has_room() {
                let (sent, gathered) = futures::join!(self.flush(), gathering);
                sent?;
                gathered
            } else {
                self.flush().await?;
                gathering.await
            };
            self.watched.enter(Phase::Working, shard.io.now());
            parts = gathered.map_err(|failure| self.cut_off(known, offset, &failure))?;
        }
    }

    fn cut_off(&self, known: &Known, offset: u64, failure: &ErrorMessage) -> Gone {
        self.shard.counters.s3_answers_cut.increase();
        tracing::warn!(
            object = known.meta.uri,
            offset,
            error = failure.message,
            "an S3 answer was cut off in the middle"
        );
        Gone
    }

    /// Appends gathered bytes to the batch; gives their number.
    fn push_parts(&mut self, parts: ReadParts) -> u64 {
        let batch = self.batch.as_mut().expect("no send is under way");
        let mut bytes = 0;
        for piece in parts.pieces {
            bytes += piece.len() as u64;
            batch.push_payload(piece);
        }
        self.shard.counters.count_s3_read(parts.source);
        self.shard.counters.bytes_served.add(bytes);
        self.shard.shared_credit.take(bytes);
        self.pinned += bytes;
        bytes
    }

    /// HEAD of the first byte asks for the whole object to be brought in.
    fn prefetch_if_asked(&self, known: &Rc<Known>, extent: Extent) {
        if extent.is_range && extent.start == 0 && extent.end == 1 {
            self.shard.prefetch_object(&known.meta);
        }
    }

    fn push_object_head(&mut self, extent: Extent, lines: &[u8]) {
        let (face, id, closes) = (&self.face, self.current.id, self.closes);
        let now_ms = self.shard.io.wall_clock_ms();
        let batch = self.batch.as_mut().expect("no send is under way");
        face.with_common(id, closes, now_ms, |common| {
            batch.push_head_with(|out| write_object_head(out, extent, lines, common));
        });
    }

    fn answer_not_modified(&mut self, known: &Known) {
        let etag = super::get::etag_of(&known.meta).into_owned();
        let modified = corelane_s3::date::http_date(known.meta.last_modified_ms);
        let headers = [("ETag", etag.as_bytes()), ("Last-Modified", &modified[..])];
        self.push_head(304, None, headers);
        self.finish(304, None, 0, known.meta.length);
    }

    pub(super) fn push_head<'a>(
        &mut self,
        status: u16,
        content_length: Option<u64>,
        headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) {
        let (face, id, closes) = (&self.face, self.current.id, self.closes);
        let now_ms = self.shard.io.wall_clock_ms();
        let batch = self.batch.as_mut().expect("no send is under way");
        face.with_common(id, closes, now_ms, |common| {
            batch.push_head_with(|out| write_head(out, status, content_length, headers, common));
        });
    }

    /// Appends an error, as XML where the method allows a body.
    pub(super) fn answer_error(&mut self, error: &Error, bucket: &str, key: &str) {
        self.answer_error_as(error.code.status(), error, bucket, key);
    }

    fn answer_error_as(&mut self, status: u16, error: &Error, bucket: &str, key: &str) {
        let id = request_id_text(self.current.id);
        let id = std::str::from_utf8(&id).expect("hexadecimal digits");
        let resource = format!("/{bucket}{}{key}", if key.is_empty() { "" } else { "/" });
        let subject = Subject {
            resource: &resource,
            bucket,
            key,
            request_id: id,
        };
        let mut body = Vec::new();
        xml::error::write(&mut body, error, &subject);
        self.answer_with(&Response {
            retry_after_s: error.retry_after_s,
            ..Response::xml(status, body, Some(error.code))
        });
    }

    /// Appends an answer that is complete.
    pub(super) fn answer_with(&mut self, response: &Response) {
        let retry = response.retry_after_s.map(|seconds| seconds.to_string());
        let has_body = response.status != 204 && response.status != 304;
        let length = (has_body && !self.current.is_head).then_some(response.body.len() as u64);
        let headers: Vec<(&str, &[u8])> = response
            .headers
            .iter()
            .map(|(name, value)| (name.as_ref(), value.as_bytes()))
            .chain(retry.iter().map(|text| ("Retry-After", text.as_bytes())))
            .collect();
        self.push_head(response.status, response.content_length.or(length), headers);
        if length.is_some() {
            let batch = self.batch.as_mut().expect("no send is under way");
            batch.push_head(&response.body);
        }
        self.finish(response.status, response.error, length.unwrap_or(0), 0);
    }

    /// Counts and logs the request whose answer is batched.
    fn finish(&mut self, status: u16, error: Option<ErrorCode>, bytes: u64, object_bytes: u64) {
        self.batched += 1;
        self.shard.counters.count_s3_status(status);
        if let Some(entry) = self.current.entry.take()
            && let Some(log) = &self.face.shared.log
        {
            let end = End {
                request_id: self.current.id,
                status,
                error,
                bytes,
                object_bytes,
                total: self.shard.io.now().since(self.current.began),
                at_ms: self.shard.io.wall_clock_ms(),
                is_secret: self.transport.is_secret(),
            };
            log.write(&entry, end);
        }
    }

    /// Sends what is batched.
    pub(super) async fn flush(&mut self) -> Result<(), Gone> {
        let batch = self.batch.take().expect("no send is under way");
        if batch.is_empty() {
            self.batch = Some(batch);
            return Ok(());
        }
        self.watched.enter(Phase::Sending, self.shard.io.now());
        let (pinned, _) = (
            std::mem::take(&mut self.pinned),
            std::mem::take(&mut self.batched),
        );
        let (sent, mut batch) = self.transport.send(batch).await;
        batch.clear();
        self.batch = Some(batch);
        self.shard.shared_credit.give_back(pinned);
        sent.map_err(Gone::from)
    }

    /// Gives back what a batch that never left was counted with.
    fn let_go(&mut self) {
        self.shard
            .shared_credit
            .give_back(std::mem::take(&mut self.pinned));
    }

    /// Sends the interim answer that a client with a body waits for.
    pub(super) async fn send_continue(&mut self) -> Result<(), Gone> {
        let batch = self.batch.as_mut().expect("no send is under way");
        batch.push_head(CONTINUE);
        self.flush().await
    }

    fn call_without_body(
        &self,
        target: &Target<'_>,
        task: Task,
        caller: Caller,
        bucket: &Bucket,
    ) -> Next {
        Next::Call(Box::new(Call {
            task,
            bucket: target.bucket.clone().into_owned(),
            key: target.key.clone().into_owned(),
            mount: Some(Arc::clone(&bucket.mount)),
            caller,
            payload: None,
            framing: Framing::None,
            expects_continue: false,
        }))
    }

    fn prepare_call(
        &self,
        head: &Head<'_>,
        target: &Target<'_>,
        operation: Box<Operation>,
        mut caller: Caller,
    ) -> Result<Next, Error> {
        let buckets = self.face.buckets();
        let bucket = buckets.get(&target.bucket);
        let mount = bucket.map(|bucket| Arc::clone(&bucket.mount));
        if !target.bucket.is_empty() {
            let is_allowed = match &mount {
                Some(mount) => may(&caller, operation.verb(), mount),
                None => caller.may(operation.verb(), &target.bucket),
            };
            if !is_allowed {
                return Err(denied());
            }
            if mount.is_none() && !matches!(*operation, Operation::CreateBucket) {
                return Err(no_such_bucket());
            }
        }
        let mode = std::mem::replace(&mut caller.payload, PayloadMode::Unsigned);
        let payload = match *operation {
            // What it says of checksums is of the object, not of the document.
            Operation::CompleteMultipartUpload(_) => PayloadSpec::of_document(head, mode)?,
            _ => PayloadSpec::of(head, mode)?,
        };
        Ok(Next::Call(Box::new(Call {
            bucket: target.bucket.clone().into_owned(),
            key: target.key.clone().into_owned(),
            mount,
            payload: Some(payload),
            framing: head.framing,
            expects_continue: head.expects_continue,
            task: Task::Operation(operation),
            caller,
        })))
    }
}

/// Whether bytes follow the head that are not the next one's.
fn has_body(head: &Head<'_>) -> bool {
    !matches!(head.framing, Framing::None | Framing::Length(0))
}

/// Bucket and key of a request, as far as they can be told, for an error's text.
fn named<S: Stream>(head: &Head<'_>, face: &Face<S>) -> (String, String) {
    match Target::parse(head, &face.shared.hosts) {
        Ok(target) => (target.bucket.into_owned(), target.key.into_owned()),
        Err(_) => Default::default(),
    }
}

fn status_of(extent: Extent) -> u16 {
    if extent.is_range { 206 } else { 200 }
}

fn denied() -> Error {
    Error::new(ErrorCode::AccessDenied, "Access Denied")
}

fn no_such_bucket() -> Error {
    Error::new(
        ErrorCode::NoSuchBucket,
        "The specified bucket does not exist; buckets are the mounts right below /",
    )
}

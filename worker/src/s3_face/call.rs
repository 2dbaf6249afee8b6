//! Everything but reads of objects: a call to the gateway, with its body passed on piece by piece.
//!
//! The data core knows where a body ends, and nothing else of it: what its bytes mean is found out on
//! the fetch threads. The invariant: a body that did not end as its head promised is never said to have
//! ended, so that nothing of it is kept anywhere.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use corelane_io::Io;
use corelane_s3::body::BodyReader;
use corelane_s3::head::Framing;
use corelane_s3::operation::Operation;
use corelane_s3::payload::PayloadSpec;
use corelane_s3::sigv4::Caller;
use corelane_s3::{Error, ErrorCode};
use futures::FutureExt;
use tokio::sync::{mpsc, oneshot};

use super::Grant;
use super::connection::{Connection, Gone};
use super::connections::Phase;
use super::gateway::{Answered, Ticket};
use super::transport::Received;
use crate::mount::Mount;
use crate::under_store::UnderStore;

/// Pieces of a body that wait for the gateway.
pub const BODY_PIECES_MAX: usize = 4;

/// Bytes that are gathered into a piece: fewer would cost a wake-up of another thread each.
const PIECE_BYTES: usize = 256 << 10;

/// Bytes of a body that have to come between two looks at the clock, at the least: half a KiB a second is
/// slower than any network that has not failed.
const PROGRESS_BYTES_MIN: u64 = 16 << 10;

/// The same at the most: 35 KB/s, as little as a modem's line of 300 kbit/s.
const PROGRESS_BYTES_MAX: u64 = 1 << 20;

/// A body has so many such times, an hour in all.
const PROGRESS_PARTS: u64 = 120;

/// What a body without a length counts as.
const LENGTH_UNKNOWN: u64 = 8 << 20;

/// What a call is for.
pub enum Task {
    /// An operation of S3.
    Operation(Box<Operation>),
    /// A read of a key that ends in a slash.
    Marker {
        /// HEAD.
        is_head: bool,
    },
}

/// A call, checked: the caller may make it.
pub struct Call {
    /// What for.
    pub task: Task,
    /// Bucket, empty for the service.
    pub bucket: String,
    /// Key, empty for the bucket.
    pub key: String,
    /// The mount that the bucket is.
    pub mount: Option<Arc<Mount>>,
    /// By which right its body is taken; `None` where there is no mount.
    pub(super) grant: Option<Grant>,
    /// Who calls.
    pub caller: Caller,
    /// Where from.
    pub peer: IpAddr,
    /// What the body must be.
    pub payload: Option<PayloadSpec>,
    /// Where it ends.
    pub framing: Framing,
    /// Whether the client waits for a word before it sends the body.
    pub expects_continue: bool,
}

/// A piece of a body.
#[derive(Debug)]
pub enum BodyPiece {
    /// Bytes, as they arrived.
    Bytes(Bytes),
    /// It ended where its head said.
    End,
}

/// An answer, complete.
#[derive(Debug, Default)]
pub struct Response {
    /// Status.
    pub status: u16,
    /// Names and values.
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The length to say where it is not that of the body: for HEAD.
    pub content_length: Option<u64>,
    /// The error that it tells.
    pub error: Option<ErrorCode>,
    /// After how long to try again.
    pub retry_after_s: Option<u32>,
    /// The place of its call, which ends when the client has taken the answer.
    pub(super) held: Option<Ticket>,
}

impl Response {
    /// An answer without a body.
    pub fn empty(status: u16) -> Self {
        Response {
            status,
            ..Response::default()
        }
    }

    /// An answer in XML.
    pub fn xml(status: u16, body: Vec<u8>, error: Option<ErrorCode>) -> Self {
        Response {
            status,
            headers: vec![(Cow::Borrowed("Content-Type"), "application/xml".to_owned())],
            body,
            error,
            ..Response::default()
        }
    }

    /// With one more header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((Cow::Borrowed(name), value.into()));
        self
    }
}

impl<I: Io, U: UnderStore> Connection<I, U> {
    /// Makes a call and answers with what comes back.
    pub(super) async fn call(&mut self, mut call: Call) -> Result<(), Gone> {
        self.watched.enter(Phase::Working, self.shard.io.now());
        let (framing, expects_continue) = (call.framing, call.expects_continue);
        let progress_bytes = progress_bytes(&call);
        let (bucket, key) = (call.bucket.clone(), call.key.clone());
        let grant = call.grant.take();
        let (pieces, body) = mpsc::channel(BODY_PIECES_MAX);
        if !self.shard.shared_credit.has_room() {
            // Listings and texts of errors are memory as well.
            self.until_memory().await;
        }
        let mut answer = match self.face.shared.gateway.start(call, body) {
            Ok(answer) => answer,
            Err(error) => {
                self.closes |= framing != Framing::None || expects_continue;
                if framing != Framing::None {
                    self.unwanted = (!expects_continue).then(|| BodyReader::new(framing));
                }
                self.answer_error(&error, &bucket, &key);
                return self.flush().await;
            }
        };
        if expects_continue {
            self.send_continue().await?;
        }
        let early = self
            .pass_body(framing, progress_bytes, pieces, &mut answer, grant.as_ref())
            .await?;
        self.watched.enter(Phase::Working, self.shard.io.now());
        let response = match early {
            Some(response) => response,
            None => settled(answer.await),
        };
        let mut held = None;
        match response {
            Ok(mut response) => {
                held = response.held.take();
                self.answer_with(&response);
            }
            Err(error) => self.answer_error(&error, &bucket, &key),
        }
        let sent = self.flush().await;
        drop(held);
        sent
    }

    /// Passes the body on. An answer that comes before its end is given back; the connection ends
    /// behind it then.
    async fn pass_body(
        &mut self,
        framing: Framing,
        progress_bytes: u64,
        pieces: mpsc::Sender<BodyPiece>,
        answer: &mut Answered,
        grant: Option<&Grant>,
    ) -> Result<Option<Result<Response, Error>>, Gone> {
        let mut reader = BodyReader::new(framing);
        let mut gathered = BytesMut::new();
        let mut input = Received::Tls(std::mem::take(&mut self.held));
        // Since when bytes are waited for, the time aside in which they were not, and how many came.
        let (mut since, mut arrived) = (self.shard.io.now(), 0);
        loop {
            let mut rest: &[u8] = &input;
            let read = read_all(&mut reader, &mut rest, &mut gathered);
            // What follows the body is the next request's.
            self.held.extend_from_slice(rest);
            drop(input);
            if let Err(error) = read {
                self.closes = true;
                return Ok(Some(Err(error)));
            }
            let is_complete = reader.is_complete();
            if grant.is_some_and(|grant| !self.face.still_grants(grant)) {
                // The gateway sees a body that did not end, and keeps nothing of it.
                self.closes = true;
                self.unwanted = Some(reader);
                return Ok(Some(Err(denied())));
            }
            if gathered.len() >= PIECE_BYTES || is_complete && !gathered.is_empty() {
                let piece = BodyPiece::Bytes(gathered.split().freeze());
                let began = self.shard.io.now();
                self.watched.enter(Phase::Working, began);
                if pieces.send(piece).await.is_err() {
                    self.closes |= !is_complete;
                    self.unwanted = Some(reader);
                    return Ok(Some(settled(answer.await)));
                }
                // The client may not have sent while it was not received.
                since = since.plus(self.shard.io.now().since(began));
            }
            if is_complete {
                // A gateway that wants nothing of the body has dropped its end.
                let _ = pieces.send(BodyPiece::End).await;
                return Ok(None);
            }
            // A byte now and then is not a body that goes on.
            if arrived >= progress_bytes {
                (since, arrived) = (self.shard.io.now(), 0);
            }
            self.watched.enter(Phase::Body, since);
            input = futures::select_biased! {
                early = (&mut *answer).fuse() => {
                    self.closes = true;
                    self.unwanted = Some(reader);
                    return Ok(Some(settled(early)));
                }
                received = self.transport.receive().fuse() => received?,
            };
            if input.is_empty() {
                return Err(Gone);
            }
            arrived += input.len() as u64;
        }
    }
}

/// Bytes of the body of `call` that have to come between two looks at the clock.
fn progress_bytes(call: &Call) -> u64 {
    let announced = call.payload.as_ref().and_then(PayloadSpec::length);
    let length = match call.framing {
        Framing::Length(length) => length,
        Framing::None | Framing::Chunked => announced.unwrap_or(LENGTH_UNKNOWN),
    };
    (length / PROGRESS_PARTS).clamp(PROGRESS_BYTES_MIN, PROGRESS_BYTES_MAX)
}

fn read_all(
    reader: &mut BodyReader,
    input: &mut &[u8],
    gathered: &mut BytesMut,
) -> Result<(), Error> {
    while let Some(data) = reader.next(input)? {
        gathered.extend_from_slice(data);
    }
    Ok(())
}

/// The answer, or that the gateway went without one.
fn settled(
    answered: Result<Result<Response, Error>, oneshot::error::RecvError>,
) -> Result<Response, Error> {
    answered.unwrap_or_else(|_| Err(stopping()))
}

/// The answer to a caller that may not do what it asks for.
pub(super) fn denied() -> Error {
    Error::new(ErrorCode::AccessDenied, "Access Denied")
}

fn stopping() -> Error {
    Error {
        retry_after_s: Some(1),
        ..Error::new(
            ErrorCode::ServiceUnavailable,
            "the worker is stopping; retry with another one or when it is up again",
        )
    }
}

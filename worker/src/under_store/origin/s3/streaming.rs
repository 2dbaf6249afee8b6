//! A body on its way to an origin, piece by piece.
//!
//! The invariant: the last piece is withheld until the sender confirmed the whole body. Before
//! that the origin has fewer bytes than `Content-Length` says, so whatever ends the request
//! leaves the origin as it was.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::under_store::limits::lock;
use crate::under_store::origin::body::OriginBody;
use crate::under_store::origin::error::{Fault, OriginErrorKind as Kind};
use crate::under_store::origin::work::Work;

/// How often a request is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What the upload waits for.
#[derive(Debug)]
enum Waits {
    /// The client, or a limit of ours: no fault of the origin's.
    ForPiece,
    /// The origin, to take a piece or the connection to stand; since then.
    ForOrigin(Instant),
    /// The answer, after the last byte was handed to the connection.
    ForAnswer(Instant),
    /// Nothing: the body failed.
    Broken(Fault),
}

/// Sees how an upload fares.
#[derive(Clone, Debug)]
pub(super) struct Watch(Arc<Mutex<Waits>>);

impl Watch {
    fn set(&self, waits: Waits) {
        *lock(&self.0) = waits;
    }

    /// Why the body broke off, if it did.
    pub fn broken(&self) -> Option<Fault> {
        match &*lock(&self.0) {
            Waits::Broken(fault) => Some(fault.clone()),
            _ => None,
        }
    }

    /// Whether the last byte was handed over.
    pub fn is_whole(&self) -> bool {
        matches!(*lock(&self.0), Waits::ForAnswer(_))
    }

    /// Ends when the origin takes no byte for `stall`, or does not answer for `patience`.
    pub async fn stalled(&self, stall: Duration, patience: Duration) -> Fault {
        loop {
            tokio::time::sleep(LOOK.min(stall)).await;
            let (since, limit, what) = match *lock(&self.0) {
                Waits::ForOrigin(since) => (since, stall, "the store took no byte"),
                Waits::ForAnswer(since) => (since, patience, "no answer came"),
                Waits::ForPiece | Waits::Broken(_) => continue,
            };
            if since.elapsed() >= limit {
                let cause = format!("{what} for {:.1} s of an upload", limit.as_secs_f64());
                return Fault::passing(Kind::Unavailable, cause);
            }
        }
    }
}

/// A body that can be sent once.
#[derive(Clone)]
pub(in crate::under_store::origin) struct Uploading {
    length: u64,
    /// Taken by the one request.
    body: Arc<Mutex<Option<OriginBody>>>,
    work: Work,
}

struct State {
    body: OriginBody,
    held: Option<Bytes>,
    is_over: bool,
    work: Work,
    watch: Watch,
}

impl Uploading {
    /// `body` with its length.
    pub fn new(body: OriginBody, length: u64, work: Work) -> Self {
        Uploading {
            length,
            body: Arc::new(Mutex::new(Some(body))),
            work,
        }
    }

    /// Bytes of the whole body.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The body for the client's connection.
    pub(super) fn into_body(self) -> Result<(reqwest::Body, Watch), Fault> {
        let Some(body) = lock(&self.body).take() else {
            let cause = "a body that streams cannot be sent again";
            return Err(Fault::lasting(Kind::Unavailable, cause));
        };
        let watch = Watch(Arc::new(Mutex::new(Waits::ForOrigin(Instant::now()))));
        let state = State {
            body,
            held: None,
            is_over: false,
            work: self.work,
            watch: watch.clone(),
        };
        let pieces = futures::stream::unfold(state, |mut state| async move {
            let piece = state.piece().await?;
            Some((piece, state))
        });
        Ok((reqwest::Body::wrap_stream(pieces), watch))
    }
}

impl State {
    /// The next piece that may leave.
    async fn piece(&mut self) -> Option<Result<Bytes, std::io::Error>> {
        if self.is_over {
            return None;
        }
        self.watch.set(Waits::ForPiece);
        loop {
            match self.body.next().await {
                Ok(Some(piece)) => {
                    if let Some(ready) = self.held.replace(piece) {
                        self.work.take_bytes(ready.len() as u64).await;
                        self.watch.set(Waits::ForOrigin(Instant::now()));
                        return Some(Ok(ready));
                    }
                }
                Ok(None) => {
                    self.is_over = true;
                    let last = self.held.take()?;
                    self.work.take_bytes(last.len() as u64).await;
                    self.watch.set(Waits::ForAnswer(Instant::now()));
                    return Some(Ok(last));
                }
                Err(fault) => {
                    self.is_over = true;
                    let cause = fault.cause.clone();
                    self.watch.set(Waits::Broken(fault));
                    return Some(Err(std::io::Error::other(cause)));
                }
            }
        }
    }
}

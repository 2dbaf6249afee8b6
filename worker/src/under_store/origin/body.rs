//! The bytes of a write, on their way from a data core to an origin.
//!
//! The invariant: a body is whole only when its sender said so with [`BodySender::end`]. A sender
//! that is dropped or that aborts makes the body fail, whatever came before, and a body that
//! failed must leave the origin as it was.

use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use super::error::{Fault, OriginErrorKind};
use crate::mount::Mount;
use crate::under_store::location::{Location, StoreKind};
use crate::under_store::writer::Writer;

/// Bytes of a body that are held in memory and sent as one piece, which can be repeated. Above
/// that a body streams, and a failure is the client's to repeat.
pub(super) const HELD_BYTES_MAX: u64 = 1 << 20;

/// Bytes of a body of unknown length that are held, since S3 wants the length before the bytes.
const UNKNOWN_BYTES_MAX: u64 = 8 << 20;

/// Most bytes of a body of that length that are held in memory on the way to the origin of `mount`.
pub fn held_bytes_max(mount: &Mount, length: Option<u64>) -> u64 {
    let kind = Location::of_mount(mount).map(|location| location.kind);
    match (kind, length) {
        (Ok(StoreKind::File | StoreKind::Http) | Err(_), _) => 0,
        (Ok(StoreKind::S3), Some(_)) => HELD_BYTES_MAX,
        (Ok(StoreKind::S3), None) => UNKNOWN_BYTES_MAX,
        // Their client takes parts as a whole.
        (Ok(_), _) => super::cloud::HELD_BYTES_MAX,
    }
}

/// Why a body ended before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aborted {
    /// The S3 code of the answer, such as `BadDigest`, where the sender knows it.
    pub code: Option<String>,
    /// One sentence.
    pub message: String,
}

type Outcome = Arc<OnceLock<Result<(), Aborted>>>;

/// The sending end of a body. Any executor may hold it.
#[derive(Debug)]
pub struct BodySender {
    pieces: mpsc::Sender<Bytes>,
    outcome: Outcome,
}

/// Why a piece was not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum PieceError {
    /// No room now; the piece comes back.
    Full(Bytes),
    /// The write failed already, and its error says why.
    Closed,
}

impl BodySender {
    /// Hands a verified piece over, waiting for room. False when the write failed already.
    pub async fn send(&self, piece: Bytes) -> bool {
        self.pieces.send(piece).await.is_ok()
    }

    /// Hands a verified piece over if there is room.
    ///
    /// # Errors
    /// When there is none, or the write failed already.
    pub fn try_send(&self, piece: Bytes) -> Result<(), PieceError> {
        self.pieces.try_send(piece).map_err(|error| match error {
            mpsc::error::TrySendError::Full(piece) => PieceError::Full(piece),
            mpsc::error::TrySendError::Closed(_) => PieceError::Closed,
        })
    }

    /// Says that what was handed over is the whole body, and verified. Never waits.
    pub fn end(self) {
        self.close(Ok(()));
    }

    /// Says that the body is not to be written. Never waits.
    pub fn abort(self, reason: Aborted) {
        self.close(Err(reason));
    }

    fn close(self, outcome: Result<(), Aborted>) {
        self.outcome
            .set(outcome)
            .expect("both ways to close consume the sender");
    }
}

/// The receiving end of a body.
#[derive(Debug)]
pub struct OriginBody {
    /// Bytes of the whole body, where the client said it.
    pub length: Option<u64>,
    /// Who sends it, where a client does.
    pub writer: Option<Arc<Writer>>,
    pieces: mpsc::Receiver<Bytes>,
    outcome: Outcome,
    received: u64,
}

impl OriginBody {
    /// A body of `length` bytes, of which at most `pieces` wait between the two ends (at least one).
    pub fn channel(length: Option<u64>, pieces: usize) -> (BodySender, OriginBody) {
        let (sender, receiver) = mpsc::channel(pieces.max(1));
        let outcome = Outcome::default();
        (
            BodySender {
                pieces: sender,
                outcome: Arc::clone(&outcome),
            },
            OriginBody {
                length,
                writer: None,
                pieces: receiver,
                outcome,
                received: 0,
            },
        )
    }

    /// A body that is whole already.
    pub fn whole(bytes: Bytes) -> OriginBody {
        let (sender, body) = OriginBody::channel(Some(bytes.len() as u64), 1);
        if !bytes.is_empty() {
            sender.try_send(bytes).expect("there is room for one piece");
        }
        sender.end();
        body
    }

    /// The next bytes, never empty; `None` once the whole body came and was confirmed.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            let Some(piece) = self.pieces.recv().await else {
                return self.confirmed().map(|()| None);
            };
            self.received += piece.len() as u64;
            if self.length.is_some_and(|length| self.received > length) {
                let cause = "the body has more bytes than was announced";
                return Err(Fault::lasting(OriginErrorKind::Aborted, cause));
            }
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }

    fn confirmed(&self) -> Result<(), Fault> {
        match self.outcome.get() {
            Some(Ok(())) => {}
            Some(Err(Aborted { code, message })) => {
                return Err(Fault {
                    code: code.clone(),
                    ..Fault::lasting(OriginErrorKind::Aborted, message.as_str())
                });
            }
            None => {
                let cause = "the body ended before its end was confirmed";
                return Err(
                    Fault::lasting(OriginErrorKind::Aborted, cause).with_code("IncompleteBody")
                );
            }
        }
        match self.length {
            Some(length) if length != self.received => {
                let cause = format!("the body has {} bytes of {length}", self.received);
                Err(Fault::lasting(OriginErrorKind::Aborted, cause).with_code("IncompleteBody"))
            }
            _ => Ok(()),
        }
    }

    /// The whole body if it is short enough to be held, else the body as it is. A body without a
    /// length comes back whole or not at all.
    pub(super) async fn gathered(mut self) -> Result<Gathered, Fault> {
        if self.length.is_some_and(|length| length > HELD_BYTES_MAX) {
            return Ok(Gathered::Long(self));
        }
        self.collected(UNKNOWN_BYTES_MAX).await.map(Gathered::Whole)
    }

    /// The whole body.
    ///
    /// # Errors
    /// When it fails, or has more than `bytes_max` bytes.
    pub(super) async fn collected(&mut self, bytes_max: u64) -> Result<Bytes, Fault> {
        let mut whole = BytesMut::new();
        let Some(first) = self.next().await? else {
            return Ok(Bytes::new());
        };
        let mut only = Some(first);
        while let Some(piece) = self.next().await? {
            if let Some(first) = only.take() {
                whole.extend_from_slice(&first);
            }
            if (whole.len() + piece.len()) as u64 > bytes_max {
                let cause = format!(
                    "a body that has to be held has more than {bytes_max} bytes; send it with its length, in smaller parts"
                );
                return Err(Fault::lasting(OriginErrorKind::Invalid, cause)
                    .with_code("MissingContentLength"));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(only.unwrap_or_else(|| whole.freeze()))
    }
}

/// A body, as far as it could be gathered.
pub(super) enum Gathered {
    /// Confirmed.
    Whole(Bytes),
    /// Not begun, with a length.
    Long(OriginBody),
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn kind_of(body: OriginBody) -> Result<Bytes, OriginErrorKind> {
        match body.gathered().await {
            Ok(Gathered::Whole(bytes)) => Ok(bytes),
            Ok(Gathered::Long(_)) => panic!("a short body"),
            Err(fault) => Err(fault.kind),
        }
    }

    #[tokio::test]
    async fn only_a_confirmed_body_of_the_announced_length_is_whole() {
        for (length, is_ended, expected) in [
            (Some(4), true, Ok(Bytes::from_static(b"abcd"))),
            (None, true, Ok(Bytes::from_static(b"abcd"))),
            (Some(4), false, Err(OriginErrorKind::Aborted)),
            (None, false, Err(OriginErrorKind::Aborted)),
            (Some(5), true, Err(OriginErrorKind::Aborted)),
            (Some(3), true, Err(OriginErrorKind::Aborted)),
        ] {
            let (sender, body) = OriginBody::channel(length, 4);
            for piece in ["ab", "", "cd"] {
                sender.try_send(Bytes::from(piece)).expect("room");
            }
            if is_ended {
                sender.end();
            } else {
                drop(sender);
            }
            assert_eq!(kind_of(body).await, expected, "{length:?} {is_ended}");
        }
        assert_eq!(
            kind_of(OriginBody::whole(Bytes::new())).await,
            Ok(Bytes::new())
        );
    }

    #[tokio::test]
    async fn the_senders_reason_is_the_error() {
        let (sender, mut body) = OriginBody::channel(Some(2), 1);
        sender.abort(Aborted {
            code: Some("BadDigest".to_owned()),
            message: "the checksum differs".to_owned(),
        });
        let fault = body.next().await.expect_err("aborted");
        assert_eq!(fault.code.as_deref(), Some("BadDigest"));
    }
}

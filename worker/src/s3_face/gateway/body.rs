//! From bytes of a request to verified bytes of an object.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use corelane_s3::payload::{Payload, PayloadSpec, Received};
use corelane_s3::{Error, ErrorCode};
use tokio::sync::mpsc;

use super::super::call::BodyPiece;
use crate::under_store::origin::{Aborted, BodySender, Keeping};
use crate::under_store::writer::{Cut, Writer};

/// The body of a request.
pub(super) struct Body {
    pub pieces: mpsc::Receiver<BodyPiece>,
    /// Who sends it, where there is one.
    pub writer: Option<Arc<Writer>>,
}

impl Body {
    /// What comes next; `None` at the end that the head promised.
    ///
    /// # Errors
    /// When it ends before, or its client is cut off because others wait for its place.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let received = match &self.writer {
            Some(writer) => writer.receive(self.pieces.recv()).await,
            None => Ok(self.pieces.recv().await),
        };
        match received {
            Ok(Some(BodyPiece::Bytes(bytes))) => {
                if let Some(writer) = &self.writer {
                    writer.count(bytes.len());
                }
                Ok(Some(bytes))
            }
            Ok(Some(BodyPiece::End)) => Ok(None),
            Ok(None) => Err(cut()),
            Err(Cut) => Err(Error {
                retry_after_s: Some(1),
                ..Error::new(
                    ErrorCode::SlowDown,
                    "the body came more slowly than others, which wait for its place; send fewer at a time",
                )
            }),
        }
    }
}

/// What became of a body.
pub(super) enum Pumped {
    /// It was handed over, whole and verified.
    Whole(Received),
    /// The origin wanted no more of it.
    Unwanted,
}

/// Least bytes of a piece that travels, the last one aside. Each costs a task's turn and, on a folder, a
/// visit to another thread and a write: some 20 µs.
const PIECE_BYTES_MIN: usize = 16 << 10;

/// Pieces on their way to an origin, short ones joined to longer ones.
struct Pieces<'a> {
    sender: &'a BodySender,
    /// Short pieces, copied.
    joined: BytesMut,
}

impl Pieces<'_> {
    /// Hands a piece over, at once or together with the next ones; false when no more are wanted.
    async fn send(&mut self, piece: Bytes) -> bool {
        if self.joined.is_empty() && piece.len() >= PIECE_BYTES_MIN {
            return self.sender.send(piece).await;
        }
        if self.joined.is_empty() {
            // Of its own, so that a short piece keeps no long buffer alive.
            self.joined = BytesMut::with_capacity(2 * PIECE_BYTES_MIN);
        }
        let mut rest = &piece[..];
        while !rest.is_empty() {
            let room = 2 * PIECE_BYTES_MIN - self.joined.len();
            let (taken, left) = rest.split_at(rest.len().min(room));
            self.joined.extend_from_slice(taken);
            rest = left;
            if self.joined.len() >= PIECE_BYTES_MIN {
                if !self.flush().await {
                    return false;
                }
                self.joined = BytesMut::with_capacity(2 * PIECE_BYTES_MIN);
            }
        }
        true
    }

    /// Hands over what was joined; false when no more is wanted.
    async fn flush(&mut self) -> bool {
        let joined = std::mem::take(&mut self.joined);
        joined.is_empty() || self.sender.send(joined.freeze()).await
    }
}

/// Hands a body over to an origin, piece by piece, and says that it is whole only when it is. Its bytes
/// are kept in `keeping`, too.
///
/// # Errors
/// When the body is not what its head promised; the origin was told.
pub(super) async fn pump(
    spec: PayloadSpec,
    body: &mut Body,
    sender: BodySender,
    mut keeping: Option<&mut Keeping>,
) -> Result<Pumped, Error> {
    let mut payload = Payload::new(spec);
    let mut verified = Vec::new();
    let mut pieces = Pieces {
        sender: &sender,
        joined: BytesMut::new(),
    };
    loop {
        let step = match body.next().await {
            Ok(Some(bytes)) => payload.push(bytes, &mut verified),
            Ok(None) => break,
            Err(error) => Err(error),
        };
        if let Err(error) = step {
            abort(sender, &error);
            return Err(error);
        }
        for piece in verified.drain(..) {
            if let Some(keeping) = &mut keeping {
                keeping.push(&piece);
            }
            if !pieces.send(piece).await {
                return Ok(Pumped::Unwanted);
            }
        }
    }
    if !pieces.flush().await {
        return Ok(Pumped::Unwanted);
    }
    match payload.finish() {
        Ok(received) => {
            sender.end();
            Ok(Pumped::Whole(received))
        }
        Err(error) => {
            abort(sender, &error);
            Err(error)
        }
    }
}

fn abort(sender: BodySender, error: &Error) {
    sender.abort(Aborted {
        code: Some(error.code.as_str().to_owned()),
        message: error.message.clone(),
    });
}

/// The whole of a short body: a document.
///
/// # Errors
/// When it is not what its head promised, or longer than `bytes_max`.
pub(super) async fn document(
    spec: PayloadSpec,
    body: &mut Body,
    bytes_max: usize,
) -> Result<Bytes, Error> {
    let mut payload = Payload::new(spec);
    let mut verified = Vec::new();
    let mut document = BytesMut::new();
    while let Some(bytes) = body.next().await? {
        payload.push(bytes, &mut verified)?;
        for piece in verified.drain(..) {
            if document.len() + piece.len() > bytes_max {
                return Err(Error::new(
                    ErrorCode::EntityTooLarge,
                    format!("the document has more than {bytes_max} bytes; send fewer entries"),
                ));
            }
            document.extend_from_slice(&piece);
        }
    }
    payload.finish()?;
    Ok(document.freeze())
}

fn cut() -> Error {
    Error::new(
        ErrorCode::IncompleteBody,
        "the connection ended before the body did; send it again",
    )
}

#[cfg(test)]
mod tests {
    use corelane_s3::head::Head;
    use corelane_s3::sigv4::PayloadMode;

    use super::*;
    use crate::under_store::origin::OriginBody;

    /// Lengths of the pieces that an origin gets of a body that comes in such pieces, and the body.
    async fn pumped(lengths: Vec<usize>) -> (Vec<usize>, Vec<u8>) {
        let length: usize = lengths.iter().sum();
        let head = format!("PUT /b/k HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n");
        let head = Head::parse(head.as_bytes()).expect("well formed");
        let (head, _) = head.expect("whole");
        let spec = PayloadSpec::of(&head, PayloadMode::Unsigned).expect("a payload");
        let (pieces, receiver) = mpsc::channel(1);
        let mut body = Body {
            pieces: receiver,
            writer: None,
        };
        let (sender, mut origin) = OriginBody::channel(Some(length as u64), 1);
        let send = async {
            let mut start = 0;
            for length in lengths {
                let bytes = (start..start + length).map(|index| index as u8).collect();
                start += length;
                let piece = BodyPiece::Bytes(bytes);
                pieces.send(piece).await.expect("it is wanted");
            }
            pieces.send(BodyPiece::End).await.expect("it is wanted");
        };
        let receive = async {
            let (mut lengths, mut whole) = (Vec::new(), Vec::new());
            while let Some(piece) = origin.next().await.expect("a body") {
                lengths.push(piece.len());
                whole.extend_from_slice(&piece);
            }
            (lengths, whole)
        };
        let pump = pump(spec, &mut body, sender, None);
        let ((), pumped, received) = futures::join!(send, pump, receive);
        assert!(matches!(pumped, Ok(Pumped::Whole(_))));
        received
    }

    #[tokio::test]
    async fn short_pieces_travel_together_and_long_ones_as_they_are() {
        let long = 3 * PIECE_BYTES_MIN;
        for lengths in [
            vec![1; 100_000],
            vec![1],
            vec![],
            vec![PIECE_BYTES_MIN - 1; 9],
            vec![long, 1, long, 5, 7, long],
        ] {
            let length: usize = lengths.iter().sum();
            let (pieces, whole) = pumped(lengths).await;
            let expected: Vec<u8> = (0..length).map(|index| index as u8).collect();
            assert!(whole == expected, "the bytes in their order");
            let short = pieces.iter().rev().skip(1);
            assert!(
                short.clone().all(|piece| *piece >= PIECE_BYTES_MIN),
                "{pieces:?}"
            );
        }
    }
}

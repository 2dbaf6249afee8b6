//! From bytes of a request to verified bytes of an object.

use bytes::{Bytes, BytesMut};
use corelane_s3::payload::{Payload, PayloadSpec, Received};
use corelane_s3::{Error, ErrorCode};
use tokio::sync::mpsc;

use super::super::call::BodyPiece;
use crate::under_store::origin::{Aborted, BodySender, Keeping};

/// What became of a body.
pub(super) enum Pumped {
    /// It was handed over, whole and verified.
    Whole(Received),
    /// The origin wanted no more of it.
    Unwanted,
}

/// Hands a body over to an origin, piece by piece, and says that it is whole only when it is. Its bytes
/// are kept in `keeping`, too.
///
/// # Errors
/// When the body is not what its head promised; the origin was told.
pub(super) async fn pump(
    spec: PayloadSpec,
    body: &mut mpsc::Receiver<BodyPiece>,
    sender: BodySender,
    mut keeping: Option<&mut Keeping>,
) -> Result<Pumped, Error> {
    let mut payload = Payload::new(spec);
    let mut verified = Vec::new();
    loop {
        let step = match body.recv().await {
            Some(BodyPiece::Bytes(bytes)) => payload.push(bytes, &mut verified),
            Some(BodyPiece::End) => break,
            None => Err(cut()),
        };
        if let Err(error) = step {
            abort(sender, &error);
            return Err(error);
        }
        for piece in verified.drain(..) {
            if let Some(keeping) = &mut keeping {
                keeping.push(&piece);
            }
            if !sender.send(piece).await {
                return Ok(Pumped::Unwanted);
            }
        }
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
    body: &mut mpsc::Receiver<BodyPiece>,
    bytes_max: usize,
) -> Result<Bytes, Error> {
    let mut payload = Payload::new(spec);
    let mut verified = Vec::new();
    let mut document = BytesMut::new();
    loop {
        match body.recv().await {
            Some(BodyPiece::Bytes(bytes)) => payload.push(bytes, &mut verified)?,
            Some(BodyPiece::End) => break,
            None => return Err(cut()),
        }
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

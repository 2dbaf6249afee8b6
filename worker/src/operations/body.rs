//! The body of an answer, and what is held until it was sent.

use std::any::Any;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

/// What is given to a connection at a time: it takes the next piece when most of this one has gone, so that
/// little is left unsent when the last has been taken.
const PIECE_BYTES: usize = 64 << 10;

/// A body that was made whole before it is sent.
pub(super) struct Body {
    rest: Bytes,
    /// Rights to memory and places, given back when the body has gone.
    held: Vec<Box<dyn Any>>,
}

impl Body {
    /// Of `bytes`.
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Body {
            rest: bytes.into(),
            held: Vec::new(),
        }
    }

    /// Keeps `right` until the body has gone.
    pub(super) fn hold(&mut self, right: impl Any) {
        self.held.push(Box::new(right));
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Body::new(text.into_bytes())
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let rest = &mut self.get_mut().rest;
        let length = rest.len().min(PIECE_BYTES);
        let piece = (length > 0).then(|| Ok(Frame::data(rest.split_to(length))));
        Poll::Ready(piece)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

//! The body of an answer, and what is held until it was sent.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use corelane_lookup::memory::Charge;
use hyper::body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;

/// What is given to a connection at a time: it takes the next piece when most of this one has gone, so that
/// little is left unsent when the last has been taken.
const PIECE_BYTES: usize = 64 << 10;

/// A body that was made whole before it is sent.
pub(super) struct Body {
    rest: Bytes,
    /// A place among those that run, and memory, given back when the body has gone.
    _held: Option<(OwnedSemaphorePermit, Charge)>,
}

impl Body {
    /// Of `bytes`, which `held` is the right to hold.
    pub(super) fn holding(bytes: Vec<u8>, held: (OwnedSemaphorePermit, Charge)) -> Self {
        Body {
            rest: bytes.into(),
            _held: Some(held),
        }
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Body {
            rest: text.into(),
            _held: None,
        }
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

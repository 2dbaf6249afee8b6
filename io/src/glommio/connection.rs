//! TCP connections.
//!
//! glommio receives by recv(2) and, when there is nothing, by a readiness poll on its ring; this
//! does the same for sending, vectored. The invariant is the traits': at most one receive and one
//! send at a time, each on its own half of glommio's stream, and a send that is given up closes
//! the connection, because nobody can tell how much of it has left.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use ::glommio::net::TcpStream;
use futures::io::{AsyncRead, AsyncWrite};

use super::core::Core;
use super::system_error;
use crate::Stream;
use crate::error::IoError;
use crate::stream::SendBatch;
use crate::uring::connection::{closed_here, set_options};

/// The kernel's limit for the vectors of one call (`UIO_MAXIOV`). Longer batches take several.
const VECTORS_MAX: usize = 1024;

/// A connection of a [`GlommioIo`](super::GlommioIo). It is closed when the last clone is dropped.
#[derive(Clone)]
pub struct GlommioStream(Rc<Connection>);

struct Connection {
    core: Rc<Core>,
    peer: SocketAddr,
    socket: RawFd,
    /// Borrowed within one poll only.
    stream: RefCell<TcpStream>,
    vectors: RefCell<Vec<libc::iovec>>,
    closed: Cell<bool>,
}

impl GlommioStream {
    pub(super) fn new(core: &Rc<Core>, stream: TcpStream, peer: SocketAddr) -> GlommioStream {
        set_options(&stream);
        GlommioStream(Rc::new(Connection {
            core: Rc::clone(core),
            peer,
            socket: stream.as_raw_fd(),
            stream: RefCell::new(stream),
            vectors: RefCell::default(),
            closed: Cell::new(false),
        }))
    }

    pub(super) async fn connect(
        core: &Rc<Core>,
        address: SocketAddr,
    ) -> Result<GlommioStream, IoError> {
        core.count_submission();
        let connected = TcpStream::connect(address).await;
        core.count_completion();
        match connected {
            Ok(stream) => Ok(GlommioStream::new(core, stream, address)),
            Err(error) => {
                let advice = "cannot connect; check that the peer runs and its address is right";
                Err(system_error(&error, advice).with("peer", address))
            }
        }
    }
}

impl Connection {
    /// Ends both directions; what waits for the socket's readiness is woken by it.
    fn close(&self) {
        if !self.closed.replace(true) {
            // SAFETY: the descriptor is open as long as the stream. A connection that is already
            // down is what we want.
            unsafe { libc::shutdown(self.socket, libc::SHUT_RDWR) };
        }
    }

    fn is_over(&self) -> bool {
        self.closed.get() || self.core.has_ended()
    }

    fn poll_receive(&self, context: &mut Context<'_>) -> Poll<Result<Received, IoError>> {
        if self.is_over() {
            return Poll::Ready(Ok(Received::end()));
        }
        let mut buffer = self.core.take_receive_buffer();
        let polled = Pin::new(&mut *self.stream.borrow_mut()).poll_read(context, buffer.as_mut());
        match polled {
            Poll::Ready(Ok(length)) if length > 0 => {
                self.core.count_completion();
                Poll::Ready(Ok(Received {
                    length,
                    memory: Some((buffer, Rc::clone(&self.core))),
                }))
            }
            nothing => {
                self.core.put_back_receive_buffer(buffer);
                match nothing {
                    Poll::Ready(Err(error)) => {
                        Poll::Ready(Err(
                            IoError::from_std(&error, "receiving failed").with("peer", self.peer)
                        ))
                    }
                    Poll::Ready(Ok(_)) => Poll::Ready(Ok(Received::end())),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    /// Sends from byte `sent` of part `part` on, as far as the socket takes it.
    fn poll_send(
        &self,
        context: &mut Context<'_>,
        batch: &SendBatch,
        place: &mut Place,
    ) -> Poll<Result<(), IoError>> {
        loop {
            place.skip_empty(batch);
            if place.part == batch.parts() {
                return Poll::Ready(Ok(()));
            }
            if self.is_over() {
                return Poll::Ready(Err(closed_here(self.peer)));
            }
            let sent = match self.send_now(batch, place) {
                Ok(sent) => sent,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => continue,
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                    // Tries to send once more, and waits for room when there is none.
                    let rest = &batch.part(place.part)[place.sent..];
                    let polled = Pin::new(&mut *self.stream.borrow_mut()).poll_write(context, rest);
                    match polled {
                        Poll::Ready(Ok(sent)) => sent,
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(self.broken(&error))),
                        Poll::Pending => return Poll::Pending,
                    }
                }
                Err(error) => return Poll::Ready(Err(self.broken(&error))),
            };
            place.advance(batch, sent);
        }
    }

    fn broken(&self, error: &std::io::Error) -> IoError {
        if self.closed.get() {
            return closed_here(self.peer);
        }
        IoError::from_std(error, "sending failed").with("peer", self.peer)
    }

    /// One vectored send that does not wait. Returns the bytes that the kernel took.
    fn send_now(&self, batch: &SendBatch, place: &Place) -> std::io::Result<usize> {
        self.core.count_submission();
        let mut vectors = self.vectors.borrow_mut();
        vectors.clear();
        let last = batch.parts().min(place.part + VECTORS_MAX);
        vectors.extend((place.part..last).map(|part| {
            let skipped = if part == place.part { place.sent } else { 0 };
            let bytes = &batch.part(part)[skipped..];
            libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: bytes.len(),
            }
        }));
        // SAFETY: a msghdr of zeros is an empty message.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = vectors.as_mut_ptr();
        message.msg_iovlen = vectors.len() as _;
        // SAFETY: the vectors point into the batch, which is borrowed until the call has returned.
        let sent = unsafe {
            libc::sendmsg(
                self.socket,
                &raw const message,
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        vectors.clear();
        if sent < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(sent as usize)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A poll that is still on the ring holds the socket: the peer must not wait for it.
        self.close();
    }
}

/// How far a batch has left.
#[derive(Default)]
struct Place {
    part: usize,
    sent: usize,
}

impl Place {
    fn skip_empty(&mut self, batch: &SendBatch) {
        while self.part < batch.parts() && batch.part(self.part).len() == self.sent {
            self.part += 1;
            self.sent = 0;
        }
    }

    fn advance(&mut self, batch: &SendBatch, bytes: usize) {
        self.sent += bytes;
        while self.part < batch.parts() && self.sent >= batch.part(self.part).len() {
            self.sent -= batch.part(self.part).len();
            self.part += 1;
        }
        assert!(
            self.part < batch.parts() || self.sent == 0,
            "the kernel cannot send more than it was given"
        );
    }
}

impl Stream for GlommioStream {
    type Received = Received;

    fn peer(&self) -> SocketAddr {
        self.0.peer
    }

    async fn receive(&self) -> Result<Received, IoError> {
        poll_fn(|context| self.0.poll_receive(context)).await
    }

    /// Dropping the future before it is ready closes the connection: how much has left is unknown.
    fn send(
        &self,
        batch: Box<SendBatch>,
    ) -> impl Future<Output = (Result<(), IoError>, Box<SendBatch>)> {
        let connection = &self.0;
        async move {
            let unfinished = CloseOnDrop(connection);
            let mut place = Place::default();
            let outcome =
                poll_fn(|context| connection.poll_send(context, &batch, &mut place)).await;
            connection.core.count_completion();
            std::mem::forget(unfinished);
            (outcome, batch)
        }
    }

    fn close(&self) {
        self.0.close();
    }
}

/// Closes the connection of a send that was given up.
struct CloseOnDrop<'a>(&'a Connection);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Bytes that arrived, in a buffer of the core; dropping gives it back.
pub struct Received {
    length: usize,
    memory: Option<(Box<[u8]>, Rc<Core>)>,
}

impl Received {
    fn end() -> Received {
        Received {
            length: 0,
            memory: None,
        }
    }
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory
            .as_ref()
            .map_or(&[], |(buffer, _)| &buffer[..self.length])
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if let Some((buffer, core)) = self.memory.take() {
            core.put_back_receive_buffer(buffer);
        }
    }
}

impl std::fmt::Debug for Received {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Received({} bytes)", self.length)
    }
}

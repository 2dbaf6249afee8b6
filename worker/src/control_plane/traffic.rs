//! What one control connection may have under way: calls in flight, bytes queued.
//!
//! capnp-rpc queues answers without a bound and reads calls as fast as they come. So the incoming
//! side stops being read while too much is queued for a peer, and a peer that takes nothing for a
//! while is cut off.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures::io::{AsyncRead, AsyncWrite};

/// Bytes queued for a peer at which no more calls are read: some plain reads of the largest size.
pub(super) const QUEUED_BYTES_MAX: u64 = 8 << 20;

/// What an answer weighs beyond its data: message, segment table, the queue's own entry.
const ANSWER_BYTES: u64 = 256;

/// A peer that takes no byte for so long, while some are queued, is cut off.
pub(super) const TAKE_DEADLINE: Duration = Duration::from_secs(30);

/// The traffic of one connection.
pub(super) struct Traffic {
    calls: Cell<usize>,
    /// Estimate of the bytes of answers that were not written yet.
    queued: Cell<u64>,
    /// Whether the writer had nothing left when it ran last.
    is_idle: Cell<bool>,
    /// Since when the peer takes nothing although something is offered.
    blocked_since: Cell<Option<Instant>>,
    reader: RefCell<Option<Waker>>,
}

impl Traffic {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Traffic {
            calls: Cell::new(0),
            queued: Cell::new(0),
            is_idle: Cell::new(true),
            blocked_since: Cell::new(None),
            reader: RefCell::new(None),
        })
    }

    /// Counts a call in, or refuses it when `limit` are in flight.
    pub(super) fn begin(self: &Rc<Self>, limit: usize) -> Option<CallInFlight> {
        if self.calls.get() >= limit {
            self.queue(0);
            return None;
        }
        self.calls.set(self.calls.get() + 1);
        Some(CallInFlight(Rc::clone(self)))
    }

    /// Notes an answer with `bytes` of data.
    pub(super) fn queue(&self, bytes: usize) {
        // An answer may weigh less than was estimated, and that of a cancelled call never leaves;
        // what is left over goes whenever the writer has caught up.
        let before = if self.is_idle.replace(false) {
            0
        } else {
            self.queued.get()
        };
        self.queued.set(before + bytes as u64 + ANSWER_BYTES);
    }

    /// Whether the peer leaves its answers lying.
    pub(super) fn is_stuck(&self) -> bool {
        self.blocked_since
            .get()
            .is_some_and(|since| since.elapsed() > TAKE_DEADLINE)
    }

    fn is_full(&self) -> bool {
        self.queued.get() > QUEUED_BYTES_MAX && !self.is_idle.get()
    }

    fn wake_reader(&self) {
        if !self.is_full()
            && let Some(waker) = self.reader.borrow_mut().take()
        {
            waker.wake();
        }
    }
}

/// A call that was counted in.
pub(super) struct CallInFlight(Rc<Traffic>);

impl Drop for CallInFlight {
    fn drop(&mut self) {
        self.0.calls.set(self.0.calls.get() - 1);
        self.0.queue(0);
    }
}

/// The incoming side.
pub(super) struct Incoming<R> {
    pub(super) inner: R,
    pub(super) traffic: Rc<Traffic>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Incoming<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.traffic.is_full() {
            self.traffic
                .reader
                .borrow_mut()
                .replace(context.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

/// The outgoing side.
pub(super) struct Outgoing<W> {
    pub(super) inner: W,
    pub(super) traffic: Rc<Traffic>,
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Outgoing<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(context, buffer);
        let traffic = &self.traffic;
        traffic.is_idle.set(false);
        match &polled {
            Poll::Ready(Ok(written)) => {
                traffic.blocked_since.set(None);
                traffic
                    .queued
                    .set(traffic.queued.get().saturating_sub(*written as u64));
                traffic.wake_reader();
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                let since = traffic.blocked_since.get().unwrap_or_else(Instant::now);
                traffic.blocked_since.set(Some(since));
            }
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(context);
        if matches!(polled, Poll::Ready(Ok(()))) {
            self.traffic.is_idle.set(true);
            self.traffic.wake_reader();
        }
        polled
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_beyond_the_limit_are_refused_until_one_ends() {
        let traffic = Traffic::new();
        let first = traffic.begin(2).expect("the first fits");
        let _second = traffic.begin(2).expect("the second fits");
        assert!(traffic.begin(2).is_none());
        drop(first);
        assert!(traffic.begin(2).is_some());
    }

    #[test]
    fn nothing_is_read_while_too_much_is_queued() {
        let traffic = Traffic::new();
        let mut incoming = Incoming {
            inner: futures::io::Cursor::new(vec![1u8; 8]),
            traffic: Rc::clone(&traffic),
        };
        let mut context = Context::from_waker(futures::task::noop_waker_ref());
        let mut buffer = [0; 4];
        traffic.queue(QUEUED_BYTES_MAX as usize);
        assert!(
            Pin::new(&mut incoming)
                .poll_read(&mut context, &mut buffer)
                .is_pending()
        );
        let mut outgoing = Outgoing {
            inner: Vec::new(),
            traffic: Rc::clone(&traffic),
        };
        assert!(
            Pin::new(&mut outgoing)
                .poll_write(&mut context, &[0; 1024])
                .is_ready()
        );
        assert!(matches!(
            Pin::new(&mut incoming).poll_read(&mut context, &mut buffer),
            Poll::Ready(Ok(4))
        ));
    }

    #[test]
    fn what_was_estimated_too_high_is_gone_once_the_writer_has_caught_up() {
        let traffic = Traffic::new();
        let mut outgoing = Outgoing {
            inner: Vec::new(),
            traffic: Rc::clone(&traffic),
        };
        let mut context = Context::from_waker(futures::task::noop_waker_ref());
        for _ in 0..10 {
            traffic.queue(QUEUED_BYTES_MAX as usize / 2);
            assert!(
                Pin::new(&mut outgoing)
                    .poll_write(&mut context, b"small")
                    .is_ready()
            );
            assert!(Pin::new(&mut outgoing).poll_flush(&mut context).is_ready());
            assert!(!traffic.is_full());
        }
    }
}

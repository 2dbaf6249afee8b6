//! How fast a peer takes its answer, and the stream on which that is seen.
//!
//! The invariant: an answer that is not taken is not held for longer than its size allows at the slowest rate
//! that is put up with.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Slowest rate, in bytes a second: a bad mobile connection.
const RATE_MIN: u64 = 32 << 10;

/// The same where others wait for the memory: 64 MiB in two minutes.
const RATE_MIN_AWAITED: u64 = 512 << 10;

/// How long the rate is measured.
const WINDOW: Duration = Duration::from_secs(10);

/// What is seen of a peer.
#[derive(Default)]
pub(super) struct Pace {
    written: Cell<u64>,
    /// Since when the peer has taken nothing of what is offered.
    blocked_since: Cell<Option<Instant>>,
    /// When the measurement began, and what had been written by then.
    measured: Cell<Option<(Instant, u64)>>,
}

impl Pace {
    /// For how long the peer has taken nothing of what is offered; none where it does, or nothing is offered.
    pub(super) fn blocked(&self, now: Instant) -> Option<Duration> {
        self.blocked_since
            .get()
            .map(|since| now.saturating_duration_since(since))
    }

    /// Whether the peer takes too little. To be asked about every second.
    pub(super) fn is_slow(&self, now: Instant, are_others_waiting: bool) -> bool {
        let written = self.written.get();
        let is_blocked = self.blocked_since.get().is_some();
        let Some((since, before)) = self.measured.get() else {
            self.measured.set(is_blocked.then_some((now, written)));
            return false;
        };
        if now - since < WINDOW {
            return false;
        }
        self.measured.set(is_blocked.then_some((now, written)));
        let rate = match are_others_waiting {
            true => RATE_MIN_AWAITED,
            false => RATE_MIN,
        };
        is_blocked && written - before < rate * WINDOW.as_secs()
    }

    fn note(&self, polled: &Poll<io::Result<usize>>) {
        match polled {
            Poll::Ready(Ok(bytes)) => {
                self.written.set(self.written.get() + *bytes as u64);
                self.blocked_since.set(None);
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                let since = self.blocked_since.get().unwrap_or_else(Instant::now);
                self.blocked_since.set(Some(since));
            }
        }
    }
}

/// A stream whose peer is watched.
pub(super) struct Paced {
    inner: TcpStream,
    pace: Rc<Pace>,
}

impl Paced {
    pub(super) fn new(inner: TcpStream, pace: Rc<Pace>) -> Self {
        Paced { inner, pace }
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.pace.note(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.pace.note(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds until a peer is found slow that takes `bytes` each second and is blocked otherwise.
    fn seconds_until_slow(bytes: usize, are_others_waiting: bool) -> Option<u64> {
        let pace = Pace::default();
        let began = Instant::now();
        (0..100).find(|second| {
            if bytes > 0 {
                pace.note(&Poll::Ready(Ok(bytes)));
            }
            pace.note(&Poll::Pending);
            pace.is_slow(began + Duration::from_secs(*second), are_others_waiting)
        })
    }

    #[test]
    fn a_peer_that_takes_nothing_or_a_little_now_and_then_is_found_slow() {
        let window = WINDOW.as_secs();
        assert_eq!(seconds_until_slow(0, false), Some(window));
        assert_eq!(seconds_until_slow(1000, false), Some(window));
        assert_eq!(seconds_until_slow(RATE_MIN as usize, false), None);
        assert_eq!(seconds_until_slow(RATE_MIN as usize, true), Some(window));
        assert_eq!(seconds_until_slow(RATE_MIN_AWAITED as usize, true), None);
    }

    #[test]
    fn who_is_offered_nothing_is_not_slow() {
        let pace = Pace::default();
        let began = Instant::now();
        pace.note(&Poll::Ready(Ok(10)));
        assert!(!(0..100).any(|second| pace.is_slow(began + Duration::from_secs(second), true)));
        assert_eq!(pace.blocked(began), None);
    }
}

//! Listening sockets: one multishot accept, and a bounded queue of connections.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::opcode;

use super::connection::Connection;
use super::core::Core;
use super::files::Target;
use super::operation::{Kind, Operation};
use super::socket;
use crate::error::IoError;

/// Accepted connections that wait for the caller; then the accept is cancelled and the kernel's
/// backlog holds the others.
const ACCEPTED_MAX: usize = 256;

pub(super) struct Acceptor {
    core: Rc<Core>,
    pub local_address: SocketAddr,
    target: Target,
    // Closed after the slot was released: see `drop`.
    _socket: OwnedFd,
    queue: RefCell<VecDeque<OwnedFd>>,
    failed: Cell<Option<i32>>,
    armed: Cell<Option<usize>>,
    cancelling: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Acceptor {
    pub fn bind(core: &Rc<Core>, address: SocketAddr) -> Result<Rc<Acceptor>, IoError> {
        Acceptor::on(core, socket::listen(address)?)
    }

    /// Accepts on a socket that listens.
    pub fn on(core: &Rc<Core>, socket: OwnedFd) -> Result<Rc<Acceptor>, IoError> {
        let local_address = socket::local_address(&socket)
            .map_err(|error| IoError::from_std(&error, "cannot read the listener's address"))?;
        Ok(Rc::new(Acceptor {
            core: Rc::clone(core),
            local_address,
            target: core.files.install(&core.ring, socket.as_fd()),
            _socket: socket,
            queue: RefCell::default(),
            failed: Cell::new(None),
            armed: Cell::new(None),
            cancelling: Cell::new(false),
            waker: Cell::new(None),
        }))
    }

    pub fn poll_accept(
        self: &Rc<Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Rc<Connection>, IoError>> {
        loop {
            let accepted = self.queue.borrow_mut().pop_front();
            match accepted.map(|socket| (socket::peer_address(&socket), socket)) {
                Some((Ok(peer), socket)) => {
                    return Poll::Ready(Ok(Connection::new(&self.core, socket, peer)));
                }
                // The peer is gone already.
                Some((Err(_), _)) => {}
                None => break,
            }
        }
        if let Some(errno) = self.failed.take() {
            let advice = "accepting failed; if descriptors ran out, raise the limit of open files";
            let error = IoError::from_errno(errno, advice);
            return Poll::Ready(Err(error.with("listener", self.local_address)));
        }
        self.waker.set(Some(context.waker().clone()));
        if self.armed.get().is_none() {
            self.arm();
        }
        Poll::Pending
    }

    fn arm(self: &Rc<Self>) {
        let entry = opcode::AcceptMulti::new(self.target.number())
            .flags(libc::SOCK_CLOEXEC)
            .build();
        let operation = Operation::unattended(Kind::Accept(Rc::clone(self)));
        // SAFETY: the entry points at no memory.
        self.armed.set(Some(unsafe {
            self.core.start(operation, self.target.mark(entry))
        }));
        self.cancelling.set(false);
    }

    /// A completion of the multishot accept.
    pub fn on_accept(self: &Rc<Self>, result: i32, more: bool) {
        if !more {
            self.armed.set(None);
        }
        match -result {
            // SAFETY: the kernel opened the descriptor for us alone.
            negative if negative <= 0 => self
                .queue
                .borrow_mut()
                .push_back(unsafe { OwnedFd::from_raw_fd(result) }),
            // One peer that went away, our own cancellation, or nothing at all.
            libc::ECONNABORTED | libc::ECANCELED | libc::EINTR | libc::EAGAIN | libc::EPROTO => {}
            errno => self.failed.set(Some(errno)),
        }
        if self.queue.borrow().len() >= ACCEPTED_MAX {
            self.stop();
        }
        if let Some(waker) = self.waker.take() {
            // The task asks again, and arms again if it must.
            waker.wake();
        }
    }

    /// Stops accepting; what was accepted stays queued.
    pub fn stop(&self) {
        if let Some(key) = self.armed.get()
            && !self.cancelling.replace(true)
            && !self.core.has_ended()
        {
            self.core.cancel(key);
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        if !self.core.has_ended() {
            self.core.files.release(&self.core.ring, self.target);
        }
    }
}

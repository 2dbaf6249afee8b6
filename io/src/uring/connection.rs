//! A TCP connection: its receiving half, and what both halves share.
//!
//! One multishot receive stays armed for as long as the reader keeps up. The queue of a
//! connection is bounded: past [`CHUNKS_QUEUED_MAX`] the receive is cancelled and armed again when
//! the reader has emptied the queue, so the peer is held back by TCP and not by our memory. When
//! the provided buffers have run out, a connection whose reader waits receives into a small
//! buffer of its own, so that no connection depends on another one's reader.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::{cqueue, opcode};

use super::core::Core;
use super::files::Target;
use super::operation::{Kind, Operation};
use super::receive_ring::BUFFER_GROUP;
use super::send::SendSlot;
use crate::error::{IoError, IoErrorKind};

/// Chunks that wait for the reader before the receive is cancelled. The kernel may add up to 32
/// more (its own limit for one run of a multishot receive) before the cancellation takes effect.
const CHUNKS_QUEUED_MAX: usize = 16;

/// Bytes of a receive without a provided buffer. It happens only under overload, where small
/// steps are the point: one page, and only for a connection whose reader waits.
const ALONE_BYTES: usize = 4096;

pub(super) struct Connection {
    pub core: Rc<Core>,
    pub peer: SocketAddr,
    pub target: Target,
    socket: OwnedFd,
    receiving: RefCell<Receiving>,
    pub send_slot: RefCell<SendSlot>,
    closed: Cell<bool>,
}

#[derive(Default)]
struct Receiving {
    queue: VecDeque<Received>,
    arming: Arming,
    end: Option<End>,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Arming {
    /// The kernel receives nothing for us.
    #[default]
    Idle,
    /// A multishot receive is armed, as this operation.
    Armed(usize),
    /// It was asked to end.
    Cancelling,
    /// One receive into memory of its own is in flight.
    Alone,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Closed,
    Failed(i32),
}

impl Connection {
    pub fn new(core: &Rc<Core>, socket: OwnedFd, peer: SocketAddr) -> Rc<Connection> {
        set_options(&socket);
        Rc::new(Connection {
            core: Rc::clone(core),
            peer,
            target: core.files.install(&core.ring, socket.as_fd()),
            socket,
            receiving: RefCell::default(),
            send_slot: RefCell::default(),
            closed: Cell::new(false),
        })
    }

    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Ends both directions. What the kernel is still doing for the connection ends soon.
    pub fn close(&self) {
        if self.closed.replace(true) {
            return;
        }
        // SAFETY: the descriptor is open. A connection that is already down is what we want.
        unsafe { libc::shutdown(self.socket.as_raw_fd(), libc::SHUT_RDWR) };
        let mut receiving = self.receiving.borrow_mut();
        receiving.end = Some(End::Closed);
        let queue = std::mem::take(&mut receiving.queue);
        let waker = receiving.waker.take();
        drop(receiving);
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The next chunk; empty at the end of the stream.
    pub fn poll_receive(
        self: &Rc<Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Received, IoError>> {
        let mut receiving = self.receiving.borrow_mut();
        if let Some(received) = receiving.queue.pop_front() {
            return Poll::Ready(Ok(received));
        }
        match receiving.end {
            Some(End::Closed) => return Poll::Ready(Ok(Received::end())),
            Some(End::Failed(errno)) => {
                let error = IoError::from_errno(errno, "receiving failed");
                return Poll::Ready(Err(error.with("peer", self.peer)));
            }
            None => {}
        }
        match &mut receiving.waker {
            Some(waker) => waker.clone_from(context.waker()),
            None => receiving.waker = Some(context.waker().clone()),
        }
        if receiving.arming == Arming::Idle {
            receiving.arming = self.arm();
        }
        Poll::Pending
    }

    fn arm(self: &Rc<Self>) -> Arming {
        if self.core.receive_ring.available() == 0 {
            return self.arm_alone();
        }
        let entry = opcode::RecvMulti::new(self.target.number(), BUFFER_GROUP).build();
        let operation = Operation::unattended(Kind::Receive(Rc::clone(self)));
        // SAFETY: the kernel writes to provided buffers only, which the core keeps.
        Arming::Armed(unsafe { self.core.start(operation, self.target.mark(entry)) })
    }

    #[cold]
    fn arm_alone(self: &Rc<Self>) -> Arming {
        let mut memory = vec![0; ALONE_BYTES].into_boxed_slice();
        let entry = opcode::Recv::new(
            self.target.number(),
            memory.as_mut_ptr(),
            ALONE_BYTES as u32,
        )
        .build();
        let kind = Kind::ReceiveAlone {
            connection: Rc::clone(self),
            memory,
        };
        // SAFETY: the operation owns the memory, which does not move with its box.
        unsafe {
            self.core
                .start(Operation::unattended(kind), self.target.mark(entry))
        };
        Arming::Alone
    }

    /// A completion of the multishot receive.
    pub fn on_receive(self: &Rc<Self>, result: i32, flags: u32, more: bool) {
        let received = cqueue::buffer_select(flags).map(|index| {
            let pointer = self.core.receive_ring.take(index);
            Received {
                pointer,
                length: result.max(0) as usize,
                source: Source::Provided {
                    core: Rc::clone(&self.core),
                    index,
                },
            }
        });
        let mut receiving = self.receiving.borrow_mut();
        if !more {
            receiving.arming = Arming::Idle;
        }
        self.receive_or_end(&mut receiving, result, received);
        if receiving.queue.len() >= CHUNKS_QUEUED_MAX
            && let Arming::Armed(key) = receiving.arming
        {
            receiving.arming = Arming::Cancelling;
            self.core.cancel(key);
        }
        self.wake_reader(receiving);
    }

    /// The completion of a receive into memory of its own.
    pub fn on_receive_alone(self: &Rc<Self>, result: i32, mut memory: Box<[u8]>) {
        let pointer = NonNull::new(memory.as_mut_ptr()).expect("a box is not null");
        let length = result.max(0) as usize;
        let received = Received {
            pointer,
            length,
            source: Source::Alone { _memory: memory },
        };
        let mut receiving = self.receiving.borrow_mut();
        receiving.arming = Arming::Idle;
        self.receive_or_end(&mut receiving, result, Some(received));
        self.wake_reader(receiving);
    }

    fn receive_or_end(&self, receiving: &mut Receiving, result: i32, received: Option<Received>) {
        if receiving.end.is_some() {
            return;
        }
        match -result {
            negative if negative < 0 => receiving.queue.extend(received),
            0 => receiving.end = Some(End::Closed),
            // Cancelled because the reader is behind, or no buffer was left: armed again when
            // the reader next waits.
            libc::ECANCELED | libc::ENOBUFS | libc::EINTR | libc::EAGAIN => {}
            errno => receiving.end = Some(End::Failed(errno)),
        }
    }

    /// Wakes the reader if there is something for it; else arms again if it waits.
    fn wake_reader(self: &Rc<Self>, mut receiving: std::cell::RefMut<'_, Receiving>) {
        if !receiving.queue.is_empty() || receiving.end.is_some() {
            let waker = receiving.waker.take();
            drop(receiving);
            if let Some(waker) = waker {
                waker.wake();
            }
        } else if receiving.arming == Arming::Idle
            && receiving.waker.is_some()
            && !self.core.has_ended()
        {
            receiving.arming = self.arm();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.core.has_ended() {
            self.core.files.release(&self.core.ring, self.target);
        }
    }
}

/// Bytes that arrived. Dropping gives their memory back to the core, so it should come soon:
/// while it is held, the kernel has one buffer less to receive into.
pub struct Received {
    pointer: NonNull<u8>,
    length: usize,
    source: Source,
}

enum Source {
    End,
    Provided { core: Rc<Core>, index: u16 },
    Alone { _memory: Box<[u8]> },
}

impl Received {
    fn end() -> Received {
        Received {
            pointer: NonNull::dangling(),
            length: 0,
            source: Source::End,
        }
    }
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the kernel has written `length` bytes at the pointer, and nobody writes there
        // until `drop` gives the memory back.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.length) }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if let Source::Provided { core, index } = &self.source {
            core.receive_ring.put_back(*index);
        }
    }
}

impl std::fmt::Debug for Received {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Received({} bytes)", self.length)
    }
}

/// Seconds of silence after which the kernel asks whether the peer is still there.
const KEEP_ALIVE_IDLE_S: libc::c_int = 60;

/// Seconds between two such questions.
const KEEP_ALIVE_INTERVAL_S: libc::c_int = 15;

/// Unanswered questions after which the connection is broken: two minutes after the last byte.
const KEEP_ALIVE_PROBES: libc::c_int = 4;

/// Small answers leave at once: batching is the sender's, not TCP's. And a peer that vanished
/// without a word (power, network) ends its connection instead of holding it for ever.
pub(crate) fn set_options(socket: &impl AsRawFd) {
    for (level, name, value) in [
        (libc::IPPROTO_TCP, libc::TCP_NODELAY, 1),
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, KEEP_ALIVE_IDLE_S),
        (
            libc::IPPROTO_TCP,
            libc::TCP_KEEPINTVL,
            KEEP_ALIVE_INTERVAL_S,
        ),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, KEEP_ALIVE_PROBES),
    ] {
        // SAFETY: reads one int. A socket that refuses is slower or lives longer, not wrong.
        unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                name,
                (&raw const value).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
    }
}

/// The error of an operation on a connection that was closed on this side.
pub(crate) fn closed_here(peer: SocketAddr) -> IoError {
    IoError::new(IoErrorKind::Disconnected, "the connection was closed").with("peer", peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_vanishes_is_noticed_and_small_answers_leave_at_once() {
        let any = "127.0.0.1:0".parse().expect("an address");
        let socket = super::super::socket::open(any).expect("a socket");
        set_options(&socket);
        for (level, name, wanted) in [
            (libc::IPPROTO_TCP, libc::TCP_NODELAY, 1),
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, KEEP_ALIVE_IDLE_S),
        ] {
            let mut found: libc::c_int = 0;
            let mut length = size_of::<libc::c_int>() as libc::socklen_t;
            // SAFETY: writes one int, whose size is given.
            let outcome = unsafe {
                libc::getsockopt(
                    socket.as_raw_fd(),
                    level,
                    name,
                    (&raw mut found).cast(),
                    &raw mut length,
                )
            };
            assert_eq!((outcome, found), (0, wanted), "option {name}");
        }
    }
}

//! The sending half of a connection.
//!
//! A batch leaves as one `send` or `sendmsg` whose vectors point into the batch, and the batch
//! belongs to the operation until the kernel needs it no more. With zero copy that is later than
//! the answer to the caller: the caller gets another, empty batch, and the payloads stay held until the
//! kernel's notification.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::{cqueue, opcode, squeue};

use super::connection::{Connection, closed_here};
use super::core::Core;
use super::files::Target;
use super::operation::{Kind, Operation};
use crate::error::IoError;
use crate::stream::SendBatch;

/// The kernel's limit for the vectors of one call (`UIO_MAXIOV`). Longer batches take several.
const VECTORS_MAX: usize = 1024;

/// Zero-copy batches kept for reuse by a connection. More than a few are in flight only when the
/// peer is slow to acknowledge.
const SPARE_MAX: usize = 4;

const FLAGS: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

/// What sender and kernel leave for each other.
#[derive(Default)]
pub(super) struct SendSlot {
    busy: bool,
    abandoned: bool,
    waker: Option<Waker>,
    outcome: Option<(i32, Box<SendBatch>)>,
    vectors: Option<Box<Vectors>>,
    #[expect(
        clippy::vec_box,
        reason = "boxes are what senders bring and take: unboxing would allocate each time"
    )]
    spare: Vec<Box<SendBatch>>,
}

/// What the kernel reads beside the bytes. Boxed, so that it does not move.
struct Vectors {
    all: Vec<libc::iovec>,
    /// The first vector that was not sent in full.
    next: usize,
    header: libc::msghdr,
}

impl Vectors {
    fn new() -> Box<Vectors> {
        // SAFETY: a msghdr of zeros is an empty message.
        let header = unsafe { std::mem::zeroed() };
        Box::new(Vectors {
            all: Vec::new(),
            next: 0,
            header,
        })
    }

    fn fill(&mut self, batch: &SendBatch) {
        batch.fill_iovecs(&mut self.all);
        self.next = 0;
        self.advance(0);
    }

    /// Steps over `sent` bytes and over empty vectors.
    fn advance(&mut self, mut sent: usize) {
        while let Some(vector) = self.all.get_mut(self.next) {
            if sent < vector.iov_len {
                vector.iov_base = vector.iov_base.cast::<u8>().wrapping_add(sent).cast();
                vector.iov_len -= sent;
                return;
            }
            sent -= vector.iov_len;
            self.next += 1;
        }
        assert_eq!(sent, 0, "the kernel cannot send more than it was given");
    }

    fn is_done(&self) -> bool {
        self.next == self.all.len()
    }

    fn entry(&mut self, target: Target, zero_copy: bool) -> squeue::Entry {
        let vectors = &mut self.all[self.next..];
        let entry = if let [only] = vectors {
            let (base, length) = (
                only.iov_base.cast::<u8>().cast_const(),
                only.iov_len.min(1 << 30),
            );
            if zero_copy {
                opcode::SendZc::new(target.number(), base, length as u32)
                    .flags(FLAGS)
                    .build()
            } else {
                opcode::Send::new(target.number(), base, length as u32)
                    .flags(FLAGS)
                    .build()
            }
        } else {
            self.header.msg_iov = vectors.as_mut_ptr();
            self.header.msg_iovlen = vectors.len().min(VECTORS_MAX) as _;
            let header = &raw const self.header;
            if zero_copy {
                opcode::SendMsgZc::new(target.number(), header)
                    .flags(FLAGS as u32)
                    .build()
            } else {
                opcode::SendMsg::new(target.number(), header)
                    .flags(FLAGS as u32)
                    .build()
            }
        };
        target.mark(entry)
    }
}

/// A batch on its way.
pub(super) struct Sending {
    connection: Rc<Connection>,
    batch: Box<SendBatch>,
    /// Gone once the caller was answered.
    vectors: Option<Box<Vectors>>,
    zero_copy: bool,
    /// Zero-copy sends whose memory the kernel still holds.
    notifications: u32,
}

/// What to do after a completion.
pub(super) enum Step {
    /// Send the rest.
    Again(squeue::Entry),
    /// Nothing yet.
    Wait,
    /// Tell the sender: zero or a negative error code.
    Answer(i32),
    /// The kernel let go of a batch whose sender was answered before.
    Retire,
}

impl Sending {
    pub fn advance(&mut self, result: i32, flags: u32) -> Step {
        if cqueue::notif(flags) {
            self.notifications -= 1;
            let retired = self.notifications == 0 && self.vectors.is_none();
            return if retired { Step::Retire } else { Step::Wait };
        }
        if cqueue::more(flags) {
            self.notifications += 1;
        }
        let vectors = self
            .vectors
            .as_mut()
            .expect("a send completes before its answer");
        match result {
            sent if sent > 0 => vectors.advance(sent as usize),
            0 => return Step::Answer(-libc::EPIPE),
            failed if matches!(-failed, libc::EINTR | libc::EAGAIN) => {}
            failed => return Step::Answer(failed),
        }
        if vectors.is_done() {
            return Step::Answer(0);
        }
        Step::Again(vectors.entry(self.connection.target, self.zero_copy))
    }
}

impl Core {
    /// Does what a completion of a send asks for.
    pub(super) fn continue_send(&self, key: usize, step: Step) {
        match step {
            // SAFETY: the operation, still in the slab, owns vectors and batch.
            Step::Again(entry) => unsafe { self.push(key, entry) },
            Step::Wait => {}
            Step::Answer(result) => self.answer_send(key, result),
            Step::Retire => {
                let operation = self.operations.borrow_mut().remove(key);
                if let Kind::Send(Sending {
                    connection,
                    mut batch,
                    ..
                }) = operation.kind
                {
                    batch.clear();
                    let mut slot = connection.send_slot.borrow_mut();
                    if slot.spare.len() < SPARE_MAX {
                        slot.spare.push(batch);
                    }
                }
            }
        }
    }

    fn answer_send(&self, key: usize, result: i32) {
        let mut operations = self.operations.borrow_mut();
        let Kind::Send(sending) = &mut operations[key].kind else {
            unreachable!("the completion of a send belongs to a send")
        };
        let connection = Rc::clone(&sending.connection);
        let vectors = sending.vectors.take();
        let batch = if sending.notifications > 0 {
            connection
                .send_slot
                .borrow_mut()
                .spare
                .pop()
                .unwrap_or_default()
        } else {
            match operations.remove(key).kind {
                Kind::Send(sending) => sending.batch,
                _ => unreachable!("checked above"),
            }
        };
        drop(operations);
        let mut slot = connection.send_slot.borrow_mut();
        slot.busy = false;
        slot.vectors = vectors;
        if slot.abandoned {
            drop(slot);
            return;
        }
        slot.outcome = Some((result, batch));
        let waker = slot.waker.take();
        drop(slot);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Sends a batch; see [`Stream::send`](crate::Stream::send).
pub(super) struct Send {
    connection: Rc<Connection>,
    state: State,
}

enum State {
    New(Box<SendBatch>),
    InFlight,
    Done,
}

impl Send {
    pub fn new(connection: &Rc<Connection>, batch: Box<SendBatch>) -> Send {
        Send {
            connection: Rc::clone(connection),
            state: State::New(batch),
        }
    }

    fn start(&self, batch: Box<SendBatch>) {
        let connection = &self.connection;
        let mut slot = connection.send_slot.borrow_mut();
        assert!(!slot.busy, "one send at a time on a connection");
        slot.busy = true;
        let mut vectors = slot.vectors.take().unwrap_or_else(Vectors::new);
        drop(slot);
        vectors.fill(&batch);
        let zero_copy = connection
            .core
            .send_zero_copy_above
            .is_some_and(|above| batch.bytes() > above);
        let entry = vectors.entry(connection.target, zero_copy);
        let kind = Kind::Send(Sending {
            connection: Rc::clone(connection),
            batch,
            vectors: Some(vectors),
            zero_copy,
            notifications: 0,
        });
        // SAFETY: the operation owns the batch and the boxed vectors that the entry points at.
        unsafe { connection.core.start(Operation::unattended(kind), entry) };
    }
}

impl Future for Send {
    type Output = (Result<(), IoError>, Box<SendBatch>);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let connection = Rc::clone(&self.connection);
        match std::mem::replace(&mut self.state, State::InFlight) {
            State::New(batch) if batch.is_empty() => {
                self.state = State::Done;
                return Poll::Ready((Ok(()), batch));
            }
            State::New(batch) if connection.is_closed() => {
                self.state = State::Done;
                return Poll::Ready((Err(closed_here(connection.peer)), batch));
            }
            State::New(batch) => self.start(batch),
            State::InFlight => {}
            State::Done => panic!("polled after it was ready"),
        }
        let mut slot: std::cell::RefMut<'_, SendSlot> = RefCell::borrow_mut(&connection.send_slot);
        let Some((result, batch)) = slot.outcome.take() else {
            slot.waker = Some(context.waker().clone());
            return Poll::Pending;
        };
        drop(slot);
        self.state = State::Done;
        let outcome = if result == 0 {
            Ok(())
        } else {
            Err(IoError::from_errno(-result, "sending failed").with("peer", connection.peer))
        };
        Poll::Ready((outcome, batch))
    }
}

impl Drop for Send {
    /// Nobody can tell how much of a batch that nobody waits for has left, so nothing may
    /// follow it: the connection ends.
    fn drop(&mut self) {
        if !matches!(self.state, State::InFlight) {
            return;
        }
        self.connection.close();
        let mut slot = self.connection.send_slot.borrow_mut();
        slot.abandoned = true;
        slot.waker = None;
        let outcome = slot.outcome.take();
        drop(slot);
        drop(outcome);
    }
}

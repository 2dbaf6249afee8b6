//! What the kernel is working on for a core.
//!
//! The invariant: an operation in this slab owns every byte that the kernel may still read or
//! write for it. A future that is dropped early gives up its interest, never the memory; the
//! operation stays until its last completion has come.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use io_uring::squeue;

use super::connection::Connection;
use super::core::Core;
use super::device::{OpenDevice, Transfer};
use super::doorbell::Bell;
use super::listener::Acceptor;
use super::send::Sending;
use crate::Nanos;

/// What an operation is, with what it owns.
pub(super) enum Kind {
    /// A read or write of a device.
    Transfer(Transfer),
    /// A flush or discard.
    Maintain {
        device: Rc<OpenDevice>,
        began: Nanos,
    },
    /// What the future of a device operation gets that nobody waits for any longer. Never in the slab.
    TimedOut { device: Rc<OpenDevice>, offset: u64 },
    /// Connecting a socket to the address.
    Connect {
        socket: OwnedFd,
        _address: Box<libc::sockaddr_storage>,
    },
    /// Sending a batch.
    Send(Sending),
    /// A multishot receive into the ring of provided buffers.
    Receive(Rc<Connection>),
    /// One receive into memory of its own, when the provided buffers have run out.
    ReceiveAlone {
        connection: Rc<Connection>,
        memory: Box<[u8]>,
    },
    /// A multishot accept.
    Accept(Rc<Acceptor>),
    /// A message to another core's ring.
    Wake(Arc<Bell>),
    /// The read of this core's eventfd.
    Event { counter: Box<u64> },
}

pub(super) struct Operation {
    pub kind: Kind,
    pub waker: Option<Waker>,
    /// Set when the last completion has come and a future still wants it.
    pub result: Option<i32>,
    /// No future waits: the operation goes with its last completion.
    pub orphaned: bool,
    /// The future that waits is to end without a result, and leave the operation to itself.
    pub timed_out: bool,
}

impl Operation {
    /// One that a future waits for.
    pub fn awaited(kind: Kind) -> Operation {
        Operation {
            kind,
            waker: None,
            result: None,
            orphaned: false,
            timed_out: false,
        }
    }

    /// One whose completions are handled by what it belongs to.
    pub fn unattended(kind: Kind) -> Operation {
        Operation {
            orphaned: true,
            ..Operation::awaited(kind)
        }
    }
}

/// The result of an operation and what it owned, once it is done.
pub(super) struct Completion {
    core: Rc<Core>,
    key: usize,
    taken: bool,
}

impl Completion {
    /// Submits what `entry` makes of the operation once that stands in the slab.
    ///
    /// # Safety
    /// The entry may only point at memory that `kind` owns at a stable address.
    pub unsafe fn of(core: &Rc<Core>, kind: Kind, entry: squeue::Entry) -> Completion {
        // SAFETY: passed on to the caller.
        let key = unsafe { core.start(Operation::awaited(kind), entry) };
        Completion {
            core: Rc::clone(core),
            key,
            taken: false,
        }
    }
}

impl Future for Completion {
    type Output = (i32, Kind);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<(i32, Kind)> {
        assert!(!self.taken, "polled after it was ready");
        let core = Rc::clone(&self.core);
        let mut operations = core.operations.borrow_mut();
        let operation = &mut operations[self.key];
        match operation.result {
            Some(result) => {
                let operation = operations.remove(self.key);
                self.taken = true;
                Poll::Ready((result, operation.kind))
            }
            None if operation.timed_out => {
                operation.orphaned = true;
                self.taken = true;
                Poll::Ready((-libc::ETIMEDOUT, timed_out(&operation.kind)))
            }
            None => {
                operation.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cold]
fn timed_out(kind: &Kind) -> Kind {
    let (device, offset) = match kind {
        Kind::Transfer(transfer) => transfer.place(),
        Kind::Maintain { device, .. } => (device, 0),
        _ => unreachable!("only operations of devices have a limit"),
    };
    Kind::TimedOut {
        device: Rc::clone(device),
        offset,
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let mut operations = self.core.operations.borrow_mut();
        let operation = &mut operations[self.key];
        if operation.result.is_none() {
            operation.orphaned = true;
            operation.waker = None;
            return;
        }
        let operation = operations.remove(self.key);
        // What it owned may reach back into the core when dropped.
        drop(operations);
        drop(operation);
    }
}

//! How other threads wake a core.
//!
//! A ring sets a flag and wakes whoever waits for it, by glommio's own way between threads: a
//! queue of wakers and an eventfd that is written to only while the core sleeps. The invariant is
//! the traits': no ring is lost. The waiter looks at the flag, leaves its waker, and looks again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;

use crate::Doorbell;

/// What ringers and the core share.
#[derive(Default)]
pub(super) struct Bell {
    rung: AtomicBool,
    waiter: AtomicWaker,
}

impl Bell {
    /// Ready once the bell was rung since the last time that it was.
    pub fn poll_rung(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.take() {
            return Poll::Ready(());
        }
        self.waiter.register(context.waker());
        if self.take() {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn take(&self) -> bool {
        self.rung.swap(false, Ordering::AcqRel)
    }

    /// Lets go of the waiter while its executor still runs: glommio leaks wakers that are dropped
    /// later.
    pub fn forget_waiter(&self) {
        drop(self.waiter.take());
    }
}

/// What [`Io::doorbell`](crate::Io::doorbell) hands out.
pub(super) struct GlommioDoorbell(pub Arc<Bell>);

impl Doorbell for GlommioDoorbell {
    fn ring(&self) {
        // Whoever sets the flag wakes; later rings ride along.
        if !self.0.rung.swap(true, Ordering::AcqRel) {
            self.0.waiter.wake();
        }
    }
}

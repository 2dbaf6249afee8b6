//! Waking what waits for the store to get on: a write that ended, a region that became free, a
//! read that let go of its region. One signal for all: waiters look at their own condition again.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Wakes everyone who waits, each time that it is raised.
#[derive(Debug, Default)]
pub(super) struct Signal {
    raised: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Signal {
    /// Something changed.
    pub(super) fn raise(&self) {
        self.raised.set(self.raised.get() + 1);
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        for waker in waiting {
            waker.wake();
        }
    }

    /// Resolves at the first raise after this call.
    pub(super) async fn wait(&self) {
        let seen = self.raised.get();
        self.wait_until(|| self.raised.get() != seen).await;
    }

    /// Resolves when `holds` does; looks at the start and after each raise.
    pub(super) async fn wait_until(&self, mut holds: impl FnMut() -> bool) {
        poll_fn(|context| {
            if holds() {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

//! A device operation that runs to its end even when nobody waits for it any more.
//!
//! Its invariant: from its first poll on, an operation keeps what it was given (a lease, a slice)
//! until the kernel is done, as the traits promise for pages in flight. Dropping the future hands
//! what is left of it to a task of its own.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::core::Core;

/// An operation under way or about to be.
pub(super) struct Operation<T: 'static> {
    core: Rc<Core>,
    future: Option<Pin<Box<dyn Future<Output = T>>>>,
    begun: bool,
}

impl<T> Operation<T> {
    /// Begins `future` when it is first polled.
    pub fn new(core: &Rc<Core>, future: impl Future<Output = T> + 'static) -> Self {
        let counted = Rc::clone(core);
        Operation {
            core: Rc::clone(core),
            future: Some(Box::pin(async move {
                let _in_flight = counted.begin();
                future.await
            })),
            begun: false,
        }
    }
}

impl<T> Future for Operation<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        assert!(!self.core.has_ended(), "the core of this handle has ended");
        self.begun = true;
        let future = self.future.as_mut().expect("polled after it was ready");
        let outcome = future.as_mut().poll(context);
        if outcome.is_ready() {
            self.future = None;
        }
        outcome
    }
}

impl<T> Drop for Operation<T> {
    fn drop(&mut self) {
        let Some(future) = self.future.take().filter(|_| self.begun) else {
            return;
        };
        if self.core.has_ended() {
            // It was in flight when the core ended, so its executor was given up as well: the
            // kernel may write to the buffer at any time.
            std::mem::forget(future);
            return;
        }
        self.core.abandon(async move {
            drop(future.await);
        });
    }
}

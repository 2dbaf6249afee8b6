//! A device operation that runs to its end even when nobody waits for it any more.
//!
//! Its invariant: from its first poll on, an operation keeps what it was given (a lease, a slice)
//! until the kernel is done, as the traits promise for pages in flight. Dropping the future hands
//! what is left of it to a task of its own.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::core::Core;
use crate::OldestOperations;

/// The operations that a device works on, for [`Waits::time_out`].
#[derive(Default)]
pub(super) struct Waits(RefCell<Vec<Weak<Wait>>>);

/// One of them. It lives as long as the kernel works on it.
pub(super) struct Wait {
    began: Instant,
    is_urgent: bool,
    is_timed_out: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Waits {
    fn add(&self, is_urgent: bool) -> Rc<Wait> {
        let wait = Rc::new(Wait {
            began: Instant::now(),
            is_urgent,
            is_timed_out: Cell::new(false),
            waker: RefCell::default(),
        });
        let mut waits = self.0.borrow_mut();
        if waits.len() == waits.capacity() {
            waits.retain(|wait| wait.strong_count() > 0);
        }
        waits.push(Rc::downgrade(&wait));
        wait
    }

    /// See [`Device::time_out`](crate::Device::time_out).
    pub fn time_out(&self, read_max: Duration, other_max: Duration) -> OldestOperations {
        let waits: Vec<Rc<Wait>> = self.0.borrow().iter().filter_map(Weak::upgrade).collect();
        let mut oldest = OldestOperations::default();
        for wait in waits {
            let age = wait.began.elapsed();
            oldest.note(wait.is_urgent, age);
            if age >= if wait.is_urgent { read_max } else { other_max } {
                wait.is_timed_out.set(true);
                if let Some(waker) = wait.waker.take() {
                    waker.wake();
                }
            }
        }
        oldest
    }

    /// Waits for `operation`, or until it is timed out; then it goes on by itself and `None` is what came.
    pub async fn watch<T: 'static>(
        &self,
        is_urgent: bool,
        core: &Rc<Core>,
        operation: impl Future<Output = T> + 'static,
    ) -> Option<T> {
        let wait = self.add(is_urgent);
        let held = Rc::clone(&wait);
        let mut operation = Operation::new(core, async move {
            let _held = held;
            operation.await
        });
        std::future::poll_fn(move |context| {
            if let Poll::Ready(outcome) = Pin::new(&mut operation).poll(context) {
                return Poll::Ready(Some(outcome));
            }
            if wait.is_timed_out.get() {
                return Poll::Ready(None);
            }
            wait.waker.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await
    }
}

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

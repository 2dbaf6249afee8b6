//! One io_uring: submission, entering the kernel, completions. Knows nothing of operations.
//!
//! The ring is SINGLE_ISSUER and DEFER_TASKRUN: only the thread that made it may touch it, and
//! completions appear only while that thread is inside [`Ring::enter`].

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::time::Duration;

use io_uring::cqueue::CompletionStatus;
use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, Submitter, cqueue, squeue};

use super::probe;
use crate::error::IoError;

/// Completion entries for each submission entry. Multishot receives complete many times for one
/// submission; past this the kernel keeps completions in a list, which works but costs more.
const COMPLETIONS_PER_SUBMISSION: u32 = 8;

pub(super) struct Ring {
    ring: NonNull<IoUring>,
    /// Kept, because it remembers the registered index of the ring's descriptor.
    submitter: ManuallyDrop<Submitter<'static>>,
    completions: CompletionStatus,
    enters: Cell<u64>,
    submissions: Cell<u64>,
}

/// How long [`Ring::enter`] may wait for a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Not at all.
    No,
    /// Until one comes or the time is over.
    AtMost(Duration),
    /// Until one comes.
    Forever,
}

impl Ring {
    /// Sets up a ring of `entries` submissions for the calling thread.
    pub fn open(entries: u32) -> Result<Ring, IoError> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(entries.saturating_mul(COMPLETIONS_PER_SUBMISSION))
            .build(entries)
            .map_err(|error| probe::setup_failed(&error))?;
        let ring = NonNull::from(Box::leak(Box::new(ring)));
        // SAFETY: the box lives until `drop`, which drops the submitter first.
        let shared: &'static IoUring = unsafe { ring.as_ref() };
        let mut submitter = shared.submitter();
        if let Err(error) = submitter.register_ring_fd() {
            // Only a few nanoseconds an enter; the ring works without it.
            tracing::debug!(%error, "cannot register the descriptor of the ring");
        }
        // SAFETY: nobody else holds a completion queue now, and the status lives as long as the ring.
        let completions = unsafe { shared.completion_shared().status() };
        Ok(Ring {
            ring,
            submitter: ManuallyDrop::new(submitter),
            completions,
            enters: Cell::new(0),
            submissions: Cell::new(0),
        })
    }

    fn ring(&self) -> &IoUring {
        // SAFETY: the box is freed only by `drop`.
        unsafe { self.ring.as_ref() }
    }

    /// For registrations.
    pub fn submitter(&self) -> &Submitter<'static> {
        &self.submitter
    }

    /// A second descriptor of the ring, by which other rings send it messages.
    pub fn duplicate(&self) -> std::io::Result<OwnedFd> {
        // SAFETY: the descriptor is open as long as the ring.
        unsafe { BorrowedFd::borrow_raw(self.ring().as_raw_fd()) }.try_clone_to_owned()
    }

    /// Queues `entry`. A full queue is submitted first.
    ///
    /// # Safety
    /// What `entry` points at must stay valid until its last completion was taken.
    pub unsafe fn push(&self, entry: &squeue::Entry) {
        loop {
            // SAFETY: the queue is dropped at the end of the statement, so there is only one.
            let pushed = unsafe { self.ring().submission_shared().push(entry) };
            if pushed.is_ok() {
                return;
            }
            self.submit_some();
        }
    }

    #[cold]
    fn submit_some(&self) {
        self.enters.set(self.enters.get() + 1);
        match self.submitter.submit() {
            Ok(submitted) => self
                .submissions
                .set(self.submissions.get() + submitted as u64),
            // The kernel is short of memory or the completion queue overflowed; entering with
            // GETEVENTS (which `submit` does then) is what resolves both.
            Err(error) => assert!(
                matches!(
                    error.raw_os_error(),
                    Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)
                ),
                "submitting to the ring failed: {error}"
            ),
        }
    }

    /// Whether entering the kernel would submit something or bring completions.
    pub fn needs_enter(&self) -> bool {
        // SAFETY: dropped at the end of the function, and nothing pushes meanwhile.
        let queue = unsafe { self.ring().submission_shared() };
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    /// Whether completions wait to be taken.
    pub fn has_completions(&self) -> bool {
        !self.completions.is_empty()
    }

    /// Submits what is queued, runs deferred work and waits as `wait` says.
    pub fn enter(&self, wait: Wait) {
        // SAFETY: dropped at the end of the statement.
        let queued = unsafe { self.ring().submission_shared().len() } as u32;
        let timeout;
        let mut arguments = SubmitArgs::new();
        let wanted = match wait {
            Wait::No => 0,
            Wait::Forever => 1,
            Wait::AtMost(duration) => {
                timeout = Timespec::from(duration);
                arguments = SubmitArgs::new().timespec(&timeout);
                1
            }
        };
        let flags = (EnterFlags::GETEVENTS | EnterFlags::EXT_ARG).bits();
        self.enters.set(self.enters.get() + 1);
        // SAFETY: with EXT_ARG the argument is a `SubmitArgs`, and the timespec that it points at
        // outlives the call.
        match unsafe {
            self.submitter
                .enter(queued, wanted, flags, Some(&arguments))
        } {
            Ok(submitted) => self
                .submissions
                .set(self.submissions.get() + submitted as u64),
            Err(error) => match error.raw_os_error() {
                // The time is over, a signal came, memory is short or completions overflowed: the
                // caller takes completions and comes again. What was submitted is not an error.
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => {}
                _ => panic!("entering the ring failed: {error}"),
            },
        }
    }

    /// Hands every completion that is there to `handle`.
    pub fn take_completions(&self, mut handle: impl FnMut(cqueue::Entry)) -> u64 {
        let mut taken = 0;
        // SAFETY: the caller is the only one to take completions, and `handle` gets no ring but
        // through `push`, which uses the submission side.
        for entry in unsafe { self.ring().completion_shared() } {
            taken += 1;
            handle(entry);
        }
        taken
    }

    /// System calls that entered the ring.
    pub fn enters(&self) -> u64 {
        self.enters.get()
    }

    /// Operations that the kernel took.
    pub fn submissions(&self) -> u64 {
        self.submissions.get()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: neither is used again; the submitter borrows from the box and goes first.
        unsafe {
            ManuallyDrop::drop(&mut self.submitter);
            drop(Box::from_raw(self.ring.as_ptr()));
        }
    }
}

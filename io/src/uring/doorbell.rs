//! How other threads wake a core.
//!
//! A ring sets a flag; only when the core sleeps does it cost a system call, or a message on the
//! ringer's own ring if the ringer is a core too. No ring is lost: the core announces its sleep
//! and then looks at the flag, the ringer sets the flag and then looks for a sleeper, both in
//! sequentially consistent order, so one of them sees the other.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::core;
use crate::Doorbell;
use crate::error::IoError;

pub(super) struct Bell {
    /// Something was put where the core will look for it.
    pending: AtomicBool,
    /// [`Doorbell::ring`] was called, not only a task woken.
    rung: AtomicBool,
    sleeping: AtomicBool,
    event: OwnedFd,
    /// A descriptor of the core's ring of our own, so that its number stays valid as long as
    /// somebody may send to it.
    ring: OwnedFd,
}

impl Bell {
    pub fn new(ring: OwnedFd) -> Result<Bell, IoError> {
        // SAFETY: no pointers; the result is checked before it is owned.
        let event = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if event < 0 {
            let error = std::io::Error::last_os_error();
            return Err(IoError::from_std(
                &error,
                "cannot make an eventfd; raise the limit of open files",
            ));
        }
        Ok(Bell {
            pending: AtomicBool::new(false),
            rung: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            // SAFETY: just opened, owned by nobody else.
            event: unsafe { OwnedFd::from_raw_fd(event) },
            ring,
        })
    }

    /// Descriptor that the core reads to be woken.
    pub fn event(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Descriptor of the core's ring.
    pub fn ring_descriptor(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// Wakes the core without resolving its `rung`.
    pub fn wake(self: &Arc<Self>) {
        // Whoever sets the flag is responsible for the sleeper; later rings ride along.
        if !self.pending.swap(true, Ordering::SeqCst) && self.sleeping.swap(false, Ordering::SeqCst)
        {
            self.wake_sleeper();
        }
    }

    #[cold]
    fn wake_sleeper(self: &Arc<Self>) {
        if !core::send_wake(self) {
            self.write_event();
        }
    }

    /// Wakes the core by a system call.
    pub fn write_event(&self) {
        let one = 1u64;
        // SAFETY: eight readable bytes. The only failure is a full counter, which wakes as well.
        unsafe { libc::write(self.event(), (&raw const one).cast(), 8) };
    }

    /// Whether something is pending, for the owner. May be late by a moment, never forgets.
    pub fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Relaxed)
    }

    /// Clears what is pending, for the owner. Everything put before the wake is visible after it.
    /// Returns whether the doorbell was rung.
    pub fn take(&self) -> bool {
        self.pending.swap(false, Ordering::SeqCst);
        self.rung.swap(false, Ordering::Acquire)
    }

    /// Announces that the owner is about to sleep. It may not if this returns false.
    pub fn announce_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        if self.pending.load(Ordering::SeqCst) {
            self.announce_awake();
            return false;
        }
        true
    }

    pub fn announce_awake(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }
}

/// What [`Io::doorbell`](crate::Io::doorbell) hands out.
pub(super) struct UringDoorbell(pub Arc<Bell>);

impl Doorbell for UringDoorbell {
    fn ring(&self) {
        self.0.rung.store(true, Ordering::Release);
        self.0.wake();
    }
}

/// Wakes the core for its executor: no `rung`.
pub(super) struct TaskDoorbell(pub Arc<Bell>);

impl Doorbell for TaskDoorbell {
    fn ring(&self) {
        self.0.wake();
    }
}

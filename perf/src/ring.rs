//! The bare ring of ceilings and load generator, written directly on the `io-uring` crate.
//!
//! It shares nothing with `corelane-io` on purpose: a ceiling that ran on the loop that it is to
//! judge would hide that loop's waste. The invariant: one thread makes, fills and empties a ring
//! (SINGLE_ISSUER, DEFER_TASKRUN). It must not know what its operations mean.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use io_uring::types::{BufRingEntry, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, Submitter, squeue};

use crate::memory::Memory;

/// One completion.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// What the submission carried.
    pub user_data: u64,
    /// Bytes, or a negative errno.
    pub result: i32,
    /// Flags of the completion queue entry.
    pub flags: u32,
}

/// A ring of the calling thread.
pub struct Ring {
    ring: NonNull<IoUring>,
    /// Kept, because it remembers the registered index of the ring's descriptor.
    submitter: ManuallyDrop<Submitter<'static>>,
    enters: u64,
}

impl Ring {
    /// A ring of `entries` submissions and eight times as many completions.
    ///
    /// # Errors
    /// When the kernel refuses; its own reason is kept.
    pub fn new(entries: u32) -> io::Result<Ring> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(entries.saturating_mul(8))
            .build(entries)?;
        let ring = NonNull::from(Box::leak(Box::new(ring)));
        // SAFETY: the box is freed by `drop` only, after the submitter.
        let shared: &'static IoUring = unsafe { ring.as_ref() };
        let mut submitter = shared.submitter();
        submitter.register_ring_fd()?;
        Ok(Ring {
            ring,
            submitter: ManuallyDrop::new(submitter),
            enters: 0,
        })
    }

    /// For registrations.
    pub fn submitter(&self) -> &Submitter<'static> {
        &self.submitter
    }

    /// Times that the kernel was entered.
    pub fn enters(&self) -> u64 {
        self.enters
    }

    fn ring(&self) -> &IoUring {
        // SAFETY: the box is freed by `drop` only.
        unsafe { self.ring.as_ref() }
    }

    /// Queues `entry`; a full queue is submitted first.
    ///
    /// # Errors
    /// When the kernel does not take what is queued.
    ///
    /// # Safety
    /// What `entry` points at must stay valid until its last completion was taken.
    pub unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: the queue lives for this statement only; the entry is the caller's promise.
            if unsafe { self.ring().submission_shared().push(entry) }.is_ok() {
                return Ok(());
            }
            self.enter(0)?;
        }
    }

    /// Submits what is queued and returns when at least one completion waits to be taken: after
    /// polling for up to `spin`, by sleeping.
    ///
    /// # Errors
    /// When entering the kernel fails.
    pub fn turn(&mut self, spin: Duration) -> io::Result<()> {
        if spin.is_zero() {
            return self.enter(1);
        }
        self.enter(0)?;
        let mut deadline = None;
        loop {
            // SAFETY: both queues live for one statement each, on the only thread that uses them.
            let (waiting, needs_enter) = unsafe {
                let submission = self.ring().submission_shared();
                (
                    !self.ring().completion_shared().is_empty(),
                    submission.taskrun(),
                )
            };
            if waiting {
                return Ok(());
            }
            if needs_enter {
                self.enter(0)?;
                continue;
            }
            let now = Instant::now();
            if now >= *deadline.get_or_insert(now + spin) {
                return self.enter(1);
            }
            std::hint::spin_loop();
        }
    }

    /// Like [`Ring::turn`], but returns at `deadline` too; polls only from `spin` before it on.
    ///
    /// # Errors
    /// When entering the kernel fails.
    pub fn turn_until(&mut self, deadline: Instant, spin: Duration) -> io::Result<()> {
        self.enter(0)?;
        loop {
            // SAFETY: both queues live for one statement each, on the only thread that uses them.
            let (waiting, needs_enter) = unsafe {
                let submission = self.ring().submission_shared();
                (
                    !self.ring().completion_shared().is_empty(),
                    submission.taskrun(),
                )
            };
            let now = Instant::now();
            if waiting || now >= deadline {
                return Ok(());
            }
            if needs_enter {
                self.enter(0)?;
                continue;
            }
            let left = deadline - now;
            if left > spin {
                self.enter_for(1, Some(left - spin))?;
                if spin.is_zero() {
                    return Ok(());
                }
            }
            std::hint::spin_loop();
        }
    }

    /// Submits, runs deferred work and waits for `wanted` completions.
    ///
    /// # Errors
    /// When entering the kernel fails for another reason than a signal or overflow.
    pub fn enter(&mut self, wanted: u32) -> io::Result<()> {
        self.enter_for(wanted, None)
    }

    fn enter_for(&mut self, wanted: u32, longest: Option<Duration>) -> io::Result<()> {
        self.enters += 1;
        let timeout = longest.map(Timespec::from);
        // SAFETY: the queue lives for this statement only.
        let queued = unsafe { self.ring().submission_shared().len() } as u32;
        let mut arguments = SubmitArgs::new();
        if let Some(timeout) = &timeout {
            arguments = arguments.timespec(timeout);
        }
        let flags = (EnterFlags::GETEVENTS | EnterFlags::EXT_ARG).bits();
        // SAFETY: with EXT_ARG the argument is a `SubmitArgs`, which outlives the call.
        match unsafe {
            self.submitter
                .enter(queued, wanted, flags, Some(&arguments))
        } {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ETIME) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Replaces `completions` by those that wait.
    pub fn take(&mut self, completions: &mut Vec<Completion>) {
        completions.clear();
        // SAFETY: the queue lives for this statement only.
        completions.extend(
            unsafe { self.ring().completion_shared() }.map(|entry| Completion {
                user_data: entry.user_data(),
                result: entry.result(),
                flags: entry.flags(),
            }),
        );
    }

    /// Makes room for `files` registered descriptors.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn reserve_files(&self, files: u32) -> io::Result<()> {
        self.submitter.register_files_sparse(files)
    }

    /// Puts `descriptor` (or -1 for none) into registered slot `slot`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_file(&self, slot: u32, descriptor: RawFd) -> io::Result<()> {
        self.submitter
            .register_files_update(slot, &[descriptor])
            .map(|_| ())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: dropped once, before the ring that it borrows.
        unsafe { ManuallyDrop::drop(&mut self.submitter) };
        // SAFETY: made by `Box::leak` in `new`, and nothing borrows it any more.
        drop(unsafe { Box::from_raw(self.ring.as_ptr()) });
    }
}

/// A provided buffer ring: where multishot receives put what arrives.
pub struct BufferRing {
    entries: Memory,
    buffers: Memory,
    buffer_bytes: usize,
    mask: u16,
    tail: u16,
}

impl BufferRing {
    /// Registers `count` buffers (a power of two) of `buffer_bytes` as group 0 of `ring`.
    ///
    /// # Errors
    /// When memory or registration fails.
    ///
    /// # Panics
    /// If `count` is not a power of two up to 32,768.
    pub fn register(ring: &Ring, count: u16, buffer_bytes: usize) -> io::Result<BufferRing> {
        assert!(
            count.is_power_of_two() && count <= 1 << 15,
            "{count} receive buffers"
        );
        let entries = Memory::map(usize::from(count) * size_of::<BufRingEntry>())?;
        let buffers = Memory::map(usize::from(count) * buffer_bytes)?;
        // SAFETY: the entries stay mapped as long as this value, which the owner of the ring
        // keeps until the ring is gone.
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(entries.address() as u64, count, 0, 0)?
        };
        let mut buffer_ring = BufferRing {
            entries,
            buffers,
            buffer_bytes,
            mask: count - 1,
            tail: 0,
        };
        for buffer in 0..count {
            buffer_ring.give_back(buffer);
        }
        Ok(buffer_ring)
    }

    /// The first `length` bytes of `buffer`.
    ///
    /// # Panics
    /// If there is no such buffer or it is shorter.
    pub fn bytes(&self, buffer: u16, length: usize) -> &[u8] {
        assert!(
            length <= self.buffer_bytes,
            "{length} bytes of a receive buffer"
        );
        let start = usize::from(buffer) * self.buffer_bytes;
        &self.buffers.bytes()[start..start + length]
    }

    /// Lets the kernel use `buffer` again.
    pub fn give_back(&mut self, buffer: u16) {
        let address =
            self.buffers.bytes()[usize::from(buffer) * self.buffer_bytes..].as_ptr() as u64;
        let base = self.entries.address().cast::<BufRingEntry>();
        // SAFETY: the index is below the number of entries, and the kernel reads an entry only
        // after the tail below was moved past it.
        let entry = unsafe { &mut *base.add(usize::from(self.tail & self.mask)) };
        entry.set_addr(address);
        entry.set_len(self.buffer_bytes as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies inside the first entry, is aligned, and is written by us alone.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

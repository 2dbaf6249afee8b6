//! The provided buffers of a core: the kernel picks one when bytes arrive, so a thousand idle
//! connections hold none.
//!
//! A buffer is in the ring, or taken by exactly one chunk of received bytes, whose end puts it
//! back. What runs dry is the ring, not the connection: see `connection`.

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::ring::Ring;
use crate::buffer::PAGE_SIZE;
use crate::error::{IoError, IoErrorKind};
use crate::mapping::Mapping;

/// The one group of buffers of a core.
pub(super) const BUFFER_GROUP: u16 = 0;

pub(super) struct ReceiveRing {
    /// The entries, then the buffers. Every chunk of received bytes holds the core and with it
    /// this, and the kernel writes here only while the core's thread is inside it.
    mapping: Mapping,
    entries_bytes: usize,
    count: u16,
    buffer_bytes: usize,
    tail: Cell<u16>,
    taken: Cell<u16>,
}

impl ReceiveRing {
    /// Maps `count` buffers of `buffer_bytes` and provides them all.
    pub fn register(ring: &Ring, count: u16, buffer_bytes: u32) -> Result<ReceiveRing, IoError> {
        let usable = count.is_power_of_two() && count <= 1 << 15 && buffer_bytes >= 64;
        if !usable {
            return Err(IoError::new(
                IoErrorKind::InvalidInput,
                "receive buffers must be a power of two up to 32768, of 64 bytes at least",
            )
            .with("receive_buffers", count)
            .with("receive_buffer_bytes", buffer_bytes));
        }
        let buffer_bytes = buffer_bytes as usize;
        let entries_bytes =
            (usize::from(count) * size_of::<BufRingEntry>()).next_multiple_of(PAGE_SIZE);
        let mapped = entries_bytes + usize::from(count) * buffer_bytes;
        let mapping = Mapping::new(
            mapped,
            // Faults now, not while requests wait.
            libc::MAP_POPULATE,
            "cannot map receive buffers; lower their number or size",
        )?;
        let this = ReceiveRing {
            mapping,
            entries_bytes,
            count,
            buffer_bytes,
            tail: Cell::new(0),
            taken: Cell::new(count),
        };
        // SAFETY: the entries are page aligned and mapped until this is dropped, which comes after
        // the ring's own end (see the field order of `Core`).
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                this.mapping.base().as_ptr() as u64,
                count,
                BUFFER_GROUP,
                0,
            )
        }
        .map_err(|error| {
            IoError::from_std(
                &error,
                "cannot register receive buffers; a kernel from 6.1 on is needed",
            )
        })?;
        (0..count).for_each(|buffer| this.put_back(buffer));
        Ok(this)
    }

    /// Buffers that the kernel can pick from.
    pub fn available(&self) -> u16 {
        self.count - self.taken.get()
    }

    /// Takes buffer `index`, which a completion named, and gives its address.
    pub fn take(&self, index: u16) -> NonNull<u8> {
        assert!(index < self.count, "the kernel names buffers of the ring");
        self.taken.set(self.taken.get() + 1);
        self.buffer(index)
    }

    /// Provides buffer `index` again. Nobody may read it any more.
    pub fn put_back(&self, index: u16) {
        debug_assert!(index < self.count && self.taken.get() > 0);
        self.taken.set(self.taken.get() - 1);
        let tail = self.tail.get();
        let entries = self.mapping.base().cast::<BufRingEntry>();
        // SAFETY: the slot is inside the mapping, and the kernel reads it only once the tail has
        // passed it. The tail lies in padding of the first entry that the setters do not touch.
        unsafe {
            let entry = entries.add(usize::from(tail & (self.count - 1))).as_mut();
            entry.set_addr(self.buffer(index).as_ptr() as u64);
            entry.set_len(self.buffer_bytes as u32);
            entry.set_bid(index);
        }
        let tail = tail.wrapping_add(1);
        self.tail.set(tail);
        // SAFETY: the entries are mapped, and the kernel reads the tail as an aligned u16.
        let shared =
            unsafe { AtomicU16::from_ptr(BufRingEntry::tail(entries.as_ptr()).cast_mut()) };
        // Release: the kernel that sees the tail sees the entry.
        shared.store(tail, Ordering::Release);
    }

    fn buffer(&self, index: u16) -> NonNull<u8> {
        // SAFETY: index is below the count, so the result is inside the mapping.
        unsafe {
            self.mapping
                .base()
                .add(self.entries_bytes + usize::from(index) * self.buffer_bytes)
        }
    }
}

//! The right to write pages of a frame.
//!
//! Its invariant: while a lease lives, its pages are leased in the state of the frame and in no
//! other lease. It must not touch a page beside its own.

use std::mem::ManuallyDrop;
use std::ops::Range;

use super::PAGE_SIZE;
use super::frame::{Frame, page_mask};
use super::remote::RemoteLease;

/// The exclusive right to write some pages of a frame. Dropping it leaves them vacant.
#[derive(Debug)]
pub struct FrameLease {
    pub(super) frame: Frame,
    pub(super) pages: Range<usize>,
}

impl FrameLease {
    /// The pages of the frame that may be written.
    #[inline]
    pub fn pages(&self) -> Range<usize> {
        self.pages.clone()
    }

    /// Number of bytes that may be written.
    #[inline]
    pub fn len(&self) -> usize {
        (self.pages.end - self.pages.start) * PAGE_SIZE
    }

    /// Never true: a lease has at least one page.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The frame that the pages are of.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    /// What the pages hold.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: this lease is the only writer of these pages and `&self` forbids writing now;
        // the range is inside the frame, which the lease keeps.
        unsafe { std::slice::from_raw_parts(self.pointer(), self.len()) }
    }

    /// The pages, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` excludes every other access.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(), self.len()) }
    }

    /// Address of the first byte, for a backend that hands it to the kernel while it holds the lease.
    #[inline]
    pub fn pointer(&self) -> *mut u8 {
        self.frame.pointer(self.pages.start * PAGE_SIZE)
    }

    /// Index of the registered buffer that the pages are in, if the pool is registered.
    pub fn registered_buffer(&self) -> Option<u16> {
        self.frame.registered_buffer()
    }

    /// Two leases of the first `pages` pages and of the rest.
    ///
    /// # Panics
    /// If one of them would be empty.
    pub fn split_at(self, pages: usize) -> (FrameLease, FrameLease) {
        let middle = self.pages.start + pages;
        assert!(
            self.pages.start < middle && middle < self.pages.end,
            "split at {pages} of {:?}",
            self.pages
        );
        let (frame, range) = self.into_parts();
        let front = FrameLease {
            frame: frame.clone(),
            pages: range.start..middle,
        };
        (
            front,
            FrameLease {
                frame,
                pages: middle..range.end,
            },
        )
    }

    /// Makes the pages readable and immutable.
    #[inline]
    pub fn seal(self) -> Frame {
        let (frame, pages) = self.into_parts();
        let mask = page_mask(&pages);
        let mut state = frame.state();
        assert_eq!(state.leased & mask, mask, "a lease holds its pages");
        state.leased &= !mask;
        state.sealed |= mask;
        frame.set_state(state);
        frame
    }

    /// Lends the right to another thread. It comes back by
    /// [`FramePool::take_back`](super::FramePool::take_back); if it never does, the frame is never
    /// used again.
    pub fn into_remote(self) -> RemoteLease {
        let (frame, pages) = self.into_parts();
        let (shared, index) = frame.lend();
        RemoteLease {
            shared,
            index,
            pages,
        }
    }

    /// Takes the lease apart without making the pages vacant.
    #[inline]
    fn into_parts(self) -> (Frame, Range<usize>) {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is not dropped, so the frame is moved out exactly once.
        let frame = unsafe { std::ptr::read(&this.frame) };
        (frame, this.pages.clone())
    }
}

impl Drop for FrameLease {
    fn drop(&mut self) {
        let mut state = self.frame.state();
        state.leased &= !page_mask(&self.pages);
        self.frame.set_state(state);
    }
}

#[cfg(test)]
mod tests {
    use crate::buffer::FramePool;

    #[test]
    fn a_dropped_lease_leaves_its_pages_vacant() {
        let pool = FramePool::map(1, 16).expect("memory for one frame");
        let frame = pool.take().expect("a free frame");
        drop(frame.lease(0..16));
        assert!(frame.lease(0..16).is_some());
    }
}

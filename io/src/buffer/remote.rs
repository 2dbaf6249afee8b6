//! Leases and slices on another thread than that of their pool.
//!
//! Its invariant: a pin or a lease here keeps its pages as they are for the home core, until the
//! pin is dropped or the lease taken back. It must not touch what is the home core's own: states,
//! counts of references, the free list.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::PAGE_SIZE;
use super::shared::Shared;

/// Readable bytes of another core's frame. `Send`; dropping gives the pin back.
pub struct RemoteFrame {
    pub(super) shared: Arc<Shared>,
    pub(super) index: u32,
    pub(super) start: u32,
    pub(super) end: u32,
}

impl RemoteFrame {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        let pointer = self.shared.pointer(self.index, self.start as usize);
        // SAFETY: the pages are sealed and the home core reuses the frame only after the pin of
        // this value is gone.
        unsafe { std::slice::from_raw_parts(pointer, (self.end - self.start) as usize) }
    }
}

impl Drop for RemoteFrame {
    fn drop(&mut self) {
        // Release: this core's reads happen before the home core writes the frame again.
        self.shared.remote_pins[self.index as usize].fetch_sub(1, Ordering::Release);
    }
}

impl fmt::Debug for RemoteFrame {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "RemoteFrame({}, {}..{})",
            self.index, self.start, self.end
        )
    }
}

/// The right to write pages of a frame, held by another thread.
pub struct RemoteLease {
    pub(super) shared: Arc<Shared>,
    pub(super) index: u32,
    pub(super) pages: Range<usize>,
}

impl RemoteLease {
    /// The pages, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let pointer = self
            .shared
            .pointer(self.index, self.pages.start * PAGE_SIZE);
        let length = (self.pages.end - self.pages.start) * PAGE_SIZE;
        // SAFETY: the pages stay leased until the lease is taken back, so this value is their
        // only user, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(pointer, length) }
    }

    /// Number of bytes that may be written.
    pub fn len(&self) -> usize {
        (self.pages.end - self.pages.start) * PAGE_SIZE
    }

    /// Never true: a lease has at least one page.
    pub fn is_empty(&self) -> bool {
        false
    }
}

impl fmt::Debug for RemoteLease {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "RemoteLease({}, pages {:?})",
            self.index, self.pages
        )
    }
}

#[cfg(test)]
mod tests {
    use crate::buffer::FramePool;

    #[test]
    fn a_frame_that_another_core_sends_is_not_reused_before_its_pin_is_back() {
        let pool = FramePool::map(1, 1).expect("memory for one frame");
        let frame = pool.take().expect("a free frame");
        let mut lease = frame.lease(0..1).expect("vacant page");
        lease.bytes_mut()[0] = 42;
        let slice = lease.seal().slice(0..1);
        let remote = slice.to_remote();
        drop((slice, frame));
        assert!(pool.take().is_none());
        let byte = std::thread::spawn(move || remote.bytes()[0])
            .join()
            .expect("the thread ends");
        assert_eq!(byte, 42);
        assert!(pool.take().is_some());
    }

    #[test]
    fn a_lease_goes_to_another_thread_and_back() {
        let pool = FramePool::map(4, 16).expect("memory for four frames");
        let frame = pool.take().expect("a free frame");
        let (front, back) = frame.lease(0..8).expect("vacant pages").split_at(3);
        let mut remote = front.into_remote();
        let remote = std::thread::spawn(move || {
            remote.bytes_mut().fill(9);
            remote
        })
        .join()
        .expect("the thread ends");
        assert!(frame.lease(0..1).is_none(), "still leased while away");
        pool.take_back(remote).seal();
        back.seal();
        assert_eq!(frame.sealed_pages(), 0xff);
        drop(frame);
        assert_eq!(pool.available(), 4);
    }
}

//! A counted reference to a frame, and the states of its pages.
//!
//! Its invariant: no page is both leased and sealed, and a frame without references has neither.
//! It must not give out bytes: a lease or a slice does.

use std::cell::Cell;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use super::PAGE_SIZE;
use super::lease::FrameLease;
use super::pool::Local;
use super::shared::Shared;
use super::slice::FrameSlice;

/// References on the home core, and a bit a page; a vacant page has neither bit.
#[derive(Clone, Copy, Default)]
pub(super) struct FrameState {
    pub references: u32,
    pub sealed: u16,
    pub leased: u16,
}

/// The bits of `pages`, the first page in the lowest bit.
#[inline]
pub(super) fn page_mask(pages: &Range<usize>) -> u16 {
    let width = pages.end - pages.start;
    (((1u32 << width) - 1) << pages.start) as u16
}

/// A counted reference to a frame. When the last one goes, the frame is free again.
pub struct Frame {
    pub(super) pool: Rc<Local>,
    pub(super) index: u32,
}

impl Frame {
    #[inline]
    fn state_cell(&self) -> &Cell<FrameState> {
        &self.pool.states[self.index as usize]
    }

    #[inline]
    pub(super) fn state(&self) -> FrameState {
        self.state_cell().get()
    }

    #[inline]
    pub(super) fn set_state(&self, state: FrameState) {
        self.state_cell().set(state);
    }

    /// Address of byte `offset` of the frame.
    #[inline]
    pub(super) fn pointer(&self, offset: usize) -> *mut u8 {
        self.pool.shared.pointer(self.index, offset)
    }

    /// Index of the registered buffer that the frame is in, if the pool is registered.
    pub(super) fn registered_buffer(&self) -> Option<u16> {
        self.pool.registered_buffer(self.index)
    }

    /// The memory and the number of the frame, for another thread to hold. The reference stays
    /// counted: [`FramePool::take_back`](super::FramePool::take_back) makes a frame of it again.
    pub(super) fn lend(self) -> (Arc<Shared>, u32) {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is never used or dropped again, so its `Rc` is moved out exactly once.
        let pool = unsafe { std::ptr::read(&this.pool) };
        (Arc::clone(&pool.shared), this.index)
    }

    /// Pages in the frame.
    pub fn pages(&self) -> usize {
        self.pool.shared.frame_bytes / PAGE_SIZE
    }

    /// Bit map of the sealed pages, the first page in the lowest bit.
    pub fn sealed_pages(&self) -> u16 {
        self.state().sealed
    }

    /// Whether all of `pages` are sealed.
    #[inline]
    pub fn is_sealed(&self, pages: &Range<usize>) -> bool {
        let mask = page_mask(pages);
        self.state().sealed & mask == mask
    }

    /// The exclusive right to write `pages`, or `None` if any of them is leased or sealed.
    ///
    /// # Panics
    /// If `pages` is empty or reaches past the frame.
    #[inline]
    pub fn lease(&self, pages: Range<usize>) -> Option<FrameLease> {
        assert!(
            pages.start < pages.end && pages.end <= self.pages(),
            "pages {pages:?}"
        );
        let mask = page_mask(&pages);
        let mut state = self.state();
        if (state.leased | state.sealed) & mask != 0 {
            return None;
        }
        state.leased |= mask;
        self.set_state(state);
        Some(FrameLease {
            frame: self.clone(),
            pages,
        })
    }

    /// The bytes `range` of the frame as something to send or write.
    ///
    /// # Panics
    /// If a page that `range` touches is not sealed.
    pub fn slice(&self, range: Range<usize>) -> FrameSlice {
        self.slice_if_sealed(range.clone())
            .unwrap_or_else(|| panic!("only sealed pages are readable, asked for bytes {range:?}"))
    }

    /// As [`Frame::slice`], or `None` if a page that `range` touches is not sealed.
    #[inline]
    pub fn slice_if_sealed(&self, range: Range<usize>) -> Option<FrameSlice> {
        let mask = self.mask_of(&range);
        (self.state().sealed & mask == mask).then(|| FrameSlice {
            frame: self.clone(),
            start: range.start as u32,
            end: range.end as u32,
        })
    }

    /// As [`Frame::slice`], with this reference instead of a further one.
    ///
    /// # Panics
    /// If a page that `range` touches is not sealed.
    #[inline]
    pub fn into_slice(self, range: Range<usize>) -> FrameSlice {
        let mask = self.mask_of(&range);
        assert!(
            self.state().sealed & mask == mask,
            "only sealed pages are readable"
        );
        FrameSlice {
            frame: self,
            start: range.start as u32,
            end: range.end as u32,
        }
    }

    /// The bits of the pages that the bytes `range` touch.
    #[inline]
    fn mask_of(&self, range: &Range<usize>) -> u16 {
        let (start, end) = (range.start, range.end);
        if start >= end || end > self.pool.shared.frame_bytes {
            out_of_range(start, end);
        }
        page_mask(&(start / PAGE_SIZE..end.div_ceil(PAGE_SIZE)))
    }

    /// Whether both refer to the same frame of the same pool.
    pub fn is_same(&self, other: &Frame) -> bool {
        self.index == other.index && Rc::ptr_eq(&self.pool, &other.pool)
    }

    /// References to the frame, this one included.
    pub fn references(&self) -> u32 {
        self.state().references
    }
}

/// By value: an assertion would put the numbers into memory before each use.
#[cold]
fn out_of_range(start: usize, end: usize) -> ! {
    panic!("range {start}..{end} of a frame");
}

impl Clone for Frame {
    #[inline]
    fn clone(&self) -> Self {
        let cell = self.state_cell();
        let mut state = cell.get();
        state.references = state
            .references
            .checked_add(1)
            .expect("references of a frame fit u32");
        cell.set(state);
        Frame {
            pool: Rc::clone(&self.pool),
            index: self.index,
        }
    }
}

impl Drop for Frame {
    #[inline]
    fn drop(&mut self) {
        let cell = self.state_cell();
        let mut state = cell.get();
        state.references -= 1;
        if state.references > 0 {
            cell.set(state);
            return;
        }
        assert_eq!(state.leased, 0, "every lease holds its frame");
        cell.set(FrameState::default());
        self.pool.give_back(self.index);
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        write!(
            formatter,
            "Frame({}, {} references, sealed {:016b}, leased {:016b})",
            self.index, state.references, state.sealed, state.leased
        )
    }
}

#[cfg(test)]
mod tests {
    use crate::buffer::{FramePool, PAGE_SIZE};

    fn pool() -> FramePool {
        FramePool::map(4, 16).expect("memory for four frames")
    }

    #[test]
    fn a_page_has_one_writer_or_many_readers() {
        let frame = pool().take().expect("a free frame");
        let mut lease = frame.lease(2..4).expect("vacant pages");
        assert!(frame.lease(3..5).is_none(), "page 3 is leased");
        lease.bytes_mut().fill(7);
        lease.seal();
        assert!(frame.lease(2..3).is_none(), "page 2 is sealed");
        assert!(frame.is_sealed(&(2..4)));
        assert_eq!(
            frame.slice(2 * PAGE_SIZE..2 * PAGE_SIZE + 3).bytes(),
            [7, 7, 7]
        );
    }

    #[test]
    fn a_frame_that_is_leased_sealed_and_sliced_has_one_reference_all_the_way() {
        let pool = FramePool::map(1, 16).expect("memory for one frame");
        let lease = pool.take_leased(2).expect("a free frame");
        assert_eq!((lease.pages(), lease.frame().references()), (0..2, 1));
        assert!(lease.frame().lease(1..3).is_none(), "page 1 is leased");
        assert!(lease.frame().lease(2..3).is_some(), "page 2 is not");
        assert!(lease.frame().slice_if_sealed(0..1).is_none());
        let frame = lease.seal();
        assert!(frame.slice_if_sealed(0..2 * PAGE_SIZE).is_some());
        let slice = frame.into_slice(1..2 * PAGE_SIZE);
        assert_eq!(
            (slice.len(), slice.frame().references()),
            (2 * PAGE_SIZE - 1, 1)
        );
        assert!(pool.take_leased(1).is_none(), "the only frame is in use");
        drop(slice);
        drop(pool.take_leased(16).expect("it is free again"));
        let frame = pool.take().expect("it is free again");
        assert!(frame.lease(0..16).is_some(), "a lease that was dropped");
    }

    #[test]
    #[should_panic(expected = "only sealed pages are readable")]
    fn an_unsealed_page_does_not_become_a_slice() {
        let frame = pool().take().expect("a free frame");
        let lease = frame.lease(0..1);
        drop(lease);
        frame.into_slice(0..1);
    }

    #[test]
    #[should_panic(expected = "only sealed pages are readable")]
    fn an_unsealed_page_cannot_be_read() {
        let frame = pool().take().expect("a free frame");
        let _lease = frame.lease(0..1);
        frame.slice(0..1);
    }
}

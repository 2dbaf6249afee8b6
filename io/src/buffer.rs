//! Page-aligned memory that devices fill and sockets send from.
//!
//! A [`FramePool`] maps its memory once, at start; a [`Frame`] is a counted reference to a run of
//! pages in it. Every page of a frame is in one of three states:
//!
//! ```text
//! vacant --lease--> leased (exactly one writer) --seal--> sealed (immutable, readable)
//!    ^                 |                                      |
//!    +----- drop ------+          last reference dropped -----+
//! ```
//!
//! That is the one invariant here: a page has one writer or many readers, never both. It is what
//! makes the safe functions of this module safe, also while another thread fills a [`RemoteLease`]
//! or sends a [`RemoteFrame`].

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{IoError, IoErrorKind};

/// Bytes in a page: the unit of device I/O and of checksums.
pub const PAGE_SIZE: usize = 4096;

/// Most pages a frame may have; the state of a frame's pages is two 16-bit maps.
pub const FRAME_PAGES_MAX: usize = 16;

/// Anonymous memory, mapped until the last user is gone.
struct Mapping {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: a mapping is an address range; who may touch which page is decided by the states of
// the frames (one writer or many readers), not by the thread that holds the mapping.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(length: usize) -> Result<Self, IoError> {
        // SAFETY: a fresh private anonymous mapping aliases nothing.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(IoError::from_std(
                &std::io::Error::last_os_error(),
                "cannot map memory for frames; lower the memory budget or raise the limit of the container",
            )
            .with("bytes", length));
        }
        // SAFETY: the range was just mapped. The advice may be refused; nothing depends on it.
        unsafe { libc::madvise(base, length, libc::MADV_HUGEPAGE) };
        let base = NonNull::new(base.cast()).expect("mmap does not return null without MAP_FIXED");
        Ok(Mapping { base, length })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and length are those of the mapping, and no reference outlives it: frames,
        // leases and remote handles all hold the pool that holds it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length) };
    }
}

/// The part of a pool that other threads may see.
struct Shared {
    mapping: Mapping,
    /// Remote pins of each frame. A frame is free only when its local count and this are zero.
    remote_pins: Box<[AtomicU32]>,
    frame_bytes: usize,
}

impl Shared {
    fn pointer(&self, index: u32, offset: usize) -> *mut u8 {
        debug_assert!(offset <= self.frame_bytes);
        // SAFETY: index is below the number of frames and offset within a frame, so the result
        // is inside the mapping (or one past its end).
        unsafe {
            self.mapping
                .base
                .as_ptr()
                .add(index as usize * self.frame_bytes + offset)
        }
    }
}

#[derive(Clone, Copy, Default)]
struct FrameState {
    references: u32,
    sealed: u16,
    leased: u16,
}

struct Local {
    shared: Arc<Shared>,
    states: Box<[Cell<FrameState>]>,
    free: RefCell<Vec<u32>>,
    /// Frames without local references that another core still sends from.
    lingering: RefCell<Vec<u32>>,
    /// Index of the first registered buffer of the backend, if it registered the memory.
    registration: Cell<Option<u16>>,
    registered_bytes_each: Cell<usize>,
}

/// A fixed number of frames of one size, owned by one core.
#[derive(Clone)]
pub struct FramePool(Rc<Local>);

impl FramePool {
    /// Maps `frames` frames of `frame_pages` pages. Backends call this; others use
    /// [`Io::allocate_pool`](crate::Io::allocate_pool), which also registers the memory.
    ///
    /// # Errors
    /// When the memory cannot be mapped.
    ///
    /// # Panics
    /// If `frame_pages` is not in 1..=[`FRAME_PAGES_MAX`] or `frames` is zero.
    pub fn map(frames: usize, frame_pages: usize) -> Result<Self, IoError> {
        assert!(
            (1..=FRAME_PAGES_MAX).contains(&frame_pages),
            "frame_pages {frame_pages}"
        );
        assert!(frames > 0, "a pool has at least one frame");
        let frame_bytes = frame_pages * PAGE_SIZE;
        let length = frames
            .checked_mul(frame_bytes)
            .filter(|_| frames < u32::MAX as usize)
            .ok_or_else(|| {
                IoError::new(
                    IoErrorKind::Limit,
                    "the memory budget of a pool is too large",
                )
                .with("frames", frames)
            })?;
        Ok(FramePool(Rc::new(Local {
            shared: Arc::new(Shared {
                mapping: Mapping::new(length)?,
                remote_pins: (0..frames).map(|_| AtomicU32::new(0)).collect(),
                frame_bytes,
            }),
            states: (0..frames).map(|_| Cell::default()).collect(),
            free: RefCell::new((0..frames as u32).rev().collect()),
            lingering: RefCell::default(),
            registration: Cell::new(None),
            registered_bytes_each: Cell::new(usize::MAX),
        })))
    }

    /// The whole memory of the pool, for registration with a ring: base address and bytes.
    pub fn memory(&self) -> (*mut u8, usize) {
        let mapping = &self.0.shared.mapping;
        (mapping.base.as_ptr(), mapping.length)
    }

    /// Records that the memory was registered in pieces of `bytes_each` from buffer index `first`.
    ///
    /// # Panics
    /// If a frame would straddle two pieces.
    pub fn set_registration(&self, first: u16, bytes_each: usize) {
        assert_eq!(
            bytes_each % self.frame_bytes(),
            0,
            "a frame may not straddle two registered buffers"
        );
        self.0.registration.set(Some(first));
        self.0.registered_bytes_each.set(bytes_each);
    }

    /// Bytes in each frame.
    pub fn frame_bytes(&self) -> usize {
        self.0.shared.frame_bytes
    }

    /// Pages in each frame.
    pub fn frame_pages(&self) -> usize {
        self.frame_bytes() / PAGE_SIZE
    }

    /// Number of frames.
    pub fn frames(&self) -> usize {
        self.0.states.len()
    }

    /// Frames that [`FramePool::take`] could return now.
    pub fn available(&self) -> usize {
        self.collect_lingering();
        self.0.free.borrow().len()
    }

    /// A frame with all pages vacant, or `None` when all are in use.
    pub fn take(&self) -> Option<Frame> {
        if self.0.free.borrow().is_empty() {
            self.collect_lingering();
        }
        let index = self.0.free.borrow_mut().pop()?;
        let state = &self.0.states[index as usize];
        assert_eq!(state.get().references, 0, "a free frame has no references");
        state.set(FrameState {
            references: 1,
            ..FrameState::default()
        });
        Some(Frame {
            pool: Rc::clone(&self.0),
            index,
        })
    }

    /// Turns a lease that was lent to another thread back into one of this core.
    ///
    /// # Panics
    /// If the lease is of another pool.
    pub fn take_back(&self, remote: RemoteLease) -> FrameLease {
        assert!(
            Arc::ptr_eq(&remote.shared, &self.0.shared),
            "the lease belongs to another pool"
        );
        FrameLease {
            frame: Frame {
                pool: Rc::clone(&self.0),
                index: remote.index,
            },
            pages: remote.pages.clone(),
        }
    }

    fn collect_lingering(&self) {
        let mut lingering = self.0.lingering.borrow_mut();
        if lingering.is_empty() {
            return;
        }
        let mut free = self.0.free.borrow_mut();
        lingering.retain(|index| {
            // Acquire pairs with the release in `RemoteFrame::drop`: the other core's reads of
            // the memory happen before this core writes it again.
            let done = self.0.shared.remote_pins[*index as usize].load(Ordering::Acquire) == 0;
            if done {
                free.push(*index);
            }
            !done
        });
    }
}

impl fmt::Debug for FramePool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("FramePool")
            .field("frames", &self.frames())
            .field("frame_bytes", &self.frame_bytes())
            .finish_non_exhaustive()
    }
}

fn page_mask(pages: &Range<usize>) -> u16 {
    let width = pages.end - pages.start;
    (((1u32 << width) - 1) << pages.start) as u16
}

/// A counted reference to a frame. When the last one goes, the frame is free again.
pub struct Frame {
    pool: Rc<Local>,
    index: u32,
}

impl Frame {
    fn state(&self) -> FrameState {
        self.pool.states[self.index as usize].get()
    }

    fn set_state(&self, state: FrameState) {
        self.pool.states[self.index as usize].set(state);
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
    pub fn is_sealed(&self, pages: &Range<usize>) -> bool {
        let mask = page_mask(pages);
        self.state().sealed & mask == mask
    }

    /// The exclusive right to write `pages`, or `None` if any of them is leased or sealed.
    ///
    /// # Panics
    /// If `pages` is empty or reaches past the frame.
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
        assert!(
            range.start < range.end && range.end <= self.pool.shared.frame_bytes,
            "range {range:?} of a frame"
        );
        let pages = range.start / PAGE_SIZE..range.end.div_ceil(PAGE_SIZE);
        assert!(
            self.is_sealed(&pages),
            "only sealed pages are readable, asked for {pages:?}"
        );
        FrameSlice {
            frame: self.clone(),
            start: range.start as u32,
            end: range.end as u32,
        }
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

impl Clone for Frame {
    fn clone(&self) -> Self {
        let mut state = self.state();
        state.references = state
            .references
            .checked_add(1)
            .expect("references of a frame fit u32");
        self.set_state(state);
        Frame {
            pool: Rc::clone(&self.pool),
            index: self.index,
        }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        let mut state = self.state();
        state.references -= 1;
        if state.references == 0 {
            assert_eq!(state.leased, 0, "every lease holds its frame");
            state.sealed = 0;
            let remote = &self.pool.shared.remote_pins[self.index as usize];
            if remote.load(Ordering::Acquire) == 0 {
                self.pool.free.borrow_mut().push(self.index);
            } else {
                self.pool.lingering.borrow_mut().push(self.index);
            }
        }
        self.set_state(state);
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

/// The exclusive right to write some pages of a frame. Dropping it leaves them vacant.
#[derive(Debug)]
pub struct FrameLease {
    frame: Frame,
    pages: Range<usize>,
}

impl FrameLease {
    /// The pages of the frame that may be written.
    pub fn pages(&self) -> Range<usize> {
        self.pages.clone()
    }

    /// Number of bytes that may be written.
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
    pub fn pointer(&self) -> *mut u8 {
        self.frame
            .pool
            .shared
            .pointer(self.frame.index, self.pages.start * PAGE_SIZE)
    }

    /// Index of the registered buffer that the pages are in, if the pool is registered.
    pub fn registered_buffer(&self) -> Option<u16> {
        registered_buffer(&self.frame)
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

    /// Lends the right to another thread. It comes back by [`FramePool::take_back`]; if it never
    /// does, the frame is never used again.
    pub fn into_remote(self) -> RemoteLease {
        let (frame, pages) = self.into_parts();
        let remote = RemoteLease {
            shared: Arc::clone(&frame.pool.shared),
            index: frame.index,
            pages,
        };
        // The reference goes with the remote lease: `take_back` makes a frame of it again. Only
        // the pool's own count is given up here.
        let frame = std::mem::ManuallyDrop::new(frame);
        // SAFETY: `frame` is never used or dropped again, so its `Rc` is read exactly once.
        drop(unsafe { std::ptr::read(&frame.pool) });
        remote
    }

    /// Takes the lease apart without making the pages vacant.
    fn into_parts(self) -> (Frame, Range<usize>) {
        let this = std::mem::ManuallyDrop::new(self);
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

fn registered_buffer(frame: &Frame) -> Option<u16> {
    let first = frame.pool.registration.get()?;
    let offset = frame.index as usize * frame.pool.shared.frame_bytes;
    Some(first + (offset / frame.pool.registered_bytes_each.get()) as u16)
}

/// Readable bytes of a frame, held.
#[derive(Clone, Debug)]
pub struct FrameSlice {
    frame: Frame,
    start: u32,
    end: u32,
}

impl FrameSlice {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        let pointer = self
            .frame
            .pool
            .shared
            .pointer(self.frame.index, self.start as usize);
        // SAFETY: the pages were sealed when the slice was made, and stay so while it holds the
        // frame; the range was checked then.
        unsafe { std::slice::from_raw_parts(pointer, (self.end - self.start) as usize) }
    }

    /// The frame that the bytes are of.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    /// Index of the registered buffer that the bytes are in, if the pool is registered.
    pub fn registered_buffer(&self) -> Option<u16> {
        registered_buffer(&self.frame)
    }

    /// Pins the bytes for another core to send.
    pub fn to_remote(&self) -> RemoteFrame {
        let shared = Arc::clone(&self.frame.pool.shared);
        shared.remote_pins[self.frame.index as usize].fetch_add(1, Ordering::Relaxed);
        RemoteFrame {
            shared,
            index: self.frame.index,
            start: self.start,
            end: self.end,
        }
    }
}

/// Readable bytes of another core's frame. `Send`; dropping gives the pin back.
pub struct RemoteFrame {
    shared: Arc<Shared>,
    index: u32,
    start: u32,
    end: u32,
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
    shared: Arc<Shared>,
    index: u32,
    pages: Range<usize>,
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
    use super::*;

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
    fn a_dropped_lease_leaves_its_pages_vacant() {
        let frame = pool().take().expect("a free frame");
        drop(frame.lease(0..16));
        assert!(frame.lease(0..16).is_some());
    }

    #[test]
    #[should_panic(expected = "only sealed pages are readable")]
    fn an_unsealed_page_cannot_be_read() {
        let frame = pool().take().expect("a free frame");
        let _lease = frame.lease(0..1);
        frame.slice(0..1);
    }

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
        let pool = pool();
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

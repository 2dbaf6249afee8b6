//! A core's frames: which are free, and which another core still reads.
//!
//! Its invariant: a frame in the free list has no reference on this core and no pin of another.
//! It must not touch the bytes of its frames.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::frame::{Frame, FrameState, page_mask};
use super::lease::FrameLease;
use super::remote::RemoteLease;
use super::shared::Shared;
use super::{FRAME_PAGES_MAX, PAGE_SIZE};
use crate::error::{IoError, IoErrorKind};
use crate::mapping::Mapping;

/// What the frames of a pool refer to.
pub(super) struct Local {
    pub shared: Arc<Shared>,
    pub states: Box<[Cell<FrameState>]>,
    free: RefCell<Vec<u32>>,
    /// Frames without local references that another core still sends from.
    lingering: RefCell<Vec<u32>>,
    /// Index of the first registered buffer of the backend, if it registered the memory.
    registration: Cell<Option<u16>>,
    registered_bytes_each: Cell<usize>,
}

impl Local {
    /// Index of the registered buffer that frame `index` is in, if the memory is registered.
    pub fn registered_buffer(&self, index: u32) -> Option<u16> {
        let first = self.registration.get()?;
        let offset = index as usize * self.shared.frame_bytes;
        Some(first + (offset / self.registered_bytes_each.get()) as u16)
    }

    /// Takes a frame off the free list.
    #[inline]
    fn next_free(&self) -> Option<u32> {
        let free = self.free.borrow_mut().pop();
        if free.is_some() {
            return free;
        }
        self.collect_lingering();
        self.free.borrow_mut().pop()
    }

    /// Takes frame `index` back, which has no references on this core any more.
    #[inline]
    pub fn give_back(&self, index: u32) {
        if self.shared.remote_pins[index as usize].load(Ordering::Acquire) == 0 {
            self.free.borrow_mut().push(index);
        } else {
            self.lingering.borrow_mut().push(index);
        }
    }

    #[cold]
    fn collect_lingering(&self) {
        let mut lingering = self.lingering.borrow_mut();
        if lingering.is_empty() {
            return;
        }
        let mut free = self.free.borrow_mut();
        lingering.retain(|index| {
            // Acquire pairs with the release in `RemoteFrame::drop`: the other core's reads of
            // the memory happen before this core writes it again.
            let done = self.shared.remote_pins[*index as usize].load(Ordering::Acquire) == 0;
            if done {
                free.push(*index);
            }
            !done
        });
    }
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
        let mapping = Mapping::new(
            length,
            libc::MAP_NORESERVE,
            "cannot map memory for frames; lower the memory budget or raise the limit of the container",
        )?;
        mapping.advise_huge_pages();
        Ok(FramePool(Rc::new(Local {
            shared: Arc::new(Shared {
                mapping,
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
        (mapping.base().as_ptr(), mapping.length())
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
        self.0.collect_lingering();
        self.0.free.borrow().len()
    }

    /// A frame with all pages vacant, or `None` when all are in use.
    #[inline]
    pub fn take(&self) -> Option<Frame> {
        self.take_with(0)
    }

    /// The right to write the first `pages` pages of a frame, whose others are vacant, or `None` when
    /// all frames are in use.
    ///
    /// # Panics
    /// If `pages` is zero or more than a frame has.
    #[inline(always)]
    pub fn take_leased(&self, pages: usize) -> Option<FrameLease> {
        assert!(
            (1..=self.frame_pages()).contains(&pages),
            "a lease of {pages} pages"
        );
        let frame = self.take_with(page_mask(&(0..pages)))?;
        Some(FrameLease {
            frame,
            pages: 0..pages,
        })
    }

    /// A frame whose pages in `leased` are leased, by a lease that the caller makes.
    #[inline(always)]
    fn take_with(&self, leased: u16) -> Option<Frame> {
        let index = self.0.next_free()?;
        let state = &self.0.states[index as usize];
        assert_eq!(state.get().references, 0, "a free frame has no references");
        state.set(FrameState {
            references: 1,
            sealed: 0,
            leased,
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
            pages: remote.pages,
        }
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

//! What other threads see of a pool: its memory and the pins on its frames.
//!
//! Its invariant: a frame with pins is not used anew; only once they are gone may the home core
//! give it out as vacant. It must not hold the home core's own counts, which are not atomic.

use std::sync::atomic::AtomicU32;

use crate::mapping::Mapping;

/// The part of a pool that other threads may see.
pub(super) struct Shared {
    pub mapping: Mapping,
    /// Remote pins of each frame. A frame is free only when its local count and this are zero.
    pub remote_pins: Box<[AtomicU32]>,
    pub frame_bytes: usize,
}

impl Shared {
    /// Address of byte `offset` of frame `index`.
    #[inline]
    pub fn pointer(&self, index: u32, offset: usize) -> *mut u8 {
        debug_assert!(offset <= self.frame_bytes);
        // SAFETY: index is below the number of frames and offset within a frame, so the result
        // is inside the mapping (or one past its end).
        unsafe {
            self.mapping
                .base()
                .as_ptr()
                .add(index as usize * self.frame_bytes + offset)
        }
    }
}

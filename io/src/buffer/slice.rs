//! Sealed bytes of a frame, held for a device or a socket.
//!
//! Its invariant: the pages it touches were sealed when it was made and stay so, because it holds
//! the frame. It must not give out anything to write with.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::frame::Frame;
use super::remote::RemoteFrame;

/// Readable bytes of a frame, held.
#[derive(Clone, Debug)]
pub struct FrameSlice {
    pub(super) frame: Frame,
    pub(super) start: u32,
    pub(super) end: u32,
}

impl FrameSlice {
    /// The bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        let pointer = self.frame.pointer(self.start as usize);
        // SAFETY: the pages were sealed when the slice was made, and stay so while it holds the
        // frame; the range was checked then.
        unsafe { std::slice::from_raw_parts(pointer, (self.end - self.start) as usize) }
    }

    /// Number of bytes.
    #[inline]
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Never true: a slice has at least one byte.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The frame that the bytes are of.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    /// Index of the registered buffer that the bytes are in, if the pool is registered.
    pub fn registered_buffer(&self) -> Option<u16> {
        self.frame.registered_buffer()
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

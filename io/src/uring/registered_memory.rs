//! The table of registered buffers of a ring: memory that the kernel has pinned once, so that a
//! device operation on it pins nothing.

use std::cell::Cell;

use super::probe;
use super::ring::Ring;
use crate::buffer::FramePool;
use crate::error::{IoError, IoErrorKind};

/// The kernel's limit for one registered buffer.
const PIECE_BYTES_MAX: usize = 1 << 30;

/// Slots for pieces: 1 TiB of frames a core at most, 16 bytes of kernel memory each.
const PIECES_MAX: u32 = 1024;

pub(super) struct RegisteredMemory {
    used: Cell<u32>,
}

impl RegisteredMemory {
    /// Registers an empty table.
    pub fn register(ring: &Ring) -> Result<RegisteredMemory, IoError> {
        ring.submitter()
            .register_buffers_sparse(PIECES_MAX)
            .map_err(|error| {
                IoError::from_std(
                    &error,
                    "cannot register a table of buffers; raise the memory limit of the container",
                )
            })?;
        Ok(RegisteredMemory { used: Cell::new(0) })
    }

    /// Maps a pool and registers its memory. The slots stay taken until the core ends.
    pub fn allocate(
        &self,
        ring: &Ring,
        frames: usize,
        frame_pages: usize,
    ) -> Result<FramePool, IoError> {
        let pool = FramePool::map(frames, frame_pages)?;
        let (base, length) = pool.memory();
        let piece_bytes = PIECE_BYTES_MAX / pool.frame_bytes() * pool.frame_bytes();
        let pieces: Vec<libc::iovec> = (0..length.div_ceil(piece_bytes))
            .map(|piece| {
                let start = piece * piece_bytes;
                libc::iovec {
                    iov_base: base.wrapping_add(start).cast(),
                    iov_len: piece_bytes.min(length - start),
                }
            })
            .collect();
        let first = self.used.get();
        if pieces.len() as u64 + u64::from(first) > u64::from(PIECES_MAX) {
            return Err(IoError::new(
                IoErrorKind::Limit,
                "too many registered buffers on one core; allocate fewer, larger pools",
            )
            .with("buffers", PIECES_MAX));
        }
        // SAFETY: the kernel pins the pages themselves, so they outlive even the mapping.
        unsafe {
            ring.submitter()
                .register_buffers_update(first, &pieces, None)
        }
        .map_err(|error| probe::registration_failed(&error, length))?;
        self.used.set(first + pieces.len() as u32);
        pool.set_registration(first as u16, piece_bytes);
        Ok(pool)
    }

    /// Lets the kernel unpin everything.
    pub fn unregister(&self, ring: &Ring) {
        if let Err(error) = ring.submitter().unregister_buffers() {
            tracing::debug!(%error, "cannot unregister buffers");
        }
    }
}

//! Anonymous memory from the kernel: the one place that maps and unmaps.
//!
//! Its invariant: the range is mapped exactly as long as the [`Mapping`] lives, so whoever hands
//! out addresses in it keeps the mapping. It must not know who may touch which byte: that is for
//! the frames and for the ring of received bytes to say.

use std::ptr::NonNull;

use crate::error::IoError;
use crate::hint::advise_huge_pages_at;

/// Zeroed, page-aligned, private memory. Unmapped when dropped.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: a mapping is an address range; who may touch which byte is decided by those who hold
// it (see `buffer`), not by the thread that does.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `length` bytes; `flags` are further flags of mmap(2) beside private and anonymous.
    /// `refused` says what could not be mapped and what to do then.
    pub fn new(
        length: usize,
        flags: libc::c_int,
        refused: &'static str,
    ) -> Result<Mapping, IoError> {
        // Hints, none of which Miri knows.
        let flags = if cfg!(miri) { 0 } else { flags };
        // SAFETY: a fresh private anonymous mapping aliases nothing.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            let error = std::io::Error::last_os_error();
            return Err(IoError::from_std(&error, refused).with("bytes", length));
        }
        let base = NonNull::new(base.cast()).expect("mmap does not return null without MAP_FIXED");
        Ok(Mapping { base, length })
    }

    /// Asks for huge pages. The kernel may refuse; nothing depends on it.
    pub fn advise_huge_pages(&self) {
        if cfg!(miri) {
            return;
        }
        // SAFETY: the range is mapped.
        unsafe { advise_huge_pages_at(self.base.as_ptr(), self.length) };
    }

    /// Where it starts.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes.
    pub fn length(&self) -> usize {
        self.length
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and length are those of the mapping, and those who hand out addresses in
        // it hold it, so no reference outlives it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length) };
    }
}

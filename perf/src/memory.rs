//! Anonymous memory of the ceilings: page-aligned, huge pages where the kernel gives them, as the
//! worker's frames are.

use std::io;
use std::ptr::NonNull;

/// A private mapping, gone when dropped.
pub struct Memory {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: a mapping is plain memory; the borrow checker decides who touches it.
unsafe impl Send for Memory {}

impl Memory {
    /// Maps `length` zeroed bytes.
    ///
    /// # Errors
    /// When the system has no such memory.
    pub fn map(length: usize) -> io::Result<Memory> {
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
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the range was just mapped; the advice may be refused without harm.
        unsafe { libc::madvise(base, length, libc::MADV_HUGEPAGE) };
        let base = NonNull::new(base.cast()).expect("mmap does not return null without MAP_FIXED");
        Ok(Memory { base, length })
    }

    /// Maps `length` bytes, a multiple of the page's, and fills them with copies of `page`.
    ///
    /// # Errors
    /// When the system has no such memory.
    ///
    /// # Panics
    /// If `length` is not a multiple of the page's length.
    pub fn filled_with(page: &[u8], length: usize) -> io::Result<Memory> {
        assert!(length.is_multiple_of(page.len()), "{length} bytes of pages");
        let mut memory = Memory::map(length)?;
        for chunk in memory.bytes_mut().chunks_exact_mut(page.len()) {
            chunk.copy_from_slice(page);
        }
        Ok(memory)
    }

    /// Where it starts.
    pub fn address(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for reading until drop. What the kernel writes into receive and read
        // buffers it writes before the completion that tells us to look.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.length) }
    }

    /// The bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: mapped for writing until drop, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.length) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: base and length are those of the mapping, and no slice outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length) };
    }
}

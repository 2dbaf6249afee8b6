//! Hints about memory: what is needed soon, and what is large. They change how fast a program
//! runs and nothing else.

use std::mem::MaybeUninit;

use crate::PAGE_SIZE;

/// Bytes that x86-64 and aarch64 processors move between memory and caches at once.
pub const CACHE_LINE_BYTES: usize = 64;

/// Size of a huge page on x86-64, and on aarch64 with pages of 4 KiB.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Brings the cache lines of `place` closer without waiting for them. On other processors than
/// x86-64 this does nothing.
#[inline(always)]
pub fn prefetch<T: ?Sized>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    for offset in (0..size_of_val(place)).step_by(CACHE_LINE_BYTES) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let line = std::ptr::from_ref(place).cast::<i8>().wrapping_add(offset);
        // SAFETY: a prefetch reads nothing that the program could see and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Brings a page that will be sent soon to the second-level cache, so that the kernel's copy of it does
/// not wait for memory. It pays with a working set larger than the caches. Only every other line is
/// named: many processors bring its neighbour too, and naming all measured no faster. On other
/// processors than x86-64 this does nothing.
#[inline(always)]
pub fn prefetch_to_send(page: &[u8; PAGE_SIZE]) {
    #[cfg(target_arch = "x86_64")]
    for offset in (0..PAGE_SIZE).step_by(2 * CACHE_LINE_BYTES) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        let line = page.as_ptr().cast::<i8>().wrapping_add(offset);
        // SAFETY: a prefetch reads nothing that the program could see and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = page;
}

/// Asks for huge pages for memory that is still to be written: fewer page faults to fill it, fewer
/// misses of the TLB afterwards. The kernel may refuse; nothing depends on it.
pub fn advise_huge_pages<T>(memory: &mut [MaybeUninit<T>]) {
    let bytes = size_of_val(memory);
    // SAFETY: the range is mapped, as `memory` is borrowed; the advice keeps contents.
    unsafe { advise_huge_pages_at(memory.as_mut_ptr().cast(), bytes) };
}

/// The same for the whole huge pages in a range.
///
/// # Safety
/// The range is mapped.
pub(crate) unsafe fn advise_huge_pages_at(start: *mut u8, bytes: usize) {
    let first = start.addr().next_multiple_of(HUGE_PAGE_BYTES);
    let end = (start.addr() + bytes) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    if first < end {
        let place = start.wrapping_add(first - start.addr());
        // SAFETY: the caller's promise; the advice keeps contents.
        unsafe { libc::madvise(place.cast(), end - first, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_is_given_for_memory_of_every_size() {
        for items in [0, 1, 1 << 10, 3 << 20] {
            let mut memory: Vec<u64> = Vec::with_capacity(items);
            advise_huge_pages(memory.spare_capacity_mut());
            memory.resize(items, 7);
            assert!(memory.iter().all(|item| *item == 7));
            memory.iter().for_each(prefetch);
        }
        prefetch_to_send(&[7; PAGE_SIZE]);
    }
}

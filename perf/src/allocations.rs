//! Counts heap allocations by thread, so that a data core's can be told from the control thread's.
//!
//! A program installs [`CountingAllocator`] as its global allocator. Each thread writes a counter
//! of its own; the cost is one load and store an allocation.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use mimalloc::MiMalloc;

/// Threads that are told apart; later ones share the last counter, under id 0.
const THREADS_MAX: usize = 256;

struct Counter {
    thread: AtomicU32,
    allocations: AtomicU64,
}

static COUNTERS: [Counter; THREADS_MAX] = [const {
    Counter {
        thread: AtomicU32::new(0),
        allocations: AtomicU64::new(0),
    }
}; THREADS_MAX];
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The worker's allocator, counted.
#[derive(Debug)]
pub struct CountingAllocator;

#[inline]
fn count() {
    // Gone at the very end of a thread; what is allocated there is nobody's steady state.
    let _ = MINE.try_with(|mine| {
        let mut index = mine.get();
        if index == usize::MAX {
            index = NEXT.fetch_add(1, Ordering::Relaxed).min(THREADS_MAX - 1);
            mine.set(index);
            if index < THREADS_MAX - 1 {
                // SAFETY: asks for the caller's own thread id.
                let thread = unsafe { libc::gettid() };
                COUNTERS[index]
                    .thread
                    .store(thread as u32, Ordering::Relaxed);
            }
        }
        COUNTERS[index].allocations.fetch_add(1, Ordering::Relaxed);
    });
}

// SAFETY: everything is mimalloc's; counting touches no memory of the caller and does
// not allocate (the thread-local is constant-initialised and has no destructor).
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { MiMalloc.dealloc(pointer, layout) }
    }
}

/// Allocations by thread id, of threads that ended too. Empty where the allocator is not installed.
pub fn by_thread() -> Vec<(u32, u64)> {
    let used = NEXT.load(Ordering::Relaxed).min(THREADS_MAX);
    let read = |counter: &Counter| {
        (
            counter.thread.load(Ordering::Relaxed),
            counter.allocations.load(Ordering::Relaxed),
        )
    };
    COUNTERS[..used].iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: CountingAllocator = CountingAllocator;

    fn mine() -> u64 {
        // SAFETY: asks for the caller's own thread id.
        let thread = unsafe { libc::gettid() } as u32;
        by_thread()
            .iter()
            .filter(|(id, _)| *id == thread)
            .map(|(_, count)| count)
            .sum()
    }

    #[test]
    fn a_thread_is_charged_for_its_own_allocations_only() {
        std::thread::spawn(|| {
            drop(std::hint::black_box(Vec::<u8>::with_capacity(100)));
            let before = mine();
            let other = std::thread::spawn(|| drop(std::hint::black_box(vec![0u8; 1000])));
            let spawning = mine() - before;
            other.join().expect("the thread ends");
            let between = mine();
            let boxes: Vec<Box<u32>> = (0..10).map(Box::new).collect();
            // Ten boxes and the vector of them; the calls of `mine` allocate one list each.
            assert_eq!(mine() - between, 11 + 1, "{spawning}");
            drop(boxes);
        })
        .join()
        .expect("the thread ends");
    }
}

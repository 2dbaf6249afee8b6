//! Ctrl-C: the first one ends what is measured early, the second one the program.

use std::sync::atomic::{AtomicBool, Ordering};

static IS_SET: AtomicBool = AtomicBool::new(false);

/// Whether it was pressed.
#[inline]
pub fn is_set() -> bool {
    IS_SET.load(Ordering::Relaxed)
}

extern "C" fn note(_signal: libc::c_int) {
    if IS_SET.swap(true, Ordering::Relaxed) {
        // SAFETY: `_exit` may be called from a signal handler and does not return.
        unsafe { libc::_exit(130) };
    }
}

/// From now on Ctrl-C ends measurements early instead of the program.
pub fn listen() {
    // SAFETY: an all-zero action with a handler is a valid one; the handler does nothing but an
    // atomic store and `_exit`, which are safe in a signal handler.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = note as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(libc::SIGINT, &raw const action, std::ptr::null_mut());
        libc::sigaction(libc::SIGTERM, &raw const action, std::ptr::null_mut());
    }
}

//! What the kernel must offer, and what to tell the operator when it does not.
//!
//! Every finding is one sentence that ends in the fix. The functions that word them take what
//! they judge as arguments, so that every sentence is tested on a machine that lacks nothing.

use std::ffi::CStr;

use crate::error::{IoError, IoErrorKind};

/// Oldest kernel that has everything used here: DEFER_TASKRUN and SENDMSG_ZC came with 6.1,
/// multishot receive with 6.0, buffer rings and multishot accept with 5.19, MSG_RING with 5.18.
pub const KERNEL_MIN: (u32, u32) = (6, 1);

const SYSCTL: &str = "/proc/sys/kernel/io_uring_disabled";

/// Checks that the kernel is new enough.
///
/// # Errors
/// With the version that runs and the one that is needed.
pub fn check() -> Result<(), IoError> {
    check_release(&kernel_release())
}

fn check_release(release: &str) -> Result<(), IoError> {
    match parse_release(release) {
        Some(version) if version < KERNEL_MIN => Err(too_old(release)),
        // An unreadable version is no reason to refuse: what is missing shows at setup.
        _ => Ok(()),
    }
}

fn too_old(release: &str) -> IoError {
    let (major, minor) = KERNEL_MIN;
    IoError::new(
        IoErrorKind::Unsupported,
        format!(
            "the kernel's io_uring lacks deferred task running, multishot receive or buffer rings; boot Linux {major}.{minor} or newer"
        ),
    )
    .with("kernel", release)
}

/// Major and minor number of a kernel release such as "6.18.44-generic".
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn kernel_release() -> String {
    // SAFETY: an all-zero utsname is a valid value of it, and the call fills it with terminated
    // strings.
    unsafe {
        let mut name: libc::utsname = std::mem::zeroed();
        libc::uname(&raw mut name);
        CStr::from_ptr(name.release.as_ptr())
            .to_string_lossy()
            .into_owned()
    }
}

/// Why a ring could not be set up.
pub(super) fn setup_failed(error: &std::io::Error) -> IoError {
    let sysctl = std::fs::read_to_string(SYSCTL).ok();
    explain_setup(
        error.raw_os_error().unwrap_or(0),
        sysctl.as_deref(),
        &kernel_release(),
    )
}

fn explain_setup(errno: i32, sysctl: Option<&str>, release: &str) -> IoError {
    let (kind, message) = match (errno, sysctl.map(str::trim)) {
        (libc::EINVAL, _) => return too_old(release),
        (libc::EPERM, Some("2")) => (
            IoErrorKind::Unsupported,
            "io_uring is switched off on this machine; run `sysctl -w kernel.io_uring_disabled=0`",
        ),
        (libc::EPERM, Some("1")) => (
            IoErrorKind::Unsupported,
            "io_uring is allowed to one group only; add the worker's user to the group of kernel.io_uring_group or run `sysctl -w kernel.io_uring_disabled=0`",
        ),
        (libc::EPERM | libc::EACCES, _) => (
            IoErrorKind::Unsupported,
            "a security policy forbids io_uring; allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile",
        ),
        (libc::ENOSYS, _) => (
            IoErrorKind::Unsupported,
            "this kernel has no io_uring, or a sandbox hides it; boot a kernel with CONFIG_IO_URING or run outside the sandbox",
        ),
        (libc::ENOMEM, _) => (
            IoErrorKind::Limit,
            "no memory for a ring; raise the memory limit of the container or lower the number of ring entries",
        ),
        (libc::EMFILE | libc::ENFILE, _) => (
            IoErrorKind::Limit,
            "no descriptor for a ring; raise the limit of open files (`ulimit -n`, LimitNOFILE=)",
        ),
        _ => (IoErrorKind::Other, "cannot set up io_uring"),
    };
    describe(kind, errno, message).with("kernel", release)
}

/// Keeps the system's code in the text, but the kind that was judged here.
fn describe(kind: IoErrorKind, errno: i32, message: &str) -> IoError {
    let system = std::io::Error::from_raw_os_error(errno);
    IoError::new(kind, message).with("system", system)
}

/// Why `bytes` of memory could not be registered.
pub(super) fn registration_failed(error: &std::io::Error, bytes: usize) -> IoError {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: writes one rlimit.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) } == 0;
    let limit = (known && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur);
    explain_registration(error.raw_os_error().unwrap_or(0), bytes as u64, limit)
}

fn explain_registration(errno: i32, bytes: u64, memlock: Option<u64>) -> IoError {
    let too_small = memlock.filter(|limit| *limit < bytes);
    let error = match (errno, too_small) {
        (libc::ENOMEM | libc::EPERM, Some(limit)) => describe(
            IoErrorKind::Limit,
            errno,
            "the limit of locked memory is too small; raise it (`ulimit -l`, LimitMEMLOCK=infinity) or lower the memory budget",
        )
        .with("limit_bytes", limit),
        (libc::ENOMEM, None) => describe(
            IoErrorKind::Limit,
            errno,
            "no memory to register; lower the memory budget or raise the memory limit of the container",
        ),
        _ => describe(IoErrorKind::Other, errno, "cannot register memory with the ring"),
    };
    error.with("needed_bytes", bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_for_a_missing_ring_names_its_fix() {
        let expectations = [
            (
                libc::EPERM,
                Some("2\n"),
                "sysctl -w kernel.io_uring_disabled=0",
            ),
            (libc::EPERM, Some("1\n"), "kernel.io_uring_group"),
            (libc::EPERM, Some("0\n"), "seccomp"),
            (libc::EPERM, None, "seccomp"),
            (libc::ENOSYS, None, "CONFIG_IO_URING"),
            (libc::EINVAL, Some("0\n"), "boot Linux 6.1 or newer"),
            (libc::ENOMEM, Some("0\n"), "memory limit"),
            (libc::EMFILE, Some("0\n"), "LimitNOFILE"),
        ];
        for (errno, sysctl, fix) in expectations {
            let error = explain_setup(errno, sysctl, "5.15.0-91-generic");
            assert!(
                error.to_string().contains(fix),
                "{errno} {sysctl:?}: {error}"
            );
            assert!(error.to_string().contains("5.15.0"), "{error}");
            assert_ne!(error.kind(), IoErrorKind::Other);
        }
    }

    #[test]
    fn kernels_are_judged_by_number_not_by_text() {
        for old in ["5.15.0-91-generic", "6.0.19", "4.18.0"] {
            let error = check_release(old).expect_err("too old");
            assert_eq!(error.kind(), IoErrorKind::Unsupported);
            assert!(error.to_string().contains("6.1 or newer"), "{error}");
        }
        for new in ["6.1.0", "6.10.3", "6.18.44-fc", "7.0.0-rc1", "unknown"] {
            assert!(check_release(new).is_ok(), "{new}");
        }
    }

    #[test]
    fn locked_memory_is_blamed_only_when_it_is_too_small() {
        let small = explain_registration(libc::ENOMEM, 1 << 30, Some(8 << 20));
        assert_eq!(small.kind(), IoErrorKind::Limit);
        assert!(
            small.to_string().contains("LimitMEMLOCK=infinity"),
            "{small}"
        );
        assert!(small.to_string().contains("limit_bytes 8388608"), "{small}");
        let other = explain_registration(libc::ENOMEM, 1 << 20, None);
        assert!(!other.to_string().contains("LimitMEMLOCK"), "{other}");
    }
}

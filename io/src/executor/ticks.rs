//! The processor's time-stamp counter, for durations only: a read costs a few nanoseconds where
//! `clock_gettime` costs twenty-five. Must not be used as a clock.

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod counter {
    use std::sync::OnceLock;
    use std::time::{Duration, Instant};

    /// Long enough for 1 % precision, short enough not to be noticed at start.
    const CALIBRATION: Duration = Duration::from_micros(100);

    pub fn now() -> u64 {
        // SAFETY: every x86_64 processor has the instruction, and user code may execute it unless
        // the process asked the kernel otherwise (PR_SET_TSC), which this one does not.
        unsafe { std::arch::x86_64::_rdtsc() }
    }

    pub fn per_ns() -> f64 {
        static PER_NS: OnceLock<f64> = OnceLock::new();
        *PER_NS.get_or_init(|| {
            let (start, ticks) = (Instant::now(), now());
            while start.elapsed() < CALIBRATION {
                std::hint::spin_loop();
            }
            let ticks = now().saturating_sub(ticks).max(1);
            ticks as f64 / start.elapsed().as_nanos() as f64
        })
    }
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
mod counter {
    use std::sync::OnceLock;
    use std::time::Instant;

    pub fn now() -> u64 {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }

    pub fn per_ns() -> f64 {
        1.0
    }
}

pub(crate) use counter::now;

/// Ticks in `ns` nanoseconds.
pub(crate) fn from_ns(ns: u64) -> u64 {
    (ns as f64 * counter::per_ns()) as u64
}

/// Nanoseconds in `ticks`.
pub(crate) fn to_ns(ticks: u64) -> u64 {
    (ticks as f64 / counter::per_ns()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_and_nanoseconds_convert_both_ways() {
        let ns = to_ns(from_ns(1_000_000));
        assert!((999_000..=1_001_000).contains(&ns), "{ns}");
    }

    #[test]
    fn the_counter_moves_on() {
        let before = now();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(now().wrapping_sub(before) > from_ns(1_000_000));
    }
}

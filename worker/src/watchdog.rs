//! Ticks for watchdogs that judge by age.
//!
//! A core that was held up (a stopped process, a virtual machine that was moved, memory to register) finds
//! everything old when it goes on, although replies that came meanwhile wait to be processed. So a late tick is
//! skipped: by the next one they have been processed. A core that is always late judges at every
//! [`LATE_TICKS_MAX`]th tick, so that a device that hangs is found there, too.

use std::time::Duration;

use corelane_io::Io;

/// Lateness of a tick from which on ages are not judged. Shorter than every age that is.
const LATE_MIN: Duration = Duration::from_secs(1);

/// Late ticks in a row after which ages are judged all the same.
const LATE_TICKS_MAX: u32 = 10;

/// A clock with a fixed interval.
#[derive(Debug)]
pub struct Watchdog {
    interval: Duration,
    /// Late ticks in a row.
    late_ticks: u32,
}

impl Watchdog {
    /// A watchdog that ticks every `interval`.
    pub fn new(interval: Duration) -> Self {
        Watchdog {
            interval,
            late_ticks: 0,
        }
    }

    /// Sleeps for the interval; true where ages may be judged now.
    pub async fn tick<I: Io>(&mut self, io: &I) -> bool {
        let began = io.now();
        io.sleep(self.interval).await;
        self.is_in_time(io.now().since(began))
    }

    fn is_in_time(&mut self, slept: Duration) -> bool {
        let is_late = slept >= self.interval + LATE_MIN;
        self.late_ticks = if is_late { self.late_ticks + 1 } else { 0 };
        if self.late_ticks < LATE_TICKS_MAX {
            return !is_late;
        }
        self.late_ticks = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_tick_is_skipped_but_not_for_ever() {
        let interval = Duration::from_millis(500);
        let mut watchdog = Watchdog::new(interval);
        assert!(watchdog.is_in_time(interval));
        for _ in 1..LATE_TICKS_MAX {
            assert!(!watchdog.is_in_time(interval + LATE_MIN));
        }
        assert!(watchdog.is_in_time(interval + LATE_MIN));
        assert!(!watchdog.is_in_time(interval + LATE_MIN));
        assert!(watchdog.is_in_time(interval + LATE_MIN / 2));
    }
}

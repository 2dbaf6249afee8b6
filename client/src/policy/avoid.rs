//! How long a worker that cannot be reached is left alone: longer each time, up to a bound.
//!
//! The invariant: an avoided worker is tried again, by one request at a time, until it answers.

use std::time::Duration;

/// Bounds of the time that a worker is avoided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AvoidLimits {
    /// After the first failure in a row; it doubles with each further one.
    pub first: Duration,
    /// At most.
    pub most: Duration,
}

impl Default for AvoidLimits {
    fn default() -> Self {
        AvoidLimits {
            // Longer than a restart of a lane, shorter than anyone notices.
            first: Duration::from_millis(250),
            // A worker that is back is found again within this time.
            most: Duration::from_secs(10),
        }
    }
}

/// What a request may do with a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Ask it.
    Open,
    /// Ask it, and be the one that finds out whether it is back.
    Trial,
    /// Ask others first.
    Avoided,
}

/// Whether one worker is avoided. Times are since a start that the caller chooses.
#[derive(Clone, Debug)]
pub struct Avoidance {
    limits: AvoidLimits,
    /// How long it is avoided after the next failure.
    next: Duration,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Avoided {
        until: Duration,
    },
    /// One request tries it. After `until` that one counts as lost, and another may try.
    Tried {
        until: Duration,
    },
}

impl Avoidance {
    /// Of a worker that is not avoided.
    pub fn new(limits: AvoidLimits) -> Self {
        Avoidance {
            limits,
            next: limits.first,
            state: State::Open,
        }
    }

    /// Whether a request may go to the worker at `now`. The one that hears that it tries is alone:
    /// those behind it hear no until it is known how that went.
    pub fn access(&mut self, now: Duration) -> Access {
        match self.state {
            State::Open => Access::Open,
            State::Avoided { until } | State::Tried { until } if now < until => Access::Avoided,
            State::Avoided { .. } | State::Tried { .. } => {
                self.state = State::Tried {
                    until: now + self.next,
                };
                Access::Trial
            }
        }
    }

    /// The connection is gone though no request has failed, as was found at `now`. It may have been
    /// closed in good order, or the worker is gone with it: then whoever connects waits for long. So
    /// one request finds out.
    pub fn connection_lost(&mut self, now: Duration) {
        if self.state == State::Open {
            self.state = State::Avoided { until: now };
        }
    }

    /// The worker could not be reached, as was found at `now`. Requests that were on the way when
    /// the first one failed fail with it and prove nothing new.
    pub fn failed(&mut self, now: Duration) {
        if matches!(self.state, State::Avoided { until } if now < until) {
            return;
        }
        self.state = State::Avoided {
            until: now + self.next,
        };
        self.next = (self.next * 2).min(self.limits.most);
    }

    /// The worker answered.
    pub fn answered(&mut self) {
        self.state = State::Open;
        self.next = self.limits.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn avoidance() -> Avoidance {
        Avoidance::new(AvoidLimits {
            first: ms(100),
            most: ms(300),
        })
    }

    #[test]
    fn a_lost_worker_is_tried_by_one_request_after_longer_and_longer_times() {
        let mut avoidance = avoidance();
        assert_eq!(avoidance.access(ms(0)), Access::Open);
        assert_eq!(avoidance.access(ms(0)), Access::Open);
        let mut now = 0;
        for span in [100, 200, 300, 300] {
            avoidance.failed(ms(now));
            assert_eq!(avoidance.access(ms(now + span - 1)), Access::Avoided);
            now += span;
            assert_eq!(avoidance.access(ms(now)), Access::Trial);
            assert_eq!(avoidance.access(ms(now)), Access::Avoided);
        }
        avoidance.answered();
        assert_eq!(avoidance.access(ms(now)), Access::Open);
        avoidance.failed(ms(now));
        let short_again = avoidance.access(ms(now + 100));
        assert_eq!(short_again, Access::Trial);
    }

    #[test]
    fn requests_that_fail_together_count_once() {
        let mut avoidance = avoidance();
        for _ in 0..50 {
            avoidance.failed(ms(10));
        }
        assert_eq!(avoidance.access(ms(110)), Access::Trial);
    }

    #[test]
    fn a_request_that_tries_and_is_never_heard_of_does_not_close_the_worker() {
        let mut avoidance = avoidance();
        avoidance.failed(ms(0));
        assert_eq!(avoidance.access(ms(100)), Access::Trial);
        assert_eq!(avoidance.access(ms(299)), Access::Avoided);
        assert_eq!(avoidance.access(ms(300)), Access::Trial);
    }

    #[test]
    fn a_lost_connection_is_made_again_by_one_request() {
        let mut avoidance = avoidance();
        avoidance.connection_lost(ms(5));
        assert_eq!(avoidance.access(ms(5)), Access::Trial);
        avoidance.connection_lost(ms(6));
        assert_eq!(avoidance.access(ms(6)), Access::Avoided);
        avoidance.answered();
        assert_eq!(avoidance.access(ms(7)), Access::Open);
    }
}

//! Which worker is asked next.
//!
//! A request goes to the first holder of its stripe; after a failure that may pass, at once to the
//! next one; when all were asked, again to the first after a wait. Workers that are avoided come last:
//! where nobody else is left, asking them is better than giving up. The one request that tries an avoided
//! worker does not wait for it alone: it may ask another one beside it in any case.
//!
//! The invariant: each worker is asked once in a round, and the retries of all rounds together are
//! bounded by the limits of [`super::retry`].

use std::time::Duration;

use corelane_placement::fleet::{MemberIndex, REPLICAS_MAX};
use smallvec::SmallVec;

use super::avoid::Access;
use super::retry::{Attempts, RetryLimits};

/// How long a request that tries an avoided worker waits for it before it asks another one beside it:
/// several times what a connection within a data centre takes.
pub const TRIAL_PATIENCE: Duration = Duration::from_millis(10);

/// Holders and their stand-in, and as many that are leaving.
type Order = SmallVec<[MemberIndex; 4]>;

/// The way of one request.
#[derive(Clone, Debug)]
pub struct Route {
    order: Order,
    /// Of `order`, those at the front that may be hedged: replicas that are not avoided.
    hedgeable: usize,
    position: usize,
    /// Whether the first of `order` is tried.
    is_trial: bool,
    attempts: Attempts,
}

impl Route {
    /// A way through `holders`, of which the first `replicas` hold the stripe and the others stand
    /// in for them, and `leaving`, which may still have it. `access` says who is avoided; it is asked
    /// of the workers in their order until one can be asked, and then only of further replicas.
    ///
    /// # Panics
    /// If there are no holders.
    pub fn new(
        holders: &[MemberIndex],
        replicas: usize,
        leaving: impl Iterator<Item = MemberIndex>,
        limits: RetryLimits,
        mut access: impl FnMut(MemberIndex) -> Access,
    ) -> Route {
        assert!(!holders.is_empty(), "a stripe has a holder");
        assert!(holders.len() <= REPLICAS_MAX, "{} holders", holders.len());
        let (replicas, stand_ins) = holders.split_at(replicas.min(holders.len()));
        let mut order = Order::new();
        let mut avoided = Order::new();
        let mut trial = None;
        for worker in replicas {
            match access(*worker) {
                Access::Open => order.push(*worker),
                // One at a time: a second one would hold up the same request.
                Access::Trial if trial.is_none() => trial = Some(*worker),
                Access::Trial | Access::Avoided => avoided.push(*worker),
            }
        }
        let mut hedgeable = order.len();
        for worker in leaving.chain(stand_ins.iter().copied()) {
            // Whoever is behind one that can be asked needs no answer now.
            let access = if order.is_empty() {
                access(worker)
            } else {
                Access::Open
            };
            match access {
                Access::Open => order.push(worker),
                Access::Trial if trial.is_none() => trial = Some(worker),
                Access::Trial | Access::Avoided => avoided.push(worker),
            }
        }
        if let Some(worker) = trial {
            order.insert(0, worker);
            hedgeable += 1;
        }
        order.append(&mut avoided);
        Route {
            order,
            hedgeable,
            position: 0,
            is_trial: trial.is_some(),
            attempts: Attempts::new(limits),
        }
    }

    /// Whom to ask now.
    pub fn worker(&self) -> MemberIndex {
        self.order[self.position]
    }

    /// Whether the worker to ask now is one that was avoided, and this request finds out whether it
    /// is back. Then another one is asked beside it after [`TRIAL_PATIENCE`], whatever the budget.
    pub fn is_trial(&self) -> bool {
        self.is_trial && self.position == 0
    }

    /// Whom to ask beside the present one, if it is late: the next replica that is not avoided; in a
    /// trial whoever comes next.
    pub fn second(&self) -> Option<MemberIndex> {
        let next = self.position + 1;
        let bound = if self.is_trial() {
            self.order.len()
        } else {
            self.hedgeable
        };
        (next < bound).then(|| self.order[next])
    }

    /// Goes on to the next worker after a failure that may pass: how long to wait before it is
    /// asked, or none if the attempts are used up. `asked` is what the worker wants to be left alone
    /// for; `fraction` a random number from 0 to 1.
    pub fn next(&mut self, asked: Duration, fraction: f64) -> Option<Duration> {
        if self.position + 1 < self.order.len() {
            self.position += 1;
            return self.attempts.at_once().then_some(Duration::ZERO);
        }
        self.position = 0;
        self.attempts.wait(asked, fraction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RetryLimits = RetryLimits {
        retries_max: 4,
        back_off_first: Duration::from_millis(10),
        back_off_max: Duration::from_millis(40),
    };

    fn route(holders: &[MemberIndex], leaving: &[MemberIndex], avoided: &[MemberIndex]) -> Route {
        Route::new(holders, 2, leaving.iter().copied(), LIMITS, |worker| {
            if avoided.contains(&worker) {
                Access::Avoided
            } else {
                Access::Open
            }
        })
    }

    fn way(mut route: Route) -> Vec<(MemberIndex, u128)> {
        let mut way = vec![(route.worker(), 0)];
        while let Some(wait) = route.next(Duration::ZERO, 1.0) {
            way.push((route.worker(), wait.as_millis()));
        }
        way
    }

    #[test]
    fn the_next_replica_is_asked_at_once_and_the_first_one_again_after_a_wait() {
        let found = way(route(&[7, 3], &[], &[]));
        assert_eq!(found, [(7, 0), (3, 0), (7, 10), (3, 0), (7, 20)]);
    }

    #[test]
    fn those_who_leave_and_stand_ins_come_behind_and_avoided_ones_last() {
        let order = |route: Route| route.order.to_vec();
        assert_eq!(order(route(&[1, 2, 3], &[9], &[])), [1, 2, 9, 3]);
        assert_eq!(order(route(&[1, 2, 3], &[], &[1])), [2, 3, 1]);
        assert_eq!(order(route(&[1, 2, 3], &[], &[1, 2])), [3, 1, 2]);
        assert_eq!(order(route(&[1, 2, 3], &[], &[1, 2, 3])), [1, 2, 3]);
    }

    #[test]
    fn only_a_replica_that_is_not_avoided_is_asked_beside_the_first() {
        assert_eq!(route(&[1, 2, 3], &[9], &[]).second(), Some(2));
        for (holders, avoided) in [(&[1, 2, 3][..], &[2][..]), (&[1, 2], &[1]), (&[1], &[])] {
            assert_eq!(route(holders, &[9], avoided).second(), None, "{holders:?}");
        }
        let mut route = route(&[1, 2, 3], &[], &[]);
        route.next(Duration::ZERO, 0.0).expect("an attempt is left");
        assert_eq!(
            route.second(),
            None,
            "the stand-in does not hold the stripe"
        );
    }

    #[test]
    fn who_tries_a_worker_asks_it_first_and_any_other_beside_it() {
        let with_trial = |replicas, holders: &[MemberIndex]| {
            Route::new(holders, replicas, [].into_iter(), LIMITS, |worker| {
                if worker == 2 {
                    Access::Trial
                } else {
                    Access::Open
                }
            })
        };
        let mut route = with_trial(2, &[1, 2, 3]);
        assert_eq!(route.order.to_vec(), [2, 1, 3]);
        assert!(route.is_trial());
        assert_eq!(route.second(), Some(1));
        route.next(Duration::ZERO, 0.0).expect("an attempt is left");
        assert!(!route.is_trial(), "the next one is no trial");
        let route = with_trial(1, &[2, 3]);
        assert_eq!((route.worker(), route.second()), (2, Some(3)));
    }

    #[test]
    fn nobody_is_tried_by_a_request_that_does_not_reach_it() {
        let mut asked = Vec::new();
        Route::new(&[1, 2, 3], 1, [9].into_iter(), LIMITS, |worker| {
            asked.push(worker);
            Access::Open
        });
        assert_eq!(asked, [1]);
    }
}

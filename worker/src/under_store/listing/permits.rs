//! Permits to make pages of listings, a few for all mounts together.
//!
//! A page takes memory for as long as its store takes. The invariant: a mount that has permits gets another one
//! only while twice as many as it has then stay free. So a few slow stores never hold all of them, and a mount
//! without one is the next.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use crate::under_store::limits::lock;

/// Part of the free permits that a mount may have, one part in so many. Of 32 a mount has 10 where it is alone, the
/// next one 7, and the tenth the last one.
const FREE_PARTS: usize = 2;

#[derive(Debug)]
struct Waiting {
    id: u64,
    mount_path: String,
    granted: oneshot::Sender<()>,
}

#[derive(Debug)]
struct State {
    free: usize,
    next_id: u64,
    /// Permits of the mounts that have some.
    by_mount: HashMap<String, usize>,
    /// Waiters, as many as the gates of the mounts let in.
    waiting: VecDeque<Waiting>,
}

/// Permits of all mounts.
#[derive(Debug)]
pub(super) struct Permits(Arc<Mutex<State>>);

/// A permit, or a place in the queue for one; returned when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    permits: Arc<Mutex<State>>,
    mount_path: String,
    id: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = lock(&self.permits);
        let place = state
            .waiting
            .iter()
            .position(|waiting| waiting.id == self.id);
        match place {
            Some(place) => drop(state.waiting.remove(place)),
            None => state.give_back(&self.mount_path),
        }
    }
}

impl State {
    fn of_mount(&self, mount_path: &str) -> usize {
        self.by_mount.get(mount_path).copied().unwrap_or(0)
    }

    /// Whether a mount with `of_mount` permits may have one more.
    fn admits(&self, of_mount: usize) -> bool {
        self.free > 0 && (of_mount == 0 || (of_mount + 1) * FREE_PARTS < self.free)
    }

    /// Gives free permits to the mounts that have the fewest, then in the order of the queue.
    fn let_in(&mut self) {
        loop {
            let least = self
                .waiting
                .iter()
                .enumerate()
                .map(|(place, waiting)| (self.of_mount(&waiting.mount_path), place))
                .min();
            let Some((_, place)) = least.filter(|(of_mount, _)| self.admits(*of_mount)) else {
                return;
            };
            let next = self
                .waiting
                .remove(place)
                .expect("the place was just found");
            self.free -= 1;
            *self.by_mount.entry(next.mount_path).or_default() += 1;
            // A waiter that is gone returns the permit when it is dropped.
            let _ = next.granted.send(());
        }
    }

    fn give_back(&mut self, mount_path: &str) {
        self.free += 1;
        if let Some(permits) = self.by_mount.get_mut(mount_path) {
            *permits -= 1;
            if *permits == 0 {
                self.by_mount.remove(mount_path);
            }
        }
        self.let_in();
    }
}

impl Permits {
    /// Permits, `count` of them.
    pub fn new(count: usize) -> Self {
        Permits(Arc::new(Mutex::new(State {
            free: count,
            next_id: 0,
            by_mount: HashMap::new(),
            waiting: VecDeque::new(),
        })))
    }

    /// Waits for a permit of the mount at `mount_path`.
    pub async fn take(&self, mount_path: &str) -> Permit {
        let (granted, is_granted) = oneshot::channel();
        let permit = {
            let mut state = lock(&self.0);
            state.next_id += 1;
            let id = state.next_id;
            state.waiting.push_back(Waiting {
                id,
                mount_path: mount_path.to_owned(),
                granted,
            });
            state.let_in();
            Permit {
                permits: Arc::clone(&self.0),
                mount_path: mount_path.to_owned(),
                id,
            }
        };
        is_granted
            .await
            .expect("the queue keeps the sender until then");
        permit
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    /// Permits of a mount, as many as it gets at once.
    fn fill(permits: &Permits, mount_path: &str) -> Vec<Permit> {
        std::iter::from_fn(|| permits.take(mount_path).now_or_never()).collect()
    }

    #[test]
    fn mounts_that_keep_their_permits_leave_some_to_others() {
        let permits = Permits::new(32);
        let kept: Vec<_> = (0..9)
            .map(|number| fill(&permits, &format!("/slow-{number}")))
            .collect();
        let counts: Vec<usize> = kept.iter().map(Vec::len).collect();
        assert_eq!(counts, [10, 7, 5, 3, 2, 1, 1, 1, 1]);
        assert_eq!(fill(&permits, "/other").len(), 1);
        drop(kept);
        let state = lock(&permits.0);
        assert!(state.by_mount.is_empty() && state.waiting.is_empty());
        assert_eq!(state.free, 32);
    }

    #[test]
    fn a_permit_goes_to_the_mount_that_has_the_fewest_and_one_returned_is_not_lost() {
        let permits = Permits::new(2);
        let first = fill(&permits, "/first").pop().expect("a permit");
        let second = fill(&permits, "/second").pop().expect("a permit");
        let mut again = Box::pin(permits.take("/first"));
        let mut third = Box::pin(permits.take("/third"));
        assert!(again.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        drop(second);
        assert!(again.as_mut().now_or_never().is_none());
        // It has the permit, and is dropped before it runs.
        drop(third);
        drop(first);
        assert!(again.as_mut().now_or_never().is_some());
        assert_eq!(lock(&permits.0).free, 2);
    }
}

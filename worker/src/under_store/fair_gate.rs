//! A limit on requests in flight whose clients share it: for bodies that they send meanwhile, and for listings.
//!
//! The invariant: places are given to the key, then the peer, that has the fewest, and one that waits longer
//! than [`PATIENCE`] for what others have more of gets the place of the slowest of those that send a body.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;

use super::limits::lock;
use super::writer::{Writer, next_turn, victim};

/// How long a writer waits before a slower one of a key or peer with more places is cut off: most bodies
/// end sooner.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Waiting {
    id: u64,
    writer: Option<Arc<Writer>>,
    turn: oneshot::Sender<()>,
}

#[derive(Debug)]
struct State {
    limit: usize,
    next_id: u64,
    inside: Vec<(u64, Option<Arc<Writer>>)>,
    /// As many as there are calls with a body, which are bounded before they come here.
    waiting: VecDeque<Waiting>,
}

/// A limit on requests.
#[derive(Debug)]
pub(crate) struct FairGate(Arc<Mutex<State>>);

/// A place in the gate or in its queue; given up when dropped.
#[derive(Debug)]
pub(crate) struct FairPass {
    gate: Arc<Mutex<State>>,
    id: u64,
}

impl Drop for FairPass {
    fn drop(&mut self) {
        let mut state = lock(&self.gate);
        state.inside.retain(|(id, _)| *id != self.id);
        state.waiting.retain(|waiting| waiting.id != self.id);
        state.let_in();
    }
}

impl State {
    fn writers(&self) -> impl Iterator<Item = &Arc<Writer>> + Clone {
        self.inside.iter().filter_map(|(_, writer)| writer.as_ref())
    }

    /// Gives vacant places to those whose turn it is.
    fn let_in(&mut self) {
        while self.inside.len() < self.limit {
            let waiting = self.waiting.iter().map(|waiting| waiting.writer.as_ref());
            let inside = self.inside.iter().map(|(_, writer)| writer.as_ref());
            let Some(place) = next_turn(inside, waiting) else {
                return;
            };
            let next = self
                .waiting
                .remove(place)
                .expect("the place was just found");
            self.inside.push((next.id, next.writer));
            // Whoever is gone gives the place up by its pass.
            let _ = next.turn.send(());
        }
    }
}

impl FairGate {
    /// A gate for `limit` requests; at least one.
    pub fn new(limit: usize) -> Self {
        FairGate(Arc::new(Mutex::new(State {
            limit: limit.max(1),
            next_id: 0,
            inside: Vec::new(),
            waiting: VecDeque::new(),
        })))
    }

    /// Waits for a place for a request of `writer`; `None`: of this worker itself.
    pub async fn enter(&self, writer: Option<&Arc<Writer>>) -> FairPass {
        let (turn, mut is_turn) = oneshot::channel();
        let pass = {
            let mut state = lock(&self.0);
            state.next_id += 1;
            let id = state.next_id;
            state.waiting.push_back(Waiting {
                id,
                writer: writer.cloned(),
                turn,
            });
            state.let_in();
            FairPass {
                gate: Arc::clone(&self.0),
                id,
            }
        };
        while tokio::time::timeout(PATIENCE, &mut is_turn).await.is_err() {
            let state = lock(&self.0);
            if let Some(writer) = writer
                && let Some(slower) = victim(state.writers(), &writer.client)
            {
                slower.cut_off();
            }
        }
        pass
    }

    /// Requests in flight now.
    pub fn in_flight(&self) -> usize {
        lock(&self.0).inside.len()
    }

    /// Changes the limit. A smaller one holds once enough of the requests in flight have ended.
    pub fn set_limit(&self, limit: usize) {
        let mut state = lock(&self.0);
        state.limit = limit.max(1);
        state.let_in();
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use futures::FutureExt;

    use super::*;
    use crate::under_store::writer::Client;

    fn writer(key: &str) -> Arc<Writer> {
        let client = Client::new(key, IpAddr::from([127, 0, 0, 1]));
        Arc::new(Writer::new(client))
    }

    #[tokio::test]
    async fn a_place_goes_to_the_key_with_the_fewest_and_one_given_up_is_not_lost() {
        let gate = FairGate::new(2);
        let (many, few) = (writer("many"), writer("few"));
        let first = gate.enter(Some(&many)).await;
        let second = gate.enter(Some(&many)).await;
        let mut third = Box::pin(gate.enter(Some(&many)));
        let mut other = Box::pin(gate.enter(Some(&few)));
        assert!(third.as_mut().now_or_never().is_none());
        assert!(other.as_mut().now_or_never().is_none());
        drop(first);
        assert!(third.as_mut().now_or_never().is_none());
        let _other = other.as_mut().now_or_never().expect("its turn");
        drop(second);
        // It was let in, and goes before it knows.
        drop(third);
        assert_eq!(gate.in_flight(), 1);
        gate.enter(None).now_or_never().expect("room");
        gate.set_limit(1);
        assert!(gate.enter(None).now_or_never().is_none());
        gate.set_limit(2);
        assert!(gate.enter(None).now_or_never().is_some());
    }

    #[tokio::test]
    async fn who_waits_for_slow_writers_gets_the_place_of_one_of_them() {
        let gate = Arc::new(FairGate::new(4));
        let slow: Vec<_> = (0..4)
            .map(|_| {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move {
                    let writer = writer("slow");
                    let _pass = gate.enter(Some(&writer)).await;
                    writer.receive(std::future::pending::<()>()).await
                })
            })
            .collect();
        while gate.in_flight() < 4 {
            tokio::task::yield_now().await;
        }
        let _pass = gate.enter(Some(&writer("other"))).await;
        let ended = slow.iter().filter(|task| task.is_finished()).count();
        assert_eq!(ended, 1, "one was enough");
    }
}

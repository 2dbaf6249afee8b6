//! Calls under way, and whether one more is admitted.
//!
//! The invariants: calls and the memory of their bodies are bounded; one key never has so many that none are
//! left for another; and among the clients of one key, those that send slowly make room for others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::under_store::writer::{Client, Writer, victim};

/// A key may have as many calls as stay free: half of all where it is alone, a third where there are two
/// that grow together, and so on. So there is always something free for the next one.
const CALLS_SHARE_OF_FREE: usize = 1;

/// The same of memory, three quarters where a key is alone: of this, slow writers are made to give back.
const KIB_SHARE_OF_FREE: usize = 3;

/// A peer that is refused because of what other peers of its key have may have so much of what is free, one part
/// in so many…
const PEER_PART_OF_FREE: usize = 8;

/// …as long as this part of all stays free, one in so many, for the other keys.
const KEPT_FREE: usize = 8;

/// Writers that are cut off for one call at most: the longest body has the memory of 32 of the usual ones.
const CUTS_MAX: usize = 32;

/// What is bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub calls: usize,
    /// Memory for bodies.
    pub kib: usize,
}

impl Load {
    fn plus(self, other: Load) -> Load {
        Load {
            calls: self.calls + other.calls,
            kib: self.kib + other.kib,
        }
    }

    fn minus(self, other: Load) -> Load {
        Load {
            calls: self.calls - other.calls,
            kib: self.kib - other.kib,
        }
    }

    fn fits(self, bound: Load) -> bool {
        self.calls <= bound.calls && self.kib <= bound.kib
    }

    /// What a key may have where this stays free.
    fn share(self) -> Load {
        Load {
            calls: self.calls * CALLS_SHARE_OF_FREE,
            kib: self.kib * KIB_SHARE_OF_FREE,
        }
    }

    fn part(self, parts: usize) -> Load {
        Load {
            calls: self.calls / parts,
            kib: self.kib / parts,
        }
    }
}

struct Admitted {
    client: Client,
    load: Load,
    /// Who sends the body, if there is one.
    writer: Option<Arc<Writer>>,
}

#[derive(Default)]
struct State {
    used: Load,
    by_key: HashMap<Arc<str>, Load>,
    by_client: HashMap<Client, Load>,
    next_id: u64,
    calls: HashMap<u64, Admitted>,
}

/// The calls under way.
pub(super) struct Calls {
    bound: Load,
    state: Mutex<State>,
}

/// A call under way; it ends when this is dropped.
pub(in crate::s3_face) struct Ticket {
    calls: Arc<Calls>,
    id: u64,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Ticket").field(&self.id).finish()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.calls.state().remove(self.id);
    }
}

impl State {
    /// Whether `load` more fits: in all, and in the share of the client's key or of the client.
    fn admits(&self, bound: Load, client: &Client, load: Load) -> bool {
        let used = self.used.plus(load);
        if !used.fits(bound) {
            return false;
        }
        let free = bound.minus(used);
        let of_key = self.by_key.get(&client.key).copied().unwrap_or_default();
        let of_client = self.by_client.get(client).copied().unwrap_or_default();
        // The first one always goes: a large body may be more than any share.
        of_key == Load::default()
            || of_key.plus(load).fits(free.share())
            || bound.part(KEPT_FREE).fits(free)
                && of_client.plus(load).fits(free.part(PEER_PART_OF_FREE))
    }

    fn insert(&mut self, admitted: Admitted) -> u64 {
        let (client, load) = (&admitted.client, admitted.load);
        self.used = self.used.plus(load);
        for sum in [
            self.by_key.entry(Arc::clone(&client.key)).or_default(),
            self.by_client.entry(client.clone()).or_default(),
        ] {
            *sum = sum.plus(load);
        }
        self.next_id += 1;
        self.calls.insert(self.next_id, admitted);
        self.next_id
    }

    /// Takes a call out, if it is in still.
    fn remove(&mut self, id: u64) {
        let Some(Admitted { client, load, .. }) = self.calls.remove(&id) else {
            return;
        };
        self.used = self.used.minus(load);
        if let Some(sum) = self.by_key.get_mut(&client.key) {
            *sum = sum.minus(load);
        }
        if let Some(sum) = self.by_client.get_mut(&client) {
            *sum = sum.minus(load);
        }
        // Only those that have something, or every key and peer ever seen would be in memory.
        self.by_key.retain(|_, sum| *sum != Load::default());
        self.by_client.retain(|_, sum| *sum != Load::default());
    }

    /// Whether a key, or a peer of the client's key, has so many calls that one of them could make room.
    fn has_larger(&self, client: &Client) -> bool {
        let calls = |load: Option<&Load>| load.map_or(0, |load| load.calls) + 1;
        let of_key = calls(self.by_key.get(&client.key));
        let of_client = calls(self.by_client.get(client));
        self.by_key.values().any(|load| load.calls > of_key)
            || self
                .by_client
                .iter()
                .any(|(other, load)| other.key == client.key && load.calls > of_client)
    }

    /// Cuts off a writer in favour of `client`; false when there is none.
    fn cut_one(&mut self, client: &Client) -> bool {
        // Whoever is refused for what is its own asks again and again: that is not to cost a look at all calls,
        // on the core that serves reads.
        if !self.has_larger(client) {
            return false;
        }
        let writers = self.calls.values().filter_map(|call| call.writer.as_ref());
        let Some(writer) = victim(writers, client).cloned() else {
            return false;
        };
        writer.cut_off();
        let is_cut = |call: &Admitted| {
            let other = call.writer.as_ref();
            other.is_some_and(|other| Arc::ptr_eq(other, &writer))
        };
        let id = self.calls.iter().find(|(_, call)| is_cut(call));
        if let Some(id) = id.map(|(id, _)| *id) {
            // It ends at its next look: until then its memory is one body's more than is counted.
            self.remove(id);
        }
        true
    }
}

impl Calls {
    /// Calls up to `bound`.
    pub fn new(bound: Load) -> Arc<Self> {
        Arc::new(Calls {
            bound,
            state: Mutex::default(),
        })
    }

    /// Admits a call of `client`, whose body `writer` sends, if there is one and room for it.
    pub fn admit(
        self: &Arc<Self>,
        client: &Client,
        kib: usize,
        writer: Option<&Arc<Writer>>,
    ) -> Option<Ticket> {
        let load = Load { calls: 1, kib };
        let mut state = self.state();
        if !state.admits(self.bound, client, load) {
            if writer.is_none() || !state.cut_one(client) {
                return None;
            }
            let mut cuts = 1;
            while !state.used.plus(load).fits(self.bound) {
                if cuts >= CUTS_MAX || !state.cut_one(client) {
                    return None;
                }
                cuts += 1;
            }
        }
        let id = state.insert(Admitted {
            client: client.clone(),
            load,
            writer: writer.cloned(),
        });
        Some(Ticket {
            calls: Arc::clone(self),
            id,
        })
    }

    /// What is under way.
    #[cfg(test)]
    pub fn used(&self) -> Load {
        self.state().used
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use futures::FutureExt;

    use super::*;

    const BOUND: Load = Load {
        calls: 1024,
        kib: 512 << 10,
    };

    fn client(key: &str, peer: u8) -> Client {
        Client::new(key, IpAddr::from([10, 0, 0, peer]))
    }

    /// As many calls as are admitted.
    fn fill(calls: &Arc<Calls>, client: &Client, kib: usize) -> Vec<Ticket> {
        std::iter::from_fn(|| calls.admit(client, kib, None)).collect()
    }

    #[test]
    fn a_key_has_half_and_leaves_the_rest_to_others() {
        let calls = Calls::new(BOUND);
        let one = fill(&calls, &client("one", 1), 0);
        // Half, and what a peer of a key may have beyond that.
        assert!((512..600).contains(&one.len()), "{}", one.len());
        let mut others = Vec::new();
        for number in 0..7 {
            let some = fill(&calls, &client(&format!("key-{number}"), 1), 0);
            assert!(!some.is_empty(), "nothing is left for key {number}");
            others.push(some);
        }
        drop((one, others));
        assert_eq!(calls.used(), Load::default());
        let state = calls.state();
        assert!(state.by_key.is_empty() && state.by_client.is_empty() && state.calls.is_empty());
    }

    #[test]
    fn memory_is_shared_as_calls_are() {
        let calls = Calls::new(BOUND);
        let one = fill(&calls, &client("one", 1), 2048);
        assert!((192..=220).contains(&one.len()), "{}", one.len());
        assert!(calls.admit(&client("two", 1), 64 << 10, None).is_some());
    }

    #[test]
    fn other_peers_of_a_key_that_has_its_share_have_room_and_other_keys_too() {
        let calls = Calls::new(BOUND);
        let mut all = fill(&calls, &client("", 1), 0);
        let second = fill(&calls, &client("", 2), 0);
        assert!(second.len() > 5, "{}", second.len());
        all.extend(second);
        for peer in 3..250 {
            all.extend(fill(&calls, &client("", peer), 0));
        }
        assert!(!fill(&calls, &client("other", 1), 0).is_empty());
    }

    #[test]
    fn a_writer_who_is_refused_gets_the_place_of_a_slow_one() {
        let calls = Calls::new(Load { calls: 8, kib: 8 });
        let client_of = |key| client(key, 1);
        let mut tickets = Vec::new();
        let mut slow = Vec::new();
        loop {
            let writer = Arc::new(Writer::new(client_of("slow")));
            let Some(ticket) = calls.admit(&client_of("slow"), 1, Some(&writer)) else {
                break;
            };
            tickets.push(ticket);
            slow.push(writer);
        }
        let mut waiting: Vec<_> = slow
            .iter()
            .map(|writer| Box::pin(writer.receive(std::future::pending::<()>())))
            .collect();
        assert!(
            waiting
                .iter_mut()
                .all(|wait| wait.as_mut().now_or_never().is_none())
        );
        assert_eq!(slow.len(), 4);
        let others: Vec<_> = ["a", "b", "c", "d", "e", "f"]
            .map(client_of)
            .into_iter()
            .map(|client| {
                let writer = Arc::new(Writer::new(client.clone()));
                calls.admit(&client, 1, Some(&writer)).expect("a place")
            })
            .collect();
        let cut: usize = waiting
            .iter_mut()
            .map(|wait| usize::from(wait.as_mut().now_or_never().is_some()))
            .sum();
        assert_eq!(cut, 2, "four had vacant places");
        assert!(calls.used().fits(calls.bound));
        drop((tickets, others));
        assert_eq!(calls.used(), Load::default());
    }
}

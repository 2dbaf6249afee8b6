//! Who gives up a place when all places of a listener are taken.
//!
//! A listener has a fixed number of places. The invariant: connections that wait for their peer, however
//! many one peer opens, never keep another peer out; connections that are served are never closed for
//! somebody else.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// One in so many places is freed at a time, so that a flood of connections does not cost a look at all
/// places for each of them.
const FREED_SHARE: usize = 16;

/// Connections that may be open at a time, those that were told to go and have not gone yet among them.
pub fn open_max(limit: usize) -> usize {
    2 * limit + FREED_SHARE
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No request has come yet, for so long: not even the first header.
    Unproven(Duration),
    /// It had requests and waits for the next, for so long.
    Idle(Duration),
    /// It is served, or going already.
    Busy,
}

/// One place that is taken.
#[derive(Clone, Copy, Debug)]
pub struct Taken<K> {
    /// The listener's name for it.
    pub key: K,
    /// Address of the peer.
    pub peer: IpAddr,
    /// What it is doing.
    pub standing: Standing,
}

/// Peers whose addresses one host chooses freely count as one: an IPv6 network of 64 bits.
pub fn network_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        address => address,
    }
}

/// The places to free for a connection of `newcomer`, when all are taken. Connections without a first
/// request go first, those of whoever has the most places before others, and then those that have waited
/// longest. An idle connection goes only for a peer that has fewer places than its own.
pub fn to_free<K: Copy>(taken: impl Iterator<Item = Taken<K>>, newcomer: IpAddr) -> Vec<K> {
    let taken: Vec<Taken<K>> = taken.collect();
    let mut places: HashMap<IpAddr, usize> = HashMap::new();
    for place in &taken {
        *places.entry(network_of(place.peer)).or_default() += 1;
    }
    let count = |peer: IpAddr| places.get(&network_of(peer)).copied().unwrap_or(0);
    let of_newcomer = count(newcomer);
    let mut waiting: Vec<(bool, usize, Duration, K)> = taken
        .iter()
        .filter_map(|place| match place.standing {
            Standing::Unproven(waited) => Some((true, count(place.peer), waited, place.key)),
            Standing::Idle(waited) if count(place.peer) > of_newcomer + 1 => {
                Some((false, count(place.peer), waited, place.key))
            }
            Standing::Idle(_) | Standing::Busy => None,
        })
        .collect();
    waiting.sort_by_key(|(is_unproven, places, waited, _)| {
        std::cmp::Reverse((*is_unproven, *places, *waited))
    });
    let freed = (taken.len() / FREED_SHARE).max(1);
    waiting
        .into_iter()
        .take(freed)
        .map(|(.., key)| key)
        .collect()
}

/// Bounds lines of the log that a peer can cause: some in a while, and how many were left out.
#[derive(Debug, Default)]
pub struct LogLimit {
    window: Cell<u64>,
    lines: Cell<u32>,
    left_out: Cell<u64>,
}

/// Lines of one kind in [`LOG_WINDOW_S`]: enough to see what happens and to whom.
const LOG_LINES_MAX: u32 = 10;

/// How long they are counted together, in seconds.
const LOG_WINDOW_S: u64 = 10;

impl LogLimit {
    /// Whether a line may be written `at` a time since some start: with the number of lines that were left
    /// out before it.
    pub fn allow(&self, at: Duration) -> Option<u64> {
        let window = at.as_secs() / LOG_WINDOW_S;
        if window != self.window.replace(window) {
            self.lines.set(0);
        }
        if self.lines.get() >= LOG_LINES_MAX {
            self.left_out.set(self.left_out.get() + 1);
            return None;
        }
        self.lines.set(self.lines.get() + 1);
        Some(self.left_out.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(key: u32, peer: [u8; 4], standing: Standing) -> Taken<u32> {
        let peer = IpAddr::from(peer);
        Taken {
            key,
            peer,
            standing,
        }
    }

    const A: [u8; 4] = [10, 0, 0, 1];
    const B: [u8; 4] = [10, 0, 0, 2];

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn who_has_not_asked_yet_goes_first_and_the_longest_wait_before_others() {
        let taken = [
            place(1, A, Standing::Idle(seconds(100))),
            place(2, A, Standing::Unproven(seconds(1))),
            place(3, A, Standing::Unproven(seconds(5))),
            place(4, A, Standing::Busy),
        ];
        assert_eq!(to_free(taken.into_iter(), IpAddr::from(B)), [3]);
        // For the same peer as well: who says nothing keeps nobody out.
        assert_eq!(to_free(taken.into_iter(), IpAddr::from(A)), [3]);
    }

    #[test]
    fn idle_connections_go_only_for_a_peer_with_fewer_places() {
        let taken = [
            place(1, A, Standing::Idle(seconds(1))),
            place(2, A, Standing::Idle(seconds(9))),
            place(3, B, Standing::Idle(seconds(99))),
        ];
        assert_eq!(to_free(taken.into_iter(), IpAddr::from([9, 9, 9, 9])), [2]);
        assert!(to_free(taken.into_iter(), IpAddr::from(A)).is_empty());
        let busy = [1, 2, 3].map(|key| place(key, A, Standing::Busy));
        assert!(to_free(busy.into_iter(), IpAddr::from(B)).is_empty());
    }

    #[test]
    fn a_flood_frees_several_places_at_a_time() {
        let taken = (0..160).map(|key| place(key, A, Standing::Unproven(seconds(key.into()))));
        let freed = to_free(taken, IpAddr::from(A));
        assert_eq!(freed, (150..160).rev().collect::<Vec<u32>>());
    }

    #[test]
    fn addresses_that_one_host_may_choose_count_as_one_peer() {
        let of = |text: &str| network_of(text.parse().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1:2:3"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), IpAddr::from(A));
    }

    #[test]
    fn a_flood_of_lines_is_cut_and_counted() {
        let limit = LogLimit::default();
        let at = |second| limit.allow(seconds(second));
        assert!((0..LOG_LINES_MAX).all(|_| at(3) == Some(0)));
        assert!((0..5).all(|_| at(4).is_none()));
        assert_eq!(
            at(12),
            Some(5),
            "the next window says how many were left out"
        );
        assert_eq!(at(12), Some(0));
    }
}

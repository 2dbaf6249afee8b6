//! Clients that send bodies, and which of them is cut off when others wait for its place.
//!
//! A body is as slow as its client, and holds a place of its worker and of its mount meanwhile. The
//! invariant: whoever waits for a place and holds fewer than another key or peer gets one, however slowly
//! the others send; a client whose body is with the under-store already is never cut off.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How long a client is not called slow: its first bytes may be on their way.
const GRACE: Duration = Duration::from_secs(3);

/// Whose a request is: its access key, empty for anonymous ones, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    /// Name of the access key. A presigned request counts for the key that signed it.
    pub key: Arc<str>,
    /// Address of the peer; of IPv6 the network of 64 bits, which one client has to itself.
    pub peer: IpAddr,
}

impl Client {
    /// A request of `key` from `peer`.
    pub fn new(key: &str, peer: IpAddr) -> Self {
        let peer = match peer.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() >> 64 << 64;
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
            peer => peer,
        };
        let key = key.into();
        Client { key, peer }
    }
}

/// A client that sends a body.
#[derive(Debug)]
pub struct Writer {
    /// Whose it is.
    pub client: Client,
    began: Instant,
    bytes: AtomicU64,
    /// Whether the worker waits for bytes of it, and for nothing else.
    is_waited_for: AtomicBool,
    is_cut: AtomicBool,
    cut: Notify,
}

/// The client was cut off: others wait for its place.
#[derive(Debug, PartialEq, Eq)]
pub struct Cut;

impl Writer {
    /// A client that begins to send.
    pub fn new(client: Client) -> Self {
        Writer {
            client,
            began: Instant::now(),
            bytes: AtomicU64::new(0),
            is_waited_for: AtomicBool::new(false),
            is_cut: AtomicBool::new(false),
            cut: Notify::new(),
        }
    }

    /// Waits for what the client sends next.
    ///
    /// # Errors
    /// When it is cut off meanwhile.
    pub async fn receive<T>(&self, next: impl Future<Output = T>) -> Result<T, Cut> {
        self.is_waited_for.store(true, Ordering::Relaxed);
        let received = tokio::select! {
            biased;
            received = next => Ok(received),
            () = self.cut.notified() => Err(Cut),
        };
        self.is_waited_for.store(false, Ordering::Relaxed);
        received
    }

    /// Counts bytes that came.
    pub fn count(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Cuts the client off as soon as it is waited for.
    pub fn cut_off(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
        self.cut.notify_one();
    }

    /// Whether it may be cut off now.
    fn is_candidate(&self) -> bool {
        self.is_waited_for.load(Ordering::Relaxed) && !self.is_cut.load(Ordering::Relaxed)
    }

    /// Bytes a second so far, and before that whether it is too early to tell; the least goes first.
    fn pace(&self, now: Instant) -> (bool, u64) {
        let age = now.saturating_duration_since(self.began);
        let bytes = self.bytes.load(Ordering::Relaxed);
        let per_second = bytes.saturating_mul(1000) / (age.as_millis() as u64).max(1);
        (age < GRACE, per_second)
    }
}

/// How many places a key has, and a peer of it.
fn places<'a>(writers: impl Iterator<Item = &'a Arc<Writer>>) -> Places {
    let mut places = Places::default();
    for writer in writers {
        *places
            .by_key
            .entry(Arc::clone(&writer.client.key))
            .or_default() += 1;
        *places.by_client.entry(writer.client.clone()).or_default() += 1;
    }
    places
}

#[derive(Default)]
struct Places {
    by_key: HashMap<Arc<str>, usize>,
    by_client: HashMap<Client, usize>,
}

impl Places {
    fn of_key(&self, client: &Client) -> usize {
        self.by_key.get(&client.key).copied().unwrap_or(0)
    }

    fn of_client(&self, client: &Client) -> usize {
        self.by_client.get(client).copied().unwrap_or(0)
    }
}

/// The writer to be cut off for a newcomer of `client`: the slowest of the key that has the most places, if
/// those are more than the newcomer's key would have; else the same among the peers of its key.
pub fn victim<'a>(
    writers: impl Iterator<Item = &'a Arc<Writer>> + Clone,
    client: &Client,
) -> Option<&'a Arc<Writer>> {
    let places = places(writers.clone());
    let now = Instant::now();
    let slowest = |is_meant: &dyn Fn(&Writer) -> bool, places_of: &dyn Fn(&Client) -> usize| {
        writers
            .clone()
            .filter(|writer| writer.is_candidate() && is_meant(writer))
            .min_by_key(|writer| {
                let most_first = usize::MAX - places_of(&writer.client);
                (most_first, writer.pace(now))
            })
    };
    let (of_key, of_client) = (places.of_key(client) + 1, places.of_client(client) + 1);
    let other_key = slowest(
        &|writer| places.of_key(&writer.client) > of_key,
        &|client| places.of_key(client),
    );
    other_key.or_else(|| {
        slowest(
            &|writer| {
                writer.client.key == client.key && places.of_client(&writer.client) > of_client
            },
            &|client| places.of_client(client),
        )
    })
}

/// The place in a queue whose turn it is: of the key, then the peer, that has the fewest places already. Requests
/// of this worker itself, which have no writer, count as those of one key.
pub fn next_turn<'a>(
    inside: impl Iterator<Item = Option<&'a Arc<Writer>>> + Clone,
    waiting: impl Iterator<Item = Option<&'a Arc<Writer>>>,
) -> Option<usize> {
    let own = inside.clone().filter(Option::is_none).count();
    let places = places(inside.flatten());
    let turn = waiting.enumerate().min_by_key(|(place, writer)| {
        let client = writer.map(|writer| &writer.client);
        let of_key = client.map_or(own, |client| places.of_key(client));
        let of_client = client.map_or(own, |client| places.of_client(client));
        (of_key, of_client, *place)
    });
    turn.map(|(place, _)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(key: &str, peer: u8, bytes: usize) -> Arc<Writer> {
        let writer = Writer {
            began: Instant::now() - Duration::from_secs(10),
            ..Writer::new(Client::new(key, IpAddr::from([10, 0, 0, peer])))
        };
        writer.is_waited_for.store(true, Ordering::Relaxed);
        writer.count(bytes);
        Arc::new(writer)
    }

    fn victim_of<'a>(writers: &'a [Arc<Writer>], key: &str, peer: u8) -> Option<&'a Arc<Writer>> {
        victim(
            writers.iter(),
            &Client::new(key, IpAddr::from([10, 0, 0, peer])),
        )
    }

    #[test]
    fn the_slowest_of_the_key_with_the_most_places_goes_first() {
        let writers = [
            writer("many", 1, 500),
            writer("many", 1, 100),
            writer("many", 2, 1),
            writer("few", 1, 0),
        ];
        let cut = victim_of(&writers, "other", 1).expect("a victim");
        assert!(Arc::ptr_eq(cut, &writers[2]));
        writers[2].cut_off();
        let cut = victim_of(&writers, "other", 1).expect("a victim");
        assert!(Arc::ptr_eq(cut, &writers[1]), "nobody is cut off twice");
        // One place more would be as many as the others have.
        assert!(victim_of(&writers[..2], "other", 1).is_some());
        assert!(victim_of(&writers[..1], "other", 1).is_none());
    }

    #[test]
    fn peers_share_the_places_of_their_key() {
        let writers: Vec<_> = (0..8)
            .map(|number| writer("", 1, 1000 * (10 - number)))
            .collect();
        let cut = victim_of(&writers, "", 2).expect("a victim");
        assert!(Arc::ptr_eq(cut, &writers[7]));
        assert!(victim_of(&writers, "", 1).is_none(), "its own peer's");
        let six = |last| IpAddr::from([0x2001, 0xdb8, 0, 7, 1, 2, 3, last]);
        assert_eq!(Client::new("", six(1)), Client::new("", six(2)));
    }

    #[test]
    fn nobody_is_cut_off_whose_bytes_are_not_waited_for() {
        let writers: Vec<_> = (0..3).map(|_| writer("many", 1, 0)).collect();
        for writer in &writers {
            writer.is_waited_for.store(false, Ordering::Relaxed);
        }
        assert!(victim_of(&writers, "other", 1).is_none());
    }

    #[test]
    fn one_that_has_just_begun_goes_last() {
        let young = Arc::new(Writer::new(Client::new(
            "many",
            IpAddr::from([10, 0, 0, 1]),
        )));
        young.is_waited_for.store(true, Ordering::Relaxed);
        let writers = [
            young,
            writer("many", 1, 1 << 30),
            writer("many", 1, 2 << 30),
        ];
        let cut = victim_of(&writers, "other", 1).expect("a victim");
        assert!(Arc::ptr_eq(cut, &writers[1]));
    }

    #[test]
    fn turns_go_to_those_that_have_fewest_and_then_to_those_that_came_first() {
        let inside = [writer("a", 1, 0), writer("a", 1, 0), writer("b", 1, 0)];
        let waiting = [writer("a", 1, 0), writer("b", 1, 0), writer("b", 2, 0)];
        let turn =
            |waiting: &[Arc<Writer>]| next_turn(inside.iter().map(Some), waiting.iter().map(Some));
        assert_eq!(turn(&waiting), Some(2));
        assert_eq!(turn(&waiting[..2]), Some(1));
        assert_eq!(turn(&waiting[..1]), Some(0));
        assert_eq!(turn(&[]), None);
        let of_worker = [Some(&inside[2]), None, None];
        let waiting = [None, Some(&waiting[1]), None];
        assert_eq!(
            next_turn(of_worker.into_iter(), waiting.into_iter()),
            Some(1)
        );
    }

    #[tokio::test]
    async fn one_that_is_cut_off_receives_no_more() {
        let writer = writer("a", 1, 0);
        assert_eq!(writer.receive(async { 1 }).await, Ok(1));
        writer.cut_off();
        assert_eq!(writer.receive(std::future::pending::<()>()).await, Err(Cut));
    }
}

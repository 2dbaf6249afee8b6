//! Reads from several workers: each stripe from the worker that owns it.
//!
//! The members and their weights come from the caller; who owns what follows from them
//! ([`corelane_placement::fleet`]). A read goes to the first holder of its stripe, after a failure that
//! may pass to the next one, and when it is late to a second one as well, within a budget
//! ([`crate::policy`]).
//!
//! The invariant: a read fails only when every worker that may answer it was asked, as often as the
//! options allow. Every worker can: one that does not hold a stripe fetches it from the under-store. So
//! where all replicas are lost, the next worker of the placement stands in for them.

mod options;

use std::ops::Range;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use corelane_placement::fleet::{
    Fleet as Placement, FleetError, Member, MemberIndex, MemberKey, REPLICAS_MAX,
};
use corelane_rpc_schema::{STRIPE_BYTES, Stripe};
use futures::future::{Either, select};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::OnceCell;
use tokio::time::Instant;

pub use options::{FleetCounters, FleetOptions, Worker};

use crate::client::{Client, Object};
use crate::error::Error;
use crate::options::Options;
use crate::policy::avoid::{Access, Avoidance};
use crate::policy::hedge::Hedging;
use crate::policy::route::{Route, TRIAL_PATIENCE};
use crate::random;
use crate::sources::Sources;

/// A client of several workers with the same mounts. Cheap to clone.
#[derive(Clone)]
pub struct Fleet {
    inner: Arc<Inner>,
}

struct Inner {
    placement: Placement,
    replicas: usize,
    /// In the order of the placement's members.
    workers: Vec<Connection>,
    token: String,
    options: FleetOptions,
    hedging: Option<Mutex<Hedging>>,
    began: Instant,
    retries: AtomicU64,
    hedges: AtomicU64,
    hedges_won: AtomicU64,
    unreachable: AtomicU64,
}

struct Connection {
    address: String,
    client: OnceCell<Client>,
    avoidance: Mutex<Avoidance>,
}

impl Connection {
    fn access(&self, now: Duration) -> Access {
        let mut avoidance = lock(&self.avoidance);
        if self
            .client
            .get()
            .is_some_and(|client| !client.is_connected())
        {
            avoidance.connection_lost(now);
        }
        avoidance.access(now)
    }
}

/// What came for a piece.
type Read = (Bytes, Sources);

impl Fleet {
    /// A client of `workers`. Connects to each one when it is first needed, so that one that is
    /// away disturbs nobody. An empty `token` is for workers of the
    /// same user on this machine and for those that ask for none.
    ///
    /// # Errors
    /// Where these workers are no fleet.
    pub fn new(
        workers: &[Worker],
        token: &str,
        options: FleetOptions,
    ) -> Result<Fleet, FleetError> {
        let members: Vec<Member> = workers
            .iter()
            .map(|worker| Member {
                key: MemberKey::of(&worker.id),
                weight: worker.weight,
                state: worker.state,
            })
            .collect();
        let replicas = options.replicas;
        if replicas == 0 || replicas > REPLICAS_MAX {
            return Err(FleetError::Replicas(replicas));
        }
        // One more than hold a stripe stands in for them; it does not change who they are.
        let placement = Placement::new(&members, (replicas + 1).min(REPLICAS_MAX))?;
        let connections = placement.members().iter().map(|member| {
            let worker = workers
                .iter()
                .find(|worker| MemberKey::of(&worker.id) == member.key)
                .expect("the members are the workers");
            Connection {
                address: worker.address.clone(),
                client: OnceCell::new(),
                avoidance: Mutex::new(Avoidance::new(options.avoid)),
            }
        });
        let inner = Inner {
            workers: connections.collect(),
            replicas: replicas.min(placement.replicas()),
            placement,
            token: token.to_owned(),
            hedging: options
                .hedge
                .filter(|_| replicas > 1)
                .map(|limits| Mutex::new(Hedging::new(limits))),
            options,
            began: Instant::now(),
            retries: AtomicU64::new(0),
            hedges: AtomicU64::new(0),
            hedges_won: AtomicU64::new(0),
            unreachable: AtomicU64::new(0),
        };
        Ok(Fleet {
            inner: Arc::new(inner),
        })
    }

    /// Who holds what.
    pub fn placement(&self) -> &Placement {
        &self.inner.placement
    }

    /// What was counted so far.
    pub fn counters(&self) -> FleetCounters {
        FleetCounters {
            retries: self.inner.retries.load(Ordering::Relaxed),
            hedges: self.inner.hedges.load(Ordering::Relaxed),
            hedges_won: self.inner.hedges_won.load(Ordering::Relaxed),
            unreachable: self.inner.unreachable.load(Ordering::Relaxed),
        }
    }

    /// The object at `path` in its present version, as fresh as its mount promises. The same
    /// worker is asked by all clients, so that they agree on the version.
    ///
    /// # Errors
    /// [`Error::Refused`] says why there is none; others are of the connections.
    pub async fn open(&self, path: &str) -> Result<Object, Error> {
        let mut route = self.inner.route(MemberKey::of(path).0, Stripe(0));
        loop {
            let worker = route.worker();
            let outcome = async { self.inner.client(worker).await?.open(path).await }.await;
            self.inner.note(worker, &outcome);
            match outcome {
                Ok(object) => return Ok(object),
                Err(error) => self.inner.wait_to_retry(&mut route, error).await?,
            }
        }
    }

    /// The bytes of `range` of `object`, in pieces from the workers that own them, side by side.
    /// All of the version that was opened.
    ///
    /// # Errors
    /// [`Error::VersionChanged`] where a worker has a newer version only; [`Error::OutOfRange`];
    /// else as the retries ended.
    pub async fn read(&self, object: &Object, range: Range<u64>) -> Result<Bytes, Error> {
        Ok(self.read_with_sources(object, range).await?.0)
    }

    /// [`Fleet::read`], and where the workers had the bytes.
    ///
    /// # Errors
    /// See there.
    pub async fn read_with_sources(
        &self,
        object: &Object,
        range: Range<u64>,
    ) -> Result<(Bytes, Sources), Error> {
        if range.start > range.end || range.end > object.length {
            return Err(Error::OutOfRange {
                path: object.path.clone(),
                length: object.length,
                start: range.start,
                end: range.end,
            });
        }
        let stripes = stripes(range.clone());
        let in_flight_max = self.inner.options.client.pieces_in_flight_max.max(1);
        let mut answers = futures::stream::iter(stripes)
            .map(|range| self.inner.read_in_stripe(object, range))
            .buffered(in_flight_max);
        let Some((first, mut sources)) = answers.try_next().await? else {
            return Ok((Bytes::new(), Sources::default()));
        };
        let length = (range.end - range.start) as usize;
        if first.len() == length {
            return Ok((first, sources));
        }
        let mut joined = BytesMut::with_capacity(length);
        joined.extend_from_slice(&first);
        while let Some((bytes, of_piece)) = answers.try_next().await? {
            sources += of_piece;
            joined.extend_from_slice(&bytes);
        }
        assert_eq!(joined.len(), length, "the pieces cover the range");
        Ok((joined.freeze(), sources))
    }

    /// The object at `path` and all its bytes, of one version: where the version changes on the
    /// way, everything is read again from the new one.
    ///
    /// # Errors
    /// [`Error::VersionChanged`] where it changed more often than the options allow, or workers that
    /// keep metadata for a while know other versions for as long; else as [`Fleet::open`] and [`Fleet::read`].
    pub async fn read_file(&self, path: &str) -> Result<(Object, Bytes), Error> {
        let mut changes = 0;
        loop {
            let object = self.open(path).await?;
            match self.read(&object, 0..object.length).await {
                Ok(bytes) => return Ok((object, bytes)),
                Err(Error::VersionChanged { .. })
                    if changes < self.inner.options.client.version_changes_max =>
                {
                    changes += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// The parts of `range` in each stripe.
fn stripes(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut start = range.start;
    std::iter::from_fn(move || {
        if start >= range.end {
            return None;
        }
        let end = (start / STRIPE_BYTES + 1) * STRIPE_BYTES;
        let part = start..end.min(range.end);
        start = part.end;
        Some(part)
    })
}

impl Inner {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn route(&self, home: u64, stripe: Stripe) -> Route {
        let slot = self.placement.slot_of(home, stripe.0);
        let now = self.now();
        Route::new(
            self.placement.holders(slot),
            self.replicas,
            self.placement.leaving(slot),
            self.options.client.retry_limits(),
            |worker| self.workers[usize::from(worker)].access(now),
        )
    }

    /// The client of `worker`, connected if it was not yet.
    async fn client(&self, worker: MemberIndex) -> Result<&Client, Error> {
        let connection = &self.workers[usize::from(worker)];
        // Retries are the fleet's business: it knows whom else to ask.
        let options = || Options {
            retries_max: 0,
            ..self.options.client.clone()
        };
        connection
            .client
            .get_or_try_init(|| Client::connect(&connection.address, &self.token, options()))
            .await
    }

    async fn read_in_stripe(&self, object: &Object, range: Range<u64>) -> Result<Read, Error> {
        let mut route = self.route(object.id.home, Stripe::of_offset(range.start));
        loop {
            match self.ask_once(&route, object, &range).await {
                Ok(read) => return Ok(read),
                Err(error) => self.wait_to_retry(&mut route, error).await?,
            }
        }
    }

    /// Asks the worker of the route, and a second one beside it if it is late.
    async fn ask_once(
        &self,
        route: &Route,
        object: &Object,
        range: &Range<u64>,
    ) -> Result<Read, Error> {
        let first = pin!(self.ask(route.worker(), object, range));
        let hedging = self.hedging.as_ref().filter(|_| {
            let limits = self.options.hedge.unwrap_or_default();
            range.end - range.start <= limits.bytes_max
        });
        let began = Instant::now();
        let mut delay = hedging.and_then(|hedging| lock(hedging).read_begins());
        if route.is_trial() {
            delay = delay.or(Some(TRIAL_PATIENCE));
        }
        let outcome = match (delay, route.second()) {
            (Some(delay), Some(second)) => {
                let may_ask =
                    || route.is_trial() || hedging.is_some_and(|hedging| lock(hedging).may_hedge());
                let second = || self.ask(second, object, range);
                self.first_answer(first, delay, may_ask, second).await
            }
            _ => first.await,
        };
        if let (Some(hedging), Ok(_)) = (hedging, &outcome) {
            lock(hedging).read_ended(began.elapsed());
        }
        outcome
    }

    /// The answer of `first`, or of `second`, which is asked after `delay` if `may_ask` then says so.
    /// An error counts only when the other one has failed too.
    async fn first_answer<F>(
        &self,
        first: impl Future<Output = Result<Read, Error>> + Unpin,
        delay: Duration,
        may_ask: impl FnOnce() -> bool,
        second: impl FnOnce() -> F,
    ) -> Result<Read, Error>
    where
        F: Future<Output = Result<Read, Error>>,
    {
        let late = pin!(tokio::time::sleep(delay));
        let first = match select(first, late).await {
            Either::Left((outcome, _)) => return outcome,
            Either::Right(((), first)) => first,
        };
        if !may_ask() {
            return first.await;
        }
        // Relaxed here and below: counters order nothing.
        self.hedges.fetch_add(1, Ordering::Relaxed);
        match select(first, pin!(second())).await {
            Either::Left((Ok(read), _)) => Ok(read),
            Either::Left((Err(_), second)) => {
                let outcome = second.await;
                if outcome.is_ok() {
                    self.hedges_won.fetch_add(1, Ordering::Relaxed);
                }
                outcome
            }
            Either::Right((Ok(read), _)) => {
                self.hedges_won.fetch_add(1, Ordering::Relaxed);
                Ok(read)
            }
            Either::Right((Err(_), first)) => first.await,
        }
    }

    async fn ask(
        &self,
        worker: MemberIndex,
        object: &Object,
        range: &Range<u64>,
    ) -> Result<Read, Error> {
        let outcome = async {
            let client = self.client(worker).await?;
            client.read_with_sources(object, range.clone()).await
        }
        .await;
        self.note(worker, &outcome);
        outcome
    }

    /// Takes note of how a request to `worker` ended.
    fn note<T>(&self, worker: MemberIndex, outcome: &Result<T, Error>) {
        let connection = &self.workers[usize::from(worker)];
        match outcome {
            Err(error) if error.is_of_the_connection() => {
                tracing::debug!(address = connection.address, %error, "a worker is avoided");
                self.unreachable.fetch_add(1, Ordering::Relaxed);
                lock(&connection.avoidance).failed(self.now());
            }
            // Whoever refuses is there.
            _ => lock(&connection.avoidance).answered(),
        }
    }

    async fn wait_to_retry(&self, route: &mut Route, error: Error) -> Result<(), Error> {
        // Wrong bytes from one worker may be right at another.
        if !error.is_passing() && !matches!(error, Error::Checksum { .. }) {
            return Err(error);
        }
        let Some(wait) = route.next(error.retry_after(), random::fraction()) else {
            return Err(error);
        };
        tracing::debug!(%error, ?wait, "asking the next worker");
        self.retries.fetch_add(1, Ordering::Relaxed);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here panics halfway through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let addresses = self.inner.workers.iter().map(|worker| &worker.address);
        formatter
            .debug_struct("Fleet")
            .field("workers", &addresses.collect::<Vec<_>>())
            .field("replicas", &self.inner.replicas)
            .field("counters", &self.counters())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_can_run_on_a_runtime_of_many_threads() {
        fn sendable<F: Future + Send>(_: impl Fn(Fleet, Object) -> F) {}
        sendable(|fleet, object| async move { fleet.read_with_sources(&object, 0..1).await });
        sendable(|fleet, object| async move { fleet.read_file(&object.path).await });
    }

    #[test]
    fn ranges_are_cut_at_stripes() {
        let cut = |range| stripes(range).collect::<Vec<_>>();
        assert!(cut(5..5).is_empty());
        let (first, second) = (STRIPE_BYTES, 2 * STRIPE_BYTES);
        assert_eq!(cut(0..second), [0..first, first..second]);
        assert_eq!(
            cut(first - 1..second + 1),
            [first - 1..first, first..second, second..second + 1]
        );
    }
}

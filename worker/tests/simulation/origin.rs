//! The under-store of a simulated world: objects with versions that come and go in virtual time.
//!
//! It may call other bytes by a version that it used before, with another length or the same, and answer a
//! length that is none of the object's: stores do. Some of its versions are weak ETags.
//!
//! An [`Origin`] outlives workers; each shard talks to it through a [`SimOrigin`] of its own,
//! which dies with its core. Every failure that it answers is written down, so that the oracle can
//! ask for the reason of every error that a client sees. The invariant is that of the trait: bytes
//! handed over are of exactly what was asked for, by version, length and (of a weak ETag) time.
//!
//! It also checks what the trait promises to a real store: leases that are the pages of the range,
//! ranges within one stripe, and no block asked for twice at once.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use corelane_io::sim::{Prng, SimIo};
use corelane_io::{Io, Nanos, PAGE_SIZE, Priority, RemoteLease};
use corelane_rpc_schema::{ObjectId, STRIPE_BYTES};
use corelane_worker::mount::Mount;
use corelane_worker::object::ObjectMeta;
use corelane_worker::under_store::{
    Event, Job, JobId, LEASE_PAGES_MAX, Request, UnderStore, UnderStoreError, UnderStoreErrorKind,
    path_key,
};

use crate::content;

/// How the store behaves. Probabilities are per job.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// Time to the first byte.
    pub latency_ns: (u64, u64),
    /// Time for each lease of bytes.
    pub lease_ns: (u64, u64),
    /// A job fails, with any kind of error, at any place.
    pub failure: f64,
    /// A job is given back.
    pub refusal: f64,
    /// Most jobs of one shard; more are given back.
    pub jobs_max: usize,
    /// An answer that has begun goes on with the old version after an overwrite, as object stores
    /// do; else it ends with "version changed", as the file store does.
    pub is_snapshot: f64,
    /// Most bytes of one fetch.
    pub fetch_bytes_max: u64,
    /// A describe answers another length than the object has.
    pub lie: f64,
    /// A fetch is given up at once, and goes on all the same.
    pub silence: f64,
}

impl Behaviour {
    /// Nothing fails.
    pub fn calm() -> Self {
        Behaviour {
            latency_ns: (200_000, 2_000_000),
            lease_ns: (2_000, 30_000),
            failure: 0.0,
            refusal: 0.0,
            jobs_max: 1024,
            is_snapshot: 0.5,
            fetch_bytes_max: STRIPE_BYTES,
            lie: 0.0,
            silence: 0.0,
        }
    }
}

/// One version of an object and when it was the current one.
#[derive(Clone, Copy, Debug)]
pub struct Version {
    /// Counts from 1 for each object; its bytes follow from it.
    pub number: u32,
    /// What the store calls it by: mostly its number, else that of a version before it.
    pub label: u32,
    /// Bytes.
    pub length: u64,
    /// Since when.
    pub since: Nanos,
    /// Until when, exclusively; `None`: it still is.
    pub until: Option<Nanos>,
}

impl Version {
    /// When it was modified, as the store says.
    pub fn last_modified_ms(&self) -> u64 {
        1_000_000 + u64::from(self.number)
    }

    /// Whether a worker that knows this version, length and time means it.
    pub fn is_meant_by(&self, label: u32, length: u64, last_modified_ms: u64) -> bool {
        self.label == label
            && self.length == length
            && (!is_weak(label) || self.last_modified_ms() == last_modified_ms)
    }

    /// Whether it was current at some time in `window`.
    pub fn was_current(&self, window: &Range<Nanos>) -> bool {
        self.since <= window.end && self.until.is_none_or(|until| until > window.start)
    }
}

/// A failure that was answered.
#[derive(Clone, Debug)]
pub struct Failed {
    /// When.
    pub at: Nanos,
    /// Which object.
    pub uri: String,
    /// How.
    pub kind: UnderStoreErrorKind,
}

struct State {
    prng: Prng,
    objects: RefCell<BTreeMap<String, Vec<Version>>>,
    behaviour: RefCell<Behaviour>,
    is_away: Cell<bool>,
    failed: RefCell<Vec<Failed>>,
    refused: RefCell<Vec<Nanos>>,
    lies: RefCell<Vec<(String, u32, u64)>>,
    fetches: RefCell<BTreeMap<ObjectId, u64>>,
    fetched_at: RefCell<BTreeMap<ObjectId, Nanos>>,
    describes: Cell<u64>,
}

/// The store. A handle.
#[derive(Clone)]
pub struct Origin(Rc<State>);

impl Origin {
    /// An empty store that `seed` decides.
    pub fn new(seed: u64, behaviour: Behaviour) -> Self {
        Origin(Rc::new(State {
            prng: Prng::new(seed ^ 0x6f72_6967_696e),
            objects: RefCell::default(),
            behaviour: RefCell::new(behaviour),
            is_away: Cell::new(false),
            failed: RefCell::default(),
            refused: RefCell::default(),
            lies: RefCell::default(),
            fetches: RefCell::default(),
            fetched_at: RefCell::default(),
            describes: Cell::new(0),
        }))
    }

    /// Puts an object, or another version of it; gives its number.
    pub fn put(&self, uri: &str, length: u64, now: Nanos) -> u32 {
        self.put_as(uri, None, length, now)
    }

    /// The same under the name of an earlier version, if one is given.
    pub fn put_as(&self, uri: &str, label: Option<u32>, length: u64, now: Nanos) -> u32 {
        let mut objects = self.0.objects.borrow_mut();
        let versions = objects.entry(uri.to_owned()).or_default();
        if let Some(last) = versions.last_mut() {
            last.until.get_or_insert(now);
        }
        let number = versions.len() as u32 + 1;
        versions.push(Version {
            number,
            label: label.unwrap_or(number),
            length,
            since: now,
            until: None,
        });
        number
    }

    /// Removes an object.
    pub fn delete(&self, uri: &str, now: Nanos) {
        if let Some(last) = self
            .0
            .objects
            .borrow_mut()
            .get_mut(uri)
            .and_then(|versions| versions.last_mut())
        {
            last.until.get_or_insert(now);
        }
    }

    /// From now on every job fails as unavailable, or not any more.
    pub fn set_away(&self, is_away: bool) {
        self.0.is_away.set(is_away);
    }

    /// Changes how the store behaves.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        *self.0.behaviour.borrow_mut() = behaviour;
    }

    /// The current version.
    pub fn current(&self, uri: &str) -> Option<Version> {
        let objects = self.0.objects.borrow();
        let last = objects.get(uri)?.last()?;
        last.until.is_none().then_some(*last)
    }

    /// All that a worker may mean that knows the object at `uri` with this version, length and time.
    pub fn meant_by(&self, uri: &str, label: u32, length: u64, modified_ms: u64) -> Vec<Version> {
        let objects = self.0.objects.borrow();
        let versions = objects.get(uri).into_iter().flatten();
        versions
            .filter(|version| version.is_meant_by(label, length, modified_ms))
            .copied()
            .collect()
    }

    /// Whether a length was answered for this version that it had not.
    pub fn lied(&self, uri: &str, label: u32, length: u64) -> bool {
        let lies = self.0.lies.borrow();
        lies.iter()
            .any(|lie| lie.0 == uri && (lie.1, lie.2) == (label, length))
    }

    /// Lies so far.
    pub fn lies(&self) -> usize {
        self.0.lies.borrow().len()
    }

    /// Versions of all objects so far.
    pub fn versions(&self) -> usize {
        self.0.objects.borrow().values().map(Vec::len).sum()
    }

    /// The failures that were answered since `since`.
    pub fn failed_since(&self, uri: &str, since: Nanos) -> Vec<UnderStoreErrorKind> {
        let failed = self.0.failed.borrow();
        let recent = failed.iter().rev().take_while(|failed| failed.at >= since);
        recent
            .filter(|failed| failed.uri == uri)
            .map(|failed| failed.kind)
            .collect()
    }

    /// Whether a job was given back since `since`.
    pub fn refused_since(&self, since: Nanos) -> bool {
        self.0
            .refused
            .borrow()
            .last()
            .is_some_and(|last| *last >= since)
    }

    /// Ranged requests for `object` so far.
    pub fn fetches_of(&self, object: ObjectId) -> u64 {
        self.0.fetches.borrow().get(&object).copied().unwrap_or(0)
    }

    /// Ranged requests so far.
    pub fn fetches(&self) -> u64 {
        self.0.fetches.borrow().values().sum()
    }

    /// Requests for metadata so far.
    pub fn describes(&self) -> u64 {
        self.0.describes.get()
    }

    /// When a fetch of `object` was last under way.
    pub fn fetched_at(&self, object: ObjectId) -> Option<Nanos> {
        self.0.fetched_at.borrow().get(&object).copied()
    }

    /// The end of one shard.
    pub fn end_for(&self, io: SimIo, under_way: Rc<UnderWay>) -> SimOrigin {
        SimOrigin {
            origin: self.clone(),
            io,
            events: Rc::default(),
            jobs: Rc::default(),
            under_way,
        }
    }

    fn fail(&self, at: Nanos, uri: &str, kind: UnderStoreErrorKind) -> UnderStoreError {
        self.0.failed.borrow_mut().push(Failed {
            at,
            uri: uri.to_owned(),
            kind,
        });
        UnderStoreError {
            kind,
            uri: uri.to_owned(),
            message: "the simulation says so".to_owned(),
        }
    }

    fn draw_failure(&self) -> Option<UnderStoreErrorKind> {
        let failure = self.0.behaviour.borrow().failure;
        let kinds = [
            UnderStoreErrorKind::NotFound,
            UnderStoreErrorKind::VersionChanged,
            UnderStoreErrorKind::Denied,
            UnderStoreErrorKind::Unavailable,
            UnderStoreErrorKind::Malformed,
            UnderStoreErrorKind::Invalid,
        ];
        let prng = &self.0.prng;
        prng.chance(failure)
            .then(|| kinds[prng.below(kinds.len() as u64) as usize])
    }
}

/// What one start of a worker is fetching, over all of its shards.
#[derive(Debug, Default)]
pub struct UnderWay {
    ranges: RefCell<Vec<(ObjectId, Range<u64>)>>,
    /// What was freed: nobody joins what was on its way then, so that it may be asked for beside that.
    freed: RefCell<HashSet<ObjectId>>,
}

impl UnderWay {
    /// To be called before the worker is told to free an object.
    pub fn about_to_free(&self, object: ObjectId) {
        self.freed.borrow_mut().insert(object);
    }

    fn begin(&self, object: ObjectId, range: &Range<u64>) {
        if self.freed.borrow().contains(&object) {
            return;
        }
        let mut ranges = self.ranges.borrow_mut();
        for (other, taken) in ranges.iter().filter(|(other, _)| *other == object) {
            assert!(
                range.end <= taken.start || taken.end <= range.start,
                "{other}: {range:?} is asked for while {taken:?} is under way"
            );
        }
        ranges.push((object, range.clone()));
    }

    /// Bytes before `start` have come: their blocks may be asked for again.
    fn advance(&self, object: ObjectId, end: u64, start: u64) {
        for (other, taken) in self.ranges.borrow_mut().iter_mut() {
            if *other == object && taken.end == end {
                taken.start = start;
            }
        }
    }

    fn end(&self, object: ObjectId, end: u64) {
        self.ranges
            .borrow_mut()
            .retain(|(other, taken)| *other != object || taken.end != end);
    }

    /// Fetches under way.
    pub fn len(&self) -> usize {
        self.ranges.borrow().len()
    }
}

/// One shard's way to the store.
#[derive(Clone)]
pub struct SimOrigin {
    origin: Origin,
    io: SimIo,
    events: Rc<RefCell<VecDeque<Event>>>,
    jobs: Rc<Cell<usize>>,
    under_way: Rc<UnderWay>,
}

impl UnderStore for SimOrigin {
    fn submit(&self, job: Job) -> Result<(), Job> {
        let behaviour = self.origin.0.behaviour.borrow().clone();
        let is_refused = self.origin.0.prng.chance(behaviour.refusal);
        if is_refused || self.jobs.get() >= behaviour.jobs_max {
            self.origin.0.refused.borrow_mut().push(self.io.now());
            return Err(job);
        }
        self.jobs.set(self.jobs.get() + 1);
        let end = self.clone();
        self.io.spawn(Priority::Background, async move {
            end.run(job, behaviour).await;
        });
        Ok(())
    }

    fn next_event(&self) -> Option<Event> {
        self.events.borrow_mut().pop_front()
    }

    fn fetch_bytes_max(&self) -> u64 {
        self.origin.0.behaviour.borrow().fetch_bytes_max
    }
}

impl SimOrigin {
    async fn run(self, job: Job, behaviour: Behaviour) {
        let Job { id, mount, request } = job;
        match request {
            Request::Describe { path } => {
                let result = self.describe(&mount, &path, &behaviour).await;
                self.jobs.set(self.jobs.get() - 1);
                self.post(Event::Described { id, result });
            }
            Request::Fetch {
                object,
                range,
                leases,
            } => {
                check_leases(&object, &range, &leases, &behaviour);
                let is_silent = self.origin.0.prng.chance(behaviour.silence);
                if is_silent {
                    let error = self.fail(&object.uri, UnderStoreErrorKind::Unavailable);
                    self.post(Event::Stalled { id, error });
                } else {
                    // Of what was given up another fetch may begin.
                    self.under_way.begin(object.id, &range);
                }
                *self
                    .origin
                    .0
                    .fetches
                    .borrow_mut()
                    .entry(object.id)
                    .or_default() += 1;
                let mut leases = VecDeque::from(leases);
                let result = self
                    .fetch(id, &object, &range, &mut leases, &behaviour)
                    .await;
                if !is_silent {
                    self.under_way.end(object.id, range.end);
                }
                self.origin
                    .0
                    .fetched_at
                    .borrow_mut()
                    .insert(object.id, self.io.now());
                self.jobs.set(self.jobs.get() - 1);
                self.post(Event::Finished {
                    id,
                    result,
                    unused: leases.into(),
                });
            }
        }
    }

    fn post(&self, event: Event) {
        self.events.borrow_mut().push_back(event);
        self.io.doorbell().ring();
    }

    async fn wait(&self, nanoseconds: (u64, u64)) {
        let wait = self.origin.0.prng.between(nanoseconds.0, nanoseconds.1);
        self.io.sleep(Duration::from_nanos(wait)).await;
    }

    fn fail(&self, uri: &str, kind: UnderStoreErrorKind) -> UnderStoreError {
        self.origin.fail(self.io.now(), uri, kind)
    }

    async fn describe(
        &self,
        mount: &Mount,
        path: &str,
        behaviour: &Behaviour,
    ) -> Result<Arc<ObjectMeta>, UnderStoreError> {
        let origin = &self.origin.0;
        origin.describes.set(origin.describes.get() + 1);
        let uri = mount.uri_of(path);
        self.wait(behaviour.latency_ns).await;
        if self.origin.0.is_away.get() {
            return Err(self.fail(&uri, UnderStoreErrorKind::Unavailable));
        }
        if let Some(kind) = self.origin.draw_failure() {
            return Err(self.fail(&uri, kind));
        }
        let current = self.origin.current(&uri);
        // The answer travels while the object may change.
        self.wait(behaviour.latency_ns).await;
        let Some(version) = current else {
            return Err(self.fail(&uri, UnderStoreErrorKind::NotFound));
        };
        let path_key = path_key(mount, path).expect("the simulation's paths are valid");
        let text = version_text(version.label);
        let mut length = version.length;
        if origin.prng.chance(behaviour.lie) {
            length = match origin.prng.below(3) {
                0 => length / 2,
                1 => length + 1 + origin.prng.below(1 << 20),
                _ => (1 << 30) + origin.prng.below(1 << 20),
            };
            if length != version.length {
                let lie = (uri.clone(), version.label, length);
                origin.lies.borrow_mut().push(lie);
            }
        }
        let last_modified_ms = version.last_modified_ms();
        Ok(Arc::new(ObjectMeta {
            id: ObjectMeta::id_of(
                &path_key,
                &text,
                length,
                last_modified_ms,
                mount.block_bytes,
            ),
            path_key,
            uri,
            version: text,
            length,
            last_modified_ms,
            block_bytes: mount.block_bytes,
            content_type: String::new(),
            headers: String::new(),
        }))
    }

    async fn fetch(
        &self,
        id: JobId,
        object: &ObjectMeta,
        range: &Range<u64>,
        leases: &mut VecDeque<RemoteLease>,
        behaviour: &Behaviour,
    ) -> Result<(), UnderStoreError> {
        let failure = self.origin.draw_failure();
        let fails_at = self.origin.0.prng.below(leases.len() as u64 + 1) as usize;
        let is_snapshot = self.origin.0.prng.chance(behaviour.is_snapshot);
        self.wait(behaviour.latency_ns).await;
        let mut current = self.current_as(object)?;
        let mut offset = range.start;
        let count = leases.len();
        for place in 0..=count {
            if let Some(kind) = failure
                && place == fails_at
            {
                return Err(self.fail(&object.uri, kind));
            }
            if place == count {
                break;
            }
            self.wait(behaviour.lease_ns).await;
            if self.origin.0.is_away.get() {
                return Err(self.fail(&object.uri, UnderStoreErrorKind::Unavailable));
            }
            if !is_snapshot {
                current = self.current_as(object)?;
            }
            let number = current.number;
            let mut lease = leases.pop_front().expect("counted above");
            let checksums = fill_lease(&mut lease, object, number, offset, range.end);
            offset += lease.len() as u64;
            let start = offset.min(range.end);
            self.under_way.advance(object.id, range.end, start);
            self.post(Event::Filled {
                id,
                lease,
                checksums,
            });
        }
        Ok(())
    }

    /// The current version, if it is what is meant by `object`: what `If-Match` does, and the comparison of
    /// the answer's length and time.
    fn current_as(&self, object: &ObjectMeta) -> Result<Version, UnderStoreError> {
        let uri = object.uri.as_str();
        if self.origin.0.is_away.get() {
            return Err(self.fail(uri, UnderStoreErrorKind::Unavailable));
        }
        let label = version_number(&object.version);
        match self.origin.current(uri) {
            Some(current) if current.is_meant_by(label, object.length, object.last_modified_ms) => {
                Ok(current)
            }
            Some(_) => Err(self.fail(uri, UnderStoreErrorKind::VersionChanged)),
            None => Err(self.fail(uri, UnderStoreErrorKind::NotFound)),
        }
    }
}

fn check_leases(
    object: &ObjectMeta,
    range: &Range<u64>,
    leases: &[RemoteLease],
    behaviour: &Behaviour,
) {
    let page = PAGE_SIZE as u64;
    assert!(
        range.start.is_multiple_of(page) && range.start < range.end && range.end <= object.length,
        "{range:?} of {object:?}"
    );
    assert_eq!(
        range.start / STRIPE_BYTES,
        (range.end - 1) / STRIPE_BYTES,
        "{range:?} crosses a stripe"
    );
    let bytes: u64 = leases.iter().map(|lease| lease.len() as u64).sum();
    assert_eq!(
        bytes,
        (range.end - range.start).next_multiple_of(page),
        "the leases are the pages of {range:?}"
    );
    assert!(
        range.end - range.start <= behaviour.fetch_bytes_max.max(u64::from(object.block_bytes)),
        "{range:?} is more than one fetch may ask for"
    );
}

fn fill_lease(
    lease: &mut RemoteLease,
    object: &ObjectMeta,
    number: u32,
    offset: u64,
    end: u64,
) -> [u32; LEASE_PAGES_MAX] {
    let memory = lease.bytes_mut();
    let wanted = (end - offset).min(memory.len() as u64) as usize;
    content::fill(&object.uri, number, offset, &mut memory[..wanted]);
    memory[wanted..].fill(0);
    let mut checksums = [0; LEASE_PAGES_MAX];
    for (page, checksum) in memory.chunks_exact(PAGE_SIZE).zip(&mut checksums) {
        *checksum = crc32c::crc32c(page);
    }
    checksums
}

/// Whether the store gives the versions with this label weak ETags: every fourth.
fn is_weak(label: u32) -> bool {
    label % 4 == 3
}

/// The ETag of the versions with this label.
pub fn version_text(label: u32) -> String {
    let weak = if is_weak(label) { "W/" } else { "" };
    format!("{weak}\"v{label}\"")
}

/// The label of the versions that are called `text`.
///
/// # Panics
/// If the store calls none so.
pub fn version_number(text: &str) -> u32 {
    let digits = text
        .trim_start_matches("W/")
        .trim_matches('"')
        .strip_prefix('v');
    let number = digits.and_then(|digits| digits.parse().ok());
    number.unwrap_or_else(|| panic!("{text} is no version of this store"))
}

//! Misses: how blocks come in from the under-store.
//!
//! A [`Fill`] is one block on its way. There is at most one a block (single-flight); everyone who
//! wants the block waits on the same one and goes on as soon as the pages that it needs are there.
//! The dispatcher collects the fills that were asked for in one turn, joins neighbours of a stripe
//! into one ranged request, and bounds the memory that fills hold.
//!
//! The invariant: a page of a fill is readable only when its bytes have come and its checksum was
//! taken from exactly them.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use corelane_io::{Frame, Io, PAGE_SIZE};
use corelane_rpc_schema::messages::{ErrorCode, ErrorMessage};
use corelane_rpc_schema::{BlockId, Stripe};

use super::metadata::Known;
use super::read::error;
use super::signal::{Signal, WaitList};
use super::{Shard, Tuning};
use crate::cache::frames::{CachedFrame, FRAME_BYTES, FRAME_PAGES, FrameKey};
use crate::cache::hashing::IdMap;
use crate::mount::Admission;
use crate::store::{NewBlock, NotKept};
use crate::under_store::{
    Event, Job, JobId, LEASE_PAGES_MAX, Request, UnderStore, UnderStoreError, UnderStoreErrorKind,
};

/// Pages a lease of a fill has: a waiting read goes on at this granularity. A quarter of a frame
/// keeps the first bytes early and the events few (64 a block of 1 MiB).
const LEASE_PAGES: usize = 4;

/// Most blocks that wait for memory; beyond it reads are answered "busy".
const QUEUE_BLOCKS_MAX: usize = 4096;

/// Why a fill failed.
#[derive(Clone, Debug)]
pub enum FillFailure {
    /// The under-store's answer.
    UnderStore(UnderStoreError),
    /// A bound of this shard; the text names it.
    Busy(&'static str),
    /// No mount covers the object any more.
    NoMount(String),
}

impl FillFailure {
    /// What the client is told.
    pub fn to_message(&self) -> ErrorMessage {
        match self {
            FillFailure::UnderStore(failure) => under_store_error(failure),
            FillFailure::Busy(what) => error(ErrorCode::Busy, *what),
            FillFailure::NoMount(uri) => error(
                ErrorCode::NoMount,
                format!("no mount covers {uri} any more"),
            ),
        }
    }
}

/// What the client is told of a failure of the under-store.
pub(crate) fn under_store_error(failure: &UnderStoreError) -> ErrorMessage {
    let code = match failure.kind {
        UnderStoreErrorKind::NotFound => ErrorCode::NotFound,
        UnderStoreErrorKind::VersionChanged => ErrorCode::VersionChanged,
        UnderStoreErrorKind::Invalid => ErrorCode::Invalid,
        UnderStoreErrorKind::Denied
        | UnderStoreErrorKind::Unavailable
        | UnderStoreErrorKind::Malformed => ErrorCode::UnderStore,
    };
    error(code, failure.to_string())
}

#[derive(Debug)]
enum Progress {
    UnderWay,
    Done,
    Failed(FillFailure),
}

/// One block on its way in.
#[derive(Debug)]
pub struct Fill {
    known: Rc<Known>,
    index: u32,
    /// Set when the fill is dispatched.
    frames: OnceCell<Vec<Frame>>,
    checksums: RefCell<Vec<u32>>,
    progress: RefCell<Progress>,
    waiters: WaitList,
    /// Whether somebody wants it on the device whatever the admission policy says.
    is_wanted_on_device: Cell<bool>,
    /// Whether the device's store took it.
    was_kept: Cell<bool>,
}

impl Fill {
    fn new(known: Rc<Known>, index: u32) -> Self {
        Fill {
            known,
            index,
            frames: OnceCell::new(),
            checksums: RefCell::default(),
            progress: RefCell::new(Progress::UnderWay),
            waiters: WaitList::default(),
            is_wanted_on_device: Cell::new(false),
            was_kept: Cell::new(false),
        }
    }

    fn block(&self) -> BlockId {
        self.known.meta.block(self.index)
    }

    fn length(&self) -> u32 {
        self.known.meta.block_length(self.index)
    }

    fn pages(&self) -> usize {
        (self.length() as usize).div_ceil(PAGE_SIZE)
    }

    /// Resolves when the first `pages` pages of the block are readable.
    ///
    /// # Errors
    /// When they will not be.
    pub async fn until_filled(&self, pages: usize) -> Result<(), FillFailure> {
        self.waiters
            .until(|| {
                if self.checksums.borrow().len() >= pages {
                    return Some(Ok(()));
                }
                match &*self.progress.borrow() {
                    Progress::UnderWay => None,
                    Progress::Done => panic!(
                        "a done fill has all pages: wanted {pages} of {}",
                        self.pages()
                    ),
                    Progress::Failed(failure) => Some(Err(failure.clone())),
                }
            })
            .await
    }

    /// Resolves when the block is complete; whether the device's store took it.
    ///
    /// # Errors
    /// When it will not be complete.
    pub async fn until_done(&self) -> Result<bool, FillFailure> {
        self.waiters
            .until(|| match &*self.progress.borrow() {
                Progress::UnderWay => None,
                Progress::Done => Some(Ok(self.was_kept.get())),
                Progress::Failed(failure) => Some(Err(failure.clone())),
            })
            .await
    }

    /// Frame `index` of the block.
    ///
    /// # Panics
    /// Before a page of the fill is readable.
    pub fn frame(&self, index: usize) -> &Frame {
        &self
            .frames
            .get()
            .expect("a fill with readable pages has frames")[index]
    }

    /// Appends the checksums of `pages` of the block, which are readable.
    pub fn append_checksums(&self, pages: std::ops::Range<usize>, out: &mut Vec<u32>) {
        out.extend_from_slice(&self.checksums.borrow()[pages]);
    }

    /// Asks that the block be kept on the device whatever the admission policy says.
    pub fn want_on_device(&self) {
        self.is_wanted_on_device.set(true);
    }

    fn end(&self, progress: Progress) {
        *self.progress.borrow_mut() = progress;
        self.waiters.wake_all();
    }
}

/// One ranged request: the fills that it serves, in order, and where it is.
struct FetchJob {
    fills: Vec<Rc<Fill>>,
    /// Number of the fill that the next lease is of.
    current: usize,
}

/// The fills of a shard.
pub struct Fills {
    by_block: RefCell<IdMap<BlockId, Rc<Fill>>>,
    queue: RefCell<VecDeque<Rc<Fill>>>,
    has_queued: Signal,
    jobs: RefCell<HashMap<JobId, FetchJob>>,
    next_job: Cell<u64>,
    frames_held: Cell<usize>,
    frames_held_max: usize,
    frames_released: WaitList,
    /// Fingerprints of blocks that were fetched and not admitted, for `second-touch`.
    touched_once: RefCell<Vec<u32>>,
}

impl Fills {
    /// No fills yet, for a tier of `tier_frames`.
    pub fn new(tuning: &Tuning, tier_frames: usize) -> Self {
        Fills {
            by_block: RefCell::default(),
            queue: RefCell::default(),
            has_queued: Signal::default(),
            jobs: RefCell::default(),
            next_job: Cell::new(1),
            frames_held: Cell::new(0),
            frames_held_max: (tier_frames * tuning.fill_percent_max / 100).max(1),
            frames_released: WaitList::default(),
            touched_once: RefCell::new(vec![0; tuning.index_blocks.next_power_of_two()]),
        }
    }

    /// An id for a job of any kind.
    pub fn next_job_id(&self) -> JobId {
        let id = self.next_job.get();
        self.next_job.set(id + 1);
        JobId(id)
    }

    /// Blocks on their way.
    pub fn len(&self) -> usize {
        self.by_block.borrow().len()
    }

    /// Whether no block is on its way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether fills hold or wait for half of what they may: no time for guesses.
    pub fn is_crowded(&self) -> bool {
        self.frames_held.get() * 2 > self.frames_held_max
            || self.queue.borrow().len() * 2 > QUEUE_BLOCKS_MAX
    }

    /// Whether the block is on its way.
    pub fn is_under_way(&self, block: BlockId) -> bool {
        self.by_block.borrow().contains_key(&block)
    }

    /// Whether the block was fetched before, not long ago; notes that it was now.
    fn is_second_touch(&self, block: BlockId) -> bool {
        let mut table = self.touched_once.borrow_mut();
        let hash =
            (block.object.version ^ u64::from(block.index)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let place = (hash >> 16) as usize & (table.len() - 1);
        let fingerprint = (hash >> 32) as u32 | 1;
        let is_known = table[place] == fingerprint;
        table[place] = if is_known { 0 } else { fingerprint };
        is_known
    }
}

impl<I: Io, U: UnderStore> Shard<I, U> {
    /// The fill of block `index`, started if it is not under way.
    pub(crate) fn fill(&self, known: &Rc<Known>, index: u32) -> Rc<Fill> {
        let block = known.meta.block(index);
        if let Some(fill) = self.fills.by_block.borrow().get(&block) {
            self.counters.fills_joined.increase();
            return Rc::clone(fill);
        }
        let fill = Rc::new(Fill::new(Rc::clone(known), index));
        let mut queue = self.fills.queue.borrow_mut();
        if queue.len() >= QUEUE_BLOCKS_MAX {
            let busy =
                FillFailure::Busy("too many blocks wait for memory to be fetched into; retry");
            fill.end(Progress::Failed(busy));
            return fill;
        }
        queue.push_back(Rc::clone(&fill));
        self.fills
            .by_block
            .borrow_mut()
            .insert(block, Rc::clone(&fill));
        self.fills.has_queued.set();
        fill
    }

    /// Turns queued fills into requests, for as long as the shard lives.
    pub(crate) async fn dispatch_fills(self: Rc<Self>) {
        loop {
            self.fills.has_queued.wait().await;
            // Whoever else misses in this turn may be a neighbour.
            self.io.yield_now().await;
            loop {
                let run = self.next_run();
                if run.is_empty() {
                    break;
                }
                self.dispatch(run).await;
            }
        }
    }

    /// The first queued fill and its queued neighbours that fit one request.
    fn next_run(&self) -> Vec<Rc<Fill>> {
        let mut queue = self.fills.queue.borrow_mut();
        let Some(first) = queue.pop_front() else {
            return Vec::new();
        };
        let block_bytes = first.known.meta.block_bytes;
        let stripe = Stripe::of_block(first.index, block_bytes);
        let bytes_max = self.under_store.fetch_bytes_max().min(
            // A request never needs more memory than fills may hold.
            (self.fills.frames_held_max * FRAME_BYTES) as u64,
        );
        let blocks_max = (bytes_max / u64::from(block_bytes)).max(1) as usize;
        let mut neighbours: Vec<Rc<Fill>> = Vec::new();
        queue.retain(|fill| {
            let is_neighbour = fill.known.meta.id == first.known.meta.id
                && Stripe::of_block(fill.index, block_bytes) == stripe;
            if is_neighbour {
                neighbours.push(Rc::clone(fill));
            }
            !is_neighbour
        });
        neighbours.push(first);
        neighbours.sort_unstable_by_key(|fill| fill.index);
        let run_length = neighbours
            .windows(2)
            .take(blocks_max - 1)
            .take_while(|pair| pair[1].index == pair[0].index + 1)
            .count()
            + 1;
        for fill in neighbours.split_off(run_length).into_iter().rev() {
            queue.push_front(fill);
        }
        neighbours
    }

    async fn dispatch(&self, run: Vec<Rc<Fill>>) {
        let frames: usize = run
            .iter()
            .map(|fill| fill.pages().div_ceil(FRAME_PAGES))
            .sum();
        let fills = &self.fills;
        if !fills.is_empty() && fills.frames_held.get() + frames > fills.frames_held_max {
            fills
                .frames_released
                .until(|| {
                    let held = fills.frames_held.get();
                    (held == 0 || held + frames <= fills.frames_held_max).then_some(())
                })
                .await;
        }
        let mut leases = Vec::with_capacity(frames * FRAME_PAGES / LEASE_PAGES);
        for (number, fill) in run.iter().enumerate() {
            let mut of_block = Vec::with_capacity(fill.pages().div_ceil(FRAME_PAGES));
            for first_page in (0..fill.pages()).step_by(FRAME_PAGES) {
                let taken = self.until_memory(|| self.tier.borrow_mut().take()).await;
                let Some(frame) = taken else {
                    let busy =
                        FillFailure::Busy("no memory to fetch into came free in time; retry");
                    self.fail(&run[number..], &busy);
                    self.fail(&run[..number], &busy);
                    return;
                };
                let pages = (fill.pages() - first_page).min(FRAME_PAGES);
                for start in (0..pages).step_by(LEASE_PAGES) {
                    let end = (start + LEASE_PAGES).min(pages);
                    leases.push(
                        frame
                            .lease(start..end)
                            .expect("a fresh frame is vacant")
                            .into_remote(),
                    );
                }
                of_block.push(frame);
            }
            fills
                .frames_held
                .set(fills.frames_held.get() + of_block.len());
            fill.frames
                .set(of_block)
                .expect("a fill is dispatched once");
        }
        self.submit(run, leases);
    }

    fn submit(&self, run: Vec<Rc<Fill>>, leases: Vec<corelane_io::RemoteLease>) {
        let (first, last) = (&run[0], &run[run.len() - 1]);
        let meta = &first.known.meta;
        let start = u64::from(first.index) * u64::from(meta.block_bytes);
        let end = u64::from(last.index) * u64::from(meta.block_bytes) + u64::from(last.length());
        let mount = self.mounts.borrow().get(first.known.mount.get()).cloned();
        let Some(mount) = mount else {
            self.take_back_all(leases);
            self.fail(&run, &FillFailure::NoMount(meta.uri.clone()));
            return;
        };
        let id = self.fills.next_job_id();
        let request = Request::Fetch {
            object: std::sync::Arc::clone(meta),
            range: start..end,
            leases,
        };
        self.fills.jobs.borrow_mut().insert(
            id,
            FetchJob {
                fills: run,
                current: 0,
            },
        );
        self.counters.fetches.increase();
        if let Err(job) = self.under_store.submit(Job { id, mount, request }) {
            let FetchJob { fills, .. } = self
                .fills
                .jobs
                .borrow_mut()
                .remove(&id)
                .expect("just put in");
            if let Request::Fetch { leases, .. } = job.request {
                self.take_back_all(leases);
            }
            self.fail(
                &fills,
                &FillFailure::Busy("too many requests to the under-store are waiting; retry"),
            );
        }
    }

    fn take_back_all(&self, leases: Vec<corelane_io::RemoteLease>) {
        let pool = self.tier.borrow().pool().clone();
        for lease in leases {
            drop(pool.take_back(lease));
        }
    }

    /// Handles what the under-store says.
    pub(crate) fn on_under_store_event(&self, event: Event) {
        match event {
            Event::Described { id, result } => self.on_described(id, result),
            Event::Filled {
                id,
                lease,
                checksums,
            } => self.on_filled(id, lease, &checksums),
            Event::Finished { id, result, unused } => self.on_finished(id, result, unused),
        }
    }

    fn on_filled(
        &self,
        id: JobId,
        lease: corelane_io::RemoteLease,
        checksums: &[u32; LEASE_PAGES_MAX],
    ) {
        let pool = self.tier.borrow().pool().clone();
        let pages = lease.len() / PAGE_SIZE;
        pool.take_back(lease).seal();
        self.counters.fetched_bytes.add((pages * PAGE_SIZE) as u64);
        let mut jobs = self.fills.jobs.borrow_mut();
        let job = jobs
            .get_mut(&id)
            .expect("leases come back while their job is under way");
        let fill = Rc::clone(&job.fills[job.current]);
        fill.checksums
            .borrow_mut()
            .extend_from_slice(&checksums[..pages]);
        let filled = fill.checksums.borrow().len();
        assert!(
            filled <= fill.pages(),
            "{} has {} pages, {filled} came",
            fill.block(),
            fill.pages()
        );
        if filled == fill.pages() {
            job.current += 1;
            drop(jobs);
            self.complete(&fill);
        } else {
            fill.waiters.wake_all();
        }
    }

    fn on_finished(
        &self,
        id: JobId,
        result: Result<(), UnderStoreError>,
        unused: Vec<corelane_io::RemoteLease>,
    ) {
        let job = self
            .fills
            .jobs
            .borrow_mut()
            .remove(&id)
            .expect("a job finishes once");
        let is_complete = job.current == job.fills.len();
        assert!(
            result.is_err() || (unused.is_empty() && is_complete),
            "a successful fetch filled everything"
        );
        self.take_back_all(unused);
        if let Err(failure) = result {
            self.counters.fetches_failed.increase();
            if failure.kind == UnderStoreErrorKind::VersionChanged {
                self.on_version_changed(&job.fills[0].known);
            }
            tracing::warn!(shard = self.id.0, %failure, "fetch failed");
            self.fail(&job.fills[job.current..], &FillFailure::UnderStore(failure));
        }
    }

    fn fail(&self, fills: &[Rc<Fill>], failure: &FillFailure) {
        for fill in fills {
            self.fills.by_block.borrow_mut().remove(&fill.block());
            self.release_frames(fill);
            fill.end(Progress::Failed(failure.clone()));
        }
    }

    fn release_frames(&self, fill: &Fill) {
        let frames = fill.frames.get().map_or(0, Vec::len);
        self.fills
            .frames_held
            .set(self.fills.frames_held.get() - frames);
        self.fills.frames_released.wake_all();
    }

    /// Puts a whole block into the tier and, where it is admitted, on its way to the device.
    fn complete(&self, fill: &Rc<Fill>) {
        let known = &fill.known;
        let block = fill.block();
        let frames = fill.frames.get().expect("a complete fill has frames");
        let checksums = fill.checksums.borrow();
        let first_frame =
            u64::from(fill.index) * u64::from(known.meta.block_bytes) / FRAME_BYTES as u64;
        for (number, frame) in frames.iter().enumerate() {
            let of_frame = &checksums
                [number * FRAME_PAGES..(number * FRAME_PAGES + FRAME_PAGES).min(checksums.len())];
            let mut cached = CachedFrame {
                key: FrameKey {
                    object: known.meta.id,
                    number: first_frame as u32 + number as u32,
                },
                mount: known.mount.get(),
                length: (fill.length() - (number * FRAME_BYTES) as u32).min(FRAME_BYTES as u32),
                frame: frame.clone(),
                checksums: [0; FRAME_PAGES],
            };
            cached.checksums[..of_frame.len()].copy_from_slice(of_frame);
            self.tier.borrow_mut().insert(cached);
        }
        self.counters.blocks_filled.increase();
        fill.was_kept.set(self.keep(fill, frames, &checksums));
        drop(checksums);
        self.fills.by_block.borrow_mut().remove(&block);
        self.release_frames(fill);
        fill.end(Progress::Done);
    }

    fn keep(&self, fill: &Fill, frames: &[Frame], checksums: &[u32]) -> bool {
        let known = &fill.known;
        let block = fill.block();
        let admission = self
            .mounts
            .borrow()
            .get(known.mount.get())
            .map_or(Admission::Always, |mount| mount.admission);
        let is_admitted = fill.is_wanted_on_device.get()
            || match admission {
                Admission::Always => true,
                Admission::SecondTouch => self.fills.is_second_touch(block),
            };
        if !is_admitted {
            self.counters.blocks_not_admitted.increase();
            return false;
        }
        let kept = self.store.append(NewBlock {
            id: block,
            object: std::sync::Arc::clone(&known.meta),
            mount: known.mount.get(),
            frames: frames.to_vec(),
            checksums: checksums.into(),
            pinned: self.store.is_pinned(known.meta.id),
        });
        match kept {
            Ok(()) | Err(NotKept::Present) => true,
            Err(_) => {
                self.counters.blocks_not_kept.increase();
                false
            }
        }
    }
}

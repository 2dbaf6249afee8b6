//! Misses: how blocks come in from the under-store.
//!
//! A [`Fill`] is one block on its way. There is at most one a block (single-flight); everyone who
//! wants the block waits on the same one and goes on as soon as the pages that it needs are there.
//! [`dispatch`](super::dispatch) turns them into requests.
//!
//! The invariant: a page of a fill is readable only when its bytes have come and its checksum was
//! taken from exactly them.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use corelane_io::{Frame, Io, PAGE_SIZE};
use corelane_rpc_schema::BlockId;
use corelane_rpc_schema::messages::{ErrorCode, ErrorMessage};

use super::known::Known;
use super::read::error;
use super::signal::{Signal, WaitList};
use super::{Shard, Tuning};
use crate::cache::frames::{CachedFrame, FRAME_BYTES, FRAME_PAGES, FrameKey};
use crate::cache::hashing::IdMap;
use crate::mount::{Admission, MountId};
use crate::object::ObjectMeta;
use crate::store::{NewBlock, NotKept};
use crate::under_store::{
    Event, JobId, LEASE_PAGES_MAX, UnderStore, UnderStoreError, UnderStoreErrorKind,
};

/// Pages a lease of a fill has: a waiting read goes on at this granularity. A quarter of a frame
/// keeps the first bytes early and the events few (64 a block of 1 MiB).
pub(super) const LEASE_PAGES: usize = 4;

/// Most blocks of one mount that wait for memory; beyond it reads are answered "busy".
const QUEUE_BLOCKS_MAX: usize = 4096;

/// Share of the fills' memory that one mount may hold, in percent. An under-store that hangs keeps
/// its fills until they time out; the rest stays for the other mounts.
const MOUNT_PERCENT_MAX: usize = 50;

/// Why a fill failed.
#[derive(Clone, Debug)]
pub enum FillFailure {
    /// The under-store's answer.
    UnderStore(UnderStoreError),
    /// A bound of this shard; the text names it.
    Busy(&'static str),
    /// No mount covers the object any more.
    NoMount(String),
    /// What was made of the object with this URI is not held any more.
    NotHeld(String),
    /// The block came for a reader who knew the object with this URI with another length.
    OtherLength(String),
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
            FillFailure::NotHeld(uri) => error(
                ErrorCode::NotFound,
                format!("what was derived of {uri} is not held any more"),
            ),
            FillFailure::OtherLength(uri) => error(
                ErrorCode::VersionChanged,
                format!("{uri} changed its length; open it again to read the new version"),
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
    pub(super) known: Rc<Known>,
    pub(super) index: u32,
    /// The mount whose share it counts in, as it was when the fill was queued.
    pub(super) mount: MountId,
    /// Set when the fill is dispatched.
    pub(super) frames: OnceCell<Vec<Frame>>,
    checksums: RefCell<Vec<u32>>,
    progress: RefCell<Progress>,
    waiters: WaitList,
    /// Whether somebody wants it on the device whatever the admission policy says.
    is_wanted_on_device: Cell<bool>,
    /// Whether the device's store took it.
    was_kept: Cell<bool>,
    /// Whether it was fetched ahead of a reader and no read has wanted it yet.
    pub(super) is_ahead: Cell<bool>,
    /// Whether the object was freed or written since: who waits for it gets it, and nobody else.
    is_invalidated: Cell<bool>,
}

impl Fill {
    fn new(known: Rc<Known>, index: u32) -> Self {
        Fill {
            mount: known.mount.get(),
            known,
            index,
            frames: OnceCell::new(),
            checksums: RefCell::default(),
            progress: RefCell::new(Progress::UnderWay),
            waiters: WaitList::default(),
            is_wanted_on_device: Cell::new(false),
            was_kept: Cell::new(false),
            is_ahead: Cell::new(false),
            is_invalidated: Cell::new(false),
        }
    }

    fn block(&self) -> BlockId {
        self.known.meta.block(self.index)
    }

    pub(super) fn length(&self) -> u32 {
        self.known.meta.block_length(self.index)
    }

    pub(super) fn pages(&self) -> usize {
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
                    // All pages of the block as the fill's object has it.
                    Progress::Done => Some(Err(self.other_length())),
                    Progress::Failed(failure) => Some(Err(failure.clone())),
                }
            })
            .await
    }

    #[cold]
    fn other_length(&self) -> FillFailure {
        FillFailure::OtherLength(self.known.meta.uri.clone())
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
    pub fn append_checksums(&self, pages: std::ops::Range<usize>, out: &mut impl Extend<u32>) {
        out.extend(self.checksums.borrow()[pages].iter().copied());
    }

    /// Whether the object was freed or written since the fill began.
    pub fn is_invalidated(&self) -> bool {
        self.is_invalidated.get()
    }

    /// Asks that the block be kept on the device whatever the admission policy says.
    pub fn want_on_device(&self) {
        self.is_wanted_on_device.set(true);
    }

    /// Makes as many pages readable as `checksums` are of.
    pub(super) fn add_checksums(&self, checksums: &[u32]) {
        self.checksums.borrow_mut().extend_from_slice(checksums);
        self.waiters.wake_all();
    }

    fn end(&self, progress: Progress) {
        *self.progress.borrow_mut() = progress;
        self.waiters.wake_all();
    }
}

/// One ranged request: the fills that it serves, in order, and where it is.
pub(super) struct FetchJob {
    pub fills: Vec<Rc<Fill>>,
    /// Number of the fill that the next lease is of.
    pub current: usize,
    /// Whether its fills have failed and only its memory is waited for.
    pub is_abandoned: bool,
}

/// What one mount takes of the fills' bounds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MountShare {
    pub queued: usize,
    pub frames_held: usize,
}

/// The fills of a shard.
pub struct Fills {
    by_block: RefCell<IdMap<BlockId, Rc<Fill>>>,
    pub(super) queue: RefCell<VecDeque<Rc<Fill>>>,
    /// Set when a fill is queued, and when one ends and leaves room for others.
    pub(super) has_queued: Signal,
    pub(super) jobs: RefCell<HashMap<JobId, FetchJob>>,
    next_job: Cell<u64>,
    pub(super) frames_held: Cell<usize>,
    pub(super) frames_held_max: usize,
    /// What each mount holds and has queued.
    by_mount: RefCell<HashMap<MountId, MountShare>>,
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
            by_mount: RefCell::default(),
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
        self.frames_held.get() * 2 > self.frames_held_max || !self.queue.borrow().is_empty()
    }

    /// Notes that objects were freed or written: of fills that are under way nothing is to be kept, or it would
    /// come back after them. Who comes from now on does not join them.
    pub(super) fn invalidate(&self, is_meant: impl Fn(&ObjectMeta) -> bool) {
        self.by_block.borrow_mut().retain(|_, fill| {
            let is_meant = is_meant(&fill.known.meta);
            fill.is_invalidated.set(is_meant);
            !is_meant
        });
    }

    /// Keeps later reads from joining `fill`. Another fill of the block may be in flight in its place.
    fn detach(&self, fill: &Rc<Fill>) {
        let mut by_block = self.by_block.borrow_mut();
        if by_block
            .get(&fill.block())
            .is_some_and(|other| Rc::ptr_eq(other, fill))
        {
            by_block.remove(&fill.block());
        }
    }

    /// Whether the block is on its way.
    pub fn is_under_way(&self, block: BlockId) -> bool {
        self.by_block.borrow().contains_key(&block)
    }

    pub(super) fn share(&self, mount: MountId) -> MountShare {
        self.by_mount
            .borrow()
            .get(&mount)
            .copied()
            .unwrap_or_default()
    }

    pub(super) fn change_share(&self, mount: MountId, change: impl FnOnce(&mut MountShare)) {
        change(self.by_mount.borrow_mut().entry(mount).or_default());
    }

    /// Whether a fill of `frames` of a mount with `share` may go next.
    pub(super) fn may_go(&self, share: MountShare, frames: usize) -> bool {
        // Whoever holds nothing may always go on, or a block larger than its share never could.
        self.fits(share, frames)
            || self.fits_all(frames) && share.frames_held == 0
            || self.frames_held.get() == 0
    }

    /// Whether `frames` more of a mount with `share` stay within all bounds.
    pub(super) fn fits(&self, share: MountShare, frames: usize) -> bool {
        let of_mount_max = self.frames_held_max * MOUNT_PERCENT_MAX / 100;
        self.fits_all(frames) && share.frames_held + frames <= of_mount_max
    }

    fn fits_all(&self, frames: usize) -> bool {
        self.frames_held.get() + frames <= self.frames_held_max
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
        let mount = known.mount.get();
        if self.fills.share(mount).queued >= QUEUE_BLOCKS_MAX {
            let busy =
                FillFailure::Busy("too many blocks wait for memory to be fetched into; retry");
            fill.end(Progress::Failed(busy));
            return fill;
        }
        self.fills.change_share(mount, |share| share.queued += 1);
        let mut queue = self.fills.queue.borrow_mut();
        queue.push_back(Rc::clone(&fill));
        self.fills
            .by_block
            .borrow_mut()
            .insert(block, Rc::clone(&fill));
        self.fills.has_queued.set();
        fill
    }

    /// Takes leases back that were lent or meant to be. A lease that is dropped elsewhere is lost.
    pub(super) fn take_back_all(&self, leases: Vec<corelane_io::RemoteLease>) {
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
            Event::Stalled { id, error } => self.on_stalled(id, error),
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
        if job.is_abandoned {
            return;
        }
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

    /// Gives up what waits for an under-store that does not answer. The memory stays with the job.
    fn on_stalled(&self, id: JobId, failure: UnderStoreError) {
        let mut jobs = self.fills.jobs.borrow_mut();
        let Some(job) = jobs.get_mut(&id) else {
            // Its last event came before this one.
            return;
        };
        job.is_abandoned = true;
        let fills: Vec<Rc<Fill>> = job.fills[job.current..].to_vec();
        drop(jobs);
        self.counters.fetches_failed.increase();
        tracing::warn!(shard = self.id.0, %failure, "fetch given up");
        self.fail(&fills, &FillFailure::UnderStore(failure));
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
        if job.is_abandoned {
            return self.take_back_all(unused);
        }
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

    pub(super) fn fail(&self, fills: &[Rc<Fill>], failure: &FillFailure) {
        for fill in fills {
            self.fills.detach(fill);
            self.release_frames(fill);
            fill.end(Progress::Failed(failure.clone()));
        }
    }

    fn release_frames(&self, fill: &Fill) {
        let frames = fill.frames.get().map_or(0, Vec::len);
        self.fills
            .frames_held
            .set(self.fills.frames_held.get() - frames);
        self.fills
            .change_share(fill.mount, |share| share.frames_held -= frames);
        self.fills.has_queued.set();
    }

    /// Puts a whole block into the tier and, where it is admitted, on its way to the device.
    pub(super) fn complete(&self, fill: &Rc<Fill>) {
        if !fill.is_invalidated() {
            self.insert_in_cache(fill);
        }
        self.fills.detach(fill);
        self.release_frames(fill);
        fill.end(Progress::Done);
    }

    fn insert_in_cache(&self, fill: &Fill) {
        let known = &fill.known;
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
                    number: first_frame + number as u64,
                },
                mount: known.mount.get(),
                length: (fill.length() - (number * FRAME_BYTES) as u32).min(FRAME_BYTES as u32),
                is_ahead: Cell::new(number == 0 && fill.is_ahead.get()),
                frame: frame.clone(),
                checksums: [0; FRAME_PAGES],
            };
            cached.checksums[..of_frame.len()].copy_from_slice(of_frame);
            self.tier.borrow_mut().insert(cached);
        }
        self.counters.blocks_filled.increase();
        drop(checksums);
        fill.was_kept.set(self.keep(fill));
    }

    /// Whether a complete fill is on its way to the device or there already.
    fn keep(&self, fill: &Fill) -> bool {
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
        let kept = self.offer(fill).is_ok();
        if !kept {
            self.counters.blocks_not_kept.increase();
        }
        kept
    }

    /// Offers a complete fill to the device's store, which may have no room or time for it.
    pub(super) fn offer(&self, fill: &Fill) -> Result<(), NotKept> {
        let known = &fill.known;
        let frames = fill.frames.get().expect("a complete fill has frames");
        let kept = self.store.append(NewBlock {
            id: fill.block(),
            object: std::sync::Arc::clone(&known.meta),
            mount: known.mount.get(),
            frames: frames.clone(),
            checksums: fill.checksums.borrow().as_slice().into(),
            pinned: self.store.is_pinned(known.meta.id),
        });
        match kept {
            Ok(()) | Err(NotKept::Present) => Ok(()),
            not_kept => not_kept,
        }
    }
}

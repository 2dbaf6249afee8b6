//! What a client may be told: which versions, which bytes, which errors, and why.
//!
//! The oracle knows the store's history and asks it for the reason of every answer. An error
//! without a reason, a byte of another version, or a version that was not current in the window
//! that the mount's freshness allows is a failure of the worker.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use corelane_io::{Nanos, PAGE_SIZE};
use corelane_rpc_schema::ObjectId;
use corelane_rpc_schema::messages::{ErrorCode, ErrorMessage, OpenAnswer};
use corelane_worker::mount::{Freshness, Mount};
use corelane_worker::object::ObjectMeta;
use corelane_worker::under_store::{UnderStoreErrorKind, path_key};

use crate::content;
use crate::origin::{Origin, version_number};

/// How long a failure of the store may take from its answer to the reader that it explains.
const TRAVEL: Duration = Duration::from_millis(500);

/// An object that a client opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Its id.
    pub id: ObjectId,
    /// Where it is.
    pub uri: String,
    /// Where it was opened.
    pub path: String,
    /// What the store calls the version by.
    pub version: u32,
    /// When it was modified.
    pub last_modified_ms: u64,
    /// Bytes.
    pub length: u64,
    /// Bytes in a block.
    pub block_bytes: u32,
}

/// What may excuse an error beside the store's own failures.
#[derive(Clone, Copy, Debug, Default)]
pub struct Excuses {
    /// Memory or queues may be short: "busy" is an answer.
    pub is_pressed: bool,
    /// Mounts were changed in the window of the request.
    pub mounts_changed: bool,
    /// The worker was told to stop, or was killed.
    pub is_ending: bool,
    /// More objects were seen than a shard remembers: an id may be forgotten.
    pub may_forget: bool,
}

/// The judge.
#[derive(Clone)]
pub struct Oracle {
    origin: Origin,
}

/// What it saw, for tests that want something to have happened.
#[derive(Debug, Default)]
pub struct Tally {
    /// Reads with right bytes.
    pub reads: Cell<u64>,
    /// Their bytes.
    pub bytes: Cell<u64>,
    /// Opens that succeeded.
    pub opens: Cell<u64>,
    /// Errors that were explained.
    pub errors: Cell<u64>,
    /// Lanes that ended although nobody closed them.
    pub lanes_lost: Cell<u64>,
    /// Starts of which what came back was judged.
    pub recoveries: Cell<u64>,
    /// Blocks that came back with them.
    pub blocks_recovered: Cell<u64>,
    /// Pinned objects that had to come back whole with them.
    pub pinned_whole: Cell<u64>,
    /// Ends in the middle of things.
    pub crashes: Cell<u64>,
    /// Counters of all workers that came to rest, summed.
    pub stats: RefCell<BTreeMap<&'static str, u64>>,
}

impl Tally {
    /// Adds what another run saw.
    pub fn add(&self, other: &Tally) {
        let cells = |tally: &Tally| {
            [
                tally.reads.get(),
                tally.bytes.get(),
                tally.opens.get(),
                tally.errors.get(),
                tally.lanes_lost.get(),
                tally.recoveries.get(),
                tally.blocks_recovered.get(),
                tally.pinned_whole.get(),
                tally.crashes.get(),
            ]
        };
        let sums = [
            &self.reads,
            &self.bytes,
            &self.opens,
            &self.errors,
            &self.lanes_lost,
            &self.recoveries,
            &self.blocks_recovered,
            &self.pinned_whole,
            &self.crashes,
        ];
        for (sum, more) in sums.into_iter().zip(cells(other)) {
            sum.set(sum.get() + more);
        }
        for (name, value) in other.stats.borrow().iter() {
            *self.stats.borrow_mut().entry(name).or_default() += value;
        }
    }

    /// Adds one to a count.
    pub fn count(cell: &Cell<u64>) {
        cell.set(cell.get() + 1);
    }
}

impl Oracle {
    /// The judge over what `origin` holds.
    pub fn new(origin: Origin) -> Self {
        Oracle { origin }
    }

    /// Versions of all objects so far.
    pub fn versions(&self) -> usize {
        self.origin.versions()
    }

    /// Judges the answer to an open at `path` below `mount`, sent and answered in `window`.
    pub fn opened(
        &self,
        mount: &Mount,
        path: &str,
        answer: &OpenAnswer,
        window: Range<Nanos>,
    ) -> Opened {
        let uri = mount.uri_of(path);
        let label = version_number(&answer.version);
        let (length, modified_ms) = (answer.length, answer.last_modified_ms);
        let versions = self.origin.meant_by(&uri, label, length, modified_ms);
        let is_lie = self.origin.lied(&uri, label, length);
        let key = path_key(mount, path).expect("the simulation's paths are valid");
        let id = ObjectMeta::id_of(
            &key,
            &answer.version,
            answer.length,
            answer.last_modified_ms,
            answer.block_bytes,
        );
        assert_eq!(
            (answer.object, answer.block_bytes),
            (id, mount.block_bytes),
            "{path}: {answer:?}"
        );
        let since = match mount.freshness {
            Freshness::Immutable => Nanos(0),
            Freshness::MaxAge(age) => Nanos(window.start.0.saturating_sub(age.as_nanos() as u64)),
            Freshness::AlwaysCheck => window.start,
        };
        let was_current = versions
            .iter()
            .any(|version| version.was_current(&(since..window.end)));
        assert!(
            was_current || is_lie,
            "{path} opened in {window:?} under {} as {answer:?}, which may be {versions:?}",
            mount.freshness
        );
        Opened {
            id,
            uri,
            path: path.to_owned(),
            version: label,
            last_modified_ms: modified_ms,
            length: answer.length,
            block_bytes: answer.block_bytes,
        }
    }

    /// Judges the bytes of a read. Where a store calls several contents of one length by one version, each
    /// page may be of any of them: no cache can tell them apart.
    pub fn read(&self, opened: &Opened, offset: u64, bytes: &[u8]) {
        let Opened {
            uri,
            version,
            length,
            last_modified_ms,
            ..
        } = opened;
        let meant = self
            .origin
            .meant_by(uri, *version, *length, *last_modified_ms);
        let mut rest = bytes;
        let mut start = offset;
        while !rest.is_empty() {
            let in_page = (PAGE_SIZE - start as usize % PAGE_SIZE).min(rest.len());
            let (page, others) = rest.split_at(in_page);
            let is_right = meant.iter().any(|version| {
                content::first_difference(uri, version.number, start, page).is_none()
            });
            assert!(
                is_right,
                "the page of byte {start} of {opened:?} is wrong in a read of {} bytes from {offset}: it may be \
                 of {meant:?}",
                bytes.len()
            );
            start += in_page as u64;
            rest = others;
        }
    }

    /// Judges an error that answered a request for the object at `uri` in `window`.
    pub fn error(&self, uri: &str, error: &ErrorMessage, window: Range<Nanos>, excuses: Excuses) {
        let since = Nanos(window.start.0.saturating_sub(TRAVEL.as_nanos() as u64));
        let failed = self.origin.failed_since(uri, since);
        let came_from =
            |kinds: &[UnderStoreErrorKind]| failed.iter().any(|kind| kinds.contains(kind));
        let is_explained = match error.code {
            ErrorCode::NotFound => came_from(&[UnderStoreErrorKind::NotFound]),
            ErrorCode::VersionChanged => came_from(&[UnderStoreErrorKind::VersionChanged]),
            ErrorCode::UnderStore => came_from(&[
                UnderStoreErrorKind::Denied,
                UnderStoreErrorKind::Unavailable,
                UnderStoreErrorKind::Malformed,
            ]),
            ErrorCode::Invalid => came_from(&[UnderStoreErrorKind::Invalid]),
            ErrorCode::Busy => excuses.is_pressed || self.origin.refused_since(since),
            ErrorCode::Denied | ErrorCode::NoMount => excuses.mounts_changed,
            ErrorCode::ObjectUnknown => excuses.may_forget || excuses.mounts_changed,
            ErrorCode::Draining => excuses.is_ending,
            ErrorCode::Internal | ErrorCode::Unauthenticated => false,
        };
        assert!(
            is_explained,
            "{uri} in {window:?}: {error:?} without a reason; the store answered {failed:?}"
        );
    }
}

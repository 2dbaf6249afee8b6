//! Where misses go: the external storage that objects live in.
//!
//! A shard talks to it by messages. It submits a [`Job`] and later collects [`Event`]s; it never
//! waits for a thread. Jobs run on a tokio runtime of their own, off the data cores, which copies
//! arriving bytes straight into frames that the shard lent and computes the page checksums in the
//! same pass. In simulation the same trait is implemented by a store inside the simulated world.
//!
//! The invariant: bytes of a [`Event::Filled`] are of exactly the version that the job asked for.
//! A store that cannot promise that for a request answers [`UnderStoreErrorKind::VersionChanged`].

pub mod counters;
pub mod listing;
pub mod origin;
pub mod retry;
pub mod runtime;
mod stall;
pub mod stores;
pub mod writer;

mod connector;
mod fair_gate;
mod files;
mod fill;
mod http_client;
pub mod just_written;
mod limits;
mod location;
mod mount_options;
mod own_writes;
mod remote;
mod sink;
mod threads;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use corelane_io::RemoteLease;

use crate::mount::Mount;
use crate::object::ObjectMeta;

/// Most pages in a lease that is lent to a fetch; so many checksums come back with it.
pub const LEASE_PAGES_MAX: usize = corelane_io::buffer::FRAME_PAGES_MAX;

/// Names a job among those of its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// One request to an under-store.
#[derive(Debug)]
pub struct Job {
    /// Chosen by the shard; events repeat it.
    pub id: JobId,
    /// The mount whose store, options and limits apply.
    pub mount: Arc<Mount>,
    /// What is wanted.
    pub request: Request,
}

/// What a job wants.
#[derive(Debug)]
pub enum Request {
    /// The object's present metadata (a HEAD).
    Describe {
        /// The object's path in the worker's namespace, below the mount.
        path: String,
    },
    /// Bytes of one version of an object, in one ranged GET.
    Fetch {
        /// The object and the version that the bytes must be of.
        object: Arc<ObjectMeta>,
        /// Byte range, starting at a page boundary, within the object.
        range: Range<u64>,
        /// Memory for the range, in order. Together exactly the pages that the range touches.
        leases: Vec<RemoteLease>,
    },
}

/// What became of a job.
#[derive(Debug)]
pub enum Event {
    /// Answer to [`Request::Describe`]; the last event of the job.
    Described {
        /// The job.
        id: JobId,
        /// The object as it is now.
        result: Result<Arc<ObjectMeta>, UnderStoreError>,
    },
    /// A lease of a [`Request::Fetch`] is full. They come in the order of the range. The part of
    /// the last page beyond the range's end is zero.
    Filled {
        /// The job.
        id: JobId,
        /// The memory, to be taken back.
        lease: RemoteLease,
        /// CRC-32C of each page of the lease, the first ones in use.
        checksums: [u32; LEASE_PAGES_MAX],
    },
    /// The store of a [`Request::Fetch`] does not answer: waits for it end. Its other events come when the store
    /// answers.
    Stalled {
        /// The job; it may have ended already.
        id: JobId,
        /// The error for the requests that wait.
        error: UnderStoreError,
    },
    /// The last event of a [`Request::Fetch`].
    Finished {
        /// The job.
        id: JobId,
        /// Whether all leases were filled.
        result: Result<(), UnderStoreError>,
        /// Leases that were not filled, to be taken back.
        unused: Vec<RemoteLease>,
    },
}

/// The path key of the object at `path`, which `mount` covers: what its home shard follows from.
///
/// # Errors
/// When the path or the mount's URI cannot name an object.
pub fn path_key(mount: &Mount, path: &str) -> Result<String, UnderStoreError> {
    let uri = mount.uri_of(path);
    location::check_key(mount.key_of(path))
        .and_then(|()| location::Location::of_mount(mount))
        .and_then(|location| location.path_key(&uri))
        .map_err(|message| UnderStoreError {
            kind: UnderStoreErrorKind::Invalid,
            uri,
            message,
        })
}

/// A shard's way to the under-stores.
pub trait UnderStore: 'static {
    /// Starts a job. Its events come later, the first one possibly at once.
    ///
    /// # Errors
    /// Gives the job back when too many are waiting; the caller answers "busy".
    fn submit(&self, job: Job) -> Result<(), Job>;

    /// The next event, if there is one. The shard's doorbell rings when there may be.
    fn next_event(&self) -> Option<Event>;

    /// Most bytes that one fetch may ask for.
    fn fetch_bytes_max(&self) -> u64;
}

/// What kind of failure it was; decides the answer to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnderStoreErrorKind {
    /// The store has no such object.
    NotFound,
    /// The object is not of the version that was asked for any more.
    VersionChanged,
    /// The store refused the credentials.
    Denied,
    /// The store could not be reached, or failed or timed out after all retries.
    Unavailable,
    /// The store's answer made no sense: truncated, of another length or range.
    Malformed,
    /// The path or the mount's options are not usable.
    Invalid,
}

/// A failure of an under-store: which object, what happened, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderStoreError {
    /// What kind.
    pub kind: UnderStoreErrorKind,
    /// URI of the object.
    pub uri: String,
    /// One sentence: the cause, after how many tries, what the operator can do.
    pub message: String,
}

impl fmt::Display for UnderStoreError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.uri, self.message)
    }
}

impl std::error::Error for UnderStoreError {}

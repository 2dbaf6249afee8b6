//! The stores behind the mounts, made at first use and kept.
//!
//! The invariant: a store is used only for the URI, options and policy that it was made of. A
//! mount that changed gets a new one; its counts go on.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;

use super::counters::{MountCounters, MountCounts};
use super::fair_gate::{FairGate, FairPass};
use super::files::FileTree;
use super::fill::Fill;
use super::just_written::JustWritten;
use super::limits::{Bucket, Gate, Pass, lock};
use super::listing::LISTINGS_OF_MOUNT;
use super::location::{Location, StoreKind, check_key};
use super::mount_options::MountOptions;
use super::origin::{Completions, bounded_headers};
use super::own_writes::OwnWrites;
use super::remote::RemoteStore;
use super::retry::{Failure, Tries};
use super::runtime::{FetchLimits, FetchOptions};
use super::stall::FileCalls;
use super::writer::Writer;
use super::{UnderStoreError, UnderStoreErrorKind};
use crate::mount::{MOUNTS_MAX, Mount, MountTable};
use crate::object::{CONTENT_TYPE_BYTES_MAX, ObjectMeta, VERSION_BYTES_MAX};

/// Directories that are read for listings at a time, and those of one mount: each takes a thread, of which
/// there are as many more than reads of files may have.
pub(crate) const FILE_LISTINGS_MAX: usize = 4;
const FILE_LISTINGS_OF_MOUNT: usize = 2;

/// Part of the requests in flight that listings may have besides, one part in so many.
const LISTINGS_PART: usize = 4;

fn listing_requests(requests_in_flight_max: usize) -> usize {
    (requests_in_flight_max / LISTINGS_PART).max(1)
}

/// What a store says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Description {
    pub version: String,
    pub length: u64,
    /// Milliseconds since the Unix epoch; 0 where unknown.
    pub last_modified_ms: u64,
    pub content_type: String,
    /// Other headers of the object: content encoding, language and disposition, cache control,
    /// expires, `x-amz-meta-…`. Lower-case names; none if they have more than 8 KiB.
    pub headers: Vec<(String, String)>,
}

/// The ways to get at objects.
#[derive(Debug)]
pub(crate) enum Backend {
    Files(FileTree),
    Remote(RemoteStore),
}

/// The store of one mount, with its limits and counts.
#[derive(Debug)]
pub(crate) struct MountStore {
    pub mount: Arc<Mount>,
    pub location: Location,
    pub backend: Backend,
    gate: Gate,
    /// Of requests that are as slow as the clients that send their bodies: they keep no reader waiting.
    body_gate: FairGate,
    /// Of listings, which take long where there is much: they keep no reader waiting.
    list_gate: Gate,
    /// Pages that are made at a time.
    pub listing_turns: FairGate,
    bucket: Bucket,
    pub counters: Arc<MountCounters>,
}

/// All stores, and what they share.
#[derive(Debug)]
pub(crate) struct Stores {
    pub options: FetchOptions,
    gate: Gate,
    body_gate: FairGate,
    list_gate: Gate,
    file_list_gate: Gate,
    bucket: Bucket,
    /// By path of the mount.
    stores: Mutex<HashMap<String, Arc<MountStore>>>,
    /// Bytes that need not be asked for.
    pub just_written: JustWritten,
}

/// The limits that one request passes.
#[derive(Clone, Copy)]
pub(crate) struct Limiter<'a> {
    stores: &'a Stores,
    store: &'a MountStore,
}

/// Of the mount and of all.
enum Passes {
    Request { _passes: (Pass, Pass) },
    Body { _passes: (FairPass, FairPass) },
}

/// The right to have one request in flight, counted when it ends.
pub(crate) struct RequestPass<'a> {
    store: &'a MountStore,
    started: Instant,
    _passes: Passes,
}

impl Drop for RequestPass<'_> {
    fn drop(&mut self) {
        self.store.counters.ended(self.started.elapsed());
    }
}

impl<'a> Limiter<'a> {
    /// The limits of `store`, which is one of `stores`.
    pub fn new(stores: &'a Stores, store: &'a MountStore) -> Self {
        Limiter { stores, store }
    }

    /// Waits until a request may be sent; that time is not the store's.
    pub async fn enter(&self, tries: &mut Tries) -> RequestPass<'a> {
        let asked = Instant::now();
        // The mount's gate first: who waits there must not keep other mounts out of the common one.
        let passes = (
            self.store.gate.enter().await,
            self.stores.gate.enter().await,
        );
        tries.excuse(asked.elapsed());
        self.begin(Passes::Request { _passes: passes })
    }

    /// The same for a request of a listing.
    pub async fn enter_listing(&self, tries: &mut Tries) -> RequestPass<'a> {
        let asked = Instant::now();
        let of_all = match self.store.backend {
            Backend::Files(_) => &self.stores.file_list_gate,
            Backend::Remote(_) => &self.stores.list_gate,
        };
        let passes = (self.store.list_gate.enter().await, of_all.enter().await);
        tries.excuse(asked.elapsed());
        self.begin(Passes::Request { _passes: passes })
    }

    /// The same for a request whose body `writer` sends meanwhile, or this worker where there is none.
    pub async fn enter_with_body(&self, writer: Option<&Arc<Writer>>) -> RequestPass<'a> {
        let passes = (
            self.store.body_gate.enter(writer).await,
            self.stores.body_gate.enter(writer).await,
        );
        self.begin(Passes::Body { _passes: passes })
    }

    fn begin(&self, passes: Passes) -> RequestPass<'a> {
        self.store.counters.request();
        RequestPass {
            store: self.store,
            started: Instant::now(),
            _passes: passes,
        }
    }

    /// Waits until `bytes` more may be read, and returns for how long that was.
    pub async fn take_bytes(&self, bytes: u64) -> Duration {
        self.store.bucket.take(bytes).await + self.stores.bucket.take(bytes).await
    }

    /// Counts bytes that arrived.
    pub fn count_bytes(&self, bytes: u64) {
        self.store.counters.received(bytes);
    }
}

impl Stores {
    /// No stores yet.
    pub fn new(options: FetchOptions) -> Self {
        Stores {
            gate: Gate::new(options.limits.requests_in_flight_max),
            body_gate: FairGate::new(options.limits.requests_in_flight_max),
            list_gate: Gate::new(listing_requests(options.limits.requests_in_flight_max)),
            file_list_gate: Gate::new(FILE_LISTINGS_MAX),
            bucket: Bucket::new(options.limits.bytes_per_second),
            stores: Mutex::default(),
            just_written: JustWritten::default(),
            options,
        }
    }

    /// Changes the limits that all mounts share. On a thread of the runtime.
    pub fn set_limits(&self, limits: FetchLimits) {
        self.gate.set_limit(limits.requests_in_flight_max);
        self.body_gate.set_limit(limits.requests_in_flight_max);
        self.list_gate
            .set_limit(listing_requests(limits.requests_in_flight_max));
        self.bucket.set_rate(limits.bytes_per_second);
    }

    /// The store of `mount`, made if there is none yet.
    pub fn of_mount(&self, mount: &Arc<Mount>) -> Result<Arc<MountStore>, UnderStoreError> {
        let mut stores = lock(&self.stores);
        let known = stores.get(&mount.path);
        if let Some(store) = known
            && store.mount.uri == mount.uri
            && store.mount.options == mount.options
            && store.mount.freshness == mount.freshness
            && store.mount.block_bytes == mount.block_bytes
        {
            return Ok(Arc::clone(store));
        }
        let counters = known.map_or_else(
            || Arc::new(MountCounters::new()),
            |store| Arc::clone(&store.counters),
        );
        let store = Arc::new(
            MountStore::new(mount, &self.options, counters)
                .map_err(|cause| invalid(cause, &mount.uri))?,
        );
        if stores.len() >= 2 * MOUNTS_MAX {
            // Half of them at least are of mounts that were removed and never forgotten; those in
            // use hold their store or make it again, with their counts at zero.
            stores.clear();
        }
        stores.insert(mount.path.clone(), Arc::clone(&store));
        Ok(store)
    }

    /// Calls into the file system of `mount`; `None` where it has none, or cannot be used.
    pub fn file_calls(&self, mount: &Arc<Mount>) -> Option<FileCalls> {
        self.of_mount(mount).ok()?.calls().cloned()
    }

    /// Root of the file tree of `mount`, and calls into its file system; `None` as for [`Self::file_calls`].
    pub fn file_root(&self, mount: &Arc<Mount>) -> Option<(PathBuf, FileCalls)> {
        match &self.of_mount(mount).ok()?.backend {
            Backend::Files(tree) => Some((tree.root.clone(), tree.calls.clone())),
            Backend::Remote(_) => None,
        }
    }

    /// Drops the stores of mounts that are not in `table`.
    pub fn retain(&self, table: &MountTable) {
        lock(&self.stores).retain(|path, _| table.iter().any(|mount| mount.path == *path));
    }

    /// The counts of every mount that was used, by path.
    pub fn counts(&self) -> Vec<MountCounts> {
        let mut counts: Vec<MountCounts> = lock(&self.stores)
            .iter()
            .map(|(path, store)| {
                let in_flight = store.gate.in_flight()
                    + store.body_gate.in_flight()
                    + store.list_gate.in_flight();
                store.counters.read(path, in_flight)
            })
            .collect();
        counts.sort_by(|left, right| left.mount.cmp(&right.mount));
        counts
    }

    /// Answers a describe job.
    pub async fn describe(
        &self,
        mount: &Arc<Mount>,
        path: &str,
    ) -> Result<Arc<ObjectMeta>, UnderStoreError> {
        let store = self.of_mount(mount)?;
        let uri = mount.uri_of(path);
        let result = async {
            let key = mount.key_of(path);
            check_key(key).map_err(|cause| invalid(cause, &uri))?;
            let mut tries = Tries::new(self.options.retry);
            loop {
                let failure = {
                    let _pass = Limiter {
                        stores: self,
                        store: &store,
                    }
                    .enter(&mut tries)
                    .await;
                    let describe = async {
                        match &store.backend {
                            Backend::Files(tree) => tree.describe(key).await,
                            Backend::Remote(remote) => {
                                remote.describe(key, tries.time_left()).await
                            }
                        }
                    };
                    match describe.await {
                        Ok(description) => {
                            let description = bounded(description, &store.counters);
                            return object_of(&store, &uri, description);
                        }
                        Err(failure) => failure,
                    }
                };
                tries.pause_after(failure, &uri).await?;
                store.counters.retry();
            }
        }
        .await;
        store.count(result)
    }

    /// Answers a fetch job by its events, up to the last one.
    pub async fn fetch(&self, mount: &Arc<Mount>, object: &ObjectMeta, fill: Fill) {
        let store = match self.of_mount(mount) {
            Ok(store) => store,
            Err(error) => return fill.finish(Err(error)).await,
        };
        let (fill, result) = self.fetch_with_tries(&store, object, fill).await;
        fill.finish(store.count(result)).await;
    }

    async fn fetch_with_tries(
        &self,
        store: &MountStore,
        object: &ObjectMeta,
        mut fill: Fill,
    ) -> (Fill, Result<(), UnderStoreError>) {
        let Some(key) = object
            .uri
            .strip_prefix(&store.mount.uri)
            .and_then(|rest| rest.strip_prefix('/'))
        else {
            let cause = format!("the object is not below the mount at {}", store.mount.path);
            return (fill, Err(invalid(cause, &object.uri)));
        };
        if let Err(cause) = check_key(key) {
            return (fill, Err(invalid(cause, &object.uri)));
        }
        if fill.missing().end > object.length {
            // A part of the fetch was asked for when the object was known with another length.
            let length = format!("another length than {} bytes", object.length);
            return (
                fill,
                Err(Failure::changed(&length).into_error(&object.uri, 0)),
            );
        }
        let limiter = Limiter {
            stores: self,
            store,
        };
        let wanted = fill.missing();
        match self.just_written.fill(object, &mut fill).await {
            Ok(false) => {}
            Ok(true) => {
                store.counters.spared(wanted.end - wanted.start);
                return (fill, Ok(()));
            }
            Err(failure) => return (fill, Err(failure.into_error(&object.uri, 0))),
        }
        let mut tries = Tries::new(self.options.retry);
        loop {
            let result;
            (fill, result) = match &store.backend {
                Backend::Files(tree) => {
                    tree.fetch(key, &object.version, fill, &limiter, &mut tries)
                        .await
                }
                Backend::Remote(remote) => {
                    remote.fetch(key, object, fill, &limiter, &mut tries).await
                }
            };
            let Err(failure) = result else {
                return (fill, Ok(()));
            };
            fill.retract_last();
            if let Err(error) = tries.pause_after(failure, &object.uri).await {
                return (fill, Err(error));
            }
            store.counters.retry();
        }
    }

    /// Runs one request of a listing under the limits, with retries.
    pub async fn with_tries<'r, T>(
        &self,
        store: &MountStore,
        uri: &str,
        mut request: impl FnMut(Duration) -> BoxFuture<'r, Result<T, Failure>> + Send,
    ) -> Result<T, UnderStoreError> {
        let limiter = Limiter {
            stores: self,
            store,
        };
        let mut tries = Tries::new(self.options.retry);
        loop {
            let pass = limiter.enter_listing(&mut tries).await;
            let failure = match request(tries.time_left()).await {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            drop(pass);
            tries.pause_after(failure, uri).await?;
            store.counters.retry();
        }
    }
}

impl MountStore {
    fn new(
        mount: &Arc<Mount>,
        options: &FetchOptions,
        counters: Arc<MountCounters>,
    ) -> Result<Self, String> {
        let location = Location::of_mount(mount)?;
        let own = MountOptions::of_mount(mount, location.kind)?;
        let backend = match location.kind {
            StoreKind::File => Backend::Files(FileTree {
                root: PathBuf::from(&location.prefix),
                is_root_resolved: mount.is_runtime,
                follows_symlinks: own.follows_symlinks,
                settle: own.settle,
                own_writes: OwnWrites::default(),
                completions: Completions::default(),
                calls: FileCalls::default(),
            }),
            _ => Backend::Remote(RemoteStore::new(&location, mount, &own, options)?),
        };
        let limits = options.mount_limits;
        let in_flight_max = match location.kind {
            // A file server that hangs holds its threads: half of them stay for other mounts.
            StoreKind::File => limits
                .requests_in_flight_max
                .min(options.file_threads_max / 2),
            _ => limits.requests_in_flight_max,
        };
        Ok(MountStore {
            mount: Arc::clone(mount),
            backend,
            gate: Gate::new(own.requests_in_flight_max.unwrap_or(in_flight_max)),
            list_gate: Gate::new(match location.kind {
                StoreKind::File => FILE_LISTINGS_OF_MOUNT,
                _ => listing_requests(
                    own.requests_in_flight_max
                        .unwrap_or(limits.requests_in_flight_max),
                ),
            }),
            listing_turns: FairGate::new(match location.kind {
                StoreKind::File => FILE_LISTINGS_MAX,
                _ => LISTINGS_OF_MOUNT,
            }),
            // A body that is written to a file takes a thread for a piece at a time only.
            body_gate: FairGate::new(
                own.requests_in_flight_max
                    .unwrap_or(limits.requests_in_flight_max),
            ),
            bucket: Bucket::new(own.bytes_per_second.unwrap_or(limits.bytes_per_second)),
            location,
            counters,
        })
    }

    /// The calls into the file system of the mount, if it has one: its store may hang.
    pub fn calls(&self) -> Option<&FileCalls> {
        match &self.backend {
            Backend::Files(tree) => Some(&tree.calls),
            // Requests over the network end by their own deadlines.
            Backend::Remote(_) => None,
        }
    }

    /// Counts a job's error.
    pub fn count<T>(&self, result: Result<T, UnderStoreError>) -> Result<T, UnderStoreError> {
        if let Err(error) = &result {
            self.counters.error(error.kind);
        }
        result
    }
}

/// Tries out the URI and options of a mount, without asking the store anything.
///
/// # Errors
/// What is wrong with them, naming the option; never its value, which may be a secret.
pub fn check_mount(mount: &Mount) -> Result<(), UnderStoreError> {
    let mount = Arc::new(mount.clone());
    MountStore::new(
        &mount,
        &FetchOptions::default(),
        Arc::new(MountCounters::new()),
    )
    .map(drop)
    .map_err(|cause| invalid(cause, &mount.uri))
}

/// An error of the caller's making.
pub(crate) fn invalid(cause: String, uri: &str) -> UnderStoreError {
    Failure::lasting(UnderStoreErrorKind::Invalid, cause).into_error(uri, 0)
}

/// `description` with its headers, if they are not too long to be kept.
fn bounded(description: Description, counters: &MountCounters) -> Description {
    let headers = bounded_headers(description.headers).unwrap_or_else(|| {
        counters.headers_dropped();
        Vec::new()
    });
    Description {
        headers,
        ..description
    }
}

/// The object that `description` is of, if the format can hold it.
fn object_of(
    store: &MountStore,
    uri: &str,
    description: Description,
) -> Result<Arc<ObjectMeta>, UnderStoreError> {
    let path_key = store
        .location
        .path_key(uri)
        .map_err(|cause| invalid(cause, uri))?;
    let Description {
        version,
        length,
        last_modified_ms,
        content_type,
        headers,
    } = description;
    if version.len() > VERSION_BYTES_MAX {
        let cause = format!(
            "its ETag has {} bytes, more than the limit of {VERSION_BYTES_MAX}",
            version.len()
        );
        return Err(Failure::lasting(UnderStoreErrorKind::Malformed, cause).into_error(uri, 0));
    }
    let block_bytes = store.mount.block_bytes;
    if !ObjectMeta::can_be_numbered(length, block_bytes) {
        let cause = format!(
            "its {length} bytes are more than {} blocks of {block_bytes}, the limit of the format; \
             a larger block size on the mount allows larger objects",
            u32::MAX
        );
        return Err(invalid(cause, uri));
    }
    Ok(Arc::new(ObjectMeta {
        id: ObjectMeta::id_of(&path_key, &version, length, last_modified_ms, block_bytes),
        path_key,
        uri: uri.to_owned(),
        version,
        length,
        last_modified_ms,
        block_bytes,
        content_type: if content_type.len() <= CONTENT_TYPE_BYTES_MAX {
            content_type
        } else {
            String::new()
        },
        headers: text_of_headers(&headers),
    }))
}

/// Headers as objects keep them. One whose value could not stand in a line is left out.
fn text_of_headers(headers: &[(String, String)]) -> String {
    let is_line = |value: &str| !value.contains(['\n', '\r', '\0']);
    headers
        .iter()
        .filter(|(name, value)| is_line(name) && is_line(value) && !name.contains(':'))
        .map(|(name, value)| format!("{name}:{value}\n"))
        .collect()
}

//! Listings of mounts, for the control plane and other front ends that are not on the data cores.
//!
//! A listing is served from *runs*: sorted stretches of what a store has below a prefix. Runs are
//! cached for as long as the mount's freshness says, within bounds on entries and bytes.
//!
//! Memory is bounded, whatever there is to list and however many ask: a run has `RUN_BYTES_MAX` bytes at most,
//! `LISTINGS_AT_ONCE` listings are made at a time, and they have limits on requests of their own, so that no
//! read waits behind one.
//!
//! The invariant: a page holds what one or more runs held, in the order of the names as bytes,
//! nothing twice and nothing left out between its first and its last entry. A page that is made
//! of several runs may show two moments of a store that changes meanwhile, as the stores' own
//! listings do.

mod cache;
mod files;
mod names;
mod permits;
mod remote;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::time::timeout;

use super::fair_gate::FairPass;
use super::files::blocking;
use super::location::check_key;
use super::retry::Failure;
use super::runtime::FetchRuntime;
use super::stores::{Backend, MountStore, Stores, invalid};
use super::writer::Writer;
use super::{UnderStoreError, UnderStoreErrorKind};
use crate::mount::{Freshness, Mount};
use cache::{Cache, RunKey};
use names::DirectoryNames;
use permits::{Permit, Permits};

pub(super) use names::NameCounts;

/// Most entries of one page; more are cut to this. Bounds the memory of an answer to a few MiB.
pub const PAGE_ENTRIES_MAX: usize = 10_000;

/// Entries that a cached run holds at most, so that one huge prefix is many runs, not one.
const RUN_ENTRIES_MAX: usize = 10_000;

/// Bytes of a run's entries: with long keys a run has fewer of them.
const RUN_BYTES_MAX: usize = 4 << 20;

/// Bytes of a page's entries, likewise.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// Listings that are made at a time, each with a run and a page in memory; more wait.
const LISTINGS_AT_ONCE: usize = 32;

/// Listings of one mount that are made at a time, shared by its clients: as many as [`permits`] gives it at the most.
/// Of folders there are as many as threads for listings.
pub(super) const LISTINGS_OF_MOUNT: usize = 10;

/// Part of the cache's bytes that the names of directories may have, one part in so many.
const NAMES_PART: usize = 4;

/// How far a listing goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Depth {
    /// Up to the next `/` after the prefix; what lies deeper appears as common prefixes.
    Children,
    /// All objects below the prefix.
    All,
}

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedObject {
    /// Path in the worker's namespace.
    pub path: String,
    /// Bytes.
    pub length: u64,
    /// Milliseconds since the Unix epoch; 0 where unknown.
    pub last_modified_ms: u64,
    /// The version that a description at the same moment would have; empty where the store's
    /// listing does not say.
    pub version: String,
}

/// Part of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Objects, sorted by path.
    pub entries: Vec<ListedObject>,
    /// Paths of what lies deeper, each ending in `/`, sorted.
    pub common_prefixes: Vec<String>,
    /// What to pass as `after` for the next page; `None` on the last one.
    pub more: Option<String>,
}

/// Bounds of the cache of listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListingBounds {
    /// Most entries in the cache. A run counts as 64 at least, for its own cost.
    pub entries_max: usize,
    /// Most bytes in the cache, a quarter of them for the names of large directories.
    pub bytes_max: usize,
}

impl Default for ListingBounds {
    fn default() -> Self {
        ListingBounds {
            entries_max: 1 << 20,
            bytes_max: 256 << 20,
        }
    }
}

/// One entry, by its key below the mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Object {
        key: String,
        length: u64,
        last_modified_ms: u64,
        version: String,
        /// Where it is another one than usual.
        storage_class: Option<Box<str>>,
    },
    /// Ends in `/`.
    Prefix { key: String },
}

impl Item {
    pub fn key(&self) -> &str {
        match self {
            Item::Object { key, .. } | Item::Prefix { key } => key,
        }
    }

    fn bytes(&self) -> usize {
        size_of::<Item>()
            + match self {
                Item::Object {
                    key,
                    version,
                    storage_class,
                    ..
                } => key.len() + version.len() + storage_class.as_deref().map_or(0, str::len),
                Item::Prefix { key } => key.len(),
            }
    }
}

/// A sorted stretch of a listing.
#[derive(Debug)]
pub(crate) struct Run {
    pub items: Vec<Item>,
    /// Whether nothing follows.
    pub is_complete: bool,
    /// When it was so, where parts of it are older than the request.
    pub as_of: Option<Instant>,
}

impl Run {
    /// The first `entries_max` of `items`, of which `is_all` says whether nothing follows them.
    fn new(mut items: Vec<Item>, is_all: bool, entries_max: usize) -> Self {
        let is_complete = is_all && items.len() <= entries_max;
        items.truncate(entries_max);
        Run {
            items,
            is_complete,
            as_of: None,
        }
    }
}

/// What a run is wanted of. Names are keys below the mount.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// Any beginning of a key, also in the middle of a name.
    pub prefix: &'a str,
    pub depth: Depth,
    /// Only what sorts behind this.
    pub after: &'a str,
    pub entries_max: usize,
}

impl Wanted<'_> {
    /// The part of the prefix that names a directory: empty, or ending in `/`.
    fn directory(&self) -> &str {
        &self.prefix[..self.prefix.rfind('/').map_or(0, |slash| slash + 1)]
    }
}

/// Listings of all mounts; clones share the cache.
#[derive(Clone, Debug)]
pub struct Listings {
    runtime: Handle,
    stores: Arc<Stores>,
    cache: Arc<Cache>,
    names: Arc<DirectoryNames>,
    permits: Arc<Permits>,
}

/// The right to make a page, of all listings and of those of one mount.
pub(crate) struct ListingTurn {
    _of_mount: FairPass,
    _of_all: Permit,
}

impl Listings {
    /// Listings by the threads and limits of `runtime`.
    pub fn new(runtime: &FetchRuntime, bounds: ListingBounds) -> Self {
        Listings {
            runtime: runtime.runtime_handle(),
            stores: runtime.stores(),
            cache: Arc::new(Cache::new(ListingBounds {
                bytes_max: bounds.bytes_max - bounds.bytes_max / NAMES_PART,
                ..bounds
            })),
            names: Arc::new(DirectoryNames::new(bounds.bytes_max / NAMES_PART)),
            permits: Arc::new(Permits::new(LISTINGS_AT_ONCE)),
        }
    }

    /// Waits for the turn of `client` to make a page of `store`. To be held until the page is made.
    pub(crate) async fn turn(
        &self,
        store: &MountStore,
        client: Option<&Arc<Writer>>,
    ) -> ListingTurn {
        // The mount's first: who waits there must not keep other mounts out.
        let of_mount = store.listing_turns.enter(client).await;
        ListingTurn {
            _of_mount: of_mount,
            _of_all: self.permits.take(&store.mount.path).await,
        }
    }

    /// Makes a page of `store` when it is the turn of `client`.
    ///
    /// # Errors
    /// Those of `making`, and unavailable when it takes longer than a page may.
    pub(crate) async fn in_turn<T>(
        &self,
        store: &MountStore,
        client: Option<&Arc<Writer>>,
        uri: &str,
        making: impl Future<Output = Result<T, UnderStoreError>>,
    ) -> Result<T, UnderStoreError> {
        let _turn = self.turn(store, client).await;
        if let Backend::Files(_) = store.backend {
            // A call into a file system cannot be cancelled: it keeps its thread, and so its permit.
            return making.await;
        }
        let time_max = self.stores.options.listing_timeout;
        timeout(time_max, making).await.unwrap_or_else(|_| {
            let cause = format!(
                "the store took more than {} s for a page of the listing",
                time_max.as_secs_f32()
            );
            Err(Failure::passing(UnderStoreErrorKind::Unavailable, cause).into_error(uri, 1))
        })
    }

    /// At most `limit` entries, objects and common prefixes together, of what `mount` has at paths
    /// that begin with `prefix` and sort behind `after`. To list a directory, `prefix` ends in `/`;
    /// an empty `after` is the start. May be called from any executor.
    ///
    /// # Errors
    /// When the prefix is not below the mount or not usable, or the store fails.
    pub async fn list(
        &self,
        mount: &Arc<Mount>,
        prefix: &str,
        depth: Depth,
        after: &str,
        limit: usize,
    ) -> Result<Page, UnderStoreError> {
        let (this, mount) = (self.clone(), Arc::clone(mount));
        let (prefix, after) = (prefix.to_owned(), after.to_owned());
        let uri = mount.uri.clone();
        let task = self
            .runtime
            .spawn(async move { this.page(&mount, &prefix, depth, &after, limit).await });
        match task.await {
            Ok(page) => page,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(UnderStoreError {
                kind: UnderStoreErrorKind::Unavailable,
                uri,
                message: "the worker is shutting down; ask another one".to_owned(),
            }),
        }
    }

    /// Forgets what is cached of the mount at `mount_path`, such as when an operator asks.
    pub fn forget(&self, mount_path: &str) {
        self.names.forget(mount_path, None);
        self.cache.forget(mount_path);
    }

    /// Forgets what is cached of the mount at `mount_path` that could show `key`.
    pub(crate) fn forget_key(&self, mount_path: &str, key: &str) {
        // In this order: runs are made of names.
        self.names.forget(mount_path, Some(key));
        self.cache.forget_key(mount_path, key);
    }

    /// Entries and bytes in the cache, those of the names of directories among them.
    pub fn cached(&self) -> (usize, usize) {
        let (entries, bytes) = self.cache.size();
        (entries, bytes + self.names.bytes())
    }

    async fn page(
        &self,
        mount: &Arc<Mount>,
        prefix: &str,
        depth: Depth,
        after: &str,
        limit: usize,
    ) -> Result<Page, UnderStoreError> {
        let store = self.stores.of_mount(mount)?;
        let uri = format!(
            "{}{}",
            mount.uri,
            prefix.strip_prefix(&mount.path).unwrap_or(prefix)
        );
        let limit = limit.clamp(1, PAGE_ENTRIES_MAX);
        let making = self.page_of(&store, &uri, prefix, depth, after, limit);
        store.count(self.in_turn(&store, None, &uri, making).await)
    }

    async fn page_of(
        &self,
        store: &Arc<MountStore>,
        uri: &str,
        prefix: &str,
        depth: Depth,
        after: &str,
        limit: usize,
    ) -> Result<Page, UnderStoreError> {
        let mount = &store.mount;
        let prefix = key_prefix(mount, prefix).map_err(|cause| invalid(cause, uri))?;
        let mut after = match after {
            "" => String::new(),
            _ => key_prefix(mount, after)
                .map_err(|cause| invalid(cause, uri))?
                .to_owned(),
        };
        let root = mount.path.trim_end_matches('/');
        let mut page = Page::default();
        let mut room = limit;
        let mut bytes = 0;
        loop {
            let run = self.run(store, uri, prefix, depth, &after, room).await?;
            let start = run
                .items
                .partition_point(|item| item.key() <= after.as_str());
            let items = &run.items[start..];
            for item in items.iter().take(room) {
                match item {
                    // A directory or its marker: no path that could be read.
                    Item::Object { key, .. } if key.ends_with('/') => {}
                    Item::Object {
                        key,
                        length,
                        last_modified_ms,
                        version,
                        ..
                    } => page.entries.push(ListedObject {
                        path: format!("{root}/{key}"),
                        length: *length,
                        last_modified_ms: *last_modified_ms,
                        version: version.clone(),
                    }),
                    Item::Prefix { key } => page.common_prefixes.push(format!("{root}/{key}")),
                }
            }
            let is_end = run.is_complete && items.len() <= room;
            if let Some(last) = items.iter().take(room).next_back() {
                last.key().clone_into(&mut after);
            }
            let taken = &items[..items.len().min(room)];
            bytes += taken
                .iter()
                .map(|item| item.bytes() + root.len())
                .sum::<usize>();
            room -= taken.len();
            if bytes > PAGE_BYTES_MAX {
                room = 0;
            }
            if is_end {
                return Ok(page);
            }
            if room == 0 {
                page.more = Some(format!("{root}/{after}"));
                return Ok(page);
            }
        }
    }

    /// A run that has what follows `after`, from the cache or from the store.
    pub(crate) async fn run(
        &self,
        store: &Arc<MountStore>,
        uri: &str,
        prefix: &str,
        depth: Depth,
        after: &str,
        room: usize,
    ) -> Result<Arc<Run>, UnderStoreError> {
        let max_age = match store.mount.freshness {
            Freshness::AlwaysCheck => None,
            Freshness::MaxAge(age) => Some(age),
            Freshness::Immutable => Some(Duration::MAX),
        };
        let key = RunKey::new(&store.mount.path, prefix, depth, after);
        if let Some(run) = max_age.and_then(|age| self.cache.find(&key, store, age)) {
            return Ok(run);
        }
        let entries_max = if max_age.is_some() {
            RUN_ENTRIES_MAX
        } else {
            room
        };
        let wanted = Wanted {
            prefix,
            depth,
            after,
            entries_max,
        };
        // Taken before the store is asked: an entry may be older than its age says, never younger.
        let asked_at = Instant::now();
        let forgotten = self.cache.forgotten();
        let run = self.ask(store, uri, wanted, max_age.unwrap_or_default());
        let run = Arc::new(run.await?);
        let asked_at = run.as_of.map_or(asked_at, |as_of| as_of.min(asked_at));
        if max_age.is_some() {
            self.cache.insert(key, store, (asked_at, forgotten), &run);
        }
        Ok(run)
    }

    async fn ask(
        &self,
        store: &MountStore,
        uri: &str,
        wanted: Wanted<'_>,
        max_age: Duration,
    ) -> Result<Run, UnderStoreError> {
        match &store.backend {
            Backend::Files(tree) => {
                self.stores
                    .with_tries(store, uri, |_| {
                        let (tree, names) = (tree.clone(), Arc::clone(&self.names));
                        let (mount, counters) =
                            (Arc::clone(&store.mount), Arc::clone(&store.counters));
                        let (prefix, after) = (wanted.prefix.to_owned(), wanted.after.to_owned());
                        Box::pin(blocking(move || {
                            files::run(
                                files::Place {
                                    tree: &tree,
                                    mount_path: &mount.path,
                                    names: &names,
                                    max_age,
                                    counts: &counters.names,
                                },
                                Wanted {
                                    prefix: &prefix,
                                    after: &after,
                                    ..wanted
                                },
                            )
                        }))
                    })
                    .await
            }
            Backend::Remote(remote) => remote::run(remote, &self.stores, store, uri, wanted).await,
        }
    }
}

/// The part of a path below the mount, which may end anywhere.
fn key_prefix<'a>(mount: &Mount, path: &'a str) -> Result<&'a str, String> {
    let root = mount.path.trim_end_matches('/');
    let rest = path
        .strip_prefix(root)
        .filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let key = rest.ok_or_else(|| format!("`{path}` is not below the mount at {}", mount.path))?;
    let key = key.strip_prefix('/').unwrap_or(key);
    check_prefix(key).map(|()| key)
}

/// Refuses beginnings of keys that no key has.
pub(crate) fn check_prefix(key: &str) -> Result<(), String> {
    // What stands before the last slash is a whole name; what stands behind it may be `.` so far.
    if let Some((directory, _)) = key.rsplit_once('/') {
        check_key(directory)?;
    }
    if key.chars().any(|character| character.is_ascii_control()) {
        return Err("the prefix contains a control character".to_owned());
    }
    Ok(())
}

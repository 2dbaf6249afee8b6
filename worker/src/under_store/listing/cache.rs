//! The runs that were listed not long ago.
//!
//! The invariant: the sums of entries and bytes are those of the runs that are in, and within
//! their bounds after every insertion.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Depth, Item, ListingBounds, Run};
use crate::under_store::limits::lock;
use crate::under_store::stores::MountStore;

/// Entries that a run counts as at least, for its own keys and nodes; bounds the number of runs.
const RUN_COST_MIN: usize = 64;

/// Names a run: of which listing, and behind which key it starts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RunKey {
    mount_path: String,
    prefix: String,
    depth: Depth,
    after: String,
}

impl RunKey {
    pub fn new(mount_path: &str, prefix: &str, depth: Depth, after: &str) -> Self {
        RunKey {
            mount_path: mount_path.to_owned(),
            prefix: prefix.to_owned(),
            depth,
            after: after.to_owned(),
        }
    }

    /// The first run of the same listing.
    fn first(&self) -> RunKey {
        RunKey {
            after: String::new(),
            ..self.clone()
        }
    }
}

#[derive(Debug)]
struct Cached {
    run: Arc<Run>,
    /// A mount that changed has another store, and its old runs are never found again.
    store: Arc<MountStore>,
    asked_at: Instant,
    used: u64,
    entries: usize,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Runs {
    by_key: BTreeMap<RunKey, Cached>,
    /// The same by when they were used last: each use has another number.
    by_use: BTreeMap<u64, RunKey>,
    entries: usize,
    bytes: usize,
    uses: u64,
    forgotten: u64,
}

impl Runs {
    fn remove(&mut self, key: &RunKey) {
        if let Some(cached) = self.by_key.remove(key) {
            self.entries -= cached.entries;
            self.bytes -= cached.bytes;
            self.by_use.remove(&cached.used);
        }
    }
}

/// Runs, by listing and start.
#[derive(Debug)]
pub(super) struct Cache {
    bounds: ListingBounds,
    runs: Mutex<Runs>,
}

impl Cache {
    pub fn new(bounds: ListingBounds) -> Self {
        Cache {
            bounds,
            runs: Mutex::default(),
        }
    }

    /// A run, not older than `max_age`, that has what follows `key.after`.
    pub fn find(
        &self,
        key: &RunKey,
        store: &Arc<MountStore>,
        max_age: Duration,
    ) -> Option<Arc<Run>> {
        let mut runs = lock(&self.runs);
        runs.uses += 1;
        let uses = runs.uses;
        let (found, cached) = runs
            .by_key
            .range_mut(key.first()..=key.clone())
            .next_back()?;
        if !Arc::ptr_eq(&cached.store, store) || cached.asked_at.elapsed() >= max_age {
            let stale = found.clone();
            runs.remove(&stale);
            return None;
        }
        let reaches = cached.run.is_complete
            || cached
                .run
                .items
                .last()
                .is_some_and(|last| last.key() > key.after.as_str());
        let before = std::mem::replace(&mut cached.used, uses);
        let run = reaches.then(|| Arc::clone(&cached.run));
        if let Some(key) = runs.by_use.remove(&before) {
            runs.by_use.insert(uses, key);
        }
        run
    }

    /// Keeps a run, at the cost of those that were not used for the longest time.
    /// A run that was asked for before the last forgetting may be of before, and is not kept.
    pub fn insert(
        &self,
        key: RunKey,
        store: &Arc<MountStore>,
        (asked_at, forgotten): (Instant, u64),
        run: &Arc<Run>,
    ) {
        let entries = run.items.len().max(RUN_COST_MIN);
        let bytes = size_of::<Cached>()
            // In both maps.
            + 2 * (size_of::<RunKey>() + key.mount_path.len() + key.prefix.len() + key.after.len())
            + run.items.iter().map(Item::bytes).sum::<usize>();
        if entries > self.bounds.entries_max || bytes > self.bounds.bytes_max {
            return;
        }
        let mut runs = lock(&self.runs);
        if runs.forgotten != forgotten {
            return;
        }
        runs.remove(&key);
        while runs.entries + entries > self.bounds.entries_max
            || runs.bytes + bytes > self.bounds.bytes_max
        {
            let (_, oldest) = runs
                .by_use
                .pop_first()
                .expect("sums above zero are of some run");
            runs.remove(&oldest);
        }
        runs.uses += 1;
        let cached = Cached {
            run: Arc::clone(run),
            store: Arc::clone(store),
            asked_at,
            used: runs.uses,
            entries,
            bytes,
        };
        runs.entries += entries;
        runs.bytes += bytes;
        let used = cached.used;
        runs.by_use.insert(used, key.clone());
        runs.by_key.insert(key, cached);
    }

    /// Drops the runs of a mount.
    pub fn forget(&self, mount_path: &str) {
        let mut runs = lock(&self.runs);
        let of_mount: Vec<RunKey> = runs
            .by_key
            .keys()
            .filter(|key| key.mount_path == mount_path)
            .cloned()
            .collect();
        for key in of_mount {
            runs.remove(&key);
        }
        runs.forgotten += 1;
    }

    /// Drops the runs of a mount that could show `key`: those whose prefix it begins with.
    pub fn forget_key(&self, mount_path: &str, key: &str) {
        let mut runs = lock(&self.runs);
        let changed: Vec<RunKey> = runs
            .by_key
            .keys()
            .filter(|run| run.mount_path == mount_path && key.starts_with(&run.prefix))
            .cloned()
            .collect();
        for run in changed {
            runs.remove(&run);
        }
        runs.forgotten += 1;
    }

    /// Changes when something was forgotten; a run that was asked for before may be of before.
    pub fn forgotten(&self) -> u64 {
        lock(&self.runs).forgotten
    }

    /// Entries and bytes that count against the bounds.
    pub fn size(&self) -> (usize, usize) {
        let runs = lock(&self.runs);
        (runs.entries, runs.bytes)
    }
}

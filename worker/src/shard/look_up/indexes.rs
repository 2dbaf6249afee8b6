//! Key indexes of an object: built in the background, kept beside its blocks, found there after a restart.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use corelane_io::{Io, Priority};
use corelane_lookup::cache::Cache;
use corelane_lookup::column::Column;
use corelane_lookup::error::{ErrorKind, LookupError, Result};
use corelane_lookup::execute::plan::{Node, Plan};
use corelane_lookup::execute::{Limits, Search};
use corelane_lookup::host::charge;
use corelane_lookup::key_index::KeyIndex;
use corelane_lookup::predicate::intervals::Bound;

use super::host::ShardHost;
use super::known::KnownFile;
use crate::object::ObjectMeta;
use crate::shard::Shard;
use crate::under_store::UnderStore;

/// Decoded dictionaries that are kept while a key index is built; pages are read once.
const BUILD_CACHE_BYTES: usize = 1 << 20;

/// Most rows of a key index that is built: some 30 bytes each while it is.
const BUILD_ROWS_MAX: u64 = 32 << 20;

/// Key indexes that wait to be made or brought in; beyond, they have to be wanted again.
const WAITING_MAX: usize = 1024;

/// Bytes of a held key index that are read until others have their turn.
const RECALL_BYTES: u64 = 256 << 10;

/// Values of a test for which a key index would be used: more is a scan.
const POINTS_MAX: usize = 4096;

/// Checking the bytes of a key index takes about a nanosecond for so many.
const OPEN_BYTES_PER_NS: u64 = 25;

/// Where a key index comes from.
enum Origin {
    /// Parts that are held beside the object's blocks.
    Held(Vec<Arc<ObjectMeta>>),
    /// The column's pages.
    Column,
}

impl<I: Io, U: UnderStore> Shard<I, U> {
    /// Begins to bring in the key indexes of an object that is looked into for the first time: those that are
    /// held, and those that its mount asks for. What is held of other versions goes.
    pub(super) fn begin_indexes(self: &Rc<Self>, known: &Rc<KnownFile>, host: &ShardHost<I, U>) {
        let mount = self.mounts.borrow().get(host.known.mount.get()).cloned();
        let is_asked_for = mount
            .as_ref()
            .is_some_and(|mount| !mount.key_indexes.is_empty());
        if self.lookups.limits.index_after == 0 && !is_asked_for {
            return;
        }
        let meta = Arc::clone(&host.known.meta);
        let mut begun = Vec::new();
        for (leaf, parts) in self.key_indexes_held(&meta) {
            if let Ok(Some(column)) = known.file.column_at(leaf).map(Option::<&_>::cloned) {
                self.begin_index(known, &column, host, Origin::Held(parts));
                begun.push(leaf);
            }
        }
        for name in mount.iter().flat_map(|mount| mount.key_indexes.iter()) {
            // One that the footer lies about says so when it is looked up.
            let column = known.file.column(name).ok().flatten().cloned();
            if let Some(column) = column.filter(|column| !begun.contains(&column.leaf)) {
                self.begin_index(known, &column, host, Origin::Column);
                begun.push(column.leaf);
            }
        }
        let shard = Rc::clone(self);
        self.io.spawn(Priority::Background, async move {
            shard.free_outdated(&meta).await;
        });
    }

    /// Begins to bring in a key index of a column that is looked up often.
    pub(super) fn consider_index(
        self: &Rc<Self>,
        known: &Rc<KnownFile>,
        plan: &Plan,
        host: &ShardHost<I, U>,
    ) {
        let leaves = match &plan.filter {
            Node::And(children) => children.as_slice(),
            leaf => std::slice::from_ref(leaf),
        };
        let after = self.lookups.limits.index_after;
        let wanted = leaves.iter().find_map(|node| match node {
            Node::Leaf(leaf) => match &leaf.bound {
                Bound::Values(intervals) if intervals.points(POINTS_MAX).is_some() => {
                    Some(&leaf.column)
                }
                _ => None,
            },
            _ => None,
        });
        let Some(column) = wanted.filter(|column| known.wants_index(column, after)) else {
            return;
        };
        // It may have been there, and have gone from memory.
        let held = self.key_indexes_held(&host.known.meta);
        let held = held.into_iter().find(|(leaf, _)| *leaf == column.leaf);
        let origin = held.map_or(Origin::Column, |(_, parts)| Origin::Held(parts));
        self.begin_index(known, column, host, origin);
    }

    fn begin_index(
        self: &Rc<Self>,
        known: &Rc<KnownFile>,
        column: &Arc<Column>,
        host: &ShardHost<I, U>,
        origin: Origin,
    ) {
        let waiting = &self.lookups.indexes_waiting;
        if waiting.get() >= WAITING_MAX {
            known.lost_index(column.leaf);
            return;
        }
        waiting.set(waiting.get() + 1);
        known.awaits_index(column.leaf);
        // One whose footer goes while it waits is not waited for.
        let (shard, known, column) = (Rc::clone(self), Rc::downgrade(known), Arc::clone(column));
        let host = host.of(Rc::clone(&host.known));
        self.io.spawn(Priority::Background, async move {
            let _turn = shard.lookups.index_turns.take(1).await;
            let waiting = &shard.lookups.indexes_waiting;
            waiting.set(waiting.get() - 1);
            let Some(known) = known.upgrade() else {
                return;
            };
            match origin {
                Origin::Held(parts) => shard.recall_index(&known, &column, &host, &parts).await,
                Origin::Column => shard.make_index(&known, &column, &host).await,
            }
        });
    }

    /// Brings a key index in that is held.
    async fn recall_index(
        self: &Rc<Self>,
        known: &KnownFile,
        column: &Arc<Column>,
        host: &ShardHost<I, U>,
        parts: &[Arc<ObjectMeta>],
    ) {
        match self.read_index(known, host, parts).await {
            Ok(index) => {
                if self.lookups.keep_index(known, column.leaf, Some(index)) {
                    self.counters.key_indexes_recalled.increase();
                }
            }
            Err(error) => {
                tracing::debug!(%error, file = known.file.name, column = column.path, "a key index is made anew");
                match error.kind {
                    // A block of it is not held any more.
                    ErrorKind::Read => {}
                    ErrorKind::Corrupt => {
                        for part in parts {
                            // One that comes back is found out again.
                            let _ = self.free(part).await;
                        }
                    }
                    _ => {
                        known.lost_index(column.leaf);
                        return;
                    }
                }
                self.make_index(known, column, host).await;
            }
        }
    }

    async fn read_index(
        &self,
        known: &KnownFile,
        host: &ShardHost<I, U>,
        parts: &[Arc<ObjectMeta>],
    ) -> Result<KeyIndex> {
        let length: u64 = parts.iter().map(|part| part.length).sum();
        self.check_index_bytes(length as usize)?;
        let _charge = charge(host, length).await?;
        let mut bytes = Vec::with_capacity(length as usize);
        for part in parts {
            let part_known = self.know(Arc::clone(part), host.known.mount.get());
            let host = host.of(part_known);
            for start in (0..part.length).step_by(RECALL_BYTES as usize) {
                let end = part.length.min(start + RECALL_BYTES);
                bytes.extend_from_slice(&host.read_range(start..end).await?);
                self.io.yield_now().await;
            }
        }
        let index = self.open_index(bytes.into()).await?;
        let rows = known.file.group_starts.last().copied();
        if rows != Some(u64::from(index.rows_in_file())) {
            return Err(LookupError::corrupt("a key index of another table"));
        }
        Ok(index)
    }

    /// Makes a key index from the column's pages, and puts it beside the object's blocks.
    async fn make_index(
        self: &Rc<Self>,
        known: &KnownFile,
        column: &Arc<Column>,
        host: &ShardHost<I, U>,
    ) {
        let built = self.build_index(known, column, host).await;
        if let Err(error) = &built {
            tracing::warn!(%error, file = known.file.name, column = column.path, "no key index");
        }
        let (bytes, index) = match built {
            Ok(built) => built,
            Err(error) => {
                match error.kind {
                    ErrorKind::Invalid
                    | ErrorKind::Corrupt
                    | ErrorKind::Unsupported
                    | ErrorKind::TooMuch => {
                        self.lookups.keep_index(known, column.leaf, None);
                    }
                    ErrorKind::Read
                    | ErrorKind::VersionChanged
                    | ErrorKind::Busy
                    | ErrorKind::Denied => known.lost_index(column.leaf),
                }
                return;
            }
        };
        if self.lookups.keep_index(known, column.leaf, Some(index)) {
            self.counters.key_indexes_built.increase();
        } else {
            tracing::debug!(
                file = known.file.name,
                column = column.path,
                "no room for a key index"
            );
        }
        let mount = host.known.mount.get();
        self.keep_key_index(&host.known.meta, mount, column.leaf, &bytes)
            .await;
    }

    async fn build_index(
        &self,
        known: &KnownFile,
        column: &Arc<Column>,
        host: &ShardHost<I, U>,
    ) -> Result<(Bytes, KeyIndex)> {
        let rows = known.file.group_starts.last().copied().unwrap_or(0);
        if rows > BUILD_ROWS_MAX {
            return Err(LookupError::new(
                ErrorKind::TooMuch,
                format!("{rows} rows; key indexes are built of up to {BUILD_ROWS_MAX}"),
            ));
        }
        let cache = RefCell::new(Cache::new(BUILD_CACHE_BYTES, 1));
        let limits = Limits {
            rows: None,
            scan_bytes: u64::MAX,
            answer_bytes: 0,
        };
        let search = Search::new(host, &known.file, &cache, limits);
        let bytes = Bytes::from(search.build_key_index(column).await?);
        self.check_index_bytes(bytes.len())?;
        let index = self.open_index(bytes.clone()).await?;
        Ok((bytes, index))
    }

    async fn open_index(&self, bytes: Bytes) -> Result<KeyIndex> {
        let estimate = Duration::from_nanos(bytes.len() as u64 / OPEN_BYTES_PER_NS);
        let compute = &self.lookups.compute;
        compute
            .run(&self.io, estimate, move || KeyIndex::open(bytes))
            .await
    }

    fn check_index_bytes(&self, bytes: usize) -> Result<()> {
        if bytes > self.lookups.limits.index_bytes {
            return Err(LookupError::new(
                ErrorKind::TooMuch,
                format!(
                    "the key index takes {bytes} bytes, and there are {} for all: give look-ups more memory \
                     (lookup_memory)",
                    self.lookups.limits.index_bytes
                ),
            ));
        }
        Ok(())
    }
}

//! A look-up in one object, on its home shard.

use std::rc::Rc;
use std::sync::Arc;

use corelane_io::{Io, Priority};
use corelane_lookup::cache::Cache;
use corelane_lookup::error::{ErrorKind, LookupError, Result};
use corelane_lookup::execute::plan::{Node, Plan};
use corelane_lookup::execute::{Limits, Search};
use corelane_lookup::file::footer;
use corelane_lookup::key_index::KeyIndex;
use corelane_lookup::predicate::intervals::Bound;
use corelane_lookup::request::Batch;
use corelane_lookup::set::{FileAnswer, FileQuery};
use corelane_rpc_schema::messages::ErrorMessage;
use std::cell::RefCell;

use super::host::{ShardHost, Sources, failure_of};
use super::known::KnownFile;
use crate::mount::AccessSet;
use crate::shard::Shard;
use crate::under_store::UnderStore;

/// Most bytes that the arrays of an answer may take, of one object or of all.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Decoded pages that are kept while a key index is built: it reads each page once.
const BUILD_CACHE_BYTES: usize = 1 << 20;

/// Versions of an object that may go while it is looked into until the caller is told to come again.
const CHANGES_MAX: u32 = 4;

/// Values of a test for which a key index would be used: more is a scan.
const POINTS_MAX: usize = 4096;

/// What one object is asked.
#[derive(Debug)]
pub struct ObjectQuery {
    /// Path in the worker's namespace.
    pub path: Box<str>,
    /// Rows and columns.
    pub query: FileQuery,
    /// Keys that the answer is to be in the order of.
    pub keys: Option<Arc<Batch>>,
    /// Rows wanted at most.
    pub limit: Option<u64>,
    /// Bytes of pages that may be read.
    pub scan_bytes: Option<u64>,
}

impl<I: Io, U: UnderStore> Shard<I, U> {
    /// Looks into an object whose home this shard is.
    pub(crate) async fn look_into(
        self: &Rc<Self>,
        asked: &ObjectQuery,
        access: &Arc<AccessSet>,
    ) -> std::result::Result<FileAnswer, ErrorMessage> {
        let _turn = self.lookups.turns.take(1).await;
        let mut changes = 0;
        loop {
            let meta = self.open(&asked.path, access).await?;
            let mount = self.mount_covering(&asked.path)?;
            let known = self.know(meta, mount.id);
            let host = ShardHost {
                shard: Rc::clone(self),
                known,
                access: Arc::clone(access),
                sources: Sources::default(),
            };
            match self.look_into_version(asked, host).await {
                Err(error) if error.kind == ErrorKind::VersionChanged && changes < CHANGES_MAX => {
                    changes += 1;
                }
                answer => return answer.map_err(failure_of),
            }
        }
    }

    async fn look_into_version(
        self: &Rc<Self>,
        asked: &ObjectQuery,
        host: ShardHost<I, U>,
    ) -> Result<FileAnswer> {
        let (object, length) = (host.known.meta.id, host.known.meta.length);
        let (known, footers_read) = match self.lookups.file(object) {
            Some(known) => (known, 0),
            None => {
                let file = footer::open(&host, &asked.path, length).await?;
                (self.lookups.keep(object, file), 1)
            }
        };
        let file = &known.file;
        let mut plan = Plan::new(file, &asked.query.predicate, &asked.query.select)?;
        if let Some(keys) = &asked.keys {
            plan = plan.with_keys(file, &keys.column, &keys.keys)?;
        }
        let limits = Limits {
            rows: asked.limit,
            scan_bytes: asked.scan_bytes.unwrap_or(self.lookups.limits.scan_bytes),
            answer_bytes: ANSWER_BYTES_MAX,
        };
        let search = Search::new(&host, file, &self.lookups.decoded, limits);
        let found = search.run(&plan, &known.indexes()).await?;
        let mut counts = found.counts;
        counts.footers_read += footers_read;
        counts.bytes_from_dram += host.sources.dram.get();
        counts.bytes_from_device += host.sources.device.get();
        counts.bytes_from_under_store += host.sources.under_store.get();
        if counts.key_index_used == 0 {
            self.consider_index(&known, &plan, host);
        }
        Ok(FileAnswer {
            schema: plan.schema,
            batches: found.batches,
            ordinals: found.ordinals,
            missing: plan.missing,
            counts,
        })
    }

    /// Begins to build a key index of a column that is looked up often.
    fn consider_index(self: &Rc<Self>, known: &Rc<KnownFile>, plan: &Plan, host: ShardHost<I, U>) {
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
        let (shard, known, column) = (Rc::clone(self), Rc::clone(known), Arc::clone(column));
        self.io.spawn(Priority::Background, async move {
            let built = shard.build_index(&known, &column, &host).await;
            if let Err(error) = &built {
                tracing::warn!(%error, file = known.file.name, column = column.path, "no key index");
            }
            let is_built = built.is_ok();
            let is_kept = shard.lookups.keep_index(&known, column.leaf, built.ok());
            if is_kept {
                shard.counters.key_indexes_built.increase();
            } else if is_built {
                tracing::debug!(file = known.file.name, column = column.path, "no room for a key index");
            }
        });
    }

    async fn build_index(
        &self,
        known: &KnownFile,
        column: &Arc<corelane_lookup::column::Column>,
        host: &ShardHost<I, U>,
    ) -> Result<KeyIndex> {
        let cache = RefCell::new(Cache::new(BUILD_CACHE_BYTES, 1));
        let limits = Limits {
            rows: None,
            scan_bytes: u64::MAX,
            answer_bytes: 0,
        };
        let search = Search::new(host, &known.file, &cache, limits);
        let bytes = search.build_key_index(column).await?;
        if bytes.len() > self.lookups.limits.index_bytes {
            return Err(LookupError::new(
                ErrorKind::TooMuch,
                format!("the key index takes {} bytes", bytes.len()),
            ));
        }
        KeyIndex::open(bytes.into())
    }
}

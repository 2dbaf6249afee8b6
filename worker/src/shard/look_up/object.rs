//! A look-up in one object, on its home shard.

use std::rc::Rc;
use std::sync::Arc;

use corelane_io::Io;
use corelane_lookup::error::{ErrorKind, Result};
use corelane_lookup::execute::counts::Counts;
use corelane_lookup::execute::plan::Plan;
use corelane_lookup::execute::{Limits, Search};
use corelane_lookup::file::footer;
use corelane_lookup::request::Batch;
use corelane_lookup::set::{FileAnswer, FileQuery};
use corelane_rpc_schema::messages::ErrorCode;

use super::failure::LookupFailure;
use super::host::ShardHost;
use crate::mount::AccessSet;
use crate::shard::Shard;
use crate::shard::read::error;
use crate::under_store::UnderStore;

/// Most bytes that the arrays of an answer may take, of one object or of all.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Versions of an object that may go while it is looked into until the caller is told to come again.
const CHANGES_MAX: u32 = 4;

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
    /// The answer of the object at `path` if this shard is its home, its footer is known and its statistics say
    /// that no row matches: most objects of a set, at a small part of what looking into them costs.
    pub(super) fn ruled_out(
        &self,
        path: &str,
        query: &FileQuery,
        access: &AccessSet,
    ) -> Option<FileAnswer> {
        // Where something is wrong, looking into the object says what.
        let place = self.place_of(path).ok()?;
        if place.shard != self.id {
            return None;
        }
        let object = self.fresh_at(&place, access)?;
        let known = self.lookups.file(object.meta.id)?;
        if known.file.is_wide() && !known.file.is_prepared(columns_of(query).as_deref()) {
            return None;
        }
        let selection = self.lookups.selection(&known, &query.select).ok()?;
        let plan = Plan::of_selection(&known.file, &query.predicate, selection).ok()?;
        if !plan.is_ruled_out(&known.file) {
            return None;
        }
        let groups = known.file.groups() as u64;
        Some(FileAnswer {
            schema: plan.schema,
            batches: Vec::new(),
            ordinals: Vec::new(),
            missing: plan.missing,
            counts: Counts {
                groups,
                groups_pruned_by_statistics: groups,
                ..Counts::default()
            },
            memory: None,
        })
    }

    /// Looks into an object whose home this shard is.
    pub(crate) async fn look_into(
        self: &Rc<Self>,
        asked: &ObjectQuery,
        access: &Arc<AccessSet>,
    ) -> std::result::Result<FileAnswer, LookupFailure> {
        let _turn = self.lookups.turns.take(1).await;
        let mut changes = 0;
        loop {
            if self.place_of(&asked.path)?.shard != self.id {
                let sentence = "the mounts changed meanwhile; ask again";
                return Err(error(ErrorCode::Busy, sentence).into());
            }
            let known = self.known_at(&asked.path, access).await?;
            let host = ShardHost::new(Rc::clone(self), known, Arc::clone(access));
            match self.look_into_version(asked, host).await {
                Err(error) if error.kind == ErrorKind::VersionChanged && changes < CHANGES_MAX => {
                    changes += 1;
                }
                answer => return Ok(answer?),
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
                // Whoever came at the same time may have been faster.
                let known = self.lookups.file(object).unwrap_or_else(|| {
                    let known = self.lookups.keep(object, file);
                    self.begin_indexes(&known, &host);
                    known
                });
                (known, 1)
            }
        };
        let file = &known.file;
        if file.is_wide() {
            let columns = columns_of(&asked.query);
            file.prepare(&host, columns.as_deref()).await?;
        }
        let selection = self.lookups.selection(&known, &asked.query.select)?;
        let mut plan = Plan::of_selection(file, &asked.query.predicate, selection)?;
        if let Some(keys) = &asked.keys {
            plan = plan.with_keys(file, &keys.column, &keys.keys)?;
        }
        let limits = Limits {
            rows: asked.limit,
            scan_bytes: asked
                .scan_bytes
                .unwrap_or(self.lookups.limits.scan_bytes)
                .min(self.lookups.limits.scan_bytes_max),
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
            self.consider_index(&known, &plan, &host);
        }
        Ok(FileAnswer {
            schema: plan.schema,
            batches: found.batches,
            ordinals: found.ordinals,
            missing: plan.missing,
            counts,
            memory: found.memory.map(Arc::new),
        })
    }
}

/// The columns that a query names; `None` if it wants all.
fn columns_of(query: &FileQuery) -> Option<Vec<&str>> {
    if query.select.is_empty() {
        return None;
    }
    let mut columns: Vec<&str> = query.select.iter().map(String::as_str).collect();
    query.predicate.columns(&mut columns);
    Some(columns)
}

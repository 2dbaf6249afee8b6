//! A look-up in one file: from a predicate to rows, from rows to Arrow arrays.
//!
//! | file | does |
//! |---|---|
//! | [`plan`] | names and literals to columns and intervals of this file |
//! | `filter` | rows that match, by statistics, filters, dictionaries and pages |
//! | `indexed` | rows that a key index finds |
//! | `bloom` | bloom filters, of which one block is read |
//! | `load` | pages from the cache, or read and decoded |
//! | `project` | the selected columns of the rows that match |
//! | `build` | values of a column to an Arrow array |
//! | `whole` | columns that are nested or repeated, by `parquet`'s own readers |
//! | [`counts`] | what was pruned, read and decoded on the way |

mod bloom;
mod build;
pub mod counts;
mod filter;
pub mod indexed;
mod load;
pub mod plan;
mod project;
mod whole;

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use arrow_array::RecordBatch;
use bytes::Bytes;

use crate::cache::Cache;
use crate::error::{ErrorKind, LookupError, Result};
use crate::file::File;
use crate::host::{Host, charge};
use crate::key_index::KeyIndex;
use crate::memory::{Account, Charge};
use crate::rows::Rows;
use counts::Counts;
use plan::Plan;

/// Rows of one batch of an answer: bounds what is built at a time.
pub(crate) const BATCH_ROWS: usize = 8_192;

/// Bytes of memory of a batch beside its arrays, about.
const BATCH_BYTES: u64 = 128;

/// What a look-up may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rows wanted at most.
    pub rows: Option<u64>,
    /// Bytes that may be read for it: of pages, their headers and indexes, and filters.
    pub scan_bytes: u64,
    /// Bytes that the answer's arrays may take.
    pub answer_bytes: usize,
}

/// Rows that match, as Arrow arrays.
#[derive(Debug, Default)]
pub struct Found {
    /// Non-empty batches of the plan's schema, in the file's order.
    pub batches: Vec<RecordBatch>,
    /// Where keys are wanted: for each row of each batch, the key's place in the request.
    pub ordinals: Vec<Vec<u32>>,
    /// What it took.
    pub counts: Counts,
    /// Memory of the batches, charged as long as this is there; none where nothing was found.
    pub memory: Option<Charge>,
}

/// Key indexes of a file, by leaf.
pub type KeyIndexes = [(usize, Rc<KeyIndex>)];

/// A look-up in one file.
pub struct Search<'a, H> {
    pub(crate) host: &'a H,
    pub(crate) file: &'a File,
    pub(crate) cache: &'a RefCell<Cache>,
    pub(crate) limits: Limits,
    pub(crate) counts: RefCell<Counts>,
    /// Whether pages that it decodes are worth keeping: not those of a scan, which others need more.
    pub(crate) keeps_pages: bool,
    /// Bytes that were read so far.
    pub(crate) scanned: Cell<u64>,
    /// Memory of the rows that tests found in the row group that is looked into.
    pub(crate) rows_found: RefCell<Option<Charge>>,
}

/// The host's reads, counted against what the look-up may read.
impl<H: Host> Host for Search<'_, H> {
    async fn read(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let lengths = ranges.iter().map(|range| range.end - range.start);
        let scanned = lengths.fold(self.scanned.get(), u64::saturating_add);
        if scanned > self.limits.scan_bytes {
            return Err(LookupError::new(
                ErrorKind::TooMuch,
                format!(
                    "{}: it would read more than {} bytes of pages and their headers: narrow the predicate, or allow \
                     more with scan_bytes_max, up to the worker's lookup_scan_max",
                    self.file.name, self.limits.scan_bytes
                ),
            ));
        }
        self.scanned.set(scanned);
        self.host.read(ranges).await
    }

    fn run<T: Send + 'static>(
        &self,
        estimate: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> {
        self.host.run(estimate, work)
    }

    fn is_far(&self) -> bool {
        self.host.is_far()
    }

    fn memory(&self) -> &Account {
        self.host.memory()
    }

    fn until_memory(&self, tries: u32) -> impl Future<Output = bool> {
        self.host.until_memory(tries)
    }

    fn pause(&self) -> impl Future<Output = ()> {
        self.host.pause()
    }

    fn now(&self) -> Duration {
        self.host.now()
    }
}

impl<'a, H: Host> Search<'a, H> {
    /// One in `file`, with what is kept of its pages.
    pub fn new(host: &'a H, file: &'a File, cache: &'a RefCell<Cache>, limits: Limits) -> Self {
        Search {
            host,
            file,
            cache,
            limits,
            counts: RefCell::default(),
            keeps_pages: true,
            scanned: Cell::new(0),
            rows_found: RefCell::default(),
        }
    }

    /// Runs it.
    ///
    /// # Errors
    /// As [`LookupError`] tells them apart.
    pub async fn run(self, plan: &Plan, indexes: &KeyIndexes) -> Result<Found> {
        let (mut batches, mut ordinals) = (Vec::new(), Vec::new());
        let (mut rows, mut bytes) = (0u64, 0usize);
        let mut memory = self.host.memory().empty();
        // Of keys, the first are known when all are.
        let wanted = self.limits.rows.filter(|_| plan.keys.is_none());
        let wanted = wanted.unwrap_or(u64::MAX);
        let by_index = indexed::rows_by_index(&plan.filter, indexes)?;
        self.counts.borrow_mut().key_index_used += u64::from(by_index.is_some());
        let filter = by_index.as_ref().map_or(&plan.filter, |found| &found.rest);
        for group in 0..self.file.groups() {
            if rows >= wanted {
                break;
            }
            let candidates = match &by_index {
                Some(indexed::Indexed { rows: found, .. }) => {
                    let own = self.file.group_starts[group]..self.file.group_starts[group + 1];
                    let first = found.partition_point(|row| u64::from(*row) < own.start);
                    let end = found.partition_point(|row| u64::from(*row) < own.end);
                    let within: Vec<u32> = found[first..end]
                        .iter()
                        .map(|row| (u64::from(*row) - own.start) as u32)
                        .collect();
                    Rows::of_sorted(&within)
                }
                None => Rows::first(self.file.group_rows(group)),
            };
            if candidates.is_empty() {
                continue;
            }
            self.rows_found.take();
            let found = self.filter_group(group, filter, candidates).await?;
            let found = found.truncated(wanted - rows);
            if found.is_empty() {
                continue;
            }
            rows += found.count();
            self.counts.borrow_mut().rows_matched += found.count();
            // A few at a time: a row group may say that it has four billion.
            let mut list = found.iter();
            loop {
                let part: Vec<u32> = list.by_ref().take(BATCH_ROWS).collect();
                if part.is_empty() {
                    break;
                }
                let (batch, charge) = self.project(group, plan, &part).await?;
                let Some(keys) = &plan.keys else {
                    self.count_answer(&batch, &mut bytes)?;
                    memory.absorb(charge);
                    // Where no column is selected, a batch takes no more than this.
                    memory.add(BATCH_BYTES)?;
                    batches.push(batch);
                    continue;
                };
                let pieces = self.with_ordinals(group, keys, &part, &batch, &mut bytes);
                let (pieces, charge) = pieces.await?;
                memory.absorb(charge);
                for (batch, own) in pieces {
                    batches.push(batch);
                    ordinals.push(own);
                }
            }
        }
        Ok(Found {
            batches,
            ordinals,
            counts: self.counts.into_inner(),
            memory: Some(memory),
        })
    }

    /// Charges `bytes`, and waits for them where other look-ups hold them.
    pub(crate) async fn charge(&self, bytes: u64) -> Result<Charge> {
        charge(self.host, bytes)
            .await
            .map_err(|error| error.of_file(&self.file.name, ""))
    }
}

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

use std::cell::RefCell;
use std::rc::Rc;

use arrow_array::RecordBatch;

use crate::cache::Cache;
use crate::error::Result;
use crate::file::File;
use crate::host::Host;
use crate::key_index::KeyIndex;
use crate::rows::Rows;
use counts::Counts;
use plan::Plan;

/// Rows of one batch of an answer: bounds what is built at a time.
pub(crate) const BATCH_ROWS: usize = 8_192;

/// What a look-up may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rows wanted at most.
    pub rows: Option<u64>,
    /// Bytes of pages that may be read and decoded for it.
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
        }
    }

    /// Runs it.
    ///
    /// # Errors
    /// As [`LookupError`](crate::error::LookupError) tells them apart.
    pub async fn run(self, plan: &Plan, indexes: &KeyIndexes) -> Result<Found> {
        let (mut batches, mut ordinals) = (Vec::new(), Vec::new());
        let (mut rows, mut bytes) = (0u64, 0usize);
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
            let found = self.filter_group(group, filter, candidates).await?;
            let found = found.truncated(wanted - rows);
            if found.is_empty() {
                continue;
            }
            rows += found.count();
            self.counts.borrow_mut().rows_matched += found.count();
            let list: Vec<u32> = found.iter().collect();
            for part in list.chunks(BATCH_ROWS) {
                let batch = self.project(group, plan, part).await?;
                let Some(keys) = &plan.keys else {
                    self.count_answer(&batch, &mut bytes)?;
                    batches.push(batch);
                    continue;
                };
                let pieces = self.with_ordinals(group, keys, part, &batch, &mut bytes);
                for (batch, own) in pieces.await? {
                    batches.push(batch);
                    ordinals.push(own);
                }
            }
        }
        Ok(Found {
            batches,
            ordinals,
            counts: self.counts.into_inner(),
        })
    }
}

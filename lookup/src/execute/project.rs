//! The selected columns of rows that match.
//!
//! Pages of all columns are read in one round, so that a look-up waits for the device once for its
//! predicate and once for its answer.

use std::pin::Pin;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};

use super::Search;
use super::build::{Part, build};
use super::counts::nanoseconds;
use super::load::Want;
use super::plan::{OwnedKey, Plan, WantedKeys};
use futures::{StreamExt, TryStreamExt};

use crate::error::{LookupError, Result};
use crate::file::Selected;
use crate::file::pages::ChunkPages;
use crate::host::Host;

/// Compressed bytes of pages that are held for one batch beside the cache: rows of more are built in parts.
const STEP_BYTES: u64 = 32 << 20;

/// Columns whose pages are found at a time.
const PAGES_AT_A_TIME: usize = 4;

impl<H: Host> Search<'_, H> {
    /// The selected columns of `rows`, which rise, of a row group.
    pub(super) async fn project(
        &self,
        group: usize,
        plan: &Plan,
        rows: &[u32],
    ) -> Result<RecordBatch> {
        let began = self.host.now();
        let batch = self.project_parts(group, plan, rows).await?;
        self.counts.borrow_mut().project_ns += nanoseconds(self.host.now().saturating_sub(began));
        Ok(batch)
    }

    /// Finds out where the pages of the selected columns are, of all columns at once: each may be a long walk.
    async fn find_pages(&self, group: usize, plan: &Plan) -> Result<()> {
        let unknown = plan
            .selection
            .selected
            .iter()
            .filter_map(|(_, selected)| match selected {
                Selected::Leaf(column) if self.file.known_pages(group, column.leaf).is_none() => {
                    Some(self.file.pages(self.host, group, column))
                }
                _ => None,
            });
        // A few at a time: each may hold a window of its column.
        futures::stream::iter(unknown)
            .buffer_unordered(PAGES_AT_A_TIME)
            .try_for_each(|_| std::future::ready(Ok(())))
            .await
    }

    fn project_parts<'f>(
        &'f self,
        group: usize,
        plan: &'f Plan,
        rows: &'f [u32],
    ) -> Pin<Box<dyn Future<Output = Result<RecordBatch>> + 'f>> {
        Box::pin(async move {
            self.find_pages(group, plan).await?;
            let mut chunks = Vec::with_capacity(plan.selection.selected.len());
            let mut bytes = 0;
            for (_, selected) in &plan.selection.selected {
                let Selected::Leaf(column) = selected else {
                    chunks.push(None);
                    continue;
                };
                let pages = self.file.pages(self.host, group, column).await?;
                let touched = touched_by(&pages, rows);
                bytes += touched
                    .iter()
                    .map(|(page, _)| {
                        let range = &pages.pages[*page].range;
                        range.end - range.start
                    })
                    .sum::<u64>();
                chunks.push(Some((column, pages, touched)));
            }
            if bytes > STEP_BYTES && rows.len() > 1 {
                let (head, tail) = rows.split_at(rows.len() / 2);
                let head = self.project_parts(group, plan, head).await?;
                self.host.pause().await;
                let tail = self.project_parts(group, plan, tail).await?;
                return arrow_select::concat::concat_batches(&plan.schema, [&head, &tail])
                    .map_err(|error| self.answer_error(&error));
            }
            let mut wants = Vec::new();
            for (column, pages, touched) in chunks.iter().flatten() {
                wants.extend(touched.iter().map(|(page, _)| Want {
                    column,
                    pages,
                    page: *page,
                }));
            }
            let mut loaded = self.load(group, &wants).await?.into_iter();
            let mut arrays: Vec<ArrayRef> = Vec::with_capacity(chunks.len());
            for (chunk, (_, selected)) in chunks.iter().zip(&plan.selection.selected) {
                let array = match (chunk, selected) {
                    (Some((column, pages, touched)), _) => {
                        let parts: Vec<Part<'_>> = touched
                            .iter()
                            .map(|(page, own)| Part {
                                page: loaded.next().expect("every wanted page was loaded"),
                                first_row: pages.pages[*page].first_row,
                                rows: &rows[own.clone()],
                            })
                            .collect();
                        build(self.file, column, &parts, rows.len())
                            .map_err(|error| self.file.blame(group, column, error))?
                    }
                    (None, Selected::Root(root)) => self.read_whole(group, *root, rows).await?,
                    (None, Selected::Leaf(_)) => unreachable!("leaves have chunks"),
                };
                arrays.push(array);
            }
            let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
            RecordBatch::try_new_with_options(Arc::clone(&plan.schema), arrays, &options)
                .map_err(|error| self.answer_error(&error))
        })
    }

    /// The rows of a batch, each as often as its key is wanted, and the places of those keys.
    pub(super) async fn with_ordinals(
        &self,
        group: usize,
        keys: &WantedKeys,
        rows: &[u32],
        batch: &RecordBatch,
    ) -> Result<(RecordBatch, Vec<u32>)> {
        let column = &keys.column;
        let pages = self.file.pages(self.host, group, column).await?;
        let touched = touched_by(&pages, rows);
        let (mut taken, mut ordinals) = (Vec::new(), Vec::new());
        for (page, own) in touched {
            let want = Want {
                column,
                pages: &pages,
                page,
            };
            let decoded = self.load(group, &[want]).await?;
            let first_row = pages.pages[page].first_row;
            for place in own {
                let value = decoded[0]
                    .value(rows[place] - first_row)
                    .map_err(|error| self.file.blame(group, column, error))?;
                let key = value.as_deref().and_then(|value| column.decode.key(value));
                let wanted = key.and_then(|key| keys.ordinals.get(&OwnedKey::from(key)));
                for ordinal in wanted.into_iter().flatten() {
                    taken.push(place as u32);
                    ordinals.push(*ordinal);
                }
            }
        }
        let is_same = taken.len() == rows.len() && taken.is_sorted_by(|a, b| a < b);
        let batch = if is_same {
            batch.clone()
        } else {
            arrow_select::take::take_record_batch(batch, &UInt32Array::from(taken))
                .map_err(|error| self.answer_error(&error))?
        };
        Ok((batch, ordinals))
    }

    fn answer_error(&self, error: &arrow_schema::ArrowError) -> LookupError {
        LookupError::corrupt(format!("{}: {error}", self.file.name))
    }
}

/// The pages that hold `rows`, and which of `rows` each holds.
fn touched_by(pages: &ChunkPages, rows: &[u32]) -> Vec<(usize, std::ops::Range<usize>)> {
    let mut touched = Vec::new();
    let mut start = 0;
    while start < rows.len() {
        let page = pages.page_of(rows[start]);
        let span = &pages.pages[page];
        let end_row = span.first_row + span.rows;
        let end = start + rows[start..].partition_point(|row| *row < end_row);
        assert!(end > start, "a page holds the row that it was found by");
        touched.push((page, start..end));
        start = end;
    }
    touched
}

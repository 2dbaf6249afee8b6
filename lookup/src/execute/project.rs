//! The selected columns of rows that match.
//!
//! Pages of all columns are read in one round, so that a look-up waits for the device once for its
//! predicate and once for its answer.

use std::pin::Pin;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow_schema::DataType;

use super::Search;
use super::build::{Part, build};
use super::counts::nanoseconds;
use super::load::Want;
use super::plan::{OwnedKey, Plan, WantedKeys};
use futures::{StreamExt, TryStreamExt};

use crate::error::{ErrorKind, LookupError, Result};
use crate::file::Selected;
use crate::file::pages::ChunkPages;
use crate::host::Host;
use crate::memory::Charge;

/// Compressed bytes of pages that are held for one batch beside the cache: rows of more are built in parts.
const STEP_BYTES: u64 = 32 << 20;

/// Columns whose pages are found at a time.
const PAGES_AT_A_TIME: usize = 4;

/// Bytes of an answer that are made at a time of rows that several keys want.
const PIECE_BYTES: usize = 1 << 20;

/// The selected columns of some rows, with the memory that they take. Boxed, since building halves calls itself.
type ProjectedRows<'f> = Pin<Box<dyn Future<Output = Result<(RecordBatch, Charge)>> + 'f>>;

impl<H: Host> Search<'_, H> {
    /// The selected columns of `rows`, which rise, of a row group, and the charge of what they take.
    pub(super) async fn project(
        &self,
        group: usize,
        plan: &Plan,
        rows: &[u32],
    ) -> Result<(RecordBatch, Charge)> {
        let began = self.host.now();
        let (batch, mut charge) = self.project_parts(group, plan, rows).await?;
        charge.settle(batch.get_array_memory_size() as u64)?;
        self.counts.borrow_mut().project_ns += nanoseconds(self.host.now().saturating_sub(began));
        Ok((batch, charge))
    }

    /// Finds out where the pages of the selected columns are, of all columns at once: each may be a long walk.
    async fn find_pages(&self, group: usize, plan: &Plan) -> Result<()> {
        let unknown = plan
            .selection
            .selected
            .iter()
            .filter_map(|(_, selected)| match selected {
                Selected::Leaf(column) if self.file.known_pages(group, column.leaf).is_none() => {
                    Some(self.file.pages(self, group, column))
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
    ) -> ProjectedRows<'f> {
        Box::pin(async move {
            self.find_pages(group, plan).await?;
            let mut chunks = Vec::with_capacity(plan.selection.selected.len());
            let mut bytes = 0;
            for (_, selected) in &plan.selection.selected {
                let Selected::Leaf(column) = selected else {
                    chunks.push(None);
                    continue;
                };
                let pages = self.file.pages(self, group, column).await?;
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
                return self.project_halves(group, plan, rows).await;
            }
            let mut wants = Vec::new();
            for (column, pages, touched) in chunks.iter().flatten() {
                wants.extend(touched.iter().map(|(page, _)| Want {
                    column,
                    pages,
                    page: *page,
                }));
            }
            let loaded = match self.load(group, &wants).await {
                // Fewer rows need fewer pages at once.
                Err(error) if error.kind == ErrorKind::TooMuch && rows.len() > 1 => {
                    return self.project_halves(group, plan, rows).await;
                }
                loaded => loaded?,
            };
            let mut pages_loaded = loaded.pages.iter().cloned();
            let mut charge = self.charge(0).await?;
            let mut arrays: Vec<ArrayRef> = Vec::with_capacity(chunks.len());
            for (chunk, (_, selected)) in chunks.iter().zip(&plan.selection.selected) {
                let array = match (chunk, selected) {
                    (Some((column, pages, touched)), _) => {
                        let parts: Vec<Part<'_>> = touched
                            .iter()
                            .map(|(page, own)| Part {
                                page: pages_loaded.next().expect("every wanted page was loaded"),
                                first_row: pages.pages[*page].first_row,
                                rows: &rows[own.clone()],
                            })
                            .collect();
                        build(
                            self.file,
                            column,
                            &parts,
                            rows.len(),
                            self.limits.answer_bytes,
                            &mut charge,
                        )
                        .map_err(|error| self.file.blame(group, column, error))?
                    }
                    (None, Selected::Root(root)) => {
                        let (array, own) = self.read_whole(group, *root, rows).await?;
                        charge.absorb(own);
                        array
                    }
                    (None, Selected::Leaf(_)) => unreachable!("leaves have chunks"),
                };
                arrays.push(array);
            }
            let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
            let batch =
                RecordBatch::try_new_with_options(Arc::clone(&plan.schema), arrays, &options)
                    .map_err(|error| self.answer_error(&error))?;
            charge.settle(batch.get_array_memory_size() as u64)?;
            Ok((batch, charge))
        })
    }

    /// As [`Search::project`], one half of the rows after the other.
    async fn project_halves(
        &self,
        group: usize,
        plan: &Plan,
        rows: &[u32],
    ) -> Result<(RecordBatch, Charge)> {
        let (head, tail) = rows.split_at(rows.len() / 2);
        let (head, head_charge) = self.project_parts(group, plan, head).await?;
        if head.get_array_memory_size() > self.limits.answer_bytes {
            self.count_answer(&head, &mut 0)?;
        }
        self.host.pause().await;
        let (tail, tail_charge) = self.project_parts(group, plan, tail).await?;
        let mut charge = self
            .charge(head_charge.bytes() + tail_charge.bytes())
            .await?;
        let whole = arrow_select::concat::concat_batches(&plan.schema, [&head, &tail])
            .map_err(|error| self.answer_error(&error))?;
        charge.settle(whole.get_array_memory_size() as u64)?;
        Ok((whole, charge))
    }

    /// The rows of a batch, each as often as its key is wanted, and the places of those keys. What they take is
    /// added to `bytes`, before much more than is allowed was made.
    pub(super) async fn with_ordinals(
        &self,
        group: usize,
        keys: &WantedKeys,
        rows: &[u32],
        batch: &RecordBatch,
        bytes: &mut usize,
    ) -> Result<(Vec<(RecordBatch, Vec<u32>)>, Charge)> {
        let piece_rows = (PIECE_BYTES / longest_row(batch).max(1)).max(1);
        let mut pieces = Vec::new();
        // Each piece is charged when it was made: one takes no more than this.
        let mut charge = self.charge(2 * PIECE_BYTES as u64).await?;
        let column = &keys.column;
        let pages = self.file.pages(self, group, column).await?;
        let touched = touched_by(&pages, rows);
        let (mut taken, mut ordinals) = (Vec::new(), Vec::new());
        for (page, own) in touched {
            let want = Want {
                column,
                pages: &pages,
                page,
            };
            let loaded = self.load(group, &[want]).await?;
            let decoded = &loaded.pages;
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
                    if taken.len() == piece_rows {
                        let taken = UInt32Array::from(std::mem::take(&mut taken));
                        let piece = arrow_select::take::take_record_batch(batch, &taken)
                            .map_err(|error| self.answer_error(&error))?;
                        self.count_answer(&piece, bytes)?;
                        charge.add(memory_of(&piece))?;
                        pieces.push((piece, std::mem::take(&mut ordinals)));
                        self.host.pause().await;
                    }
                }
            }
        }
        let is_same =
            pieces.is_empty() && taken.len() == rows.len() && taken.is_sorted_by(|a, b| a < b);
        charge.add(batch.get_array_memory_size() as u64)?;
        let batch = if is_same {
            batch.clone()
        } else {
            arrow_select::take::take_record_batch(batch, &UInt32Array::from(taken))
                .map_err(|error| self.answer_error(&error))?
        };
        self.count_answer(&batch, bytes)?;
        pieces.push((batch, ordinals));
        let made = pieces.iter().map(|(piece, _)| memory_of(piece)).sum();
        charge.settle(made)?;
        Ok((pieces, charge))
    }

    /// Adds what a batch of the answer takes, which may be too much.
    pub(super) fn count_answer(&self, batch: &RecordBatch, bytes: &mut usize) -> Result<()> {
        *bytes += batch.get_array_memory_size();
        if *bytes > self.limits.answer_bytes {
            return Err(self.answer_too_long());
        }
        Ok(())
    }

    pub(super) fn answer_too_long(&self) -> LookupError {
        LookupError::new(
            ErrorKind::TooMuch,
            format!(
                "{}: the answer takes more than {} bytes: select fewer columns, narrow the predicate or set a limit",
                self.file.name, self.limits.answer_bytes
            ),
        )
    }

    fn answer_error(&self, error: &arrow_schema::ArrowError) -> LookupError {
        LookupError::corrupt(format!("{}: {error}", self.file.name))
    }
}

/// Bytes of a batch with an ordinal for each of its rows.
fn memory_of(batch: &RecordBatch) -> u64 {
    (batch.get_array_memory_size() + batch.num_rows() * size_of::<u32>()) as u64
}

/// Bytes of the longest row, at most.
fn longest_row(batch: &RecordBatch) -> usize {
    let longest = batch.columns().iter().map(|array| match array.data_type() {
        DataType::Utf8 => longest_of(array.as_string::<i32>().value_offsets()),
        DataType::Binary => longest_of(array.as_binary::<i32>().value_offsets()),
        other => other
            .primitive_width()
            .unwrap_or_else(|| array.get_array_memory_size()),
    });
    longest.sum()
}

fn longest_of(offsets: &[i32]) -> usize {
    let lengths = offsets.windows(2).map(|pair| pair[1] - pair[0]);
    lengths.max().unwrap_or(0) as usize + size_of::<i32>()
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

//! Rows of a row group that match: what statistics, filters and dictionaries leave is looked at page
//! by page.

use std::pin::Pin;

use super::Search;
use super::counts::nanoseconds;
use super::load::Want;
use super::plan::{Leaf, Node};
use crate::error::Result;
use crate::file::pages::ChunkPages;
use crate::host::Host;
use crate::memory::Charge;
use crate::page::values::Values;
use crate::predicate::intervals::Bound;
use crate::prune::{self, Verdict};
use crate::rows::Rows;

/// Compressed bytes of pages that are read and decoded at a time while rows are looked for: bounds what
/// is held beside the cache.
const STEP_BYTES: u64 = 8 << 20;

/// Fewest rows for whose sake bloom filters, page bounds and dictionaries are asked: fewer are looked at
/// faster.
const FEW_ROWS: u64 = 64;

impl<H: Host> Search<'_, H> {
    /// The rows among `candidates` of a row group that match.
    pub(super) async fn filter_group(
        &self,
        group: usize,
        filter: &Node,
        candidates: Rows,
    ) -> Result<Rows> {
        let began = self.host.now();
        self.counts.borrow_mut().groups += 1;
        let found = match filter.verdict(self.file, group) {
            Verdict::Never => {
                self.counts.borrow_mut().groups_pruned_by_statistics += 1;
                Rows::none()
            }
            Verdict::Always => candidates,
            Verdict::Maybe if candidates.count() > FEW_ROWS => {
                if self.bloom_rules_out(group, filter).await? {
                    self.counts.borrow_mut().groups_pruned_by_bloom += 1;
                    Rows::none()
                } else {
                    self.filter(group, filter, candidates).await?
                }
            }
            Verdict::Maybe => self.filter(group, filter, candidates).await?,
        };
        self.counts.borrow_mut().filter_ns += nanoseconds(self.host.now().saturating_sub(began));
        Ok(found)
    }

    fn filter<'f>(
        &'f self,
        group: usize,
        node: &'f Node,
        candidates: Rows,
    ) -> Pin<Box<dyn Future<Output = Result<Rows>> + 'f>> {
        Box::pin(async move {
            match node {
                Node::Constant(true) => Ok(candidates),
                Node::Constant(false) => Ok(Rows::none()),
                Node::And(children) => self.filter_all(group, children, candidates).await,
                Node::Or(children) => {
                    let mut found = Rows::none();
                    for child in children {
                        let left = candidates.difference(&found);
                        if left.is_empty() {
                            break;
                        }
                        found = found.union(&self.filter(group, child, left).await?);
                    }
                    Ok(found)
                }
                Node::Leaf(leaf) => self.filter_leaf(group, leaf, candidates).await,
            }
        })
    }

    /// Rows for which all of `children` hold. Bounds of pages come first, then the tests whose pages
    /// take the fewest bytes.
    async fn filter_all(&self, group: usize, children: &[Node], candidates: Rows) -> Result<Rows> {
        let mut left = candidates;
        let mut order: Vec<(u64, &Node)> = Vec::with_capacity(children.len());
        for child in children {
            if left.is_empty() {
                return Ok(left);
            }
            let cost = match child {
                Node::Leaf(leaf) => {
                    let verdict = leaf.verdict(self.file, group);
                    if verdict == Verdict::Always {
                        continue;
                    }
                    let pages = self.file.pages(self, group, &leaf.column).await?;
                    left = self.prune_pages(group, leaf, &pages, left).await?;
                    let touched = pages
                        .pages
                        .iter()
                        .filter(|page| left.touches(page.first_row..page.first_row + page.rows));
                    touched.map(|page| page.range.end - page.range.start).sum()
                }
                _ => u64::MAX,
            };
            order.push((cost, child));
        }
        order.sort_by_key(|(cost, _)| *cost);
        for (_, child) in order {
            if left.is_empty() {
                break;
            }
            left = self.filter(group, child, left).await?;
        }
        Ok(left)
    }

    /// The rows of pages whose bounds do not rule a test out.
    async fn prune_pages(
        &self,
        group: usize,
        leaf: &Leaf,
        pages: &ChunkPages,
        candidates: Rows,
    ) -> Result<Rows> {
        if candidates.count() <= FEW_ROWS && pages.bounds().is_none() {
            return Ok(candidates);
        }
        self.file
            .read_bounds(self, group, &leaf.column, pages)
            .await?;
        let Some(bounds) = pages.bounds() else {
            return Ok(candidates);
        };
        let mut left = Rows::none();
        let (mut asked, mut pruned) = (0, 0);
        for (page, bounds) in pages.pages.iter().zip(bounds) {
            let span = page.first_row..page.first_row + page.rows;
            if !candidates.touches(span.clone()) {
                continue;
            }
            asked += 1;
            let verdict = prune::of_page(
                self.file.order(&leaf.column),
                &leaf.column,
                bounds,
                page.rows,
                &leaf.bound,
            );
            if verdict == Verdict::Never {
                pruned += 1;
            } else {
                candidates.within(span).for_each(|range| left.push(range));
            }
        }
        let mut counts = self.counts.borrow_mut();
        counts.pages += asked;
        counts.pages_pruned += pruned;
        Ok(left)
    }

    /// Rows for which a test holds.
    async fn filter_leaf(&self, group: usize, leaf: &Leaf, candidates: Rows) -> Result<Rows> {
        let pages = self.file.pages(self, group, &leaf.column).await?;
        let candidates = self.prune_pages(group, leaf, &pages, candidates).await?;
        if candidates.is_empty() {
            return Ok(candidates);
        }
        let touched: Vec<usize> = (0..pages.pages.len())
            .filter(|page| {
                let page = &pages.pages[*page];
                candidates.touches(page.first_row..page.first_row + page.rows)
            })
            .collect();
        if self
            .dictionary_rules_out(group, leaf, &pages, &touched)
            .await?
        {
            self.counts.borrow_mut().groups_pruned_by_dictionary += 1;
            return Ok(Rows::none());
        }
        let mut found = Rows::none();
        let mut found_charge = self.charge(0).await?;
        let mut matching: Option<(*const _, _, Charge)> = None;
        let mut rest = touched.as_slice();
        while !rest.is_empty() {
            let step = step_of(&pages, rest);
            let wants: Vec<Want<'_>> = rest[..step]
                .iter()
                .map(|page| Want {
                    column: &leaf.column,
                    pages: &pages,
                    page: *page,
                })
                .collect();
            let loaded = self.load_first(group, &wants).await?;
            let (now, later) = rest.split_at(loaded.pages.len());
            rest = later;
            for (page, decoded) in now.iter().zip(&loaded.pages) {
                let span = &pages.pages[*page];
                // Every other row of it may match.
                let ranges = found.ranges().len() + span.rows as usize / 2 + 1;
                let most = ranges.next_power_of_two() * size_of::<std::ops::Range<u32>>();
                found_charge
                    .settle((most + found.memory_bytes()) as u64)
                    .map_err(|error| self.file.blame(group, &leaf.column, error))?;
                // A dictionary is compared with the test once, for all of its pages.
                if let (Values::Codes { dictionary, .. }, Bound::Values(intervals)) =
                    (&decoded.values, &leaf.bound)
                {
                    let own = std::sync::Arc::as_ptr(dictionary);
                    if matching.as_ref().is_none_or(|(of, ..)| *of != own)
                        && candidates.count() > FEW_ROWS
                    {
                        let charge = self.charge(u64::from(dictionary.count)).await?;
                        let matched = dictionary
                            .matching(leaf.column.decode, intervals)
                            .map_err(|error| self.file.blame(group, &leaf.column, error))?;
                        matching = Some((own, matched, charge));
                    }
                }
                let matched = matching.as_ref().map(|(_, matched, _)| matched);
                for range in candidates.within(span.first_row..span.first_row + span.rows) {
                    let within = range.start - span.first_row..range.end - span.first_row;
                    decoded
                        .matching(within, leaf.column.decode, &leaf.bound, matched, |row| {
                            found.push(span.first_row + row..span.first_row + row + 1)
                        })
                        .map_err(|error| self.file.blame(group, &leaf.column, error))?;
                }
                found_charge.settle(found.memory_bytes() as u64)?;
            }
            if !rest.is_empty() {
                self.host.pause().await;
            }
        }
        self.hold_rows(found_charge, &found)?;
        Ok(found)
    }

    /// Charges rows that were found until the row group is done: they are joined with others, two copies at a time.
    fn hold_rows(&self, mut charge: Charge, found: &Rows) -> Result<()> {
        charge.settle(3 * found.memory_bytes() as u64)?;
        match &mut *self.rows_found.borrow_mut() {
            Some(held) => held.absorb(charge),
            held => *held = Some(charge),
        }
        Ok(())
    }

    /// Whether the dictionary, which all of these pages use, has no value for which the test holds. It is
    /// asked where it is at hand, or takes fewer bytes than the pages.
    async fn dictionary_rules_out(
        &self,
        group: usize,
        leaf: &Leaf,
        pages: &ChunkPages,
        touched: &[usize],
    ) -> Result<bool> {
        let (Bound::Values(intervals), Some(range)) = (&leaf.bound, &pages.dictionary) else {
            return Ok(false);
        };
        let bytes = |range: &std::ops::Range<u64>| range.end - range.start;
        let mut pages_bytes = 0;
        for page in touched {
            let page = &pages.pages[*page];
            if page.has_codes.get() != Some(true) {
                return Ok(false);
            }
            pages_bytes += bytes(&page.range);
        }
        let is_worth_it = bytes(range) < pages_bytes;
        let (dictionary, _charge) = match self.cached_dictionary(group, &leaf.column).await? {
            Some(dictionary) => dictionary,
            None if is_worth_it => self.load_dictionary(group, &leaf.column, pages).await?,
            None => return Ok(false),
        };
        let _matching_charge = self.charge(u64::from(dictionary.count)).await?;
        let matching = dictionary
            .matching(leaf.column.decode, intervals)
            .map_err(|error| self.file.blame(group, &leaf.column, error))?;
        Ok(matching.is_empty())
    }
}

/// How many of `pages` are taken at a time: at least one.
fn step_of(chunk: &ChunkPages, pages: &[usize]) -> usize {
    let mut bytes = 0;
    for (place, page) in pages.iter().enumerate() {
        let range = &chunk.pages[*page].range;
        bytes += range.end - range.start;
        if bytes > STEP_BYTES {
            return place.max(1);
        }
    }
    pages.len()
}

//! Reading what a region says: from its footer, or walking over its summaries, or both.
//!
//! Recovery, reclaim, scrub and the offline verification all read a region's records through here,
//! and never believe more than what checks. What does not check where something should is told as
//! [`RegionDamage`]: damage is never taken for emptiness.

use std::collections::BTreeMap;

use corelane_io::{Io, IoError, PAGE_SIZE};
use rkyv::util::AlignedVec;

use super::Inner;
use super::device::DeviceState;
use super::header::{FORMAT_VERSION, HEADER_BYTES, Header, Kind, MAGIC, u32_at, u64_at};
use super::summary::{SUMMARY_BYTES_MAX, Summary, Writer, extent_of};

/// Pages that the first look at a region's end takes: the footers of regions of large blocks fit.
const TAIL_PAGES: u32 = 16;

/// Pages that are read at once where a walk looks for the extent behind one that does not check.
const SCAN_PAGES: u32 = 16;

/// Most pages that are looked at behind a first page that does not check, on a device whose regions
/// are not marked: an extent of the default size.
const UNMARKED_SCAN_PAGES: u32 = 640;

/// Where the pages of one region come from: an open device, or a file.
pub(super) trait RegionPages {
    /// Why pages could not be read.
    type Error;

    /// Appends `pages` pages from page `page` of the region to `bytes`.
    async fn read(&self, page: u32, pages: u32, bytes: &mut AlignedVec) -> Result<(), Self::Error>;
}

/// What has to be known of a region to read it.
#[derive(Clone, Copy, Debug)]
pub(super) struct RegionPlace {
    /// Number on the device.
    pub(super) local: u32,
    /// Pages of a region.
    pub(super) region_pages: u32,
    /// What the device's CRCs start from.
    pub(super) seed: u32,
    /// Whether the device is marked: a first page that does not check is damage.
    pub(super) is_marked: bool,
    /// Most pages of an extent: so far behind one that does not check, the next one starts.
    pub(super) extent_pages_max: u32,
    /// For whom it is read, if the records of other shards of the same number of shards do not matter.
    pub(super) reader: Option<Writer>,
}

/// A part of a region that does not check where something should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RegionDamage {
    /// Page in the region.
    pub(super) page: u32,
    pub(super) what: Damaged,
}

/// What should be where a region is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damaged {
    /// The first page: a summary, or that the region is free.
    FirstPage,
    /// A summary behind the first.
    Summary,
    /// The footer, or a copy in it.
    Footer,
    /// The last page of a region that is free.
    LastPage,
}

impl Damaged {
    /// For messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Damaged::FirstPage => "first page",
            Damaged::Summary => "summary",
            Damaged::Footer => "footer",
            Damaged::LastPage => "last page",
        }
    }
}

/// What a region turned out to hold.
pub(super) enum Content {
    /// Nothing.
    Free {
        /// Whether its first and its last page say so.
        is_marked: bool,
        /// The opening that ended when it became free, as far as that is known; 0: none.
        sequence: u64,
    },
    /// No record, and nothing that says that it is free.
    Unknown,
    /// Records of another shard of as many as the reader is one of: its first summary checks.
    OfAnother,
    /// Records.
    Records(Box<RegionRecords>),
}

/// What a region holds, and what of it is damaged.
pub(super) struct Look {
    pub(super) content: Content,
    pub(super) damage: Vec<RegionDamage>,
}

impl Look {
    fn of(content: Content) -> Self {
        Look {
            content,
            damage: Vec::new(),
        }
    }

    /// How much was found, to choose the better of two looks.
    fn worth(&self) -> (usize, usize) {
        let summaries = match &self.content {
            Content::Unknown => 0,
            Content::Free { .. } | Content::OfAnother => 1,
            Content::Records(records) => 1 + records.starts.len(),
        };
        (summaries, usize::MAX - self.damage.len())
    }

    /// The records, if there are any.
    pub(super) fn into_records(self) -> Option<RegionRecords> {
        match self.content {
            Content::Records(records) => Some(*records),
            Content::Free { .. } | Content::Unknown | Content::OfAnother => None,
        }
    }
}

/// The summaries of a region, each checked.
pub(super) struct RegionRecords {
    /// Header of the first summary that was found.
    pub(super) head: Header,
    /// Whole pages of all summaries, one after the other.
    bytes: AlignedVec,
    /// Where each starts.
    starts: Vec<usize>,
    /// Whether the footer did not count.
    pub(super) walked: bool,
    pub(super) last_stamp: u64,
    /// The page behind the last extent.
    pub(super) end_page: u32,
    /// Whether the first page is not that of the first summary, which is known from its copy.
    pub(super) is_first_page_wrong: bool,
    /// Whether pages could not be read: there may be more records than these.
    pub(super) is_partial: bool,
    seed: u32,
    region_pages: u32,
}

impl RegionRecords {
    /// The summaries in order.
    pub(super) fn summaries(&self) -> impl Iterator<Item = Summary<'_>> {
        self.starts.iter().map(|start| {
            Summary::open(&self.bytes[*start..], self.seed, self.region_pages)
                .expect("it was checked when it was read")
        })
    }

    /// Bytes of metadata that were read.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The pages of all summaries, one after the other: what a footer repeats.
    pub(super) fn copies(&self) -> &[u8] {
        &self.bytes
    }

    /// The page of each summary in the region, and its pages.
    pub(super) fn pages(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let ends = self.starts.iter().skip(1).copied();
        let ranges = self.starts.iter().zip(ends.chain([self.bytes.len()]));
        let bytes = ranges.map(|(start, end)| &self.bytes[*start..end]);
        let summaries = self.summaries().map(|summary| summary.header.first_page);
        summaries.zip(bytes)
    }

    /// The pages of the first summary, if it is that of the region's first page.
    pub(super) fn first_pages(&self) -> Option<&[u8]> {
        let end = self.starts.get(1).copied().unwrap_or(self.bytes.len());
        (self.head.first_page == 0).then(|| &self.bytes[..end])
    }

    /// Takes the summary at `start` of `bytes`, if it belongs to the opening `sequence` of the
    /// region and follows what was taken; gives the bytes of its pages.
    fn take(&mut self, start: usize, place: RegionPlace, sequence: u64) -> Option<usize> {
        let summary = Summary::open(&self.bytes[start..], self.seed, self.region_pages).ok()?;
        let header = summary.header;
        let follows = header.sequence == sequence
            && header.region == place.local
            && header.first_page >= self.end_page
            && header.stamp > self.last_stamp;
        if !follows {
            return None;
        }
        let bytes = summary.summary_pages as usize * PAGE_SIZE;
        if self.starts.is_empty() {
            self.head = header;
        }
        self.starts.push(start);
        self.last_stamp = header.stamp;
        self.end_page = header.first_page + header.pages;
        Some(bytes)
    }
}

/// A look at one region.
struct Looking<'a, P: RegionPages> {
    source: &'a P,
    place: RegionPlace,
    damage: Vec<RegionDamage>,
    error: Option<P::Error>,
}

/// Looks at a region, and once more where something does not check: the error may have been one
/// of the read.
///
/// # Errors
/// When pages could not be read and what the others say is not enough.
pub(super) async fn look_at<P: RegionPages>(
    source: &P,
    place: RegionPlace,
) -> Result<Look, P::Error> {
    let first = Looking::new(source, place).look().await?;
    if first.damage.is_empty() && !matches!(first.content, Content::Unknown) {
        return Ok(first);
    }
    match Looking::new(source, place).look().await {
        Ok(second) if second.worth() > first.worth() => Ok(second),
        _ => Ok(first),
    }
}

impl<'a, P: RegionPages> Looking<'a, P> {
    fn new(source: &'a P, place: RegionPlace) -> Self {
        Looking {
            source,
            place,
            damage: Vec::new(),
            error: None,
        }
    }

    fn note(&mut self, page: u32, what: Damaged) {
        self.damage.push(RegionDamage { page, what });
    }

    /// Pages of the region; empty where they cannot be read.
    async fn read(&mut self, page: u32, pages: u32) -> AlignedVec {
        let mut bytes = AlignedVec::with_capacity(pages as usize * PAGE_SIZE);
        if let Err(error) = self.source.read(page, pages, &mut bytes).await {
            self.error = Some(error);
            bytes.clear();
        }
        bytes
    }

    async fn look(mut self) -> Result<Look, P::Error> {
        let place = self.place;
        let first = self.read(0, 1).await;
        if let Some(sequence) = self.free_page(&first, 0)
            && let Some(is_marked) = self.is_marked_free(sequence).await?
        {
            return Ok(Look {
                content: Content::Free {
                    is_marked,
                    sequence,
                },
                damage: self.damage,
            });
        }
        let is_zero = !first.is_empty() && first.iter().all(|byte| *byte == 0);
        if is_zero && !place.is_marked {
            return Ok(Look::of(Content::Free {
                is_marked: false,
                sequence: 0,
            }));
        }
        let hint = extent_of(&first, place.region_pages)
            .map(|(header, _)| header)
            .or_else(|| self.opened(&first))
            .filter(|header| header.region == place.local && header.first_page == 0);
        if let Some(hint) = hint
            && self.is_of_another(hint)
            && self.summary_at(&first, 0, hint.sequence).await.is_some()
        {
            return Ok(Look::of(Content::OfAnother));
        }
        let tail_start = place.region_pages - TAIL_PAGES;
        let tail = self.read(tail_start, TAIL_PAGES).await;
        let trailer = self.trailer(&tail);
        // The first page is written first when a region becomes free: its write was lost.
        if let (Some(hint), Some(trailer)) = (hint, trailer)
            && trailer.kind == Kind::Free
            && trailer.sequence >= hint.sequence
        {
            self.note(0, Damaged::FirstPage);
            return Ok(Look {
                content: Content::Free {
                    is_marked: false,
                    sequence: trailer.sequence,
                },
                damage: self.damage,
            });
        }
        if let (Some(hint), Some(trailer)) = (hint, trailer)
            && trailer.kind == Kind::Footer
            && trailer.sequence == hint.sequence
            && let Some(mut records) = self.footer(&tail, trailer).await
        {
            let is_right = match records.first_pages() {
                Some(copy) => copy[..PAGE_SIZE] == first[..],
                // It was lost before, and the page says no more than the sequence.
                None => hint.kind == Kind::Open,
            };
            if !is_right {
                records.is_first_page_wrong = true;
                self.note(0, Damaged::FirstPage);
            }
            return Ok(self.found(records));
        }
        self.look_closely(&first, hint, &tail, trailer).await
    }

    /// Looks at a region whose first page and footer do not go together, or do not check.
    async fn look_closely(
        &mut self,
        first: &[u8],
        hint: Option<Header>,
        tail: &[u8],
        trailer: Option<Header>,
    ) -> Result<Look, P::Error> {
        // Before regions were marked, those of an earlier format were left as they were: there may
        // be thousands of them.
        if !self.place.is_marked && trailer.is_none() {
            let few = self.place.extent_pages_max.min(UNMARKED_SCAN_PAGES);
            self.place.extent_pages_max = few;
        }
        let place = self.place;
        let is_first_right = match hint {
            Some(header) if header.kind == Kind::Open => true,
            Some(header) => self.summary_at(first, 0, header.sequence).await.is_some(),
            None => false,
        };
        // A first summary that checks says which opening counts: what stands at the end may be of
        // an earlier one. If it does not check, the last page says it.
        let of_trailer = trailer.filter(|trailer| self.may_count(trailer, first, hint));
        let sequences = if is_first_right {
            [hint.map(|header| header.sequence), None]
        } else {
            [
                of_trailer.map(|trailer| trailer.sequence),
                hint.map(|header| header.sequence),
            ]
        };
        for sequence in sequences.into_iter().flatten() {
            let mut found = self.walk(first, sequence).await;
            let footer = trailer
                .filter(|trailer| trailer.kind == Kind::Footer && trailer.sequence == sequence);
            let mut is_whole = false;
            if let Some(footer) = footer {
                let (copies, all) = self.copies(tail, footer, sequence).await;
                is_whole = all;
                for (page, bytes) in copies {
                    found.entry(page).or_insert(bytes);
                }
            }
            let mut records = RegionRecords::new(place, self.error.is_some());
            for bytes in found.values() {
                let start = records.bytes.len();
                records.bytes.extend_from_slice(bytes);
                if records.take(start, place, sequence).is_none() {
                    records.bytes.resize(start, 0);
                }
            }
            if records.starts.is_empty() {
                continue;
            }
            records.walked = !is_whole;
            records.is_first_page_wrong = !is_first_right;
            if !is_first_right {
                self.note(0, Damaged::FirstPage);
            }
            if trailer.is_none() && place.is_marked {
                self.note(place.region_pages - 1, Damaged::Footer);
            }
            return Ok(self.found(records));
        }
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        // What the walks noted is of nothing that counts.
        self.damage.clear();
        if let Some(ended) = self.free_page(first, 0) {
            // The region was opened, and nothing came into it; a footer was of something.
            let sequence = trailer.map_or(ended, |trailer| trailer.sequence.max(ended));
            if trailer.is_some_and(|trailer| trailer.kind == Kind::Footer) {
                self.note(place.region_pages - 1, Damaged::Footer);
            }
            return Ok(Look {
                content: Content::Free {
                    is_marked: false,
                    sequence,
                },
                damage: std::mem::take(&mut self.damage),
            });
        }
        let free = trailer.filter(|trailer| trailer.kind == Kind::Free);
        let is_never_written = !place.is_marked && hint.is_none() && trailer.is_none();
        if !is_never_written {
            self.note(0, Damaged::FirstPage);
        }
        Ok(Look {
            content: free.map_or(Content::Unknown, |free| Content::Free {
                is_marked: false,
                sequence: free.sequence,
            }),
            damage: std::mem::take(&mut self.damage),
        })
    }

    fn found(&mut self, records: RegionRecords) -> Look {
        Look {
            content: Content::Records(Box::new(records)),
            damage: std::mem::take(&mut self.damage),
        }
    }

    /// The opening that a page says to have ended, if it says that the region is free.
    fn free_page(&self, bytes: &[u8], page: u32) -> Option<u64> {
        let (header, _) = Header::open(bytes, self.place.seed).ok()?;
        let is_here = header.region == self.place.local && header.first_page == page;
        (is_here && header.kind == Kind::Free).then_some(header.sequence)
    }

    /// Asks the last page of a region whose first page says that the opening `sequence` ended: `None` if it names a
    /// later opening, whose first extent may be lost. Otherwise whether both pages say that the region is free.
    ///
    /// # Errors
    /// When the last page cannot be read.
    async fn is_marked_free(&mut self, sequence: u64) -> Result<Option<bool>, P::Error> {
        // Workers that did not mark regions left footers of earlier openings behind.
        if !self.place.is_marked {
            return Ok(Some(true));
        }
        let page = self.place.region_pages - 1;
        let last = self.read(page, 1).await;
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        match self.trailer(&last) {
            Some(last) if last.kind == Kind::Free => Ok(Some(true)),
            Some(last) if last.sequence > sequence => Ok(None),
            // A kill came between the writes of the two pages.
            Some(_) => Ok(Some(false)),
            // Format writes first pages only.
            None if sequence == 0 => Ok(Some(true)),
            None => {
                self.note(page, Damaged::LastPage);
                Ok(Some(false))
            }
        }
    }

    /// Whether the region is of no use to its reader, going by a header.
    fn is_of_another(&self, header: Header) -> bool {
        let reader = self.place.reader;
        reader.is_some_and(|reader| header.shards == reader.shards && header.shard != reader.shard)
    }

    /// What stands in the first page if the first summary was lost: the sequence.
    fn opened(&self, first: &[u8]) -> Option<Header> {
        let (header, _) = Header::open(first, self.place.seed).ok()?;
        (header.kind == Kind::Open).then_some(header)
    }

    /// What the last page of the region says, if it checks and is of this region.
    fn trailer(&self, tail: &[u8]) -> Option<Header> {
        let last_page = self.place.region_pages - 1;
        let page = tail.get(tail.len().checked_sub(PAGE_SIZE)?..)?;
        let (trailer, _) = Header::open(page, self.place.seed).ok()?;
        let end = trailer.first_page.checked_add(trailer.pages)?;
        let is_known = matches!(trailer.kind, Kind::Footer | Kind::Free | Kind::Open);
        (is_known && trailer.region == self.place.local && end == last_page).then_some(trailer)
    }

    /// Whether the last page says which opening counts where the first summary does not check.
    /// Workers that did not mark regions left footers of earlier openings behind, which a power cut
    /// during the first write of the next opening must not bring back.
    fn may_count(&self, trailer: &Header, first: &[u8], hint: Option<Header>) -> bool {
        let is_torn = first
            .get(..HEADER_BYTES)
            .is_none_or(|head| head == [0; HEADER_BYTES]);
        let of_another = hint.is_some_and(|hint| hint.sequence != trailer.sequence);
        trailer.kind != Kind::Free && (self.place.is_marked || !is_torn && !of_another)
    }

    /// The records of a footer all of whose copies check.
    async fn footer(&mut self, tail: &[u8], trailer: Header) -> Option<RegionRecords> {
        let bytes = self.footer_pages(tail, trailer).await?;
        let mut records = RegionRecords::new(self.place, false);
        records.walked = false;
        records.bytes = bytes;
        let mut at = 0;
        while at < records.bytes.len() {
            at += records.take(at, self.place, trailer.sequence)?;
        }
        (!records.starts.is_empty()).then_some(records)
    }

    /// The pages of a footer before the last.
    async fn footer_pages(&mut self, tail: &[u8], trailer: Header) -> Option<AlignedVec> {
        let tail_start = self.place.region_pages - TAIL_PAGES;
        let before_tail = tail_start.saturating_sub(trailer.first_page);
        let mut bytes = AlignedVec::new();
        if before_tail > 0 {
            bytes = self.read(trailer.first_page, before_tail).await;
            if bytes.is_empty() {
                return None;
            }
        }
        let from = trailer.first_page.saturating_sub(tail_start) as usize * PAGE_SIZE;
        bytes.extend_from_slice(tail.get(from..tail.len().checked_sub(PAGE_SIZE)?)?);
        Some(bytes)
    }

    /// The copies of a footer that check, by the page of the summary that each repeats, and
    /// whether these are all.
    async fn copies(
        &mut self,
        tail: &[u8],
        trailer: Header,
        sequence: u64,
    ) -> (BTreeMap<u32, AlignedVec>, bool) {
        let place = self.place;
        let (mut copies, mut at, mut is_whole) = (BTreeMap::new(), 0, true);
        let bytes = self.footer_pages(tail, trailer).await.unwrap_or_default();
        is_whole &= !bytes.is_empty();
        while at < bytes.len() {
            let summary = Summary::open(&bytes[at..], place.seed, place.region_pages).ok();
            let of_opening = |summary: &Summary<'_>| {
                summary.header.sequence == sequence && summary.header.region == place.local
            };
            let Some(summary) = summary.filter(of_opening) else {
                if is_whole {
                    self.note(
                        trailer.first_page + (at / PAGE_SIZE) as u32,
                        Damaged::Footer,
                    );
                }
                is_whole = false;
                at += PAGE_SIZE;
                continue;
            };
            let end = (at + summary.summary_pages as usize * PAGE_SIZE).min(bytes.len());
            let mut copy = AlignedVec::new();
            copy.extend_from_slice(&bytes[at..end]);
            copies.insert(summary.header.first_page, copy);
            at = end;
        }
        (copies, is_whole)
    }

    /// The whole pages of the summary at page `page`, the first of which is `first`, if it checks
    /// and is of the opening `sequence`; with the page behind its extent.
    async fn summary_at(
        &mut self,
        first: &[u8],
        page: u32,
        sequence: u64,
    ) -> Option<(AlignedVec, u32)> {
        let place = self.place;
        let (header, pages) = extent_of(first, place.region_pages)?;
        let is_here = |header: &Header| {
            header.sequence == sequence && header.first_page == page && header.region == place.local
        };
        if !is_here(&header) {
            return None;
        }
        let mut bytes = AlignedVec::with_capacity(pages as usize * PAGE_SIZE);
        bytes.extend_from_slice(first);
        if pages > 1 {
            let rest = self.read(page + 1, pages - 1).await;
            bytes.extend_from_slice(&rest);
        }
        let summary = Summary::open(&bytes, place.seed, place.region_pages).ok()?;
        let (header, pages) = (summary.header, summary.summary_pages);
        let whole = pages as usize * PAGE_SIZE;
        if bytes.len() < whole {
            // The writer rounded up beyond what the body needs.
            bytes.resize(whole, 0);
        }
        is_here(&header).then_some((bytes, header.first_page + header.pages))
    }

    /// The summaries of the opening `sequence`, by their page. Where one does not check, the next
    /// is looked for as far as an extent reaches: a flush writes one after the other, so that
    /// only damage, or a power cut, leaves a gap.
    async fn walk(&mut self, first: &[u8], sequence: u64) -> BTreeMap<u32, AlignedVec> {
        let place = self.place;
        let (mut found, mut page) = (BTreeMap::new(), 0);
        while page < place.region_pages {
            let here = match page {
                0 => {
                    let mut copy = AlignedVec::<16>::new();
                    copy.extend_from_slice(first);
                    copy
                }
                _ => self.read(page, 1).await,
            };
            if let Some((bytes, after)) = self.summary_at(&here, page, sequence).await {
                found.insert(page, bytes);
                page = after;
                continue;
            }
            let next = self.next_summary(page, sequence).await;
            if page > 0 && (next.is_some() || resembles(&here, place.local, page, sequence)) {
                self.note(page, Damaged::Summary);
            }
            match next {
                Some(next) => page = next,
                None => break,
            }
        }
        found
    }

    /// The page of the first summary of the opening behind page `page`.
    async fn next_summary(&mut self, page: u32, sequence: u64) -> Option<u32> {
        let place = self.place;
        let reach = page
            .saturating_add(1)
            .saturating_add(place.extent_pages_max);
        let end = reach.min(place.region_pages);
        let mut start = page + 1;
        while start < end {
            let count = SCAN_PAGES.min(end - start);
            let chunk = self.read(start, count).await;
            for (number, bytes) in chunk.chunks_exact(PAGE_SIZE).enumerate() {
                let at = start + number as u32;
                // Nearly every page ends the look at its first bytes.
                if !bytes.starts_with(&MAGIC) {
                    continue;
                }
                if self.summary_at(bytes, at, sequence).await.is_some() {
                    return Some(at);
                }
            }
            start += count;
        }
        None
    }
}

impl RegionRecords {
    fn new(place: RegionPlace, is_partial: bool) -> Self {
        RegionRecords {
            head: Header {
                kind: Kind::Summary,
                body: 0,
                shard: 0,
                shards: 0,
                sequence: 0,
                stamp: 0,
                region: place.local,
                first_page: 0,
                pages: 0,
                log: super::header::Log::Small,
            },
            bytes: AlignedVec::new(),
            starts: Vec::new(),
            walked: true,
            last_stamp: 0,
            end_page: 0,
            is_first_page_wrong: false,
            is_partial,
            seed: place.seed,
            region_pages: place.region_pages,
        }
    }
}

/// Whether a page that does not check was the start of a summary of this opening: all of its
/// fields but one are as they would be.
fn resembles(page: &[u8], local: u32, first_page: u32, sequence: u64) -> bool {
    if page.len() < HEADER_BYTES {
        return false;
    }
    let fields = [
        page.starts_with(&MAGIC),
        u32_at(page, 8) == FORMAT_VERSION,
        u32_at(page, 12) == Kind::Summary as u32,
        u64_at(page, 24) == sequence,
        u32_at(page, 40) == local,
        u32_at(page, 44) == first_page,
    ];
    fields.iter().filter(|is_right| **is_right).count() >= fields.len() - 1
}

/// The pages of a region of a device that is open.
struct DevicePages<'a, I: Io> {
    store: &'a Inner<I>,
    device: &'a DeviceState<I::Device>,
    local: u32,
}

impl<I: Io> RegionPages for DevicePages<'_, I> {
    type Error = IoError;

    async fn read(&self, page: u32, pages: u32, bytes: &mut AlignedVec) -> Result<(), IoError> {
        let offset = self.device.offset(self.local, page);
        self.store
            .read_bytes(self.device, offset, pages, bytes)
            .await
    }
}

impl<I: Io> Inner<I> {
    /// Looks at the region with number `local` of `device`, for `reader` if that is given.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) async fn look_at_region(
        &self,
        device: &DeviceState<I::Device>,
        local: u32,
        reader: Option<Writer>,
    ) -> Result<Look, IoError> {
        let place = RegionPlace {
            local,
            region_pages: self.region_pages,
            seed: device.seed,
            is_marked: device.is_marked,
            extent_pages_max: extent_pages_max(self.config.flush_bytes),
            reader,
        };
        let pages = DevicePages {
            store: self,
            device,
            local,
        };
        look_at(&pages, place).await
    }

    /// The records of region `number` as long as they are those of its last opening.
    pub(super) async fn records_of(
        &self,
        device: &DeviceState<I::Device>,
        number: u32,
    ) -> Option<RegionRecords> {
        let region = &self.regions[number as usize];
        let sequence = region.sequence.get();
        let look = self.look_at_region(device, region.local, None).await.ok()?;
        look.into_records()
            .filter(|records| records.head.sequence == sequence)
    }
}

/// Most pages that an extent of a worker with extents of `flush_bytes` takes: those, or one block
/// of the largest size, and the summary.
pub(super) fn extent_pages_max(flush_bytes: usize) -> u32 {
    let largest = (corelane_rpc_schema::BLOCK_BYTES_MAX as usize).max(flush_bytes);
    ((largest + SUMMARY_BYTES_MAX) / PAGE_SIZE) as u32
}

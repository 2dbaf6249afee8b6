//! Reading what a region's summaries say: from its footer, or walking from the first summary on.
//!
//! Recovery, reclaim and scrub all read a region's records through here, and never believe more
//! than what checks.

use corelane_io::{Device, Io, IoError, PAGE_SIZE};
use rkyv::util::AlignedVec;

use super::Inner;
use super::device::DeviceState;
use super::header::{HEADER_BYTES, Header, Kind};
use super::summary::{Summary, extent_of};

/// Pages that the first look at a region's end takes: the footers of regions of large blocks fit.
const TAIL_PAGES: u32 = 16;

/// The summaries of a region, each checked.
pub(super) struct RegionRecords {
    /// Header of the first summary.
    pub(super) head: Header,
    /// Whole pages of all summaries, one after the other.
    bytes: AlignedVec,
    /// Where each starts.
    starts: Vec<usize>,
    /// Whether the footer did not count.
    pub(super) walked: bool,
    pub(super) last_stamp: u64,
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

    fn new<D: Device>(device: &DeviceState<D>, head: Header) -> Self {
        RegionRecords {
            head,
            bytes: AlignedVec::new(),
            starts: Vec::new(),
            walked: false,
            last_stamp: 0,
            seed: device.seed,
            region_pages: device.superblock.region_pages(),
        }
    }

    /// Takes the summary at `start` of `bytes`, if it is the one of `local` that follows; gives
    /// its pages and the page after its extent.
    fn take(&mut self, start: usize, local: u32, next_page: u32) -> Option<(u32, u32)> {
        let summary = Summary::open(&self.bytes[start..], self.seed, self.region_pages).ok()?;
        let header = summary.header;
        let follows = header.sequence == self.head.sequence
            && header.region == local
            && header.first_page == next_page
            && header.stamp > self.last_stamp;
        if !follows {
            return None;
        }
        let pages = summary.summary_pages;
        if self.starts.is_empty() {
            // What the caller saw of it was not checked.
            self.head = header;
        }
        self.starts.push(start);
        self.last_stamp = header.stamp;
        Some((pages, header.first_page + header.pages))
    }
}

/// What the first page of a region says.
pub(super) enum Head {
    /// Nothing that looks like a summary of this region.
    Vacant,
    /// The header of a summary; whether it checks is seen when it is read.
    Summary(Header),
}

impl<I: Io> Inner<I> {
    /// Looks at the first page of a region.
    pub(super) async fn read_head(
        &self,
        device: &DeviceState<I::Device>,
        local: u32,
    ) -> Result<Head, IoError> {
        let mut page = AlignedVec::with_capacity(PAGE_SIZE);
        self.read_bytes(device, device.offset(local, 0), 1, &mut page)
            .await?;
        let plausible = extent_of(&page, self.region_pages)
            .filter(|(header, _)| header.region == local && header.first_page == 0);
        Ok(plausible.map_or(Head::Vacant, |(header, _)| Head::Summary(header)))
    }

    /// All records of a region whose first page says `head`; `None` when not even the first
    /// summary checks.
    pub(super) async fn read_records(
        &self,
        device: &DeviceState<I::Device>,
        local: u32,
        head: Header,
    ) -> Result<Option<RegionRecords>, IoError> {
        if let Some(records) = self.read_footer(device, local, head).await? {
            return Ok(Some(records));
        }
        self.walk(device, local, head).await
    }

    async fn read_footer(
        &self,
        device: &DeviceState<I::Device>,
        local: u32,
        head: Header,
    ) -> Result<Option<RegionRecords>, IoError> {
        let mut tail = AlignedVec::with_capacity(TAIL_PAGES as usize * PAGE_SIZE);
        let tail_start = self.region_pages - TAIL_PAGES;
        self.read_bytes(
            device,
            device.offset(local, tail_start),
            TAIL_PAGES,
            &mut tail,
        )
        .await?;
        let trailer_page = self.region_pages - 1;
        let trailer = Header::open(&tail[tail.len() - PAGE_SIZE..], device.seed)
            .ok()
            .filter(|(trailer, _)| {
                trailer.kind == Kind::Footer
                    && trailer.region == local
                    && trailer.sequence == head.sequence
                    && trailer.first_page.checked_add(trailer.pages) == Some(trailer_page)
            });
        let Some((trailer, _)) = trailer else {
            return Ok(None);
        };
        let mut records = RegionRecords::new(device, head);
        let before_tail = tail_start.saturating_sub(trailer.first_page);
        if before_tail > 0 {
            records.bytes.reserve(trailer.pages as usize * PAGE_SIZE);
            let offset = device.offset(local, trailer.first_page);
            self.read_bytes(device, offset, before_tail, &mut records.bytes)
                .await?;
        }
        let from = trailer.first_page.saturating_sub(tail_start) as usize * PAGE_SIZE;
        records
            .bytes
            .extend_from_slice(&tail[from..tail.len() - PAGE_SIZE]);
        let (mut at, mut next_page) = (0, 0);
        while at < records.bytes.len() {
            let Some((pages, after)) = records.take(at, local, next_page) else {
                self.counters.corrupt_summaries.add(1);
                tracing::warn!(
                    device = %device.path, offset = device.offset(local, trailer.first_page),
                    "the footer of a region does not check: its summaries are walked instead"
                );
                return Ok(None);
            };
            at += pages as usize * PAGE_SIZE;
            next_page = after;
        }
        Ok((!records.starts.is_empty()).then_some(records))
    }

    async fn walk(
        &self,
        device: &DeviceState<I::Device>,
        local: u32,
        head: Header,
    ) -> Result<Option<RegionRecords>, IoError> {
        let mut records = RegionRecords::new(device, head);
        records.walked = true;
        let mut next_page = 0;
        while next_page < self.region_pages {
            let start = records.bytes.len();
            let offset = device.offset(local, next_page);
            self.read_bytes(device, offset, 1, &mut records.bytes)
                .await?;
            let plausible =
                extent_of(&records.bytes[start..], self.region_pages).filter(|(header, _)| {
                    header.sequence == head.sequence && header.first_page == next_page
                });
            let Some((header, _)) = plausible else { break };
            let pages = (header.body as usize + HEADER_BYTES).div_ceil(PAGE_SIZE) as u32;
            if pages > 1 {
                self.read_bytes(
                    device,
                    offset + PAGE_SIZE as u64,
                    pages - 1,
                    &mut records.bytes,
                )
                .await?;
            }
            let Some((_, after)) = records.take(start, local, next_page) else {
                break;
            };
            next_page = after;
        }
        Ok((!records.starts.is_empty()).then_some(records))
    }
}

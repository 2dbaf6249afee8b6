//! Writing extents: room in an open region, the summary, the pages, and then the index.
//!
//! The order is the safety of a crash: the index learns of a block after the device said that
//! summary and pages are written, and a region's footer is written after its last extent.

use std::rc::Rc;

use corelane_io::{FrameSlice, Io, IoError, PAGE_SIZE};
use corelane_rpc_schema::ObjectId;
use futures::stream::{FuturesUnordered, StreamExt};

use super::Inner;
use super::block::{BlockEntry, NewBlock};
use super::device::{DeviceState, Freed, OpenRegion, Pin, Places, Queued, REGIONS_RESERVED};
use super::header::{Header, Kind, Log};
use super::region::RegionState;
use super::summary::{Draft, SUMMARY_BYTES_MAX, Writer};

/// How the writing of an extent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is on the device, or there was nothing left to write.
    Extent,
    /// No region is free for it.
    NoRegion,
    /// The device failed; what was in the extent is lost.
    Failed,
}

/// An extent whose place is taken and whose summary is encoded.
pub(super) struct Placed {
    /// Number of the region among all.
    pub(super) region: u32,
    /// First page of the summary.
    pub(super) first_page: u32,
    /// First page of the blocks.
    pub(super) data_page: u32,
    pub(super) summary: Vec<u8>,
}

impl<I: Io> Inner<I> {
    /// The next stamp: larger than every one that is on a device in a region that this shard reads.
    pub(super) fn take_stamp(&self) -> u64 {
        let stamp = self.next_stamp.get();
        self.next_stamp.set(stamp + 1);
        stamp
    }

    pub(super) fn writer(&self) -> Writer {
        Writer {
            shard: self.config.shard.0,
            shards: self.config.shards,
        }
    }

    fn header_of(
        &self,
        local: u32,
        sequence: u64,
        stamp: u64,
        first_page: u32,
        log: Log,
    ) -> Header {
        Header {
            kind: Kind::Summary,
            body: 0,
            shard: self.config.shard.0,
            shards: self.config.shards,
            sequence,
            stamp,
            region: local,
            first_page,
            pages: 0,
            log,
        }
    }

    /// Makes sure that `open` has room for an extent of `pages` pages, copy of the summary included.
    ///
    /// A region that is too full is sealed and another opened: by `for_reclaim`, or if more than
    /// the reserve is free. False when there is none.
    pub(super) async fn ensure_room(
        &self,
        device: &DeviceState<I::Device>,
        log: Log,
        open: &mut Option<OpenRegion>,
        pages: u32,
        for_reclaim: bool,
    ) -> bool {
        if open
            .as_ref()
            .is_some_and(|open| open.pages_left(self.region_pages) >= pages)
        {
            return true;
        }
        let reserve = if for_reclaim { 0 } else { REGIONS_RESERVED };
        if device.free.borrow().len() <= reserve {
            self.signal.raise();
            return false;
        }
        if let Some(full) = open.take() {
            self.seal_region(device, log, full).await;
        }
        loop {
            if device.free.borrow().len() <= reserve || !device.healthy.get() {
                return false;
            }
            let number = device
                .free
                .borrow_mut()
                .pop_front()
                .expect("more than the reserve is free");
            self.counters.regions_free.take_off(1);
            let region = &self.regions[number as usize];
            assert_eq!(
                region.state.get(),
                RegionState::Free,
                "region {number} is opened"
            );
            assert_eq!(
                (region.live_blocks.get(), region.readers.get()),
                (0, 0),
                "region {number} is unused"
            );
            let sequence = self.next_sequence.get();
            self.next_sequence.set(sequence + 1);
            // Which opening counts can be read there as long as there is no footer, also when the
            // first summary is damaged.
            let last_page = self.region_pages - 1;
            let page =
                Header::region_page(Kind::Open, sequence, region.local, last_page, device.seed);
            let offset = device.offset(region.local, last_page);
            if self.write_bytes(device, offset, &page).await.is_err() {
                region.state.set(RegionState::Unusable);
                continue;
            }
            region.state.set(RegionState::Open);
            region.log.set(log);
            region.sequence.set(sequence);
            region.first_stamp.set(0);
            region.shards.set(self.config.shards);
            *open = Some(OpenRegion {
                region: number,
                next_page: 0,
                copies: Vec::new(),
                last_stamp: 0,
            });
            return true;
        }
    }

    /// Writes the footer of a region and puts it in the queue of those to be reclaimed.
    pub(super) async fn seal_region(
        &self,
        device: &DeviceState<I::Device>,
        log: Log,
        open: OpenRegion,
    ) {
        let region = &self.regions[open.region as usize];
        let copies_pages = (open.copies.len() / PAGE_SIZE) as u32;
        let start = self.region_pages - 1 - copies_pages;
        assert!(
            start >= open.next_page,
            "the footer of region {} has its room",
            open.region
        );
        let mut footer = open.copies;
        let trailer = footer.len();
        footer.resize(trailer + PAGE_SIZE, 0);
        let mut header = self.header_of(
            region.local,
            region.sequence.get(),
            open.last_stamp,
            start,
            log,
        );
        (header.kind, header.pages) = (Kind::Footer, copies_pages);
        header.seal(&mut footer[trailer..], device.seed);
        // Without its footer the region is walked at the next start; the error is counted.
        let _ = self
            .write_bytes(device, device.offset(region.local, start), &footer)
            .await;
        self.retire_region(device, log, open.region);
    }

    /// Puts a region that is not appended to any more in the queue of those to be reclaimed.
    fn retire_region(&self, device: &DeviceState<I::Device>, log: Log, number: u32) {
        self.regions[number as usize].state.set(RegionState::Sealed);
        device.sealed[log.index()].borrow_mut().push_back(number);
        self.signal.raise();
    }

    /// Takes the place of `draft` in `open`, which has room for it.
    pub(super) fn place(
        &self,
        device: &DeviceState<I::Device>,
        log: Log,
        open: &mut OpenRegion,
        draft: Draft,
        stamp: u64,
    ) -> Placed {
        let region = &self.regions[open.region as usize];
        let (first_page, data_pages) = (open.next_page, draft.data_pages());
        let header = self.header_of(region.local, region.sequence.get(), stamp, first_page, log);
        let summary = draft.encode(header, device.seed);
        let summary_pages = (summary.len() / PAGE_SIZE) as u32;
        assert!(
            2 * summary_pages + data_pages <= open.pages_left(self.region_pages),
            "an extent is placed where room was made for it"
        );
        open.next_page += summary_pages + data_pages;
        open.copies.extend_from_slice(&summary);
        open.last_stamp = stamp;
        if region.first_stamp.get() == 0 {
            region.first_stamp.set(stamp);
        }
        Placed {
            region: open.region,
            first_page,
            data_page: first_page + summary_pages,
            summary,
        }
    }

    /// Ends the use of a region in which a write failed: what comes after would not be found.
    pub(super) fn abandon(
        &self,
        device: &DeviceState<I::Device>,
        log: Log,
        open: &mut Option<OpenRegion>,
    ) {
        if let Some(open) = open.take() {
            self.retire_region(device, log, open.region);
        }
    }

    /// Writes one extent of what waits in the queue of `log`.
    pub(super) async fn write_queued(
        self: &Rc<Self>,
        device: &DeviceState<I::Device>,
        log: Log,
    ) -> Written {
        let mut open = device.log(log).writing.lock().await;
        let Some(pages) = self.pages_of_next(device, log) else {
            return Written::Extent;
        };
        if !self.ensure_room(device, log, &mut open, pages, false).await {
            return if device.healthy.get() {
                Written::NoRegion
            } else {
                Written::Failed
            };
        }
        let stamp = self.take_stamp();
        let room = open
            .as_ref()
            .expect("room was made")
            .pages_left(self.region_pages);
        let (draft, items, logged) = self.gather(device, log, room);
        if draft.is_empty() {
            // All that waited was freed meanwhile, and is done with.
            self.signal.raise();
            return Written::Extent;
        }
        let placed = self.place(
            device,
            log,
            open.as_mut().expect("room was made"),
            draft,
            stamp,
        );
        let region = &self.regions[placed.region as usize];
        let (slices, places) = self.lay_out(&items, placed.data_page);
        let bytes = placed.summary.len()
            + slices
                .iter()
                .map(|(_, slice)| slice.bytes().len())
                .sum::<usize>();
        self.write_pace.wait(&self.io, bytes).await;
        let result = self.write_extent(device, &placed, slices).await;
        self.counters.flushes.add(1);
        match result {
            Ok(()) => {
                for object in logged {
                    self.objects
                        .borrow_mut()
                        .set_record(object, region.device, placed.region);
                }
                for (item, place) in items.iter().zip(places) {
                    self.enter(device, item, &placed, place);
                    self.finish(device, log, item, true);
                }
            }
            Err(_) => {
                self.abandon(device, log, &mut open);
                for item in &items {
                    if matches!(item, Queued::Block(_)) {
                        self.counters.not_kept_no_room.add(1);
                    }
                    self.finish(device, log, item, false);
                }
            }
        }
        self.signal.raise();
        if result.is_ok() {
            Written::Extent
        } else {
            Written::Failed
        }
    }

    /// Pages that an extent with the first item of the queue alone would take.
    fn pages_of_next(&self, device: &DeviceState<I::Device>, log: Log) -> Option<u32> {
        let queue = device.log(log).queue.borrow();
        let (_, first) = queue.front()?;
        let draft = Draft::default();
        Some(match first {
            Queued::Block(block) => {
                let text = Draft::text_bytes(&block.object);
                2 * draft
                    .bytes_with(1, block.length(), text)
                    .div_ceil(PAGE_SIZE) as u32
                    + block.pages()
            }
            Queued::Mark(_) => 2 * draft.summary_pages(),
        })
    }

    /// Takes items off the queue as long as they fit `room` pages and the sizes of an extent.
    /// Gives them, and the objects whose records are in the draft.
    fn gather(
        &self,
        device: &DeviceState<I::Device>,
        log: Log,
        room: u32,
    ) -> (Draft, Vec<Queued>, Vec<ObjectId>) {
        let mut draft = Draft::default();
        let (mut items, mut logged) = (Vec::new(), Vec::<ObjectId>::new());
        let ordinal = device.superblock.ordinal;
        loop {
            let fits = match device.log(log).queue.borrow().front() {
                None => false,
                Some((_, Queued::Mark(_))) => {
                    let bytes = draft.bytes_with_marks(1, 1);
                    let pages = bytes.div_ceil(PAGE_SIZE) as u32;
                    bytes <= SUMMARY_BYTES_MAX && 2 * pages + draft.data_pages() <= room
                        || draft.is_empty()
                }
                Some((_, Queued::Block(block))) => {
                    let bytes =
                        draft.bytes_with(1, block.length(), Draft::text_bytes(&block.object));
                    let pages = draft.data_pages() + block.pages();
                    let size_fits = bytes <= SUMMARY_BYTES_MAX
                        && pages as usize * PAGE_SIZE
                            <= self
                                .config
                                .flush_bytes
                                .max(block.pages() as usize * PAGE_SIZE);
                    2 * bytes.div_ceil(PAGE_SIZE) as u32 + pages <= room
                        && (size_fits || draft.is_empty())
                }
            };
            if !fits {
                break;
            }
            let item = self
                .dequeue(device, log)
                .expect("the queue has a first item");
            match &item {
                Queued::Block(block) if !self.is_pending(block) => {
                    self.finish(device, log, &item, false);
                    continue;
                }
                Queued::Block(block) => {
                    let partition = self.partition_of(block.id, block.object.block_bytes);
                    draft.push_block(
                        block.id,
                        block.length(),
                        partition,
                        block.checksums.iter().copied(),
                    );
                    let recorded = self
                        .objects
                        .borrow()
                        .record_of(block.id.object, ordinal)
                        .is_some();
                    if !recorded
                        && logged.last() != Some(&block.id.object)
                        && !logged.contains(&block.id.object)
                    {
                        draft.push_object(&block.object);
                        logged.push(block.id.object);
                    }
                }
                Queued::Mark(order) => match order.pin {
                    None => draft.push_tombstone(order.object, order.stamp, order.writer),
                    Some(pinned) => {
                        draft.push_pin(order.object, order.stamp, pinned, order.writer);
                    }
                },
            }
            items.push(item);
        }
        (draft, items, logged)
    }

    /// The slices of the items' frames with the page where each goes, and each item's first page.
    fn lay_out(&self, items: &[Queued], data_page: u32) -> (Vec<(u32, FrameSlice)>, Vec<u32>) {
        let (mut slices, mut places, mut page) = (Vec::new(), Vec::new(), data_page);
        for item in items {
            places.push(page);
            let Queued::Block(block) = item else { continue };
            let mut left = block.pages() as usize;
            for frame in &block.frames {
                let count = left.min(frame.pages());
                if count == 0 {
                    break;
                }
                slices.push((page, frame.slice(0..count * PAGE_SIZE)));
                page += count as u32;
                left -= count;
            }
            assert_eq!(left, 0, "the frames of {} hold all of it", block.id);
        }
        (slices, places)
    }

    /// Writes summary and pages; the order among them does not matter, for the summary's checksums
    /// say which pages count.
    async fn write_extent(
        &self,
        device: &DeviceState<I::Device>,
        placed: &Placed,
        slices: Vec<(u32, FrameSlice)>,
    ) -> Result<(), IoError> {
        let local = self.regions[placed.region as usize].local;
        let mut pages: FuturesUnordered<_> = slices
            .into_iter()
            .map(|(page, slice)| self.write_device(device, device.offset(local, page), slice))
            .collect();
        let all_pages = async {
            let mut result = Ok(());
            // All run to their end: a region in which a write is under way is not given up.
            while let Some(written) = pages.next().await {
                result = result.and(written);
            }
            result
        };
        let summary = self.write_bytes(
            device,
            device.offset(local, placed.first_page),
            &placed.summary,
        );
        let (pages, summary) = futures::join!(all_pages, summary);
        pages.and(summary)
    }

    /// Makes a written item known: the block in the index, the mark among the device's.
    fn enter(
        self: &Rc<Self>,
        device: &DeviceState<I::Device>,
        item: &Queued,
        placed: &Placed,
        first_page: u32,
    ) {
        match item {
            Queued::Block(block) => self.enter_block(block, placed.region, first_page),
            Queued::Mark(order) => {
                let mut marks = device.marks.borrow_mut();
                let mark = marks.entry(order.object).or_default();
                let (writer, stamp) = (order.writer, order.stamp);
                let places = Places::of(Some(placed.region));
                match order.pin {
                    None => mark.note_freed(Freed {
                        stamp,
                        writer,
                        places,
                    }),
                    Some(pinned) => mark.note_pin(Pin {
                        stamp,
                        writer,
                        places,
                        pinned,
                    }),
                }
            }
        }
    }

    fn enter_block(&self, block: &Rc<NewBlock>, region: u32, first_page: u32) {
        self.regions[region as usize].set_checksums(
            self.region_pages,
            first_page,
            block.checksums.iter().copied(),
        );
        if !self.is_pending(block) {
            return;
        }
        let entry = BlockEntry {
            region,
            first_page: first_page as u16,
            mount: block.mount,
            length: block.length(),
            frequency: 0,
            pinned: block.pinned || self.pinned.borrow().contains(&block.id.object),
        };
        if self.insert_entry(block.id, entry).is_err() {
            self.counters.not_kept_index_full.add(1);
        }
    }
}

//! Rebuilding the index from the records of all regions, in time proportional to the records.
//!
//! Regions are read several at a time, in any order. Of two records of a block the one with the
//! larger stamp counts; what a tombstone, a missing object or a wrong length takes away is taken
//! away at the end, in one walk over the index.

use corelane_io::{Io, IoError, PAGE_SIZE};
use corelane_rpc_schema::{BlockId, ObjectId};
use futures::stream::{FuturesUnordered, StreamExt};

use super::block::BlockEntry;
use super::device::{DeviceState, Freed, Pin, Places};
use super::header::{Header, Kind};
use super::region::RegionState;
use super::region_records::{Content, Look, RegionDamage, RegionRecords};
use super::summary::{FoundMark, Writer};
use super::{Inner, Recovery};
use crate::cache::hashing::IdMap;
use crate::mount::MountId;

/// Entries looked at between two yields.
const ENTRIES_PER_YIELD: usize = 4096;

/// Numbers that are left out when a region cannot be read: more than one start uses.
const NUMBERS_UNREAD: u64 = 1 << 32;

/// Objects listed between two yields: about 100 µs.
const OBJECTS_PER_YIELD: usize = 64;

/// What was gathered besides the index.
#[derive(Default)]
struct Gathered {
    recovery: Recovery,
    /// How many numbers regions that could not be read may have used.
    numbers_unread: u64,
    /// Stamps of the extents of each region, by first page, to order records of one block.
    extents: IdMap<u32, Vec<(u32, u64)>>,
    /// What is to be written so that the next start finds each record twice.
    mends: Vec<(u32, Mend)>,
    /// Of them, those that hold records.
    records_kept: usize,
    /// Regions of devices that are not marked with bytes that are of no opening of this format.
    foreign: u64,
}

/// What a region lacks.
enum Mend {
    /// The pages that say that it is free since the opening of this sequence ended; 0: of one that is not known.
    Mark(u64),
    /// The footer, the first page, or both: nothing is appended to a region of an earlier run.
    Records(Box<RegionRecords>),
}

/// Most regions whose records are kept in memory until they are mended; the others are mended by
/// the next start. A start after a kill finds two a device.
const MENDS_MAX: usize = 256;

impl Gathered {
    /// The stamp of the extent that page `first_page` of `region` is in.
    fn stamp_of(&self, entry: &BlockEntry) -> u64 {
        let extents = &self.extents[&entry.region];
        let after = extents.partition_point(|(page, _)| *page <= u32::from(entry.first_page));
        extents[after - 1].1
    }
}

/// What one region turned out to be.
enum Found {
    Failed,
    Look(Box<Look>),
}

/// How many blocks ahead the index is prefetched: their slots are anywhere in a table far larger
/// than the processor's cache.
const BLOCKS_AHEAD: usize = 8;

impl<I: Io> Inner<I> {
    /// Reads all regions and fills the index, the objects, the marks and the queues of regions.
    pub(super) async fn recover(&self) -> Recovery {
        let started = self.io.now();
        let mut gathered = Gathered::default();
        let mut waiting = (0..self.regions.len() as u32).filter(|number| self.is_there(*number));
        let mut reading = FuturesUnordered::new();
        loop {
            while reading.len() < self.config.reads_in_flight
                && let Some(number) = waiting.next()
            {
                reading.push(async move { (number, self.look_at(number).await) });
            }
            let Some((number, found)) = reading.next().await else {
                break;
            };
            self.take_region(number, found, &mut gathered);
        }
        self.leave_numbers_out(gathered.numbers_unread);
        self.mend_regions(&mut gathered).await;
        self.collect_pins();
        self.settle_entries(&mut gathered).await;
        for device in self.devices.iter().flatten() {
            self.forget_expired(device);
        }
        self.count_tombstones();
        self.queue_regions();
        let mut recovery = gathered.recovery;
        recovery.blocks = self.index.borrow().len() as u64;
        recovery.bytes = self.counters.bytes_live.get();
        recovery.objects = self.counters.objects.get();
        recovery.nanoseconds = self.io.now().since(started).as_nanos() as u64;
        recovery
    }

    fn is_there(&self, number: u32) -> bool {
        self.device(self.regions[number as usize].device).is_some()
    }

    async fn look_at(&self, number: u32) -> Found {
        let region = &self.regions[number as usize];
        let device = self
            .device(region.device)
            .expect("only devices that are there are looked at");
        match self
            .look_at_region(device, region.local, Some(self.writer()))
            .await
        {
            Err(_) => Found::Failed,
            Ok(look) => Found::Look(Box::new(look)),
        }
    }

    fn take_region(&self, number: u32, found: Found, gathered: &mut Gathered) {
        let region = &self.regions[number as usize];
        let device = self
            .device(region.device)
            .expect("only devices that are there are looked at");
        let ours = region.is_ours();
        let state = |state| if ours { state } else { RegionState::Sibling };
        gathered.recovery.bytes_read += PAGE_SIZE as u64;
        let look = match found {
            Found::Look(look) => look,
            // Its bytes may be there and readable next time: it is left alone until the marks that
            // it may need are too many.
            // What was numbered in it counts as later than all that could be read.
            Found::Failed => {
                region.state.set(state(RegionState::Unusable));
                region.is_unread.set(true);
                gathered.numbers_unread = NUMBERS_UNREAD;
                return;
            }
        };
        let Look { content, damage } = *look;
        let is_marked = device.is_marked;
        if !damage.is_empty() {
            gathered.numbers_unread = NUMBERS_UNREAD;
        }
        let is_foreign = !is_marked && matches!(content, Content::Unknown);
        // The shard that writes the region tells of it, once for all.
        if ours && !is_foreign {
            self.note_damage(number, &content, &damage);
        }
        match content {
            Content::Free {
                is_marked,
                sequence,
            } => {
                // A later opening is told from the one that ended.
                self.see_sequence(sequence, 0);
                region.state.set(state(RegionState::Free));
                if ours && !is_marked {
                    gathered.mends.push((number, Mend::Mark(sequence)));
                }
            }
            Content::Unknown => {
                region.state.set(state(RegionState::Free));
                gathered.foreign += u64::from(ours && is_foreign);
                if ours {
                    gathered.mends.push((number, Mend::Mark(0)));
                }
            }
            // Written under the present number of shards by another one: none of ours is in it, and it is
            // not ours to write.
            Content::OfAnother => region.state.set(state(RegionState::Free)),
            Content::Records(records) if !self.may_hold_ours(&records) => {
                region.state.set(state(RegionState::Free));
            }
            Content::Records(records) => {
                region.state.set(state(RegionState::Sealed));
                self.take_records(number, &records, gathered);
                let has_room = gathered.records_kept < MENDS_MAX && !records.is_partial;
                if ours && has_room && (records.walked || records.is_first_page_wrong) {
                    gathered.records_kept += 1;
                    gathered.mends.push((number, Mend::Records(records)));
                }
            }
        }
    }

    /// Whether records of ours may be in a region: it was written by us, or under another number of shards.
    pub(super) fn may_hold_ours(&self, records: &RegionRecords) -> bool {
        let head = records.head;
        head.shards != self.config.shards || head.shard == self.config.shard.0
    }

    /// Counts and logs what of a region does not check.
    fn note_damage(&self, number: u32, content: &Content, damage: &[RegionDamage]) {
        let region = &self.regions[number as usize];
        let device = self
            .device(region.device)
            .expect("only devices that are there are looked at");
        for RegionDamage { page, what } in damage {
            self.counters.corrupt_summaries.add(1);
            tracing::warn!(
                device = %device.path, region = region.local, offset = device.offset(region.local, *page),
                "the {} of a region does not check: what it says is taken from its copy where there is one. \
                 After a power cut this may be a write that was not complete; otherwise the device does not \
                 keep what is written: if it happens again, replace it",
                what.name()
            );
        }
        let is_lost = match content {
            Content::Unknown => true,
            Content::Free { .. } | Content::Records(_) | Content::OfAnother => false,
        };
        if is_lost {
            self.counters.regions_damaged.add(1);
            tracing::error!(
                device = %device.path, region = region.local, offset = device.offset(region.local, 0),
                "neither the summaries of a region nor its footer check: what was cached in it is fetched again \
                 when it is asked for, and pinned blocks in it are lost from the cache; tombstones and pins are read \
                 from their copies in other regions. Load again what was pinned; if it happens again, replace the device"
            );
        }
    }

    /// Writes what regions lack, so that damage to any page before the next start finds a copy.
    async fn mend_regions(&self, gathered: &mut Gathered) {
        if gathered.foreign > 0 {
            tracing::warn!(
                regions = gathered.foreign,
                "regions that a worker of an earlier version left unmarked hold bytes that do not check: they are \
                 taken for what was on the device before it was formatted"
            );
        }
        let mut writing = FuturesUnordered::new();
        let mut mends = std::mem::take(&mut gathered.mends).into_iter();
        let mut is_marked = true;
        loop {
            while writing.len() < self.config.reads_in_flight
                && let Some((number, mend)) = mends.next()
            {
                writing.push(self.mend(number, mend));
            }
            let Some(is_mended) = writing.next().await else {
                break;
            };
            is_marked &= is_mended;
        }
        for device in self.devices.iter().flatten() {
            let ordinal = device.superblock.ordinal;
            let mut regions = self
                .regions
                .iter()
                .filter(|region| region.device == ordinal);
            // What a region begins with that cannot be read is not known.
            let is_unread = regions.any(|region| region.is_unread.get());
            if device.is_marked || !is_marked || is_unread {
                continue;
            }
            let has_slots = self.config.shard.0 != 0 || self.mark_empty_slots(device).await;
            if has_slots && self.flush_device(device).await.is_ok() {
                self.config.wear.note_marked(device.superblock.ordinal);
            }
        }
    }

    /// False where a free region could not be marked.
    async fn mend(&self, number: u32, mend: Mend) -> bool {
        let region = &self.regions[number as usize];
        let device = self
            .device(region.device)
            .expect("only devices that are there are looked at");
        match mend {
            Mend::Mark(sequence) => {
                let written = self.write_free_pages(device, region.local, sequence).await;
                if written.is_err() {
                    region.state.set(RegionState::Unusable);
                    region.is_unread.set(true);
                    return false;
                }
            }
            // What cannot be written now is written by the next start; the error is counted.
            Mend::Records(records) => {
                if records.walked {
                    let _ = self.write_footer_of(device, &records).await;
                }
                if records.is_first_page_wrong {
                    let _ = self.write_first_page_of(device, &records).await;
                }
            }
        }
        true
    }

    async fn write_footer_of(
        &self,
        device: &DeviceState<I::Device>,
        records: &RegionRecords,
    ) -> Result<(), IoError> {
        let copies = records.copies();
        let pages = (copies.len() / PAGE_SIZE) as u32;
        let start = (self.region_pages - 1).checked_sub(pages);
        // There is room, for extents leave it.
        let Some(start) = start.filter(|start| *start >= records.end_page) else {
            return Ok(());
        };
        let mut footer = copies.to_vec();
        footer.resize(copies.len() + PAGE_SIZE, 0);
        let header = Header {
            kind: Kind::Footer,
            body: 0,
            stamp: records.last_stamp,
            first_page: start,
            pages,
            ..records.head
        };
        header.seal(&mut footer[copies.len()..], device.seed);
        let offset = device.offset(records.head.region, start);
        self.write_bytes(device, offset, &footer).await
    }

    async fn write_first_page_of(
        &self,
        device: &DeviceState<I::Device>,
        records: &RegionRecords,
    ) -> Result<(), IoError> {
        let Header {
            region, sequence, ..
        } = records.head;
        let offset = device.offset(region, 0);
        if let Some(pages) = records.first_pages() {
            return self.write_bytes(device, offset, pages).await;
        }
        // The first extent is lost; its region is not free.
        let page = Header::region_page(Kind::Open, sequence, region, 0, device.seed);
        self.write_bytes(device, offset, &page).await
    }

    /// Says in the first and in the last page of a region that it is free.
    pub(super) async fn write_free_pages(
        &self,
        device: &DeviceState<I::Device>,
        local: u32,
        sequence: u64,
    ) -> Result<(), IoError> {
        for page in [0, self.region_pages - 1] {
            let bytes = Header::region_page(Kind::Free, sequence, local, page, device.seed);
            self.write_bytes(device, device.offset(local, page), &bytes)
                .await?;
        }
        Ok(())
    }

    /// Leaves numbers out that may be on the device and were not seen. A region whose first extent
    /// was lost by a power cut looks free, though later extents of it may be there: a new opening
    /// must not have their sequence, so it is drawn from a range that hits none again.
    fn leave_numbers_out(&self, unread: u64) {
        let skipped = unread + (self.io.random() >> 32);
        self.next_sequence.set(self.next_sequence.get() + skipped);
        self.next_stamp.set(self.next_stamp.get() + unread);
    }

    /// Whether blocks of ours may be among those that a tombstone of `writer` freed.
    fn concerns_us(&self, writer: Writer) -> bool {
        (0..self.partitions).any(|number| {
            let partition = number as u16;
            let shards = writer.shards.max(1);
            let owner = corelane_placement::shard_of(partition, self.partitions, shards);
            owner == writer.shard && self.is_ours(partition)
        })
    }

    /// Later sequences and stamps of ours are larger than all that were seen.
    fn see_sequence(&self, sequence: u64, stamp: u64) {
        self.next_sequence
            .set(self.next_sequence.get().max(sequence.saturating_add(1)));
        self.next_stamp
            .set(self.next_stamp.get().max(stamp.saturating_add(1)));
    }

    fn take_records(&self, number: u32, records: &RegionRecords, gathered: &mut Gathered) {
        let region = &self.regions[number as usize];
        let device = self
            .device(region.device)
            .expect("its records were just read");
        self.see_sequence(records.head.sequence, records.last_stamp);
        region.sequence.set(records.head.sequence);
        // What could not be read of it may be of any age.
        let first_stamp = if records.is_partial {
            1
        } else {
            records.head.stamp
        };
        region.first_stamp.set(first_stamp);
        region.shards.set(records.head.shards);
        region.log.set(records.head.log);
        gathered.recovery.regions += 1;
        gathered.recovery.regions_walked += u64::from(records.walked);
        gathered.recovery.bytes_read += records.bytes() as u64;
        let extents = records
            .summaries()
            .map(|summary| (summary.header.first_page, summary.header.stamp));
        gathered.extents.insert(number, extents.collect());
        for summary in records.summaries() {
            let (first_page, checksums) = summary.checksums();
            region.set_checksums(self.region_pages, first_page, checksums);
            let place = self.place_in(number);
            let mut concerned: Option<(Writer, bool)> = None;
            let mut marks = device.marks.borrow_mut();
            for FoundMark {
                object,
                stamp,
                writer,
                ..
            } in summary.tombstones()
            {
                let (_, is_concerned) = match concerned {
                    Some(known) if known.0 == writer => known,
                    _ => *concerned.insert((writer, self.concerns_us(writer))),
                };
                if !is_concerned {
                    continue;
                }
                marks.entry(object).or_default().note_freed(Freed {
                    stamp,
                    writer,
                    places: Places::of(place),
                });
            }
            for FoundMark {
                object,
                stamp,
                writer,
                pinned,
            } in summary.pins()
            {
                marks.entry(object).or_default().note_pin(Pin {
                    stamp,
                    writer,
                    places: Places::of(place),
                    pinned,
                });
            }
            drop(marks);
            let is_new = |id| self.objects.borrow().get(id).is_none();
            for meta in summary.objects(is_new) {
                self.objects
                    .borrow_mut()
                    .ensure_found(&meta, &self.counters);
            }
            let mut objects = self.objects.borrow_mut();
            for id in summary.object_ids() {
                objects.note_record(id, region.device, place);
            }
            drop(objects);
            let mut coming = summary.blocks().skip(BLOCKS_AHEAD);
            for block in summary.blocks() {
                if let Some(coming) = coming.next() {
                    self.index.borrow().prefetch(coming.id);
                }
                if !self.is_ours(block.partition)
                    || self.ordinal_of(block.partition) != region.device
                {
                    continue;
                }
                let entry = BlockEntry {
                    region: number,
                    first_page: block.first_page as u16,
                    mount: MountId::NONE,
                    length: block.length,
                    frequency: 0,
                    pinned: false,
                };
                self.take_block(block.id, entry, summary.header.stamp, gathered);
            }
        }
    }

    fn take_block(&self, id: BlockId, entry: BlockEntry, stamp: u64, gathered: &mut Gathered) {
        let mut index = self.index.borrow_mut();
        match index.get(id) {
            Some(other) if gathered.stamp_of(&other) >= stamp => {}
            _ => {
                if index.insert(id, entry).is_err() {
                    gathered.recovery.blocks_not_fitting += 1;
                }
            }
        }
    }

    /// Objects whose latest pin record says so, on any device.
    fn collect_pins(&self) {
        let mut latest: IdMap<ObjectId, (u64, bool)> = IdMap::default();
        for device in self.devices.iter().flatten() {
            for (object, mark) in device.marks.borrow().iter() {
                let Some(pin) = mark.pin else { continue };
                let known = latest.entry(*object).or_default();
                if pin.stamp >= known.0 {
                    *known = (pin.stamp, pin.pinned);
                }
            }
        }
        let pinned = latest
            .into_iter()
            .filter(|(_, (_, pinned))| *pinned)
            .map(|(object, _)| object);
        self.pinned.borrow_mut().extend(pinned);
    }

    /// Takes out what does not count and counts what does.
    async fn settle_entries(&self, gathered: &mut Gathered) {
        let mut dropped = Vec::new();
        let slots = self.index.borrow().slots();
        let has_pins = !self.pinned.borrow().is_empty();
        for slot in 0..slots {
            if slot % ENTRIES_PER_YIELD == 0 {
                self.io.yield_now().await;
            }
            let Some((id, entry)) = self.index.borrow().slot(slot) else {
                continue;
            };
            if self.is_freed(id, &entry, gathered) {
                dropped.push(id);
                continue;
            }
            let device = self.regions[entry.region as usize].device;
            let mut objects = self.objects.borrow_mut();
            if !objects.add_found_block(id, device, entry.length) {
                gathered.recovery.blocks_orphaned += 1;
                dropped.push(id);
                continue;
            }
            drop(objects);
            self.count_in(id, &entry);
            if has_pins && self.pinned.borrow().contains(&id.object) {
                self.pin_entry(id, true);
            }
        }
        for id in dropped {
            self.index.borrow_mut().remove(id);
        }
        self.objects.borrow_mut().forget_all_unused(&self.counters);
    }

    /// Whether a tombstone of whoever owned the entry's partition came after it.
    fn is_freed(&self, id: BlockId, entry: &BlockEntry, gathered: &Gathered) -> bool {
        let region = &self.regions[entry.region as usize];
        let device = self
            .device(region.device)
            .expect("its records were just read");
        let marks = device.marks.borrow();
        let freed = match marks.get(&id.object) {
            Some(mark) if !mark.freed.is_empty() => &mark.freed,
            _ => return false,
        };
        let objects = self.objects.borrow();
        // Without its object it does not count anyway.
        let Some(meta) = objects.get(id.object) else {
            return false;
        };
        let partition = self.partition_of(id, meta.block_bytes);
        let stamp = gathered.stamp_of(entry);
        freed.iter().any(|freed| {
            let Writer { shard, shards } = freed.writer;
            let owner = corelane_placement::shard_of(partition, self.partitions, shards.max(1));
            owner == shard && stamp < freed.stamp
        })
    }

    /// Puts the objects that were found in the order of their URIs, while the shard serves.
    pub(super) async fn list_found_objects(&self) {
        while self.objects.borrow_mut().list_some(OBJECTS_PER_YIELD) {
            self.io.yield_now().await;
            if self.stopping.get() {
                break;
            }
        }
        self.signal.raise();
    }

    /// Fills the queues of free and of sealed regions, the latter in the order of their opening.
    fn queue_regions(&self) {
        let mut numbers: Vec<u32> = (0..self.regions.len() as u32).collect();
        numbers.sort_by_key(|number| self.regions[*number as usize].sequence.get());
        for number in numbers {
            let region = &self.regions[number as usize];
            let Some(device) = self.device(region.device) else {
                continue;
            };
            match region.state.get() {
                RegionState::Free => {
                    device.free.borrow_mut().push_back(number);
                    self.counters.regions_free.add(1);
                }
                RegionState::Sealed => {
                    device.sealed[region.log.get().index()]
                        .borrow_mut()
                        .push_back(number);
                }
                _ => {}
            }
        }
    }
}

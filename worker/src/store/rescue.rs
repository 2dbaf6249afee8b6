//! Writing what survives a reclaim into the main log: pages go from region to region through
//! scratch frames and are checked on the way, so that an error at rest does not spread.

use std::collections::VecDeque;
use std::rc::Rc;

use corelane_io::{Io, IoError, PAGE_SIZE};
use corelane_rpc_schema::ObjectId;
use futures::stream::{self, StreamExt};

use super::Inner;
use super::device::{DeviceState, OpenRegion, Place};
use super::entries::page_bytes;
use super::extent::Placed;
use super::header::Log;
use super::read::check_pages;
use super::reclaim::{Rescue, Survivor};
use super::summary::{Draft, SUMMARY_BYTES_MAX};
use crate::object::ObjectMeta;
use std::sync::Arc;

/// Records that go into one extent before blocks do: keeps its summary within bounds.
const RECORDS_PER_EXTENT_MAX: usize = 256;

/// What one extent of survivors holds.
#[derive(Default)]
struct Batch {
    draft: Draft,
    /// Survivors with their first page relative to the extent's data.
    blocks: Vec<(Survivor, u32)>,
    objects: Vec<ObjectId>,
    marks: Vec<ObjectId>,
}

/// A run of pages to copy.
struct Piece {
    survivor: Survivor,
    from_page: u32,
    to_page: u32,
    pages: u32,
}

impl<I: Io> Inner<I> {
    /// Writes everything in `rescue`, extent by extent; an extent that could not be written is tried
    /// again in another region. True when all records found a place. Where no region is free,
    /// or the device fails, what is left stays behind: a reclaim always comes to its end.
    ///
    /// The regions in reserve are for reclaims that give a region back in the end. For a region of
    /// another shard only records and pinned blocks may use them.
    pub(super) async fn rescue(
        self: &Rc<Self>,
        device: &DeviceState<I::Device>,
        number: u32,
        rescue: Rescue,
    ) -> bool {
        let mut blocks = VecDeque::from(rescue.blocks);
        let mut objects = VecDeque::from(rescue.objects);
        let mut marks = VecDeque::from(rescue.marks);
        while !(blocks.is_empty() && objects.is_empty() && marks.is_empty()) {
            let gives_back = self.regions[number as usize].is_ours();
            let may_use_reserve =
                gives_back || blocks.front().is_none_or(|block| block.entry.pinned);
            let mut open = device.log(Log::Main).writing.lock().await;
            let pages = self.pages_needed(&blocks);
            if !self
                .ensure_room(device, Log::Main, &mut open, pages, may_use_reserve)
                .await
            {
                if !may_use_reserve {
                    self.evict_unpinned(&mut blocks);
                    continue;
                }
                tracing::warn!(
                    device = %device.path, blocks = blocks.len(), objects = objects.len(), marks = marks.len(),
                    "no region is free for what should survive a reclaim: its blocks are dropped"
                );
                let has_pinned = blocks.iter().any(|block| block.entry.pinned);
                return objects.is_empty() && marks.is_empty() && (gives_back || !has_pinned);
            }
            let room = open
                .as_ref()
                .expect("room was made")
                .pages_left(self.region_pages);
            let stamp = self.take_stamp();
            let left_before = blocks.len() + objects.len() + marks.len();
            let batch = self.fill(
                device,
                number,
                room,
                (&mut blocks, &mut objects, &mut marks),
            );
            if batch.draft.is_empty() {
                assert!(
                    left_before > blocks.len() + objects.len() + marks.len(),
                    "an extent takes at least one record"
                );
                continue;
            }
            let left = self
                .write_batch(device, number, &mut open, batch, stamp)
                .await;
            if let Some(left) = left {
                objects.extend(left.objects);
                marks.extend(left.marks);
                blocks.extend(left.blocks.into_iter().map(|(survivor, _)| survivor));
            }
        }
        true
    }

    fn evict_unpinned(&self, blocks: &mut VecDeque<Survivor>) {
        blocks.retain(|survivor| {
            if !survivor.entry.pinned
                && self.remove_entry_at(survivor.id, &survivor.entry).is_some()
            {
                self.counters.blocks_evicted.add(1);
            }
            survivor.entry.pinned
        });
    }

    /// Pages of an extent that makes progress: all records that may go first, and a block.
    fn pages_needed(&self, blocks: &VecDeque<Survivor>) -> u32 {
        let block = blocks.front().map_or(0, |block| block.entry.length);
        let summary = Draft::default().bytes_with(1, block, 1).div_ceil(PAGE_SIZE) as u32;
        // Two more pages of summary for the text of an object, which is below two pages.
        2 * (summary + 3) + block.div_ceil(PAGE_SIZE as u32)
    }

    fn fill(
        &self,
        device: &DeviceState<I::Device>,
        number: u32,
        room: u32,
        (blocks, objects, marks): (
            &mut VecDeque<Survivor>,
            &mut VecDeque<ObjectId>,
            &mut VecDeque<ObjectId>,
        ),
    ) -> Batch {
        let ordinal = device.superblock.ordinal;
        let place = self.place_in(number);
        let mut batch = Batch::default();
        let summary_fits = |draft: &Draft, blocks: usize, length: u32, text: usize| {
            let bytes = draft.bytes_with(blocks, length, text);
            let pages = draft.data_pages() + length.div_ceil(PAGE_SIZE as u32);
            bytes <= SUMMARY_BYTES_MAX && 2 * bytes.div_ceil(PAGE_SIZE) as u32 + pages <= room
        };
        while batch.objects.len() < RECORDS_PER_EXTENT_MAX
            && let Some(id) = objects.front().copied()
        {
            let Some(meta) = self.still_recorded_in(id, ordinal, place) else {
                self.objects.borrow_mut().clear_record(id, ordinal, place);
                objects.pop_front();
                continue;
            };
            if !summary_fits(&batch.draft, 0, 0, Draft::text_bytes(&meta)) {
                return batch;
            }
            batch.draft.push_object(&meta);
            batch.objects.push(id);
            objects.pop_front();
        }
        while batch.marks.len() < RECORDS_PER_EXTENT_MAX
            && let Some(id) = marks.front().copied()
        {
            let (tombstones, pins) = self.count_marks_of(device, place, id);
            let bytes = batch.draft.bytes_with_marks(tombstones, pins);
            let pages = 2 * bytes.div_ceil(PAGE_SIZE) as u32 + batch.draft.data_pages();
            if bytes > SUMMARY_BYTES_MAX || pages > room {
                return batch;
            }
            self.push_marks_of(device, place, id, &mut batch.draft);
            batch.marks.push(id);
            marks.pop_front();
        }
        while let Some(survivor) = blocks.front().copied() {
            let length = survivor.entry.length;
            let bytes = u64::from(batch.draft.data_pages()) * PAGE_SIZE as u64 + page_bytes(length);
            let is_large = bytes > self.config.flush_bytes as u64 && !batch.blocks.is_empty();
            if is_large || !summary_fits(&batch.draft, 1, length, 0) {
                break;
            }
            blocks.pop_front();
            self.push_survivor(survivor, &mut batch);
        }
        batch
    }

    /// The object, if its record is still in `place` and blocks of it rely on that.
    fn still_recorded_in(
        &self,
        id: ObjectId,
        ordinal: u16,
        place: Place,
    ) -> Option<Arc<ObjectMeta>> {
        let objects = self.objects.borrow();
        let needed = objects.record_of(id, ordinal) == place && objects.needs_record(id, ordinal);
        needed.then(|| objects.get(id).cloned()).flatten()
    }

    /// Tombstones and pins of an object in `place`.
    fn count_marks_of(
        &self,
        device: &DeviceState<I::Device>,
        place: Place,
        id: ObjectId,
    ) -> (usize, usize) {
        let marks = device.marks.borrow();
        marks.get(&id).map_or((0, 0), |mark| {
            let freed = mark.freed.iter().filter(|freed| freed.places.has(place));
            let pin = mark.pin.iter().filter(|pin| pin.places.has(place));
            (freed.count(), pin.count())
        })
    }

    fn push_marks_of(
        &self,
        device: &DeviceState<I::Device>,
        place: Place,
        id: ObjectId,
        draft: &mut Draft,
    ) {
        let marks = device.marks.borrow();
        let Some(mark) = marks.get(&id) else { return };
        for freed in mark.freed.iter().filter(|freed| freed.places.has(place)) {
            draft.push_tombstone(id, freed.stamp, freed.writer);
        }
        if let Some(pin) = mark.pin.filter(|pin| pin.places.has(place)) {
            draft.push_pin(id, pin.stamp, pin.pinned, pin.writer);
        }
    }

    /// Adds a block to the batch, unless it was freed or dropped since it was chosen.
    fn push_survivor(&self, survivor: Survivor, batch: &mut Batch) {
        let Survivor { id, entry, .. } = survivor;
        if !self.is_still_at(id, &entry) {
            return;
        }
        let block_bytes = self
            .objects
            .borrow()
            .get(id.object)
            .map(|meta| meta.block_bytes);
        let partition = self.partition_of(
            id,
            block_bytes.expect("a block in the index has a known object"),
        );
        let checksums = self.regions[entry.region as usize].checksums();
        let first = usize::from(entry.first_page);
        let pages = entry.length.div_ceil(PAGE_SIZE as u32) as usize;
        let of_block = checksums[first..first + pages].iter().copied();
        let at = batch
            .draft
            .push_block(id, entry.length, partition, of_block);
        batch.blocks.push((survivor, at));
    }

    /// Writes one extent of survivors. Gives back what was not written.
    async fn write_batch(
        self: &Rc<Self>,
        device: &DeviceState<I::Device>,
        number: u32,
        open: &mut Option<OpenRegion>,
        mut batch: Batch,
        stamp: u64,
    ) -> Option<Batch> {
        let data_bytes = batch.draft.data_pages() as usize * PAGE_SIZE;
        let opened = open.as_mut().expect("room was made");
        let draft = std::mem::take(&mut batch.draft);
        let placed = self.place(device, Log::Main, opened, draft, stamp);
        self.write_pace
            .wait(&self.io, placed.summary.len() + data_bytes)
            .await;
        let to_local = self.regions[placed.region as usize].local;
        let pieces = pieces_of(
            &batch.blocks,
            placed.data_page,
            self.scratch.frame_pages() as u32,
        );
        let mut written: Result<(), IoError> = stream::iter(pieces)
            .map(|piece| self.copy(device, to_local, piece))
            .buffer_unordered(self.config.reads_in_flight)
            .fold(Ok(()), |result, copied| async move { result.and(copied) })
            .await;
        // The pages first, and durably: the summary makes this copy the one that counts, while a good
        // one is still in the region that is being emptied.
        if written.is_ok() && !batch.blocks.is_empty() {
            written = self.flush_device(device).await;
        }
        if written.is_ok() {
            let offset = device.offset(to_local, placed.first_page);
            written = self.write_bytes(device, offset, &placed.summary).await;
        }
        self.counters.flushes.add(1);
        if written.is_err() {
            // Entries still point at the region that is being emptied.
            self.abandon(device, Log::Main, open);
            return Some(batch);
        }
        self.settle(
            device,
            number,
            &placed,
            &batch.blocks,
            &batch.objects,
            &batch.marks,
        );
        None
    }

    /// Copies a run of pages. Wrong or unreadable ones drop their block and are not an error of
    /// the extent; a failed write is.
    async fn copy(
        &self,
        device: &DeviceState<I::Device>,
        to_local: u32,
        piece: Piece,
    ) -> Result<(), IoError> {
        let Survivor { id, entry, .. } = piece.survivor;
        let from = &self.regions[entry.region as usize];
        let permit = self.scratch.for_reading(&self.signal).await;
        let lease = permit
            .frame()?
            .lease(0..piece.pages as usize)
            .expect("a fresh frame is vacant");
        let lease = match self
            .read_device(device, device.offset(from.local, piece.from_page), lease)
            .await
        {
            Ok(lease) => lease,
            Err(_) => {
                self.remove_entry_at(id, &entry);
                return Ok(());
            }
        };
        if let Err(wrong) = check_pages(from, piece.from_page, lease.bytes()) {
            self.heal(id, &entry, piece.from_page + wrong);
            return Ok(());
        }
        let frame = lease.seal();
        let slice = frame.slice(0..piece.pages as usize * PAGE_SIZE);
        drop(frame);
        self.counters
            .bytes_rewritten
            .add(u64::from(piece.pages) * PAGE_SIZE as u64);
        self.write_device(device, device.offset(to_local, piece.to_page), slice)
            .await
    }

    /// Lets the index, the objects and the marks point at the new places.
    fn settle(
        self: &Rc<Self>,
        device: &DeviceState<I::Device>,
        number: u32,
        placed: &Placed,
        blocks: &[(Survivor, u32)],
        objects: &[ObjectId],
        marks: &[ObjectId],
    ) {
        let (from, to) = (
            &self.regions[number as usize],
            &self.regions[placed.region as usize],
        );
        for (survivor, at) in blocks {
            let Survivor {
                id,
                entry,
                frequency,
            } = *survivor;
            let pages = entry.length.div_ceil(PAGE_SIZE as u32) as usize;
            let first = usize::from(entry.first_page);
            let first_page = placed.data_page + at;
            to.set_checksums(
                self.region_pages,
                first_page,
                from.checksums()[first..first + pages].iter().copied(),
            );
            if self.is_still_at(id, &entry) {
                self.move_entry(id, placed.region, first_page as u16, frequency);
                self.counters.blocks_survived.add(1);
            }
        }
        let place = self.place_in(number);
        for id in objects {
            self.objects.borrow_mut().move_record(
                *id,
                device.superblock.ordinal,
                place,
                placed.region,
            );
        }
        for id in marks {
            if let Some(mark) = device.marks.borrow_mut().get_mut(id) {
                mark.move_from(place, placed.region);
            }
            self.copy_mark(device, *id);
        }
    }
}

/// Runs of at most `pages_max` pages, with their places in the region that is written.
fn pieces_of(blocks: &[(Survivor, u32)], data_page: u32, pages_max: u32) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (survivor, at) in blocks {
        let pages = survivor.entry.length.div_ceil(PAGE_SIZE as u32);
        for start in (0..pages).step_by(pages_max as usize) {
            pieces.push(Piece {
                survivor: *survivor,
                from_page: u32::from(survivor.entry.first_page) + start,
                to_page: data_page + at + start,
                pages: (pages - start).min(pages_max),
            });
        }
    }
    pieces
}

//! Making room: the oldest region of a log is emptied and becomes free.
//!
//! The order is the safety of a crash: what survives is written elsewhere and durable before the
//! first page of the emptied region says that it is free, which is what makes it free for
//! the next start too. Blocks that did not survive may come back with a restart in between, which
//! is harmless; freed ones do not, because tombstones survive like pinned blocks.

use std::cell::Cell;
use std::rc::Rc;

use corelane_io::{Device, Io, PAGE_SIZE};
use corelane_rpc_schema::{BlockId, ObjectId};
use futures::future::join_all;

use super::Inner;
use super::Release;
use super::block::BlockEntry;
use super::counters::Counter;
use super::device::{DeviceState, Place, Places, REGIONS_RESERVED};
use super::header::Log;
use super::policy::Verdict;
use super::region::{Region, RegionState};
use super::region_records::RegionRecords;
use super::tombstones::Expiry;
use crate::cache::index::hash_of;

/// Index slots looked at between two yields: about 100 µs.
const SLOTS_PER_YIELD: usize = 8192;

/// The index is reclaimed like a full device when less than this share of it (1/64) is left, so
/// that blocks under way to the device find a place.
const INDEX_SHARE_KEPT_FREE: usize = 64;

/// A region with more pinned bytes than 7/8 of it is left where it is: moving it makes no room.
const PINNED_EIGHTHS_MAX: u64 = 7;

/// A block that is moved.
#[derive(Clone, Copy, Debug)]
pub(super) struct Survivor {
    pub(super) id: BlockId,
    pub(super) entry: BlockEntry,
    /// Its frequency once moved.
    pub(super) frequency: u8,
}

/// How taking everything out of a region ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evacuated {
    /// Something was written elsewhere.
    has_written: bool,
    /// No tombstone, pin or object that still means something is in this region alone.
    has_all_records: bool,
}

/// What of a region has to be written elsewhere.
#[derive(Debug, Default)]
pub(super) struct Rescue {
    pub(super) blocks: Vec<Survivor>,
    /// Objects whose record is in the region.
    pub(super) objects: Vec<ObjectId>,
    /// Objects with a tombstone or pin in the region.
    pub(super) marks: Vec<ObjectId>,
}

impl Rescue {
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.objects.is_empty() && self.marks.is_empty()
    }
}

impl<I: Io> Inner<I> {
    /// Keeps regions of a device free until the store stops or the device is taken out.
    pub(super) async fn keep_room(self: Rc<Self>, ordinal: u16) {
        let device = self
            .device(ordinal)
            .expect("room is kept on devices that are there");
        // Reclaims in a row that let nothing go.
        let fruitless = Cell::new(0);
        loop {
            self.signal
                .wait_until(|| {
                    self.stopping.get()
                        || !device.healthy.get()
                        || self.must_expire_tombstones(device)
                        || (self.is_short_of_room(device) && !device.is_full.get())
                })
                .await;
            if !device.healthy.get() {
                self.drop_device(device).await;
                return;
            }
            if self.stopping.get() {
                return;
            }
            if self.must_expire_tombstones(device) {
                self.expire_tombstones(device).await;
                continue;
            }
            let before = self.counters.blocks_evicted.get();
            let rounds = device.regions_ours as usize + 1;
            let at_any_price = fruitless.get() > 2 * rounds && device.free.borrow().is_empty();
            let reclaimed = self.reclaim_oldest(device, at_any_price).await;
            let evicted = self.counters.blocks_evicted.get() != before;
            fruitless.set(if evicted { 0 } else { fruitless.get() + 1 });
            // After so many rounds every unpinned block has lost its frequency and left.
            if !reclaimed || fruitless.get() > 4 * rounds {
                fruitless.set(0);
                if self.is_short_of_room(device) && device.healthy.get() {
                    device.is_full.set(true);
                    tracing::warn!(device = %device.path, "all that is cached is pinned: new blocks find no room");
                    self.signal.raise();
                }
            }
        }
    }

    fn is_short_of_room(&self, device: &DeviceState<I::Device>) -> bool {
        let index = self.index.borrow();
        let kept_free = index.capacity() / INDEX_SHARE_KEPT_FREE;
        device.free.borrow().len() <= REGIONS_RESERVED
            || index.len() + self.pending.borrow().len() + kept_free > index.capacity()
    }

    /// Takes the region to be emptied from its queue.
    fn choose_victim(&self, device: &DeviceState<I::Device>) -> Option<(u32, Log)> {
        let candidates = |log: Log| {
            let sealed = device.sealed[log.index()].borrow();
            sealed
                .iter()
                .filter(|number| self.is_worth_emptying(**number))
                .count()
        };
        let (small, main) = (candidates(Log::Small), candidates(Log::Main));
        let log = self
            .policy
            .victim(small, main, device.regions_ours as usize)?;
        let mut sealed = device.sealed[log.index()].borrow_mut();
        let at = sealed
            .iter()
            .position(|number| self.is_worth_emptying(*number))?;
        sealed.remove(at).map(|number| (number, log))
    }

    /// Whether reclaim takes a sealed region.
    pub(super) fn is_worth_emptying(&self, number: u32) -> bool {
        let region_bytes = u64::from(self.region_pages) * PAGE_SIZE as u64;
        self.regions[number as usize].pinned_bytes.get() * 8 <= region_bytes * PINNED_EIGHTHS_MAX
    }

    /// Ends the use of the open regions, so that they can be emptied: the index may be full while
    /// no region is.
    pub(super) async fn seal_open_regions(&self, device: &DeviceState<I::Device>) {
        for log in Log::ALL {
            let mut open = device.log(log).writing.lock().await;
            if let Some(open) = open.take() {
                self.seal_region(device, log, open).await;
            }
        }
    }

    /// Empties one region. False when there is none to empty. A region with records that still mean
    /// something stays as it is, without its blocks, while there is no room for them elsewhere;
    /// `at_any_price` they are given up.
    async fn reclaim_oldest(
        self: &Rc<Self>,
        device: &DeviceState<I::Device>,
        at_any_price: bool,
    ) -> bool {
        let mut victim = self.choose_victim(device);
        if victim.is_none() {
            self.seal_open_regions(device).await;
            victim = self.choose_victim(device);
        }
        let Some((number, log)) = victim else {
            return false;
        };
        self.reclaim_region(device, number, log, at_any_price).await;
        true
    }

    /// Empties region `number`, which was taken out of the queue of sealed ones of `log`.
    pub(super) async fn reclaim_region(
        self: &Rc<Self>,
        device: &DeviceState<I::Device>,
        number: u32,
        log: Log,
        at_any_price: bool,
    ) {
        let region = &self.regions[number as usize];
        assert_eq!(
            region.state.get(),
            RegionState::Sealed,
            "region {number} was in the queue of sealed ones"
        );
        region.state.set(RegionState::Reclaiming);
        let evacuated = self.evacuate(device, number, at_any_price).await;
        let mut may_go = evacuated.has_all_records;
        if region.sequence.get() != 0 && region.shards.get() != self.config.shards {
            let sequence = Some(region.sequence.get());
            may_go &= self.ask_siblings(region, sequence, at_any_price).await;
        }
        self.signal.wait_until(|| region.readers.get() == 0).await;
        // What survived must outlive a power cut before its source goes.
        if !may_go || self.flush_device(device).await.is_err() {
            region.state.set(RegionState::Sealed);
            device.sealed[log.index()].borrow_mut().push_back(number);
            return;
        }
        let written = self
            .write_free_pages(device, region.local, region.sequence.get())
            .await;
        if written.is_err() {
            region.state.set(RegionState::Unusable);
            region.is_unread.set(true);
            return;
        }
        if self.config.discard {
            // All but the pages that say that the region is free.
            let bytes = u64::from(self.region_pages - 2) * PAGE_SIZE as u64;
            // A hint: what the device makes of it changes nothing here.
            let _ = device
                .device
                .discard(device.offset(region.local, 1), bytes)
                .await;
        }
        region.state.set(RegionState::Free);
        region.sequence.set(0);
        region.first_stamp.set(0);
        device.free.borrow_mut().push_back(number);
        self.counters.regions_free.add(1);
        self.counters.regions_reclaimed.add(1);
        device.expiry.set(Expiry::Possible);
        self.count_tombstones();
        self.signal.raise();
    }

    /// Where a record in region `number` is.
    pub(super) fn place_in(&self, number: u32) -> Place {
        let region = &self.regions[number as usize];
        (region.shards.get() == self.config.shards).then_some(number)
    }

    /// Asks all other shards to let go of the opening `sequence` of a region, or of any; it was written under another
    /// number of shards, or cannot be read. True when all have.
    pub(super) async fn ask_siblings(
        &self,
        region: &Region,
        sequence: Option<u64>,
        at_any_price: bool,
    ) -> bool {
        let others = (0..self.config.shards).filter(|shard| *shard != self.config.shard.0);
        let answers = others.map(|shard| {
            self.siblings.release(
                corelane_rpc_schema::ShardId(shard),
                Release {
                    device: region.device,
                    region: region.local,
                    sequence,
                    at_any_price,
                },
            )
        });
        join_all(answers)
            .await
            .into_iter()
            .all(|is_released| is_released)
    }

    /// See [`Store::release_region`](super::Store::release_region).
    pub(super) async fn release(self: &Rc<Self>, release: Release) -> bool {
        let Release {
            device,
            region: local,
            sequence,
            at_any_price,
        } = release;
        let Some(device) = self
            .devices
            .get(usize::from(device))
            .and_then(Option::as_ref)
        else {
            return true;
        };
        let number = device.first_region + local;
        let region = &self.regions[number as usize];
        assert_eq!(
            region.state.get(),
            RegionState::Sibling,
            "region {number} is asked for by its owner"
        );
        if region.is_unread.get() {
            // What of ours is in it is not known: it may be read at the next start.
            return at_any_price;
        }
        let known = region.sequence.get();
        if known != sequence.unwrap_or(known) || known == 0 {
            // Never seen, or released before: nothing of it is in the index.
            assert_eq!(
                region.live_blocks.get(),
                0,
                "blocks of region {number} without its sequence"
            );
            return true;
        }
        let evacuated = self.evacuate(device, number, at_any_price).await;
        let is_durable = !evacuated.has_written || self.flush_device(device).await.is_ok();
        self.signal.wait_until(|| region.readers.get() == 0).await;
        // Also of a device that was taken out: it may come back, with what was not moved in this region.
        let is_released = is_durable && evacuated.has_all_records;
        if is_released {
            region.sequence.set(0);
        }
        is_released
    }

    /// Forgets the records in a region that found no room elsewhere.
    fn give_up_records(&self, device: &DeviceState<I::Device>, number: u32) {
        tracing::error!(
            device = %device.path, region = self.regions[number as usize].local,
            "no region is free, and all hold records of freed or pinned objects: those of one are given up. \
             Objects that were freed may come back with the next restart: free them again, or format the device"
        );
        let Some(region) = self.place_in(number) else {
            return;
        };
        let ordinal = device.superblock.ordinal;
        let mut objects = self.objects.borrow_mut();
        for id in objects.recorded_in(ordinal, Some(region)) {
            objects.clear_record(id, ordinal, Some(region));
        }
        device.marks.borrow_mut().retain(|_, mark| {
            // What has a copy in another region is kept there.
            let keep = |places: &mut Places| {
                let was_here = places.has(Some(region));
                places.remove(Some(region));
                !was_here || places.count() > 0
            };
            mark.freed.retain_mut(|freed| keep(&mut freed.places));
            mark.pin = mark
                .pin
                .and_then(|mut pin| keep(&mut pin.places).then_some(pin));
            !mark.freed.is_empty() || mark.pin.is_some()
        });
    }

    /// Takes everything of ours out of a region: into the main log what survives. `at_any_price`
    /// records that find no room there are given up.
    pub(super) async fn evacuate(
        self: &Rc<Self>,
        device: &DeviceState<I::Device>,
        number: u32,
        at_any_price: bool,
    ) -> Evacuated {
        let region = &self.regions[number as usize];
        let records = self.records_of(device, number).await;
        let mut rescue = Rescue::default();
        if let Some(records) = &records {
            self.judge_records(number, records, &mut rescue);
        }
        let is_unreadable =
            records.is_none() || region.live_blocks.get() as usize != rescue.blocks.len();
        if is_unreadable && region.sequence.get() != 0 {
            self.counters.corrupt_summaries.add(1);
        }
        // A walk ends at the first summary that does not check, wherever that is.
        let all_records = records
            .as_ref()
            .filter(|records| !is_unreadable && !records.walked);
        if all_records.is_none() {
            // Memory knows still what was there.
            self.judge_index(number, &mut rescue).await;
        }
        self.find_marks(device, number, all_records, &mut rescue);
        let has_written = !rescue.is_empty();
        let mut has_all_records = self.rescue(device, number, rescue).await;
        if !has_all_records && at_any_price && device.healthy.get() {
            self.give_up_records(device, number);
            has_all_records = true;
        }
        // What a block was freed or found wrong meanwhile is out already; nothing may be left.
        // Pinned blocks stay where they are if their region does.
        let is_kept = || !has_all_records && device.healthy.get() && region.pinned_bytes.get() > 0;
        while region.live_blocks.get() > 0 && !is_kept() {
            self.drop_region(number).await;
        }
        Evacuated {
            has_written,
            has_all_records,
        }
    }

    /// Decides over the blocks that the records name; evicts and gathers.
    fn judge_records(&self, number: u32, records: &RegionRecords, rescue: &mut Rescue) {
        let region = &self.regions[number as usize];
        for summary in records.summaries() {
            for block in summary.blocks() {
                let entry = self.index.borrow().get(block.id);
                let here = |entry: &BlockEntry| {
                    (entry.region, u32::from(entry.first_page)) == (number, block.first_page)
                };
                if let Some(entry) = entry.filter(here) {
                    self.judge(block.id, entry, rescue);
                }
            }
        }
        let place = self.place_in(number);
        for summary in records.summaries() {
            let ids = summary.object_ids();
            let recorded =
                |id: &ObjectId| self.objects.borrow().record_of(*id, region.device) == place;
            rescue.objects.extend(ids.filter(recorded));
        }
    }

    /// The same from the index and the objects, when records cannot be read.
    async fn judge_index(&self, number: u32, rescue: &mut Rescue) {
        let known: std::collections::HashSet<BlockId> =
            rescue.blocks.iter().map(|block| block.id).collect();
        let slots = self.index.borrow().slots();
        for slot in 0..slots {
            if slot % SLOTS_PER_YIELD == SLOTS_PER_YIELD - 1 {
                self.io.yield_now().await;
            }
            let Some((id, entry)) = self.index.borrow().slot(slot) else {
                continue;
            };
            if entry.region == number && !known.contains(&id) {
                self.judge(id, entry, rescue);
            }
        }
        let device = self.regions[number as usize].device;
        rescue.objects = self
            .objects
            .borrow()
            .recorded_in(device, self.place_in(number));
    }

    fn judge(&self, id: BlockId, entry: BlockEntry, rescue: &mut Rescue) {
        let log = self.regions[entry.region as usize].log.get();
        let verdict = if entry.pinned {
            Verdict::Keep {
                frequency: entry.frequency,
            }
        } else {
            self.policy.verdict(log, entry.frequency)
        };
        match verdict {
            Verdict::Keep { frequency } => rescue.blocks.push(Survivor {
                id,
                entry,
                frequency,
            }),
            Verdict::Evict { remember } => {
                self.remove_entry(id);
                self.counters.blocks_evicted.add(1);
                if remember {
                    self.ghost.borrow_mut().remember(hash_of(id));
                }
            }
        }
    }

    /// Tombstones and pins in the region that still mean something. Those that are nowhere else and
    /// mean nothing any more are forgotten.
    fn find_marks(
        &self,
        device: &DeviceState<I::Device>,
        number: u32,
        records: Option<&RegionRecords>,
        rescue: &mut Rescue,
    ) {
        let place = self.place_in(number);
        let oldest = self.oldest_stamp_beside(device, place);
        let mut marks = device.marks.borrow_mut();
        marks.retain(|_, mark| {
            mark.freed
                .retain(|freed| !freed.places.has(place) || oldest < freed.stamp);
            mark.pin = mark
                .pin
                .filter(|pin| !pin.places.has(place) || pin.pinned || oldest < pin.stamp);
            !mark.freed.is_empty() || mark.pin.is_some()
        });
        let Some(records) = records.filter(|_| place.is_none()) else {
            let found = marks.iter().filter(|(_, mark)| mark.is_in(place));
            rescue.marks.extend(found.map(|(object, _)| *object));
            return;
        };
        // In a region of another number of shards. The latest pin counts for all writers, so it is
        // taken along with any of them.
        for summary in records.summaries() {
            let freed_here = summary.tombstones().filter(|found| {
                marks.get(&found.object).is_some_and(|mark| {
                    let mut freed = mark.freed.iter();
                    freed.any(|freed| {
                        (freed.writer, freed.stamp) == (found.writer, found.stamp)
                            && freed.places.has(place)
                    })
                })
            });
            rescue.marks.extend(freed_here.map(|found| found.object));
            let pinned_here = summary.pins().filter(|found| {
                let mark = marks.get(&found.object);
                mark.and_then(|mark| mark.pin)
                    .is_some_and(|pin| pin.places.has(place))
            });
            rescue.marks.extend(pinned_here.map(|found| found.object));
        }
        rescue.marks.sort_unstable();
        rescue.marks.dedup();
    }

    /// The smallest stamp on the device that may be read again, the region with the mark apart:
    /// that one goes with its mark. A mark is needed as long as this is smaller than its stamp.
    pub(super) fn oldest_stamp_beside(&self, device: &DeviceState<I::Device>, place: Place) -> u64 {
        let first = device.first_region as usize;
        let regions = &self.regions[first..first + device.superblock.regions as usize];
        let others = regions
            .iter()
            .enumerate()
            .filter(|(local, _)| Some((first + local) as u32) != place);
        let stamps =
            others.filter_map(
                |(_, region)| match (region.state.get(), region.first_stamp.get()) {
                    // What it holds is not known, and may be readable at the next start.
                    _ if region.is_unread.get() => Some(0),
                    (_, 0) => None,
                    (_, stamp) => Some(stamp),
                },
            );
        stamps.min().unwrap_or(u64::MAX)
    }

    /// Drops the index entries that point into a region.
    async fn drop_region(&self, number: u32) {
        let evicted = &self.counters.blocks_evicted;
        self.drop_where(|entry| entry.region == number, evicted)
            .await;
    }

    /// Drops everything that is on a device which was taken out.
    async fn drop_device(&self, device: &DeviceState<I::Device>) {
        let ordinal = device.superblock.ordinal;
        while device.bytes_live.get() > 0 {
            let is_there =
                |entry: &BlockEntry| self.regions[entry.region as usize].device == ordinal;
            self.drop_where(is_there, &self.counters.blocks_healed)
                .await;
        }
    }

    async fn drop_where(&self, is_dropped: impl Fn(&BlockEntry) -> bool, counter: &Counter) {
        let slots = self.index.borrow().slots();
        for slot in 0..slots {
            if slot % SLOTS_PER_YIELD == SLOTS_PER_YIELD - 1 {
                self.io.yield_now().await;
            }
            // A removal moves later entries into the slot.
            loop {
                let found = self.index.borrow().slot(slot);
                let Some((id, _)) = found.filter(|(_, entry)| is_dropped(entry)) else {
                    break;
                };
                self.remove_entry(id);
                counter.add(1);
            }
        }
    }
}

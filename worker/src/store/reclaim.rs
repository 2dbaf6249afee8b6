//! Making room: the oldest region of a log is emptied and becomes free.
//!
//! The order is the safety of a crash: what survives is written elsewhere and durable before the
//! first page of the emptied region is overwritten with zeroes, which is what makes it free for
//! the next start too. Blocks that did not survive may come back with a restart in between, which
//! is harmless; freed ones do not, because tombstones survive like pinned blocks.

use std::cell::Cell;
use std::rc::Rc;

use corelane_io::{Device, Io, PAGE_SIZE};
use corelane_rpc_schema::{BlockId, ObjectId};
use futures::future::join_all;

use super::Inner;
use super::block::BlockEntry;
use super::device::{DeviceState, REGIONS_RESERVED};
use super::header::Log;
use super::policy::Verdict;
use super::region::{Region, RegionState};
use super::region_records::{Head, RegionRecords};
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
            let before = self.counters.blocks_evicted.get();
            let reclaimed = self.reclaim_oldest(device).await;
            let evicted = self.counters.blocks_evicted.get() != before;
            fruitless.set(if evicted { 0 } else { fruitless.get() + 1 });
            // After so many rounds every unpinned block has lost its frequency and left.
            let rounds = 4 * (device.regions_ours as usize + 1);
            if !reclaimed || fruitless.get() > rounds {
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

    fn is_worth_emptying(&self, number: u32) -> bool {
        let region_bytes = u64::from(self.region_pages) * PAGE_SIZE as u64;
        self.regions[number as usize].pinned_bytes.get() * 8 <= region_bytes * PINNED_EIGHTHS_MAX
    }

    /// Ends the use of the open regions, so that they can be emptied: the index may be full while
    /// no region is.
    async fn seal_open_regions(&self, device: &DeviceState<I::Device>) {
        for log in Log::ALL {
            let mut open = device.log(log).writing.lock().await;
            if let Some(open) = open.take() {
                self.seal_region(device, log, open).await;
            }
        }
    }

    /// Empties one region. False when there is none to empty.
    async fn reclaim_oldest(self: &Rc<Self>, device: &DeviceState<I::Device>) -> bool {
        let mut victim = self.choose_victim(device);
        if victim.is_none() {
            self.seal_open_regions(device).await;
            victim = self.choose_victim(device);
        }
        let Some((number, log)) = victim else {
            return false;
        };
        let region = &self.regions[number as usize];
        assert_eq!(
            region.state.get(),
            RegionState::Sealed,
            "region {number} was in the queue of sealed ones"
        );
        region.state.set(RegionState::Reclaiming);
        self.evacuate(device, number).await;
        if region.sequence.get() != 0 && region.shards.get() != self.config.shards {
            self.ask_siblings(region).await;
        }
        self.signal.wait_until(|| region.readers.get() == 0).await;
        // What survived must outlive a power cut before its source goes.
        if self.flush_device(device).await.is_err() {
            region.state.set(RegionState::Sealed);
            device.sealed[log.index()].borrow_mut().push_back(number);
            return true;
        }
        if self
            .write_bytes(device, device.offset(region.local, 0), &[0; PAGE_SIZE])
            .await
            .is_err()
        {
            region.state.set(RegionState::Unusable);
            return true;
        }
        if self.config.discard {
            let bytes = u64::from(self.region_pages) * PAGE_SIZE as u64;
            // A hint: what the device makes of it changes nothing here.
            let _ = device
                .device
                .discard(device.offset(region.local, 0), bytes)
                .await;
        }
        region.state.set(RegionState::Free);
        region.sequence.set(0);
        region.first_stamp.set(0);
        device.free.borrow_mut().push_back(number);
        self.counters.regions_free.add(1);
        self.counters.regions_reclaimed.add(1);
        self.signal.raise();
        true
    }

    /// Resolves when no other shard needs a region that was written under another number of shards.
    async fn ask_siblings(&self, region: &Region) {
        let others = (0..self.config.shards).filter(|shard| *shard != self.config.shard.0);
        let sequence = region.sequence.get();
        let answers = others.map(|shard| {
            self.siblings.release(
                corelane_rpc_schema::ShardId(shard),
                region.device,
                region.local,
                sequence,
            )
        });
        join_all(answers).await;
    }

    /// See [`Store::release_region`](super::Store::release_region).
    pub(super) async fn release(self: &Rc<Self>, ordinal: u16, local: u32, sequence: u64) {
        let Some(device) = self
            .devices
            .get(usize::from(ordinal))
            .and_then(Option::as_ref)
        else {
            return;
        };
        let number = device.first_region + local;
        let region = &self.regions[number as usize];
        assert_eq!(
            region.state.get(),
            RegionState::Sibling,
            "region {number} is asked for by its owner"
        );
        if region.sequence.get() != sequence {
            // Never seen, or released before: nothing of it is in the index.
            assert_eq!(
                region.live_blocks.get(),
                0,
                "blocks of region {number} without its sequence"
            );
            return;
        }
        if self.evacuate(device, number).await {
            // An error is counted; what was moved is a miss after a power cut then.
            let _ = self.flush_device(device).await;
        }
        self.signal.wait_until(|| region.readers.get() == 0).await;
        region.sequence.set(0);
    }

    /// Takes everything of ours out of a region: into the main log what survives. True when
    /// something was written.
    pub(super) async fn evacuate(
        self: &Rc<Self>,
        device: &DeviceState<I::Device>,
        number: u32,
    ) -> bool {
        let region = &self.regions[number as usize];
        let records = match self.read_head(device, region.local).await {
            Ok(Head::Summary(header)) if header.sequence == region.sequence.get() => self
                .read_records(device, region.local, header)
                .await
                .unwrap_or_default(),
            _ => None,
        };
        let mut rescue = Rescue::default();
        if let Some(records) = &records {
            self.judge_records(number, records, &mut rescue);
        }
        if records.is_none() || region.live_blocks.get() as usize != rescue.blocks.len() {
            // Records that were there are not readable any more; the index knows the blocks still.
            if region.sequence.get() != 0 {
                self.counters.corrupt_summaries.add(1);
            }
            self.judge_index(number, &mut rescue).await;
        }
        self.find_marks(device, number, &mut rescue);
        let written = !rescue.is_empty();
        self.rescue(device, number, rescue).await;
        // What a block was freed or found wrong meanwhile is out already; nothing may be left.
        while region.live_blocks.get() > 0 {
            self.drop_region(number).await;
        }
        written
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
        for summary in records.summaries() {
            let ids = summary.object_ids();
            let recorded =
                |id: &ObjectId| self.objects.borrow().record_of(*id, region.device) == Some(number);
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
        rescue.objects = self.objects.borrow().recorded_in(device, number);
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

    /// Tombstones and pins in the region that still mean something; the others are forgotten.
    fn find_marks(&self, device: &DeviceState<I::Device>, number: u32, rescue: &mut Rescue) {
        let oldest = self.oldest_stamp_beside(device, number);
        device.marks.borrow_mut().retain(|object, mark| {
            mark.freed
                .retain(|freed| freed.region != number || oldest < freed.stamp);
            mark.pin = mark
                .pin
                .filter(|pin| pin.region != number || pin.pinned || oldest < pin.stamp);
            if mark.is_in(number) {
                rescue.marks.push(*object);
            }
            !mark.freed.is_empty() || mark.pin.is_some()
        });
    }

    /// The smallest stamp on the device that may be read again, region `number` apart. A mark is
    /// needed as long as this is smaller than its stamp.
    fn oldest_stamp_beside(&self, device: &DeviceState<I::Device>, number: u32) -> u64 {
        let first = device.first_region as usize;
        let regions = &self.regions[first..first + device.superblock.regions as usize];
        let others = regions
            .iter()
            .enumerate()
            .filter(|(local, _)| first + local != number as usize);
        let stamps =
            others.filter_map(
                |(_, region)| match (region.state.get(), region.first_stamp.get()) {
                    // What it holds is not known, and may be readable at the next start.
                    (RegionState::Unusable, _) => Some(0),
                    (_, 0) => None,
                    (_, stamp) => Some(stamp),
                },
            );
        stamps.min().unwrap_or(u64::MAX)
    }

    /// Drops the index entries that point into a region.
    async fn drop_region(&self, number: u32) {
        self.drop_where(|entry| entry.region == number).await;
    }

    /// Drops everything that is on a device which was taken out.
    async fn drop_device(&self, device: &DeviceState<I::Device>) {
        let ordinal = device.superblock.ordinal;
        while device.bytes_live.get() > 0 {
            self.drop_where(|entry| self.regions[entry.region as usize].device == ordinal)
                .await;
        }
    }

    async fn drop_where(&self, is_dropped: impl Fn(&BlockEntry) -> bool) {
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
                self.counters.blocks_healed.add(1);
            }
        }
    }
}

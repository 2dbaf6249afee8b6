//! One device of the store: its health, its free and sealed regions, its two logs and its marks.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use corelane_io::{Device, Nanos, PAGE_SIZE};
use corelane_rpc_schema::ObjectId;
use futures::lock::Mutex;

use super::DeviceStatus;
use super::block::NewBlock;
use super::header::Log;
use super::shared_health::SharedHealth;
use super::summary::Writer;
use super::superblock::{REGIONS_OFFSET, Superblock};
use super::tombstones::Expiry;
use super::wear::Wear;
use crate::cache::hashing::IdMap;

/// Regions that only reclaim may open: one that survivors fill up, and one for what then remains
/// of them, so that a reclaim always comes to its end and gives a region back.
pub(super) const REGIONS_RESERVED: usize = 2;

/// Fewest regions of a device that one shard can work with: two open, two in reserve, and as many
/// sealed ones for eviction to have a choice.
pub(super) const REGIONS_PER_SHARD_MIN: u32 = 8;

/// Where a record is that blocks rely on: the region of ours that was opened under the present
/// number of shards, or `None`: in regions of another number of shards only.
///
/// The latter are not read by everyone who may need the record once that number comes back. So they
/// are not relied on: when any of them is emptied, the record is written to a region of ours.
pub(super) type Place = Option<u32>;

/// The regions of ours that hold one tombstone or pin: two, so that damage to one of them loses
/// nothing. None: it is in regions of another number of shards only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Places([Place; 2]);

impl Places {
    /// One place.
    pub(super) fn of(place: Place) -> Self {
        Places([place, None])
    }

    /// Whether the record is in `place`.
    pub(super) fn has(&self, place: Place) -> bool {
        match place {
            Some(_) => self.0.contains(&place),
            None => self.0 == [None, None],
        }
    }

    /// How many regions of ours hold it.
    pub(super) fn count(&self) -> usize {
        self.0.iter().flatten().count()
    }

    /// The first of them.
    pub(super) fn first(&self) -> Place {
        self.0.iter().flatten().next().copied()
    }

    /// Notes a copy in `place`; of more than two, the rest is not kept track of.
    pub(super) fn add(&mut self, place: Place) {
        if place.is_some()
            && !self.has(place)
            && let Some(vacant) = self.0.iter_mut().find(|known| known.is_none())
        {
            *vacant = place;
        }
    }

    /// Notes that the record in `place` is gone.
    pub(super) fn remove(&mut self, place: Place) {
        let of_place = |known: &&mut Place| place.is_some() && **known == place;
        if let Some(known) = self.0.iter_mut().find(of_place) {
            *known = None;
        }
    }

    fn merge(&mut self, other: Places) {
        other.0.into_iter().for_each(|place| self.add(place));
    }
}

/// What is known of an object beside its blocks, and which region says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// The latest tombstone of each writer: one, or a few after changes of the number of shards.
    pub(super) freed: Vec<Freed>,
    pub(super) pin: Option<Pin>,
}

/// A tombstone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Freed {
    /// Blocks of the writer's partitions with a smaller stamp are freed.
    pub(super) stamp: u64,
    pub(super) writer: Writer,
    pub(super) places: Places,
}

/// A pin, or its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pin {
    pub(super) stamp: u64,
    pub(super) writer: Writer,
    pub(super) places: Places,
    pub(super) pinned: bool,
}

impl Mark {
    /// Notes that the records in `from` were copied to region `to`.
    pub(super) fn move_from(&mut self, from: Place, to: u32) {
        for places in self.all_places_mut().filter(|places| places.has(from)) {
            places.remove(from);
            places.add(Some(to));
        }
    }

    fn all_places_mut(&mut self) -> impl Iterator<Item = &mut Places> {
        let freed = self.freed.iter_mut().map(|freed| &mut freed.places);
        freed.chain(self.pin.iter_mut().map(|pin| &mut pin.places))
    }

    /// Whether a record is in fewer than two regions of ours.
    pub(super) fn lacks_copy(&self) -> bool {
        let freed = self.freed.iter().map(|freed| freed.places);
        let mut all = freed.chain(self.pin.iter().map(|pin| pin.places));
        all.any(|places| places.count() < 2)
    }

    /// Notes a tombstone, unless a later one of its writer is known. Of one, both places are noted.
    pub(super) fn note_freed(&mut self, new: Freed) {
        match self
            .freed
            .iter_mut()
            .find(|known| known.writer == new.writer)
        {
            Some(known) if known.stamp < new.stamp => *known = new,
            Some(known) if known.stamp == new.stamp => known.places.merge(new.places),
            Some(_) => {}
            None => self.freed.push(new),
        }
    }

    /// Notes a pin or its end, unless a later one is known. Of one, both places are noted.
    pub(super) fn note_pin(&mut self, new: Pin) {
        match &mut self.pin {
            Some(known) if (known.stamp, known.writer) == (new.stamp, new.writer) => {
                known.places.merge(new.places);
            }
            Some(known) if known.stamp > new.stamp => {}
            _ => self.pin = Some(new),
        }
    }

    /// Whether one of the records is in `place`.
    pub(super) fn is_in(&self, place: Place) -> bool {
        self.freed.iter().any(|freed| freed.places.has(place))
            || self.pin.is_some_and(|pin| pin.places.has(place))
    }
}

/// A tombstone or a pin that is to be written.
#[derive(Clone, Debug)]
pub(super) struct MarkOrder {
    pub(super) object: ObjectId,
    /// `None`: a tombstone.
    pub(super) pin: Option<bool>,
    /// When it happened. Blocks that are appended while the mark waits are in later extents.
    pub(super) stamp: u64,
    /// Who wrote it first.
    pub(super) writer: Writer,
    /// Whether it was written; `None` while it waits.
    pub(super) outcome: Rc<Cell<Option<bool>>>,
}

/// What waits for an extent.
#[derive(Debug)]
pub(super) enum Queued {
    Block(Rc<NewBlock>),
    Mark(MarkOrder),
}

/// An open region and how far it is written.
#[derive(Debug)]
pub(super) struct OpenRegion {
    /// Number among all regions.
    pub(super) region: u32,
    /// Where the next extent starts.
    pub(super) next_page: u32,
    /// The summaries written so far, for the footer.
    pub(super) copies: Vec<u8>,
    pub(super) last_stamp: u64,
}

impl OpenRegion {
    /// Pages that an extent and the copy of its summary may take together.
    pub(super) fn pages_left(&self, region_pages: u32) -> u32 {
        let footer = (self.copies.len() / PAGE_SIZE) as u32 + 1;
        region_pages.saturating_sub(self.next_page + footer)
    }
}

/// One of the two logs.
#[derive(Debug, Default)]
pub(super) struct OpenLog {
    /// Held while an extent is written: extents of a region are written one after the other, so
    /// that a walk of its summaries meets no hole before the last of them.
    pub(super) writing: Mutex<Option<OpenRegion>>,
    pub(super) queue: RefCell<VecDeque<(Nanos, Queued)>>,
    pub(super) queued_bytes: Cell<usize>,
    /// Items ever queued, and of them, those that are done with.
    pub(super) queued: Cell<u64>,
    pub(super) done: Cell<u64>,
    /// Items up to this number are written without waiting for an extent to fill.
    pub(super) urgent: Cell<u64>,
    /// Whether a task writes this log.
    pub(super) has_flusher: Cell<bool>,
}

/// One device.
pub(super) struct DeviceState<D: Device> {
    pub(super) device: D,
    pub(super) path: String,
    pub(super) superblock: Superblock,
    /// Whether its superblock said that a first page of a region that does not check is damage.
    pub(super) is_marked: bool,
    /// Sequence and copy of the newest superblock that this shard read or wrote.
    pub(super) superblock_at: Cell<(u64, usize)>,
    /// Smallest sequence of a device that lacks no mark, as its superblock said when it was opened.
    pub(super) marks_at: u64,
    /// What the CRCs of summaries start from.
    pub(super) seed: u32,
    /// Number of its first region among all regions.
    pub(super) first_region: u32,
    pub(super) healthy: Cell<bool>,
    /// Whether it has no operation that takes too long.
    pub(super) answers: Cell<bool>,
    /// Whether it has the memory of reads that it does not answer.
    pub(super) holds_reads: Cell<bool>,
    /// Owners that its copies of the superblock named when it was opened.
    pub(super) owners_before: [Option<u64>; 2],
    pub(super) errors: Cell<u32>,
    /// Regions of this shard.
    pub(super) regions_ours: u32,
    pub(super) free: RefCell<VecDeque<u32>>,
    /// Sealed regions of each log, oldest first.
    pub(super) sealed: [RefCell<VecDeque<u32>>; 2],
    pub(super) logs: [OpenLog; 2],
    pub(super) marks: RefCell<IdMap<ObjectId, Mark>>,
    pub(super) bytes_live: Cell<u64>,
    pub(super) bytes_pinned: Cell<u64>,
    /// Reclaim went round without making room: everything is pinned.
    pub(super) is_full: Cell<bool>,
    /// Whether tombstones can be made to expire.
    pub(super) expiry: Cell<Expiry>,
}

impl<D: Device> DeviceState<D> {
    /// Where page `page` of the region with number `local` on this device is.
    #[inline]
    pub(super) fn offset(&self, local: u32, page: u32) -> u64 {
        REGIONS_OFFSET
            + u64::from(local) * u64::from(self.superblock.region_bytes)
            + u64::from(page) * PAGE_SIZE as u64
    }

    pub(super) fn log(&self, log: Log) -> &OpenLog {
        &self.logs[log.index()]
    }

    /// What an operator wants to know of it.
    pub(super) fn status(&self, wear: &Wear, health: &SharedHealth) -> DeviceStatus {
        let healthy = self.healthy.get();
        let reason = match (healthy, self.answers.get()) {
            (true, true) => String::new(),
            (true, false) => "it does not answer".to_owned(),
            (false, _) => health.reason(self.superblock.ordinal).unwrap_or_default(),
        };
        let region_bytes = u64::from(self.superblock.region_bytes);
        DeviceStatus {
            path: self.path.clone(),
            uuid: self
                .superblock
                .uuid
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            healthy,
            reason,
            bytes: REGIONS_OFFSET + u64::from(self.superblock.regions) * region_bytes,
            bytes_used: self.bytes_live.get(),
            bytes_pinned: self.bytes_pinned.get(),
            bytes_written: self
                .superblock
                .bytes_written
                .saturating_add(wear.bytes(self.superblock.ordinal)),
            regions: self.regions_ours,
            regions_free: self.free.borrow().len() as u32,
        }
    }

    /// Most bytes that may be pinned with a share of `fraction`.
    pub(super) fn pinned_bytes_max(&self, fraction: f64) -> u64 {
        let bytes = u64::from(self.regions_ours) * u64::from(self.superblock.region_bytes);
        (bytes as f64 * fraction) as u64
    }
}

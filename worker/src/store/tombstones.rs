//! The bound of the records of frees and of ends of pins.
//!
//! Such a record is needed as long as a region of its device begins with a smaller stamp. A region
//! that reclaim never takes (full of pinned blocks, or unreadable) would keep all of them for ever. So
//! beyond a first bound the oldest region is emptied if it is such a one: what moves gets a new stamp,
//! and the records that only it needed expire. Any other region goes in its turn, and its records with
//! it; emptying it early would evict what nobody freed. Beyond a second bound the oldest region is
//! emptied whatever it is, and frees wait for that.

use std::rc::Rc;

use corelane_io::Io;

use super::Inner;
use super::device::DeviceState;
use super::region::RegionState;
use super::region_records::Content;

/// Whether tombstones of a device can be made to expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    /// Nothing is known against it.
    Possible,
    /// The oldest region goes in its turn: until the next reclaim there is nothing to do within the second bound.
    LeftToReclaim,
    /// The oldest region could not be emptied: until the next reclaim there is nothing to do.
    Stuck,
}

/// How often the first bound the second one is.
const HARD_BOUND: u64 = 2;

/// Bytes that an object's tombstone takes in memory, about, and on the device at most: two copies
/// of 32 bytes, each repeated in a footer.
const TOMBSTONE_BYTES: u64 = 128;

/// The first bound of a shard on a device; less where a quarter of a region is less, so that all of
/// them fit one region. More would let a shard's memory grow by frees alone; with less, frees would
/// move pinned blocks more often: 131,072 frees move them once.
const TOMBSTONES_BYTES_MAX: u64 = 16 << 20;

impl<I: Io> Inner<I> {
    /// Objects whose tombstones are kept on `device`, those apart that are pinned.
    fn tombstones_on(&self, device: &DeviceState<I::Device>) -> u64 {
        let marks = device.marks.borrow().len();
        marks.saturating_sub(self.pinned.borrow().len()) as u64
    }

    fn tombstones_max(&self, device: &DeviceState<I::Device>) -> u64 {
        let quarter = u64::from(device.superblock.region_bytes) / 4;
        quarter.min(TOMBSTONES_BYTES_MAX) / TOMBSTONE_BYTES
    }

    /// Whether the oldest region of `device` has to go for its tombstones to expire, whatever region it is.
    fn has_too_many_tombstones(&self, device: &DeviceState<I::Device>) -> bool {
        self.tombstones_on(device) > HARD_BOUND * self.tombstones_max(device)
    }

    /// Whether the oldest region of `device` is to be looked at, and perhaps emptied.
    pub(super) fn must_expire_tombstones(&self, device: &DeviceState<I::Device>) -> bool {
        let waits_for_reclaim = match device.expiry.get() {
            Expiry::Possible => false,
            Expiry::LeftToReclaim => !self.has_too_many_tombstones(device),
            Expiry::Stuck => true,
        };
        !waits_for_reclaim && self.tombstones_on(device) > self.tombstones_max(device)
    }

    /// Brings the gauge up to date.
    pub(super) fn count_tombstones(&self) {
        let devices = self.devices.iter().flatten();
        let all = devices.map(|device| self.tombstones_on(device)).sum();
        self.counters.tombstones.set(all);
    }

    /// Waits until there is room for one more, or nothing can make any.
    pub(super) async fn wait_for_tombstones(&self, device: &DeviceState<I::Device>) {
        if !self.has_too_many_tombstones(device) {
            return;
        }
        self.signal.raise();
        self.signal
            .wait_until(|| {
                !self.has_too_many_tombstones(device)
                    || device.expiry.get() == Expiry::Stuck
                    || !device.healthy.get()
                    || self.stopping.get()
            })
            .await;
    }

    /// Empties the region of `device` with the smallest stamp, unless reclaim takes it in its turn, and forgets what
    /// expires by that.
    pub(super) async fn expire_tombstones(self: &Rc<Self>, device: &DeviceState<I::Device>) {
        let oldest = self.oldest_region(device);
        let goes_in_turn = oldest.is_some_and(|number| self.goes_in_turn(number));
        if goes_in_turn && !self.has_too_many_tombstones(device) {
            device.expiry.set(Expiry::LeftToReclaim);
            self.count_tombstones();
            return;
        }
        let is_emptied = match oldest {
            Some(number) => self.empty_oldest(device, number).await,
            None => true,
        };
        let before = device.marks.borrow().len();
        self.forget_expired(device);
        let is_stuck = !is_emptied || oldest.is_none() && device.marks.borrow().len() == before;
        if is_stuck && device.expiry.replace(Expiry::Stuck) != Expiry::Stuck {
            tracing::warn!(
                device = %device.path, tombstones = self.tombstones_on(device),
                "records of freed objects are kept beyond their bound: the oldest region cannot be emptied. They \
                 expire when the shard that owns it has written it again"
            );
        }
        self.count_tombstones();
        self.signal.raise();
    }

    /// Whether reclaim empties the region by itself when room is needed.
    fn goes_in_turn(&self, number: u32) -> bool {
        let region = &self.regions[number as usize];
        match region.state.get() {
            RegionState::Sealed => self.is_worth_emptying(number),
            RegionState::Open | RegionState::Reclaiming => true,
            RegionState::Sibling => !region.is_unread.get() && region.sequence.get() != 0,
            RegionState::Unusable | RegionState::Free => false,
        }
    }

    /// The region of `device` that keeps the most tombstones from expiring.
    fn oldest_region(&self, device: &DeviceState<I::Device>) -> Option<u32> {
        let first = device.first_region;
        let numbers = first..first + device.superblock.regions;
        numbers
            .filter_map(|number| {
                let region = &self.regions[number as usize];
                match (region.is_unread.get(), region.first_stamp.get()) {
                    (true, _) => Some((0, number)),
                    (false, 0) => None,
                    (false, stamp) => Some((stamp, number)),
                }
            })
            .min()
            .map(|(_, number)| number)
    }

    /// False when the region stays as it is.
    async fn empty_oldest(self: &Rc<Self>, device: &DeviceState<I::Device>, number: u32) -> bool {
        let region = &self.regions[number as usize];
        match region.state.get() {
            RegionState::Sealed => {
                let log = region.log.get();
                device.sealed[log.index()]
                    .borrow_mut()
                    .retain(|sealed| *sealed != number);
                self.reclaim_region(device, number, log, false).await;
                region.state.get() != RegionState::Sealed
            }
            RegionState::Open => {
                self.seal_open_regions(device).await;
                true
            }
            RegionState::Unusable => self.take_back(device, number).await,
            // What of ours was in it may have gone since.
            RegionState::Sibling if region.is_unread.get() || region.sequence.get() == 0 => {
                self.look_again(device, number).await
            }
            RegionState::Free | RegionState::Reclaiming | RegionState::Sibling => false,
        }
    }

    /// Makes a region of ours free that could not be read, or written, before: what it may have held is given up.
    async fn take_back(&self, device: &DeviceState<I::Device>, number: u32) -> bool {
        let region = &self.regions[number as usize];
        // A sibling may have been able to read it, and have blocks in it.
        if !self.ask_siblings(region, None, true).await {
            return false;
        }
        let written = self
            .write_free_pages(device, region.local, region.sequence.get())
            .await;
        if written.is_err() || self.flush_device(device).await.is_err() {
            // Each try counts as an error of the device, until it is taken out.
            return false;
        }
        tracing::warn!(
            device = %device.path, region = region.local,
            "a region that could not be read is used again: what was cached in it is fetched again when asked for"
        );
        region.is_unread.set(false);
        region.first_stamp.set(0);
        region.sequence.set(0);
        region.state.set(RegionState::Free);
        device.free.borrow_mut().push_back(number);
        self.counters.regions_free.add(1);
        true
    }

    /// Reads a region of a sibling again that could not be read before, or of which nothing is ours any more. False
    /// where it may still bring something back that was freed.
    async fn look_again(&self, device: &DeviceState<I::Device>, number: u32) -> bool {
        let region = &self.regions[number as usize];
        let Ok(look) = self.look_at_region(device, region.local, None).await else {
            return false;
        };
        let stamp = match look.content {
            Content::Records(records) if self.may_hold_ours(&records) => records.head.stamp,
            Content::Records(_) | Content::Free { .. } | Content::Unknown | Content::OfAnother => 0,
        };
        // What was read must outlive a power cut before tombstones go that the region needed.
        if self.flush_device(device).await.is_err() {
            return false;
        }
        let has_changed = region.is_unread.get() || region.first_stamp.get() != stamp;
        region.is_unread.set(false);
        region.first_stamp.set(stamp);
        has_changed
    }

    /// Forgets tombstones and ends of pins that came before all regions: none holds a block that
    /// they free, and the regions that did were marked as free before.
    pub(super) fn forget_expired(&self, device: &DeviceState<I::Device>) {
        let oldest = self.oldest_stamp_beside(device, None);
        device.marks.borrow_mut().retain(|_, mark| {
            mark.freed.retain(|freed| oldest < freed.stamp);
            mark.pin = mark.pin.filter(|pin| pin.pinned || oldest < pin.stamp);
            !mark.freed.is_empty() || mark.pin.is_some()
        });
    }
}

//! The bound of the records of frees and of ends of pins.
//!
//! Such a record is needed as long as a region of its device begins with a smaller stamp. A region
//! that nobody empties (pinned, or unreadable) would keep all of them for ever. So beyond a bound
//! the oldest region is emptied whatever it holds: what moves gets a new stamp, and the records
//! that only it needed expire.

use std::rc::Rc;

use corelane_io::Io;

use super::Inner;
use super::device::DeviceState;
use super::region::RegionState;
use super::region_records::Content;

/// Bytes that an object's tombstone takes in memory, about, and on the device at most: two copies
/// of 32 bytes, each repeated in a footer.
const TOMBSTONE_BYTES: u64 = 128;

/// Most bytes of tombstones of a shard on a device; less where a quarter of a region is less, so that
/// all of them fit one region. More would let a shard's memory grow by frees alone; with less, frees
/// would move pinned blocks more often: 131,072 frees move them once.
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

    /// Whether the oldest region of `device` has to go for its tombstones to expire.
    pub(super) fn has_too_many_tombstones(&self, device: &DeviceState<I::Device>) -> bool {
        self.tombstones_on(device) > self.tombstones_max(device)
    }

    /// The same, as long as there is hope.
    pub(super) fn must_expire_tombstones(&self, device: &DeviceState<I::Device>) -> bool {
        self.has_too_many_tombstones(device) && !device.is_expiry_stuck.get()
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
                    || device.is_expiry_stuck.get()
                    || !device.healthy.get()
                    || self.stopping.get()
            })
            .await;
    }

    /// Empties the region of `device` with the smallest stamp and forgets what expires by that.
    pub(super) async fn expire_tombstones(self: &Rc<Self>, device: &DeviceState<I::Device>) {
        let oldest = self.oldest_region(device);
        let is_emptied = match oldest {
            Some(number) => self.empty_oldest(device, number).await,
            None => true,
        };
        let before = device.marks.borrow().len();
        self.forget_expired(device);
        let is_stuck = !is_emptied || oldest.is_none() && device.marks.borrow().len() == before;
        if is_stuck && !device.is_expiry_stuck.replace(true) {
            tracing::warn!(
                device = %device.path, tombstones = self.tombstones_on(device),
                "records of freed objects are kept beyond their bound: the oldest region cannot be emptied. They \
                 expire when the shard that owns it has written it again"
            );
        }
        self.count_tombstones();
        self.signal.raise();
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
            RegionState::Sibling if region.is_unread.get() => self.look_again(device, number).await,
            RegionState::Free | RegionState::Reclaiming | RegionState::Sibling => false,
        }
    }

    /// Makes a region of ours free that could not be read, or written, before: what it may have held is given up.
    async fn take_back(&self, device: &DeviceState<I::Device>, number: u32) -> bool {
        let region = &self.regions[number as usize];
        let written = self.write_free_pages(device, region.local, 0).await;
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

    /// Reads a region of a sibling again that could not be read before.
    async fn look_again(&self, device: &DeviceState<I::Device>, number: u32) -> bool {
        let region = &self.regions[number as usize];
        let Ok(look) = self.look_at_region(device, region.local, None).await else {
            return false;
        };
        let stamp = match look.content {
            Content::Records(records) if self.may_hold_ours(&records) => records.head.stamp,
            Content::Records(_) | Content::Free { .. } | Content::Unknown | Content::OfAnother => 0,
        };
        region.is_unread.set(false);
        region.first_stamp.set(stamp);
        true
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

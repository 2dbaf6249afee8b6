//! How much is fetched because somebody asked for it ahead of any reader.
//!
//! The invariant: what is fetched ahead without being paid for by reads is at most one part in
//! [`CACHE_PART`] of this shard's devices, and what is vacant on them: whoever asks for more than that, or for
//! an object longer than the cache, drives nothing out that is read.

use std::cell::Cell;

use crate::store::DeviceStatus;

/// Part of the devices that may be fetched ahead of reads, one part in so many.
const CACHE_PART: u64 = 8;

/// Of what is vacant on the devices, a quarter of all stays for readers, and half of the rest may be filled.
const VACANT_KEPT_PART: u64 = 4;
const VACANT_PART: u64 = 2;

/// Bytes that may be fetched ahead.
#[derive(Debug, Default)]
pub struct PrefetchBudget {
    /// What was granted and is not paid for.
    owed: Cell<u64>,
    /// Bytes that readers had been given at the last look.
    served: Cell<u64>,
    /// Granted, and on its way.
    under_way: Cell<u64>,
}

/// Room on a shard's devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefetchRoom {
    /// Bytes in all.
    pub bytes: u64,
    /// Of them, those that may be filled because nothing is there.
    pub vacant: u64,
}

impl PrefetchRoom {
    /// The room that one of `shards` shards has on `devices`.
    pub fn of(devices: &[DeviceStatus], shards: u16) -> Self {
        let mut room = PrefetchRoom {
            bytes: 0,
            vacant: 0,
        };
        for device in devices.iter().filter(|device| device.healthy) {
            let own = device.bytes / u64::from(shards.max(1));
            let regions = u64::from(device.regions).max(1);
            let kept = regions.div_ceil(VACANT_KEPT_PART);
            let vacant = u64::from(device.regions_free).saturating_sub(kept);
            room.bytes += own;
            room.vacant += own / regions * vacant / VACANT_PART;
        }
        room
    }
}

impl PrefetchBudget {
    /// How many of `wanted` bytes may be fetched now, where `served` were given to readers so far. To be given
    /// back by [`PrefetchBudget::ended`] once they have come.
    pub fn take(&self, wanted: u64, served: u64, room: PrefetchRoom) -> u64 {
        // Readers pay for what is fetched ahead, whichever bytes they read.
        let paid = served.saturating_sub(self.served.replace(served));
        let owed = self.owed.get().saturating_sub(paid);
        let unowed = (room.bytes / CACHE_PART).saturating_sub(owed);
        let vacant = room.vacant.saturating_sub(self.under_way.get());
        let granted = wanted.min(unowed.saturating_add(vacant));
        self.owed.set(owed + granted.saturating_sub(vacant));
        self.under_way.set(self.under_way.get() + granted);
        granted
    }

    /// Notes that of so many granted bytes these were fetched: the others were here, or will not come.
    pub fn ended(&self, granted: u64, fetched: u64) {
        self.under_way.set(self.under_way.get() - granted);
        let unused = granted.saturating_sub(fetched);
        self.owed.set(self.owed.get().saturating_sub(unused));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: PrefetchRoom = PrefetchRoom {
        bytes: 800,
        vacant: 0,
    };

    #[test]
    fn no_object_however_long_is_granted_more_than_its_part_until_readers_pay() {
        let budget = PrefetchBudget::default();
        let mut granted = 0;
        for _ in 0..1000 {
            let some = budget.take(1 << 40, 0, FULL);
            budget.ended(some, some);
            granted += some;
        }
        assert_eq!(granted, 100);
        assert_eq!(budget.take(1 << 40, 30, FULL), 30);
        assert_eq!(budget.take(1 << 40, 30, FULL), 0);
        // What was here already is not paid for.
        budget.ended(30, 10);
        assert_eq!(budget.take(1 << 40, 30, FULL), 20);
        // Reads without end do not add up to a claim.
        assert_eq!(budget.take(1 << 40, 1 << 50, FULL), 100);
    }

    #[test]
    fn what_is_vacant_is_granted_once() {
        let budget = PrefetchBudget::default();
        let room = PrefetchRoom { vacant: 50, ..FULL };
        assert_eq!(budget.take(30, 0, room), 30);
        assert_eq!(budget.take(1 << 40, 0, room), 120);
        assert_eq!(budget.take(1 << 40, 0, room), 0);
        budget.ended(30, 30);
        budget.ended(120, 120);
        assert_eq!(
            budget.take(1 << 40, 0, FULL),
            0,
            "it is not vacant any more"
        );
    }

    #[test]
    fn the_room_of_a_shard_leaves_a_quarter_vacant() {
        let device = |regions_free, healthy| DeviceStatus {
            reason: String::new(),
            path: String::new(),
            uuid: String::new(),
            healthy,
            bytes: 1600,
            bytes_used: 0,
            bytes_pinned: 0,
            bytes_written: 0,
            regions: 8,
            regions_free,
        };
        let room = |devices: &[DeviceStatus]| PrefetchRoom::of(devices, 2);
        let vacant = |regions_free| room(&[device(regions_free, true)]).vacant;
        assert_eq!(
            (vacant(8), vacant(4), vacant(2), vacant(0)),
            (300, 100, 0, 0)
        );
        let both = room(&[device(8, true), device(8, false)]);
        assert_eq!((both.bytes, both.vacant), (800, 300));
        assert_eq!(room(&[]).bytes, 0);
    }
}

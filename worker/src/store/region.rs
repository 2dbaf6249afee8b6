//! A region in memory: what state it is in, who reads it, and the checksums of its pages.

use std::cell::{Cell, Ref, RefCell};

use super::header::Log;
use super::signal::Signal;

/// What may be done with a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RegionState {
    /// Ours, holds nothing.
    Free,
    /// Ours, being appended to.
    Open,
    /// Ours, full (or left by an earlier run); waits to be reclaimed.
    Sealed,
    /// Ours, being emptied.
    Reclaiming,
    /// A sibling's. It may hold blocks of ours, written under another number of shards.
    Sibling,
    /// Ours, but the device failed when it was looked at or written. Not used in this run.
    Unusable,
}

/// One region of one device.
#[derive(Debug)]
pub(super) struct Region {
    /// Readers and checksums first: they are what a hit touches.
    pub(super) readers: Cell<u32>,
    /// Ordinal of the device.
    pub(super) device: u16,
    /// Number on the device.
    pub(super) local: u32,
    checksums: RefCell<Box<[u32]>>,
    pub(super) state: Cell<RegionState>,
    pub(super) log: Cell<Log>,
    /// Of the last opening that is still on the device; 0: none.
    pub(super) sequence: Cell<u64>,
    /// Stamp of the first extent that is still on the device; 0: none.
    pub(super) first_stamp: Cell<u64>,
    /// What it holds is not known: the device failed when it was looked at, or when it was to be
    /// overwritten.
    pub(super) is_unread: Cell<bool>,
    /// Number of shards under which it was written.
    pub(super) shards: Cell<u16>,
    /// Blocks of ours in it, by the index.
    pub(super) live_blocks: Cell<u32>,
    pub(super) live_bytes: Cell<u64>,
    pub(super) pinned_bytes: Cell<u64>,
}

impl Region {
    pub(super) fn new(device: u16, local: u32, state: RegionState) -> Self {
        Region {
            readers: Cell::new(0),
            device,
            local,
            checksums: RefCell::default(),
            state: Cell::new(state),
            log: Cell::new(Log::Small),
            sequence: Cell::new(0),
            first_stamp: Cell::new(0),
            is_unread: Cell::new(false),
            shards: Cell::new(0),
            live_blocks: Cell::new(0),
            live_bytes: Cell::new(0),
            pinned_bytes: Cell::new(0),
        }
    }

    /// Stores the checksums of pages from `first_page` on. The array is taken when the region is
    /// first used and kept: at most 4 bytes a page of the device.
    pub(super) fn set_checksums(
        &self,
        region_pages: u32,
        first_page: u32,
        from: impl Iterator<Item = u32>,
    ) {
        let mut checksums = self.checksums.borrow_mut();
        if checksums.is_empty() {
            *checksums = vec![0; region_pages as usize].into_boxed_slice();
        }
        for (place, checksum) in checksums[first_page as usize..].iter_mut().zip(from) {
            *place = checksum;
        }
    }

    /// The CRC-32C of each page; empty where nothing was ever recorded.
    #[inline]
    pub(super) fn checksums(&self) -> Ref<'_, [u32]> {
        Ref::map(self.checksums.borrow(), |checksums| &**checksums)
    }

    /// Keeps the region from being written until [`Region::release`].
    #[inline]
    pub(super) fn hold(&self) {
        self.readers.set(self.readers.get() + 1);
    }

    /// Ends a [`Region::hold`], and tells a reclaim that waits.
    #[inline]
    pub(super) fn release(&self, signal: &Signal) {
        let readers = self.readers.get() - 1;
        self.readers.set(readers);
        // Only a reclaim waits for readers, and it has said so by the state.
        let waited_for = matches!(
            self.state.get(),
            RegionState::Reclaiming | RegionState::Sibling
        );
        if readers == 0 && waited_for {
            signal.raise();
        }
    }

    /// Whether the region's device bytes may be written by this shard at some time.
    pub(super) fn is_ours(&self) -> bool {
        self.state.get() != RegionState::Sibling
    }
}

/// Keeps a region from being written while a read of it is in flight.
pub(super) struct ReadGuard<'a> {
    region: &'a Region,
    signal: &'a Signal,
}

impl<'a> ReadGuard<'a> {
    pub(super) fn new(region: &'a Region, signal: &'a Signal) -> Self {
        region.hold();
        ReadGuard { region, signal }
    }
}

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        self.region.release(self.signal);
    }
}

//! Index entries come and go here, and nowhere else: every count that follows from them (of
//! regions, devices, objects) changes with them.

use corelane_io::{Io, PAGE_SIZE};
use corelane_rpc_schema::{BlockId, Stripe};

use super::Inner;
use super::block::BlockEntry;
use super::device::DeviceState;
use crate::cache::index::Full;

/// Bytes of the pages that a block of `length` bytes takes.
pub(super) fn page_bytes(length: u32) -> u64 {
    u64::from(length).next_multiple_of(PAGE_SIZE as u64)
}

impl<I: Io> Inner<I> {
    /// The partition of block `id` of an object in blocks of `block_bytes`.
    pub(super) fn partition_of(&self, id: BlockId, block_bytes: u32) -> u16 {
        let stripe = Stripe::of_block(id.index, block_bytes);
        corelane_placement::partition_of(id.object.home, stripe.0, self.partitions)
    }

    /// Ordinal of the device that `partition` lives on.
    pub(super) fn ordinal_of(&self, partition: u16) -> u16 {
        partition % self.devices.len() as u16
    }

    /// Whether `partition` is of this shard.
    pub(super) fn is_ours(&self, partition: u16) -> bool {
        let config = &self.config;
        corelane_placement::shard_of(partition, self.partitions, config.shards) == config.shard.0
    }

    /// The device with ordinal `ordinal`, if it is there.
    #[inline]
    pub(super) fn device(&self, ordinal: u16) -> Option<&DeviceState<I::Device>> {
        self.devices[usize::from(ordinal)].as_ref()
    }

    /// Adds an entry whose object is known. Nothing may be there for `id`.
    pub(super) fn insert_entry(&self, id: BlockId, entry: BlockEntry) -> Result<(), Full> {
        let old = self.index.borrow_mut().insert(id, entry)?;
        assert!(old.is_none(), "{id} is inserted once");
        self.count_in(id, &entry);
        let known = self.objects.borrow_mut().add_block(
            id.object,
            self.regions[entry.region as usize].device,
            entry.length,
        );
        assert!(known, "{id} is of a known object");
        self.counters.blocks_inserted.add(1);
        Ok(())
    }

    /// Counts an entry for its region and device.
    pub(super) fn count_in(&self, id: BlockId, entry: &BlockEntry) {
        let region = &self.regions[entry.region as usize];
        let bytes = page_bytes(entry.length);
        let end = u64::from(entry.first_page) * PAGE_SIZE as u64 + bytes;
        assert!(
            end <= u64::from(self.region_pages) * PAGE_SIZE as u64,
            "{id} lies inside its region"
        );
        region.live_blocks.set(region.live_blocks.get() + 1);
        region.live_bytes.set(region.live_bytes.get() + bytes);
        self.counters.bytes_live.add(bytes);
        let device = self
            .device(region.device)
            .expect("entries point at devices that are there");
        device.bytes_live.set(device.bytes_live.get() + bytes);
        if entry.pinned {
            self.count_pinned(entry, true);
        }
    }

    fn count_out(&self, entry: &BlockEntry) {
        let region = &self.regions[entry.region as usize];
        let bytes = page_bytes(entry.length);
        region.live_blocks.set(region.live_blocks.get() - 1);
        region.live_bytes.set(region.live_bytes.get() - bytes);
        self.counters.bytes_live.take_off(bytes);
        let device = self
            .device(region.device)
            .expect("entries point at devices that are there");
        device.bytes_live.set(device.bytes_live.get() - bytes);
        if entry.pinned {
            self.count_pinned(entry, false);
        }
    }

    fn count_pinned(&self, entry: &BlockEntry, pinned: bool) {
        let region = &self.regions[entry.region as usize];
        let device = self
            .device(region.device)
            .expect("entries point at devices that are there");
        let bytes = page_bytes(entry.length);
        if pinned {
            region.pinned_bytes.set(region.pinned_bytes.get() + bytes);
            device.bytes_pinned.set(device.bytes_pinned.get() + bytes);
            self.counters.bytes_pinned.add(bytes);
        } else {
            region.pinned_bytes.set(region.pinned_bytes.get() - bytes);
            device.bytes_pinned.set(device.bytes_pinned.get() - bytes);
            self.counters.bytes_pinned.take_off(bytes);
        }
    }

    /// Whether the index still has `id` where `entry` says.
    #[inline]
    pub(super) fn is_still_at(&self, id: BlockId, entry: &BlockEntry) -> bool {
        let now = self.index.borrow().get(id);
        now.is_some_and(|now| now.is_at(entry))
    }

    /// Removes the entry of `id`, if it is still where `entry` says.
    pub(super) fn remove_entry_at(&self, id: BlockId, entry: &BlockEntry) -> Option<BlockEntry> {
        if self.is_still_at(id, entry) {
            self.remove_entry(id)
        } else {
            None
        }
    }

    /// Removes the entry of `id`.
    pub(super) fn remove_entry(&self, id: BlockId) -> Option<BlockEntry> {
        let entry = self.index.borrow_mut().remove(id)?;
        self.count_out(&entry);
        let device = self.regions[entry.region as usize].device;
        self.objects
            .borrow_mut()
            .remove_block(id.object, device, entry.length, &self.counters);
        Some(entry)
    }

    /// Lets the entry of `id` point at another place of the same device, with another frequency.
    pub(super) fn move_entry(&self, id: BlockId, region: u32, first_page: u16, frequency: u8) {
        let old = self
            .index
            .borrow()
            .get(id)
            .expect("only entries that are there move");
        let (from, to) = (
            &self.regions[old.region as usize],
            &self.regions[region as usize],
        );
        assert_eq!(from.device, to.device, "{id} stays on its device");
        self.count_out(&old);
        let new = BlockEntry {
            region,
            first_page,
            frequency,
            ..old
        };
        let replaced = self.index.borrow_mut().insert(id, new);
        assert_eq!(replaced, Ok(Some(old)), "{id} is replaced");
        self.count_in(id, &new);
    }

    /// Pins or unpins the entry of `id`, if there is one.
    pub(super) fn pin_entry(&self, id: BlockId, pinned: bool) {
        let Some(entry) = self.index.borrow().get(id) else {
            return;
        };
        if entry.pinned != pinned {
            self.index.borrow_mut().set_pinned(id, pinned);
            self.count_pinned(&entry, pinned);
        }
    }
}

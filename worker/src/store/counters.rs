//! What a store counts. Plain cells: one core writes and reads them.

use std::cell::Cell;

/// A number that only its own core touches.
#[derive(Debug, Default)]
pub struct Counter(Cell<u64>);

impl Counter {
    /// The value.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.get()
    }

    /// Adds one.
    #[inline]
    pub fn increase(&self) {
        self.add(1);
    }

    /// Adds `amount`.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.set(self.0.get().wrapping_add(amount));
    }

    /// Replaces the value of a gauge.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.set(value);
    }

    /// Takes `amount` off a gauge.
    ///
    /// # Panics
    /// If the gauge holds less.
    #[inline]
    pub fn take_off(&self, amount: u64) {
        let left = self.0.get().checked_sub(amount);
        self.0.set(left.expect("a gauge never goes below zero"));
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Everything that one shard's store counts; bytes, unless the name says otherwise.
        #[derive(Debug, Default)]
        pub struct StoreCounters {
            $($(#[$doc])* pub $name: Counter,)*
        }

        impl StoreCounters {
            /// Names and values, in the order of declaration.
            pub fn values(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)*]
            }
        }
    };
}

counters! {
    /// Pages of blocks that `append` took.
    bytes_admitted,
    /// Everything written to the devices: pages, summaries, footers, state.
    bytes_written_device,
    /// Of them, pages of blocks that survived a reclaim.
    bytes_rewritten,
    /// Pages read by `read`.
    bytes_read,
    /// Blocks that became readable.
    blocks_inserted,
    /// Blocks that reclaim let go: not asked for often enough, or no room for them.
    blocks_evicted,
    /// Blocks that reclaim moved.
    blocks_survived,
    /// Blocks that `free` let go.
    blocks_freed,
    /// Blocks dropped because their bytes or records were wrong or unreadable.
    blocks_healed,
    /// Pages that did not match their checksum.
    corrupt_pages,
    /// Summaries or footers that did not check where they should have.
    corrupt_summaries,
    /// Regions of which neither a summary nor the footer could be read when the store was opened.
    regions_damaged,
    /// Copies of superblocks and slots of state that did not check.
    corrupt_copies,
    /// Operations that a device failed.
    device_errors,
    /// Operations that a device did not answer in time.
    device_timeouts,
    /// Times that a device stopped answering.
    device_stalls,
    /// Devices taken out.
    devices_failed,
    /// Blocks not kept: too much waited.
    not_kept_busy,
    /// Blocks not kept: no region.
    not_kept_no_room,
    /// Blocks not kept: the index was full when they were written.
    not_kept_index_full,
    /// Extents written.
    flushes,
    /// Regions reclaimed.
    regions_reclaimed,
    /// Regions of this shard that are free now.
    regions_free,
    /// Pages of blocks in the index.
    bytes_live,
    /// Of them, pinned.
    bytes_pinned,
    /// Bytes that wait to be written.
    bytes_in_flight,
    /// Bytes that the scrubber read and found right.
    bytes_scrubbed,
    /// Times that the scrubber went over everything.
    scrub_rounds,
    /// Estimated bytes of object metadata in memory.
    object_bytes,
    /// Objects of which there is a record.
    objects,
    /// Objects with records of frees and of ends of pins that may still be needed, device by device.
    tombstones,
}

//! Which blocks are on a device, and where: one entry of 32 bytes a block.
//!
//! An open-addressing table of fixed size: linear probing from a fast-range of the hash, deletion
//! by shifting the run back, so that there are no tombstones to sweep and a probe ends at the
//! first vacant slot. Its memory is taken at start and never grows.
//!
//! The invariant: every occupied slot is reachable from its ideal slot over occupied slots only.
//! The table knows nothing of regions or devices; it keeps the numbers that it is given.

use corelane_io::hint::{advise_huge_pages, prefetch};
use corelane_rpc_schema::{BlockId, ObjectId};

use crate::mount::MountId;

/// Slots a hundred blocks of capacity: a load of at most 0.72, where a linear probe for a present
/// key looks at 2.3 slots and for an absent one at 6.9 on average (Knuth, vol. 3, 6.4), and where
/// an entry costs 44.4 bytes, vacant slots included.
const SLOTS_PER_HUNDRED: usize = 139;

/// Largest value of an entry's frequency; further touches change nothing.
pub const FREQUENCY_MAX: u8 = 3;

/// Longest block that an entry can describe.
const LENGTH_MAX: u32 = 1 << 24;

const LENGTH_MASK: u32 = LENGTH_MAX - 1;
const FREQUENCY_SHIFT: u32 = 24;
const FREQUENCY_MASK: u32 = 0b11 << FREQUENCY_SHIFT;
const PINNED: u32 = 1 << 26;
const OCCUPIED: u32 = 1 << 27;

/// What the index says of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Number of the region among those of all devices.
    pub region: u32,
    /// First page of the block in the region.
    pub first_page: u16,
    /// The mount that the object belongs to.
    pub mount: MountId,
    /// Bytes, 1 to 16 MiB.
    pub length: u32,
    /// Touches since it was inserted, moved or given a chance, up to [`FREQUENCY_MAX`].
    pub frequency: u8,
    /// Whether it is exempt from eviction.
    pub pinned: bool,
}

impl Entry {
    /// Whether both are of the same place.
    #[inline]
    pub fn is_at(&self, other: &Entry) -> bool {
        (self.region, self.first_page) == (other.region, other.first_page)
    }

    fn pack(&self) -> u32 {
        assert!(
            (1..=LENGTH_MAX).contains(&self.length),
            "length {} of a block",
            self.length
        );
        let frequency = u32::from(self.frequency.min(FREQUENCY_MAX)) << FREQUENCY_SHIFT;
        OCCUPIED | (self.length - 1) | frequency | if self.pinned { PINNED } else { 0 }
    }
}

/// Where [`Index::locate`] found a block. It may have moved when the table has changed.
#[derive(Clone, Copy, Debug)]
pub struct Place(usize);

/// The table is full; nothing was inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Aligned to its size, so that a probe of one slot touches one cache line.
#[repr(C, align(32))]
#[derive(Clone, Copy, Default)]
struct Slot {
    home: u64,
    version: u64,
    block: u32,
    region: u32,
    first_page: u16,
    mount: u16,
    packed: u32,
}

const _: () = assert!(size_of::<Slot>() == 32);

impl Slot {
    #[inline]
    fn is_occupied(&self) -> bool {
        self.packed & OCCUPIED != 0
    }

    #[inline]
    fn id(&self) -> BlockId {
        BlockId {
            object: ObjectId {
                home: self.home,
                version: self.version,
            },
            index: self.block,
        }
    }

    #[inline]
    fn holds(&self, id: BlockId) -> bool {
        self.is_occupied()
            && self.home == id.object.home
            && self.version == id.object.version
            && self.block == id.index
    }

    #[inline]
    fn touch(&mut self) {
        if self.packed & FREQUENCY_MASK != FREQUENCY_MASK {
            self.packed += 1 << FREQUENCY_SHIFT;
        }
    }

    #[inline]
    fn entry(&self) -> Entry {
        Entry {
            region: self.region,
            first_page: self.first_page,
            mount: MountId(self.mount),
            length: (self.packed & LENGTH_MASK) + 1,
            frequency: ((self.packed & FREQUENCY_MASK) >> FREQUENCY_SHIFT) as u8,
            pinned: self.packed & PINNED != 0,
        }
    }
}

/// Mixes all bits of a block id into the high half of the result, which selects the slot.
#[inline]
pub(crate) fn hash_of(id: BlockId) -> u64 {
    let folded = id.object.home ^ id.object.version.rotate_left(29);
    let keyed = folded.wrapping_add(u64::from(id.index).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let product = u128::from(keyed ^ 0xa076_1d64_78bd_642f) * u128::from(0xe703_7ed1_a0b4_28dbu64);
    (product >> 64) as u64 ^ product as u64
}

/// The table.
pub struct Index {
    slots: Box<[Slot]>,
    length: usize,
    capacity: usize,
}

impl Index {
    /// An empty table for at most `capacity` blocks; all memory is taken now.
    ///
    /// # Panics
    /// If `capacity` is zero or beyond 2^31.
    pub fn new(capacity: usize) -> Self {
        assert!(
            (1..=1 << 31).contains(&capacity),
            "index capacity {capacity}"
        );
        let mut slots = Vec::with_capacity(Self::slots_for(capacity));
        advise_huge_pages(slots.spare_capacity_mut());
        slots.resize(Self::slots_for(capacity), Slot::default());
        Index {
            slots: slots.into_boxed_slice(),
            length: 0,
            capacity,
        }
    }

    fn slots_for(capacity: usize) -> usize {
        (capacity * SLOTS_PER_HUNDRED)
            .div_ceil(100)
            .max(capacity + 1)
    }

    /// Bytes that a table for `capacity` blocks takes.
    pub fn bytes_for(capacity: usize) -> usize {
        Self::slots_for(capacity) * size_of::<Slot>()
    }

    /// Blocks in the table.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Most blocks that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Memory a block when the table is full, vacant slots included.
    pub fn bytes_per_block(&self) -> f64 {
        (self.slots.len() * size_of::<Slot>()) as f64 / self.capacity as f64
    }

    #[inline]
    fn ideal(&self, id: BlockId) -> usize {
        // Fast range (Lemire 2019): the high bits of the product are uniform over the slots.
        ((u128::from(hash_of(id)) * self.slots.len() as u128) >> 64) as usize
    }

    #[inline]
    fn next(&self, slot: usize) -> usize {
        if slot + 1 == self.slots.len() {
            0
        } else {
            slot + 1
        }
    }

    #[inline]
    fn find(&self, id: BlockId) -> Option<usize> {
        let mut at = self.ideal(id);
        loop {
            let slot = &self.slots[at];
            if slot.holds(id) {
                return Some(at);
            }
            if !slot.is_occupied() {
                return None;
            }
            at = self.next(at);
        }
    }

    /// Brings what a look at `id` needs closer to the processor.
    #[inline]
    pub fn prefetch(&self, id: BlockId) {
        prefetch(&self.slots[self.ideal(id)]);
    }

    /// What is known of `id`, and where.
    #[inline]
    pub fn locate(&self, id: BlockId) -> Option<(Place, Entry)> {
        self.find(id).map(|at| (Place(at), self.slots[at].entry()))
    }

    /// As [`Index::touch`], looking first at `place`. Says whether `id` still is in the region and page
    /// of `entry`; if not, nothing is counted.
    #[inline]
    pub fn touch_at(&mut self, place: Place, id: BlockId, entry: &Entry) -> bool {
        let at = match self.slots.get(place.0) {
            Some(slot) if slot.holds(id) => place.0,
            _ => match self.find_again(id) {
                Some(at) => at,
                None => return false,
            },
        };
        let slot = &mut self.slots[at];
        let is_at = (slot.region, slot.first_page) == (entry.region, entry.first_page);
        if is_at {
            slot.touch();
        }
        is_at
    }

    #[cold]
    fn find_again(&self, id: BlockId) -> Option<usize> {
        self.find(id)
    }

    /// What is known of `id`.
    #[inline]
    pub fn get(&self, id: BlockId) -> Option<Entry> {
        self.find(id).map(|at| self.slots[at].entry())
    }

    /// Inserts or replaces `id`; gives the entry that was there.
    ///
    /// # Errors
    /// [`Full`] when `id` is new and the capacity is reached.
    pub fn insert(&mut self, id: BlockId, entry: Entry) -> Result<Option<Entry>, Full> {
        let filled = Slot {
            home: id.object.home,
            version: id.object.version,
            block: id.index,
            region: entry.region,
            first_page: entry.first_page,
            mount: entry.mount.0,
            packed: entry.pack(),
        };
        let mut at = self.ideal(id);
        while self.slots[at].is_occupied() {
            if self.slots[at].holds(id) {
                let old = self.slots[at].entry();
                self.slots[at] = filled;
                return Ok(Some(old));
            }
            at = self.next(at);
        }
        if self.length == self.capacity {
            return Err(Full);
        }
        self.slots[at] = filled;
        self.length += 1;
        Ok(None)
    }

    /// Removes `id`; gives its entry.
    pub fn remove(&mut self, id: BlockId) -> Option<Entry> {
        let mut hole = self.find(id)?;
        let removed = self.slots[hole].entry();
        let mut at = self.next(hole);
        while self.slots[at].is_occupied() {
            let ideal = self.ideal(self.slots[at].id());
            // The entry may move back if its ideal slot is not between the hole and itself.
            if self.distance(ideal, at) >= self.distance(hole, at) {
                self.slots[hole] = self.slots[at];
                hole = at;
            }
            at = self.next(at);
        }
        self.slots[hole] = Slot::default();
        self.length -= 1;
        Some(removed)
    }

    /// Slots from `from` forward to `to`.
    #[inline]
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from {
            to - from
        } else {
            to + self.slots.len() - from
        }
    }

    /// Counts one more use of `id`, up to [`FREQUENCY_MAX`].
    #[inline]
    pub fn touch(&mut self, id: BlockId) {
        if let Some(at) = self.find(id) {
            self.slots[at].touch();
        }
    }

    /// Exempts `id` from eviction or ends that. False when it is not there.
    pub fn set_pinned(&mut self, id: BlockId, pinned: bool) -> bool {
        let Some(at) = self.find(id) else {
            return false;
        };
        let packed = self.slots[at].packed & !PINNED;
        self.slots[at].packed = packed | if pinned { PINNED } else { 0 };
        true
    }

    /// Sets the mount of the block in slot `slot` of [`Index::slot`], if there is one.
    pub fn set_mount_at(&mut self, slot: usize, mount: MountId) {
        if self.slots[slot].is_occupied() {
            self.slots[slot].mount = mount.0;
        }
    }

    /// Number of slots, for walking the table in steps that yield.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The block in slot `slot`. A removal may move blocks to lower slots (and around the end).
    pub fn slot(&self, slot: usize) -> Option<(BlockId, Entry)> {
        let slot = &self.slots[slot];
        slot.is_occupied().then(|| (slot.id(), slot.entry()))
    }

    /// All blocks, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (BlockId, Entry)> + '_ {
        self.slots
            .iter()
            .filter(|slot| slot.is_occupied())
            .map(|slot| (slot.id(), slot.entry()))
    }
}

impl std::fmt::Debug for Index {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Index")
            .field("length", &self.length)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn id(key: u16) -> BlockId {
        // Few homes and versions, so that ids differ in each of the three parts.
        let key = u64::from(key);
        BlockId {
            object: ObjectId {
                home: key % 7,
                version: key / 7 % 5,
            },
            index: (key / 35) as u32,
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u16, u32, u16),
        Remove(u16),
        Touch(u16),
        Pin(u16, bool),
    }

    fn op() -> impl Strategy<Value = Op> {
        let key = 0..200u16;
        prop_oneof![
            4 => (key.clone(), 1..=LENGTH_MAX, any::<u16>())
                .prop_map(|(key, length, page)| Op::Insert(key, length, page)),
            3 => key.clone().prop_map(Op::Remove),
            2 => key.clone().prop_map(Op::Touch),
            1 => (key, any::<bool>()).prop_map(|(key, pinned)| Op::Pin(key, pinned)),
        ]
    }

    proptest! {
        #[test]
        fn it_answers_as_a_map_does(ops in prop::collection::vec(op(), 1..600), capacity in 1..120usize) {
            let mut index = Index::new(capacity);
            let mut oracle: HashMap<BlockId, Entry> = HashMap::new();
            for op in ops {
                match op {
                    Op::Insert(key, length, first_page) => {
                        let entry = Entry {
                            region: length ^ 5, first_page, mount: MountId(first_page ^ 9), length,
                            frequency: (first_page % 4) as u8, pinned: first_page % 3 == 0,
                        };
                        let fits = oracle.len() < capacity || oracle.contains_key(&id(key));
                        match index.insert(id(key), entry) {
                            Ok(old) => {
                                prop_assert!(fits);
                                prop_assert_eq!(old, oracle.insert(id(key), entry));
                            }
                            Err(Full) => prop_assert!(!fits),
                        }
                    }
                    Op::Remove(key) => prop_assert_eq!(index.remove(id(key)), oracle.remove(&id(key))),
                    Op::Touch(key) => {
                        // By a place that is right, one of another block, or without one.
                        let place = index.locate(id(key ^ (key & 1))).map(|(place, _)| place);
                        match (place, index.get(id(key))) {
                            (Some(place), Some(entry)) => {
                                let elsewhere = Entry { region: entry.region ^ 1, ..entry };
                                prop_assert!(!index.touch_at(place, id(key), &elsewhere));
                                prop_assert!(index.touch_at(place, id(key), &entry));
                            }
                            (Some(place), None) => {
                                let (_, entry) = index.slot(place.0).expect("it was located");
                                prop_assert!(!index.touch_at(place, id(key), &entry));
                            }
                            (None, _) => index.touch(id(key)),
                        }
                        if let Some(entry) = oracle.get_mut(&id(key)) {
                            entry.frequency = (entry.frequency + 1).min(FREQUENCY_MAX);
                        }
                    }
                    Op::Pin(key, pinned) => {
                        let known = index.set_pinned(id(key), pinned);
                        prop_assert_eq!(known, oracle.contains_key(&id(key)));
                        if let Some(entry) = oracle.get_mut(&id(key)) {
                            entry.pinned = pinned;
                        }
                    }
                }
                prop_assert_eq!(index.len(), oracle.len());
            }
            for key in 0..200 {
                prop_assert_eq!(index.get(id(key)), oracle.get(&id(key)).copied());
            }
            prop_assert_eq!(index.iter().collect::<HashMap<_, _>>(), oracle);
        }
    }

    #[test]
    fn a_block_costs_at_most_48_bytes_at_a_million_blocks() {
        let index = Index::new(1_000_000);
        assert!(
            index.bytes_per_block() <= 48.0,
            "{}",
            index.bytes_per_block()
        );
        assert_eq!(
            Index::bytes_for(1_000_000) as f64,
            index.bytes_per_block() * 1e6
        );
    }

    #[test]
    fn probes_stay_short_when_the_table_is_full() {
        let mut index = Index::new(100_000);
        let entry = Entry {
            region: 0,
            first_page: 0,
            mount: MountId(0),
            length: 1,
            frequency: 0,
            pinned: false,
        };
        let object = ObjectId::new("key", "version", 1 << 30, 1 << 20);
        for block in 0..100_000 {
            assert_eq!(
                index.insert(
                    BlockId {
                        object,
                        index: block
                    },
                    entry
                ),
                Ok(None)
            );
        }
        let probes: usize = (0..100_000)
            .map(|block| {
                let id = BlockId {
                    object,
                    index: block,
                };
                index.distance(index.ideal(id), index.find(id).expect("inserted")) + 1
            })
            .sum();
        assert!(probes < 300_000, "{probes} probes for 100,000 present keys");
    }
}

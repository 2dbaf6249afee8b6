//! The DRAM tier: frames of registered memory with the checksums of their pages.
//!
//! A hit is one probe: the slot holds everything that the answer needs (mount for the access
//! check, length, checksums, memory), and a frame that is not here costs a look at the table alone,
//! which has a piece of each key's hash. The invariant: a frame in the tier holds bytes of exactly
//! the object version in its key, and a page is sealed only after its checksum was verified or
//! taken on arrival. The tier never does I/O.

use std::cell::Cell;
use std::ops::Range;

use corelane_io::hint::prefetch;
use corelane_io::{Frame, FramePool, PAGE_SIZE};
use corelane_rpc_schema::ObjectId;

use super::policy::{Policy, Slot};
use crate::mount::MountId;

/// Bytes in a frame of the tier, the unit of fills.
pub const FRAME_BYTES: usize = 64 << 10;

/// Pages in a frame of the tier.
pub const FRAME_PAGES: usize = FRAME_BYTES / PAGE_SIZE;

/// Which frame: an object's aligned run of [`FRAME_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameKey {
    /// The object.
    pub object: ObjectId,
    /// Offset in the object divided by [`FRAME_BYTES`].
    pub number: u64,
}

impl FrameKey {
    /// The frame that holds byte `offset` of `object`.
    #[inline]
    pub fn of_offset(object: ObjectId, offset: u64) -> Self {
        FrameKey {
            object,
            number: offset / FRAME_BYTES as u64,
        }
    }

    #[inline]
    fn hash(self) -> u64 {
        // Ids are hashes already; the multiplication spreads the frame number over all bits.
        let mixed = (self.object.version ^ self.number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 29)
    }
}

/// A frame of the tier and what is known of it.
///
/// Two cache lines: in the first what every hit looks at, and the checksums of the first pages.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct CachedFrame {
    /// Which one.
    pub key: FrameKey,
    /// The memory.
    pub frame: Frame,
    /// Bytes of the object in the frame: [`FRAME_BYTES`], or less in the object's last one.
    pub length: u32,
    /// Whose object it is, for the access check.
    pub mount: MountId,
    /// Set in the first frame of a block that was fetched ahead, until a read hits it.
    pub is_ahead: Cell<bool>,
    /// CRC-32C of each sealed page.
    pub checksums: [u32; FRAME_PAGES],
}

/// Victims that one search for memory may cost. Victims that are being sent free no memory yet; a
/// search that goes on would empty the cache for nothing.
const VICTIMS_MAX: usize = 8;

/// No slot.
const EMPTY: Slot = Slot::MAX;

/// An entry of the table: a slot, and the half of its key's hash that does not place it. Keys that
/// share it are told apart by the slot.
#[derive(Clone, Copy)]
struct Link {
    slot: Slot,
    tag: u32,
}

impl Link {
    const VACANT: Link = Link {
        slot: EMPTY,
        tag: 0,
    };

    #[inline]
    fn is_vacant(self) -> bool {
        self.slot == EMPTY
    }
}

/// Where [`FrameTier::expect`] saw a frame. It may be gone by the time it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Expected(Slot);

impl Expected {
    /// Whether the frame was not there. What relies on it may read bytes again that came into the tier
    /// since, and nothing worse.
    #[inline]
    pub fn is_absent(self) -> bool {
        self.0 == EMPTY
    }
}

/// A fixed number of frames, found by key.
pub struct FrameTier {
    pool: FramePool,
    /// Open addressing with linear probing; at most half full, so probes are short.
    table: Box<[Link]>,
    slots: Box<[Option<CachedFrame>]>,
    free: Vec<Slot>,
    policy: Box<dyn Policy>,
    evictions: u64,
}

impl FrameTier {
    /// A tier on `pool`, whose frames have [`FRAME_PAGES`] pages, under `policy`.
    ///
    /// # Panics
    /// If the pool's frames have another size.
    pub fn new(pool: FramePool, policy: Box<dyn Policy>) -> Self {
        assert_eq!(pool.frame_bytes(), FRAME_BYTES, "frames of the tier");
        let slots = pool.frames();
        FrameTier {
            table: vec![Link::VACANT; (slots * 2).next_power_of_two()].into_boxed_slice(),
            slots: (0..slots).map(|_| None).collect(),
            free: (0..slots as Slot).rev().collect(),
            policy,
            pool,
            evictions: 0,
        }
    }

    /// The memory behind the tier.
    pub fn pool(&self) -> &FramePool {
        &self.pool
    }

    /// Frames that the tier holds.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Slots for frames, in use or not.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Frames that were taken out to make room, since the start.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    #[cold]
    fn find_unexpected(&self, key: FrameKey) -> Option<Slot> {
        self.find(key).map(|(_, slot)| slot)
    }

    /// Where a key with this hash belongs in the table.
    #[inline]
    fn place_of(&self, hash: u64) -> usize {
        hash as usize & (self.table.len() - 1)
    }

    #[inline]
    fn find(&self, key: FrameKey) -> Option<(usize, Slot)> {
        let hash = key.hash();
        let mut place = self.place_of(hash);
        loop {
            let link = self.table[place];
            if link.is_vacant() {
                return None;
            }
            if link.tag == tag_of(hash)
                && let Some(Some(cached)) = self.slots.get(link.slot as usize)
                && cached.key == key
            {
                return Some((place, link.slot));
            }
            place = (place + 1) & (self.table.len() - 1);
        }
    }

    /// Says where `key` seems to be and brings that closer to the processor, for
    /// [`FrameTier::hit_expected`].
    #[inline]
    pub fn expect(&self, key: FrameKey) -> Expected {
        let hash = key.hash();
        let mut place = self.place_of(hash);
        loop {
            let link = self.table[place];
            if link.is_vacant() {
                return Expected(EMPTY);
            }
            if link.tag == tag_of(hash) {
                if let Some(slot) = self.slots.get(link.slot as usize) {
                    prefetch(slot);
                }
                return Expected(link.slot);
            }
            place = (place + 1) & (self.table.len() - 1);
        }
    }

    /// The frame `key`, counted as read.
    pub fn hit(&mut self, key: FrameKey) -> Option<&CachedFrame> {
        let (_, slot) = self.find(key)?;
        self.policy.touched(slot);
        self.slots[slot as usize].as_ref()
    }

    /// As [`FrameTier::hit`]; looks first where the frame was expected.
    #[inline]
    pub fn hit_expected(&mut self, key: FrameKey, expected: Expected) -> Option<&CachedFrame> {
        let slot = match self.slots.get(expected.0 as usize) {
            Some(Some(cached)) if cached.key == key => {
                self.policy.touched(expected.0);
                return Some(cached);
            }
            _ => self.find_unexpected(key)?,
        };
        self.policy.touched(slot);
        self.slots[slot as usize].as_ref()
    }

    /// The frame `key`, without counting.
    #[inline]
    pub fn peek(&self, key: FrameKey) -> Option<&CachedFrame> {
        let (_, slot) = self.find(key)?;
        self.slots[slot as usize].as_ref()
    }

    /// The frame `key`, to note checksums of further pages.
    pub fn peek_mut(&mut self, key: FrameKey) -> Option<&mut CachedFrame> {
        let (_, slot) = self.find(key)?;
        self.slots[slot as usize].as_mut()
    }

    /// Whether a frame just read from the device is worth keeping.
    pub fn admits(&mut self, key: FrameKey) -> bool {
        self.policy.admits(key.hash())
    }

    /// Memory for a frame, at the price of cached ones where none is free. `None` when all memory
    /// is held by reads, fills and flushes under way.
    pub fn take(&mut self) -> Option<Frame> {
        for _ in 0..VICTIMS_MAX {
            if let Some(frame) = self.pool.take() {
                return Some(frame);
            }
            let slot = self.policy.victim()?;
            self.evict(slot);
        }
        self.pool.take()
    }

    /// Empties a slot that the policy has given up.
    fn evict(&mut self, slot: Slot) {
        let victim = self.slots[slot as usize].as_ref();
        let key = victim.expect("a victim's slot is full").key;
        self.unlink(key);
        self.evictions += 1;
    }

    /// Puts a frame in, in place of an older one with the same key.
    pub fn insert(&mut self, cached: CachedFrame) {
        let key = cached.key;
        self.remove(key);
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                // Fewer memory frames than slots are free: frames outside the tier (fills, sends)
                // took the difference.
                let Some(slot) = self.policy.victim() else {
                    return;
                };
                self.evict(slot);
                self.free.pop().expect("unlink frees a slot")
            }
        };
        self.slots[slot as usize] = Some(cached);
        let hash = key.hash();
        let mut place = self.place_of(hash);
        while !self.table[place].is_vacant() {
            place = (place + 1) & (self.table.len() - 1);
        }
        self.table[place] = Link {
            slot,
            tag: tag_of(hash),
        };
        self.policy.inserted(slot, hash);
    }

    /// Takes the frame `key` out.
    pub fn remove(&mut self, key: FrameKey) {
        if let Some((_, slot)) = self.find(key) {
            self.policy.removed(slot);
            self.unlink(key);
        }
    }

    /// Takes out every frame of `object`. Looks at all slots: an object may have far more frames
    /// than the tier.
    pub fn remove_object(&mut self, object: ObjectId) {
        for slot in 0..self.slots.len() {
            if let Some(cached) = &self.slots[slot]
                && cached.key.object == object
            {
                let key = cached.key;
                self.remove(key);
            }
        }
    }

    /// Sets the mount of the frames in `slots` by their objects. Frames for which `mount_of` says nothing go:
    /// the slot of the mount that they name may be given to another one, with other readers.
    pub fn remap_mounts(
        &mut self,
        slots: Range<usize>,
        mut mount_of: impl FnMut(ObjectId) -> Option<MountId>,
    ) {
        for slot in slots {
            let Some(cached) = &mut self.slots[slot] else {
                continue;
            };
            match mount_of(cached.key.object) {
                Some(mount) => cached.mount = mount,
                None => {
                    let key = cached.key;
                    self.remove(key);
                }
            }
        }
    }

    fn unlink(&mut self, key: FrameKey) {
        let (mut hole, slot) = self.find(key).expect("the frame is in the table");
        self.slots[slot as usize] = None;
        self.free.push(slot);
        // Backward shift: entries behind the hole move up as long as their own place allows.
        let mask = self.table.len() - 1;
        let mut place = (hole + 1) & mask;
        while !self.table[place].is_vacant() {
            let other = self.slots[self.table[place].slot as usize]
                .as_ref()
                .expect("a linked slot is full");
            let home = self.place_of(other.key.hash());
            if (place.wrapping_sub(home) & mask) >= (place.wrapping_sub(hole) & mask) {
                self.table[hole] = self.table[place];
                hole = place;
            }
            place = (place + 1) & mask;
        }
        self.table[hole] = Link::VACANT;
    }
}

/// The half of a hash that [`FrameTier::place_of`] does not use.
#[inline]
fn tag_of(hash: u64) -> u32 {
    (hash >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::policy::PolicyKind;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn key(number: u32) -> FrameKey {
        FrameKey {
            object: ObjectId {
                home: 1,
                version: u64::from(number) << 40 | 7,
            },
            number: u64::from(number % 3),
        }
    }

    fn tier(frames: usize) -> FrameTier {
        let pool = FramePool::map(frames, FRAME_PAGES).expect("memory");
        FrameTier::new(pool, PolicyKind::S3Fifo.build(frames))
    }

    fn put(tier: &mut FrameTier, number: u32, mark: u32) {
        let frame = tier.take().expect("nothing is held outside");
        tier.insert(CachedFrame {
            key: key(number),
            mount: MountId(0),
            length: FRAME_BYTES as u32,
            is_ahead: Cell::new(false),
            frame,
            checksums: [mark; FRAME_PAGES],
        });
    }

    proptest! {
        #[test]
        fn finds_what_was_put_and_nothing_else(operations in prop::collection::vec((0u8..3, 0u32..40), 1..400)) {
            let mut tier = tier(16);
            let mut oracle: HashMap<u32, u32> = HashMap::new();
            for (mark, (operation, number)) in operations.into_iter().enumerate() {
                let mark = mark as u32;
                match operation {
                    0 => {
                        put(&mut tier, number, mark);
                        oracle.insert(number, mark);
                    }
                    1 => {
                        tier.remove(key(number));
                        oracle.remove(&number);
                    }
                    _ => {
                        // The tier may have evicted it; what it has must be the last that was put.
                        let expected = tier.expect(key(number));
                        if expected.is_absent() {
                            prop_assert!(tier.peek(key(number)).is_none());
                        }
                        if let Some(cached) = tier.hit_expected(key(number), expected) {
                            prop_assert_eq!(oracle.get(&number), Some(&cached.checksums[0]));
                        }
                    }
                }
                prop_assert!(tier.len() <= 16);
            }
        }
    }

    #[test]
    fn an_offset_beyond_what_fits_32_bits_of_frames_is_another_frame() {
        let object = key(0).object;
        let near = FrameKey::of_offset(object, FRAME_BYTES as u64);
        let far = FrameKey::of_offset(object, (1 << 48) + FRAME_BYTES as u64);
        assert_ne!(near, far);
    }

    #[test]
    fn an_expectation_that_is_out_of_date_misleads_nobody() {
        let mut tier = tier(2);
        put(&mut tier, 1, 10);
        let (here, absent) = (tier.expect(key(1)), tier.expect(key(2)));
        assert!(!here.is_absent() && absent.is_absent());
        tier.remove(key(1));
        put(&mut tier, 2, 20);
        put(&mut tier, 1, 11);
        let mut mark = |number, expected| {
            let found = tier.hit_expected(key(number), expected);
            found.map(|cached| cached.checksums[0])
        };
        assert_eq!(mark(1, here), Some(11));
        assert_eq!(mark(2, here), Some(20));
        assert_eq!(mark(2, absent), Some(20));
        assert_eq!(mark(3, here), None);
    }

    #[test]
    fn keys_of_one_tag_are_told_apart() {
        let object = ObjectId {
            home: 1,
            version: 2,
        };
        // The hash leaves the home half out.
        let one = FrameKey { object, number: 0 };
        let other = FrameKey {
            object: ObjectId { home: 9, ..object },
            number: 0,
        };
        assert_eq!(one.hash(), other.hash());
        let mut tier = tier(4);
        for (key, mark) in [(one, 1), (other, 2)] {
            let frame = tier.take().expect("nothing is held outside");
            tier.insert(CachedFrame {
                key,
                mount: MountId(0),
                length: FRAME_BYTES as u32,
                is_ahead: Cell::new(false),
                frame,
                checksums: [mark; FRAME_PAGES],
            });
        }
        for (key, mark) in [(one, 1), (other, 2)] {
            let expected = tier.expect(key);
            let found = tier.hit_expected(key, expected).expect("it was put");
            assert_eq!((found.key, found.checksums[0]), (key, mark));
        }
    }

    #[test]
    fn a_freed_object_leaves_no_frame_and_others_stay() {
        let mut tier = tier(8);
        (0..8).for_each(|number| put(&mut tier, number, number));
        tier.remove_object(key(3).object);
        assert!(tier.peek(key(3)).is_none());
        assert_eq!(tier.len(), 7);
    }

    #[test]
    fn frames_of_objects_that_nobody_knows_do_not_keep_their_mount() {
        let mut tier = tier(8);
        (0..8).for_each(|number| put(&mut tier, number, number));
        let known = key(5).object;
        tier.remap_mounts(0..8, |object| (object == known).then_some(MountId(9)));
        assert_eq!(tier.len(), 1);
        assert_eq!(
            tier.peek(key(5)).map(|cached| cached.mount),
            Some(MountId(9))
        );
    }

    #[test]
    fn memory_that_is_being_sent_is_not_given_out_again() {
        let mut tier = tier(2);
        put(&mut tier, 1, 1);
        put(&mut tier, 2, 2);
        let held: Vec<Frame> = [1, 2]
            .map(|number| tier.peek(key(number)).expect("cached").frame.clone())
            .into();
        assert!(tier.take().is_none());
        drop(held);
        assert!(tier.take().is_some());
    }
}

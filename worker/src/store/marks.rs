//! Freeing and pinning objects, and giving entries their mounts: what changes many entries at once.

use std::rc::Rc;

use corelane_io::Io;
use corelane_rpc_schema::{BlockId, ObjectId};

use super::Inner;
use super::block::Held;
use super::error::MarkError;
use super::shared_health::bit;
use crate::cache::hashing::IdMap;
use crate::mount::{MountId, MountTable};

/// Entries looked at between two yields: about 100 µs.
const ENTRIES_PER_YIELD: usize = 1024;

impl<I: Io> Inner<I> {
    /// See [`Store::free`](super::Store::free).
    pub(super) async fn free_object(self: &Rc<Self>, object: ObjectId) -> Result<Held, MarkError> {
        let mut freed = Held::default();
        for (number, index) in self.block_numbers(object).await.enumerate() {
            if number % ENTRIES_PER_YIELD == ENTRIES_PER_YIELD - 1 {
                self.io.yield_now().await;
            }
            let id = BlockId { object, index };
            let pending = self.pending.borrow().get(&id).cloned();
            if let Some(pending) = pending {
                self.forget_pending(&pending);
            }
            if let Some(entry) = self.remove_entry(id) {
                freed.blocks += 1;
                freed.bytes += u64::from(entry.length);
                self.counters.blocks_freed.add(1);
            }
        }
        self.may_have_room();
        // Also when nothing was held: blocks that were let go stay on the device until their region
        // is written again, and a tombstone may have failed before.
        let written = self.write_marks(object, None).await;
        self.count_tombstones();
        written.map(|()| freed)
    }

    /// Numbers of the blocks of an object that may be here. An under-store may say that it has 2^32 of them: where
    /// they are more than the index has places, those in the index are looked for.
    async fn block_numbers(&self, object: ObjectId) -> Box<dyn Iterator<Item = u32>> {
        let blocks = self
            .objects
            .borrow()
            .get(object)
            .map_or(0, |meta| meta.blocks());
        let slots = self.index.borrow().slots();
        if blocks as usize <= slots {
            return Box::new(0..blocks);
        }
        let of_object = |id: &BlockId| (id.object == object).then_some(id.index);
        let mut numbers: Vec<u32> = self.pending.borrow().keys().filter_map(of_object).collect();
        for slot in 0..slots {
            if slot % ENTRIES_PER_YIELD == ENTRIES_PER_YIELD - 1 {
                self.io.yield_now().await;
            }
            let found = self.index.borrow().slot(slot);
            numbers.extend(found.and_then(|(id, _)| of_object(&id)));
        }
        Box::new(numbers.into_iter())
    }

    /// See [`Store::pin`](super::Store::pin).
    pub(super) async fn pin_object(
        self: &Rc<Self>,
        object: ObjectId,
        pinned: bool,
    ) -> Result<(), MarkError> {
        let was_pinned = self.pinned.borrow().contains(&object);
        if pinned && !was_pinned {
            self.refuse_beyond_share(object)?;
        }
        if pinned {
            self.pinned.borrow_mut().insert(object);
        } else {
            self.pinned.borrow_mut().remove(&object);
            self.may_have_room();
        }
        for (number, index) in self.block_numbers(object).await.enumerate() {
            if number % ENTRIES_PER_YIELD == ENTRIES_PER_YIELD - 1 {
                self.io.yield_now().await;
            }
            self.pin_entry(BlockId { object, index }, pinned);
        }
        // Not what memory said before: writing it may have failed, or be under way.
        if self.is_pin_recorded(object, pinned) {
            return self.flush_pin(object).await;
        }
        self.write_marks(object, Some(pinned)).await
    }

    /// Makes the records of a pin durable that were written before: their flush may not have come yet,
    /// and what made the devices that are absent doubtful may have failed.
    async fn flush_pin(&self, object: ObjectId) -> Result<(), MarkError> {
        let mut missed = self.missing_devices();
        for device in self.devices.iter().flatten() {
            let is_recorded = device.marks.borrow().contains_key(&object);
            if !self.is_well(device) {
                missed |= bit(device.superblock.ordinal);
                continue;
            }
            if !is_recorded {
                continue;
            }
            match self
                .while_it_answers(device, self.flush_device(device))
                .await
            {
                Some(Ok(())) => {}
                // One that fails now may have the record or not.
                Some(Err(_)) => missed |= bit(device.superblock.ordinal),
                None => {
                    let message = format!("{} does not answer", device.path);
                    return Err(MarkError::NotDurable(message));
                }
            }
        }
        self.note_marks(missed).await
    }

    /// Whether every device that takes I/O says whether the object is pinned.
    fn is_pin_recorded(&self, object: ObjectId, pinned: bool) -> bool {
        if self.pins_unsure.borrow().contains(&object) {
            return false;
        }
        let mut devices = self.devices.iter().flatten();
        devices.all(|device| {
            let marks = device.marks.borrow();
            let latest = marks.get(&object).and_then(|mark| mark.pin);
            !device.healthy.get() || latest.is_some_and(|pin| pin.pinned) == pinned
        })
    }

    /// Lets reclaim try again on devices where everything was pinned.
    fn may_have_room(&self) {
        for device in self.devices.iter().flatten() {
            device.is_full.set(false);
        }
        self.signal.raise();
    }

    fn refuse_beyond_share(&self, object: ObjectId) -> Result<(), MarkError> {
        for (ordinal, bytes) in self.objects.borrow().bytes_by_device(object) {
            let Some(device) = self.device(ordinal) else {
                continue;
            };
            let (pinned, allowed) = (
                device.bytes_pinned.get(),
                device.pinned_bytes_max(self.config.pin_fraction_max),
            );
            if pinned + bytes > allowed {
                let device = device.path.clone();
                return Err(MarkError::PinnedOut {
                    bytes,
                    device,
                    pinned,
                    allowed,
                });
            }
        }
        Ok(())
    }

    /// Writes a mark to every device that takes I/O: each knows for itself what holds for its blocks. What
    /// a device lacks makes it doubtful when it comes back.
    async fn write_marks(
        self: &Rc<Self>,
        object: ObjectId,
        pin: Option<bool>,
    ) -> Result<(), MarkError> {
        // One stamp for all devices, drawn after the last block was let go: what is fetched again
        // while the marks are being written is not theirs.
        let stamp = self.take_stamp();
        let (mut failed, mut missed) = (Vec::new(), self.missing_devices());
        for device in self.devices.iter().flatten() {
            if self.is_well(device) && self.write_mark(device, object, pin, stamp).await {
                continue;
            }
            if self.is_well(device) {
                failed.push(device.path.as_str());
            } else {
                missed |= bit(device.superblock.ordinal);
            }
        }
        if failed.is_empty() {
            if pin.is_some() {
                self.pins_unsure.borrow_mut().remove(&object);
            }
            return self.note_marks(missed).await;
        }
        // A write that failed may have reached the device.
        if pin.is_some() {
            self.pins_unsure.borrow_mut().insert(object);
        }
        Err(MarkError::NotDurable(format!(
            "could not write the record to {}",
            failed.join(", ")
        )))
    }

    /// The devices of the set that are not there.
    fn missing_devices(&self) -> u64 {
        let ordinals = 0..self.devices.len() as u16;
        let missing = ordinals.filter(|ordinal| self.device(*ordinal).is_none());
        missing.map(bit).sum()
    }

    /// See [`Store::distrust_absent_devices`](super::Store::distrust_absent_devices).
    pub(super) async fn distrust_absent_devices(&self) -> Result<(), MarkError> {
        let mut absent = self.missing_devices();
        for device in self.devices.iter().flatten() {
            if !self.is_well(device) {
                absent |= bit(device.superblock.ordinal);
            }
        }
        if absent == 0 {
            return Ok(());
        }
        self.note_marks(absent).await
    }

    /// Makes sure, before anyone is told that a mark is kept, that no device counts at a later start
    /// which lacks it: those in `missed`, and copies that were made of a device before this start.
    async fn note_marks(&self, missed: u64) -> Result<(), MarkError> {
        let health = &self.config.health;
        if self.devices_well().next().is_none() {
            let text = "no device takes I/O: restart with devices that do".to_owned();
            return Err(MarkError::NotDurable(text));
        }
        // The only device of a set has nobody to be compared with.
        if self.devices.len() == 1 || health.is_noted(missed) {
            return Ok(());
        }
        let held = health.lock(&self.io).await;
        if health.is_noted(missed) {
            return Ok(());
        }
        match self.raise_marks_at(&held).await {
            Ok(()) => {
                health.note(missed);
                Ok(())
            }
            Err(error) => Err(MarkError::NotDurable(format!(
                "could not write to the superblocks that marks were made: {error}"
            ))),
        }
    }

    /// Writes the pins to devices that lack their records: those that were emptied, or missed one.
    pub(super) async fn complete_pins(self: &Rc<Self>) {
        for device in self.devices.iter().flatten() {
            let lacking: Vec<ObjectId> = {
                let (pinned, marks) = (self.pinned.borrow(), device.marks.borrow());
                let is_recorded = |object: &ObjectId| {
                    let pin = marks.get(object).and_then(|mark| mark.pin);
                    pin.is_some_and(|pin| pin.pinned)
                };
                let lacking = pinned.iter().filter(|object| !is_recorded(object));
                lacking.copied().collect()
            };
            for object in lacking {
                let is_over = self.stopping.get() || !self.is_well(device);
                if is_over || !self.pinned.borrow().contains(&object) {
                    continue;
                }
                // An unpin from now on has a larger stamp. The error is counted; the next start tries again.
                let stamp = self.take_stamp();
                self.write_mark(device, object, Some(true), stamp).await;
            }
        }
    }

    /// See [`Store::remap_mounts`](super::Store::remap_mounts).
    pub(super) async fn remap(&self, mounts: &MountTable) {
        let mut mount_of: IdMap<ObjectId, MountId> = IdMap::default();
        let slots = self.index.borrow().slots();
        for slot in 0..slots {
            if slot % ENTRIES_PER_YIELD == ENTRIES_PER_YIELD - 1 {
                self.io.yield_now().await;
            }
            let Some((id, _)) = self.index.borrow().slot(slot) else {
                continue;
            };
            let mount = *mount_of.entry(id.object).or_insert_with(|| {
                let objects = self.objects.borrow();
                let meta = objects
                    .get(id.object)
                    .expect("a block in the index has a known object");
                mounts
                    .of_object(&meta.uri, meta.block_bytes)
                    .map_or(MountId::NONE, |mount| mount.id)
            });
            self.index.borrow_mut().set_mount_at(slot, mount);
        }
    }
}

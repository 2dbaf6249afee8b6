//! Taking blocks and marks into the queues, and the task that empties a queue in extents.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;

use corelane_io::{Io, PAGE_SIZE, Priority};
use corelane_rpc_schema::ObjectId;
use futures::future::{Either, select};

use super::Inner;
use super::block::NewBlock;
use super::device::{DeviceState, Mark, MarkOrder, Places, Queued, REGIONS_RESERVED};
use super::entries::page_bytes;
use super::error::{NotKept, StoreError};
use super::extent::Written;
use super::header::Log;
use super::summary::Draft;
use crate::cache::index::hash_of;

/// Marks queued between two yields: about 100 µs.
const MARKS_PER_YIELD: usize = 1024;

impl<I: Io> Inner<I> {
    /// See [`Store::append`](super::Store::append).
    pub(super) fn append_block(self: &Rc<Self>, block: NewBlock) -> Result<(), NotKept> {
        let id = block.id;
        let length = block.length();
        let pages = length.div_ceil(PAGE_SIZE as u32);
        assert_eq!(
            id.object, block.object.id,
            "a block comes with its own object"
        );
        assert_eq!(
            block.checksums.len(),
            pages as usize,
            "one checksum a page of {id}"
        );
        let partition = self.partition_of(id, block.object.block_bytes);
        assert!(self.is_ours(partition), "{id} belongs to another shard");
        if self.index.borrow().get(id).is_some() || self.pending.borrow().contains_key(&id) {
            return Err(NotKept::Present);
        }
        let bytes = page_bytes(length);
        let device = match self.device(self.ordinal_of(partition)) {
            Some(device) if self.has_room(device, &block) => device,
            _ => {
                self.counters.not_kept_no_room.add(1);
                return Err(NotKept::NoRoom);
            }
        };
        if self.counters.bytes_in_flight.get() + bytes > self.config.flush_bytes_in_flight as u64 {
            self.counters.not_kept_busy.add(1);
            return Err(NotKept::Busy);
        }
        let remembered = self
            .ghost
            .borrow_mut()
            .take(hash_of(id), self.index.borrow().len() as u64);
        let log = self.policy.admit(remembered);
        self.counters.bytes_admitted.add(bytes);
        self.counters.bytes_in_flight.add(bytes);
        let mut objects = self.objects.borrow_mut();
        objects.ensure(&block.object, &self.counters);
        objects.add_pending(id.object);
        drop(objects);
        let block = Rc::new(block);
        self.pending.borrow_mut().insert(id, Rc::clone(&block));
        self.enqueue(device, log, Queued::Block(block), bytes as usize);
        Ok(())
    }

    fn has_room(&self, device: &DeviceState<I::Device>, block: &NewBlock) -> bool {
        let bytes = page_bytes(block.length());
        let pinned = block.pinned || self.pinned.borrow().contains(&block.id.object);
        let pinned_bytes_max = device.pinned_bytes_max(self.config.pin_fraction_max);
        self.is_well(device)
            && device.answers.get()
            && !device.is_full.get()
            && bytes > 0
            // A quarter of a region, so that a region is never left half empty for the next block.
            && bytes <= u64::from(device.superblock.region_bytes) / 4
            && Draft::can_hold(&block.object)
            && !(pinned && device.bytes_pinned.get() + bytes > pinned_bytes_max)
    }

    /// Queues a mark to be written at once, to both logs: damage to one region must not lose it.
    /// Resolves with whether it was written at all, and is durable; a copy that found no room is
    /// made later.
    pub(super) async fn write_mark(
        self: &Rc<Self>,
        device: &DeviceState<I::Device>,
        object: ObjectId,
        pin: Option<bool>,
        stamp: u64,
    ) -> bool {
        let written = async {
            self.wait_for_tombstones(device).await;
            let outcomes = Log::ALL.map(|log| {
                let outcome = Rc::new(Cell::new(None));
                let order = MarkOrder {
                    object,
                    pin,
                    stamp,
                    writer: self.writer(),
                    outcome: Rc::clone(&outcome),
                };
                let open = device.log(log);
                open.urgent.set(open.queued.get() + 1);
                self.enqueue(device, log, Queued::Mark(order), 0);
                outcome
            });
            let is_done = || outcomes.iter().all(|outcome| outcome.get().is_some());
            self.signal.wait_until(is_done).await;
            let is_written = outcomes.iter().any(|outcome| outcome.get() == Some(true));
            is_written && self.flush_device(device).await.is_ok()
        };
        // A device that does not answer may take the mark later, but nobody waits for that.
        self.while_it_answers(device, written).await == Some(true)
    }

    /// Queues the records of `object` that are in fewer than two regions, so that they come into
    /// another one.
    pub(super) fn copy_mark(self: &Rc<Self>, device: &DeviceState<I::Device>, object: ObjectId) {
        let mark = device.marks.borrow().get(&object).cloned();
        let Some(mark) = mark.filter(Mark::lacks_copy) else {
            return;
        };
        if !device.healthy.get() || self.stopping.get() {
            return;
        }
        let queue = |pin, stamp, writer, places: Places| {
            // Not into the region that has it.
            let has = places
                .first()
                .map(|number| self.regions[number as usize].log.get());
            for log in Log::ALL.into_iter().filter(|log| has != Some(*log)) {
                let order = MarkOrder {
                    object,
                    pin,
                    stamp,
                    writer,
                    outcome: Rc::default(),
                };
                self.enqueue(device, log, Queued::Mark(order), 0);
            }
        };
        for freed in mark.freed.iter().filter(|freed| freed.places.count() < 2) {
            queue(None, freed.stamp, freed.writer, freed.places);
        }
        if let Some(pin) = mark.pin.filter(|pin| pin.places.count() < 2) {
            queue(Some(pin.pinned), pin.stamp, pin.writer, pin.places);
        }
    }

    /// Queues all records of frees and pins that are in fewer than two regions, as a change of the number of
    /// shards, damage, or an earlier version of the worker leaves them.
    pub(super) async fn copy_marks(self: Rc<Self>) {
        for device in self.devices.iter().flatten() {
            let objects: Vec<ObjectId> = {
                let marks = device.marks.borrow();
                let lacking = marks.iter().filter(|(_, mark)| mark.lacks_copy());
                lacking.map(|(object, _)| *object).collect()
            };
            for (number, object) in objects.into_iter().enumerate() {
                if number % MARKS_PER_YIELD == MARKS_PER_YIELD - 1 {
                    self.io.yield_now().await;
                }
                self.copy_mark(device, object);
            }
        }
    }

    fn enqueue(
        self: &Rc<Self>,
        device: &DeviceState<I::Device>,
        log: Log,
        item: Queued,
        bytes: usize,
    ) {
        let open = device.log(log);
        open.queue.borrow_mut().push_back((self.io.now(), item));
        open.queued_bytes.set(open.queued_bytes.get() + bytes);
        open.queued.set(open.queued.get() + 1);
        if !open.has_flusher.replace(true) {
            let (store, ordinal) = (Rc::clone(self), device.superblock.ordinal);
            self.io.spawn(Priority::Flush, async move {
                store.empty_queue(ordinal, log).await
            });
        } else if open.queued_bytes.get() >= self.config.flush_bytes
            || open.urgent.get() > open.done.get()
        {
            self.signal.raise();
        }
    }

    /// Writes one extent after the other until the queue is empty.
    async fn empty_queue(self: Rc<Self>, ordinal: u16, log: Log) {
        let device = self
            .device(ordinal)
            .expect("a device with a queue is there");
        loop {
            self.wait_for_extent(device, log).await;
            if device.log(log).queue.borrow().is_empty() {
                device.log(log).has_flusher.set(false);
                return;
            }
            match self.write_queued(device, log).await {
                Written::Extent => {}
                Written::NoRegion => {
                    self.signal.raise();
                    self.signal
                        .wait_until(|| {
                            device.free.borrow().len() > REGIONS_RESERVED
                                || device.is_full.get()
                                || !device.healthy.get()
                                || self.stopping.get()
                        })
                        .await;
                    // Nobody makes room any more once the store stops.
                    let is_hopeless =
                        self.stopping.get() && device.free.borrow().len() <= REGIONS_RESERVED;
                    if device.is_full.get() || !device.healthy.get() || is_hopeless {
                        self.give_up_queue(device, log);
                    }
                }
                Written::Failed => {
                    if !device.healthy.get() {
                        self.give_up_queue(device, log);
                    }
                }
            }
        }
    }

    /// Waits until an extent is full, or its first item has waited long enough, or is urgent.
    async fn wait_for_extent(&self, device: &DeviceState<I::Device>, log: Log) {
        let open = device.log(log);
        let Some(since) = open.queue.borrow().front().map(|(since, _)| *since) else {
            return;
        };
        let ready = || {
            open.queued_bytes.get() >= self.config.flush_bytes
                || open.urgent.get() > open.done.get()
                || self.stopping.get()
        };
        let left = self
            .config
            .flush_delay
            .saturating_sub(self.io.now().since(since));
        if ready() || left.is_zero() {
            return;
        }
        let sleep = pin!(self.io.sleep(left));
        let wait = pin!(self.signal.wait_until(ready));
        match select(sleep, wait).await {
            Either::Left(_) | Either::Right(_) => {}
        }
    }

    /// Takes the first item off the queue of `log`.
    pub(super) fn dequeue(&self, device: &DeviceState<I::Device>, log: Log) -> Option<Queued> {
        let open = device.log(log);
        let (_, item) = open.queue.borrow_mut().pop_front()?;
        if let Queued::Block(block) = &item {
            open.queued_bytes
                .set(open.queued_bytes.get() - page_bytes(block.length()) as usize);
        }
        Some(item)
    }

    /// Counts an item that is written, or given up, as done with.
    pub(super) fn finish(
        &self,
        device: &DeviceState<I::Device>,
        log: Log,
        item: &Queued,
        written: bool,
    ) {
        let open = device.log(log);
        open.done.set(open.done.get() + 1);
        match item {
            Queued::Mark(order) => order.outcome.set(Some(written)),
            Queued::Block(block) => {
                self.counters
                    .bytes_in_flight
                    .take_off(page_bytes(block.length()));
                self.forget_pending(block);
            }
        }
    }

    /// Whether `block` is still wanted: not freed since it was appended.
    pub(super) fn is_pending(&self, block: &Rc<NewBlock>) -> bool {
        self.pending
            .borrow()
            .get(&block.id)
            .is_some_and(|pending| Rc::ptr_eq(pending, block))
    }

    /// Ends the time in which `block` is served from its pending frames.
    pub(super) fn forget_pending(&self, block: &Rc<NewBlock>) {
        if self.is_pending(block) {
            self.pending.borrow_mut().remove(&block.id);
            self.objects
                .borrow_mut()
                .remove_pending(block.id.object, &self.counters);
        }
    }

    fn give_up_queue(&self, device: &DeviceState<I::Device>, log: Log) {
        while let Some(item) = self.dequeue(device, log) {
            if matches!(item, Queued::Block(_)) {
                self.counters.not_kept_no_room.add(1);
            }
            self.finish(device, log, &item, false);
        }
        self.signal.raise();
    }

    /// See [`Store::flush`](super::Store::flush).
    pub(super) async fn flush_all(&self) -> Result<(), StoreError> {
        let (mut waiting, mut well) = (Vec::new(), Vec::new());
        for device in self.devices.iter().flatten() {
            if self.is_well(device) {
                well.push(device);
            }
            for log in &device.logs {
                log.urgent.set(log.queued.get());
                waiting.push((log, log.queued.get()));
            }
        }
        self.signal.raise();
        self.signal
            .wait_until(|| {
                waiting
                    .iter()
                    .all(|(log, ticket)| log.done.get() >= *ticket)
            })
            .await;
        let mut result = Ok(());
        for device in well {
            result = result.and(self.flush_device(device).await);
        }
        Ok(result?)
    }
}

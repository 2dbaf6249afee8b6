//! Watching over devices: those that do not answer, and those that another worker has taken.
//!
//! Once a second each device is looked at. A read of a block that is not answered in [`READ_MAX`] ends as a miss, which the
//! under-store serves. While a device has such a read, or another operation older than [`OTHER_MAX`], nothing more is
//! read from it. With an operation older than `device_timeout` it is taken out, and all that wait for it go on with an error. The memory of an
//! operation stays with the device until it answers: that is for the backend to keep.
//!
//! The invariant: no task here waits for a device whose hang it is to notice.

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use corelane_io::{Device, Io, IoError, IoErrorKind, PAGE_SIZE, Priority};
use futures::future::{Either, select};
use rkyv::util::AlignedVec;

use super::Inner;
use super::block::BlockEntry;
use super::device::DeviceState;
use super::error::ReadError;
use super::header::HeaderError;
use super::superblock::{SUPERBLOCK_OFFSETS, Superblock};
use super::transfer::taken_out;
use crate::watchdog::Watchdog;
use corelane_rpc_schema::BlockId;

/// How often devices are looked at: an operation may be noticed so much later.
const INTERVAL: Duration = Duration::from_secs(1);

/// Longest time that the read of a block waits for a device. Drives answer within milliseconds, busy disks within a second;
/// an under-store takes less than this.
const READ_MAX: Duration = Duration::from_secs(5);

/// Age of another operation at which a device counts as one that does not answer. A flush of a file system
/// with much to write, or a write while the kernel is busy with memory, takes seconds on a healthy machine.
const OTHER_MAX: Duration = Duration::from_secs(20);

/// How often it is looked whether the device still belongs to this worker: two pages a shard.
const OWNER_INTERVAL: Duration = Duration::from_secs(5);

/// A superblock that is not this worker's is looked at once more after this: one read may be wrong.
const OWNER_DOUBT: Duration = Duration::from_secs(1);

/// How long closing the store waits for its devices. Those that did not answer by then are given up, and
/// the others get as long once more.
pub(super) const CLOSE_MAX: Duration = Duration::from_secs(10);

/// Whose a device is, going by its superblocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// This worker's, or it cannot be read now.
    Ours,
    /// Another worker has started on it, or formatted it.
    Another,
    /// Both copies were overwritten with something else.
    Overwritten,
}

impl<D: Device> DeviceState<D> {
    /// Whether reads and writes may be sent to it now.
    #[inline(always)]
    pub(super) fn is_usable(&self) -> bool {
        self.healthy.get() && self.answers.get()
    }

    /// Ends all waits for operations of a device that is out.
    pub(super) fn abandon_operations(&self) {
        let oldest = self.device.time_out(Duration::ZERO, Duration::ZERO);
        self.holds_reads.set(!oldest.read.is_zero());
    }
}

impl<I: Io> Inner<I> {
    /// Starts a watch over each device, before anything waits for one.
    pub(super) fn spawn_watches(self: &Rc<Self>) {
        for ordinal in 0..self.devices.len() as u16 {
            if self.device(ordinal).is_some() {
                let store = Rc::clone(self);
                let watch = async move { store.watch_answers(ordinal).await };
                self.io.spawn(Priority::Foreground, watch);
                let store = Rc::clone(self);
                let watch = async move { store.watch_owner(ordinal).await };
                self.io.spawn(Priority::Background, watch);
            }
        }
    }

    async fn watch_answers(self: Rc<Self>, ordinal: u16) {
        let device = self.device(ordinal).expect("it is there to be watched");
        let mut watchdog = Watchdog::new(INTERVAL);
        while !self.stopping.get() {
            if watchdog.tick(&self.io).await {
                self.check_answers(device);
            }
        }
    }

    /// Ends waits that are too long, and takes the device out if it comes to that.
    fn check_answers(&self, device: &DeviceState<I::Device>) {
        if !device.healthy.get() {
            // What was sent to it in the moment when it was taken out.
            device.abandon_operations();
            return;
        }
        let max = match self.config.device_timeout {
            Duration::ZERO => Duration::MAX,
            max => max,
        };
        let oldest = device.device.time_out(READ_MAX.min(max), max);
        device.holds_reads.set(oldest.read >= READ_MAX.min(max));
        if oldest.any() >= max {
            let seconds = oldest.any().as_secs();
            self.take_out(device, &format!("it has not answered for {seconds} s"));
            return;
        }
        let answers = oldest.read < READ_MAX.min(max) && oldest.other < OTHER_MAX.min(max);
        if device.answers.replace(answers) == answers {
            return;
        }
        if answers {
            tracing::warn!(device = %device.path, "the device answers again");
        } else {
            self.counters.device_stalls.add(1);
            tracing::warn!(
                device = %device.path, seconds = oldest.any().as_secs(),
                "the device does not answer: until it does, its partitions are served from the under-store"
            );
        }
        self.signal.raise();
    }

    /// Why a block on a device that is not usable cannot be read.
    #[cold]
    #[inline(never)]
    pub(super) fn unusable(
        &self,
        device: &DeviceState<I::Device>,
        id: BlockId,
        entry: &BlockEntry,
    ) -> ReadError {
        if !device.healthy.get() {
            self.remove_entry_at(id, entry);
            return ReadError::Device(taken_out(&device.path));
        }
        // The block is there, and right as far as is known.
        let error = IoError::new(IoErrorKind::Timeout, "the device does not answer");
        ReadError::Device(error.with("device", &device.path))
    }

    /// Waits for `work` on a device, at most until the device stops answering.
    pub(super) async fn while_it_answers<T>(
        &self,
        device: &DeviceState<I::Device>,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let stalled = self.signal.wait_until(|| !device.answers.get());
        match select(pin!(work), pin!(stalled)).await {
            Either::Left((done, _)) => Some(done),
            Either::Right(_) => None,
        }
    }

    /// Waits for the last `work` on the devices. Those that do not answer meanwhile are taken out.
    /// `None` where the work was given up.
    pub(super) async fn close_with<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        for _ in 0..2 {
            match select(work.as_mut(), pin!(self.io.sleep(CLOSE_MAX))).await {
                Either::Left((done, _)) => return Some(done),
                Either::Right(_) => self.take_out_silent(CLOSE_MAX / 2),
            }
        }
        self.take_out_silent(Duration::ZERO);
        None
    }

    /// Takes out the devices with an operation of at least `age`.
    fn take_out_silent(&self, age: Duration) {
        for device in self.devices.iter().flatten() {
            let oldest = device.device.time_out(Duration::MAX, Duration::MAX).any();
            if oldest >= age && !oldest.is_zero() {
                self.take_out(device, "it did not answer while the worker was stopping");
            }
        }
    }

    async fn watch_owner(self: Rc<Self>, ordinal: u16) {
        let device = self.device(ordinal).expect("it is there to be watched");
        let mut seen = Owner::Ours;
        loop {
            let pause = match seen {
                Owner::Ours => OWNER_INTERVAL,
                _ => OWNER_DOUBT,
            };
            self.io.sleep(pause).await;
            if self.stopping.get() || !device.healthy.get() {
                return;
            }
            // Before the start is counted, the superblocks name no worker that is known here.
            if !device.answers.get() || self.config.wear.owner() == 0 {
                continue;
            }
            let before = std::mem::replace(&mut seen, self.owner_of(device).await);
            if seen != Owner::Ours && seen == before {
                return self.take_out(device, not_ours(seen));
            }
        }
    }

    /// Whether the device is still this worker's; if not, it is taken out.
    pub(super) async fn is_owner(&self, device: &DeviceState<I::Device>) -> bool {
        for _ in 0..2 {
            if self.owner_of(device).await == Owner::Ours {
                return true;
            }
        }
        self.take_out(device, not_ours(self.owner_of(device).await));
        false
    }

    async fn owner_of(&self, device: &DeviceState<I::Device>) -> Owner {
        let ours = self.config.wear.owner();
        let mut overwritten = 0;
        for offset in SUPERBLOCK_OFFSETS {
            let mut page = AlignedVec::with_capacity(PAGE_SIZE);
            if self.read_bytes(device, offset, 1, &mut page).await.is_err() {
                // The error is counted.
                return Owner::Ours;
            }
            match Superblock::decode(&page) {
                Ok((_, found)) => {
                    let is_known =
                        found.owner == ours || device.owners_before.contains(&Some(found.owner));
                    if found.uuid != device.superblock.uuid || !is_known {
                        return Owner::Another;
                    }
                }
                // Both copies may be damaged and still be ours.
                Err(HeaderError::Magic) => overwritten += 1,
                Err(_) => {}
            }
        }
        if overwritten == SUPERBLOCK_OFFSETS.len() {
            Owner::Overwritten
        } else {
            Owner::Ours
        }
    }
}

fn not_ours(owner: Owner) -> &'static str {
    match owner {
        Owner::Overwritten => "its superblocks were overwritten by something else",
        _ => "another worker uses or has formatted it, perhaps on another host",
    }
}

/// Waits for `work` at most for `max`; without bound where that is zero.
pub(super) async fn within<I: Io, T>(
    io: &I,
    max: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    if max.is_zero() {
        return Some(work.await);
    }
    match select(pin!(work), pin!(io.sleep(max))).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(_) => None,
    }
}

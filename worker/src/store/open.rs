//! Opening the devices of a worker for one shard.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use corelane_io::{Device, FramePool, Io, IoError, IoErrorKind, Priority};
use futures::stream::{self, StreamExt};
use rkyv::util::AlignedVec;

use super::config::StoreConfig;
use super::counters::StoreCounters;
use super::device::{DeviceState, REGIONS_PER_SHARD_MIN};
use super::error::StoreError;
use super::objects::Objects;
use super::policy::{Ghost, Policy};
use super::region::{Region, RegionState};
use super::shared_health::SuperblockLock;
use super::signal::Signal;
use super::state::empty_state;
use super::superblock::{STATE_OFFSETS, SUPERBLOCK_OFFSETS, Superblock};
use super::tombstones::Expiry;
use super::transfer::{Pace, SCRATCH_FRAMES_MIN, Scratch};
use super::watch::within;
use super::{Inner, Recovery, Siblings, Store};
use crate::cache::hashing::IdMap;
use crate::cache::index::Index;

/// Writes of a superblock before its device is taken out: one that fails twice more is no accident.
const SUPERBLOCK_TRIES: u32 = 3;

/// A device whose superblock was read.
struct Opened<D> {
    device: D,
    path: String,
    superblock: Superblock,
    sequence: u64,
    copy: usize,
    marks_at: u64,
    owners: [Option<u64>; 2],
    is_marked: bool,
    /// The offset of the other copy, if it does not check.
    damaged_copy: Option<u64>,
}

/// What the superblock of a device says now.
struct Newest {
    epoch: u64,
    sequence: u64,
    copy: usize,
    marks_at: u64,
    is_marked: bool,
}

/// See [`Store::open`].
pub(super) async fn open<I: Io>(
    io: I,
    config: StoreConfig,
    devices: Vec<I::Device>,
    scratch: FramePool,
    siblings: Rc<dyn Siblings>,
) -> Result<(Store<I>, Recovery), StoreError> {
    check_config(&config, &scratch)?;
    // No shard reads superblocks while another decides over what they say.
    let held = config.health.lock(&io).await;
    let mut opened = Vec::new();
    for device in devices {
        opened.push(read_superblock(&io, config.device_timeout, device, &scratch).await?);
    }
    check_set(&opened, &config)?;
    let damaged: Vec<(String, u64)> = opened
        .iter()
        .filter_map(|device| Some((device.path.clone(), device.damaged_copy?)))
        .collect();
    let inner = Rc::new(assemble(io, config, opened, scratch, siblings));
    inner.spawn_watches();
    inner.note_damaged_superblocks(&damaged);
    inner.empty_doubtful(&held).await?;
    let epoch = inner.count_start(&held).await?;
    drop(held);
    let mut recovery = inner.recover().await;
    recovery.epoch = epoch;
    inner.spawn_background();
    Ok((Store(inner), recovery))
}

fn check_config(config: &StoreConfig, scratch: &FramePool) -> Result<(), StoreError> {
    let mismatch = |text: String| Err(StoreError::Mismatch(text));
    if config.shard.0 >= config.shards {
        return mismatch(format!(
            "shard {} of {} does not exist",
            config.shard.0, config.shards
        ));
    }
    if scratch.frames() < SCRATCH_FRAMES_MIN {
        return mismatch(format!(
            "the store needs {SCRATCH_FRAMES_MIN} scratch frames, it was given {}",
            scratch.frames()
        ));
    }
    if config.index_capacity == 0 || config.flush_bytes == 0 || config.reads_in_flight == 0 {
        return mismatch(
            "index capacity, flush size and reads in flight must not be zero".to_owned(),
        );
    }
    Ok(())
}

async fn read_superblock<I: Io>(
    io: &I,
    max: Duration,
    device: I::Device,
    scratch: &FramePool,
) -> Result<Opened<I::Device>, StoreError> {
    let path = device.geometry().path.display().to_string();
    let mut pages = [AlignedVec::<16>::new(), AlignedVec::new()];
    for (page, offset) in pages.iter_mut().zip(SUPERBLOCK_OFFSETS) {
        let frame = scratch
            .take()
            .expect("nothing else uses the scratch frames yet");
        let lease = frame.lease(0..1).expect("a fresh frame is vacant");
        let read = within(io, max, device.read(offset, lease)).await;
        let silent = || IoError::new(IoErrorKind::Timeout, "the device does not answer");
        let lease = read.unwrap_or_else(|| Err(silent().with("device", &path)))?;
        page.extend_from_slice(lease.bytes());
    }
    let owners = [&pages[0], &pages[1]].map(|page| {
        let found = Superblock::decode(page).ok();
        found.map(|(_, superblock)| superblock.owner)
    });
    let length = device.geometry().length;
    let pages = [&pages[0][..], &pages[1][..]];
    let (superblock, sequence, copy) = Superblock::choose(pages, &path, length)?;
    let other = 1 - copy;
    let is_damaged = !Superblock::is_valid(pages[other]);
    Ok(Opened {
        device,
        path,
        superblock,
        sequence,
        copy,
        marks_at: Superblock::marks_at(pages),
        owners,
        is_marked: Superblock::is_marked(pages[copy]),
        damaged_copy: is_damaged.then_some(SUPERBLOCK_OFFSETS[other]),
    })
}

/// Whether the devices are of one set and the shards can share them.
fn check_set<D>(opened: &[Opened<D>], config: &StoreConfig) -> Result<(), StoreError> {
    let Some(first) = opened.first() else {
        return Err(StoreError::Mismatch(
            "no device is given: name one with --device".to_owned(),
        ));
    };
    for (position, other) in opened.iter().enumerate() {
        let (one, two) = (&first.superblock, &other.superblock);
        if one.set_uuid != two.set_uuid {
            return Err(StoreError::Mismatch(format!(
                "{} and {} were not formatted together: give each worker the devices of one set",
                first.path, other.path
            )));
        }
        if (one.region_bytes, one.partitions, one.devices)
            != (two.region_bytes, two.partitions, two.devices)
        {
            return Err(StoreError::Mismatch(format!(
                "{} and {} are of one set but differ in geometry: format them together",
                first.path, other.path
            )));
        }
        if opened[..position]
            .iter()
            .any(|before| before.superblock.ordinal == two.ordinal)
        {
            return Err(StoreError::Mismatch(format!(
                "{} is given twice, or is a copy of another device: give each device once",
                other.path
            )));
        }
        let regions = two.regions / u32::from(config.shards);
        if regions < REGIONS_PER_SHARD_MIN {
            return Err(StoreError::Mismatch(format!(
                "{} has {} regions, {} for each of {} shards, and a shard needs {REGIONS_PER_SHARD_MIN}: \
                 use fewer cores, a larger device, or format it with smaller regions",
                other.path, two.regions, regions, config.shards
            )));
        }
    }
    Ok(())
}

fn assemble<I: Io>(
    io: I,
    config: StoreConfig,
    opened: Vec<Opened<I::Device>>,
    scratch: FramePool,
    siblings: Rc<dyn Siblings>,
) -> Inner<I> {
    let Superblock {
        partitions,
        devices: ordinals,
        ..
    } = opened[0].superblock;
    let region_pages = opened[0].superblock.region_pages();
    let mut devices: Vec<Option<DeviceState<I::Device>>> = (0..ordinals).map(|_| None).collect();
    let mut regions = Vec::new();
    for found in opened {
        let ordinal = found.superblock.ordinal;
        let first_region = regions.len() as u32;
        for local in 0..found.superblock.regions {
            let ours = local % u32::from(config.shards) == u32::from(config.shard.0);
            let state = if ours {
                RegionState::Free
            } else {
                RegionState::Sibling
            };
            regions.push(Region::new(ordinal, local, state));
        }
        devices[usize::from(ordinal)] = Some(device_state(found, first_region, &regions));
    }
    for (ordinal, _) in devices
        .iter()
        .enumerate()
        .filter(|(_, device)| device.is_none())
    {
        tracing::error!(
            ordinal,
            "a device of the set is missing: its partitions are served from the under-store"
        );
        // Another shard may have found it: what this one writes does not reach it.
        config
            .health
            .take_out(ordinal as u16, "a shard did not find it at the start");
    }
    let policy = Policy::new(config.small_log_fraction);
    Inner {
        index: RefCell::new(Index::new(config.index_capacity)),
        regions: regions.into_boxed_slice(),
        devices: devices.into_boxed_slice(),
        pending: RefCell::new(IdMap::default()),
        objects: RefCell::new(Objects::default()),
        pinned: RefCell::default(),
        pins_unsure: RefCell::default(),
        ghost: RefCell::new(Ghost::new(config.index_capacity)),
        policy,
        region_pages,
        partitions,
        counters: StoreCounters::default(),
        signal: Signal::default(),
        scratch: Scratch::new(scratch),
        siblings,
        next_stamp: Cell::new(1),
        next_sequence: Cell::new(1),
        write_pace: pace(config.device_write_bytes_per_second),
        scrub_pace: pace(config.scrub_bytes_per_second),
        stopping: Cell::new(false),
        epoch: Cell::new(0),
        config,
        io,
    }
}

fn pace(bytes_per_second: u64) -> Pace {
    let pace = Pace::default();
    pace.bytes_per_second.set(bytes_per_second);
    pace
}

fn device_state<D: Device>(
    found: Opened<D>,
    first_region: u32,
    regions: &[Region],
) -> DeviceState<D> {
    let ours = regions[first_region as usize..]
        .iter()
        .filter(|region| region.is_ours())
        .count();
    DeviceState {
        seed: found.superblock.seed(),
        device: found.device,
        path: found.path,
        superblock: found.superblock,
        is_marked: found.is_marked,
        superblock_at: Cell::new((found.sequence, found.copy)),
        marks_at: found.marks_at,
        first_region,
        healthy: Cell::new(true),
        answers: Cell::new(true),
        holds_reads: Cell::new(false),
        owners_before: found.owners,
        errors: Cell::new(0),
        regions_ours: ours as u32,
        free: RefCell::new(VecDeque::new()),
        sealed: Default::default(),
        logs: Default::default(),
        marks: RefCell::default(),
        bytes_live: Cell::new(0),
        bytes_pinned: Cell::new(0),
        is_full: Cell::new(false),
        expiry: Cell::new(Expiry::Possible),
    }
}

impl<I: Io> Inner<I> {
    /// Counts and logs copies of superblocks that do not check. Shard 0 alone, which repairs them.
    fn note_damaged_superblocks(&self, damaged: &[(String, u64)]) {
        if self.config.shard.0 != 0 {
            return;
        }
        for (device, offset) in damaged {
            self.counters.corrupt_copies.add(1);
            tracing::warn!(
                %device, offset,
                "one of the two copies of the superblock does not check: the other one counts, and this one is \
                 written again now. If it happens again, replace the device"
            );
        }
    }

    /// Counts the start in the superblocks (shard 0) and gives the count.
    async fn count_start(&self, held: &SuperblockLock) -> Result<u64, StoreError> {
        let mut epoch = 0;
        for device in self.devices.iter().flatten() {
            epoch = epoch.max(device.superblock.epoch);
        }
        if self.config.shard.0 != 0 {
            return Ok(epoch);
        }
        let epoch = epoch.saturating_add(1);
        // Never zero, which stands for nobody.
        self.config.wear.set_owner(self.io.random() | 1);
        self.epoch.set(epoch);
        self.write_round(held, 1, 0, 0).await?;
        Ok(epoch)
    }

    /// Brings the superblock of each device up to date.
    ///
    /// # Errors
    /// When no device took it.
    pub(super) async fn write_superblocks(&self) -> Result<(), IoError> {
        let held = self.config.health.lock(&self.io).await;
        self.write_round(&held, 1, 0, 0).await.map(|_| ())
    }

    /// Writes to all superblocks that a device lacks marks which has none as new as they are now.
    ///
    /// # Errors
    /// When no device took it.
    pub(super) async fn raise_marks_at(&self, held: &SuperblockLock) -> Result<(), IoError> {
        // First a sequence that every device has which takes I/O, and no other: one that is not
        // there may be a round ahead of these, if a crash came in the middle of it. It is a time, so
        // that of two parts of a set that ran without each other the later one counts.
        let sequence = self.write_round(held, 2, self.io.wall_clock_ms(), 0);
        let sequence = sequence.await?;
        let written = self.write_round(held, 1, 0, sequence).await;
        written.map(|_| ())
    }

    /// Writes the superblock of each device that takes I/O over its older copy, all with the same sequence,
    /// at least `step` after the largest and at least `floor`, and gives it. A device that does not take
    /// it is taken out: it must not seem to lack what it has.
    ///
    /// # Errors
    /// When no device took it.
    async fn write_round(
        &self,
        _held: &SuperblockLock,
        step: u64,
        floor: u64,
        marks_at: u64,
    ) -> Result<u64, IoError> {
        let mut round = Vec::new();
        for device in self.devices_well() {
            round.push((device, self.newest_superblock(device).await));
        }
        let (mut sequence, mut epoch, mut marks_at) = (0, self.epoch.get(), marks_at);
        for (_, newest) in &round {
            sequence = sequence.max(newest.sequence);
            epoch = epoch.max(newest.epoch);
            marks_at = marks_at.max(newest.marks_at);
        }
        sequence = (sequence + step).max(floor);
        let mut result = Err(super::transfer::taken_out("all devices"));
        for (
            device,
            Newest {
                copy, is_marked, ..
            },
        ) in round
        {
            if !self.is_owner(device).await {
                continue;
            }
            let wear = &self.config.wear;
            let written = wear.bytes(device.superblock.ordinal);
            let is_marked =
                is_marked || wear.shards_marked(device.superblock.ordinal) >= self.config.shards;
            let page = Superblock {
                epoch,
                bytes_written: device.superblock.bytes_written.saturating_add(written),
                owner: self.owner_to_write(device),
                ..device.superblock
            }
            .encode_with(sequence, marks_at, is_marked);
            let offset = SUPERBLOCK_OFFSETS[1 - copy];
            match self.write_superblock(device, offset, &page).await {
                Ok(()) => {
                    device.superblock_at.set((sequence, 1 - copy));
                    result = Ok(sequence);
                }
                Err(error) => {
                    self.take_out(device, "its superblock cannot be written");
                    result = result.map_err(|_| error);
                }
            }
        }
        self.epoch.set(epoch);
        result
    }

    /// The owner that a superblock names: before the start is counted, the one that it named.
    fn owner_to_write(&self, device: &DeviceState<I::Device>) -> u64 {
        match self.config.wear.owner() {
            0 => device.superblock.owner,
            ours => ours,
        }
    }

    async fn write_superblock(
        &self,
        device: &DeviceState<I::Device>,
        offset: u64,
        page: &[u8],
    ) -> Result<(), IoError> {
        let mut tries = 1;
        loop {
            match self.write_bytes(device, offset, page).await {
                Ok(()) => return self.flush_device(device).await,
                Err(error) if tries == SUPERBLOCK_TRIES || !self.is_well(device) => {
                    return Err(error);
                }
                Err(_) => tries += 1,
            }
        }
    }

    /// The superblock of a device with its sequence and copy. Other shards write it too; where it cannot
    /// be read, what this one knows of it has to do.
    async fn newest_superblock(&self, device: &DeviceState<I::Device>) -> Newest {
        let (sequence, copy) = device.superblock_at.get();
        let known = Newest {
            epoch: device.superblock.epoch,
            sequence,
            copy,
            marks_at: device.marks_at,
            is_marked: device.is_marked,
        };
        let mut pages = [AlignedVec::<16>::new(), AlignedVec::new()];
        for (page, offset) in pages.iter_mut().zip(SUPERBLOCK_OFFSETS) {
            if self.read_bytes(device, offset, 1, page).await.is_err() {
                return known;
            }
        }
        let length = device.device.geometry().length;
        match Superblock::choose([&pages[0], &pages[1]], &device.path, length) {
            Ok((superblock, newest, copy)) if newest >= sequence => Newest {
                epoch: superblock.epoch,
                sequence: newest,
                copy,
                marks_at: Superblock::marks_at([&pages[0], &pages[1]]),
                is_marked: Superblock::is_marked(&pages[copy]),
            },
            _ => known,
        }
    }

    /// Empties the devices that lack marks of the set: what was freed may be on them, and nobody knows
    /// which of their blocks were meant. Their superblocks are as new as the others' only once
    /// that is durable.
    async fn empty_doubtful(&self, held: &SuperblockLock) -> Result<(), StoreError> {
        let devices = || self.devices.iter().flatten();
        let marks_at = devices().map(|device| device.marks_at).max();
        let marks_at = marks_at.unwrap_or(0);
        let mut is_any = false;
        for device in devices().filter(|device| device.superblock_at.get().0 < marks_at) {
            is_any = true;
            tracing::warn!(
                device = %device.path,
                "the device was away while objects were freed or pinned, or was restored from a copy: it is emptied"
            );
            if let Err(error) = self.empty_device(device).await {
                tracing::error!(device = %device.path, %error, "the device cannot be emptied");
                self.take_out(device, "it lacks marks and cannot be emptied");
            }
        }
        if is_any {
            self.write_round(held, 1, 0, 0).await?;
        }
        Ok(())
    }

    async fn empty_device(&self, device: &DeviceState<I::Device>) -> Result<(), IoError> {
        let state = empty_state(device.seed);
        for offset in STATE_OFFSETS {
            self.write_bytes(device, offset, &state).await?;
        }
        stream::iter(0..device.superblock.regions)
            .map(|local| self.write_free_pages(device, local, 0))
            .buffer_unordered(self.config.reads_in_flight)
            .fold(Ok(()), |result, written| async move { result.and(written) })
            .await?;
        self.flush_device(device).await
    }

    fn spawn_background(self: &Rc<Self>) {
        for ordinal in 0..self.devices.len() as u16 {
            if self.device(ordinal).is_some() {
                let store = Rc::clone(self);
                self.io.spawn(
                    Priority::Flush,
                    async move { store.keep_room(ordinal).await },
                );
            }
        }
        let store = Rc::clone(self);
        self.io
            .spawn(Priority::Background, async move { store.scrub().await });
        let store = Rc::clone(self);
        self.io.spawn(Priority::Background, async move {
            store.list_found_objects().await;
        });
        let store = Rc::clone(self);
        self.io.spawn(Priority::Background, async move {
            store.complete_pins().await;
            store.copy_marks().await;
        });
        if self.config.shard.0 == 0 {
            let store = Rc::clone(self);
            self.io
                .spawn(Priority::Background, async move { store.note_wear().await });
        }
    }
}

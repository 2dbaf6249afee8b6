//! Opening the devices of a worker for one shard.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use corelane_io::{Device, FramePool, Io, IoError, Priority};
use futures::lock::Mutex;
use rkyv::util::AlignedVec;

use super::config::StoreConfig;
use super::counters::StoreCounters;
use super::device::{DeviceState, REGIONS_PER_SHARD_MIN};
use super::error::StoreError;
use super::objects::Objects;
use super::policy::{Ghost, Policy};
use super::region::{Region, RegionState};
use super::signal::Signal;
use super::superblock::{SUPERBLOCK_OFFSETS, Superblock};
use super::transfer::{Pace, SCRATCH_FRAMES_MIN, Scratch};
use super::{Inner, Recovery, Siblings, Store};
use crate::cache::hashing::IdMap;
use crate::cache::index::Index;

/// A device whose superblock was read.
struct Opened<D> {
    device: D,
    path: String,
    superblock: Superblock,
    sequence: u64,
    copy: usize,
    is_marked: bool,
    /// The offset of the other copy, if it does not check.
    damaged_copy: Option<u64>,
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
    let mut opened = Vec::new();
    for device in devices {
        opened.push(read_superblock(device, &scratch).await?);
    }
    check_set(&opened, &config)?;
    let damaged: Vec<(String, u64)> = opened
        .iter()
        .filter_map(|device| Some((device.path.clone(), device.damaged_copy?)))
        .collect();
    let inner = Rc::new(assemble(io, config, opened, scratch, siblings));
    inner.note_damaged_superblocks(&damaged);
    let mut recovery = inner.recover().await;
    recovery.epoch = inner.count_start().await?;
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

async fn read_superblock<D: Device>(
    device: D,
    scratch: &FramePool,
) -> Result<Opened<D>, StoreError> {
    let path = device.geometry().path.display().to_string();
    let mut pages = [AlignedVec::<16>::new(), AlignedVec::new()];
    for (page, offset) in pages.iter_mut().zip(SUPERBLOCK_OFFSETS) {
        let frame = scratch
            .take()
            .expect("nothing else uses the scratch frames yet");
        let lease = frame.lease(0..1).expect("a fresh frame is vacant");
        page.extend_from_slice(device.read(offset, lease).await?.bytes());
    }
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
    }
    let policy = Policy::new(config.small_log_fraction);
    Inner {
        index: RefCell::new(Index::new(config.index_capacity)),
        regions: regions.into_boxed_slice(),
        devices: devices.into_boxed_slice(),
        pending: RefCell::new(IdMap::default()),
        objects: RefCell::new(Objects::default()),
        pinned: RefCell::default(),
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
        superblocks: Mutex::new(()),
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
        first_region,
        healthy: Cell::new(true),
        errors: Cell::new(0),
        regions_ours: ours as u32,
        free: RefCell::new(VecDeque::new()),
        sealed: Default::default(),
        logs: Default::default(),
        marks: RefCell::default(),
        bytes_live: Cell::new(0),
        bytes_pinned: Cell::new(0),
        is_full: Cell::new(false),
        is_expiry_stuck: Cell::new(false),
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
    async fn count_start(&self) -> Result<u64, StoreError> {
        let mut epoch = 0;
        for device in self.devices.iter().flatten() {
            epoch = epoch.max(device.superblock.epoch);
        }
        if self.config.shard.0 != 0 {
            return Ok(epoch);
        }
        let epoch = epoch.saturating_add(1);
        self.write_superblocks(epoch).await?;
        Ok(epoch)
    }

    /// Writes the superblock of each device over its older copy.
    ///
    /// # Errors
    /// When no device took it.
    pub(super) async fn write_superblocks(&self, epoch: u64) -> Result<(), IoError> {
        // One at a time: which copy is the older one follows from the last time.
        let _writing = self.superblocks.lock().await;
        let mut result = Err(super::transfer::taken_out("all devices"));
        for device in self.devices.iter().flatten() {
            let (sequence, copy) = device.superblock_at.get();
            let wear = &self.config.wear;
            let written = wear.bytes(device.superblock.ordinal);
            let bytes_written = device.superblock.bytes_written.saturating_add(written);
            let is_marked = device.is_marked
                || wear.shards_marked(device.superblock.ordinal) >= self.config.shards;
            let page = Superblock {
                epoch,
                bytes_written,
                ..device.superblock
            }
            .encode(sequence + 1, is_marked);
            let written = self
                .write_bytes(device, SUPERBLOCK_OFFSETS[1 - copy], &page)
                .await;
            let written = match written {
                Ok(()) => self.flush_device(device).await,
                failed => failed,
            };
            match written {
                Ok(()) => {
                    device.superblock_at.set((sequence + 1, 1 - copy));
                    result = Ok(());
                }
                Err(error) if result.is_err() => result = Err(error),
                Err(_) => {}
            }
        }
        self.epoch.set(epoch);
        result
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
        self.io.spawn(
            Priority::Background,
            async move { store.copy_marks().await },
        );
        if self.config.shard.0 == 0 {
            let store = Rc::clone(self);
            self.io
                .spawn(Priority::Background, async move { store.note_wear().await });
        }
    }
}

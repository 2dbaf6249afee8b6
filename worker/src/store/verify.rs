//! Looking at a device without a worker: what it is, what it holds, and whether all of it is right.
//!
//! It reads with ordinary calls on the caller's thread, and takes the lock of the device, so that
//! it never looks at one that a worker is writing.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use corelane_io::PAGE_SIZE;
use corelane_rpc_schema::{BlockId, ObjectId};
use futures::FutureExt;
use rkyv::util::AlignedVec;

use super::claim::{DeviceLock, failed};
use super::error::StoreError;
use super::header::FORMAT_VERSION;
use super::region_records::{
    Content, Damaged, Look, RegionPages, RegionPlace, RegionRecords, extent_pages_max, look_at,
};
use super::state::{Slot, read_slot, rest_of_slot};
use super::summary::{FoundBlock, Summary, Writer};
use super::superblock::{REGIONS_OFFSET, STATE_OFFSETS, SUPERBLOCK_OFFSETS, Superblock};

/// Most places of damage that a report names; the counts go on.
pub const DAMAGE_NAMED_MAX: usize = 1000;

/// What is on a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceReport {
    /// Where it is.
    pub path: String,
    /// Version of the format.
    pub format_version: u32,
    /// Its uuid, in hex.
    pub uuid: String,
    /// The uuid of the set that it belongs to, in hex.
    pub set_uuid: String,
    /// Which device of the set it is.
    pub ordinal: u16,
    /// Devices of the set.
    pub devices: u16,
    /// Starts of a worker on it.
    pub epoch: u64,
    /// Bytes written to it since format, as of the last superblock.
    pub bytes_written: u64,
    /// Usable bytes.
    pub bytes: u64,
    /// Bytes in a region.
    pub region_bytes: u32,
    /// Regions.
    pub regions: u32,
    /// Partitions of the worker.
    pub partitions: u32,
    /// Regions that hold records.
    pub regions_used: u32,
    /// Of them, those with a valid footer; the others were open when the worker ended.
    pub regions_sealed: u32,
    /// Block records, those that no longer count included: of older copies, of freed objects.
    pub block_records: u64,
    /// Blocks that a worker would find.
    pub blocks: u64,
    /// Bytes of them.
    pub block_bytes: u64,
    /// Objects that they belong to.
    pub objects: u64,
    /// Objects with a tombstone.
    pub tombstones: u64,
    /// Objects that are pinned.
    pub pins: u64,
    /// Pages that were read and compared with their checksums; 0 without verification.
    pub pages_checked: u64,
    /// Of them, those of blocks that count and that did not match. Each is a miss for the worker, never
    /// wrong data.
    pub pages_wrong: u64,
    /// Of them, those that did not match, of blocks that no longer count: freed, or written again since.
    pub pages_wrong_unused: u64,
    /// Summaries, footers, and first pages of free regions that should check and do not.
    pub summaries_wrong: u64,
    /// Of regions in which nothing counts any more.
    pub summaries_wrong_unused: u64,
    /// Regions of which neither a summary nor the footer checks.
    pub regions_damaged: u64,
    /// Copies of the superblock and slots of state that do not check.
    pub copies_wrong: u64,
    /// Whether no slot of state checks: run-time mounts and unfinished jobs are lost.
    pub is_state_lost: bool,
    /// Where, up to [`DAMAGE_NAMED_MAX`] places.
    pub damage: Vec<Damage>,
}

/// A place that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Byte on the device.
    pub offset: u64,
    /// What should be there.
    pub what: String,
    /// Whether what should be there still counts.
    pub is_used: bool,
}

/// What the device at `path` is and holds, going by its records alone.
///
/// # Errors
/// When it is in use, cannot be read, or is not a device of this store.
pub fn inspect_offline(path: &Path) -> Result<DeviceReport, StoreError> {
    Inspection::open(path)?.run(false, |_, _| {})
}

/// The same, and every page of every block compared with its checksum. `progress` is told the
/// regions done and their number.
///
/// # Errors
/// As [`inspect_offline`].
pub fn verify_offline(
    path: &Path,
    progress: impl FnMut(u32, u32),
) -> Result<DeviceReport, StoreError> {
    Inspection::open(path)?.run(true, progress)
}

/// A block record: where it is, and its stamp.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Record {
    stamp: u64,
    region: u32,
    block: FoundBlock,
}

/// What is known of an object.
#[derive(Default)]
struct Known {
    /// Block bytes and bytes, if it has a record.
    sizes: Option<(u32, u64)>,
    freed: Vec<(u64, Writer)>,
    /// The latest pin or its end.
    pin: Option<(u64, bool)>,
}

/// A region as it was found.
#[derive(Clone, Copy, Default)]
struct RegionUse {
    has_records: bool,
    /// Whether something in it counts.
    is_used: bool,
}

struct Inspection {
    file: File,
    path: String,
    superblock: Superblock,
    is_marked: bool,
    report: DeviceReport,
    /// Of each block, the record with the largest stamp.
    blocks: HashMap<BlockId, Record>,
    objects: HashMap<ObjectId, Known>,
    regions: Vec<RegionUse>,
    _lock: DeviceLock,
}

/// The pages of one region of a file.
struct FilePages<'a> {
    inspection: &'a Inspection,
    local: u32,
}

impl RegionPages for FilePages<'_> {
    type Error = StoreError;

    async fn read(&self, page: u32, pages: u32, bytes: &mut AlignedVec) -> Result<(), StoreError> {
        bytes.extend_from_slice(&self.inspection.read(self.local, page, pages)?);
        Ok(())
    }
}

impl Inspection {
    fn open(path: &Path) -> Result<Self, StoreError> {
        let lock = DeviceLock::take(path)?;
        let cannot_read = |error: &std::io::Error| failed(error, path, "cannot read the device");
        let mut file = File::open(path).map_err(|error| cannot_read(&error))?;
        let length = file
            .seek(SeekFrom::End(0))
            .map_err(|error| cannot_read(&error))?;
        let name = path.display().to_string();
        let mut pages = [AlignedVec::<16>::new(), AlignedVec::new()];
        for (page, offset) in pages.iter_mut().zip(SUPERBLOCK_OFFSETS) {
            page.resize(PAGE_SIZE, 0);
            // A file too short for a superblock reads as zeroes there and is refused as such.
            read_up_to(&file, page, offset).map_err(|error| cannot_read(&error))?;
        }
        let (superblock, _, copy) = Superblock::choose([&pages[0], &pages[1]], &name, length)?;
        let hex = |uuid: [u8; 16]| uuid.iter().map(|byte| format!("{byte:02x}")).collect();
        let report = DeviceReport {
            path: name.clone(),
            format_version: FORMAT_VERSION,
            uuid: hex(superblock.uuid),
            set_uuid: hex(superblock.set_uuid),
            ordinal: superblock.ordinal,
            devices: superblock.devices,
            epoch: superblock.epoch,
            bytes_written: superblock.bytes_written,
            bytes: length,
            region_bytes: superblock.region_bytes,
            regions: superblock.regions,
            partitions: superblock.partitions,
            ..DeviceReport::default()
        };
        let mut inspection = Inspection {
            file,
            path: name,
            superblock,
            is_marked: Superblock::is_marked(&pages[copy]),
            report,
            blocks: HashMap::new(),
            objects: HashMap::new(),
            regions: vec![RegionUse::default(); superblock.regions as usize],
            _lock: lock,
        };
        for (page, offset) in pages.iter().zip(SUPERBLOCK_OFFSETS) {
            if !Superblock::is_valid(page) {
                inspection.report.copies_wrong += 1;
                inspection.name_damage(
                    offset,
                    true,
                    "a copy of the superblock; the other one is right",
                );
            }
        }
        inspection.look_at_state()?;
        Ok(inspection)
    }

    fn run(
        mut self,
        verify: bool,
        mut progress: impl FnMut(u32, u32),
    ) -> Result<DeviceReport, StoreError> {
        let regions = self.superblock.regions;
        let steps = if verify {
            regions.saturating_mul(2)
        } else {
            regions
        };
        let mut looks = Vec::new();
        for local in 0..regions {
            progress(local, steps);
            let look = self.look_at(local)?;
            if !look.damage.is_empty() {
                looks.push((
                    local,
                    look.damage.clone(),
                    matches!(look.content, Content::Unknown),
                ));
            }
            self.gather(local, &look);
        }
        self.settle();
        for (local, damage, is_unknown) in looks {
            // What is wrong in a region without records is that nobody can say that it is free.
            let region = self.regions[local as usize];
            let is_used = region.is_used || !region.has_records;
            for damage in damage {
                let what = match (damage.what, is_unknown) {
                    (Damaged::FirstPage, true) => {
                        format!("region {local}: no summary and no footer checks")
                    }
                    (what, _) => format!("the {} of region {local}", what.name()),
                };
                self.note_summary(self.offset(local, damage.page), is_used, what);
            }
            self.report.regions_damaged += u64::from(is_unknown);
        }
        if verify {
            for local in 0..regions {
                progress(regions + local, steps);
                if self.regions[local as usize].has_records {
                    self.verify(local)?;
                }
            }
        }
        progress(steps, steps);
        Ok(self.report)
    }

    fn offset(&self, local: u32, page: u32) -> u64 {
        REGIONS_OFFSET
            + u64::from(local) * u64::from(self.superblock.region_bytes)
            + u64::from(page) * PAGE_SIZE as u64
    }

    fn read(&self, local: u32, page: u32, pages: u32) -> Result<AlignedVec, StoreError> {
        self.read_at(self.offset(local, page), pages)
    }

    fn read_at(&self, offset: u64, pages: u32) -> Result<AlignedVec, StoreError> {
        let mut bytes = AlignedVec::new();
        bytes.resize(pages as usize * PAGE_SIZE, 0);
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(|error| failed(&error, Path::new(&self.path), "cannot read the device"))?;
        Ok(bytes)
    }

    fn name_damage(&mut self, offset: u64, is_used: bool, what: impl Into<String>) {
        if self.report.damage.len() < DAMAGE_NAMED_MAX {
            self.report.damage.push(Damage {
                offset,
                what: what.into(),
                is_used,
            });
        }
    }

    fn note_summary(&mut self, offset: u64, is_used: bool, what: String) {
        if is_used {
            self.report.summaries_wrong += 1;
        } else {
            self.report.summaries_wrong_unused += 1;
        }
        self.name_damage(offset, is_used, what);
    }

    fn look_at_state(&mut self) -> Result<(), StoreError> {
        let (seed, is_marked) = (self.superblock.seed(), self.is_marked);
        let (mut damaged, mut has_state) = (Vec::new(), false);
        for offset in STATE_OFFSETS {
            let mut bytes = self.read_at(offset, 1)?;
            if let Some(pages) = rest_of_slot(&bytes) {
                bytes = self.read_at(offset, pages + 1)?;
            }
            match read_slot(&bytes, seed, is_marked) {
                Slot::Empty => {}
                Slot::Damaged => damaged.push(offset),
                Slot::State(sequence, _) => has_state |= sequence > 0,
            }
        }
        // The first state goes into slot 1.
        self.report.is_state_lost = !has_state && damaged.contains(&STATE_OFFSETS[1]);
        for offset in damaged {
            self.report.copies_wrong += 1;
            let what = if self.report.is_state_lost {
                "a slot for run-time mounts and jobs, and the other one holds none: they are lost"
            } else {
                "a slot for run-time mounts and jobs; the other one is right"
            };
            self.name_damage(offset, true, what);
        }
        Ok(())
    }

    fn look_at(&self, local: u32) -> Result<Look, StoreError> {
        let place = RegionPlace {
            local,
            region_pages: self.superblock.region_pages(),
            seed: self.superblock.seed(),
            is_marked: self.is_marked,
            extent_pages_max: extent_pages_max(0),
            reader: None,
        };
        let pages = FilePages {
            inspection: self,
            local,
        };
        look_at(&pages, place)
            .now_or_never()
            .expect("reads of a file do not wait")
    }

    /// Notes what the records of a region say.
    fn gather(&mut self, local: u32, look: &Look) {
        let Content::Records(records) = &look.content else {
            return;
        };
        self.regions[local as usize].has_records = true;
        self.report.regions_used += 1;
        self.report.regions_sealed += u32::from(!records.walked);
        for summary in records.summaries() {
            for object in summary.objects(|_| true) {
                let sizes = (object.block_bytes, object.length);
                self.objects.entry(object.id).or_default().sizes = Some(sizes);
            }
            for mark in summary.tombstones() {
                self.regions[local as usize].is_used = true;
                let known = self.objects.entry(mark.object).or_default();
                known.freed.push((mark.stamp, mark.writer));
            }
            for mark in summary.pins() {
                self.regions[local as usize].is_used = true;
                let known = self.objects.entry(mark.object).or_default();
                known.pin = known.pin.max(Some((mark.stamp, mark.pinned)));
            }
            for block in summary.blocks() {
                self.report.block_records += 1;
                let record = Record {
                    stamp: summary.header.stamp,
                    region: local,
                    block,
                };
                let known = self.blocks.entry(block.id).or_insert(record);
                if known.stamp < record.stamp {
                    *known = record;
                }
            }
        }
    }

    /// Leaves the blocks that count, and counts them.
    fn settle(&mut self) {
        let blocks = std::mem::take(&mut self.blocks);
        self.blocks = blocks
            .into_iter()
            .filter(|(_, record)| self.counts(record))
            .collect();
        let mut objects = HashSet::new();
        for (id, record) in &self.blocks {
            self.regions[record.region as usize].is_used = true;
            self.report.block_bytes += u64::from(record.block.length);
            objects.insert(id.object);
        }
        self.report.blocks = self.blocks.len() as u64;
        self.report.objects = objects.len() as u64;
        for known in self.objects.values() {
            self.report.tombstones += u64::from(!known.freed.is_empty());
            self.report.pins += u64::from(known.pin.is_some_and(|(_, is_pinned)| is_pinned));
        }
    }

    /// Whether a worker would find the block: see "What counts" in `docs/format.md`.
    fn counts(&self, record: &Record) -> bool {
        let FoundBlock {
            id,
            length,
            partition,
            ..
        } = record.block;
        let Some(known) = self.objects.get(&id.object) else {
            return false;
        };
        let Some((block_bytes, bytes)) = known.sizes else {
            return false;
        };
        let start = u64::from(id.index) * u64::from(block_bytes);
        let fits =
            start < bytes && (bytes - start).min(u64::from(block_bytes)) == u64::from(length);
        let is_freed = known.freed.iter().any(|(stamp, writer)| {
            let shards = writer.shards.max(1);
            let partitions = self.superblock.partitions;
            record.stamp < *stamp
                && corelane_placement::shard_of(partition, partitions, shards) == writer.shard
        });
        fits && !is_freed
    }

    /// Compares every page of a region's blocks with its checksum, and the summaries with their copies.
    fn verify(&mut self, local: u32) -> Result<(), StoreError> {
        let Some(records) = self.look_at(local)?.into_records() else {
            return Ok(());
        };
        self.verify_summaries(local, &records)?;
        for summary in records.summaries() {
            self.verify_blocks(local, &summary)?;
        }
        Ok(())
    }

    /// Of a region with a footer only the first summary was compared with its copy.
    fn verify_summaries(&mut self, local: u32, records: &RegionRecords) -> Result<(), StoreError> {
        if records.walked {
            return Ok(());
        }
        let is_used = self.regions[local as usize].is_used;
        for summary in records.summaries() {
            let page = summary.header.first_page;
            let bytes = self.read(local, page, summary.summary_pages)?;
            let seed = self.superblock.seed();
            let is_right = Summary::open(&bytes, seed, self.superblock.region_pages())
                .is_ok_and(|found| found.header == summary.header);
            // The first page was told already.
            let is_told = page == 0 && records.is_first_page_wrong;
            if !(is_right || is_told) {
                let what = format!("a summary of region {local}; its footer is right");
                self.note_summary(self.offset(local, page), is_used, what);
            }
        }
        Ok(())
    }

    fn verify_blocks(&mut self, local: u32, summary: &Summary<'_>) -> Result<(), StoreError> {
        let (data_page, checksums) = summary.checksums();
        let checksums: Vec<u32> = checksums.collect();
        for block in summary.blocks() {
            let here = Record {
                stamp: summary.header.stamp,
                region: local,
                block,
            };
            let is_used = self.blocks.get(&block.id) == Some(&here);
            let pages = block.length.div_ceil(PAGE_SIZE as u32);
            let data = self.read(local, block.first_page, pages)?;
            for (number, page) in data.chunks_exact(PAGE_SIZE).enumerate() {
                self.report.pages_checked += 1;
                let page_number = block.first_page + number as u32;
                if crc32c::crc32c(page) == checksums[(page_number - data_page) as usize] {
                    continue;
                }
                if is_used {
                    self.report.pages_wrong += 1;
                } else {
                    self.report.pages_wrong_unused += 1;
                }
                let what = format!("page {number} of block {}", block.id);
                self.name_damage(self.offset(local, page_number), is_used, what);
            }
        }
        Ok(())
    }
}

fn read_up_to(file: &File, bytes: &mut [u8], offset: u64) -> std::io::Result<()> {
    let mut at = 0;
    while at < bytes.len() {
        match file.read_at(&mut bytes[at..], offset + at as u64)? {
            0 => break,
            count => at += count,
        }
    }
    Ok(())
}

//! Looking at a device without a worker: what it is, what it holds, and whether all of it is right.
//!
//! It reads with ordinary calls on the caller's thread, and takes the lock of the device, so that
//! it never looks at one that a worker is writing.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use corelane_io::PAGE_SIZE;
use rkyv::util::AlignedVec;

use super::claim::{DeviceLock, failed};
use super::error::StoreError;
use super::header::{FORMAT_VERSION, Header, Kind};
use super::summary::{Summary, extent_of};
use super::superblock::{REGIONS_OFFSET, SUPERBLOCK_OFFSETS, Superblock};

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
    /// Block records, older copies of moved blocks included.
    pub block_records: u64,
    /// Different blocks.
    pub blocks: u64,
    /// Bytes of the block records.
    pub block_bytes: u64,
    /// Different objects.
    pub objects: u64,
    /// Tombstone records.
    pub tombstones: u64,
    /// Pin records.
    pub pins: u64,
    /// Pages that were read and compared with their checksums; 0 without verification.
    pub pages_checked: u64,
    /// Of them, those that did not match. Each is a miss for the worker, never wrong data.
    pub pages_wrong: u64,
    /// Summaries or footers that should check and do not.
    pub summaries_wrong: u64,
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

struct Inspection {
    file: File,
    path: String,
    superblock: Superblock,
    report: DeviceReport,
    blocks: HashSet<(u64, u64, u32)>,
    objects: HashSet<(u64, u64)>,
    _lock: DeviceLock,
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
        let (superblock, _, _) = Superblock::choose([&pages[0], &pages[1]], &name, length)?;
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
        Ok(Inspection {
            file,
            path: name,
            superblock,
            report,
            blocks: HashSet::new(),
            objects: HashSet::new(),
            _lock: lock,
        })
    }

    fn run(
        mut self,
        verify: bool,
        mut progress: impl FnMut(u32, u32),
    ) -> Result<DeviceReport, StoreError> {
        for local in 0..self.superblock.regions {
            progress(local, self.superblock.regions);
            self.look_at(local, verify)?;
        }
        progress(self.superblock.regions, self.superblock.regions);
        self.report.blocks = self.blocks.len() as u64;
        self.report.objects = self.objects.len() as u64;
        Ok(self.report)
    }

    fn offset(&self, local: u32, page: u32) -> u64 {
        REGIONS_OFFSET
            + u64::from(local) * u64::from(self.superblock.region_bytes)
            + u64::from(page) * PAGE_SIZE as u64
    }

    fn read(&self, local: u32, page: u32, pages: u32) -> Result<AlignedVec, StoreError> {
        let mut bytes = AlignedVec::new();
        bytes.resize(pages as usize * PAGE_SIZE, 0);
        let offset = self.offset(local, page);
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(|error| failed(&error, Path::new(&self.path), "cannot read the device"))?;
        Ok(bytes)
    }

    fn name_damage(&mut self, offset: u64, what: impl Into<String>) {
        if self.report.damage.len() < DAMAGE_NAMED_MAX {
            self.report.damage.push(Damage {
                offset,
                what: what.into(),
            });
        }
    }

    fn look_at(&mut self, local: u32, verify: bool) -> Result<(), StoreError> {
        let region_pages = self.superblock.region_pages();
        let first = self.read(local, 0, 1)?;
        let Some((head, _)) =
            extent_of(&first, region_pages).filter(|(head, _)| head.region == local)
        else {
            return Ok(());
        };
        let copies = self.footer(local, head)?;
        let walked = self.walk(local, head)?;
        if copies.is_empty() && walked.is_empty() {
            // Left by an earlier format of the device, or a region whose first extent was torn.
            return Ok(());
        }
        self.report.regions_used += 1;
        if !copies.is_empty() {
            self.report.regions_sealed += 1;
            if walked.len() != copies.len() {
                self.report.summaries_wrong += 1;
                self.name_damage(
                    self.offset(local, 0),
                    format!("a summary of region {local}; its footer is right"),
                );
            }
        }
        let summaries = if copies.is_empty() { walked } else { copies };
        for bytes in &summaries {
            self.count(bytes, region_pages, verify)?;
        }
        Ok(())
    }

    /// The copies of the summaries, if there is a footer that counts.
    fn footer(&mut self, local: u32, head: Header) -> Result<Vec<AlignedVec>, StoreError> {
        let region_pages = self.superblock.region_pages();
        let last_page = region_pages - 1;
        let trailer = self.read(local, last_page, 1)?;
        let trailer = Header::open(&trailer, self.superblock.seed())
            .ok()
            .filter(|(trailer, _)| {
                trailer.kind == Kind::Footer
                    && trailer.region == local
                    && trailer.sequence == head.sequence
                    && trailer.first_page.checked_add(trailer.pages) == Some(last_page)
            });
        let Some((trailer, _)) = trailer else {
            return Ok(Vec::new());
        };
        let bytes = self.read(local, trailer.first_page, trailer.pages)?;
        let (mut copies, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let Ok(summary) = Summary::open(&bytes[at..], self.superblock.seed(), region_pages)
            else {
                self.report.summaries_wrong += 1;
                let offset = self.offset(local, trailer.first_page) + at as u64;
                self.name_damage(offset, format!("the footer of region {local}"));
                return Ok(Vec::new());
            };
            let end = (at + summary.summary_pages as usize * PAGE_SIZE).min(bytes.len());
            let mut copy = AlignedVec::new();
            copy.extend_from_slice(&bytes[at..end]);
            copies.push(copy);
            at = end;
        }
        Ok(copies)
    }

    /// The summaries from the first on, up to the first that does not check.
    fn walk(&self, local: u32, head: Header) -> Result<Vec<AlignedVec>, StoreError> {
        let (region_pages, seed) = (self.superblock.region_pages(), self.superblock.seed());
        let (mut found, mut page) = (Vec::new(), 0);
        while page < region_pages {
            let first = self.read(local, page, 1)?;
            let plausible = extent_of(&first, region_pages).filter(|(header, _)| {
                header.sequence == head.sequence && header.first_page == page
            });
            let Some((_, pages)) = plausible else { break };
            let bytes = self.read(local, page, pages)?;
            let Ok(summary) = Summary::open(&bytes, seed, region_pages) else {
                break;
            };
            if summary.header.region != local {
                break;
            }
            page = summary.header.first_page + summary.header.pages;
            found.push(bytes);
        }
        Ok(found)
    }

    fn count(&mut self, bytes: &[u8], region_pages: u32, verify: bool) -> Result<(), StoreError> {
        let summary = Summary::open(bytes, self.superblock.seed(), region_pages)
            .expect("it was checked when it was read");
        let local = summary.header.region;
        let (data_page, checksums) = summary.checksums();
        let checksums: Vec<u32> = checksums.collect();
        for id in summary.object_ids() {
            self.objects.insert((id.home, id.version));
        }
        self.report.tombstones += summary.tombstones().count() as u64;
        self.report.pins += summary.pins().count() as u64;
        for block in summary.blocks() {
            self.report.block_records += 1;
            self.report.block_bytes += u64::from(block.length);
            self.blocks.insert((
                block.id.object.home,
                block.id.object.version,
                block.id.index,
            ));
            if !verify {
                continue;
            }
            let pages = block.length.div_ceil(PAGE_SIZE as u32);
            let data = self.read(local, block.first_page, pages)?;
            for (number, page) in data.chunks_exact(PAGE_SIZE).enumerate() {
                self.report.pages_checked += 1;
                let page_number = block.first_page + number as u32;
                if crc32c::crc32c(page) != checksums[(page_number - data_page) as usize] {
                    self.report.pages_wrong += 1;
                    let what = format!("page {number} of block {}", block.id);
                    self.name_damage(self.offset(local, page_number), what);
                }
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

//! Making a device a device of this store.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use corelane_io::{Device, FramePool, IoError, IoErrorKind, PAGE_SIZE};
use corelane_rpc_schema::PARTITIONS_MAX;
use rkyv::util::AlignedVec;

use super::claim::{DeviceLock, failed};
use super::config::FormatOptions;
use super::error::StoreError;
use super::foreign_data;
use super::header::{Header, Kind};
use super::state::empty_state;
use super::superblock::{
    DEVICES_MAX, REGION_BYTES_MAX, REGION_BYTES_MIN, REGIONS_MIN, REGIONS_OFFSET, STATE_OFFSETS,
    SUPERBLOCK_OFFSETS, Superblock,
};

/// Bytes that are erased by force at the start (all before the first region) and at the end, where
/// other owners of a drive have their marks.
const ERASED_BYTES: u64 = REGIONS_OFFSET;

/// Formats `devices` as one set, through the backend that they were opened with.
///
/// # Errors
/// When the options are out of bounds, a device is too small, or it cannot be written.
pub async fn format_devices<D: Device>(
    devices: &[D],
    options: FormatOptions,
    scratch: &FramePool,
) -> Result<(), StoreError> {
    for (ordinal, device) in devices.iter().enumerate() {
        let geometry = device.geometry();
        let path = geometry.path.display().to_string();
        let superblock = superblock_for(&path, geometry.length, ordinal, devices.len(), options)?;
        for (offset, page) in pages_of(&superblock) {
            write_page(device, scratch, offset, &page).await?;
        }
        device.flush().await?;
    }
    Ok(())
}

/// The pages of an empty device and where they go, the superblock last. Regions of an earlier life
/// would not be recovered, for the seed of their CRCs is another; but only a region that says so is
/// free, so that damage differs from emptiness.
pub(super) fn pages_of(superblock: &Superblock) -> impl Iterator<Item = (u64, Vec<u8>)> {
    let (superblock, seed) = (*superblock, superblock.seed());
    let regions = (0..superblock.regions).map(move |region| {
        let offset = REGIONS_OFFSET + u64::from(region) * u64::from(superblock.region_bytes);
        (offset, Header::region_page(Kind::Free, 0, region, 0, seed))
    });
    let states = STATE_OFFSETS.map(|offset| (offset, empty_state(seed)));
    let copies = SUPERBLOCK_OFFSETS.into_iter().enumerate();
    let copies =
        copies.map(move |(copy, offset)| (offset, superblock.encode(copy as u64 + 1, true)));
    regions.chain(states).chain(copies)
}

async fn write_page<D: Device>(
    device: &D,
    scratch: &FramePool,
    offset: u64,
    page: &[u8],
) -> Result<(), StoreError> {
    let frame = scratch.take().ok_or_else(|| {
        IoError::new(
            IoErrorKind::Limit,
            "no scratch frame is free to format with; give the pool one more",
        )
    })?;
    let mut lease = frame.lease(0..1).expect("a fresh frame is vacant");
    lease.bytes_mut().copy_from_slice(page);
    lease.seal();
    device.write(offset, frame.slice(0..PAGE_SIZE)).await?;
    Ok(())
}

/// Formats the files or block devices at `paths` as one set. Files that are missing are created at
/// `size`, for their owner alone to read and write; smaller ones are made that large. What holds a store
/// already, or anything but zeroes in the places that are looked at (start, end, and samples between
/// them), is refused without `force`. What is in use is refused always.
///
/// A call that fails leaves no file that it created, and no file longer than it was.
///
/// # Errors
/// When the options are out of bounds, a device is too small, in use, not empty, read-only, or cannot be
/// written; or the file system has no room for a file.
pub fn format_paths(
    paths: &[&Path],
    size: Option<u64>,
    options: FormatOptions,
    force: bool,
) -> Result<(), StoreError> {
    // All are looked at before the first is written.
    let mut targets = Vec::new();
    for path in paths {
        let target = Target::claim(path, size)?;
        if !force {
            target.refuse_if_used()?;
        }
        targets.push(target);
    }
    let superblocks = targets
        .iter()
        .enumerate()
        .map(|(ordinal, target)| {
            superblock_for(
                &target.name(),
                target.length,
                ordinal,
                targets.len(),
                options,
            )
        })
        .collect::<Result<Vec<_>, _>>()?;
    refuse_without_room(&targets)?;
    for target in &mut targets {
        target.allocate()?;
    }
    for (target, superblock) in targets.iter().zip(&superblocks) {
        if force {
            target.erase_marks()?;
        }
        for (offset, page) in pages_of(superblock) {
            target.write(&page, offset)?;
        }
        target.sync()?;
    }
    for target in &mut targets {
        target.undo = Undo::Nothing;
    }
    Ok(())
}

/// Whether there is a regular file at `path` that nobody has formatted and nobody has written to: what
/// a creation that was interrupted leaves behind.
///
/// # Errors
/// When it cannot be read.
pub fn is_blank_file(path: &Path) -> Result<bool, StoreError> {
    let cannot_read = |error: &std::io::Error| failed(error, path, "cannot read the device");
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Ok(false),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(cannot_read(&error)),
    }
    let file = File::open(path).map_err(|error| cannot_read(&error))?;
    let metadata = file.metadata().map_err(|error| cannot_read(&error))?;
    Ok(foreign_data::find(&file, metadata.len(), true).is_none())
}

/// What is taken back of a device unless formatting succeeds.
enum Undo {
    Nothing,
    /// The file was created.
    Remove,
    /// The file had so many bytes.
    Truncate(u64),
}

/// A device that is being formatted, claimed for as long as this lives.
struct Target {
    path: PathBuf,
    claim: DeviceLock,
    is_file: bool,
    /// Bytes that it has, of which `allocated` take room on the file system.
    present: u64,
    allocated: u64,
    /// Bytes that it is to have.
    length: u64,
    undo: Undo,
}

impl Target {
    fn claim(path: &Path, size: Option<u64>) -> Result<Target, StoreError> {
        let created = match size {
            None => None,
            Some(_) => create(path)?,
        };
        let (claim, mut undo) = match created {
            // What another process locks in the same moment is left to it.
            Some(file) => (DeviceLock::of_new_file(file, path)?, Undo::Remove),
            None => (DeviceLock::take_for_writing(path)?, Undo::Nothing),
        };
        let describe = |error: &std::io::Error| failed(error, path, "cannot look at the device");
        let metadata = claim.file().metadata().map_err(|error| describe(&error))?;
        let is_file = metadata.is_file();
        let present = if is_file {
            metadata.len()
        } else {
            use std::io::{Seek, SeekFrom};
            let end = (&mut claim.file()).seek(SeekFrom::End(0));
            end.map_err(|error| describe(&error))?
        };
        let length = match size {
            Some(size) if is_file => size.max(present),
            Some(size) if size > present => {
                return Err(StoreError::Mismatch(format!(
                    "{} has {present} bytes, less than the size that was asked for: leave --size out",
                    path.display()
                )));
            }
            Some(size) => size,
            None => present,
        };
        if is_file && matches!(undo, Undo::Nothing) {
            undo = Undo::Truncate(present);
        }
        Ok(Target {
            path: path.to_owned(),
            claim,
            is_file,
            present,
            // Allocated 512 bytes at a time, whatever the block size is (stat(2)).
            allocated: metadata.blocks() * 512,
            length,
            undo,
        })
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn file(&self) -> &File {
        self.claim.file()
    }

    fn refuse_if_used(&self) -> Result<(), StoreError> {
        let path = self.name();
        let mut first = AlignedVec::<16>::new();
        first.resize(PAGE_SIZE, 0);
        let mut second = first.clone();
        for (page, offset) in [
            (&mut first, SUPERBLOCK_OFFSETS[0]),
            (&mut second, SUPERBLOCK_OFFSETS[1]),
        ] {
            // A page that is not there, or cannot be read, is no superblock; whether it may be
            // overwritten is seen below.
            let _ = self.file().read_at(page, offset);
        }
        let found = match Superblock::choose([&first, &second], &path, u64::MAX) {
            Ok((superblock, _, _)) => format!(
                "it holds a Corelane store of {} regions, started {} times",
                superblock.regions, superblock.epoch
            ),
            Err(StoreError::NotOurs { found, .. }) if found.contains("Corelane") => found,
            Err(_) => match foreign_data::find(self.file(), self.present, self.is_file) {
                None => return Ok(()),
                Some(data) => data.to_string(),
            },
        };
        Err(StoreError::NotOurs {
            command: super::superblock::format_command(&path, self.length),
            device: path,
            found,
        })
    }

    /// Gives the file its length, with its blocks allocated.
    fn allocate(&mut self) -> Result<(), StoreError> {
        if !self.is_file || self.length == 0 {
            return Ok(());
        }
        let length = i64::try_from(self.length)
            .map_err(|_| StoreError::Mismatch(format!("{} bytes are too many", self.length)))?;
        // SAFETY: the descriptor is open for as long as `self` is borrowed; the call takes no pointer.
        let errno = unsafe { libc::posix_fallocate(self.file().as_raw_fd(), 0, length) };
        if errno == 0 {
            return Ok(());
        }
        let error = IoError::from_errno(
            errno,
            "cannot allocate the device file; free some space or choose a smaller size",
        );
        Err(error
            .with("device", self.path.display())
            .with("bytes", self.length)
            .into())
    }

    /// Erases what tells other programs that the device is theirs: a RAID or volume group that is found at the
    /// next boot would take the device, and write to it.
    fn erase_marks(&self) -> Result<(), StoreError> {
        let zeroes = vec![0; ERASED_BYTES as usize];
        self.write(&zeroes, 0)?;
        self.write(&zeroes, self.present.saturating_sub(ERASED_BYTES))?;
        // Before the superblocks: a device with both would be used by either.
        self.sync()
    }

    fn write(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        self.file()
            .write_all_at(bytes, offset)
            .map_err(|error| failed(&error, &self.path, "cannot write the superblock"))
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.file()
            .sync_all()
            .map_err(|error| failed(&error, &self.path, "cannot flush the superblock"))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // The error that is being returned says more than one of these would.
        match self.undo {
            Undo::Nothing => {}
            Undo::Remove => drop(std::fs::remove_file(&self.path)),
            Undo::Truncate(length) => drop(self.file().set_len(length)),
        }
    }
}

/// Creates the file at `path`, for its owner alone: it will hold what only some may read. `None` where there
/// is something already.
fn create(path: &Path) -> Result<Option<File>, StoreError> {
    let created = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match created {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(None),
        // A device node may be where no file can be created.
        Err(_) if path.exists() => Ok(None),
        Err(error) => Err(failed(
            &error,
            path,
            "cannot create the device file; check the folder and its permissions",
        )),
    }
}

/// Refuses files that together do not fit their file system, before any of it is taken.
fn refuse_without_room(targets: &[Target]) -> Result<(), StoreError> {
    let mut wanted = HashMap::<u64, u64>::new();
    for target in targets.iter().filter(|target| target.is_file) {
        let describe =
            |error: &std::io::Error| failed(error, &target.path, "cannot look at the file system");
        let metadata = target.file().metadata().map_err(|error| describe(&error))?;
        let system =
            rustix::fs::fstatvfs(target.file()).map_err(|error| describe(&error.into()))?;
        let wanted = wanted.entry(metadata.dev()).or_default();
        *wanted = wanted.saturating_add(target.length.saturating_sub(target.allocated));
        let free = system.f_bavail.saturating_mul(system.f_frsize);
        // A file system that does not say how large it is does not say what is free either.
        if system.f_blocks > 0 && *wanted > free {
            let error = IoError::from_errno(
                libc::ENOSPC,
                "the file system has no room for the device file; free some space or choose a smaller size",
            );
            return Err(error
                .with("device", target.path.display())
                .with("bytes", target.length)
                .with("bytes_free", free)
                .into());
        }
    }
    Ok(())
}

pub(super) fn superblock_for(
    path: &str,
    length: u64,
    ordinal: usize,
    devices: usize,
    options: FormatOptions,
) -> Result<Superblock, StoreError> {
    let refuse = |text: String| Err(StoreError::Mismatch(text));
    let FormatOptions {
        region_bytes,
        partitions,
        set_uuid,
    } = options;
    if !(REGION_BYTES_MIN..=REGION_BYTES_MAX).contains(&region_bytes)
        || !(region_bytes as usize).is_multiple_of(PAGE_SIZE)
    {
        return refuse(format!(
            "a region of {region_bytes} bytes is not whole pages between {REGION_BYTES_MIN} and {REGION_BYTES_MAX}"
        ));
    }
    if !partitions.is_power_of_two()
        || partitions > PARTITIONS_MAX
        || devices > usize::from(DEVICES_MAX)
    {
        return refuse(format!(
            "{partitions} partitions on {devices} devices: partitions are a power of two up to \
             {PARTITIONS_MAX}, devices at most {DEVICES_MAX}"
        ));
    }
    if devices > partitions as usize {
        return refuse(format!(
            "{devices} devices need at least as many partitions, not {partitions}"
        ));
    }
    let regions = length.saturating_sub(REGIONS_OFFSET) / u64::from(region_bytes);
    if regions < u64::from(REGIONS_MIN) {
        return refuse(format!(
            "{path} has {length} bytes, room for {regions} regions of {region_bytes}; a store needs {REGIONS_MIN}: \
             give it at least {} bytes, or smaller regions",
            REGIONS_OFFSET + u64::from(REGIONS_MIN) * u64::from(region_bytes)
        ));
    }
    // The seed of all CRCs on the device: another one for each device of each set.
    let mut uuid = set_uuid;
    uuid[14] ^= ((ordinal + 1) >> 8) as u8;
    uuid[15] ^= (ordinal + 1) as u8;
    Ok(Superblock {
        set_uuid,
        uuid,
        epoch: 0,
        bytes_written: 0,
        region_bytes,
        regions: regions.min(u64::from(u32::MAX)) as u32,
        partitions,
        ordinal: ordinal as u16,
        devices: devices as u16,
        owner: 0,
    })
}

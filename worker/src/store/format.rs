//! Making a device a device of this store, and keeping two workers off it.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use corelane_io::{Device, FramePool, IoError, IoErrorKind, PAGE_SIZE};
use corelane_rpc_schema::PARTITIONS_MAX;
use rkyv::util::AlignedVec;

use super::config::FormatOptions;
use super::error::StoreError;
use super::header::{Header, Kind};
use super::state::empty_state;
use super::superblock::{
    DEVICES_MAX, REGION_BYTES_MAX, REGION_BYTES_MIN, REGIONS_MIN, REGIONS_OFFSET, STATE_OFFSETS,
    SUPERBLOCK_OFFSETS, Superblock,
};

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

/// Formats the files or block devices at `paths` as one set. Files that are missing or smaller than
/// `size` are made that large first. What holds a store already, or anything but zeroes, is
/// refused without `force`.
///
/// # Errors
/// When the options are out of bounds, a device is too small, in use, not empty, or cannot be written.
pub fn format_paths(
    paths: &[&Path],
    size: Option<u64>,
    options: FormatOptions,
    force: bool,
) -> Result<(), StoreError> {
    // All are looked at before the first is written.
    let mut opened = Vec::new();
    for path in paths {
        let is_new = !path.exists();
        let lock = if is_new {
            None
        } else {
            Some(DeviceLock::take(path)?)
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(size.is_some())
            .truncate(false)
            .open(path)
            .map_err(|error| {
                failed(
                    &error,
                    path,
                    "cannot open the device; name an existing one or give --size",
                )
            })?;
        let name = path.display().to_string();
        if !force && !is_new {
            refuse_if_used(&file, &name)?;
        }
        let length = grow(&file, path, size)?;
        opened.push((file, name, length, lock));
    }
    for (ordinal, (file, name, length, _)) in opened.iter().enumerate() {
        let superblock = superblock_for(name, *length, ordinal, opened.len(), options)?;
        for (offset, page) in pages_of(&superblock) {
            file.write_all_at(&page, offset)
                .map_err(|error| failed(&error, Path::new(name), "cannot write the superblock"))?;
        }
        file.sync_all()
            .map_err(|error| failed(&error, Path::new(name), "cannot flush the superblock"))?;
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
        reserved: 0,
    })
}

fn refuse_if_used(file: &File, path: &str) -> Result<(), StoreError> {
    let mut first = AlignedVec::<16>::new();
    first.resize(PAGE_SIZE, 0);
    let mut second = first.clone();
    for (page, offset) in [
        (&mut first, SUPERBLOCK_OFFSETS[0]),
        (&mut second, SUPERBLOCK_OFFSETS[1]),
    ] {
        // A short file leaves zeroes, which is what it holds there.
        let _ = file.read_at(page, offset);
    }
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    let found = match Superblock::choose([&first, &second], path, u64::MAX) {
        Ok((superblock, _, _)) => {
            format!(
                "it holds a Corelane store of {} regions, started {} times",
                superblock.regions, superblock.epoch
            )
        }
        Err(_) if first.iter().chain(second.iter()).all(|byte| *byte == 0) => return Ok(()),
        Err(StoreError::NotOurs { found, .. }) => found,
        Err(other) => return Err(other),
    };
    Err(StoreError::NotOurs {
        device: path.to_owned(),
        found,
        command: super::superblock::format_command(path, length),
    })
}

/// Makes a regular file at least `size` bytes long, with its blocks allocated; gives the usable bytes.
fn grow(file: &File, path: &Path, size: Option<u64>) -> Result<u64, StoreError> {
    let describe = |error: &std::io::Error| failed(error, path, "cannot look at the device");
    let metadata = file.metadata().map_err(|error| describe(&error))?;
    if metadata.file_type().is_block_device() {
        use std::io::{Seek, SeekFrom};
        let length = (&mut &*file)
            .seek(SeekFrom::End(0))
            .map_err(|error| describe(&error))?;
        if size.is_some_and(|size| size > length) {
            return Err(StoreError::Mismatch(format!(
                "{} has {length} bytes, less than the size that was asked for: leave --size out",
                path.display()
            )));
        }
        return Ok(size.unwrap_or(length));
    }
    let size = size.unwrap_or(metadata.len()).max(metadata.len());
    if size > 0 {
        let length = i64::try_from(size)
            .map_err(|_| StoreError::Mismatch(format!("{size} bytes are too many")))?;
        // SAFETY: the descriptor is open for as long as `file` is borrowed; the call takes no pointer.
        let errno = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, length) };
        if errno != 0 {
            let error = IoError::from_errno(
                errno,
                "cannot allocate the device file; free some space or choose a smaller size",
            );
            return Err(error
                .with("device", path.display())
                .with("bytes", size)
                .into());
        }
    }
    Ok(size)
}

/// Keeps other processes from using a device, until dropped.
#[derive(Debug)]
pub struct DeviceLock {
    _file: File,
}

impl DeviceLock {
    /// Locks the device at `path` for this process. Once a process: its shards share the lock.
    ///
    /// # Errors
    /// When another holder of the lock lives, or the device cannot be opened.
    pub fn take(path: &Path) -> Result<Self, StoreError> {
        let file = File::open(path).map_err(|error| {
            failed(
                &error,
                path,
                "cannot open the device; check the path and the permissions",
            )
        })?;
        // SAFETY: the descriptor is open for as long as `file` lives; the call takes no pointer.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(DeviceLock { _file: file });
        }
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::EWOULDBLOCK) {
            return Err(StoreError::Locked {
                device: path.display().to_string(),
            });
        }
        Err(failed(
            &error,
            path,
            "cannot lock the device; its file system must know flock",
        ))
    }
}

pub(super) fn failed(error: &std::io::Error, path: &Path, message: &str) -> StoreError {
    IoError::from_std(error, message)
        .with("device", path.display())
        .into()
}

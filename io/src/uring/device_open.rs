//! Opening a device: what it is, how long, how aligned; or why it cannot be used.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::DeviceGeometry;
use crate::buffer::PAGE_SIZE;
use crate::cores;
use crate::error::{IoError, IoErrorKind};

/// ioctl numbers of linux/fs.h: `_IO(0x12, 104)` and `_IOR(0x12, 114, size_t)`.
const BLKSSZGET: libc::c_ulong = 0x1268;
const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;

pub(crate) struct Opened {
    pub file: File,
    pub geometry: DeviceGeometry,
}

/// Opens `path` for direct I/O.
pub(crate) fn open(path: &Path) -> Result<Opened, IoError> {
    check_type(path).map_err(|error| error.with("device", path.display()))?;
    let file =
        open_direct(path).map_err(|error| open_failed(&error).with("device", path.display()))?;
    let geometry = geometry(path, &file).map_err(|error| error.with("device", path.display()))?;
    Ok(Opened { file, geometry })
}

/// Opens without marking each read in the inode, if that is allowed: only the file's owner may ask for it.
fn open_direct(path: &Path) -> std::io::Result<File> {
    let open = |more_flags| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT | libc::O_NONBLOCK | libc::O_CLOEXEC | more_flags)
            .open(path)
    };
    match open(libc::O_NOATIME) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => open(0),
        opened => opened,
    }
}

/// Looks before opening: opening a character device or a pipe may have effects.
fn check_type(path: &Path) -> Result<(), IoError> {
    let kind = std::fs::metadata(path)
        .map_err(|error| open_failed(&error))?
        .file_type();
    if kind.is_file() || kind.is_block_device() {
        return Ok(());
    }
    let message = "a device is a regular file or a block device; name one of these";
    Err(IoError::new(IoErrorKind::InvalidInput, message))
}

/// Why a path cannot be opened, and what to do.
fn open_failed(error: &std::io::Error) -> IoError {
    match error.raw_os_error() {
        Some(libc::EINVAL) => {
            // What the kernel answers to O_DIRECT on a file system without it.
            let message = "the file system has no direct I/O (O_DIRECT); put the device file on ext4, xfs or tmpfs, or use a block device";
            IoError::new(IoErrorKind::Unsupported, message)
        }
        Some(libc::ENOENT) => IoError::from_std(
            error,
            "there is no such device; create it with `corelane device format`",
        ),
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => IoError::from_std(
            error,
            "the device may not be opened for reading and writing; give the worker's user the right to",
        ),
        _ => IoError::from_std(error, "cannot open the device"),
    }
}

fn geometry(path: &Path, file: &File) -> Result<DeviceGeometry, IoError> {
    let metadata = file
        .metadata()
        .map_err(|error| IoError::from_std(&error, "cannot read the type of the device"))?;
    let is_block_device = metadata.file_type().is_block_device();
    let (length, alignment) = if is_block_device {
        (block_device_bytes(file)?, logical_block_bytes(file)?)
    } else {
        (metadata.len(), direct_alignment(file)?)
    };
    let length = length / PAGE_SIZE as u64 * PAGE_SIZE as u64;
    if length == 0 {
        let message = "the device is empty; a file must be preallocated to its full size";
        return Err(IoError::new(IoErrorKind::InvalidInput, message));
    }
    if alignment as usize > PAGE_SIZE {
        let message = "the device wants direct I/O in larger units than 4096 bytes; use another device or file system";
        return Err(IoError::new(IoErrorKind::Unsupported, message).with("alignment", alignment));
    }
    let id = if is_block_device {
        metadata.rdev()
    } else {
        metadata.dev()
    };
    Ok(DeviceGeometry {
        path: path.to_owned(),
        length,
        alignment,
        is_block_device,
        numa_node: cores::numa_node_of_block_device(libc::major(id), libc::minor(id)),
    })
}

fn block_device_bytes(file: &File) -> Result<u64, IoError> {
    let mut bytes = 0u64;
    // SAFETY: the request writes one u64.
    if unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &raw mut bytes) } < 0 {
        let error = std::io::Error::last_os_error();
        return Err(IoError::from_std(
            &error,
            "cannot read the size of the block device",
        ));
    }
    Ok(bytes)
}

fn logical_block_bytes(file: &File) -> Result<u32, IoError> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes one int.
    if unsafe { libc::ioctl(file.as_raw_fd(), BLKSSZGET, &raw mut bytes) } < 0 {
        let error = std::io::Error::last_os_error();
        return Err(IoError::from_std(
            &error,
            "cannot read the block size of the device",
        ));
    }
    Ok(bytes as u32)
}

/// Alignment that the file system wants for direct I/O on `file`.
fn direct_alignment(file: &File) -> Result<u32, IoError> {
    // SAFETY: an all-zero statx is a valid value of it.
    let mut status: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a terminated string, and the call writes one statx.
    let outcome = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &raw mut status,
        )
    };
    if outcome < 0 || status.stx_mask & libc::STATX_DIOALIGN == 0 {
        // It does not say (tmpfs, kernels before 6.1): whole pages suit every file system.
        return Ok(PAGE_SIZE as u32);
    }
    if status.stx_dio_offset_align == 0 {
        let message = "the file system cannot do direct I/O on this file (is it encrypted, compressed or checksummed?); use ext4, xfs or a block device";
        return Err(IoError::new(IoErrorKind::Unsupported, message));
    }
    Ok(status.stx_dio_offset_align.max(status.stx_dio_mem_align))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_device_is_refused_with_the_reason() {
        let directory = tempfile::tempdir().expect("a directory");
        let empty = directory.path().join("empty");
        File::create(&empty).expect("a file");
        let expectations = [
            (directory.path().join("missing"), "there is no such device"),
            (
                directory.path().to_owned(),
                "regular file or a block device",
            ),
            (empty, "preallocated"),
            ("/dev/null".into(), "regular file or a block device"),
            ("/proc/self/comm".into(), "O_DIRECT"),
        ];
        for (path, expected) in expectations {
            let error = open(&path).err().expect("it is no device").to_string();
            assert!(error.contains(expected), "{}: {error}", path.display());
        }
    }

    #[test]
    fn a_file_is_whole_pages_of_known_alignment() {
        let file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).expect("a file");
        file.as_file()
            .set_len(10 * PAGE_SIZE as u64 + 17)
            .expect("room");
        let opened = open(file.path()).expect("the checkout is on a file system with direct I/O");
        assert_eq!(opened.geometry.length, 10 * PAGE_SIZE as u64);
        assert!(opened.geometry.alignment.is_power_of_two());
        assert!(!opened.geometry.is_block_device);
    }
}

//! The claim on a device: while one process formats, verifies or serves it, no other does.
//!
//! A block device is opened with O_EXCL. The kernel grants that to one holder of the drive, whatever
//! node names it, and to nobody while the drive or a partition of it is mounted, swapped to, or part
//! of md, LVM or a device mapper. A file is locked by flock, which goes by its inode: hard links and
//! bind mounts lead to the same lock. A loop device locks the file behind it too.
//!
//! The invariant: nothing is opened that is neither a regular file nor a block device, for opening
//! a pipe waits, and opening a character device may have effects.

use std::fmt::Write as _;
use std::fs::{File, FileType, Metadata, OpenOptions, TryLockError};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use corelane_io::IoError;

use super::error::StoreError;

/// How long a device that is in use is tried again: what probes new drives (udev, blkid, mdadm) holds
/// them for some milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(50);

/// Most users of a device that an error names.
const USERS_NAMED_MAX: usize = 4;

/// Keeps other processes from using a device, until dropped.
#[derive(Debug)]
pub struct DeviceLock {
    file: File,
    /// The file behind a loop device.
    _backing: Option<File>,
}

impl DeviceLock {
    /// Claims the device at `path` for this process. Once a process: its shards share the claim.
    ///
    /// # Errors
    /// When it is in use, is neither a regular file nor a block device, or cannot be opened.
    pub fn take(path: &Path) -> Result<Self, StoreError> {
        DeviceLock::open(path, false)
    }

    /// As [`DeviceLock::take`], of a device that is going to be written to.
    ///
    /// # Errors
    /// As [`DeviceLock::take`], and when the device is read-only.
    pub fn take_for_writing(path: &Path) -> Result<Self, StoreError> {
        DeviceLock::open(path, true)
    }

    /// Claims a file that this process has just created.
    ///
    /// # Errors
    /// When another process was faster.
    pub(super) fn of_new_file(file: File, path: &Path) -> Result<Self, StoreError> {
        lock(&file, path)?;
        Ok(DeviceLock {
            file,
            _backing: None,
        })
    }

    /// The descriptor that holds the claim.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    fn open(path: &Path, write: bool) -> Result<Self, StoreError> {
        let cannot_open = |error: &std::io::Error| {
            let message = match error.raw_os_error() {
                Some(libc::EACCES | libc::EPERM | libc::EROFS) if write => {
                    "the device may not be written to; give the user the right to, or name one that is not read-only"
                }
                _ => "cannot open the device; check the path and the permissions",
            };
            failed(error, path, message)
        };
        let metadata = std::fs::metadata(path).map_err(|error| cannot_open(&error))?;
        check_type(path, metadata.file_type())?;
        let is_block_device = metadata.file_type().is_block_device();
        // The kernel lets some read-only drives be opened for writing, and refuses each write.
        if write && is_block_device && is_read_only(metadata.rdev()) {
            return Err(cannot_open(&std::io::Error::from_raw_os_error(libc::EROFS)));
        }
        let began = Instant::now();
        let file = loop {
            let opened = OpenOptions::new()
                .read(true)
                .write(write)
                .custom_flags(open_flags(is_block_device))
                .open(path);
            match opened {
                Ok(file) => break file,
                Err(error) if error.raw_os_error() != Some(libc::EBUSY) => {
                    return Err(cannot_open(&error));
                }
                Err(_) if began.elapsed() < PATIENCE => std::thread::sleep(RETRY),
                Err(_) => return Err(in_use(path, &metadata)),
            }
        };
        // What was opened counts: the path may lead elsewhere by now.
        let metadata = file.metadata().map_err(|error| cannot_open(&error))?;
        if metadata.file_type().is_block_device() != is_block_device {
            return Err(StoreError::Mismatch(format!(
                "{} changed while it was opened; try again",
                path.display()
            )));
        }
        let backing = if is_block_device {
            // O_EXCL decides. The lock tells udev to leave the drive alone, which may hold it itself.
            let _ = file.try_lock();
            lock_backing_file(path, &metadata)?
        } else {
            lock(&file, path)?;
            None
        };
        if !is_block_device && !users_of_file(&metadata).is_empty() {
            return Err(in_use(path, &metadata));
        }
        Ok(DeviceLock {
            file,
            _backing: backing,
        })
    }
}

/// The kernel claims a block device for whoever opens it with O_EXCL; O_NONBLOCK keeps an open that was
/// led to a pipe from waiting.
fn open_flags(is_block_device: bool) -> i32 {
    let exclusive = if is_block_device { libc::O_EXCL } else { 0 };
    libc::O_NONBLOCK | libc::O_CLOEXEC | exclusive
}

/// Refuses what can be no device, whatever it holds.
///
/// # Errors
/// When it is neither a regular file nor a block device.
pub(super) fn check_type(path: &Path, kind: FileType) -> Result<(), StoreError> {
    let name = if kind.is_file() || kind.is_block_device() {
        return Ok(());
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "something else"
    };
    Err(StoreError::Mismatch(format!(
        "{} is {name}; a device is a regular file or a block device: name one of these",
        path.display()
    )))
}

fn lock(file: &File, path: &Path) -> Result<(), StoreError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let metadata = file
                .metadata()
                .map_err(|error| failed(&error, path, "cannot look at the device"))?;
            Err(in_use(path, &metadata))
        }
        Err(TryLockError::Error(error)) => Err(failed(
            &error,
            path,
            "cannot lock the device; its file system must know flock",
        )),
    }
}

/// Locks the file behind the loop device at `path`, if it is one whose file can be seen from here.
fn lock_backing_file(path: &Path, metadata: &Metadata) -> Result<Option<File>, StoreError> {
    let Some(folder) = sys_folder(metadata.rdev()) else {
        return Ok(None);
    };
    let backing = [folder.clone(), folder.join("..")]
        .into_iter()
        .find_map(|folder| std::fs::read_to_string(folder.join("loop/backing_file")).ok());
    let Some(file) = backing.and_then(|backing| File::open(backing.trim_end()).ok()) else {
        return Ok(None);
    };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            let users = file.metadata().map(|metadata| open_by(&metadata));
            Err(StoreError::Locked {
                device: path.display().to_string(),
                users: format!(
                    "{} through the file behind it",
                    named(users.unwrap_or_default())
                ),
            })
        }
        // Read-only file systems may have no locks; O_EXCL stands in any case.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(Some(file)),
    }
}

fn in_use(path: &Path, metadata: &Metadata) -> StoreError {
    let mut users = if metadata.file_type().is_block_device() {
        users_of_block_device(metadata.rdev())
    } else {
        users_of_file(metadata)
    };
    if users.is_empty() {
        users = open_by(metadata);
    }
    StoreError::Locked {
        device: path.display().to_string(),
        users: named(users),
    }
}

/// The users in one phrase.
fn named(mut users: Vec<String>) -> String {
    users.sort();
    users.dedup();
    let count = users.len();
    users.truncate(USERS_NAMED_MAX);
    let mut text = users.join(", ");
    if count > USERS_NAMED_MAX {
        let _ = write!(text, " and {} more", count - USERS_NAMED_MAX);
    }
    if text.is_empty() {
        text.push_str("another process");
    }
    text
}

/// The folder of a block device in /sys.
fn sys_folder(device: u64) -> Option<PathBuf> {
    let (major, minor) = (libc::major(device), libc::minor(device));
    std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()
}

fn is_read_only(device: u64) -> bool {
    let flag = sys_folder(device).map(|folder| std::fs::read_to_string(folder.join("ro")));
    matches!(flag, Some(Ok(text)) if text.trim_end() == "1")
}

/// What the kernel's tables say of a drive, its partitions, and the drive that it is a partition of.
fn users_of_block_device(device: u64) -> Vec<String> {
    let mut folders = Vec::new();
    if let Some(folder) = sys_folder(device) {
        if folder.join("partition").exists()
            && let Some(whole) = folder.parent()
        {
            folders.push(whole.to_owned());
        }
        for entry in folder_entries(&folder) {
            if entry.join("partition").exists() {
                folders.push(entry);
            }
        }
        folders.push(folder);
    }
    let mut users = Vec::new();
    let mut numbers = vec![format!("{}:{}", libc::major(device), libc::minor(device))];
    for folder in folders {
        if let Ok(number) = std::fs::read_to_string(folder.join("dev")) {
            numbers.push(number.trim_end().to_owned());
        }
        for holder in folder_entries(&folder.join("holders")) {
            if let Some(name) = holder.file_name() {
                users.push(format!("the device {} above it", name.display()));
            }
        }
    }
    let is_one = |device: u64| {
        let number = format!("{}:{}", libc::major(device), libc::minor(device));
        numbers.contains(&number)
    };
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in table.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let Some((number, place)) = fields.get(2).zip(fields.get(4)) else {
            continue;
        };
        // Some file systems (btrfs) have a number of their own: their source names the drive.
        let after = fields.iter().position(|field| *field == "-");
        let source = after.and_then(|at| fields.get(at + 2));
        let is_source = || {
            source
                .and_then(|source| std::fs::metadata(source).ok())
                .is_some_and(|found| found.file_type().is_block_device() && is_one(found.rdev()))
        };
        if numbers.iter().any(|known| known == number) || is_source() {
            users.push(format!("the file system mounted at {place}"));
        }
    }
    let is_swap = |found: &Metadata| found.file_type().is_block_device() && is_one(found.rdev());
    users.extend(swaps(is_swap));
    users
}

/// Swap and loop devices on a file. Other users of a file hold its lock, or cannot be seen.
fn users_of_file(metadata: &Metadata) -> Vec<String> {
    let is_same = |found: &Metadata| {
        (found.dev(), found.ino()) == (metadata.dev(), metadata.ino())
            && found.file_type().is_file()
    };
    let mut users = swaps(is_same);
    for device in folder_entries(Path::new("/sys/block")) {
        let Ok(backing) = std::fs::read_to_string(device.join("loop/backing_file")) else {
            continue;
        };
        if std::fs::metadata(backing.trim_end()).is_ok_and(|found| is_same(&found))
            && let Some(name) = device.file_name()
        {
            users.push(format!("the loop device /dev/{}", name.display()));
        }
    }
    users
}

fn swaps(is_wanted: impl Fn(&Metadata) -> bool) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    let paths = table
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next());
    paths
        .filter(|path| std::fs::metadata(path).is_ok_and(|found| is_wanted(&found)))
        .map(|path| format!("swap on {path}"))
        .collect()
}

/// Processes that have the file or block device open, as far as this user may see them.
fn open_by(metadata: &Metadata) -> Vec<String> {
    let is_same = |found: &Metadata| {
        if metadata.file_type().is_block_device() {
            found.file_type().is_block_device() && found.rdev() == metadata.rdev()
        } else {
            (found.dev(), found.ino()) == (metadata.dev(), metadata.ino())
        }
    };
    let mut users = Vec::new();
    for process in folder_entries(Path::new("/proc")) {
        let number = process.file_name().and_then(|name| name.to_str());
        let Some(number) = number.and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let is_user = || {
            folder_entries(&process.join("fd"))
                .into_iter()
                .any(|file| std::fs::metadata(file).is_ok_and(|found| is_same(&found)))
        };
        if number != std::process::id() && is_user() {
            let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
            users.push(format!("process {number} ({})", name.trim_end()));
        }
    }
    users
}

fn folder_entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.flatten().map(|entry| entry.path()).collect()
}

pub(super) fn failed(error: &std::io::Error, path: &Path, message: &str) -> StoreError {
    IoError::from_std(error, message)
        .with("device", path.display())
        .into()
}

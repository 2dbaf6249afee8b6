//! The file store: objects that are files below a directory of this machine.
//!
//! Files are read straight into the lent memory, without the `object_store` crate, which would
//! copy every byte once more. A file has no ETag, so its version is size, modification time in
//! nanoseconds, inode and change time (ctime) in nanoseconds, read from the open descriptor before the
//! first byte and again after the bytes of each lease, before the lease is posted. The kernel changes both
//! times before it changes the bytes, so equal versions around a read mean that no write began in between.
//! Nobody can set the change time, so a file that is made anew with the size, the modification time and the
//! inode of the one before (as archives and package managers do) has another version. The price: a change of
//! mode, owner or links is a new version too, and costs one fetch.
//!
//! Two holes are left in that, and closed by waiting: changes within one tick of the file system's
//! clock share a time, and one long write sets it only at its start. So the bytes of
//! a file that was changed within the settle time (2 s by default, none on `immutable` mounts)
//! are not read before that time has passed, unless this worker wrote it. A modification time in the future
//! says nothing of that: the change time does. What is not detected: stores through a shared memory
//! map into pages that are already dirty, one write that lasts longer than the settle time, and on network
//! file systems what other machines change while this one believes its cached attributes.
//!
//! Symbolic links are followed as long as they lead to a place below the mount's directory. A
//! link out of it is refused unless the mount has `follow_symlinks = true`, and so is a link that has taken the place
//! of the directory of a mount made at run time. What a path leads to is opened as a
//! place alone (`O_PATH`), checked, and only then opened for reading through that descriptor: a link that is
//! swapped meanwhile does not get past the check, and no pipe or device is ever opened.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::UnderStoreErrorKind;
use super::fill::Fill;
use super::origin::Completions;
use super::origin::{file_headers_of, is_described, is_reserved};
use super::own_writes::OwnWrites;
use super::retry::{Failure, Tries};
use super::runtime::ended;
use super::stall::FileCalls;
use super::stores::{Description, Limiter};

/// Bytes that are read in one visit to a blocking thread: enough to make the visit's 10-20 µs
/// small, short enough that jobs take turns.
const VISIT_BYTES: u64 = 1 << 20;

/// A directory whose files are objects.
#[derive(Clone, Debug)]
pub(crate) struct FileTree {
    /// Absolute.
    pub root: PathBuf,
    /// Whether the root is named by where it really is, as those of mounts made at run time: a link in its place
    /// is not followed.
    pub is_root_resolved: bool,
    /// Whether symbolic links may lead out of it.
    pub follows_symlinks: bool,
    /// How long ago a file must have been modified before its bytes are read.
    pub settle: Duration,
    /// Those that need no settling.
    pub own_writes: OwnWrites,
    /// Uploads that this worker completed lately.
    pub completions: Completions,
    /// Calls that the file system works on.
    pub calls: FileCalls,
}

impl FileTree {
    /// What the file at `key` is now.
    pub async fn describe(&self, key: &str) -> Result<Description, Failure> {
        let (tree, key) = (self.clone(), key.to_owned());
        self.call(move || {
            let (file, metadata) = tree.open(&key)?;
            let mut description = description_of(&metadata);
            for (name, value) in file_headers_of(&file) {
                if name == "content-type" {
                    description.content_type = value;
                } else if is_described(&name) {
                    description.headers.push((name, value));
                }
            }
            Ok(description)
        })
        .await
    }

    /// Reads the missing bytes of `fill` from the file at `key`, which has to be of `version`.
    pub async fn fetch(
        &self,
        key: &str,
        version: &str,
        mut fill: Fill,
        limiter: &Limiter<'_>,
        tries: &mut Tries,
    ) -> (Fill, Result<(), Failure>) {
        let mut pass = limiter.enter(tries).await;
        let (tree, opened_key) = (self.clone(), key.to_owned());
        let (file, metadata) = match self.call(move || tree.open(&opened_key)).await {
            Ok(opened) => opened,
            Err(failure) => return (fill, Err(failure)),
        };
        let found = version_of(&metadata);
        if found != version {
            return (fill, Err(Failure::changed(&found)));
        }
        if let Some(wait) = self.unsettled_for(&metadata)
            && !self.own_writes.contains(version)
        {
            // Others may read meanwhile.
            drop(pass);
            tries.excuse(wait);
            tokio::time::sleep(wait).await;
            pass = limiter.enter(tries).await;
        }
        let file = Arc::new(file);
        while !fill.missing().is_empty() {
            let missing = fill.missing();
            let visit = (missing.end - missing.start).min(VISIT_BYTES);
            tries.excuse(limiter.take_bytes(visit).await);
            let (file, version) = (Arc::clone(&file), version.to_owned());
            let result;
            (fill, result) = self
                .call(move || {
                    let result = read_visit(&file, &version, &mut fill, missing.start + visit);
                    (fill, result)
                })
                .await;
            limiter.count_bytes(fill.missing().start - missing.start);
            if let Err(failure) = result {
                return (fill, Err(failure));
            }
            fill.post_ready().await;
        }
        drop(pass);
        fill.confirm().await;
        (fill, Ok(()))
    }

    /// Runs a call into the file system on a thread that may block, and counts it meanwhile.
    async fn call<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let calls = self.calls.clone();
        blocking(move || {
            let _call = calls.begin();
            work()
        })
        .await
    }

    /// Opens a regular file below the root.
    pub fn open(&self, key: &str) -> Result<(File, Metadata), Failure> {
        if is_reserved(key) {
            let cause = "it is in our own directory of uploads, which has no objects";
            return Err(Failure::lasting(UnderStoreErrorKind::NotFound, cause));
        }
        let place = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(self.root.join(key))
            .map_err(|error| failure_of(&error, "open"))?;
        let metadata = place
            .metadata()
            .map_err(|error| failure_of(&error, "stat"))?;
        let of_process = format!("/proc/self/fd/{}", place.as_raw_fd());
        self.check_place(Path::new(&of_process))?;
        if metadata.is_dir() {
            return Err(Failure::lasting(
                UnderStoreErrorKind::NotFound,
                "it is a directory, which is no object",
            ));
        }
        if !metadata.is_file() {
            return Err(Failure::lasting(
                UnderStoreErrorKind::Invalid,
                "it is a device, pipe or socket, not a regular file",
            ));
        }
        // The same file, whatever the path leads to by now.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&of_process)
            .map_err(|error| failure_of(&error, "open"))?;
        let metadata = file
            .metadata()
            .map_err(|error| failure_of(&error, "stat"))?;
        Ok((file, metadata))
    }

    /// Refuses a place that is not below the root.
    ///
    /// `place` may be a path, whose links are resolved, or a link of the kernel to an open file.
    pub fn check_place(&self, place: &Path) -> Result<(), Failure> {
        if self.follows_symlinks {
            return Ok(());
        }
        let root = if self.is_root_resolved {
            self.root.clone()
        } else {
            std::fs::canonicalize(&self.root).map_err(|error| failure_of(&error, "resolve"))?
        };
        let place = if place.starts_with("/proc/self/fd") {
            std::fs::read_link(place)
        } else {
            std::fs::canonicalize(place)
        };
        let place = place.map_err(|error| failure_of(&error, "resolve"))?;
        if place.starts_with(&root) {
            return Ok(());
        }
        Err(Failure::lasting(
            UnderStoreErrorKind::Denied,
            "a symbolic link leads out of the mount's directory; \
             set the mount's option `follow_symlinks = \"true\"` if that is meant",
        ))
    }

    /// For how long the file has to be left alone before its bytes can be trusted.
    fn unsettled_for(&self, metadata: &Metadata) -> Option<Duration> {
        let now = SystemTime::now();
        let modified = unsettled(metadata.modified().ok(), now, self.settle);
        let changed = unsettled(changed_at(metadata), now, self.settle);
        let wait = match (changed, modified) {
            // Somebody set the modification time on purpose; the change time is the kernel's.
            (Unsettled::For(changed), Unsettled::Unknown) => changed,
            (Unsettled::For(changed), Unsettled::For(modified)) => changed.max(modified),
            (Unsettled::Unknown, Unsettled::For(modified)) => modified.max(self.settle),
            // The clocks do not agree at all.
            (Unsettled::Unknown, Unsettled::Unknown) => self.settle,
        };
        (!self.settle.is_zero() && !wait.is_zero()).then_some(wait)
    }
}

/// For how long a file has to be left alone, going by one of its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unsettled {
    For(Duration),
    /// The time says nothing: it is far in the future, or none.
    Unknown,
}

fn unsettled(time: Option<SystemTime>, now: SystemTime, settle: Duration) -> Unsettled {
    let Some(time) = time else {
        return Unsettled::Unknown;
    };
    match now.duration_since(time) {
        Ok(age) => Unsettled::For(settle.saturating_sub(age)),
        // A little ahead is a file server's clock.
        Err(ahead) if ahead.duration() <= settle => {
            Unsettled::For(ahead.duration().saturating_add(settle))
        }
        Err(_) => Unsettled::Unknown,
    }
}

/// When anything of a file was last changed. None where the file system does not say.
fn changed_at(metadata: &Metadata) -> Option<SystemTime> {
    let seconds = u64::try_from(metadata.ctime()).ok()?;
    let nanoseconds = u32::try_from(metadata.ctime_nsec()).ok()?;
    if (seconds, nanoseconds) == (0, 0) {
        return None;
    }
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds))
}

/// Reads whole leases up to `limit`, or until the shard's inbox is full.
fn read_visit(file: &File, version: &str, fill: &mut Fill, limit: u64) -> Result<(), Failure> {
    loop {
        fill.fill_lease(|memory, offset| {
            let read = file.read_exact_at(memory, offset);
            // Compared first: a file that shrank is another version, not a broken file.
            let metadata = file
                .metadata()
                .map_err(|error| failure_of(&error, "stat"))?;
            let found = version_of(&metadata);
            if found != version {
                return Err(Failure::changed(&found));
            }
            read.map_err(|error| failure_of(&error, "read"))
        })?;
        let missing = fill.missing();
        if missing.is_empty() || missing.start >= limit || !fill.try_post_ready() {
            return Ok(());
        }
    }
}

/// What describes the object that `metadata` is of.
pub(crate) fn description_of(metadata: &Metadata) -> Description {
    let modified_ms = metadata
        .mtime()
        .saturating_mul(1000)
        .saturating_add(metadata.mtime_nsec() / 1_000_000);
    Description {
        version: version_of(metadata),
        length: metadata.len(),
        last_modified_ms: u64::try_from(modified_ms).unwrap_or(0),
        content_type: String::new(),
        headers: Vec::new(),
    }
}

/// Size, modification time in nanoseconds since the Unix epoch, inode, and change time as the other one.
fn version_of(metadata: &Metadata) -> String {
    let ns = |seconds, rest| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    let modified_ns = ns(metadata.mtime(), metadata.mtime_nsec());
    let changed_ns = ns(metadata.ctime(), metadata.ctime_nsec());
    format!(
        "{}-{modified_ns}-{}-{changed_ns}",
        metadata.len(),
        metadata.ino()
    )
}

/// What an error of the file system means for the object.
pub(crate) fn failure_of(error: &io::Error, action: &str) -> Failure {
    let cause = format!("cannot {action} the file: {error}");
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => {
            Failure::lasting(UnderStoreErrorKind::NotFound, "there is no such file")
        }
        Some(libc::EACCES | libc::EPERM) => Failure::lasting(UnderStoreErrorKind::Denied, cause),
        Some(libc::ELOOP | libc::ENAMETOOLONG | libc::EINVAL | libc::ENXIO) => {
            Failure::lasting(UnderStoreErrorKind::Invalid, cause)
        }
        None if error.kind() == io::ErrorKind::UnexpectedEof => Failure::passing(
            UnderStoreErrorKind::Malformed,
            "the file has fewer bytes than its size says",
        ),
        _ => Failure::passing(UnderStoreErrorKind::Unavailable, cause),
    }
}

/// Runs `work` on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    ended(tokio::task::spawn_blocking(work)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_settles_by_a_time_that_is_known_and_not_far_ahead() {
        let settle = Duration::from_secs(2);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let of = |time: SystemTime| unsettled(Some(time), now, settle);
        let second = Duration::from_secs(1);
        assert_eq!(of(now - 3 * second), Unsettled::For(Duration::ZERO));
        assert_eq!(of(now - second), Unsettled::For(second));
        assert_eq!(of(now + second), Unsettled::For(3 * second));
        assert_eq!(of(now + 3 * second), Unsettled::Unknown);
        assert_eq!(of(now + Duration::from_secs(1 << 40)), Unsettled::Unknown);
        assert_eq!(unsettled(None, now, settle), Unsettled::Unknown);
    }
}

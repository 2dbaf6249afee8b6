//! Directories below a mount's root, opened so that nothing leads out of it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, unlinkat};
use rustix::io::Errno;

use super::attributes::{is_implied, mark_implied};
use crate::under_store::files::FileTree;
use crate::under_store::origin::error::{Fault, OriginErrorKind as Kind};

/// The directory below a mount's root that holds what is being written. Refused as part of a key
/// and left out of listings.
pub(crate) const STAGING: &str = ".corelane-uploads";

/// Whether a key has the name of the staging directory in it.
pub(crate) fn is_reserved(key: &str) -> bool {
    key.split('/').any(|segment| segment == STAGING)
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// The root of a mount, open.
pub(super) struct Root {
    pub directory: OwnedFd,
    follows_symlinks: bool,
}

impl Root {
    /// Opens the root of `tree`.
    pub fn open(tree: &FileTree) -> Result<Self, Fault> {
        let resolve = if tree.is_root_resolved {
            ResolveFlags::NO_SYMLINKS
        } else {
            ResolveFlags::empty()
        };
        match openat2(CWD, &tree.root, DIRECTORY, Mode::empty(), resolve) {
            Ok(directory) => Ok(Root {
                directory,
                follows_symlinks: tree.follows_symlinks,
            }),
            Err(Errno::NOENT) => Err(Fault::lasting(
                Kind::NoSuchBucket,
                "the mount's directory does not exist",
            )),
            Err(error) => Err(fault_of(error.into(), "open the mount's directory of")),
        }
    }

    /// The directory at `path` below the root; the root itself if it is empty.
    pub fn directory(&self, path: &str) -> io::Result<OwnedFd> {
        Ok(self.opened(path, DIRECTORY)?)
    }

    /// Opens what is at `path` below the root.
    pub fn opened(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { "." } else { path };
        let flags = flags | OFlags::CLOEXEC;
        if self.follows_symlinks {
            return openat(&self.directory, path, flags, Mode::empty());
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        loop {
            match openat2(&self.directory, path, flags, Mode::empty(), resolve) {
                // Something was renamed meanwhile, so the kernel could not be sure.
                Err(Errno::AGAIN | Errno::INTR) => {}
                result => return result,
            }
        }
    }

    /// The directory at `path`, made with all above it where they are missing.
    pub fn made(&self, path: &str) -> Result<OwnedFd, Fault> {
        match self.directory(path) {
            Ok(directory) => return Ok(directory),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(fault_of(error, "open the directory of")),
        }
        let (above, name) = split(path);
        let parent = self.made(above)?;
        match mkdirat(&parent, name, Mode::from_raw_mode(0o777)) {
            Ok(()) => {
                sync(&parent)?;
                let directory = self
                    .directory(path)
                    .map_err(|error| fault_of(error, "open the directory of"))?;
                mark_implied(&directory);
                Ok(directory)
            }
            Err(Errno::EXIST) => self
                .directory(path)
                .map_err(|error| fault_of(error, "open the directory of")),
            Err(error) => Err(fault_of(error.into(), "make the directory of")),
        }
    }

    /// Removes the directory at `path`, and those above it, as far as they are empty and only
    /// there because a key had them.
    pub fn prune(&self, mut path: &str) {
        while !path.is_empty() {
            let (above, name) = split(path);
            let Ok(directory) = self.directory(path) else {
                return;
            };
            let Ok(parent) = self.directory(above) else {
                return;
            };
            // The kernel refuses if it is not empty, also when an object arrived just now.
            if !is_implied(&directory) || unlinkat(&parent, name, AtFlags::REMOVEDIR).is_err() {
                return;
            }
            path = above;
        }
    }
}

/// The directory of a key, without a slash at the end, and the name in it.
pub(super) fn split(key: &str) -> (&str, &str) {
    key.rsplit_once('/').unwrap_or(("", key))
}

/// Brings a directory's names to the disk.
pub(super) fn sync(directory: impl AsFd) -> Result<(), Fault> {
    rustix::fs::fsync(directory).map_err(|error| fault_of(error.into(), "sync the directory of"))
}

/// What an error of the file system means for a write.
pub(super) fn fault_of(error: io::Error, action: &str) -> Fault {
    let cause = format!("cannot {action} the file: {error}");
    let lasting = |kind| Fault::lasting(kind, cause.clone());
    match error.raw_os_error() {
        Some(libc::ENOENT) => Fault::lasting(Kind::NotFound, "there is no such file"),
        Some(libc::ENOTDIR) => Fault::lasting(
            Kind::Invalid,
            "a part of the key is a file, and nothing can be below a file",
        ),
        Some(libc::EISDIR) => Fault::lasting(
            Kind::Invalid,
            "there is a directory of that name; it is no object",
        ),
        Some(libc::EXDEV | libc::ELOOP) => Fault::lasting(
            Kind::Denied,
            "a symbolic link leads out of the mount's directory, or another file system is mounted \
             below it; mount that directory on its own",
        ),
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => lasting(Kind::Denied),
        Some(libc::ENAMETOOLONG | libc::EINVAL) => lasting(Kind::Invalid),
        Some(libc::ENOSPC | libc::EDQUOT) => lasting(Kind::Unavailable).with_code("InternalError"),
        Some(libc::EEXIST) => lasting(Kind::PreconditionFailed),
        _ => Fault::passing(Kind::Unavailable, cause),
    }
}

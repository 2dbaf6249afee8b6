//! Files on their way to their key.

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use ring::rand::SecureRandom;
use rustix::fs::{
    AtFlags, Mode, OFlags, RenameFlags, linkat, openat, renameat, renameat_with, unlinkat,
};
use rustix::io::Errno;

use super::attributes::set_headers;
use super::place::{Root, STAGING, fault_of, split, sync};
use crate::under_store::files::{FileTree, blocking, description_of};
use crate::under_store::limits::lock;
use crate::under_store::origin::body::OriginBody;
use crate::under_store::origin::error::{Fault, OriginErrorKind as Kind};
use crate::under_store::origin::types::{WriteCondition, Written};
use crate::under_store::origin::work::Work;
use crate::under_store::stores::Description;

/// Below the staging directory: single files.
const FILES: &str = "files";

/// How often a name is tried whose directory vanishes each time.
const COMMITS_MAX: usize = 64;

/// Age at which what was left behind is removed: uploads as long as S3's own advice for a
/// lifecycle rule, and a file that nobody wrote to for as long is of a process that ended.
const ABANDONED_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// Locks for the moment between looking at a condition and renaming; by hash of the path.
static COMMITS: [Mutex<()>; 64] = [const { Mutex::new(()) }; 64];

/// A file without a key yet; removed when dropped.
pub(super) struct Staged {
    pub file: File,
    directory: OwnedFd,
    name: String,
    is_named: bool,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.is_named {
            // What cannot be removed now is removed by the sweep.
            let _ = unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
    }
}

/// A name that nobody can guess.
pub(super) fn random_name() -> Result<String, Fault> {
    let mut bytes = [0u8; 16];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Fault::passing(Kind::Unavailable, "the system gives no random numbers"))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

impl Staged {
    /// An empty file. Blocks.
    pub fn create(root: &Root) -> Result<Self, Fault> {
        let directory = root.made(&format!("{STAGING}/{FILES}"))?;
        let name = random_name()?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let file = openat(&directory, &name, flags, Mode::from_raw_mode(0o666))
            .map_err(|error| fault_of(error.into(), "create"))?;
        Ok(Staged {
            file: file.into(),
            directory,
            name,
            is_named: false,
        })
    }

    /// Appends a body to its confirmed end.
    pub async fn filled(mut self, body: &mut OriginBody, work: &Work) -> Result<Self, Fault> {
        while let Some(piece) = body.next().await? {
            work.take_bytes(piece.len() as u64).await;
            self = blocking(move || self.append(&piece).map(|()| self)).await?;
        }
        Ok(self)
    }

    fn append(&mut self, piece: &Bytes) -> Result<(), Fault> {
        self.file
            .write_all(piece)
            .map_err(|error| fault_of(error, "write"))
    }

    /// Makes the file the object at `key`. Blocks.
    pub fn commit(
        mut self,
        root: &Root,
        tree: &FileTree,
        key: &str,
        headers: &[(String, String)],
        condition: &WriteCondition,
    ) -> Result<Written, Fault> {
        set_headers(&self.file, headers)?;
        // A time of our own: see `own_writes`.
        let now = SystemTime::now();
        self.file
            .set_modified(now)
            .map_err(|error| fault_of(error, "set the time of"))?;
        self.file
            .sync_all()
            .map_err(|error| fault_of(error, "sync"))?;
        let metadata = self
            .file
            .metadata()
            .map_err(|error| fault_of(error, "stat"))?;
        // A file system that rounds times may give the next file of that name the same, and its inode.
        let is_rounded = metadata.modified().ok() != Some(now);
        let (above, name) = split(key);
        let mut tries = 0;
        let (parent, description) = loop {
            let parent = root.made(above)?;
            tries += 1;
            match self.rename(root, tree, &parent, key, name, condition) {
                // The last object beside it was removed, and the directory with it.
                Err(fault) if fault.kind == Kind::NotFound && tries < COMMITS_MAX => {}
                Err(fault) => {
                    drop(parent);
                    root.prune(above);
                    return Err(fault);
                }
                Ok(description) => break (parent, description),
            }
        };
        if !is_rounded {
            tree.own_writes.note(&description.version);
        }
        sync(&parent)?;
        Ok(Written {
            is_ambiguous: is_rounded,
            etag: format!("\"{}\"", description.version),
            last_modified_ms: description.last_modified_ms,
            ..Written::default()
        })
    }

    /// Gives the file its name, and says what it is by then: its change time is that of the renaming.
    fn rename(
        &mut self,
        root: &Root,
        tree: &FileTree,
        parent: &OwnedFd,
        key: &str,
        name: &str,
        condition: &WriteCondition,
    ) -> Result<Description, Fault> {
        let _commit = commit_lock(tree, key);
        match condition {
            WriteCondition::IfAbsent => {
                match renameat_with(
                    &self.directory,
                    &self.name,
                    parent,
                    name,
                    RenameFlags::NOREPLACE,
                ) {
                    // A file system without that: a link never replaces either.
                    Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                        linkat(&self.directory, &self.name, parent, name, AtFlags::empty())
                            .map_err(exists_or)?;
                        // Now, since it changes the file's change time. One that stays is swept.
                        let _ = unlinkat(&self.directory, &self.name, AtFlags::empty());
                    }
                    result => result.map_err(exists_or)?,
                }
            }
            WriteCondition::IfMatch(etag) => {
                let present = super::objects::present(root, key)?;
                let matches = present.is_some_and(|description| {
                    etag == "*" || etag.trim_matches('"') == description.version
                });
                if !matches {
                    let cause = "the object is not of the expected ETag, or gone";
                    return Err(Fault::lasting(Kind::PreconditionFailed, cause)
                        .with_code("PreconditionFailed"));
                }
                self.replace(parent, name)?;
            }
            WriteCondition::None => self.replace(parent, name)?,
        }
        self.is_named = true;
        let metadata = self
            .file
            .metadata()
            .map_err(|error| fault_of(error, "stat"))?;
        Ok(description_of(&metadata))
    }

    fn replace(&self, parent: &OwnedFd, name: &str) -> Result<(), Fault> {
        renameat(&self.directory, &self.name, parent, name)
            .map_err(|error| fault_of(error.into(), "rename"))
    }
}

fn exists_or(error: Errno) -> Fault {
    match error {
        Errno::EXIST => Fault::lasting(Kind::PreconditionFailed, "there is an object of that key")
            .with_code("PreconditionFailed"),
        _ => fault_of(error.into(), "rename"),
    }
}

/// The lock for changes of the name at `key`.
pub(super) fn commit_lock(tree: &FileTree, key: &str) -> MutexGuard<'static, ()> {
    let mut hasher = DefaultHasher::new();
    tree.root.join(key).hash(&mut hasher);
    lock(&COMMITS[hasher.finish() as usize % COMMITS.len()])
}

/// Removes what was left behind below the root of `tree`. Blocks.
pub(in crate::under_store::origin) fn sweep(tree: &FileTree) {
    sweep_before(tree, SystemTime::now() - ABANDONED_AFTER);
}

fn sweep_before(tree: &FileTree, limit: SystemTime) {
    let staging = tree.root.join(STAGING);
    // A link in its place is somebody else's.
    if std::fs::symlink_metadata(&staging).map_or(true, |metadata| !metadata.is_dir()) {
        return;
    }
    for directory in [staging.join(FILES), staging] {
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            let is_old = metadata.modified().is_ok_and(|modified| modified < limit);
            if !is_old || entry.file_name() == FILES {
                continue;
            }
            let removed = if metadata.is_dir() {
                std::fs::remove_dir_all(entry.path())
            } else {
                std::fs::remove_file(entry.path())
            };
            if let Err(error) = removed {
                tracing::warn!(path = %entry.path().display(), %error, "an abandoned upload stays; remove it by hand");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sweep_removes_what_is_old_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let tree = FileTree {
            root: folder.path().to_owned(),
            is_root_resolved: false,
            follows_symlinks: false,
            settle: Duration::ZERO,
            own_writes: Default::default(),
            completions: Default::default(),
            calls: Default::default(),
        };
        let staging = folder.path().join(STAGING);
        std::fs::create_dir_all(staging.join(FILES)).expect("made");
        std::fs::create_dir_all(staging.join("upload")).expect("made");
        std::fs::write(staging.join("upload/part-00001"), b"x").expect("written");
        std::fs::write(staging.join("files/left"), b"x").expect("written");
        std::fs::write(folder.path().join("object"), b"x").expect("written");
        sweep(&tree);
        assert!(staging.join("upload/part-00001").exists());
        assert!(staging.join("files/left").exists());
        sweep_before(&tree, SystemTime::now() + Duration::from_secs(60));
        assert!(!staging.join("upload").exists() && !staging.join("files/left").exists());
        assert!(folder.path().join("object").exists());
    }
}

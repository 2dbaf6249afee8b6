//! Single objects and directories.

use std::fs::File;

use rustix::fs::{AtFlags, OFlags, unlinkat};
use rustix::io::Errno;

use super::attributes::{headers_of, mark_implied, set_headers, unmark};
use super::place::{Root, fault_of, is_reserved, split, sync};
use super::staging::{Staged, commit_lock};
use crate::under_store::files::{FileTree, blocking, description_of};
use crate::under_store::origin::body::OriginBody;
use crate::under_store::origin::error::{Fault, OriginErrorKind as Kind};
use crate::under_store::origin::types::{CopyDirective, Head, WriteCondition, Written};
use crate::under_store::origin::work::Work;
use crate::under_store::stores::Description;

/// ETag of a directory, whose content as an object is empty: the MD5 of nothing, as S3 has it.
pub(crate) const DIRECTORY_ETAG: &str = "\"d41d8cd98f00b204e9800998ecf8427e\"";

/// Content type of a directory, as S3's own console gives it.
const DIRECTORY_TYPE: &str = "application/x-directory";

/// Bytes of one call of the kernel to copy, so that a copy can be seen to go on.
const COPY_BYTES: usize = 64 << 20;

/// Refuses keys that are ours.
pub(super) fn check(key: &str) -> Result<(), Fault> {
    if is_reserved(key) {
        let cause = format!("`{}` is the name of our own directory", super::STAGING);
        return Err(Fault::lasting(Kind::Invalid, cause));
    }
    Ok(())
}

impl FileTree {
    /// Writes the object at `key`.
    pub(in crate::under_store::origin) async fn put(
        &self,
        key: &str,
        headers: Vec<(String, String)>,
        condition: WriteCondition,
        mut body: OriginBody,
        work: &Work,
    ) -> Result<Written, Fault> {
        check(key)?;
        let (tree, key) = (self.clone(), key.to_owned());
        if key.ends_with('/') {
            if !body.collected(u64::MAX).await?.is_empty() {
                let cause = "a key that ends in a slash is a directory here and holds no bytes";
                return Err(Fault::lasting(Kind::Invalid, cause));
            }
            return blocking(move || tree.make_directory(&key, &headers, &condition)).await;
        }
        let (created_tree, checked_key) = (tree.clone(), key.clone());
        let staged = blocking(move || {
            let root = Root::open(&created_tree)?;
            refuse_directory(&root, &checked_key)?;
            Staged::create(&root)
        })
        .await?;
        let staged = staged.filled(&mut body, work).await?;
        blocking(move || {
            let root = Root::open(&tree)?;
            staged.commit(&root, &tree, &key, &headers, &condition)
        })
        .await
    }

    fn make_directory(
        &self,
        key: &str,
        headers: &[(String, String)],
        condition: &WriteCondition,
    ) -> Result<Written, Fault> {
        let root = Root::open(self)?;
        let path = key.trim_end_matches('/');
        let _commit = commit_lock(self, path);
        if root.directory(path).is_ok() == (*condition == WriteCondition::IfAbsent)
            && *condition != WriteCondition::None
        {
            return Err(Fault::lasting(
                Kind::PreconditionFailed,
                "the condition of the write does not hold for the directory",
            ));
        }
        let directory = root.made(path)?;
        unmark(&directory).map_err(|error| fault_of(error, "mark"))?;
        set_headers(&directory, headers)?;
        sync(&directory)?;
        Ok(Written {
            etag: DIRECTORY_ETAG.to_owned(),
            ..Written::default()
        })
    }

    /// What is at `key` now.
    pub(in crate::under_store::origin) async fn head(&self, key: &str) -> Result<Head, Fault> {
        check(key)?;
        let (tree, key) = (self.clone(), key.to_owned());
        blocking(move || {
            let root = Root::open(&tree)?;
            if let Some(path) = key.strip_suffix('/') {
                return directory_head(&root, path);
            }
            drop(root);
            let (file, metadata) = tree.open(&key)?;
            let description = description_of(&metadata);
            Ok(Head {
                etag: format!("\"{}\"", description.version),
                length: description.length,
                last_modified_ms: description.last_modified_ms,
                headers: headers_of(&file),
            })
        })
        .await
    }

    /// Removes what is at `key`, which may be gone already.
    pub(in crate::under_store::origin) async fn delete(&self, key: &str) -> Result<(), Fault> {
        check(key)?;
        let (tree, key) = (self.clone(), key.to_owned());
        blocking(move || tree.delete_now(&key)).await
    }

    fn delete_now(&self, key: &str) -> Result<(), Fault> {
        let root = Root::open(self)?;
        let path = key.trim_end_matches('/');
        let (above, name) = split(path);
        let parent = match root.directory(above) {
            Ok(parent) => parent,
            // Nothing can be below what is not there.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
                return Ok(());
            }
            Err(error) => return Err(fault_of(error, "open the directory of")),
        };
        if path.len() < key.len() {
            match unlinkat(&parent, name, AtFlags::REMOVEDIR) {
                // What is in it keeps it, as keys below do in S3, until they are gone.
                Err(Errno::NOTEMPTY | Errno::EXIST) => {
                    if let Ok(directory) = root.directory(path) {
                        mark_implied(&directory);
                    }
                    return Ok(());
                }
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
                result => result.map_err(|error| fault_of(error.into(), "remove"))?,
            }
        } else {
            let _commit = commit_lock(self, key);
            match unlinkat(&parent, name, AtFlags::empty()) {
                // A directory is another key, with a slash behind it.
                Err(Errno::NOENT | Errno::ISDIR) => return Ok(()),
                result => result.map_err(|error| fault_of(error.into(), "remove"))?,
            }
        }
        sync(&parent)?;
        root.prune(above);
        Ok(())
    }

    /// Copies a file of `from` to `key`.
    pub(in crate::under_store::origin) async fn copy(
        &self,
        from: (FileTree, String),
        if_match: Option<String>,
        key: &str,
        directive: CopyDirective,
        condition: WriteCondition,
    ) -> Result<Written, Fault> {
        check(key)?;
        check(&from.1)?;
        let (tree, key) = (self.clone(), key.to_owned());
        blocking(move || {
            let (source, metadata) = from.0.open(&from.1)?;
            check_etag(&description_of(&metadata), if_match.as_deref())?;
            let root = Root::open(&tree)?;
            refuse_directory(&root, &key)?;
            let mut staged = Staged::create(&root)?;
            append(&source, 0..metadata.len(), &mut staged.file)?;
            check_unchanged(&source, &description_of(&metadata))?;
            let headers = match directive {
                CopyDirective::Copy => headers_of(&source),
                CopyDirective::Replace(headers) => headers.kept(),
            };
            staged.commit(&root, &tree, &key, &headers, &condition)
        })
        .await
    }
}

/// Refuses a source that is not of the expected ETag.
pub(super) fn check_etag(found: &Description, wanted: Option<&str>) -> Result<(), Fault> {
    match wanted {
        Some(etag) if etag.trim_matches('"') != found.version => Err(Fault::lasting(
            Kind::PreconditionFailed,
            "the source is not of the expected ETag",
        )
        .with_code("PreconditionFailed")),
        _ => Ok(()),
    }
}

/// Refuses a source that changed while it was copied.
pub(super) fn check_unchanged(source: &File, before: &Description) -> Result<(), Fault> {
    let metadata = source.metadata().map_err(|error| fault_of(error, "stat"))?;
    if description_of(&metadata).version != before.version {
        let cause = "the source changed while it was copied";
        return Err(Fault::passing(Kind::Unavailable, cause));
    }
    Ok(())
}

/// Appends a range of `source`: shared blocks where the file system can, else copied in the kernel.
pub(super) fn append(
    source: &File,
    range: std::ops::Range<u64>,
    target: &mut File,
) -> Result<(), Fault> {
    use std::io::{Read, Seek, SeekFrom};
    let mut offset = range.start;
    while offset < range.end {
        let wanted =
            usize::try_from(range.end - offset).map_or(COPY_BYTES, |left| left.min(COPY_BYTES));
        match rustix::fs::copy_file_range(source, Some(&mut offset), &*target, None, wanted) {
            Ok(0) => {
                let cause = "the source has fewer bytes than its size says";
                return Err(Fault::passing(Kind::Malformed, cause));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::NOTSUP | Errno::PERM) => {
                let mut reader = source;
                reader
                    .seek(SeekFrom::Start(offset))
                    .map_err(|error| fault_of(error, "read"))?;
                let length = range.end - offset;
                let copied = std::io::copy(&mut reader.take(length), target)
                    .map_err(|error| fault_of(error, "copy"))?;
                if copied != length {
                    let cause = "the source has fewer bytes than its size says";
                    return Err(Fault::passing(Kind::Malformed, cause));
                }
                return Ok(());
            }
            Err(error) => return Err(fault_of(error.into(), "copy")),
        }
    }
    Ok(())
}

/// What is at `key`, if it is a file.
pub(super) fn present(root: &Root, key: &str) -> Result<Option<Description>, Fault> {
    match root.opened(key, OFlags::PATH) {
        Ok(place) => {
            let metadata = File::from(place)
                .metadata()
                .map_err(|error| fault_of(error, "stat"))?;
            Ok(metadata.is_file().then(|| description_of(&metadata)))
        }
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(fault_of(error.into(), "stat")),
    }
}

/// Refuses a key where a directory is, or that lies below a file.
fn refuse_directory(root: &Root, key: &str) -> Result<(), Fault> {
    match root.opened(key, OFlags::PATH) {
        Ok(place) => {
            let metadata = File::from(place)
                .metadata()
                .map_err(|error| fault_of(error, "stat"))?;
            if metadata.is_dir() {
                return Err(fault_of(Errno::ISDIR.into(), "write"));
            }
            Ok(())
        }
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(fault_of(error.into(), "write")),
    }
}

fn directory_head(root: &Root, path: &str) -> Result<Head, Fault> {
    let directory = match root.directory(path) {
        Ok(directory) => File::from(directory),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
            return Err(Fault::lasting(Kind::NotFound, "there is no such directory"));
        }
        Err(error) => return Err(fault_of(error, "open")),
    };
    let metadata = directory
        .metadata()
        .map_err(|error| fault_of(error, "stat"))?;
    let mut headers = headers_of(&directory);
    if headers.iter().all(|(name, _)| name != "content-type") {
        headers.push(("content-type".to_owned(), DIRECTORY_TYPE.to_owned()));
    }
    Ok(Head {
        etag: DIRECTORY_ETAG.to_owned(),
        length: 0,
        last_modified_ms: description_of(&metadata).last_modified_ms,
        headers,
    })
}

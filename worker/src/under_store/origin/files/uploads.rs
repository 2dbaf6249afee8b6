//! Multipart uploads, as directories of the staging directory.
//!
//! An upload is `<id>/about`, whose first line is the key and whose headers are in its attribute
//! like those of any file, and `<id>/part-NNNNN`. Completing one joins the parts in a new file and
//! renames that; the parts are removed only then, so a completion that failed can be repeated.

use std::collections::BinaryHeap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, mkdirat, openat, renameat};
use rustix::io::Errno;

use super::attributes::{headers_of, set_headers};
use super::objects::{append, check, check_etag, check_unchanged};
use super::place::{Root, STAGING, fault_of, sync};
use super::staging::{Staged, random_name};
use crate::under_store::files::{FileTree, blocking, description_of};
use crate::under_store::origin::body::OriginBody;
use crate::under_store::origin::error::{Fault, OriginErrorKind as Kind};
use crate::under_store::origin::types::{
    CompletedPart, ListedPart, ListedUpload, PartPage, UploadPage, WriteCondition, Written,
};
use crate::under_store::origin::work::Work;

/// The file that says what an upload is of.
const ABOUT: &str = "about";

/// Longest key with its newline.
const ABOUT_BYTES_MAX: u64 = 4096;

fn no_upload() -> Fault {
    Fault::lasting(Kind::NoSuchUpload, "there is no such upload (any more)")
        .with_code("NoSuchUpload")
}

fn part_name(number: u32) -> String {
    format!("part-{number:05}")
}

/// An upload, open.
struct Upload {
    directory: OwnedFd,
    path: String,
}

impl Upload {
    fn open(root: &Root, key: &str, id: &str) -> Result<(Self, File), Fault> {
        // An id is one of ours or none; so it cannot be a path.
        if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(no_upload());
        }
        let path = format!("{STAGING}/{id}");
        let directory = root.directory(&path).map_err(|_| no_upload())?;
        let upload = Upload { directory, path };
        let mut about = upload.file(ABOUT).map_err(|_| no_upload())?;
        if key_of(&mut about)? != key {
            return Err(no_upload());
        }
        Ok((upload, about))
    }

    fn file(&self, name: &str) -> Result<File, Errno> {
        open_plain(&self.directory, name)
    }

    /// Makes `staged` the part of that number.
    fn take_part(
        &self,
        root: &Root,
        tree: &FileTree,
        number: u32,
        staged: Staged,
    ) -> Result<Written, Fault> {
        let key = format!("{}/{}", self.path, part_name(number));
        // Without making directories: an upload that was ended meanwhile must not come back.
        if root.directory(&self.path).is_err() {
            return Err(no_upload());
        }
        staged.commit(root, tree, &key, &[], &WriteCondition::None)
    }
}

/// Opens a regular file in a directory of ours. Others may write there too: what is no such file is not waited
/// for, and not followed.
fn open_plain(directory: impl AsFd, name: &str) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(directory, name, flags, Mode::empty()).map(File::from)?;
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
    if is_file { Ok(file) } else { Err(Errno::INVAL) }
}

fn key_of(about: &mut File) -> Result<String, Fault> {
    let mut key = String::new();
    about
        .take(ABOUT_BYTES_MAX)
        .read_to_string(&mut key)
        .map_err(|error| fault_of(error, "read"))?;
    Ok(key.trim_end_matches('\n').to_owned())
}

impl FileTree {
    /// Begins an upload and returns its id. Blocks.
    pub(in crate::under_store::origin) fn create_upload(
        &self,
        key: &str,
        headers: &[(String, String)],
    ) -> Result<String, Fault> {
        check(key)?;
        if key.ends_with('/') {
            let cause = "a key that ends in a slash is a directory here and has no parts";
            return Err(Fault::lasting(Kind::Invalid, cause));
        }
        let root = Root::open(self)?;
        let staging = root.made(STAGING)?;
        let id = random_name()?;
        mkdirat(&staging, &id, Mode::from_raw_mode(0o777))
            .map_err(|error| fault_of(error.into(), "make the directory of"))?;
        let directory = root
            .directory(&format!("{STAGING}/{id}"))
            .map_err(|error| fault_of(error, "open the directory of"))?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mut about: File = openat(&directory, "about-new", flags, Mode::from_raw_mode(0o666))
            .map_err(|error| fault_of(error.into(), "create"))?
            .into();
        about
            .write_all(format!("{key}\n").as_bytes())
            .map_err(|error| fault_of(error, "write"))?;
        set_headers(&about, headers)?;
        about.sync_all().map_err(|error| fault_of(error, "sync"))?;
        renameat(&directory, "about-new", &directory, ABOUT)
            .map_err(|error| fault_of(error.into(), "rename"))?;
        sync(&directory)?;
        sync(&staging)?;
        Ok(id)
    }

    /// Writes a part.
    pub(in crate::under_store::origin) async fn put_part(
        &self,
        key: &str,
        id: &str,
        number: u32,
        mut body: OriginBody,
        work: &Work,
    ) -> Result<Written, Fault> {
        let (tree, key, id) = (self.clone(), key.to_owned(), id.to_owned());
        let (created_tree, created_key, created_id) = (tree.clone(), key.clone(), id.clone());
        let staged = blocking(move || {
            let root = Root::open(&created_tree)?;
            Upload::open(&root, &created_key, &created_id)?;
            Staged::create(&root)
        })
        .await?;
        let staged = staged.filled(&mut body, work).await?;
        blocking(move || {
            let root = Root::open(&tree)?;
            let (upload, _) = Upload::open(&root, &key, &id)?;
            upload.take_part(&root, &tree, number, staged)
        })
        .await
    }

    /// Makes a part of a file of `from`, or of a range of it. Blocks.
    pub(in crate::under_store::origin) fn copy_part(
        &self,
        from: (&FileTree, &str),
        if_match: Option<&str>,
        range: Option<Range<u64>>,
        (key, id, number): (&str, &str, u32),
    ) -> Result<Written, Fault> {
        let root = Root::open(self)?;
        let (upload, _) = Upload::open(&root, key, id)?;
        check(from.1)?;
        let (source, metadata) = from.0.open(from.1)?;
        let description = description_of(&metadata);
        check_etag(&description, if_match)?;
        let range = range.unwrap_or(0..metadata.len());
        if range.end > metadata.len() || range.start > range.end {
            let cause = format!("the source has {} bytes, not {range:?}", metadata.len());
            return Err(Fault::lasting(Kind::Invalid, cause).with_code("InvalidRange"));
        }
        let mut staged = Staged::create(&root)?;
        append(&source, range, &mut staged.file)?;
        check_unchanged(&source, &description)?;
        upload.take_part(&root, self, number, staged)
    }

    /// Makes the object of its parts. Blocks.
    pub(in crate::under_store::origin) fn complete_upload(
        &self,
        key: &str,
        id: &str,
        parts: &[CompletedPart],
        condition: &WriteCondition,
    ) -> Result<Written, Fault> {
        let invalid =
            |cause: String, code: &str| Err(Fault::lasting(Kind::Invalid, cause).with_code(code));
        let completion = self.completions.of(id);
        let mut done = completion.enter();
        if let Some((of_key, written)) = &*done
            && of_key == key
        {
            return Ok(written.clone());
        }
        let root = Root::open(self)?;
        let (upload, about) = Upload::open(&root, key, id)?;
        if parts.is_empty() {
            return invalid("an upload needs a part".to_owned(), "MalformedXML");
        }
        if parts
            .windows(2)
            .any(|pair| pair[0].number >= pair[1].number)
        {
            return invalid(
                "the parts are not in ascending order".to_owned(),
                "InvalidPartOrder",
            );
        }
        let mut staged = Staged::create(&root)?;
        for part in parts {
            let number = part.number;
            let Ok(file) = upload.file(&part_name(number)) else {
                return invalid(format!("part {number} is not there"), "InvalidPart");
            };
            let metadata = file.metadata().map_err(|error| fault_of(error, "stat"))?;
            if description_of(&metadata).version != part.etag.trim_matches('"') {
                return invalid(format!("part {number} has another ETag"), "InvalidPart");
            }
            append(&file, 0..metadata.len(), &mut staged.file)?;
        }
        let written = staged.commit(&root, self, key, &headers_of(&about), condition)?;
        self.remove_upload(&upload);
        *done = Some((key.to_owned(), written.clone()));
        Ok(written)
    }

    /// Ends an upload without an object. Blocks.
    pub(in crate::under_store::origin) fn abort_upload(
        &self,
        key: &str,
        id: &str,
    ) -> Result<(), Fault> {
        let root = Root::open(self)?;
        let (upload, _) = Upload::open(&root, key, id)?;
        self.remove_upload(&upload);
        Ok(())
    }

    fn remove_upload(&self, upload: &Upload) {
        // `about` goes first, so that an upload is there as a whole or not at all.
        let path = self.root.join(&upload.path);
        let _ = fs::remove_file(path.join(ABOUT));
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "the parts of an upload stay until the next sweep");
        }
    }

    /// The parts of an upload behind `marker`. Blocks.
    pub(in crate::under_store::origin) fn list_parts(
        &self,
        key: &str,
        id: &str,
        marker: u32,
        parts_max: usize,
    ) -> Result<PartPage, Fault> {
        let root = Root::open(self)?;
        let (upload, _) = Upload::open(&root, key, id)?;
        let mut numbers: Vec<u32> = fs::read_dir(self.root.join(&upload.path))
            .map_err(|error| fault_of(error, "list the parts of"))?
            .flatten()
            .filter_map(|entry| {
                entry
                    .file_name()
                    .to_str()?
                    .strip_prefix("part-")?
                    .parse()
                    .ok()
            })
            .filter(|number| *number > marker)
            .collect();
        numbers.sort_unstable();
        let is_cut = numbers.len() > parts_max;
        numbers.truncate(parts_max);
        let mut page = PartPage::default();
        for number in numbers {
            // A part that is replaced just now is listed by its new file.
            let Ok(file) = upload.file(&part_name(number)) else {
                continue;
            };
            let metadata = file.metadata().map_err(|error| fault_of(error, "stat"))?;
            let description = description_of(&metadata);
            page.parts.push(ListedPart {
                number,
                etag: format!("\"{}\"", description.version),
                size: description.length,
                last_modified_ms: description.last_modified_ms,
            });
        }
        page.next_marker = page.parts.last().map(|part| part.number).filter(|_| is_cut);
        Ok(page)
    }

    /// The uploads of keys that begin with `prefix`, behind a key and an id. Blocks.
    pub(in crate::under_store::origin) fn list_uploads(
        &self,
        prefix: &str,
        after: Option<&(String, String)>,
        uploads_max: usize,
    ) -> Result<UploadPage, Fault> {
        let root = Root::open(self)?;
        let entries = match fs::read_dir(self.root.join(STAGING)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(UploadPage::default());
            }
            Err(error) => return Err(fault_of(error, "list the uploads of")),
        };
        // The least of them, the greatest on top: there may be any number.
        let mut least = BinaryHeap::new();
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let Ok(upload_id) = entry.file_name().into_string() else {
                continue;
            };
            let Some((key, initiated_ms)) = upload_at(&root, &upload_id) else {
                continue;
            };
            let upload = (key, upload_id, initiated_ms);
            let is_wanted = upload.0.starts_with(prefix)
                && after.is_none_or(|(key, id)| (&upload.0, &upload.1) > (key, id));
            if is_wanted {
                least.push(upload);
                // One more tells whether something follows.
                if least.len() > uploads_max + 1 {
                    least.pop();
                }
            }
        }
        let mut uploads: Vec<ListedUpload> = least
            .into_sorted_vec()
            .into_iter()
            .map(|(key, upload_id, initiated_ms)| ListedUpload {
                key,
                upload_id,
                initiated_ms,
            })
            .collect();
        let is_cut = uploads.len() > uploads_max;
        uploads.truncate(uploads_max);
        let next_marker = uploads
            .last()
            .filter(|_| is_cut)
            .map(|last| (last.key.clone(), last.upload_id.clone()));
        Ok(UploadPage {
            uploads,
            next_marker,
        })
    }
}

/// The key of an upload, and when it was begun.
fn upload_at(root: &Root, upload_id: &str) -> Option<(String, u64)> {
    let directory = root.directory(&format!("{STAGING}/{upload_id}")).ok()?;
    let mut about = open_plain(directory, ABOUT).ok()?;
    let metadata = about.metadata().ok()?;
    let initiated_ms = description_of(&metadata).last_modified_ms;
    Some((key_of(&mut about).ok()?, initiated_ms))
}

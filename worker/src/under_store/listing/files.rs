//! Runs of a directory tree.
//!
//! The order is that of whole keys, as object stores have it: a directory sorts as its name with
//! a slash behind it, so `a-b` comes before `a/c`. Symbolic links that stay below the mount count
//! as what they lead to, but links to directories are not descended into, since they may form
//! circles. A directory with nothing in it is listed as the key that is its name with the slash.
//! Names that are not UTF-8 or hold control characters cannot be addressed and are left out.

use std::fs;
use std::io;

use super::{Depth, Item, Run, Wanted};
use crate::under_store::UnderStoreErrorKind;
use crate::under_store::files::{FileTree, description_of, failure_of};
use crate::under_store::location::check_key;
use crate::under_store::origin::{DIRECTORY_ETAG, is_reserved};
use crate::under_store::retry::Failure;

/// Longest path of a directory that is listed: what lies deeper has no key, whose length S3 bounds.
const DIRECTORY_BYTES_MAX: usize = 1024;

/// One run of what is below `tree`. Blocks.
pub(super) fn run(tree: &FileTree, wanted: Wanted<'_>) -> Result<Run, Failure> {
    let directory = wanted.directory();
    if !directory.is_empty() {
        tree.check_place(&tree.root.join(directory))?;
    }
    let mut walk = Walk {
        tree,
        wanted,
        items: Vec::new(),
    };
    let is_all = walk.visit(directory, &wanted.prefix[directory.len()..], 0)?;
    Ok(Run::new(walk.items, is_all, wanted.entries_max))
}

struct Walk<'a> {
    tree: &'a FileTree,
    wanted: Wanted<'a>,
    items: Vec<Item>,
}

/// A name in a directory, in the form that it sorts by.
struct Name {
    /// With a slash at the end for directories.
    text: String,
    is_link: bool,
}

impl Walk<'_> {
    /// Appends what is in `directory` under names that begin with `stem`; false when it stopped
    /// because it found one more than was wanted.
    fn visit(&mut self, directory: &str, stem: &str, depth: usize) -> Result<bool, Failure> {
        if directory.len() > DIRECTORY_BYTES_MAX {
            return Ok(true);
        }
        let (names, is_empty) = self.names(directory, stem, depth)?;
        // What an empty directory is as an object: its own key.
        let is_shown =
            is_empty && !directory.is_empty() && directory.starts_with(self.wanted.prefix);
        if is_shown && directory > self.wanted.after {
            let last_modified_ms = fs::metadata(self.tree.root.join(directory))
                .map_or(0, |metadata| description_of(&metadata).last_modified_ms);
            self.items.push(Item::Object {
                key: directory.to_owned(),
                length: 0,
                last_modified_ms,
                version: DIRECTORY_ETAG.to_owned(),
                storage_class: None,
            });
        }
        for name in names {
            let key = format!("{directory}{}", name.text);
            let is_directory = key.ends_with('/');
            if is_directory && self.wanted.depth == Depth::All {
                let is_behind =
                    key.as_str() > self.wanted.after || self.wanted.after.starts_with(&key);
                if !name.is_link && is_behind && !self.visit(&key, "", depth + 1)? {
                    return Ok(false);
                }
                continue;
            }
            if key.as_str() <= self.wanted.after {
                continue;
            }
            let item = if is_directory {
                Some(Item::Prefix { key })
            } else {
                self.object(key)?
            };
            self.items.extend(item);
            if self.items.len() > self.wanted.entries_max {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The names in a directory, sorted, and whether it has none at all.
    fn names(
        &self,
        directory: &str,
        stem: &str,
        depth: usize,
    ) -> Result<(Vec<Name>, bool), Failure> {
        let entries = match fs::read_dir(self.tree.root.join(directory)) {
            Ok(entries) => entries,
            // Removed since its parent was read.
            Err(error) if depth > 0 && error.kind() == io::ErrorKind::NotFound => {
                return Ok((Vec::new(), false));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Failure::lasting(
                    UnderStoreErrorKind::NotFound,
                    "there is no such directory",
                ));
            }
            // One directory that is not ours to read does not hide all others.
            Err(error) if depth > 0 && error.kind() == io::ErrorKind::PermissionDenied => {
                tracing::debug!(directory, "left out of a listing: it may not be read");
                return Ok((Vec::new(), false));
            }
            Err(error) => return Err(failure_of(&error, "list")),
        };
        let mut names = Vec::new();
        let mut is_empty = true;
        for entry in entries {
            let entry = entry.map_err(|error| failure_of(&error, "list"))?;
            is_empty = false;
            let Ok(mut text) = entry.file_name().into_string() else {
                continue;
            };
            if !text.starts_with(stem) || check_key(&text).is_err() || is_reserved(&text) {
                continue;
            }
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            let is_link = kind.is_symlink();
            let is_directory = if is_link {
                if self.tree.check_place(&entry.path()).is_err() {
                    continue;
                }
                fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_dir())
            } else {
                kind.is_dir()
            };
            if is_directory {
                text.push('/');
            }
            names.push(Name { text, is_link });
        }
        names.sort_unstable_by(|left, right| left.text.cmp(&right.text));
        Ok((names, is_empty))
    }

    /// The file at `key` as an object; `None` if it is gone or no regular file.
    fn object(&self, key: String) -> Result<Option<Item>, Failure> {
        let metadata = match fs::metadata(self.tree.root.join(&key)) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failure_of(&error, "stat")),
        };
        if !metadata.is_file() {
            return Ok(None);
        }
        let description = description_of(&metadata);
        Ok(Some(Item::Object {
            key,
            length: description.length,
            last_modified_ms: description.last_modified_ms,
            version: description.version,
            storage_class: None,
        }))
    }
}

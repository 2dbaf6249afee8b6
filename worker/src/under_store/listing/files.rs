//! Runs of a directory tree.
//!
//! The order is that of whole keys, as object stores have it: a directory sorts as its name with
//! a slash behind it, so `a-b` comes before `a/c`. Symbolic links that stay below the mount count
//! as what they lead to, but links to directories are not descended into, since they may form
//! circles. A directory with nothing in it is listed as the key that is its name with the slash.
//! Names that are not UTF-8 or hold control characters cannot be addressed and are left out.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::names::{DirectoryNames, NameCounts, Stretch, WantedNames};
use super::{Depth, Item, RUN_BYTES_MAX, Run, Wanted};
use crate::under_store::UnderStoreErrorKind;
use crate::under_store::files::{FileTree, description_of, failure_of};
use crate::under_store::origin::DIRECTORY_ETAG;
use crate::under_store::retry::Failure;

/// Longest path of a directory that is listed: what lies deeper has no key, whose length S3 bounds.
const DIRECTORY_BYTES_MAX: usize = 1024;

/// Where a run is made.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub tree: &'a FileTree,
    pub mount_path: &'a str,
    pub names: &'a DirectoryNames,
    /// How old names may be whatever happened to their directory since.
    pub max_age: Duration,
    pub counts: &'a NameCounts,
}

/// One run of what is at `place`. Blocks.
pub(super) fn run(place: Place<'_>, wanted: Wanted<'_>) -> Result<Run, Failure> {
    let directory = wanted.directory();
    if !directory.is_empty() || place.tree.is_root_resolved {
        place.tree.check_place(&place.tree.root.join(directory))?;
    }
    let mut walk = Walk {
        place,
        wanted,
        items: Vec::new(),
        bytes: 0,
        as_of: None,
    };
    let is_all = walk.visit(directory, &wanted.prefix[directory.len()..], 0)?;
    Ok(Run {
        as_of: walk.as_of,
        ..Run::new(walk.items, is_all, wanted.entries_max)
    })
}

struct Walk<'a> {
    place: Place<'a>,
    wanted: Wanted<'a>,
    items: Vec<Item>,
    bytes: usize,
    /// When the oldest names were read of those that may have changed since.
    as_of: Option<Instant>,
}

impl Walk<'_> {
    /// Appends what is in `directory` under names that begin with `stem`; false when it stopped
    /// because it found one more than was wanted, or as many bytes as a run may have.
    fn visit(&mut self, directory: &str, stem: &str, depth: usize) -> Result<bool, Failure> {
        let after = self.wanted.after;
        if directory.len() > DIRECTORY_BYTES_MAX
            || after > directory && !after.starts_with(directory)
        {
            return Ok(true);
        }
        let mut from = first_name(directory, self.wanted.after).to_owned();
        let mut is_begun = false;
        loop {
            let Some(stretch) = self.stretch(directory, stem, &from, depth)? else {
                return Ok(true);
            };
            if !is_begun && stretch.is_empty() {
                self.show_empty(directory);
            }
            is_begun = true;
            let start = stretch.names.partition_point(|name| *name.text < *from);
            for name in &stretch.names[start..] {
                if !name.text.starts_with(stem) {
                    continue;
                }
                let key = format!("{directory}{}", name.text);
                if !self.take(key, name.is_link, depth)? {
                    return Ok(false);
                }
            }
            match stretch.names.last() {
                Some(last) if !stretch.is_all => from = format!("{}\0", last.text),
                _ => return Ok(true),
            }
        }
    }

    /// Appends what has the name `key`; false when that was one too many.
    fn take(&mut self, key: String, is_link: bool, depth: usize) -> Result<bool, Failure> {
        let is_directory = key.ends_with('/');
        if is_directory && self.wanted.depth == Depth::All {
            let is_behind = key.as_str() > self.wanted.after || self.wanted.after.starts_with(&key);
            return Ok(is_link || !is_behind || self.visit(&key, "", depth + 1)?);
        }
        if key.as_str() <= self.wanted.after {
            return Ok(true);
        }
        let item = if is_directory {
            Some(Item::Prefix { key })
        } else {
            self.object(key)?
        };
        if let Some(item) = item {
            self.bytes += item.bytes();
            self.items.push(item);
        }
        Ok(self.items.len() <= self.wanted.entries_max && self.bytes <= RUN_BYTES_MAX)
    }

    /// Appends an empty directory as an object: its own key.
    fn show_empty(&mut self, directory: &str) {
        let is_shown = !directory.is_empty() && directory.starts_with(self.wanted.prefix);
        if is_shown && directory > self.wanted.after {
            let last_modified_ms = fs::metadata(self.place.tree.root.join(directory))
                .map_or(0, |metadata| description_of(&metadata).last_modified_ms);
            self.items.push(Item::Object {
                key: directory.to_owned(),
                length: 0,
                last_modified_ms,
                version: DIRECTORY_ETAG.to_owned(),
                storage_class: None,
            });
        }
    }

    /// Names in a directory; none when it is left out of the listing.
    fn stretch(
        &mut self,
        directory: &str,
        stem: &str,
        from: &str,
        depth: usize,
    ) -> Result<Option<Arc<Stretch>>, Failure> {
        let stretch = self.place.names.stretch(WantedNames {
            tree: self.place.tree,
            mount_path: self.place.mount_path,
            directory,
            stem,
            from,
            depth,
            max_age: self.place.max_age,
            counts: self.place.counts,
        });
        match stretch {
            Ok((stretch, as_of)) => {
                self.as_of = [self.as_of, as_of].into_iter().flatten().min();
                Ok(Some(stretch))
            }
            Err(error) if depth == 0 && error.kind() == io::ErrorKind::NotFound => Err(
                Failure::lasting(UnderStoreErrorKind::NotFound, "there is no such directory"),
            ),
            // Removed since its parent was read.
            Err(error) if depth > 0 && error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                let failure = failure_of(&error, "list");
                if depth == 0 || failure.is_worth_retrying {
                    return Err(failure);
                }
                // One directory that is not ours to read does not hide all others.
                self.skip(directory, &failure);
                Ok(None)
            }
        }
    }

    fn skip(&self, key: &str, failure: &Failure) {
        self.place.counts.skipped.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(key, cause = failure.cause, "left out of a listing");
    }

    /// The file at `key` as an object; `None` if it is gone, no regular file, or not ours to look at.
    fn object(&self, key: String) -> Result<Option<Item>, Failure> {
        let metadata = match fs::metadata(self.place.tree.root.join(&key)) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                let failure = failure_of(&error, "stat");
                // A file server that fails for the moment must not make files look deleted.
                if failure.is_worth_retrying {
                    return Err(failure);
                }
                self.skip(&key, &failure);
                return Ok(None);
            }
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

/// The least name of `directory` that can stand for something behind `after`.
fn first_name<'a>(directory: &str, after: &'a str) -> &'a str {
    let rest = after.strip_prefix(directory).unwrap_or("");
    let end = rest.find('/').map_or(rest.len(), |slash| slash + 1);
    &rest[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_begins_at_the_name_that_the_last_one_ended_in() {
        for (directory, after, from) in [
            ("", "", ""),
            ("", "b/c", "b/"),
            ("", "b", "b"),
            ("b/", "b/c", "c"),
            ("b/", "b/c/d", "c/"),
            ("b/", "b/", ""),
            ("b/", "a", ""),
            ("b/", "b", ""),
        ] {
            assert_eq!(first_name(directory, after), from, "{directory} {after}");
        }
    }
}

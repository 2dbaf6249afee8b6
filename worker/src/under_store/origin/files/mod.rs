//! Directories of this machine as origins.
//!
//! - An object appears whole or not at all: it is written to a file of the staging directory
//!   [`STAGING`] below the mount's root, brought to the disk, and renamed to its key.
//! - A key that ends in `/` is a directory. An empty directory is listed as such a key. The
//!   directories that a key implies are made with it, marked in an extended attribute, and removed
//!   with the last object in them; a directory that was asked for, or that others made, stays.
//! - Content headers and the user's own metadata are one extended attribute,
//!   `user.corelane.headers`. A file system without these keeps the bytes and drops the headers.
//! - The ETag is the version of the file (size, modification time, inode) in quotes, not an MD5.
//!
//! The invariant: no path leaves the root. Directories are opened below the root by the kernel's
//! own check (`openat2` with `RESOLVE_BENEATH`), and names are used only relative to them.
//! Conditions hold among the writes of this process; other writers of the tree do not take part,
//! except that `IfAbsent` never replaces a file, whoever made it.

mod attributes;
mod completions;
mod objects;
mod place;
mod staging;
mod uploads;

pub(crate) use attributes::headers_of;
pub(crate) use completions::Completions;
pub(crate) use objects::DIRECTORY_ETAG;
pub(crate) use place::{STAGING, is_reserved};
pub(super) use staging::sweep;

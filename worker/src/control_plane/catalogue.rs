//! What the control plane needs of the under-stores: listings, limits and counters.

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::mount::{Mount, MountTable};
use crate::under_store::UnderStoreError;

/// A name in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Path in the worker's namespace; a folder's ends in a slash, so that it sorts where what is
    /// below it would.
    pub path: String,
    /// Whether it stands for everything below it.
    pub is_directory: bool,
    /// Bytes of an object.
    pub length: u64,
    /// Milliseconds since the Unix epoch; 0 where unknown.
    pub last_modified_ms: u64,
    /// The object's version.
    pub version: String,
}

/// A part of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// In byte order of their paths.
    pub entries: Vec<Listed>,
    /// Whether there may be more after the last one.
    pub more: bool,
}

/// What is wanted of a listing.
#[derive(Clone, Debug)]
pub struct ListRequest {
    /// The mount that covers `path`.
    pub mount: Arc<Mount>,
    /// The folder.
    pub path: String,
    /// Everything below it rather than what is directly in it.
    pub recursive: bool,
    /// Only what comes after this path; empty: from the start.
    pub after: String,
    /// At most so many entries; at least one.
    pub limit: usize,
}

/// The under-stores as the control plane sees them.
pub trait Catalogue: Send + Sync + 'static {
    /// Lists a folder, as fresh as the mount demands. An object at `path` itself is not in it.
    fn list(&self, request: ListRequest) -> BoxFuture<'static, Result<Page, UnderStoreError>>;

    /// Replaces the limits. Bytes a second: 0 is no limit.
    fn set_limits(&self, bytes_per_second: u64, requests: usize);

    /// Forgets what is kept of mounts that are not in `mounts`.
    fn retain_mounts(&self, mounts: &MountTable);

    /// Counters by metric name, with a label each (the mount's path) or an empty one.
    fn counters(&self) -> Vec<(&'static str, String, u64)>;
}

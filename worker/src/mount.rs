//! Mounts: which part of the worker's namespace stands for which under-store, and by what policy.
//!
//! A [`MountTable`] is immutable; a change makes a new one that is handed to every shard, so that
//! looking a path up takes no lock. Mount ids are slots: an id keeps its meaning for as long as
//! the mount exists and index entries carry it for the access check of a read.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Most mounts a worker may have. Bounds the access set of a lane to a few cache lines.
pub const MOUNTS_MAX: usize = 1024;

/// Slot of a mount; what index entries and frames remember of where an object belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MountId(pub u16);

impl MountId {
    /// No mount covers the object (any more): nobody may read it.
    pub const NONE: MountId = MountId(u16::MAX);
}

/// For how long object metadata and listings may be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Objects never change: what was seen once holds.
    Immutable,
    /// What was seen holds this long.
    MaxAge(Duration),
    /// Ask the under-store at every open.
    AlwaysCheck,
}

impl fmt::Display for Freshness {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Freshness::Immutable => formatter.write_str("immutable"),
            Freshness::MaxAge(age) => write!(formatter, "max-age={}", age.as_secs()),
            Freshness::AlwaysCheck => formatter.write_str("always-check"),
        }
    }
}

impl std::str::FromStr for Freshness {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "immutable" => Ok(Freshness::Immutable),
            "always-check" => Ok(Freshness::AlwaysCheck),
            _ => text
                .strip_prefix("max-age=")
                .and_then(|seconds| seconds.parse().ok())
                .map(|seconds| Freshness::MaxAge(Duration::from_secs(seconds)))
                .ok_or_else(|| {
                    format!("freshness `{text}` is not immutable, always-check or max-age=SECONDS")
                }),
        }
    }
}

/// Which fetched blocks are written to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// All of them.
    Always,
    /// Those that were fetched before, not long ago. Spares drives from one-time scans.
    SecondTouch,
}

impl fmt::Display for Admission {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Admission::Always => "always",
            Admission::SecondTouch => "second-touch",
        })
    }
}

impl std::str::FromStr for Admission {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "always" => Ok(Admission::Always),
            "second-touch" => Ok(Admission::SecondTouch),
            _ => Err(format!("admission `{text}` is not always or second-touch")),
        }
    }
}

/// One mount.
#[derive(Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its slot.
    pub id: MountId,
    /// Absolute prefix without a trailing slash, such as `/data`; `/` for the whole namespace.
    pub path: String,
    /// Where the objects are, such as `s3://bucket/prefix` or `file:///dir`, without a trailing slash.
    pub uri: String,
    /// Bytes in a block: a power of two within the limits of the format.
    pub block_bytes: u32,
    /// How long metadata holds.
    pub freshness: Freshness,
    /// What goes to the device.
    pub admission: Admission,
    /// Columns of Parquet objects, by dotted path, that key indexes are built of when an object is first looked
    /// into.
    pub key_indexes: Vec<String>,
    /// Names of the tokens that may read; empty means everyone who may connect.
    pub readers: Vec<String>,
    /// Options of the under-store (endpoint, region, keys). Never logged or returned as they are.
    pub options: BTreeMap<String, String>,
    /// Made at run time by an operator, not by the configuration: kept in the device's state.
    pub is_runtime: bool,
}

impl fmt::Debug for Mount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Options hold secrets, so only their names are shown.
        formatter
            .debug_struct("Mount")
            .field("id", &self.id)
            .field("path", &self.path)
            .field("uri", &self.uri)
            .field("block_bytes", &self.block_bytes)
            .field("freshness", &self.freshness)
            .field("admission", &self.admission)
            .field("key_indexes", &self.key_indexes)
            .field("readers", &self.readers)
            .field("options", &self.options.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Mount {
    /// The URI of the object that stands at `path`, which this mount covers.
    ///
    /// # Panics
    /// If the mount does not cover `path`.
    pub fn uri_of(&self, path: &str) -> String {
        format!("{}/{}", self.uri, self.key_of(path))
    }

    /// The part of `path` below the mount, without a leading slash.
    ///
    /// # Panics
    /// If the mount does not cover `path`.
    pub fn key_of<'a>(&self, path: &'a str) -> &'a str {
        let rest = path.strip_prefix(self.path.trim_end_matches('/'));
        rest.expect("the mount covers the path")
            .trim_start_matches('/')
    }

    /// The path at which the object with URI `uri` appears, if it is below this mount.
    pub fn path_of(&self, uri: &str) -> Option<String> {
        let key = uri.strip_prefix(&self.uri)?.strip_prefix('/')?;
        Some(format!("{}/{key}", self.path.trim_end_matches('/')))
    }

    /// Whether `path` is the mount's or below it.
    pub fn covers(&self, path: &str) -> bool {
        let prefix = self.path.trim_end_matches('/');
        path.strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// All mounts, looked up by the longest prefix.
#[derive(Clone, Debug, Default)]
pub struct MountTable {
    /// Longest path first, so that the first one that covers a path is the one.
    mounts: Vec<Arc<Mount>>,
}

impl MountTable {
    /// A table of `mounts`.
    ///
    /// # Errors
    /// When two mounts have the same path or slot, or there are more than [`MOUNTS_MAX`].
    pub fn new(mounts: impl IntoIterator<Item = Mount>) -> Result<Self, String> {
        let mut mounts: Vec<Arc<Mount>> = mounts.into_iter().map(Arc::new).collect();
        if mounts.len() > MOUNTS_MAX {
            return Err(format!(
                "{} mounts are more than the limit of {MOUNTS_MAX}",
                mounts.len()
            ));
        }
        mounts.sort_by(|left, right| {
            right
                .path
                .len()
                .cmp(&left.path.len())
                .then_with(|| left.path.cmp(&right.path))
        });
        for pair in mounts.windows(2) {
            if pair[0].path == pair[1].path {
                return Err(format!(
                    "two mounts at {}: remove one of them",
                    pair[0].path
                ));
            }
        }
        let mut slots: Vec<MountId> = mounts.iter().map(|mount| mount.id).collect();
        slots.sort_unstable();
        slots.dedup();
        if slots.len() != mounts.len() {
            return Err("two mounts have the same slot".to_owned());
        }
        Ok(MountTable { mounts })
    }

    /// The mount that covers `path`.
    pub fn covering(&self, path: &str) -> Option<&Arc<Mount>> {
        self.mounts.iter().find(|mount| mount.covers(path))
    }

    /// The mount in slot `id`.
    pub fn get(&self, id: MountId) -> Option<&Arc<Mount>> {
        self.mounts.iter().find(|mount| mount.id == id)
    }

    /// The mount below which the object with URI `uri` and block size `block_bytes` appears.
    pub fn of_object(&self, uri: &str, block_bytes: u32) -> Option<&Arc<Mount>> {
        self.mounts
            .iter()
            .find(|mount| mount.block_bytes == block_bytes && mount.path_of(uri).is_some())
    }

    /// All mounts, longest path first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Mount>> {
        self.mounts.iter()
    }

    /// The lowest slot that no mount has.
    pub fn free_slot(&self) -> Option<MountId> {
        (0..MOUNTS_MAX as u16)
            .map(MountId)
            .find(|slot| self.mounts.iter().all(|mount| mount.id != *slot))
    }
}

/// The mounts that a connection may read: one bit a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessSet {
    mounts: [u64; MOUNTS_MAX / 64],
    /// Whether objects that no mount covers may be read.
    unmounted: bool,
}

impl AccessSet {
    /// Nothing may be read.
    pub fn none() -> Self {
        AccessSet {
            mounts: [0; MOUNTS_MAX / 64],
            unmounted: false,
        }
    }

    /// Everything may be read, also what no mount covers any more.
    pub fn all() -> Self {
        AccessSet {
            mounts: [u64::MAX; MOUNTS_MAX / 64],
            unmounted: true,
        }
    }

    /// The objects of one mount may be read.
    pub fn of_mount(mount: MountId) -> Self {
        let mut set = AccessSet::none();
        if let Some(word) = set.mounts.get_mut(usize::from(mount.0) / 64) {
            *word |= 1 << (mount.0 % 64);
        }
        set
    }

    /// Every mount of `table` may be read, and nothing that no mount covers.
    pub fn of_all_mounts(table: &MountTable) -> Self {
        let mut set = AccessSet::none();
        for mount in table.iter() {
            set.mounts[usize::from(mount.id.0) / 64] |= 1 << (mount.id.0 % 64);
        }
        set
    }

    /// What the token named `reader` (empty: no token) may read of `table`.
    pub fn of_reader(table: &MountTable, reader: &str) -> Self {
        let mut set = AccessSet::none();
        for mount in table.iter() {
            if mount.readers.is_empty() || mount.readers.iter().any(|name| name == reader) {
                set.mounts[usize::from(mount.id.0) / 64] |= 1 << (mount.id.0 % 64);
            }
        }
        set
    }

    /// Whether everything that `other` allows is allowed.
    pub fn covers(&self, other: &AccessSet) -> bool {
        let mut pairs = self.mounts.iter().zip(&other.mounts);
        pairs.all(|(own, others)| others & !own == 0) && (self.unmounted || !other.unmounted)
    }

    /// Whether objects of `mount` may be read. With [`MountId::NONE`] only by [`AccessSet::all`].
    #[inline]
    pub fn allows(&self, mount: MountId) -> bool {
        let word = usize::from(mount.0) / 64;
        match self.mounts.get(word) {
            Some(bits) => bits >> (mount.0 % 64) & 1 == 1,
            None => self.unmounted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(id: u16, path: &str, uri: &str, readers: &[&str]) -> Mount {
        Mount {
            id: MountId(id),
            path: path.to_owned(),
            uri: uri.to_owned(),
            block_bytes: 1 << 20,
            freshness: Freshness::Immutable,
            admission: Admission::Always,
            key_indexes: Vec::new(),
            readers: readers.iter().map(|name| (*name).to_owned()).collect(),
            options: BTreeMap::new(),
            is_runtime: false,
        }
    }

    #[test]
    fn the_longest_prefix_wins_and_names_are_not_cut_in_the_middle() {
        let table = MountTable::new([
            mount(0, "/", "s3://all", &[]),
            mount(1, "/data", "s3://data/x", &[]),
            mount(2, "/data/hot", "file:///hot", &[]),
        ])
        .expect("a valid table");
        let at = |path: &str| table.covering(path).map(|mount| mount.id.0);
        assert_eq!(at("/data/hot/a"), Some(2));
        assert_eq!(at("/data/hotter/a"), Some(1));
        assert_eq!(at("/database"), Some(0));
        let data = table.get(MountId(1)).expect("slot 1");
        assert_eq!(data.uri_of("/data/a/b"), "s3://data/x/a/b");
        assert_eq!(
            data.path_of("s3://data/x/a/b").as_deref(),
            Some("/data/a/b")
        );
        assert_eq!(data.path_of("s3://data/xy/a"), None);
        assert_eq!(
            table.get(MountId(0)).expect("slot 0").uri_of("/a"),
            "s3://all/a"
        );
    }

    #[test]
    fn only_named_readers_may_read_and_nobody_reads_without_a_mount() {
        let table = MountTable::new([
            mount(0, "/a", "s3://a", &["ann"]),
            mount(70, "/b", "s3://b", &[]),
        ])
        .expect("a valid table");
        let (ann, bob) = (
            AccessSet::of_reader(&table, "ann"),
            AccessSet::of_reader(&table, "bob"),
        );
        assert!(ann.allows(MountId(0)) && ann.allows(MountId(70)));
        assert!(!bob.allows(MountId(0)) && bob.allows(MountId(70)));
        assert!(!ann.allows(MountId::NONE) && !ann.allows(MountId(71)));
        assert!(ann.covers(&bob) && !bob.covers(&ann) && ann.covers(&ann));
        assert!(AccessSet::all().covers(&ann) && !ann.covers(&AccessSet::all()));
    }

    #[test]
    fn freshness_and_admission_read_back_what_they_print() {
        for text in ["immutable", "always-check", "max-age=30"] {
            assert_eq!(text.parse::<Freshness>().expect(text).to_string(), text);
        }
        assert!("max-age=x".parse::<Freshness>().is_err());
        for text in ["always", "second-touch"] {
            assert_eq!(text.parse::<Admission>().expect(text).to_string(), text);
        }
    }
}

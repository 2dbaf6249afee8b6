//! The mounts of the configuration and those made at run time, together.
//!
//! The invariant: a slot means one place (path, URI, block size) for as long as the process runs.
//! Index entries carry slots, so one that was given up is not given to another mount; the same place gets it
//! again. A mount made at run time stays below a root of the configuration for as long as it is served.
//! Nothing here opens a folder: its file system may hang, and with it the control thread.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::MountRoots;
use crate::config::quantity::show_size;
use crate::mount::{MOUNTS_MAX, Mount, MountId, MountTable};

/// Blocks that a region holds at the least: the store keeps no block that is larger than that, so that
/// a region is never left half empty for the next one.
const BLOCKS_PER_REGION_MIN: u64 = 4;

/// Whether devices with regions of `region_bytes` can keep the blocks of `mount`.
///
/// # Errors
/// [`MountError::BlockTooLarge`], when they cannot.
pub fn check_block_size(mount: &Mount, region_bytes: u32) -> Result<(), MountError> {
    if u64::from(mount.block_bytes) * BLOCKS_PER_REGION_MIN <= u64::from(region_bytes) {
        return Ok(());
    }
    Err(MountError::BlockTooLarge {
        path: mount.path.clone(),
        block_bytes: mount.block_bytes,
        region_bytes,
    })
}

/// A place that a slot stands for: path, URI and block size.
type Place = (String, String, u32);

/// All mounts, and the slots of all places that were ever mounted.
#[derive(Debug)]
pub struct Mounts {
    table: Arc<MountTable>,
    /// At most [`MOUNTS_MAX`].
    slots: BTreeMap<Place, MountId>,
    /// Mounts made at run time that are outside of the roots now: kept, and not served.
    outside: Vec<Mount>,
    region_bytes: u32,
}

/// Why a mount could not be made or removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// There is one at that path.
    #[error("there is a mount at {0} already; unmount it first")]
    Exists(String),
    /// There is none at that path.
    #[error("there is no mount at {0}; `corelane status` lists the mounts")]
    Missing(String),
    /// It stands in the configuration.
    #[error("the mount at {0} stands in the configuration file; remove it there and reload")]
    Configured(String),
    /// The devices cannot keep blocks of that size.
    #[error(
        "the mount at {path} has blocks of {}, which is more than a quarter of a region of the devices ({}): \
         none would ever be kept; set its `block_size` to {} or less, or format the devices with regions of {}",
        show_size(u64::from(*block_bytes)),
        show_size(u64::from(*region_bytes)),
        show_size(u64::from(*region_bytes) / BLOCKS_PER_REGION_MIN),
        show_size(u64::from(*block_bytes) * BLOCKS_PER_REGION_MIN)
    )]
    BlockTooLarge {
        /// Path of the mount.
        path: String,
        /// Its block size.
        block_bytes: u32,
        /// The devices' region size.
        region_bytes: u32,
    },
    /// No slot is left.
    #[error(
        "{MOUNTS_MAX} different places were mounted since the start; restart the worker to mount others"
    )]
    Full,
    /// The table refuses it.
    #[error("{0}")]
    Invalid(String),
}

impl Mounts {
    /// The mounts of the configuration and those of `saved` that do not clash with one.
    ///
    /// # Errors
    /// When the configuration's own clash, which its check excludes, or have too large blocks for
    /// regions of `region_bytes`.
    pub fn new(
        configured: &[Mount],
        saved: &[Mount],
        roots: &MountRoots,
        region_bytes: u32,
    ) -> Result<Self, MountError> {
        let mut mounts = Mounts {
            table: Arc::new(MountTable::default()),
            slots: BTreeMap::new(),
            outside: Vec::new(),
            region_bytes,
        };
        let mut all = Vec::new();
        for mount in configured {
            all.push(mounts.with_slot(mount.clone())?);
        }
        for mount in saved {
            if configured.iter().any(|other| other.path == mount.path) {
                tracing::warn!(
                    path = mount.path,
                    "the configuration's mount replaces the one made at run time"
                );
            } else if let Err(error) = check_block_size(mount, region_bytes) {
                tracing::error!(%error, "a mount made at run time is left out");
            } else if !is_within(mount, roots) {
                mounts.outside.push(mount.clone());
            } else {
                all.push(mounts.with_slot(mount.clone())?);
            }
        }
        mounts.replace(all)?;
        Ok(mounts)
    }

    /// All of them.
    pub fn table(&self) -> Arc<MountTable> {
        Arc::clone(&self.table)
    }

    /// Those made at run time, to be saved.
    pub fn made_at_run_time(&self) -> Vec<Mount> {
        self.table
            .iter()
            .filter(|mount| mount.is_runtime)
            .map(|mount| (**mount).clone())
            .chain(self.outside.iter().cloned())
            .collect()
    }

    /// Whether a mount can be made at run time, so that it may be kept before it is.
    ///
    /// # Errors
    /// When the path is taken, no slot is left, or no device keeps its blocks.
    pub fn check(&self, mount: &Mount) -> Result<(), MountError> {
        let mut paths = self.table.iter().map(|other| &other.path);
        if paths.any(|path| *path == mount.path) || self.is_outside(&mount.path) {
            return Err(MountError::Exists(mount.path.clone()));
        }
        check_block_size(mount, self.region_bytes)?;
        let count = self.table.iter().count() + self.outside.len();
        if count >= MOUNTS_MAX || self.slot_of(mount).is_none() {
            return Err(MountError::Full);
        }
        Ok(())
    }

    fn is_outside(&self, path: &str) -> bool {
        self.outside.iter().any(|mount| mount.path == path)
    }

    /// Adds a mount at run time; its slot is chosen here.
    ///
    /// # Errors
    /// When the path is taken or no slot is left.
    pub fn mount(&mut self, mount: Mount) -> Result<(), MountError> {
        self.check(&mount)?;
        let slots = self.slots.clone();
        let mount = self.with_slot(Mount {
            is_runtime: true,
            ..mount
        })?;
        let all = self.all().chain([mount]).collect();
        let replaced = self.replace(all);
        if replaced.is_err() {
            self.slots = slots;
        }
        replaced
    }

    /// Removes a mount that was made at run time.
    ///
    /// # Errors
    /// When there is none, or it is the configuration's.
    pub fn unmount(&mut self, path: &str) -> Result<(), MountError> {
        match self.table.iter().find(|mount| mount.path == path) {
            None if self.is_outside(path) => {
                self.outside.retain(|mount| mount.path != path);
                return Ok(());
            }
            None => return Err(MountError::Missing(path.to_owned())),
            Some(mount) if !mount.is_runtime => {
                return Err(MountError::Configured(path.to_owned()));
            }
            Some(_) => {}
        }
        let rest = self.all().filter(|mount| mount.path != path).collect();
        self.replace(rest)
    }

    /// Takes over a changed configuration. Mounts made at run time stay, unless the configuration
    /// now has one at their path, or their place is outside of `roots`.
    ///
    /// # Errors
    /// When no slot is left; nothing is changed then.
    pub fn reload(&mut self, configured: &[Mount], roots: &MountRoots) -> Result<(), MountError> {
        let (slots, outside) = (self.slots.clone(), self.outside.clone());
        let result = self.take_over(configured, roots);
        if result.is_err() {
            (self.slots, self.outside) = (slots, outside);
        }
        result
    }

    fn take_over(&mut self, configured: &[Mount], roots: &MountRoots) -> Result<(), MountError> {
        let mut all = Vec::new();
        for mount in configured {
            all.push(self.with_slot(mount.clone())?);
        }
        let made: Vec<Mount> = self
            .made_at_run_time()
            .into_iter()
            .filter(|mount| configured.iter().all(|other| other.path != mount.path))
            .collect();
        self.outside.clear();
        for mount in made {
            if is_within(&mount, roots) {
                all.push(self.with_slot(mount)?);
            } else {
                self.outside.push(mount);
            }
        }
        self.replace(all)
    }

    fn all(&self) -> impl Iterator<Item = Mount> {
        self.table.iter().map(|mount| (**mount).clone())
    }

    /// The slot of the place of `mount`, or the next one.
    fn slot_of(&self, mount: &Mount) -> Option<MountId> {
        let known = self.slots.get(&place_of(mount)).copied();
        let next = || (self.slots.len() < MOUNTS_MAX).then_some(MountId(self.slots.len() as u16));
        known.or_else(next)
    }

    fn with_slot(&mut self, mount: Mount) -> Result<Mount, MountError> {
        check_block_size(&mount, self.region_bytes)?;
        let id = self.slot_of(&mount).ok_or(MountError::Full)?;
        self.slots.insert(place_of(&mount), id);
        Ok(Mount { id, ..mount })
    }

    fn replace(&mut self, all: Vec<Mount>) -> Result<(), MountError> {
        self.table = Arc::new(MountTable::new(all).map_err(MountError::Invalid)?);
        Ok(())
    }
}

fn place_of(mount: &Mount) -> Place {
    (mount.path.clone(), mount.uri.clone(), mount.block_bytes)
}

/// Whether a mount made at run time may be served: its place, which was resolved when it was made, is below a
/// root.
fn is_within(mount: &Mount, roots: &MountRoots) -> bool {
    let Err(why) = roots.check_text(&mount.uri, &mount.options) else {
        return true;
    };
    tracing::error!(
        path = mount.path,
        %why,
        "a mount made at run time is not served; it is kept until it is unmounted"
    );
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::{Admission, Freshness};

    fn mount(path: &str, uri: &str) -> Mount {
        Mount {
            id: MountId(0),
            path: path.to_owned(),
            uri: uri.to_owned(),
            block_bytes: 1 << 20,
            freshness: Freshness::Immutable,
            admission: Admission::Always,
            key_indexes: Vec::new(),
            readers: Vec::new(),
            options: Default::default(),
            is_runtime: false,
        }
    }

    const REGION: u32 = 16 << 20;

    fn roots() -> MountRoots {
        MountRoots::default()
    }

    fn slot(mounts: &Mounts, path: &str) -> Option<u16> {
        mounts
            .table()
            .iter()
            .find(|mount| mount.path == path)
            .map(|mount| mount.id.0)
    }

    #[test]
    fn a_slot_is_never_given_to_another_place() {
        let mut mounts =
            Mounts::new(&[mount("/a", "s3://a")], &[], &roots(), REGION).expect("valid");
        mounts.mount(mount("/b", "s3://b")).expect("free path");
        assert_eq!(
            (slot(&mounts, "/a"), slot(&mounts, "/b")),
            (Some(0), Some(1))
        );
        mounts.unmount("/b").expect("was made at run time");
        mounts.mount(mount("/c", "s3://c")).expect("free path");
        assert_eq!(slot(&mounts, "/c"), Some(2));
        // Another freshness is the same place, another URI is not.
        let fresher = Mount {
            freshness: Freshness::AlwaysCheck,
            ..mount("/a", "s3://a")
        };
        mounts.reload(&[fresher], &roots()).expect("valid");
        assert_eq!(slot(&mounts, "/a"), Some(0));
        mounts
            .reload(&[mount("/a", "s3://other")], &roots())
            .expect("valid");
        assert_eq!(
            (slot(&mounts, "/a"), slot(&mounts, "/c")),
            (Some(3), Some(2))
        );
    }

    #[test]
    fn the_configuration_keeps_its_mounts_and_wins_over_saved_ones() {
        let saved = Mount {
            is_runtime: true,
            ..mount("/a", "s3://saved")
        };
        let mut mounts =
            Mounts::new(&[mount("/a", "s3://a")], &[saved], &roots(), REGION).expect("valid");
        assert!(mounts.made_at_run_time().is_empty());
        assert_eq!(
            mounts.unmount("/a"),
            Err(MountError::Configured("/a".to_owned()))
        );
        assert_eq!(
            mounts.unmount("/x"),
            Err(MountError::Missing("/x".to_owned()))
        );
        assert_eq!(
            mounts.mount(mount("/a", "s3://b")),
            Err(MountError::Exists("/a".to_owned()))
        );
    }

    #[test]
    fn blocks_that_no_region_keeps_are_refused_with_both_sizes() {
        let large = |bytes| Mount {
            block_bytes: bytes,
            ..mount("/large", "s3://large")
        };
        let mut mounts =
            Mounts::new(&[], &[large(8 << 20)], &roots(), REGION).expect("the saved one goes");
        assert_eq!(mounts.table().iter().count(), 0);
        let refusal = mounts.mount(large(8 << 20)).expect_err("too large");
        let text = refusal.to_string();
        for part in ["/large", "8M", "16M", "4M", "32M", "`block_size`"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(mounts.reload(&[large(8 << 20)], &roots()), Err(refusal));
        mounts.mount(large(4 << 20)).expect("a quarter fits");
    }

    #[test]
    fn a_place_that_is_mounted_again_or_refused_takes_no_other_slot() {
        let mut mounts =
            Mounts::new(&[mount("/c", "s3://c")], &[], &roots(), REGION).expect("valid");
        for _ in 0..2 * MOUNTS_MAX {
            mounts.mount(mount("/a", "s3://a")).expect("a free path");
            assert_eq!(slot(&mounts, "/a"), Some(1));
            for refused in [mount("/a", "s3://b"), mount("/c", "s3://d")] {
                let path = refused.path.clone();
                assert_eq!(mounts.mount(refused), Err(MountError::Exists(path)));
            }
            mounts.unmount("/a").expect("was made");
        }
        mounts.mount(mount("/b", "s3://b")).expect("a free path");
        assert_eq!(slot(&mounts, "/b"), Some(2));
    }

    #[test]
    fn running_out_of_slots_changes_nothing() {
        let mut mounts = Mounts::new(&[], &[], &roots(), REGION).expect("valid");
        for bucket in 0..MOUNTS_MAX {
            let uri = format!("s3://b{bucket}");
            mounts.mount(mount("/a", &uri)).expect("a slot is left");
            mounts.unmount("/a").expect("was made");
        }
        assert_eq!(mounts.mount(mount("/a", "s3://a")), Err(MountError::Full));
        assert_eq!(
            mounts.reload(&[mount("/b", "s3://b")], &roots()),
            Err(MountError::Full)
        );
        assert_eq!(mounts.table().iter().count(), 0);
        mounts
            .mount(mount("/a", "s3://b7"))
            .expect("a place that has a slot");
        assert_eq!(slot(&mounts, "/a"), Some(7));
    }

    #[test]
    fn what_is_outside_of_the_roots_is_kept_and_not_served() {
        let file = Mount {
            is_runtime: true,
            ..mount("/etc", "file:///etc")
        };
        let mut mounts =
            Mounts::new(&[], std::slice::from_ref(&file), &roots(), REGION).expect("valid");
        assert_eq!(slot(&mounts, "/etc"), None);
        assert_eq!(mounts.made_at_run_time().len(), 1, "kept");
        assert_eq!(
            mounts.mount(mount("/etc", "s3://a")),
            Err(MountError::Exists("/etc".to_owned()))
        );
        let wide = MountRoots::read(&["file:///".to_owned()]).expect("a root");
        mounts.reload(&[], &wide).expect("valid");
        assert!(slot(&mounts, "/etc").is_some());
        mounts.reload(&[], &roots()).expect("valid");
        assert_eq!(slot(&mounts, "/etc"), None);
        mounts.unmount("/etc").expect("it is there");
        assert!(mounts.made_at_run_time().is_empty());
    }

    #[test]
    fn a_folder_that_cannot_be_reached_stays_mounted() {
        let texts = ["file:///nonexistent/root".to_owned()];
        let roots = MountRoots::read(&texts).expect("a root");
        let folder = Mount {
            is_runtime: true,
            ..mount("/data", "file:///nonexistent/root/data")
        };
        let mut mounts = Mounts::new(&[], &[folder], &roots, REGION).expect("valid");
        assert_eq!(slot(&mounts, "/data"), Some(0));
        mounts.reload(&[], &roots).expect("valid");
        assert_eq!(slot(&mounts, "/data"), Some(0));
    }
}

//! The mounts of the configuration and those made at run time, together.
//!
//! The invariant: a slot means one place (path, URI, block size) for as long as the process runs.
//! Index entries carry slots, so one that was given up is not given to another mount.

use std::sync::Arc;

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

/// All mounts, and which slots were ever used.
#[derive(Debug)]
pub struct Mounts {
    table: Arc<MountTable>,
    slots_used: u16,
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
        "all {MOUNTS_MAX} mount slots were used since the start; restart the worker to use freed ones again"
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
        region_bytes: u32,
    ) -> Result<Self, MountError> {
        let mut mounts = Mounts {
            table: Arc::new(MountTable::default()),
            slots_used: 0,
            region_bytes,
        };
        let mut all = Vec::new();
        for mount in configured {
            all.push(mounts.with_new_slot(mount.clone())?);
        }
        for mount in saved {
            if configured.iter().any(|other| other.path == mount.path) {
                tracing::warn!(
                    path = mount.path,
                    "the configuration's mount replaces the one made at run time"
                );
            } else if let Err(error) = check_block_size(mount, region_bytes) {
                tracing::error!(%error, "a mount made at run time is left out");
            } else {
                all.push(mounts.with_new_slot(mount.clone())?);
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
            .collect()
    }

    /// Adds a mount at run time; its slot is chosen here.
    ///
    /// # Errors
    /// When the path is taken or no slot is left.
    pub fn mount(&mut self, mount: Mount) -> Result<(), MountError> {
        if self.table.iter().any(|other| other.path == mount.path) {
            return Err(MountError::Exists(mount.path));
        }
        let mount = self.with_new_slot(Mount {
            is_runtime: true,
            ..mount
        })?;
        let all = self.all().chain([mount]).collect();
        self.replace(all)
    }

    /// Removes a mount that was made at run time.
    ///
    /// # Errors
    /// When there is none, or it is the configuration's.
    pub fn unmount(&mut self, path: &str) -> Result<(), MountError> {
        match self.table.iter().find(|mount| mount.path == path) {
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
    /// now has one at their path.
    ///
    /// # Errors
    /// When no slot is left; nothing is changed then.
    pub fn reload(&mut self, configured: &[Mount]) -> Result<(), MountError> {
        let before = Arc::clone(&self.table);
        let slots_used = self.slots_used;
        let result = self.take_over(&before, configured);
        if result.is_err() {
            self.slots_used = slots_used;
        }
        result
    }

    fn take_over(&mut self, before: &MountTable, configured: &[Mount]) -> Result<(), MountError> {
        let mut all = Vec::new();
        for mount in configured {
            let same_place = before.iter().find(|other| {
                (&other.path, &other.uri, other.block_bytes)
                    == (&mount.path, &mount.uri, mount.block_bytes)
            });
            all.push(match same_place {
                Some(other) => Mount {
                    id: other.id,
                    ..mount.clone()
                },
                None => self.with_new_slot(mount.clone())?,
            });
        }
        let kept = before.iter().filter(|mount| {
            mount.is_runtime && configured.iter().all(|other| other.path != mount.path)
        });
        all.extend(kept.map(|mount| (**mount).clone()));
        self.replace(all)
    }

    fn all(&self) -> impl Iterator<Item = Mount> {
        self.table.iter().map(|mount| (**mount).clone())
    }

    fn with_new_slot(&mut self, mount: Mount) -> Result<Mount, MountError> {
        check_block_size(&mount, self.region_bytes)?;
        if usize::from(self.slots_used) >= MOUNTS_MAX {
            return Err(MountError::Full);
        }
        let id = MountId(self.slots_used);
        self.slots_used += 1;
        Ok(Mount { id, ..mount })
    }

    fn replace(&mut self, all: Vec<Mount>) -> Result<(), MountError> {
        self.table = Arc::new(MountTable::new(all).map_err(MountError::Invalid)?);
        Ok(())
    }
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

    fn slot(mounts: &Mounts, path: &str) -> Option<u16> {
        mounts
            .table()
            .iter()
            .find(|mount| mount.path == path)
            .map(|mount| mount.id.0)
    }

    #[test]
    fn a_slot_is_never_given_to_another_place() {
        let mut mounts = Mounts::new(&[mount("/a", "s3://a")], &[], REGION).expect("valid");
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
        mounts.reload(&[fresher]).expect("valid");
        assert_eq!(slot(&mounts, "/a"), Some(0));
        mounts.reload(&[mount("/a", "s3://other")]).expect("valid");
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
        let mut mounts = Mounts::new(&[mount("/a", "s3://a")], &[saved], REGION).expect("valid");
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
        let mut mounts = Mounts::new(&[], &[large(8 << 20)], REGION).expect("the saved one goes");
        assert_eq!(mounts.table().iter().count(), 0);
        let refusal = mounts.mount(large(8 << 20)).expect_err("too large");
        let text = refusal.to_string();
        for part in ["/large", "8M", "16M", "4M", "32M", "`block_size`"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(mounts.reload(&[large(8 << 20)]), Err(refusal));
        mounts.mount(large(4 << 20)).expect("a quarter fits");
    }

    #[test]
    fn running_out_of_slots_changes_nothing() {
        let mut mounts = Mounts::new(&[], &[], REGION).expect("valid");
        for _ in 0..MOUNTS_MAX {
            mounts.mount(mount("/a", "s3://a")).expect("a slot is left");
            mounts.unmount("/a").expect("was made");
        }
        assert_eq!(mounts.mount(mount("/a", "s3://a")), Err(MountError::Full));
        assert_eq!(
            mounts.reload(&[mount("/b", "s3://b")]),
            Err(MountError::Full)
        );
        assert_eq!(mounts.table().iter().count(), 0);
    }
}

//! Where the objects at paths are: mount, path key and home, worked out once a path.
//!
//! Splitting a path, joining a path key and hashing it takes a microsecond, which a look-up in many objects pays for
//! each.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use corelane_io::Io;
use corelane_rpc_schema::ids::home_of;
use corelane_rpc_schema::messages::{ErrorCode, ErrorMessage};
use corelane_rpc_schema::{ShardId, Stripe};

use crate::mount::{AccessSet, Mount, MountTable};
use crate::shard::Shard;
use crate::shard::known::Known;
use crate::shard::read::error;
use crate::under_store::{UnderStore, path_key};

/// Paths that are remembered at most. Beyond half of it, those that were not asked for since as many others
/// were are forgotten.
const PATHS_MAX: usize = 2_048;

/// Most bytes of memory of what is remembered: paths and path keys may have 2 KiB each.
const PATHS_BYTES_MAX: usize = 1 << 20;

/// Bytes of memory of a path beside its texts: a place, and an entry of a table while it grows.
const PATH_OVERHEAD_BYTES: usize = 192;

/// Where one object is.
#[derive(Debug)]
pub(super) struct Place {
    pub mount: Arc<Mount>,
    pub path_key: Box<str>,
    /// Home half of its id.
    pub home: u64,
    /// The shard that this is.
    pub shard: ShardId,
}

/// Places by path, under one table of mounts.
#[derive(Default)]
pub(super) struct Places {
    mounts: Option<Arc<MountTable>>,
    by_path: HashMap<Box<str>, Rc<Place>>,
    /// Bytes of memory of `by_path`; those of `older` were as many at most.
    bytes: usize,
    /// Of before.
    older: HashMap<Box<str>, Rc<Place>>,
}

impl Places {
    fn get(&mut self, mounts: &Arc<MountTable>, path: &str) -> Option<Rc<Place>> {
        let is_of = self
            .mounts
            .as_ref()
            .is_some_and(|own| Arc::ptr_eq(own, mounts));
        if !is_of {
            *self = Places {
                mounts: Some(Arc::clone(mounts)),
                ..Places::default()
            };
        }
        if let Some(place) = self.by_path.get(path) {
            return Some(Rc::clone(place));
        }
        let (path, place) = self.older.remove_entry(path)?;
        self.remember(path, Rc::clone(&place));
        Some(place)
    }

    fn remember(&mut self, path: Box<str>, place: Rc<Place>) {
        let own = PATH_OVERHEAD_BYTES + path.len() + place.path_key.len();
        if self.by_path.len() >= PATHS_MAX / 2 || self.bytes + own > PATHS_BYTES_MAX / 2 {
            self.older = std::mem::take(&mut self.by_path);
            self.bytes = 0;
        }
        self.bytes += own;
        self.by_path.insert(path, place);
    }
}

impl<I: Io, U: UnderStore> Shard<I, U> {
    /// Where the object at `path` is.
    pub(super) fn place_of(&self, path: &str) -> Result<Rc<Place>, ErrorMessage> {
        let known = {
            let mounts = self.mounts.borrow();
            self.lookups.places.borrow_mut().get(&mounts, path)
        };
        if let Some(place) = known {
            return Ok(place);
        }
        let mount = self.mount_covering(path)?;
        let path_key = path_key(&mount, path)
            .map_err(|failure| error(ErrorCode::Invalid, failure.to_string()))?;
        let home = home_of(&path_key);
        let place = Rc::new(Place {
            mount,
            path_key: path_key.into(),
            home,
            shard: self.owner_of(home, Stripe(0)),
        });
        let mut places = self.lookups.places.borrow_mut();
        places.remember(path.into(), Rc::clone(&place));
        Ok(place)
    }

    /// The object at `path`, of which this shard is the home, for a reader with these rights.
    pub(super) async fn known_at(
        self: &Rc<Self>,
        path: &str,
        access: &AccessSet,
    ) -> Result<Rc<Known>, ErrorMessage> {
        let place = self.place_of(path)?;
        if let Some(known) = self.fresh_at(&place, access) {
            return Ok(known);
        }
        let meta = self.open(path, access).await?;
        Ok(self.know(meta, place.mount.id))
    }

    /// The object at `place`, of which this shard is the home, if nothing has to be asked for it.
    pub(super) fn fresh_at(&self, place: &Place, access: &AccessSet) -> Option<Rc<Known>> {
        let mount = &place.mount;
        if !access.allows(mount.id) {
            return None;
        }
        let now = self.io.now();
        let metadata = self.metadata.borrow();
        let (known, _) = metadata.fresh(place.home, &place.path_key, mount.freshness, now)?;
        let is_current = known.meta.block_bytes == mount.block_bytes
            && known.mount.get() == mount.id
            && known.is_remembered.get();
        is_current.then(|| Rc::clone(known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::{Admission, Freshness, MountId};

    #[test]
    fn paths_that_are_remembered_stay_within_their_bytes() {
        let mount = Arc::new(Mount {
            id: MountId(0),
            path: "/lake".to_owned(),
            uri: "s3://lake".to_owned(),
            block_bytes: 1 << 20,
            freshness: Freshness::Immutable,
            admission: Admission::Always,
            key_indexes: Vec::new(),
            readers: Vec::new(),
            options: std::collections::BTreeMap::new(),
            is_runtime: false,
        });
        let mut places = Places::default();
        for number in 0..4_000 {
            let path: Box<str> = format!("/lake/{number:02000}").into();
            let place = Rc::new(Place {
                mount: Arc::clone(&mount),
                path_key: path.clone(),
                home: number,
                shard: ShardId(0),
            });
            places.remember(path, place);
            let maps = [&places.by_path, &places.older];
            let texts = maps.iter().flat_map(|map| map.iter());
            let bytes: usize = texts
                .map(|(path, place)| path.len() + place.path_key.len())
                .sum();
            assert!(bytes <= PATHS_BYTES_MAX, "{bytes} after {number}");
        }
        assert!(places.by_path.len() + places.older.len() > 100);
    }
}

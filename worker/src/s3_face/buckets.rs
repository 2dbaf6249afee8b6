//! Buckets: the mounts that stand right below the root of the worker's namespace.
//!
//! A mount at `/lake` is the bucket `lake`, and the object `a/b` of it is what the data plane opens as
//! `/lake/a/b`. Mounts at `/` and deeper ones are no buckets.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use corelane_rpc_schema::ids::home_of;
use corelane_s3::credentials::{AccessKey, Credentials, Verb};
use corelane_s3::sigv4::Caller;

use crate::mount::{AccessSet, Mount, MountTable};
use crate::object::PATH_KEY_BYTES_MAX;
use crate::under_store::path_key;

/// The name of the bucket that `mount` is, if it is one.
pub fn bucket_name(mount: &Mount) -> Option<&str> {
    let name = mount.path.strip_prefix('/')?;
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

/// Whether `caller` may do `verb` in the bucket that `mount` is: its rules say so, and the mount's
/// readers name it, if they name anyone.
pub fn may(caller: &Caller, verb: Verb, mount: &Mount) -> bool {
    let name = caller.key.as_ref().map_or("", |key| key.name.as_str());
    is_reader(mount, name) && bucket_name(mount).is_some_and(|bucket| caller.may(verb, bucket))
}

/// Whether the bearer of `key` (`None`: nobody in particular) may do `verb` in the bucket that `mount` is, by the
/// keys as they are in `credentials`.
pub fn may_now(
    credentials: &Credentials,
    key: Option<&AccessKey>,
    verb: Verb,
    mount: &Mount,
) -> bool {
    let Some(bucket) = bucket_name(mount) else {
        return false;
    };
    match key.map(|key| credentials.renewed(key)) {
        Some(Some(key)) => is_reader(mount, &key.name) && key.may(verb, bucket),
        Some(None) => false,
        None => is_reader(mount, "") && credentials.anonymous_may(verb, bucket),
    }
}

fn is_reader(mount: &Mount, name: &str) -> bool {
    mount.readers.is_empty() || mount.readers.iter().any(|reader| reader == name)
}

/// A bucket as a core needs it.
pub struct Bucket {
    /// The mount.
    pub mount: Arc<Mount>,
    /// What reads of it may touch: the mount alone. Who may read it was found out before.
    pub access: Arc<AccessSet>,
    /// What the path keys of its objects begin with.
    path_key_prefix: String,
}

impl Bucket {
    fn of_mount(mount: &Arc<Mount>) -> Option<Self> {
        // A mount whose URI makes no path key has no objects to read.
        let sample = path_key(mount, &format!("{}/x", mount.path)).ok()?;
        Some(Bucket {
            mount: Arc::clone(mount),
            access: Arc::new(AccessSet::of_mount(mount.id)),
            path_key_prefix: sample.strip_suffix('x')?.to_owned(),
        })
    }

    /// Writes the path key of `key` into `path_key` and gives its home half; `None` where it is longer
    /// than the format can hold.
    pub fn home(&self, key: &str, path_key: &mut String) -> Option<u64> {
        path_key.clear();
        path_key.push_str(&self.path_key_prefix);
        path_key.push_str(key);
        (path_key.len() <= PATH_KEY_BYTES_MAX).then(|| home_of(path_key))
    }

    /// The path in the worker's namespace of the object with this path key.
    ///
    /// # Panics
    /// If the path key is not of this bucket.
    pub fn path_of(&self, path_key: &str) -> String {
        format!("{}/{}", self.mount.path, self.key_of(path_key))
    }

    /// The key of the object with this path key.
    ///
    /// # Panics
    /// If the path key is not of this bucket.
    pub fn key_of<'a>(&self, path_key: &'a str) -> &'a str {
        let key = path_key.strip_prefix(&self.path_key_prefix);
        key.expect("a path key of the bucket")
    }
}

/// The buckets by name.
#[derive(Default)]
pub struct Buckets {
    by_name: HashMap<String, Rc<Bucket>>,
}

impl Buckets {
    /// Those among `mounts`.
    pub fn of_mounts(mounts: &MountTable) -> Self {
        let buckets = mounts.iter().filter_map(|mount| {
            let name = bucket_name(mount)?.to_owned();
            Some((name, Rc::new(Bucket::of_mount(mount)?)))
        });
        Buckets {
            by_name: buckets.collect(),
        }
    }

    /// The bucket `name`.
    pub fn get(&self, name: &str) -> Option<&Rc<Bucket>> {
        self.by_name.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::{Admission, Freshness, MountId};

    fn mount(id: u16, path: &str) -> Mount {
        Mount {
            id: MountId(id),
            path: path.to_owned(),
            uri: "s3://origin/prefix".to_owned(),
            block_bytes: 1 << 20,
            freshness: Freshness::Immutable,
            admission: Admission::Always,
            key_indexes: Vec::new(),
            readers: Vec::new(),
            options: Default::default(),
            is_runtime: false,
        }
    }

    #[test]
    fn buckets_are_the_mounts_right_below_the_root() {
        let table = MountTable::new([mount(0, "/lake"), mount(1, "/lake/hot"), mount(2, "/")]);
        let buckets = Buckets::of_mounts(&table.expect("valid mounts"));
        let lake = buckets.get("lake").expect("a bucket");
        assert!(buckets.get("").is_none() && buckets.get("hot").is_none());
        let mut key = String::new();
        let home = lake.home("a/b c", &mut key).expect("a short key");
        let path = "/lake/a/b c";
        assert_eq!(path_key(&lake.mount, path).expect("a path"), key);
        assert_eq!((home, lake.path_of(&key).as_str()), (home_of(&key), path));
        assert!(
            lake.home(&"k".repeat(PATH_KEY_BYTES_MAX), &mut key)
                .is_none()
        );
        assert!(lake.access.allows(MountId(0)) && !lake.access.allows(MountId(1)));
    }
}

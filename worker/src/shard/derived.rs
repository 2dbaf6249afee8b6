//! What a shard made of an object and keeps beside its blocks: key indexes.
//!
//! A derived object has the place and URI of its source, and a version of its own: the version half of the
//! source's id, and behind it what was made of it. So it is of exactly one source, whatever an under-store calls
//! that. Its blocks lie on the source's home shard, are written, checked, moved, evicted and freed
//! as all blocks are, and nobody finds them under another version. No under-store has them: a block that is
//! not held is made again.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use corelane_io::{Io, PAGE_SIZE, RemoteLease};
use corelane_rpc_schema::{STRIPE_BYTES, Stripe};

use super::Shard;
use super::fill::{Fill, FillFailure};
use super::known::Known;
use crate::mount::MountId;
use crate::object::ObjectMeta;
use crate::under_store::UnderStore;

/// Stands between the source's version and what was made of it. No under-store has it in a version: ETags are
/// values of HTTP headers, and the versions of files are numbers.
const MARK: char = '\u{1f}';

/// Version of the key indexes' layout: those of another one are not found.
const KEY_INDEX: &str = "key-index-2";

/// Longest part of what is derived: all of an object's first stripe is on its home shard.
const PART_BYTES: usize = STRIPE_BYTES as usize;

/// Most parts: a GiB of key index.
const PARTS_MAX: usize = 64;

/// Whether `meta` is of something that was made of an object.
pub(crate) fn is_derived(meta: &ObjectMeta) -> bool {
    meta.version.contains(MARK)
}

/// Which key index, and which part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PartName {
    leaf: usize,
    parts: usize,
    part: usize,
}

impl PartName {
    /// The version of this part of what is derived of `source`.
    fn version(self, source: &ObjectMeta) -> String {
        let PartName { leaf, parts, part } = self;
        let source = identity_of(source);
        format!("{source}{MARK}{KEY_INDEX} {leaf} {parts} {part}")
    }

    /// That of `meta`, if it is of a key index of `source`.
    fn of(meta: &ObjectMeta, source: &ObjectMeta) -> Option<PartName> {
        let (version, name) = meta.version.split_once(MARK)?;
        let is_of_source = version == identity_of(source)
            && meta.path_key == source.path_key
            && meta.block_bytes == source.block_bytes;
        let mut words = name.split(' ');
        let is_index = is_of_source && words.next() == Some(KEY_INDEX);
        let mut number = || words.next()?.parse::<usize>().ok();
        let name = PartName {
            leaf: number()?,
            parts: number()?,
            part: number()?,
        };
        (is_index && name.part < name.parts && name.parts <= PARTS_MAX).then_some(name)
    }
}

/// What tells a source from all other versions of it, in text.
fn identity_of(source: &ObjectMeta) -> String {
    format!("{:016x}", source.id.version)
}

/// A part of what is derived of `source`.
fn part_meta(source: &ObjectMeta, name: PartName, length: usize) -> ObjectMeta {
    let (version, length) = (name.version(source), length as u64);
    ObjectMeta {
        id: ObjectMeta::id_of(&source.path_key, &version, length, 0, source.block_bytes),
        version,
        length,
        last_modified_ms: 0,
        content_type: String::new(),
        headers: String::new(),
        ..source.clone()
    }
}

impl<I: Io, U: UnderStore> Shard<I, U> {
    /// The key indexes that are held of `source`: each one's leaf and its parts in order.
    pub(super) fn key_indexes_held(
        &self,
        source: &ObjectMeta,
    ) -> Vec<(usize, Vec<Arc<ObjectMeta>>)> {
        let mut found: Vec<(PartName, Arc<ObjectMeta>)> = self
            .store
            .find_objects(source.id.home)
            .into_iter()
            .filter_map(|meta| Some((PartName::of(&meta, source)?, meta)))
            .filter(|(_, meta)| self.store.held(meta.id).blocks == u64::from(meta.blocks()))
            .collect();
        found.sort_by_key(|(name, _)| *name);
        found
            .chunk_by(|(one, _), (other, _)| (one.leaf, one.parts) == (other.leaf, other.parts))
            .filter(|parts| parts.len() == parts[0].0.parts)
            .map(|parts| {
                let metas = parts.iter().map(|(_, meta)| Arc::clone(meta)).collect();
                (parts[0].0.leaf, metas)
            })
            .collect()
    }

    /// Puts a key index of `source` where its blocks are. What finds no room there is made again after a restart.
    pub(super) async fn keep_key_index(
        self: &Rc<Self>,
        source: &ObjectMeta,
        mount: MountId,
        leaf: usize,
        index: &Bytes,
    ) {
        let parts = index.len().div_ceil(PART_BYTES);
        // Mounts may have changed since: another core may be the home.
        let is_home = self.owner_of(source.id.home, Stripe(0)) == self.id;
        if parts > PARTS_MAX || !is_home {
            return;
        }
        for part in 0..parts {
            let bytes = index.slice(part * PART_BYTES..index.len().min((part + 1) * PART_BYTES));
            let name = PartName { leaf, parts, part };
            let meta = part_meta(source, name, bytes.len());
            let known = self.know(Arc::new(meta), mount);
            let id = known.meta.id;
            self.derived.borrow_mut().insert(id, bytes);
            let kept = self.keep_part(&known).await;
            self.derived.borrow_mut().remove(&id);
            if let Err(failure) = kept {
                tracing::debug!(object = source.uri, ?failure, "a key index was not kept");
                return;
            }
        }
        self.counters.key_indexes_kept.increase();
    }

    async fn keep_part(&self, known: &Rc<Known>) -> Result<(), FillFailure> {
        for index in 0..known.meta.blocks() {
            if self.store.lookup(known.meta.block(index)).is_some() {
                continue;
            }
            let fill = self.fill(known, index);
            fill.want_on_device();
            if !fill.until_done().await? {
                return Err(FillFailure::Busy("the device has no time for a key index"));
            }
        }
        Ok(())
    }

    /// Frees what was derived of other versions of `source`.
    pub(super) async fn free_outdated(self: &Rc<Self>, source: &ObjectMeta) {
        let current = identity_of(source);
        for meta in self.store.find_objects(source.id.home) {
            let is_outdated = meta.path_key == source.path_key
                && meta
                    .version
                    .split_once(MARK)
                    .is_some_and(|(version, _)| version != current);
            if is_outdated && let Err(error) = self.store.free(meta.id).await {
                tracing::debug!(object = meta.uri, %error, "an old key index was not freed");
            }
        }
    }

    /// Fills blocks of a derived object from the memory of whoever made it; those of one that nobody just made
    /// fail.
    pub(super) async fn fill_derived(&self, run: Vec<Rc<Fill>>, leases: Vec<RemoteLease>) {
        let meta = Arc::clone(&run[0].known.meta);
        let made = self.derived.borrow().get(&meta.id).cloned();
        let made = made.filter(|made| made.len() as u64 == meta.length);
        let Some(made) = made else {
            self.take_back_all(leases);
            self.fail(&run, &FillFailure::NotHeld(meta.uri.clone()));
            return;
        };
        let pool = self.tier.borrow().pool().clone();
        let mut leases = leases.into_iter();
        for fill in &run {
            let start = fill.index as usize * meta.block_bytes as usize;
            let mut rest = made.slice(start..start + fill.length() as usize);
            while !rest.is_empty() {
                let lease = leases.next().expect("there are leases for all pages");
                let mut lease = pool.take_back(lease);
                let own = rest.split_to(rest.len().min(lease.len()));
                let (bytes, tail) = lease.bytes_mut().split_at_mut(own.len());
                bytes.copy_from_slice(&own);
                tail.fill(0);
                let checksums: Vec<u32> = lease
                    .bytes()
                    .chunks(PAGE_SIZE)
                    .map(crc32c::crc32c)
                    .collect();
                lease.seal();
                fill.add_checksums(&checksums);
                // A block takes some 0.3 ms.
                self.io.yield_now().await;
            }
            self.complete(fill);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::VERSION_BYTES_MAX;

    fn source(version: &str) -> ObjectMeta {
        ObjectMeta {
            id: ObjectMeta::id_of("file:///a", version, 5_000_000, 7, 1 << 20),
            path_key: "file:///a".to_owned(),
            uri: "file:///a".to_owned(),
            version: version.to_owned(),
            length: 5_000_000,
            last_modified_ms: 7,
            block_bytes: 1 << 20,
            content_type: "x/y".to_owned(),
            headers: "a:b\n".to_owned(),
        }
    }

    #[test]
    fn a_part_is_found_by_its_source_alone() {
        let (now, later) = (source("5-7-9"), source("5-8-9"));
        let name = PartName {
            leaf: 3,
            parts: 2,
            part: 1,
        };
        let part = part_meta(&now, name, 77);
        assert!(is_derived(&part) && !is_derived(&now));
        assert_eq!(part.id.home, now.id.home);
        assert_ne!(part.id.version, now.id.version);
        assert_eq!(PartName::of(&part, &now), Some(name));
        assert_eq!(PartName::of(&part, &later), None);
        assert_eq!(PartName::of(&now, &now), None);
        assert_eq!((part.length, part.headers.as_str()), (77, ""));
    }

    #[test]
    fn a_part_is_not_of_a_source_with_the_same_version_and_another_length() {
        let now = source("\"etag\"");
        let longer = ObjectMeta {
            id: ObjectMeta::id_of("file:///a", "\"etag\"", 6_000_000, 7, 1 << 20),
            length: 6_000_000,
            ..now.clone()
        };
        let name = PartName {
            leaf: 0,
            parts: 1,
            part: 0,
        };
        let part = part_meta(&now, name, 77);
        assert_eq!(PartName::of(&part, &now), Some(name));
        assert_eq!(PartName::of(&part, &longer), None);
    }

    #[test]
    fn versions_of_parts_are_short_however_long_that_of_their_source_is() {
        let long = source(&"e".repeat(VERSION_BYTES_MAX));
        let name = PartName {
            leaf: usize::MAX,
            parts: PARTS_MAX,
            part: PARTS_MAX - 1,
        };
        let part = part_meta(&long, name, 1);
        assert!(part.version.len() < VERSION_BYTES_MAX, "{}", part.version);
        assert_eq!(PartName::of(&part, &long), Some(name));
    }
}

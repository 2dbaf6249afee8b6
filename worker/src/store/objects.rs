//! The objects that blocks belong to: one entry an object, for as long as it has blocks here.
//!
//! The invariant: the counts of an object are those of its blocks in the index, device by device,
//! and a device that has blocks of an object has (or will have, before they are durable) a record
//! of it in the region that is named here, or, when none is, in every region of another number of
//! shards that has such blocks or in one that was written under the same number.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use corelane_rpc_schema::{BlockId, ObjectId};
use smallvec::SmallVec;

use super::block::Held;
use super::counters::StoreCounters;
use super::device::Place;
use crate::cache::hashing::IdMap;
use crate::object::ObjectMeta;

/// No region of ours holds the record.
pub(super) const NOT_RECORDED: u32 = u32::MAX;

/// What one device holds of an object.
#[derive(Clone, Copy, Debug)]
struct Part {
    device: u16,
    /// Region of ours with the object's record; [`NOT_RECORDED`] while there is none.
    record: u32,
    blocks: u32,
    bytes: u64,
}

#[derive(Debug)]
struct Known {
    meta: Arc<ObjectMeta>,
    /// Nearly always one: an object has a stripe, and a stripe a device.
    parts: SmallVec<[Part; 1]>,
    /// Blocks that wait to be written.
    pending: u32,
}

/// Orders objects by URI, then id.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ByUri(Arc<ObjectMeta>);

impl PartialOrd for ByUri {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByUri {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_key().cmp(&other.as_key())
    }
}

/// What [`ByUri`] is ordered by, so that a range can start at a borrowed URI.
trait UriKey {
    fn as_key(&self) -> (&str, ObjectId);
}

impl UriKey for ByUri {
    fn as_key(&self) -> (&str, ObjectId) {
        (&self.0.uri, self.0.id)
    }
}

impl UriKey for (&str, ObjectId) {
    fn as_key(&self) -> (&str, ObjectId) {
        *self
    }
}

impl<'a> std::borrow::Borrow<dyn UriKey + 'a> for ByUri {
    fn borrow(&self) -> &(dyn UriKey + 'a) {
        self
    }
}

impl PartialEq for dyn UriKey + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.as_key() == other.as_key()
    }
}

impl Eq for dyn UriKey + '_ {}

impl PartialOrd for dyn UriKey + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn UriKey + '_ {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_key().cmp(&other.as_key())
    }
}

/// All objects of a store.
#[derive(Debug, Default)]
pub(super) struct Objects {
    by_id: IdMap<ObjectId, Known>,
    /// Nearly always one version.
    by_home: IdMap<u64, SmallVec<[ObjectId; 1]>>,
    by_uri: BTreeSet<ByUri>,
    /// Objects that recovery found and that are not in `by_uri` yet, unless they left since.
    unlisted: VecDeque<ObjectId>,
}

/// Memory of an object's entry beside its text: the metadata, a part, and its places in the three maps.
const ENTRY_BYTES: usize = 320;

fn memory_of(meta: &ObjectMeta) -> u64 {
    let names = meta.path_key.len() + meta.uri.len() + meta.version.len();
    (ENTRY_BYTES + names + meta.content_type.len() + meta.headers.len()) as u64
}

impl Objects {
    /// The object with id `id`.
    pub(super) fn get(&self, id: ObjectId) -> Option<&Arc<ObjectMeta>> {
        self.by_id.get(&id).map(|known| &known.meta)
    }

    /// Adds the object if it is new.
    pub(super) fn ensure(&mut self, meta: &Arc<ObjectMeta>, counters: &StoreCounters) {
        if self.insert(meta, counters) {
            self.by_uri.insert(ByUri(Arc::clone(meta)));
        }
    }

    /// Adds an object that recovery found, if it is new. It is listed by [`Objects::list_some`].
    pub(super) fn ensure_found(&mut self, meta: &Arc<ObjectMeta>, counters: &StoreCounters) {
        if self.insert(meta, counters) {
            self.unlisted.push_back(meta.id);
        }
    }

    /// Notes that `device` has a record of the object; with a place, that it is there.
    pub(super) fn note_record(&mut self, id: ObjectId, device: u16, place: Place) {
        if let Some(part) = self.part(id, device)
            && let Some(region) = place
        {
            part.record = region;
        }
    }

    /// Counts a block that recovery found. False when it fits no object of which its device has a
    /// record.
    pub(super) fn add_found_block(&mut self, id: BlockId, device: u16, length: u32) -> bool {
        let Some(known) = self.by_id.get_mut(&id.object) else {
            return false;
        };
        let fits = id.index < known.meta.blocks() && known.meta.block_length(id.index) == length;
        // A device that fails must not take the names of another's blocks with it.
        let mut parts = known.parts.iter_mut();
        let Some(part) = parts.find(|part| fits && part.device == device) else {
            return false;
        };
        part.blocks += 1;
        part.bytes += u64::from(length);
        true
    }

    /// Forgets the objects that recovery found no blocks of.
    pub(super) fn forget_all_unused(&mut self, counters: &StoreCounters) {
        let all = self.by_id.values();
        let unused = all.filter(|known| known.parts.iter().all(|part| part.blocks == 0));
        let unused: Vec<ObjectId> = unused.map(|known| known.meta.id).collect();
        for id in unused {
            self.forget_if_unused(id, counters);
        }
    }

    /// Lists up to `count` of the objects that recovery found. False when none is left.
    pub(super) fn list_some(&mut self, count: usize) -> bool {
        for id in self.unlisted.drain(..count.min(self.unlisted.len())) {
            if let Some(known) = self.by_id.get(&id) {
                self.by_uri.insert(ByUri(Arc::clone(&known.meta)));
            }
        }
        !self.unlisted.is_empty()
    }

    /// Whether all objects are listed.
    pub(super) fn is_listed(&self) -> bool {
        self.unlisted.is_empty()
    }

    /// Adds the object if it is new, but not to the list by URI; tells whether it was new.
    fn insert(&mut self, meta: &Arc<ObjectMeta>, counters: &StoreCounters) -> bool {
        if self.by_id.contains_key(&meta.id) {
            return false;
        }
        let known = Known {
            meta: Arc::clone(meta),
            parts: SmallVec::new(),
            pending: 0,
        };
        self.by_id.insert(meta.id, known);
        self.by_home.entry(meta.id.home).or_default().push(meta.id);
        counters.objects.add(1);
        counters.object_bytes.add(memory_of(meta));
        true
    }

    fn part(&mut self, id: ObjectId, device: u16) -> Option<&mut Part> {
        let known = self.by_id.get_mut(&id)?;
        let at = known
            .parts
            .iter()
            .position(|part| part.device == device)
            .unwrap_or_else(|| {
                known.parts.push(Part {
                    device,
                    record: NOT_RECORDED,
                    blocks: 0,
                    bytes: 0,
                });
                known.parts.len() - 1
            });
        Some(&mut known.parts[at])
    }

    /// Counts a block that entered the index. False when the object is not known.
    pub(super) fn add_block(&mut self, id: ObjectId, device: u16, bytes: u32) -> bool {
        let Some(part) = self.part(id, device) else {
            return false;
        };
        part.blocks += 1;
        part.bytes += u64::from(bytes);
        true
    }

    /// Counts a block that left the index; forgets the object with its last block.
    ///
    /// # Panics
    /// If the block was never counted.
    pub(super) fn remove_block(
        &mut self,
        id: ObjectId,
        device: u16,
        bytes: u32,
        counters: &StoreCounters,
    ) {
        let part = self
            .part(id, device)
            .expect("a block in the index has a known object");
        assert!(
            part.blocks > 0 && part.bytes >= u64::from(bytes),
            "blocks of {id} are counted"
        );
        part.blocks -= 1;
        part.bytes -= u64::from(bytes);
        self.forget_if_unused(id, counters);
    }

    /// Counts a block that waits to be written.
    pub(super) fn add_pending(&mut self, id: ObjectId) {
        self.by_id
            .get_mut(&id)
            .expect("a pending block's object was added")
            .pending += 1;
    }

    /// Counts a block that waits no longer.
    pub(super) fn remove_pending(&mut self, id: ObjectId, counters: &StoreCounters) {
        let known = self
            .by_id
            .get_mut(&id)
            .expect("a pending block's object is known");
        known.pending -= 1;
        self.forget_if_unused(id, counters);
    }

    /// Forgets the object if it has neither blocks nor pending ones.
    pub(super) fn forget_if_unused(&mut self, id: ObjectId, counters: &StoreCounters) {
        let unused = self.by_id.get(&id).is_some_and(|known| {
            known.pending == 0 && known.parts.iter().all(|part| part.blocks == 0)
        });
        if !unused {
            return;
        }
        let known = self.by_id.remove(&id).expect("just found");
        if let Some(versions) = self.by_home.get_mut(&id.home) {
            versions.retain(|version| *version != id);
            if versions.is_empty() {
                self.by_home.remove(&id.home);
            }
        }
        counters.objects.take_off(1);
        counters.object_bytes.take_off(memory_of(&known.meta));
        self.by_uri.remove(&ByUri(known.meta));
    }

    /// Where on `device` the object's record is.
    pub(super) fn record_of(&self, id: ObjectId, device: u16) -> Place {
        let parts = &self.by_id.get(&id)?.parts;
        let part = parts.iter().find(|part| part.device == device)?;
        (part.record != NOT_RECORDED).then_some(part.record)
    }

    /// Whether blocks of the object are on `device`, or may be on their way there: extents that are
    /// being written rely on a record that was there when they were put together.
    pub(super) fn needs_record(&self, id: ObjectId, device: u16) -> bool {
        self.by_id.get(&id).is_some_and(|known| {
            let mut parts = known.parts.iter();
            known.pending > 0 || parts.any(|part| part.device == device && part.blocks > 0)
        })
    }

    /// Notes that the record in `place` is going away, so that the next extent brings another.
    pub(super) fn clear_record(&mut self, id: ObjectId, device: u16, place: Place) {
        self.move_record(id, device, place, NOT_RECORDED);
    }

    /// Notes which region holds the object's record.
    pub(super) fn set_record(&mut self, id: ObjectId, device: u16, region: u32) {
        if let Some(part) = self.part(id, device) {
            part.record = region;
        }
    }

    /// Notes that a record was copied, if the one in `from` is still the one that counts.
    pub(super) fn move_record(&mut self, id: ObjectId, device: u16, from: Place, to: u32) {
        if self.record_of(id, device) == from {
            self.set_record(id, device, to);
        }
    }

    /// Objects with a part on `device` whose record is in `place`. Walks all objects.
    pub(super) fn recorded_in(&self, device: u16, place: Place) -> Vec<ObjectId> {
        let record = place.unwrap_or(NOT_RECORDED);
        let recorded = |known: &&Known| {
            let mut parts = known.parts.iter();
            parts.any(|part| part.device == device && part.record == record)
        };
        self.by_id
            .values()
            .filter(recorded)
            .map(|known| known.meta.id)
            .collect()
    }

    /// Blocks and bytes of an object; `pinned` is left false.
    pub(super) fn held(&self, id: ObjectId) -> Held {
        let parts = self
            .by_id
            .get(&id)
            .map(|known| known.parts.as_slice())
            .unwrap_or_default();
        Held {
            blocks: parts.iter().map(|part| u64::from(part.blocks)).sum(),
            bytes: parts.iter().map(|part| part.bytes).sum(),
            pinned: false,
        }
    }

    /// Bytes of an object, device by device.
    pub(super) fn bytes_by_device(&self, id: ObjectId) -> Vec<(u16, u64)> {
        let parts = self
            .by_id
            .get(&id)
            .map(|known| known.parts.as_slice())
            .unwrap_or_default();
        parts.iter().map(|part| (part.device, part.bytes)).collect()
    }

    /// All versions of the object with home half `home`.
    pub(super) fn versions(&self, home: u64) -> Vec<Arc<ObjectMeta>> {
        let ids = self
            .by_home
            .get(&home)
            .map(SmallVec::as_slice)
            .unwrap_or_default();
        ids.iter().filter_map(|id| self.get(*id).cloned()).collect()
    }

    /// Objects whose URI starts with `prefix` and is greater than `after`, in order; ends after the
    /// URI with which `limit` is reached.
    pub(super) fn list(&self, prefix: &str, after: &str, limit: usize) -> Vec<Arc<ObjectMeta>> {
        let last = ObjectId {
            home: u64::MAX,
            version: u64::MAX,
        };
        let start: (&str, ObjectId) = if after >= prefix {
            (after, last)
        } else {
            (prefix, ObjectId::default())
        };
        let range = (Bound::Included(&start as &dyn UriKey), Bound::Unbounded);
        let mut found: Vec<Arc<ObjectMeta>> = Vec::new();
        for ByUri(meta) in self.by_uri.range::<dyn UriKey, _>(range) {
            let full = found.len() >= limit && found.last().is_none_or(|last| last.uri != meta.uri);
            if full || !meta.uri.starts_with(prefix) {
                break;
            }
            if meta.uri.as_str() > after {
                found.push(Arc::clone(meta));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(uri: &str, version: &str) -> Arc<ObjectMeta> {
        Arc::new(ObjectMeta {
            id: ObjectId::new(uri, version, 1, 1 << 20),
            path_key: uri.to_owned(),
            uri: uri.to_owned(),
            version: version.to_owned(),
            length: 1,
            last_modified_ms: 0,
            block_bytes: 1 << 20,
            content_type: String::new(),
            headers: String::new(),
        })
    }

    #[test]
    fn an_object_is_known_as_long_as_it_has_blocks() {
        let (mut objects, counters) = (Objects::default(), StoreCounters::default());
        let a = meta("a", "1");
        objects.ensure(&a, &counters);
        assert!(!objects.needs_record(a.id, 0));
        objects.add_pending(a.id);
        assert!(
            objects.needs_record(a.id, 0),
            "an extent that is being written relies on it"
        );
        assert!(objects.add_block(a.id, 0, 10) && objects.add_block(a.id, 1, 20));
        objects.remove_pending(a.id, &counters);
        assert_eq!(
            objects.held(a.id),
            Held {
                blocks: 2,
                bytes: 30,
                pinned: false
            }
        );
        objects.remove_block(a.id, 0, 10, &counters);
        assert!(objects.get(a.id).is_some() && !objects.needs_record(a.id, 0));
        objects.remove_block(a.id, 1, 20, &counters);
        assert!(objects.get(a.id).is_none() && objects.versions(a.id.home).is_empty());
        assert_eq!(
            (counters.objects.get(), counters.object_bytes.get()),
            (0, 0)
        );
    }

    #[test]
    fn listing_goes_by_uri_and_keeps_versions_together() {
        let (mut objects, counters) = (Objects::default(), StoreCounters::default());
        for (uri, version) in [
            ("s/b", "1"),
            ("s/a", "1"),
            ("s/a", "2"),
            ("s/c", "1"),
            ("t", "1"),
        ] {
            objects.ensure(&meta(uri, version), &counters);
        }
        let uris = |list: Vec<Arc<ObjectMeta>>| -> Vec<String> {
            list.iter().map(|meta| meta.uri.clone()).collect()
        };
        assert_eq!(uris(objects.list("s/", "", 1)), ["s/a", "s/a"]);
        assert_eq!(uris(objects.list("s/", "s/a", 10)), ["s/b", "s/c"]);
        assert_eq!(uris(objects.list("", "s/c", 10)), ["t"]);
        assert!(objects.list("s/", "s/c", 10).is_empty());
    }
}

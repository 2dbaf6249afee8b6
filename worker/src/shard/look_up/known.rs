//! What a shard keeps of the objects that it looks things up in.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use corelane_lookup::cache::Cache;
use corelane_lookup::column::Column;
use corelane_lookup::error::Result;
use corelane_lookup::execute::plan::Selection;
use corelane_lookup::file::File;
use corelane_lookup::key_index::KeyIndex;
use corelane_rpc_schema::ObjectId;

use super::compute::Compute;
use super::places::Places;
use crate::cache::hashing::IdMap;
use crate::shard::turns::Turns;

/// Objects that a shard looks into at a time; the others wait in order. One holds 32 MiB of pages at most
/// beside what is kept, and as much of its answer as is allowed; most hold nothing.
const SEARCHES_MAX: usize = 16;

/// What look-ups may take on one shard.
#[derive(Clone, Copy, Debug)]
pub struct LookupLimits {
    /// Bytes of decoded pages and dictionaries.
    pub decoded_bytes: usize,
    /// Bytes of footers.
    pub footer_bytes: usize,
    /// Bytes of key indexes.
    pub index_bytes: usize,
    /// Bytes of pages that one look-up may read, where the caller does not say.
    pub scan_bytes: u64,
    /// Look-ups of a column in an object until a key index is built of it; 0: never.
    pub index_after: u32,
}

impl LookupLimits {
    /// For so many bytes of memory.
    pub fn of_memory(bytes: u64) -> Self {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        LookupLimits {
            decoded_bytes: bytes / 2,
            footer_bytes: bytes / 4,
            index_bytes: bytes / 4,
            ..LookupLimits::default()
        }
    }
}

impl Default for LookupLimits {
    fn default() -> Self {
        LookupLimits {
            decoded_bytes: 64 << 20,
            footer_bytes: 64 << 20,
            index_bytes: 64 << 20,
            scan_bytes: 256 << 20,
            index_after: 16,
        }
    }
}

/// A key index, or how far it is from one.
#[derive(Clone)]
enum Index {
    /// So many look-ups would have used one.
    Wanted(u32),
    /// It is being built.
    Building,
    /// It could not be built, or has no place: not to be tried again for this version.
    Refused,
    /// It is there.
    Ready(Rc<KeyIndex>),
}

/// A select list in terms of an object.
struct LastSelection {
    select: Arc<[String]>,
    selection: Arc<Selection>,
}

/// An object, as look-ups know it.
pub(super) struct KnownFile {
    pub file: File,
    indexes: RefCell<HashMap<usize, Index>>,
    /// The select list of the last look-up: most have the same.
    selection: RefCell<Option<LastSelection>>,
    used: Cell<u64>,
}

impl KnownFile {
    /// A select list in terms of it.
    pub fn selection(&self, select: &Arc<[String]>) -> Result<Arc<Selection>> {
        let mut last = self.selection.borrow_mut();
        if let Some(last) = &*last
            && last.select == *select
        {
            return Ok(Arc::clone(&last.selection));
        }
        let selection = Arc::new(Selection::new(&self.file, select)?);
        *last = Some(LastSelection {
            select: Arc::clone(select),
            selection: Arc::clone(&selection),
        });
        Ok(selection)
    }

    /// Its key indexes.
    pub fn indexes(&self) -> Vec<(usize, Rc<KeyIndex>)> {
        let indexes = self.indexes.borrow();
        let ready = indexes.iter().filter_map(|(leaf, index)| match index {
            Index::Ready(index) => Some((*leaf, Rc::clone(index))),
            _ => None,
        });
        ready.collect()
    }

    /// Notes a look-up of a column that no index helped; says whether one is to be built now.
    pub fn wants_index(&self, column: &Column, after: u32) -> bool {
        let mut indexes = self.indexes.borrow_mut();
        let index = indexes.entry(column.leaf).or_insert(Index::Wanted(0));
        let Index::Wanted(count) = index else {
            return false;
        };
        *count += 1;
        let is_due = after > 0 && *count >= after;
        if is_due {
            *index = Index::Building;
        }
        is_due
    }

    /// Notes that a key index of the column is on its way, unless it is there.
    pub fn awaits_index(&self, leaf: usize) {
        let mut indexes = self.indexes.borrow_mut();
        if !matches!(indexes.get(&leaf), Some(Index::Ready(_))) {
            indexes.insert(leaf, Index::Building);
        }
    }

    /// Notes that it did not come: look-ups may ask for it again.
    pub fn lost_index(&self, leaf: usize) {
        self.indexes.borrow_mut().insert(leaf, Index::Wanted(0));
    }

    fn index_bytes(&self) -> usize {
        self.indexes()
            .iter()
            .map(|(_, index)| index.size_bytes())
            .sum()
    }
}

/// What a shard keeps for look-ups, within its limits.
pub struct Lookups {
    pub(super) limits: LookupLimits,
    pub(super) compute: Compute,
    pub(super) decoded: RefCell<Cache>,
    /// Objects that may be looked into at a time: each may hold some pages beside what is kept.
    pub(super) turns: Turns,
    files: RefCell<IdMap<ObjectId, Rc<KnownFile>>>,
    /// Key indexes that are made or brought in at a time.
    pub(super) index_turns: Turns,
    /// Where the objects at paths are.
    pub(super) places: RefCell<Places>,
    clock: Cell<u64>,
}

impl Lookups {
    /// Nothing yet.
    pub fn new(limits: LookupLimits, compute: Compute, seed: u64) -> Self {
        Lookups {
            limits,
            compute,
            decoded: RefCell::new(Cache::new(limits.decoded_bytes, seed)),
            turns: Turns::new(SEARCHES_MAX),
            index_turns: Turns::new(1),
            files: RefCell::default(),
            places: RefCell::default(),
            clock: Cell::new(0),
        }
    }

    /// Bytes of decoded pages, and of footers and key indexes.
    pub fn memory_bytes(&self) -> (usize, usize) {
        let files = self.files.borrow();
        let known = files
            .values()
            .map(|known| known.file.memory_bytes() + known.index_bytes())
            .sum();
        (self.decoded.borrow().bytes(), known)
    }

    /// The object's footer, if it is known.
    pub(super) fn file(&self, object: ObjectId) -> Option<Rc<KnownFile>> {
        let files = self.files.borrow();
        let known = files.get(&object)?;
        known.used.set(self.tick());
        Some(Rc::clone(known))
    }

    /// Keeps an object's footer. What is known of other versions of it goes, and what was not used for
    /// longest beyond the limit.
    pub(super) fn keep(&self, object: ObjectId, file: File) -> Rc<KnownFile> {
        let known = Rc::new(KnownFile {
            file,
            indexes: RefCell::default(),
            selection: RefCell::default(),
            used: Cell::new(self.tick()),
        });
        let mut files = self.files.borrow_mut();
        let old: Vec<ObjectId> = files
            .keys()
            .filter(|other| other.home == object.home)
            .copied()
            .collect();
        for old in old {
            self.drop_file(&mut files, old);
        }
        let mut bytes: usize = files.values().map(|known| known.file.memory_bytes()).sum();
        while bytes + known.file.memory_bytes() > self.limits.footer_bytes {
            let oldest = files.iter().min_by_key(|(_, known)| known.used.get());
            let Some((oldest, size)) = oldest.map(|(id, known)| (*id, known.file.memory_bytes()))
            else {
                break;
            };
            bytes -= size;
            self.drop_file(&mut files, oldest);
        }
        files.insert(object, Rc::clone(&known));
        known
    }

    /// Keeps a key index that was built, or notes that there is none; says whether it found room. The key
    /// indexes of objects that were not looked into for longest go for it.
    pub(super) fn keep_index(
        &self,
        known: &KnownFile,
        leaf: usize,
        built: Option<KeyIndex>,
    ) -> bool {
        let kept = match built {
            Some(index) => {
                // One whose footer has gone meanwhile pushes nothing out.
                let is_known = self
                    .files
                    .borrow()
                    .values()
                    .any(|other| other.file.id == known.file.id);
                let room = is_known && self.make_index_room(known, index.size_bytes());
                room.then(|| Index::Ready(Rc::new(index)))
            }
            None => None,
        };
        let found_room = kept.is_some();
        let mut indexes = known.indexes.borrow_mut();
        indexes.insert(leaf, kept.unwrap_or(Index::Refused));
        found_room
    }

    /// Whether key indexes of `wanted` bytes fit beside those of `own`, once others have gone.
    fn make_index_room(&self, own: &KnownFile, wanted: usize) -> bool {
        let files = self.files.borrow();
        let mut bytes: usize = files.values().map(|known| known.index_bytes()).sum();
        while bytes + wanted > self.limits.index_bytes {
            let others = files
                .values()
                .filter(|known| known.file.id != own.file.id && known.index_bytes() > 0);
            let Some(oldest) = others.min_by_key(|known| known.used.get()) else {
                return false;
            };
            bytes -= oldest.index_bytes();
            oldest
                .indexes
                .borrow_mut()
                .retain(|_, index| !matches!(index, Index::Ready(_)));
        }
        true
    }

    fn drop_file(&self, files: &mut IdMap<ObjectId, Rc<KnownFile>>, object: ObjectId) {
        if let Some(gone) = files.remove(&object) {
            self.decoded.borrow_mut().forget(gone.file.id);
        }
    }

    fn tick(&self) -> u64 {
        self.clock.set(self.clock.get() + 1);
        self.clock.get()
    }
}

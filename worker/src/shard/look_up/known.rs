//! What a shard keeps of the objects that it looks things up in.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use corelane_lookup::cache::Cache;
use corelane_lookup::column::Column;
use corelane_lookup::error::Result;
use corelane_lookup::execute::plan::Selection;
use corelane_lookup::file::File;
use corelane_lookup::key_index::KeyIndex;
use corelane_lookup::memory::{ALLOWANCE_BYTES, Account, Pool};
use corelane_rpc_schema::ObjectId;

use super::compute::Compute;
use super::files::KnownFiles;
use super::places::Places;
use crate::data_plane::outbox::UnsentLookups;
use crate::shard::turns::Turns;

/// Objects that a shard looks into at a time; the others wait in order. What all of them hold beside what is kept is
/// bounded by `lookup_working_memory`, and 256 KiB each that they do not draw from it; most hold no more.
pub const SEARCHES_MAX: usize = 16;

/// Most bytes that look-ups under way on one shard hold without drawing them from the working memory: those that look
/// into objects, as many whose answers wait, and one that builds a key index.
pub const ALLOWANCES_BYTES: u64 = (2 * SEARCHES_MAX as u64 + 1) * ALLOWANCE_BYTES;

/// Part of the working memory that one look-up in one object may hold, one in so many: the others go on beside one
/// that asks for all it can get.
const WORKING_SHARE: u64 = 2;

/// What look-ups may take on one shard.
#[derive(Clone, Copy, Debug)]
pub struct LookupLimits {
    /// Bytes of decoded pages and dictionaries.
    pub decoded_bytes: usize,
    /// Bytes of footers.
    pub footer_bytes: usize,
    /// Bytes of key indexes.
    pub index_bytes: usize,
    /// Bytes that one look-up in one object may read, where the caller does not say.
    pub scan_bytes: u64,
    /// Most bytes that it may read, whatever the caller says.
    pub scan_bytes_max: u64,
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
            scan_bytes_max: 16 << 30,
            index_after: 16,
        }
    }
}

/// Longest select list that is remembered of an object, in bytes: a thousand names. A request may have 4 MiB of them.
const SELECT_BYTES_MAX: usize = 16 << 10;

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
    pub object: ObjectId,
    pub file: File,
    indexes: RefCell<HashMap<usize, Index>>,
    /// The select list of the last look-up: most have the same.
    selection: RefCell<Option<LastSelection>>,
}

impl KnownFile {
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

    /// Forgets those that are there.
    pub fn drop_indexes(&self) {
        let mut indexes = self.indexes.borrow_mut();
        indexes.retain(|_, index| !matches!(index, Index::Ready(_)));
    }
}

/// What a shard keeps for look-ups, within its limits.
pub struct Lookups {
    pub(super) limits: LookupLimits,
    pub(super) compute: Compute,
    /// Memory that look-ups of all shards share while they run.
    pub(super) working: Arc<Pool>,
    pub(super) decoded: RefCell<Cache>,
    /// Objects that may be looked into at a time: each may hold some pages beside what is kept.
    pub(super) turns: Turns,
    files: RefCell<KnownFiles>,
    /// Key indexes that are made or brought in at a time.
    pub(super) index_turns: Turns,
    /// Those that wait for it.
    pub(super) indexes_waiting: Cell<usize>,
    /// Where the objects at paths are.
    pub(super) places: RefCell<Places>,
    /// The schema of the last selection that was made.
    last_schema: RefCell<Option<SchemaRef>>,
}

impl Lookups {
    /// Nothing yet.
    pub fn new(limits: LookupLimits, compute: Compute, working: Arc<Pool>, seed: u64) -> Self {
        Lookups {
            limits,
            compute,
            working,
            decoded: RefCell::new(Cache::new(limits.decoded_bytes, seed)),
            turns: Turns::new(SEARCHES_MAX),
            index_turns: Turns::new(1),
            indexes_waiting: Cell::new(0),
            files: RefCell::new(KnownFiles::new(seed)),
            places: RefCell::default(),
            last_schema: RefCell::default(),
        }
    }

    /// Answers that wait to be sent, of all shards.
    pub fn unsent(&self) -> &UnsentLookups {
        self.compute.unsent()
    }

    /// An account for a look-up in an object, or for other work that is done for look-ups.
    pub(super) fn account(&self) -> Account {
        Account::new(&self.working, self.working.limit_bytes() / WORKING_SHARE)
    }

    /// Bytes that look-ups of all shards hold while they run.
    pub fn working_bytes(&self) -> u64 {
        self.working.drawn_bytes()
    }

    /// Bytes of decoded pages, and of footers and key indexes.
    pub fn memory_bytes(&self) -> (usize, usize) {
        let known = self.files.borrow().memory_bytes();
        (self.decoded.borrow().bytes(), known)
    }

    /// The object's footer, if it is known.
    pub(super) fn file(&self, object: ObjectId) -> Option<Rc<KnownFile>> {
        let mut files = self.files.borrow_mut();
        let known = files.get(object)?;
        for gone in files.take_surplus(object, self.limits.footer_bytes) {
            self.decoded.borrow_mut().forget(gone.file.id);
        }
        Some(known)
    }

    /// A select list in terms of an object.
    pub(super) fn selection(
        &self,
        known: &KnownFile,
        select: &Arc<[String]>,
    ) -> Result<Arc<Selection>> {
        let mut last = known.selection.borrow_mut();
        if let Some(last) = &*last
            && last.select == *select
        {
            return Ok(Arc::clone(&last.selection));
        }
        let mut selection = Selection::new(&known.file, select)?;
        // Objects of one table share it: comparing their schemas is then nothing.
        let mut last_schema = self.last_schema.borrow_mut();
        match &*last_schema {
            Some(schema) if **schema == *selection.schema => {
                selection.schema = Arc::clone(schema);
            }
            _ => *last_schema = Some(Arc::clone(&selection.schema)),
        }
        let selection = Arc::new(selection);
        let select_bytes: usize = select.iter().map(String::len).sum();
        *last = (select_bytes <= SELECT_BYTES_MAX).then(|| LastSelection {
            select: Arc::clone(select),
            selection: Arc::clone(&selection),
        });
        Ok(selection)
    }

    /// Keeps an object's footer. What is known of other versions of it goes, and what was not used for
    /// longest beyond the limit.
    pub(super) fn keep(&self, object: ObjectId, file: File) -> Rc<KnownFile> {
        // Footers that grow are counted when they are used next; one alone may not grow beyond all.
        file.limit_page_lists(self.limits.footer_bytes / 2);
        let known = Rc::new(KnownFile {
            object,
            file,
            indexes: RefCell::default(),
            selection: RefCell::default(),
        });
        let mut files = self.files.borrow_mut();
        let gone = files.insert(object, Rc::clone(&known), self.limits.footer_bytes);
        for gone in gone {
            self.decoded.borrow_mut().forget(gone.file.id);
        }
        known
    }

    /// Forgets what is known of a version of an object.
    pub(in crate::shard) fn forget(&self, object: ObjectId) {
        if let Some(gone) = self.files.borrow_mut().take(object) {
            self.decoded.borrow_mut().forget(gone.file.id);
        }
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
                let mut files = self.files.borrow_mut();
                let room =
                    files.make_index_room(known, index.size_bytes(), self.limits.index_bytes);
                room.then(|| Index::Ready(Rc::new(index)))
            }
            None => None,
        };
        let found_room = kept.is_some();
        let mut indexes = known.indexes.borrow_mut();
        indexes.insert(leaf, kept.unwrap_or(Index::Refused));
        found_room
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::{ArrayRef, Int64Array, RecordBatch};
    use corelane_lookup::file::footer;
    use corelane_lookup::host::InMemory;
    use futures::FutureExt;
    use parquet::arrow::ArrowWriter;

    use super::*;

    fn file() -> File {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let rows = RecordBatch::try_from_iter([("key", column)]).expect("a column");
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, rows.schema(), None).expect("a writer");
        writer.write(&rows).expect("rows are written");
        writer.close().expect("a footer");
        let host = InMemory::new(bytes);
        let opened = footer::open(&host, "table", host.length()).now_or_never();
        opened.expect("it is in memory").expect("it is sound")
    }

    #[test]
    fn footers_stay_within_their_limit_and_one_version_of_an_object_is_known() {
        let footer_bytes = 7 * file().memory_bytes() / 2;
        let limits = LookupLimits {
            footer_bytes,
            ..LookupLimits::default()
        };
        let lookups = Lookups::new(limits, Compute::in_line(), Pool::new(1 << 30), 7);
        let id = |home: u64, version: u64| ObjectId { home, version };
        for home in 0..50 {
            lookups.keep(id(home, 1), file());
            assert!(lookups.file(id(home, 1)).is_some(), "the last one stays");
            assert!(lookups.memory_bytes().1 <= footer_bytes);
        }
        let known = (0..50).filter(|home| lookups.file(id(*home, 1)).is_some());
        assert_eq!(known.count(), 3);
        lookups.forget(id(49, 2));
        assert!(
            lookups.file(id(49, 1)).is_some(),
            "another version was meant"
        );
        lookups.keep(id(49, 2), file());
        assert!(lookups.file(id(49, 1)).is_none());
        assert!(lookups.file(id(49, 2)).is_some());
        assert!(lookups.memory_bytes().1 <= footer_bytes);
        lookups.forget(id(49, 2));
        assert!(lookups.file(id(49, 2)).is_none());
    }
}

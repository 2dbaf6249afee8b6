//! Decoded pages and dictionaries, kept by what they save a byte.
//!
//! An entry's worth is what it cost to make, times how often it was used, for each byte that it takes
//! (GreedyDual-Size with frequency, Cherkasova 1998). When room is needed, a few entries are looked at by
//! chance, and the one of least worth goes. Codes hold on to their dictionary: pages of codes are kept beside the
//! very dictionary that they are of, and go with it. The invariant: what is kept takes at most the budget.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::file::FileId;
use crate::page::values::{DecodedPage, Dictionary, Values};

/// Entries that are looked at when room is needed: more bring little (as in Redis' sampled LRU).
const SAMPLES: usize = 8;

/// Entries that are looked at, each time that one comes, for those of files that are forgotten.
const SWEPT_AT_A_TIME: usize = 64;

/// Largest part of the budget that one entry may take: a larger one would push out all the others.
const SHARE_MAX: usize = 4;

/// Bytes of memory of an entry beside what it keeps, about.
const ENTRY_BYTES: usize = 128;

/// Place of a dictionary among the pages of its chunk.
pub const DICTIONARY: u32 = u32::MAX;

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The file.
    pub file: FileId,
    /// Row group.
    pub group: u32,
    /// Leaf column.
    pub leaf: u32,
    /// Page of the chunk, or [`DICTIONARY`].
    pub page: u32,
}

/// A decoded page or dictionary.
#[derive(Clone, Debug)]
pub enum Kept {
    /// A page.
    Page(Arc<DecodedPage>),
    /// A dictionary.
    Dictionary(Arc<Dictionary>),
}

struct Entry {
    key: Key,
    kept: Kept,
    bytes: usize,
    /// What an hour of it is worth: see the module.
    worth: f64,
    cost_ns: f64,
    uses: f64,
    /// Pages with codes of this dictionary.
    dependents: HashSet<u32>,
}

impl Kept {
    /// The dictionary that a page of codes holds on to.
    fn held_dictionary(&self) -> Option<&Arc<Dictionary>> {
        match self {
            Kept::Page(page) => match &page.values {
                Values::Codes { dictionary, .. } => Some(dictionary),
                _ => None,
            },
            Kept::Dictionary(_) => None,
        }
    }
}

impl Key {
    /// The dictionary of the same chunk.
    fn dictionary(self) -> Key {
        Key {
            page: DICTIONARY,
            ..self
        }
    }
}

/// What was kept and used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Found.
    pub hits: u64,
    /// Not found.
    pub misses: u64,
    /// Pushed out.
    pub evicted: u64,
}

/// See the module.
pub struct Cache {
    places: HashMap<Key, usize>,
    entries: Vec<Entry>,
    bytes: usize,
    budget: usize,
    /// Worth of the entry that went last: newcomers start above it, so old fame fades.
    floor: f64,
    random: u64,
    counts: Counts,
    /// Files whose entries are to go: those before `unswept` have not been looked at for it.
    gone: HashSet<FileId>,
    unswept: usize,
}

impl Cache {
    /// An empty one of at most `budget` bytes.
    pub fn new(budget: usize, seed: u64) -> Self {
        Cache {
            places: HashMap::new(),
            entries: Vec::new(),
            bytes: 0,
            budget,
            floor: 0.0,
            random: seed | 1,
            counts: Counts::default(),
            gone: HashSet::new(),
            unswept: 0,
        }
    }

    /// What was kept and used.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A page, if it is kept.
    pub fn page(&mut self, key: Key) -> Option<Arc<DecodedPage>> {
        match self.get(key)? {
            Kept::Page(page) => Some(page),
            Kept::Dictionary(_) => None,
        }
    }

    /// A dictionary, if it is kept.
    pub fn dictionary(&mut self, key: Key) -> Option<Arc<Dictionary>> {
        match self.get(key)? {
            Kept::Dictionary(dictionary) => Some(dictionary),
            Kept::Page(_) => None,
        }
    }

    fn get(&mut self, key: Key) -> Option<Kept> {
        let Some(place) = self.places.get(&key) else {
            self.counts.misses += 1;
            return None;
        };
        self.counts.hits += 1;
        let floor = self.floor;
        let entry = &mut self.entries[*place];
        entry.uses += 1.0;
        entry.worth = worth(floor, entry.cost_ns, entry.uses, entry.bytes);
        Some(entry.kept.clone())
    }

    /// Whether an entry of `bytes` may be kept.
    pub fn admits(&self, bytes: usize) -> bool {
        bytes + ENTRY_BYTES <= self.budget / SHARE_MAX
    }

    /// Whether something is kept under `key`; that it was asked counts for nothing.
    pub fn contains(&self, key: Key) -> bool {
        self.places.contains_key(&key)
    }

    /// Keeps what took `cost_ns` nanoseconds to make, if it may be worth its bytes.
    pub fn insert(&mut self, key: Key, kept: Kept, cost_ns: u64) {
        let own = match &kept {
            Kept::Page(page) => page.memory_bytes(),
            Kept::Dictionary(dictionary) => dictionary.memory_bytes(),
        };
        let bytes = own + ENTRY_BYTES;
        self.sweep();
        self.remove(&key);
        if !self.admits(own) {
            return;
        }
        while self.bytes + bytes > self.budget {
            self.evict();
        }
        if let Some(held) = kept.held_dictionary() {
            // After all that went for it.
            let place = self.places.get(&key.dictionary()).copied();
            let own = place.map(|place| &mut self.entries[place]);
            let is_same = |entry: &Entry| matches!(&entry.kept, Kept::Dictionary(own) if Arc::ptr_eq(own, held));
            match own {
                Some(entry) if is_same(entry) => entry.dependents.insert(key.page),
                _ => return,
            };
        }
        let cost_ns = cost_ns.max(1) as f64;
        self.places.insert(key, self.entries.len());
        self.entries.push(Entry {
            key,
            kept,
            bytes,
            worth: worth(self.floor, cost_ns, 1.0, bytes),
            cost_ns,
            uses: 1.0,
            dependents: HashSet::new(),
        });
        self.bytes += bytes;
    }

    /// Forgets everything of a file, which is not asked for any more: little by little, as other things are kept,
    /// since there may be a great many entries.
    pub fn forget(&mut self, file: FileId) {
        self.gone.insert(file);
        self.unswept = self.entries.len();
        self.sweep();
    }

    /// Looks at some entries from the back to the front. What takes the place of one that goes comes from behind,
    /// where all were looked at.
    fn sweep(&mut self) {
        for _ in 0..SWEPT_AT_A_TIME {
            self.unswept = self.unswept.min(self.entries.len());
            let Some(place) = self.unswept.checked_sub(1) else {
                self.gone.clear();
                return;
            };
            self.unswept = place;
            let key = self.entries[place].key;
            if self.gone.contains(&key.file) {
                self.remove(&key);
            }
        }
    }

    fn evict(&mut self) {
        let mut least = self.next_random() as usize % self.entries.len();
        for _ in 1..SAMPLES {
            let other = self.next_random() as usize % self.entries.len();
            if self.entries[other].worth < self.entries[least].worth {
                least = other;
            }
        }
        self.floor = self.floor.max(self.entries[least].worth);
        self.counts.evicted += 1;
        let key = self.entries[least].key;
        self.remove(&key);
    }

    fn remove(&mut self, key: &Key) {
        let Some(place) = self.places.remove(key) else {
            return;
        };
        let gone = self.entries.swap_remove(place);
        self.bytes -= gone.bytes;
        if let Some(moved) = self.entries.get(place) {
            self.places.insert(moved.key, place);
        }
        if gone.kept.held_dictionary().is_some()
            && let Some(place) = self.places.get(&key.dictionary())
        {
            self.entries[*place].dependents.remove(&key.page);
        }
        for page in gone.dependents {
            self.remove(&Key { page, ..*key });
        }
    }

    /// Marsaglia's xorshift.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

fn worth(floor: f64, cost_ns: f64, uses: f64, bytes: usize) -> f64 {
    floor + cost_ns * uses / bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::hybrid::Hybrid;

    fn page(bytes: usize) -> Kept {
        Kept::Page(Arc::new(DecodedPage {
            rows: 0,
            presence: None,
            values: Values::Fixed {
                width: 1,
                bytes: vec![0; bytes].into(),
            },
            buffer_bytes: 0,
        }))
    }

    fn dictionary(bytes: usize) -> Arc<Dictionary> {
        Arc::new(Dictionary {
            values: Values::Fixed {
                width: bytes,
                bytes: vec![0; bytes].into(),
            },
            count: 1,
            buffer_bytes: bytes,
        })
    }

    fn page_of(dictionary: &Arc<Dictionary>) -> Kept {
        let memory = &mut crate::memory::Account::default().empty();
        let codes = Hybrid::open(vec![20].into(), 0, 10, memory).expect("ten codes");
        Kept::Page(Arc::new(DecodedPage {
            rows: 10,
            presence: None,
            values: Values::Codes {
                codes,
                dictionary: Arc::clone(dictionary),
            },
            buffer_bytes: 0,
        }))
    }

    #[test]
    fn codes_are_kept_beside_the_dictionary_that_they_hold_and_go_with_it() {
        let mut cache = Cache::new(100_000, 7);
        let (own, other) = (dictionary(20_000), dictionary(20_000));
        cache.insert(key(1), page_of(&own), 1_000_000);
        assert!(cache.is_empty(), "its dictionary is not kept");
        cache.insert(key(DICTIONARY), Kept::Dictionary(Arc::clone(&own)), 10);
        cache.insert(key(1), page_of(&own), 1_000_000);
        cache.insert(key(2), page_of(&other), 1_000_000);
        assert_eq!(cache.len(), 2, "it is another one with the same values");
        drop(other);
        // Dear pages that nothing would evict, and dictionaries that go.
        for leaf in 1..200 {
            let own = dictionary(20_000);
            let at = |page| Key { leaf, ..key(page) };
            cache.insert(at(DICTIONARY), Kept::Dictionary(Arc::clone(&own)), 10);
            cache.insert(at(1), page_of(&own), 1_000_000);
        }
        let kept = cache.entries.iter().filter_map(|entry| match &entry.kept {
            Kept::Page(_) => entry.kept.held_dictionary(),
            Kept::Dictionary(_) => None,
        });
        for held in kept {
            // The page and the cache.
            assert_eq!(Arc::strong_count(held), 2);
        }
        assert_eq!(Arc::strong_count(&own), 1, "it went, and its page with it");
        let kept: usize = cache.entries.iter().map(|entry| entry.bytes).sum();
        assert_eq!(kept, cache.bytes());
    }

    fn key(page: u32) -> Key {
        Key {
            file: FileId(1),
            group: 0,
            leaf: 0,
            page,
        }
    }

    #[test]
    fn the_budget_holds_and_what_is_used_stays() {
        let mut cache = Cache::new(100_000, 7);
        for round in 0..1_000 {
            cache.insert(key(round), page(1_000), 1_000);
            assert!(cache.bytes() <= 100_000);
            cache.page(key(0));
        }
        assert!(cache.page(key(0)).is_some(), "it was used every time");
        assert!(cache.counts().evicted > 800);
        let kept: usize = cache.entries.iter().map(|entry| entry.bytes).sum();
        assert_eq!(kept, cache.bytes());
    }

    #[test]
    fn what_was_dear_outlives_what_was_cheap() {
        let mut cache = Cache::new(100_000, 11);
        for round in 0..20 {
            cache.insert(key(round), page(1_000), 1_000_000);
        }
        for round in 100..1_000 {
            cache.insert(key(round), page(1_000), 10);
        }
        let dear = (0..20)
            .filter(|page| cache.page(key(*page)).is_some())
            .count();
        assert!(dear >= 19, "{dear} of 20");
    }

    #[test]
    fn a_file_is_forgotten_as_a_whole_and_giants_are_not_kept() {
        let mut cache = Cache::new(100_000, 7);
        cache.insert(key(1), page(1_000), 10);
        cache.insert(key(2), page(50_000), 10);
        assert_eq!(cache.len(), 1);
        cache.forget(FileId(1));
        assert_eq!((cache.len(), cache.bytes()), (0, 0));
    }

    #[test]
    fn a_file_of_many_entries_goes_as_others_come() {
        let mut cache = Cache::new(1 << 30, 7);
        let many = 10 * SWEPT_AT_A_TIME as u32;
        for number in 0..many {
            let file = FileId(u64::from(number % 2));
            let key = Key {
                file,
                ..key(number)
            };
            cache.insert(key, page(100), 10);
        }
        cache.forget(FileId(1));
        let other = Key {
            file: FileId(2),
            ..key(0)
        };
        for number in 0..20 {
            cache.insert(
                Key {
                    page: number,
                    ..other
                },
                page(100),
                10,
            );
        }
        assert_eq!(cache.len() as u32, many / 2 + 20);
        assert!(
            cache
                .entries
                .iter()
                .all(|entry| entry.key.file != FileId(1))
        );
        assert!(cache.gone.is_empty(), "the work is done");
        for (place, entry) in cache.entries.iter().enumerate() {
            assert_eq!(cache.places[&entry.key], place);
        }
    }
}

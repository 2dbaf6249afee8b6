//! The objects that look-ups know, within limits for their footers and for their key indexes.
//!
//! Of each object, one version is known. What goes for others is what was used least recently among a few that
//! are drawn: finding room takes no longer where thousands of objects are known. The invariant: the sums are
//! those of what was counted of each object; a footer that has grown since is counted when it is used next.

use std::rc::Rc;

use corelane_rpc_schema::ObjectId;

use super::known::KnownFile;
use crate::cache::hashing::IdMap;

/// Objects that are drawn to find one that has not been used for long.
const SAMPLES: usize = 8;

struct Entry {
    object: ObjectId,
    known: Rc<KnownFile>,
    used: u64,
    /// What was counted of it.
    footer_bytes: usize,
    index_bytes: usize,
}

/// See the module.
pub(super) struct KnownFiles {
    entries: Vec<Entry>,
    /// Where an object is among them, by the home half of its id.
    places: IdMap<u64, usize>,
    footer_bytes: usize,
    index_bytes: usize,
    clock: u64,
    random: u64,
}

impl KnownFiles {
    /// None yet.
    pub fn new(seed: u64) -> Self {
        KnownFiles {
            entries: Vec::new(),
            places: IdMap::default(),
            footer_bytes: 0,
            index_bytes: 0,
            clock: 0,
            random: seed | 1,
        }
    }

    /// Bytes of footers and key indexes.
    pub fn memory_bytes(&self) -> usize {
        self.footer_bytes + self.index_bytes
    }

    /// This version of an object.
    pub fn get(&mut self, object: ObjectId) -> Option<Rc<KnownFile>> {
        let place = *self.places.get(&object.home)?;
        self.clock += 1;
        let entry = &mut self.entries[place];
        if entry.object != object {
            return None;
        }
        entry.used = self.clock;
        let footer_bytes = entry.known.file.memory_bytes();
        if footer_bytes != entry.footer_bytes {
            self.footer_bytes = self.footer_bytes - entry.footer_bytes + footer_bytes;
            entry.footer_bytes = footer_bytes;
        }
        Some(Rc::clone(&entry.known))
    }

    /// Keeps a version of an object; gives what went for it: another version, and objects beyond
    /// `footer_bytes_max`.
    pub fn insert(
        &mut self,
        object: ObjectId,
        known: Rc<KnownFile>,
        footer_bytes_max: usize,
    ) -> Vec<Rc<KnownFile>> {
        let mut gone = Vec::new();
        if let Some(place) = self.places.get(&object.home) {
            gone.push(self.remove(*place));
        }
        let footer_bytes = known.file.memory_bytes();
        self.clock += 1;
        self.places.insert(object.home, self.entries.len());
        self.entries.push(Entry {
            object,
            known,
            used: self.clock,
            footer_bytes,
            index_bytes: 0,
        });
        self.footer_bytes += footer_bytes;
        self.evict(object, footer_bytes_max, &mut gone);
        gone
    }

    /// Takes out this version of an object.
    pub fn take(&mut self, object: ObjectId) -> Option<Rc<KnownFile>> {
        let place = *self.places.get(&object.home)?;
        (self.entries[place].object == object).then(|| self.remove(place))
    }

    /// What goes because footers have grown beyond `footer_bytes_max`, which `object` was the last to.
    pub fn take_surplus(
        &mut self,
        object: ObjectId,
        footer_bytes_max: usize,
    ) -> Vec<Rc<KnownFile>> {
        let mut gone = Vec::new();
        self.evict(object, footer_bytes_max, &mut gone);
        gone
    }

    fn evict(&mut self, spared: ObjectId, footer_bytes_max: usize, gone: &mut Vec<Rc<KnownFile>>) {
        while self.footer_bytes > footer_bytes_max && self.entries.len() > 1 {
            let drawn: Vec<usize> = (0..SAMPLES).map(|_| self.draw()).collect();
            let others = drawn
                .into_iter()
                .filter(|place| self.entries[*place].object != spared);
            if let Some(oldest) = others.min_by_key(|place| self.entries[*place].used) {
                gone.push(self.remove(oldest));
            }
        }
    }

    /// Makes room for a key index of `wanted` bytes of an object, for which key indexes of others go; says
    /// whether there is, which is not so for an object that is not known any more.
    pub fn make_index_room(&mut self, own: &KnownFile, wanted: usize, bytes_max: usize) -> bool {
        let Some(own) = self.place_of(own) else {
            return false;
        };
        while self.index_bytes + wanted > bytes_max {
            let Some(other) = self.indexed_beside(own) else {
                return false;
            };
            let entry = &mut self.entries[other];
            self.index_bytes -= std::mem::take(&mut entry.index_bytes);
            entry.known.drop_indexes();
        }
        self.index_bytes += wanted;
        self.entries[own].index_bytes += wanted;
        true
    }

    fn place_of(&self, known: &KnownFile) -> Option<usize> {
        let place = *self.places.get(&known.object.home)?;
        let is_own = self.entries[place].known.file.id == known.file.id;
        is_own.then_some(place)
    }

    /// An object with key indexes that is not `own`, and was not used for long.
    fn indexed_beside(&mut self, own: usize) -> Option<usize> {
        let drawn: Vec<usize> = (0..SAMPLES).map(|_| self.draw()).collect();
        let has_one = |place: &usize| *place != own && self.entries[*place].index_bytes > 0;
        let used = |place: &usize| self.entries[*place].used;
        let found = drawn.into_iter().filter(has_one).min_by_key(used);
        // Few have one: these have to be looked for.
        found.or_else(|| (0..self.entries.len()).filter(has_one).min_by_key(used))
    }

    fn remove(&mut self, place: usize) -> Rc<KnownFile> {
        let gone = self.entries.swap_remove(place);
        self.places.remove(&gone.object.home);
        if let Some(moved) = self.entries.get(place) {
            self.places.insert(moved.object.home, place);
        }
        self.footer_bytes -= gone.footer_bytes;
        self.index_bytes -= gone.index_bytes;
        gone.known
    }

    /// Any of them. Marsaglia's xorshift.
    fn draw(&mut self) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % self.entries.len() as u64) as usize
    }
}

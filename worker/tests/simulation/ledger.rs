//! What must still be so after a restart: what was loaded, freed and pinned.
//!
//! Everything here was answered as done, so it is durable. What was asked for again since, or was
//! under way when the worker ended, is taken off: nothing is said about it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use corelane_io::Nanos;
use corelane_rpc_schema::ObjectId;
use corelane_worker::object::ObjectMeta;
use corelane_worker::shard::request::Cached;

use crate::origin::Origin;

/// What the devices hold of each object.
pub type Holdings = BTreeMap<ObjectId, (Arc<ObjectMeta>, Cached)>;

/// The ledger.
#[derive(Default)]
pub struct Ledger {
    touched_at: RefCell<BTreeMap<ObjectId, Nanos>>,
    freed_at: RefCell<BTreeMap<ObjectId, Nanos>>,
    loaded: RefCell<BTreeMap<ObjectId, Arc<ObjectMeta>>>,
    pinned: RefCell<BTreeSet<ObjectId>>,
    /// Loaded whole while they were pinned, and neither freed nor unpinned since.
    pinned_whole: RefCell<BTreeMap<ObjectId, Arc<ObjectMeta>>>,
    at_rest: RefCell<Option<Holdings>>,
}

impl Ledger {
    /// A request that may bring blocks of an object in is sent, or was answered.
    pub fn touch(&self, object: ObjectId, now: Nanos) {
        self.touched_at.borrow_mut().insert(object, now);
    }

    /// An object was asked to be freed at `asked_at`, and was.
    pub fn freed(&self, object: ObjectId, asked_at: Nanos) {
        self.freed_at.borrow_mut().insert(object, asked_at);
    }

    /// A free is about to be sent.
    pub fn about_to_free(&self, object: ObjectId) {
        self.loaded.borrow_mut().remove(&object);
        self.about_to_unpin(object);
    }

    /// All blocks of an object were brought onto the devices.
    pub fn loaded(&self, meta: &Arc<ObjectMeta>) {
        self.loaded.borrow_mut().insert(meta.id, Arc::clone(meta));
        if self.pinned.borrow().contains(&meta.id) {
            let mut whole = self.pinned_whole.borrow_mut();
            whole.insert(meta.id, Arc::clone(meta));
        }
    }

    /// Whether all blocks of an object were brought onto the devices and not freed since.
    pub fn is_loaded(&self, object: ObjectId) -> bool {
        self.loaded.borrow().contains_key(&object)
    }

    /// A pin was answered.
    pub fn pinned(&self, object: ObjectId) {
        self.pinned.borrow_mut().insert(object);
    }

    /// An unpin is about to be sent.
    pub fn about_to_unpin(&self, object: ObjectId) {
        self.pinned.borrow_mut().remove(&object);
        self.pinned_whole.borrow_mut().remove(&object);
    }

    /// How many objects must be held whole because they are pinned.
    pub fn pinned_whole(&self) -> usize {
        self.pinned_whole.borrow().len()
    }

    /// The worker ended with everything flushed, holding this; `None`: in the middle of things.
    pub fn set_at_rest(&self, holdings: Option<Holdings>) {
        *self.at_rest.borrow_mut() = holdings;
    }

    /// Forgets what devices that fail need not keep.
    pub fn forget_all(&self) {
        self.freed_at.borrow_mut().clear();
        self.loaded.borrow_mut().clear();
        self.pinned.borrow_mut().clear();
        self.pinned_whole.borrow_mut().clear();
        self.at_rest.borrow_mut().take();
    }

    /// Compares with what came back, before anything was asked of the worker. `evicted` blocks may
    /// have left meanwhile. With `is_roomy`, nothing ever leaves by itself.
    pub fn check(&self, found: &Holdings, origin: &Origin, evicted: u64, is_roomy: bool) {
        let blocks = |object: &ObjectId| found.get(object).map_or(0, |(_, cached)| cached.blocks);
        for (object, freed_at) in self.freed_at.borrow().iter() {
            let is_later = |at: Option<Nanos>| at.is_some_and(|at| at >= *freed_at);
            let was_wanted_again = is_later(self.touched_at.borrow().get(object).copied())
                || is_later(origin.fetched_at(*object));
            assert!(
                was_wanted_again || blocks(object) == 0,
                "{object} was freed at {freed_at:?} and came back with {} blocks",
                blocks(object)
            );
        }
        for object in self.pinned.borrow().iter() {
            if let Some((_, cached)) = found.get(object) {
                assert!(
                    cached.blocks == 0 || cached.pinned,
                    "{object} lost its pin: {cached:?}"
                );
            }
        }
        for (object, meta) in self.pinned_whole.borrow().iter() {
            let cached = found.get(object).map(|(_, cached)| cached);
            assert!(
                cached.is_some_and(|cached| {
                    cached.pinned && cached.blocks == u64::from(meta.blocks())
                }) || meta.blocks() == 0,
                "{object} was loaded while it was pinned, and this came back: {cached:?}"
            );
        }
        if is_roomy {
            for (object, meta) in self.loaded.borrow().iter() {
                assert_eq!(
                    blocks(object),
                    u64::from(meta.blocks()),
                    "{object} was loaded and did not come back whole"
                );
            }
        }
        if let Some(at_rest) = self.at_rest.borrow().as_ref() {
            let missing: u64 = at_rest
                .iter()
                .map(|(object, (_, before))| before.blocks.saturating_sub(blocks(object)))
                .sum();
            let lost: Vec<_> = at_rest
                .iter()
                .filter(|(object, (_, before))| before.blocks > blocks(object))
                .map(|(object, (meta, before))| (&meta.uri, before, found.get(object)))
                .collect();
            assert!(
                missing <= evicted,
                "{missing} blocks that were on the devices did not come back, {evicted} were evicted: {lost:?}"
            );
            // More may come back: what reclaim was letting go of when a kill came is still there.
        }
    }
}

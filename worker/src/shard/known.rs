//! An object that a shard knows, and the memory that it takes.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;

use crate::mount::MountId;
use crate::object::ObjectMeta;

/// Bytes of memory that are planned for each object that a shard remembers. Most take less; where names and headers
/// are longer, fewer are remembered.
pub const OBJECT_BYTES: usize = 1024;

/// Bytes of memory of a remembered object beside its texts: itself and its metadata, its places in the three maps
/// and their queues while they grow, and what the allocator needs for each text.
const OBJECT_OVERHEAD_BYTES: usize = 544;

/// Bytes of answer lines beside the texts of an object that stand in them: names of headers, a date, a range.
const ANSWER_LINES_BYTES: usize = 256;

/// An object that a shard knows by id, and the mount below which it appears.
#[derive(Debug)]
pub struct Known {
    /// What is known of it.
    pub meta: Arc<ObjectMeta>,
    /// Changes when mounts do.
    pub mount: Cell<MountId>,
    /// False once it was forgotten: what is kept of it elsewhere hears of no change any more.
    pub is_remembered: Cell<bool>,
    /// What every answer of the S3 face says of it, written at the first one.
    pub answer_lines: OnceCell<Box<[u8]>>,
    /// In how many maps it is.
    places: Cell<u8>,
}

impl Known {
    pub(super) fn new(meta: Arc<ObjectMeta>, mount: MountId) -> Self {
        Known {
            meta,
            mount: Cell::new(mount),
            is_remembered: Cell::new(true),
            answer_lines: OnceCell::new(),
            places: Cell::new(0),
        }
    }

    /// Most bytes of memory that it takes: answer lines are counted before they are written, so that a hit counts
    /// nothing.
    pub(super) fn memory_bytes(&self) -> usize {
        let meta = &*self.meta;
        let texts = [&meta.path_key, &meta.uri, &meta.version, &meta.content_type];
        let texts: usize = texts.iter().map(|text| text.capacity()).sum();
        // A line feed becomes two characters, and a colon is followed by a space.
        let headers = meta.headers.len() + 2 * meta.headers.bytes().filter(|b| *b == b'\n').count();
        let lines = ANSWER_LINES_BYTES + meta.version.len() + meta.content_type.len() + headers;
        OBJECT_OVERHEAD_BYTES + texts + meta.headers.capacity() + lines
    }
}

/// Bytes of memory of all that is remembered; an object counts once, in however many maps it is.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub bytes: usize,
}

impl Tally {
    pub fn enter(&mut self, known: &Known) {
        let places = known.places.get();
        if places == 0 {
            self.bytes += known.memory_bytes();
        }
        known.places.set(places + 1);
    }

    pub fn leave(&mut self, known: &Known) {
        let places = known.places.get() - 1;
        if places == 0 {
            self.bytes -= known.memory_bytes();
        }
        known.places.set(places);
    }
}

//! Bytes that were written a moment ago, until the cache has them.
//!
//! What the S3 face wrote is read soon, more often than not. Its bytes are kept while the shards take
//! them in, so that they need not come back from the origin. The invariant: bytes are handed out for
//! exactly the version that the origin confirmed for them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};

use super::fill::Fill;
use super::limits::lock;
use super::retry::Failure;
use crate::object::ObjectMeta;

/// Longest object that is kept: clients write longer ones in parts, and those are fetched when they are
/// read.
pub const OBJECT_BYTES_MAX: u64 = 8 << 20;

/// Memory for all of them together.
pub const TOTAL_BYTES_MAX: u64 = 64 << 20;

/// What an object counts for at least: its entry, its name, and the memory that its pieces round up to.
const OBJECT_BYTES_MIN: u64 = 4 << 10;

/// Bytes of a buffer that a body is copied into; the last one of a body is as long as its rest.
const BUFFER_BYTES: u64 = 256 << 10;

/// Path key, and ETag without its quotes.
type Version = (String, String);

#[derive(Debug, Default)]
struct State {
    bytes: u64,
    objects: HashMap<Version, Arc<[Bytes]>>,
}

/// The bytes of all such objects, shared by clones.
#[derive(Clone, Debug, Default)]
pub(crate) struct JustWritten(Arc<Mutex<State>>);

/// The bytes of a body, kept while it is written. They count until this is dropped.
///
/// They are copied: a piece may be a few bytes of a long buffer, or one of a million, and what counts is
/// the length of the body.
#[derive(Debug)]
pub struct Keeping {
    all: JustWritten,
    length: u64,
    /// Full buffers.
    pieces: Vec<Bytes>,
    /// The buffer that is being filled.
    filling: BytesMut,
    /// Of the body, to be pushed yet.
    left: u64,
    /// More was pushed than the body has.
    is_too_long: bool,
}

/// A version whose bytes are handed out until this is dropped.
#[derive(Debug)]
pub struct Kept {
    version: Version,
    pieces: Arc<[Bytes]>,
    /// Gives the memory back.
    keeping: Keeping,
}

fn counted(length: u64) -> u64 {
    length.max(OBJECT_BYTES_MIN)
}

impl JustWritten {
    /// Room for a body of `length` bytes, if there is any. There is nothing to keep of an empty one.
    pub fn keep(&self, length: u64) -> Option<Keeping> {
        // The length is what a client announces: nothing is added to it before it is known to be small.
        if length == 0 || length > OBJECT_BYTES_MAX {
            return None;
        }
        let mut state = lock(&self.0);
        if state.bytes + counted(length) > TOTAL_BYTES_MAX {
            return None;
        }
        state.bytes += counted(length);
        Some(Keeping {
            all: self.clone(),
            length,
            pieces: Vec::new(),
            filling: BytesMut::new(),
            left: length,
            is_too_long: false,
        })
    }

    fn pieces_of(&self, object: &ObjectMeta) -> Option<Arc<[Bytes]>> {
        let state = lock(&self.0);
        if state.objects.is_empty() {
            return None;
        }
        let version = version_of(&object.path_key, &object.version);
        let pieces = state.objects.get(&version)?;
        let length: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        (length == object.length).then(|| Arc::clone(pieces))
    }

    /// Fills `fill` with bytes of `object`; false, and nothing done, if they are not here.
    ///
    /// # Errors
    /// When the fill wants bytes that the object has not.
    pub async fn fill(&self, object: &ObjectMeta, fill: &mut Fill) -> Result<bool, Failure> {
        let Some(pieces) = self.pieces_of(object) else {
            return Ok(false);
        };
        let mut start = 0;
        for piece in pieces.iter() {
            let missing = fill.missing();
            let end = start + piece.len() as u64;
            let wanted = missing.start.max(start)..missing.end.min(end);
            if !wanted.is_empty() {
                fill.push(&piece[(wanted.start - start) as usize..(wanted.end - start) as usize])
                    .await?;
            }
            start = end;
        }
        fill.confirm().await;
        Ok(true)
    }
}

/// Files have versions without quotes, and ETags that are those in quotes.
fn version_of(path_key: &str, etag: &str) -> Version {
    (path_key.to_owned(), etag.trim_matches('"').to_owned())
}

impl Keeping {
    /// Keeps the next piece of the body.
    pub fn push(&mut self, piece: &[u8]) {
        self.is_too_long |= piece.len() as u64 > self.left;
        if self.is_too_long {
            return;
        }
        let mut rest = piece;
        while !rest.is_empty() {
            if self.filling.capacity() == 0 {
                self.filling = BytesMut::with_capacity(self.left.min(BUFFER_BYTES) as usize);
            }
            // Not the capacity, which the allocator may round up.
            let room = (BUFFER_BYTES - self.filling.len() as u64).min(self.left) as usize;
            let (taken, left) = rest.split_at(rest.len().min(room));
            self.filling.extend_from_slice(taken);
            self.left -= taken.len() as u64;
            rest = left;
            if taken.len() == room {
                self.pieces.push(std::mem::take(&mut self.filling).freeze());
            }
        }
    }

    /// Memory that is held, in bytes.
    #[cfg(test)]
    fn held_bytes(&self) -> usize {
        let full: usize = self.pieces.iter().map(Bytes::len).sum();
        full + self.filling.capacity() + self.pieces.capacity() * size_of::<Bytes>()
    }

    /// Hands the bytes out from now on: the origin has written them to the object at `path_key` and
    /// calls that version `etag`. None if they are not all there.
    pub fn confirmed(mut self, path_key: &str, etag: &str) -> Option<Kept> {
        let pieces: Arc<[Bytes]> = std::mem::take(&mut self.pieces).into();
        let length: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let is_named = !etag.trim_matches('"').is_empty() && !etag.starts_with("W/");
        if length != self.length || self.is_too_long || !is_named {
            return None;
        }
        let version = version_of(path_key, etag);
        lock(&self.all.0)
            .objects
            .insert(version.clone(), Arc::clone(&pieces));
        Some(Kept {
            version,
            pieces,
            keeping: self,
        })
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        lock(&self.all.0).bytes -= counted(self.length);
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut state = lock(&self.keeping.all.0);
        // The same bytes may have been written again meanwhile, and be another's to drop.
        let is_ours = |pieces: &Arc<[Bytes]>| Arc::ptr_eq(pieces, &self.pieces);
        if state.objects.get(&self.version).is_some_and(is_ours) {
            state.objects.remove(&self.version);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelane_rpc_schema::ObjectId;

    fn object(version: &str, length: u64) -> ObjectMeta {
        ObjectMeta {
            id: ObjectId::new("file:///d/o", version, length, 65536),
            path_key: "file:///d/o".to_owned(),
            uri: "file:///d/o".to_owned(),
            version: version.to_owned(),
            length,
            last_modified_ms: 0,
            block_bytes: 65536,
            content_type: String::new(),
            headers: String::new(),
        }
    }

    fn kept(all: &JustWritten, pieces: &[&'static str], etag: &str) -> Option<Kept> {
        let length = pieces.iter().map(|piece| piece.len() as u64).sum();
        let mut keeping = all.keep(length).expect("room");
        for piece in pieces {
            keeping.push(&Bytes::from_static(piece.as_bytes()));
        }
        keeping.confirmed("file:///d/o", etag)
    }

    #[test]
    fn bytes_are_those_of_one_version_until_they_are_let_go() {
        let all = JustWritten::default();
        let first = kept(&all, &["ab", "cde"], "\"v1\"").expect("whole");
        assert!(all.pieces_of(&object("v1", 5)).is_some());
        assert!(all.pieces_of(&object("\"v1\"", 5)).is_some());
        assert!(all.pieces_of(&object("v2", 5)).is_none());
        assert!(all.pieces_of(&object("v1", 6)).is_none());
        // Written again: the first to end does not take the bytes away from the second.
        let second = kept(&all, &["abcde"], "\"v1\"").expect("whole");
        drop(first);
        assert!(all.pieces_of(&object("v1", 5)).is_some());
        drop(second);
        assert!(all.pieces_of(&object("v1", 5)).is_none());
        assert_eq!(lock(&all.0).bytes, 0);
    }

    #[test]
    fn what_is_not_whole_or_has_no_strong_name_is_not_handed_out() {
        let all = JustWritten::default();
        let mut keeping = all.keep(3).expect("room");
        keeping.push(&Bytes::from_static(b"ab"));
        assert!(keeping.confirmed("file:///d/o", "\"v\"").is_none());
        for etag in ["", "\"\"", "W/\"v\""] {
            assert!(kept(&all, &["abc"], etag).is_none(), "{etag}");
        }
        assert_eq!(lock(&all.0).bytes, 0);
    }

    #[test]
    fn pieces_of_a_byte_take_the_memory_of_the_body_and_keep_no_buffer_of_theirs() {
        let all = JustWritten::default();
        let length = (1 << 20) + 77;
        let mut keeping = all.keep(length).expect("room");
        let whole: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        for byte in &whole {
            // A byte of a wire buffer, which goes when nobody holds a slice of it.
            let wire = Bytes::from(vec![*byte; 64]);
            keeping.push(&wire.slice(7..8));
            assert!(wire.is_unique());
            assert!(keeping.held_bytes() as u64 <= length + 4096);
        }
        let kept = keeping.confirmed("file:///d/o", "\"v\"").expect("whole");
        assert_eq!(kept.pieces.concat(), whole);
        assert_eq!(kept.pieces.len() as u64, length.div_ceil(BUFFER_BYTES));
    }

    #[test]
    fn a_body_that_sends_nothing_holds_nothing_and_one_that_sends_too_much_no_more() {
        let all = JustWritten::default();
        let mut keeping = all.keep(OBJECT_BYTES_MAX).expect("room");
        assert_eq!(keeping.held_bytes(), 0);
        keeping.push(&[1]);
        assert!(keeping.held_bytes() as u64 <= BUFFER_BYTES + 4096);
        let mut keeping = all.keep(10).expect("room");
        keeping.push(&[1; 10]);
        keeping.push(&[1; 1000]);
        assert!(keeping.held_bytes() <= 4096);
        assert!(keeping.confirmed("file:///d/o", "\"v\"").is_none());
    }

    #[test]
    fn memory_is_bounded() {
        let all = JustWritten::default();
        assert!(all.keep(0).is_none());
        assert!(all.keep(OBJECT_BYTES_MAX + 1).is_none());
        let held = all.keep(1).expect("room");
        assert!(all.keep(u64::MAX).is_none(), "beside another one, too");
        drop(held);
        let many: Vec<Keeping> = std::iter::from_fn(|| all.keep(OBJECT_BYTES_MAX)).collect();
        assert_eq!(many.len() as u64, TOTAL_BYTES_MAX / OBJECT_BYTES_MAX);
        drop(many);
        let small: Vec<Keeping> = std::iter::from_fn(|| all.keep(1)).collect();
        assert_eq!(small.len() as u64, TOTAL_BYTES_MAX / OBJECT_BYTES_MIN);
    }
}

//! What a stream sends: heads written into a reusable arena, and payloads that stay where they are.

use crate::buffer::{FrameSlice, RemoteFrame};

/// Memory that is sent without being copied into a message.
#[derive(Debug)]
pub enum Payload {
    /// Bytes of a frame of this core.
    Frame(FrameSlice),
    /// Bytes of a frame of another core; dropping gives the pin back to it.
    Remote(RemoteFrame),
    /// Bytes that live as long as the program (padding, constants).
    Static(&'static [u8]),
}

impl Payload {
    /// The bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Payload::Frame(slice) => slice.bytes(),
            Payload::Remote(remote) => remote.bytes(),
            Payload::Static(bytes) => bytes,
        }
    }

    /// Number of bytes.
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Payload::Frame(slice) => slice.len(),
            Payload::Remote(remote) => remote.bytes().len(),
            Payload::Static(bytes) => bytes.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Room for heads that a cleared batch keeps: a full lane of usual answers. Long error messages
/// make it grow beyond; thousands of connections must not each keep their largest burst.
const HEADS_KEPT_MAX: usize = 32 << 10;

/// A payload, and the heads that leave before it.
#[derive(Debug)]
struct Part {
    heads_start: u32,
    heads_end: u32,
    payload: Payload,
}

/// Heads and payloads in the order in which they leave.
///
/// Made once a connection and reused: after the first few rounds nothing in it allocates.
/// Pointers into the arena are only taken by [`SendBatch::fill_iovecs`], after the last push.
#[derive(Debug, Default)]
pub struct SendBatch {
    heads: Vec<u8>,
    parts: Vec<Part>,
    /// Where the heads start that no payload follows yet.
    heads_start: u32,
    payload_bytes: usize,
}

impl SendBatch {
    /// An empty batch with room for `heads` head bytes and `payloads` payloads.
    pub fn with_capacity(heads: usize, payloads: usize) -> Self {
        SendBatch {
            heads: Vec::with_capacity(heads),
            parts: Vec::with_capacity(payloads),
            heads_start: 0,
            payload_bytes: 0,
        }
    }

    /// Appends a copy of `bytes` (a frame's prefix and header: tens of bytes).
    #[inline]
    pub fn push_head(&mut self, bytes: &[u8]) {
        self.heads.extend_from_slice(bytes);
    }

    /// Appends what `write` appends to the arena. It must only append.
    #[inline]
    pub fn push_head_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.heads.len();
        write(&mut self.heads);
        assert!(self.heads.len() >= start, "the writer may only append");
    }

    /// Appends a payload, held until [`SendBatch::clear`].
    #[inline]
    pub fn push_payload(&mut self, payload: Payload) {
        self.payload_bytes += payload.len();
        let heads_end = self.heads.len() as u32;
        self.parts.push(Part {
            heads_start: self.heads_start,
            heads_end,
            payload,
        });
        self.heads_start = heads_end;
    }

    /// Total bytes to send.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.heads.len() + self.payload_bytes
    }

    /// Number of parts, each at most one iovec. Heads and payloads alternate, heads first and last;
    /// where nothing stands between two payloads, or before or behind them, a part is empty.
    #[inline]
    pub fn parts(&self) -> usize {
        2 * self.parts.len() + 1
    }

    /// Whether there is nothing to send.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// Lets go of everything and keeps the usual capacity.
    pub fn clear(&mut self) {
        self.heads.clear();
        self.heads.shrink_to(HEADS_KEPT_MAX);
        self.parts.clear();
        self.heads_start = 0;
        self.payload_bytes = 0;
    }

    /// The bytes of part `index`.
    ///
    /// # Panics
    /// If `index` is not below [`SendBatch::parts`].
    // Only the simulator comes this way; apart from it, so that profiles tell the two apart.
    #[inline(never)]
    pub fn part(&self, index: usize) -> &[u8] {
        match self.parts.get(index / 2) {
            Some(part) if index % 2 == 1 => part.payload.bytes(),
            Some(part) => self.heads_of(part),
            None => {
                assert!(
                    index + 1 == self.parts(),
                    "part {index} of {}",
                    self.parts()
                );
                &self.heads[self.heads_start as usize..]
            }
        }
    }

    #[inline]
    fn heads_of(&self, part: &Part) -> &[u8] {
        &self.heads[part.heads_start as usize..part.heads_end as usize]
    }

    /// Replaces `iovecs` by one entry a part that is not empty. They are valid until the batch is
    /// changed or dropped.
    pub fn fill_iovecs(&self, iovecs: &mut Vec<libc::iovec>) {
        iovecs.clear();
        let mut push = |bytes: &[u8]| {
            if !bytes.is_empty() {
                iovecs.push(libc::iovec {
                    iov_base: bytes.as_ptr().cast_mut().cast(),
                    iov_len: bytes.len(),
                });
            }
        };
        for part in &self.parts {
            push(self.heads_of(part));
            push(part.payload.bytes());
        }
        push(&self.heads[self.heads_start as usize..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_long_heads_is_not_kept() {
        let mut batch = SendBatch::with_capacity(4096, 4);
        batch.push_head(&[0; 1 << 20]);
        batch.clear();
        assert!((4096..=2 * HEADS_KEPT_MAX).contains(&batch.heads.capacity()));
    }

    #[test]
    fn adjacent_heads_leave_as_one_part_and_order_is_kept() {
        let mut batch = SendBatch::default();
        batch.push_head(b"ab");
        batch.push_head_with(|heads| heads.extend_from_slice(b"cd"));
        batch.push_payload(Payload::Static(b"payload"));
        batch.push_head(b"ef");
        assert_eq!(batch.parts(), 3);
        let all: Vec<u8> = (0..3)
            .flat_map(|index| batch.part(index).to_vec())
            .collect();
        assert_eq!(all, b"abcdpayloadef");
        assert_eq!(batch.bytes(), all.len());
        let mut iovecs = Vec::new();
        batch.fill_iovecs(&mut iovecs);
        let lengths: Vec<usize> = iovecs.iter().map(|iovec| iovec.iov_len).collect();
        assert_eq!(lengths, [4, 7, 2]);
        batch.clear();
        assert!(batch.is_empty());
    }

    #[test]
    fn payloads_without_heads_leave_no_empty_vectors() {
        let mut batch = SendBatch::default();
        batch.push_payload(Payload::Static(b"first"));
        batch.push_payload(Payload::Static(b"second"));
        let all: Vec<u8> = (0..batch.parts())
            .flat_map(|index| batch.part(index).to_vec())
            .collect();
        assert_eq!(all, b"firstsecond");
        let mut iovecs = Vec::new();
        batch.fill_iovecs(&mut iovecs);
        let lengths: Vec<usize> = iovecs.iter().map(|iovec| iovec.iov_len).collect();
        assert_eq!(lengths, [5, 6]);
    }
}

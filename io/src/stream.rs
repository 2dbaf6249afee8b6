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
    pub fn bytes(&self) -> &[u8] {
        match self {
            Payload::Frame(slice) => slice.bytes(),
            Payload::Remote(remote) => remote.bytes(),
            Payload::Static(bytes) => bytes,
        }
    }
}

/// Room for heads that a cleared batch keeps: a full lane of usual answers. Long error messages
/// make it grow beyond; thousands of connections must not each keep their largest burst.
const HEADS_KEPT_MAX: usize = 32 << 10;

#[derive(Debug)]
enum Part {
    Head { start: u32, end: u32 },
    Payload(Payload),
}

/// Heads and payloads in the order in which they leave.
///
/// Made once a connection and reused: after the first few rounds nothing in it allocates.
/// Pointers into the arena are only taken by [`SendBatch::fill_iovecs`], after the last push.
#[derive(Debug, Default)]
pub struct SendBatch {
    heads: Vec<u8>,
    parts: Vec<Part>,
    bytes: usize,
}

impl SendBatch {
    /// An empty batch with room for `heads` head bytes and `parts` parts.
    pub fn with_capacity(heads: usize, parts: usize) -> Self {
        SendBatch {
            heads: Vec::with_capacity(heads),
            parts: Vec::with_capacity(parts),
            bytes: 0,
        }
    }

    /// Appends a copy of `bytes` (a frame's prefix and header: tens of bytes).
    pub fn push_head(&mut self, bytes: &[u8]) {
        let start = self.heads.len() as u32;
        self.heads.extend_from_slice(bytes);
        self.extend_head_part(start);
    }

    /// Appends what `write` appends to the arena. It must only append.
    pub fn push_head_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.heads.len() as u32;
        write(&mut self.heads);
        assert!(
            self.heads.len() >= start as usize,
            "the writer may only append"
        );
        self.extend_head_part(start);
    }

    fn extend_head_part(&mut self, start: u32) {
        let end = self.heads.len() as u32;
        self.bytes += (end - start) as usize;
        if let Some(Part::Head { end: last_end, .. }) = self.parts.last_mut()
            && *last_end == start
        {
            *last_end = end;
            return;
        }
        self.parts.push(Part::Head { start, end });
    }

    /// Appends a payload, held until [`SendBatch::clear`].
    pub fn push_payload(&mut self, payload: Payload) {
        self.bytes += payload.bytes().len();
        self.parts.push(Part::Payload(payload));
    }

    /// Total bytes to send.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of parts, each at most one iovec.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Lets go of everything and keeps the usual capacity.
    pub fn clear(&mut self) {
        self.heads.clear();
        self.heads.shrink_to(HEADS_KEPT_MAX);
        self.parts.clear();
        self.bytes = 0;
    }

    /// The bytes of part `index`.
    ///
    /// # Panics
    /// If `index` is not below [`SendBatch::parts`].
    pub fn part(&self, index: usize) -> &[u8] {
        match &self.parts[index] {
            Part::Head { start, end } => &self.heads[*start as usize..*end as usize],
            Part::Payload(payload) => payload.bytes(),
        }
    }

    /// Replaces `iovecs` by one entry a part. They are valid until the batch is changed or dropped.
    pub fn fill_iovecs(&self, iovecs: &mut Vec<libc::iovec>) {
        iovecs.clear();
        iovecs.extend((0..self.parts.len()).map(|index| {
            let bytes = self.part(index);
            libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: bytes.len(),
            }
        }));
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
        batch.clear();
        assert!(batch.is_empty());
    }
}

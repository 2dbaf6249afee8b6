//! The header of an index: where what follows it lies, and whether it is whole.
//!
//! ```text
//!  0  magic         8 bytes  "CLKEYIDX"
//!  8  version       u16      1
//! 10  kind          u8       1: ordered, 2: hashed
//! 11  shift         u8       lowest bits of an image less `min` that are not kept, at most 63
//! 12  exact         u8       1: the bits that are not kept are zero for every key
//! 13  fence_bytes   u8       bytes of a fence, 1 to 8
//! 14  offset_bytes  u8       bytes of an offset, 1 to 8
//! 15  block_bits    u8       binary logarithm of the pairs in a block: 7
//! 16  rows          u32      rows in the file; row numbers are less
//! 20  reserved      u32      zero
//! 24  pairs         u64      pairs of key and row
//! 32  min           u64      least image
//! 40  max           u64      greatest image
//! 48  body_bytes    u64      all that follows the header
//! 56  body_crc      u32      CRC-32C of the body
//! 60  header_crc    u32      CRC-32C of bytes 0 to 60
//! 64  fences                 first key of each block, `fence_bytes` each
//!     offsets                start of each block after the offsets, `offset_bytes` each
//!     blocks                 as in `block`, without padding
//!     tail                   16 zero bytes
//! ```
//!
//! All numbers are little-endian. A key is `(image - min) >> shift`.

use super::IndexKind;
use super::bits::{TAIL_BYTES, bits_of};
use super::block::PAIRS_PER_BLOCK;
use crate::error::{LookupError, Result};

/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 64;

const MAGIC: [u8; 8] = *b"CLKEYIDX";
const VERSION: u16 = 1;
const BLOCK_BITS: u8 = PAIRS_PER_BLOCK.ilog2() as u8;

/// What a header says, apart from checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: IndexKind,
    pub(super) shift: u32,
    pub(super) exact: bool,
    pub(super) fence_bytes: usize,
    pub(super) offset_bytes: usize,
    pub(super) rows: u32,
    pub(super) pairs: u64,
    pub(super) min: u64,
    pub(super) max: u64,
}

/// The sections of a body, counted from the start of the index.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sections {
    pub(super) offsets: usize,
    pub(super) blocks: usize,
}

impl Header {
    /// Blocks of the index.
    pub(super) fn blocks(&self) -> u64 {
        self.pairs.div_ceil(PAIRS_PER_BLOCK as u64)
    }

    /// The key of an image within `min..=max`.
    #[inline]
    pub(super) fn key(&self, image: u64) -> u64 {
        (image - self.min) >> self.shift
    }

    /// The header's bytes in front of `body`.
    pub(super) fn encode(&self, body: &[u8]) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10] = match self.kind {
            IndexKind::Ordered => 1,
            IndexKind::Hashed => 2,
        };
        bytes[11] = self.shift as u8;
        bytes[12] = self.exact.into();
        bytes[13] = self.fence_bytes as u8;
        bytes[14] = self.offset_bytes as u8;
        bytes[15] = BLOCK_BITS;
        bytes[16..20].copy_from_slice(&self.rows.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.pairs.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.min.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.max.to_le_bytes());
        bytes[48..56].copy_from_slice(&(body.len() as u64).to_le_bytes());
        bytes[56..60].copy_from_slice(&crc_fast::crc32_iscsi(body).to_le_bytes());
        let crc = crc_fast::crc32_iscsi(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header at the start of `index` and where its sections lie, after both checksums.
    ///
    /// # Errors
    /// `Corrupt` where a checksum, a length or a number cannot be; `Unsupported` for a version of
    /// the format that is not known.
    pub(super) fn open(index: &[u8]) -> Result<(Header, Sections)> {
        let Some((head, body)) = index.split_first_chunk::<HEADER_BYTES>() else {
            return Err(corrupt("it is shorter than its header"));
        };
        if head[..8] != MAGIC {
            return Err(corrupt("it does not start with the magic bytes"));
        }
        if crc_fast::crc32_iscsi(&head[..60]) != u32_at(head, 60) {
            return Err(corrupt("the header does not have its checksum"));
        }
        let version = u16::from_le_bytes([head[8], head[9]]);
        if version != VERSION {
            return Err(LookupError::unsupported(format!(
                "the key index has format version {version}, and only {VERSION} is read; \
                 drop it, and it is built again"
            )));
        }
        if u64_at(head, 48) != body.len() as u64 {
            return Err(corrupt("it does not have the length that its header says"));
        }
        let (header, sections) =
            Header::parse(head, body.len()).ok_or_else(|| corrupt("its header makes no sense"))?;
        if crc_fast::crc32_iscsi(body) != u32_at(head, 56) {
            return Err(corrupt("the body does not have its checksum"));
        }
        Ok((header, sections))
    }

    /// What the header says, or `None` where it contradicts itself or the length of the body.
    fn parse(head: &[u8; HEADER_BYTES], body_bytes: usize) -> Option<(Header, Sections)> {
        let header = Header {
            kind: match head[10] {
                1 => IndexKind::Ordered,
                2 => IndexKind::Hashed,
                _ => return None,
            },
            shift: head[11].into(),
            exact: match head[12] {
                0 => false,
                1 => true,
                _ => return None,
            },
            fence_bytes: head[13].into(),
            offset_bytes: head[14].into(),
            rows: u32_at(head, 16),
            pairs: u64_at(head, 24),
            min: u64_at(head, 32),
            max: u64_at(head, 40),
        };
        let sane = header.shift < 64
            && (1..=8).contains(&header.fence_bytes)
            && (1..=8).contains(&header.offset_bytes)
            && head[15] == BLOCK_BITS
            && u32_at(head, 20) == 0
            && header.pairs <= u64::from(u32::MAX)
            && header.min <= header.max;
        if !sane {
            return None;
        }
        // At most 2^25 blocks, so nothing overflows.
        let blocks = header.blocks() as usize;
        let offsets = HEADER_BYTES + blocks * header.fence_bytes;
        let sections = Sections {
            offsets,
            blocks: offsets + blocks * header.offset_bytes,
        };
        (sections.blocks + TAIL_BYTES <= HEADER_BYTES + body_bytes).then_some((header, sections))
    }
}

/// Bytes for numbers up to `most`, at least one.
pub(super) fn bytes_for(most: u64) -> usize {
    bits_of(most).div_ceil(8).max(1) as usize
}

/// An index that cannot be believed.
#[cold]
pub(super) fn corrupt(what: &str) -> LookupError {
    LookupError::corrupt(format!(
        "the key index is corrupt: {what}; drop it, and it is built again"
    ))
}

fn u32_at(head: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

fn u64_at(head: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from(u32_at(head, at)) | u64::from(u32_at(head, at + 4)) << 32
}

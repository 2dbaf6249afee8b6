//! The records of a summary: flat rkyv archives, read in place after validation.
//!
//! A summary's body is a run of sections. Each starts with 16 bytes and is padded to 16:
//!
//! ```text
//!  0  type     u32    a new layout of a record gets a new type
//!  4  bytes    u32    of the content, padding apart; unknown types are skipped by it
//!  8  count    u32    records in the content
//! 12  reserved u32    zero
//! 16  content         an rkyv archive of the records; text and checksums are plain
//! ```
//!
//! Text stands in one section of its own; records hold offset and length. All numbers are
//! little-endian, pointers relative and 32 bits wide: the features of rkyv are fixed in the
//! workspace's Cargo.toml, and golden bytes in the tests pin every type.

use rkyv::rancor::Error as ArchiveError;
use rkyv::util::AlignedVec;
use rkyv::vec::ArchivedVec;
use rkyv::{Archive, Deserialize, Serialize};

use super::header::u32_at;

/// Bytes before the content of a section, and the alignment of both.
pub(super) const SECTION_HEADER_BYTES: usize = 16;

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Section {
    /// [`BlockRecord`]s.
    Blocks = 1,
    /// [`ObjectRecord`]s.
    Objects = 2,
    /// Bytes that object records point into.
    Text = 3,
    /// CRC-32C of each page of the extent after the summary, u32 each.
    Checksums = 4,
    /// [`MarkRecord`]s of freed objects.
    Tombstones = 5,
    /// [`MarkRecord`]s of pinned and unpinned objects.
    Pins = 6,
    /// [`HeadersRecord`]s of the objects that have headers.
    Headers = 8,
}

/// One block of an extent. 32 bytes.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
#[repr(C)]
pub(super) struct BlockRecord {
    /// Home half of the object's id.
    pub(super) home: u64,
    /// Version half of the object's id.
    pub(super) version: u64,
    /// Number of the block in the object.
    pub(super) block: u32,
    /// Bytes.
    pub(super) length: u32,
    /// First page in the region.
    pub(super) first_page: u32,
    /// The partition that it belongs to.
    pub(super) partition: u16,
    /// Binary logarithm of the bytes that a checksum covers: 12.
    pub(super) checksum_unit: u8,
    /// Bit 0 is reserved for blocks that exist nowhere else (write-back); zero.
    pub(super) flags: u8,
}

/// What is known of an object. 48 bytes and its text: path key, URI, version and content type,
/// one after the other.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
#[repr(C)]
pub(super) struct ObjectRecord {
    /// Home half of the id.
    pub(super) home: u64,
    /// Version half of the id.
    pub(super) version: u64,
    /// Bytes.
    pub(super) length: u64,
    /// Milliseconds since the Unix epoch; 0 where unknown.
    pub(super) last_modified_ms: u64,
    /// Bytes in a block.
    pub(super) block_bytes: u32,
    /// Where its text starts in the text section.
    pub(super) text_offset: u32,
    /// Bytes of the path key.
    pub(super) path_key_bytes: u16,
    /// Bytes of the URI; [`SAME_TEXT`] when it is the path key.
    pub(super) uri_bytes: u16,
    /// Bytes of the version.
    pub(super) version_bytes: u16,
    /// Bytes of the content type.
    pub(super) content_type_bytes: u16,
}

/// In place of a URI's length: the URI is the path key.
pub(super) const SAME_TEXT: u16 = u16::MAX;

/// The other headers of an object that has a record beside this one. 24 bytes and its text.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
#[repr(C)]
pub(super) struct HeadersRecord {
    /// Home half of the object's id.
    pub(super) home: u64,
    /// Version half of the object's id.
    pub(super) version: u64,
    /// Where its text starts in the text section: lines `name:value`, each ended by a line feed.
    pub(super) text_offset: u32,
    /// Bytes of the text.
    pub(super) text_bytes: u32,
}

/// An object was freed, pinned or unpinned. 32 bytes.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
#[repr(C)]
pub(super) struct MarkRecord {
    /// Home half of the object's id.
    pub(super) home: u64,
    /// Version half of the object's id.
    pub(super) version: u64,
    /// When: blocks of extents with a smaller stamp are freed by a tombstone; of several pins the
    /// largest stamp counts. It stays the same when reclaim moves the record.
    pub(super) stamp: u64,
    /// 1: pinned. 0: unpinned, or a tombstone.
    pub(super) pinned: u32,
    /// The shard that wrote it first: a tombstone frees blocks of its partitions only, because
    /// stamps of different shards of one run do not compare.
    pub(super) shard: u16,
    /// Number of shards then.
    pub(super) shards: u16,
}

const _: () = assert!(size_of::<ArchivedBlockRecord>() == 32);
const _: () = assert!(size_of::<ArchivedObjectRecord>() == 48);
const _: () = assert!(size_of::<ArchivedMarkRecord>() == 32);
const _: () = assert!(size_of::<ArchivedHeadersRecord>() == 24);

/// Upper bound of the bytes that a section of `count` records of `record_bytes` takes.
pub(super) fn section_bytes(count: usize, record_bytes: usize) -> usize {
    // The root of an archived vector is 8 bytes; both ends are padded to 16.
    if count == 0 {
        0
    } else {
        SECTION_HEADER_BYTES + (count * record_bytes + 8).next_multiple_of(16)
    }
}

/// Appends a section with plain content.
pub(super) fn push_plain(body: &mut Vec<u8>, section: Section, count: usize, content: &[u8]) {
    if content.is_empty() {
        return;
    }
    body.extend_from_slice(&(section as u32).to_le_bytes());
    body.extend_from_slice(&(content.len() as u32).to_le_bytes());
    body.extend_from_slice(&(count as u32).to_le_bytes());
    body.extend_from_slice(&[0; 4]);
    body.extend_from_slice(content);
    body.resize(body.len().next_multiple_of(SECTION_HEADER_BYTES), 0);
}

macro_rules! archived_records {
    ($record:ty, $archived:ty, $push:ident, $access:ident) => {
        /// Appends a section of records.
        pub(super) fn $push(body: &mut Vec<u8>, section: Section, records: &Vec<$record>) {
            if records.is_empty() {
                return;
            }
            let archive: AlignedVec = rkyv::to_bytes::<ArchiveError>(records)
                .expect("flat records serialize into memory");
            push_plain(body, section, records.len(), &archive);
        }

        /// The records of a section, if its content is valid.
        pub(super) fn $access(content: &[u8]) -> Option<&[$archived]> {
            rkyv::access::<ArchivedVec<$archived>, ArchiveError>(content)
                .ok()
                .map(|records| records.as_slice())
        }
    };
}

archived_records!(BlockRecord, ArchivedBlockRecord, push_blocks, access_blocks);
archived_records!(
    ObjectRecord,
    ArchivedObjectRecord,
    push_objects,
    access_objects
);
archived_records!(MarkRecord, ArchivedMarkRecord, push_marks, access_marks);
archived_records!(
    HeadersRecord,
    ArchivedHeadersRecord,
    push_headers,
    access_headers
);

/// The sections of a body: type, count and content. Ends early at one that reaches past the end.
pub(super) fn sections(body: &[u8]) -> impl Iterator<Item = (u32, u32, &[u8])> {
    let mut rest = body;
    std::iter::from_fn(move || {
        if rest.len() < SECTION_HEADER_BYTES {
            return None;
        }
        let (kind, bytes, count) = (u32_at(rest, 0), u32_at(rest, 4) as usize, u32_at(rest, 8));
        let content = rest.get(SECTION_HEADER_BYTES..)?.get(..bytes)?;
        let next = SECTION_HEADER_BYTES + bytes.next_multiple_of(SECTION_HEADER_BYTES);
        rest = rest.get(next..).unwrap_or(&[]);
        Some((kind, count, content))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A copy of `body` at an address as aligned as that of a frame.
    fn aligned(body: &[u8]) -> AlignedVec {
        let mut copy = AlignedVec::new();
        copy.extend_from_slice(body);
        copy
    }

    #[test]
    fn block_records_are_the_bytes_that_devices_hold() {
        let record = BlockRecord {
            home: 1,
            version: 2,
            block: 3,
            length: 4,
            first_page: 5,
            partition: 6,
            checksum_unit: 12,
            flags: 0,
        };
        let mut body = Vec::new();
        push_blocks(&mut body, Section::Blocks, &vec![record]);
        let mut golden = vec![1, 0, 0, 0, 40, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        golden.extend([1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend([3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 6, 0, 12, 0]);
        // The root: where the records are relative to itself, and how many.
        golden.extend([0xe0, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(body, golden);
        let body = aligned(&body);
        let (kind, count, content) = sections(&body).next().expect("one section");
        assert_eq!((kind, count), (1, 1));
        let records = access_blocks(content).expect("valid");
        assert_eq!((records[0].partition.to_native(), records.len()), (6, 1));
    }

    #[test]
    fn object_records_are_the_bytes_that_devices_hold() {
        let record = ObjectRecord {
            home: 1,
            version: 2,
            length: 3,
            last_modified_ms: 4,
            block_bytes: 5,
            text_offset: 6,
            path_key_bytes: 7,
            uri_bytes: SAME_TEXT,
            version_bytes: 9,
            content_type_bytes: 10,
        };
        let mut body = Vec::new();
        push_objects(&mut body, Section::Objects, &vec![record]);
        let mut golden = vec![2, 0, 0, 0, 56, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        golden.extend([1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend([3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend([5, 0, 0, 0, 6, 0, 0, 0, 7, 0, 0xff, 0xff, 9, 0, 10, 0]);
        golden.extend([0xd0, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(body, golden);
        assert!(access_objects(sections(&aligned(&body)).next().expect("one section").2).is_some());
    }

    #[test]
    fn mark_records_are_the_bytes_that_devices_hold() {
        let record = MarkRecord {
            home: 1,
            version: 2,
            stamp: 3,
            pinned: 1,
            shard: 4,
            shards: 5,
        };
        let mut body = Vec::new();
        push_marks(&mut body, Section::Pins, &vec![record]);
        let mut golden = vec![6, 0, 0, 0, 40, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        golden.extend([1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend([3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4, 0, 5, 0]);
        golden.extend([0xe0, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(body, golden);
        assert!(access_marks(sections(&aligned(&body)).next().expect("one section").2).is_some());
    }

    #[test]
    fn headers_records_are_the_bytes_that_devices_hold() {
        let record = HeadersRecord {
            home: 1,
            version: 2,
            text_offset: 3,
            text_bytes: 4,
        };
        let mut body = Vec::new();
        push_headers(&mut body, Section::Headers, &vec![record]);
        let mut golden = vec![8, 0, 0, 0, 32, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        golden.extend([1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend([3, 0, 0, 0, 4, 0, 0, 0]);
        golden.extend([0xe8, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
        assert_eq!(body, golden);
        assert!(access_headers(sections(&aligned(&body)).next().expect("one section").2).is_some());
    }

    #[test]
    fn unknown_sections_are_skipped_by_their_length_and_a_cut_one_ends_the_walk() {
        let mut body = Vec::new();
        push_plain(&mut body, Section::Text, 0, b"text");
        body[0] = 77;
        push_plain(&mut body, Section::Checksums, 1, &[1, 2, 3, 4]);
        let found: Vec<_> = sections(&body)
            .map(|(kind, _, content)| (kind, content.len()))
            .collect();
        assert_eq!(found, [(77, 4), (4, 4)]);
        body[36] = 200;
        assert_eq!(sections(&body).count(), 1);
    }
}

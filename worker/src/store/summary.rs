//! The summary of an extent: written in front of the pages, read by recovery, reclaim and scrub.
//!
//! A [`Draft`] gathers what an extent will hold and knows how large its summary becomes; a
//! [`Summary`] is one read back, checked as a whole (CRC) and record by record (bounds), so that
//! whoever walks it needs no check of its own.

use std::sync::Arc;

use corelane_io::PAGE_SIZE;
use corelane_rpc_schema::{BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, BlockId, ObjectId};

use super::header::{HEADER_BYTES, Header, HeaderError, Kind};
use super::record::{
    ArchivedBlockRecord, ArchivedHeadersRecord, ArchivedMarkRecord, ArchivedObjectRecord,
    BlockRecord, HeadersRecord, MarkRecord, ObjectRecord, SAME_TEXT, Section, access_blocks,
    access_headers, access_marks, access_objects, push_blocks, push_headers, push_marks,
    push_objects, push_plain, section_bytes, sections,
};
use crate::object::{HEADERS_BYTES_MAX, ObjectMeta};

/// Longest summary. Bounds the memory of open regions and of a recovery walk; an extent whose
/// summary would be longer is cut in two.
pub(super) const SUMMARY_BYTES_MAX: usize = 256 << 10;

/// Binary logarithm of the bytes that a checksum covers: a page.
const CHECKSUM_UNIT: u8 = 12;

/// What an extent will hold.
#[derive(Debug, Default)]
pub(super) struct Draft {
    blocks: Vec<BlockRecord>,
    objects: Vec<ObjectRecord>,
    headers: Vec<HeadersRecord>,
    text: Vec<u8>,
    checksums: Vec<u8>,
    tombstones: Vec<MarkRecord>,
    pins: Vec<MarkRecord>,
    data_pages: u32,
}

impl Draft {
    /// Appends a block of `length` bytes; gives its first page relative to the end of the summary.
    pub(super) fn push_block(
        &mut self,
        id: BlockId,
        length: u32,
        partition: u16,
        checksums: impl Iterator<Item = u32>,
    ) -> u32 {
        let first_page = self.data_pages;
        self.blocks.push(BlockRecord {
            home: id.object.home,
            version: id.object.version,
            block: id.index,
            length,
            first_page,
            partition,
            checksum_unit: CHECKSUM_UNIT,
            flags: 0,
        });
        self.data_pages += length.div_ceil(PAGE_SIZE as u32);
        for checksum in checksums {
            self.checksums.extend_from_slice(&checksum.to_le_bytes());
        }
        assert_eq!(
            self.checksums.len(),
            self.data_pages as usize * 4,
            "one checksum a page"
        );
        first_page
    }

    /// Appends what is known of an object.
    pub(super) fn push_object(&mut self, object: &ObjectMeta) {
        let text_offset = self.text.len() as u32;
        let same = object.uri == object.path_key;
        let uri = if same { "" } else { object.uri.as_str() };
        for text in [
            object.path_key.as_str(),
            uri,
            &object.version,
            &object.content_type,
        ] {
            self.text.extend_from_slice(text.as_bytes());
        }
        self.objects.push(ObjectRecord {
            home: object.id.home,
            version: object.id.version,
            length: object.length,
            last_modified_ms: object.last_modified_ms,
            block_bytes: object.block_bytes,
            text_offset,
            path_key_bytes: object.path_key.len() as u16,
            uri_bytes: if same {
                SAME_TEXT
            } else {
                object.uri.len() as u16
            },
            version_bytes: object.version.len() as u16,
            content_type_bytes: object.content_type.len() as u16,
        });
        if !object.headers.is_empty() {
            self.headers.push(HeadersRecord {
                home: object.id.home,
                version: object.id.version,
                text_offset: self.text.len() as u32,
                text_bytes: object.headers.len() as u32,
            });
            self.text.extend_from_slice(object.headers.as_bytes());
        }
    }

    /// Whether the text of `object` fits the fields of a record.
    pub(super) fn can_hold(object: &ObjectMeta) -> bool {
        [
            &object.path_key,
            &object.uri,
            &object.version,
            &object.content_type,
        ]
        .iter()
        .all(|text| text.len() < usize::from(SAME_TEXT))
            && object.headers.len() <= HEADERS_BYTES_MAX
    }

    /// Appends a tombstone.
    pub(super) fn push_tombstone(&mut self, object: ObjectId, stamp: u64, writer: Writer) {
        self.tombstones
            .push(mark_record(object, stamp, false, writer));
    }

    /// Appends a pin or its end.
    pub(super) fn push_pin(&mut self, object: ObjectId, stamp: u64, pinned: bool, writer: Writer) {
        self.pins.push(mark_record(object, stamp, pinned, writer));
    }

    /// Whether nothing was pushed.
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
            && self.objects.is_empty()
            && self.tombstones.is_empty()
            && self.pins.is_empty()
    }

    /// Pages of blocks.
    pub(super) fn data_pages(&self) -> u32 {
        self.data_pages
    }

    /// An upper bound of the summary's bytes with one more block of `length` bytes and `text`
    /// bytes of text for an object (zero: none).
    pub(super) fn bytes_with(&self, blocks: usize, length: u32, text: usize) -> usize {
        self.bound(blocks, length, text, (0, 0))
    }

    /// The same with so many more tombstones and pins.
    pub(super) fn bytes_with_marks(&self, tombstones: usize, pins: usize) -> usize {
        self.bound(0, 0, 0, (tombstones, pins))
    }

    fn bound(
        &self,
        blocks: usize,
        length: u32,
        text: usize,
        (tombstones, pins): (usize, usize),
    ) -> usize {
        let more_checksums = length.div_ceil(PAGE_SIZE as u32) as usize * 4;
        HEADER_BYTES
            + section_bytes(self.blocks.len() + blocks, size_of::<ArchivedBlockRecord>())
            + section_bytes(
                self.objects.len() + usize::from(text > 0),
                size_of::<ArchivedObjectRecord>(),
            )
            + section_bytes(
                self.headers.len() + usize::from(text > 0),
                size_of::<ArchivedHeadersRecord>(),
            )
            + section_bytes(self.text.len() + text, 1)
            + section_bytes(self.checksums.len() + more_checksums, 1)
            + section_bytes(
                self.tombstones.len() + tombstones,
                size_of::<ArchivedMarkRecord>(),
            )
            + section_bytes(self.pins.len() + pins, size_of::<ArchivedMarkRecord>())
    }

    /// Bytes of text that a record of `object` takes; at least one.
    pub(super) fn text_bytes(object: &ObjectMeta) -> usize {
        let uri = if object.uri == object.path_key {
            0
        } else {
            object.uri.len()
        };
        let names = object.path_key.len() + uri + object.version.len();
        (names + object.content_type.len() + object.headers.len()).max(1)
    }

    /// Pages of the summary, now.
    pub(super) fn summary_pages(&self) -> u32 {
        self.bytes_with(0, 0, 0).div_ceil(PAGE_SIZE) as u32
    }

    /// The summary in whole pages, for an extent that starts at page `header.first_page`.
    /// Fields of `header` that follow from the content are set here.
    pub(super) fn encode(mut self, mut header: Header, seed: u32) -> Vec<u8> {
        let pages = self.summary_pages();
        assert!(
            pages as usize * PAGE_SIZE <= SUMMARY_BYTES_MAX,
            "a summary of {pages} pages could not be read back"
        );
        for block in &mut self.blocks {
            block.first_page += header.first_page + pages;
        }
        let mut bytes = vec![0; HEADER_BYTES];
        push_blocks(&mut bytes, Section::Blocks, &self.blocks);
        push_objects(&mut bytes, Section::Objects, &self.objects);
        push_headers(&mut bytes, Section::Headers, &self.headers);
        push_plain(&mut bytes, Section::Text, 0, &self.text);
        push_plain(
            &mut bytes,
            Section::Checksums,
            self.checksums.len() / 4,
            &self.checksums,
        );
        push_marks(&mut bytes, Section::Tombstones, &self.tombstones);
        push_marks(&mut bytes, Section::Pins, &self.pins);
        assert!(
            bytes.len() <= pages as usize * PAGE_SIZE,
            "the bound of a summary holds"
        );
        header.kind = Kind::Summary;
        header.body = (bytes.len() - HEADER_BYTES) as u32;
        header.pages = pages + self.data_pages;
        bytes.resize(pages as usize * PAGE_SIZE, 0);
        header.seal(&mut bytes, seed);
        bytes
    }
}

fn mark_record(object: ObjectId, stamp: u64, pinned: bool, writer: Writer) -> MarkRecord {
    MarkRecord {
        home: object.home,
        version: object.version,
        stamp,
        pinned: u32::from(pinned),
        shard: writer.shard,
        shards: writer.shards,
    }
}

/// A summary that was read back.
#[derive(Debug)]
pub(super) struct Summary<'a> {
    /// Its header.
    pub(super) header: Header,
    /// Pages that it takes itself.
    pub(super) summary_pages: u32,
    blocks: &'a [ArchivedBlockRecord],
    objects: &'a [ArchivedObjectRecord],
    headers: &'a [ArchivedHeadersRecord],
    text: &'a [u8],
    checksums: &'a [u8],
    tombstones: &'a [ArchivedMarkRecord],
    pins: &'a [ArchivedMarkRecord],
}

/// A block record, checked against its extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FoundBlock {
    pub(super) id: BlockId,
    pub(super) length: u32,
    pub(super) first_page: u32,
    pub(super) partition: u16,
}

/// A tombstone or a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FoundMark {
    pub(super) object: ObjectId,
    pub(super) stamp: u64,
    pub(super) pinned: bool,
    pub(super) writer: Writer,
}

/// A shard, and of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Writer {
    pub(super) shard: u16,
    pub(super) shards: u16,
}

/// Pages that the summary at the start of a page takes and that its extent takes, going by its
/// header alone, if both are plausible in a region of `region_pages`.
pub(super) fn extent_of(page: &[u8], region_pages: u32) -> Option<(Header, u32)> {
    let header = Header::decode(page)
        .ok()
        .filter(|header| header.kind == Kind::Summary)?;
    let bytes = (header.body as usize).checked_add(HEADER_BYTES)?;
    let pages = bytes.div_ceil(PAGE_SIZE) as u32;
    let end = header.first_page.checked_add(header.pages)?;
    (bytes <= SUMMARY_BYTES_MAX && pages <= header.pages && end <= region_pages)
        .then_some((header, pages))
}

impl<'a> Summary<'a> {
    /// Reads the summary at the start of `bytes`, which must be aligned to 16.
    ///
    /// # Errors
    /// When it does not check in any part: nothing of it is to be believed then.
    pub(super) fn open(bytes: &'a [u8], seed: u32, region_pages: u32) -> Result<Self, HeaderError> {
        let (header, body) = Header::open(bytes, seed)?;
        let (_, least_pages) = extent_of(bytes, region_pages).ok_or(HeaderError::Fields)?;
        let mut summary = Summary {
            header,
            summary_pages: least_pages,
            blocks: &[],
            objects: &[],
            headers: &[],
            text: &[],
            checksums: &[],
            tombstones: &[],
            pins: &[],
        };
        for (kind, _, content) in sections(body) {
            let invalid = HeaderError::Fields;
            match kind {
                _ if kind == Section::Blocks as u32 => {
                    summary.blocks = access_blocks(content).ok_or(invalid)?;
                }
                _ if kind == Section::Objects as u32 => {
                    summary.objects = access_objects(content).ok_or(invalid)?;
                }
                _ if kind == Section::Headers as u32 => {
                    summary.headers = access_headers(content).ok_or(invalid)?;
                }
                _ if kind == Section::Text as u32 => summary.text = content,
                _ if kind == Section::Checksums as u32 => summary.checksums = content,
                _ if kind == Section::Tombstones as u32 => {
                    summary.tombstones = access_marks(content).ok_or(invalid)?;
                }
                _ if kind == Section::Pins as u32 => {
                    summary.pins = access_marks(content).ok_or(invalid)?;
                }
                // Of a later writer of this format version; what it says is not for us.
                _ => {}
            }
        }
        // The writer may have rounded the summary's pages up beyond what the body needs.
        let data_pages = (summary.checksums.len() / 4) as u32;
        summary.summary_pages = header
            .pages
            .checked_sub(data_pages)
            .filter(|pages| *pages >= least_pages)
            .ok_or(HeaderError::Fields)?;
        if summary.blocks.iter().all(|block| summary.holds(block)) {
            Ok(summary)
        } else {
            Err(HeaderError::Fields)
        }
    }

    fn holds(&self, block: &ArchivedBlockRecord) -> bool {
        let first = u64::from(block.first_page.to_native());
        let pages = u64::from(block.length.to_native()).div_ceil(PAGE_SIZE as u64);
        let start = u64::from(self.header.first_page) + u64::from(self.summary_pages);
        let end = u64::from(self.header.first_page) + u64::from(self.header.pages);
        (1..=u64::from(BLOCK_BYTES_MAX)).contains(&u64::from(block.length.to_native()))
            && block.checksum_unit == CHECKSUM_UNIT
            && first >= start
            && first + pages <= end
    }

    /// The blocks of the extent.
    pub(super) fn blocks(&self) -> impl ExactSizeIterator<Item = FoundBlock> + '_ {
        self.blocks.iter().map(|block| FoundBlock {
            id: BlockId {
                object: ObjectId {
                    home: block.home.to_native(),
                    version: block.version.to_native(),
                },
                index: block.block.to_native(),
            },
            length: block.length.to_native(),
            first_page: block.first_page.to_native(),
            partition: block.partition.to_native(),
        })
    }

    /// Ids of the objects described here.
    pub(super) fn object_ids(&self) -> impl Iterator<Item = ObjectId> + '_ {
        self.objects.iter().map(id_of)
    }

    /// The objects described here, those whose text or sizes do not check left out, and those
    /// that `wanted` says no to.
    pub(super) fn objects(
        &self,
        wanted: impl Fn(ObjectId) -> bool,
    ) -> impl Iterator<Item = Arc<ObjectMeta>> {
        self.objects
            .iter()
            .filter(move |record| wanted(id_of(record)))
            .filter_map(|record| self.object(record))
    }

    fn object(&self, record: &ArchivedObjectRecord) -> Option<Arc<ObjectMeta>> {
        let mut at = record.text_offset.to_native() as usize;
        let mut take = |bytes: u16| -> Option<String> {
            let end = at.checked_add(usize::from(bytes))?;
            let text = std::str::from_utf8(self.text.get(at..end)?).ok()?;
            at = end;
            Some(text.to_owned())
        };
        let path_key = take(record.path_key_bytes.to_native())?;
        let uri = match record.uri_bytes.to_native() {
            SAME_TEXT => path_key.clone(),
            bytes => take(bytes)?,
        };
        let version = take(record.version_bytes.to_native())?;
        let content_type = take(record.content_type_bytes.to_native())?;
        let block_bytes = record.block_bytes.to_native();
        let possible = (BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&block_bytes)
            && block_bytes.is_power_of_two()
            && record.length.to_native().div_ceil(u64::from(block_bytes)) <= u64::from(u32::MAX);
        possible.then(|| {
            Arc::new(ObjectMeta {
                id: id_of(record),
                path_key,
                uri,
                version,
                length: record.length.to_native(),
                last_modified_ms: record.last_modified_ms.to_native(),
                block_bytes,
                content_type,
                headers: self.headers_of(record, at),
            })
        })
    }

    /// The headers of the object of `record`, whose text ends at `end`: theirs follows it, and their
    /// records stand in the order of the objects.
    fn headers_of(&self, record: &ArchivedObjectRecord, end: usize) -> String {
        let start = |headers: &ArchivedHeadersRecord| headers.text_offset.to_native() as usize;
        let place = self.headers.partition_point(|other| start(other) < end);
        let text = self.headers.get(place).and_then(|headers| {
            let bytes = headers.text_bytes.to_native() as usize;
            let is_of = headers.home == record.home && headers.version == record.version;
            if !is_of || bytes > HEADERS_BYTES_MAX {
                return None;
            }
            let text = self
                .text
                .get(start(headers)..start(headers).checked_add(bytes)?)?;
            std::str::from_utf8(text).ok()
        });
        text.unwrap_or_default().to_owned()
    }

    /// First page of the blocks in the region, and the CRC-32C of each page from there.
    pub(super) fn checksums(&self) -> (u32, impl ExactSizeIterator<Item = u32> + '_) {
        let first = self.header.first_page + self.summary_pages;
        let numbers = self.checksums.chunks_exact(4);
        (
            first,
            numbers.map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
        )
    }

    /// Objects freed here.
    pub(super) fn tombstones(&self) -> impl Iterator<Item = FoundMark> + '_ {
        self.tombstones.iter().map(mark_of)
    }

    /// Objects pinned or unpinned here.
    pub(super) fn pins(&self) -> impl Iterator<Item = FoundMark> + '_ {
        self.pins.iter().map(mark_of)
    }
}

fn id_of(record: &ArchivedObjectRecord) -> ObjectId {
    ObjectId {
        home: record.home.to_native(),
        version: record.version.to_native(),
    }
}

fn mark_of(record: &ArchivedMarkRecord) -> FoundMark {
    FoundMark {
        object: ObjectId {
            home: record.home.to_native(),
            version: record.version.to_native(),
        },
        stamp: record.stamp.to_native(),
        pinned: record.pinned.to_native() == 1,
        writer: Writer {
            shard: record.shard.to_native(),
            shards: record.shards.to_native(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::header::Log;
    use super::*;
    use rkyv::util::AlignedVec;

    fn object(uri: &str) -> ObjectMeta {
        ObjectMeta {
            id: ObjectId::new("key", "v", 100_000, 1 << 16),
            path_key: "key".to_owned(),
            uri: uri.to_owned(),
            version: "v".to_owned(),
            length: 100_000,
            last_modified_ms: 7,
            block_bytes: 1 << 16,
            content_type: "text/plain".to_owned(),
            headers: "x-amz-meta-a:b\n".to_owned(),
        }
    }

    fn encoded() -> AlignedVec {
        let mut draft = Draft::default();
        draft.push_block(object("key").block(0), 65_536, 3, 100..116);
        draft.push_block(object("key").block(1), 34_464, 3, 200..209);
        draft.push_object(&object("key"));
        draft.push_object(&object("s3://b/key"));
        draft.push_tombstone(
            ObjectId {
                home: 1,
                version: 2,
            },
            77,
            Writer {
                shard: 0,
                shards: 1,
            },
        );
        draft.push_pin(
            ObjectId {
                home: 3,
                version: 4,
            },
            78,
            true,
            Writer {
                shard: 0,
                shards: 1,
            },
        );
        let header = Header {
            kind: Kind::Summary,
            body: 0,
            shard: 0,
            shards: 1,
            sequence: 9,
            stamp: 80,
            region: 4,
            first_page: 10,
            pages: 0,
            log: Log::Small,
        };
        let mut bytes = AlignedVec::new();
        bytes.extend_from_slice(&draft.encode(header, 5));
        bytes
    }

    #[test]
    fn a_summary_reads_back_what_was_pushed() {
        let bytes = encoded();
        let summary = Summary::open(&bytes, 5, 256).expect("valid");
        assert_eq!((summary.summary_pages, summary.header.pages), (1, 26));
        let blocks: Vec<_> = summary.blocks().collect();
        assert_eq!(
            blocks
                .iter()
                .map(|block| block.first_page)
                .collect::<Vec<_>>(),
            [11, 27]
        );
        assert_eq!(blocks[1].length, 34_464);
        let objects: Vec<_> = summary.objects(|_| true).collect();
        assert_eq!(*objects[0], object("key"));
        assert_eq!(*objects[1], object("s3://b/key"));
        let (first, checksums) = summary.checksums();
        assert_eq!(
            (first, checksums.collect::<Vec<_>>()[16..].to_vec()),
            (11, (200..209).collect())
        );
        assert_eq!(
            summary
                .tombstones()
                .next()
                .map(|mark| (mark.object.home, mark.stamp)),
            Some((1, 77))
        );
        assert_eq!(
            summary.pins().next().map(|mark| (mark.stamp, mark.pinned)),
            Some((78, true))
        );
    }

    #[test]
    fn no_flipped_bit_is_believed() {
        let mut bytes = encoded();
        let used = HEADER_BYTES + Header::decode(&bytes).expect("a header").body as usize;
        for bit in 0..used * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Summary::open(&bytes, 5, 256).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn an_extent_that_reaches_past_its_region_is_not_believed() {
        assert!(Summary::open(&encoded(), 5, 36).is_ok());
        assert!(Summary::open(&encoded(), 5, 35).is_err());
    }
}

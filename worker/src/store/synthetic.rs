//! Devices full of records without their blocks ever having been written: for measuring recovery,
//! whose time follows from the records alone.
//!
//! Summaries and footers are those that the store writes. The pages of the blocks are left as
//! they are and described as zero, which is what a fresh sparse file holds.

use std::sync::Arc;

use corelane_io::PAGE_SIZE;
use corelane_rpc_schema::{BLOCK_BYTES_MIN, ObjectId, Stripe};

use super::config::FormatOptions;
use super::error::StoreError;
use super::format::{pages_of, superblock_for};
use super::header::{Header, Kind, Log};
use super::summary::{Draft, SUMMARY_BYTES_MAX};

pub use super::superblock::REGIONS_OFFSET;
use crate::object::ObjectMeta;

/// What the objects are below.
pub const SYNTHETIC_URI: &str = "file:///synthetic/records";

/// The id of object `number` of those that [`write_synthetic`] describes.
pub fn synthetic_object_id(number: u32) -> ObjectId {
    object(number, 0).id
}

/// What to describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyntheticRecords {
    /// Objects.
    pub objects: u32,
    /// Bytes of each, in blocks of 64 KiB.
    pub object_bytes: u64,
    /// Bytes of pages in an extent.
    pub extent_bytes: u32,
}

/// Writes superblock and records of a device of `length` bytes, as the only shard of a worker
/// would have, through `write` (offset, bytes). Gives the number of blocks described, which is
/// less than asked for when the device is full: eight regions are left free.
///
/// # Errors
/// When the options do not suit the length.
pub fn write_synthetic(
    options: FormatOptions,
    length: u64,
    records: SyntheticRecords,
    mut write: impl FnMut(u64, &[u8]),
) -> Result<u64, StoreError> {
    let superblock = superblock_for("the synthetic device", length, 0, 1, options)?;
    for (offset, page) in pages_of(&superblock) {
        write(offset, &page);
    }
    let seed = superblock.seed();
    let region_pages = superblock.region_pages();
    let zero_page = crc32c::crc32c(&[0; PAGE_SIZE]);
    let mut blocks = (0..records.objects).flat_map(|number| {
        let object = Arc::new(object(number, records.object_bytes));
        (0..object.blocks()).map(move |index| (Arc::clone(&object), index))
    });
    let (mut described, mut stamp) = (0, 0);
    let mut next = blocks.next();
    for region in 0..superblock.regions - 8 {
        let header = |kind, stamp, first_page, pages| Header {
            kind,
            body: 0,
            shard: 0,
            shards: 1,
            sequence: u64::from(region) + 1,
            stamp,
            region,
            first_page,
            pages,
            log: Log::Small,
        };
        let start = REGIONS_OFFSET + u64::from(region) * u64::from(superblock.region_bytes);
        let (mut page, mut copies) = (0, Vec::new());
        while next.is_some() {
            let mut draft = Draft::default();
            while let Some((object, index)) = &next {
                let bytes = object.block_length(*index);
                let text = Draft::text_bytes(object);
                let summary = draft.bytes_with(1, bytes, text);
                let pages = 2 * summary.div_ceil(PAGE_SIZE) as u32
                    + draft.data_pages()
                    + bytes.div_ceil(PAGE_SIZE as u32);
                let footer = (copies.len() / PAGE_SIZE) as u32 + 1;
                let is_full =
                    draft.data_pages() as usize * PAGE_SIZE >= records.extent_bytes as usize;
                if is_full || summary > SUMMARY_BYTES_MAX || page + pages + footer > region_pages {
                    break;
                }
                let stripe = Stripe::of_block(*index, object.block_bytes);
                let partition =
                    corelane_placement::partition_of(object.id.home, stripe.0, options.partitions);
                let checksums = (0..bytes.div_ceil(PAGE_SIZE as u32)).map(|_| zero_page);
                draft.push_block(object.block(*index), bytes, partition, checksums);
                if *index == 0 {
                    draft.push_object(object);
                }
                described += 1;
                next = blocks.next();
            }
            if draft.is_empty() {
                break;
            }
            stamp += 1;
            let data_pages = draft.data_pages();
            let summary = draft.encode(header(Kind::Summary, stamp, page, 0), seed);
            write(start + u64::from(page) * PAGE_SIZE as u64, &summary);
            page += (summary.len() / PAGE_SIZE) as u32 + data_pages;
            copies.extend_from_slice(&summary);
        }
        if copies.is_empty() {
            break;
        }
        let copies_pages = (copies.len() / PAGE_SIZE) as u32;
        let first = region_pages - 1 - copies_pages;
        let trailer = copies.len();
        copies.resize(trailer + PAGE_SIZE, 0);
        header(Kind::Footer, stamp, first, copies_pages).seal(&mut copies[trailer..], seed);
        write(start + u64::from(first) * PAGE_SIZE as u64, &copies);
    }
    Ok(described)
}

/// Object `number` of those that [`write_synthetic`] describes.
fn object(number: u32, length: u64) -> ObjectMeta {
    let path_key = format!("{SYNTHETIC_URI}/part-{number:08}.parquet");
    ObjectMeta {
        id: ObjectId::new(&path_key, "1", length, BLOCK_BYTES_MIN),
        uri: path_key.clone(),
        path_key,
        version: "1".to_owned(),
        length,
        last_modified_ms: 1_700_000_000_000,
        block_bytes: BLOCK_BYTES_MIN,
        content_type: String::new(),
        headers: String::new(),
    }
}

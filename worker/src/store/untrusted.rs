//! What the parsers of device bytes promise for any input at all: no panic, no place outside of
//! what was read, and nothing believed that does not check. Called by the fuzzer and by the tests
//! that replay its corpus.

use corelane_io::PAGE_SIZE;
use rkyv::util::AlignedVec;

use super::header::{HEADER_BYTES, Header, u32_at};
use super::summary::{Summary, extent_of};
use super::superblock::Superblock;

/// Pages of the region that the input is read as a part of.
const REGION_PAGES: u32 = 256;

/// Reads `input` as each thing that a device may hold, as it is and with its CRC corrected: a
/// fuzzer does not guess CRCs, and what lies behind them has to be reached.
///
/// # Panics
/// If a promise does not hold.
pub fn hold_for_device_bytes(input: &[u8]) {
    let mut bytes = AlignedVec::<16>::new();
    bytes.extend_from_slice(input);
    check(&bytes);
    if correct_checksum(&mut bytes) {
        assert!(Header::open(&bytes, 0).is_ok(), "the CRC was corrected");
        check(&bytes);
    }
}

/// Writes the CRC that the header and its body have; false when the body is longer than the input.
fn correct_checksum(bytes: &mut [u8]) -> bool {
    if bytes.len() < HEADER_BYTES || Header::decode(bytes).is_err() {
        return false;
    }
    let end = HEADER_BYTES.saturating_add(u32_at(bytes, 16) as usize);
    let Some(body) = bytes.get(HEADER_BYTES..end) else {
        return false;
    };
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..60]), body);
    bytes[60..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    true
}

fn check(bytes: &[u8]) {
    let header = Header::open(bytes, 0);
    if let Ok((header, body)) = &header {
        assert_eq!(body.len(), header.body as usize);
    }
    if let Ok(summary) = Summary::open(bytes, 0, REGION_PAGES) {
        assert!(header.is_ok() && extent_of(bytes, REGION_PAGES).is_some());
        check_summary(&summary);
    }
    if let Ok((superblock, _, _)) = Superblock::choose([bytes, bytes], "input", u64::MAX) {
        assert!(superblock.regions > 0 && superblock.region_pages() <= 1 << 16);
        assert!(superblock.ordinal < superblock.devices && superblock.partitions > 0);
    }
}

fn check_summary(summary: &Summary<'_>) {
    let header = summary.header;
    let end = header.first_page + header.pages;
    assert!(end <= REGION_PAGES);
    let (first, checksums) = summary.checksums();
    assert_eq!(
        first as usize + checksums.len(),
        end as usize,
        "one checksum for each page"
    );
    for block in summary.blocks() {
        let pages = block.length.div_ceil(PAGE_SIZE as u32);
        assert!(block.length > 0 && block.first_page >= first && block.first_page + pages <= end);
    }
    for object in summary.objects(|_| true) {
        assert!(object.block_bytes.is_power_of_two());
        assert!(object.blocks() == 0 || object.block_length(object.blocks() - 1) > 0);
    }
    for mark in summary.tombstones().chain(summary.pins()) {
        let _ = (mark.object, mark.stamp, mark.pinned, mark.writer);
    }
}

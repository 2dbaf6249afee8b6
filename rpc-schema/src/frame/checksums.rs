//! Checksums of payloads: CRC-32C (Castagnoli, as in iSCSI and RFC 3720), one for each 4 KiB page
//! or one for the whole payload. What the worker sends is what it stored when the bytes arrived.

use crate::ids::PAGE_BYTES;

/// What a checksum covers. The number is the byte on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ChecksumMode {
    /// No checksums.
    #[default]
    None = 0,
    /// One for each 4 KiB page, as stored; a last short page counts as padded with zeros.
    Pages = 1,
    /// One over the payload, computed when it was read.
    Range = 2,
}

impl ChecksumMode {
    /// Number of checksums for a payload of `payload_bytes`.
    #[inline]
    pub fn count(self, payload_bytes: u32) -> u32 {
        match self {
            ChecksumMode::None => 0,
            ChecksumMode::Pages => payload_bytes.div_ceil(PAGE_BYTES),
            ChecksumMode::Range => 1,
        }
    }
}

static ZEROS: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];

/// The checksum of `page`, padded with zeros to [`PAGE_BYTES`].
///
/// # Panics
/// If `page` is longer than a page.
#[inline]
pub fn page_checksum(page: &[u8]) -> u32 {
    if page.len() == PAGE_BYTES as usize {
        crc_fast::crc32_iscsi(page)
    } else {
        padded_checksum(page)
    }
}

#[cold]
fn padded_checksum(page: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(page), &ZEROS[page.len()..])
}

/// The checksums in a received READ answer, still in the receive buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksums<'a> {
    mode: ChecksumMode,
    // A whole number of little-endian u32.
    bytes: &'a [u8],
}

impl<'a> Checksums<'a> {
    pub(super) fn new(mode: ChecksumMode, bytes: &'a [u8]) -> Self {
        debug_assert!(bytes.len().is_multiple_of(4));
        Checksums { mode, bytes }
    }

    /// What each one covers.
    pub fn mode(&self) -> ChecksumMode {
        self.mode
    }

    /// The checksums in the order of the bytes.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u32> + 'a {
        self.bytes
            .as_chunks()
            .0
            .iter()
            .map(|bytes| u32::from_le_bytes(*bytes))
    }

    /// Number of checksums.
    pub fn len(&self) -> usize {
        self.bytes.len() / 4
    }

    /// Whether there is nothing to check against.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Compares `payload` with the checksums. Without checksums everything passes.
    pub fn verify(&self, payload: &[u8]) -> Result<(), ChecksumMismatch> {
        match self.mode {
            ChecksumMode::None => Ok(()),
            ChecksumMode::Range => self
                .iter()
                .try_for_each(|expected| compare(0, expected, crc32c::crc32c(payload))),
            ChecksumMode::Pages => {
                let pages = payload.chunks(PAGE_BYTES as usize);
                assert_eq!(
                    pages.len(),
                    self.len(),
                    "the decoder compared count and payload"
                );
                self.iter()
                    .zip(pages)
                    .enumerate()
                    .try_for_each(|(index, (expected, page))| {
                        compare(index as u32 * PAGE_BYTES, expected, page_checksum(page))
                    })
            }
        }
    }
}

fn compare(offset: u32, expected: u32, found: u32) -> Result<(), ChecksumMismatch> {
    if expected == found {
        Ok(())
    } else {
        Err(ChecksumMismatch {
            offset,
            expected,
            found,
        })
    }
}

/// A payload is not what the worker read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the bytes from offset {offset} of the payload have CRC-32C {found:#010x}, not {expected:#010x}"
)]
pub struct ChecksumMismatch {
    /// Offset in the payload of the first page that differs; 0 where one checksum covers all.
    pub offset: u32,
    /// The checksum in the answer.
    pub expected: u32,
    /// The checksum of what came.
    pub found: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_page_counts_as_padded_with_zeros() {
        let mut padded = [0; PAGE_BYTES as usize];
        padded[..3].copy_from_slice(b"abc");
        assert_eq!(page_checksum(b"abc"), page_checksum(&padded));
        assert_ne!(page_checksum(b"abc"), crc32c::crc32c(b"abc"));
        let page: Vec<u8> = (0..PAGE_BYTES).map(|byte| (byte * 31) as u8).collect();
        assert_eq!(page_checksum(&page), crc32c::crc32c(&page));
    }

    #[test]
    fn the_first_wrong_page_is_named() {
        let mut payload = vec![5; 3 * 4096 + 10];
        let checksums: Vec<u8> = payload
            .chunks(4096)
            .flat_map(|page| page_checksum(page).to_le_bytes())
            .collect();
        let checksums = Checksums::new(ChecksumMode::Pages, &checksums);
        assert_eq!(checksums.verify(&payload), Ok(()));
        payload[2 * 4096 + 1] ^= 1;
        let mismatch = checksums.verify(&payload).expect_err("a bit was flipped");
        assert_eq!(mismatch.offset, 2 * 4096);
    }
}

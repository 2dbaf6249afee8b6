//! Payloads compared with what they should be, piece by piece as they arrive.
//!
//! A target whose answers carry checksums is checked by those; any other by the page of which all
//! prepared objects consist ([`crate::ceiling::page`]).

use corelane_rpc_schema::PAGE_BYTES;

use crate::ceiling::{PAGE, page};

/// A payload that is compared with its page checksums.
#[derive(Clone, Debug, Default)]
pub struct ByChecksum {
    expected: Vec<u32>,
    index: usize,
    page_left: usize,
    payload_left: usize,
    checksum: u32,
    is_wrong: bool,
}

impl ByChecksum {
    /// Begins a payload of `payload_bytes`.
    pub fn begin(&mut self, payload_bytes: u32, expected: impl Iterator<Item = u32>) {
        self.expected.clear();
        self.expected.extend(expected);
        self.index = 0;
        self.page_left = PAGE;
        self.payload_left = payload_bytes as usize;
        self.checksum = 0;
        self.is_wrong = false;
    }

    /// Goes over the next bytes.
    pub fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let take = self.page_left.min(bytes.len());
            self.checksum = crc32c::crc32c_append(self.checksum, &bytes[..take]);
            self.page_left -= take;
            self.payload_left = self.payload_left.saturating_sub(take);
            bytes = &bytes[take..];
            if self.page_left > 0 && self.payload_left == 0 {
                // A short last page counts as padded with zeros.
                let zeros = [0; PAGE_BYTES as usize];
                self.checksum = crc32c::crc32c_append(self.checksum, &zeros[..self.page_left]);
                self.page_left = 0;
            }
            if self.page_left == 0 {
                self.is_wrong |= self.expected.get(self.index) != Some(&self.checksum);
                self.index += 1;
                self.page_left = PAGE;
                self.checksum = 0;
            }
        }
    }

    /// Whether a page was wrong, or none was there for a checksum.
    pub fn is_wrong(&self) -> bool {
        self.is_wrong || self.index != self.expected.len()
    }
}

/// A payload that is compared with copies of the page of prepared objects.
#[derive(Clone, Debug)]
pub struct ByPage {
    page: Box<[u8; PAGE]>,
    at: usize,
    is_wrong: bool,
}

impl Default for ByPage {
    fn default() -> ByPage {
        ByPage {
            page: Box::new(page()),
            at: 0,
            is_wrong: false,
        }
    }
}

impl ByPage {
    /// Begins a payload that starts on a page.
    pub fn begin(&mut self) {
        self.at = 0;
        self.is_wrong = false;
    }

    /// Goes over the next bytes.
    pub fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let take = (PAGE - self.at).min(bytes.len());
            self.is_wrong |= bytes[..take] != self.page[self.at..self.at + take];
            self.at = (self.at + take) % PAGE;
            bytes = &bytes[take..];
        }
    }

    /// Whether a byte was wrong.
    pub fn is_wrong(&self) -> bool {
        self.is_wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelane_rpc_schema::frame::page_checksum;

    #[test]
    fn a_flipped_bit_is_found_in_any_division_of_the_payload() {
        let good: Vec<u8> = page().iter().copied().cycle().take(9_000).collect();
        let checksums: Vec<u32> = good.chunks(PAGE).map(page_checksum).collect();
        for step in [1, 7, 4096, 9_000] {
            for flipped in [None, Some(0), Some(4_095), Some(8_999)] {
                let mut bytes = good.clone();
                if let Some(at) = flipped {
                    bytes[at] ^= 1;
                }
                let mut by_checksum = ByChecksum::default();
                by_checksum.begin(9_000, checksums.iter().copied());
                let mut by_page = ByPage::default();
                by_page.begin();
                for part in bytes.chunks(step) {
                    by_checksum.take(part);
                    by_page.take(part);
                }
                assert_eq!(
                    by_checksum.is_wrong(),
                    flipped.is_some(),
                    "{step} {flipped:?}"
                );
                assert_eq!(by_page.is_wrong(), flipped.is_some(), "{step} {flipped:?}");
            }
        }
    }

    #[test]
    fn a_payload_without_its_last_page_is_wrong() {
        let mut by_checksum = ByChecksum::default();
        by_checksum.begin(8_192, [page_checksum(&page()); 2].into_iter());
        by_checksum.take(&page());
        assert!(by_checksum.is_wrong());
    }
}

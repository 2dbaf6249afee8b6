//! The fixed header of everything that the store writes besides the pages of blocks.
//!
//! ```text
//!  0  magic            u64   "CORELANE"
//!  8  format version   u32
//! 12  type             u32   superblock, state, summary, footer, free, open
//! 16  body             u32   bytes after the header that the CRC covers
//! 20  shard            u16   that wrote it
//! 22  shards           u16   of the worker then
//! 24  sequence         u64   of the region (of the copy, for superblock and state)
//! 32  stamp            u64   order of a shard's extents, over all its logs
//! 40  region           u32   on this device
//! 44  first page       u32   of this summary in the region (of the footer's copies, for a footer)
//! 48  pages            u32   of the extent, summary included (of the copies, for a footer)
//! 52  log              u8    0 small, 1 main
//! 53  reserved         7 bytes, zero
//! 60  crc              u32   CRC-32C of bytes 0..60 and of the body
//! 64  body
//! ```
//!
//! All numbers are little-endian. The CRC starts from the CRC of the device's uuid, which no
//! object's author knows: a cached file that holds a forged summary does not check. Region and
//! page are in it so that a write that landed in another place does not check there either.

use corelane_io::PAGE_SIZE;

/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 64;

/// The version of the format that this code reads and writes.
pub const FORMAT_VERSION: u32 = 1;

pub(super) const MAGIC: [u8; 8] = *b"CORELANE";
const CRC_AT: usize = 60;

/// What follows the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    /// The superblock record.
    Superblock = 1,
    /// A blob of state.
    State = 2,
    /// Sections of records; the pages of the blocks come after.
    Summary = 3,
    /// Nothing: the copies of the summaries stand before it.
    Footer = 4,
    /// Nothing: the region holds nothing. In its first page, and in its last one.
    Free = 5,
    /// Nothing: the region was opened with this sequence. In its last page, until the footer is
    /// written there.
    Open = 6,
}

/// Which of the two logs of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Log {
    /// What is new.
    Small,
    /// What was asked for again.
    Main,
}

impl Log {
    /// Both.
    pub const ALL: [Log; 2] = [Log::Small, Log::Main];

    /// 0 or 1.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// The fields of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) body: u32,
    pub(super) shard: u16,
    pub(super) shards: u16,
    pub(super) sequence: u64,
    pub(super) stamp: u64,
    pub(super) region: u32,
    pub(super) first_page: u32,
    pub(super) pages: u32,
    pub(super) log: Log,
}

/// Why bytes are not what a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// Other bytes.
    Magic,
    /// Of another version, which is given.
    Version(u32),
    /// Lengths or enumerations out of bounds.
    Fields,
    /// The CRC does not match.
    Crc,
}

/// Largest sequence and stamp.
const NUMBER_MAX: u64 = u64::MAX / 2;

impl Header {
    /// Reads the fields of the header at the start of `bytes`, without the CRC.
    pub(super) fn decode(bytes: &[u8]) -> Result<Header, HeaderError> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(HeaderError::Fields)?;
        if bytes[..8] != MAGIC {
            return Err(HeaderError::Magic);
        }
        let version = u32_at(bytes, 8);
        if version != FORMAT_VERSION {
            return Err(HeaderError::Version(version));
        }
        let kind = match u32_at(bytes, 12) {
            1 => Kind::Superblock,
            2 => Kind::State,
            3 => Kind::Summary,
            4 => Kind::Footer,
            5 => Kind::Free,
            6 => Kind::Open,
            _ => return Err(HeaderError::Fields),
        };
        let log = match bytes[52] {
            0 => Log::Small,
            1 => Log::Main,
            _ => return Err(HeaderError::Fields),
        };
        let (sequence, stamp) = (u64_at(bytes, 24), u64_at(bytes, 32));
        // Numbers are counted up: larger ones leave no room for the next.
        if sequence.max(stamp) > NUMBER_MAX {
            return Err(HeaderError::Fields);
        }
        Ok(Header {
            kind,
            body: u32_at(bytes, 16),
            shard: u16_at(bytes, 20),
            shards: u16_at(bytes, 22),
            sequence,
            stamp,
            region: u32_at(bytes, 40),
            first_page: u32_at(bytes, 44),
            pages: u32_at(bytes, 48),
            log,
        })
    }

    /// Header and body at the start of `bytes`, if the CRC from `seed` matches.
    pub(super) fn open(bytes: &[u8], seed: u32) -> Result<(Header, &[u8]), HeaderError> {
        let header = Header::decode(bytes)?;
        let end = HEADER_BYTES
            .checked_add(header.body as usize)
            .ok_or(HeaderError::Fields)?;
        let body = bytes.get(HEADER_BYTES..end).ok_or(HeaderError::Fields)?;
        if crc_of(&bytes[..CRC_AT], body, seed) != u32_at(bytes, CRC_AT) {
            return Err(HeaderError::Crc);
        }
        Ok((header, body))
    }

    /// The page that says `kind` in page `page` of the region with number `region`.
    pub(super) fn region_page(
        kind: Kind,
        sequence: u64,
        region: u32,
        page: u32,
        seed: u32,
    ) -> Vec<u8> {
        let header = Header {
            kind,
            body: 0,
            shard: 0,
            shards: 0,
            sequence,
            stamp: 0,
            region,
            first_page: page,
            pages: 0,
            log: Log::Small,
        };
        let mut bytes = vec![0; PAGE_SIZE];
        header.seal(&mut bytes, seed);
        bytes
    }

    /// Writes the header before the body that `bytes` already holds after the first
    /// [`HEADER_BYTES`]; `self.body` is its length.
    ///
    /// # Panics
    /// If `bytes` is shorter than header and body.
    pub(super) fn seal(&self, bytes: &mut [u8], seed: u32) {
        let (head, body) = bytes.split_at_mut(HEADER_BYTES);
        head.fill(0);
        head[..8].copy_from_slice(&MAGIC);
        head[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        head[12..16].copy_from_slice(&(self.kind as u32).to_le_bytes());
        head[16..20].copy_from_slice(&self.body.to_le_bytes());
        head[20..22].copy_from_slice(&self.shard.to_le_bytes());
        head[22..24].copy_from_slice(&self.shards.to_le_bytes());
        head[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        head[32..40].copy_from_slice(&self.stamp.to_le_bytes());
        head[40..44].copy_from_slice(&self.region.to_le_bytes());
        head[44..48].copy_from_slice(&self.first_page.to_le_bytes());
        head[48..52].copy_from_slice(&self.pages.to_le_bytes());
        head[52] = self.log.index() as u8;
        let crc = crc_of(&head[..CRC_AT], &body[..self.body as usize], seed);
        head[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    }
}

fn crc_of(head: &[u8], body: &[u8], seed: u32) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(seed, head), body)
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            kind: Kind::Summary,
            body: 8,
            shard: 1,
            shards: 2,
            sequence: 3,
            stamp: 4,
            region: 5,
            first_page: 6,
            pages: 7,
            log: Log::Main,
        }
    }

    #[test]
    fn the_bytes_are_those_that_devices_hold() {
        let mut bytes = [0u8; 72];
        bytes[64..].copy_from_slice(b"the body");
        header().seal(&mut bytes, 9);
        let mut golden = Vec::from(*b"CORELANE");
        golden.extend([1, 0, 0, 0, 3, 0, 0, 0, 8, 0, 0, 0, 1, 0, 2, 0]);
        golden.extend([3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend([5, 0, 0, 0, 6, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[..60], golden);
        assert_eq!(
            Header::open(&bytes, 9),
            Ok((header(), b"the body".as_slice()))
        );
    }

    #[test]
    fn pages_of_free_and_open_regions_are_the_bytes_that_devices_hold() {
        for (kind, number) in [(Kind::Free, 5), (Kind::Open, 6)] {
            let page = Header::region_page(kind, 3, 4, 255, 9);
            let mut golden = Vec::from(*b"CORELANE");
            golden.extend([1, 0, 0, 0, number, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            golden.extend([3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            golden.extend([4, 0, 0, 0, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            golden.resize(60, 0);
            assert_eq!(page[..60], golden);
            assert_eq!(page.len(), PAGE_SIZE);
            assert!(Header::open(&page, 9).is_ok_and(|(header, _)| header.kind == kind));
            assert!(Header::open(&page, 8).is_err());
        }
    }

    #[test]
    fn numbers_that_leave_no_room_for_the_next_are_not_believed() {
        let most = Header {
            sequence: NUMBER_MAX,
            stamp: NUMBER_MAX,
            ..header()
        };
        let beyond = [
            Header {
                sequence: NUMBER_MAX + 1,
                ..header()
            },
            Header {
                stamp: u64::MAX,
                ..header()
            },
        ];
        let mut bytes = [0u8; 72];
        most.seal(&mut bytes, 9);
        assert!(Header::open(&bytes, 9).is_ok());
        for header in beyond {
            header.seal(&mut bytes, 9);
            assert_eq!(Header::open(&bytes, 9), Err(HeaderError::Fields));
        }
    }

    #[test]
    fn no_flipped_bit_and_no_other_seed_is_believed() {
        let mut bytes = [0u8; 72];
        header().seal(&mut bytes, 9);
        assert_eq!(Header::open(&bytes, 8), Err(HeaderError::Crc));
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::open(&bytes, 9).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for length in 0..bytes.len() {
            assert!(Header::open(&bytes[..length], 9).is_err(), "{length} bytes");
        }
    }
}

//! The superblock: what a device is, in two copies written in turn.
//!
//! ```text
//!        0  superblock, copy 0    one page
//!   64 KiB  superblock, copy 1    one page
//!  128 KiB  state, slot 0         a page of header, then up to 512 KiB, in one CRC
//!  768 KiB  state, slot 1
//!    2 MiB  region 0, region 1, …
//! ```
//!
//! The copy with the larger sequence counts. The one that is not the newest is overwritten, so a
//! torn write leaves the older one, whose only losses are a start and some written bytes not counted.

use corelane_io::PAGE_SIZE;
use rkyv::rancor::Error as ArchiveError;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

use super::STATE_BYTES_MAX;
use super::error::StoreError;
use super::header::{FORMAT_VERSION, HEADER_BYTES, Header, HeaderError, Kind, Log};

/// Where the copies are.
pub(super) const SUPERBLOCK_OFFSETS: [u64; 2] = [0, 64 << 10];

/// Where the state slots are.
pub(super) const STATE_OFFSETS: [u64; 2] = [128 << 10, 768 << 10];

/// Bytes of a state slot.
pub(super) const STATE_SLOT_BYTES: usize = STATE_BYTES_MAX + PAGE_SIZE;

/// Where the regions start.
pub const REGIONS_OFFSET: u64 = 2 << 20;

const _: () = assert!(STATE_OFFSETS[0] + STATE_SLOT_BYTES as u64 <= STATE_OFFSETS[1]);
const _: () = assert!(STATE_OFFSETS[1] + STATE_SLOT_BYTES as u64 <= REGIONS_OFFSET);

/// Fewest regions of a device: below, open and reserved regions would be more than an eighth.
pub(super) const REGIONS_MIN: u32 = 32;

/// Regions may be 1 MiB, so that a test device is small, to 256 MiB, so that a page number fits u16.
pub(super) const REGION_BYTES_MIN: u32 = 1 << 20;
/// See [`REGION_BYTES_MIN`].
pub(super) const REGION_BYTES_MAX: u32 = 256 << 20;

/// Most devices of a worker.
pub(super) const DEVICES_MAX: u16 = 64;

/// The record of a superblock. 72 bytes.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Superblock {
    /// Names the set of devices that belong together.
    pub(super) set_uuid: [u8; 16],
    /// Names this device; derived from the set's uuid and the ordinal.
    pub(super) uuid: [u8; 16],
    /// Starts of the worker since format.
    pub(super) epoch: u64,
    /// Bytes written to the device since format.
    pub(super) bytes_written: u64,
    /// Bytes in a region.
    pub(super) region_bytes: u32,
    /// Regions of the device.
    pub(super) regions: u32,
    /// Partitions of the worker.
    pub(super) partitions: u32,
    /// Which device of the set this is; partitions are dealt to devices by it.
    pub(super) ordinal: u16,
    /// Devices of the set.
    pub(super) devices: u16,
    /// Drawn at random by the worker that started last; zero: none has since format.
    pub(super) owner: u64,
}

const _: () = assert!(size_of::<ArchivedSuperblock>() == 72);

impl Superblock {
    /// What CRCs of this device start from.
    pub(super) fn seed(&self) -> u32 {
        crc32c::crc32c(&self.uuid)
    }

    /// Pages in a region.
    pub(super) fn region_pages(&self) -> u32 {
        self.region_bytes / PAGE_SIZE as u32
    }

    /// The page with copy number `sequence` of a set no device of which missed a mark.
    /// `is_marked`: see [`Superblock::encode_with`].
    pub(super) fn encode(&self, sequence: u64, is_marked: bool) -> Vec<u8> {
        self.encode_with(sequence, 0, is_marked)
    }

    /// The page with copy number `sequence`. `marks_at` is the sequence that a device of the set has at least
    /// which lacks no mark; 0: all do. It stands where other headers have their stamp.
    /// `is_marked`: the first page of every region is a summary or says that the region is free, so that any
    /// other first page is damage. It stands where other headers have their region; workers that do not
    /// write such pages write zero there.
    pub(super) fn encode_with(&self, sequence: u64, marks_at: u64, is_marked: bool) -> Vec<u8> {
        let archive: AlignedVec =
            rkyv::to_bytes::<ArchiveError>(self).expect("a flat record serializes into memory");
        let mut page = vec![0; PAGE_SIZE];
        page[HEADER_BYTES..HEADER_BYTES + archive.len()].copy_from_slice(&archive);
        let header = Header {
            stamp: marks_at,
            region: is_marked.into(),
            ..plain_header(Kind::Superblock, sequence, archive.len())
        };
        header.seal(&mut page, 0);
        page
    }

    /// The largest `marks_at` of the copies that check; aligned to 16.
    pub(super) fn marks_at(pages: [&[u8]; 2]) -> u64 {
        let valid = pages
            .into_iter()
            .filter(|page| Superblock::decode(page).is_ok());
        let stamps = valid.filter_map(|page| Header::decode(page).ok().map(|header| header.stamp));
        stamps.max().unwrap_or(0)
    }

    /// The superblock in a page and its sequence. The page must be aligned to 16.
    pub(super) fn decode(page: &[u8]) -> Result<(u64, Superblock), HeaderError> {
        let (header, body) = Header::open(page, 0)?;
        let archived = rkyv::access::<ArchivedSuperblock, ArchiveError>(body)
            .map_err(|_| HeaderError::Fields)?;
        let superblock = rkyv::deserialize::<Superblock, ArchiveError>(archived)
            .map_err(|_| HeaderError::Fields)?;
        if header.kind == Kind::Superblock && superblock.is_possible() {
            Ok((header.sequence, superblock))
        } else {
            Err(HeaderError::Fields)
        }
    }

    /// Whether the copy in `page` says that the device is marked.
    pub(super) fn is_marked(page: &[u8]) -> bool {
        Header::open(page, 0).is_ok_and(|(header, _)| header.region == 1)
    }

    /// Whether `page`, aligned to 16, is a copy of a superblock.
    pub(super) fn is_valid(page: &[u8]) -> bool {
        Superblock::decode(page).is_ok()
    }

    fn is_possible(&self) -> bool {
        (REGION_BYTES_MIN..=REGION_BYTES_MAX).contains(&self.region_bytes)
            && (self.region_bytes as usize).is_multiple_of(PAGE_SIZE)
            && self.regions >= REGIONS_MIN
            && self.partitions.is_power_of_two()
            && self.partitions <= corelane_rpc_schema::PARTITIONS_MAX
            && (1..=DEVICES_MAX).contains(&self.devices)
            && self.ordinal < self.devices
    }

    /// The superblock that counts, its sequence and which copy it is, of a device at `path` with
    /// `length` bytes and these two pages, aligned to 16.
    ///
    /// # Errors
    /// When neither copy is one of this format; says what is there and what would format it.
    pub(super) fn choose(
        pages: [&[u8]; 2],
        path: &str,
        length: u64,
    ) -> Result<(Superblock, u64, usize), StoreError> {
        let copies = pages.map(Superblock::decode);
        let newest = (0..2)
            .filter_map(|copy| {
                copies[copy]
                    .as_ref()
                    .ok()
                    .map(|found| (found.0, copy, found.1))
            })
            .max_by_key(|(sequence, _, _)| *sequence);
        let Some((sequence, copy, superblock)) = newest else {
            return Err(StoreError::NotOurs {
                device: path.to_owned(),
                found: describe(pages, &copies),
                command: format_command(path, length),
            });
        };
        let needed =
            REGIONS_OFFSET + u64::from(superblock.regions) * u64::from(superblock.region_bytes);
        if needed > length {
            return Err(StoreError::Mismatch(format!(
                "{path} has {length} bytes, but was formatted with {needed}: give it back its size, or \
                 format it anew: {}",
                format_command(path, length)
            )));
        }
        Ok((superblock, sequence, copy))
    }
}

/// The header of something that belongs to no region.
pub(super) fn plain_header(kind: Kind, sequence: u64, body: usize) -> Header {
    Header {
        kind,
        body: body as u32,
        shard: 0,
        shards: 0,
        sequence,
        stamp: 0,
        region: 0,
        first_page: 0,
        pages: 0,
        log: Log::Small,
    }
}

pub(super) fn format_command(path: &str, length: u64) -> String {
    if length == 0 {
        return format!("corelane device format {path} --size SIZE");
    }
    format!("corelane device format {path} --size {length} --force")
}

fn describe(pages: [&[u8]; 2], copies: &[Result<(u64, Superblock), HeaderError>; 2]) -> String {
    for copy in copies {
        if let Err(HeaderError::Version(version)) = copy {
            return format!(
                "it is a Corelane device of format version {version}, this worker knows {FORMAT_VERSION}"
            );
        }
    }
    if copies
        .iter()
        .any(|copy| matches!(copy, Err(HeaderError::Crc | HeaderError::Fields)))
    {
        return "it is a Corelane device, but both copies of its superblock are damaged".to_owned();
    }
    if pages.iter().all(|page| page.iter().all(|byte| *byte == 0)) {
        return "it holds no store (zeroes where the superblock would be)".to_owned();
    }
    let start: String = pages[0]
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("it holds something else (first bytes {start})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock() -> Superblock {
        Superblock {
            set_uuid: [1; 16],
            uuid: [2; 16],
            epoch: 3,
            bytes_written: 4,
            region_bytes: 1 << 20,
            regions: 32,
            partitions: 256,
            ordinal: 0,
            devices: 1,
            owner: 0,
        }
    }

    fn aligned(page: &[u8]) -> AlignedVec {
        let mut copy = AlignedVec::new();
        copy.extend_from_slice(page);
        copy
    }

    #[test]
    fn the_bytes_are_those_that_devices_hold() {
        let mut golden = vec![1u8; 16];
        golden.extend([2; 16]);
        golden.extend([3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
        golden.extend([0, 0, 16, 0, 32, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]);
        golden.extend([0; 8]);
        assert_eq!(superblock().encode(9, true)[HEADER_BYTES..][..72], golden);
    }

    #[test]
    fn a_copy_says_whether_the_device_is_marked() {
        let page = superblock().encode(9, true);
        assert_eq!(page[40..44], [1, 0, 0, 0]);
        assert!(Superblock::is_marked(&page));
        assert!(!Superblock::is_marked(&superblock().encode(9, false)));
    }

    #[test]
    fn the_newer_copy_counts_and_a_damaged_one_does_not() {
        let old = aligned(&superblock().encode(1, false));
        let mut new = aligned(
            &Superblock {
                epoch: 8,
                ..superblock()
            }
            .encode(2, true),
        );
        let length = REGIONS_OFFSET + (32 << 20);
        let chosen = Superblock::choose([&old, &new], "d", length).expect("valid");
        assert_eq!((chosen.0.epoch, chosen.1, chosen.2), (8, 2, 1));
        new[100] ^= 1;
        let chosen = Superblock::choose([&old, &new], "d", length).expect("one is valid");
        assert_eq!((chosen.0.epoch, chosen.2), (3, 0));
    }

    #[test]
    fn what_is_not_ours_is_refused_with_what_it_is_and_the_command() {
        let page = superblock().encode(1, false);
        let mut damaged = page.clone();
        damaged[70] ^= 1;
        let mut later = page.clone();
        later[8] = 2;
        let zero = vec![0; PAGE_SIZE];
        let foreign = vec![0x55; PAGE_SIZE];
        for (page, text) in [
            (damaged, "damaged"),
            (later, "format version 2"),
            (zero, "zeroes"),
            (foreign, "5555"),
        ] {
            let page = aligned(&page);
            let error = Superblock::choose([&page, &page], "/dev/x", 1 << 30)
                .expect_err(text)
                .to_string();
            assert!(error.contains(text), "{error}");
            assert!(
                error.contains("corelane device format /dev/x --size 1073741824"),
                "{error}"
            );
        }
        let page = aligned(&page);
        assert!(
            Superblock::choose([&page, &page], "d", 1 << 20).is_err(),
            "too short"
        );
    }
}

//! Looking for data on a device that is about to be formatted.
//!
//! Anything but zeroes in a place that is read counts as data, and so does a place that cannot be
//! read. Devices up to [`WHOLE_BYTES_MAX`] are read whole. Of larger ones the start and the end are
//! read, where all that libblkid knows (partition tables, RAID, LVM, file systems) has its marks, the places of backup
//! superblocks, and evenly spread samples; of files, besides, what the file system says is data.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// A device up to this size is read whole: well below a second.
const WHOLE_BYTES_MAX: u64 = 256 << 20;

/// Bytes that are read at the start and at the end. Marks are found up to 4 MiB from the start (the last
/// second header of LUKS2) and 1.6 MiB from the end (Promise RAID).
const EDGE_BYTES: u64 = 16 << 20;

/// Samples over the rest, and the bytes of each: 16 MiB in all, seconds on a disk that has to seek.
const SAMPLES: u64 = 256;
const SAMPLE_BYTES: u64 = 64 << 10;

/// Backup superblocks: btrfs at 64 MiB and 256 GiB, ext at 128 MiB, Ceph at powers of ten GiB.
const BACKUP_OFFSETS: [u64; 7] = [
    64 << 20,
    128 << 20,
    1 << 30,
    10 << 30,
    100 << 30,
    256 << 30,
    1000 << 30,
];

/// Bytes of a file's data that are read beside the samples: a file of written zeroes may be of any size.
const DATA_BYTES_MAX: u64 = 1 << 30;

/// Bytes that are read at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Marks by which what is found is named, with their offset: the usual owners of a drive.
const MARKS: [(u64, &[u8], &str); 16] = [
    (512, b"EFI PART", "a partition table (GPT)"),
    (0, b"XFSB", "an XFS file system"),
    (0, b"LUKS\xba\xbe", "an encrypted volume (LUKS)"),
    (3, b"NTFS    ", "an NTFS file system"),
    (512, b"LABELONE", "a physical volume of LVM"),
    (0, b"\xfc\x4e\x2b\xa9", "a member of a Linux RAID"),
    (4096, b"\xfc\x4e\x2b\xa9", "a member of a Linux RAID"),
    (4086, b"SWAPSPACE2", "swap space"),
    (4086, b"SWAP-SPACE", "swap space"),
    (32769, b"CD001", "an ISO 9660 file system"),
    (65600, b"_BHRfS_M", "a btrfs file system"),
    (1048, b"\xc6\x85\x73\xf6", "a bcache device"),
    (4120, b"\xc6\x85\x73\xf6", "a bcache device"),
    (0, b"bluestore block device", "a device of Ceph"),
    (1080, b"\x53\xef", "an ext file system"),
    (510, b"\x55\xaa", "a partition table (MBR)"),
];

/// Something that is not zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ForeignData {
    /// Byte on the device.
    pub(super) offset: u64,
    /// Why it could not be read, if that is so.
    pub(super) error: Option<String>,
    /// Name of its kind, where a usual mark says it.
    pub(super) kind: Option<&'static str>,
}

impl std::fmt::Display for ForeignData {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let offset = self.offset;
        match (&self.error, self.kind) {
            (Some(error), _) => write!(
                formatter,
                "what it holds at byte {offset} cannot be read ({error}) and counts as data"
            ),
            (None, Some(kind)) => write!(formatter, "it holds something else: {kind}"),
            (None, None) => write!(
                formatter,
                "it holds something else (byte {offset} is not zero)"
            ),
        }
    }
}

/// The first thing on a device of `length` bytes that is not zero, or cannot be read.
pub(super) fn find(file: &File, length: u64, is_file: bool) -> Option<ForeignData> {
    let data = is_file.then(|| data_ranges(file, length)).flatten();
    if data.as_ref().is_some_and(Vec::is_empty) {
        return None;
    }
    let places = data.unwrap_or_default().into_iter().chain(places(length));
    let mut chunk = vec![0; CHUNK_BYTES];
    let zeroes = vec![0; CHUNK_BYTES];
    for place in places {
        if let Some(mut found) = find_in(file, place, &mut chunk, &zeroes) {
            if found.error.is_none() {
                found.kind = kind_of(file);
            }
            return Some(found);
        }
    }
    None
}

/// The places that are read of a device of `length` bytes.
fn places(length: u64) -> Vec<Range<u64>> {
    if length <= WHOLE_BYTES_MAX {
        return std::iter::once(0..length).collect();
    }
    let spread = (1..SAMPLES).map(|number| {
        let offset = u128::from(length) * u128::from(number) / u128::from(SAMPLES);
        offset as u64 / SAMPLE_BYTES * SAMPLE_BYTES
    });
    let samples = BACKUP_OFFSETS
        .into_iter()
        .chain(spread)
        .filter(|offset| *offset < length)
        .map(|offset| offset..(offset + SAMPLE_BYTES).min(length));
    [0..EDGE_BYTES, length - EDGE_BYTES..length]
        .into_iter()
        .chain(samples)
        .collect()
}

/// What the file system says is data, up to [`DATA_BYTES_MAX`]; `None` where it cannot say.
fn data_ranges(file: &File, length: u64) -> Option<Vec<Range<u64>>> {
    use rustix::fs::{SeekFrom, seek};
    let (mut ranges, mut at, mut bytes) = (Vec::new(), 0, 0);
    while at < length && bytes < DATA_BYTES_MAX {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) if start < length => start,
            // Nothing but a hole is left.
            Ok(_) | Err(rustix::io::Errno::NXIO) => break,
            Err(_) => return None,
        };
        let hole = seek(file, SeekFrom::Hole(start)).ok()?;
        let end = hole.min(length).min(start + (DATA_BYTES_MAX - bytes));
        if end <= start {
            return None;
        }
        bytes += end - start;
        ranges.push(start..end);
        at = end;
    }
    Some(ranges)
}

fn find_in(file: &File, place: Range<u64>, chunk: &mut [u8], zeroes: &[u8]) -> Option<ForeignData> {
    let mut offset = place.start;
    while offset < place.end {
        let wanted = (place.end - offset).min(chunk.len() as u64) as usize;
        let failed = |error: String| {
            Some(ForeignData {
                offset,
                error: Some(error),
                kind: None,
            })
        };
        let count = match file.read_at(&mut chunk[..wanted], offset) {
            Ok(0) => return failed("the device ends before".to_owned()),
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return failed(error.to_string()),
        };
        if chunk[..count] != zeroes[..count] {
            let at = chunk[..count].iter().position(|byte| *byte != 0);
            return Some(ForeignData {
                offset: offset + at.unwrap_or_default() as u64,
                error: None,
                kind: None,
            });
        }
        offset += count as u64;
    }
    None
}

fn kind_of(file: &File) -> Option<&'static str> {
    let is_there = |offset: u64, mark: &[u8]| {
        let mut found = vec![0; mark.len()];
        file.read_exact_at(&mut found, offset).is_ok() && found == mark
    };
    MARKS
        .into_iter()
        .find(|(offset, mark, _)| is_there(*offset, mark))
        .map(|(_, _, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_in_any_place_that_libblkid_knows_counts() {
        let length = 2000 << 30;
        let from_start = [
            0,
            3,
            510,
            512,
            1024,
            1080,
            4086,
            4096,
            8192,
            16 << 10,
            32 << 10,
            64 << 10,
            65600,
            128 << 10,
            256 << 10,
            1 << 20,
            2 << 20,
            4 << 20,
        ];
        let from_end = [
            1,
            512,
            4096,
            8192,
            64 << 10,
            128 << 10,
            512 << 10,
            3087 * 512,
        ];
        let backups = [64 << 20, (128 << 20) + 1024, 1 << 30, 256 << 30];
        let offsets = from_start
            .into_iter()
            .chain(from_end.map(|before| length - before))
            .chain(backups);
        let file = tempfile::tempfile().expect("a file");
        for offset in offsets {
            let places = places(length);
            assert!(
                places.iter().any(|place| place.contains(&offset)),
                "{offset} is not looked at"
            );
        }
        for offset in [0, 4096, (40 << 20) + 7, (64 << 20) - 1] {
            file.set_len(0).expect("empty");
            file.set_len(64 << 20).expect("sparse");
            for is_file in [true, false] {
                assert_eq!(find(&file, 64 << 20, is_file), None);
            }
            file.write_all_at(&[1], offset).expect("written");
            for is_file in [true, false] {
                let found = find(&file, 64 << 20, is_file).expect("a byte");
                assert_eq!((found.offset, found.error), (offset, None));
            }
        }
    }

    #[test]
    fn any_byte_of_a_large_sparse_file_counts() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(1 << 40).expect("sparse");
        assert_eq!(find(&file, 1 << 40, true), None);
        file.write_all_at(&[1], (3 << 35) + 12_345_678)
            .expect("written");
        assert!(find(&file, 1 << 40, true).is_some());
    }

    #[test]
    fn what_cannot_be_read_counts_and_marks_are_named() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(1 << 20).expect("sparse");
        let found = find(&file, 2 << 20, false).expect("it ends early");
        assert!(found.error.is_some(), "{found}");
        file.write_all_at(b"\xfc\x4e\x2b\xa9", 4096)
            .expect("written");
        let found = find(&file, 1 << 20, true).expect("a mark");
        assert_eq!(found.kind, Some("a member of a Linux RAID"));
    }
}

//! The files that the demo caches: TPC-H tables as Parquet, and files of awkward sizes.
//!
//! The invariant: what is returned is what is in the folder, byte for byte, so that every answer
//! of the worker can be compared with it.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::tables;
use bytes::Bytes;

/// Block size of the demo's mount; the awkward sizes lie around it.
pub const BLOCK_BYTES: usize = 1 << 20;

/// One file.
#[derive(Clone)]
pub struct SourceFile {
    /// Where it is below the folder, with slashes.
    pub name: String,
    /// What is in it.
    pub bytes: Bytes,
}

/// Makes the files in `folder`, the tables at `scale`. Gives up when `stop` is set.
pub fn make(folder: &Path, scale: f64, stop: &AtomicBool) -> io::Result<Vec<SourceFile>> {
    let mut names = awkward(folder)?;
    names.extend(tables::write(folder, scale, stop)?);
    names
        .into_iter()
        .map(|name| {
            let bytes = fs::read(folder.join(&name))?.into();
            Ok(SourceFile { name, bytes })
        })
        .collect()
}

fn awkward(folder: &Path) -> io::Result<Vec<String>> {
    const PAGE_BYTES: usize = 4096;
    let sizes = [
        ("empty", 0),
        ("one-byte", 1),
        ("page-minus-1", PAGE_BYTES - 1),
        ("page", PAGE_BYTES),
        ("page-plus-1", PAGE_BYTES + 1),
        ("block-minus-1", BLOCK_BYTES - 1),
        ("block", BLOCK_BYTES),
        ("block-plus-1", BLOCK_BYTES + 1),
        ("blocks", 5 * BLOCK_BYTES + 12_345),
        // Longer than a stripe (16 MiB), so that several shards have a part of it.
        ("stripe-plus-1", 16 * BLOCK_BYTES + 1),
    ];
    fs::create_dir_all(folder.join("sizes"))?;
    sizes
        .into_iter()
        .enumerate()
        .map(|(seed, (name, length))| {
            let name = format!("sizes/{name}");
            fs::write(folder.join(&name), noise(seed as u64 + 1, length))?;
            Ok(name)
        })
        .collect()
}

/// Bytes without a pattern, so that a page in the wrong place shows.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let mut bytes = vec![0; length];
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&numbers.next().to_le_bytes()[..chunk.len()]);
    }
    bytes
}

/// A sequence of numbers that look random and are the same at each run: SplitMix64 (Steele,
/// Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub struct Numbers(u64);

impl Numbers {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Numbers(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is at least 1. The bias is far below what a demo shows.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::tables::LINEITEM;
    use parquet::file::reader::{FileReader, SerializedFileReader};

    #[test]
    fn the_folder_holds_parquet_with_rows_and_every_awkward_size() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = make(folder.path(), 0.001, &AtomicBool::new(false)).expect("files");
        for length in [
            0,
            1,
            4095,
            4096,
            4097,
            BLOCK_BYTES - 1,
            BLOCK_BYTES,
            BLOCK_BYTES + 1,
        ] {
            assert!(
                files.iter().any(|file| file.bytes.len() == length),
                "{length}"
            );
        }
        let rows: i64 = files
            .iter()
            .filter(|file| file.name.starts_with(LINEITEM))
            .map(|file| {
                let reader = SerializedFileReader::new(file.bytes.clone());
                reader
                    .expect("Parquet")
                    .metadata()
                    .file_metadata()
                    .num_rows()
            })
            .sum();
        // TPC-H fixes the rows of lineitem at each scale; 0.001 has 6005.
        assert_eq!(rows, 6005);
    }

    #[test]
    fn an_ended_demo_makes_no_more_files() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(make(folder.path(), 0.001, &AtomicBool::new(true)).is_err());
    }

    #[test]
    fn noise_differs_from_page_to_page_and_repeats_by_seed() {
        let bytes = noise(3, 8192);
        assert_ne!(bytes[..4096], bytes[4096..]);
        assert_eq!(bytes, noise(3, 8192));
    }
}

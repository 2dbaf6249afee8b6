//! The ceilings: what this machine gives to a loop that does nothing but move the bytes.
//!
//! | ceiling | loop |
//! |---|---|
//! | (a) [`device`] | random direct reads through a ring at a depth |
//! | (b) [`server`] with [`Source::Memory`] | requests answered from memory, nothing looked up |
//! | (c) [`server`] with [`Source::Device`] | the same, one device read a request, nothing checked |
//!
//! (b) and (c) speak the data plane's frames or HTTP/1.1, see [`Protocol`]. [`beside`] takes those of one
//! load in the same run.
//!
//! The invariant: a ceiling sends the bytes that the worker would send (a prebuilt head of the
//! same size and a payload that matches its checksums), so that one generator with one checksum
//! mode speaks to both.

pub mod beside;
pub(crate) mod conversation;
pub mod device;
mod http;
mod lane;
pub mod server;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use corelane_rpc_schema::PAGE_BYTES;
use corelane_rpc_schema::frame::{
    ChecksumMode, ReadAnswerHead, ReadSource, encode_read_answer_head, page_checksum,
};

use crate::memory::Memory;
use crate::random::Random;

/// The request id in prebuilt heads: the answer to whatever was asked first on the lane.
pub const OLDEST_REQUEST_ID: u64 = u64::MAX;

/// Bytes of a page.
pub const PAGE: usize = PAGE_BYTES as usize;

/// Seed of the page that fills working sets and device files.
const PAGE_SEED: u64 = 0x636f_7265_6c61_6e65;

/// Where the payloads of a bare server come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Memory of so many bytes, at pseudo-random positions.
    Memory {
        /// As large as the worker's working set, a multiple of the page.
        bytes: u64,
    },
    /// A file, at pseudo-random pages, one read a request.
    Device {
        /// The file.
        path: PathBuf,
        /// Whether it is opened O_NONBLOCK too, which keeps direct reads on tmpfs in the loop.
        nonblocking: bool,
        /// Bytes of it that are read.
        bytes: u64,
    },
}

/// What a bare server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// Frames of the data plane: hello, open, READs.
    Frames,
    /// HTTP/1.1: HEADs, then GETs.
    Http,
}

impl Protocol {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Frames => "frames",
            Protocol::Http => "http",
        }
    }
}

/// The page of random bytes that every position of a working set holds, so that one prebuilt head
/// is right for all of them.
pub fn page() -> [u8; PAGE] {
    let mut page = [0; PAGE];
    Random::new(PAGE_SEED).fill(&mut page);
    page
}

/// The head of an answer of `reply_bytes`, with the checksums of [`page`]s.
pub fn prebuilt_head(reply_bytes: u32, source: ReadSource) -> Vec<u8> {
    let head = ReadAnswerHead {
        request_id: OLDEST_REQUEST_ID,
        source,
        shard_hint: None,
    };
    let page = page();
    let checksums = (0..reply_bytes.div_ceil(PAGE_BYTES)).map(|index| {
        let length = (reply_bytes - index * PAGE_BYTES).min(PAGE_BYTES);
        page_checksum(&page[..length as usize])
    });
    let mut out = Vec::new();
    encode_read_answer_head(&mut out, &head, reply_bytes, ChecksumMode::Pages, checksums);
    out
}

/// Opens `path` for direct reads as the worker does.
///
/// # Errors
/// When it cannot be opened, or its file system has no direct I/O.
pub fn open_direct(path: &Path, nonblocking: bool) -> io::Result<File> {
    let flags = libc::O_DIRECT | if nonblocking { libc::O_NONBLOCK } else { 0 };
    let open = |flags| OpenOptions::new().read(true).custom_flags(flags).open(path);
    match open(flags | libc::O_NOATIME) {
        // Only the file's owner may leave its time of access alone.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => open(flags),
        opened => opened,
    }
}

/// Makes `path` a file of `bytes` bytes full of [`page`]s, unless it is one already.
///
/// # Errors
/// When it cannot be written.
pub fn prepare_file(path: &Path, bytes: u64) -> io::Result<()> {
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == bytes) {
        let start = bytes.saturating_sub(1) / PAGE as u64 * PAGE as u64;
        let mut last = vec![0; (bytes - start) as usize];
        File::open(path)?.read_exact_at(&mut last, start)?;
        if last == page()[..last.len()] {
            return Ok(());
        }
    }
    const CHUNK: usize = 1 << 20;
    let chunk = Memory::filled_with(&page(), CHUNK)?;
    let file = File::create(path)?;
    let mut offset = 0;
    while offset < bytes {
        let length = (bytes - offset).min(CHUNK as u64) as usize;
        file.write_all_at(&chunk.bytes()[..length], offset)?;
        offset += length as u64;
    }
    file.sync_all()?;
    // Direct reads of pages in the page cache would first have to push them out.
    // SAFETY: an advice on an open descriptor.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use corelane_rpc_schema::frame::{Decoded, Frame, decode};

    #[test]
    fn a_prebuilt_head_and_its_pages_make_a_frame_that_verifies() {
        for bytes in [4096, 5000, 1 << 20] {
            let mut frame = prebuilt_head(bytes, ReadSource::Dram);
            frame.extend(page().iter().cycle().take(bytes as usize));
            let Ok(Decoded::Frame {
                frame: Frame::ReadAnswer(answer, payload),
                consumed,
            }) = decode(&frame)
            else {
                panic!("not a READ answer");
            };
            assert_eq!(consumed, frame.len());
            assert_eq!(answer.head.request_id, OLDEST_REQUEST_ID);
            assert_eq!(answer.checksums.verify(payload), Ok(()));
        }
    }

    #[test]
    fn a_prepared_file_is_pages_to_its_end() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        prepare_file(&path, 3 << 20).expect("written");
        let bytes = std::fs::read(&path).expect("read");
        assert_eq!(bytes.len(), 3 << 20);
        assert!(bytes.chunks(PAGE).all(|chunk| chunk == page()));
        for bytes in [0, 100, 5_000] {
            for _ in 0..2 {
                prepare_file(&path, bytes).expect("written");
                let found = std::fs::read(&path).expect("read");
                assert_eq!(found.len() as u64, bytes);
                assert!(
                    found
                        .chunks(PAGE)
                        .all(|chunk| *chunk == page()[..chunk.len()])
                );
            }
        }
    }
}

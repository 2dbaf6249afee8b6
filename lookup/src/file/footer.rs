//! Footers: read with one guess at their length, checked, decoded once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::columns::{decode_all, group_starts};
use super::outline::Outline;
use super::{File, Known, shape};
use crate::error::{LookupError, Result};
use crate::host::Host;

/// Bytes that are read from the end of a file at first. Most footers are shorter, page index and all.
const GUESS_BYTES: u64 = 64 << 10;

/// Longest footer. Those of 1,000 columns and 10 row groups take 1.4 MB.
const FOOTER_BYTES_MAX: u64 = 64 << 20;

/// Length of the footer and magic, at the end of the file.
const TAIL_BYTES: u64 = 8;

/// Decoding a footer takes about so long a byte: 2.6 ms for 1.37 MB.
const DECODE_NS_PER_BYTE: u64 = 2;

/// Footers from which on columns are decoded when they are asked for. Of shorter ones, decoding all columns
/// takes a quarter of a millisecond at most, once, and no look-up after that decodes any.
const OUTLINE_BYTES_MIN: usize = 64 << 10;

/// Bytes of memory for each byte of a footer, about: 48 KB for small files of 5 KB.
pub(super) const MEMORY_PER_FOOTER_BYTE: usize = 8;

/// Reads and decodes the footer of a file of `length` bytes that is called `name` in messages.
///
/// # Errors
/// Unsupported for encrypted files; corrupt for what is no Parquet file; what reading gives.
pub async fn open(host: &impl Host, name: &str, length: u64) -> Result<File> {
    open_named(host, name, length)
        .await
        .map_err(|error| error.of_file(name, ""))
}

async fn open_named(host: &impl Host, name: &str, length: u64) -> Result<File> {
    if length < TAIL_BYTES + 4 {
        return Err(LookupError::corrupt(format!(
            "{length} bytes are no Parquet file"
        )));
    }
    let guess = GUESS_BYTES.min(length);
    let tail = read_one(host, length - guess..length).await?;
    let (_, end) = tail.split_at(tail.len() - TAIL_BYTES as usize);
    let footer_bytes = u64::from(u32::from_le_bytes(end[..4].try_into().expect("four bytes")));
    match &end[4..] {
        b"PAR1" => {}
        b"PARE" => {
            return Err(LookupError::unsupported(
                "the footer is encrypted; look-ups read files that are not",
            ));
        }
        _ => {
            return Err(LookupError::corrupt(
                "it does not end as a Parquet file does",
            ));
        }
    }
    if footer_bytes + TAIL_BYTES + 4 > length {
        return Err(LookupError::corrupt(format!(
            "a footer of {footer_bytes} bytes in a file of {length}"
        )));
    }
    if footer_bytes > FOOTER_BYTES_MAX {
        return Err(LookupError::unsupported(format!(
            "a footer of {footer_bytes} bytes; up to {FOOTER_BYTES_MAX} are read"
        )));
    }
    let footer = if footer_bytes + TAIL_BYTES <= guess {
        let start = tail.len() - (footer_bytes + TAIL_BYTES) as usize;
        tail.slice(start..start + footer_bytes as usize)
    } else {
        let end = length - TAIL_BYTES;
        read_one(host, end - footer_bytes..end).await?
    };
    let estimate = decode_estimate(footer_bytes);
    let opened = host
        .run(estimate, move || decode(&footer, length, OUTLINE_BYTES_MIN))
        .await?;
    Ok(opened.into_file(name, length))
}

/// What decoding so many bytes of a footer takes, about.
pub(super) fn decode_estimate(bytes: u64) -> Duration {
    Duration::from_nanos(bytes * DECODE_NS_PER_BYTE)
}

/// One range.
pub(crate) async fn read_one(host: &impl Host, range: std::ops::Range<u64>) -> Result<Bytes> {
    let mut read = host.read(std::slice::from_ref(&range)).await?;
    Ok(read.pop().expect("one range was asked for"))
}

/// What a [`File`] is made of, which may cross threads.
pub(super) struct Opened {
    known: Known,
    group_starts: Vec<u64>,
}

impl Opened {
    pub(super) fn into_file(self, name: &str, length: u64) -> File {
        File::new(name.to_owned(), length, self.known, self.group_starts)
    }
}

/// Decodes a footer, or finds its parts if it is one of `outline_bytes_min` at least.
pub(super) fn decode(footer: &Bytes, length: u64, outline_bytes_min: usize) -> Result<Opened> {
    if footer.len() >= outline_bytes_min
        && let Some(outline) = Outline::new(footer)
    {
        let group_starts = group_starts(outline.group_rows())?;
        return Ok(Opened {
            known: Known::Parts(Arc::new(outline)),
            group_starts,
        });
    }
    shape::check(footer)?;
    let (roots, group_starts) = decode_all(footer, length)?;
    Ok(Opened {
        known: Known::All {
            roots,
            memory_bytes: footer.len() * MEMORY_PER_FOOTER_BYTE,
        },
        group_starts,
    })
}

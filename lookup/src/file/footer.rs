//! Footers: read with one guess at their length, checked, decoded once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::columns::{decode_all, group_starts};
use super::outline::Outline;
use super::{File, Known, shape};
use crate::error::{LookupError, Result};
use crate::host::{Host, charge, read_one};
use crate::memory::Account;

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
const MEMORY_PER_FOOTER_BYTE: usize = 8;

/// Bytes of memory for each column or group of a schema, which takes eight bytes in a footer at least: its element,
/// type, descriptor, Arrow's field, and the column with its path.
const MEMORY_PER_ELEMENT: usize = 1024;

/// Most bytes of memory for each byte of a footer while it is decoded, its schema aside: a column chunk of some
/// twenty bytes takes five hundred.
const DECODE_MEMORY_PER_BYTE: usize = 32;

/// Most bytes of memory for each byte of a footer that has an outline: four for the place of a chunk of one byte,
/// and the footer itself.
const OUTLINE_MEMORY_PER_BYTE: u64 = 8;

/// Bytes of memory that a footer of `bytes` with so many columns and groups takes when it is decoded.
pub(super) fn memory_of(bytes: usize, elements: usize) -> usize {
    (bytes * MEMORY_PER_FOOTER_BYTE).max(elements * MEMORY_PER_ELEMENT)
}

/// Most bytes of memory that decoding such a footer takes.
pub(super) fn decode_memory_of(bytes: usize, elements: usize) -> u64 {
    (bytes * DECODE_MEMORY_PER_BYTE + elements * MEMORY_PER_ELEMENT) as u64
}

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
    let (tail, _tail_charge) = read_one(host, length - guess..length).await?;
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
    let (footer, _footer_charge) = if footer_bytes + TAIL_BYTES <= guess {
        let start = tail.len() - (footer_bytes + TAIL_BYTES) as usize;
        let footer = tail.slice(start..start + footer_bytes as usize);
        (footer, host.memory().empty())
    } else {
        let end = length - TAIL_BYTES;
        read_one(host, end - footer_bytes..end).await?
    };
    let estimate = decode_estimate(footer_bytes);
    let _outline_charge = charge(host, footer_bytes * OUTLINE_MEMORY_PER_BYTE).await?;
    let memory = host.memory().clone();
    let opened = host
        .run(estimate, move || {
            decode(&footer, length, OUTLINE_BYTES_MIN, &memory)
        })
        .await?;
    Ok(opened.into_file(name, length))
}

/// What decoding so many bytes of a footer takes, about.
pub(super) fn decode_estimate(bytes: u64) -> Duration {
    Duration::from_nanos(bytes * DECODE_NS_PER_BYTE)
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

/// Decodes a footer, or finds its parts if it is one of `outline_bytes_min` at least. What decoding takes is charged
/// to `memory` meanwhile.
pub(super) fn decode(
    footer: &Bytes,
    length: u64,
    outline_bytes_min: usize,
    memory: &Account,
) -> Result<Opened> {
    if footer.len() >= outline_bytes_min
        && let Some(outline) = Outline::new(footer)
    {
        let group_starts = group_starts(outline.group_rows())?;
        return Ok(Opened {
            known: Known::Parts(Arc::new(outline)),
            group_starts,
        });
    }
    let elements = shape::check(footer)?;
    let _charge = memory.charge(decode_memory_of(footer.len(), elements))?;
    let (roots, group_starts) = decode_all(footer, length)?;
    Ok(Opened {
        known: Known::All {
            roots,
            memory_bytes: memory_of(footer.len(), elements),
        },
        group_starts,
    })
}

//! Pages: from the cache, or read, decoded and kept.
//!
//! All pages that are missing are read in one round; the dictionaries that they turn out to need in one
//! more, unless it was known that they do. A dictionary that no page needs is not read.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parquet::basic::{Compression, Encoding, Type as Physical};

use super::Search;
use super::counts::nanoseconds;
use crate::cache::{DICTIONARY, Kept, Key};
use crate::column::Column;
use crate::error::{ErrorKind, LookupError, Result};
use crate::file::pages::{ChunkPages, check_rows, deprecated_counts};
use crate::host::Host;
use crate::page::decode;
use crate::page::header::{Kind, PageHeader, Parsed, parse};
use crate::page::values::{DecodedPage, Dictionary};

/// Decompression and decoding take about so long a byte of what comes out: 1 GB/s.
const DECODE_NS_PER_BYTE: u64 = 1;

/// Pages that are decoded until others have their turn: most look-ups decode fewer.
const PAGES_PER_TURN: usize = 8;

/// Most bytes that pages which are held at a time may say to have decompressed: a few KiB may say anything.
const DECODED_BYTES_MAX: u64 = 512 << 20;

/// Finding, reading and copying a page takes about so long beside its decoding.
const READ_NS: u64 = 10_000;

/// A page that is wanted.
#[derive(Clone, Copy)]
pub(super) struct Want<'a> {
    pub column: &'a Arc<Column>,
    pub pages: &'a ChunkPages,
    pub page: usize,
}

/// A page as it was read.
pub(super) struct Raw {
    pub header: PageHeader,
    pub body: Bytes,
}

impl<H: Host> Search<'_, H> {
    fn key(&self, group: usize, column: &Column, page: u32) -> Key {
        Key {
            file: self.file.id,
            group: group as u32,
            leaf: column.leaf as u32,
            page,
        }
    }

    /// The dictionary of a chunk, if it is at hand.
    pub(super) fn cached_dictionary(
        &self,
        group: usize,
        column: &Column,
    ) -> Option<Arc<Dictionary>> {
        let key = self.key(group, column, DICTIONARY);
        let found = self.cache.borrow_mut().dictionary(key);
        if found.is_some() {
            self.counts.borrow_mut().dictionaries_cached += 1;
        }
        found
    }

    /// Reads the dictionary of a chunk that has one.
    pub(super) async fn load_dictionary(
        &self,
        group: usize,
        column: &Arc<Column>,
        pages: &ChunkPages,
    ) -> Result<Arc<Dictionary>> {
        let range = pages.dictionary.clone().ok_or_else(|| {
            let error = LookupError::corrupt("a page has codes, but there is no dictionary");
            self.file.blame(group, column, error)
        })?;
        let mut read = self.read(vec![range]).await?;
        let bytes = read.pop().expect("one range was asked for");
        self.decode_dictionary(group, column, bytes).await
    }

    pub(super) async fn decode_dictionary(
        &self,
        group: usize,
        column: &Arc<Column>,
        bytes: Bytes,
    ) -> Result<Arc<Dictionary>> {
        let blame = |error| self.file.blame(group, column, error);
        let raw = take_apart(&bytes, column).map_err(blame)?;
        if raw.header.kind != Kind::Dictionary {
            return Err(blame(LookupError::corrupt("its dictionary is none")));
        }
        let codec = self.codec(group, column);
        let began = self.host.now();
        let estimate = estimate_of(codec, &raw.header);
        let size = u64::from(raw.header.uncompressed_bytes);
        let of = Arc::clone(column);
        let decoded = self
            .host
            .run(estimate, move || {
                decode::dictionary(&of, codec, &raw.header, &raw.body)
            })
            .await
            .map_err(blame)?;
        let dictionary = Arc::new(decoded);
        let took_ns = nanoseconds(self.host.now().saturating_sub(began));
        self.cache.borrow_mut().insert(
            self.key(group, column, DICTIONARY),
            Kept::Dictionary(Arc::clone(&dictionary)),
            cost_of(estimate),
        );
        let mut counts = self.counts.borrow_mut();
        counts.dictionaries_decoded += 1;
        counts.bytes_decoded += size;
        counts.decode_ns += took_ns;
        Ok(dictionary)
    }

    fn codec(&self, group: usize, column: &Column) -> Compression {
        self.file.chunk(group, column).compression()
    }

    /// Reads ranges of the file, counted against what the look-up may read.
    pub(super) async fn read(&self, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>> {
        let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let so_far = self.counts.borrow().bytes_read;
        if so_far + bytes > self.limits.scan_bytes {
            return Err(LookupError::new(
                ErrorKind::TooMuch,
                format!(
                    "{}: it would read more than {} bytes of pages: narrow the predicate, or allow more with \
                     scan_bytes_max",
                    self.file.name, self.limits.scan_bytes
                ),
            ));
        }
        let began = self.host.now();
        let read = self
            .host
            .read(&ranges)
            .await
            .map_err(|error| error.of_file(&self.file.name, ""))?;
        let mut counts = self.counts.borrow_mut();
        counts.bytes_read += bytes;
        counts.read_rounds += 1;
        counts.read_ns += nanoseconds(self.host.now().saturating_sub(began));
        Ok(read)
    }

    /// The wanted pages of a row group, in their order.
    pub(super) async fn load(
        &self,
        group: usize,
        wants: &[Want<'_>],
    ) -> Result<Vec<Arc<DecodedPage>>> {
        let mut found: Vec<Option<Arc<DecodedPage>>> = Vec::with_capacity(wants.len());
        {
            let mut cache = self.cache.borrow_mut();
            for want in wants {
                let key = self.key(group, want.column, want.page as u32);
                found.push(cache.page(key));
            }
        }
        let missing: Vec<usize> = (0..wants.len())
            .filter(|want| found[*want].is_none())
            .collect();
        self.counts.borrow_mut().pages_cached += (wants.len() - missing.len()) as u64;
        if !missing.is_empty() {
            self.load_missing(group, wants, &missing, &mut found)
                .await?;
        }
        Ok(found
            .into_iter()
            .map(|page| page.expect("it was found or read"))
            .collect())
    }

    async fn load_missing(
        &self,
        group: usize,
        wants: &[Want<'_>],
        missing: &[usize],
        found: &mut [Option<Arc<DecodedPage>>],
    ) -> Result<()> {
        let mut ranges = Vec::with_capacity(missing.len());
        for want in missing {
            let span = &wants[*want].pages.pages[wants[*want].page];
            check_rows(span).map_err(|error| self.file.blame(group, wants[*want].column, error))?;
            ranges.push(span.range.clone());
        }
        // Dictionaries by leaf: those at hand, and those that come in the same round.
        let mut dictionaries: Vec<(usize, Option<Arc<Dictionary>>)> = Vec::new();
        let mut with_pages: Vec<&Arc<Column>> = Vec::new();
        for want in missing.iter().map(|want| &wants[*want]) {
            let is_new = dictionaries
                .iter()
                .all(|(leaf, _)| *leaf != want.column.leaf);
            if let Some(range) = want.pages.dictionary.clone().filter(|_| is_new) {
                let has_codes = want.pages.pages[want.page].has_codes.get();
                if has_codes == Some(false) {
                    continue;
                }
                let cached = self.cached_dictionary(group, want.column);
                if cached.is_none() && has_codes == Some(true) {
                    with_pages.push(want.column);
                    ranges.push(range);
                }
                dictionaries.push((want.column.leaf, cached));
            }
        }
        let mut read = self.read(ranges).await?;
        let tail = read.split_off(missing.len());
        for (column, bytes) in with_pages.into_iter().zip(tail) {
            let dictionary = self.decode_dictionary(group, column, bytes).await?;
            note(&mut dictionaries, column.leaf, dictionary);
        }
        let mut decoded_bytes = 0;
        for (place, (want, bytes)) in missing.iter().zip(read).enumerate() {
            let Want {
                column,
                pages,
                page,
            } = wants[*want];
            let blame = |error: LookupError| {
                let error = error.of(format_args!("page {page}"));
                self.file.blame(group, column, error)
            };
            let raw = take_apart(&bytes, column).map_err(blame)?;
            decoded_bytes += u64::from(raw.header.uncompressed_bytes);
            if decoded_bytes > DECODED_BYTES_MAX {
                return Err(blame(LookupError::new(
                    ErrorKind::TooMuch,
                    format!(
                        "pages that are needed at once have more than {DECODED_BYTES_MAX} bytes: narrow the predicate \
                         or select fewer columns"
                    ),
                )));
            }
            let span = &pages.pages[page];
            if raw.header.values != span.rows {
                return Err(blame(LookupError::corrupt(format!(
                    "it has {} values, not {}",
                    raw.header.values, span.rows
                ))));
            }
            let has_codes = matches!(
                raw.header.encoding,
                Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY
            ) && column.physical() != Physical::BOOLEAN;
            span.has_codes.set(Some(has_codes));
            let dictionary = if has_codes {
                let known = dictionaries
                    .iter()
                    .find(|(leaf, _)| *leaf == column.leaf)
                    .and_then(|(_, dictionary)| dictionary.clone());
                Some(match known {
                    Some(dictionary) => dictionary,
                    None => {
                        let dictionary = self.load_dictionary(group, column, pages).await?;
                        note(&mut dictionaries, column.leaf, Arc::clone(&dictionary));
                        dictionary
                    }
                })
            } else {
                None
            };
            let decoded = self.decode_page(group, column, raw, dictionary).await;
            let (decoded, cost_ns) = decoded.map_err(blame)?;
            // Codes hold on to their dictionary, which counts for nothing where it is not kept itself.
            let dictionary_key = self.key(group, column, DICTIONARY);
            {
                let mut cache = self.cache.borrow_mut();
                if self.keeps_pages && (!has_codes || cache.contains(dictionary_key)) {
                    let key = self.key(group, column, page as u32);
                    cache.insert(key, Kept::Page(Arc::clone(&decoded)), cost_ns);
                }
            }
            found[*want] = Some(decoded);
            if place % PAGES_PER_TURN == PAGES_PER_TURN - 1 {
                self.host.pause().await;
            }
        }
        Ok(())
    }

    async fn decode_page(
        &self,
        group: usize,
        column: &Arc<Column>,
        raw: Raw,
        dictionary: Option<Arc<Dictionary>>,
    ) -> Result<(Arc<DecodedPage>, u64)> {
        let codec = self.codec(group, column);
        let began = self.host.now();
        let estimate = estimate_of(codec, &raw.header);
        let size = u64::from(raw.header.uncompressed_bytes);
        let of = Arc::clone(column);
        // One that nobody keeps is looked at once.
        let is_kept = self.keeps_pages && self.cache.borrow().admits(size as usize);
        let decoded = self
            .host
            .run(estimate, move || {
                let page = decode::page(&of, codec, &raw.header, &raw.body, dictionary.as_ref());
                page.map(|page| if is_kept { page.trimmed() } else { page })
            })
            .await?;
        let took_ns = nanoseconds(self.host.now().saturating_sub(began));
        let mut counts = self.counts.borrow_mut();
        counts.pages_decoded += 1;
        counts.bytes_decoded += size;
        counts.decode_ns += took_ns;
        Ok((Arc::new(decoded), cost_of(estimate)))
    }
}

fn note(
    dictionaries: &mut Vec<(usize, Option<Arc<Dictionary>>)>,
    leaf: usize,
    dictionary: Arc<Dictionary>,
) {
    match dictionaries.iter_mut().find(|(of, _)| *of == leaf) {
        Some((_, place)) => *place = Some(dictionary),
        None => dictionaries.push((leaf, Some(dictionary))),
    }
}

/// The header and the rest of a page.
pub(super) fn take_apart(bytes: &Bytes, column: &Column) -> Result<Raw> {
    let Parsed::Complete(header) = parse(bytes, deprecated_counts(column))? else {
        return Err(LookupError::corrupt("the header of a page is cut"));
    };
    let end = header.header_bytes + header.compressed_bytes as usize;
    if end > bytes.len() {
        return Err(LookupError::corrupt("a page is cut"));
    }
    let body = bytes.slice(header.header_bytes..end);
    Ok(Raw {
        header: *header,
        body,
    })
}

/// What a page cost that took about `estimate` to decode, its reading among it. Not as measured: a core's
/// clock stands while it works.
fn cost_of(estimate: Duration) -> u64 {
    READ_NS + nanoseconds(estimate)
}

pub(super) fn estimate_of(codec: Compression, header: &PageHeader) -> Duration {
    let is_plain = matches!(codec, Compression::UNCOMPRESSED) && header.encoding == Encoding::PLAIN;
    let bytes = if is_plain {
        0
    } else {
        u64::from(header.uncompressed_bytes)
    };
    Duration::from_nanos(bytes * DECODE_NS_PER_BYTE)
}

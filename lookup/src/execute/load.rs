//! Pages: from the cache, or read, decoded and kept.
//!
//! All pages that are missing are read in one round; the dictionaries that they turn out to need in one
//! more, unless it was known that they do. A dictionary that no page needs is not read.
//!
//! What was read and what is decoded of it is charged before it is there, by what the headers say. Where that is
//! more than the look-up may hold, the first of the pages are loaded alone: a few KiB may say anything.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parquet::basic::{Compression, Encoding, Type as Physical};
use smallvec::SmallVec;

use super::Search;
use super::counts::nanoseconds;
use crate::cache::{DICTIONARY, Kept, Key};
use crate::column::Column;
use crate::error::{ErrorKind, LookupError, Result};
use crate::file::pages::{ChunkPages, check_rows, deprecated_counts};
use crate::host::Host;
use crate::memory::Charge;
use crate::page::decode;
use crate::page::header::{Kind, PageHeader, Parsed, parse};
use crate::page::values::{DecodedPage, Dictionary, Values};

/// Decompression and decoding take about so long a byte of what comes out: 1 GB/s.
const DECODE_NS_PER_BYTE: u64 = 1;

/// Pages that are decoded until others have their turn: most look-ups decode fewer.
const PAGES_PER_TURN: usize = 8;

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
#[derive(Clone)]
pub(super) struct Raw {
    pub header: PageHeader,
    pub body: Bytes,
    /// Bytes that were read, all of which `body` keeps.
    read_bytes: usize,
}

/// Pages that are decoded, charged as long as this is there.
pub(super) struct Loaded {
    /// In the order of the wants, the first of them or all.
    pub pages: Vec<Arc<DecodedPage>>,
    _charges: Vec<Charge>,
    _dictionaries: Dictionaries,
}

/// A dictionary that the look-up holds, and its charge.
pub(super) type HeldDictionary = (Arc<Dictionary>, Arc<Charge>);

/// Dictionaries of a row group by leaf; `None`: it has to be read.
type Dictionaries = Vec<(usize, Option<HeldDictionary>)>;

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
    pub(super) async fn cached_dictionary(
        &self,
        group: usize,
        column: &Column,
    ) -> Result<Option<HeldDictionary>> {
        let key = self.key(group, column, DICTIONARY);
        let found = self.cache.borrow_mut().dictionary(key);
        let Some(dictionary) = found else {
            return Ok(None);
        };
        self.counts.borrow_mut().dictionaries_cached += 1;
        // It stays as long as this look-up holds it, even if it leaves the cache.
        let charge = self.charge(dictionary.memory_bytes() as u64).await?;
        Ok(Some((dictionary, Arc::new(charge))))
    }

    /// Reads the dictionary of a chunk that has one.
    pub(super) async fn load_dictionary(
        &self,
        group: usize,
        column: &Arc<Column>,
        pages: &ChunkPages,
    ) -> Result<HeldDictionary> {
        let range = pages.dictionary.clone().ok_or_else(|| {
            let error = LookupError::corrupt("a page has codes, but there is no dictionary");
            self.file.blame(group, column, error)
        })?;
        let (mut read, _charge) = self.read_pages(vec![range]).await?;
        let bytes = read.pop().expect("one range was asked for");
        self.decode_dictionary(group, column, bytes).await
    }

    pub(super) async fn decode_dictionary(
        &self,
        group: usize,
        column: &Arc<Column>,
        bytes: Bytes,
    ) -> Result<HeldDictionary> {
        let blame = |error| self.file.blame(group, column, error);
        let raw = take_apart(&bytes, column).map_err(blame)?;
        if raw.header.kind != Kind::Dictionary {
            return Err(blame(LookupError::corrupt("its dictionary is none")));
        }
        let codec = self.codec(group, column);
        let began = self.host.now();
        let estimate = estimate_of(codec, &raw.header);
        let size = u64::from(raw.header.uncompressed_bytes);
        let decoded = self
            .with_memory(estimate, column, raw, move |column, raw, memory| {
                let mut decoded =
                    decode::dictionary(column, codec, &raw.header, &raw.body, memory)?;
                if is_in_place(codec, &raw.header) {
                    decoded.buffer_bytes = raw.read_bytes;
                    memory.settle(decoded.memory_bytes() as u64)?;
                }
                Ok(decoded)
            })
            .await;
        let (decoded, charge) = decoded.map_err(blame)?;
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
        Ok((dictionary, Arc::new(charge)))
    }

    /// Runs `work` on a page with an empty charge, again where it found that other look-ups hold the memory; gives
    /// what is charged for what it made.
    pub(super) async fn with_memory<T: Send + 'static>(
        &self,
        estimate: Duration,
        column: &Arc<Column>,
        raw: Raw,
        work: impl Fn(&Column, &Raw, &mut Charge) -> Result<T> + Clone + Send + 'static,
    ) -> Result<(T, Charge)> {
        let mut tries = 0;
        loop {
            let (of, raw, work) = (Arc::clone(column), raw.clone(), work.clone());
            let mut charge = self.host.memory().empty();
            let done = self
                .host
                .run(estimate, move || {
                    let made = work(&of, &raw, &mut charge);
                    made.map(|made| (made, charge))
                })
                .await;
            match done {
                Err(error) if error.kind == ErrorKind::Busy => {
                    if !self.host.until_memory(tries).await {
                        return Err(error);
                    }
                    tries += 1;
                }
                done => return done,
            }
        }
    }

    fn codec(&self, group: usize, column: &Column) -> Compression {
        self.file.chunk(group, column).compression()
    }

    /// Reads ranges of the file, which are charged before.
    pub(super) async fn read_pages(&self, ranges: Vec<Range<u64>>) -> Result<(Vec<Bytes>, Charge)> {
        let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let charge = self.charge(bytes).await?;
        let began = self.host.now();
        let read = Host::read(self, &ranges)
            .await
            .map_err(|error| error.of_file(&self.file.name, ""))?;
        let mut counts = self.counts.borrow_mut();
        counts.bytes_read += bytes;
        counts.read_rounds += 1;
        counts.read_ns += nanoseconds(self.host.now().saturating_sub(began));
        Ok((read, charge))
    }

    /// The wanted pages of a row group, in their order.
    ///
    /// # Errors
    /// Among others `TooMuch`, if not all of them can be held.
    pub(super) async fn load(&self, group: usize, wants: &[Want<'_>]) -> Result<Loaded> {
        let (loaded, missed) = self.load_some(group, wants).await?;
        match missed {
            Some(error) => Err(error),
            None => Ok(loaded),
        }
    }

    /// The first of the wanted pages, at least one: as many as the look-up may hold.
    pub(super) async fn load_first(&self, group: usize, wants: &[Want<'_>]) -> Result<Loaded> {
        Ok(self.load_some(group, wants).await?.0)
    }

    /// The first of the wanted pages, at least one, and why the next is not among them.
    async fn load_some(
        &self,
        group: usize,
        wants: &[Want<'_>],
    ) -> Result<(Loaded, Option<LookupError>)> {
        let mut found: Vec<Option<Arc<DecodedPage>>> = Vec::with_capacity(wants.len());
        let mut cached_bytes = 0;
        let mut counted: SmallVec<[*const Dictionary; 8]> = SmallVec::new();
        {
            let mut cache = self.cache.borrow_mut();
            for want in wants {
                let key = self.key(group, want.column, want.page as u32);
                let page = cache.page(key);
                if let Some(page) = &page {
                    cached_bytes += page.memory_bytes();
                    if let Values::Codes { dictionary, .. } = &page.values
                        && !counted.contains(&Arc::as_ptr(dictionary))
                    {
                        counted.push(Arc::as_ptr(dictionary));
                        cached_bytes += dictionary.memory_bytes();
                    }
                }
                found.push(page);
            }
        }
        // They stay as long as this look-up holds them, even if they leave the cache.
        let mut charges = match self.charge(cached_bytes as u64).await {
            Ok(charge) => vec![charge],
            Err(error) if error.kind == ErrorKind::TooMuch && wants.len() > 1 => {
                found.truncate(wants.len() / 2);
                let first = &wants[..found.len()];
                drop(found);
                let (loaded, _) = Box::pin(self.load_some(group, first)).await?;
                return Ok((loaded, Some(error)));
            }
            Err(error) => return Err(error),
        };
        let missing: Vec<usize> = (0..wants.len())
            .filter(|want| found[*want].is_none())
            .collect();
        self.counts.borrow_mut().pages_cached += (wants.len() - missing.len()) as u64;
        let mut missed = None;
        let mut loaded = Loaded {
            pages: Vec::new(),
            _charges: Vec::new(),
            _dictionaries: Vec::new(),
        };
        if !missing.is_empty() {
            let missing = &missing[..self.readable(wants, &missing)];
            let loading = self.load_missing(
                group,
                wants,
                missing,
                &mut found,
                &mut charges,
                &mut loaded._dictionaries,
            );
            missed = loading.await.err();
        }
        loaded.pages = found.into_iter().map_while(|page| page).collect();
        loaded._charges = charges;
        if loaded.pages.len() == wants.len() {
            return Ok((loaded, None));
        }
        let missed = missed.unwrap_or_else(|| {
            LookupError::new(
                ErrorKind::TooMuch,
                format!(
                    "{}: pages that are needed at once take more than the {} bytes that a look-up may hold: \
                     narrow the predicate or select fewer columns",
                    self.file.name,
                    self.host.memory().limit_bytes()
                ),
            )
        });
        let may_go_on = matches!(missed.kind, ErrorKind::TooMuch | ErrorKind::Busy);
        if may_go_on && !loaded.pages.is_empty() {
            Ok((loaded, Some(missed)))
        } else {
            Err(missed)
        }
    }

    /// How many of the missing pages are read at a time, at least one: their bytes in the file leave a
    /// quarter of what the look-up may hold.
    fn readable(&self, wants: &[Want<'_>], missing: &[usize]) -> usize {
        let mut left = self.host.memory().limit_bytes() / 4 * 3;
        let fitting = missing.iter().take_while(|want| {
            let range = &wants[**want].pages.pages[wants[**want].page].range;
            let rest = left.checked_sub(range.end - range.start);
            left = rest.unwrap_or(0);
            rest.is_some()
        });
        fitting.count().max(1)
    }

    async fn load_missing(
        &self,
        group: usize,
        wants: &[Want<'_>],
        missing: &[usize],
        found: &mut [Option<Arc<DecodedPage>>],
        charges: &mut Vec<Charge>,
        dictionaries: &mut Dictionaries,
    ) -> Result<()> {
        let mut ranges = Vec::with_capacity(missing.len());
        for want in missing {
            let span = &wants[*want].pages.pages[wants[*want].page];
            check_rows(span).map_err(|error| self.file.blame(group, wants[*want].column, error))?;
            ranges.push(span.range.clone());
        }
        // Dictionaries by leaf: those at hand, and those that come in the same round.
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
                let cached = self.cached_dictionary(group, want.column).await?;
                if cached.is_none() && has_codes == Some(true) {
                    with_pages.push(want.column);
                    ranges.push(range);
                }
                dictionaries.push((want.column.leaf, cached));
            }
        }
        let (mut read, _read_charge) = self.read_pages(ranges).await?;
        let tail = read.split_off(missing.len());
        for (column, bytes) in with_pages.into_iter().zip(tail) {
            let dictionary = self.decode_dictionary(group, column, bytes).await?;
            note(dictionaries, column.leaf, dictionary);
        }
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
                        note(dictionaries, column.leaf, dictionary.clone());
                        dictionary
                    }
                })
            } else {
                None
            };
            let dictionary = dictionary.map(|(dictionary, _)| dictionary);
            let decoded = self.decode_page(group, column, raw, dictionary).await;
            let (decoded, charge, cost_ns) = decoded.map_err(blame)?;
            charges.push(charge);
            if self.keeps_pages {
                let key = self.key(group, column, page as u32);
                let page = Kept::Page(Arc::clone(&decoded));
                self.cache.borrow_mut().insert(key, page, cost_ns);
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
    ) -> Result<(Arc<DecodedPage>, Charge, u64)> {
        let codec = self.codec(group, column);
        let began = self.host.now();
        let estimate = estimate_of(codec, &raw.header);
        let size = u64::from(raw.header.uncompressed_bytes);
        // One that nobody keeps is looked at once.
        let is_kept = self.keeps_pages && self.cache.borrow().admits(size as usize);
        let (decoded, charge) = self
            .with_memory(estimate, column, raw, move |column, raw, memory| {
                let (header, dictionary) = (&raw.header, dictionary.as_ref());
                let mut page = decode::page(column, codec, header, &raw.body, dictionary, memory)?;
                if page.buffer_bytes > 0 && is_in_place(codec, header) {
                    page.buffer_bytes = raw.read_bytes;
                }
                // Both are there for a moment.
                if is_kept && memory.add(page.memory_bytes() as u64).is_ok() {
                    page = page.trimmed();
                }
                memory.settle(page.memory_bytes() as u64)?;
                Ok(page)
            })
            .await?;
        let took_ns = nanoseconds(self.host.now().saturating_sub(began));
        let mut counts = self.counts.borrow_mut();
        counts.pages_decoded += 1;
        counts.bytes_decoded += size;
        counts.decode_ns += took_ns;
        Ok((Arc::new(decoded), charge, cost_of(estimate)))
    }
}

fn note(dictionaries: &mut Dictionaries, leaf: usize, dictionary: HeldDictionary) {
    match dictionaries.iter_mut().find(|(of, _)| *of == leaf) {
        Some((_, place)) => *place = Some(dictionary),
        None => dictionaries.push((leaf, Some(dictionary))),
    }
}

/// Whether values lie in the bytes that were read.
fn is_in_place(codec: Compression, header: &PageHeader) -> bool {
    let is_compressed = match header.kind {
        Kind::DataV2 { is_compressed, .. } => is_compressed,
        _ => true,
    };
    !is_compressed || matches!(codec, Compression::UNCOMPRESSED)
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
        read_bytes: bytes.len(),
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

//! From a page's bytes in the file to values.

use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{Compression, Encoding, Type as Physical};
use parquet::column::page::{Page, PageMetadata};

use super::codec::decompress;
use super::delta;
use super::header::{Kind, PageHeader};
use super::hybrid::Hybrid;
use super::presence::Presence;
use super::values::{DecodedPage, Dictionary, Values};
use crate::column::Column;
use crate::error::{LookupError, Result};
use crate::memory::Charge;

/// Largest page, decompressed: DuckDB writes up to 100 MiB, others a few. A header that claims more
/// would have it allocated.
pub const PAGE_BYTES_MAX: u32 = 256 << 20;

/// The levels and values of a data page, decompressed.
struct Body {
    repetition: Option<Hybrid>,
    definition: Option<Hybrid>,
    values: Bytes,
}

fn corrupt(what: impl Into<String>) -> LookupError {
    LookupError::corrupt(what)
}

/// Refuses headers that would cost too much memory.
pub fn check_size(header: &PageHeader) -> Result<()> {
    if header.uncompressed_bytes > PAGE_BYTES_MAX {
        return Err(LookupError::unsupported(format!(
            "a page of {} bytes; pages up to {PAGE_BYTES_MAX} are read",
            header.uncompressed_bytes
        )));
    }
    Ok(())
}

/// Compares the bytes with the header's CRC-32, where there is one.
fn check_crc(header: &PageHeader, body: &[u8]) -> Result<()> {
    match header.crc {
        Some(crc) if crc32fast::hash(body) != crc => {
            Err(corrupt("the checksum of the page does not match its bytes"))
        }
        _ => Ok(()),
    }
}

/// A dictionary page. What it takes is charged to `memory`.
///
/// # Errors
/// Corrupt, or unsupported; what charging gives.
pub fn dictionary(
    column: &Column,
    codec: Compression,
    header: &PageHeader,
    body: &Bytes,
    memory: &mut Charge,
) -> Result<Dictionary> {
    check_size(header)?;
    check_crc(header, body)?;
    if !matches!(
        header.encoding,
        Encoding::PLAIN | Encoding::PLAIN_DICTIONARY
    ) {
        return Err(corrupt("a dictionary that is not in the PLAIN encoding"));
    }
    let bytes = decompress(codec, body, header.uncompressed_bytes as usize, memory)?;
    let buffer_bytes = bytes.len();
    let dictionary = Dictionary {
        values: plain(column, bytes, header.values, memory)?,
        count: header.values,
        buffer_bytes,
    };
    memory.settle(dictionary.memory_bytes() as u64)?;
    Ok(dictionary)
}

/// The bytes of a page, decompressed, as `parquet` wants them: levels and values.
///
/// # Errors
/// Corrupt, or unsupported; what charging to `memory` gives.
pub fn inflate(
    codec: Compression,
    header: &PageHeader,
    body: &Bytes,
    memory: &mut Charge,
) -> Result<Bytes> {
    check_size(header)?;
    check_crc(header, body)?;
    let size = header.uncompressed_bytes as usize;
    match header.kind {
        Kind::DataV2 {
            definition_bytes,
            repetition_bytes,
            is_compressed,
            ..
        } => {
            let levels = definition_bytes as usize + repetition_bytes as usize;
            if levels > body.len() || levels > size {
                return Err(corrupt("levels are longer than the page"));
            }
            if !is_compressed || matches!(codec, Compression::UNCOMPRESSED) {
                return Ok(body.clone());
            }
            let values = decompress(codec, &body.slice(levels..), size - levels, memory)?;
            if levels == 0 {
                return Ok(values);
            }
            memory.add(size as u64)?;
            let mut whole = Vec::with_capacity(size);
            whole.extend_from_slice(&body[..levels]);
            whole.extend_from_slice(&values);
            drop(values);
            memory.reduce((size - levels) as u64);
            Ok(whole.into())
        }
        _ => decompress(codec, body, size, memory),
    }
}

/// A data page of a column with one value a row at most. What it takes is charged to `memory`, the dictionary aside.
///
/// # Errors
/// Corrupt, or unsupported; what charging gives.
pub fn page(
    column: &Column,
    codec: Compression,
    header: &PageHeader,
    body: &Bytes,
    dictionary: Option<&Arc<Dictionary>>,
    memory: &mut Charge,
) -> Result<DecodedPage> {
    assert!(!column.is_repeated, "rows are values");
    let bytes = inflate(codec, header, body, memory)?;
    let rows = header.values;
    let Body {
        definition, values, ..
    } = body_of(column, header, &bytes, memory)?;
    let max = u32::from(column.max_definition.unsigned_abs());
    let presence = match &definition {
        Some(levels) => Presence::of_levels(levels, max, memory)?,
        None => None,
    };
    drop(definition);
    let count = presence.as_ref().map_or(rows, Presence::present);
    let values = values_of(column, header.encoding, values, count, dictionary, memory)?;
    let page = DecodedPage {
        rows,
        presence,
        buffer_bytes: if shares_buffer(&values, header.encoding) {
            bytes.len()
        } else {
            0
        },
        values,
    };
    drop(bytes);
    memory.settle(page.memory_bytes() as u64)?;
    Ok(page)
}

/// Whether values lie in the page's own bytes, all of which they keep.
fn shares_buffer(values: &Values, encoding: Encoding) -> bool {
    match values {
        Values::Fixed { .. } | Values::Variable { .. } => encoding == Encoding::PLAIN,
        Values::Codes { .. } => true,
        Values::Booleans(_) | Values::Trimmed(_) => false,
    }
}

/// A page as `parquet` reads it.
pub struct CheckedPage {
    /// The page.
    pub page: Page,
    /// Bytes of its values when codes are replaced by what they stand for: a long one may stand in a page a
    /// million times.
    pub expanded_bytes: u64,
    /// Rows that begin in it.
    pub rows_begun: u32,
    /// Whether it begins within a row.
    pub continues: bool,
}

/// A data page of any column as `parquet` can read it whatever the file says: its levels are as many as
/// its values and none beyond the largest, its values are as many as the levels say, in the PLAIN encoding or
/// as codes of the dictionary that goes with it. The page is charged to `memory`.
///
/// # Errors
/// Corrupt, or unsupported; what charging gives.
pub fn checked_page(
    column: &Column,
    header: &PageHeader,
    bytes: &Bytes,
    dictionary: Option<&Arc<Dictionary>>,
    memory: &mut Charge,
) -> Result<CheckedPage> {
    let mut scratch = memory.account().empty();
    let Body {
        repetition,
        definition,
        values,
    } = body_of(column, header, bytes, &mut scratch)?;
    let (mut rows_begun, mut continues) = (header.values, false);
    if let Some(levels) = &repetition {
        rows_begun = 0;
        levels.each(0, levels.len(), |place, times, level| {
            rows_begun += if level == 0 { times } else { 0 };
            continues |= place == 0 && level != 0;
        });
    }
    let max = u32::from(column.max_definition.unsigned_abs());
    let mut count = header.values;
    if let Some(levels) = &definition {
        count = 0;
        levels.each(0, levels.len(), |_, times, level| {
            count += if level == max { times } else { 0 };
        });
    }
    let encoding = header.encoding;
    let values = values_of(column, encoding, values, count, dictionary, &mut scratch)?;
    let levels_bytes: usize = [&repetition, &definition]
        .into_iter()
        .flatten()
        .map(|levels| 4 + levels.written_bytes())
        .sum();
    let values_bytes = match &values {
        Values::Codes { codes, .. } => 1 + codes.written_bytes(),
        Values::Variable { bytes, .. } => bytes.len() + 4 * count as usize,
        values => values.memory_bytes(),
    };
    let mut expanded_bytes = values_bytes as u64;
    memory.add((levels_bytes + values_bytes) as u64)?;
    let mut buffer = Vec::with_capacity(levels_bytes + values_bytes);
    for levels in [&repetition, &definition].into_iter().flatten() {
        let start = buffer.len();
        buffer.extend_from_slice(&[0; 4]);
        levels.write_runs(&mut buffer);
        let length = (buffer.len() - start - 4) as u32;
        buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }
    let encoding = match &values {
        Values::Codes { codes, dictionary } => {
            let mut is_known = true;
            expanded_bytes = 0;
            codes.each(0, codes.len(), |_, times, code| {
                is_known &= code < dictionary.count;
                if is_known {
                    let length = dictionary.values.length(code) as u64;
                    expanded_bytes += u64::from(times) * length;
                }
            });
            if !is_known {
                return Err(corrupt("a code stands for nothing in its dictionary"));
            }
            buffer.push(codes.width() as u8);
            codes.write_runs(&mut buffer);
            Encoding::RLE_DICTIONARY
        }
        values => {
            write_plain(values, count, &mut buffer);
            Encoding::PLAIN
        }
    };
    let page = Page::DataPage {
        buf: buffer.into(),
        num_values: header.values,
        encoding,
        def_level_encoding: Encoding::RLE,
        rep_level_encoding: Encoding::RLE,
        statistics: None,
    };
    Ok(CheckedPage {
        page,
        expanded_bytes,
        rows_begun,
        continues,
    })
}

fn write_plain(values: &Values, count: u32, buffer: &mut Vec<u8>) {
    match values {
        Values::Fixed { bytes, .. } => buffer.extend_from_slice(bytes),
        Values::Variable { .. } => {
            for place in 0..count {
                let value = values.get(place).expect("it is not of codes");
                buffer.extend_from_slice(&(value.len() as u32).to_le_bytes());
                buffer.extend_from_slice(&value);
            }
        }
        Values::Booleans(bytes) => {
            for group in bytes.chunks(8) {
                let bits = group.iter().enumerate();
                buffer.push(bits.fold(0, |byte, (bit, value)| byte | value << bit));
            }
        }
        Values::Trimmed(_) => unreachable!("only pages that are kept are trimmed"),
        Values::Codes { .. } => unreachable!("codes stay codes"),
    }
}

/// `count` values in any encoding.
fn values_of(
    column: &Column,
    encoding: Encoding,
    bytes: Bytes,
    count: u32,
    dictionary: Option<&Arc<Dictionary>>,
    memory: &mut Charge,
) -> Result<Values> {
    let unsupported = || {
        Err(LookupError::unsupported(format!(
            "the encoding {encoding} of {} values",
            column.physical()
        )))
    };
    match (encoding, column.physical(), column.width) {
        (Encoding::PLAIN, _, _) => plain(column, bytes, count, memory),
        (Encoding::RLE, Physical::BOOLEAN, _) => {
            let levels = match bytes.len() {
                0 if count == 0 => Bytes::new(),
                0..4 => return Err(corrupt("booleans are cut")),
                _ => bytes.slice(4..),
            };
            let hybrid = Hybrid::open(levels, 1, count, memory)?;
            memory.add(u64::from(count))?;
            let mut expanded = Vec::with_capacity(count as usize);
            hybrid.each(0, count, |_, times, value| {
                expanded.extend(std::iter::repeat_n(value as u8, times as usize));
            });
            Ok(Values::Booleans(expanded.into()))
        }
        (_, Physical::BOOLEAN, _) => unsupported(),
        (Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY, _, _) => {
            let dictionary = dictionary.ok_or_else(|| corrupt("a page of a missing dictionary"))?;
            codes(bytes, count, dictionary, memory)
        }
        (Encoding::DELTA_BINARY_PACKED, Physical::INT32 | Physical::INT64, Some(width)) => {
            delta::integers(&bytes, width, count, memory)
        }
        (Encoding::DELTA_LENGTH_BYTE_ARRAY, Physical::BYTE_ARRAY, _) => {
            delta::strings(&bytes, count, memory)
        }
        (
            Encoding::DELTA_BYTE_ARRAY,
            Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY,
            width,
        ) => delta::prefixed(&bytes, width, count, memory),
        (Encoding::BYTE_STREAM_SPLIT, _, Some(width)) if width > 0 => {
            delta::split(&bytes, width, count, memory)
        }
        _ => unsupported(),
    }
}

fn body_of(
    column: &Column,
    header: &PageHeader,
    bytes: &Bytes,
    memory: &mut Charge,
) -> Result<Body> {
    let max_definition = u32::from(column.max_definition.unsigned_abs());
    let max_repetition = u32::from(column.descriptor.max_rep_level().unsigned_abs());
    let too_long = || corrupt("levels are longer than the page");
    match header.kind {
        Kind::Data {
            definition,
            repetition,
        } => {
            let mut rest = bytes.clone();
            let repetition =
                levels_of(&mut rest, repetition, max_repetition, header.values, memory)?;
            let definition =
                levels_of(&mut rest, definition, max_definition, header.values, memory)?;
            Ok(Body {
                repetition,
                definition,
                values: rest,
            })
        }
        Kind::DataV2 {
            definition_bytes,
            repetition_bytes,
            ..
        } => {
            let start = repetition_bytes as usize;
            let end = start + definition_bytes as usize;
            if end > bytes.len() {
                return Err(too_long());
            }
            let mut levels = |range: std::ops::Range<usize>, max: u32| {
                (max > 0)
                    .then(|| open_levels(bytes.slice(range), max, header.values, memory))
                    .transpose()
            };
            Ok(Body {
                repetition: levels(0..start, max_repetition)?,
                definition: levels(start..end, max_definition)?,
                values: bytes.slice(end..),
            })
        }
        Kind::Dictionary | Kind::Other => Err(corrupt("it is no data page")),
    }
}

/// Takes levels from the front of a page of version 1, if the column has such.
fn levels_of(
    rest: &mut Bytes,
    encoding: Encoding,
    max: u32,
    count: u32,
    memory: &mut Charge,
) -> Result<Option<Hybrid>> {
    if max == 0 {
        return Ok(None);
    }
    let too_long = || corrupt("levels are longer than the page");
    if encoding != Encoding::RLE {
        return bit_packed_levels(rest, max, count, memory).map(Some);
    }
    let length = rest
        .first_chunk::<4>()
        .map(|length| u32::from_le_bytes(*length) as usize)
        .filter(|length| *length <= rest.len() - 4)
        .ok_or_else(too_long)?;
    let levels = rest.slice(4..4 + length);
    *rest = rest.slice(4 + length..);
    open_levels(levels, max, count, memory).map(Some)
}

/// Levels in the encoding of old: packed from the highest bit on, without a length.
fn bit_packed_levels(
    rest: &mut Bytes,
    max: u32,
    count: u32,
    memory: &mut Charge,
) -> Result<Hybrid> {
    let width = width_of(max);
    let length = (u64::from(count) * u64::from(width)).div_ceil(8);
    if length > rest.len() as u64 {
        return Err(corrupt("levels are longer than the page"));
    }
    // The same with the lowest bit first, as one run.
    let groups = count.div_ceil(8);
    let turned_bytes = groups as usize * width as usize + 5;
    memory.add(turned_bytes as u64)?;
    let mut turned = Vec::with_capacity(turned_bytes);
    let mut head = u64::from(groups) << 1 | 1;
    while head >= 0x80 {
        turned.push(head as u8 | 0x80);
        head >>= 7;
    }
    turned.push(head as u8);
    let start = turned.len();
    turned.resize(start + groups as usize * width as usize, 0);
    for value in 0..u64::from(count) {
        for bit in 0..u64::from(width) {
            let from = value * u64::from(width) + bit;
            let is_set = rest[(from / 8) as usize] >> (7 - from % 8) & 1;
            // The first bit of a value is its highest.
            let to = value * u64::from(width) + (u64::from(width) - 1 - bit);
            turned[start + (to / 8) as usize] |= is_set << (to % 8);
        }
    }
    *rest = rest.slice(length as usize..);
    open_levels(turned.into(), max, count, memory)
}

fn width_of(max: u32) -> u32 {
    u32::BITS - max.leading_zeros()
}

fn open_levels(bytes: Bytes, max: u32, count: u32, memory: &mut Charge) -> Result<Hybrid> {
    let levels = Hybrid::open(bytes, width_of(max), count, memory)?;
    let mut is_within = true;
    levels.each(0, count, |_, _, level| is_within &= level <= max);
    if is_within {
        Ok(levels)
    } else {
        Err(corrupt("a level is beyond the largest"))
    }
}

fn codes(
    values: Bytes,
    count: u32,
    dictionary: &Arc<Dictionary>,
    memory: &mut Charge,
) -> Result<Values> {
    // A page of NULLs only may end before the width.
    let width = match values.first() {
        Some(width) => u32::from(*width),
        None if count == 0 => 0,
        None => return Err(corrupt("dictionary codes are cut")),
    };
    let codes = Hybrid::open(values.slice(values.len().min(1)..), width, count, memory)?;
    Ok(Values::Codes {
        codes,
        dictionary: Arc::clone(dictionary),
    })
}

/// `count` values in the PLAIN encoding. What they take beside `bytes` is charged to `memory`.
fn plain(column: &Column, bytes: Bytes, count: u32, memory: &mut Charge) -> Result<Values> {
    let short = || corrupt("there are fewer values than the page's header says");
    let count = count as usize;
    match (column.physical(), column.width) {
        (Physical::BOOLEAN, _) => {
            if bytes.len() < count.div_ceil(8) {
                return Err(short());
            }
            memory.add(count as u64)?;
            let expanded: Vec<u8> = (0..count)
                .map(|place| bytes[place / 8] >> (place % 8) & 1)
                .collect();
            Ok(Values::Booleans(expanded.into()))
        }
        (_, Some(0)) => Err(corrupt("values of no bytes")),
        (_, Some(width)) => {
            let length = width
                .checked_mul(count)
                .filter(|length| *length <= bytes.len());
            let length = length.ok_or_else(short)?;
            Ok(Values::Fixed {
                width,
                bytes: bytes.slice(..length),
            })
        }
        (_, None) => {
            // Each has a length of four bytes, so this is bounded by the page.
            if count > bytes.len() / 4 {
                return Err(short());
            }
            memory.add_values::<u32>(count + 1)?;
            let mut offsets = Vec::with_capacity(count + 1);
            let mut at = 0usize;
            for _ in 0..count {
                let length = bytes
                    .get(at..)
                    .and_then(|rest| rest.first_chunk::<4>())
                    .map(|length| u32::from_le_bytes(*length) as usize)
                    .ok_or_else(short)?;
                offsets.push(at as u32);
                at += 4 + length;
                if at > bytes.len() {
                    return Err(short());
                }
            }
            offsets.push(at as u32);
            Ok(Values::Variable {
                offsets,
                bytes,
                gap: 4,
            })
        }
    }
}

/// What `parquet`'s readers want to know of a page before they take it.
pub fn metadata_of(page: &Page) -> PageMetadata {
    PageMetadata {
        num_rows: match page {
            Page::DataPageV2 { num_rows, .. } => Some(*num_rows as usize),
            Page::DataPage { .. } | Page::DictionaryPage { .. } => None,
        },
        num_levels: (!page.is_dictionary_page()).then(|| page.num_values() as usize),
        is_dict: page.is_dictionary_page(),
    }
}

/// The dictionary as a page in the PLAIN encoding.
pub fn dictionary_page(dictionary: &Dictionary) -> Page {
    let buf = match &dictionary.values {
        Values::Fixed { bytes, .. } | Values::Variable { bytes, gap: 4, .. } => bytes.clone(),
        _ => unreachable!("dictionaries are read from PLAIN pages"),
    };
    Page::DictionaryPage {
        buf,
        num_values: dictionary.count,
        encoding: Encoding::PLAIN,
        is_sorted: false,
    }
}

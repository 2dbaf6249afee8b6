//! Headers of pages.
//!
//! Format: [parquet.thrift](https://github.com/apache/parquet-format), `PageHeader`. Unknown fields are
//! skipped.

use parquet::basic::Encoding;

use crate::error::{LookupError, Result};
use crate::thrift::{BINARY, FALSE, Reader, STRUCT, Step, Stop, TRUE};

/// Longest header. They hold statistics of two values, which writers cut to some KiB at most.
pub const HEADER_BYTES_MAX: usize = 1 << 20;

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Data, levels and values compressed together.
    Data {
        /// Encoding of definition levels.
        definition: Encoding,
        /// Encoding of repetition levels.
        repetition: Encoding,
    },
    /// Data, levels apart and not compressed.
    DataV2 {
        /// Rows.
        rows: u32,
        /// NULLs among the values.
        nulls: u32,
        /// Bytes of definition levels.
        definition_bytes: u32,
        /// Bytes of repetition levels.
        repetition_bytes: u32,
        /// Whether values are compressed.
        is_compressed: bool,
    },
    /// A dictionary.
    Dictionary,
    /// Anything else, which is skipped.
    Other,
}

/// What a page says of its values. Bounds may be shortened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageStatistics {
    /// No value is less.
    pub min: Option<Box<[u8]>>,
    /// No value is greater.
    pub max: Option<Box<[u8]>>,
    /// NULLs.
    pub nulls: Option<u64>,
}

/// A page's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// What it is.
    pub kind: Kind,
    /// Bytes of the page without its header, decompressed.
    pub uncompressed_bytes: u32,
    /// Bytes of the page without its header, as they are in the file.
    pub compressed_bytes: u32,
    /// CRC-32 of the bytes in the file.
    pub crc: Option<u32>,
    /// Values, NULLs among them.
    pub values: u32,
    /// Encoding of the values.
    pub encoding: Encoding,
    /// What it says of them.
    pub statistics: PageStatistics,
    /// Bytes of the header.
    pub header_bytes: usize,
}

/// A header, or that there are too few bytes for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The header.
    Complete(Box<PageHeader>),
    /// More than the given bytes are needed.
    Incomplete,
}

trait PageReader {
    fn encoding(&mut self) -> Step<Encoding>;
    fn statistics(&mut self, use_deprecated: bool) -> Step<PageStatistics>;
}

impl PageReader for Reader<'_> {
    fn encoding(&mut self) -> Step<Encoding> {
        Ok(match self.integer()? {
            0 => Encoding::PLAIN,
            2 => Encoding::PLAIN_DICTIONARY,
            3 => Encoding::RLE,
            #[expect(deprecated, reason = "old files have it")]
            4 => Encoding::BIT_PACKED,
            5 => Encoding::DELTA_BINARY_PACKED,
            6 => Encoding::DELTA_LENGTH_BYTE_ARRAY,
            7 => Encoding::DELTA_BYTE_ARRAY,
            8 => Encoding::RLE_DICTIONARY,
            9 => Encoding::BYTE_STREAM_SPLIT,
            _ => return Err(Stop::Wrong("an unknown encoding")),
        })
    }

    fn statistics(&mut self, use_deprecated: bool) -> Step<PageStatistics> {
        let mut found = PageStatistics::default();
        let mut deprecated = (None, None);
        let mut last = 0;
        while let Some((number, kind)) = self.field(&mut last)? {
            match (number, kind) {
                (1, BINARY) => deprecated.1 = Some(self.binary()?.into()),
                (2, BINARY) => deprecated.0 = Some(self.binary()?.into()),
                (3, 4..=6) => found.nulls = u64::try_from(self.integer()?).ok(),
                (5, BINARY) => found.max = Some(self.binary()?.into()),
                (6, BINARY) => found.min = Some(self.binary()?.into()),
                (_, kind) => self.skip(kind)?,
            }
        }
        if use_deprecated && found.min.is_none() && found.max.is_none() {
            (found.min, found.max) = deprecated;
        }
        Ok(found)
    }
}

/// What the inner header of a page says.
struct Inner {
    kind: Kind,
    values: u32,
    encoding: Encoding,
    statistics: PageStatistics,
}

fn data(reader: &mut Reader<'_>, use_deprecated: bool) -> Step<Inner> {
    let mut inner = Inner {
        kind: Kind::Other,
        values: 0,
        encoding: Encoding::PLAIN,
        statistics: PageStatistics::default(),
    };
    let (mut definition, mut repetition) = (Encoding::RLE, Encoding::RLE);
    let mut last = 0;
    while let Some((number, kind)) = reader.field(&mut last)? {
        match (number, kind) {
            (1, 4..=6) => inner.values = reader.size()?,
            (2, 4..=6) => inner.encoding = reader.encoding()?,
            (3, 4..=6) => definition = reader.encoding()?,
            (4, 4..=6) => repetition = reader.encoding()?,
            (5, STRUCT) => inner.statistics = reader.statistics(use_deprecated)?,
            (_, kind) => reader.skip(kind)?,
        }
    }
    inner.kind = Kind::Data {
        definition,
        repetition,
    };
    Ok(inner)
}

fn data_v2(reader: &mut Reader<'_>, use_deprecated: bool) -> Step<Inner> {
    let mut inner = Inner {
        kind: Kind::Other,
        values: 0,
        encoding: Encoding::PLAIN,
        statistics: PageStatistics::default(),
    };
    let (mut rows, mut nulls, mut definition_bytes, mut repetition_bytes) = (0, 0, 0, 0);
    let mut is_compressed = true;
    let mut last = 0;
    while let Some((number, kind)) = reader.field(&mut last)? {
        match (number, kind) {
            (1, 4..=6) => inner.values = reader.size()?,
            (2, 4..=6) => nulls = reader.size()?,
            (3, 4..=6) => rows = reader.size()?,
            (4, 4..=6) => inner.encoding = reader.encoding()?,
            (5, 4..=6) => definition_bytes = reader.size()?,
            (6, 4..=6) => repetition_bytes = reader.size()?,
            (7, kind @ (TRUE | FALSE)) => is_compressed = kind == TRUE,
            (8, STRUCT) => inner.statistics = reader.statistics(use_deprecated)?,
            (_, kind) => reader.skip(kind)?,
        }
    }
    inner.kind = Kind::DataV2 {
        rows,
        nulls,
        definition_bytes,
        repetition_bytes,
        is_compressed,
    };
    Ok(inner)
}

fn dictionary(reader: &mut Reader<'_>) -> Step<Inner> {
    let mut inner = Inner {
        kind: Kind::Dictionary,
        values: 0,
        encoding: Encoding::PLAIN,
        statistics: PageStatistics::default(),
    };
    let mut last = 0;
    while let Some((number, kind)) = reader.field(&mut last)? {
        match (number, kind) {
            (1, 4..=6) => inner.values = reader.size()?,
            (2, 4..=6) => inner.encoding = reader.encoding()?,
            (_, kind) => reader.skip(kind)?,
        }
    }
    Ok(inner)
}

fn header(reader: &mut Reader<'_>, use_deprecated: bool) -> Step<PageHeader> {
    let (mut uncompressed_bytes, mut compressed_bytes) = (None, None);
    let mut crc = None;
    let mut inner = None;
    let mut last = 0;
    while let Some((number, kind)) = reader.field(&mut last)? {
        match (number, kind) {
            (2, 4..=6) => uncompressed_bytes = Some(reader.size()?),
            (3, 4..=6) => compressed_bytes = Some(reader.size()?),
            (4, 4..=6) => crc = Some(reader.integer()? as u32),
            (5, STRUCT) => inner = Some(data(reader, use_deprecated)?),
            (7, STRUCT) => inner = Some(dictionary(reader)?),
            (8, STRUCT) => inner = Some(data_v2(reader, use_deprecated)?),
            (_, kind) => reader.skip(kind)?,
        }
    }
    let missing = Stop::Wrong("a size is missing");
    let (Some(uncompressed_bytes), Some(compressed_bytes)) = (uncompressed_bytes, compressed_bytes)
    else {
        return Err(missing);
    };
    let inner = inner.unwrap_or(Inner {
        kind: Kind::Other,
        values: 0,
        encoding: Encoding::PLAIN,
        statistics: PageStatistics::default(),
    });
    Ok(PageHeader {
        kind: inner.kind,
        uncompressed_bytes,
        compressed_bytes,
        crc,
        values: inner.values,
        encoding: inner.encoding,
        statistics: inner.statistics,
        header_bytes: reader.position(),
    })
}

/// Reads the header that `bytes` begin with. `use_deprecated`: whether bounds in the deprecated fields
/// count, whose order is that of signed numbers.
///
/// # Errors
/// Corrupt.
pub fn parse(bytes: &[u8], use_deprecated: bool) -> Result<Parsed> {
    let mut reader = Reader::new(bytes, HEADER_BYTES_MAX);
    match header(&mut reader, use_deprecated) {
        Ok(header) => Ok(Parsed::Complete(Box::new(header))),
        Err(Stop::End) if bytes.len() < HEADER_BYTES_MAX => Ok(Parsed::Incomplete),
        Err(Stop::End) => Err(LookupError::corrupt("a page header does not end")),
        Err(Stop::Wrong(why)) => Err(LookupError::corrupt(format!("a page header: {why}"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_linger(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes, true);
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        // Data page: 10 values PLAIN, levels RLE, 80 bytes both ways, nulls 0, min and max.
        let bytes = [
            0x15, 0x00, 0x15, 0xa0, 0x01, 0x15, 0xa0, 0x01, 0x2c, 0x15, 0x14, 0x15, 0x00, 0x15,
            0x06, 0x15, 0x06, 0x1c, 0x36, 0x00, 0x28, 0x01, 0x09, 0x18, 0x01, 0x01, 0x00, 0x00,
            0x00, 0xff,
        ];
        let Ok(Parsed::Complete(header)) = parse(&bytes, false) else {
            panic!("it is complete");
        };
        assert_eq!(header.header_bytes, bytes.len() - 1);
        assert_eq!((header.values, header.compressed_bytes), (10, 80));
        assert_eq!(header.encoding, Encoding::PLAIN);
        assert_eq!(header.statistics.nulls, Some(0));
        assert_eq!(header.statistics.max.as_deref(), Some([9].as_slice()));
        assert_eq!(header.statistics.min.as_deref(), Some([1].as_slice()));
        for cut in 0..bytes.len() - 1 {
            assert_eq!(parse(&bytes[..cut], false).unwrap(), Parsed::Incomplete);
        }
    }
}

//! `CompleteMultipartUpload`: the parts in, the object out.

use super::read::{Limits, Visitor, malformed, set_once, walk};
use super::write::Writer;
use crate::checksum::{Algorithm, Checksum};
use crate::{Error, ErrorCode};

/// S3's limit of parts, and the highest number of one.
pub const PARTS_MAX: u32 = 10_000;

/// Ten thousand parts of 419 bytes: number, etag and one SHA-256 take some 250 with their elements.
pub const DOCUMENT_BYTES_MAX: usize = 4 << 20;

const LIMITS: Limits = Limits {
    bytes_max: DOCUMENT_BYTES_MAX,
    // Part, PartNumber, ETag and up to five checksums.
    elements_max: PARTS_MAX as usize * 8 + 8,
};

/// A part as the client names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletedPart {
    /// From 1 to [`PARTS_MAX`].
    pub number: u32,
    /// Without quotes, whether or not they came.
    pub etag: String,
    /// As the client says them, one an algorithm at most.
    pub checksums: Vec<Checksum>,
}

/// Reads the document: parts in strictly ascending order.
///
/// # Errors
/// `InvalidPartOrder` for numbers that do not ascend, `InvalidArgument` for numbers out of range,
/// `InvalidDigest` for checksums that are none, `MalformedXML` for everything else.
pub fn read(document: &[u8]) -> Result<Vec<CompletedPart>, Error> {
    let mut reader = Reader::default();
    walk(document, "CompleteMultipartUpload", &LIMITS, &mut reader)?;
    if reader.parts.is_empty() {
        return Err(malformed("it names no part"));
    }
    Ok(reader.parts)
}

#[derive(Default)]
struct Reader {
    parts: Vec<CompletedPart>,
    number: Option<u32>,
    etag: Option<String>,
    checksums: Vec<Checksum>,
}

impl Visitor for Reader {
    fn open(&mut self, _path: &str) -> Result<(), Error> {
        Ok(())
    }

    fn close(&mut self, path: &str, text: &str) -> Result<(), Error> {
        let text = text.trim();
        match path {
            "Part" => self.end_part(),
            "Part/PartNumber" => set_once(&mut self.number, part_number(text)?, "PartNumber"),
            "Part/ETag" => {
                let etag = text.strip_prefix('"').unwrap_or(text);
                let etag = etag.strip_suffix('"').unwrap_or(etag);
                set_once(&mut self.etag, etag.to_owned(), "ETag")
            }
            _ => {
                let Some(algorithm) = path.strip_prefix("Part/").and_then(|name| {
                    Algorithm::ALL
                        .into_iter()
                        .find(|algorithm| algorithm.element() == name)
                }) else {
                    return Ok(());
                };
                if self
                    .checksums
                    .iter()
                    .any(|known| known.algorithm() == algorithm)
                {
                    return Err(malformed(format_args!("{path} stands twice")));
                }
                self.checksums.push(Checksum::parse(algorithm, text)?);
                Ok(())
            }
        }
    }
}

impl Reader {
    fn end_part(&mut self) -> Result<(), Error> {
        let number = self.number.take();
        let number = number.ok_or_else(|| malformed("a part has no number"))?;
        let etag = self.etag.take().filter(|etag| !etag.is_empty());
        // Numbers ascend within a bounded range, so this bounds the parts as well.
        if self.parts.last().is_some_and(|last| last.number >= number) {
            return Err(Error::new(
                ErrorCode::InvalidPartOrder,
                format_args!("part {number} follows one of no lower number: list parts in order"),
            ));
        }
        self.parts.push(CompletedPart {
            number,
            etag: etag.ok_or_else(|| malformed("a part has no etag"))?,
            checksums: std::mem::take(&mut self.checksums),
        });
        Ok(())
    }
}

fn part_number(text: &str) -> Result<u32, Error> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits);
    number
        .filter(|number| (1..=PARTS_MAX).contains(number))
        .ok_or_else(|| {
            Error::new(
                ErrorCode::InvalidArgument,
                format_args!("part numbers are whole numbers from 1 to {PARTS_MAX}"),
            )
        })
}

/// The object that an upload became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed<'a> {
    /// Where it is reached.
    pub location: &'a str,
    /// The bucket.
    pub bucket: &'a str,
    /// The key.
    pub key: &'a str,
    /// With its quotes.
    pub etag: &'a str,
    /// As the origin says it, which may be the composite of the parts.
    pub checksum: Option<(Algorithm, &'a str)>,
}

/// Appends the answer.
pub fn write_result(out: &mut Vec<u8>, completed: &Completed<'_>) {
    let mut writer = Writer::document(out, "CompleteMultipartUploadResult");
    writer.text("Location", completed.location);
    writer.text("Bucket", completed.bucket);
    writer.text("Key", completed.key);
    writer.etag(completed.etag);
    if let Some((algorithm, value)) = completed.checksum {
        writer.text(algorithm.element(), value);
    }
    writer.close("CompleteMultipartUploadResult");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload(parts: &str) -> String {
        format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>")
    }

    fn part(number: &str) -> String {
        format!("<Part><ETag>\"e{number}\"</ETag><PartNumber>{number}</PartNumber></Part>")
    }

    #[test]
    fn parts_keep_number_etag_without_quotes_and_checksums() {
        let document = upload(
            "<Part><PartNumber> 1 </PartNumber><ETag>&quot;a&quot;</ETag>\
             <ChecksumCRC32>y/Q5Jg==</ChecksumCRC32></Part><Part><ETag>b</ETag>\
             <PartNumber>10000</PartNumber></Part>",
        );
        let parts = read(document.as_bytes()).expect("parts");
        let crc = Checksum::of(Algorithm::Crc32, b"123456789");
        assert_eq!(parts[0].checksums, [crc]);
        assert_eq!((parts[0].number, parts[0].etag.as_str()), (1, "a"));
        assert_eq!((parts[1].number, parts[1].etag.as_str()), (10_000, "b"));
    }

    #[test]
    fn numbers_out_of_order_or_range_and_billions_of_parts_are_refused() {
        let full: String = (1..=PARTS_MAX)
            .map(|number| part(&number.to_string()))
            .collect();
        assert_eq!(
            read(upload(&full).as_bytes()).map(|parts| parts.len()),
            Ok(10_000)
        );
        let endless = part("1").repeat(200_000);
        for (parts, code) in [
            (part("2") + &part("1"), ErrorCode::InvalidPartOrder),
            (part("2") + &part("2"), ErrorCode::InvalidPartOrder),
            (part("0"), ErrorCode::InvalidArgument),
            (part("10001"), ErrorCode::InvalidArgument),
            (part("+1"), ErrorCode::InvalidArgument),
            (part("4294967297"), ErrorCode::InvalidArgument),
            (String::new(), ErrorCode::MalformedXml),
            (endless, ErrorCode::MalformedXml),
            (
                full + "<x/>".repeat(70_000).as_str(),
                ErrorCode::MalformedXml,
            ),
            (
                "<Part><PartNumber>1</PartNumber></Part>".into(),
                ErrorCode::MalformedXml,
            ),
            (
                "<Part><ETag>e</ETag></Part>".into(),
                ErrorCode::MalformedXml,
            ),
        ] {
            let error = read(upload(&parts).as_bytes()).expect_err(&parts[..parts.len().min(80)]);
            assert_eq!(error.code, code, "{}", &parts[..parts.len().min(80)]);
        }
    }

    #[test]
    fn the_answer_names_the_object_and_its_checksum() {
        let mut out = Vec::new();
        let completed = Completed {
            location: "http://h/lake/k",
            bucket: "lake",
            key: "k",
            etag: "\"e-2\"",
            checksum: Some((Algorithm::Crc64Nvme, "rosUhgp5mIg=")),
        };
        write_result(&mut out, &completed);
        assert!(String::from_utf8(out).expect("UTF-8").ends_with(
            "<Location>http://h/lake/k</Location><Bucket>lake</Bucket><Key>k</Key>\
             <ETag>&quot;e-2&quot;</ETag><ChecksumCRC64NVME>rosUhgp5mIg=</ChecksumCRC64NVME>\
             </CompleteMultipartUploadResult>"
        ));
    }
}

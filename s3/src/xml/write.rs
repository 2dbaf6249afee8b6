//! Elements appended to bytes: the one place where strings become XML.

use super::NAMESPACE;
use crate::date::iso_8601;

const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

/// Who owns an object, bucket or upload, in S3's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner<'a> {
    /// The canonical user id.
    pub id: &'a str,
    /// The name that people read.
    pub display_name: &'a str,
}

/// Appends elements to a document. The caller closes what it opened.
pub(super) struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    /// A document whose root is not in S3's namespace: errors.
    pub(super) fn bare(out: &'a mut Vec<u8>, root: &str) -> Self {
        out.extend_from_slice(DECLARATION.as_bytes());
        let mut writer = Writer { out };
        writer.open(root);
        writer
    }

    /// A document whose root is in S3's namespace.
    pub(super) fn document(out: &'a mut Vec<u8>, root: &str) -> Self {
        out.extend_from_slice(DECLARATION.as_bytes());
        for piece in ["<", root, " xmlns=\"", NAMESPACE, "\">"] {
            out.extend_from_slice(piece.as_bytes());
        }
        Writer { out }
    }

    pub(super) fn open(&mut self, name: &str) {
        self.raw("<");
        self.raw(name);
        self.raw(">");
    }

    pub(super) fn close(&mut self, name: &str) {
        self.raw("</");
        self.raw(name);
        self.raw(">");
    }

    /// An element that holds `value`, escaped.
    pub(super) fn text(&mut self, name: &str, value: &str) {
        self.open(name);
        self.escaped(value);
        self.close(name);
    }

    /// Nothing for `None`.
    pub(super) fn optional(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    /// A key, prefix or delimiter: percent-encoded where the request asked for `encoding-type=url`.
    pub(super) fn key(&mut self, name: &str, value: &str, encodes_url: bool) {
        if !encodes_url {
            return self.text(name, value);
        }
        self.open(name);
        percent_encode(value, self.out);
        self.close(name);
    }

    pub(super) fn number(&mut self, name: &str, value: u64) {
        self.open(name);
        let mut digits = [0; 20];
        let mut start = digits.len();
        let mut left = value;
        loop {
            start -= 1;
            digits[start] = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        self.out.extend_from_slice(&digits[start..]);
        self.close(name);
    }

    pub(super) fn boolean(&mut self, name: &str, value: bool) {
        self.text(name, if value { "true" } else { "false" });
    }

    /// A time in milliseconds since 1970, UTC.
    pub(super) fn time(&mut self, name: &str, ms: u64) {
        self.open(name);
        self.out.extend_from_slice(&iso_8601(ms));
        self.close(name);
    }

    /// An entity tag, with quotes whether or not `etag` brings them: clients compare the element
    /// with the header, quotes included.
    pub(super) fn etag(&mut self, etag: &str) {
        self.open("ETag");
        let is_quoted = etag.ends_with('"');
        if !is_quoted {
            self.raw("&quot;");
        }
        self.escaped(etag);
        if !is_quoted {
            self.raw("&quot;");
        }
        self.close("ETag");
    }

    pub(super) fn owner(&mut self, name: &str, owner: &Owner<'_>) {
        self.open(name);
        self.text("ID", owner.id);
        self.text("DisplayName", owner.display_name);
        self.close(name);
    }

    #[inline]
    pub(super) fn raw(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    pub(super) fn escaped(&mut self, value: &str) {
        let bytes = value.as_bytes();
        let mut written = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            if !NEEDS_CARE[usize::from(byte)] {
                continue;
            }
            let mut reference = [0; 8];
            let (replacement, length): (&[u8], usize) = match byte {
                b'&' => (b"&amp;", 1),
                b'<' => (b"&lt;", 1),
                b'>' => (b"&gt;", 1),
                b'"' => (b"&quot;", 1),
                b'\'' => (b"&apos;", 1),
                // U+FFFE and U+FFFF, which XML has no place for; the rest of this lead byte stays.
                0xef => match bytes.get(at..at + 3) {
                    Some([_, 0xbf, 0xbe]) => (b"&#xFFFE;", 3),
                    Some([_, 0xbf, 0xbf]) => (b"&#xFFFF;", 3),
                    _ => continue,
                },
                control => {
                    reference[..3].copy_from_slice(b"&#x");
                    let digits = b"0123456789ABCDEF";
                    reference[3] = digits[usize::from(control >> 4)];
                    reference[4] = digits[usize::from(control & 15)];
                    reference[5] = b';';
                    (&reference[..6], 1)
                }
            };
            self.out.extend_from_slice(&bytes[written..at]);
            self.out.extend_from_slice(replacement);
            written = at + length;
        }
        self.out.extend_from_slice(&bytes[written..]);
    }
}

/// Bytes that do not stand for themselves in text: markup, control characters (a bare CR would be
/// read as LF, and most of the others are in no XML 1.0 document), and the lead byte of U+FFFE.
const NEEDS_CARE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] =
            byte < 0x20 || matches!(byte as u8, b'&' | b'<' | b'>' | b'"' | b'\'' | 0x7f | 0xef);
        byte += 1;
    }
    table
};

/// Percent-encodes as S3 does under `encoding-type=url`: letters, digits and `-_.*/` stay. S3 writes
/// a space as `+`; here it is `%20`, which decoders that know `+` and those that do not both read.
fn percent_encode(value: &str, out: &mut Vec<u8>) {
    let bytes = value.as_bytes();
    let mut written = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if STAYS_IN_URL[usize::from(byte)] {
            continue;
        }
        let digits = b"0123456789ABCDEF";
        out.extend_from_slice(&bytes[written..at]);
        out.extend_from_slice(&[
            b'%',
            digits[usize::from(byte >> 4)],
            digits[usize::from(byte & 15)],
        ]);
        written = at + 1;
    }
    out.extend_from_slice(&bytes[written..]);
}

const STAYS_IN_URL: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric()
            || matches!(byte as u8, b'-' | b'_' | b'.' | b'*' | b'/');
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_and_characters_that_xml_cannot_carry_are_references() {
        let mut out = Vec::new();
        let mut writer = Writer { out: &mut out };
        writer.text("K", "a<b>&\"'\r\n\u{1}\u{7f}\u{fffe}\u{ffff}\u{fffd}é");
        assert_eq!(
            String::from_utf8(out).expect("UTF-8"),
            "<K>a&lt;b&gt;&amp;&quot;&apos;&#x0D;&#x0A;&#x01;&#x7F;&#xFFFE;&#xFFFF;\u{fffd}é</K>"
        );
    }

    #[test]
    fn url_encoding_keeps_slashes_and_hides_everything_else() {
        let mut out = Vec::new();
        percent_encode("a b/c+d%\u{1}é*", &mut out);
        assert_eq!(out, b"a%20b/c%2Bd%25%01%C3%A9*");
    }
}

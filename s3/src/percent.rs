//! Percent-encoding (RFC 3986, section 2.1): taken off once, put on as Signature Version 4 wants it.
//!
//! The invariant: decoding happens once. What comes out of it is never decoded again, so that
//! `%252e` stays the text `%2e`.

use std::borrow::Cow;

/// Why a text cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A `%` without two hexadecimal digits behind it.
    #[error("`%` is not followed by two hexadecimal digits; escape `%` itself as %25")]
    Escape,
    /// Bytes that are no UTF-8, overlong forms among them.
    #[error("it is not UTF-8 once its escapes are resolved")]
    Utf8,
}

/// What `+` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plus {
    /// In paths: itself.
    Literal,
    /// In queries: a space, as forms write it and S3 reads it.
    Space,
}

/// Resolves the escapes; borrows where there are none.
///
/// # Errors
/// If an escape is broken, or the result no UTF-8.
pub fn decode(text: &str, plus: Plus) -> Result<Cow<'_, str>, Broken> {
    let changes = |byte| (byte == b'%') | ((byte == b'+') & (plus == Plus::Space));
    // Without an early end, so that the compiler compares many bytes at a time.
    if !text.bytes().fold(false, |any, byte| any | changes(byte)) {
        return Ok(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    for byte in Decoder::new(text, plus) {
        bytes.push(byte?);
    }
    String::from_utf8(bytes)
        .map(Cow::Owned)
        .map_err(|_| Broken::Utf8)
}

/// Appends the text with its escapes resolved and put on anew: all but unreserved characters (and
/// `/` where `keeps_slash`) become `%XX` with upper-case digits.
///
/// # Errors
/// If an escape is broken.
pub fn normalise(
    text: &str,
    plus: Plus,
    keeps_slash: bool,
    out: &mut Vec<u8>,
) -> Result<(), Broken> {
    let table = if keeps_slash { &PATH } else { &UNRESERVED };
    if text.bytes().all(|byte| table[usize::from(byte)]) {
        out.extend_from_slice(text.as_bytes());
        return Ok(());
    }
    for byte in Decoder::new(text, plus) {
        let byte = byte?;
        if table[usize::from(byte)] {
            out.push(byte);
        } else {
            out.extend_from_slice(&[
                b'%',
                DIGITS[usize::from(byte >> 4)],
                DIGITS[usize::from(byte & 15)],
            ]);
        }
    }
    Ok(())
}

const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
const UNRESERVED: [bool; 256] = stay(false);
const PATH: [bool; 256] = stay(true);

/// Which bytes need no escape.
const fn stay(slash: bool) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let character = byte as u8;
        table[byte] = character.is_ascii_alphanumeric()
            || matches!(character, b'-' | b'.' | b'_' | b'~')
            || (slash && character == b'/');
        byte += 1;
    }
    table
}

struct Decoder<'a> {
    bytes: std::str::Bytes<'a>,
    plus: Plus,
}

impl<'a> Decoder<'a> {
    fn new(text: &'a str, plus: Plus) -> Self {
        Decoder {
            bytes: text.bytes(),
            plus,
        }
    }
}

impl Iterator for Decoder<'_> {
    type Item = Result<u8, Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.bytes.next()? {
            b'%' => {
                let digits = (
                    self.bytes.next().and_then(hex),
                    self.bytes.next().and_then(hex),
                );
                let (Some(high), Some(low)) = digits else {
                    return Some(Err(Broken::Escape));
                };
                Some(Ok(high << 4 | low))
            }
            b'+' if self.plus == Plus::Space => Some(Ok(b' ')),
            byte => Some(Ok(byte)),
        }
    }
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normalised(text: &str) -> Result<String, Broken> {
        let mut out = Vec::new();
        normalise(text, Plus::Literal, true, &mut out)?;
        Ok(String::from_utf8(out).expect("ASCII"))
    }

    #[test]
    fn escapes_are_resolved_once() {
        assert_eq!(decode("a%252e%2F", Plus::Literal), Ok("a%2e/".into()));
        assert_eq!(decode("a+b", Plus::Literal), Ok("a+b".into()));
        assert_eq!(decode("a+b%2B", Plus::Space), Ok("a b+".into()));
        assert!(matches!(
            decode("plain/key-1.parquet", Plus::Space),
            Ok(Cow::Borrowed(_))
        ));
    }

    #[test]
    fn broken_escapes_and_overlong_utf8_are_refused() {
        for text in ["%", "%2", "a%zz", "%%41", "%+1", "% 1"] {
            assert_eq!(decode(text, Plus::Literal), Err(Broken::Escape), "{text}");
            assert_eq!(normalised(text), Err(Broken::Escape), "{text}");
        }
        // `/` and `.` in two and three bytes, a surrogate, and a lone continuation.
        for text in ["%c0%af", "%c0%ae", "%e0%80%af", "%ed%a0%80", "%80", "%ff"] {
            assert_eq!(decode(text, Plus::Literal), Err(Broken::Utf8), "{text}");
        }
    }

    #[test]
    fn equal_paths_that_clients_escape_differently_become_the_same_text() {
        for path in [
            "/b/day=1/a~b%20c",
            "/b/day%3D1/a%7Eb%20c",
            "/b/day%3d1/a~b%20c",
            "/b/day=1/a~b c",
        ] {
            assert_eq!(
                normalised(path).as_deref(),
                Ok("/b/day%3D1/a~b%20c"),
                "{path}"
            );
        }
        assert_eq!(normalised("/b/\u{e9}"), normalised("/b/%C3%A9"));
        assert_eq!(normalised("/b/a%2Fb").as_deref(), Ok("/b/a/b"));
    }

    proptest! {
        #[test]
        fn normal_text_stays_as_it_is(text: String) {
            let escaped = text.replace('%', "%25");
            let once = normalised(&escaped).expect("no broken escapes");
            prop_assert_eq!(decode(&once, Plus::Literal).expect("UTF-8"), text);
            prop_assert_eq!(&normalised(&once).expect("escaped"), &once);
        }
    }
}

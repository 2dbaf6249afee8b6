//! What a client stores beside an object: the headers that come back with it, and those that tell
//! the origin how to store it.

use super::{invalid, not_implemented};
use crate::error::Error;
use crate::head::Head;

/// Headers of an object, as they go to the origin. No value holds a control character.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectHeaders {
    /// `Content-Type`
    pub content_type: Option<String>,
    /// `Content-Encoding`, without `aws-chunked`, which belongs to the request alone.
    pub content_encoding: Option<String>,
    /// `Content-Language`
    pub content_language: Option<String>,
    /// `Content-Disposition`
    pub content_disposition: Option<String>,
    /// `Cache-Control`
    pub cache_control: Option<String>,
    /// `Expires`
    pub expires: Option<String>,
    /// `x-amz-meta-…`: names in lower case without the prefix, values; sorted by name.
    pub metadata: Vec<(String, String)>,
    /// What only the origin understands (storage class, tags, encryption, locks): names in lower
    /// case, values, in the order they came.
    pub passed: Vec<(String, String)>,
}

const METADATA_PREFIX: &str = "x-amz-meta-";

/// Begins of the names of headers that go to the origin as they are.
const PASSED_PREFIXES: [&str; 4] = [
    "x-amz-object-lock-",
    "x-amz-server-side-encryption",
    "x-amz-storage-class",
    "x-amz-tagging",
];

/// Begins of the names of headers that would let whoever may write say who may read at the origin.
const REFUSED_PREFIXES: [&str; 3] = [
    "x-amz-acl",
    "x-amz-grant-",
    "x-amz-website-redirect-location",
];

/// ACLs that give nothing to anyone but the bucket's owner.
const HARMLESS_ACLS: [&[u8]; 2] = [b"private", b"bucket-owner-full-control"];

impl ObjectHeaders {
    /// Takes them from a head.
    pub(super) fn of(head: &Head<'_>) -> Result<Self, Error> {
        let mut headers = ObjectHeaders::default();
        for (name, value) in head.headers() {
            let name = name.to_ascii_lowercase();
            let slot = match name.as_str() {
                "content-type" => &mut headers.content_type,
                "content-encoding" => &mut headers.content_encoding,
                "content-language" => &mut headers.content_language,
                "content-disposition" => &mut headers.content_disposition,
                "cache-control" => &mut headers.cache_control,
                "expires" => &mut headers.expires,
                _ => {
                    headers.take_other(name, value)?;
                    continue;
                }
            };
            let value = text(&name, value)?;
            // Several lines of one header are one list (RFC 9110, section 5.3).
            *slot = Some(match slot.take() {
                Some(before) => format!("{before}, {value}"),
                None => value,
            });
        }
        headers.content_encoding = headers
            .content_encoding
            .as_deref()
            .and_then(without_aws_chunked);
        headers.metadata.sort();
        Ok(headers)
    }

    fn take_other(&mut self, name: String, value: &[u8]) -> Result<(), Error> {
        if let Some(key) = name.strip_prefix(METADATA_PREFIX) {
            if key.is_empty() {
                return Err(invalid(
                    "a header `x-amz-meta-` has no name behind the prefix",
                ));
            }
            let value = text(&name, value)?;
            match self.metadata.iter_mut().find(|(other, _)| other == key) {
                // S3 joins what is sent twice.
                Some((_, before)) => {
                    before.push(',');
                    before.push_str(&value);
                }
                None => self.metadata.push((key.to_owned(), value)),
            }
        } else if PASSED_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            if self.passed.iter().any(|(other, _)| *other == name) {
                return Err(invalid(format_args!(
                    "the header `{name}` is there twice; send it once"
                )));
            }
            let value = text(&name, value)?;
            self.passed.push((name, value));
        } else if name == "x-amz-acl" && HARMLESS_ACLS.contains(&value) {
            // The origin's own rules say the same.
        } else if REFUSED_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            return Err(not_implemented(format_args!(
                "`{name}` is not served: who may read at the origin is said there"
            )));
        } else if name == "x-amz-write-offset-bytes" {
            return Err(not_implemented(
                "appending to an object is not served; write it as a whole",
            ));
        }
        Ok(())
    }
}

fn text(name: &str, value: &[u8]) -> Result<String, Error> {
    match str::from_utf8(value) {
        Ok(value)
            if !value.contains(|character: char| character.is_control() && character != '\t') =>
        {
            Ok(value.to_owned())
        }
        _ => Err(invalid(format_args!(
            "the value of `{name}` is not text in UTF-8 without control characters"
        ))),
    }
}

fn without_aws_chunked(value: &str) -> Option<String> {
    let codings: Vec<&str> = value
        .split(',')
        .map(str::trim)
        .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("aws-chunked"))
        .collect();
    (!codings.is_empty()).then(|| codings.join(","))
}

//! Listings: of objects, of uploads, of parts.

use super::{invalid, number, upload_id};
use crate::error::Error;
use crate::target::Target;

/// Most entries of one page, as in S3; asking for more gives so many.
pub const PAGE_ENTRIES_MAX: u32 = 1_000;

/// Longest delimiter taken. S3 has no limit; nobody uses more than one character.
const DELIMITER_BYTES_MAX: usize = 64;

/// Which form of ListObjects was asked for; the answers differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListVersion {
    /// With `marker`.
    V1,
    /// With `continuation-token` and `start-after`.
    V2,
}

/// ListObjects in both forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListObjects {
    /// Which form.
    pub version: ListVersion,
    /// What keys begin with; empty: all. No segment of it is `.` or `..`.
    pub prefix: String,
    /// What common prefixes end in; `None` also if it was sent empty.
    pub delimiter: Option<String>,
    /// Most entries of the page, 0 to 1,000.
    pub max_keys: u32,
    /// Only keys behind this one; of V1 the `marker`.
    pub start_after: Option<String>,
    /// Of V2: where the page before ended.
    pub continuation_token: Option<String>,
    /// Whether keys in the answer are percent-encoded.
    pub encoding_url: bool,
    /// Whether each key has its owner beside it; always so in V1.
    pub fetch_owner: bool,
}

impl ListObjects {
    pub(super) fn of(target: &Target<'_>) -> Result<Self, Error> {
        let query = &target.query;
        let version = match query.get("list-type").as_deref() {
            None => ListVersion::V1,
            Some("2") => ListVersion::V2,
            Some(_) => {
                return Err(invalid(
                    "the only `list-type` is 2; leave it out for version 1",
                ));
            }
        };
        let text = |name: &str| query.get(name).map(String::from);
        let (start_after, continuation_token, fetch_owner) = match version {
            ListVersion::V1 => (text("marker"), None, true),
            ListVersion::V2 => (
                text("start-after"),
                text("continuation-token"),
                query
                    .get("fetch-owner")
                    .is_some_and(|value| value.eq_ignore_ascii_case("true")),
            ),
        };
        if continuation_token.as_deref() == Some("") {
            return Err(invalid(
                "the continuation token is empty; send the one of the page before",
            ));
        }
        Ok(ListObjects {
            version,
            prefix: prefix(target)?,
            delimiter: delimiter(target)?,
            max_keys: entries(target, "max-keys")?,
            start_after: start_after.filter(|key| !key.is_empty()),
            continuation_token,
            encoding_url: encoding_url(target)?,
            fetch_owner,
        })
    }
}

/// ListMultipartUploads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListMultipartUploads {
    /// What keys begin with; empty: all. No segment of it is `.` or `..`.
    pub prefix: String,
    /// What common prefixes end in.
    pub delimiter: Option<String>,
    /// Most entries of the page, 0 to 1,000.
    pub max_uploads: u32,
    /// Only uploads behind this key.
    pub key_marker: Option<String>,
    /// And of that key behind this id.
    pub upload_id_marker: Option<String>,
    /// Whether keys in the answer are percent-encoded.
    pub encoding_url: bool,
}

impl ListMultipartUploads {
    pub(super) fn of(target: &Target<'_>) -> Result<Self, Error> {
        let marker = |name| {
            target
                .query
                .get(name)
                .filter(|value| !value.is_empty())
                .map(String::from)
        };
        Ok(ListMultipartUploads {
            prefix: prefix(target)?,
            delimiter: delimiter(target)?,
            max_uploads: entries(target, "max-uploads")?,
            key_marker: marker("key-marker"),
            upload_id_marker: marker("upload-id-marker"),
            encoding_url: encoding_url(target)?,
        })
    }
}

/// ListParts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListParts {
    /// Of which upload.
    pub upload_id: String,
    /// Most entries of the page, 0 to 1,000.
    pub max_parts: u32,
    /// Only parts with greater numbers.
    pub part_number_marker: u32,
}

impl ListParts {
    pub(super) fn of(target: &Target<'_>) -> Result<Self, Error> {
        Ok(ListParts {
            upload_id: upload_id(target)?,
            max_parts: entries(target, "max-parts")?,
            part_number_marker: number(target, "part-number-marker", 0..=u32::MAX)?.unwrap_or(0),
        })
    }
}

fn entries(target: &Target<'_>, name: &str) -> Result<u32, Error> {
    // The largest number that S3 takes, though it gives no more than a page.
    let asked = number(target, name, 0..=i32::MAX as u32)?;
    Ok(asked.unwrap_or(PAGE_ENTRIES_MAX).min(PAGE_ENTRIES_MAX))
}

/// No key has a segment `.` or `..`, so no listing of such a prefix has an entry; and for a mount
/// that is a folder it would be a way out of it.
fn prefix(target: &Target<'_>) -> Result<String, Error> {
    let prefix = target.query.get("prefix").unwrap_or_default().into_owned();
    if prefix
        .split('/')
        .any(|segment| matches!(segment, "." | ".."))
    {
        return Err(invalid(
            "the prefix holds a segment `.` or `..`, which no key here does",
        ));
    }
    Ok(prefix)
}

fn delimiter(target: &Target<'_>) -> Result<Option<String>, Error> {
    let delimiter = target
        .query
        .get("delimiter")
        .filter(|value| !value.is_empty());
    if delimiter
        .as_ref()
        .is_some_and(|value| value.len() > DELIMITER_BYTES_MAX)
    {
        return Err(invalid(format_args!(
            "the delimiter is longer than {DELIMITER_BYTES_MAX} bytes"
        )));
    }
    Ok(delimiter.map(String::from))
}

fn encoding_url(target: &Target<'_>) -> Result<bool, Error> {
    match target.query.get("encoding-type").as_deref() {
        None | Some("") => Ok(false),
        Some(encoding) if encoding.eq_ignore_ascii_case("url") => Ok(true),
        Some(_) => Err(invalid("the only `encoding-type` is `url`")),
    }
}

//! Operations that change objects.

use std::ops::Range;

use super::object_headers::ObjectHeaders;
use super::read::{PARTS_MAX, refuse_customer_keys};
use super::{Operation, invalid, method_not_allowed, not_implemented, number, upload_id};
use crate::error::{Error, ErrorCode};
use crate::head::Head;
use crate::percent::{Plus, decode};
use crate::range::RangeSpec;
use crate::target::{self, Target};

/// PutObject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutObject {
    /// What is stored beside the object.
    pub headers: ObjectHeaders,
    /// `If-None-Match: *`: only if there is no such object.
    pub if_none_match_any: bool,
    /// `If-Match`: only if the object has this tag.
    pub if_match: Option<String>,
}

/// Where a copy comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopySource {
    /// Bucket of the source.
    pub bucket: String,
    /// Key of the source, checked as a target's.
    pub key: String,
    /// `versionId` of the source.
    pub version_id: Option<String>,
    /// `x-amz-copy-source-if-match`
    pub if_match: Option<String>,
    /// `x-amz-copy-source-if-none-match`
    pub if_none_match: Option<String>,
    /// `x-amz-copy-source-if-modified-since`
    pub if_modified_since: Option<String>,
    /// `x-amz-copy-source-if-unmodified-since`
    pub if_unmodified_since: Option<String>,
}

/// CopyObject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyObject {
    /// Where from.
    pub source: CopySource,
    /// Whether `headers` replace those of the source (`x-amz-metadata-directive: REPLACE`).
    pub replaces_metadata: bool,
    /// What is stored beside the copy, if they replace.
    pub headers: ObjectHeaders,
    /// `If-None-Match: *`: only if there is no such object.
    pub if_none_match_any: bool,
    /// `If-Match`: only if the object that is replaced has this tag.
    pub if_match: Option<String>,
}

/// CreateMultipartUpload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateMultipartUpload {
    /// What is stored beside the object.
    pub headers: ObjectHeaders,
    /// `x-amz-checksum-algorithm`
    pub checksum_algorithm: Option<String>,
    /// `x-amz-checksum-type`
    pub checksum_type: Option<String>,
}

/// UploadPart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadPart {
    /// Of which upload.
    pub upload_id: String,
    /// 1 to 10,000.
    pub part_number: u32,
}

/// UploadPartCopy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadPartCopy {
    /// Of which upload.
    pub upload_id: String,
    /// 1 to 10,000.
    pub part_number: u32,
    /// Where from.
    pub source: CopySource,
    /// Bytes of the source; `None`: all of it.
    pub source_range: Option<Range<u64>>,
}

/// CompleteMultipartUpload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompleteMultipartUpload {
    /// Which upload.
    pub upload_id: String,
    /// `If-None-Match: *`: only if there is no such object.
    pub if_none_match_any: bool,
    /// `If-Match`: only if the object that is replaced has this tag.
    pub if_match: Option<String>,
}

/// What a method other than GET and HEAD does to an object.
pub(super) fn on_object(
    method: &str,
    head: &Head<'_>,
    target: &Target<'_>,
) -> Result<Operation, Error> {
    refuse_customer_keys(head)?;
    let query = &target.query;
    let of_upload = query.has("uploadId");
    let copies = head.known.x_amz_copy_source;
    if query.has("versionId") {
        return Err(not_implemented(
            "changes to single versions are not served; ask the origin",
        ));
    }
    match method {
        "PUT" if of_upload || query.has("partNumber") => {
            let part_number = number(target, "partNumber", 1..=PARTS_MAX)?
                .ok_or_else(|| invalid("an upload of a part has no `partNumber`"))?;
            let upload_id = upload_id(target)?;
            Ok(match copies {
                None => Operation::UploadPart(UploadPart {
                    upload_id,
                    part_number,
                }),
                Some(source) => Operation::UploadPartCopy(UploadPartCopy {
                    upload_id,
                    part_number,
                    source: CopySource::of(head, source)?,
                    source_range: source_range(head)?,
                }),
            })
        }
        "PUT" | "POST" if query.has("delete") => {
            Err(method_not_allowed(method, "an object with `delete`"))
        }
        "PUT" if query.has("uploads") => Err(method_not_allowed(method, "`uploads`; it is POST")),
        "PUT" => {
            let headers = ObjectHeaders::of(head)?;
            let (if_none_match_any, if_match) = write_conditions(head)?;
            Ok(match copies {
                None => Operation::PutObject(PutObject {
                    headers,
                    if_none_match_any,
                    if_match,
                }),
                Some(source) => Operation::CopyObject(CopyObject {
                    source: CopySource::of(head, source)?,
                    replaces_metadata: replaces_metadata(head)?,
                    headers,
                    if_none_match_any,
                    if_match,
                }),
            })
        }
        "POST" if query.has("uploads") => {
            Ok(Operation::CreateMultipartUpload(CreateMultipartUpload {
                headers: ObjectHeaders::of(head)?,
                checksum_algorithm: token(head, "x-amz-checksum-algorithm")?,
                checksum_type: token(head, "x-amz-checksum-type")?,
            }))
        }
        "POST" if of_upload => {
            let (if_none_match_any, if_match) = write_conditions(head)?;
            Ok(Operation::CompleteMultipartUpload(
                CompleteMultipartUpload {
                    upload_id: upload_id(target)?,
                    if_none_match_any,
                    if_match,
                },
            ))
        }
        "POST" => Err(method_not_allowed(method, "an object")),
        "DELETE" if of_upload => Ok(Operation::AbortMultipartUpload {
            upload_id: upload_id(target)?,
        }),
        "DELETE" if query.has("uploads") || query.has("partNumber") || query.has("delete") => {
            Err(method_not_allowed(method, "a sub-resource of an object"))
        }
        "DELETE" if head.known.if_match.is_some() => Err(not_implemented(
            "conditional deletes are not served; leave out `If-Match`",
        )),
        "DELETE" => Ok(Operation::DeleteObject),
        method => Err(method_not_allowed(method, "an object")),
    }
}

/// `If-None-Match: *` and `If-Match` of a write; S3 has no others.
fn write_conditions(head: &Head<'_>) -> Result<(bool, Option<String>), Error> {
    let if_none_match_any = match head.known.if_none_match {
        None => false,
        Some("*") => true,
        Some(_) => {
            return Err(not_implemented(
                "of a write `If-None-Match` can only be `*`",
            ));
        }
    };
    let if_match = token(head, "if-match")?;
    if if_none_match_any && if_match.is_some() {
        return Err(invalid(
            "`If-Match` and `If-None-Match` exclude each other; send one of them",
        ));
    }
    Ok((if_none_match_any, if_match))
}

fn replaces_metadata(head: &Head<'_>) -> Result<bool, Error> {
    match token(head, "x-amz-metadata-directive")?.as_deref() {
        None | Some("COPY") => Ok(false),
        Some("REPLACE") => Ok(true),
        Some(_) => Err(invalid("`x-amz-metadata-directive` is COPY or REPLACE")),
    }
}

fn source_range(head: &Head<'_>) -> Result<Option<Range<u64>>, Error> {
    let Some(value) = token(head, "x-amz-copy-source-range")? else {
        return Ok(None);
    };
    match RangeSpec::parse(&value) {
        // S3 answers a range of a copy that lies behind the end in the same way.
        Some(range @ RangeSpec::FromTo(..)) => match range.bounded() {
            Some(range) => Ok(Some(range)),
            None => Err(Error::new(
                ErrorCode::InvalidRange,
                "`x-amz-copy-source-range` ends beyond any object",
            )),
        },
        _ => Err(invalid(
            "`x-amz-copy-source-range` is of the form bytes=first-last",
        )),
    }
}

impl CopySource {
    /// Reads `/bucket/key?versionId=…`, percent-encoded, its first slash optional.
    fn of(head: &Head<'_>, source: &str) -> Result<Self, Error> {
        let malformed =
            || invalid("`x-amz-copy-source` is of the form bucket/key, percent-encoded");
        let (path, version) = match source.split_once("?versionId=") {
            Some((path, version)) => (path, Some(version)),
            None => (source, None),
        };
        let path = decode(path, Plus::Literal).map_err(|_| malformed())?;
        let path = path.strip_prefix('/').unwrap_or(&path);
        let (bucket, key) = path.split_once('/').ok_or_else(malformed)?;
        if key.is_empty() {
            return Err(malformed());
        }
        target::check_bucket(bucket)?;
        target::check_key(key)?;
        let version_id = match version {
            None => None,
            Some(version) => match decode(version, Plus::Literal) {
                Ok(version) if !version.is_empty() && !version.contains(char::is_control) => {
                    Some(version.into_owned())
                }
                _ => return Err(malformed()),
            },
        };
        Ok(CopySource {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            version_id,
            if_match: token(head, "x-amz-copy-source-if-match")?,
            if_none_match: token(head, "x-amz-copy-source-if-none-match")?,
            if_modified_since: token(head, "x-amz-copy-source-if-modified-since")?,
            if_unmodified_since: token(head, "x-amz-copy-source-if-unmodified-since")?,
        })
    }
}

/// The value of a header that is there once and holds visible ASCII.
fn token(head: &Head<'_>, name: &str) -> Result<Option<String>, Error> {
    let mut values = head.values(name);
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let visible = value
        .iter()
        .all(|byte| byte.is_ascii_graphic() || *byte == b' ');
    match str::from_utf8(value) {
        Ok(value) if visible && !value.is_empty() && values.next().is_none() => {
            Ok(Some(value.to_owned()))
        }
        _ => Err(Error::new(
            ErrorCode::InvalidArgument,
            format_args!("the header `{name}` is not one line of visible ASCII characters"),
        )),
    }
}

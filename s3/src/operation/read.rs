//! GetObject and HeadObject. Nothing here allocates unless the request overrides headers.

use std::borrow::Cow;

use super::{invalid, method_not_allowed, not_implemented, number};
use crate::conditions::Conditions;
use crate::error::Error;
use crate::head::Head;
use crate::range::RangeSpec;
use crate::target::Target;

/// Most parts of one object, as in S3.
pub const PARTS_MAX: u32 = 10_000;

/// A read of one object or its head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read<'a> {
    /// HeadObject: the same answer without its body.
    pub is_head: bool,
    /// Which bytes; `None`: all.
    pub range: Option<RangeSpec>,
    /// Under which conditions.
    pub conditions: Conditions<'a>,
    /// Headers of the answer that the request replaces. S3 allows them to signed requests only.
    pub overrides: Option<Box<ResponseOverrides>>,
    /// Whether the answer shows the checksums that the object was stored with.
    pub wants_checksum: bool,
    /// One part of an object that was uploaded in parts. Never together with a range.
    pub part_number: Option<u32>,
    /// One version of the object; `null` is the one without a version.
    pub version_id: Option<Cow<'a, str>>,
}

/// Headers of an answer that come from the query. None holds a control character.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseOverrides {
    /// `response-content-type`
    pub content_type: Option<String>,
    /// `response-content-language`
    pub content_language: Option<String>,
    /// `response-expires`
    pub expires: Option<String>,
    /// `response-cache-control`
    pub cache_control: Option<String>,
    /// `response-content-disposition`
    pub content_disposition: Option<String>,
    /// `response-content-encoding`
    pub content_encoding: Option<String>,
}

impl<'a> Read<'a> {
    pub(super) fn of(head: &Head<'a>, target: &Target<'a>) -> Result<Read<'a>, Error> {
        refuse_customer_keys(head)?;
        let mut read = Read {
            is_head: head.method == "HEAD",
            range: head.known.range.and_then(RangeSpec::parse),
            conditions: Conditions::of(&head.known),
            overrides: None,
            wants_checksum: head
                .known
                .x_amz_checksum_mode
                .is_some_and(|mode| mode.eq_ignore_ascii_case("enabled")),
            part_number: None,
            version_id: None,
        };
        if target.query.is_empty() {
            return Ok(read);
        }
        if ["uploads", "uploadId", "delete"]
            .iter()
            .any(|name| target.query.has(name))
        {
            return Err(method_not_allowed(
                head.method,
                "a sub-resource of an object",
            ));
        }
        read.version_id = target.query.get("versionId");
        if read
            .version_id
            .as_deref()
            .is_some_and(|id| id.is_empty() || id.contains(char::is_control))
        {
            return Err(invalid("the parameter `versionId` is not a version"));
        }
        read.part_number = number(target, "partNumber", 1..=PARTS_MAX)?;
        if read.part_number.is_some() && head.known.range.is_some() {
            return Err(invalid(
                "`partNumber` and `Range` exclude each other; send one of them",
            ));
        }
        read.overrides = ResponseOverrides::of(target)?;
        Ok(read)
    }
}

impl ResponseOverrides {
    fn of(target: &Target<'_>) -> Result<Option<Box<Self>>, Error> {
        let mut overrides = ResponseOverrides::default();
        for (name, value) in target.query.iter() {
            let slot = match name.as_ref() {
                "response-content-type" => &mut overrides.content_type,
                "response-content-language" => &mut overrides.content_language,
                "response-expires" => &mut overrides.expires,
                "response-cache-control" => &mut overrides.cache_control,
                "response-content-disposition" => &mut overrides.content_disposition,
                "response-content-encoding" => &mut overrides.content_encoding,
                _ => continue,
            };
            if value.contains(char::is_control) {
                return Err(invalid(format_args!(
                    "the parameter `{name}` holds a control character, which no header may"
                )));
            }
            *slot = Some(value.into_owned());
        }
        Ok((overrides != ResponseOverrides::default()).then(|| Box::new(overrides)))
    }
}

/// Objects encrypted with a key that the client sends along would lie decrypted in the cache, for
/// all to read.
pub(super) fn refuse_customer_keys(head: &Head<'_>) -> Result<(), Error> {
    const PREFIX: &[u8] = b"x-amz-server-side-encryption-customer-";
    const COPY_PREFIX: &[u8] = b"x-amz-copy-source-server-side-encryption-customer-";
    let begins = |name: &[u8], prefix: &[u8]| {
        name.get(..prefix.len())
            .is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
    };
    if head
        .lines()
        .any(|(name, _)| begins(name, PREFIX) || begins(name, COPY_PREFIX))
    {
        return Err(not_implemented(
            "encryption with keys of the client (SSE-C) is not served: the cache would hold the object in the clear; read it from the origin",
        ));
    }
    Ok(())
}

//! Single objects and buckets of an S3 origin.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use md5::{Digest, Md5};
use reqwest::Method;
use reqwest::header::HeaderMap;

use super::access::S3Access;
use super::fault;
use super::request::{ASSEMBLY_PATIENCE, Answer, Payload, add_header, in_path, text_of};
use super::xml::{Element, escape};
use crate::under_store::connector::parse_date;
use crate::under_store::origin::error::{Fault, OriginErrorKind as Kind};
use crate::under_store::origin::headers::{METADATA_PREFIX, OriginHeaders};
use crate::under_store::origin::types::{CopyDirective, Head, WriteCondition, Written};

/// A body without bytes.
pub(super) fn nothing() -> Payload {
    Payload::Held(Bytes::new())
}

impl S3Access {
    /// Writes an object.
    pub(in crate::under_store::origin) async fn put(
        &self,
        key: &str,
        headers: &OriginHeaders,
        condition: &WriteCondition,
        payload: Payload,
        time_left: Duration,
    ) -> Result<Written, Fault> {
        let mut ask = self.asking(Method::PUT, Some(key));
        self.add_object_headers(&mut ask.headers, headers)?;
        add_condition(&mut ask.headers, condition)?;
        let answer = self.send(ask, payload, time_left).await?;
        written(&answer)
    }

    /// What the object at `key` is now.
    pub async fn head(&self, key: &str, time_left: Duration) -> Result<Head, Fault> {
        let mut ask = self.asking(Method::HEAD, Some(key));
        add_header(&mut ask.headers, "x-amz-checksum-mode", "ENABLED")?;
        let answer = self.send(ask, nothing(), time_left).await?;
        let length = answer
            .header("content-length")
            .parse()
            .map_err(|_| fault::malformed("the answer to a HEAD has no `Content-Length`"))?;
        Ok(Head {
            etag: answer.header("etag").to_owned(),
            length,
            last_modified_ms: parse_date(answer.header("last-modified"))
                .map_or(0, |seconds| seconds * 1000),
            headers: object_headers(&answer.headers),
        })
    }

    /// Removes the object at `key`, which may be gone already.
    pub async fn delete(&self, key: &str, time_left: Duration) -> Result<(), Fault> {
        let ask = self.asking(Method::DELETE, Some(key));
        match self.send(ask, nothing(), time_left).await {
            Err(fault) if fault.kind == Kind::NotFound => Ok(()),
            result => result.map(drop),
        }
    }

    /// Removes the objects at `keys`, at most 1,000; the results in their order.
    pub async fn delete_many(
        &self,
        keys: &[String],
        time_left: Duration,
    ) -> Result<Vec<Result<(), Fault>>, Fault> {
        let mut document = String::from("<Delete><Quiet>true</Quiet>");
        for key in keys {
            document.push_str("<Object><Key>");
            escape(key, &mut document);
            document.push_str("</Key></Object>");
        }
        document.push_str("</Delete>");
        let mut ask = self.asking(Method::POST, None);
        ask.query.push(("delete", String::new()));
        let digest = BASE64.encode(Md5::digest(document.as_bytes()));
        add_header(&mut ask.headers, "content-md5", &digest)?;
        add_header(&mut ask.headers, "content-type", "application/xml")?;
        let answer = self
            .send(ask, Payload::Held(document.into()), time_left)
            .await?;
        let root = document_of(&answer, "DeleteResult")?;
        let failed: std::collections::HashMap<&str, &Element> = root
            .all("Error")
            .map(|error| (error.text_of("Key"), error))
            .collect();
        Ok(keys
            .iter()
            .map(|key| match failed.get(key.as_str()) {
                Some(error) if error.text_of("Code") != "NoSuchKey" => {
                    Err(fault::of_document(error))
                }
                _ => Ok(()),
            })
            .collect())
    }

    /// Copies within the store.
    pub async fn copy(
        &self,
        from: &str,
        if_match: Option<&str>,
        to: &str,
        directive: &CopyDirective,
        condition: &WriteCondition,
        time_left: Duration,
    ) -> Result<Written, Fault> {
        let mut ask = self.asking(Method::PUT, Some(to));
        add_header(&mut ask.headers, "x-amz-copy-source", &in_path(from))?;
        if let Some(etag) = if_match {
            add_header(&mut ask.headers, "x-amz-copy-source-if-match", etag)?;
        }
        let (name, headers) = match directive {
            CopyDirective::Copy => ("COPY", &OriginHeaders::default()),
            CopyDirective::Replace(headers) => ("REPLACE", headers),
        };
        add_header(&mut ask.headers, "x-amz-metadata-directive", name)?;
        self.add_object_headers(&mut ask.headers, headers)?;
        add_condition(&mut ask.headers, condition)?;
        ask.patience = ASSEMBLY_PATIENCE;
        let answer = self.send(ask, nothing(), time_left).await?;
        copied(&answer, "CopyObjectResult")
    }

    /// Makes the bucket.
    pub async fn create_bucket(&self, time_left: Duration) -> Result<(), Fault> {
        let ask = self.asking(Method::PUT, None);
        // Only the oldest region wants no document.
        let document = match self.region.as_str() {
            "us-east-1" => String::new(),
            region => {
                let mut document = String::from(
                    "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><LocationConstraint>",
                );
                escape(region, &mut document);
                document.push_str("</LocationConstraint></CreateBucketConfiguration>");
                document
            }
        };
        self.send(ask, Payload::Held(document.into()), time_left)
            .await
            .map(drop)
    }

    /// The headers of a write that begins an object.
    pub(super) fn add_object_headers(
        &self,
        into: &mut HeaderMap,
        headers: &OriginHeaders,
    ) -> Result<(), Fault> {
        for (name, value) in &self.encryption {
            add_header(into, name, value)?;
        }
        for (name, value) in headers.kept() {
            add_header(into, &name, &value)?;
        }
        // How the mount encrypts is the operator's to say.
        let is_settled =
            |name: &str| !self.encryption.is_empty() && name.starts_with(ENCRYPTION_PREFIX);
        for (name, value) in &headers.passed {
            if !is_settled(name) {
                add_header(into, name, value)?;
            }
        }
        Ok(())
    }
}

/// How the names of headers begin that say how an object is encrypted at rest.
const ENCRYPTION_PREFIX: &str = "x-amz-server-side-encryption";

/// Adds what a write depends on.
pub(super) fn add_condition(
    headers: &mut HeaderMap,
    condition: &WriteCondition,
) -> Result<(), Fault> {
    match condition {
        WriteCondition::None => Ok(()),
        WriteCondition::IfAbsent => add_header(headers, "if-none-match", "*"),
        WriteCondition::IfMatch(etag) => add_header(headers, "if-match", etag),
    }
}

/// What the head of an answer says of what was written.
pub(super) fn written(answer: &Answer) -> Result<Written, Fault> {
    let etag = answer.header("etag");
    if etag.is_empty() {
        return Err(Fault::lasting(
            Kind::Malformed,
            "the store accepted the write without an ETag",
        ));
    }
    Ok(Written {
        etag: etag.to_owned(),
        ..written_without_etag(&answer.headers)
    })
}

/// As [`written`], where the ETag is in a document.
pub(super) fn written_without_etag(headers: &HeaderMap) -> Written {
    let version = text_of(headers, "x-amz-version-id");
    Written {
        version_id: (!version.is_empty()).then(|| version.to_owned()),
        checksums: headers
            .keys()
            .filter(|name| name.as_str().starts_with("x-amz-checksum-"))
            .map(|name| {
                (
                    name.as_str().to_owned(),
                    text_of(headers, name.as_str()).to_owned(),
                )
            })
            .collect(),
        ..Written::default()
    }
}

/// What the document of a copy says of what was written.
pub(super) fn copied(answer: &Answer, name: &str) -> Result<Written, Fault> {
    let root = document_of(answer, name)?;
    Ok(Written {
        etag: quoted(root.text_of("ETag")),
        last_modified_ms: parse_iso_8601(root.text_of("LastModified")).unwrap_or(0),
        ..written_without_etag(&answer.headers)
    })
}

/// The document of an answer. S3 may say 200 first and find out later that it failed.
pub(super) fn document_of(answer: &Answer, name: &str) -> Result<Element, Fault> {
    let root = Element::parse(&answer.body)
        .map_err(|cause| fault::malformed(format!("the answer is no document of S3: {cause}")))?;
    if root.name == "Error" {
        return Err(fault::of_document(&root));
    }
    if root.name != name {
        let cause = format!("the answer is a `{}`, not a `{name}`", root.name);
        return Err(fault::malformed(cause));
    }
    Ok(root)
}

/// An ETag with its quotes, which some stores leave out in documents.
pub(super) fn quoted(etag: &str) -> String {
    if etag.is_empty() || etag.contains('"') {
        etag.to_owned()
    } else {
        format!("\"{etag}\"")
    }
}

/// Milliseconds since the Unix epoch of a date such as `2026-11-22T10:00:00.000Z`.
pub(super) fn parse_iso_8601(text: &str) -> Option<u64> {
    let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    u64::try_from(time.timestamp_millis()).ok()
}

/// The headers that belong to the object, not to the request.
fn object_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let is_kept = |name: &str| {
        matches!(
            name,
            "content-type"
                | "content-encoding"
                | "content-language"
                | "content-disposition"
                | "cache-control"
                | "expires"
        ) || name.starts_with(METADATA_PREFIX)
            || (name.starts_with("x-amz-")
                && !matches!(
                    name,
                    "x-amz-request-id" | "x-amz-id-2" | "x-amz-bucket-region"
                ))
    };
    headers
        .iter()
        .filter(|(name, _)| is_kept(name.as_str()))
        // A value that is no text cannot be repeated in ours.
        .filter_map(|(name, value)| {
            let value = std::str::from_utf8(value.as_bytes()).ok()?;
            Some((name.as_str().to_owned(), value.to_owned()))
        })
        .collect()
}

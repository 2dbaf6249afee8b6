//! Multipart uploads of an S3 origin.

use std::ops::Range;
use std::time::Duration;

use reqwest::Method;

use super::access::S3Access;
use super::fault;
use super::objects::{
    add_condition, copied, document_of, nothing, parse_iso_8601, quoted, written,
    written_without_etag,
};
use super::request::{ASSEMBLY_PATIENCE, Payload, add_header, in_path};
use super::xml::escape;
use crate::under_store::origin::error::Fault;
use crate::under_store::origin::headers::OriginHeaders;
use crate::under_store::origin::types::{
    CompletedPart, ListedPart, ListedUpload, PartPage, UploadPage, WriteCondition, Written,
};

impl S3Access {
    /// Begins an upload and returns its id.
    pub async fn create_upload(
        &self,
        key: &str,
        headers: &OriginHeaders,
        time_left: Duration,
    ) -> Result<String, Fault> {
        let mut ask = self.asking(Method::POST, Some(key));
        ask.query.push(("uploads", String::new()));
        self.add_object_headers(&mut ask.headers, headers)?;
        let answer = self.send(ask, nothing(), time_left).await?;
        let root = document_of(&answer, "InitiateMultipartUploadResult")?;
        match root.text_of("UploadId") {
            "" => Err(fault::malformed("the store began an upload without an id")),
            id => Ok(id.to_owned()),
        }
    }

    /// Writes a part.
    pub(in crate::under_store::origin) async fn put_part(
        &self,
        key: &str,
        upload_id: &str,
        number: u32,
        passed: &[(String, String)],
        payload: Payload,
        time_left: Duration,
    ) -> Result<Written, Fault> {
        let mut ask = self.asking(Method::PUT, Some(key));
        ask.query.push(("partNumber", number.to_string()));
        ask.query.push(("uploadId", upload_id.to_owned()));
        for (name, value) in passed {
            add_header(&mut ask.headers, name, value)?;
        }
        let answer = self.send(ask, payload, time_left).await?;
        written(&answer)
    }

    /// Makes a part of an object of the same store, or of a range of it.
    pub async fn copy_part(
        &self,
        from: &str,
        if_match: Option<&str>,
        range: Option<Range<u64>>,
        (key, upload_id, number): (&str, &str, u32),
        time_left: Duration,
    ) -> Result<Written, Fault> {
        let mut ask = self.asking(Method::PUT, Some(key));
        ask.query.push(("partNumber", number.to_string()));
        ask.query.push(("uploadId", upload_id.to_owned()));
        add_header(&mut ask.headers, "x-amz-copy-source", &in_path(from))?;
        if let Some(etag) = if_match {
            add_header(&mut ask.headers, "x-amz-copy-source-if-match", etag)?;
        }
        if let Some(range) = range {
            let text = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
            add_header(&mut ask.headers, "x-amz-copy-source-range", &text)?;
        }
        ask.patience = ASSEMBLY_PATIENCE;
        let answer = self.send(ask, nothing(), time_left).await?;
        copied(&answer, "CopyPartResult")
    }

    /// Makes the object of its parts.
    pub async fn complete_upload(
        &self,
        key: &str,
        upload_id: &str,
        parts: &[CompletedPart],
        condition: &WriteCondition,
        time_left: Duration,
    ) -> Result<Written, Fault> {
        let mut document = String::from(
            "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">",
        );
        for part in parts {
            document.push_str("<Part><PartNumber>");
            document.push_str(&part.number.to_string());
            document.push_str("</PartNumber><ETag>");
            escape(&part.etag, &mut document);
            document.push_str("</ETag>");
            if let Some(name) = part
                .checksum
                .as_ref()
                .and_then(|(name, _)| checksum_element(name))
                && let Some((_, value)) = &part.checksum
            {
                document.push_str(&format!("<{name}>"));
                escape(value, &mut document);
                document.push_str(&format!("</{name}>"));
            }
            document.push_str("</Part>");
        }
        document.push_str("</CompleteMultipartUpload>");
        let mut ask = self.asking(Method::POST, Some(key));
        ask.query.push(("uploadId", upload_id.to_owned()));
        add_header(&mut ask.headers, "content-type", "application/xml")?;
        add_condition(&mut ask.headers, condition)?;
        ask.patience = ASSEMBLY_PATIENCE;
        let answer = self
            .send(ask, Payload::Held(document.into()), time_left)
            .await?;
        let root = document_of(&answer, "CompleteMultipartUploadResult")?;
        let mut result = written_without_etag(&answer.headers);
        result.etag = quoted(root.text_of("ETag"));
        for child in &root.children {
            if let Some(kind) = child.name.strip_prefix("Checksum") {
                let name = format!("x-amz-checksum-{}", kind.to_ascii_lowercase());
                result.checksums.push((name, child.text.clone()));
            }
        }
        if result.etag.is_empty() {
            return Err(fault::malformed(
                "the store completed an upload without an ETag",
            ));
        }
        Ok(result)
    }

    /// Ends an upload without an object.
    pub async fn abort_upload(
        &self,
        key: &str,
        upload_id: &str,
        time_left: Duration,
    ) -> Result<(), Fault> {
        let mut ask = self.asking(Method::DELETE, Some(key));
        ask.query.push(("uploadId", upload_id.to_owned()));
        self.send(ask, nothing(), time_left).await.map(drop)
    }

    /// The parts of an upload behind `marker`.
    pub async fn list_parts(
        &self,
        key: &str,
        upload_id: &str,
        marker: u32,
        parts_max: usize,
        time_left: Duration,
    ) -> Result<PartPage, Fault> {
        let mut ask = self.asking(Method::GET, Some(key));
        ask.query.push(("uploadId", upload_id.to_owned()));
        ask.query.push(("max-parts", parts_max.to_string()));
        if marker > 0 {
            ask.query.push(("part-number-marker", marker.to_string()));
        }
        let answer = self.send(ask, nothing(), time_left).await?;
        let root = document_of(&answer, "ListPartsResult")?;
        let mut parts: Vec<ListedPart> = root
            .all("Part")
            .map(|part| {
                Ok(ListedPart {
                    number: number_of(part.text_of("PartNumber"))?,
                    etag: quoted(part.text_of("ETag")),
                    size: number_of(part.text_of("Size"))?,
                    last_modified_ms: parse_iso_8601(part.text_of("LastModified")).unwrap_or(0),
                })
            })
            .collect::<Result<_, Fault>>()?;
        // Some stores list in the order of arrival, and all parts whatever the marker.
        parts.retain(|part| part.number > marker);
        parts.sort_unstable_by_key(|part| part.number);
        let next_marker = (root.text_of("IsTruncated") == "true")
            .then(|| parts.last().map(|part| part.number))
            .flatten();
        Ok(PartPage { parts, next_marker })
    }

    /// The uploads of keys that begin with `prefix`, behind a key and an id.
    pub async fn list_uploads(
        &self,
        prefix: &str,
        after: Option<&(String, String)>,
        uploads_max: usize,
        time_left: Duration,
    ) -> Result<UploadPage, Fault> {
        let mut ask = self.asking(Method::GET, None);
        ask.query.push(("uploads", String::new()));
        ask.query.push(("max-uploads", uploads_max.to_string()));
        ask.query.push(("prefix", prefix.to_owned()));
        if let Some((key, id)) = after {
            ask.query.push(("key-marker", key.clone()));
            ask.query.push(("upload-id-marker", id.clone()));
        }
        let answer = self.send(ask, nothing(), time_left).await?;
        let root = document_of(&answer, "ListMultipartUploadsResult")?;
        let uploads: Vec<ListedUpload> = root
            .all("Upload")
            .map(|upload| ListedUpload {
                key: upload.text_of("Key").to_owned(),
                upload_id: upload.text_of("UploadId").to_owned(),
                initiated_ms: parse_iso_8601(upload.text_of("Initiated")).unwrap_or(0),
            })
            .collect();
        let next_marker = (root.text_of("IsTruncated") == "true")
            .then(|| uploads.last())
            .flatten()
            .map(|last| (last.key.clone(), last.upload_id.clone()));
        Ok(UploadPage {
            uploads,
            next_marker,
        })
    }
}

/// A number of a document.
pub(super) fn number_of<T: std::str::FromStr>(text: &str) -> Result<T, Fault> {
    text.parse()
        .map_err(|_| fault::malformed("the answer has a number that is none"))
}

/// The element of a part's checksum.
fn checksum_element(header: &str) -> Option<&'static str> {
    Some(match header.strip_prefix("x-amz-checksum-")? {
        "crc32" => "ChecksumCRC32",
        "crc32c" => "ChecksumCRC32C",
        "crc64nvme" => "ChecksumCRC64NVME",
        "sha1" => "ChecksumSHA1",
        "sha256" => "ChecksumSHA256",
        _ => return None,
    })
}

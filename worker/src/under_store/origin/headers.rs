//! The headers that an origin keeps with an object.

use object_store::{Attribute, Attributes};

use crate::object::HEADERS_BYTES_MAX;

/// Headers of a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OriginHeaders {
    /// `Content-Type`
    pub content_type: Option<String>,
    /// `Content-Encoding`, without `aws-chunked`.
    pub content_encoding: Option<String>,
    /// `Content-Language`
    pub content_language: Option<String>,
    /// `Content-Disposition`
    pub content_disposition: Option<String>,
    /// `Cache-Control`
    pub cache_control: Option<String>,
    /// `Expires`, as it was sent.
    pub expires: Option<String>,
    /// Names without `x-amz-meta-`, lower case, and values.
    pub metadata: Vec<(String, String)>,
    /// Whole headers for an S3 origin, such as `x-amz-storage-class` or `x-amz-checksum-crc32c`.
    /// Other origins leave them out.
    pub passed: Vec<(String, String)>,
}

/// Prefix of the headers that are the user's own.
pub(super) const METADATA_PREFIX: &str = "x-amz-meta-";

impl OriginHeaders {
    /// The headers that belong to the object, lower-case names first.
    pub(super) fn kept(&self) -> Vec<(String, String)> {
        let named = [
            ("content-type", &self.content_type),
            ("content-encoding", &self.content_encoding),
            ("content-language", &self.content_language),
            ("content-disposition", &self.content_disposition),
            ("cache-control", &self.cache_control),
            ("expires", &self.expires),
        ];
        let named = named.into_iter().filter_map(|(name, value)| {
            let value = value.as_ref().filter(|value| !value.is_empty())?;
            Some((name.to_owned(), value.clone()))
        });
        let own = self
            .metadata
            .iter()
            .map(|(name, value)| (format!("{METADATA_PREFIX}{name}"), value.clone()));
        named.chain(own).collect()
    }
}

/// Whether a header of an origin's answer belongs to the object and is not described otherwise.
pub(crate) fn is_described(name: &str) -> bool {
    matches!(
        name,
        "content-encoding"
            | "content-language"
            | "content-disposition"
            | "cache-control"
            | "expires"
    ) || name.starts_with(METADATA_PREFIX)
}

/// `headers`, or `None` if they have more bytes than are kept.
pub(crate) fn bounded(headers: Vec<(String, String)>) -> Option<Vec<(String, String)>> {
    let bytes: usize = headers
        .iter()
        // Each is kept as a line, `name:value`.
        .map(|(name, value)| name.len() + value.len() + 2)
        .sum();
    (bytes <= HEADERS_BYTES_MAX).then_some(headers)
}

/// The headers of an object that the crate knows, under their names in HTTP.
pub(crate) fn headers_of(attributes: &Attributes) -> Vec<(String, String)> {
    attributes
        .iter()
        .filter_map(|(attribute, value)| {
            let name = match attribute {
                Attribute::ContentType => "content-type".to_owned(),
                Attribute::ContentEncoding => "content-encoding".to_owned(),
                Attribute::ContentLanguage => "content-language".to_owned(),
                Attribute::ContentDisposition => "content-disposition".to_owned(),
                Attribute::CacheControl => "cache-control".to_owned(),
                Attribute::StorageClass => "x-amz-storage-class".to_owned(),
                Attribute::Metadata(name) => format!("x-amz-meta-{}", name.to_ascii_lowercase()),
                _ => return None,
            };
            Some((name, value.as_ref().to_owned()))
        })
        .collect()
}

//! Pages of an S3 origin's own listing, with the keys as they are.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use reqwest::Method;

use super::access::S3Access;
use super::fault;
use super::multipart::number_of;
use super::objects::{document_of, nothing, parse_iso_8601, quoted};
use crate::under_store::origin::error::Fault;

/// One object of a page.
#[derive(Debug)]
pub(crate) struct S3Entry {
    /// Key in the bucket.
    pub key: String,
    /// With quotes; empty if the store does not say.
    pub etag: String,
    pub size: u64,
    pub last_modified_ms: u64,
    /// Empty where the store does not say.
    pub storage_class: String,
}

/// One page.
#[derive(Debug)]
pub(crate) struct S3Page {
    pub objects: Vec<S3Entry>,
    pub common_prefixes: Vec<String>,
    /// Of the next page.
    pub token: Option<String>,
}

impl S3Access {
    /// One page of what the bucket has behind `after` at keys that begin with `prefix`.
    pub async fn list(
        &self,
        prefix: &str,
        groups: bool,
        after: &str,
        token: Option<&str>,
        keys_max: usize,
        time_left: Duration,
    ) -> Result<S3Page, Fault> {
        let mut ask = self.asking(Method::GET, None);
        ask.query.push(("list-type", "2".to_owned()));
        // Keys may have characters that XML cannot.
        ask.query.push(("encoding-type", "url".to_owned()));
        ask.query.push(("max-keys", keys_max.to_string()));
        ask.query.push(("prefix", prefix.to_owned()));
        if groups {
            ask.query.push(("delimiter", "/".to_owned()));
        }
        match token {
            Some(token) => ask.query.push(("continuation-token", token.to_owned())),
            None if !after.is_empty() => ask.query.push(("start-after", after.to_owned())),
            None => {}
        }
        let answer = self.send(ask, nothing(), time_left).await?;
        let root = document_of(&answer, "ListBucketResult")?;
        let is_encoded = root.text_of("EncodingType") == "url";
        let key_of = |text: &str| {
            if !is_encoded {
                return Ok(text.to_owned());
            }
            // S3 writes a blank as `+`, as forms have it.
            let text = text.replace('+', " ");
            percent_decode_str(&text)
                .decode_utf8()
                .map(std::borrow::Cow::into_owned)
                .map_err(|_| fault::malformed("a key of the listing is not UTF-8"))
        };
        let objects = root
            .all("Contents")
            .map(|object| {
                Ok(S3Entry {
                    key: key_of(object.text_of("Key"))?,
                    etag: quoted(object.text_of("ETag")),
                    size: number_of(object.text_of("Size"))?,
                    last_modified_ms: parse_iso_8601(object.text_of("LastModified")).unwrap_or(0),
                    storage_class: object.text_of("StorageClass").to_owned(),
                })
            })
            .collect::<Result<_, Fault>>()?;
        let common_prefixes = root
            .all("CommonPrefixes")
            .map(|group| key_of(group.text_of("Prefix")))
            .collect::<Result<_, Fault>>()?;
        let token = match root.text_of("NextContinuationToken") {
            "" if root.text_of("IsTruncated") == "true" => {
                return Err(fault::malformed(
                    "the listing goes on, but does not say where",
                ));
            }
            "" => None,
            token => Some(token.to_owned()),
        };
        Ok(S3Page {
            objects,
            common_prefixes,
            token,
        })
    }
}

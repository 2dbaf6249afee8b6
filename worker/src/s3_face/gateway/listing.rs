//! Listings of objects.
//!
//! A continuation token is where the next page begins, so that a page needs nothing of the one before
//! and any worker can go on.

use std::sync::Arc;

use corelane_s3::operation::{ListObjects, ListVersion};
use corelane_s3::xml::list_objects::{ListedObject, Page, Paging};
use corelane_s3::{Error, ErrorCode, xml};

use super::buckets::OWNER;
use super::failure::error_of;
use super::{Request, Response};
use crate::mount::Mount;
use crate::under_store::origin::ListQuery;

/// What a token begins with: another form of it will begin otherwise.
const TOKEN_VERSION: &str = "1.";

/// The token of the page that begins behind `after`, in characters that need no escape anywhere.
fn token_of(after: &str) -> String {
    let digits = after.bytes().map(|byte| format!("{byte:02x}"));
    TOKEN_VERSION
        .chars()
        .map(String::from)
        .chain(digits)
        .collect()
}

/// Where the page of `token` begins.
fn after_of(token: &str) -> Option<String> {
    let digits = token.strip_prefix(TOKEN_VERSION)?.as_bytes();
    if digits.len() % 2 != 0 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let bytes: Option<Vec<u8>> = digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    String::from_utf8(bytes?).ok()
}

impl Request {
    pub(super) async fn list_objects(
        &mut self,
        mount: &Arc<Mount>,
        list: &ListObjects,
    ) -> Result<Response, Error> {
        let after = match &list.continuation_token {
            Some(token) => after_of(token).ok_or_else(|| {
                Error::new(
                    ErrorCode::InvalidArgument,
                    "The continuation token provided is incorrect; list from the start",
                )
            })?,
            None => list.start_after.clone().unwrap_or_default(),
        };
        let query = ListQuery {
            prefix: list.prefix.clone(),
            delimiter: list.delimiter.clone(),
            after,
            max_keys: list.max_keys as usize,
        };
        let listed = if list.max_keys == 0 {
            Default::default()
        } else {
            let client = self.body.writer.clone();
            let listed = self.inner.origins.list_for(mount, query, client).await;
            listed.map_err(|failure| error_of(&failure))?
        };
        let next_token = listed.next_after.as_deref().map(token_of);
        let objects: Vec<ListedObject<'_>> = listed
            .objects
            .iter()
            .map(|object| ListedObject {
                key: &object.key,
                etag: &object.etag,
                size: object.size,
                last_modified_ms: object.last_modified_ms,
                storage_class: &object.storage_class,
            })
            .collect();
        let prefixes: Vec<&str> = listed.common_prefixes.iter().map(String::as_str).collect();
        let paging = match list.version {
            ListVersion::V2 => Paging::V2 {
                continuation_token: list.continuation_token.as_deref(),
                start_after: list.start_after.as_deref(),
                next_token: next_token.as_deref(),
                owner: list.fetch_owner.then_some(OWNER),
            },
            ListVersion::V1 => Paging::V1 {
                marker: list.start_after.as_deref().unwrap_or_default(),
                next_marker: listed.next_after.as_deref(),
                owner: OWNER,
            },
        };
        let mut body = Vec::new();
        xml::list_objects::write(
            &mut body,
            &Page {
                bucket: &self.bucket,
                prefix: &list.prefix,
                delimiter: list.delimiter.as_deref(),
                max_keys: list.max_keys,
                encodes_url: list.encoding_url,
                is_truncated: listed.next_after.is_some(),
                objects: &objects,
                common_prefixes: &prefixes,
                paging,
            },
        );
        Ok(Response::xml(200, body, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::VERSION_BYTES_MAX;
    use crate::s3_face::gateway::ENTRY_BYTES_MAX;
    use proptest::prelude::*;

    #[test]
    fn an_entry_whose_every_byte_is_escaped_has_the_memory_that_is_counted_for_it() {
        let (key, etag) = ("\"".repeat(1024), "\"".repeat(VERSION_BYTES_MAX));
        let object = ListedObject {
            key: &key,
            etag: &etag,
            size: u64::MAX,
            last_modified_ms: u64::MAX >> 12,
            storage_class: "INTELLIGENT_TIERING",
        };
        let length_of = |objects: &[ListedObject<'_>]| {
            let mut body = Vec::new();
            let page = Page {
                bucket: "lake",
                prefix: "",
                delimiter: None,
                max_keys: 1000,
                encodes_url: false,
                is_truncated: false,
                objects,
                common_prefixes: &[],
                paging: Paging::V1 {
                    marker: "",
                    next_marker: None,
                    owner: OWNER,
                },
            };
            xml::list_objects::write(&mut body, &page);
            body.len() as u64
        };
        let bytes = length_of(&[object, object]) - length_of(&[object]);
        assert!(bytes > 6 * 1024, "it was not about this: {bytes}");
        assert!(bytes <= ENTRY_BYTES_MAX, "{bytes}");
    }

    proptest! {
        #[test]
        fn a_token_says_where_the_next_page_begins(after in ".{0,60}") {
            let token = token_of(&after);
            prop_assert!(token.chars().all(|c| c.is_ascii_alphanumeric() || c == '.'));
            prop_assert_eq!(after_of(&token), Some(after));
        }

        #[test]
        fn no_other_text_is_a_token(text in "[0-9a-g.+-]{0,20}") {
            if let Some(after) = after_of(&text) {
                prop_assert_eq!(token_of(&after), text.to_lowercase());
            }
        }
    }
}

//! `ListObjectsV2` and `ListObjects`: a page of a bucket.

use super::Owner;
use super::write::Writer;

/// An object of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedObject<'a> {
    /// The whole key.
    pub key: &'a str,
    /// As the `ETag` header of the object says it, with its quotes.
    pub etag: &'a str,
    /// Bytes.
    pub size: u64,
    /// Milliseconds since 1970, UTC.
    pub last_modified_ms: u64,
    /// `STANDARD` where the origin says nothing.
    pub storage_class: &'a str,
}

/// How the page was asked for and goes on: the two versions of the call differ in nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paging<'a> {
    /// `ListObjectsV2`.
    V2 {
        /// Of the request.
        continuation_token: Option<&'a str>,
        /// Of the request.
        start_after: Option<&'a str>,
        /// Where the next page begins; `Some` when the page is truncated.
        next_token: Option<&'a str>,
        /// The owner of every object, where `fetch-owner` asked for it.
        owner: Option<Owner<'a>>,
    },
    /// `ListObjects`, which always says owners.
    V1 {
        /// Of the request, `""` if none.
        marker: &'a str,
        /// The last key or common prefix of a truncated page; written only beside a delimiter,
        /// because without one clients take the last key.
        next_marker: Option<&'a str>,
        /// The owner of every object.
        owner: Owner<'a>,
    },
}

/// A page, borrowed from whoever listed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page<'a> {
    /// The bucket.
    pub bucket: &'a str,
    /// Of the request, `""` if none.
    pub prefix: &'a str,
    /// Of the request; an empty one is none.
    pub delimiter: Option<&'a str>,
    /// Of the request, after S3's limit of 1,000.
    pub max_keys: u32,
    /// Whether the request said `encoding-type=url`.
    pub encodes_url: bool,
    /// Whether more follows.
    pub is_truncated: bool,
    /// In the order of their keys.
    pub objects: &'a [ListedObject<'a>],
    /// In order, each up to and with the delimiter.
    pub common_prefixes: &'a [&'a str],
    /// What differs between the versions.
    pub paging: Paging<'a>,
}

/// Bytes of an object's elements without its key and etag, for the room that a page is given at
/// once: growing by doubling would copy a page of a thousand several times.
const OBJECT_BYTES: usize = 320;

/// Appends the page.
pub fn write(out: &mut Vec<u8>, page: &Page<'_>) {
    let keys: usize = page.objects.iter().map(|object| object.key.len()).sum();
    out.reserve(1024 + keys + page.objects.len() * OBJECT_BYTES);
    let url = page.encodes_url;
    let mut writer = Writer::document(out, "ListBucketResult");
    writer.text("Name", page.bucket);
    writer.key("Prefix", page.prefix, url);
    let delimiter = page.delimiter.filter(|delimiter| !delimiter.is_empty());
    if let Some(delimiter) = delimiter {
        writer.key("Delimiter", delimiter, url);
    }
    writer.number("MaxKeys", page.max_keys.into());
    writer.optional("EncodingType", url.then_some("url"));
    writer.boolean("IsTruncated", page.is_truncated);
    let owner = match page.paging {
        Paging::V2 {
            continuation_token,
            start_after,
            next_token,
            owner,
        } => {
            let count = page.objects.len() + page.common_prefixes.len();
            writer.number("KeyCount", count as u64);
            writer.optional("ContinuationToken", continuation_token);
            writer.optional("NextContinuationToken", next_token);
            if let Some(start_after) = start_after {
                writer.key("StartAfter", start_after, url);
            }
            owner
        }
        Paging::V1 {
            marker,
            next_marker,
            owner,
        } => {
            writer.key("Marker", marker, url);
            if let (Some(next_marker), Some(_)) = (next_marker, delimiter) {
                writer.key("NextMarker", next_marker, url);
            }
            Some(owner)
        }
    };
    for object in page.objects {
        writer.open("Contents");
        writer.key("Key", object.key, url);
        writer.time("LastModified", object.last_modified_ms);
        writer.etag(object.etag);
        writer.number("Size", object.size);
        if let Some(owner) = &owner {
            writer.owner("Owner", owner);
        }
        writer.text("StorageClass", object.storage_class);
        writer.close("Contents");
    }
    for prefix in page.common_prefixes {
        writer.open("CommonPrefixes");
        writer.key("Prefix", prefix, url);
        writer.close("CommonPrefixes");
    }
    writer.close("ListBucketResult");
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner<'_> = Owner {
        id: "o",
        display_name: "corelane",
    };

    fn written(page: &Page<'_>) -> String {
        let mut out = Vec::new();
        write(&mut out, page);
        String::from_utf8(out).expect("UTF-8")
    }

    fn page<'a>(objects: &'a [ListedObject<'a>], paging: Paging<'a>) -> Page<'a> {
        Page {
            bucket: "lake",
            prefix: "t 1/",
            delimiter: None,
            max_keys: 1000,
            encodes_url: false,
            is_truncated: true,
            objects,
            common_prefixes: &["t 1/x/"],
            paging,
        }
    }

    const OBJECT: ListedObject<'_> = ListedObject {
        key: "t 1/a\u{1}",
        etag: "\"abc\"",
        size: 5,
        last_modified_ms: 0,
        storage_class: "STANDARD",
    };

    #[test]
    fn a_page_of_version_two_counts_keys_and_quotes_etags() {
        let paging = Paging::V2 {
            continuation_token: Some("t0"),
            start_after: Some("t 1/0"),
            next_token: Some("t1"),
            owner: None,
        };
        let mut page = page(&[OBJECT], paging);
        page.encodes_url = true;
        page.delimiter = Some("/");
        assert_eq!(
            written(&page),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>lake</Name>\
             <Prefix>t%201/</Prefix><Delimiter>/</Delimiter><MaxKeys>1000</MaxKeys>\
             <EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><KeyCount>2</KeyCount>\
             <ContinuationToken>t0</ContinuationToken>\
             <NextContinuationToken>t1</NextContinuationToken><StartAfter>t%201/0</StartAfter>\
             <Contents><Key>t%201/a%01</Key><LastModified>1970-01-01T00:00:00.000Z</LastModified>\
             <ETag>&quot;abc&quot;</ETag><Size>5</Size><StorageClass>STANDARD</StorageClass>\
             </Contents><CommonPrefixes><Prefix>t%201/x/</Prefix></CommonPrefixes>\
             </ListBucketResult>"
        );
    }

    #[test]
    fn a_page_of_version_one_says_the_next_marker_only_beside_a_delimiter() {
        let paging = Paging::V1 {
            marker: "",
            next_marker: Some("t 1/x/"),
            owner: OWNER,
        };
        let objects = [OBJECT];
        let mut page = page(&objects, paging);
        assert!(!written(&page).contains("NextMarker"));
        page.delimiter = Some("");
        assert!(!written(&page).contains("NextMarker"));
        page.delimiter = Some("/");
        let text = written(&page);
        assert!(text.contains("<Marker></Marker><NextMarker>t 1/x/</NextMarker>"));
        assert!(text.contains("<Key>t 1/a&#x01;</Key>"));
        assert!(text.contains("<Owner><ID>o</ID><DisplayName>corelane</DisplayName></Owner>"));
        assert!(!text.contains("KeyCount"));
    }
}

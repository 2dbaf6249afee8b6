//! `ListMultipartUploads`: uploads that were begun and not ended.

use super::Owner;
use super::write::Writer;

/// An upload that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedUpload<'a> {
    /// The key that it will have.
    pub key: &'a str,
    /// The upload.
    pub upload_id: &'a str,
    /// Milliseconds since 1970, UTC.
    pub initiated_ms: u64,
    /// `STANDARD` where the origin says nothing.
    pub storage_class: &'a str,
}

/// A page of uploads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page<'a> {
    /// The bucket.
    pub bucket: &'a str,
    /// Of the request, `""` if none.
    pub prefix: &'a str,
    /// Of the request; an empty one is none.
    pub delimiter: Option<&'a str>,
    /// Of the request, `""` if none.
    pub key_marker: &'a str,
    /// Of the request, `""` if none.
    pub upload_id_marker: &'a str,
    /// Key and upload after which a truncated page goes on.
    pub next: Option<(&'a str, &'a str)>,
    /// Of the request, after S3's limit of 1,000.
    pub max_uploads: u32,
    /// Whether more follows.
    pub is_truncated: bool,
    /// Who began them all.
    pub owner: Owner<'a>,
    /// In the order of their keys.
    pub uploads: &'a [ListedUpload<'a>],
    /// In order, each up to and with the delimiter.
    pub common_prefixes: &'a [&'a str],
    /// Whether the request said `encoding-type=url`.
    pub encodes_url: bool,
}

/// Appends the page.
pub fn write(out: &mut Vec<u8>, page: &Page<'_>) {
    let url = page.encodes_url;
    let mut writer = Writer::document(out, "ListMultipartUploadsResult");
    writer.text("Bucket", page.bucket);
    writer.key("KeyMarker", page.key_marker, url);
    writer.text("UploadIdMarker", page.upload_id_marker);
    if let Some((key, upload_id)) = page.next {
        writer.key("NextKeyMarker", key, url);
        writer.text("NextUploadIdMarker", upload_id);
    }
    writer.key("Prefix", page.prefix, url);
    if let Some(delimiter) = page.delimiter.filter(|delimiter| !delimiter.is_empty()) {
        writer.key("Delimiter", delimiter, url);
    }
    writer.number("MaxUploads", page.max_uploads.into());
    writer.optional("EncodingType", url.then_some("url"));
    writer.boolean("IsTruncated", page.is_truncated);
    for upload in page.uploads {
        writer.open("Upload");
        writer.key("Key", upload.key, url);
        writer.text("UploadId", upload.upload_id);
        writer.owner("Initiator", &page.owner);
        writer.owner("Owner", &page.owner);
        writer.text("StorageClass", upload.storage_class);
        writer.time("Initiated", upload.initiated_ms);
        writer.close("Upload");
    }
    for prefix in page.common_prefixes {
        writer.open("CommonPrefixes");
        writer.key("Prefix", prefix, url);
        writer.close("CommonPrefixes");
    }
    writer.close("ListMultipartUploadsResult");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_truncated_page_says_where_it_goes_on() {
        let mut out = Vec::new();
        let page = Page {
            bucket: "lake",
            prefix: "",
            delimiter: Some("/"),
            key_marker: "",
            upload_id_marker: "",
            next: Some(("k", "u")),
            max_uploads: 1,
            is_truncated: true,
            owner: Owner {
                id: "o",
                display_name: "d",
            },
            uploads: &[ListedUpload {
                key: "k",
                upload_id: "u",
                initiated_ms: 0,
                storage_class: "STANDARD",
            }],
            common_prefixes: &["p/"],
            encodes_url: true,
        };
        write(&mut out, &page);
        let text = String::from_utf8(out).expect("UTF-8");
        assert!(text.contains(
            "<NextKeyMarker>k</NextKeyMarker><NextUploadIdMarker>u</NextUploadIdMarker>"
        ));
        assert!(text.contains("<Upload><Key>k</Key><UploadId>u</UploadId><Initiator>"));
        assert!(text.ends_with(
            "<CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes></ListMultipartUploadsResult>"
        ));
    }
}

//! `ListParts`: what an upload has so far.

use super::Owner;
use super::write::Writer;

/// A part of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedPart<'a> {
    /// From 1 to 10,000.
    pub number: u32,
    /// With its quotes.
    pub etag: &'a str,
    /// Bytes.
    pub size: u64,
    /// Milliseconds since 1970, UTC.
    pub last_modified_ms: u64,
}

/// A page of parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page<'a> {
    /// The bucket.
    pub bucket: &'a str,
    /// The key.
    pub key: &'a str,
    /// The upload.
    pub upload_id: &'a str,
    /// Who began the upload and owns the object.
    pub owner: Owner<'a>,
    /// `STANDARD` where the origin says nothing.
    pub storage_class: &'a str,
    /// Of the request: parts after this number.
    pub part_number_marker: u32,
    /// The last number of a truncated page.
    pub next_part_number_marker: Option<u32>,
    /// Of the request, after S3's limit of 1,000.
    pub max_parts: u32,
    /// Whether more follows.
    pub is_truncated: bool,
    /// In ascending order.
    pub parts: &'a [ListedPart<'a>],
    /// Whether the request said `encoding-type=url`.
    pub encodes_url: bool,
}

/// Appends the page.
pub fn write(out: &mut Vec<u8>, page: &Page<'_>) {
    let mut writer = Writer::document(out, "ListPartsResult");
    writer.text("Bucket", page.bucket);
    writer.optional("EncodingType", page.encodes_url.then_some("url"));
    writer.key("Key", page.key, page.encodes_url);
    writer.text("UploadId", page.upload_id);
    writer.owner("Initiator", &page.owner);
    writer.owner("Owner", &page.owner);
    writer.text("StorageClass", page.storage_class);
    writer.number("PartNumberMarker", page.part_number_marker.into());
    if let Some(next) = page.next_part_number_marker {
        writer.number("NextPartNumberMarker", next.into());
    }
    writer.number("MaxParts", page.max_parts.into());
    writer.boolean("IsTruncated", page.is_truncated);
    for part in page.parts {
        writer.open("Part");
        writer.number("PartNumber", part.number.into());
        writer.time("LastModified", part.last_modified_ms);
        writer.etag(part.etag);
        writer.number("Size", part.size);
        writer.close("Part");
    }
    writer.close("ListPartsResult");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stand_with_number_etag_and_size() {
        let mut out = Vec::new();
        let page = Page {
            bucket: "lake",
            key: "k",
            upload_id: "u",
            owner: Owner {
                id: "o",
                display_name: "d",
            },
            storage_class: "STANDARD",
            part_number_marker: 0,
            next_part_number_marker: Some(7),
            max_parts: 1,
            is_truncated: true,
            parts: &[ListedPart {
                number: 7,
                etag: "\"p\"",
                size: 9,
                last_modified_ms: 0,
            }],
            encodes_url: false,
        };
        write(&mut out, &page);
        assert!(String::from_utf8(out).expect("UTF-8").ends_with(
            "<PartNumberMarker>0</PartNumberMarker><NextPartNumberMarker>7</NextPartNumberMarker>\
             <MaxParts>1</MaxParts><IsTruncated>true</IsTruncated><Part><PartNumber>7</PartNumber>\
             <LastModified>1970-01-01T00:00:00.000Z</LastModified><ETag>&quot;p&quot;</ETag>\
             <Size>9</Size></Part></ListPartsResult>"
        ));
    }
}

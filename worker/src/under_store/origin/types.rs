//! What is asked of an origin, and what it answers.

/// When a write may replace what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteCondition {
    /// Always.
    None,
    /// Only if there is no object of that key (`If-None-Match: *`).
    IfAbsent,
    /// Only if the object has this ETag, with its quotes (`If-Match`).
    IfMatch(String),
}

/// What an origin says of a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// With quotes.
    pub etag: String,
    /// Of an origin with versions.
    pub version_id: Option<String>,
    /// `x-amz-checksum-…` headers as the origin gave them; lower-case names.
    pub checksums: Vec<(String, String)>,
    /// Milliseconds since the Unix epoch; 0 where the origin does not say.
    pub last_modified_ms: u64,
    /// Whether other bytes that are written soon may come to have the same ETag: on a file system that
    /// rounds times.
    pub is_ambiguous: bool,
}

/// What an origin says of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// With quotes; empty where the origin has none.
    pub etag: String,
    /// Bytes.
    pub length: u64,
    /// Milliseconds since the Unix epoch; 0 where unknown.
    pub last_modified_ms: u64,
    /// The headers of the object as the origin gave them, lower-case names: content type,
    /// encoding, language and disposition, cache control, expires, and all `x-amz-…` of an S3
    /// origin but those that name the request.
    pub headers: Vec<(String, String)>,
}

/// Which headers a copy gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyDirective {
    /// Those of the source.
    Copy,
    /// These.
    Replace(super::OriginHeaders),
}

/// What a copy depends on, and how it writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopySource {
    /// The source must have this ETag, with its quotes.
    pub if_match: Option<String>,
    /// The bytes of the source to take; all of them if `None`. Only for parts.
    pub range: Option<std::ops::Range<u64>>,
}

/// A part as the client names it when it completes an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletedPart {
    /// 1 to 10,000.
    pub number: u32,
    /// With or without quotes.
    pub etag: String,
    /// `x-amz-checksum-…` name and value, if the client named one.
    pub checksum: Option<(String, String)>,
}

/// A part that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedPart {
    /// 1 to 10,000.
    pub number: u32,
    /// With quotes.
    pub etag: String,
    /// Bytes.
    pub size: u64,
    /// Milliseconds since the Unix epoch.
    pub last_modified_ms: u64,
}

/// Parts of an upload, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartPage {
    /// The parts.
    pub parts: Vec<ListedPart>,
    /// The marker of the next page; `None` on the last one.
    pub next_marker: Option<u32>,
}

/// An upload that was begun and not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedUpload {
    /// Key below the mount.
    pub key: String,
    /// Its id.
    pub upload_id: String,
    /// Milliseconds since the Unix epoch.
    pub initiated_ms: u64,
}

/// Uploads, by key and then by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UploadPage {
    /// The uploads.
    pub uploads: Vec<ListedUpload>,
    /// Key and upload id after which the next page begins; `None` on the last one.
    pub next_marker: Option<(String, String)>,
}

/// What became of one key of a deletion of many.
pub type Deleted = Result<(), super::OriginError>;

/// Which keys to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Beginning of the keys, also in the middle of a name.
    pub prefix: String,
    /// What groups keys into common prefixes; `None` for all keys.
    pub delimiter: Option<String>,
    /// Only what sorts behind this; empty for the start. A common prefix here skips all below it.
    pub after: String,
    /// Most objects and common prefixes together; cut to 1,000 as S3 does.
    pub max_keys: usize,
}

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedKey {
    /// Key below the mount.
    pub key: String,
    /// With quotes, as the origin has it; empty where its listing does not say.
    pub etag: String,
    /// Bytes.
    pub size: u64,
    /// Milliseconds since the Unix epoch; 0 where unknown.
    pub last_modified_ms: u64,
    /// `STANDARD` where the origin does not say.
    pub storage_class: String,
}

/// Part of a listing, in the order of the keys as bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// The objects.
    pub objects: Vec<ListedKey>,
    /// What was grouped, each ending in the delimiter.
    pub common_prefixes: Vec<String>,
    /// What to pass as `after` for the next page; `None` on the last one (`IsTruncated` false).
    pub next_after: Option<String>,
}

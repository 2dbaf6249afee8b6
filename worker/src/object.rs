//! What is known of one version of one object.

use corelane_rpc_schema::{BlockId, ObjectId, STRIPE_BYTES, Stripe};

/// Longest path key. S3 allows keys of 1,024 bytes; the rest is store kind, endpoint and bucket.
pub const PATH_KEY_BYTES_MAX: usize = 2048;

/// Longest version text (an ETag, or size-mtime-inode-ctime).
pub const VERSION_BYTES_MAX: usize = 256;

/// Longest content type that is kept; a longer one is dropped.
pub const CONTENT_TYPE_BYTES_MAX: usize = 256;

/// Longest text of the other headers that are kept. S3 allows 2 KiB of user metadata; the rest is for
/// encoding, language, disposition and the like. Of an object with more, none is kept.
pub const HEADERS_BYTES_MAX: usize = 3 << 10;

/// One version of one object. Immutable: a new version is another value with another id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its id: [`ObjectMeta::id_of`] the fields below. Objects that an earlier format left on a device
    /// keep the id that they have there.
    pub id: ObjectId,
    /// The path key: store kind, endpoint and canonical URI. For all stores but S3-compatible ones
    /// with their own endpoint, that is the URI itself.
    pub path_key: String,
    /// Where it is, such as `s3://bucket/key`.
    pub uri: String,
    /// The under-store's ETag as it is, or size-mtime-inode-ctime for files. Alone it is no identity: that
    /// is the id.
    pub version: String,
    /// Bytes.
    pub length: u64,
    /// Milliseconds since the Unix epoch; 0 where unknown.
    pub last_modified_ms: u64,
    /// Bytes in a block.
    pub block_bytes: u32,
    /// Empty where unknown.
    pub content_type: String,
    /// Its other headers and its user metadata, as the under-store has them: a line `name:value` each,
    /// ended by a line feed, names in lower case. At most [`HEADERS_BYTES_MAX`] bytes.
    pub headers: String,
}

/// Whether `version` is an ETag that promises equal bytes and that `If-Match` may carry (RFC 9110, 13.1.1:
/// strong ones only).
pub fn is_strong_etag(version: &str) -> bool {
    version.starts_with('"')
}

impl ObjectMeta {
    /// The id of what an under-store describes so. It covers all that readers of blocks rely on: the length
    /// always, and the modification time where the version is no strong ETag (a weak one promises no equal
    /// bytes: RFC 9110, 8.8.1).
    pub fn id_of(
        path_key: &str,
        version: &str,
        length: u64,
        last_modified_ms: u64,
        block_bytes: u32,
    ) -> ObjectId {
        if is_strong_etag(version) {
            return ObjectId::new(path_key, version, length, block_bytes);
        }
        let version = format!("{version} {last_modified_ms}");
        ObjectId::new(path_key, &version, length, block_bytes)
    }

    /// Whether a listing that gives this version, length and modification time means this version. Times
    /// count where the version is no strong ETag, by the second: listings and answers differ in precision.
    pub fn is_listed_as(&self, version: &str, length: u64, last_modified_ms: u64) -> bool {
        self.version == version
            && self.length == length
            && (is_strong_etag(version) || self.last_modified_ms / 1000 == last_modified_ms / 1000)
    }

    /// Its other headers: names and values.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.lines().filter_map(|line| line.split_once(':'))
    }

    /// Number of blocks; zero for an empty object.
    pub fn blocks(&self) -> u32 {
        self.length.div_ceil(u64::from(self.block_bytes)) as u32
    }

    /// Whether an object of `length` bytes can be numbered in blocks of `block_bytes`: numbers of blocks and
    /// of stripes have 32 bits.
    pub fn can_be_numbered(length: u64, block_bytes: u32) -> bool {
        length.div_ceil(u64::from(block_bytes)) <= u64::from(u32::MAX)
    }

    /// Number of stripes; zero for an empty object.
    pub fn stripes(&self) -> u32 {
        self.length.div_ceil(STRIPE_BYTES) as u32
    }

    /// Bytes in block `index`: the block size, or less for the last. Zero where the object has no such block.
    pub fn block_length(&self, index: u32) -> u32 {
        let start = u64::from(index) * u64::from(self.block_bytes);
        self.length
            .saturating_sub(start)
            .min(u64::from(self.block_bytes)) as u32
    }

    /// The id of block `index`.
    pub fn block(&self, index: u32) -> BlockId {
        BlockId {
            object: self.id,
            index,
        }
    }

    /// The indexes of the blocks in `stripe`.
    pub fn blocks_of(&self, stripe: Stripe) -> std::ops::Range<u32> {
        let per_stripe = (STRIPE_BYTES / u64::from(self.block_bytes)) as u32;
        let start = stripe.0.saturating_mul(per_stripe).min(self.blocks());
        start..start.saturating_add(per_stripe).min(self.blocks())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(length: u64, block_bytes: u32) -> ObjectMeta {
        ObjectMeta {
            id: ObjectMeta::id_of("k", "v", length, 0, block_bytes),
            path_key: "k".to_owned(),
            uri: "k".to_owned(),
            version: "v".to_owned(),
            length,
            last_modified_ms: 0,
            block_bytes,
            content_type: String::new(),
            headers: String::new(),
        }
    }

    #[test]
    fn the_id_covers_the_length_and_without_a_strong_etag_the_time() {
        let id = |version, length, ms| ObjectMeta::id_of("k", version, length, ms, 1 << 20);
        assert_eq!(id("\"v\"", 1, 1), id("\"v\"", 1, 2));
        assert_ne!(id("\"v\"", 1, 1), id("\"v\"", 2, 1));
        for weak in ["W/\"v\"", "v", "1-2-0"] {
            assert_ne!(id(weak, 1, 1), id(weak, 1, 2), "{weak}");
        }
        assert_ne!(id("W/\"v\"", 1, 1), id("W/\"v\"", 2, 1));
    }

    #[test]
    fn a_listing_means_a_version_only_with_its_length() {
        let mut meta = object(7, 1 << 20);
        meta.version = "\"v\"".to_owned();
        assert!(meta.is_listed_as("\"v\"", 7, 99_000));
        assert!(!meta.is_listed_as("\"v\"", 8, 0) && !meta.is_listed_as("\"w\"", 7, 0));
        (meta.version, meta.last_modified_ms) = ("W/\"v\"".to_owned(), 5_000);
        assert!(meta.is_listed_as("W/\"v\"", 7, 5_400));
        assert!(!meta.is_listed_as("W/\"v\"", 7, 6_000));
    }

    #[test]
    fn the_largest_object_has_blocks_and_stripes_and_nothing_behind_its_end() {
        for block_bytes in [1 << 16, 1 << 24] {
            let most = u64::from(u32::MAX) * u64::from(block_bytes);
            assert!(ObjectMeta::can_be_numbered(most, block_bytes));
            assert!(!ObjectMeta::can_be_numbered(most + 1, block_bytes));
            assert!(!ObjectMeta::can_be_numbered(u64::MAX, block_bytes));
            let meta = object(most, block_bytes);
            assert_eq!(meta.blocks(), u32::MAX);
            assert_eq!(meta.block_length(u32::MAX - 1), block_bytes);
            assert_eq!(meta.block_length(u32::MAX), 0);
            let last = Stripe(meta.stripes() - 1);
            assert_eq!(meta.blocks_of(last).end, u32::MAX);
            assert!(meta.blocks_of(Stripe(u32::MAX)).len() <= 256);
        }
        assert_eq!(object(0, 1 << 20).block_length(0), 0);
    }
}

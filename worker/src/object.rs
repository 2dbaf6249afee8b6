//! What is known of one version of one object.

use corelane_rpc_schema::{BlockId, ObjectId, STRIPE_BYTES, Stripe};

/// Longest path key. S3 allows keys of 1,024 bytes; the rest is store kind, endpoint and bucket.
pub const PATH_KEY_BYTES_MAX: usize = 2048;

/// Longest version text (an ETag, or size-mtime-inode).
pub const VERSION_BYTES_MAX: usize = 256;

/// Longest content type that is kept; a longer one is dropped.
pub const CONTENT_TYPE_BYTES_MAX: usize = 256;

/// Longest text of the other headers that are kept. S3 allows 2 KiB of user metadata; the rest is for
/// encoding, language, disposition and the like. Of an object with more, none is kept.
pub const HEADERS_BYTES_MAX: usize = 3 << 10;

/// One version of one object. Immutable: a new version is another value with another id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its id, made of `uri`, `version` and `block_bytes`.
    pub id: ObjectId,
    /// The path key: store kind, endpoint and canonical URI. For all stores but S3-compatible ones
    /// with their own endpoint, that is the URI itself.
    pub path_key: String,
    /// Where it is, such as `s3://bucket/key`.
    pub uri: String,
    /// The under-store's ETag, or size-mtime-inode for files.
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

impl ObjectMeta {
    /// Its other headers: names and values.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.lines().filter_map(|line| line.split_once(':'))
    }

    /// Number of blocks; zero for an empty object.
    pub fn blocks(&self) -> u32 {
        self.length.div_ceil(u64::from(self.block_bytes)) as u32
    }

    /// Number of stripes; zero for an empty object.
    pub fn stripes(&self) -> u32 {
        self.length.div_ceil(STRIPE_BYTES) as u32
    }

    /// Bytes in block `index`: the block size, or less for the last.
    ///
    /// # Panics
    /// If the object has no such block.
    pub fn block_length(&self, index: u32) -> u32 {
        let start = u64::from(index) * u64::from(self.block_bytes);
        assert!(
            start < self.length,
            "block {index} of {} bytes",
            self.length
        );
        (self.length - start).min(u64::from(self.block_bytes)) as u32
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
        let start = (stripe.0 * per_stripe).min(self.blocks());
        start..(start + per_stripe).min(self.blocks())
    }
}

//! Signature Version 4.

mod chunks;

pub use chunks::ChunkSigner;

/// What a signature says of the body (`x-amz-content-sha256`).
#[derive(Debug)]
pub enum PayloadMode {
    /// Anything.
    Unsigned,
    /// What has this SHA-256.
    Sha256([u8; 32]),
    /// aws-chunked, each chunk signed.
    Signed(ChunkSigner),
    /// aws-chunked, each chunk and the trailer signed.
    SignedTrailer(ChunkSigner),
    /// aws-chunked without signatures, with a trailer.
    UnsignedTrailer,
}

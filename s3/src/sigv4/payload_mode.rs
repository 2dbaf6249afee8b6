//! What a signature says of the body (`x-amz-content-sha256`).

use std::fmt;

use super::ChunkSigner;
use crate::error::{Error, ErrorCode};

/// What the body of a request must be, and how it is framed within HTTP's framing.
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

impl fmt::Debug for PayloadMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            PayloadMode::Unsigned => "Unsigned",
            PayloadMode::Sha256(_) => "Sha256",
            PayloadMode::Signed(_) => "Signed",
            PayloadMode::SignedTrailer(_) => "SignedTrailer",
            PayloadMode::UnsignedTrailer => "UnsignedTrailer",
        })
    }
}

/// The same as the header says it, before there is a signature to sign chunks with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Declared {
    Unsigned,
    Sha256([u8; 32]),
    Signed,
    SignedTrailer,
    UnsignedTrailer,
}

impl Declared {
    pub fn parse(value: &str) -> Result<Self, Error> {
        match value {
            "UNSIGNED-PAYLOAD" => Ok(Declared::Unsigned),
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => Ok(Declared::Signed),
            "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => Ok(Declared::SignedTrailer),
            "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Ok(Declared::UnsignedTrailer),
            value if value.starts_with("STREAMING-AWS4-ECDSA-") => Err(Error::new(
                ErrorCode::NotImplemented,
                "chunks signed with Signature Version 4A are not supported; use AWS4-HMAC-SHA256",
            )),
            value => hash(value).map(Declared::Sha256).ok_or_else(|| {
                Error::new(
                    ErrorCode::InvalidArgument,
                    "x-amz-content-sha256 is neither UNSIGNED-PAYLOAD nor a STREAMING- mode nor a SHA-256 in hexadecimal digits",
                )
            }),
        }
    }

    /// Of a request with a signature.
    pub fn signed(self, signer: impl FnOnce() -> ChunkSigner) -> PayloadMode {
        match self {
            Declared::Unsigned => PayloadMode::Unsigned,
            Declared::Sha256(hash) => PayloadMode::Sha256(hash),
            Declared::Signed => PayloadMode::Signed(signer()),
            Declared::SignedTrailer => PayloadMode::SignedTrailer(signer()),
            Declared::UnsignedTrailer => PayloadMode::UnsignedTrailer,
        }
    }

    /// Of a request without a signature.
    pub fn unsigned(self) -> Result<PayloadMode, Error> {
        match self {
            Declared::Unsigned => Ok(PayloadMode::Unsigned),
            Declared::Sha256(hash) => Ok(PayloadMode::Sha256(hash)),
            Declared::UnsignedTrailer => Ok(PayloadMode::UnsignedTrailer),
            Declared::Signed | Declared::SignedTrailer => Err(Error::new(
                ErrorCode::InvalidRequest,
                "the chunks of the body are said to be signed, but the request is not; sign it",
            )),
        }
    }
}

fn hash(value: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = value.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        let high = (pair[0] as char).to_digit(16)?;
        let low = (pair[1] as char).to_digit(16)?;
        *byte = (high << 4 | low) as u8;
    }
    Some(bytes)
}

//! Why a frame was refused. Small and `Copy`: refusing garbage must not cost an allocation.

use super::{
    HEADER_WORDS_MAX_MESSAGE, HEADER_WORDS_MAX_READ_ANSWER, HEADER_WORDS_READ, MAGIC, VERSION,
};
use crate::ids::READ_BYTES_MAX;
use crate::messages::{ErrorCode, ErrorMessage, Message};

/// What is wrong with a frame. The connection that it came on cannot be trusted to be in step any
/// more: send [`FrameError::to_message`] and close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first two bytes are not [`MAGIC`].
    #[error(
        "the frame starts with {found:#06x} instead of {MAGIC:#06x}; is this a Corelane data port?"
    )]
    Magic {
        /// The two bytes, little-endian.
        found: u16,
    },
    /// The peer speaks another version of the protocol.
    #[error(
        "protocol version {found} is not {VERSION}; use a client and a worker of the same protocol"
    )]
    Version {
        /// The version in the prefix.
        found: u8,
    },
    /// No header has this kind.
    #[error("header kind {found} is unknown (1 message, 2 READ, 3 READ answer)")]
    Kind {
        /// The kind in the prefix.
        found: u8,
    },
    /// The header is shorter or longer than its kind allows.
    #[error(
        "a header of kind {kind} cannot have {words} words (message 1 to {HEADER_WORDS_MAX_MESSAGE}, \
         READ {HEADER_WORDS_READ}, READ answer 2 to {HEADER_WORDS_MAX_READ_ANSWER})"
    )]
    HeaderWords {
        /// The kind in the prefix.
        kind: u8,
        /// The length in the prefix, in words of 8 bytes.
        words: u16,
    },
    /// A field that is kept for later, or padding, is not zero.
    #[error("{field} is not zero")]
    Reserved {
        /// Which field.
        field: &'static str,
    },
    /// The payload is longer than any read, or is not expected at all.
    #[error(
        "a frame of kind {kind} cannot carry {bytes} payload bytes (READ answer up to \
         {READ_BYTES_MAX}, all others none)"
    )]
    PayloadBytes {
        /// The kind in the prefix.
        kind: u8,
        /// The length in the prefix.
        bytes: u32,
    },
    /// Prefix or header were damaged on the way.
    #[error("the header's CRC-32C is {found:#010x}, the frame says {expected:#010x}")]
    HeaderChecksum {
        /// The checksum in the prefix.
        expected: u32,
        /// The checksum of what came.
        found: u32,
    },
    /// A READ asks for something that this version does not know.
    #[error("READ flags {found:#x} are unknown (bit 0 checksums, bit 1 no fill)")]
    Flags {
        /// All flags of the request.
        found: u32,
    },
    /// A READ answer names a source that does not exist.
    #[error("READ answer source {found} is unknown (0 DRAM, 1 device, 2 under-store)")]
    Source {
        /// The byte in the header.
        found: u8,
    },
    /// A READ answer has checksums of an unknown kind.
    #[error("READ answer checksum mode {found} is unknown (0 none, 1 a page each, 2 one for all)")]
    ChecksumMode {
        /// The byte in the header.
        found: u8,
    },
    /// The number of checksums does not follow from mode and payload, or not from the header's length.
    #[error("{count} checksums in {words} header words do not fit {payload_bytes} payload bytes")]
    ChecksumCount {
        /// The count in the header.
        count: u32,
        /// The header's length in words of 8 bytes.
        words: u16,
        /// The payload's length.
        payload_bytes: u32,
    },
    /// The Cap'n Proto message in the header cannot be read.
    #[error("the message in the header is malformed at {field}")]
    Malformed {
        /// Which field.
        field: &'static str,
    },
    /// The message in the header is of a kind that this version does not know.
    #[error("message kind {discriminant} is unknown to protocol version {VERSION}")]
    UnknownMessage {
        /// The number of the union's member.
        discriminant: u16,
    },
    /// A text or list in a message is over its limit.
    #[error("{field} has {length} bytes or entries, more than {maximum}")]
    FieldTooLong {
        /// Which field.
        field: &'static str,
        /// Its length.
        length: usize,
        /// The most that is allowed.
        maximum: usize,
    },
}

impl FrameError {
    /// The frame to send to the peer before its connection is closed (with request id 0).
    pub fn to_message(&self) -> Message {
        Message::Error(ErrorMessage {
            code: ErrorCode::Invalid,
            message: format!("closing the connection: {self}"),
            retry_after_ms: 0,
        })
    }
}

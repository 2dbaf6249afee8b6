//! The data plane's frames: what both ends of a lane write and read. Sans-I/O: bytes in, frames
//! out, nothing kept in between.
//!
//! ```text
//! offset  0 magic u16 = 0x4C43 ("CL")    6 reserved u16 = 0
//!         2 protocol version u8 = 1      8 payload bytes u32
//!         3 header kind u8              12 CRC-32C u32 of bytes 0..12 and the header
//!         4 header words u16            16 header, then the payload, padded with zeros to 8
//! ```
//!
//! The invariant: a length is compared with its limit before anything is read, skipped or reserved
//! by it, and the header's checksum is compared before a field of the header is believed. The
//! payload is not covered here: READ answers carry checksums of their own.
//!
//! Must not allocate for READ and its answer (the caller's `Vec` grows to its size once).

mod checksums;
mod error;
mod head_checksum;
mod look_up;
mod read;

pub use checksums::{ChecksumMismatch, ChecksumMode, Checksums, page_checksum};
pub use error::FrameError;
pub use look_up::{
    HEADER_WORDS_LOOKUP, HEADER_WORDS_LOOKUP_ANSWER, LOOKUP_ANSWER_BYTES_MAX, LOOKUP_BYTES_MAX,
    LookupAnswerHead, LookupHead, encode_lookup, encode_lookup_answer_head, lookup_checksum,
};
pub use read::{
    HEADER_WORDS_MAX_READ_ANSWER, HEADER_WORDS_READ, READ_REQUEST_BYTES, ReadAnswer,
    ReadAnswerHead, ReadFlags, ReadRequest, ReadRequestInPlace, ReadSource,
    encode_read_answer_head, encode_read_request, usual_read_answer_head,
};

use crate::ids::READ_BYTES_MAX;
use head_checksum::{head_checksum, head_checksum_fixed};

/// "CL", the first two bytes of every frame.
pub const MAGIC: u16 = 0x4c43;

/// The version of the protocol. A peer with another one is refused: within a version only
/// messages, their fields and flags are added.
pub const VERSION: u8 = 1;

/// Bytes before the header.
pub const PREFIX_BYTES: usize = 16;

/// Most words of a Cap'n Proto header: 4 KiB. Enough for a hello answer with
/// [`crate::ids::PARTITIONS_MAX`] partitions and for the longest path; little enough that an
/// unauthenticated peer cannot make anyone hold more than a page.
pub const HEADER_WORDS_MAX_MESSAGE: u16 = 512;

/// Most bytes of prefix and header together, of any kind: what a receiver must be able to hold.
pub const HEAD_BYTES_MAX: usize = PREFIX_BYTES + HEADER_WORDS_MAX_READ_ANSWER as usize * 8;

/// Most bytes of a frame.
pub const FRAME_BYTES_MAX: usize = HEAD_BYTES_MAX + LOOKUP_ANSWER_BYTES_MAX as usize;

const _: () = assert!(READ_BYTES_MAX <= LOOKUP_ANSWER_BYTES_MAX);

const _: () = assert!(HEADER_WORDS_MAX_MESSAGE <= HEADER_WORDS_MAX_READ_ANSWER);

const KIND_MESSAGE: u8 = 1;
const KIND_READ: u8 = 2;
const KIND_READ_ANSWER: u8 = 3;
const KIND_LOOKUP: u8 = 4;
const KIND_LOOKUP_ANSWER: u8 = 5;

/// What [`decode`] found at the start of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// So far nothing is wrong.
    Incomplete {
        /// Bytes from the start of the frame without which there is no progress.
        needed: usize,
    },
    /// A frame.
    Frame {
        /// The frame.
        frame: Frame<'a>,
        /// Its bytes, padding included; the next frame starts there.
        consumed: usize,
    },
}

/// A whole frame, in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// The one segment of a Cap'n Proto message, of any alignment, for
    /// [`crate::messages::Message::from_header`].
    Message(&'a [u8]),
    /// A READ request.
    Read(ReadRequest),
    /// A READ answer and its payload, without padding.
    ReadAnswer(ReadAnswer<'a>, &'a [u8]),
    /// A LOOKUP and its payload. Its checksum was not compared yet.
    Lookup(LookupHead, &'a [u8]),
    /// A LOOKUP answer and its payload. Its checksum was not compared yet.
    LookupAnswer(LookupAnswerHead, &'a [u8]),
}

/// What [`decode_head`] found at the start of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodedHead<'a> {
    /// So far nothing is wrong.
    Incomplete {
        /// Bytes from the start of the frame without which there is no progress.
        needed: usize,
    },
    /// Prefix and header.
    Head {
        /// The header.
        head: Head<'a>,
        /// Bytes of prefix and header; the payload starts there.
        consumed: usize,
        /// Bytes of payload that follow, then [`padding`] of zeros.
        payload_bytes: u32,
    },
}

/// A header, in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head<'a> {
    /// As [`Frame::Message`].
    Message(&'a [u8]),
    /// A READ request.
    Read(ReadRequest),
    /// A READ answer, whose payload follows.
    ReadAnswer(ReadAnswer<'a>),
    /// A LOOKUP, whose payload follows.
    Lookup(LookupHead),
    /// A LOOKUP answer, whose payload follows.
    LookupAnswer(LookupAnswerHead),
}

/// Zeros that follow a payload of `payload_bytes`, so that the next frame starts at a multiple
/// of 8 bytes.
#[inline]
pub const fn padding(payload_bytes: u32) -> usize {
    (payload_bytes as usize).next_multiple_of(8) - payload_bytes as usize
}

/// Decodes prefix and header, so that the caller can receive the payload where it wants it.
///
/// # Errors
/// [`FrameError`]: the connection is out of step or the peer is not ours; close it.
#[inline]
pub fn decode_head(input: &[u8]) -> Result<DecodedHead<'_>, FrameError> {
    let Some((prefix, rest)) = input.split_first_chunk::<PREFIX_BYTES>() else {
        return Ok(DecodedHead::Incomplete {
            needed: PREFIX_BYTES,
        });
    };
    let kind = prefix[3];
    let words = u16::from_le_bytes([prefix[4], prefix[5]]);
    let payload_bytes = u32::from_le_bytes([prefix[8], prefix[9], prefix[10], prefix[11]]);
    check_prefix(prefix, kind, words, payload_bytes)?;

    let consumed = PREFIX_BYTES + usize::from(words) * 8;
    let Some(header) = rest.get(..usize::from(words) * 8) else {
        return Ok(DecodedHead::Incomplete { needed: consumed });
    };
    let expected = u32::from_le_bytes([prefix[12], prefix[13], prefix[14], prefix[15]]);
    let found = head_checksum(prefix, header);
    if expected != found {
        return Err(FrameError::HeaderChecksum { expected, found });
    }
    let head = match kind {
        KIND_READ => Head::Read(ReadRequest::from_header(
            header
                .first_chunk()
                .expect("the prefix was checked: a READ has five words"),
        )?),
        KIND_READ_ANSWER => Head::ReadAnswer(ReadAnswer::from_header(header, payload_bytes)?),
        KIND_LOOKUP => Head::Lookup(LookupHead::from_header(header)?),
        KIND_LOOKUP_ANSWER => {
            Head::LookupAnswer(LookupAnswerHead::from_header(header, payload_bytes)?)
        }
        _ => Head::Message(header),
    };
    Ok(DecodedHead::Head {
        head,
        consumed,
        payload_bytes,
    })
}

/// Decodes one whole frame.
///
/// # Errors
/// [`FrameError`]: the connection is out of step or the peer is not ours; close it.
#[inline]
pub fn decode(input: &[u8]) -> Result<Decoded<'_>, FrameError> {
    let (head, start, payload_bytes) = match decode_head(input)? {
        DecodedHead::Head {
            head,
            consumed,
            payload_bytes,
        } => (head, consumed, payload_bytes),
        DecodedHead::Incomplete { needed } => return Ok(Decoded::Incomplete { needed }),
    };
    let end = start + payload_bytes as usize;
    let consumed = end + padding(payload_bytes);
    if input.len() < consumed {
        return Ok(Decoded::Incomplete { needed: consumed });
    }
    if input[end..consumed].iter().any(|byte| *byte != 0) {
        return Err(FrameError::Reserved {
            field: "padding of the payload",
        });
    }
    let frame = match head {
        Head::Message(header) => Frame::Message(header),
        Head::Read(request) => Frame::Read(request),
        Head::ReadAnswer(answer) => Frame::ReadAnswer(answer, &input[start..end]),
        Head::Lookup(head) => Frame::Lookup(head, &input[start..end]),
        Head::LookupAnswer(head) => Frame::LookupAnswer(head, &input[start..end]),
    };
    Ok(Decoded::Frame { frame, consumed })
}

#[inline]
fn check_prefix(
    prefix: &[u8; PREFIX_BYTES],
    kind: u8,
    words: u16,
    payload_bytes: u32,
) -> Result<(), FrameError> {
    let magic = u16::from_le_bytes([prefix[0], prefix[1]]);
    if magic != MAGIC {
        return Err(FrameError::Magic { found: magic });
    }
    if prefix[2] != VERSION {
        return Err(FrameError::Version { found: prefix[2] });
    }
    let (words_allowed, payload_bytes_max) = match kind {
        KIND_READ => (HEADER_WORDS_READ..=HEADER_WORDS_READ, 0),
        KIND_READ_ANSWER => (2..=HEADER_WORDS_MAX_READ_ANSWER, READ_BYTES_MAX),
        KIND_MESSAGE => (1..=HEADER_WORDS_MAX_MESSAGE, 0),
        KIND_LOOKUP => (HEADER_WORDS_LOOKUP..=HEADER_WORDS_LOOKUP, LOOKUP_BYTES_MAX),
        KIND_LOOKUP_ANSWER => (
            HEADER_WORDS_LOOKUP_ANSWER..=HEADER_WORDS_LOOKUP_ANSWER,
            LOOKUP_ANSWER_BYTES_MAX,
        ),
        found => return Err(FrameError::Kind { found }),
    };
    if !words_allowed.contains(&words) {
        return Err(FrameError::HeaderWords { kind, words });
    }
    if payload_bytes > payload_bytes_max {
        return Err(FrameError::PayloadBytes {
            kind,
            bytes: payload_bytes,
        });
    }
    if prefix[6] != 0 || prefix[7] != 0 {
        return Err(FrameError::Reserved {
            field: "bytes 6 and 7 of the prefix",
        });
    }
    Ok(())
}

/// Appends a message, which must fit one segment of [`HEADER_WORDS_MAX_MESSAGE`] words.
///
/// # Errors
/// [`FrameError::FieldTooLong`] where it does not fit; `out` is as it was.
pub fn encode_capnp<A: capnp::message::Allocator>(
    out: &mut Vec<u8>,
    message: &capnp::message::Builder<A>,
) -> Result<(), FrameError> {
    let segments = message.get_segments_for_output();
    let length: usize = segments.iter().map(|segment| segment.len()).sum();
    let maximum = usize::from(HEADER_WORDS_MAX_MESSAGE) * 8;
    let [segment] = segments[..] else {
        return Err(FrameError::FieldTooLong {
            field: "message",
            length,
            maximum,
        });
    };
    if length > maximum {
        return Err(FrameError::FieldTooLong {
            field: "message",
            length,
            maximum,
        });
    }
    let start = out.len();
    out.extend_from_slice(&prefix_bytes(KIND_MESSAGE, (length / 8) as u16, 0));
    out.extend_from_slice(segment);
    seal(&mut out[start..]);
    Ok(())
}

/// A prefix that still lacks its checksum.
#[inline]
const fn prefix_bytes(kind: u8, words: u16, payload_bytes: u32) -> [u8; PREFIX_BYTES] {
    let (magic, words) = (MAGIC.to_le_bytes(), words.to_le_bytes());
    let [a, b, c, d] = payload_bytes.to_le_bytes();
    [
        magic[0], magic[1], VERSION, kind, words[0], words[1], 0, 0, a, b, c, d, 0, 0, 0, 0,
    ]
}

/// Writes the checksum into `head`, whose length is known when this is compiled.
#[inline]
fn seal_fixed<const BYTES: usize>(head: &mut [u8; BYTES]) {
    let checksum = head_checksum_fixed(head);
    head[12..16].copy_from_slice(&checksum.to_le_bytes());
}

/// Writes the checksum into `head`, which is a prefix and its header.
#[inline]
fn seal(head: &mut [u8]) {
    let (prefix, header) = head
        .split_first_chunk_mut()
        .expect("a head starts with a prefix");
    let checksum = head_checksum(prefix, header);
    prefix[12..16].copy_from_slice(&checksum.to_le_bytes());
}

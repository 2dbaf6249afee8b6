//! LOOKUP and its answer: what is asked, and what was found, stand in the payload; its CRC-32C in the header.
//!
//! ```text
//! LOOKUP         offset 0 request id u64   8 CRC-32C of the payload u32   12 reserved u32 = 0
//!   payload: a request as `corelane_lookup::request` encodes it
//! LOOKUP answer  offset 0 request id u64   8 CRC-32C of the payload u32   12 bytes of statistics u32
//!                      16 rows u64        24 home shard u16   26 reserved, 6 bytes = 0
//!   payload: statistics in JSON, then the rows as an Arrow IPC stream
//! ```

use super::{FrameError, KIND_LOOKUP, KIND_LOOKUP_ANSWER, PREFIX_BYTES, prefix_bytes, seal};
use crate::ids::ShardId;

/// Words of a LOOKUP's header.
pub const HEADER_WORDS_LOOKUP: u16 = 2;

/// Words of its answer's header.
pub const HEADER_WORDS_LOOKUP_ANSWER: u16 = 4;

/// Longest payload of a LOOKUP: some 25,000 integer keys. What a worker holds of an unfinished one.
pub const LOOKUP_BYTES_MAX: u32 = 256 << 10;

/// Longest payload of an answer: more is a scan, which comes in parts or over HTTP.
pub const LOOKUP_ANSWER_BYTES_MAX: u32 = 16 << 20;

/// A received LOOKUP, all but its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookupHead {
    /// Chosen by the client; the answer repeats it.
    pub request_id: u64,
    /// CRC-32C of the payload.
    pub checksum: u32,
}

/// A received answer, all but its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookupAnswerHead {
    /// That of the request.
    pub request_id: u64,
    /// CRC-32C of the payload.
    pub checksum: u32,
    /// Bytes of statistics, with which the payload begins.
    pub statistics_bytes: u32,
    /// Rows that were found.
    pub rows: u64,
    /// The shard to ask next time.
    pub home: ShardId,
}

fn u32_of(header: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"))
}

fn u64_of(header: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"))
}

impl LookupHead {
    pub(super) fn from_header(header: &[u8]) -> Result<Self, FrameError> {
        if u32_of(header, 12) != 0 {
            return Err(FrameError::Reserved {
                field: "bytes 12 to 15 of a LOOKUP's header",
            });
        }
        Ok(LookupHead {
            request_id: u64_of(header, 0),
            checksum: u32_of(header, 8),
        })
    }
}

impl LookupAnswerHead {
    pub(super) fn from_header(header: &[u8], payload_bytes: u32) -> Result<Self, FrameError> {
        if header[26..32].iter().any(|byte| *byte != 0) {
            return Err(FrameError::Reserved {
                field: "the last bytes of a LOOKUP answer's header",
            });
        }
        let statistics_bytes = u32_of(header, 12);
        if statistics_bytes > payload_bytes {
            return Err(FrameError::PayloadBytes {
                kind: KIND_LOOKUP_ANSWER,
                bytes: payload_bytes,
            });
        }
        Ok(LookupAnswerHead {
            request_id: u64_of(header, 0),
            checksum: u32_of(header, 8),
            statistics_bytes,
            rows: u64_of(header, 16),
            home: ShardId(u16::from_le_bytes([header[24], header[25]])),
        })
    }
}

/// CRC-32C of the parts of a payload, one behind the other.
pub fn lookup_checksum<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    parts.into_iter().fold(0, crc32c::crc32c_append)
}

/// Appends a LOOKUP to `out`.
///
/// # Errors
/// [`FrameError::FieldTooLong`] where the payload is longer than [`LOOKUP_BYTES_MAX`].
pub fn encode_lookup(out: &mut Vec<u8>, request_id: u64, payload: &[u8]) -> Result<(), FrameError> {
    if payload.len() > LOOKUP_BYTES_MAX as usize {
        return Err(FrameError::FieldTooLong {
            field: "look-up",
            length: payload.len(),
            maximum: LOOKUP_BYTES_MAX as usize,
        });
    }
    let start = out.len();
    let bytes = payload.len() as u32;
    out.extend_from_slice(&prefix_bytes(KIND_LOOKUP, HEADER_WORDS_LOOKUP, bytes));
    out.extend_from_slice(&request_id.to_le_bytes());
    out.extend_from_slice(&lookup_checksum([payload]).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    seal(&mut out[start..]);
    out.extend_from_slice(payload);
    out.resize(out.len() + super::padding(bytes), 0);
    Ok(())
}

/// Appends the head of an answer to `out`; its payload, `payload_bytes` long, and padding are to follow.
///
/// # Panics
/// If the payload is longer than [`LOOKUP_ANSWER_BYTES_MAX`].
pub fn encode_lookup_answer_head(out: &mut Vec<u8>, head: &LookupAnswerHead, payload_bytes: u32) {
    assert!(payload_bytes <= LOOKUP_ANSWER_BYTES_MAX, "{payload_bytes}");
    let start = out.len();
    let words = HEADER_WORDS_LOOKUP_ANSWER;
    out.extend_from_slice(&prefix_bytes(KIND_LOOKUP_ANSWER, words, payload_bytes));
    out.extend_from_slice(&head.request_id.to_le_bytes());
    out.extend_from_slice(&head.checksum.to_le_bytes());
    out.extend_from_slice(&head.statistics_bytes.to_le_bytes());
    out.extend_from_slice(&head.rows.to_le_bytes());
    out.extend_from_slice(&head.home.0.to_le_bytes());
    out.extend_from_slice(&[0; 6]);
    seal(&mut out[start..]);
    assert_eq!(out.len() - start, PREFIX_BYTES + usize::from(words) * 8);
}

#[cfg(test)]
mod tests {
    use super::super::{Decoded, Frame, decode};
    use super::*;

    #[test]
    fn a_look_up_and_its_answer_come_out_as_they_went_in() {
        let mut wire = Vec::new();
        encode_lookup(&mut wire, 7, b"request").unwrap();
        let payload = b"{}rows of it";
        let head = LookupAnswerHead {
            request_id: 7,
            checksum: lookup_checksum([&payload[..2], &payload[2..]]),
            statistics_bytes: 2,
            rows: 3,
            home: ShardId(1),
        };
        let answer_at = wire.len();
        encode_lookup_answer_head(&mut wire, &head, payload.len() as u32);
        wire.extend_from_slice(payload);
        wire.resize(wire.len().next_multiple_of(8), 0);
        let Ok(Decoded::Frame {
            frame: Frame::Lookup(asked, bytes),
            consumed,
        }) = decode(&wire)
        else {
            panic!("a look-up");
        };
        assert_eq!(
            (asked.request_id, bytes, consumed),
            (7, &b"request"[..], answer_at)
        );
        assert_eq!(asked.checksum, lookup_checksum([bytes]));
        let Ok(Decoded::Frame {
            frame: Frame::LookupAnswer(found, bytes),
            ..
        }) = decode(&wire[consumed..])
        else {
            panic!("an answer");
        };
        assert_eq!((found, bytes), (head, &payload[..]));
        let golden = "434c01040200000007000000cd81d9d6";
        let hex: String = wire[..16]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, golden, "the layout is pinned");
    }
}

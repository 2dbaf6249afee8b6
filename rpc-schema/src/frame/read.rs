//! READ and its answer: fixed layouts, because a hot read is little more than its headers.
//! `docs/decisions/0001-fixed-layout-read-headers.md` has the figures.

use super::checksums::{ChecksumMode, Checksums};
use super::error::FrameError;
use super::{
    KIND_READ, KIND_READ_ANSWER, PREFIX_BYTES, head_checksum_fixed, prefix_bytes, seal, seal_fixed,
};
use crate::ids::{ObjectId, PAGE_BYTES, READ_BYTES_MAX, STRIPE_BYTES, ShardId};

/// Words of a READ request's header.
pub const HEADER_WORDS_READ: u16 = 5;

/// Bytes of a whole READ request.
pub const READ_REQUEST_BYTES: usize = PREFIX_BYTES + HEADER_WORDS_READ as usize * 8;

const HEADER_WORDS_ANSWER_FIXED: usize = 2;

/// Most words of a READ answer's header: the fixed ones and a checksum for each page of the
/// longest read, two to a word.
pub const HEADER_WORDS_MAX_READ_ANSWER: u16 =
    (HEADER_WORDS_ANSWER_FIXED as u32 + READ_BYTES_MAX.div_ceil(PAGE_BYTES).div_ceil(2)) as u16;

/// Answer to a read of one page: prefix, fixed part, one checksum.
const ANSWER_HEAD_BYTES_USUAL: usize = PREFIX_BYTES + (HEADER_WORDS_ANSWER_FIXED + 1) * 8;

const SHARD_HINT_NONE: u16 = 0xffff;

/// How a read is to be served. Bits that are not named here are an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReadFlags(u32);

impl ReadFlags {
    /// Nothing asked for.
    pub const NONE: ReadFlags = ReadFlags(0);
    /// The answer shall carry checksums.
    pub const CHECKSUMS: ReadFlags = ReadFlags(1);
    /// A miss shall not fill the cache. Accepted; a worker may ignore it.
    pub const NO_FILL: ReadFlags = ReadFlags(2);
    const KNOWN: u32 = 3;

    /// These flags and those of `other`.
    #[must_use]
    pub const fn with(self, other: ReadFlags) -> ReadFlags {
        ReadFlags(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    #[inline]
    pub const fn contains(self, other: ReadFlags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Asks for a range of an object.
///
/// ```text
/// offset  0 request id u64     16 object version u64   32 length u32
///         8 object home u64    24 offset u64           36 flags u32
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ReadRequest {
    /// Chosen by the client, repeated in the answer; unique among those in flight on a lane, not 0.
    pub request_id: u64,
    /// The object and its version.
    pub object: ObjectId,
    /// First byte in the object.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
    /// How to serve it.
    pub flags: ReadFlags,
}

impl ReadRequest {
    /// What every worker refuses, whatever the object. The frame is well formed: the answer is an
    /// error of code `invalid` for this request, and the connection goes on.
    ///
    /// # Errors
    /// A sentence for the error's message.
    #[inline]
    pub fn check(&self) -> Result<(), &'static str> {
        if self.request_id == 0 {
            return Err("request id 0 is kept for errors of the connection; count from 1");
        }
        if self.length == 0 {
            return Err("a read of no bytes has no answer; do not send it");
        }
        if self.length > READ_BYTES_MAX {
            return Err("the read is longer than readBytesMax of the hello answer; split it");
        }
        if self.offset % STRIPE_BYTES + u64::from(self.length) > STRIPE_BYTES {
            return Err("the read crosses a multiple of stripeBytes; split it there");
        }
        if self.offset.checked_add(u64::from(self.length)).is_none() {
            return Err("the read ends beyond the largest offset");
        }
        Ok(())
    }

    #[inline]
    pub(super) fn from_header(
        header: &[u8; HEADER_WORDS_READ as usize * 8],
    ) -> Result<Self, FrameError> {
        let flags = u32_at(header, 36);
        if flags & !ReadFlags::KNOWN != 0 {
            return Err(FrameError::Flags { found: flags });
        }
        Ok(ReadRequest {
            request_id: u64_at(header, 0),
            object: ObjectId {
                home: u64_at(header, 8),
                version: u64_at(header, 16),
            },
            offset: u64_at(header, 24),
            length: u32_at(header, 32),
            flags: ReadFlags(flags),
        })
    }
}

/// A READ request that was checked and still stands where it arrived: the short way of a server,
/// whose input is little else.
///
/// Checking brings nothing out of the receive buffer, so that a server can check a request and
/// prepare for it while it serves the one before.
#[derive(Clone, Copy, Debug)]
pub struct ReadRequestInPlace<'a>(&'a [u8; READ_REQUEST_BYTES]);

impl<'a> ReadRequestInPlace<'a> {
    /// The READ request at the start of `input`, if a whole and valid one stands there. What it does
    /// not recognise goes through [`decode`](super::decode), which says what is wrong with it.
    #[inline]
    pub fn check(input: &'a [u8]) -> Option<Self> {
        const PREFIX: [u8; PREFIX_BYTES] = prefix_bytes(KIND_READ, HEADER_WORDS_READ, 0);
        let head: &[u8; READ_REQUEST_BYTES] = input.first_chunk()?;
        let is_read =
            u64_at(head, 0) == u64_at(&PREFIX, 0) && u32_at(head, 8) == u32_at(&PREFIX, 8);
        let is_valid = is_read
            && u64_at(head, PREFIX_BYTES) != 0
            && u32_at(head, PREFIX_BYTES + 36) & !ReadFlags::KNOWN == 0
            && u32_at(head, 12) == head_checksum_fixed(head);
        is_valid.then_some(ReadRequestInPlace(head))
    }

    /// The object asked for.
    #[inline]
    pub fn object(&self) -> ObjectId {
        ObjectId {
            home: u64_at(self.0, PREFIX_BYTES + 8),
            version: u64_at(self.0, PREFIX_BYTES + 16),
        }
    }

    /// First byte in the object.
    #[inline]
    pub fn offset(&self) -> u64 {
        u64_at(self.0, PREFIX_BYTES + 24)
    }

    /// The request.
    #[inline]
    pub fn request(&self) -> ReadRequest {
        let header = self.0.last_chunk().expect("a READ has five words");
        ReadRequest::from_header(header).expect("the flags were checked")
    }
}

/// Appends a READ request to `out`.
#[inline]
pub fn encode_read_request(out: &mut Vec<u8>, request: &ReadRequest) {
    let mut frame = [0; READ_REQUEST_BYTES];
    frame[..PREFIX_BYTES].copy_from_slice(&prefix_bytes(KIND_READ, HEADER_WORDS_READ, 0));
    frame[16..24].copy_from_slice(&request.request_id.to_le_bytes());
    frame[24..32].copy_from_slice(&request.object.home.to_le_bytes());
    frame[32..40].copy_from_slice(&request.object.version.to_le_bytes());
    frame[40..48].copy_from_slice(&request.offset.to_le_bytes());
    frame[48..52].copy_from_slice(&request.length.to_le_bytes());
    frame[52..56].copy_from_slice(&request.flags.0.to_le_bytes());
    seal_fixed(&mut frame);
    out.extend_from_slice(&frame);
}

/// Where the bytes of an answer came from. The number is the byte on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ReadSource {
    /// The DRAM tier.
    #[default]
    Dram = 0,
    /// The device.
    Device = 1,
    /// The under-store: a miss.
    UnderStore = 2,
}

/// The fixed part of a READ answer's header.
///
/// ```text
/// offset  0 request id u64   9 checksum mode u8   12 checksum count u32
///         8 source u8       10 shard hint u16     16 checksums u32 each, padded to 8
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadAnswerHead {
    /// That of the request.
    pub request_id: u64,
    /// Where the bytes came from.
    pub source: ReadSource,
    /// The shard to ask next time, where this lane's was not the owner.
    pub shard_hint: Option<ShardId>,
}

impl ReadAnswerHead {
    /// Bytes 8 to 15 of the fixed part.
    #[inline]
    fn fixed_word(&self, mode: ChecksumMode, count: u32) -> u64 {
        let shard_hint = self.shard_hint.map_or(SHARD_HINT_NONE, |shard| shard.0);
        u64::from(self.source as u8)
            | u64::from(mode as u8) << 8
            | u64::from(shard_hint) << 16
            | u64::from(count) << 32
    }
}

/// A received READ answer, all but its payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadAnswer<'a> {
    /// The fixed part.
    pub head: ReadAnswerHead,
    /// The payload's checksums.
    pub checksums: Checksums<'a>,
}

impl<'a> ReadAnswer<'a> {
    #[inline]
    pub(super) fn from_header(header: &'a [u8], payload_bytes: u32) -> Result<Self, FrameError> {
        let (fixed, rest) = header
            .split_first_chunk::<{ HEADER_WORDS_ANSWER_FIXED * 8 }>()
            .expect("the prefix was checked: a READ answer has two words or more");
        let source = match fixed[8] {
            0 => ReadSource::Dram,
            1 => ReadSource::Device,
            2 => ReadSource::UnderStore,
            found => return Err(FrameError::Source { found }),
        };
        let mode = match fixed[9] {
            0 => ChecksumMode::None,
            1 => ChecksumMode::Pages,
            2 => ChecksumMode::Range,
            found => return Err(FrameError::ChecksumMode { found }),
        };
        let count = u32_at(fixed, 12);
        // The first comparison bounds `count`, so that the second cannot overflow.
        if count != mode.count(payload_bytes) || rest.len() != count.div_ceil(2) as usize * 8 {
            let words = (header.len() / 8) as u16;
            return Err(FrameError::ChecksumCount {
                count,
                words,
                payload_bytes,
            });
        }
        let (checksums, padding) = rest.split_at(count as usize * 4);
        if padding.iter().any(|byte| *byte != 0) {
            return Err(FrameError::Reserved {
                field: "padding of the checksums",
            });
        }
        let shard_hint = u16::from_le_bytes([fixed[10], fixed[11]]);
        Ok(ReadAnswer {
            head: ReadAnswerHead {
                request_id: u64_at(fixed, 0),
                source,
                shard_hint: (shard_hint != SHARD_HINT_NONE).then_some(ShardId(shard_hint)),
            },
            checksums: Checksums::new(mode, checksums),
        })
    }
}

/// Appends prefix and header of a READ answer to `out`; `payload_bytes` of payload and its
/// padding ([`super::padding`]) are to follow on the wire.
///
/// `checksums` gives what `mode` asks for: nothing, one a page in the order of the pages, or one.
///
/// # Panics
/// If the number of checksums is not that of `mode` and `payload_bytes`, or the payload is longer
/// than [`READ_BYTES_MAX`].
#[inline]
pub fn encode_read_answer_head(
    out: &mut Vec<u8>,
    head: &ReadAnswerHead,
    payload_bytes: u32,
    mode: ChecksumMode,
    checksums: impl IntoIterator<Item = u32>,
) {
    let count = mode.count(payload_bytes);
    let mut checksums = checksums.into_iter();
    if count == 1 {
        let checksum = checksums.next().expect("one checksum for this payload");
        out.extend_from_slice(&usual_read_answer_head(head, payload_bytes, mode, checksum));
    } else {
        append_answer_head(out, head, payload_bytes, mode, &mut checksums);
    }
    assert!(
        checksums.next().is_none(),
        "{count} checksums for this payload, not more"
    );
}

/// What [`encode_read_answer_head`] appends for an answer with one checksum: that of a page, or of a
/// range.
///
/// # Panics
/// If `mode` and `payload_bytes` ask for another number of checksums, or the payload is longer than
/// [`READ_BYTES_MAX`].
// Always: the caller knows the mode, and a call costs as much as the head.
#[inline(always)]
pub fn usual_read_answer_head(
    head: &ReadAnswerHead,
    payload_bytes: u32,
    mode: ChecksumMode,
    checksum: u32,
) -> [u8; ANSWER_HEAD_BYTES_USUAL] {
    assert!(
        payload_bytes <= READ_BYTES_MAX && mode.count(payload_bytes) == 1,
        "one checksum for a read answer of {payload_bytes} bytes"
    );
    const WORDS: u16 = HEADER_WORDS_ANSWER_FIXED as u16 + 1;
    // Put together a word at a time: bytes would be stored one by one and loaded for the checksum.
    let prefix = prefix_bytes(KIND_READ_ANSWER, WORDS, payload_bytes);
    let words = [
        u64_at(&prefix, 0),
        u64_at(&prefix, 8),
        head.request_id,
        head.fixed_word(mode, 1),
        u64::from(checksum),
    ];
    let mut bytes = [0; ANSWER_HEAD_BYTES_USUAL];
    for (place, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
        *place = word.to_le_bytes();
    }
    seal_fixed(&mut bytes);
    bytes
}

/// Appends the head of an answer with any other number of checksums.
fn append_answer_head(
    out: &mut Vec<u8>,
    head: &ReadAnswerHead,
    payload_bytes: u32,
    mode: ChecksumMode,
    checksums: &mut impl Iterator<Item = u32>,
) {
    assert!(
        payload_bytes <= READ_BYTES_MAX,
        "a read answer of {payload_bytes} bytes"
    );
    let count = mode.count(payload_bytes);
    let words = HEADER_WORDS_ANSWER_FIXED as u32 + count.div_ceil(2);
    let start = out.len();
    let bytes = PREFIX_BYTES + words as usize * 8;
    out.reserve(bytes);
    out.extend_from_slice(&prefix_bytes(KIND_READ_ANSWER, words as u16, payload_bytes));
    out.extend_from_slice(&head.request_id.to_le_bytes());
    out.extend_from_slice(&head.fixed_word(mode, count).to_le_bytes());
    let before = out.len();
    for checksum in checksums.take(count as usize) {
        out.extend_from_slice(&checksum.to_le_bytes());
    }
    assert_eq!(
        out.len() - before,
        count as usize * 4,
        "{count} checksums for this payload"
    );
    out.resize(start + bytes, 0);
    seal(&mut out[start..]);
}

#[inline]
fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

#[inline]
fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_way_of_a_server_reads_what_the_general_one_reads_and_nothing_else() {
        let request = ReadRequest {
            request_id: 7,
            object: ObjectId {
                home: 1,
                version: 2,
            },
            offset: 4096,
            length: 512,
            flags: ReadFlags::CHECKSUMS,
        };
        let mut frame = Vec::new();
        encode_read_request(&mut frame, &request);
        frame.extend_from_slice(b"the next frame");
        let in_place = ReadRequestInPlace::check(&frame).expect("a whole and valid request");
        assert_eq!(in_place.request(), request);
        assert_eq!(
            (in_place.object(), in_place.offset()),
            (request.object, request.offset)
        );
        for at in 0..READ_REQUEST_BYTES {
            for bit in 0..8 {
                let mut wrong = frame.clone();
                wrong[at] ^= 1 << bit;
                let checked = ReadRequestInPlace::check(&wrong);
                assert!(checked.is_none(), "bit {bit} of byte {at}");
            }
            assert!(ReadRequestInPlace::check(&frame[..at]).is_none());
        }
    }

    #[test]
    fn what_no_worker_serves_is_named() {
        let good = ReadRequest {
            request_id: 1,
            offset: 4096,
            length: 4096,
            ..Default::default()
        };
        assert_eq!(good.check(), Ok(()));
        let whole = ReadRequest {
            offset: STRIPE_BYTES - u64::from(READ_BYTES_MAX),
            length: READ_BYTES_MAX,
            ..good
        };
        assert_eq!(whole.check(), Ok(()));
        for (bad, word) in [
            (
                ReadRequest {
                    request_id: 0,
                    ..good
                },
                "request id 0",
            ),
            (ReadRequest { length: 0, ..good }, "no bytes"),
            (
                ReadRequest {
                    length: READ_BYTES_MAX + 1,
                    ..good
                },
                "readBytesMax",
            ),
            (
                ReadRequest {
                    offset: STRIPE_BYTES - 4095,
                    ..good
                },
                "stripeBytes",
            ),
            (
                ReadRequest {
                    offset: u64::MAX - 4095,
                    length: 4096,
                    ..good
                },
                "largest offset",
            ),
        ] {
            assert!(
                bad.check().is_err_and(|text| text.contains(word)),
                "{bad:?} {:?}",
                bad.check()
            );
        }
    }

    #[test]
    #[should_panic(expected = "checksums for this payload")]
    fn an_answer_with_too_few_checksums_is_a_bug_of_ours() {
        let head = ReadAnswerHead::default();
        encode_read_answer_head(&mut Vec::new(), &head, 8192, ChecksumMode::Pages, [1]);
    }
}

//! A read: the hit in DRAM, answered on the spot, and the way of every other read to its answer.
//!
//! [`Shard::read`] answers hits in the DRAM tier without a task, an allocation or a lock. What misses goes
//! the short way of one piece from the device, to the shard that owns it, or into a task that
//! [gathers](super::gather) the range piece by piece.

use std::rc::Rc;
use std::sync::Arc;

use corelane_io::hint::prefetch_to_send;
use corelane_io::{FrameSlice, Io, Nanos, PAGE_SIZE, Payload, Priority};
use corelane_rpc_schema::Stripe;
use corelane_rpc_schema::frame::{
    ChecksumMode, ReadAnswerHead, ReadFlags, ReadRequest, ReadSource, encode_read_answer_head,
    usual_read_answer_head,
};
use corelane_rpc_schema::messages::{ErrorCode, ErrorMessage};

use super::Shard;
use super::gather::{ReadParts, pieces};
use super::slow::SlowRead;
use crate::cache::frames::{Expected, FRAME_BYTES, FRAME_PAGES, FrameKey};
use crate::data_plane::lane::LaneState;
use crate::data_plane::outbox::{Batches, Outbox};
use crate::under_store::UnderStore;

/// Most frames that a read can touch: the longest read, not starting at a frame's boundary.
const FRAMES_MAX: usize = corelane_rpc_schema::READ_BYTES_MAX as usize / FRAME_BYTES + 1;

/// Whether the stored checksums of its pages describe the range: it starts at a page and ends at
/// one or at the end of the object's bytes.
#[inline]
pub(super) fn checksum_mode(request: &ReadRequest, ends_with_object: bool) -> ChecksumMode {
    if !request.flags.contains(ReadFlags::CHECKSUMS) {
        return ChecksumMode::None;
    }
    let page = PAGE_SIZE as u64;
    let is_aligned = request.offset.is_multiple_of(page)
        && (u64::from(request.length).is_multiple_of(page) || ends_with_object);
    if is_aligned {
        ChecksumMode::Pages
    } else {
        ChecksumMode::Range
    }
}

fn checksum_of_range<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> u32 {
    pieces.fold(0, crc32c::crc32c_append)
}

pub(crate) fn error(code: ErrorCode, message: impl Into<String>) -> ErrorMessage {
    let retry_after_ms = if code == ErrorCode::Busy { 20 } else { 0 };
    ErrorMessage {
        code,
        message: message.into(),
        retry_after_ms,
    }
}

impl<I: Io, U: UnderStore> Shard<I, U> {
    /// Serves a read that `lane` has counted in. The answer goes into its outbox, now or later.
    /// `expected` is what [`Shard::expect_read`] said.
    // Always: a hit is some 150 instructions, and a call with what it needs a tenth of that.
    #[inline(always)]
    pub fn read(self: &Rc<Self>, lane: &Rc<LaneState>, request: &ReadRequest, expected: Expected) {
        if let Err(sentence) = request.check() {
            self.refuse(lane, request, sentence);
        } else if self.answer_from_tier(lane, request, expected) {
            self.counters.reads_dram.increase();
            self.counters.bytes_served.add(u64::from(request.length));
        } else {
            self.read_in_a_task(lane, request, expected);
        }
    }

    #[cold]
    fn refuse(&self, lane: &LaneState, request: &ReadRequest, sentence: &'static str) {
        self.counters.reads_failed.increase();
        let error = error(ErrorCode::Invalid, sentence);
        lane.answer_error(request.request_id, request.length, error);
    }

    /// What the tier cannot answer at once.
    #[inline(never)]
    fn read_in_a_task(
        self: &Rc<Self>,
        lane: &Rc<LaneState>,
        request: &ReadRequest,
        expected: Expected,
    ) {
        if self.read_from_device(lane, request, expected).is_none()
            && !self.forward_read(lane, request)
        {
            self.read_slowly(lane, request);
        }
    }

    /// Starts the general way, whose task is large.
    #[inline(never)]
    pub(super) fn read_slowly(self: &Rc<Self>, lane: &Rc<LaneState>, request: &ReadRequest) {
        let answer = Rc::clone(self).answer_slowly(Rc::clone(lane), *request);
        self.io.spawn(Priority::Foreground, answer);
    }

    /// Answers if the tier has everything and the client may read the mount that it notes. Whether
    /// another mount lets the client read, the long way finds out.
    #[inline(always)]
    fn answer_from_tier(
        &self,
        lane: &LaneState,
        request: &ReadRequest,
        expected: Expected,
    ) -> bool {
        let start = (request.offset % FRAME_BYTES as u64) as usize;
        let end = start + request.length as usize;
        if end > FRAME_BYTES {
            return self.answer_long_from_tier(lane, request);
        }
        if expected.is_absent() {
            return false;
        }
        let mut tier = self.tier.borrow_mut();
        let key = FrameKey::of_offset(request.object, request.offset);
        let Some(cached) = tier.hit_expected(key, expected) else {
            return false;
        };
        if end > cached.length as usize || !lane.access.borrow().allows(cached.mount) {
            return false;
        }
        let Some(slice) = cached.frame.slice_if_sealed(start..end) else {
            return false;
        };
        if let Ok(page) = slice.bytes().try_into() {
            prefetch_to_send(page);
        }
        self.count_ahead_used(&cached.is_ahead);
        let mode = checksum_mode(request, end == cached.length as usize);
        let checksums = &cached.checksums[start / PAGE_SIZE..end.div_ceil(PAGE_SIZE)];
        if let Some(mut answer) = lane.outbox.begin_answer(request.length) {
            append_piece(
                &mut answer,
                request,
                ReadSource::Dram,
                mode,
                slice,
                checksums,
            );
        }
        true
    }

    /// A read over several frames, if all of them are in the tier.
    #[inline(never)]
    fn answer_long_from_tier(&self, lane: &LaneState, request: &ReadRequest) -> bool {
        let mut tier = self.tier.borrow_mut();
        let mut ends_with_object = false;
        for piece in pieces(request) {
            let Some(cached) = tier.peek(piece.key) else {
                return false;
            };
            if !lane.access.borrow().allows(cached.mount) {
                return false;
            }
            if piece.end > cached.length as usize || !cached.frame.is_sealed(&piece.pages()) {
                return false;
            }
            ends_with_object = piece.end == cached.length as usize;
        }
        let mode = checksum_mode(request, ends_with_object);
        let head = ReadAnswerHead {
            request_id: request.request_id,
            source: ReadSource::Dram,
            shard_hint: None,
        };
        // The long way for what is longer than a frame: per page this is still a few nanoseconds.
        let mut checksums = [0u32; FRAMES_MAX * FRAME_PAGES];
        let mut count = 0;
        let mut range_checksum = 0;
        for piece in pieces(request) {
            let cached = tier.hit(piece.key).expect("looked at above");
            self.count_ahead_used(&cached.is_ahead);
            match mode {
                ChecksumMode::Pages => {
                    let of_piece = &cached.checksums[piece.pages()];
                    checksums[count..count + of_piece.len()].copy_from_slice(of_piece);
                    count += of_piece.len();
                }
                ChecksumMode::Range => {
                    let slice = cached.frame.slice(piece.start..piece.end);
                    range_checksum = crc32c::crc32c_append(range_checksum, slice.bytes());
                }
                ChecksumMode::None => {}
            }
        }
        if mode == ChecksumMode::Range {
            (checksums[0], count) = (range_checksum, 1);
        }
        lane.outbox.answer(request.length, |batch| {
            batch.push_head_with(|out| {
                let checksums = checksums[..count].iter().copied();
                encode_read_answer_head(out, &head, request.length, mode, checksums);
            });
            for piece in pieces(request) {
                let cached = tier.peek(piece.key).expect("looked at above");
                batch.push_payload(Payload::Frame(cached.frame.slice(piece.start..piece.end)));
            }
            Outbox::pad(batch, request.length);
        });
        true
    }

    pub(super) async fn answer_slowly(self: Rc<Self>, lane: Rc<LaneState>, request: ReadRequest) {
        let began = self.io.now();
        let owner = self.owner_of(request.object.home, Stripe::of_offset(request.offset));
        let gathered = loop {
            let renewals = self.access_renewals.get();
            let access = Arc::clone(&lane.access.borrow());
            let gathered = if owner == self.id {
                self.gather(&request, &access).await
            } else {
                self.counters.reads_forwarded.increase();
                self.ask_read(owner, &request, access).await
            };
            // Rights count when the answer is sent: a fetch may have taken seconds.
            if gathered.is_err() || self.access_renewals.get() == renewals {
                break gathered;
            }
        };
        self.answer_gathered(&lane, &request, began, gathered);
    }

    pub(super) fn count_read(
        &self,
        lane: &LaneState,
        request: &ReadRequest,
        parts: &ReadParts,
        began: Nanos,
    ) {
        match parts.source {
            ReadSource::Dram => self.counters.reads_dram.increase(),
            ReadSource::Device => self.counters.reads_device.increase(),
            ReadSource::UnderStore => self.counters.reads_under_store.increase(),
        }
        self.counters.bytes_served.add(u64::from(request.length));
        self.slow.borrow_mut().note(SlowRead {
            source: parts.source,
            total_ns: self.io.now().since(began).as_nanos() as u64,
            device_ns: parts.device_ns,
            under_store_ns: parts.under_store_ns,
            request,
            client: || lane.client_name.borrow().to_string(),
            wall_clock_ms: || self.io.wall_clock_ms(),
        });
    }
}

/// Appends the answer to a read of one piece. `checksums` are those of the pages that it touches.
// Always: as for `Shard::read`.
#[inline(always)]
pub(super) fn append_piece(
    batch: &mut Batches,
    request: &ReadRequest,
    source: ReadSource,
    mode: ChecksumMode,
    slice: FrameSlice,
    checksums: &[u32],
) {
    let head = ReadAnswerHead {
        request_id: request.request_id,
        source,
        shard_hint: None,
    };
    match checksums {
        [checksum] if mode == ChecksumMode::Pages => {
            batch.push_head(&usual_read_answer_head(
                &head,
                request.length,
                mode,
                *checksum,
            ));
        }
        _ => push_head_of_piece(batch, head, request.length, mode, slice.bytes(), checksums),
    }
    batch.push_payload(Payload::Frame(slice));
    Outbox::pad(batch, request.length);
}

/// Appends the head of an answer that is not of one whole page.
#[inline(never)]
fn push_head_of_piece(
    batch: &mut Batches,
    head: ReadAnswerHead,
    length: u32,
    mode: ChecksumMode,
    range: &[u8],
    checksums: &[u32],
) {
    batch.push_head_with(|out| match mode {
        ChecksumMode::Range => {
            encode_read_answer_head(out, &head, length, mode, [crc32c::crc32c(range)]);
        }
        ChecksumMode::Pages => {
            encode_read_answer_head(out, &head, length, mode, checksums.iter().copied());
        }
        ChecksumMode::None => encode_read_answer_head(out, &head, length, mode, []),
    });
}

pub(super) fn append_answer(batch: &mut Batches, request: &ReadRequest, parts: ReadParts) {
    let length: usize = parts.pieces.iter().map(|piece| piece.bytes().len()).sum();
    assert_eq!(
        length, request.length as usize,
        "the pieces make up the range"
    );
    let page = PAGE_SIZE as u64;
    let pages = (request.offset + u64::from(request.length)).div_ceil(page) - request.offset / page;
    assert_eq!(
        pages,
        parts.checksums.len() as u64,
        "one checksum a page that the range touches"
    );
    let mode = checksum_mode(request, parts.ends_with_object);
    let head = ReadAnswerHead {
        request_id: request.request_id,
        source: parts.source,
        shard_hint: parts.owner,
    };
    batch.push_head_with(|out| match mode {
        ChecksumMode::Range => {
            let checksum = checksum_of_range(parts.pieces.iter().map(Payload::bytes));
            encode_read_answer_head(out, &head, request.length, mode, [checksum]);
        }
        ChecksumMode::Pages => {
            encode_read_answer_head(out, &head, request.length, mode, parts.checksums)
        }
        ChecksumMode::None => encode_read_answer_head(out, &head, request.length, mode, []),
    });
    for piece in parts.pieces {
        batch.push_payload(piece);
    }
    Outbox::pad(batch, request.length);
}

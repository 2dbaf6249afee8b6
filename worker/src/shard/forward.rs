//! Reads that arrive at a shard that does not own their stripe: the owner is asked through the
//! mesh, and what it pins is sent from here without a copy.
//!
//! The usual case, that the owner has the bytes in its tier, takes no task on either side: the
//! question waits in a table, and the owner answers it where it takes it from the queue. The
//! invariant: whatever does not fit the usual case goes the general way, which gives the same answer.

use std::rc::Rc;
use std::sync::Arc;

use corelane_io::{Io, Nanos, PAGE_SIZE, Payload, Priority};
use corelane_rpc_schema::frame::{ReadRequest, ReadSource};
use corelane_rpc_schema::messages::{ErrorCode, ErrorMessage};
use corelane_rpc_schema::{ShardId, Stripe};

use super::Shard;
use super::asking::Waiting;
use super::gather::ReadParts;
use super::message::{Answer, Message, Question, RemoteRead};
use super::read::append_answer;
use crate::cache::frames::{FRAME_BYTES, FrameKey};
use crate::data_plane::lane::LaneState;
use crate::mount::AccessSet;
use crate::under_store::UnderStore;

/// A read that waits for the owner's answer.
pub(super) struct Forwarded {
    lane: Rc<LaneState>,
    request: ReadRequest,
    began: Nanos,
    /// [`Shard::access_renewals`] when it was sent.
    renewals: u64,
}

impl ReadParts {
    /// What `owner` sent.
    pub(crate) fn of_owner(owner: ShardId, read: RemoteRead) -> ReadParts {
        ReadParts {
            source: read.source,
            pieces: read.pieces.into_iter().map(Payload::Remote).collect(),
            checksums: read.checksums,
            ends_with_object: read.ends_with_object,
            owner: Some(owner),
            device_ns: 0,
            under_store_ns: 0,
        }
    }
}

impl<I: Io, U: UnderStore> Shard<I, U> {
    /// Asks the owner of the stripe, if that is another shard and can be asked at once. False: the
    /// read is to go the general way.
    pub(super) fn forward_read(
        self: &Rc<Self>,
        lane: &Rc<LaneState>,
        request: &ReadRequest,
    ) -> bool {
        if self.shards == 1 {
            return false;
        }
        let owner = self.owner_of(request.object.home, Stripe::of_offset(request.offset));
        let to = usize::from(owner.0);
        if owner == self.id || self.asking.is_full() || self.mesh.borrow().room(to) == 0 {
            return false;
        }
        let ticket = self.asking.wait(Waiting::Read(Forwarded {
            lane: Rc::clone(lane),
            request: *request,
            began: self.io.now(),
            renewals: self.access_renewals.get(),
        }));
        let question = Question::Read {
            request: *request,
            access: Arc::clone(&lane.access.borrow()),
        };
        let sent = self
            .mesh
            .borrow_mut()
            .send(to, Message::Ask { ticket, question });
        assert!(sent.is_ok(), "there was room for the question");
        self.counters.reads_forwarded.increase();
        true
    }

    /// The owner's answer to a read that was forwarded.
    pub(super) fn answer_forwarded(
        self: &Rc<Self>,
        forwarded: Forwarded,
        owner: ShardId,
        answer: Answer,
    ) {
        let Answer::Read(read) = answer else {
            unreachable!("{answer:?} does not answer a read")
        };
        let gathered = read.map(|read| ReadParts::of_owner(owner, read));
        let Forwarded {
            lane,
            request,
            began,
            renewals,
        } = forwarded;
        if self.access_renewals.get() != renewals && gathered.is_ok() {
            // The rights of now count, and the owner decided by earlier ones.
            let again = Rc::clone(self).answer_slowly(lane, request);
            self.io.spawn(Priority::Foreground, again);
            return;
        }
        self.answer_gathered(&lane, &request, began, gathered);
    }

    /// Answers with what was gathered, here or by the owner, or with why it was not.
    pub(super) fn answer_gathered(
        &self,
        lane: &LaneState,
        request: &ReadRequest,
        began: Nanos,
        gathered: Result<ReadParts, ErrorMessage>,
    ) {
        match gathered {
            Ok(parts) => {
                self.count_read(lane, request, &parts, began);
                lane.outbox
                    .answer(request.length, |batch| append_answer(batch, request, parts));
            }
            Err(error) => {
                self.counters.reads_failed.increase();
                if error.code == ErrorCode::Busy {
                    self.counters.answers_busy.increase();
                }
                lane.answer_error(request.request_id, request.length, error);
            }
        }
    }

    /// The bytes of another shard's read, if they lie in one frame of the tier and the client may
    /// read the mount that the frame notes.
    pub(super) fn read_for_sibling(
        &self,
        request: &ReadRequest,
        access: &AccessSet,
    ) -> Option<RemoteRead> {
        let start = (request.offset % FRAME_BYTES as u64) as usize;
        let end = start + request.length as usize;
        if end > FRAME_BYTES {
            return None;
        }
        let mut tier = self.tier.borrow_mut();
        let cached = tier.hit(FrameKey::of_offset(request.object, request.offset))?;
        if end > cached.length as usize || !access.allows(cached.mount) {
            return None;
        }
        let slice = cached.frame.slice_if_sealed(start..end)?;
        self.count_ahead_used(&cached.is_ahead);
        let pages = start / PAGE_SIZE..end.div_ceil(PAGE_SIZE);
        Some(RemoteRead {
            source: ReadSource::Dram,
            pieces: smallvec::smallvec![slice.to_remote()],
            checksums: cached.checksums[pages].into(),
            // As in `answer_from_tier`: a frame is shorter only at the end of its object. A mode
            // that this decides is the same for an end at a whole frame, whose pages are whole.
            ends_with_object: end == cached.length as usize,
        })
    }
}

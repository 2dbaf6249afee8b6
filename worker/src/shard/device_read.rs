//! The short way of a read from the device: one piece, of a block that is there, owned by this
//! shard and known by id.
//!
//! Everything up to the device is decided in the turn in which the request was decoded, so the
//! task that waits for the device is small and looks nothing up. What does not fit here (several
//! frames, an unknown object, no free buffer) or goes wrong here takes the general way in
//! [`read`](super::read), which is right for every read.

use std::rc::Rc;

use corelane_io::{FrameLease, Io, Nanos, PAGE_SIZE, Priority};
use corelane_rpc_schema::frame::{ReadRequest, ReadSource};
use corelane_rpc_schema::{BlockId, ObjectId, Stripe};

use super::Shard;
use super::metadata::Known;
use super::read::{append_piece, checksum_mode};
use super::slow::SlowRead;
use crate::cache::frames::{Expected, FRAME_BYTES, FrameKey};
use crate::data_plane::lane::LaneState;
use crate::store::BlockEntry;
use crate::under_store::UnderStore;

/// A read that only the device is still needed for.
pub(super) struct DeviceRead {
    known: Rc<Known>,
    block: BlockId,
    entry: BlockEntry,
    first_page: u32,
    /// First byte wanted, within the pages of the lease.
    start: usize,
    lease: FrameLease,
    began: Nanos,
}

impl<I: Io, U: UnderStore> Shard<I, U> {
    /// Says where a read of `object` at `offset` will find its first frame, and brings what it will
    /// look at closer to the processor. A hint.
    #[inline]
    pub fn expect_read(&self, lane: &LaneState, object: ObjectId, offset: u64) -> Expected {
        let key = FrameKey::of_offset(object, offset);
        let expected = self.tier.borrow().expect(key);
        if expected.is_absent() {
            self.expect_device_read(lane, object, offset);
        }
        expected
    }

    #[inline]
    fn expect_device_read(&self, lane: &LaneState, object: ObjectId, offset: u64) {
        if let Some((last, block_bytes)) = lane.last_from_device.get()
            && last == object
        {
            let index = offset / u64::from(block_bytes);
            self.store.prefetch(BlockId {
                object,
                index: index as u32,
            });
        }
    }

    /// Decides whether `request`, which missed the tier, can go the short way.
    pub(super) fn plan_device_read(
        &self,
        lane: &LaneState,
        request: &ReadRequest,
    ) -> Option<DeviceRead> {
        let in_frame = (request.offset % FRAME_BYTES as u64) as usize;
        let end = request.offset + u64::from(request.length);
        if in_frame + request.length as usize > FRAME_BYTES
            || self.owner_of(request.object.home, Stripe::of_offset(request.offset)) != self.id
        {
            return None;
        }
        let known = self.metadata.borrow().known_by_id(request.object)?;
        if end > known.meta.length || !lane.access.borrow().allows(known.mount.get()) {
            return None;
        }
        let block_bytes = u64::from(known.meta.block_bytes);
        lane.last_from_device
            .set(Some((request.object, known.meta.block_bytes)));
        let block = known.meta.block((request.offset / block_bytes) as u32);
        let entry = self.store.lookup(block)?;
        let in_block = (request.offset % block_bytes) as usize;
        let first_page = in_block / PAGE_SIZE;
        let start = in_block % PAGE_SIZE;
        let pages = (start + request.length as usize).div_ceil(PAGE_SIZE);
        let pool = if pages == 1 {
            &self.pages
        } else {
            &self.frames
        };
        let frame = pool.take()?;
        {
            // Last, because asking notes the frame: one that is there in part, or worth keeping,
            // is read into by the general way.
            let key = FrameKey::of_offset(request.object, request.offset);
            let mut tier = self.tier.borrow_mut();
            if tier.peek(key).is_some() || tier.admits(key) {
                return None;
            }
        }
        let lease = frame.lease(0..pages);
        self.store.touch(block);
        Some(DeviceRead {
            known,
            block,
            entry,
            first_page: first_page as u32,
            start,
            lease: lease.expect("a fresh frame is vacant"),
            began: self.io.now(),
        })
    }

    /// Reads, checks and answers.
    pub(super) async fn answer_from_device(
        self: Rc<Self>,
        lane: Rc<LaneState>,
        request: ReadRequest,
        read: DeviceRead,
    ) {
        let DeviceRead {
            known,
            block,
            entry,
            first_page,
            start,
            lease,
            began,
        } = read;
        let pages = lease.pages().len() as u32;
        let frame = match self.store.read(block, entry, first_page, lease).await {
            Ok(frame) => frame,
            Err(error) => {
                // The general way sees only that the block is not there any more.
                self.count_unreadable(&error);
                let again = Rc::clone(&self).answer_slowly(lane, request);
                self.io.spawn(Priority::Foreground, again);
                return;
            }
        };
        let end = request.offset + u64::from(request.length);
        let mode = checksum_mode(&request, end == known.meta.length);
        let checksums = self.store.checksums(&entry, first_page, pages);
        let slice = frame.slice(start..start + request.length as usize);
        lane.outbox.answer(request.length, |batch| {
            append_piece(batch, &request, ReadSource::Device, mode, slice, &checksums);
        });
        self.counters.reads_device.increase();
        self.counters.bytes_served.add(u64::from(request.length));
        let waited = self.io.now().since(began).as_nanos() as u64;
        self.slow.borrow_mut().note(SlowRead {
            source: ReadSource::Device,
            total_ns: waited,
            device_ns: waited,
            under_store_ns: 0,
            request: &request,
            client: &lane.client_name.borrow(),
            wall_clock_ms: || self.io.wall_clock_ms(),
        });
        self.consider_read_ahead(&known, request.offset..end, false);
    }
}

//! The short way of a read from the device: one piece, of a block that is there, owned by this
//! shard and known by id.
//!
//! The device is asked in the turn in which the request was decoded, so the task that waits for it
//! is small and looks nothing up. What does not fit here (several
//! frames, an unknown object, no free buffer) or goes wrong here takes the general way in
//! [`read`](super::read), which is right for every read.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use corelane_io::{Frame, FrameLease, Io, IoError, Nanos, PAGE_SIZE, Priority};
use corelane_rpc_schema::frame::{ReadRequest, ReadSource};
use corelane_rpc_schema::{ObjectId, Stripe};
use pin_project_lite::pin_project;

use super::Shard;
use super::known::Known;
use super::read::{append_piece, checksum_mode};
use super::slow::SlowRead;
use crate::cache::frames::{Expected, FRAME_BYTES, FrameKey};
use crate::data_plane::lane::LaneState;
use crate::store::BlockRead;
use crate::under_store::UnderStore;

/// A read that only the device is still needed for.
struct DeviceRead<I: Io> {
    known: Rc<Known>,
    block: BlockRead<I>,
    /// First byte wanted, within the pages that are read.
    start: u32,
    began: Nanos,
}

pin_project! {
    /// Waits for the device, then checks and answers. Written out, because an `async` block would hold
    /// the device's future and all that it captures twice, and be copied as such.
    struct DeviceAnswer<I: Io, U: UnderStore, F> {
        #[pin]
        asked: F,
        shard: Rc<Shard<I, U>>,
        lane: Rc<LaneState>,
        request: ReadRequest,
        read: DeviceRead<I>,
    }
}

impl<I, U, F> Future for DeviceAnswer<I, U, F>
where
    I: Io,
    U: UnderStore,
    F: Future<Output = Result<FrameLease, IoError>>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let came = ready!(this.asked.poll(context));
        match this.read.block.check(came) {
            Ok(frame) => {
                this.shard
                    .answer_from_device(this.lane, this.request, this.read, frame);
            }
            Err(error) => {
                // The general way sees only that the block is not there any more.
                this.shard.count_unreadable(&error);
                this.shard.read_slowly(this.lane, this.request);
            }
        }
        Poll::Ready(())
    }
}

impl<I: Io, U: UnderStore> Shard<I, U> {
    /// Says where a read of `object` at `offset` will find its first frame, and brings what it will
    /// look at closer to the processor. A hint.
    #[inline(always)]
    pub fn expect_read(&self, lane: &LaneState, object: ObjectId, offset: u64) -> Expected {
        let key = FrameKey::of_offset(object, offset);
        let expected = self.tier.borrow().expect(key);
        if expected.is_absent() {
            self.expect_device_read(lane, object, offset);
        }
        expected
    }

    #[inline(never)]
    fn expect_device_read(&self, lane: &LaneState, object: ObjectId, offset: u64) {
        if let Some(last) = &*lane.last_from_device.borrow()
            && last.meta.id == object
        {
            self.store.prefetch(last.meta.block(block_of(last, offset)));
        }
    }

    /// Begins to serve `request`, which missed the tier, if it can go the short way; `None` if not, and
    /// nothing has happened but notes of what is asked for.
    #[inline]
    pub(super) fn read_from_device(
        self: &Rc<Self>,
        lane: &Rc<LaneState>,
        request: &ReadRequest,
        expected: Expected,
    ) -> Option<()> {
        let in_frame = (request.offset % FRAME_BYTES as u64) as usize;
        let end = request.offset + u64::from(request.length);
        if in_frame + request.length as usize > FRAME_BYTES
            || self.owner_of(request.object.home, Stripe::of_offset(request.offset)) != self.id
        {
            return None;
        }
        let known = self.last_known(lane, request.object)?;
        if end > known.meta.length || !lane.access.borrow().allows(known.mount.get()) {
            return None;
        }
        let block = known.meta.block(block_of(&known, request.offset));
        let located = self.store.locate(block)?;
        let in_block = (request.offset % u64::from(known.meta.block_bytes)) as u32;
        let start = in_block % PAGE_SIZE as u32;
        let pages = (start + request.length).div_ceil(PAGE_SIZE as u32);
        let pool = if pages == 1 {
            &self.pages
        } else {
            &self.frames
        };
        let lease = pool.take_leased(pages as usize)?;
        {
            // Last, because asking notes the frame: one that is there in part, or worth keeping,
            // is read into by the general way.
            let key = FrameKey::of_offset(request.object, request.offset);
            let mut tier = self.tier.borrow_mut();
            if !expected.is_absent() && tier.peek(key).is_some() || tier.admits(key) {
                return None;
            }
        }
        let first_page = in_block / PAGE_SIZE as u32;
        let block = self
            .store
            .begin_read(&located, first_page, pages)
            .inspect_err(|error| self.count_unreadable(error))
            .ok()?;
        let answer = DeviceAnswer {
            asked: block.ask(lease),
            shard: Rc::clone(self),
            lane: Rc::clone(lane),
            request: *request,
            read: DeviceRead {
                known,
                block,
                start,
                began: self.io.now(),
            },
        };
        self.io.spawn(Priority::Foreground, answer);
        Some(())
    }

    /// The object with id `object`, if it is remembered; quickly if the lane's last read was of it.
    #[inline]
    fn last_known(&self, lane: &LaneState, object: ObjectId) -> Option<Rc<Known>> {
        if let Some(last) = &*lane.last_from_device.borrow()
            && last.meta.id == object
            && last.is_remembered.get()
        {
            return Some(Rc::clone(last));
        }
        self.look_up_known(lane, object)
    }

    #[inline(never)]
    fn look_up_known(&self, lane: &LaneState, object: ObjectId) -> Option<Rc<Known>> {
        let known = self.metadata.borrow().known_by_id(object)?;
        lane.last_from_device.replace(Some(Rc::clone(&known)));
        Some(known)
    }

    /// Answers with what was read and checked.
    #[inline]
    fn answer_from_device(
        &self,
        lane: &LaneState,
        request: &ReadRequest,
        read: &DeviceRead<I>,
        frame: Frame,
    ) {
        let end = request.offset + u64::from(request.length);
        let mode = checksum_mode(request, end == read.known.meta.length);
        let start = read.start as usize;
        let slice = frame.into_slice(start..start + request.length as usize);
        if let Some(mut answer) = lane.outbox.begin_answer(request.length) {
            let checksums = read.block.checksums();
            append_piece(
                &mut answer,
                request,
                ReadSource::Device,
                mode,
                slice,
                &checksums,
            );
        }
        self.counters.reads_device.increase();
        self.counters.bytes_served.add(u64::from(request.length));
        let waited = self.io.now().since(read.began).as_nanos() as u64;
        self.slow.borrow_mut().note(SlowRead {
            source: ReadSource::Device,
            total_ns: waited,
            device_ns: waited,
            under_store_ns: 0,
            request,
            client: || lane.client_name.borrow().to_string(),
            wall_clock_ms: || self.io.wall_clock_ms(),
        });
        self.consider_read_ahead(&read.known, request.offset..end, false);
    }
}

/// Number of the block of `known` that byte `offset` is in.
#[inline]
fn block_of(known: &Known, offset: u64) -> u32 {
    let block_bytes = known.meta.block_bytes;
    debug_assert!(block_bytes.is_power_of_two());
    (offset >> block_bytes.trailing_zeros()) as u32
}

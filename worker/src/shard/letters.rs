//! Requests of the control plane, one letter at a time.
//!
//! Short ones are answered where they are opened; what waits for the store or the under-store
//! runs as a background task, so that reads stay first.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use corelane_io::{Io, PAGE_SIZE, Priority};
use corelane_rpc_schema::frame::{ReadFlags, ReadRequest};
use corelane_rpc_schema::messages::{ErrorCode, ErrorMessage};
use corelane_rpc_schema::{BlockId, ShardId, Stripe};
use futures::FutureExt;
use tokio::sync::oneshot;

use super::Shard;
use super::Topology;
use super::fill::FillFailure;
use super::known::Known;
use super::load::LOOKUPS_PER_TURN;
use super::request::{Cached, DescribeError, DeviceStats, ShardRequest, ShardStats, Verified};
use crate::cache::frames::FRAME_PAGES;
use crate::mount::AccessSet;
use crate::object::ObjectMeta;
use crate::store::{Held, ReadError, public_id};
use crate::under_store::UnderStore;

/// Objects or frames whose mounts are looked up between two yields: some 200 µs with a few mounts.
const REMAPPED_PER_TURN: usize = 2048;

/// How often it is looked whether whoever asked has gone.
const GONE_INTERVAL: Duration = Duration::from_millis(100);

/// Resolves once nobody waits for `answer` any more.
async fn until_gone<I: Io, U: UnderStore, T>(shard: &Shard<I, U>, answer: &oneshot::Sender<T>) {
    while !answer.is_closed() {
        shard.io.sleep(GONE_INTERVAL).await;
    }
}

/// Answers a letter. Whoever asked may have given up waiting.
fn reply<T>(answer: oneshot::Sender<T>, value: T) {
    let _ = answer.send(value);
}

impl From<Held> for Cached {
    fn from(held: Held) -> Self {
        Cached {
            blocks: held.blocks,
            bytes: held.bytes,
            pinned: held.pinned,
        }
    }
}

fn describe_error(failure: ErrorMessage) -> DescribeError {
    match failure.code {
        ErrorCode::NoMount => DescribeError::NoMount(failure.message),
        ErrorCode::Busy => DescribeError::Busy(failure.message),
        ErrorCode::NotFound => DescribeError::NotFound(failure.message),
        ErrorCode::UnderStore => DescribeError::Unavailable(failure.message),
        _ => DescribeError::Invalid(failure.message),
    }
}

pub(super) fn fill_error(failure: FillFailure) -> DescribeError {
    match failure {
        FillFailure::UnderStore(failure) => DescribeError::UnderStore(failure),
        FillFailure::Busy(what) => DescribeError::Busy(what.to_owned()),
        FillFailure::NoMount(uri) => DescribeError::NoMount(uri),
        FillFailure::NotHeld(_) => DescribeError::Invalid(failure.to_message().message),
        FillFailure::OtherLength(uri) => DescribeError::Busy(format!("{uri} changed its length")),
    }
}

impl<I: Io, U: UnderStore> Shard<I, U> {
    /// Opens a letter. An answer that nobody waits for any more is dropped.
    pub(crate) fn open_letter(self: &Rc<Self>, letter: ShardRequest) {
        match letter {
            ShardRequest::Serve {
                ports,
                epoch,
                doorbells,
            } => {
                self.mesh.borrow_mut().set_doorbells(doorbells);
                *self.topology.borrow_mut() = Some(Topology { ports, epoch });
                self.serve.set();
            }
            ShardRequest::Stats { answer } => reply(answer, self.stats()),
            ShardRequest::Cached { object, answer, .. } => {
                reply(answer, self.store.held(object).into())
            }
            ShardRequest::CachedObjects {
                uri_prefix,
                after,
                limit,
                answer,
            } => self.in_background(async move |shard| {
                let objects = shard.store.objects(&uri_prefix, &after, limit).await;
                let with_held = objects.into_iter().map(|(meta, held)| (meta, held.into()));
                reply(answer, with_held.collect());
            }),
            ShardRequest::LookUp {
                request,
                reader,
                answer,
            } => self.in_foreground(async move |shard| {
                let access = Arc::new(shard.access_of(&reader));
                let found = {
                    let mut looking = pin!(shard.look_up(*request, &access).fuse());
                    let mut gone = pin!(until_gone(&shard, &answer).fuse());
                    futures::select_biased! {
                        found = looking => found,
                        () = gone => return,
                    }
                };
                reply(answer, found);
            }),
            ShardRequest::Devices { answer } => reply(answer, self.device_stats()),
            ShardRequest::Slow { answer } => reply(answer, self.slow.borrow().slowest()),
            ShardRequest::SetLimits { limits } => {
                self.limits.set(limits);
                self.store.set_limits(
                    limits.device_write_bytes_per_second,
                    limits.scrub_bytes_per_second,
                );
            }
            ShardRequest::Drain { answer } => {
                self.is_stopping.set(true);
                self.stop.set();
                self.stop_s3.set();
                self.in_background(async move |shard| {
                    shard.drain_lanes().await;
                    reply(answer, ());
                });
            }
            ShardRequest::Stop { answer } => {
                self.is_stopping.set(true);
                *self.stopped.borrow_mut() = Some(answer);
                self.stop.set();
                self.stop_s3.set();
                self.end.set();
                self.serve.set();
            }
            ShardRequest::Describe { path, answer } => self.in_background(async move |shard| {
                let described = match shard.mount_covering(&path) {
                    Ok(mount) => shard.describe_anywhere(&path, &mount).await,
                    Err(no_mount) => Err(no_mount),
                };
                reply(answer, described.map_err(describe_error));
            }),
            ShardRequest::Written {
                number,
                mount,
                path_key,
                answer,
            } => {
                // At once: what comes behind this letter must find it done.
                self.metadata.borrow_mut().written(&path_key, number);
                self.fills.invalidate(|meta| *meta.path_key == *path_key);
                self.in_background(async move |shard| {
                    shard.free_written(&mount, &path_key).await;
                    reply(answer, ());
                });
            }
            ShardRequest::MountWritten {
                number,
                since,
                mount,
                path_key_prefix,
                answer,
            } => {
                self.metadata
                    .borrow_mut()
                    .begin_mount_written(&path_key_prefix, number);
                self.fills
                    .invalidate(|meta| meta.path_key.starts_with(&*path_key_prefix));
                self.in_background(async move |shard| {
                    shard
                        .forget_written_mount(&mount, &path_key_prefix, (since, number))
                        .await;
                    reply(answer, ());
                });
            }
            ShardRequest::BringIn {
                mount,
                path,
                answer,
            } => self.in_background(async move |shard| {
                shard.bring_in(&mount, &path).await;
                reply(answer, ());
            }),
            ShardRequest::Load { object, answer } => self.in_background(async move |shard| {
                reply(answer, shard.load(&object).await);
            }),
            ShardRequest::Free { object, answer } => self.in_background(async move |shard| {
                // Whoever asks for it next asks the under-store, and decodes it anew.
                shard.metadata.borrow_mut().forget(&object);
                shard.lookups.forget(object.id);
                reply(answer, shard.free(&object).await);
            }),
            ShardRequest::Pin {
                object,
                pinned,
                answer,
            } => self.in_background(async move |shard| {
                let done = shard.store.pin(object.id, pinned).await;
                reply(answer, done.map_err(|failure| failure.to_string()));
            }),
            ShardRequest::DistrustAbsentDevices { answer } => {
                self.in_background(async move |shard| {
                    let done = shard.store.distrust_absent_devices().await;
                    reply(answer, done.map_err(|failure| failure.to_string()));
                });
            }
            ShardRequest::Verify { object, answer } => self.in_background(async move |shard| {
                reply(answer, shard.verify(&object).await);
            }),
            ShardRequest::Read {
                object,
                offset,
                length,
                answer,
            } => {
                self.in_background(async move |shard| {
                    reply(answer, shard.read_plainly(&object, offset, length).await);
                });
            }
            ShardRequest::SetMounts { mounts } => {
                if let Some(face) = &self.s3 {
                    face.set_mounts(&mounts);
                }
                *self.mounts.borrow_mut() = mounts;
                self.renew_access();
                self.in_background(async move |shard| shard.remap_mounts().await);
            }
            ShardRequest::SaveState { state, answer } => self.in_background(async move |shard| {
                let saved = shard.store.save_state(state).await;
                reply(answer, saved.map_err(|failure| failure.to_string()));
            }),
        }
    }

    fn in_foreground<F>(self: &Rc<Self>, task: impl FnOnce(Rc<Self>) -> F)
    where
        F: Future<Output = ()> + 'static,
    {
        self.io.spawn(Priority::Foreground, task(Rc::clone(self)));
    }

    fn in_background<F>(self: &Rc<Self>, task: impl FnOnce(Rc<Self>) -> F)
    where
        F: Future<Output = ()> + 'static,
    {
        self.io.spawn(Priority::Background, task(Rc::clone(self)));
    }

    fn stats(&self) -> ShardStats {
        let mut values = self.counters.values();
        values.extend(self.store.counters().values());
        let counters = self.io.counters();
        let tier = self.tier.borrow();
        let (lookup_decoded_bytes, lookup_known_bytes) = self.lookups.memory_bytes();
        let mut lookup_bytes_unsent = 0;
        self.lanes
            .for_each(|lane| lookup_bytes_unsent += lane.outbox.lookup_bytes());
        values.extend([
            ("lanes_open", self.lanes.len() as u64),
            ("lookup_bytes_unsent", lookup_bytes_unsent),
            ("credit_bytes", self.shared_credit.bytes()),
            (
                "s3_connections_open",
                self.s3.as_ref().map_or(0, |face| face.connections.len()) as u64,
            ),
            (
                "s3_writes_uncertain",
                // The face's, not a shard's: one of them says it.
                self.s3
                    .as_ref()
                    .filter(|_| self.id == ShardId(0))
                    .map_or(0, |face| face.writes_uncertain()),
            ),
            ("tier_frames", tier.pool().frames() as u64),
            ("tier_frames_used", tier.len() as u64),
            ("tier_evictions", tier.evictions()),
            ("fills_under_way", self.fills.len() as u64),
            ("questions_under_way", self.asking.len() as u64),
            ("objects_known", self.metadata.borrow().len() as u64),
            ("lookup_decoded_bytes", lookup_decoded_bytes as u64),
            ("lookup_known_bytes", lookup_known_bytes as u64),
            (
                "metadata_bytes",
                self.metadata.borrow().memory_bytes() as u64,
            ),
            ("loop_turns", counters.turns),
            ("loop_enters", counters.enters),
            ("loop_sleeps", counters.sleeps),
            ("loop_completions", counters.completions),
            ("loop_submissions", counters.submissions),
            ("loop_stalls", counters.stalls),
            ("loop_poll_ns_longest", counters.poll_ns_longest),
        ]);
        ShardStats {
            values,
            latencies: self.slow.borrow_mut().latencies(),
        }
    }

    fn device_stats(&self) -> Vec<DeviceStats> {
        let status = self.store.devices().into_iter();
        status
            .map(|device| DeviceStats {
                path: device.path,
                uuid: public_id(&device.uuid),
                healthy: device.healthy,
                reason: device.reason,
                bytes: device.bytes,
                bytes_used: device.bytes_used,
                bytes_written: device.bytes_written,
                regions: device.regions,
                regions_free: device.regions_free,
            })
            .collect()
    }

    /// Looks up again which mount each known object and each frame is below. Until then they name a
    /// mount as it was, whose slot no other gets, and the long way of a read finds out.
    async fn remap_mounts(self: &Rc<Self>) {
        // One at a time: the last one must not be overtaken by one before it.
        let _turn = self.remap_turn.take(1).await;
        let ids = self.metadata.borrow().ids();
        for some in ids.chunks(REMAPPED_PER_TURN) {
            for id in some {
                let known = self.metadata.borrow().known_by_id(*id);
                if let Some(known) = known {
                    known.mount.set(self.mount_of(&known.meta));
                }
            }
            self.io.yield_now().await;
        }
        let slots = self.tier.borrow().slots();
        for start in (0..slots).step_by(REMAPPED_PER_TURN) {
            {
                let metadata = self.metadata.borrow();
                let end = (start + REMAPPED_PER_TURN).min(slots);
                self.tier.borrow_mut().remap_mounts(start..end, |object| {
                    let meta = metadata
                        .of_id(object)
                        .or_else(|| self.store.object(object))?;
                    Some(self.mount_of(&meta))
                });
            }
            self.io.yield_now().await;
        }
        let mounts = Arc::clone(&self.mounts.borrow());
        self.store.remap_mounts(&mounts).await;
    }

    pub(super) fn known_for(&self, object: &Arc<ObjectMeta>) -> Rc<Known> {
        let mount = self.mount_of(object);
        self.metadata.borrow_mut().know(Arc::clone(object), mount)
    }

    /// The blocks of `object` that this shard owns.
    pub(super) fn own_blocks(
        &self,
        object: &ObjectMeta,
    ) -> impl Iterator<Item = u32> + use<'_, I, U> {
        let (home, meta) = (object.id.home, object.clone());
        (0..object.stripes())
            .map(Stripe)
            .filter(move |stripe| self.owner_of(home, *stripe) == self.id)
            .flat_map(move |stripe| meta.blocks_of(stripe))
    }

    pub(super) async fn free(self: &Rc<Self>, object: &ObjectMeta) -> Result<Cached, String> {
        self.fills.invalidate(|meta| meta.id == object.id);
        self.tier.borrow_mut().remove_object(object.id);
        if self.own_blocks(object).next().is_none() {
            return Ok(Cached::default());
        }
        match self.store.free(object.id).await {
            Ok(held) => Ok(held.into()),
            Err(failure) => {
                tracing::warn!(shard = self.id.0, object = %object.id, %failure, "free");
                Err(failure.to_string())
            }
        }
    }

    async fn verify(self: &Rc<Self>, object: &Arc<ObjectMeta>) -> Verified {
        let mut verified = Verified::default();
        // An object may have 2^32 blocks, by what an under-store says: they are neither gathered nor gone
        // through behind the last one that is here.
        let mut left = self.store.held(object.id).blocks;
        for (number, index) in self.own_blocks(object).enumerate() {
            if number % LOOKUPS_PER_TURN == LOOKUPS_PER_TURN - 1 {
                self.io.yield_now().await;
            }
            if left == 0 {
                break;
            }
            if self.store.lookup(object.block(index)).is_none() {
                continue;
            }
            left -= 1;
            let length = object.block_length(index);
            match self.verify_block(object.block(index), length).await {
                Some(true) => verified.blocks_right += 1,
                Some(false) => verified.blocks_wrong += 1,
                None => continue,
            }
            verified.bytes += u64::from(length);
        }
        verified
    }

    /// Reads and checks one block; `None` where it is not on a device, or left meanwhile.
    async fn verify_block(&self, block: BlockId, length: u32) -> Option<bool> {
        let pages = (length as usize).div_ceil(PAGE_SIZE);
        let mut first_page = 0;
        while first_page < pages {
            let count = (pages - first_page).min(FRAME_PAGES);
            let frame = self
                .until_memory(&self.buffer_turn, || self.frames.take())
                .await;
            let entry = self.store.lookup(block)?;
            // Nobody waits for a verification: it goes on when readers have had their memory.
            let Some(frame) = frame else { continue };
            let lease = frame.lease(0..count).expect("a fresh frame is vacant");
            let read = self.store.read(block, entry, first_page as u32, lease);
            match read.await {
                Ok(_) => first_page += count,
                // It was moved: where it is now is looked up again.
                Err(ReadError::Gone) => {}
                Err(ReadError::Corrupt | ReadError::Device(_)) => return Some(false),
            }
        }
        Some(true)
    }

    async fn read_plainly(
        self: &Rc<Self>,
        object: &Arc<ObjectMeta>,
        offset: u64,
        length: u32,
    ) -> Result<Vec<u8>, DescribeError> {
        drop(self.known_for(object));
        let request = ReadRequest {
            request_id: 1,
            object: object.id,
            offset,
            length,
            flags: ReadFlags::NONE,
        };
        request
            .check()
            .map_err(|sentence| DescribeError::Invalid(sentence.to_owned()))?;
        // The control plane has checked what its caller may read.
        let parts = self
            .gather(&request, &AccessSet::all())
            .await
            .map_err(describe_error)?;
        Ok(parts
            .pieces
            .iter()
            .flat_map(|piece| piece.bytes().iter().copied())
            .collect())
    }
}

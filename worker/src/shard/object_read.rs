//! Reads by name: what the S3 face asks of the home shard of an object, and of this core's tier.
//!
//! The usual case, that the metadata is fresh and the bytes are in the tier, takes no task on the home
//! shard. What a home shard answers with is a beginning: the asking core goes on by itself.

use std::rc::Rc;
use std::sync::Arc;

use corelane_io::hint::prefetch_to_send;
use corelane_io::{FrameSlice, Io, Nanos, Priority};
use corelane_rpc_schema::frame::{ReadFlags, ReadRequest};
use corelane_rpc_schema::ids::home_of;
use corelane_rpc_schema::messages::{ErrorCode, ErrorMessage};
use corelane_rpc_schema::{ShardId, Stripe};

use super::Shard;
use super::gather::pieces;
use super::known::Known;
use super::message::{GetQuestion, Got, RemoteRead, Said};
use super::prefetch::PrefetchRoom;
use super::read::error;
use crate::cache::frames::FRAME_BYTES;
use crate::mount::{AccessSet, Freshness, Mount, MountId};
use crate::object::ObjectMeta;
use crate::under_store::{UnderStore, path_key};

/// Objects that a shard prefetches at a time because clients asked for it: with more, a client that
/// asks for a whole bucket would keep everyone else's fetches waiting.
const PREFETCHES_MAX: usize = 64;

/// Stripes of an object whose owners are looked up for a prefetch: some 100 µs. Of more, each shard has its part.
const STRIPES_COUNTED_MAX: u32 = 1024;

/// The read of some bytes of an object, as the data plane would ask for them.
pub(crate) fn read_of(known: &Known, offset: u64, length: u32) -> ReadRequest {
    ReadRequest {
        request_id: 0,
        object: known.meta.id,
        offset,
        length,
        flags: ReadFlags::NONE,
    }
}

impl<I: Io, U: UnderStore> Shard<I, U> {
    /// The object at `path_key`, whose home this shard is, if what is remembered of it is fresh.
    #[inline]
    pub(crate) fn fresh_object(
        &self,
        mount: &Mount,
        home: u64,
        path_key: &str,
    ) -> Option<Rc<Known>> {
        let metadata = self.metadata.borrow();
        let (known, _) = metadata.fresh(home, path_key, mount.freshness, self.io.now())?;
        (known.meta.block_bytes == mount.block_bytes).then(|| Rc::clone(known))
    }

    /// The object at `path_key`, whose home is another shard, if what that said of it is fresh.
    #[inline]
    pub(crate) fn fresh_object_elsewhere(
        &self,
        mount: &Mount,
        home: u64,
        path_key: &str,
    ) -> Option<Rc<Known>> {
        let metadata = self.metadata.borrow();
        let now = self.io.now();
        let known = metadata.fresh_elsewhere(home, path_key, mount.freshness, now)?;
        (known.meta.block_bytes == mount.block_bytes).then(|| Rc::clone(known))
    }

    /// Remembers what the home of an object said in answer to a question of `asked_at`.
    pub(crate) fn learn(&self, known: &Rc<Known>, asked_at: Nanos, said: Said) {
        // On this core's clock, to within a turn: the home looked after it was asked.
        let at = Nanos(asked_at.0.saturating_sub(said.age.as_nanos() as u64));
        let mut metadata = self.metadata.borrow_mut();
        metadata.learn(Rc::clone(known), at, said.last_write);
    }

    /// What this shard says beside the object at `path_key`, if it remembers that.
    fn said(&self, mount: &Mount, home: u64, path_key: &str) -> Option<Said> {
        let metadata = self.metadata.borrow();
        let now = self.io.now();
        let (_, at) = metadata.fresh(home, path_key, mount.freshness, now)?;
        Some(Said {
            age: now.since(at),
            last_write: metadata.last_write(),
        })
    }

    /// Remembers an object by id.
    pub(crate) fn know(&self, meta: Arc<ObjectMeta>, mount: MountId) -> Rc<Known> {
        self.metadata.borrow_mut().know(meta, mount)
    }

    /// Gives each piece of a read that lies in the tier as a whole; false, and none given, if it does
    /// not.
    #[inline]
    pub(crate) fn slices_in_tier(
        &self,
        request: &ReadRequest,
        mut each: impl FnMut(FrameSlice),
    ) -> bool {
        let mut tier = self.tier.borrow_mut();
        let in_frame = (request.offset % FRAME_BYTES as u64) as usize;
        let is_short = in_frame + request.length as usize <= FRAME_BYTES;
        let is_there = is_short
            || pieces(request).all(|piece| {
                tier.peek(piece.key)
                    .is_some_and(|cached| cached.frame.is_sealed(&piece.pages()))
            });
        if !is_there {
            return false;
        }
        for piece in pieces(request) {
            let slice = tier.hit(piece.key).and_then(|cached| {
                self.count_ahead_used(&cached.is_ahead);
                cached.frame.slice_if_sealed(piece.start..piece.end)
            });
            let Some(slice) = slice else {
                assert!(is_short, "what was looked at is still there");
                return false;
            };
            if let Ok(page) = slice.bytes().try_into() {
                prefetch_to_send(page);
            }
            each(slice);
        }
        true
    }

    /// The answer to a sibling's get, if it takes no waiting.
    pub(super) fn got_at_once(&self, question: &GetQuestion) -> Option<Got> {
        let mount = self.mounts.borrow().get(question.bucket_mount).cloned()?;
        let known = self.fresh_object(&mount, question.home, &question.path_key)?;
        self.counters.opens_cached.increase();
        let meta = Arc::clone(&known.meta);
        let said = self.said(&mount, question.home, &question.path_key);
        let Some(request) = self.first_read(&known, question) else {
            let read = None;
            return Some(Got { meta, said, read });
        };
        let mut read = RemoteRead::from_tier();
        let is_hit = self.slices_in_tier(&request, |slice| read.pieces.push(slice.to_remote()));
        is_hit.then(|| Got {
            meta,
            said,
            read: Some(Ok(read)),
        })
    }

    /// The answer to a sibling's get.
    pub(super) async fn get_for_sibling(
        self: &Rc<Self>,
        question: GetQuestion,
    ) -> Result<Got, ErrorMessage> {
        let mount = self.mounts.borrow().get(question.bucket_mount).cloned();
        // The mount's number may be another one's by now.
        let is_asked_for = |mount: &Arc<Mount>| {
            mount.covers(&question.path)
                && path_key(mount, &question.path).is_ok_and(|key| key == *question.path_key)
        };
        let mount = mount.filter(is_asked_for).ok_or_else(|| {
            error(
                ErrorCode::NoMount,
                "the bucket was unmounted a moment ago; ask again",
            )
        })?;
        let meta = self
            .describe(&question.path, &question.path_key, &mount)
            .await?;
        let known = self.know(Arc::clone(&meta), mount.id);
        // Only of this version: another one may be remembered by now.
        let remembered = self.fresh_object(&mount, question.home, &question.path_key);
        let said = remembered
            .filter(|remembered| remembered.meta.id == meta.id)
            .and_then(|_| self.said(&mount, question.home, &question.path_key));
        let Some(request) = self.first_read(&known, &question) else {
            let read = None;
            return Ok(Got { meta, said, read });
        };
        let access = AccessSet::of_mount(mount.id);
        let read = self.gather(&request, &access).await;
        Ok(Got {
            meta,
            said,
            read: Some(read.map(RemoteRead::of_parts)),
        })
    }

    /// Frees what was cached of the object at `path_key` before it was written, where blocks would be
    /// believed again after a restart: those of immutable mounts.
    pub(super) async fn free_written(self: &Rc<Self>, mount: &Mount, path_key: &str) {
        if mount.freshness != Freshness::Immutable {
            return;
        }
        for meta in self.store.find_objects(home_of(path_key)) {
            if meta.path_key == path_key
                && let Err(error) = self.free(&meta).await
            {
                tracing::warn!(object = meta.uri, %error, "an old version may come back after a restart");
            }
        }
        if let Err(error) = self.store.distrust_absent_devices().await {
            tracing::warn!(path_key, %error, "an old version may come back with a device that is absent");
        }
    }

    /// Forgets what was learned of objects below a prefix after the write `since`, and frees it as
    /// [`Shard::free_written`] does. Yields between parts: there may be hundreds of thousands.
    pub(super) async fn forget_written_mount(
        self: &Rc<Self>,
        mount: &Mount,
        path_key_prefix: &str,
        (since, number): (u64, u64),
    ) {
        let mut end = usize::MAX;
        while end > 0 {
            let gone;
            (gone, end) =
                self.metadata
                    .borrow_mut()
                    .mount_written(path_key_prefix, (since, number), end);
            for path_key in gone {
                self.free_written(mount, &path_key).await;
            }
            self.io.yield_now().await;
        }
    }

    /// Takes this shard's blocks of an object that was written a moment ago into the cache, as if they
    /// had been read. What memory is too busy for is left to its first reader.
    pub(super) async fn bring_in(self: &Rc<Self>, mount: &Arc<Mount>, path: &str) {
        let Ok(meta) = self.describe_anywhere(path, mount).await else {
            return;
        };
        let known = self.know(Arc::clone(&meta), mount.id);
        for index in self.own_blocks(&meta) {
            let block = meta.block(index);
            let is_held = self.store.lookup(block).is_some();
            let is_for_others = self.fills.is_crowded() && !self.fills.is_under_way(block);
            if is_held || is_for_others {
                continue;
            }
            if let Err(failure) = self.fill(&known, index).until_done().await {
                tracing::debug!(
                    object = meta.uri,
                    ?failure,
                    "a written block was not brought in"
                );
                return;
            }
        }
    }

    /// Begins to bring all blocks of an object in, here and on the other shards. One more than
    /// [`PREFETCHES_MAX`] is not begun.
    pub(crate) fn prefetch_object(self: &Rc<Self>, meta: &Arc<ObjectMeta>) {
        self.load_in_background(meta);
        for shard in (0..self.shards)
            .map(ShardId)
            .filter(|shard| *shard != self.id)
        {
            self.tell_to_load(shard, meta);
        }
    }

    /// Begins to bring this shard's blocks of an object in: the first of them where its budget does not reach
    /// for all.
    pub(super) fn load_in_background(self: &Rc<Self>, meta: &Arc<ObjectMeta>) {
        let (is_begun, begun) = {
            let prefetches = self.prefetches.borrow();
            (prefetches.contains(&meta.id), prefetches.len())
        };
        let blocks = if is_begun {
            0
        } else {
            self.own_blocks_about(meta)
        };
        if blocks == 0 {
            return;
        }
        if begun >= PREFETCHES_MAX {
            self.counters.prefetches_refused.increase();
            return;
        }
        let block_bytes = u64::from(meta.block_bytes);
        let room = PrefetchRoom::of(&self.store.devices(), self.shards);
        let served = self.counters.bytes_served.get();
        let wanted = blocks * block_bytes;
        let granted = self.prefetch_budget.take(wanted, served, room);
        if granted < wanted {
            self.counters.prefetches_cut.increase();
        }
        let blocks = usize::try_from(granted / block_bytes).unwrap_or(usize::MAX);
        if blocks == 0 {
            self.prefetch_budget.ended(granted, 0);
            return;
        }
        self.prefetches.borrow_mut().insert(meta.id);
        let (shard, meta) = (Rc::clone(self), Arc::clone(meta));
        self.io.spawn(Priority::Background, async move {
            let fetched = match shard.load_first(&meta, blocks).await {
                Ok(loaded) => loaded.bytes_fetched + loaded.bytes_not_kept,
                Err(error) => {
                    tracing::debug!(object = meta.uri, %error, "an object was not prefetched");
                    granted
                }
            };
            shard.prefetch_budget.ended(granted, fetched);
            shard.prefetches.borrow_mut().remove(&meta.id);
        });
    }

    /// How many blocks of an object this shard owns; of a very long one about.
    fn own_blocks_about(&self, meta: &ObjectMeta) -> u64 {
        if meta.stripes() > STRIPES_COUNTED_MAX {
            let blocks = meta.length.div_ceil(u64::from(meta.block_bytes));
            return blocks.div_ceil(u64::from(self.shards));
        }
        self.own_blocks(meta).count() as u64
    }

    /// The first bytes of what `question` asks for, if they are this shard's to give: to the end of
    /// their frame.
    fn first_read(&self, known: &Known, question: &GetQuestion) -> Option<ReadRequest> {
        if !question.wants_bytes || known.meta.length == 0 {
            return None;
        }
        let range = match question.range {
            Some(range) => range.resolve(known.meta.length).ok()?,
            None => 0..known.meta.length,
        };
        let owner: ShardId = self.owner_of(known.meta.id.home, Stripe::of_offset(range.start));
        let in_frame = FRAME_BYTES as u64 - range.start % FRAME_BYTES as u64;
        let length = (range.end - range.start).min(in_frame) as u32;
        (owner == self.id).then(|| read_of(known, range.start, length))
    }
}

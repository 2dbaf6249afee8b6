//! Loads: bringing an object onto the devices because somebody said so.
//!
//! A reader's block that the device has no time for is dropped; a load's waits for as long as the
//! device goes on. The invariant: a load ends, because its patience does.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use corelane_io::{Io, Nanos};
use corelane_rpc_schema::BlockId;
use futures::future::{Either, select};
use futures::stream::{FuturesUnordered, StreamExt};

use super::Shard;
use super::fill::{Fill, FillFailure};
use super::known::Known;
use super::letters::fill_error;
use super::request::{DescribeError, Loaded};
use crate::object::ObjectMeta;
use crate::store::NotKept;
use crate::under_store::UnderStore;

/// Blocks of one load that are under way at once: enough for one ranged request of a stripe.
const LOAD_BLOCKS: usize = 16;

/// After so many blocks in a row that no device took, the rest of the object is not fetched: each would wait
/// for the same room.
const REFUSED_MAX: usize = LOAD_BLOCKS;

/// Blocks looked up between two yields: some 100 µs.
pub(super) const LOOKUPS_PER_TURN: usize = 1024;

/// How often a block is offered again to a device that takes no more.
const LOAD_RETRY: Duration = Duration::from_millis(5);

/// A device that has much to write and writes nothing for so long has failed, whether it says so
/// or not.
const STALL_DEADLINE: Duration = Duration::from_secs(10);

/// How long a load waits for room where nothing is written: reclaim makes some in less, if it can.
const NO_ROOM_DEADLINE: Duration = Duration::from_millis(500);

/// How long it waits for room where others' blocks are written meanwhile.
const ROOM_DEADLINE: Duration = Duration::from_secs(10);

/// How often a flush is looked at.
const FLUSH_LOOK: Duration = Duration::from_millis(500);

/// How long one block may take in all: less than the control plane waits for the object.
const BLOCK_DEADLINE: Duration = Duration::from_secs(1800);

/// How long a load goes on with a block that the device does not take.
struct Patience {
    began: Nanos,
    written: u64,
    written_at: Nanos,
    stall: Duration,
}

impl Patience {
    /// From `now` on, with `written` bytes written so far. A device that writes nothing for `stall`
    /// is not waited for.
    fn new(now: Nanos, written: u64, stall: Duration) -> Self {
        Patience {
            began: now,
            written,
            written_at: now,
            stall,
        }
    }

    /// Whether to go on, with `written` bytes written `now`, when the device refused with `why`.
    fn lasts(&mut self, now: Nanos, written: u64, why: NotKept) -> bool {
        if written != self.written {
            (self.written, self.written_at) = (written, now);
        }
        let (stalled, all) = match why {
            NotKept::Busy => (self.stall, BLOCK_DEADLINE),
            NotKept::NoRoom | NotKept::Present => (NO_ROOM_DEADLINE, ROOM_DEADLINE),
        };
        now.since(self.written_at) < stalled && now.since(self.began) < all
    }
}

impl<I: Io, U: UnderStore> Shard<I, U> {
    /// Brings all blocks of `object` that this shard owns onto the devices.
    pub(super) async fn load(
        self: &Rc<Self>,
        object: &Arc<ObjectMeta>,
    ) -> Result<Loaded, DescribeError> {
        self.load_first(object, usize::MAX).await
    }

    /// The same for the first of these blocks, at most `blocks_max`.
    pub(super) async fn load_first(
        self: &Rc<Self>,
        object: &Arc<ObjectMeta>,
        blocks_max: usize,
    ) -> Result<Loaded, DescribeError> {
        let known = self.known_for(object);
        let mut loaded = Loaded::default();
        let mut blocks = self.own_blocks(object).take(blocks_max);
        let mut under_way = FuturesUnordered::new();
        let mut is_stalled = false;
        let mut refused_in_a_row = 0;
        loop {
            while !is_stalled
                && refused_in_a_row < REFUSED_MAX
                && under_way.len() < LOAD_BLOCKS
                && let Some(index) = blocks.next()
            {
                under_way.push(self.load_block(&known, index));
            }
            let Some(of_block) = under_way.next().await else {
                break;
            };
            let of_block = of_block?;
            loaded.bytes_fetched += of_block.bytes_fetched;
            loaded.bytes_skipped += of_block.bytes_skipped;
            loaded.bytes_not_kept += of_block.bytes_not_kept;
            if of_block.bytes_not_kept > 0 {
                refused_in_a_row += 1;
            } else {
                refused_in_a_row = 0;
            }
            // One block's patience is enough: the device is not waited for again for each.
            is_stalled |=
                of_block.bytes_not_kept > 0 && !self.has_time_for(of_block.bytes_not_kept);
        }
        for (number, index) in blocks.enumerate() {
            if number % LOOKUPS_PER_TURN == LOOKUPS_PER_TURN - 1 {
                self.io.yield_now().await;
            }
            let (block, bytes) = (object.block(index), object.block_length(index));
            if self.is_held(block, object.block_bytes) {
                loaded.bytes_skipped += u64::from(bytes);
            } else {
                loaded.bytes_not_kept += u64::from(bytes);
            }
        }
        let is_written = !is_stalled && self.flush_patiently(object.block_bytes).await;
        if !is_written {
            // What the store took is not on the device yet, and may never be.
            loaded.bytes_not_kept += loaded.bytes_fetched;
            loaded.bytes_fetched = 0;
            return Ok(loaded);
        }
        // What the store took may have found no room when it was written.
        let gone = self.bytes_gone(object, blocks_max).await;
        let more = gone.saturating_sub(loaded.bytes_not_kept);
        let of_fetched = more.min(loaded.bytes_fetched);
        loaded.bytes_fetched -= of_fetched;
        loaded.bytes_not_kept += of_fetched;
        Ok(loaded)
    }

    /// Flushes the store, for as long as its devices write. False when they do not, or what they wrote is
    /// not durable.
    async fn flush_patiently(&self, block_bytes: u32) -> bool {
        let mut patience = self.patience_for(block_bytes);
        let mut flush = pin!(self.store.flush());
        loop {
            let pause = pin!(self.io.sleep(FLUSH_LOOK));
            if let Either::Left((flushed, _)) = select(flush.as_mut(), pause).await {
                return flushed.is_ok();
            }
            if !patience.lasts(self.io.now(), self.bytes_written(), NotKept::Busy) {
                return false;
            }
        }
    }

    /// Whether a device that takes I/O has the block. The index forgets those of one that was taken out
    /// only by and by.
    fn is_held(&self, block: BlockId, block_bytes: u32) -> bool {
        self.store.lookup(block).is_some() && self.store.device_healthy(block, block_bytes)
    }

    fn patience_for(&self, block_bytes: u32) -> Patience {
        let limits = self.limits.get();
        let config = self.tuning.store_config(self.id, self.shards, limits);
        // With a limit on writes, a device writes nothing while an extent waits for its turn.
        let extent = config.flush_bytes.max(block_bytes as usize) as u64;
        let turn = match limits.device_write_bytes_per_second {
            0 => Duration::ZERO,
            rate => Duration::from_secs((4 * extent).div_ceil(rate)),
        };
        Patience::new(
            self.io.now(),
            self.bytes_written(),
            STALL_DEADLINE.max(turn),
        )
    }

    /// Bytes of the first blocks of `object` that this shard owns and does not have on a device.
    async fn bytes_gone(&self, object: &ObjectMeta, blocks_max: usize) -> u64 {
        let mut gone = 0;
        for (number, index) in self.own_blocks(object).take(blocks_max).enumerate() {
            if number % LOOKUPS_PER_TURN == LOOKUPS_PER_TURN - 1 {
                self.io.yield_now().await;
            }
            let block = object.block(index);
            let is_held = self.is_held(block, object.block_bytes);
            if !is_held && self.store.pending(block).is_none() {
                gone += u64::from(object.block_length(index));
            }
        }
        gone
    }

    /// Brings one block in. It is not fetched before the device has time for it, and what the device
    /// then has no time for is offered to it again from memory: fetching it again would multiply what
    /// the under-store is asked for.
    async fn load_block(
        self: &Rc<Self>,
        known: &Rc<Known>,
        index: u32,
    ) -> Result<Loaded, DescribeError> {
        let block = known.meta.block(index);
        let bytes = u64::from(known.meta.block_length(index));
        let mut loaded = Loaded::default();
        let mut waiting: Option<Rc<Fill>> = None;
        let mut patience = self.patience_for(known.meta.block_bytes);
        loop {
            let is_held = self.is_held(block, known.meta.block_bytes);
            if is_held || self.store.pending(block).is_some() {
                if loaded.bytes_fetched == 0 {
                    loaded.bytes_skipped = bytes;
                }
                return Ok(loaded);
            }
            // What was freed or written since it was fetched is fetched again, as it is now.
            waiting = waiting.filter(|fill| !fill.is_invalidated());
            let why = if let Some(fill) = &waiting {
                match self.offer(fill) {
                    Ok(()) => return Ok(loaded),
                    Err(why) => why,
                }
            } else if !self.store.device_healthy(block, known.meta.block_bytes) {
                // It was taken out: what is fetched for it could not be kept.
                loaded.bytes_not_kept = bytes;
                return Ok(loaded);
            } else if !self.has_time_for(bytes) {
                NotKept::Busy
            } else {
                let fill = self.fill(known, index);
                fill.want_on_device();
                match fill.until_done().await {
                    Ok(was_kept) => {
                        loaded.bytes_fetched = bytes;
                        if was_kept {
                            return Ok(loaded);
                        }
                        waiting = Some(fill);
                        // The next offer says why.
                        continue;
                    }
                    Err(FillFailure::Busy(_)) => NotKept::Busy,
                    Err(failure) => return Err(fill_error(failure)),
                }
            };
            if !patience.lasts(self.io.now(), self.bytes_written(), why) {
                loaded.bytes_not_kept = bytes;
                // Each byte counts once.
                loaded.bytes_fetched = 0;
                return Ok(loaded);
            }
            self.io.sleep(LOAD_RETRY).await;
        }
    }

    fn bytes_written(&self) -> u64 {
        self.store.counters().bytes_written_device.get()
    }

    /// Whether the store takes `bytes` more now.
    fn has_time_for(&self, bytes: u64) -> bool {
        let config = self
            .tuning
            .store_config(self.id, self.shards, self.limits.get());
        let waiting = self.store.counters().bytes_in_flight.get();
        waiting == 0 || waiting + bytes <= config.flush_bytes_in_flight as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Nanos {
        Nanos(0).plus(Duration::from_secs(seconds))
    }

    #[test]
    fn patience_lasts_while_the_device_writes_and_ends_when_it_does_not() {
        let mut patience = Patience::new(at(0), 0, STALL_DEADLINE);
        for second in 1..1700 {
            assert!(
                patience.lasts(at(second), second * 1000, NotKept::Busy),
                "{second}"
            );
        }
        assert!(patience.lasts(at(1708), 1_699_000, NotKept::Busy));
        assert!(
            !patience.lasts(at(1709), 1_699_000, NotKept::Busy),
            "it stalls"
        );
        assert!(
            !patience.lasts(at(1801), 1_700_000, NotKept::Busy),
            "too long in all"
        );
    }

    #[test]
    fn without_room_patience_ends_soon_whatever_others_write() {
        let mut patience = Patience::new(at(0), 0, STALL_DEADLINE);
        assert!(!patience.lasts(at(1), 0, NotKept::NoRoom));
        let mut patience = Patience::new(at(0), 0, STALL_DEADLINE);
        assert!(patience.lasts(at(9), 9, NotKept::NoRoom));
        assert!(!patience.lasts(at(10), 10, NotKept::NoRoom));
    }
}

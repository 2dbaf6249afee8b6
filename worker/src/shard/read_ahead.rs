//! Fills before they are asked for, where a reader goes through an object in order.
//!
//! Per object the end of the last read is kept. A read that starts there (or a little before)
//! continues a sequence and opens the window; one that jumps closes it. The window doubles while
//! what was fetched ahead is read, and never leaves the stripe, whose blocks this shard owns.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use corelane_io::Io;
use corelane_rpc_schema::{ObjectId, Stripe};

use super::Shard;
use super::known::Known;
use crate::cache::frames::FrameKey;
use crate::cache::hashing::IdMap;
use crate::under_store::UnderStore;

/// Reads in order before the first block is fetched ahead.
const SEQUENCE_MIN: u32 = 2;

/// A read may start so many bytes before the end of the last one and still continue it: engines
/// read footers and pages twice.
const OVERLAP_BYTES_MAX: u64 = 128 << 10;

#[derive(Clone, Copy, Debug, Default)]
struct Sequence {
    end: u64,
    length: u32,
    window_bytes: u64,
    /// End of what was fetched ahead.
    ahead: u64,
}

/// The sequences of a shard's readers, at most a fixed number of objects.
pub struct ReadAhead {
    sequences: IdMap<ObjectId, Sequence>,
    order: VecDeque<ObjectId>,
    objects_max: usize,
}

impl ReadAhead {
    /// Watches at most `objects_max` objects.
    pub fn new(objects_max: usize) -> Self {
        ReadAhead {
            sequences: IdMap::default(),
            order: VecDeque::new(),
            objects_max,
        }
    }

    /// Begins to watch `object`, in place of the one that has been watched the longest.
    #[cold]
    fn watch(&mut self, object: ObjectId) -> &mut Sequence {
        if self.sequences.len() >= self.objects_max
            && let Some(oldest) = self.order.pop_front()
        {
            self.sequences.remove(&oldest);
        }
        self.order.push_back(object);
        self.sequences.entry(object).or_default()
    }

    /// Notes a read of `range` and says which bytes to fetch ahead. `window_min` is the block size.
    #[inline]
    fn note(
        &mut self,
        object: ObjectId,
        range: Range<u64>,
        missed: bool,
        window_min: u64,
        window_max: u64,
    ) -> Range<u64> {
        let sequence = match self.sequences.get_mut(&object) {
            Some(sequence) => sequence,
            None if missed => self.watch(object),
            None => return 0..0,
        };
        // Reads of what was fetched ahead are hits in DRAM, which are not noted here: the next read
        // that is may start at the end of the window.
        let continues = range.start <= sequence.end.max(sequence.ahead)
            && range.start + OVERLAP_BYTES_MAX >= sequence.end;
        if !continues {
            *sequence = Sequence {
                end: range.end,
                length: 1,
                ..Sequence::default()
            };
            return 0..0;
        }
        sequence.go_on(&range, window_min, window_max)
    }
}

impl Sequence {
    /// Notes a read that continues the sequence.
    #[inline(never)]
    fn go_on(&mut self, range: &Range<u64>, window_min: u64, window_max: u64) -> Range<u64> {
        self.end = self.end.max(range.end);
        self.length += 1;
        if self.length < SEQUENCE_MIN {
            return 0..0;
        }
        let is_far_ahead = self.ahead >= self.end + self.window_bytes / 2;
        if is_far_ahead && self.window_bytes > 0 {
            return 0..0;
        }
        self.window_bytes = (self.window_bytes * 2).clamp(window_min, window_max);
        let start = self.end.max(self.ahead);
        let end = self.end + self.window_bytes;
        self.ahead = self.ahead.max(end);
        start..end.max(start)
    }
}

impl<I: Io, U: UnderStore> Shard<I, U> {
    /// Fetches ahead where the read continues a sequence. `missed` says that it had to be fetched.
    #[inline]
    pub(crate) fn consider_read_ahead(&self, known: &Rc<Known>, range: Range<u64>, missed: bool) {
        let start = range.start;
        let ahead = self.read_ahead.borrow_mut().note(
            known.meta.id,
            range,
            missed,
            u64::from(known.meta.block_bytes),
            self.tuning.read_ahead_bytes_max,
        );
        if !ahead.is_empty() {
            self.fetch_ahead(known, start, ahead);
        }
    }

    /// Fetches those blocks of `ahead` that are in the stripe of byte `start` and not here.
    #[inline(never)]
    fn fetch_ahead(&self, known: &Rc<Known>, start: u64, ahead: Range<u64>) {
        if self.fills.is_crowded() {
            return;
        }
        let meta = &known.meta;
        let block_bytes = u64::from(meta.block_bytes);
        let stripe = Stripe::of_offset(start);
        let in_stripe = meta.blocks_of(stripe);
        let first = (ahead.start / block_bytes) as u32;
        let last = ahead.end.div_ceil(block_bytes) as u32;
        for index in first.max(in_stripe.start)..last.min(in_stripe.end) {
            let block = meta.block(index);
            let key = FrameKey::of_offset(meta.id, u64::from(index) * block_bytes);
            let is_here = self.store.lookup(block).is_some()
                || self.store.pending(block).is_some()
                || self.fills.is_under_way(block)
                || self.tier.borrow().peek(key).is_some();
            if !is_here {
                self.counters.blocks_read_ahead.increase();
                self.fill(known, index).is_ahead.set(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: ObjectId = ObjectId {
        home: 1,
        version: 2,
    };
    const MIB: u64 = 1 << 20;

    fn note(ahead: &mut ReadAhead, start: u64, end: u64, missed: bool) -> Range<u64> {
        ahead.note(OBJECT, start * MIB..end * MIB, missed, MIB, 8 * MIB)
    }

    #[test]
    fn a_sequence_opens_the_window_and_a_jump_closes_it() {
        let mut ahead = ReadAhead::new(4);
        assert!(
            note(&mut ahead, 0, 1, true).is_empty() || note(&mut ahead, 0, 1, true).start >= MIB
        );
        let second = note(&mut ahead, 1, 2, true);
        assert!(
            second.start >= 2 * MIB && second.end > second.start,
            "{second:?}"
        );
        assert!(note(&mut ahead, 40, 41, true).is_empty());
    }

    #[test]
    fn hits_in_dram_that_are_not_noted_do_not_end_a_sequence() {
        let mut ahead = ReadAhead::new(4);
        note(&mut ahead, 0, 1, true);
        let window = note(&mut ahead, 1, 2, true);
        let next = note(&mut ahead, window.end / MIB, window.end / MIB + 1, true);
        assert!(
            next.end - next.start > window.end - window.start,
            "{window:?}, then {next:?}"
        );
    }

    #[test]
    fn the_window_never_exceeds_its_bound() {
        let mut ahead = ReadAhead::new(4);
        for start in 0..64 {
            let range = note(&mut ahead, start, start + 1, start == 0);
            assert!(
                range.end <= (start + 1 + 8) * MIB,
                "{range:?} after {start}"
            );
        }
    }

    #[test]
    fn objects_are_forgotten_in_order() {
        let mut ahead = ReadAhead::new(2);
        for version in 0..100 {
            ahead.note(ObjectId { home: 1, version }, 0..1, true, MIB, MIB);
            assert!(ahead.sequences.len() <= 2 && ahead.order.len() <= 2);
        }
    }
}

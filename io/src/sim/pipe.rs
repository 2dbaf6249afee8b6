//! One direction of a connection: bytes on their way and bytes that arrived.

use std::collections::VecDeque;
use std::task::Waker;

use super::random::Prng;

/// Most bytes in one piece, as a large segment on a fast network.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// Most bytes that one receive returns.
const RECEIVE_BYTES_MAX: usize = 64 << 10;

struct Flying {
    arrives_at: u64,
    bytes: Vec<u8>,
}

#[derive(Default)]
pub(super) struct Pipe {
    flying: VecDeque<Flying>,
    arrived: VecDeque<Vec<u8>>,
    /// In `flying` and `arrived` together: what the sender is ahead of the receiver.
    bytes: usize,
    last_arrival: u64,
    end_arrives_at: Option<u64>,
    has_ended: bool,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

impl Pipe {
    /// How much of `length` goes as the next piece, while at most `bytes_max` are in flight. Zero
    /// if the sender has to wait.
    pub(super) fn piece(&self, length: usize, bytes_max: usize, split: f64, prng: &Prng) -> usize {
        let room = bytes_max.max(1).saturating_sub(self.bytes);
        let piece = length.min(room).min(PIECE_BYTES_MAX);
        if piece < 2 || !prng.chance(split) {
            return piece;
        }
        let cut_max = if prng.coin() { piece.min(64) } else { piece };
        1 + prng.below(cut_max as u64) as usize
    }

    /// Sends `bytes` off; they arrive `delay` after `now` and never before what was sent earlier.
    /// The time of arrival.
    pub(super) fn push(&mut self, bytes: Vec<u8>, now: u64, delay_ns: u64) -> u64 {
        self.bytes += bytes.len();
        self.last_arrival = self.last_arrival.max(now + delay_ns);
        self.flying.push_back(Flying {
            arrives_at: self.last_arrival,
            bytes,
        });
        self.last_arrival
    }

    /// Ends the stream after what was sent. The time when the other side learns of it.
    pub(super) fn end(&mut self, now: u64, delay_ns: u64) -> u64 {
        self.last_arrival = self.last_arrival.max(now + delay_ns);
        *self.end_arrives_at.get_or_insert(self.last_arrival)
    }

    /// Moves over what has arrived by `now`. Whether the end arrived by this.
    pub(super) fn deliver(&mut self, now: u64) -> bool {
        while let Some(flying) = self.flying.pop_front_if(|flying| flying.arrives_at <= now) {
            self.arrived.push_back(flying.bytes);
        }
        let ends = !self.has_ended
            && self.flying.is_empty()
            && self
                .end_arrives_at
                .is_some_and(|arrives_at| arrives_at <= now);
        self.has_ended |= ends;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        ends
    }

    /// The next bytes, if any have arrived: one piece or, by a coin, all up to a bound.
    pub(super) fn take(&mut self, prng: &Prng) -> Option<Vec<u8>> {
        let mut taken = self.arrived.pop_front()?;
        if !self.arrived.is_empty() && prng.coin() {
            while let Some(more) = self
                .arrived
                .pop_front_if(|next| taken.len() + next.len() <= RECEIVE_BYTES_MAX)
            {
                taken.extend_from_slice(&more);
            }
        }
        self.bytes -= taken.len();
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
        Some(taken)
    }

    /// Whether all bytes were taken and no more will come.
    pub(super) fn is_at_end(&self) -> bool {
        self.has_ended && self.arrived.is_empty()
    }

    /// Whether the other side has learned of the end.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Throws away everything and wakes both sides.
    pub(super) fn cut(&mut self) {
        self.flying.clear();
        self.arrived.clear();
        self.bytes = 0;
        self.wake_all();
    }

    pub(super) fn wake_all(&mut self) {
        [self.reader.take(), self.writer.take()]
            .into_iter()
            .flatten()
            .for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_arrive_in_order_whatever_their_delays() {
        let prng = Prng::new(1);
        let mut pipe = Pipe::default();
        assert_eq!(pipe.push(vec![1], 0, 100), 100);
        assert_eq!(
            pipe.push(vec![2], 10, 5),
            100,
            "the later piece waits for the earlier one"
        );
        assert!(pipe.take(&prng).is_none());
        pipe.deliver(100);
        let mut all = Vec::new();
        while let Some(bytes) = pipe.take(&prng) {
            all.extend(bytes);
        }
        assert_eq!(all, [1, 2]);
    }

    #[test]
    fn a_full_pipe_takes_nothing() {
        let prng = Prng::new(2);
        let mut pipe = Pipe::default();
        pipe.push(vec![0; 10], 0, 1);
        assert_eq!(pipe.piece(100, 10, 1.0, &prng), 0);
        assert_eq!(pipe.piece(100, 12, 0.0, &prng), 2);
    }
}

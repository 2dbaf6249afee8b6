//! How often things go wrong in a world, and the log of what did.

use super::random::Prng;
use crate::Nanos;

/// Rates of faults and the timing of devices and streams.
///
/// Every rate is a probability in `0.0..=1.0`, drawn once for each thing that it names. Pairs of
/// nanoseconds are the least and the most.
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    /// A read fails with EIO. Per read.
    pub read_error: f64,
    /// A write fails with EIO; all, part or nothing of it is on the device. Per write.
    pub write_error: f64,
    /// A flush fails with EIO; nothing became durable by it. Per flush.
    pub flush_error: f64,
    /// A flush fails with EIO, and what was not durable never will be: later flushes succeed without it, reads
    /// see it until power is cut. Per flush.
    pub flush_drop: f64,
    /// One bit of what a read returns is wrong, and right again the next time. Per read.
    pub bit_flip_on_read: f64,
    /// One bit under a read turns on the medium and stays so. Per read.
    pub bit_flip_at_rest: f64,
    /// A read returns another place's pages and reports success. Per read.
    pub misdirected_read: f64,
    /// A write lands in another place and reports success. Per write.
    pub misdirected_write: f64,
    /// A write reports success and lands nowhere. Per write.
    pub lost_write: f64,

    /// [`World::crash`](super::World::crash) is a power cut rather than the kill of a process. Per crash.
    pub power_loss: f64,
    /// A completed but unflushed write is lost in a power cut. Per write.
    pub unflushed_loss: f64,
    /// A write that a crash hits is applied in part: in pages when a process is killed, in pages
    /// or 512-byte sectors when power is cut. Per write that was in flight, and per unflushed write
    /// in a power cut.
    pub torn_write: f64,

    /// Time of a device operation.
    pub device_ns: (u64, u64),
    /// Added to it for each page.
    pub device_page_ns: u64,
    /// A device operation takes up to [`Faults::latency_spike_ns_max`] longer. Per operation.
    pub latency_spike: f64,
    /// The longest spike.
    pub latency_spike_ns_max: u64,

    /// One-way delay of a piece of a stream, and of either half of a handshake.
    pub stream_delay_ns: (u64, u64),
    /// Bytes that the sender may be ahead of the receiver before it waits. At least one.
    pub stream_bytes_in_flight_max: usize,
    /// A piece of a stream is cut at a random place, often after a few bytes. Per piece.
    pub stream_split: f64,
    /// The connection is reset. Per send.
    pub stream_reset: f64,
    /// A connection is refused although somebody listens. Per connect.
    pub connect_error: f64,
}

impl Faults {
    /// Nothing fails. A crash keeps completed writes, and applies a write in flight wholly or
    /// not at all. Timing is that of a fast drive and a quiet network.
    pub fn none() -> Self {
        Faults {
            read_error: 0.0,
            write_error: 0.0,
            flush_error: 0.0,
            flush_drop: 0.0,
            bit_flip_on_read: 0.0,
            bit_flip_at_rest: 0.0,
            misdirected_read: 0.0,
            misdirected_write: 0.0,
            lost_write: 0.0,
            power_loss: 0.0,
            unflushed_loss: 0.0,
            torn_write: 0.0,
            device_ns: (40_000, 120_000),
            device_page_ns: 500,
            latency_spike: 0.0,
            latency_spike_ns_max: 0,
            stream_delay_ns: (5_000, 50_000),
            stream_bytes_in_flight_max: 256 << 10,
            stream_split: 0.0,
            stream_reset: 0.0,
            connect_error: 0.0,
        }
    }

    /// A mix for `seed`: a quarter of the seeds have no device or network faults at all, the others
    /// have each kind off or at a rate between 1 in 10,000 and 1 in 20. Crashes, timing and splitting
    /// vary with every seed.
    pub fn from_seed(seed: u64) -> Self {
        let prng = Prng::new(seed ^ 0x0066_6175_6c74_7300);
        let quiet = prng.below(4) == 0;
        let rate = |prng: &Prng| {
            let off = prng.coin();
            let exponent = -4.0 + 2.7 * (prng.below(1 << 20) as f64 / (1u64 << 20) as f64);
            if quiet || off {
                0.0
            } else {
                10f64.powf(exponent)
            }
        };
        let share = |prng: &Prng| prng.below(5) as f64 / 4.0;
        let device_ns_min = prng.between(2_000, 100_000);
        let stream_ns_min = prng.between(500, 200_000);
        Faults {
            read_error: rate(&prng),
            write_error: rate(&prng),
            flush_error: rate(&prng),
            bit_flip_on_read: rate(&prng),
            bit_flip_at_rest: rate(&prng),
            misdirected_read: rate(&prng),
            misdirected_write: rate(&prng),
            lost_write: rate(&prng),
            power_loss: share(&prng),
            unflushed_loss: share(&prng),
            torn_write: share(&prng),
            device_ns: (device_ns_min, device_ns_min * prng.between(1, 20)),
            device_page_ns: prng.below(3_000),
            latency_spike: rate(&prng),
            latency_spike_ns_max: prng.between(1_000_000, 2_000_000_000),
            stream_delay_ns: (stream_ns_min, stream_ns_min * prng.between(1, 20)),
            stream_bytes_in_flight_max: 1 << prng.between(10, 20),
            stream_split: share(&prng),
            stream_reset: rate(&prng),
            connect_error: rate(&prng),
            flush_drop: rate(&prng),
        }
    }
}

/// Kinds of operations that a device does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hang {
    /// Reads.
    pub reads: bool,
    /// Writes and discards.
    pub writes: bool,
    /// Flushes.
    pub flushes: bool,
}

impl Hang {
    /// Nothing is answered.
    pub const ALL: Hang = Hang {
        reads: true,
        writes: true,
        flushes: true,
    };
}

/// A kind of fault that a world injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// A read that failed.
    ReadError,
    /// A write that failed.
    WriteError,
    /// A flush that failed.
    FlushError,
    /// A flush that failed and gave up what was not durable. A [`Fault::FlushError`] is injected beside it.
    FlushDropped,
    /// A bit that was wrong in one read.
    BitFlipOnRead,
    /// A bit that turned on the medium.
    BitFlipAtRest,
    /// A read of the wrong place; the extent is the one that was asked for.
    MisdirectedRead,
    /// The place that a misdirected write overwrote. Its victim is injected beside it.
    MisdirectedWrite,
    /// The place that should have been written and was not.
    LostWrite,
    /// A write that a crash or an error applied in part.
    TornWrite,
    /// A write in flight that a crash or an error dropped whole.
    DroppedWrite,
    /// A completed write that a power cut took back.
    UnflushedLost,
    /// An operation that took much longer.
    LatencySpike,
    /// An operation that is not answered until [`World::answer_device`](super::World::answer_device).
    Unanswered,
    /// A device that failed, for good or until [`World::restore_device`](super::World::restore_device). The
    /// extent is all of it.
    DeviceFailed,
    /// What [`World::corrupt`](super::World::corrupt) overwrote.
    Corrupted,
    /// A connection that was reset. No extent.
    StreamReset,
    /// A connect that was refused. No extent.
    ConnectError,
}

impl Fault {
    /// Number of kinds.
    pub(super) const COUNT: usize = Fault::ConnectError as usize + 1;
}

/// One fault that was injected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    /// When.
    pub at: Nanos,
    /// What.
    pub fault: Fault,
    /// Which device, in the order in which they were added; `None` for the network.
    pub device: Option<usize>,
    /// First byte that is hit.
    pub offset: u64,
    /// Number of bytes that are hit.
    pub length: u64,
}

/// Everything that was injected so far.
#[derive(Debug, Default)]
pub(super) struct InjectionLog {
    pub(super) all: Vec<Injection>,
    counts: [u64; Fault::COUNT],
}

impl InjectionLog {
    pub(super) fn push(&mut self, injection: Injection) {
        self.counts[injection.fault as usize] += 1;
        self.all.push(injection);
    }

    pub(super) fn count(&self, fault: Fault) -> u64 {
        self.counts[fault as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_give_quiet_and_faulty_mixes_and_always_the_same() {
        let quiet = (0..400)
            .filter(|seed| Faults::from_seed(*seed).quiet())
            .count();
        assert!(
            (60..140).contains(&quiet),
            "{quiet} of 400 seeds are quiet, a quarter was meant"
        );
        assert_eq!(Faults::from_seed(9), Faults::from_seed(9));
        assert_ne!(Faults::from_seed(9), Faults::from_seed(10));
    }

    impl Faults {
        fn quiet(&self) -> bool {
            [
                self.read_error,
                self.write_error,
                self.flush_error,
                self.flush_drop,
                self.bit_flip_on_read,
                self.bit_flip_at_rest,
                self.misdirected_read,
                self.misdirected_write,
                self.lost_write,
                self.stream_reset,
            ]
            .iter()
            .all(|rate| *rate == 0.0)
        }
    }
}

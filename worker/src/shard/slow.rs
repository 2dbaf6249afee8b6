//! The slowest reads of the last minutes, and the latencies of all that were not hits.
//!
//! Hits in DRAM are not timed one by one: a clock read would cost a tenth of the hit.

use corelane_rpc_schema::frame::{ReadRequest, ReadSource};
use hdrhistogram::Histogram;

use super::request::SlowRequest;

/// How many are kept.
const KEPT_MAX: usize = 32;

/// For how long they are, in milliseconds: an operator who is called because something is slow still sees it.
const KEPT_FOR_MS: u64 = 10 * 60 * 1000;

/// Longest latency that the histograms tell apart: a minute, in microseconds.
const LATENCY_US_MAX: u64 = 60_000_000;

/// A read that took a task.
pub struct SlowRead<'a, N: FnOnce() -> String, C: FnOnce() -> u64> {
    /// Where it was served from.
    pub source: ReadSource,
    /// From decode to the answer.
    pub total_ns: u64,
    /// Of it, waiting for devices.
    pub device_ns: u64,
    /// Of it, waiting for fills.
    pub under_store_ns: u64,
    /// The request.
    pub request: &'a ReadRequest,
    /// Name of the client; asked only where the read is kept.
    pub client: N,
    /// Milliseconds since the Unix epoch; asked only where the read is kept.
    pub wall_clock_ms: C,
}

/// The slowest reads and the latencies.
pub struct SlowLog {
    kept: Vec<SlowRequest>,
    /// A read is kept if it took longer than this: the least of those kept, once there are enough.
    kept_above_us: Option<u64>,
    latencies: [Histogram<u64>; 3],
    run: Run,
}

/// Reads in succession that took as long, which are counted together: the clock is read once a turn of
/// the loop, so reads that a device answers together often took as long.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    source: ReadSource,
    total_us: u64,
    /// Not counted in the latencies yet.
    reads: u64,
}

impl Default for SlowLog {
    fn default() -> Self {
        let histogram =
            || Histogram::new_with_max(LATENCY_US_MAX, 2).expect("the bounds are valid constants");
        SlowLog {
            kept: Vec::with_capacity(KEPT_MAX),
            kept_above_us: None,
            latencies: [histogram(), histogram(), histogram()],
            run: Run::default(),
        }
    }
}

fn name(source: ReadSource) -> &'static str {
    match source {
        ReadSource::Dram => "dram",
        ReadSource::Device => "device",
        ReadSource::UnderStore => "under-store",
    }
}

impl SlowLog {
    /// Notes a read.
    #[inline]
    pub fn note<N: FnOnce() -> String, C: FnOnce() -> u64>(&mut self, read: SlowRead<'_, N, C>) {
        let total_us = read.total_ns / 1000;
        if self.run.source != read.source || self.run.total_us != total_us {
            self.end_run();
            self.run = Run {
                source: read.source,
                total_us,
                reads: 0,
            };
        }
        self.run.reads += 1;
        if self.kept_above_us.is_some_and(|least| total_us <= least) {
            return;
        }
        self.keep(read, total_us);
    }

    #[cold]
    fn keep<N: FnOnce() -> String, C: FnOnce() -> u64>(
        &mut self,
        read: SlowRead<'_, N, C>,
        total_us: u64,
    ) {
        let request = SlowRequest {
            at_ms: (read.wall_clock_ms)(),
            client: (read.client)(),
            object: read.request.object,
            offset: read.request.offset,
            length: read.request.length,
            source: name(read.source),
            total_us,
            device_us: read.device_ns / 1000,
            under_store_us: read.under_store_ns / 1000,
        };
        match self.kept_above_us.and_then(|least| self.place_of(least)) {
            Some(place) => self.kept[place] = request,
            None => self.kept.push(request),
        }
        self.renew_least();
    }

    fn renew_least(&mut self) {
        self.kept_above_us = (self.kept.len() == KEPT_MAX)
            .then(|| self.kept.iter().map(|kept| kept.total_us).min())
            .flatten();
    }

    /// Counts the reads of the run.
    fn end_run(&mut self) {
        let Run {
            source,
            total_us,
            reads,
        } = self.run;
        self.latencies[source as usize].saturating_record_n(total_us, reads);
        self.run.reads = 0;
    }

    fn place_of(&self, total_us: u64) -> Option<usize> {
        let mut kept = self.kept.iter();
        kept.position(|kept| kept.total_us == total_us)
    }

    /// The slowest reads of the last minutes, slowest first.
    pub fn slowest(&self) -> Vec<SlowRequest> {
        let mut kept = self.kept.clone();
        kept.sort_by_key(|read| std::cmp::Reverse(read.total_us));
        kept
    }

    /// Makes room for what is slow now. `now_ms` is in milliseconds since the Unix epoch.
    pub fn drop_old(&mut self, now_ms: u64) {
        let before = self.kept.len();
        self.kept
            .retain(|kept| now_ms.saturating_sub(kept.at_ms) < KEPT_FOR_MS);
        if self.kept.len() < before {
            self.renew_least();
        }
    }

    /// For each source: p50, p99, p99.9 in microseconds, and the count.
    pub fn latencies(&mut self) -> Vec<(&'static str, [u64; 4])> {
        self.end_run();
        [ReadSource::Dram, ReadSource::Device, ReadSource::UnderStore]
            .into_iter()
            .map(|source| {
                let histogram = &self.latencies[source as usize];
                let at = |quantile| histogram.value_at_quantile(quantile);
                (
                    name(source),
                    [at(0.5), at(0.99), at(0.999), histogram.len()],
                )
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_are_kept_for_a_while_however_often_they_are_looked_at() {
        let mut log = SlowLog::default();
        let request = ReadRequest::default();
        let note = |log: &mut SlowLog, microseconds: u64| {
            log.note(SlowRead {
                source: ReadSource::Device,
                total_ns: microseconds * 1000,
                device_ns: 0,
                under_store_ns: 0,
                request: &request,
                client: || "test".to_owned(),
                wall_clock_ms: || 1,
            });
        };
        (0..100).for_each(|microseconds| note(&mut log, 2 * microseconds + 1));
        (0..100)
            .rev()
            .for_each(|microseconds| note(&mut log, 2 * microseconds));
        for _ in 0..2 {
            assert_eq!(log.slowest().len(), KEPT_MAX);
        }
        let kept = log.slowest();
        assert_eq!((kept[0].total_us, kept[KEPT_MAX - 1].total_us), (199, 168));
        log.drop_old(KEPT_FOR_MS);
        assert_eq!(log.slowest().len(), KEPT_MAX, "not old yet");
        log.drop_old(KEPT_FOR_MS + 1);
        assert!(log.slowest().is_empty());
        assert_eq!(log.latencies()[1].1[3], 200);
        (0..3).for_each(|_| note(&mut log, 7));
        assert_eq!(log.latencies()[1].1[3], 203);
        log.drop_old(KEPT_FOR_MS + 1);
        note(&mut log, 1);
        assert_eq!(
            log.slowest().len(),
            1,
            "what was slow before does not count"
        );
    }
}

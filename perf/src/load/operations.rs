//! The operations of one generator: which are due, under way, waiting for a connection, and what
//! they took.
//!
//! The invariant: every operation that was due in the measured stretch is in the latencies, also
//! one that waited for a free slot or never ended; only what was refused is not, but counted. It must not know how a read is sent; a
//! [`Transport`] does.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::arrivals::Schedule;
use super::crew::{Member, Stretch};
use super::{LoadResult, interrupt};
use crate::process;
use crate::random::Random;
use crate::target::Answer;
use crate::workload::{Piece, Walk};

/// Seconds of offered load that may wait for a slot before the stretch is given up, within these
/// numbers of operations: what waits longer will not catch up in a run of seconds, and a million
/// of them take 100 MB.
const BACKLOG_SECONDS_MAX: f64 = 2.0;
const BACKLOG_OPERATIONS: std::ops::RangeInclusive<usize> = 1 << 14..=1 << 20;

/// How long operations that were due in the stretch are waited for after its end.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Sends reads.
pub trait Transport {
    /// Sends the request for `piece` as `slot` of `lane`.
    fn issue(&mut self, lane: u32, slot: u32, piece: &Piece);
}

/// An operation under way.
#[derive(Clone, Copy, Debug)]
struct Operation {
    walk: Walk,
    intended: Instant,
    /// When its first request was sent; the intended instant until then.
    sent: Instant,
    is_sent: bool,
}

/// What shares an owner: the free slots of its lanes, and reads that wait for one.
#[derive(Debug, Default)]
struct Endpoint {
    free: VecDeque<(u32, u32)>,
    waiting: VecDeque<(u32, Piece)>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Operations<'a> {
    member: Member<'a>,
    stretch: Stretch,
    random: Random,
    schedule: Option<Schedule>,
    endpoints: Vec<Endpoint>,
    /// The endpoint of each lane.
    lane_endpoints: Vec<u32>,
    /// The operation in each slot, `depth` a lane.
    in_slots: Vec<u32>,
    table: Vec<Operation>,
    vacant: Vec<u32>,
    waiting: usize,
    under_way: usize,
    backlog_max: usize,
    /// CPU time of this thread when the measured part began.
    cpu_at_begin: Option<Duration>,
    result: LoadResult,
}

impl<'a> Operations<'a> {
    /// Of `member`, whose lanes lead to `lane_endpoints`, over `stretch`.
    pub fn new(member: Member<'a>, lane_endpoints: Vec<u32>, stretch: Stretch) -> Self {
        let spec = member.spec;
        let seed = spec.seed.wrapping_add(member.index as u64 * 0x51_7c_c1);
        let schedule = Schedule::new(
            spec.arrivals,
            stretch.start,
            (member.index, member.count),
            seed,
        );
        let mut endpoints: Vec<Endpoint> = Vec::new();
        endpoints.resize_with(member.catalogue.endpoints.len(), Endpoint::default);
        // Slot by slot over all lanes, so that few operations use many lanes.
        for slot in 0..spec.depth {
            for (lane, endpoint) in lane_endpoints.iter().enumerate() {
                endpoints[*endpoint as usize]
                    .free
                    .push_back((lane as u32, slot));
            }
        }
        let slots = lane_endpoints.len() * spec.depth as usize;
        let offered = spec.arrivals.per_second().unwrap_or(0.0) / member.count as f64;
        Operations {
            random: Random::new(seed),
            schedule,
            endpoints,
            lane_endpoints,
            in_slots: vec![u32::MAX; slots],
            table: Vec::with_capacity(slots),
            vacant: Vec::with_capacity(slots),
            waiting: 0,
            under_way: 0,
            backlog_max: ((offered * BACKLOG_SECONDS_MAX) as usize)
                .clamp(*BACKLOG_OPERATIONS.start(), *BACKLOG_OPERATIONS.end()),
            cpu_at_begin: None,
            result: LoadResult::new(),
            stretch,
            member,
        }
    }

    /// The load.
    pub fn member(&self) -> &Member<'a> {
        &self.member
    }

    /// Begins: a closed loop sends as many operations as there are slots.
    pub fn begin(&mut self, transport: &mut impl Transport) {
        if self.schedule.is_none() {
            let now = Instant::now();
            for _ in 0..self.in_slots.len() {
                self.add(transport, now, now);
            }
        }
    }

    /// Sends what is due; called once a turn. False when the loop is over.
    #[inline]
    pub fn turn(&mut self, transport: &mut impl Transport, now: Instant) -> bool {
        if self.schedule.is_some() {
            self.arrive(transport, now);
        }
        if self.cpu_at_begin.is_none() && now >= self.stretch.begin {
            self.cpu_at_begin = Some(process::thread_time());
        }
        if now < self.stretch.end {
            if interrupt::is_set() || self.member.is_stopped() {
                self.result.is_partial |= interrupt::is_set();
                self.stretch.end = now.max(self.stretch.begin);
            }
            return true;
        }
        if self.result.generator_cpu.is_zero() {
            let before = self.cpu_at_begin.unwrap_or_default();
            self.result.generator_cpu = process::thread_time().saturating_sub(before);
        }
        if self.result.is_overrun {
            // So that the server is left idle.
            let sent = self.under_way - self.waiting;
            return sent > 0 && now < self.stretch.end + DRAIN_MAX;
        }
        self.under_way > 0 && now < self.stretch.end + DRAIN_MAX
    }

    /// When something is due next; none where nothing is.
    #[inline]
    pub fn due(&self) -> Option<Instant> {
        let due = self.schedule.as_ref()?.due();
        (due < self.stretch.end && !self.result.is_overrun).then_some(due)
    }

    /// Whether requests are under way.
    pub fn is_waiting(&self) -> bool {
        self.under_way > self.waiting
    }

    fn arrive(&mut self, transport: &mut impl Transport, now: Instant) {
        while let Some(due) = self.due()
            && due <= now
        {
            self.schedule.as_mut().expect("something was due").advance();
            self.add(transport, due, now);
            if self.waiting > self.backlog_max {
                self.result.is_overrun = true;
                self.stretch.end = now.max(self.stretch.begin);
                self.member.stop();
                // Given up; what was sent is still waited for.
                for endpoint in &mut self.endpoints {
                    endpoint.waiting.clear();
                }
                return;
            }
        }
    }

    /// A new operation.
    #[inline]
    fn add(&mut self, transport: &mut impl Transport, intended: Instant, now: Instant) {
        let since_start = intended.saturating_duration_since(self.stretch.start);
        let (walk, piece) = self.member.walks.begin(&mut self.random, since_start);
        let operation = Operation {
            walk,
            intended,
            sent: intended,
            is_sent: false,
        };
        let index = match self.vacant.pop() {
            Some(index) => {
                self.table[index as usize] = operation;
                index
            }
            None => {
                self.table.push(operation);
                self.table.len() as u32 - 1
            }
        };
        self.under_way += 1;
        self.place(transport, index, piece, now);
    }

    /// Sends `piece` of operation `index`, or lets it wait for a slot.
    #[inline]
    fn place(&mut self, transport: &mut impl Transport, index: u32, piece: Piece, now: Instant) {
        let endpoint = self.member.catalogue.endpoint_of(&piece, &mut self.random);
        match self.endpoints[endpoint].free.pop_front() {
            Some((lane, slot)) => self.send(transport, index, &piece, (lane, slot), now),
            None => {
                self.endpoints[endpoint].waiting.push_back((index, piece));
                self.waiting += 1;
            }
        }
    }

    #[inline]
    fn send(
        &mut self,
        transport: &mut impl Transport,
        index: u32,
        piece: &Piece,
        (lane, slot): (u32, u32),
        now: Instant,
    ) {
        let operation = &mut self.table[index as usize];
        if !operation.is_sent {
            operation.is_sent = true;
            operation.sent = now;
        }
        let depth = self.member.spec.depth;
        self.in_slots[(lane * depth + slot) as usize] = index;
        transport.issue(lane, slot, piece);
    }

    /// Takes the end of a read on `lane`. False when nothing was asked in its slot.
    #[inline]
    pub fn answered(
        &mut self,
        transport: &mut impl Transport,
        lane: u32,
        answer: &Answer,
        now: Instant,
    ) -> bool {
        let depth = self.member.spec.depth;
        if answer.slot >= depth {
            return false;
        }
        let slot = &mut self.in_slots[(lane * depth + answer.slot) as usize];
        let index = std::mem::replace(slot, u32::MAX);
        if index == u32::MAX {
            return false;
        }
        // A wrong byte counts whenever it comes.
        self.result.wrong += u64::from(answer.is_wrong);
        let is_inside = self.stretch.begin <= now && now < self.stretch.end;
        if is_inside {
            self.result.count_read(answer);
        }
        self.free_slot(transport, lane, answer.slot, now);
        let operation = &mut self.table[index as usize];
        let next = match answer.is_error {
            true => None,
            false => self
                .member
                .walks
                .next(&mut operation.walk, &mut self.random),
        };
        match next {
            Some(piece) => self.place(transport, index, piece, now),
            None => {
                self.end(index, !answer.is_error, is_inside, now);
                if self.schedule.is_none() && now < self.stretch.end {
                    self.add(transport, now, now);
                }
            }
        }
        true
    }

    #[inline]
    fn free_slot(&mut self, transport: &mut impl Transport, lane: u32, slot: u32, now: Instant) {
        let endpoint = &mut self.endpoints[self.lane_endpoints[lane as usize] as usize];
        match endpoint.waiting.pop_front() {
            Some((index, piece)) => {
                self.waiting -= 1;
                self.send(transport, index, &piece, (lane, slot), now);
            }
            None => endpoint.free.push_back((lane, slot)),
        }
    }

    #[inline]
    fn end(&mut self, index: u32, is_good: bool, is_inside: bool, now: Instant) {
        self.under_way -= 1;
        self.vacant.push(index);
        if !is_good {
            return;
        }
        let operation = &self.table[index as usize];
        self.result.operations += u64::from(is_inside);
        let counts = match self.schedule {
            None => is_inside,
            Some(_) => {
                self.stretch.begin <= operation.intended && operation.intended < self.stretch.end
            }
        };
        if counts {
            self.result.count_latency(operation.intended, now);
            if self.schedule.is_some() {
                self.result.count_service(operation.sent, now);
                self.result.count_sent(operation.intended, operation.sent);
            }
        }
    }

    /// The end: what was due and did not end is counted with the time that it had.
    pub fn finish(mut self) -> LoadResult {
        let now = Instant::now();
        if self.schedule.is_some() {
            let mut is_under_way = vec![true; self.table.len()];
            for vacant in &self.vacant {
                is_under_way[*vacant as usize] = false;
            }
            for (operation, _) in self.table.iter().zip(is_under_way).filter(|(_, is)| *is) {
                let due = self.stretch.begin..self.stretch.end;
                if due.contains(&operation.intended) {
                    self.result.unfinished += 1;
                    self.result.count_latency(operation.intended, now);
                    if operation.is_sent {
                        self.result.count_service(operation.sent, now);
                        self.result.count_sent(operation.intended, operation.sent);
                    } else {
                        self.result.count_sent(operation.intended, now);
                    }
                }
            }
        }
        self.result.elapsed = self
            .stretch
            .end
            .saturating_duration_since(self.stretch.begin);
        self.result
    }
}

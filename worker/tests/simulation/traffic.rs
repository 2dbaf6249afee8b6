//! A client that opens and reads at random, and hands every answer to the oracle.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use corelane_io::Io;
use corelane_io::sim::{Prng, SimIo};
use corelane_placement::partition_of;
use corelane_rpc_schema::frame::ReadFlags;
use corelane_rpc_schema::{PartitionId, STRIPE_BYTES, ShardId, Stripe};
use corelane_worker::mount::{Mount, MountTable};

use crate::client::{Lane, ReadBytes, Refused};
use crate::oracle::{Excuses, Opened, Oracle, Tally};
use crate::worker::{Worker, answered, uri_of};

/// What the clients of one start of a worker share.
pub struct Crowd {
    /// The worker.
    pub worker: Worker,
    /// The core of the clients.
    pub io: SimIo,
    /// The judge.
    pub oracle: Oracle,
    /// What was seen.
    pub tally: Rc<Tally>,
    /// Mounts as they were last set.
    pub mounts: RefCell<Arc<MountTable>>,
    /// All mounts that there can be: one may come and go again while an open is under way.
    pub all_mounts: Arc<MountTable>,
    /// The mount that comes and goes.
    pub flapping: &'static str,
    /// Paths of all objects.
    pub paths: Vec<String>,
    /// Objects that a shard remembers.
    pub objects_remembered: usize,
    /// Whether "busy" is expected.
    pub is_pressed: bool,
    /// Whether the network breaks connections.
    pub may_lose_lanes: bool,
    /// Called with every object that a request is about to be sent for.
    pub touched: Box<dyn Fn(&Opened)>,
}

/// Sizes that find the edges of pages, frames and blocks.
const LENGTHS: [u32; 10] = [
    1,
    7,
    4095,
    4096,
    4097,
    8192,
    16 << 10,
    64 << 10,
    (64 << 10) + 1,
    200_000,
];

/// One client: a lane to every shard that it needed so far.
pub struct Visitor {
    crowd: Rc<Crowd>,
    prng: Prng,
    lanes: Vec<Option<Lane>>,
    known: Vec<Opened>,
}

impl Visitor {
    /// A client that `seed` decides.
    pub fn new(crowd: &Rc<Crowd>, seed: u64) -> Self {
        Visitor {
            lanes: vec![None; crowd.worker.shards()],
            crowd: Rc::clone(crowd),
            prng: Prng::new(seed),
            known: Vec::new(),
        }
    }

    /// Does `operations` things, then closes its lanes. Ends early when the worker does.
    pub async fn visit(mut self, operations: u64) {
        for _ in 0..operations {
            if self.crowd.worker.stopping_since.get().is_some() {
                break;
            }
            match self.prng.below(100) {
                0..30 => self.open_something().await,
                30..70 => self.read_at_random().await,
                70..85 => self.read_in_order().await,
                85..88 => self.leave_in_the_middle().await,
                88..90 => self.drop_a_lane(),
                _ => {
                    let pause = self.prng.below(3_000_000);
                    self.crowd.io.sleep(Duration::from_nanos(pause)).await;
                }
            }
        }
        for lane in self.lanes.iter().flatten() {
            lane.close();
        }
    }

    fn pick<'a, T>(&self, of: &'a [T]) -> &'a T {
        &of[self.prng.below(of.len() as u64) as usize]
    }

    /// The lane to a shard, connected where it is not. `None` when the worker cannot be reached.
    async fn lane(&mut self, shard: usize) -> Option<Lane> {
        if let Some(lane) = &self.lanes[shard] {
            if lane.is_usable() {
                return Some(lane.clone());
            }
            self.crowd.lane_ended(lane.ended().flatten());
        }
        for _ in 0..4 {
            if self.crowd.worker.stopping_since.get().is_some() {
                return None;
            }
            let lane = Lane::connect(&self.crowd.io, self.crowd.worker.address(shard), "");
            match answered(&self.crowd.io, lane, || "hello".to_owned()).await {
                Ok(lane) => {
                    self.lanes[shard] = Some(lane.clone());
                    return Some(lane);
                }
                Err(refused) => self.crowd.refused_lane(refused),
            }
        }
        None
    }

    async fn open_something(&mut self) {
        let path = self.pick(&self.crowd.paths).clone();
        let shard = self.prng.below(self.lanes.len() as u64) as usize;
        let Some(lane) = self.lane(shard).await else {
            return;
        };
        if let Some(opened) = self.crowd.open(&lane, &path).await {
            self.known
                .retain(|known| known.path != path || self.prng.below(4) > 0);
            self.known.push(opened);
        }
    }

    /// A shard to ask: mostly the owner.
    fn shard_for(&self, lane: Option<&Lane>, opened: &Opened, offset: u64) -> usize {
        let any = self.prng.below(self.lanes.len() as u64) as usize;
        let Some(lane) = lane else {
            return any;
        };
        if self.prng.below(5) == 0 {
            return any;
        }
        usize::from(owner_of(lane, opened, offset).0)
    }

    fn range_in(&self, opened: &Opened) -> Option<Range<u64>> {
        if opened.length == 0 {
            return None;
        }
        let mut start = self.prng.below(opened.length);
        if self.prng.below(4) > 0 {
            start -= start % 4096;
        }
        if self.prng.below(8) == 0 {
            // Near the end of a block, where short last blocks and neighbours are.
            let block = u64::from(opened.block_bytes);
            start = (start - start % block + block).min(opened.length - 1);
            start -= start.min(self.prng.below(5000));
        }
        let length = u64::from(*self.pick(&LENGTHS));
        let end = (start + length).min(opened.length);
        Some(start..end.min(start - start % STRIPE_BYTES + STRIPE_BYTES))
    }

    async fn read_at_random(&mut self) {
        if self.known.is_empty() {
            return self.open_something().await;
        }
        let mut reads = Vec::new();
        for _ in 0..self.prng.between(1, 6) {
            let opened = self.pick(&self.known).clone();
            let Some(range) = self.range_in(&opened) else {
                continue;
            };
            let shard = self.shard_for(self.lanes.iter().flatten().next(), &opened, range.start);
            let Some(lane) = self.lane(shard).await else {
                return;
            };
            reads.push((lane, opened, range));
        }
        let reads = reads
            .iter()
            .map(|(lane, opened, range)| self.crowd.read(lane, opened, range.clone()));
        futures::future::join_all(reads).await;
    }

    async fn read_in_order(&mut self) {
        if self.known.is_empty() {
            return self.open_something().await;
        }
        let opened = self.pick(&self.known).clone();
        let step: u64 = *self.pick(&[4096, 32 << 10, 64 << 10]);
        let mut start = self.prng.below(opened.length.max(1)) / step * step;
        for _ in 0..self.prng.between(4, 12) {
            let end = (start + step).min(opened.length);
            if start >= end {
                return;
            }
            let first = self.lanes.iter().flatten().next();
            let shard = self.shard_for(first, &opened, start);
            let Some(lane) = self.lane(shard).await else {
                return;
            };
            if self.crowd.read(&lane, &opened, start..end).await.is_none() {
                return;
            }
            start = end;
        }
    }

    /// Sends reads beyond its credits and goes without their answers.
    async fn leave_in_the_middle(&mut self) {
        let Some(opened) = self.known.last().cloned() else {
            return;
        };
        let shard = self.prng.below(self.lanes.len() as u64) as usize;
        let Some(lane) = self.lane(shard).await else {
            return;
        };
        let reads: Vec<_> = (0..24).filter_map(|_| self.range_in(&opened)).collect();
        (self.crowd.touched)(&opened);
        let reads = futures::future::join_all(reads.into_iter().map(|range| {
            let length = (range.end - range.start) as u32;
            lane.read_at_once(opened.id, range.start, length, ReadFlags::NONE)
        }));
        let wait = self
            .crowd
            .io
            .sleep(Duration::from_nanos(self.prng.below(2_000_000)));
        futures::pin_mut!(reads, wait);
        futures::future::select(reads, wait).await;
        lane.close();
        self.lanes[shard] = None;
    }

    fn drop_a_lane(&mut self) {
        let shard = self.prng.below(self.lanes.len() as u64) as usize;
        if let Some(lane) = self.lanes[shard].take() {
            lane.close();
        }
    }
}

/// Who owns the stripe at `offset`, by what the worker said at hello.
fn owner_of(lane: &Lane, opened: &Opened, offset: u64) -> ShardId {
    let partitions = lane.hello().partition_shards.len() as u32;
    let stripe = Stripe::of_offset(offset);
    let partition = PartitionId(partition_of(opened.id.home, stripe.0, partitions));
    let owner = lane.hello().shard_of(partition);
    owner.expect("the hello names every owner")
}

impl Crowd {
    fn is_ending(&self) -> bool {
        self.worker.stopping_since.get().is_some()
    }

    fn excuses(&self, path: &str) -> Excuses {
        Excuses {
            is_pressed: self.is_pressed,
            mounts_changed: path.starts_with(self.flapping),
            is_ending: self.is_ending(),
            may_forget: self.oracle.versions() > self.objects_remembered,
        }
    }

    /// A lane ended that this side did not close.
    fn lane_ended(&self, last: Option<corelane_rpc_schema::messages::ErrorMessage>) {
        assert!(
            last.is_none(),
            "a good client was closed because of {last:?}"
        );
        assert!(
            self.is_ending() || self.may_lose_lanes,
            "a lane ended although nothing breaks connections"
        );
        Tally::count(&self.tally.lanes_lost);
    }

    fn refused_lane(&self, refused: Refused) {
        match refused {
            Refused::Ended(last) => self.lane_ended(last),
            Refused::Error(error) => panic!("a good hello was answered with {error:?}"),
        }
    }

    fn mount_of(&self, path: &str) -> Option<Arc<Mount>> {
        self.mounts.borrow().covering(path).cloned()
    }

    /// Opens `path` and judges the answer.
    pub async fn open(&self, lane: &Lane, path: &str) -> Option<Opened> {
        let before = self.mount_of(path);
        let began = self.io.now();
        let answer = answered(&self.io, lane.open(path), || format!("open {path}")).await;
        let window = began..self.io.now();
        match answer {
            Ok(answer) => {
                let after = self.mount_of(path);
                let meanwhile = self.all_mounts.covering(path).cloned();
                let mount = [before, after, meanwhile]
                    .into_iter()
                    .flatten()
                    .find(|mount| mount.block_bytes == answer.block_bytes)
                    .unwrap_or_else(|| panic!("no mount of {path} has the blocks of {answer:?}"));
                Tally::count(&self.tally.opens);
                Some(self.oracle.opened(&mount, path, &answer, window))
            }
            Err(Refused::Error(error)) => {
                let uri = uri_of(path);
                self.oracle.error(&uri, &error, window, self.excuses(path));
                Tally::count(&self.tally.errors);
                None
            }
            Err(Refused::Ended(last)) => {
                self.lane_ended(last);
                None
            }
        }
    }

    /// Reads `range` of an object and judges the answer.
    pub async fn read(&self, lane: &Lane, opened: &Opened, range: Range<u64>) -> Option<ReadBytes> {
        (self.touched)(opened);
        let length = (range.end - range.start) as u32;
        let began = self.io.now();
        let answer = lane.read(opened.id, range.start, length);
        let answer = answered(&self.io, answer, || format!("{range:?} of {opened:?}")).await;
        let window = began..self.io.now();
        (self.touched)(opened);
        match answer {
            Ok(read) => {
                let owner = owner_of(lane, opened, range.start);
                let expected = (owner != lane.hello().shard).then_some(owner);
                assert_eq!(read.hint, expected, "where to ask next time");
                self.oracle.read(opened, range.start, &read.bytes);
                Tally::count(&self.tally.reads);
                let bytes = &self.tally.bytes;
                bytes.set(bytes.get() + u64::from(length));
                Some(read)
            }
            Err(Refused::Error(error)) => {
                let excuses = self.excuses(&opened.path);
                self.oracle.error(&opened.uri, &error, window, excuses);
                Tally::count(&self.tally.errors);
                None
            }
            Err(Refused::Ended(last)) => {
                // A lane that this client closed itself is not looked at again.
                if lane.ended().is_some() {
                    self.lane_ended(last);
                }
                None
            }
        }
    }
}

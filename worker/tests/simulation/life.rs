//! One start of the worker: what must have survived, traffic, and the end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use corelane_io::sim::{Fault, Faults, Prng, SimIo, World};
use corelane_io::{Io, Priority};
use corelane_placement::{partition_of, shard_of};
use corelane_rpc_schema::READ_BYTES_MAX;
use corelane_worker::mount::MountTable;
use corelane_worker::object::ObjectMeta;
use corelane_worker::shard::request::{ShardLimits, ShardRequest};

use crate::client::Lane;
use crate::ledger::Ledger;
use crate::oracle::{Opened, Oracle, Tally};
use crate::origin::{Origin, version_number};
use crate::plan::{Ending, FLAPPING, IMMUTABLE, Life, Plan};
use crate::traffic::{Crowd, Visitor};
use crate::worker::{Gone, Site, Worker, side_by_side, uri_of};

/// Longest time that things under way may take to end once nobody asks for more: the deadline
/// after which a lane whose client went away without a word is cut off, and some.
const SETTLE_MAX: Duration = Duration::from_secs(60);

/// The world of a seed, between the starts of its worker.
pub struct Stage<'a> {
    /// The world.
    pub world: &'a World,
    /// What the seed decided.
    pub plan: &'a Plan,
    /// What outlives workers.
    pub site: &'a Site,
    /// What must survive.
    pub ledger: Rc<Ledger>,
    /// What was seen.
    pub tally: Rc<Tally>,
    /// Whether a device has failed for good.
    pub has_failed_device: Cell<bool>,
    /// Whether a worker ended while it was writing.
    pub has_crashed: Cell<bool>,
}

impl Stage<'_> {
    fn devices_may_fail(&self) -> bool {
        self.plan.devices_may_fail() || self.has_failed_device.get()
    }

    /// Whether an extent may be on a device in part: some of its writes, or parts of them.
    fn has_torn_writes(&self) -> bool {
        self.has_crashed.get()
            || [Fault::TornWrite, Fault::DroppedWrite, Fault::UnflushedLost]
                .iter()
                .any(|fault| self.world.injected(*fault) > 0)
    }

    /// Starts the worker. With faults, a start may fail; it is tried again without.
    async fn start(&self, shards: u16) -> Option<Worker> {
        if let Ok(worker) = Worker::start(self.world, self.site, shards).await {
            return Some(worker);
        }
        assert!(
            self.devices_may_fail(),
            "a start failed although devices are well"
        );
        self.world.set_faults(Faults::none());
        let again = Worker::start(self.world, self.site, shards).await;
        self.world.set_faults(self.plan.faults.clone());
        // Superblocks can be spoiled on the medium: then the operator has to format.
        again.ok()
    }

    /// One start. False when the devices are beyond use.
    pub async fn live(&self, life: Life, seed: u64) -> bool {
        let Some(worker) = self.start(life.shards).await else {
            return false;
        };
        let io = self.world.core();
        let crowd = Rc::new(self.crowd(&worker, &io));
        self.check_survivors(&crowd)
            .await
            .expect("nothing ends the worker yet");
        if !self.devices_may_fail() && seed.is_multiple_of(2) {
            self.check_without_store(&crowd)
                .await
                .expect("nothing ends the worker yet");
        }
        let traffic = self.traffic(&crowd, life, seed);
        match life.ending {
            Ending::StopInTraffic => {
                let wait = Duration::from_micros(self.plan.prng.between(500, 200_000));
                let (_, stopped) = futures::join!(traffic, async {
                    io.sleep(wait).await;
                    worker.stop(self.world).await
                });
                stopped.expect("nothing but the letter ends the worker");
                self.ledger.set_at_rest(None);
            }
            ending => {
                traffic.await;
                self.settle(&crowd).await;
                self.end(&crowd, ending).await;
            }
        }
        self.world.kill_core(&io);
        true
    }

    fn crowd(&self, worker: &Worker, io: &SimIo) -> Crowd {
        let (ledger, clock) = (Rc::clone(&self.ledger), io.clone());
        Crowd {
            worker: worker.clone(),
            io: io.clone(),
            oracle: Oracle::new(self.site.origin.clone()),
            tally: Rc::clone(&self.tally),
            mounts: RefCell::new(Arc::clone(&self.site.mounts)),
            all_mounts: Arc::clone(&self.site.mounts),
            paths: self.plan.paths.clone(),
            flapping: FLAPPING,
            objects_remembered: self.site.tuning.metadata_objects,
            is_pressed: self.plan.is_pressed,
            may_lose_lanes: self.plan.faults.stream_reset > 0.0
                || self.plan.faults.connect_error > 0.0,
            touched: Box::new(move |opened: &Opened| ledger.touch(opened.id, clock.now())),
        }
    }

    /// The world crashed in the middle of a start.
    pub fn crashed(&self) {
        Tally::count(&self.tally.crashes);
        self.has_crashed.set(true);
        self.site.origin.set_away(false);
        self.ledger.set_at_rest(None);
        self.world.set_faults(self.plan.faults.clone());
    }

    async fn check_survivors(&self, crowd: &Crowd) -> Result<(), Gone> {
        if self.devices_may_fail() {
            self.ledger.forget_all();
            return Ok(());
        }
        Tally::count(&self.tally.recoveries);
        let recovered = crowd.worker.recovered_blocks();
        let blocks_recovered = &self.tally.blocks_recovered;
        blocks_recovered.set(blocks_recovered.get() + recovered);
        let pinned_whole = &self.tally.pinned_whole;
        pinned_whole.set(pinned_whole.get() + self.ledger.pinned_whole() as u64);
        let found = crowd.worker.cached().await?;
        let stats = crowd.worker.stats().await?;
        let origin = &self.site.origin;
        self.ledger
            .check(&found, origin, stats["blocks_evicted"], self.plan.is_roomy);
        let blocks: u64 = found.values().map(|(_, cached)| cached.blocks).sum();
        assert!(
            blocks <= crowd.worker.recovered_blocks(),
            "{blocks} blocks are held, {} came back",
            crowd.worker.recovered_blocks()
        );
        Ok(())
    }

    /// With the store away, what is whole on the devices opens and reads below an immutable mount.
    async fn check_without_store(&self, crowd: &Crowd) -> Result<(), Gone> {
        let origin = &self.site.origin;
        let held = crowd.worker.cached().await?;
        let quiet = Faults {
            stream_reset: 0.0,
            connect_error: 0.0,
            ..self.plan.faults.clone()
        };
        self.world.set_faults(quiet);
        origin.set_away(true);
        let lane = Lane::connect(&crowd.io, crowd.worker.address(0), "")
            .await
            .expect("a lane without faults");
        for path in self
            .plan
            .paths
            .iter()
            .filter(|path| path.starts_with(IMMUTABLE))
        {
            let began = crowd.io.now();
            let opened = crowd.open(&lane, path).await;
            let uri = uri_of(path);
            let is_held = || async {
                let now = crowd.worker.cached().await.expect("the worker runs");
                now.values()
                    .any(|(meta, cached)| meta.uri == uri && cached.blocks > 0)
            };
            assert!(
                opened.is_some()
                    || self.plan.is_pressed
                    || origin.refused_since(began)
                    || !is_held().await,
                "{path} has blocks here and does not open without the store"
            );
            let Some(opened) = opened else {
                continue;
            };
            let whole = held
                .get(&opened.id)
                .is_some_and(|(meta, cached)| cached.blocks == u64::from(meta.blocks()));
            if !whole {
                continue;
            }
            let step = u64::from(READ_BYTES_MAX).min(64 << 10);
            for start in (0..opened.length).step_by(step as usize) {
                let range = start..(start + step).min(opened.length);
                let read = crowd.read(&lane, &opened, range).await;
                let was_evicted = || async {
                    let now = crowd
                        .worker
                        .cached()
                        .await
                        .expect("nothing ends the worker yet");
                    now.get(&opened.id)
                        .is_none_or(|(meta, cached)| cached.blocks < u64::from(meta.blocks()))
                };
                let is_promised = self.plan.is_roomy && self.ledger.is_loaded(opened.id);
                assert!(
                    read.is_some() || self.plan.is_pressed || !is_promised && was_evicted().await,
                    "byte {start} of {opened:?} is held and cannot be read without the store"
                );
            }
        }
        lane.close();
        origin.set_away(false);
        self.world.set_faults(self.plan.faults.clone());
        Ok(())
    }

    async fn traffic(&self, crowd: &Rc<Crowd>, life: Life, seed: u64) {
        let is_over = Rc::new(Cell::new(false));
        let prng = Prng::new(seed ^ self.world.now().0);
        let chaos = Chaos {
            crowd: Rc::clone(crowd),
            origin: self.site.origin.clone(),
            prng: prng.fork(),
            uris: self.plan.paths.iter().map(|path| uri_of(path)).collect(),
            lengths: (0..16).map(|_| self.plan.draw_length()).collect(),
            is_over: Rc::clone(&is_over),
        };
        crowd.io.spawn(Priority::Foreground, chaos.run());
        let operator = Operator {
            crowd: Rc::clone(crowd),
            ledger: Rc::clone(&self.ledger),
            prng: prng.fork(),
            all_mounts: Arc::clone(&self.site.mounts),
            blocks_may_be_wrong: self.devices_may_fail()
                || life.fails_device
                || self.has_torn_writes(),
            partitions: self.plan.partitions,
        };
        let operator = async move {
            // Gone: the worker was stopped in the middle of the traffic.
            let _ = operator.run(life.operations / 2).await;
        };
        let visits: Vec<_> = (0..life.clients)
            .map(|_| Visitor::new(crowd, prng.next()).visit(life.operations))
            .collect();
        let (clients, operators) = (crowd.io.clone(), crowd.io.clone());
        let failing = async {
            if life.fails_device {
                crowd.io.sleep(Duration::from_millis(5)).await;
                self.has_failed_device.set(true);
                self.world.fail_device(&self.site.devices[1]);
            }
        };
        futures::join!(
            side_by_side(&clients, visits),
            side_by_side(&operators, [operator]),
            failing
        );
        is_over.set(true);
        self.site.origin.set_away(false);
    }

    /// Nobody asks for anything any more: everything under way ends and everything lent comes back.
    async fn settle(&self, crowd: &Crowd) {
        let deadline = crowd.io.now().plus(SETTLE_MAX);
        loop {
            crowd.io.sleep(Duration::from_millis(20)).await;
            let stats = crowd
                .worker
                .stats()
                .await
                .expect("nothing ends the worker yet");
            let left: Vec<_> = [
                "lanes_open",
                "fills_under_way",
                "questions_under_way",
                "fill_frames_held",
                "frames_lent",
            ]
            .into_iter()
            .filter_map(|name| stats.get(name).map(|value| (name, *value)))
            .filter(|(_, value)| *value > 0)
            .collect();
            if left.is_empty() && crowd.worker.under_way.len() == 0 {
                break;
            }
            assert!(
                crowd.io.now() < deadline,
                "nobody asks any more, and this is left: {left:?}, {} fetches",
                crowd.worker.under_way.len()
            );
        }
        let stats = crowd
            .worker
            .stats()
            .await
            .expect("nothing ends the worker yet");
        for (name, value) in &stats {
            *self.tally.stats.borrow_mut().entry(name).or_default() += value;
        }
        assert!(
            stats["tier_frames_used"] <= stats["tier_frames"],
            "{stats:?}"
        );
        if !self.devices_may_fail() {
            let mut never = vec!["device_errors", "devices_failed"];
            // A crash may leave a summary whole and the pages behind it torn.
            if !self.has_torn_writes() {
                never.extend(["pages_corrupt_healed", "corrupt_pages", "blocks_healed"]);
            }
            for name in never {
                assert_eq!(stats[name], 0, "{name} without a fault: {stats:?}");
            }
        }
        // A device that is taken out takes its blocks along.
        if self.plan.is_roomy && !self.devices_may_fail() {
            assert_eq!(
                stats["blocks_evicted"], 0,
                "there is room for everything: {stats:?}"
            );
        }
    }

    async fn end(&self, crowd: &Crowd, ending: Ending) {
        let worker = &crowd.worker;
        // A load of nothing new flushes; so does a stop.
        if let Some((_, (meta, _))) = worker.cached().await.expect("alive").pop_first() {
            let flushed = worker.load(&meta).await.expect("alive");
            if flushed.is_ok() {
                self.ledger.touch(meta.id, crowd.io.now());
            }
        }
        let mut at_rest = worker.cached().await.expect("alive");
        loop {
            crowd.io.sleep(Duration::from_millis(200)).await;
            let now = worker.cached().await.expect("alive");
            // Reclaim may still be letting go of something.
            if std::mem::replace(&mut at_rest, now) == at_rest {
                break;
            }
        }
        self.ledger.set_at_rest(Some(at_rest));
        match ending {
            Ending::KillAfterFlush => worker.kill(self.world),
            _ => worker
                .stop(self.world)
                .await
                .expect("nothing but the letter ends the worker"),
        }
    }
}

/// Changes the store behind the worker's back.
struct Chaos {
    crowd: Rc<Crowd>,
    origin: Origin,
    prng: Prng,
    uris: Vec<String>,
    lengths: Vec<u64>,
    is_over: Rc<Cell<bool>>,
}

impl Chaos {
    async fn run(self) {
        while !self.is_over.get() {
            let wait = Duration::from_nanos(self.prng.between(10_000, 16_000_000));
            self.crowd.io.sleep(wait).await;
            let uri = &self.uris[self.prng.below(self.uris.len() as u64) as usize];
            if uri.contains(IMMUTABLE) && self.prng.below(8) > 0 {
                continue;
            }
            let length = self.lengths[self.prng.below(self.lengths.len() as u64) as usize];
            let now = self.crowd.io.now();
            match self.prng.below(16) {
                0..4 => {
                    self.origin.put(uri, length, now);
                }
                // The name that it has already, or had before: longer, shorter, or as long as before.
                4..6 => {
                    let Some(current) = self.origin.current(uri) else {
                        continue;
                    };
                    let label = 1 + self.prng.below(u64::from(current.label)) as u32;
                    let label = if self.prng.coin() {
                        label
                    } else {
                        current.label
                    };
                    let length = match self.prng.below(4) {
                        0 => current.length,
                        1 => current.length / 2,
                        2 => current.length + 1 + self.prng.below(200_000),
                        _ => length,
                    };
                    self.origin.put_as(uri, Some(label), length, now);
                }
                6 => self.origin.delete(uri, now),
                7 => {
                    self.origin.set_away(true);
                    let outage = Duration::from_nanos(self.prng.below(10_000_000));
                    self.crowd.io.sleep(outage).await;
                    self.origin.set_away(false);
                }
                _ => {}
            }
        }
    }
}

/// Sends letters of the control plane.
struct Operator {
    crowd: Rc<Crowd>,
    ledger: Rc<Ledger>,
    prng: Prng,
    all_mounts: Arc<MountTable>,
    blocks_may_be_wrong: bool,
    partitions: u32,
}

impl Operator {
    async fn run(self, letters: u64) -> Result<(), Gone> {
        for _ in 0..letters {
            let pause = Duration::from_nanos(self.prng.below(2_000_000));
            self.crowd.io.sleep(pause).await;
            match self.prng.below(20) {
                0..8 => self.load().await?,
                8..11 => self.free().await?,
                11..13 => self.pin().await?,
                13 => self.verify().await?,
                14..16 => self.read_plainly().await?,
                16 => self.change_mounts().await?,
                17 => self.change_limits().await?,
                _ => {
                    self.crowd.worker.stats().await?;
                    self.crowd
                        .worker
                        .ask_all(|answer| ShardRequest::Devices { answer })
                        .await?;
                }
            }
        }
        Ok(())
    }

    /// An object, by asking any shard for a random path. `None`: the store or a mount said no.
    async fn any_object(&self) -> Result<Option<Arc<ObjectMeta>>, Gone> {
        let paths = &self.crowd.paths;
        let path = &paths[self.prng.below(paths.len() as u64) as usize];
        let shard = self.prng.below(self.crowd.worker.shards() as u64) as usize;
        Ok(self.crowd.worker.describe(shard, path).await?.ok())
    }

    fn opened(meta: &ObjectMeta) -> Opened {
        Opened {
            id: meta.id,
            uri: meta.uri.clone(),
            path: String::new(),
            version: version_number(&meta.version),
            last_modified_ms: meta.last_modified_ms,
            length: meta.length,
            block_bytes: meta.block_bytes,
        }
    }

    async fn load(&self) -> Result<(), Gone> {
        match self.any_object().await? {
            Some(object) => self.load_object(&object).await,
            None => Ok(()),
        }
    }

    async fn load_object(&self, object: &Arc<ObjectMeta>) -> Result<(), Gone> {
        (self.crowd.touched)(&Self::opened(object));
        let loaded = self.crowd.worker.load(object).await?;
        (self.crowd.touched)(&Self::opened(object));
        // Failures of the store end a load; the reads judge them.
        let Ok(loaded) = loaded else {
            return Ok(());
        };
        // What was not kept may have been fetched, or may have found no memory to fetch into.
        let brought = loaded.bytes_fetched + loaded.bytes_skipped;
        assert!(
            brought <= object.length && brought + loaded.bytes_not_kept >= object.length,
            "{loaded:?} of {object:?}"
        );
        if loaded.bytes_not_kept == 0 {
            self.ledger.loaded(object);
        }
        Ok(())
    }

    async fn free(&self) -> Result<(), Gone> {
        let held = self.crowd.worker.cached().await?;
        if held.is_empty() {
            return Ok(());
        }
        let place = self.prng.below(held.len() as u64) as usize;
        let (meta, _) = held.values().nth(place).expect("below the length");
        self.ledger.about_to_free(meta.id);
        let asked_at = self.crowd.io.now();
        if self.crowd.worker.free(meta).await?.is_ok() {
            self.ledger.freed(meta.id, asked_at);
        }
        Ok(())
    }

    async fn pin(&self) -> Result<(), Gone> {
        let Some(object) = self.any_object().await? else {
            return Ok(());
        };
        let pinned = self.prng.below(3) > 0;
        self.ledger.about_to_unpin(object.id);
        let done = self.crowd.worker.pin(&object, pinned).await?;
        if pinned && done.is_ok() {
            self.ledger.pinned(object.id);
            // What comes after the pin is exempt as well.
            if self.prng.coin() {
                return self.load_object(&object).await;
            }
        }
        Ok(())
    }

    async fn verify(&self) -> Result<(), Gone> {
        let Some(object) = self.any_object().await? else {
            return Ok(());
        };
        let verified = self.crowd.worker.verify(&object).await?;
        assert!(
            verified.blocks_wrong == 0 || self.blocks_may_be_wrong,
            "{verified:?} of {object:?} without a fault"
        );
        Ok(())
    }

    async fn read_plainly(&self) -> Result<(), Gone> {
        let Some(object) = self.any_object().await? else {
            return Ok(());
        };
        if object.length == 0 || object.length > 16 << 20 {
            return Ok(());
        }
        let opened = Self::opened(&object);
        (self.crowd.touched)(&opened);
        let offset = self.prng.below(object.length);
        let length = (object.length - offset).min(100_000) as u32;
        // The control plane sends this letter to the owner; the data plane takes any shard.
        let partition = partition_of(object.id.home, 0, self.partitions);
        let shard = shard_of(
            partition,
            self.partitions,
            self.crowd.worker.shards() as u16,
        );
        let shard = usize::from(shard);
        let read = self
            .crowd
            .worker
            .ask(shard, |answer| ShardRequest::Read {
                object: Arc::clone(&object),
                offset,
                length,
                answer,
            })
            .await?;
        (self.crowd.touched)(&opened);
        if let Ok(bytes) = read {
            assert_eq!(bytes.len(), length as usize);
            self.crowd.oracle.read(&opened, offset, &bytes);
        }
        Ok(())
    }

    async fn change_mounts(&self) -> Result<(), Gone> {
        let is_away = self.crowd.mounts.borrow().covering(FLAPPING).is_none();
        let table = if is_away {
            Arc::clone(&self.all_mounts)
        } else {
            let others = self
                .all_mounts
                .iter()
                .filter(|mount| mount.path != FLAPPING);
            let others = others.map(|mount| mount.as_ref().clone());
            Arc::new(MountTable::new(others).expect("a part of a valid table"))
        };
        *self.crowd.mounts.borrow_mut() = Arc::clone(&table);
        self.crowd.worker.set_mounts(&table).await
    }

    async fn change_limits(&self) -> Result<(), Gone> {
        let limits = ShardLimits {
            device_write_bytes_per_second: if self.prng.coin() { 0 } else { 64 << 20 },
            scrub_bytes_per_second: if self.prng.coin() { 0 } else { 32 << 20 },
        };
        for shard in 0..self.crowd.worker.shards() {
            self.crowd
                .worker
                .post(shard, ShardRequest::SetLimits { limits })
                .await?;
        }
        Ok(())
    }
}

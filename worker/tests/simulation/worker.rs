//! A whole worker in a world: its shards, the mesh between them, and letters to them.
//!
//! A [`Site`] is what outlives a worker: devices, mounts, sizes, the store behind it. A [`Worker`]
//! is one start of it, on new cores each time, as after an exec.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use corelane_io::sim::{SimIo, World};
use corelane_io::{FramePool, Io, Nanos, Priority, mesh};
use corelane_rpc_schema::{ObjectId, ShardId};
use corelane_worker::access::Access;
use corelane_worker::inbox::{InboxSender, PostError, inbox};
use corelane_worker::mount::{Admission, Freshness, Mount, MountId, MountTable};
use corelane_worker::object::ObjectMeta;
use corelane_worker::shard::look_up::compute::Compute;
use corelane_worker::shard::request::{
    Cached, DescribeError, Loaded, ShardLimits, ShardRequest, Verified,
};
use corelane_worker::shard::{self, ShardReady, ShardSetup, Tuning};
use corelane_worker::store::{FormatOptions, SharedHealth, Wear, format_devices};
use futures::future::Either;
use tokio::sync::oneshot;

use crate::origin::{Origin, UnderWay};

/// Letters that a shard's inbox holds.
const INBOX_LETTERS: usize = 64;

/// Messages that a queue of the mesh holds: few, so that they are full at times.
const MESH_MESSAGES: usize = 8;

/// What stays when a worker goes.
#[derive(Clone)]
pub struct Site {
    /// Where the devices are, in the order of their ordinals.
    pub devices: Vec<PathBuf>,
    /// The store behind it.
    pub origin: Origin,
    /// Mounts of the next start.
    pub mounts: Arc<MountTable>,
    /// Sizes and deadlines.
    pub tuning: Tuning,
    /// Limits at the start.
    pub limits: ShardLimits,
    /// Bytes of the DRAM tier of each shard.
    pub dram_bytes: u64,
}

/// Where the object at `path` is, below whatever mount of the simulation.
pub fn uri_of(path: &str) -> String {
    format!("https://origin.sim{path}")
}

/// A mount for simulations.
pub fn mount(id: u16, path: &str, block_bytes: u32, freshness: Freshness) -> Mount {
    Mount {
        id: MountId(id),
        path: path.to_owned(),
        uri: uri_of(path),
        block_bytes,
        freshness,
        admission: Admission::Always,
        key_indexes: Vec::new(),
        readers: Vec::new(),
        options: BTreeMap::new(),
        is_runtime: false,
    }
}

/// Tuning that makes everything scarce: tens of frames, thousands of blocks.
pub fn tuning() -> Tuning {
    Tuning {
        tier_frames_min: 16,
        page_frames: 16,
        read_frames: 8,
        store_frames: 16,
        index_blocks: 4096,
        lane_requests_max: 16,
        lane_bytes_max: 1 << 20,
        lanes_max: 64,
        read_ahead_objects: 16,
        read_ahead_bytes_max: 1 << 20,
        metadata_objects: 1024,
        flush_bytes: 256 << 10,
        flush_delay: Duration::from_millis(2),
        ..Tuning::default()
    }
}

impl Site {
    /// A site whose `devices` devices of `device_bytes` are formatted in regions of `region_bytes`.
    pub fn new(
        world: &World,
        devices: usize,
        device_bytes: u64,
        region_bytes: u32,
        partitions: u32,
        mounts: Vec<Mount>,
        origin: Origin,
    ) -> Self {
        let devices: Vec<PathBuf> = (0..devices)
            .map(|number| PathBuf::from(format!("/dev/sim{number}")))
            .collect();
        for path in &devices {
            world.add_device(path, device_bytes);
        }
        let io = world.core();
        let options = FormatOptions {
            region_bytes,
            partitions,
            set_uuid: [7; 16],
        };
        let formatted = world.block_on(async {
            let mut opened = Vec::new();
            for path in &devices {
                opened.push(io.open_device(path).await.expect("the device is there"));
            }
            let scratch = FramePool::map(8, 16).expect("memory for scratch");
            format_devices(&opened, options, &scratch).await
        });
        formatted
            .expect("no crash is scheduled")
            .expect("the devices can be formatted");
        world.kill_core(&io);
        Site {
            devices,
            origin,
            mounts: Arc::new(MountTable::new(mounts).expect("a valid table")),
            tuning: tuning(),
            limits: ShardLimits {
                device_write_bytes_per_second: 0,
                scrub_bytes_per_second: 0,
            },
            dram_bytes: 0,
        }
    }
}

/// One shard and how to reach it.
pub struct Seat {
    io: SimIo,
    inbox: InboxSender<ShardRequest>,
    /// What it said when it was ready.
    pub ready: ShardReady,
    has_ended: Rc<Cell<bool>>,
}

/// A shard did not answer: its core is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// One start of a worker.
#[derive(Clone)]
pub struct Worker {
    /// Its shards.
    pub seats: Rc<Vec<Seat>>,
    /// What it is fetching.
    pub under_way: Rc<UnderWay>,
    /// When it was told to stop, if it was.
    pub stopping_since: Rc<Cell<Option<Nanos>>>,
    /// The core that letters are sent from, for its clock.
    operator: SimIo,
}

impl Worker {
    /// Starts a worker with `shards` shards and lets it serve.
    ///
    /// # Errors
    /// What the first shard that could not start said. None of them runs then.
    pub async fn start(world: &World, site: &Site, shards: u16) -> Result<Self, String> {
        let under_way = Rc::new(UnderWay::default());
        let mut waiting = Vec::new();
        let access = Arc::new(Access::open());
        let (wear, health) = (Wear::default(), SharedHealth::default());
        for (number, end) in mesh::build(usize::from(shards), MESH_MESSAGES)
            .into_iter()
            .enumerate()
        {
            let io = world.core();
            let (letters, letter_box) = inbox(INBOX_LETTERS);
            let (ready, is_ready) = oneshot::channel();
            let setup = ShardSetup {
                shard: ShardId(number as u16),
                shards,
                worker_id: "simulated".to_owned(),
                device_paths: site.devices.clone(),
                listen: SocketAddr::from(([127, 0, 0, 1], 0)),
                dram_bytes: site.dram_bytes,
                mounts: Arc::clone(&site.mounts),
                access: Arc::clone(&access),
                limits: site.limits,
                tuning: site.tuning,
                wear: wear.clone(),
                health: health.clone(),
                compute: Compute::in_line(),
                lookup_working: corelane_lookup::memory::Pool::new(1 << 30),
                under_store: site.origin.end_for(io.clone(), Rc::clone(&under_way)),
                inbox: letter_box,
                mesh: end,
                s3: None,
                ready,
            };
            let has_ended = Rc::new(Cell::new(false));
            let (running, ended) = (io.clone(), Rc::clone(&has_ended));
            io.spawn(Priority::Foreground, async move {
                // The same sentence goes to `ready`.
                let _ = shard::run(running, setup).await;
                ended.set(true);
            });
            waiting.push((io, letters, is_ready, has_ended));
        }
        let mut seats = Vec::new();
        let mut failure = None;
        for (io, inbox, is_ready, has_ended) in waiting {
            match is_ready.await.expect("a shard says whether it starts") {
                Ok(ready) => seats.push(Seat {
                    io,
                    inbox,
                    ready,
                    has_ended,
                }),
                Err(sentence) => {
                    world.kill_core(&io);
                    failure.get_or_insert(sentence);
                }
            }
        }
        if let Some(sentence) = failure {
            seats.iter().for_each(|seat| world.kill_core(&seat.io));
            return Err(sentence);
        }
        let worker = Worker {
            seats: Rc::new(seats),
            under_way,
            stopping_since: Rc::default(),
            operator: world.core(),
        };
        worker.serve().await;
        Ok(worker)
    }

    async fn serve(&self) {
        let ports: Arc<[u16]> = self
            .seats
            .iter()
            .map(|seat| seat.ready.address.port())
            .collect();
        let doorbells: Vec<_> = self
            .seats
            .iter()
            .map(|seat| Arc::clone(&seat.ready.doorbell))
            .collect();
        let epoch = self.seats[0].ready.epoch;
        for shard in 0..self.shards() {
            let letter = ShardRequest::Serve {
                ports: Arc::clone(&ports),
                epoch,
                doorbells: doorbells.clone(),
            };
            self.post(shard, letter)
                .await
                .expect("the shard just said that it is ready");
        }
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.seats.len()
    }

    /// Where shard `shard` listens.
    pub fn address(&self, shard: usize) -> SocketAddr {
        self.seats[shard].ready.address
    }

    /// Blocks that came back at the start.
    pub fn recovered_blocks(&self) -> u64 {
        self.seats
            .iter()
            .map(|seat| seat.ready.recovered_blocks)
            .sum()
    }

    /// Posts a letter, waiting for room in the box.
    pub async fn post(&self, shard: usize, mut letter: ShardRequest) -> Result<(), Gone> {
        loop {
            match self.seats[shard].inbox.post(letter) {
                Ok(()) => return Ok(()),
                Err(PostError::Closed(_)) => return Err(Gone),
                Err(PostError::Full(back)) => letter = back,
            }
            self.operator.sleep(Duration::from_micros(100)).await;
        }
    }

    /// Sends a letter to one shard and waits for the answer.
    pub async fn ask<T>(
        &self,
        shard: usize,
        letter: impl FnOnce(oneshot::Sender<T>) -> ShardRequest,
    ) -> Result<T, Gone> {
        let (sender, answer) = oneshot::channel();
        let letter = letter(sender);
        let what = format!("{letter:?}");
        self.post(shard, letter).await?;
        let limit = self.operator.sleep(ANSWER_MAX);
        futures::pin_mut!(answer, limit);
        match futures::future::select(answer, limit).await {
            Either::Left((answer, _)) => answer.map_err(|_| Gone),
            Either::Right(_) => panic!(
                "shard {shard} never answered {what}\n{}",
                self.describe_all().await
            ),
        }
    }

    /// What every shard counts, for the message of a failure.
    async fn describe_all(&self) -> String {
        let mut text = String::new();
        for shard in 0..self.shards() {
            let (stats, counted) = oneshot::channel();
            let (devices, listed) = oneshot::channel();
            let letters = [
                ShardRequest::Stats { answer: stats },
                ShardRequest::Devices { answer: devices },
            ];
            for letter in letters {
                // A shard that is gone drops the letter, and the answer says so below.
                let _ = self.post(shard, letter).await;
            }
            let told = (counted.await, listed.await);
            text += &format!("shard {shard}: {told:?}\n");
        }
        text
    }

    /// Sends a letter to every shard at once and waits for all answers.
    pub async fn ask_all<T>(
        &self,
        letter: impl Fn(oneshot::Sender<T>) -> ShardRequest,
    ) -> Result<Vec<T>, Gone> {
        let asked = (0..self.shards()).map(|shard| self.ask(shard, &letter));
        futures::future::join_all(asked).await.into_iter().collect()
    }

    /// The object at `path`, asked of shard `shard`.
    pub async fn describe(
        &self,
        shard: usize,
        path: &str,
    ) -> Result<Result<Arc<ObjectMeta>, DescribeError>, Gone> {
        let path = path.to_owned();
        self.ask(shard, |answer| ShardRequest::Describe { path, answer })
            .await
    }

    /// Brings an object onto the devices; what all shards did together.
    pub async fn load(
        &self,
        object: &Arc<ObjectMeta>,
    ) -> Result<Result<Loaded, DescribeError>, Gone> {
        let answers = self
            .ask_all(|answer| ShardRequest::Load {
                object: Arc::clone(object),
                answer,
            })
            .await?;
        let mut all = Loaded::default();
        for answer in answers {
            match answer {
                Ok(loaded) => {
                    all.bytes_fetched += loaded.bytes_fetched;
                    all.bytes_skipped += loaded.bytes_skipped;
                    all.bytes_not_kept += loaded.bytes_not_kept;
                }
                Err(failure) => return Ok(Err(failure)),
            }
        }
        Ok(Ok(all))
    }

    /// Frees an object; the first error.
    pub async fn free(&self, object: &Arc<ObjectMeta>) -> Result<Result<(), String>, Gone> {
        self.under_way.about_to_free(object.id);
        let answers = self
            .ask_all(|answer| ShardRequest::Free {
                object: Arc::clone(object),
                answer,
            })
            .await?;
        Ok(answers.into_iter().try_for_each(|freed| freed.map(drop)))
    }

    /// Pins or unpins an object; the first error.
    pub async fn pin(
        &self,
        object: &Arc<ObjectMeta>,
        pinned: bool,
    ) -> Result<Result<(), String>, Gone> {
        let answers = self
            .ask_all(|answer| ShardRequest::Pin {
                object: Arc::clone(object),
                pinned,
                answer,
            })
            .await?;
        Ok(answers.into_iter().collect())
    }

    /// Reads and checks what the devices hold of an object.
    pub async fn verify(&self, object: &Arc<ObjectMeta>) -> Result<Verified, Gone> {
        let answers = self
            .ask_all(|answer| ShardRequest::Verify {
                object: Arc::clone(object),
                answer,
            })
            .await?;
        let mut all = Verified::default();
        for verified in answers {
            all.blocks_right += verified.blocks_right;
            all.blocks_wrong += verified.blocks_wrong;
            all.bytes += verified.bytes;
        }
        Ok(all)
    }

    /// What the devices hold, by object.
    pub async fn cached(&self) -> Result<BTreeMap<ObjectId, (Arc<ObjectMeta>, Cached)>, Gone> {
        let answers = self
            .ask_all(|answer| ShardRequest::CachedObjects {
                uri_prefix: String::new(),
                after: String::new(),
                limit: usize::MAX,
                answer,
            })
            .await?;
        let mut all: BTreeMap<ObjectId, (Arc<ObjectMeta>, Cached)> = BTreeMap::new();
        for (meta, cached) in answers.into_iter().flatten() {
            let (_, sum) = all
                .entry(meta.id)
                .or_insert_with(|| (Arc::clone(&meta), Cached::default()));
            sum.blocks += cached.blocks;
            sum.bytes += cached.bytes;
            // A shard without a block of the object need not know that it is pinned.
            sum.pinned |= cached.pinned;
        }
        Ok(all)
    }

    /// Counters and gauges, summed over the shards.
    pub async fn stats(&self) -> Result<BTreeMap<&'static str, u64>, Gone> {
        let answers = self
            .ask_all(|answer| ShardRequest::Stats { answer })
            .await?;
        let mut all = BTreeMap::new();
        for (name, value) in answers.into_iter().flat_map(|stats| stats.values) {
            *all.entry(name).or_default() += value;
        }
        Ok(all)
    }

    /// Replaces the mounts of every shard.
    pub async fn set_mounts(&self, mounts: &Arc<MountTable>) -> Result<(), Gone> {
        for shard in 0..self.shards() {
            let mounts = Arc::clone(mounts);
            self.post(shard, ShardRequest::SetMounts { mounts }).await?;
        }
        Ok(())
    }

    /// Stops all shards and waits until everything is on the devices; then the process ends.
    pub async fn stop(&self, world: &World) -> Result<(), Gone> {
        self.stopping_since.set(Some(self.operator.now()));
        self.ask_all(|answer| ShardRequest::Stop { answer }).await?;
        for seat in self.seats.iter() {
            while !seat.has_ended.get() {
                self.operator.sleep(Duration::from_micros(100)).await;
            }
        }
        self.kill(world);
        Ok(())
    }

    /// Ends the process at once.
    pub fn kill(&self, world: &World) {
        self.stopping_since.set(Some(self.operator.now()));
        for seat in self.seats.iter() {
            world.kill_core(&seat.io);
        }
        world.kill_core(&self.operator);
    }
}

/// Longest virtual time that anything asked of a worker may take: the sum of its own deadlines is
/// far below. Without this bound a request that is never answered looks like a busy world, since
/// periodic timers go on.
const ANSWER_MAX: Duration = Duration::from_secs(300);

/// Waits for `answer`, but not for ever.
///
/// # Panics
/// When it does not come; `what` says what was asked.
pub async fn answered<T>(
    io: &SimIo,
    answer: impl Future<Output = T>,
    what: impl FnOnce() -> String,
) -> T {
    let limit = io.sleep(ANSWER_MAX);
    futures::pin_mut!(answer, limit);
    match futures::future::select(answer, limit).await {
        Either::Left((answer, _)) => answer,
        Either::Right(_) => panic!("never answered: {}", what()),
    }
}

/// Runs `tasks` on `io` at the same time and waits for all of them.
pub async fn side_by_side<T: 'static>(
    io: &SimIo,
    tasks: impl IntoIterator<Item = impl Future<Output = T> + 'static>,
) -> Vec<T> {
    let results: Rc<RefCell<Vec<Option<T>>>> = Rc::default();
    let mut ends = Vec::new();
    for (number, task) in tasks.into_iter().enumerate() {
        results.borrow_mut().push(None);
        let (results, (sender, end)) = (Rc::clone(&results), futures::channel::oneshot::channel());
        io.spawn(Priority::Foreground, async move {
            let result = task.await;
            results.borrow_mut()[number] = Some(result);
            // Whoever waited was dropped with a crash.
            let _ = sender.send(());
        });
        ends.push(end);
    }
    for end in ends {
        end.await
            .expect("the core lives as long as its tasks are waited for");
    }
    let results = std::mem::take(&mut *results.borrow_mut());
    results
        .into_iter()
        .map(|result| result.expect("every task ended"))
        .collect()
}

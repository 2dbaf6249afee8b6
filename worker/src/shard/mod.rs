//! One core: everything that it owns, tied together.
//!
//! A [`Shard`] holds the store of its partitions, the DRAM tier, the fills under way and the
//! metadata of the objects it is home to. Its parts live in files of their own, each an `impl` of
//! one concern:
//!
//! | file | does |
//! |---|---|
//! | [`read`] | a read: the hit in DRAM, and how answers are made |
//! | [`gather`] | its general way: piece by piece, from tier, device or fill |
//! | `device_read` | the short way of a read from the device |
//! | [`fill`] | misses: single-flight, who waits for what, what is kept |
//! | [`dispatch`] | from fills to requests |
//! | [`read_ahead`] | fills before they are asked for |
//! | `describe`, [`metadata`], [`known`] | path to object, as fresh as the mount demands; objects that are remembered |
//! | [`asking`] | questions to and from the other shards |
//! | `forward` | reads of other shards' stripes |
//! | [`object_read`] | reads by name, for the S3 face |
//! | [`lanes`] | the open connections, and which of them are cut off |
//! | [`look_up`] | look-ups in Parquet objects |
//! | `load` | bringing an object onto the devices because somebody said so |
//! | [`letters`] | requests of the control plane |
//! | [`slow`] | the slowest reads, for the operator |
//! | [`turns`] | who may take the memory of several frames |
//!
//! The invariant: no `RefCell` borrow is held across an `await`, and nothing here blocks.

pub mod asking;
pub mod counters;
pub(crate) mod derived;
pub(crate) mod describe;
mod device_read;
pub mod dispatch;
pub mod fill;
mod forward;
pub mod gather;
pub mod known;
pub mod lanes;
pub mod letters;
mod load;
pub mod look_up;
pub mod message;
pub mod metadata;
pub mod object_read;
mod prefetch;
pub mod read;
pub mod read_ahead;
pub mod request;
pub mod signal;
pub mod slow;
pub mod tuning;
pub mod turns;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use corelane_io::mesh::MeshEnd;
use corelane_io::{Doorbell, FramePool, Io, IoError, IoErrorKind, Listener, Priority};
use corelane_lookup::memory::Pool;
use corelane_placement::{partition_of, shard_of};
use corelane_rpc_schema::{ObjectId, ShardId, Stripe};
use futures::FutureExt;
use tokio::sync::oneshot;

use crate::access::{Access, Reader};
use crate::cache::frames::{FRAME_BYTES, FRAME_PAGES, FrameTier};
use crate::data_plane::lane;
use crate::data_plane::outbox::SharedCredit;
use crate::inbox::Inbox;
use crate::mount::{AccessSet, MountTable};
use crate::s3_face::{self, Face, FaceShared};
use crate::store::{SharedHealth, Store, StoreConfig, StoreError, Wear};
use crate::under_store::UnderStore;
use asking::{Asking, ShardSiblings};
use counters::ShardCounters;
use fill::Fills;
use lanes::Lanes;
use look_up::Lookups;
use look_up::compute::Compute;
use message::Message;
use metadata::Metadata;
use prefetch::PrefetchBudget;
use read_ahead::ReadAhead;
use request::{ShardLimits, ShardRequest};
use signal::Signal;
use slow::SlowLog;
pub use tuning::Tuning;
use turns::Turns;

/// Rounds in which arrivals are collected before reads have their turn: senders on other threads
/// may keep up with the collecting, which would then not end. Some 100 µs of usual arrivals.
const COLLECTED_MAX: usize = 128;

/// What a shard is made of.
pub struct ShardSetup<U> {
    /// Its number.
    pub shard: ShardId,
    /// Shards of the worker.
    pub shards: u16,
    /// Name of the worker, stable over restarts.
    pub worker_id: String,
    /// Formatted devices, in the order of their ordinals.
    pub device_paths: Vec<PathBuf>,
    /// Where its lanes connect; port 0 picks one.
    pub listen: SocketAddr,
    /// Memory for the DRAM tier, in bytes.
    pub dram_bytes: u64,
    /// Mounts at the start.
    pub mounts: Arc<MountTable>,
    /// Tokens at the start.
    pub access: Arc<Access>,
    /// Limits at the start.
    pub limits: ShardLimits,
    /// Sizes and deadlines.
    pub tuning: Tuning,
    /// What all shards write.
    pub wear: Wear,
    /// What all shards know of the devices.
    pub health: SharedHealth,
    /// Threads for work that would keep reads waiting.
    pub compute: Compute,
    /// Memory that look-ups of all shards share while they run.
    pub lookup_working: Arc<Pool>,
    /// Where misses go.
    pub under_store: U,
    /// Letters from the control plane.
    pub inbox: Inbox<ShardRequest>,
    /// Queues to and from the other shards.
    pub mesh: MeshEnd<Message>,
    /// The S3 face, if the worker has one.
    pub s3: Option<S3Setup>,
    /// Told once, when the shard has recovered and listens, or why it cannot.
    pub ready: oneshot::Sender<Result<ShardReady, String>>,
}

/// What a core's part of the S3 face is made of.
pub struct S3Setup {
    /// One of the sockets that listen on the face's address.
    pub listener: std::net::TcpListener,
    /// What all cores share.
    pub shared: Arc<FaceShared>,
    /// Most open connections.
    pub connections_max: usize,
}

/// What a shard says when it is ready to serve.
#[derive(Clone, Debug)]
pub struct ShardReady {
    /// Where it listens.
    pub address: SocketAddr,
    /// Starts of the device set so far.
    pub epoch: u64,
    /// Blocks that came back.
    pub recovered_blocks: u64,
    /// How long that took.
    pub recovery: Duration,
    /// How other cores wake this one.
    pub doorbell: Arc<dyn Doorbell>,
    /// Shard 0: the state saved last (run-time mounts, jobs).
    pub state: Option<Vec<u8>>,
}

/// Why a shard could not start.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The ring, memory or a listener.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A device or what is on it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What every shard learns when all are ready.
#[derive(Clone, Debug)]
pub struct Topology {
    /// Data port of each shard.
    pub ports: Arc<[u16]>,
    /// Starts of the device set so far.
    pub epoch: u64,
}

/// One core and what it owns.
pub struct Shard<I: Io, U: UnderStore> {
    /// The core.
    pub io: I,
    /// Its number.
    pub id: ShardId,
    /// Shards of the worker.
    pub shards: u16,
    /// Name of the worker.
    pub worker_id: String,
    /// Sizes and deadlines.
    pub tuning: Tuning,
    /// What it counts.
    pub counters: ShardCounters,
    /// What all lanes together may have unanswered.
    pub shared_credit: Rc<SharedCredit>,
    /// Open lanes.
    pub lanes: Lanes<I::Stream>,
    /// The S3 face on this core.
    pub s3: Option<Rc<Face<I::Stream>>>,
    store: Store<I>,
    tier: RefCell<FrameTier>,
    /// Single pages for small reads from the device.
    pages: FramePool,
    /// Frames for large reads from the device.
    frames: FramePool,
    /// Who may take several of `frames`.
    long_reads: Turns,
    /// Whoever waits for a frame of the tier to come free, one at a time and in order.
    tier_turn: Turns,
    /// The same for the buffers of device reads.
    buffer_turn: Turns,
    /// Whoever looks the mounts of everything up again.
    remap_turn: Turns,
    fills: Fills,
    read_ahead: RefCell<ReadAhead>,
    metadata: RefCell<Metadata>,
    asking: Asking,
    mesh: RefCell<MeshEnd<Message>>,
    under_store: U,
    mounts: RefCell<Arc<MountTable>>,
    access: Arc<Access>,
    /// Of the tokens, when lanes were looked through last.
    access_generation: Cell<u64>,
    /// How often the rights of lanes were decided again.
    access_renewals: Cell<u64>,
    limits: Cell<ShardLimits>,
    topology: RefCell<Option<Topology>>,
    serve: Signal,
    /// No more lanes.
    stop: Signal,
    /// No more connections of the S3 face.
    stop_s3: Signal,
    /// The shard is to end.
    end: Signal,
    stopped: RefCell<Option<oneshot::Sender<()>>>,
    is_stopping: Cell<bool>,
    /// Objects on their way in because clients of the S3 face asked for it.
    prefetches: RefCell<HashSet<ObjectId>>,
    /// How much they may bring.
    prefetch_budget: PrefetchBudget,
    slow: RefCell<SlowLog>,
    /// What look-ups know.
    pub lookups: Lookups,
    /// What was derived of objects and is just being put beside their blocks.
    derived: RefCell<HashMap<ObjectId, Bytes>>,
}

/// Runs a shard on its core until it is told to stop.
///
/// # Errors
/// When it cannot start; the same sentence was sent to [`ShardSetup::ready`].
pub async fn run<I: Io, U: UnderStore>(io: I, setup: ShardSetup<U>) -> Result<(), ShardError> {
    let (ready, started) = start(io, setup).await;
    match started {
        Ok((shard, listeners, inbox, report)) => {
            // Nobody listening means that the start was given up: the stop letter follows.
            let _ = ready.send(Ok(report));
            shard.serve(listeners, inbox).await;
            Ok(())
        }
        Err(error) => {
            let _ = ready.send(Err(error.to_string()));
            Err(error)
        }
    }
}

/// Where lanes and S3 connections come in.
struct Listeners<L> {
    lanes: L,
    s3: Option<L>,
}

type Started<I, U> = (
    Rc<Shard<I, U>>,
    Listeners<<I as Io>::Listener>,
    Inbox<ShardRequest>,
    ShardReady,
);

async fn start<I: Io, U: UnderStore>(
    io: I,
    setup: ShardSetup<U>,
) -> (
    oneshot::Sender<Result<ShardReady, String>>,
    Result<Started<I, U>, ShardError>,
) {
    let ShardSetup { ready, inbox, .. } = setup;
    let started = async {
        let began = io.now();
        let tuning = setup.tuning;
        let scratch = io.allocate_pool(tuning.store_frames, FRAME_PAGES)?;
        let mut devices = Vec::with_capacity(setup.device_paths.len());
        let mut dead = None;
        for path in &setup.device_paths {
            match io.open_device(path).await {
                Ok(device) => devices.push(device),
                // A drive that died takes its own partitions with it, not the worker.
                Err(error) if error.kind() == IoErrorKind::Device => {
                    tracing::error!(shard = setup.shard.0, %error, "starting without a device");
                    dead = Some(error);
                }
                Err(error) => return Err(error.into()),
            }
        }
        if devices.is_empty()
            && let Some(error) = dead
        {
            return Err(error.into());
        }
        let config = StoreConfig {
            wear: setup.wear,
            health: setup.health,
            ..tuning.store_config(setup.shard, setup.shards, setup.limits)
        };
        let siblings = Rc::new(ShardSiblings::new(io.clone()));
        let (store, recovered) = Store::open(
            io.clone(),
            config,
            devices,
            scratch,
            Rc::clone(&siblings) as _,
        )
        .await?;
        let tier_frames = (setup.dram_bytes as usize / FRAME_BYTES).max(tuning.tier_frames_min);
        let tier_pool = io.allocate_pool(tier_frames, FRAME_PAGES)?;
        let lanes = listen(&io, setup.listen).await?;
        let (s3, s3_listener) = match setup.s3 {
            Some(s3) => {
                let face = Face::new(s3.shared, &setup.mounts, s3.connections_max);
                (Some(Rc::new(face)), Some(io.adopt_listener(s3.listener)?))
            }
            None => (None, None),
        };
        let report = ShardReady {
            address: lanes.local_address(),
            epoch: recovered.epoch,
            recovered_blocks: recovered.blocks,
            recovery: io.now().since(began),
            doorbell: io.doorbell(),
            state: if setup.shard.0 == 0 {
                store.load_state().await?
            } else {
                None
            },
        };
        store.remap_mounts(&setup.mounts).await;
        let shard = Rc::new(Shard {
            id: setup.shard,
            shards: setup.shards,
            worker_id: setup.worker_id,
            counters: ShardCounters::default(),
            shared_credit: Rc::new(SharedCredit::new(
                (tier_frames * FRAME_BYTES * tuning.pinned_percent_max / 100) as u64,
            )),
            lanes: Lanes::new(tuning.lanes_max),
            s3,
            store,
            tier: RefCell::new(FrameTier::new(tier_pool, tuning.policy.build(tier_frames))),
            pages: io.allocate_pool(tuning.page_frames, 1)?,
            frames: io.allocate_pool(tuning.read_frames, FRAME_PAGES)?,
            long_reads: Turns::new(tuning.read_frames),
            tier_turn: Turns::new(1),
            buffer_turn: Turns::new(1),
            remap_turn: Turns::new(1),
            fills: Fills::new(&tuning, tier_frames),
            read_ahead: RefCell::new(ReadAhead::new(tuning.read_ahead_objects)),
            metadata: RefCell::new(Metadata::new(tuning.metadata_objects)),
            asking: Asking::new(),
            mesh: RefCell::new(setup.mesh),
            under_store: setup.under_store,
            mounts: RefCell::new(setup.mounts),
            access_generation: Cell::new(setup.access.generation()),
            access_renewals: Cell::new(0),
            access: setup.access,
            limits: Cell::new(setup.limits),
            topology: RefCell::new(None),
            serve: Signal::default(),
            stop: Signal::default(),
            stop_s3: Signal::default(),
            end: Signal::default(),
            stopped: RefCell::new(None),
            is_stopping: Cell::new(false),
            prefetches: RefCell::default(),
            prefetch_budget: PrefetchBudget::default(),
            slow: RefCell::new(SlowLog::default()),
            derived: RefCell::default(),
            lookups: Lookups::new(
                tuning.lookup,
                setup.compute,
                setup.lookup_working,
                u64::from(setup.shard.0) + 1,
            ),
            tuning,
            io,
        });
        siblings.connect(&shard);
        let listeners = Listeners {
            lanes,
            s3: s3_listener,
        };
        Ok((shard, listeners, report))
    }
    .await;
    match started {
        Ok((shard, listeners, report)) => (ready, Ok((shard, listeners, inbox, report))),
        Err(error) => (ready, Err(error)),
    }
}

impl<I: Io, U: UnderStore> Shard<I, U> {
    async fn serve(self: Rc<Self>, listeners: Listeners<I::Listener>, inbox: Inbox<ShardRequest>) {
        inbox.connect(self.io.doorbell());
        self.io
            .spawn(Priority::Foreground, Rc::clone(&self).collect(inbox));
        self.io
            .spawn(Priority::Foreground, Rc::clone(&self).dispatch_fills());
        self.io
            .spawn(Priority::Background, Rc::clone(&self).watch_lanes());
        self.serve.wait().await;
        if let (Some(face), Some(listener)) = (&self.s3, listeners.s3)
            && !self.is_stopping.get()
        {
            let accept = Rc::clone(&self).accept_s3(Rc::clone(face), listener);
            self.io.spawn(Priority::Foreground, accept);
        }
        if !self.is_stopping.get() {
            self.accept(&listeners.lanes).await;
        }
        drop(listeners.lanes);
        self.end.wait().await;
        self.finish().await;
    }

    /// Accepts lanes until the shard is to stop.
    async fn accept(self: &Rc<Self>, listener: &I::Listener) {
        while let Some(stream) = self.next_connection(listener, &self.stop).await {
            let lane = lane::serve(Rc::clone(self), stream);
            self.io.spawn(Priority::Foreground, lane);
        }
    }

    /// Accepts connections of the S3 face until the shard is to stop.
    async fn accept_s3(self: Rc<Self>, face: Rc<Face<I::Stream>>, listener: I::Listener) {
        while let Some(stream) = self.next_connection(&listener, &self.stop_s3).await {
            let connection = s3_face::connection::serve(Rc::clone(&self), Rc::clone(&face), stream);
            self.io.spawn(Priority::Foreground, connection);
        }
    }

    /// The next connection; `None` once `stop` was set.
    async fn next_connection(&self, listener: &I::Listener, stop: &Signal) -> Option<I::Stream> {
        loop {
            let accepted = futures::select_biased! {
                () = stop.wait().fuse() => return None,
                accepted = listener.accept().fuse() => accepted,
            };
            match accepted {
                Ok(stream) => return Some(stream),
                Err(error) => {
                    tracing::warn!(shard = self.id.0, %error, "cannot accept a connection");
                    // Out of descriptors, say: others may close some meanwhile.
                    self.io.sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Collects what arrives from other threads and shards, whenever the doorbell rings.
    async fn collect(self: Rc<Self>, inbox: Inbox<ShardRequest>) {
        loop {
            let has_more = (0..COLLECTED_MAX).all(|_| self.collect_some(&inbox));
            if has_more {
                self.io.yield_now().await;
            } else {
                self.io.rung().await;
            }
        }
    }

    /// Takes one of each kind, so that none waits for the others; false when there was nothing.
    fn collect_some(self: &Rc<Self>, inbox: &Inbox<ShardRequest>) -> bool {
        let event = self.under_store.next_event();
        let letter = inbox.take();
        let received = self.mesh.borrow_mut().try_receive();
        let is_any = event.is_some() || letter.is_some() || received.is_some();
        if let Some(event) = event {
            self.on_under_store_event(event);
        }
        if let Some(letter) = letter {
            self.open_letter(letter);
        }
        if let Some((from, message)) = received {
            self.on_message(from, message);
        }
        is_any
    }

    /// Brings everything onto the device.
    async fn finish(self: &Rc<Self>) {
        self.drain_lanes().await;
        if let Err(error) = self.store.close().await {
            tracing::error!(shard = self.id.0, %error, "not all that was cached is durable");
        }
        if let Some(answer) = self.stopped.take() {
            // The other side may have given up waiting.
            let _ = answer.send(());
        }
    }

    /// The owner of `stripe` of the object with home half `home`.
    #[inline]
    pub(crate) fn owner_of(&self, home: u64, stripe: Stripe) -> ShardId {
        if self.shards == 1 {
            return self.id;
        }
        let partitions = self.store.partitions();
        ShardId(shard_of(
            partition_of(home, stripe.0, partitions),
            partitions,
            self.shards,
        ))
    }

    /// The owner of each partition.
    pub fn partition_shards(&self) -> Vec<ShardId> {
        let partitions = self.store.partitions();
        (0..partitions)
            .map(|partition| ShardId(shard_of(partition as u16, partitions, self.shards)))
            .collect()
    }

    /// Ports and epoch; before the shard serves there are no lanes to ask.
    ///
    /// # Panics
    /// Before [`ShardRequest::Serve`] came.
    pub fn topology(&self) -> Topology {
        self.topology
            .borrow()
            .clone()
            .expect("lanes are accepted after the topology is known")
    }

    /// The bearer of `token`.
    ///
    /// # Errors
    /// A sentence for the client.
    pub fn enter(&self, token: &str) -> Result<Reader, String> {
        self.access.enter(token).map_err(|error| error.to_string())
    }

    /// The mounts that `reader` may read now.
    pub fn access_of(&self, reader: &Reader) -> AccessSet {
        self.access.set_of(&self.mounts.borrow(), reader)
    }
}

/// How long a port in use is tried again.
const LISTEN_PATIENCE: Duration = Duration::from_secs(3);
const LISTEN_RETRY: Duration = Duration::from_millis(50);

/// Listens on `address`. The kernel takes a killed worker's ring apart a little after the process is
/// gone, and the ring holds the port until then, so a port in use is tried again for a while.
async fn listen<I: Io>(io: &I, address: SocketAddr) -> Result<I::Listener, IoError> {
    let began = io.now();
    loop {
        match io.listen(address).await {
            Err(error)
                if error.os_error() == Some(libc::EADDRINUSE)
                    && io.now().since(began) < LISTEN_PATIENCE =>
            {
                io.sleep(LISTEN_RETRY).await;
            }
            listened => return listened,
        }
    }
}

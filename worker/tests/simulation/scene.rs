//! A small world for one promise: a worker, one client that is judged, and few words.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use corelane_io::sim::{Faults, SimIo, World};
use corelane_io::{Io, Nanos};
use corelane_rpc_schema::frame::ReadSource;
use corelane_worker::mount::Mount;
use corelane_worker::object::ObjectMeta;

use crate::client::Lane;
use crate::oracle::{Opened, Oracle};
use crate::origin::{Behaviour, Origin};
use crate::traffic::Crowd;
use crate::worker::{Site, Worker, uri_of};

/// Bytes in a region.
pub const REGION_BYTES: u32 = 1 << 20;

/// A world with formatted devices, and nothing running in it.
pub struct Scene {
    /// The world.
    pub world: World,
    /// What outlives workers.
    pub site: Site,
    /// The store.
    pub origin: Origin,
}

impl Scene {
    /// A world without faults, with `devices` devices of 40 regions and these mounts.
    pub fn new(seed: u64, devices: usize, mounts: Vec<Mount>) -> Self {
        let world = World::new(seed, Faults::none());
        let origin = Origin::new(seed, Behaviour::calm());
        let device_bytes = 42 * u64::from(REGION_BYTES);
        let mut site = Site::new(
            &world,
            devices,
            device_bytes,
            REGION_BYTES,
            64,
            mounts,
            origin.clone(),
        );
        site.tuning.tier_frames_min = 128;
        site.tuning.page_frames = 64;
        site.tuning.read_frames = 32;
        Scene {
            world,
            site,
            origin,
        }
    }

    /// Puts an object of `length` bytes at `path`.
    pub fn put(&self, path: &str, length: u64) -> u32 {
        self.origin.put(&uri_of(path), length, self.world.now())
    }

    /// Starts a worker and a client of it.
    pub async fn start(&self, shards: u16) -> Cast {
        let worker = Worker::start(&self.world, &self.site, shards)
            .await
            .unwrap_or_else(|sentence| panic!("the worker does not start: {sentence}"));
        self.cast(worker).await
    }

    /// A client of `worker`.
    pub async fn cast(&self, worker: Worker) -> Cast {
        let io = self.world.core();
        let crowd = Rc::new(Crowd {
            worker: worker.clone(),
            io: io.clone(),
            oracle: Oracle::new(self.origin.clone()),
            tally: Rc::default(),
            mounts: RefCell::new(Arc::clone(&self.site.mounts)),
            all_mounts: Arc::clone(&self.site.mounts),
            paths: Vec::new(),
            flapping: "/flapping",
            objects_remembered: self.site.tuning.metadata_objects,
            is_pressed: false,
            may_lose_lanes: false,
            touched: Box::new(|_| ()),
        });
        let lane = Lane::connect(&io, worker.address(0), "")
            .await
            .expect("nothing breaks connections");
        Cast {
            worker,
            io,
            crowd,
            lane,
        }
    }
}

/// A worker and its client.
pub struct Cast {
    /// The worker.
    pub worker: Worker,
    /// The client's core.
    pub io: SimIo,
    /// The client's judge.
    pub crowd: Rc<Crowd>,
    /// A lane to the first shard.
    pub lane: Lane,
}

impl Cast {
    /// Opens `path`, which must succeed.
    pub async fn open(&self, path: &str) -> Opened {
        let opened = self.crowd.open(&self.lane, path).await;
        opened.unwrap_or_else(|| panic!("{path} does not open"))
    }

    /// Reads `range`, which must succeed; where the bytes came from.
    pub async fn read(&self, opened: &Opened, range: Range<u64>) -> ReadSource {
        let read = self.crowd.read(&self.lane, opened, range.clone()).await;
        read.unwrap_or_else(|| panic!("{range:?} of {opened:?} cannot be read"))
            .source
    }

    /// Reads all of an object in pieces of `step` bytes; where the slowest piece came from.
    pub async fn read_all(&self, opened: &Opened, step: u64) -> ReadSource {
        let mut slowest = ReadSource::Dram;
        for start in (0..opened.length).step_by(step as usize) {
            let source = self
                .read(opened, start..(start + step).min(opened.length))
                .await;
            if source as u8 > slowest as u8 {
                slowest = source;
            }
        }
        slowest
    }

    /// Brings an object onto the devices; it must fit.
    pub async fn load(&self, path: &str) -> Arc<ObjectMeta> {
        let meta = self.worker.describe(0, path).await.expect("alive");
        let meta = meta.unwrap_or_else(|error| panic!("{path}: {error}"));
        let loaded = self.worker.load(&meta).await.expect("alive");
        let loaded = loaded.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(loaded.bytes_not_kept, 0, "{path}: {loaded:?}");
        meta
    }

    /// One counter, summed over the shards.
    pub async fn stat(&self, name: &str) -> u64 {
        let stats = self.worker.stats().await.expect("alive");
        *stats
            .get(name)
            .unwrap_or_else(|| panic!("{name} is not counted"))
    }

    /// Ends the client and stops the worker in good order.
    pub async fn stop(self, world: &World) {
        self.lane.close();
        self.worker
            .stop(world)
            .await
            .expect("nothing else ends the worker");
        world.kill_core(&self.io);
    }

    /// The client's clock.
    pub fn now(&self) -> Nanos {
        self.io.now()
    }
}

//! The shard under the scripts, on a simulated core: one device, one mount, one object, lanes and an S3
//! face. The invariant: nothing of it depends on anything but the place that is asked for.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use corelane_io::sim::World;
use corelane_io::{Doorbell, FramePool, Io, PAGE_SIZE, Priority, mesh};
use corelane_lookup::memory::Pool;
use corelane_rpc_schema::frame::ReadSource;
use corelane_rpc_schema::{BLOCK_BYTES_DEFAULT, ObjectId, ShardId};
use corelane_s3::credentials::{AccessKey, Credentials, Rule, Verb};
use corelane_worker::access::Access;
use corelane_worker::cache::policy::PolicyKind;
use corelane_worker::control_plane::shards::Shards;
use corelane_worker::inbox::inbox;
use corelane_worker::mount::{Admission, Freshness, Mount, MountId, MountTable};
use corelane_worker::object::ObjectMeta;
use corelane_worker::s3_face::gateway::Gateway;
use corelane_worker::s3_face::{FaceOptions, FaceShared};
use corelane_worker::shard::look_up::compute::Compute;
use corelane_worker::shard::request::{ShardLimits, ShardRequest};
use corelane_worker::shard::{self, S3Setup, ShardSetup, Tuning};
use corelane_worker::store::{FormatOptions, SharedHealth, Wear, format_devices};
use corelane_worker::under_store::listing::{ListingBounds, Listings};
use corelane_worker::under_store::runtime::{FetchOptions, FetchRuntime};
use corelane_worker::under_store::{Event, Job, Request, UnderStore};
use tokio::sync::oneshot;

use crate::ceiling::page;
use crate::target::sigv4;

/// Bytes of the device, and of a region: the object fits it several times.
const DEVICE_BYTES: u64 = 320 << 20;
const REGION_BYTES: u32 = 8 << 20;

/// The object on lanes and on the S3 face.
pub(super) const PATH: &str = "/script/object";

/// Who signs.
const S3_KEY_ID: &str = "SCRIPT";
const S3_SECRET: &str = "scripts-have-no-secrets";
const S3_REGION: &str = "us-east-1";

/// Connections of the S3 face, more than the scripts have.
const S3_CONNECTIONS: usize = 64;

/// Where the script's reads are served from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The DRAM tier, which holds the whole object.
    Dram,
    /// The device; the tier holds an eighth of the object and takes nothing of what is asked for.
    Device,
}

impl Place {
    /// What answers say.
    pub fn source(self) -> ReadSource {
        match self {
            Place::Dram => ReadSource::Dram,
            Place::Device => ReadSource::Device,
        }
    }

    /// Bytes of the one object.
    pub fn object_bytes(self) -> u64 {
        match self {
            Place::Dram => 16 << 20,
            Place::Device => 64 << 20,
        }
    }

    /// Bytes of the DRAM tier.
    pub fn tier_bytes(self) -> u64 {
        match self {
            Place::Dram => 4 * self.object_bytes(),
            Place::Device => self.object_bytes() / 8,
        }
    }
}

/// The keys that both signer and shard know.
pub(super) fn s3_credentials() -> sigv4::Credentials {
    sigv4::Credentials::new(S3_KEY_ID, S3_SECRET, S3_REGION)
}

/// What the shard's S3 face is made of. Its gateway, which no read passes, has threads of its own, which
/// sleep.
fn s3_face(
    access: &Arc<Access>,
    mounts: &Arc<MountTable>,
    partitions: u32,
) -> Result<S3Setup, String> {
    let rule = || Rule {
        buckets: vec!["*".to_owned()],
        verbs: [Verb::Read].into_iter().collect(),
    };
    let (id, secret) = (S3_KEY_ID.to_owned(), S3_SECRET.to_owned());
    let key = AccessKey::new(id.clone(), id, secret, vec![rule()]);
    access.replace_s3(Credentials::new(vec![key], Some(vec![rule()])));
    let runtime =
        FetchRuntime::start(FetchOptions::default()).map_err(|error| error.to_string())?;
    let listings = Listings::new(&runtime, ListingBounds::default());
    // Nothing is written, so nobody is told of it.
    let (letters, _) = inbox(1);
    let shards = Shards::new(vec![letters], partitions);
    let gateway = Gateway::new(&runtime, listings, shards, Arc::clone(mounts), S3_REGION);
    // Its threads live as long as the process, as the shard does.
    std::mem::forget(runtime);
    let options = FaceOptions {
        domains: Vec::new(),
        checks_host: true,
        region: S3_REGION.to_owned(),
        tls: None,
        log: None,
        first_request_id: 1,
    };
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    Ok(S3Setup {
        listener,
        shared: Arc::new(FaceShared::new(options, Arc::clone(access), gateway)),
        connections_max: S3_CONNECTIONS,
    })
}

/// Starts the shard; gives the addresses of its lanes and of its S3 face.
pub(super) async fn start(world: &World, place: Place) -> Result<(SocketAddr, SocketAddr), String> {
    let device = PathBuf::from("/dev/sim0");
    world.add_device(&device, DEVICE_BYTES);
    let io = world.core();
    let opened = io
        .open_device(&device)
        .await
        .map_err(|error| error.to_string())?;
    let scratch = FramePool::map(8, 16).map_err(|error| error.to_string())?;
    let options = FormatOptions {
        region_bytes: REGION_BYTES,
        ..FormatOptions::new([3; 16])
    };
    format_devices(&[opened], options, &scratch)
        .await
        .map_err(|error| error.to_string())?;

    let mount = Mount {
        id: MountId(0),
        path: "/script".to_owned(),
        uri: "https://origin.sim/script".to_owned(),
        block_bytes: BLOCK_BYTES_DEFAULT,
        freshness: Freshness::Immutable,
        admission: Admission::Always,
        key_indexes: Vec::new(),
        readers: Vec::new(),
        options: BTreeMap::new(),
        is_runtime: false,
    };
    let policy = match place {
        Place::Dram => PolicyKind::S3Fifo,
        Place::Device => PolicyKind::Noop,
    };
    let tuning = Tuning {
        policy,
        index_blocks: 4096,
        page_frames: 256,
        read_frames: 64,
        ..Tuning::default()
    };
    let mounts = Arc::new(MountTable::new([mount])?);
    let access = Arc::new(Access::open());
    let (letters, letter_box) = inbox(8);
    let s3 = s3_face(&access, &mounts, options.partitions)?;
    let s3_address = s3
        .listener
        .local_addr()
        .map_err(|error| error.to_string())?;
    let (ready, is_ready) = oneshot::channel();
    let mesh = mesh::build(1, 8).pop().expect("one core");
    let setup = ShardSetup {
        shard: ShardId(0),
        shards: 1,
        worker_id: "script".to_owned(),
        device_paths: vec![device],
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        dram_bytes: place.tier_bytes(),
        mounts,
        access,
        limits: ShardLimits {
            device_write_bytes_per_second: 0,
            scrub_bytes_per_second: 0,
        },
        tuning,
        wear: Wear::default(),
        health: SharedHealth::default(),
        compute: Compute::in_line(),
        // No look-up is measured here.
        lookup_working: Pool::new(1 << 30),
        under_store: PageStore {
            object_bytes: place.object_bytes(),
            events: RefCell::default(),
            doorbell: io.doorbell(),
        },
        inbox: letter_box,
        mesh,
        s3: Some(s3),
        ready,
    };
    let running = io.clone();
    io.spawn(Priority::Foreground, async move {
        // The same sentence goes to `ready`.
        let _ = shard::run(running, setup).await;
    });
    let report = is_ready
        .await
        .map_err(|_| "the shard ended before it was ready".to_owned())??;
    let serve = ShardRequest::Serve {
        ports: Arc::from([report.address.port()]),
        epoch: report.epoch,
        doorbells: vec![Arc::clone(&report.doorbell)],
    };
    letters
        .post(serve)
        .map_err(|_| "the shard takes no letters".to_owned())?;
    // Dropping the sender is no end: the shard serves until it is told to stop.
    std::mem::forget(letters);
    Ok((report.address, s3_address))
}

/// An under-store whose one object is full of the same page.
struct PageStore {
    object_bytes: u64,
    events: RefCell<VecDeque<Event>>,
    doorbell: Arc<dyn Doorbell>,
}

impl UnderStore for PageStore {
    fn submit(&self, job: Job) -> Result<(), Job> {
        let mut events = self.events.borrow_mut();
        match job.request {
            Request::Describe { path } => {
                let uri = job.mount.uri_of(&path);
                let object = ObjectMeta {
                    id: ObjectId::new(&uri, "1", self.object_bytes, job.mount.block_bytes),
                    path_key: uri.clone(),
                    uri,
                    version: "1".to_owned(),
                    length: self.object_bytes,
                    last_modified_ms: 0,
                    block_bytes: job.mount.block_bytes,
                    content_type: String::new(),
                    headers: String::new(),
                };
                events.push_back(Event::Described {
                    id: job.id,
                    result: Ok(Arc::new(object)),
                });
            }
            Request::Fetch { leases, .. } => {
                let page = page();
                let checksums =
                    [crc32c::crc32c(&page); corelane_worker::under_store::LEASE_PAGES_MAX];
                for mut lease in leases {
                    lease
                        .bytes_mut()
                        .chunks_exact_mut(PAGE_SIZE)
                        .for_each(|bytes| bytes.copy_from_slice(&page));
                    events.push_back(Event::Filled {
                        id: job.id,
                        lease,
                        checksums,
                    });
                }
                events.push_back(Event::Finished {
                    id: job.id,
                    result: Ok(()),
                    unused: Vec::new(),
                });
            }
        }
        drop(events);
        self.doorbell.ring();
        Ok(())
    }

    fn next_event(&self) -> Option<Event> {
        self.events.borrow_mut().pop_front()
    }

    fn fetch_bytes_max(&self) -> u64 {
        self.object_bytes
    }
}

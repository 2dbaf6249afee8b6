//! Shards on a real machine: a thread, a CPU and a ring (or glommio) each, and the fetch threads beside them.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "glommio")]
use corelane_io::glommio;
use corelane_io::mesh::{self, MeshEnd};
use corelane_io::uring::{self, probe};
use corelane_io::{Io, IoError, IoErrorKind};
use corelane_lookup::memory::Pool;
use corelane_rpc_schema::ShardId;
use tokio::sync::oneshot;

use super::check_block_sizes;
use super::error::{FailureKind, WorkerError};
use super::seats::{DeviceSet, LaunchPlan, Launched, Launcher, Seat, SeatReady};
use super::under_stores::UnderStores;
use crate::config::memory::MemoryNeed;
use crate::config::quantity::show_size;
use crate::config::{Backend, Config};
use crate::inbox::Inbox;
use crate::s3_face::access_log::AccessLog;
use crate::s3_face::gateway::Gateway;
use crate::s3_face::transport::TlsAcceptor;
use crate::s3_face::{FaceOptions, FaceShared};
use crate::shard::look_up::LookupLimits;
use crate::shard::look_up::compute::Compute;
use crate::shard::message::Message;
use crate::shard::request::{ShardLimits, ShardRequest};
use crate::shard::{self, S3Setup, ShardReady, ShardSetup, Tuning};
use crate::store::{
    DeviceIdentity, DeviceLock, FormatOptions, SharedHealth, StoreError, Wear, format_paths,
    is_blank_file, read_identity,
};
use crate::under_store::Event;
use crate::under_store::listing::{ListingBounds, Listings};
use crate::under_store::runtime::{FetchLimits, FetchOptions, FetchRuntime, ShardUnderStore};

/// Messages that wait between two cores: more than the credits of a busy lane.
const MESH_MESSAGES: usize = 1024;

/// Events of the under-store that wait for a shard: its jobs' leases, each in pieces.
const FETCH_EVENTS: usize = 4096;

/// How long file reads may take to end when the fetch threads stop.
const FETCH_GRACE: Duration = Duration::from_secs(5);

/// What an entry of the ring takes: the submission, two completions, and what is known of the
/// operation under way.
const RING_ENTRY_BYTES: u64 = 512;

/// Runs shards on the backend that the configuration names.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine {
    /// Sizes and deadlines of the shards, memory aside.
    pub tuning: Tuning,
}

impl Launcher for Machine {
    fn prepare(&self, config: &Config) -> Result<DeviceSet, WorkerError> {
        probe::check().map_err(environment)?;
        create_missing(config)?;
        // Before what they hold is judged: of one that is in use, that is what there is to say.
        let claims = config
            .devices
            .iter()
            .map(|path| DeviceLock::take_for_writing(path));
        let _claims = claims.collect::<Result<Vec<_>, _>>().map_err(refused)?;
        let mut identities = Vec::new();
        for path in &config.devices {
            identities.push(read_identity(path).map_err(refused)?);
        }
        let set = check_set(&identities)?;
        self.budget(config, &identities)?;
        Ok(set)
    }

    fn launch(&self, plan: LaunchPlan<'_>) -> Result<Launched, WorkerError> {
        let config = plan.config;
        let mut locks = Vec::new();
        for path in &plan.devices.paths {
            locks.push(DeviceLock::take_for_writing(path).map_err(refused)?);
        }
        let mut identities = Vec::new();
        for path in &plan.devices.paths {
            identities.push(read_identity(path).map_err(refused)?);
        }
        let (tuning, tier_bytes) = self.budget(config, &identities)?;
        let runtime = Arc::new(FetchRuntime::start(fetch_options(config)).map_err(environment)?);
        let listing_bounds = ListingBounds {
            bytes_max: config.listing_bytes as usize,
            ..ListingBounds::default()
        };
        let listings = Listings::new(&runtime, listing_bounds);
        let s3 = s3_face(config, &plan, &runtime, &listings)?;
        let compute =
            Compute::start(config.lookup_threads, COMPUTE_NICENESS).map_err(environment)?;
        let lookup_working = Pool::new(config.lookup_working_bytes);
        let shards = plan.seats.len();
        let (wear, health) = (Wear::default(), SharedHealth::default());
        let mut threads = Vec::with_capacity(shards);
        for (seat, mesh) in plan
            .seats
            .into_iter()
            .zip(mesh::build::<Message>(shards, MESH_MESSAGES))
        {
            let setup = Place {
                shards: shards as u16,
                worker_id: plan.worker_id.clone(),
                device_paths: plan.devices.paths.clone(),
                dram_bytes: tier_bytes,
                mounts: Arc::clone(&plan.mounts),
                access: Arc::clone(&plan.access),
                limits: config.shard_limits(),
                tuning,
                wear: wear.clone(),
                health: health.clone(),
                compute: compute.clone(),
                lookup_working: Arc::clone(&lookup_working),
                under_store: runtime.handle(FETCH_EVENTS),
                mesh,
                s3: s3.clone(),
                s3_connections_max: config.s3.connections,
            };
            threads.push(start_shard(config, seat, setup)?);
        }
        let catalogue = Arc::new(UnderStores::new(Arc::clone(&runtime), listings));
        let companions: Vec<Box<dyn Send>> =
            vec![Box::new(Fetching(Some(runtime))), Box::new(locks)];
        Ok(Launched {
            threads,
            catalogue,
            companions,
        })
    }
}

impl Machine {
    /// The tuning with an index that fits the devices, and the bytes left for each shard's tier.
    fn budget(
        &self,
        config: &Config,
        devices: &[DeviceIdentity],
    ) -> Result<(Tuning, u64), WorkerError> {
        let shards = config.cores.len() as u64;
        let bytes: u64 = devices
            .iter()
            .map(|device| u64::from(device.regions) * u64::from(device.region_bytes))
            .sum();
        let region_bytes = devices.iter().map(|device| device.region_bytes).min();
        // The smallest block size in use decides how many blocks the devices can hold.
        let block_bytes = config.mounts.iter().map(|mount| mount.block_bytes).min();
        let need = MemoryNeed::of_shard(
            bytes,
            region_bytes.expect("a worker has a device"),
            shards,
            block_bytes.unwrap_or(corelane_rpc_schema::BLOCK_BYTES_DEFAULT),
            queue_bytes(config.backend, shards),
        );
        let split = need
            .split(config.dram_bytes / shards, shards, &self.tuning)
            .map_err(|over| {
                WorkerError::new(
                    FailureKind::Device,
                    format!("{} of devices and {over}", show_size(bytes)),
                )
            })?;
        let tuning = Tuning {
            policy: config.dram_policy,
            device_timeout: config.device_timeout,
            lookup: LookupLimits {
                index_after: config.lookup_index_after,
                scan_bytes_max: config.lookup_scan_bytes_max,
                ..LookupLimits::of_memory(config.lookup_bytes / shards)
            },
            ..split.tuning
        };
        Ok((tuning, split.tier_bytes))
    }
}

/// What a shard's backend and its queues from the other threads take.
fn queue_bytes(backend: Backend, shards: u64) -> u64 {
    let backend_bytes = match backend {
        Backend::Uring => {
            let ring = uring::Options::default();
            u64::from(ring.receive_buffers) * u64::from(ring.receive_buffer_bytes)
                + u64::from(ring.entries) * RING_ENTRY_BYTES
        }
        #[cfg(feature = "glommio")]
        Backend::Glommio => glommio::Options::default().memory_bytes(RING_ENTRY_BYTES),
    };
    backend_bytes
        + shards * (MESH_MESSAGES * size_of::<Message>()) as u64
        + (FETCH_EVENTS * size_of::<Event>()) as u64
}

/// Niceness of the threads for longer work: data cores come first where they share a CPU.
const COMPUTE_NICENESS: i32 = 10;

/// What a shard's thread takes along, the seat aside.
struct Place {
    shards: u16,
    worker_id: String,
    device_paths: Vec<PathBuf>,
    dram_bytes: u64,
    mounts: Arc<crate::mount::MountTable>,
    access: Arc<crate::access::Access>,
    limits: ShardLimits,
    tuning: Tuning,
    wear: Wear,
    health: SharedHealth,
    compute: Compute,
    lookup_working: Arc<Pool>,
    under_store: ShardUnderStore,
    mesh: MeshEnd<Message>,
    s3: Option<Arc<FaceShared>>,
    s3_connections_max: usize,
}

/// What the cores share of the S3 face, if anyone may use it.
fn s3_face(
    config: &Config,
    plan: &LaunchPlan<'_>,
    runtime: &FetchRuntime,
    listings: &Listings,
) -> Result<Option<Arc<FaceShared>>, WorkerError> {
    if !config.s3.is_open() {
        return Ok(None);
    }
    let wrong = |message: String| WorkerError::new(FailureKind::Configuration, message);
    let tls = config.s3.tls.as_ref();
    let tls = tls
        .map(|(certificates, key)| TlsAcceptor::from_files(certificates, key))
        .transpose()
        .map_err(wrong)?;
    let log = config.s3.access_log.as_ref();
    let log = log
        .map(|path| {
            AccessLog::open(path).map_err(|error| {
                wrong(format!(
                    "cannot open `s3.access_log` {}: {error}",
                    path.display()
                ))
            })
        })
        .transpose()?;
    let options = FaceOptions {
        domains: config.s3.domains.clone(),
        checks_host: config.s3.listen.ip().is_loopback(),
        region: config.s3.region.clone(),
        tls,
        log,
        first_request_id: first_request_id(),
    };
    let mounts = Arc::clone(&plan.mounts);
    let gateway = Gateway::new(
        runtime,
        listings.clone(),
        plan.shards.clone(),
        mounts,
        &config.s3.region,
    );
    let shared = FaceShared::new(options, Arc::clone(&plan.access), gateway);
    Ok(Some(Arc::new(shared)))
}

/// Nanoseconds since the Unix epoch, of which the lowest bits are left to count.
fn first_request_id() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    (since_epoch.unwrap_or_default().as_nanos() as u64) << 8
}

fn start_shard(
    config: &Config,
    seat: Seat,
    place: Place,
) -> Result<std::thread::JoinHandle<()>, WorkerError> {
    let number = seat.shard.0;
    let name = format!("shard-{number}");
    let thread = std::thread::Builder::new().name(name.clone());
    let run: Box<dyn FnOnce(Seat, Place) + Send> = match config.backend {
        Backend::Uring => {
            let options = uring::Options {
                core: Some(seat.cpu),
                name,
                spin: config.spin,
                send_zero_copy_above: config.send_zero_copy_above.map(|bytes| bytes as usize),
                ..uring::Options::default()
            };
            Box::new(move |seat, place| {
                occupy(seat, place, |body| {
                    uring::run(&options, move |io| body.run(io))
                });
            })
        }
        #[cfg(feature = "glommio")]
        Backend::Glommio => {
            let options = glommio::Options {
                core: Some(seat.cpu),
                name,
                spin: config.spin,
                ..glommio::Options::default()
            };
            Box::new(move |seat, place| {
                occupy(seat, place, |body| {
                    glommio::run(&options, move |io| body.run(io))
                });
            })
        }
    };
    thread.spawn(move || run(seat, place)).map_err(|error| {
        let message = format!(
            "cannot start the thread of shard {number}: {error}; raise the limit of threads"
        );
        WorkerError::new(FailureKind::Environment, message)
    })
}

/// Runs the shard of a seat by `run`, on the calling thread, and reports how it ended.
fn occupy(seat: Seat, place: Place, run: impl FnOnce(Body) -> Result<Result<(), String>, IoError>) {
    let Seat {
        shard,
        listen,
        s3,
        inbox,
        ready,
        end,
        ..
    } = seat;
    let outcome = run(Body {
        shard,
        listen,
        s3,
        inbox,
        ready,
        place,
    });
    end.report(outcome.unwrap_or_else(|error| Err(error.to_string())));
}

/// What runs on a core, whatever its backend.
struct Body {
    shard: ShardId,
    listen: SocketAddr,
    s3: Option<TcpListener>,
    inbox: Inbox<ShardRequest>,
    ready: oneshot::Sender<Result<SeatReady, String>>,
    place: Place,
}

impl Body {
    async fn run<I: Io>(self, io: I) -> Result<(), String> {
        let (report, reported) = oneshot::channel();
        forward(&io, self.ready, reported);
        let place = self.place;
        place.under_store.connect(io.doorbell());
        let setup = ShardSetup {
            shard: self.shard,
            shards: place.shards,
            worker_id: place.worker_id,
            device_paths: place.device_paths,
            listen: self.listen,
            dram_bytes: place.dram_bytes,
            mounts: place.mounts,
            access: place.access,
            limits: place.limits,
            tuning: place.tuning,
            wear: place.wear,
            health: place.health,
            compute: place.compute,
            lookup_working: place.lookup_working,
            under_store: place.under_store,
            inbox: self.inbox,
            mesh: place.mesh,
            s3: self.s3.zip(place.s3).map(|(listener, shared)| S3Setup {
                listener,
                shared,
                connections_max: place.s3_connections_max,
            }),
            ready: report,
        };
        shard::run(io, setup)
            .await
            .map_err(|error| error.to_string())
    }
}

/// Adds the core's doorbell to what the shard says when it is ready.
fn forward(
    io: &impl Io,
    ready: oneshot::Sender<Result<SeatReady, String>>,
    reported: oneshot::Receiver<Result<ShardReady, String>>,
) {
    let doorbell = io.doorbell();
    io.spawn(corelane_io::Priority::Foreground, async move {
        let Ok(report) = reported.await else { return };
        let report = report.map(|report| SeatReady {
            doorbell,
            address: report.address,
            epoch: report.epoch,
            recovered_blocks: report.recovered_blocks,
            recovery: report.recovery,
            state: report.state,
        });
        // Whoever waits for it gave up when nobody receives.
        let _ = ready.send(report);
    });
}

/// The fetch threads, stopped when dropped: after the shards, which own what they write into.
struct Fetching(Option<Arc<FetchRuntime>>);

impl Drop for Fetching {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take().and_then(Arc::into_inner) {
            runtime.stop(FETCH_GRACE);
        }
    }
}

fn fetch_options(config: &Config) -> FetchOptions {
    FetchOptions {
        threads: config.fetch_threads,
        cpus: config.fetch_cpus.clone(),
        nice: config.fetch_nice,
        limits: FetchLimits {
            requests_in_flight_max: config.limits.under_store_requests,
            bytes_per_second: config.limits.under_store_bytes_per_second,
        },
        ..FetchOptions::default()
    }
}

fn environment(error: IoError) -> WorkerError {
    WorkerError::new(FailureKind::Environment, error.to_string())
}

fn refused(error: StoreError) -> WorkerError {
    let kind = match &error {
        StoreError::Io(error) if error.kind() == IoErrorKind::Limit => FailureKind::Environment,
        _ => FailureKind::Device,
    };
    WorkerError::new(kind, error.to_string())
}

/// Creates and formats the devices, when the configuration gives a size and none of them exists.
fn create_missing(config: &Config) -> Result<(), WorkerError> {
    let Some(bytes) = config.device_bytes else {
        return Ok(());
    };
    let mut missing: Vec<&Path> = Vec::new();
    for path in &config.devices {
        // A file of nothing but zeroes is what a creation that was interrupted leaves.
        if !path.exists() || is_blank_file(path).map_err(refused)? {
            missing.push(path);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let mut force = false;
    if missing.len() < config.devices.len() {
        if !is_formatted_in_part(config, &missing) {
            return Err(formatted_as_a_whole(&missing));
        }
        missing = config.devices.iter().map(PathBuf::as_path).collect();
        force = true;
    }
    // Before anything is written: corrected, the configuration finds nothing in its way.
    check_block_sizes(config, config.region_bytes as u32)?;
    let options = FormatOptions {
        region_bytes: config.region_bytes as u32,
        partitions: config.partitions,
        set_uuid: random_uuid()?,
    };
    tracing::info!(devices = ?missing, size = show_size(bytes), "creating and formatting");
    format_paths(&missing, Some(bytes), options, force).map_err(refused)
}

/// Whether formatting the set was interrupted: the files are all there, and those with a superblock have
/// never been started, so that they hold nothing.
fn is_formatted_in_part(config: &Config, missing: &[&Path]) -> bool {
    let devices = config.devices.iter().map(PathBuf::as_path);
    let is_new = |path: &Path| {
        path.is_file()
            && read_identity(path).is_ok_and(|identity| {
                identity.epoch == 0 && usize::from(identity.devices) == config.devices.len()
            })
    };
    missing.iter().all(|path| path.exists())
        && devices.filter(|path| !missing.contains(path)).all(is_new)
}

fn formatted_as_a_whole(missing: &[&Path]) -> WorkerError {
    let names: Vec<String> = missing
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    WorkerError::new(
        FailureKind::Device,
        format!(
            "{} does not exist or holds nothing, but other devices of the set do: a set is formatted as a whole; \
             correct the path, take it out of `devices` to go on without it (its part is fetched \
             again), or move the others away to begin with an empty cache",
            names.join(", ")
        ),
    )
}

fn random_uuid() -> Result<[u8; 16], WorkerError> {
    let mut uuid = [0; 16];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut uuid));
    read.map_err(|error| {
        WorkerError::new(
            FailureKind::Environment,
            format!("/dev/urandom cannot be read: {error}"),
        )
    })?;
    // Version 4, variant 1 (RFC 9562), so that it reads as a uuid everywhere.
    uuid[6] = (uuid[6] & 0x0f) | 0x40;
    uuid[8] = (uuid[8] & 0x3f) | 0x80;
    Ok(uuid)
}

/// Whether the devices are one whole set; its order, uuid and partitions.
fn check_set(identities: &[DeviceIdentity]) -> Result<DeviceSet, WorkerError> {
    let first = &identities[0];
    let refuse = |message: String| Err(WorkerError::new(FailureKind::Device, message));
    for other in &identities[1..] {
        if other.set_uuid != first.set_uuid {
            return refuse(format!(
                "{} and {} belong to different sets of devices; a worker serves one set",
                first.path.display(),
                other.path.display()
            ));
        }
    }
    let mut ordered: Vec<&DeviceIdentity> = identities.iter().collect();
    ordered.sort_by_key(|identity| identity.ordinal);
    for pair in ordered.windows(2) {
        if pair[0].ordinal == pair[1].ordinal {
            return refuse(format!(
                "{} and {} are copies of the same device; name one of them",
                pair[0].path.display(),
                pair[1].path.display()
            ));
        }
    }
    Ok(DeviceSet {
        paths: ordered
            .iter()
            .map(|identity| identity.path.clone())
            .collect(),
        uuid: hex(&first.set_uuid),
        partitions: first.partitions,
        region_bytes: identities
            .iter()
            .map(|identity| identity.region_bytes)
            .min()
            .expect("there is a first"),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(path: &str, set: u8, ordinal: u16) -> DeviceIdentity {
        DeviceIdentity {
            path: PathBuf::from(path),
            set_uuid: [set; 16],
            uuid: [ordinal as u8; 16],
            ordinal,
            devices: 2,
            partitions: 256,
            region_bytes: 64 << 20,
            regions: 64,
            epoch: 1,
        }
    }

    #[test]
    fn devices_are_put_in_their_order_whatever_their_paths_are() {
        let set = check_set(&[identity("/b", 1, 1), identity("/a", 1, 0)]).expect("one set");
        assert_eq!(set.paths, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(set.uuid, "01".repeat(16));
    }

    #[test]
    fn devices_of_two_sets_and_copies_are_refused_by_name() {
        let foreign =
            check_set(&[identity("/a", 1, 0), identity("/b", 2, 1)]).expect_err("two sets");
        assert!(foreign.to_string().contains("/a and /b"), "{foreign}");
        assert_eq!(foreign.kind(), FailureKind::Device);
        let copies = check_set(&[identity("/a", 1, 0), identity("/b", 1, 0)]).expect_err("a copy");
        assert!(copies.to_string().contains("copies"), "{copies}");
    }
}

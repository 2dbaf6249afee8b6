//! Assembly: from a configuration to a worker that serves, and back to nothing in good order.
//!
//! The invariant: a worker either serves completely or has ended completely with one sentence why.
//! A shard that fails takes the process down with it, since its partitions cannot be served by
//! another; the restart keeps the cache.
//!
//! | module | holds |
//! |---|---|
//! | [`seats`] | what the shards get and give back |
//! | [`running`] | the handle of a running worker |
//! | [`machine`] | shards on io_uring, and the fetch threads |
//! | [`process`] | a worker as a process: log, signals, exit codes |
//! | [`error`] | failures and their exit codes |
//! | `local_token` | the token of the user that the worker runs as |
//! | `control_thread` | the life of the control thread, from ready to stopped |

mod control_thread;
pub mod error;
mod local_token;
pub mod machine;
pub mod process;
pub mod running;
pub mod seats;
mod under_stores;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use corelane_rpc_schema::ShardId;
use tokio::sync::{mpsc, oneshot};

use crate::access::Access;
use crate::config::Config;
use crate::config::kind::show_cpus;
use crate::control_plane::mounts::check_block_size;
use crate::control_plane::shards::Shards;
use crate::inbox::inbox;
use crate::mount::MountTable;
use crate::store::public_id;
pub use error::{FailureKind, WorkerError};
pub use running::{RunningWorker, StartReport, Stopper};
use seats::{LaunchPlan, Launched, Launcher, Seat, ShardEnd};

/// Letters that wait for a shard: more than one connection's calls in flight.
const INBOX_LETTERS: usize = 1024;

/// Connections that the kernel completes before a core accepts them.
const S3_BACKLOG: i32 = 4096;

/// Commands that wait for the control thread: more than signals can come at once.
const COMMANDS: usize = 16;

/// Starts workers.
pub struct Worker;

impl Worker {
    /// Starts a worker on this machine and waits until it serves.
    ///
    /// # Errors
    /// When the machine, a device, an address or a shard is not as needed. Nothing runs then.
    pub fn start(config: Config) -> Result<RunningWorker, WorkerError> {
        let mut config = config;
        match local_token::make() {
            Ok(token) => config.local_token = Some(token),
            Err(error) => tracing::warn!(%error, "there is no local token"),
        }
        Worker::start_with(config, &machine::Machine::default())
    }

    /// Starts a worker with the shards of `launcher` and waits until it serves.
    ///
    /// # Errors
    /// When the machine, a device, an address or a shard is not as needed. Nothing runs then.
    pub fn start_with(
        config: Config,
        launcher: &dyn Launcher,
    ) -> Result<RunningWorker, WorkerError> {
        let control = bind("control", config.control)?;
        let operations = bind("operations", config.operations)?;
        probe_data_ports(&config)?;
        let s3 = bind_s3(&config)?;
        // Before anyone can connect, so that clients never find that of the last start.
        let mut local_token = local_token_files(&config, [&control, &operations]);
        let scheme = if config.s3.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let s3_address = s3.first().and_then(|listener| listener.local_addr().ok());
        let s3_url = s3_address.map(|address| format!("{scheme}://{address}"));
        let devices = launcher.prepare(&config)?;
        let worker_id = config
            .worker_id
            .clone()
            .unwrap_or_else(|| public_id(&devices.uuid));
        let mounts = MountTable::new(config.mounts.iter().cloned())
            .map_err(|message| WorkerError::new(FailureKind::Configuration, message))?;
        let access = Arc::new(Access::of_config(&config));
        let (partitions, region_bytes) = (devices.partitions, devices.region_bytes);
        check_block_sizes(&config, region_bytes)?;
        let table = Seating::of_config(&config, s3);
        let shards = Shards::new(table.inboxes, partitions);
        let plan = LaunchPlan {
            config: &config,
            worker_id: worker_id.clone(),
            devices,
            mounts: Arc::new(mounts),
            access: Arc::clone(&access),
            shards: shards.clone(),
            seats: table.seats,
        };
        let Launched {
            threads,
            catalogue,
            companions,
        } = launcher.launch(plan)?;
        let (commands, inbound) = mpsc::channel(COMMANDS);
        let (started, starting) = oneshot::channel();
        let thread = control_thread::spawn(control_thread::Setup {
            config,
            worker_id,
            access,
            catalogue,
            region_bytes,
            shards,
            s3: s3_url,
            ready: table.ready,
            ends: table.ends,
            threads,
            companions,
            control,
            operations,
            commands: inbound,
            started,
        })?;
        match starting.blocking_recv() {
            Ok(report) => {
                if let Some(Err(error)) = local_token.as_mut().map(|files| files.add(&report.data))
                {
                    tracing::warn!(%error, "the local token could not be written for all data ports");
                }
                Ok(RunningWorker {
                    report,
                    commands,
                    thread: Some(thread),
                    local_token,
                })
            }
            // The control thread ended instead of serving, and knows why.
            Err(_) => Err(match thread.join() {
                Ok(Err(error)) => error,
                Ok(Ok(())) => WorkerError::new(
                    FailureKind::Other,
                    "the worker was stopped before it served",
                ),
                Err(_) => WorkerError::new(
                    FailureKind::Other,
                    "the control thread panicked; see the log above",
                ),
            }),
        }
    }
}

/// The files of the local token for these listeners and the data ports that are known, if it has one.
fn local_token_files(
    config: &Config,
    listeners: [&TcpListener; 2],
) -> Option<local_token::LocalTokenFiles> {
    let token = config.local_token.clone()?;
    let mut addresses: Vec<SocketAddr> = listeners
        .iter()
        .filter_map(|listener| listener.local_addr().ok())
        .collect();
    if config.listen.port() != 0 {
        let ports = (config.listen.port()..).take(config.cores.len());
        addresses.extend(ports.map(|port| SocketAddr::new(config.listen.ip(), port)));
    }
    let written = local_token::LocalTokenFiles::new(token).and_then(|mut files| {
        files
            .add(&addresses)
            .map(|()| files)
            .map_err(|error| error.to_string())
    });
    if let Ok(files) = &written
        && config.tokens.is_empty()
    {
        tracing::info!(
            folder = %files.folder().display(),
            "the local token is in this folder, for the user of this process"
        );
    }
    written
        .inspect_err(|error| {
            tracing::warn!(
                error,
                "the local token could not be written: only [[token]]s enter"
            );
        })
        .ok()
}

type EndOfShard = (ShardId, Result<(), String>);

/// Both sides of everything between the shards and the control thread.
struct Seating {
    seats: Vec<Seat>,
    inboxes: Vec<crate::inbox::InboxSender<crate::shard::request::ShardRequest>>,
    ready: Vec<oneshot::Receiver<Result<seats::SeatReady, String>>>,
    ends: mpsc::UnboundedReceiver<EndOfShard>,
}

impl Seating {
    fn of_config(config: &Config, s3: Vec<TcpListener>) -> Self {
        let mut s3 = s3.into_iter();
        let (end, ends) = mpsc::unbounded_channel();
        let mut seating = Seating {
            seats: Vec::new(),
            inboxes: Vec::new(),
            ready: Vec::new(),
            ends,
        };
        let shards = config.cores.len() as u64;
        for (index, cpu) in config.cores.iter().enumerate() {
            let shard = ShardId(index as u16);
            let (sender, letters) = inbox(INBOX_LETTERS);
            let (ready, when_ready) = oneshot::channel();
            let listen = data_address(config, index);
            seating.inboxes.push(sender);
            seating.ready.push(when_ready);
            seating.seats.push(Seat {
                shard,
                cpu: *cpu,
                listen,
                s3: s3.next(),
                memory_bytes: config.dram_bytes / shards,
                inbox: letters,
                ready,
                end: ShardEnd::new(shard, end.clone()),
            });
        }
        seating
    }
}

/// Whether devices with regions of `region_bytes` keep the blocks of all mounts.
fn check_block_sizes(config: &Config, region_bytes: u32) -> Result<(), WorkerError> {
    config.mounts.iter().try_for_each(|mount| {
        check_block_size(mount, region_bytes)
            .map_err(|error| WorkerError::new(FailureKind::Configuration, error.to_string()))
    })
}

/// How long an address in use is tried again, and how often. The kernel takes a killed worker's rings apart a
/// little after the process is gone, and they hold its listeners until then.
const BIND_PATIENCE: Duration = Duration::from_secs(3);
const BIND_RETRY: Duration = Duration::from_millis(20);

/// Listens on `address`. One in use is tried again for a while.
fn listen_patiently(name: &str, address: SocketAddr) -> std::io::Result<TcpListener> {
    let began = Instant::now();
    let mut has_said = false;
    loop {
        match TcpListener::bind(address) {
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse
                    && began.elapsed() < BIND_PATIENCE =>
            {
                if !has_said {
                    tracing::info!(
                        %address,
                        "`{name}` is in use; waiting up to {} s, as a killed worker lets go of it a moment later",
                        BIND_PATIENCE.as_secs()
                    );
                    has_said = true;
                }
                std::thread::sleep(BIND_RETRY);
            }
            bound => return bound,
        }
    }
}

/// Whether the shards will be able to listen: they do so when their devices are recovered.
fn probe_data_ports(config: &Config) -> Result<(), WorkerError> {
    for shard in 0..config.cores.len() {
        drop(bind("listen", data_address(config, shard))?);
    }
    Ok(())
}

/// Where shard number `shard` listens.
fn data_address(config: &Config, shard: usize) -> SocketAddr {
    let mut address = config.listen;
    if address.port() != 0 {
        // The configuration's check leaves room for all of them.
        address.set_port(address.port() + shard as u16);
    }
    address
}

/// Binds a listener of the control thread.
fn bind(name: &str, address: SocketAddr) -> Result<TcpListener, WorkerError> {
    let bound = listen_patiently(name, address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "; another process (a worker?) listens there: choose another port"
            }
            std::io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
            std::io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
            _ => "",
        };
        let message = format!("cannot listen on `{name}` address {address}: {error}{hint}");
        WorkerError::new(FailureKind::Environment, message)
    })
}

/// Binds the sockets of the S3 face, one a shard, all on one address: the kernel spreads connections
/// over them. None where nobody may use the face.
fn bind_s3(config: &Config) -> Result<Vec<TcpListener>, WorkerError> {
    if !config.s3.is_open() {
        return Ok(Vec::new());
    }
    let mut address = config.s3.listen;
    if address.port() != 0 {
        // Sockets that share a port do not notice another worker's that shares it too.
        drop(bind("s3.listen", address)?);
    }
    let mut listeners = Vec::new();
    for _ in &config.cores {
        let listener = bind_shared(address).map_err(|error| {
            let message = format!("cannot listen on `s3.listen` address {address}: {error}");
            WorkerError::new(FailureKind::Environment, message)
        })?;
        // With port 0, the first one's is that of all.
        address = listener.local_addr().unwrap_or(address);
        listeners.push(listener);
    }
    Ok(listeners)
}

fn bind_shared(address: SocketAddr) -> std::io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let kind = Type::STREAM;
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(S3_BACKLOG)?;
    Ok(socket.into())
}

/// Pins the calling thread; a machine that does not let us is reported and gone on without.
pub(crate) fn pin_thread(cpus: &[usize]) {
    if let Err(error) = affinity::set_thread_affinity(cpus) {
        let cpus = show_cpus(cpus);
        tracing::warn!(%error, cpus, "cannot place this thread; it runs where the kernel puts it");
    }
}

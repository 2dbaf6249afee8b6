//! What the assembly gives to whoever runs the shards, and what comes back.
//!
//! Behind the [`Launcher`] stand the rings of a real machine, or shards that a test plays.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use corelane_io::Doorbell;
use corelane_rpc_schema::ShardId;
use tokio::sync::{mpsc, oneshot};

use super::error::WorkerError;
use crate::access::Access;
use crate::config::Config;
use crate::control_plane::catalogue::Catalogue;
use crate::control_plane::shards::Shards;
use crate::inbox::Inbox;
use crate::mount::MountTable;
use crate::shard::request::ShardRequest;

/// What is known of the devices before any shard runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSet {
    /// The devices, in the order of their ordinals.
    pub paths: Vec<PathBuf>,
    /// Uuid of the set, in hex; the worker's name where the configuration gives none.
    pub uuid: String,
    /// Partitions that the set was formatted with.
    pub partitions: u32,
    /// Bytes in a region of the device with the smallest ones.
    pub region_bytes: u32,
}

/// The place of one shard.
pub struct Seat {
    /// Which shard.
    pub shard: ShardId,
    /// The CPU that it runs on.
    pub cpu: usize,
    /// Where it listens; port 0 picks one.
    pub listen: SocketAddr,
    /// Its socket of the S3 face, if the worker has one.
    pub s3: Option<TcpListener>,
    /// Its part of the memory budget.
    pub memory_bytes: u64,
    /// Its letters.
    pub inbox: Inbox<ShardRequest>,
    /// Told once, when it is ready or failed.
    pub ready: oneshot::Sender<Result<SeatReady, String>>,
    /// Dropped or used when it ends.
    pub end: ShardEnd,
}

/// What a shard says when it is ready to serve.
#[derive(Clone)]
pub struct SeatReady {
    /// Wakes its core; the other cores get it for the mesh.
    pub doorbell: Arc<dyn Doorbell>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Starts of the device set so far.
    pub epoch: u64,
    /// Blocks that came back.
    pub recovered_blocks: u64,
    /// How long that took.
    pub recovery: Duration,
    /// Shard 0: the state saved last.
    pub state: Option<Vec<u8>>,
}

/// Reports the end of a shard, also when its thread panics.
#[derive(Debug)]
pub struct ShardEnd {
    shard: ShardId,
    result: Option<Result<(), String>>,
    sender: mpsc::UnboundedSender<(ShardId, Result<(), String>)>,
}

impl ShardEnd {
    /// The reporter of `shard`. One message each, so that the channel needs no bound.
    pub fn new(
        shard: ShardId,
        sender: mpsc::UnboundedSender<(ShardId, Result<(), String>)>,
    ) -> Self {
        ShardEnd {
            shard,
            result: None,
            sender,
        }
    }

    /// Reports how it ended.
    pub fn report(mut self, result: Result<(), String>) {
        self.result = Some(result);
    }
}

impl Drop for ShardEnd {
    fn drop(&mut self) {
        let result = self
            .result
            .take()
            .unwrap_or_else(|| Err("its thread panicked".to_owned()));
        // Nobody listens any more once the worker has ended.
        let _ = self.sender.send((self.shard, result));
    }
}

/// Everything that shards need to run.
pub struct LaunchPlan<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// Name of the worker.
    pub worker_id: String,
    /// The devices.
    pub devices: DeviceSet,
    /// Mounts of the configuration.
    pub mounts: Arc<MountTable>,
    /// Tokens and keys.
    pub access: Arc<Access>,
    /// The way to the shards, for who runs beside them.
    pub shards: Shards,
    /// One a shard, in order.
    pub seats: Vec<Seat>,
}

/// What runs now.
pub struct Launched {
    /// The threads of the shards.
    pub threads: Vec<JoinHandle<()>>,
    /// The under-stores.
    pub catalogue: Arc<dyn Catalogue>,
    /// Kept until the shards have ended, then dropped (the fetch threads, say).
    pub companions: Vec<Box<dyn Send>>,
}

/// Runs shards.
pub trait Launcher {
    /// Checks the machine, creates devices where the configuration says so, and reads what they are.
    ///
    /// # Errors
    /// When the machine lacks something or a device is refused.
    fn prepare(&self, config: &Config) -> Result<DeviceSet, WorkerError>;

    /// Starts the fetch threads and one thread a shard. Does not wait for them to be ready.
    ///
    /// # Errors
    /// When a thread cannot be started; what was started is on its way to end then.
    fn launch(&self, plan: LaunchPlan<'_>) -> Result<Launched, WorkerError>;
}

//! What a core of the worker stands on.
//!
//! Everything that a shard does to the outside world goes through the [`Io`] trait and the types
//! it names: devices, streams, listeners, time, randomness, tasks and memory. The storage engine
//! is generic over it, so the same code runs on a drive ([`uring`]) and in a deterministic
//! simulation ([`sim`]).
//!
//! The invariant of this crate: one core, one thread. Nothing here is `Send` unless its
//! documentation says so, and nothing on the way of a read takes a lock.
//!
//! | module | holds |
//! |---|---|
//! | [`buffer`] | page-aligned, registered memory: frames, leases, pools |
//! | [`error`] | the errors of the world, with context |
//! | [`executor`] | the per-core task executor and its priorities |
//! | [`mesh`] | bounded queues between cores |
//! | [`hint`] | hints about memory: prefetching, huge pages |
//! | [`cores`] | pinning, NUMA, which core does what |
//! | [`uring`] | the default backend: one io_uring per core |
//! | `glommio` | a second backend behind the feature of that name, for comparison |
//! | [`sim`] | the deterministic backend: seeded faults, crashes, virtual time |

pub mod buffer;
pub mod cores;
pub mod error;
pub mod executor;
#[cfg(feature = "glommio")]
pub mod glommio;
pub mod hint;
mod mapping;
pub mod mesh;
pub mod sim;
pub mod stream;
pub mod uring;

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use buffer::{Frame, FrameLease, FramePool, FrameSlice, PAGE_SIZE, RemoteFrame, RemoteLease};
pub use error::{IoError, IoErrorKind};
pub use stream::{Payload, SendBatch};

/// Nanoseconds on a core's monotonic clock. Zero is when the backend started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// Nanoseconds since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Nanos) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This instant plus `duration`.
    pub fn plus(self, duration: Duration) -> Nanos {
        Nanos(self.0.saturating_add(duration.as_nanos() as u64))
    }
}

/// In which order the tasks of a core run, and with what share of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Answers to clients. Always first.
    Foreground,
    /// Writing what was admitted. Next, so that memory lent to fills comes back.
    Flush,
    /// Reclaim, scrub, load: what can wait.
    Background,
}

impl Priority {
    /// Number of priorities.
    pub const COUNT: usize = 3;
}

/// One core's access to the world.
///
/// A handle: cloning is cheap, and all clones act for the same core.
pub trait Io: Clone + 'static {
    /// A block device or preallocated file opened for direct I/O.
    type Device: Device;
    /// A connected byte stream.
    type Stream: Stream;
    /// A listening socket.
    type Listener: Listener<Stream = Self::Stream>;

    /// The core's monotonic clock, read once a turn of the loop where that is cheaper.
    fn now(&self) -> Nanos;

    /// Milliseconds since the Unix epoch.
    fn wall_clock_ms(&self) -> u64;

    /// Sixty-four random bits, from the seed in simulation.
    fn random(&self) -> u64;

    /// Resolves after `duration`.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static;

    /// Runs `task` on this core until it ends. Tasks are never cancelled from outside.
    fn spawn(&self, priority: Priority, task: impl Future<Output = ()> + 'static);

    /// Lets other tasks and completions run once before the caller goes on.
    fn yield_now(&self) -> impl Future<Output = ()> + 'static;

    /// Maps and registers `frames` frames of `frame_pages` pages each.
    ///
    /// # Errors
    /// When the memory cannot be mapped or registered; the message names the limit to raise.
    fn allocate_pool(&self, frames: usize, frame_pages: usize) -> Result<FramePool, IoError>;

    /// Opens `path` for direct I/O.
    ///
    /// # Errors
    /// When the path is missing, is neither a regular file nor a block device, or cannot do
    /// direct I/O; each says what to do.
    fn open_device(&self, path: &Path) -> impl Future<Output = Result<Self::Device, IoError>>;

    /// Listens on `address`; port 0 picks a free one.
    ///
    /// # Errors
    /// When the address cannot be bound.
    fn listen(&self, address: SocketAddr) -> impl Future<Output = Result<Self::Listener, IoError>>;

    /// Takes over a listening socket that was bound elsewhere, such as one of several that share an
    /// address so that the kernel spreads connections over the cores.
    ///
    /// # Errors
    /// When the backend cannot listen on a socket of the kernel.
    fn adopt_listener(&self, listener: std::net::TcpListener) -> Result<Self::Listener, IoError>;

    /// Connects to `address`.
    ///
    /// # Errors
    /// When the peer refuses or cannot be reached.
    fn connect(&self, address: SocketAddr) -> impl Future<Output = Result<Self::Stream, IoError>>;

    /// The handle by which other threads wake this core.
    fn doorbell(&self) -> Arc<dyn Doorbell>;

    /// Resolves once the doorbell was rung since the last call resolved. One waiter a core.
    fn rung(&self) -> impl Future<Output = ()> + 'static;

    /// What the loop of this core has done so far.
    fn counters(&self) -> LoopCounters;
}

/// Wakes a core from another thread. Cheap when the core is awake.
pub trait Doorbell: Send + Sync {
    /// Makes the core's pending or next [`Io::rung`] resolve. Rings may coalesce.
    fn ring(&self);
}

impl std::fmt::Debug for dyn Doorbell {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Doorbell")
    }
}

/// What an event loop has done since it started.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoopCounters {
    /// Turns of the loop.
    pub turns: u64,
    /// System calls that entered the ring.
    pub enters: u64,
    /// Times the core slept.
    pub sleeps: u64,
    /// Completions handled.
    pub completions: u64,
    /// Task polls that took longer than [`STALL_NS_MAX`].
    pub stalls: u64,
    /// The longest single poll of a task, in nanoseconds.
    pub poll_ns_longest: u64,
    /// Operations submitted to the ring.
    pub submissions: u64,
}

/// A task poll longer than this counts as a stall: reads behind it wait that long.
pub const STALL_NS_MAX: u64 = 1_000_000;

/// Size, alignment and name of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceGeometry {
    /// Where it was opened.
    pub path: PathBuf,
    /// Usable bytes.
    pub length: u64,
    /// Smallest unit of direct I/O in bytes; at most [`PAGE_SIZE`], or the device is refused.
    pub alignment: u32,
    /// Whether it is a raw block device rather than a file.
    pub is_block_device: bool,
    /// NUMA node it hangs on, where /sys says so.
    pub numa_node: Option<u32>,
}

/// Ages of the oldest operations that a device works on, waited for or not; zero where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OldestOperations {
    /// Of [`Device::read`].
    pub read: Duration,
    /// Of all others.
    pub other: Duration,
}

impl OldestOperations {
    /// Of all operations.
    pub fn any(self) -> Duration {
        self.read.max(self.other)
    }

    /// Looks at one operation more.
    fn note(&mut self, is_read: bool, age: Duration) {
        let oldest = if is_read {
            &mut self.read
        } else {
            &mut self.other
        };
        *oldest = age.max(*oldest);
    }
}

/// Direct I/O on whole pages. Offsets are bytes and multiples of [`PAGE_SIZE`].
pub trait Device: Clone + 'static {
    /// Size and alignment.
    fn geometry(&self) -> &DeviceGeometry;

    /// Fills all pages of `lease` from `offset`. Short reads are continued inside. The device may be
    /// asked at once or when the future is first polled.
    ///
    /// The bytes are what the device returned: the caller checks them before it seals the lease.
    ///
    /// # Errors
    /// The device's error with path and offset; the lease is dropped and its pages are vacant.
    fn read(
        &self,
        offset: u64,
        lease: FrameLease,
    ) -> impl Future<Output = Result<FrameLease, IoError>> + 'static;

    /// As [`Device::read`], for work that loses more by a read that is given up than by one that takes long:
    /// [`Device::time_out`] counts it among the other operations.
    ///
    /// # Errors
    /// As [`Device::read`].
    fn read_patiently(
        &self,
        offset: u64,
        lease: FrameLease,
    ) -> impl Future<Output = Result<FrameLease, IoError>> + 'static;

    /// Writes the sealed pages of `slice` at `offset`. Short writes are continued inside.
    ///
    /// # Errors
    /// The device's error with path and offset; what the pages hold then is unknown.
    fn write(
        &self,
        offset: u64,
        slice: FrameSlice,
    ) -> impl Future<Output = Result<(), IoError>> + 'static;

    /// Makes completed writes survive a power cut.
    ///
    /// # Errors
    /// The device's error with its path.
    fn flush(&self) -> impl Future<Output = Result<(), IoError>> + 'static;

    /// Ends waits that take too long: operations of [`Device::read`] that began `read_max` ago or earlier, and other operations that
    /// began `other_max` ago or earlier, resolve with [`IoErrorKind::Timeout`]. The memory of such an
    /// operation stays with the device until it answers. Looks at every operation of the core: for a call
    /// a second.
    fn time_out(&self, read_max: Duration, other_max: Duration) -> OldestOperations;

    /// Tells the device that `length` bytes from `offset` are free. A hint: errors are ignored
    /// where the device has no such operation.
    ///
    /// # Errors
    /// The device's error with path and offset.
    fn discard(
        &self,
        offset: u64,
        length: u64,
    ) -> impl Future<Output = Result<(), IoError>> + 'static;
}

/// Accepts connections.
pub trait Listener: 'static {
    /// What it accepts.
    type Stream: Stream;

    /// The bound address, with the port that was picked.
    fn local_address(&self) -> SocketAddr;

    /// The next connection.
    ///
    /// # Errors
    /// When accepting fails for good (not for one peer).
    fn accept(&self) -> impl Future<Output = Result<Self::Stream, IoError>>;
}

/// A connected byte stream. A handle: clones act on the same connection, so that one task can
/// receive while another sends. At most one receive and one send at a time.
pub trait Stream: Clone + 'static {
    /// Bytes that arrived, in memory of the backend; dropping gives the memory back.
    type Received: std::ops::Deref<Target = [u8]> + 'static;

    /// The other end.
    fn peer(&self) -> SocketAddr;

    /// The next bytes; empty at the end of the stream.
    ///
    /// # Errors
    /// When the connection broke.
    fn receive(&self) -> impl Future<Output = Result<Self::Received, IoError>>;

    /// Sends everything in `batch` in order, in one vectored call where possible, and gives the
    /// batch back for reuse with its payloads still held. Call [`SendBatch::clear`] to let go of them.
    ///
    /// # Errors
    /// When the connection broke; how much was sent is unknown.
    fn send(
        &self,
        batch: Box<SendBatch>,
    ) -> impl Future<Output = (Result<(), IoError>, Box<SendBatch>)>;

    /// Ends the connection in both directions: pending and later receives and sends end.
    fn close(&self);
}

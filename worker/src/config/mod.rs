//! The configuration: a TOML file and flags over it, checked as a whole before anything starts.
//!
//! The invariant: a [`Config`] that exists is one that can be tried; what is wrong with a file is
//! said all at once, with line, column and what was expected. Nothing here touches a device or a
//! socket, so checking is always safe.
//!
//! | module | holds |
//! |---|---|
//! | [`keys`] | every key, once: type, default, meaning |
//! | [`kind`] | the types of keys and their reading |
//! | [`quantity`] | sizes and durations |
//! | [`flags`] | the command line |
//! | [`mistake`] | what is wrong, and where |
//! | [`reload`] | what changed, and what of it can be applied |
//! | [`memory`] | the memory budget |
//! | [`mount_roots`] | where operators may mount at run time |
//! | [`s3`] | the S3 face and its keys |
//! | [`mod@reference`] | `docs/configuration.md` |

mod check;
mod fields;
pub mod flags;
pub mod keys;
pub mod kind;
pub mod memory;
pub mod mistake;
pub mod mount_roots;
pub mod quantity;
pub mod reference;
pub mod reload;
pub mod s3;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use check::{TOKEN_BYTES_MAX, TOKEN_BYTES_MIN};
pub(crate) use check::{normal_path, normal_uri};
pub use flags::WorkerFlags;
pub use mistake::{Mistake, Mistakes, Origin};
pub use mount_roots::MountRoots;
pub use reload::Changes;
pub use s3::{S3Config, S3Key};

use crate::cache::policy::PolicyKind;
use crate::shard::request::ShardLimits;

/// Longest file that is read: a thousand mounts fit a tenth of it.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// A complete, checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the worker; `None`: the uuid of the device set.
    pub worker_id: Option<String>,
    /// CPUs of the shards, one each.
    pub cores: Vec<usize>,
    /// CPUs of the control thread.
    pub control_cpus: Vec<usize>,
    /// CPUs of the fetch threads.
    pub fetch_cpus: Vec<usize>,
    /// Number of fetch threads.
    pub fetch_threads: usize,
    /// Niceness of the fetch threads, 0 to 19.
    pub fetch_nice: i32,
    /// Memory for look-ups, of all shards.
    pub lookup_bytes: u64,
    /// Memory that look-ups of all shards hold while they run.
    pub lookup_working_bytes: u64,
    /// Most bytes that one look-up in one object may read.
    pub lookup_scan_bytes_max: u64,
    /// Memory for listings that are kept.
    pub listing_bytes: u64,
    /// Threads for the longer work of look-ups.
    pub lookup_threads: usize,
    /// Look-ups of a column until a key index of it is built; 0: never.
    pub lookup_index_after: u32,
    /// Devices.
    pub devices: Vec<PathBuf>,
    /// Size of devices that are to be created when missing.
    pub device_bytes: Option<u64>,
    /// Age of an operation at which its device is taken out; zero: never.
    pub device_timeout: Duration,
    /// Region size of devices that are created.
    pub region_bytes: u64,
    /// Partitions of devices that are created.
    pub partitions: u32,
    /// Memory of all shards.
    pub dram_bytes: u64,
    /// Which frames the DRAM tier keeps.
    pub dram_policy: PolicyKind,
    /// Data plane: the address of shard 0.
    pub listen: SocketAddr,
    /// Control plane.
    pub control: SocketAddr,
    /// Operations port.
    pub operations: SocketAddr,
    /// Whether no token is needed.
    pub insecure: bool,
    /// How long a core polls before it sleeps.
    pub spin: Duration,
    /// What the cores run on.
    pub backend: Backend,
    /// Size from which on answers leave without a copy.
    pub send_zero_copy_above: Option<u64>,
    /// Limits.
    pub limits: Limits,
    /// Who may connect.
    pub tokens: Vec<Token>,
    /// Secret of the operator that needs no configuration: the process makes it at each start. No key sets it.
    pub local_token: Option<LocalToken>,
    /// Places where operators may mount at run time.
    pub mount_roots: MountRoots,
    /// Names by which the operations port may be called beside `localhost` and addresses.
    pub operations_hosts: Vec<String>,
    /// The S3 face.
    pub s3: S3Config,
    /// What appears where, in the order of the file; slots are positions.
    pub mounts: Vec<crate::mount::Mount>,
    /// Directives of the log.
    pub log_level: String,
    /// Form of the log.
    pub log_format: LogFormat,
    /// The fields as they were read, to compare at a reload.
    document: fields::Document,
}

/// What a core runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A ring of our own.
    Uring,
    /// The glommio executor, for comparison.
    #[cfg(feature = "glommio")]
    Glommio,
}

/// Bounds of the whole worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes a second written to all devices; 0: no limit.
    pub device_write_bytes_per_second: u64,
    /// Bytes a second that are scrubbed; 0: off.
    pub scrub_bytes_per_second: u64,
    /// Bytes a second fetched; 0: no limit.
    pub under_store_bytes_per_second: u64,
    /// Requests to under-stores in flight.
    pub under_store_requests: usize,
    /// Objects in flight of a load job.
    pub load_objects: usize,
    /// Control connections.
    pub control_connections: usize,
    /// Calls in flight of a control connection.
    pub control_calls: usize,
    /// Connections to the operations port.
    pub operations_connections: usize,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The secret of the operator that needs no configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct LocalToken(pub String);

impl fmt::Debug for LocalToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("LocalToken")
    }
}

/// One token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// What mounts call its bearer.
    pub name: String,
    /// The token itself.
    pub secret: String,
    /// Whether its bearer may change things.
    pub is_operator: bool,
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "Token({}, operator {})",
            self.name, self.is_operator
        )
    }
}

impl Config {
    /// Reads the file that `flags` name, if any, and puts the flags over it.
    ///
    /// # Errors
    /// All mistakes that were found.
    pub fn load(flags: &WorkerFlags) -> Result<Config, Mistakes> {
        let Some(path) = &flags.config else {
            return Config::from_text(Path::new(""), "", flags);
        };
        let text = read_file(path).map_err(|message| {
            let origin = Origin::File {
                path: path.as_path().into(),
                line: 1,
                column: 1,
            };
            Mistakes(vec![Mistake { origin, message }])
        })?;
        Config::from_text(path, &text, flags)
    }

    /// Like [`Config::load`], of a text that stands for the file at `path`.
    ///
    /// # Errors
    /// All mistakes that were found.
    pub fn from_text(path: &Path, text: &str, flags: &WorkerFlags) -> Result<Config, Mistakes> {
        Config::on_cpus(path, text, flags, &cpus_allowed())
    }

    /// Like [`Config::from_text`], on a machine whose CPUs are `cpus_allowed`.
    ///
    /// # Errors
    /// All mistakes that were found.
    pub fn on_cpus(
        path: &Path,
        text: &str,
        flags: &WorkerFlags,
        cpus_allowed: &[usize],
    ) -> Result<Config, Mistakes> {
        let mut mistakes = Mistakes::default();
        let source = mistake::Source::new(path, text);
        let mut document = fields::Document::read(&source, text, &mut mistakes);
        let is_readable = mistakes.0.is_empty();
        flags.override_in(&mut document, &mut mistakes);
        let config = check::config(document, cpus_allowed, &mut mistakes);
        if mistakes.0.is_empty() {
            return Ok(config);
        }
        if !is_readable {
            drop_echoes(&mut mistakes);
        }
        mistakes.0.sort_by_key(|mistake| match &mistake.origin {
            Origin::File { line, column, .. } => (0, *line, *column),
            Origin::Flag(_) => (1, 0, 0),
            Origin::Default => (2, 0, 0),
        });
        Err(mistakes)
    }

    /// The limits of each shard at the start: an equal part of the worker's.
    pub fn shard_limits(&self) -> ShardLimits {
        self.part_of(&self.limits)
    }

    /// An equal part of `limits` for each of this worker's shards.
    pub fn part_of(&self, limits: &Limits) -> ShardLimits {
        let shards = self.cores.len() as u64;
        let part = |bytes: u64| {
            if bytes == 0 {
                0
            } else {
                (bytes / shards).max(1)
            }
        };
        ShardLimits {
            device_write_bytes_per_second: part(limits.device_write_bytes_per_second),
            scrub_bytes_per_second: part(limits.scrub_bytes_per_second),
        }
    }

    /// Takes over from `new` what a reload applies; the rest stays what the process runs with, so
    /// that the next comparison lists it again.
    pub fn take_over(&mut self, new: &Config) {
        self.limits = Limits {
            operations_connections: self.limits.operations_connections,
            ..new.limits
        };
        self.tokens.clone_from(&new.tokens);
        self.s3.keys.clone_from(&new.s3.keys);
        self.s3.anonymous.clone_from(&new.s3.anonymous);
        self.mounts.clone_from(&new.mounts);
        self.mount_roots.clone_from(&new.mount_roots);
        self.log_level.clone_from(&new.log_level);
        self.document.take_over(&new.document);
    }
}

/// What misses because of a mistake elsewhere would only distract from it.
fn drop_echoes(mistakes: &mut Mistakes) {
    mistakes
        .0
        .retain(|mistake| mistake.origin != Origin::Default);
}

fn read_file(path: &Path) -> Result<String, String> {
    let length = std::fs::metadata(path)
        .map_err(|error| format!("cannot be read: {error}"))?
        .len();
    if length > FILE_BYTES_MAX {
        return Err(format!(
            "{length} bytes are more than a configuration may have ({FILE_BYTES_MAX})"
        ));
    }
    std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))
}

/// CPUs that this process may use, ascending, as the kernel tells in /proc/self/status.
pub fn cpus_allowed() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .and_then(|list| kind::parse_cpus(list.trim()).ok())
        .unwrap_or_else(|| {
            // Without /proc, as many as the standard library counts, from the first on.
            (0..std::thread::available_parallelism().map_or(1, usize::from)).collect()
        })
}

//! The worker of a measure: a child process with one mount and one device file.

use std::io::BufRead;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use corelane_rpc_schema::{BLOCK_BYTES_DEFAULT, BLOCK_BYTES_MIN};
use corelane_worker::config::{Config, WorkerFlags};
use corelane_worker::start::Worker;
use corelane_worker::store::synthetic::SYNTHETIC_URI;
use serde_json::{Value, json};

use super::bench::Bench;
use crate::allocations;
use crate::ceiling::prepare_file;
use crate::load::LoadSpec;
use crate::process;
use crate::runtimes::Runtime;
use crate::sample::Watched;
use crate::server_process::{Ready, ServerProcess, answer};
use crate::target::greeting;
use crate::target::sigv4::Credentials;

/// The object that measures read, as mounted.
pub const OBJECT_PATH: &str = "/gate/object";

/// Id of the key that may read and list on the S3 face of workers under test, as anybody may without.
pub const S3_KEY_ID: &str = "GATE";
/// Its secret.
pub const S3_SECRET: &str = "the-gate-has-no-secrets";
/// The region that signatures are for.
pub const S3_REGION: &str = "us-east-1";

/// Who signs what measures ask of the S3 face.
pub fn s3_credentials() -> Credentials {
    Credentials::new(S3_KEY_ID, S3_SECRET, S3_REGION)
}

/// Values of the key `dram_policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DramPolicy {
    /// The default.
    S3Fifo,
    /// Nothing that the device holds.
    Noop,
}

impl DramPolicy {
    /// The key's value.
    pub fn name(self) -> &'static str {
        match self {
            DramPolicy::S3Fifo => "s3-fifo",
            DramPolicy::Noop => "noop",
        }
    }
}

/// What a worker is to be.
#[derive(Clone, Debug)]
pub struct WorkerSpec {
    /// Where its files go; another name for each kind of worker.
    pub directory: PathBuf,
    /// Bytes of the object.
    pub object_bytes: u64,
    /// Its memory budget.
    pub dram_bytes: u64,
    /// How long it polls before it sleeps.
    pub spin: Duration,
    /// Which frames its DRAM tier keeps.
    pub dram_policy: DramPolicy,
    /// CPUs of its shards, one each.
    pub cores: Vec<usize>,
    /// Where it listens.
    pub ip: IpAddr,
    /// Regions of the device beyond what the object and the least device need.
    pub spare_regions: u64,
    /// Its device, made if it is missing; none for one in the directory.
    pub device: Option<PathBuf>,
    /// The mount of synthetic records instead of the object: nothing is filled.
    pub is_synthetic: bool,
}

impl WorkerSpec {
    /// A worker on the server's core, with files in `directory`.
    pub fn new(bench: &Bench, directory: PathBuf, object_bytes: u64, dram_bytes: u64) -> Self {
        WorkerSpec {
            directory,
            object_bytes,
            dram_bytes,
            spin: Duration::ZERO,
            dram_policy: DramPolicy::S3Fifo,
            cores: vec![bench.options.server_core],
            ip: IpAddr::from([127, 0, 0, 1]),
            spare_regions: 1,
            device: None,
            is_synthetic: false,
        }
    }
}

/// A running worker whose cache holds the object.
#[derive(Debug)]
pub struct GateWorker {
    /// The process.
    pub process: ServerProcess,
    /// Its memory budget.
    pub dram_bytes: u64,
    /// Its S3 face.
    pub s3: SocketAddr,
    cores: Vec<usize>,
    operations: SocketAddr,
}

impl GateWorker {
    /// What to look at while it is loaded.
    pub fn watched(&self) -> Watched {
        Watched {
            pids: vec![self.process.pid()],
            cores: self.cores.clone(),
            operations: vec![self.operations],
        }
    }

    /// A load on it, but for what the measure chooses.
    pub fn load(&self, bench: &Bench, connections: u32, depth: u32, read_bytes: u32) -> LoadSpec {
        bench.load(self.process.address(), connections, depth, read_bytes)
    }

    /// Starts one and reads the object once, so that it is in the cache.
    ///
    /// # Errors
    /// A sentence.
    pub fn start(bench: &Bench, spec: &WorkerSpec) -> Result<GateWorker, String> {
        Self::start_on(bench, spec, Runtime::Uring)
    }

    /// The same, on another backend than the default.
    ///
    /// # Errors
    /// A sentence; of a worker without that backend, too.
    pub fn start_on(
        bench: &Bench,
        spec: &WorkerSpec,
        backend: Runtime,
    ) -> Result<GateWorker, String> {
        let fail = |error: std::io::Error| format!("the worker under test: {error}");
        let objects = spec.directory.join("objects");
        std::fs::create_dir_all(&objects).map_err(fail)?;
        prepare_file(&objects.join("object"), spec.object_bytes).map_err(fail)?;
        let config = spec.directory.join("worker.toml");
        let text = format!(
            "backend = \"{}\"\n{}",
            backend.name(),
            configuration(bench, spec)
        );
        std::fs::write(&config, text).map_err(fail)?;
        let start = || {
            ServerProcess::start([
                "serve-for-gate".as_ref(),
                "--config".as_ref(),
                config.as_os_str(),
            ])
            .map_err(fail)
        };
        let mut process = start()?;
        if !spec.is_synthetic {
            fill(process.address()).map_err(fail)?;
        }
        if !spec.is_synthetic && spec.dram_policy == DramPolicy::Noop {
            // The fill leaves the object's end in DRAM, which a restart empties.
            drop(process);
            process = start()?;
        }
        let address = |name: &str| -> Result<SocketAddr, String> {
            let value = process.ready().details[name].clone();
            serde_json::from_value(value).map_err(|error| format!("address of {name}: {error}"))
        };
        Ok(GateWorker {
            operations: address("operations")?,
            s3: address("s3")?,
            process,
            dram_bytes: spec.dram_bytes,
            cores: spec.cores.clone(),
        })
    }
}

/// Reads the whole object twice: the first time fetches, the second shows that it is held.
fn fill(address: SocketAddr) -> std::io::Result<()> {
    let (stream, hello) = greeting::connect(address, "")?;
    for _ in 0..2 {
        let opened = greeting::open(&stream, OBJECT_PATH)?;
        greeting::read_all(&stream, &opened, hello.read_bytes_max)?;
    }
    // What was admitted last waits for others to share its flush.
    std::thread::sleep(Duration::from_millis(500));
    Ok(())
}

fn configuration(bench: &Bench, spec: &WorkerSpec) -> String {
    const REGION: u64 = 16 << 20;
    let options = &bench.options;
    // Half as many regions again as the object takes, and no fewer than a device must have.
    let device = (spec.object_bytes * 3 / 2)
        .max(40 * REGION)
        .next_multiple_of(REGION)
        + spec.spare_regions * REGION;
    let cores: Vec<String> = spec.cores.iter().map(usize::to_string).collect();
    let quoted = |path: &Path| path.display().to_string();
    format!(
        "cores = \"{cores}\"\ncontrol_cpus = \"{load}\"\nfetch_cpus = \"{load}\"\nfetch_nice = 10\n\
         devices = [\"{device_path}\"]\ndevice_size = {device}\nregion_size = \"16M\"\ndram = {dram}\n\
         dram_policy = \"{policy}\"\n\
         listen = \"{ip}:0\"\ncontrol = \"127.0.0.1:0\"\noperations = \"127.0.0.1:0\"\n\
         spin = \"{spin}us\"\n\n\
         [s3]\nlisten = \"{ip}:0\"\nanonymous = [\"read\", \"list\"]\nregion = \"{S3_REGION}\"\n\n\
         [[s3_key]]\nid = \"{S3_KEY_ID}\"\nsecret = \"{S3_SECRET}\"\n\n[limits]\nscrub_reads = 0\n\n[log]\nlevel = \"warn\"\n\n\
         [[mount]]\npath = \"/gate\"\nuri = \"{uri}\"\nfreshness = \"immutable\"\nblock_size = \"{block}\"\n",
        cores = cores.join(","),
        load = options.load_core,
        ip = spec.ip,
        device_path = match &spec.device {
            Some(path) => quoted(path),
            None => quoted(&spec.directory.join("device")),
        },
        dram = spec.dram_bytes,
        policy = spec.dram_policy.name(),
        spin = spec.spin.as_micros(),
        uri = match spec.is_synthetic {
            true => SYNTHETIC_URI.to_owned(),
            false => format!("file://{}", quoted(&spec.directory.join("objects"))),
        },
        block = match spec.is_synthetic {
            true => BLOCK_BYTES_MIN,
            false => BLOCK_BYTES_DEFAULT,
        },
    )
}

/// Child side: a worker of this process, with its allocations counted.
#[derive(Debug, Args)]
pub struct ServeForGate {
    /// Its configuration.
    #[arg(long)]
    config: PathBuf,
}

impl ServeForGate {
    /// Serves until standard input ends.
    ///
    /// # Errors
    /// When the worker does not start.
    pub fn run(self) -> Result<(), String> {
        let flags = WorkerFlags {
            config: Some(self.config),
            ..WorkerFlags::default()
        };
        let config = Config::load(&flags).map_err(|mistakes| mistakes.to_string())?;
        let worker = Worker::start(config).map_err(|error| error.to_string())?;
        let report = worker.report();
        let details = json!({
            "recovery_seconds": report.recovery.as_secs_f64(),
            "recovered_blocks": report.recovered_blocks,
            "operations": worker.operations_address(),
            "control": worker.control_address(),
            "s3": report.s3.as_deref().and_then(|url| url.strip_prefix("http://")),
        });
        let ready = Ready {
            address: worker.data_address(),
            details,
        };
        ready.announce().map_err(|error| error.to_string())?;
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            let result = match line.as_str() {
                "allocations" => answer(&allocations_by_thread()),
                other => answer(&json!({ "error": format!("unknown question {other}") })),
            };
            result.map_err(|error| error.to_string())?;
        }
        worker.stop().map_err(|error| error.to_string())
    }
}

/// Allocations of each thread since it started, with its name and affinity.
fn allocations_by_thread() -> Value {
    let counts = allocations::by_thread();
    let threads = process::threads(std::process::id()).unwrap_or_default();
    let rows = threads.iter().map(|thread| {
        let allocations = counts.iter().filter(|(id, _)| *id == thread.id).map(|(_, count)| count).sum::<u64>();
        json!({ "id": thread.id, "name": thread.name, "affinity": thread.affinity, "allocations": allocations })
    });
    Value::Array(rows.collect())
}

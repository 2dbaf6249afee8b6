//! A worker whose cache holds the files of look-ups.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::tables::{Tables, bytes_of};
use crate::gate::bench::Bench;
use crate::gate::pairs::fresh_place;
use crate::gate::worker::DramPolicy;
use crate::sample::Watched;
use crate::server_process::ServerProcess;
use crate::target::look_up::Table;
use crate::target::{greeting, http_get};

/// How long a key index may take.
const INDEX_DEADLINE: Duration = Duration::from_secs(60);

/// Look-ups that ask for one: more than the worker waits for.
const LOOKUPS_FOR_INDEX: u64 = 20;

/// Where its blocks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    /// In DRAM, all of them.
    Dram,
    /// On the drive, and nowhere else.
    Drive,
}

/// What a worker is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct LookupSpec {
    pub data: Data,
    /// Half of it for decoded pages.
    pub lookup_bytes: u64,
    /// Look-ups until a key index is built; 0: never.
    pub index_after: u32,
    pub spin: Duration,
}

impl LookupSpec {
    /// With its blocks in DRAM and 64 MiB for decoded pages, polling never.
    pub fn new() -> Self {
        LookupSpec {
            data: Data::Dram,
            lookup_bytes: 128 << 20,
            index_after: 16,
            spin: Duration::ZERO,
        }
    }
}

/// A running one.
#[derive(Debug)]
pub(super) struct LookupWorker {
    pub process: ServerProcess,
    operations: SocketAddr,
    core: usize,
}

impl LookupWorker {
    /// Starts one and reads `files`, so that they are in its cache.
    pub fn start(
        bench: &mut Bench,
        spec: LookupSpec,
        files: &[&Table],
    ) -> Result<LookupWorker, String> {
        let tables = Tables::of(bench)?;
        let root = match spec.data {
            Data::Dram => bench.fast_directory(),
            Data::Drive => bench.directory(),
        };
        let place = fresh_place(root, "lookup-worker")?;
        let mut bytes = 0;
        let paths: Vec<&String> = files.iter().flat_map(|table| &table.paths).collect();
        for path in &paths {
            bytes += bytes_of(&tables.local(path))?;
        }
        let config = place.join("worker.toml");
        std::fs::write(&config, configuration(bench, spec, &place, &tables, bytes))
            .map_err(|error| error.to_string())?;
        let fail = |error: std::io::Error| format!("the worker under test: {error}");
        let start = || {
            let arguments = ["serve-for-gate".as_ref(), "--config".as_ref()];
            ServerProcess::start(arguments.into_iter().chain([config.as_os_str()])).map_err(fail)
        };
        let mut process = start()?;
        fill(process.address(), &paths).map_err(fail)?;
        if spec.data == Data::Drive {
            // What the fill left in DRAM goes with a restart.
            drop(process);
            process = start()?;
        }
        let operations = process.ready().details["operations"].clone();
        Ok(LookupWorker {
            operations: serde_json::from_value(operations).map_err(|error| error.to_string())?,
            process,
            core: bench.options.server_core,
        })
    }

    /// What to look at while it is loaded.
    pub fn watched(&self) -> Watched {
        Watched {
            operations: vec![self.operations],
            ..Watched::one(self.process.pid(), self.core)
        }
    }

    /// Looks keys of `table` up until it has a key index in each file.
    pub fn index(&self, table: &Table) -> Result<(), String> {
        let wanted = self.indexes()? + table.paths.len() as f64;
        let mut asker = super::asker::Asker::connect(self)?;
        // Each file has keys of its own.
        let parts = table.paths.len() as u64;
        for part in 0..parts {
            for round in 0..LOOKUPS_FOR_INDEX {
                let rank = part * table.keys / parts + round;
                asker.ask(&table.request(table.key_of(rank), false))?;
            }
        }
        let deadline = Instant::now() + INDEX_DEADLINE;
        while self.indexes()? < wanted {
            if Instant::now() > deadline {
                return Err("no key index was built; see the worker's log".to_owned());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn indexes(&self) -> Result<f64, String> {
        let text = http_get::get(self.operations, "/metrics", Duration::from_secs(10))
            .map_err(|error| error.to_string())?;
        let lines = text
            .lines()
            .filter(|line| line.starts_with("corelane_key_indexes_built_total"));
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(values.sum())
    }
}

/// Reads all files twice: the first time fetches, the second shows that they are held.
fn fill(address: SocketAddr, paths: &[&String]) -> std::io::Result<()> {
    let (stream, hello) = greeting::connect(address, "")?;
    for _ in 0..2 {
        for path in paths {
            let opened = greeting::open(&stream, path)?;
            greeting::read_all(&stream, &opened, hello.read_bytes_max)?;
        }
    }
    // What was admitted last waits for others to share its flush.
    std::thread::sleep(Duration::from_millis(500));
    Ok(())
}

fn configuration(
    bench: &Bench,
    spec: LookupSpec,
    place: &Path,
    tables: &Tables,
    bytes: u64,
) -> String {
    const REGION: u64 = 16 << 20;
    let device = (bytes * 3 / 2).max(40 * REGION).next_multiple_of(REGION);
    let (dram, policy) = match spec.data {
        Data::Dram => (bytes * 5 / 4 + (256 << 20), DramPolicy::S3Fifo),
        Data::Drive => (96 << 20, DramPolicy::Noop),
    };
    // Its threads for long work run on the server's core, too: all of its CPU is one core's.
    format!(
        "cores = \"{core}\"\ncontrol_cpus = \"{core}\"\nfetch_cpus = \"{load}\"\nfetch_nice = 10\n\
         devices = [\"{place}/device\"]\ndevice_size = {device}\nregion_size = \"16M\"\ndram = {dram}\n\
         dram_policy = \"{policy}\"\nlookup_memory = {lookup}\nlookup_index_after = {after}\n\
         listen = \"127.0.0.1:0\"\ncontrol = \"127.0.0.1:0\"\noperations = \"127.0.0.1:0\"\n\
         spin = \"{spin}us\"\n\n[s3]\nlisten = \"127.0.0.1:0\"\n\n[limits]\nscrub_reads = 0\n\n\
         [log]\nlevel = \"warn\"\n\n[[mount]]\npath = \"/gate\"\nuri = \"file://{tables}\"\n\
         freshness = \"immutable\"\n",
        core = bench.options.server_core,
        load = bench.options.load_core,
        place = place.display(),
        policy = policy.name(),
        lookup = spec.lookup_bytes,
        after = spec.index_after,
        spin = spec.spin.as_micros(),
        tables = tables.directory.display(),
    )
}

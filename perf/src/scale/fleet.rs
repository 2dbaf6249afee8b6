//! The workers of a scaling run: child processes that mount one directory of objects.
//!
//! The invariant: a deployment of `count` holds in DRAM what will be asked of it before it is
//! measured, and those that are not measured sleep: no worker polls here.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use corelane_rpc_schema::STRIPE_BYTES;

use crate::load::LoadSpec;
use crate::random::Random;
use crate::sample::Watched;
use crate::server_process::ServerProcess;
use crate::target::data_plane::DataPlane;
use crate::target::{Target, greeting};
use crate::workload::Piece;

/// Where workers mount the objects.
pub(super) const MOUNT: &str = "/scale";

/// Memory of a shard beside its frames: index, checksums, read buffers and fills.
const BUDGET_BESIDE_FRAMES: u64 = 192 << 20;

/// Pieces that objects are fetched in.
const FILL_BYTES: u64 = 1 << 20;

/// After a fill, until what was admitted last is flushed.
const FLUSH: Duration = Duration::from_millis(500);

const REGION: u64 = 16 << 20;

/// What is added from step to step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Unit {
    /// Shards of one worker.
    Shards,
    /// Workers of one shard each.
    Workers,
}

impl Unit {
    /// As in `2 workers`.
    pub fn name(self, count: u32) -> &'static str {
        match (self, count) {
            (Unit::Shards, 1) => "shard",
            (Unit::Shards, _) => "shards",
            (Unit::Workers, 1) => "worker",
            (Unit::Workers, _) => "workers",
        }
    }
}

/// What the workers are to be.
#[derive(Clone, Debug)]
pub struct FleetSpec {
    /// Shards or workers.
    pub unit: Unit,
    /// The greatest count.
    pub count_max: u32,
    /// CPUs of the shards: dealt to workers in turn, or one for each shard.
    pub server_cores: Vec<usize>,
    /// CPUs for the workers' other threads: those of the generators.
    pub load_cores: Vec<usize>,
    /// The objects as files.
    pub objects: PathBuf,
    /// Where devices and configurations go.
    pub directory: PathBuf,
    /// Bytes of the objects as frames hold them.
    pub frame_bytes: u64,
    /// How many objects there are.
    pub object_count: u64,
}

impl FleetSpec {
    /// Bytes of a worker's memory budget: all objects and a quarter more, since hashing divides them
    /// among shards only about evenly.
    pub fn dram_bytes(&self, shards: u32) -> u64 {
        self.frame_bytes / 4 * 5 + BUDGET_BESIDE_FRAMES * u64::from(shards)
    }

    /// Memory of all workers together.
    pub fn dram_bytes_of_all(&self) -> u64 {
        let shards = |count| match self.unit {
            Unit::Shards => count,
            Unit::Workers => 1,
        };
        (1..=self.count_max)
            .map(|count| self.dram_bytes(shards(count)))
            .sum()
    }

    /// The CPUs of the shards of worker `index`, counted from zero.
    fn cores_of(&self, index: usize) -> Vec<usize> {
        match self.unit {
            Unit::Shards => self.server_cores[..=index].to_vec(),
            Unit::Workers => vec![self.server_cores[index % self.server_cores.len()]],
        }
    }

    /// The CPUs that a deployment of `count` runs on, each shard's.
    pub fn cores_of_deployment(&self, count: u32) -> Vec<usize> {
        let count = count as usize;
        match self.unit {
            Unit::Shards => self.cores_of(count - 1),
            Unit::Workers => (0..count).flat_map(|index| self.cores_of(index)).collect(),
        }
    }

    /// Workers beyond loopback's first address have one of their own, as on hosts of their own.
    fn ip_of(&self, index: usize) -> IpAddr {
        match self.unit {
            Unit::Shards => IpAddr::from([127, 0, 0, 1]),
            Unit::Workers => IpAddr::from([127, 0, 0, 1 + index as u8]),
        }
    }

    fn configuration(&self, index: usize, directory: &Path) -> String {
        let cores = self.cores_of(index);
        let list = |cores: &[usize]| {
            let texts: Vec<String> = cores.iter().map(usize::to_string).collect();
            texts.join(",")
        };
        let device = (self.frame_bytes * 3 / 2)
            // The index has room for two entries a MiB of device, and every object takes one.
            .max(self.object_count << 20)
            .max(40 * REGION)
            .next_multiple_of(REGION);
        format!(
            "cores = \"{cores}\"\ncontrol_cpus = \"{load}\"\nfetch_cpus = \"{load}\"\nfetch_nice = 10\n\
             devices = [\"{device_path}\"]\ndevice_size = {device}\nregion_size = \"16M\"\ndram = {dram}\n\
             listen = \"{ip}:0\"\ncontrol = \"127.0.0.1:0\"\noperations = \"127.0.0.1:0\"\nspin = \"0us\"\n\n\
             [limits]\nscrub_reads = 0\n\n[log]\nlevel = \"warn\"\n\n\
             [[mount]]\npath = \"{MOUNT}\"\nuri = \"file://{objects}\"\nfreshness = \"immutable\"\n",
            cores = list(&cores),
            load = list(&self.load_cores),
            device_path = directory.join("device").display(),
            dram = self.dram_bytes(cores.len() as u32),
            ip = self.ip_of(index),
            objects = self.objects.display(),
        )
    }
}

/// A running worker.
#[derive(Debug)]
struct RunningWorker {
    process: ServerProcess,
    cores: Vec<usize>,
    operations: SocketAddr,
}

/// All workers of a scaling run.
#[derive(Debug)]
pub struct Fleet {
    unit: Unit,
    workers: Vec<RunningWorker>,
}

impl Fleet {
    /// Starts them: one of each number of shards, or as many as the greatest count.
    ///
    /// # Errors
    /// A sentence; a worker that does not start has said why on standard error.
    pub fn start(spec: &FleetSpec) -> Result<Fleet, String> {
        let workers = (0..spec.count_max as usize)
            .map(|index| start_worker(spec, index))
            .collect::<Result<Vec<RunningWorker>, String>>()?;
        Ok(Fleet {
            unit: spec.unit,
            workers,
        })
    }

    fn deployment(&self, count: u32) -> &[RunningWorker] {
        let count = count as usize;
        match self.unit {
            Unit::Shards => &self.workers[count - 1..count],
            Unit::Workers => &self.workers[..count],
        }
    }

    /// The data plane of the deployment of `count`.
    pub fn target(&self, count: u32) -> DataPlane {
        let addresses = self.deployment(count).iter();
        DataPlane {
            addresses: addresses.map(|worker| worker.process.address()).collect(),
            prefix: MOUNT.to_owned(),
            token: String::new(),
            ignores_owners: false,
        }
    }

    /// What to look at while it is loaded.
    pub fn watched(&self, count: u32) -> Watched {
        let deployment = self.deployment(count);
        let mut cores: Vec<usize> = deployment
            .iter()
            .flat_map(|worker| worker.cores.iter().copied())
            .collect();
        cores.sort_unstable();
        cores.dedup();
        Watched {
            pids: deployment
                .iter()
                .map(|worker| worker.process.pid())
                .collect(),
            cores,
            operations: deployment.iter().map(|worker| worker.operations).collect(),
        }
    }

    /// Reads every byte that `spec`, a load on the deployment of `count`, can ask for from the shard
    /// that owns it: once to fetch it, and once to see that it is held. Gives the bytes of each
    /// shard.
    ///
    /// # Errors
    /// A sentence.
    pub fn fill(&self, count: u32, spec: &LoadSpec) -> Result<Vec<u64>, String> {
        let shares = fill(&self.target(count), spec)
            .map_err(|error| format!("{count} {}: {error}", self.unit.name(count)))?;
        std::thread::sleep(FLUSH);
        Ok(shares)
    }
}

fn start_worker(spec: &FleetSpec, index: usize) -> Result<RunningWorker, String> {
    let name = match spec.unit {
        Unit::Shards => format!("{}-shards", index + 1),
        Unit::Workers => format!("worker-{}", index + 1),
    };
    let fail = |error: &dyn std::fmt::Display| format!("{name}: {error}");
    let directory = spec.directory.join(&name);
    std::fs::create_dir_all(&directory).map_err(|error| fail(&error))?;
    let config = directory.join("worker.toml");
    std::fs::write(&config, spec.configuration(index, &directory)).map_err(|error| fail(&error))?;
    let arguments = [
        "serve-for-gate".as_ref(),
        "--config".as_ref(),
        config.as_os_str(),
    ];
    let process = ServerProcess::start(arguments).map_err(|error| fail(&error))?;
    let operations = serde_json::from_value(process.ready().details["operations"].clone())
        .map_err(|error| fail(&error))?;
    Ok(RunningWorker {
        process,
        cores: spec.cores_of(index),
        operations,
    })
}

fn fill(target: &DataPlane, spec: &LoadSpec) -> io::Result<Vec<u64>> {
    let (names, _) = spec.names();
    let catalogue = target.resolve(&names)?;
    let mut lanes: BTreeMap<usize, TcpStream> = BTreeMap::new();
    let mut shares = vec![0; catalogue.endpoints.len()];
    // Owners do not depend on it.
    let mut random = Random::new(1);
    for pass in 0..2 {
        for (index, object) in catalogue.objects.iter().enumerate() {
            for offset in (0..object.length).step_by(FILL_BYTES as usize) {
                let piece = Piece {
                    object: index as u32,
                    length: FILL_BYTES.min(object.length - offset) as u32,
                    offset,
                };
                let endpoint = catalogue.endpoint_of(&piece, &mut random);
                let lane = match lanes.entry(endpoint) {
                    std::collections::btree_map::Entry::Occupied(lane) => lane.into_mut(),
                    std::collections::btree_map::Entry::Vacant(vacant) => {
                        let address = catalogue.endpoints[endpoint];
                        vacant.insert(greeting::connect(address, &target.token)?.0)
                    }
                };
                greeting::read(lane, object.id, offset, piece.length)?;
                if pass == 0 {
                    shares[endpoint] += u64::from(piece.length);
                }
            }
        }
    }
    Ok(shares)
}

const _: () = assert!(
    STRIPE_BYTES.is_multiple_of(FILL_BYTES),
    "no piece crosses a stripe"
);

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(unit: Unit) -> FleetSpec {
        FleetSpec {
            unit,
            count_max: 3,
            server_cores: vec![4, 6, 8],
            load_cores: vec![1, 3],
            objects: PathBuf::from("/objects"),
            directory: PathBuf::from("/directory"),
            frame_bytes: 512 << 20,
            object_count: 768,
        }
    }

    #[test]
    fn shards_have_a_core_each_and_workers_an_address_each() {
        let shards = spec(Unit::Shards);
        assert_eq!(shards.cores_of_deployment(2), [4, 6]);
        let text = shards.configuration(1, Path::new("/directory/2-shards"));
        assert!(text.contains("cores = \"4,6\"") && text.contains("listen = \"127.0.0.1:0\""));
        let workers = FleetSpec {
            server_cores: vec![4, 6],
            ..spec(Unit::Workers)
        };
        assert_eq!(workers.cores_of_deployment(3), [4, 6, 4]);
        let text = workers.configuration(2, Path::new("/directory/worker-3"));
        assert!(text.contains("cores = \"4\"") && text.contains("listen = \"127.0.0.3:0\""));
        assert!(text.contains("fetch_cpus = \"1,3\""));
    }

    #[test]
    fn the_configurations_are_ones_that_a_worker_takes() {
        use corelane_worker::config::{Config, WorkerFlags};
        // Only CPUs that this machine is sure to have.
        let plain = FleetSpec {
            server_cores: vec![0],
            load_cores: vec![0],
            ..spec(Unit::Workers)
        };
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("worker.toml");
        std::fs::write(&path, plain.configuration(0, directory.path())).expect("written");
        let flags = WorkerFlags {
            config: Some(path),
            ..WorkerFlags::default()
        };
        let config = Config::load(&flags).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert_eq!(config.dram_bytes, plain.dram_bytes(1));
    }
}

//! What the measures share: options, files, and what was seen on the way.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tempfile::TempDir;

use super::measure::{Machine, Measure, Report};
use crate::load::{Arrivals, LoadSpec, Verify};
use crate::sample::Sample;
use crate::target::data_plane::DataPlane;
use crate::workload::{Keys, Workload};

/// How the gate is to be run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names of the measures; empty for all.
    pub only: Vec<String>,
    /// Interleaved rounds of each measure.
    pub rounds: usize,
    /// Length of each measured part.
    pub seconds: f64,
    /// The server's core.
    pub server_core: usize,
    /// The generator's core.
    pub load_core: usize,
    /// Where device files are made: ext4 or xfs on the drive to be measured.
    pub directory: PathBuf,
    /// Where files of devices faster than the CPU are made: tmpfs.
    pub fast_directory: PathBuf,
    /// Bytes that DRAM measures read from.
    pub working_set: u64,
    /// Bytes that device measures read from.
    pub device_set: u64,
    /// Which answers are checked.
    pub verify: Verify,
    /// How long worker and ceiling poll at depth 1.
    pub spin: Duration,
    /// The Python that makes the files of look-ups and runs the engines that they are compared with.
    pub python: PathBuf,
    /// Where the files of look-ups are kept for the next run; without it, they are made anew.
    pub tables: Option<PathBuf>,
    /// Everything small and short: the shape of the output, not its figures.
    pub quick: bool,
    /// Progress to standard error.
    pub talks: bool,
}

impl Options {
    /// Whether the measure `name` was asked for.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

/// The state of a run.
#[derive(Debug)]
pub struct Bench {
    /// How it is run.
    pub options: Options,
    /// Measures taken so far.
    pub measures: Vec<Measure>,
    /// Resident memory over the budget, in bytes, of each worker under each load.
    pub memory_over_budget: Vec<(String, i64)>,
    /// Results of one run that serve two measures.
    pub cached: super::store::Cached,
    /// The files of look-ups, once they are made.
    pub(super) tables: Option<super::lookup::Tables>,
    machine: Machine,
    directory: TempDir,
    fast_directory: TempDir,
}

impl Bench {
    /// Makes directories for files, removed at the end, for measures called `known`.
    ///
    /// # Errors
    /// When a directory cannot be made, or the names or cores are unknown.
    pub fn new(options: Options, known: &[&str]) -> Result<Bench, String> {
        for name in &options.only {
            if !known.contains(&name.as_str()) {
                return Err(format!(
                    "there is no measure `{name}`; there are {}",
                    known.join(", ")
                ));
            }
        }
        let temporary = |path: &Path| {
            // Names with `.` in them are no names of objects.
            let path = path
                .canonicalize()
                .map_err(|error| format!("{}: {error}", path.display()))?;
            tempfile::Builder::new()
                .prefix("corelane-gate-")
                .tempdir_in(&path)
                .map_err(|error| format!("cannot make a directory in {}: {error}", path.display()))
        };
        let machine = describe(&options);
        Ok(Bench {
            directory: temporary(&options.directory)?,
            fast_directory: temporary(&options.fast_directory)?,
            machine,
            measures: Vec::new(),
            memory_over_budget: Vec::new(),
            cached: super::store::Cached::default(),
            tables: None,
            options,
        })
    }

    /// Where files on the drive go.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where files on tmpfs go.
    pub fn fast_directory(&self) -> &Path {
        self.fast_directory.path()
    }

    /// Progress.
    pub fn say(&self, text: &str) {
        if self.options.talks {
            eprintln!("{text}");
        }
    }

    /// A load on the server at `address`, but for what the measure chooses.
    pub fn load(
        &self,
        address: std::net::SocketAddr,
        connections: u32,
        depth: u32,
        read_bytes: u32,
    ) -> LoadSpec {
        LoadSpec {
            target: Arc::new(DataPlane::of(address)),
            workload: Workload::points(read_bytes, Keys::Uniform),
            paths: vec![super::worker::OBJECT_PATH.to_owned()],
            arrivals: Arrivals::Closed,
            connections,
            depth,
            verify: self.options.verify,
            warm_up: Duration::from_secs_f64(self.options.seconds / 4.0),
            measured: Duration::from_secs_f64(self.options.seconds),
            spin: Duration::ZERO,
            cores: vec![self.options.load_core],
            seed: 1,
        }
    }

    /// Remembers where the threads of a server ran.
    pub fn note_affinity(&mut self, server: &str, sample: &Sample) {
        self.machine
            .affinity
            .insert(server.to_owned(), sample.threads.clone());
    }

    /// Remembers the memory of a worker with a budget of `budget` bytes under some load.
    pub fn note_memory(&mut self, load: &str, sample: &Sample, budget: u64) {
        self.memory_over_budget.push((
            load.to_owned(),
            sample.resident_bytes as i64 - budget as i64,
        ));
    }

    /// The end.
    pub fn into_report(mut self) -> Report {
        for measure in &self.measures {
            self.machine
                .notes
                .insert(measure.name.clone(), measure.notes.clone());
        }
        Report {
            machine: self.machine,
            measures: self.measures,
        }
    }
}

fn describe(options: &Options) -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
    let run = [
        ("rounds", json!(options.rounds)),
        ("seconds", json!(options.seconds)),
        ("server_core", json!(options.server_core)),
        ("load_core", json!(options.load_core)),
        ("verify", json!(options.verify)),
        ("spin_us_depth1", json!(options.spin.as_micros() as u64)),
        ("spin_us_rates", json!(0)),
        ("working_set_bytes", json!(options.working_set)),
        ("device_set_bytes", json!(options.device_set)),
        ("directory", json!(options.directory)),
        (
            "directory_file_system",
            json!(file_system_of(&options.directory)),
        ),
        ("fast_directory", json!(options.fast_directory)),
        (
            "fast_directory_file_system",
            json!(file_system_of(&options.fast_directory)),
        ),
        ("quick", json!(options.quick)),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        (
            "command",
            json!(std::env::args().collect::<Vec<_>>().join(" ")),
        ),
    ];
    Machine {
        cpu: field(&read("/proc/cpuinfo"), "model name"),
        cpus: std::thread::available_parallelism().map_or(0, usize::from),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        memory_bytes: kib * 1024,
        started_at: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        run: run
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        ..Machine::default()
    }
}

/// The type of the file system that `path` is on, from the longest mount point that holds it.
fn file_system_of(path: &Path) -> String {
    let Ok(path) = path.canonicalize() else {
        return String::new();
    };
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let holding = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        path.starts_with(point).then_some((point.len(), kind))
    });
    holding
        .max_by_key(|(length, _)| *length)
        .map(|(_, kind)| kind.to_owned())
        .unwrap_or_default()
}

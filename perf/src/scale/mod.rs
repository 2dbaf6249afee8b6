//! Scaling: the same load on 1 to N shards of a worker, or on 1 to N workers of one host.
//!
//! The invariant: every count is measured with the same objects, connections, depth, generators and
//! seed, in interleaved rounds, so that a drift of the machine favours none. Where shards and
//! generators are more than the CPUs, the rate cannot rise with the count, the answer says so, and
//! the CPU of an operation is the figure that counts.
//!
//! | module | holds |
//! |---|---|
//! | [`fleet`] | the workers as child processes |
//! | [`steps`] | medians and efficiencies |
//! | [`usl`] | the Universal Scalability Law |

pub mod fleet;
pub mod steps;
pub mod usl;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::ceiling::beside::{self, Beside, Reads};
use crate::gate::rounds::STEAL_PERCENT_MAX;
use crate::load::{Arrivals, LoadSpec, Verify, interrupt};
use crate::process;
use crate::quantities::ByteSize;
use crate::run::Point;
use crate::run::answers::ScaleAnswer;
use crate::sample;
use crate::workload::objects::Sizes;
use crate::workload::{Objects, Workload};
use fleet::{Fleet, FleetSpec, Unit};

/// Most shards or workers: loopback has addresses for more, no test host has CPUs for more.
pub const COUNT_MAX: u32 = 64;

/// How often a round is repeated from which the hypervisor took more than a percent.
const REPEATS_MAX: usize = 3;

/// Objects for each shard or worker where the workload's are divided: hashing then gives the
/// busiest of a few shards some percent more than its share, where 32 stripes give it a third.
const OBJECTS_EACH: u32 = 512;

/// Smallest object after a division: a frame of the DRAM tier.
const OBJECT_BYTES_MIN: u64 = 64 << 10;

/// Most objects: each is opened on every worker before each round.
const OBJECTS_MAX: u32 = 4096;

/// All objects of a quick run.
const QUICK_BYTES: u64 = 32 << 20;

/// How to scale.
#[derive(Clone, Debug)]
pub struct Options {
    /// Shards or workers.
    pub unit: Unit,
    /// The greatest count.
    pub count_max: u32,
    /// CPUs of the shards.
    pub server_cores: Vec<usize>,
    /// CPUs of the generators, one thread each.
    pub load_cores: Vec<usize>,
    /// What is read.
    pub workload: Workload,
    /// The objects instead of the workload's: so many of one size, as large together. None: as many
    /// as spread evenly; 0: those of the workload.
    pub objects: Option<u32>,
    /// When. The first gives the answer; others give points beside it.
    pub arrivals: Vec<Arrivals>,
    /// Connections.
    pub connections: u32,
    /// Reads in flight on each.
    pub depth: u32,
    /// Which answers are checked.
    pub verify: Verify,
    /// Rounds of each count.
    pub rounds: usize,
    /// The measured part of each, in seconds.
    pub seconds: f64,
    /// Seed of keys and arrivals.
    pub seed: u64,
    /// Where objects and devices are made, and removed at the end.
    pub directory: PathBuf,
    /// Whether bare loops are measured beside every round.
    pub with_ceilings: bool,
    /// Everything small and short.
    pub quick: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// The conclusion.
    pub answer: ScaleAnswer,
    /// Every measured load.
    pub points: Vec<Point>,
    /// Whether Ctrl-C ended it early.
    pub is_partial: bool,
}

/// Scales; `say` gets a line for every step of the way.
///
/// # Errors
/// A sentence that ends in what to do.
pub fn run(options: &Options, mut say: impl FnMut(&str)) -> Result<Outcome, String> {
    check(options)?;
    let (workload, mut notes) = divided(options);
    let directory = temporary(&options.directory)?;
    let objects = directory.path().join("objects");
    std::fs::create_dir_all(&objects).map_err(|error| format!("{}: {error}", objects.display()))?;
    say("making the objects");
    let object_bytes = workload.objects.make_files(&objects)?;
    if let Some(cold) = &workload.cold {
        cold.make_files(&objects)?;
    }
    let frame_bytes = |bytes: u64| bytes.next_multiple_of(OBJECT_BYTES_MIN);
    let fleet_spec = FleetSpec {
        unit: options.unit,
        count_max: options.count_max,
        server_cores: server_cores(options),
        load_cores: options.load_cores.clone(),
        objects,
        directory: directory.path().to_owned(),
        frame_bytes: workload
            .objects
            .list()
            .iter()
            .map(|(_, bytes)| frame_bytes(*bytes))
            .sum(),
        object_count: u64::from(workload.objects.count),
    };
    check_memory(&fleet_spec)?;
    let count_max = options.count_max;
    say(&format!(
        "starting {}",
        match options.unit {
            Unit::Shards => format!("a worker of each of 1 to {count_max} shards"),
            Unit::Workers => format!("{count_max} workers of one shard"),
        }
    ));
    let fleet = Fleet::start(&fleet_spec)?;
    let mut bench = Bench {
        options,
        workload,
        fleet,
        fleet_spec,
        object_bytes,
        points: Vec::new(),
        rounds: Vec::new(),
    };
    notes.extend(bench.fill(&mut say)?);
    notes.extend(bench.crowding());
    bench.measure(&mut say)?;
    let mut answer = steps::answer(options.unit, &bench.points, &bench.rounds);
    notes.append(&mut answer.notes);
    answer.notes = notes;
    Ok(Outcome {
        answer,
        points: bench.points,
        is_partial: interrupt::is_set(),
    })
}

struct Bench<'a> {
    options: &'a Options,
    workload: Workload,
    fleet: Fleet,
    fleet_spec: FleetSpec,
    object_bytes: u64,
    points: Vec<Point>,
    /// Count and point of what the answer is made of.
    rounds: Vec<(u32, usize)>,
}

impl Bench<'_> {
    fn spec(&self, count: u32, arrivals: Arrivals) -> LoadSpec {
        let options = self.options;
        let open_spin = match arrivals {
            Arrivals::Closed => Duration::ZERO,
            _ => crate::load::OPEN_SPIN,
        };
        LoadSpec {
            target: Arc::new(self.fleet.target(count)),
            workload: self.workload.clone(),
            paths: Vec::new(),
            arrivals,
            connections: options.connections,
            depth: options.depth,
            verify: options.verify,
            warm_up: Duration::from_secs_f64(options.seconds / 4.0),
            measured: Duration::from_secs_f64(options.seconds),
            spin: open_spin,
            cores: options.load_cores.clone(),
            seed: options.seed,
        }
    }

    /// Fills the caches; gives notes on how evenly the bytes are divided.
    fn fill(&self, say: &mut impl FnMut(&str)) -> Result<Vec<String>, String> {
        let mut notes = Vec::new();
        for count in 1..=self.options.count_max {
            let unit = self.options.unit.name(count);
            say(&format!("filling {count} {unit}"));
            let shares = self
                .fleet
                .fill(count, &self.spec(count, Arrivals::Closed))?;
            let mean = shares.iter().sum::<u64>() as f64 / shares.len() as f64;
            let most = shares.iter().copied().max().unwrap_or(0) as f64;
            if count > 1 {
                notes.push(format!(
                    "{count} {unit}: the one with the most bytes has {:.1} % more than its share",
                    100.0 * (most / mean.max(1.0) - 1.0)
                ));
            }
            if interrupt::is_set() {
                break;
            }
        }
        Ok(notes)
    }

    /// Where there are too few CPUs.
    fn crowding(&self) -> Option<String> {
        let crowded: Vec<String> = (1..=self.options.count_max)
            .filter_map(|count| {
                let mut cpus = self.fleet_spec.cores_of_deployment(count);
                let threads = cpus.len() + self.options.load_cores.len();
                cpus.extend(&self.options.load_cores);
                cpus.sort_unstable();
                cpus.dedup();
                let unit = self.options.unit.name(count);
                let text = format!("{count} {unit} ({threads} threads on {} CPUs)", cpus.len());
                (threads > cpus.len()).then_some(text)
            })
            .collect();
        (!crowded.is_empty()).then(|| {
            format!(
                "more shards and generators than CPUs at {}: there the rate cannot rise with the count, \
                 and the efficiency by CPU is the figure that counts",
                crowded.join(", ")
            )
        })
    }

    fn measure(&mut self, say: &mut impl FnMut(&str)) -> Result<(), String> {
        let up: Vec<u32> = (1..=self.options.count_max).collect();
        for round in 0..self.options.rounds {
            let counts: Vec<u32> = match round % 2 {
                0 => up.clone(),
                _ => up.iter().rev().copied().collect(),
            };
            for count in counts {
                for (place, arrivals) in self.options.arrivals.iter().enumerate() {
                    if interrupt::is_set() {
                        return Ok(());
                    }
                    let index = self.take(count, *arrivals)?;
                    if place == 0 && self.points[index].operations > 0 {
                        self.rounds.push((count, index));
                    }
                    let point = &self.points[index];
                    let cost = point.server.as_ref();
                    say(&format!(
                        "round {} of {}, {}: {} operations/s, {:.2} µs CPU an operation{}",
                        round + 1,
                        self.options.rounds,
                        point.label,
                        crate::quantities::grouped(point.rate),
                        cost.map_or(0.0, |cost| cost.cpu_us_per_operation),
                        match &point.ceiling {
                            Some(ceiling) =>
                                format!(", {:.2} of the {} ceiling", ceiling.ratio, ceiling.name),
                            None => String::new(),
                        }
                    ));
                }
            }
        }
        Ok(())
    }

    /// Measures one load, its ceiling before it in the points, and gives the load's index.
    fn take(&mut self, count: u32, arrivals: Arrivals) -> Result<usize, String> {
        let spec = self.spec(count, arrivals);
        let label = format!("{count} {}", self.options.unit.name(count));
        let watched = self.fleet.watched(count);
        let mut attempt = 0;
        let mut point = loop {
            let sample =
                sample::take(&spec, &watched).map_err(|error| format!("{label}: {error}"))?;
            attempt += 1;
            let is_good = sample.steal_percent <= STEAL_PERCENT_MAX;
            if is_good || attempt > REPEATS_MAX || interrupt::is_set() {
                break sample.to_point(&label, &spec);
            }
        };
        let reads = Reads::of(&point).filter(|_| !interrupt::is_set());
        if let Some(reads) = reads.filter(|_| self.options.with_ceilings) {
            let beside = Beside {
                load: &spec,
                reads,
                cores: &self.fleet_spec.cores_of_deployment(count),
                window_bytes: self.object_bytes,
            };
            let label = match count {
                1 => "network ceiling".to_owned(),
                _ => format!("network ceiling x {count}"),
            };
            let ceiling = beside.network(&label)?;
            point.ceiling = beside::limit(&point, &reads, &[("network", &ceiling)]);
            self.points.push(ceiling);
        }
        self.points.push(point);
        Ok(self.points.len() - 1)
    }
}

/// The CPUs of the shards; shards of one worker have one each.
fn server_cores(options: &Options) -> Vec<usize> {
    let mut cores = options.server_cores.clone();
    if options.unit == Unit::Shards {
        let mut seen = Vec::new();
        cores.retain(|core| {
            let is_new = !seen.contains(core);
            seen.push(*core);
            is_new
        });
    }
    cores
}

fn check(options: &Options) -> Result<(), String> {
    if options.count_max == 0 || options.count_max > COUNT_MAX {
        return Err(format!("--max is 1 to {COUNT_MAX}"));
    }
    if options.arrivals.is_empty() || options.load_cores.is_empty() {
        return Err("give at least one of --arrivals and of --load-cores".to_owned());
    }
    let cores = server_cores(options);
    if cores.is_empty() {
        return Err("give at least one of --server-cores".to_owned());
    }
    if options.unit == Unit::Shards && cores.len() < options.count_max as usize {
        return Err(format!(
            "{} shards of one worker need as many CPUs, --server-cores names {}; name more, lower --max, \
             or measure `--of workers`, which may share a CPU",
            options.count_max,
            cores.len()
        ));
    }
    let lanes = options.load_cores.len() * options.count_max as usize;
    if (options.connections as usize) < lanes {
        return Err(format!(
            "{} connections are too few for {} generators to reach {} {} each; take --connections {lanes} or more",
            options.connections,
            options.load_cores.len(),
            options.count_max,
            options.unit.name(options.count_max)
        ));
    }
    Ok(())
}

/// The workload with objects that spread evenly, and what to say of it.
fn divided(options: &Options) -> (Workload, Vec<String>) {
    let mut workload = options.workload.clone();
    let Sizes::One(ByteSize(bytes)) = workload.objects.bytes else {
        return (workload, Vec::new());
    };
    let mut total = u64::from(workload.objects.count) * bytes;
    if options.quick {
        total = total.min(QUICK_BYTES);
    }
    let wanted = match options.objects {
        Some(0) if !options.quick => return (workload, Vec::new()),
        Some(0) => workload.objects.count,
        Some(wanted) => wanted,
        None => (OBJECTS_EACH * options.count_max).max(workload.objects.count),
    };
    // An object holds one read of the workload at the least, and whole ones of it.
    let least = workload.read_bytes_max().max(OBJECT_BYTES_MIN);
    let count = u64::from(wanted.min(OBJECTS_MAX)).clamp(1, (total / least).max(1));
    let each = (total / count).max(least) / least * least;
    let before = workload.objects.clone();
    workload.objects = Objects {
        count: count as u32,
        bytes: Sizes::One(ByteSize(each)),
        ..before.clone()
    };
    if workload.objects == before {
        return (workload, Vec::new());
    }
    let note = format!(
        "{} objects of {} instead of the workload's {} of {}, so that stripes spread over the {}",
        count,
        ByteSize(each),
        before.count,
        ByteSize(bytes),
        options.unit.name(2)
    );
    (workload, vec![note])
}

fn check_memory(spec: &FleetSpec) -> Result<(), String> {
    let needed = spec.dram_bytes_of_all();
    let free = process::available_memory_bytes().map_err(|error| error.to_string())?;
    if needed <= free {
        return Ok(());
    }
    Err(format!(
        "the workers of all steps take {} MiB of memory together and {} MiB are free; lower --max, or take a \
         workload of fewer bytes",
        needed >> 20,
        free >> 20
    ))
}

fn temporary(directory: &Path) -> Result<tempfile::TempDir, String> {
    // Names with `.` in them are no names of objects.
    let path = directory
        .canonicalize()
        .map_err(|error| format!("{}: {error}", directory.display()))?;
    tempfile::Builder::new()
        .prefix("corelane-scale-")
        .tempdir_in(&path)
        .map_err(|error| format!("cannot make a directory in {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(unit: Unit) -> Options {
        Options {
            unit,
            count_max: 2,
            server_cores: vec![0, 0, 1],
            load_cores: vec![1],
            workload: Workload::load("uniform-4k").expect("it comes along"),
            objects: None,
            arrivals: vec![Arrivals::Closed],
            connections: 8,
            depth: 4,
            verify: Verify::All,
            rounds: 1,
            seconds: 0.1,
            seed: 1,
            directory: PathBuf::from("."),
            with_ceilings: false,
            quick: false,
        }
    }

    #[test]
    fn objects_are_divided_into_as_many_bytes_as_before() {
        let (workload, notes) = divided(&options(Unit::Workers));
        assert_eq!(workload.objects.count, 1024);
        assert_eq!(workload.objects.bytes, Sizes::One(ByteSize(512 << 10)));
        assert_eq!(notes.len(), 1);
        assert_eq!(Workload::parse(&workload.to_toml()), Ok(workload));
        let quick = Options {
            quick: true,
            ..options(Unit::Workers)
        };
        let (workload, _) = divided(&quick);
        assert_eq!(workload.objects.count, 512);
        assert_eq!(workload.objects.bytes, Sizes::One(ByteSize(64 << 10)));
        let kept = Options {
            objects: Some(0),
            ..options(Unit::Workers)
        };
        assert_eq!(divided(&kept), (kept.workload.clone(), Vec::new()));
    }

    #[test]
    fn what_cannot_be_measured_is_refused_with_what_to_do() {
        let shards = options(Unit::Shards);
        assert_eq!(server_cores(&shards), [0, 1]);
        check(&shards).expect("two shards on two CPUs");
        let three = Options {
            count_max: 3,
            ..shards.clone()
        };
        let error = check(&three).expect_err("two CPUs");
        assert!(error.contains("--of workers"), "{error}");
        let few = Options {
            connections: 1,
            ..shards
        };
        let error = check(&few).expect_err("too few");
        assert!(error.contains("--connections 2"), "{error}");
        let none = Options {
            count_max: 0,
            ..options(Unit::Workers)
        };
        assert!(check(&none).is_err());
    }
}

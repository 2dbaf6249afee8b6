//! Rows of the worker: on our ring, and on glommio where that was built in.

use std::path::Path;
use std::time::{Duration, Instant};

use super::figures::{Figures, Spread};
use super::report::{Idle, Row};
use crate::gate::Bench;
use crate::gate::rounds::{Turn, in_turns};
use crate::gate::worker::{DramPolicy, GateWorker, WorkerSpec};
use crate::load::LoadSpec;
use crate::process::CpuTime;
use crate::runtimes::Runtime;
use crate::sample;
use crate::target::greeting;

/// Memory beside what the object takes: index, checksums, read buffers, fills, and glommio's own
/// buffers.
const BUDGET_BESIDE_OBJECT: u64 = 256 << 20;

/// Budget of workers whose reads are to come from the device.
const BUDGET_OF_DEVICE: u64 = 160 << 20;

/// Connections of the idle row.
const IDLE_CONNECTIONS: usize = 64;

/// What serves the reads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Dram,
    Drive,
    FastDevice,
}

impl From {
    fn source(self) -> usize {
        match self {
            From::Dram => 0,
            From::Drive | From::FastDevice => 1,
        }
    }
}

/// A row of reads; those of one place and spin share their workers.
struct Reads {
    name: &'static str,
    what: &'static str,
    from: From,
    spins: bool,
    connections: u32,
    depth: u32,
}

const IDLE: &str = "worker_idle_cpu";
const IDLE_WHAT: &str = "CPU of a worker with 64 connections and nothing to do";

const READS: [Reads; 6] = [
    Reads {
        name: "worker_dram_4k_1x1",
        what: "4 KiB from DRAM, 1 connection at depth 1, polling",
        from: From::Dram,
        spins: true,
        connections: 1,
        depth: 1,
    },
    Reads {
        name: "worker_dram_4k_64x1",
        what: "4 KiB from DRAM, 64 connections at depth 1",
        from: From::Dram,
        spins: false,
        connections: 64,
        depth: 1,
    },
    Reads {
        name: "worker_dram_4k_64x32",
        what: "4 KiB from DRAM, 64 connections at depth 32",
        from: From::Dram,
        spins: false,
        connections: 64,
        depth: 32,
    },
    Reads {
        name: "worker_device_4k_1x1",
        what: "4 KiB from the drive, 1 connection at depth 1, polling",
        from: From::Drive,
        spins: true,
        connections: 1,
        depth: 1,
    },
    Reads {
        name: "worker_device_4k_16x8",
        what: "4 KiB from the drive, 16 connections at depth 8",
        from: From::Drive,
        spins: false,
        connections: 16,
        depth: 8,
    },
    Reads {
        name: "worker_fast_4k_16x8",
        what: "4 KiB from a device on tmpfs, 16 connections at depth 8",
        from: From::FastDevice,
        spins: false,
        connections: 16,
        depth: 8,
    },
];

/// The names of the rows.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    READS.iter().map(|reads| reads.name).chain([IDLE])
}

/// The rows that are wanted.
pub(super) fn run(bench: &Bench) -> Vec<Row> {
    let mut rows = Vec::new();
    for (from, spins) in [
        (From::Dram, true),
        (From::Dram, false),
        (From::Drive, true),
        (From::Drive, false),
        (From::FastDevice, false),
    ] {
        let reads: Vec<&Reads> = READS
            .iter()
            .filter(|reads| {
                reads.from == from && reads.spins == spins && bench.options.wants(reads.name)
            })
            .collect();
        let is_idle_wanted = from == From::Dram && spins && bench.options.wants(IDLE);
        if reads.is_empty() && !is_idle_wanted {
            continue;
        }
        let workers = Workers::start(bench, from, spins);
        for reads in reads {
            bench.say(&format!("{} ...", reads.name));
            let measured = workers
                .as_ref()
                .map_err(String::clone)
                .and_then(|workers| workers.read(bench, reads));
            let row =
                measured.unwrap_or_else(|reason| Row::not_measured(reads.name, reads.what, reason));
            bench.say(row.to_string().trim_end());
            rows.push(row);
        }
        if is_idle_wanted {
            bench.say(&format!("{IDLE} ..."));
            let measured = workers
                .as_ref()
                .map_err(String::clone)
                .and_then(|workers| workers.idle(bench));
            let row = measured.unwrap_or_else(|reason| Row::not_measured(IDLE, IDLE_WHAT, reason));
            bench.say(row.to_string().trim_end());
            rows.push(row);
        }
    }
    rows
}

/// A worker on each backend, ours first, with the same object in the same place.
struct Workers(Vec<(Runtime, GateWorker)>);

impl Workers {
    fn start(bench: &Bench, from: From, spins: bool) -> Result<Workers, String> {
        let directory = match from {
            From::Drive => bench.directory(),
            From::Dram | From::FastDevice => bench.fast_directory(),
        };
        let options = &bench.options;
        let (object_bytes, dram_bytes, dram_policy) = match from {
            From::Dram => (
                options.working_set,
                options.working_set + BUDGET_BESIDE_OBJECT,
                DramPolicy::S3Fifo,
            ),
            From::Drive | From::FastDevice => {
                (options.device_set, BUDGET_OF_DEVICE, DramPolicy::Noop)
            }
        };
        let backends = [Runtime::Uring, Runtime::Glommio]
            .into_iter()
            .filter(|runtime| runtime.is_built());
        let start = |backend: Runtime| {
            let place = empty_directory(directory, backend)?;
            let spec = WorkerSpec {
                spin: if spins { options.spin } else { Duration::ZERO },
                dram_policy,
                ..WorkerSpec::new(bench, place, object_bytes, dram_bytes)
            };
            GateWorker::start_on(bench, &spec, backend)
                .map(|worker| (backend, worker))
                .map_err(|error| format!("on {}: {error}", backend.name()))
        };
        backends.map(start).collect::<Result<_, _>>().map(Workers)
    }

    fn read(&self, bench: &Bench, reads: &Reads) -> Result<Row, String> {
        let mut takes: Vec<_> = self
            .0
            .iter()
            .map(|(_, worker)| {
                let load = worker.load(bench, reads.connections, reads.depth, 4096);
                let watched = worker.watched();
                move |number: u64| {
                    let spec = LoadSpec {
                        seed: load.seed + number,
                        ..load.clone()
                    };
                    sample::take(&spec, &watched)
                        .map(|sample| Figures::of_sample(&sample, reads.from.source()))
                        .map_err(|error| error.to_string())
                }
            })
            .collect();
        let mut turns: Vec<Turn<'_, Figures>> = takes.iter_mut().map(|take| take as _).collect();
        let rounds = in_turns(bench.options.rounds, &mut turns, |figures| {
            figures.steal_percent
        })?;
        Ok(Row::of(reads.name, reads.what, &self.names(), &rounds))
    }

    fn idle(&self, bench: &Bench) -> Result<Row, String> {
        let seconds = if bench.options.quick {
            0.5
        } else {
            // CPU time is counted in ticks of 10 ms: ten seconds tell a tenth of a percent.
            bench.options.seconds.max(10.0)
        };
        let mut takes: Vec<_> = self
            .0
            .iter()
            .map(|(_, worker)| {
                move |_| idle_percent(worker, seconds).map_err(|error| error.to_string())
            })
            .collect();
        let mut turns: Vec<Turn<'_, f64>> = takes.iter_mut().map(|take| take as _).collect();
        let rounds = in_turns(bench.options.rounds, &mut turns, |_| 0.0)?;
        let idle = self
            .names()
            .into_iter()
            .enumerate()
            .map(|(index, runtime)| Idle {
                runtime,
                cpu_percent: Spread::of(
                    &rounds.iter().map(|round| round[index]).collect::<Vec<_>>(),
                ),
            });
        Ok(Row {
            idle: idle.collect(),
            reason: None,
            ..Row::not_measured(IDLE, IDLE_WHAT, String::new())
        })
    }

    fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|(runtime, _)| runtime.name()).collect()
    }
}

/// CPU of all threads of a worker that has connections and no requests, in percent of a core.
fn idle_percent(worker: &GateWorker, seconds: f64) -> std::io::Result<f64> {
    let (address, pid) = (worker.process.address(), worker.process.pid());
    let _connections = (0..IDLE_CONNECTIONS)
        .map(|_| greeting::connect(address, "").map(|(stream, _)| stream))
        .collect::<Result<Vec<_>, _>>()?;
    let wait = Duration::from_secs_f64(seconds);
    std::thread::sleep(wait / 10);
    let (begin, before) = (Instant::now(), CpuTime::of(pid)?);
    std::thread::sleep(wait);
    let used = CpuTime::of(pid)?.since(before).total();
    Ok(100.0 * used.as_secs_f64() / begin.elapsed().as_secs_f64())
}

/// An empty place for the worker on `backend`: what an earlier row left there is gone.
fn empty_directory(directory: &Path, backend: Runtime) -> Result<std::path::PathBuf, String> {
    let place = directory.join(format!("worker-{}", backend.name()));
    if place.exists() {
        std::fs::remove_dir_all(&place).map_err(|error| error.to_string())?;
    }
    std::fs::create_dir_all(&place).map_err(|error| error.to_string())?;
    Ok(place)
}

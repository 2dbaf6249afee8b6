//! Measures over the wire: the worker beside a bare loop.

use std::path::Path;
use std::time::Duration;

use super::bench::Bench;
use super::measure::{Bar, Measure};
use super::pairs::{busy_rates, rates};
use super::rounds::{self, Pair, STEAL_PERCENT_MAX};
use super::worker::{DramPolicy, GateWorker, WorkerSpec};
use crate::ceiling::{Protocol, Source, prepare_file};
use crate::commands::start_server;
use crate::load::LoadSpec;
use crate::sample::{self, Sample, Watched};
use crate::server_process::ServerProcess;

/// Memory beside what the object takes: index, checksums, read buffers and fills.
const BUDGET_BESIDE_OBJECT: u64 = 192 << 20;

/// Budget of workers whose reads are to come from the device.
pub(super) const BUDGET_OF_DEVICE: u64 = 96 << 20;

/// Fewest pairs of the depth-1 measures.
pub(super) const DEPTH1_ROUNDS_MIN: usize = 9;

/// Share of the server's CPU beyond which its kernel threads count as part of the reads, in percent.
const RING_WORKER_PERCENT_MAX: f64 = 1.0;

/// Connections and depth.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub connections: u32,
    pub depth: u32,
    pub read_bytes: u32,
}

const PIPELINED: Shape = Shape {
    connections: 64,
    depth: 32,
    read_bytes: 4096,
};
pub(super) const ONE_EACH: Shape = Shape {
    connections: 64,
    depth: 1,
    read_bytes: 4096,
};
pub(super) const LARGE: Shape = Shape {
    connections: 8,
    depth: 4,
    read_bytes: 1 << 20,
};
/// 128 reads in flight.
const DEVICE: Shape = Shape {
    connections: 16,
    depth: 8,
    read_bytes: 4096,
};
pub(super) const SINGLE: Shape = Shape {
    connections: 1,
    depth: 1,
    read_bytes: 4096,
};

/// What is expected to serve the worker's reads.
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

/// A worker and the ceiling that it is compared with, both running.
struct Contest {
    worker: GateWorker,
    ceiling: ServerProcess,
    from: From,
}

impl Contest {
    /// Starts both. What is to come from a device is not kept in DRAM.
    fn start(bench: &Bench, from: From, shape: Shape, spin: Duration) -> Result<Contest, String> {
        let dram_policy = match from {
            From::Dram => DramPolicy::S3Fifo,
            From::Drive | From::FastDevice => DramPolicy::Noop,
        };
        Self::start_with(bench, from, shape, spin, dram_policy)
    }

    fn start_with(
        bench: &Bench,
        from: From,
        shape: Shape,
        spin: Duration,
        dram_policy: DramPolicy,
    ) -> Result<Contest, String> {
        let directory = match from {
            From::Drive => bench.directory(),
            From::Dram | From::FastDevice => bench.fast_directory(),
        };
        let (object_bytes, dram_bytes) = match from {
            From::Dram => (
                bench.options.working_set,
                bench.options.working_set + BUDGET_BESIDE_OBJECT,
            ),
            From::Drive | From::FastDevice => (bench.options.device_set, BUDGET_OF_DEVICE),
        };
        // A worker of its own each time: a cache that was filled for one measure is another's past.
        let place = directory.join("worker");
        if place.exists() {
            std::fs::remove_dir_all(&place).map_err(|error| error.to_string())?;
        }
        std::fs::create_dir_all(&place).map_err(|error| error.to_string())?;
        let spec = WorkerSpec {
            spin,
            dram_policy,
            ..WorkerSpec::new(bench, place, object_bytes, dram_bytes)
        };
        let source = source(directory, from, object_bytes)?;
        let ceiling = start_server(
            &source,
            Protocol::Frames,
            shape.read_bytes,
            spin,
            bench.options.server_core,
        )
        .map_err(|error| format!("the ceiling: {error}"))?;
        let worker = GateWorker::start(bench, &spec)?;
        Ok(Contest {
            worker,
            ceiling,
            from,
        })
    }

    fn run(
        &self,
        bench: &mut Bench,
        name: &str,
        shape: Shape,
        rounds: usize,
    ) -> Result<Vec<Pair>, String> {
        let load = |server: &ServerProcess| {
            bench.load(
                server.address(),
                shape.connections,
                shape.depth,
                shape.read_bytes,
            )
        };
        let take = |spec: &LoadSpec, server: &ServerProcess, number: u64| {
            let spec = LoadSpec {
                seed: spec.seed + number,
                ..spec.clone()
            };
            sample::take(
                &spec,
                &Watched::one(server.pid(), bench.options.server_core),
            )
            .map_err(|error| error.to_string())
        };
        let worker_load = load(&self.worker.process);
        let ceiling_load = load(&self.ceiling);
        let pairs = rounds::interleave(
            rounds,
            |number| take(&worker_load, &self.worker.process, number),
            |number| take(&ceiling_load, &self.ceiling, number),
        )?;
        if let Some(last) = pairs.last() {
            bench.note_affinity(&format!("worker, {name}"), &last.worker);
            bench.note_affinity(&format!("ceiling, {name}"), &last.ceiling);
        }
        for pair in &pairs {
            bench.note_memory(name, &pair.worker, self.worker.dram_bytes);
        }
        Ok(pairs)
    }

    /// A measure of `pairs`, or of what is wrong with them.
    fn judge(&self, measure: Measure, pairs: &[Pair]) -> Measure {
        let mut measure = rounds::notes(pairs)
            .into_iter()
            .fold(measure, Measure::with_note);
        let worst = |figure: &dyn Fn(&Pair) -> f64| pairs.iter().map(figure).fold(0.0, f64::max);
        if worst(&Pair::steal_percent) > STEAL_PERCENT_MAX {
            measure = measure
                .without_verdict("the hypervisor took CPU away in every repetition of a round");
        }
        let elsewhere = worst(&|pair| share_elsewhere(&pair.worker, self.from.source()));
        if elsewhere > 0.1 {
            let text = format!(
                "{:.0} % of the worker's reads came from another place than asked",
                elsewhere * 100.0
            );
            measure = measure.without_verdict(text);
        }
        if pairs
            .iter()
            .any(|pair| pair.worker.load.wrong + pair.ceiling.load.wrong > 0)
        {
            measure.holds = Some(false);
            measure = measure.with_note("WRONG BYTES were received");
        }
        if let Some(error) = pairs
            .iter()
            .find_map(|pair| pair.worker.load.first_error.as_ref())
        {
            measure = measure.without_verdict(format!("reads failed: {error}"));
        }
        measure
    }
}

fn share_elsewhere(sample: &Sample, source: usize) -> f64 {
    1.0 - sample.load.by_source[source] as f64 / sample.load.operations.max(1) as f64
}

/// What the ceiling answers from.
fn source(directory: &Path, from: From, bytes: u64) -> Result<Source, String> {
    if from == From::Dram {
        return Ok(Source::Memory { bytes });
    }
    let path = directory.join("ceiling");
    prepare_file(&path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Source::Device {
        path,
        nonblocking: from == From::FastDevice,
        bytes,
    })
}

fn rate_measure(
    bench: &mut Bench,
    name: &str,
    from: From,
    shape: Shape,
    bar: f64,
) -> Result<Measure, String> {
    let contest = Contest::start(bench, from, shape, Duration::ZERO)?;
    let rounds = bench.options.rounds;
    let all = contest.run(bench, name, shape, rounds)?;
    let mut measure = busy_rates(name, &all, bar, |measure| contest.judge(measure, &all));
    // Threads that wrote while the cache was filled linger idle; what counts is work of the reads.
    let handed_over = |sample: &Sample| sample.ring_worker_percent() > RING_WORKER_PERCENT_MAX;
    if from == From::FastDevice && all.iter().any(|pair| handed_over(&pair.worker)) {
        measure.holds = Some(false);
        measure = measure.with_note("the worker's reads went through kernel threads (iou-wrk)");
    }
    if from == From::FastDevice && all.iter().any(|pair| handed_over(&pair.ceiling)) {
        measure =
            measure.without_verdict("the ceiling's reads went through kernel threads (iou-wrk)");
    }
    Ok(measure)
}

pub(super) fn dram_4k_pipelined(bench: &mut Bench) -> Result<Measure, String> {
    rate_measure(bench, "dram_4k_pipelined", From::Dram, PIPELINED, 0.85)
}

pub(super) fn dram_4k_64x1(bench: &mut Bench) -> Result<Measure, String> {
    rate_measure(bench, "dram_4k_64x1", From::Dram, ONE_EACH, 0.88)
}

pub(super) fn dram_1m(bench: &mut Bench) -> Result<Measure, String> {
    rate_measure(bench, "dram_1m", From::Dram, LARGE, 0.85)
}

pub(super) fn fast_device_4k(bench: &mut Bench) -> Result<Measure, String> {
    let measure = rate_measure(bench, "fast_device_4k", From::FastDevice, DEVICE, 0.85)?;
    let policy = DramPolicy::S3Fifo;
    let contest = Contest::start_with(bench, From::FastDevice, DEVICE, Duration::ZERO, policy)?;
    let rounds = bench.options.rounds;
    let pairs = contest.run(bench, "fast_device_4k, s3-fifo", DEVICE, rounds)?;
    let caching = Measure::of_pairs("", "1/s", &rates(&pairs), Bar::RatioAtLeast(0.85));
    let (value, ratio) = (caching.value.unwrap_or(0.0), caching.ratio.unwrap_or(0.0));
    let [least, greatest] = caching.spread.unwrap_or_default();
    let elsewhere = pairs
        .iter()
        .map(|pair| share_elsewhere(&pair.worker, From::FastDevice.source()))
        .fold(0.0, f64::max);
    Ok(measure.with_note(format!(
        "`dram_policy` is noop, as in all measures of devices; with s3-fifo: {value:.0} reads/s, ratio \
         {ratio:.2} ({least:.2} to {greatest:.2}), up to {:.1} % of them from DRAM",
        elsewhere * 100.0
    )))
}

pub(super) fn device_4k_cpu(bench: &mut Bench) -> Result<Measure, String> {
    let contest = Contest::start(bench, From::Drive, DEVICE, Duration::ZERO)?;
    let rounds = bench.options.rounds;
    let pairs = contest.run(bench, "device_4k_cpu", DEVICE, rounds)?;
    let costs: Vec<(f64, f64)> = pairs
        .iter()
        .map(|pair| {
            (
                pair.worker.cpu_us_per_operation(),
                pair.ceiling.cpu_us_per_operation(),
            )
        })
        .collect();
    let measure = Measure::of_pairs("device_4k_cpu", "µs", &costs, Bar::RatioAtMost(1.2));
    Ok(contest.judge(measure, &pairs))
}

fn added_latency(bench: &mut Bench, name: &str, from: From) -> Result<Measure, String> {
    let spin = bench.options.spin;
    let contest = Contest::start(bench, from, SINGLE, spin)?;
    let least = if bench.options.quick {
        1
    } else {
        DEPTH1_ROUNDS_MIN
    };
    let rounds = bench.options.rounds.max(least);
    let pairs = contest.run(bench, name, SINGLE, rounds)?;
    let added: Vec<f64> = pairs
        .iter()
        .map(|pair| pair.worker.load.latency_us(0.5) - pair.ceiling.load.latency_us(0.5))
        .collect();
    let mut measure = Measure::of_values(name, "µs", &added, Bar::AtMost(10.0));
    let ceilings: Vec<f64> = pairs
        .iter()
        .map(|pair| pair.ceiling.load.latency_us(0.5))
        .collect();
    measure.ceiling = Some(super::measure::median(&ceilings));
    let measure = measure.with_note(format!(
        "p50 over the ceiling's p50, spin {spin:?} on both sides"
    ));
    Ok(contest.judge(measure, &pairs))
}

pub(super) fn dram_depth1_added_us(bench: &mut Bench) -> Result<Measure, String> {
    added_latency(bench, "dram_depth1_added_us", From::Dram)
}

pub(super) fn device_depth1_added_us(bench: &mut Bench) -> Result<Measure, String> {
    added_latency(bench, "device_depth1_added_us", From::Drive)
}

/// A worker with the working set in DRAM, without a ceiling.
pub(super) fn dram_worker(bench: &Bench, spin: Duration) -> Result<GateWorker, String> {
    let place = bench.fast_directory().join("worker");
    if place.exists() {
        std::fs::remove_dir_all(&place).map_err(|error| error.to_string())?;
    }
    std::fs::create_dir_all(&place).map_err(|error| error.to_string())?;
    let object_bytes = bench.options.working_set;
    let dram_bytes = object_bytes + BUDGET_BESIDE_OBJECT;
    GateWorker::start(
        bench,
        &WorkerSpec {
            spin,
            ..WorkerSpec::new(bench, place, object_bytes, dram_bytes)
        },
    )
}

/// The pipelined load on `worker`.
pub(super) fn pipelined_load(bench: &Bench, worker: &GateWorker) -> LoadSpec {
    bench.load(
        worker.process.address(),
        PIPELINED.connections,
        PIPELINED.depth,
        PIPELINED.read_bytes,
    )
}

//! Measures in an open loop: tails at a rate, and reads beside a fill.

use std::sync::Arc;
use std::time::Duration;

use super::bench::Bench;
use super::measure::{Bar, Measure, median};
use super::pairs::{Side, beside, fresh_place, interleave, judge, latencies, rate_at_load};
use super::rounds::Pair;
use super::served::dram_worker;
use super::worker::{GateWorker, WorkerSpec};
use crate::ceiling::{Protocol, Source};
use crate::commands::start_server;
use crate::load::{Arrivals, LoadSpec, Verify};
use crate::quantities::ByteSize;
use crate::sample::{Sample, Watched};
use crate::target::data_plane::DataPlane;
use crate::workload::objects::{Objects, Sizes};
use crate::workload::{Keys, Workload};

/// Share of the highest rate at which tails are measured.
const TAIL_SHARE: f64 = 0.7;

/// How long before an operation is due the generator polls: it has a core of its own.
const GENERATOR_SPIN: Duration = Duration::from_micros(200);

/// The same, where it shares its core with fetch threads: it sleeps.
const SHARED_SPIN: Duration = Duration::ZERO;

/// p99.9 of an open loop at 70 % of the highest rate, against the bare loop's at the same offered
/// rate.
pub(super) fn open_loop_tail(bench: &mut Bench) -> Result<Measure, String> {
    let spin = bench.options.spin;
    let worker = dram_worker(bench, spin)?;
    let bytes = bench.options.working_set;
    let ceiling = start_server(
        &Source::Memory { bytes },
        Protocol::Frames,
        4096,
        spin,
        bench.options.server_core,
    )
    .map_err(|error| format!("the ceiling: {error}"))?;
    let closed = worker.load(bench, 64, 32, 4096);
    let highest = Side::highest_rate(&LoadSpec {
        spin: GENERATOR_SPIN,
        ..closed.clone()
    })?;
    let offered = TAIL_SHARE * highest;
    let spec = LoadSpec {
        arrivals: Arrivals::Poisson {
            per_second: offered,
        },
        spin: GENERATOR_SPIN,
        ..closed
    };
    let of_worker = Side {
        spec: spec.clone(),
        watched: worker.watched(),
    };
    let of_ceiling = Side {
        spec: LoadSpec {
            target: Arc::new(DataPlane::of(ceiling.address())),
            ..spec
        },
        watched: Watched::one(ceiling.pid(), bench.options.server_core),
    };
    let pairs = interleave(bench, &of_worker, &of_ceiling)?;
    let bar = Bar::RatioAtMost(1.3);
    let mut measure = Measure::of_pairs("open_loop_tail", "µs", &latencies(&pairs, 0.999), bar).with_note(format!(
        "p99.9 from the intended arrival at {offered:.0} reads/s (Poisson), 70 % of the highest rate kept in an open loop, {highest:.0}; spin {spin:?} on both sides"
    ));
    for (name, at) in [("p50", 0.5), ("p99", 0.99)] {
        let figures = latencies(&pairs, at);
        let side =
            |pick: fn(&(f64, f64)) -> f64| median(&figures.iter().map(pick).collect::<Vec<f64>>());
        measure = measure.with_note(format!(
            "{name}, µs: worker {:.1}, ceiling {:.1}",
            side(|pair| pair.0),
            side(|pair| pair.1)
        ));
    }
    Ok(judge(measure, &pairs, ["worker", "ceiling"], Some(offered)))
}

/// Bytes that are read again and again, from DRAM.
const HOT_BYTES: u64 = 128 << 20;

/// A cold object, and how many: more than the device holds, so that the fill reclaims.
const COLD_OBJECT_BYTES: u64 = 16 << 20;
const COLD_OBJECTS: u32 = 96;

/// Reads of one page anywhere in the cold objects, a second. One that finds its block absent has all of
/// it (1 MiB) fetched, which no answer carries: 240 MB/s and more.
const COLD_READS_PER_SECOND: f64 = 360.0;

/// What the fill has to reach, in bytes a second.
const FILL_RATE_MIN: f64 = 200e6;

/// Niceness of the thread that asks for cold objects, as of the fetch threads.
const FILLER_NICE: i32 = 10;

const BUDGET: u64 = HOT_BYTES + (256 << 20);

/// Share of its time that the server's core is busy with the reads, without the fill.
const FILL_LOAD: f64 = 0.5;

/// p99 of open-loop reads, which keep the core half busy, beside a fill, against without.
pub(super) fn reads_beside_fill(bench: &mut Bench) -> Result<Measure, String> {
    // Files in memory, so that the under-store is not the limit; the device on the drive.
    let place = fresh_place(bench.fast_directory(), "beside-fill")?;
    let cold = cold_objects(bench);
    cold.objects.make_files(&place.join("objects"))?;
    let worker = GateWorker::start(
        bench,
        &WorkerSpec {
            device: Some(bench.directory().join("beside-fill-device")),
            ..WorkerSpec::new(bench, place, HOT_BYTES, BUDGET)
        },
    )?;
    let closed = Side {
        spec: LoadSpec {
            spin: SHARED_SPIN,
            ..worker.load(bench, 16, 8, 4096)
        },
        watched: worker.watched(),
    };
    let (offered, busy) = rate_at_load(&closed, FILL_LOAD)?;
    let reads = Side {
        spec: LoadSpec {
            arrivals: Arrivals::Poisson {
                per_second: offered,
            },
            ..closed.spec
        },
        watched: closed.watched,
    };
    let fill = LoadSpec {
        target: Arc::new(DataPlane {
            prefix: "/gate".to_owned(),
            ..DataPlane::of(worker.process.address())
        }),
        workload: cold,
        paths: Vec::new(),
        arrivals: Arrivals::Constant {
            per_second: COLD_READS_PER_SECOND,
        },
        connections: 4,
        depth: 2,
        verify: Verify::None,
        ..reads.spec.clone()
    };
    let (pairs, fills) = beside(bench, &reads, &fill, Some(FILLER_NICE))?;
    std::fs::remove_file(bench.directory().join("beside-fill-device"))
        .map_err(|error| error.to_string())?;
    // What the worker fetched, not what the filler read: that may have been cached.
    let rates: Vec<f64> = pairs
        .iter()
        .map(|pair| {
            let fetched = pair
                .worker
                .counters
                .map_or(0.0, |counters| counters.bytes_fetched);
            fetched / pair.worker.load.elapsed.as_secs_f64().max(1e-9)
        })
        .collect();
    let bar = Bar::RatioAtMost(3.0);
    let mut measure = Measure::of_pairs("reads_beside_fill", "µs", &latencies(&pairs, 0.99), bar).with_note(format!(
        "p99 from the intended arrival of {offered:.0} reads/s (Poisson, 16 connections x depth 8, {:.0} % of the core's time when it was sought) beside a fill of {:.0} MB/s \
         (median of what the worker fetched)",
        100.0 * busy,
        median(&rates) / 1e6
    ));
    let late = |pick: fn(&Pair) -> &Sample| {
        let figures = pairs
            .iter()
            .map(|pair| pick(pair).load.sent_late_ns.value_at_quantile(0.99) as f64 / 1e3);
        median(&figures.collect::<Vec<f64>>())
    };
    measure = measure.with_note(format!(
        "of it before the send (the generator shares its core with the fetch threads), p99, µs: beside {:.0}, without {:.0}",
        late(|pair| &pair.worker),
        late(|pair| &pair.ceiling)
    ));
    if median(&rates) < FILL_RATE_MIN {
        measure = measure.without_verdict("the fill did not reach 200 MB/s");
    }
    if let Some(error) = fills.iter().find_map(|fill| fill.first_error.as_ref()) {
        measure = measure.without_verdict(format!("the fill failed: {error}"));
    }
    Ok(judge(measure, &pairs, ["beside a fill", "without"], None))
}

/// Pages of objects that the device does not hold all of.
fn cold_objects(bench: &Bench) -> Workload {
    let count = if bench.options.quick { 4 } else { COLD_OBJECTS };
    Workload {
        objects: Objects {
            count,
            bytes: Sizes::One(ByteSize(COLD_OBJECT_BYTES)),
            prefix: "cold-".to_owned(),
            ..Objects::default()
        },
        ..Workload::points(4096, Keys::Uniform)
    }
}

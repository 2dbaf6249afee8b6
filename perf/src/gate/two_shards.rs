//! What a second shard costs: an operation's CPU with two shards against one, and with half of the
//! reads sent to the wrong one of two.
//!
//! The second shard runs on the generator's core, since a gate needs two cores only; therefore
//! loads are low, open, and without polling. What is compared is the CPU of the worker's process.

use std::sync::Arc;

use super::bench::Bench;
use super::measure::{Bar, Measure};
use super::pairs::{Side, costs, fresh_place, interleave, judge};
use super::worker::{GateWorker, WorkerSpec};
use crate::load::{Arrivals, LoadSpec};
use crate::target::data_plane::DataPlane;

/// Memory beside what the object takes, for each shard.
const BUDGET_BESIDE_OBJECT: u64 = 192 << 20;

/// Share of one shard's highest rate that is offered.
pub(super) const OFFERED_SHARE: f64 = 0.3;

/// Connections and depth: 64 x 32, as in `dram_4k_pipelined`.
const CONNECTIONS: u32 = 64;
const DEPTH: u32 = 32;
const READ_BYTES: u32 = 4096;

/// A worker with the working set in DRAM and a shard on each of `cores`.
pub(super) fn start(bench: &Bench, name: &str, cores: Vec<usize>) -> Result<GateWorker, String> {
    let object_bytes = bench.options.working_set;
    // Stripes are not spread quite evenly, so each shard could hold three quarters.
    let dram_bytes = match cores.len() {
        1 => object_bytes + BUDGET_BESIDE_OBJECT,
        _ => object_bytes * 3 / 2 + 2 * BUDGET_BESIDE_OBJECT,
    };
    let place = fresh_place(bench.fast_directory(), name)?;
    GateWorker::start(
        bench,
        &WorkerSpec {
            cores,
            ..WorkerSpec::new(bench, place, object_bytes, dram_bytes)
        },
    )
}

/// The load at a low rate, and the rate: a share of what `one`, a worker of one shard, can do.
fn low_load(bench: &Bench, one: &GateWorker) -> Result<(LoadSpec, f64), String> {
    let closed = one.load(bench, CONNECTIONS, DEPTH, READ_BYTES);
    let per_second = OFFERED_SHARE * Side::highest_rate(&closed)?;
    let open = LoadSpec {
        arrivals: Arrivals::Poisson { per_second },
        ..closed
    };
    Ok((open, per_second))
}

pub(super) fn two_shards_cpu(bench: &mut Bench) -> Result<Measure, String> {
    let (server, load) = (bench.options.server_core, bench.options.load_core);
    let one = start(bench, "one", vec![server])?;
    let two = start(bench, "two", vec![server, load])?;
    let (spec, offered) = low_load(bench, &one)?;
    let side = |worker: &GateWorker| Side {
        spec: LoadSpec {
            target: Arc::new(DataPlane::of(worker.process.address())),
            ..spec.clone()
        },
        watched: worker.watched(),
    };
    let pairs = interleave(bench, &side(&two), &side(&one))?;
    let bar = Bar::RatioAtMost(1.15);
    let measure = Measure::of_pairs("two_shards_cpu", "µs", &costs(&pairs), bar)
        .with_note(format!("{offered:.0} reads/s offered to both, Poisson"));
    Ok(judge(
        measure,
        &pairs,
        ["two shards", "one shard"],
        Some(offered),
    ))
}

pub(super) fn mesh_hop_cpu(bench: &mut Bench) -> Result<Measure, String> {
    let (server, load) = (bench.options.server_core, bench.options.load_core);
    let offered_by = start(bench, "one", vec![server])?;
    let (spec, offered) = low_load(bench, &offered_by)?;
    drop(offered_by);
    let worker = start(bench, "two", vec![server, load])?;
    let side = |ignores_owners| Side {
        spec: LoadSpec {
            target: Arc::new(DataPlane {
                ignores_owners,
                ..DataPlane::of(worker.process.address())
            }),
            ..spec.clone()
        },
        watched: worker.watched(),
    };
    let pairs = interleave(bench, &side(true), &side(false))?;
    let bar = Bar::RatioAtMost(1.4);
    let measure = Measure::of_pairs("mesh_hop_cpu", "µs", &costs(&pairs), bar).with_note(format!(
        "two shards, {offered:.0} reads/s offered, Poisson; to either shard, so that half of them hop, against \
         to the owner"
    ));
    Ok(judge(
        measure,
        &pairs,
        ["half hop", "none hops"],
        Some(offered),
    ))
}

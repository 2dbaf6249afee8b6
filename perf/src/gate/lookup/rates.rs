//! Look-ups a second of one server core, in a closed loop.

use super::tables::Tables;
use super::worker::{LookupSpec, LookupWorker};
use crate::gate::bench::Bench;
use crate::gate::measure::{Bar, Measure};
use crate::gate::pairs::{Side, interleave, judge, rates};
use crate::gate::rounds::{BUSY_PERCENT_MIN, STEAL_PERCENT_MAX, in_turns};
use crate::load::LoadSpec;
use crate::sample::Sample;
use crate::target::look_up::{LookUp, Table};
use crate::workload::{Keys, Workload};

/// Connections and depth: enough that the server's core is never idle.
const CONNECTIONS: u32 = 16;
const DEPTH: u32 = 4;

/// Keys that hot look-ups ask for.
pub(super) const HOT_KEYS: u64 = 10_000;

/// Keys of a batch.
const BATCH_KEYS: u64 = 1_000;

/// Which keys are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Ten thousand of them, by Zipf's law.
    Hot,
    /// All alike.
    Uniform,
}

/// A load of look-ups.
pub(super) fn load(bench: &Bench, worker: &LookupWorker, table: &Table, asked: Asked) -> LoadSpec {
    let (keys, count) = match asked {
        Asked::Hot => (Keys::Zipf { theta: 0.99 }, HOT_KEYS.min(table.keys)),
        Asked::Uniform => (Keys::Uniform, table.keys),
    };
    let address = worker.process.address();
    LoadSpec {
        target: std::sync::Arc::new(LookUp {
            address,
            table: table.clone(),
            asked: count,
            batch: 1,
        }),
        workload: Workload::points(corelane_rpc_schema::PAGE_BYTES, keys),
        paths: vec!["/keys".to_owned()],
        ..bench.load(address, CONNECTIONS, DEPTH, corelane_rpc_schema::PAGE_BYTES)
    }
}

/// Rounds of one load.
fn samples(bench: &Bench, side: &Side) -> Result<Vec<Sample>, String> {
    let mut turn = |number| side.take(number);
    let rounds = in_turns(bench.options.rounds, &mut [&mut turn], |sample: &Sample| {
        sample.steal_percent
    })?;
    Ok(rounds.into_iter().flatten().collect())
}

/// What is wrong with `measure` of `samples`, and what else was seen.
fn judged(mut measure: Measure, samples: &[Sample]) -> Measure {
    let range = |figure: &dyn Fn(&Sample) -> f64| {
        let figures = samples.iter().map(figure);
        let (least, most) = figures.fold((f64::MAX, 0.0f64), |(least, most), figure| {
            (least.min(figure), most.max(figure))
        });
        format!("{least:.1} to {most:.1}")
    };
    measure = measure.with_note(format!(
        "server core busy, %: {}; generator busy, %: {}; server CPU, µs a look-up: {}; p50 µs {}, p99 µs {}; \
         {} verified; steal {} %",
        range(&|sample| sample.busy_percent),
        range(&Sample::generator_percent),
        range(&Sample::cpu_us_per_operation),
        range(&|sample| sample.load.latency_us(0.5)),
        range(&|sample| sample.load.latency_us(0.99)),
        samples.iter().map(|sample| sample.load.verified).sum::<u64>(),
        range(&|sample| sample.steal_percent),
    ));
    let idle = samples
        .iter()
        .filter(|sample| sample.busy_percent < BUSY_PERCENT_MIN)
        .count();
    if idle * 2 > samples.len() {
        measure = measure.with_note(
            "the server's core was not busy in most rounds: the generator is the limit, the worker could do more",
        );
    }
    if samples
        .iter()
        .any(|sample| sample.steal_percent > STEAL_PERCENT_MAX)
    {
        measure =
            measure.without_verdict("the hypervisor took CPU away in every repetition of a round");
    }
    if let Some(error) = samples
        .iter()
        .find_map(|sample| sample.load.first_error.as_ref())
    {
        measure = measure.without_verdict(format!("look-ups failed: {error}"));
    }
    if samples.iter().any(|sample| sample.load.wrong > 0) {
        measure.holds = Some(false);
        measure = measure.with_note("WRONG ANSWERS were received");
    }
    measure
}

/// Look-ups a second of `table` by `worker`; each counts for `keys` of them.
fn rate(
    bench: &mut Bench,
    name: &str,
    spec: LookupSpec,
    (table, asked): (&Table, Asked),
    bar: f64,
) -> Result<Measure, String> {
    let worker = LookupWorker::start(bench, spec, &[table])?;
    worker.index(table)?;
    let side = Side {
        spec: load(bench, &worker, table, asked),
        watched: worker.watched(),
    };
    // So that what is kept has settled.
    side.take(0)?;
    let samples = samples(bench, &side)?;
    let values: Vec<f64> = samples.iter().map(|sample| sample.load.rate()).collect();
    let measure = Measure::of_values(name, "1/s", &values, Bar::AtLeast(bar)).with_note(format!(
        "{asked:?} keys of {}, with key indexes, {} MiB for decoded pages, {CONNECTIONS} connections x depth {DEPTH}",
        table.paths.join(", ").chars().take(60).collect::<String>(),
        spec.lookup_bytes >> 21
    ));
    Ok(judged(measure, &samples))
}

pub(super) fn lookup_hot(bench: &mut Bench) -> Result<Measure, String> {
    let table = Tables::of(bench)?.orders("orders.parquet");
    let asked = (&table, Asked::Hot);
    rate(bench, "lookup_hot", LookupSpec::new(), asked, 50_000.0)
}

pub(super) fn lookup_hot_lineitem(bench: &mut Bench) -> Result<Measure, String> {
    let table = Tables::of(bench)?.lineitem();
    let asked = (&table, Asked::Hot);
    rate(
        bench,
        "lookup_hot_lineitem",
        LookupSpec::new(),
        asked,
        50_000.0,
    )
}

pub(super) fn lookup_hot_20_files(bench: &mut Bench) -> Result<Measure, String> {
    let table = Tables::of(bench)?.parts();
    let asked = (&table, Asked::Hot);
    rate(
        bench,
        "lookup_hot_20_files",
        LookupSpec::new(),
        asked,
        50_000.0,
    )
}

pub(super) fn lookup_uniform(bench: &mut Bench) -> Result<Measure, String> {
    let table = Tables::of(bench)?.orders("orders.parquet");
    let asked = (&table, Asked::Uniform);
    rate(bench, "lookup_uniform", LookupSpec::new(), asked, 5_000.0)
}

pub(super) fn lookup_uniform_8k_pages(bench: &mut Bench) -> Result<Measure, String> {
    let table = Tables::of(bench)?.orders("orders-8k.parquet");
    let asked = (&table, Asked::Uniform);
    rate(
        bench,
        "lookup_uniform_8k_pages",
        LookupSpec::new(),
        asked,
        20_000.0,
    )
}

pub(super) fn lookup_uniform_roomy(bench: &mut Bench) -> Result<Measure, String> {
    let table = Tables::of(bench)?.orders("orders.parquet");
    let spec = LookupSpec {
        lookup_bytes: 1 << 30,
        ..LookupSpec::new()
    };
    let asked = (&table, Asked::Uniform);
    rate(bench, "lookup_uniform_roomy", spec, asked, 40_000.0)
}

pub(super) fn lookup_random_order(bench: &mut Bench) -> Result<Measure, String> {
    let tables = Tables::of(bench)?;
    let (sorted, random) = (
        tables.orders("orders.parquet"),
        tables.orders("orders-random.parquet"),
    );
    let worker = LookupWorker::start(bench, LookupSpec::new(), &[&sorted, &random])?;
    let side = |bench: &Bench, table: &Table| -> Result<Side, String> {
        worker.index(table)?;
        Ok(Side {
            spec: load(bench, &worker, table, Asked::Uniform),
            watched: worker.watched(),
        })
    };
    let (of_random, of_sorted) = (side(bench, &random)?, side(bench, &sorted)?);
    let pairs = interleave(bench, &of_random, &of_sorted)?;
    let bar = Bar::RatioAtLeast(1.0 / 1.5);
    let measure = Measure::of_pairs("lookup_random_order", "1/s", &rates(&pairs), bar).with_note(
        "uniform keys with key indexes; rows in random order against the same rows sorted by the key",
    );
    Ok(judge(measure, &pairs, ["random order", "sorted"], None))
}

pub(super) fn lookup_batched_keys(bench: &mut Bench) -> Result<Measure, String> {
    let table = Tables::of(bench)?.orders("orders.parquet");
    let worker = LookupWorker::start(bench, LookupSpec::new(), &[&table])?;
    worker.index(&table)?;
    let address = worker.process.address();
    let batch = BATCH_KEYS.min(table.keys / 4);
    let side = Side {
        spec: LoadSpec {
            target: std::sync::Arc::new(LookUp {
                address,
                table: table.clone(),
                asked: table.keys,
                batch,
            }),
            connections: 2,
            depth: 2,
            ..load(bench, &worker, &table, Asked::Uniform)
        },
        watched: worker.watched(),
    };
    side.take(0)?;
    let samples = samples(bench, &side)?;
    let values: Vec<f64> = samples
        .iter()
        .map(|sample| sample.load.rate() * batch as f64)
        .collect();
    let measure = Measure::of_values(
        "lookup_batched_keys",
        "keys/s",
        &values,
        Bar::AtLeast(150_000.0),
    )
    .with_note(format!(
        "{batch} uniform keys a look-up, with a key index, 2 connections x depth 2"
    ));
    Ok(judged(measure, &samples))
}

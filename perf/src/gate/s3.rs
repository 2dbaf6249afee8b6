//! The S3 face over the wire: against nginx with the same ranges, and against a bare loop whose answers
//! are of HTTP's shape.
//!
//! The invariant: both sides are asked by one generator for the same ranges over as many connections,
//! and every payload is compared as in the other measures. nginx and the bare loop are asked without
//! signatures.
//!
//! | module | holds |
//! |---|---|
//! | `listing` | pages of a large bucket |
//! | `signature` | one verification, without a connection |

mod listing;
mod signature;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::bench::Bench;
use super::measure::{Bar, Measure, median};
use super::pairs::{Side, busy_rates, costs, fresh_place, interleave, judge, rates};
use super::peers::{self, Behind, Peer, start_nginx};
use super::rounds::{self, BUSY_PERCENT_MIN, Pair};
use super::served::{
    BUDGET_OF_DEVICE, DEPTH1_ROUNDS_MIN, LARGE, ONE_EACH, SINGLE, Shape, dram_worker,
};
use super::two_shards::{self, OFFERED_SHARE};
use super::worker::{DramPolicy, GateWorker, WorkerSpec, s3_credentials};
use crate::ceiling::{Protocol, Source};
use crate::commands::start_server;
use crate::load::{Arrivals, LoadSpec};
use crate::sample::{Sample, Watched};
use crate::server_process::ServerProcess;
use crate::target::Target;
use crate::target::http::Http;

pub(super) use listing::s3_list_1000_ms;
pub(super) use signature::s3_signature_ns;

/// Share of the worker's reads that may come from elsewhere than the measure is about.
const ELSEWHERE_MAX: f64 = 0.1;

/// Places in the counters by source.
const DRAM: usize = 0;
const DEVICE: usize = 1;

/// Whether requests carry a signature, with UNSIGNED-PAYLOAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Requests {
    Signed,
    Unsigned,
}

impl Requests {
    fn to(self, address: SocketAddr) -> Arc<dyn Target> {
        let host = address.to_string();
        Arc::new(match self {
            Requests::Signed => Http::signed(address, &host, "/", s3_credentials()),
            Requests::Unsigned => Http::plain(address, &host, "/"),
        })
    }
}

/// The S3 face of `worker` under a closed loop.
fn of_worker(bench: &Bench, worker: &GateWorker, requests: Requests, shape: Shape) -> Side {
    Side {
        spec: LoadSpec {
            target: requests.to(worker.s3),
            ..worker.load(bench, shape.connections, shape.depth, shape.read_bytes)
        },
        watched: worker.watched(),
    }
}

/// nginx under the load `spec`, of an object of `object_bytes`.
fn of_nginx(
    bench: &Bench,
    (peer, target): &(Peer, Arc<dyn Target>),
    object_bytes: u64,
    spec: &LoadSpec,
) -> Side {
    Side {
        spec: LoadSpec {
            target: Arc::clone(target),
            workload: peers::object(object_bytes),
            paths: Vec::new(),
            ..spec.clone()
        },
        watched: peer.watched(bench.options.server_core),
    }
}

/// The bare loop under the load `spec`.
fn of_bare_loop(bench: &Bench, bare: &ServerProcess, spec: &LoadSpec) -> Side {
    Side {
        spec: LoadSpec {
            target: Requests::Unsigned.to(bare.address()),
            ..spec.clone()
        },
        watched: Watched::one(bare.pid(), bench.options.server_core),
    }
}

fn start_bare_loop(bench: &Bench, shape: Shape) -> Result<ServerProcess, String> {
    let source = Source::Memory {
        bytes: bench.options.working_set,
    };
    let core = bench.options.server_core;
    start_server(
        &source,
        Protocol::Http,
        shape.read_bytes,
        Duration::ZERO,
        core,
    )
    .map_err(|error| format!("the bare loop: {error}"))
}

/// Share of the pieces of `sample`'s answers that did not come from `source`.
fn share_elsewhere(sample: &Sample, source: usize) -> f64 {
    let reads = sample.counters.unwrap_or_default().s3_reads;
    1.0 - reads[source] / reads.iter().sum::<f64>().max(1.0)
}

/// `measure` of `pairs` of a worker, whose answers were to come from `source`, and `other`.
fn judge_from(measure: Measure, pairs: &[Pair], other: &str, source: usize) -> Measure {
    let elsewhere = pairs
        .iter()
        .map(|pair| share_elsewhere(&pair.worker, source))
        .fold(0.0, f64::max);
    let measure = judge(measure, pairs, ["worker", other], None);
    if elsewhere <= ELSEWHERE_MAX {
        return measure;
    }
    measure.without_verdict(format!(
        "{:.0} % of the worker's reads came from another place than asked",
        elsewhere * 100.0
    ))
}

fn note_of(shape: Shape, requests: Requests, other: &str) -> String {
    format!(
        "{} connections x depth {}, closed loop, {requests:?} to the worker, {other}",
        shape.connections, shape.depth
    )
}

/// Rates of the worker's DRAM hits against nginx' from the page cache.
fn against_nginx(
    bench: &mut Bench,
    name: &str,
    requests: Requests,
    bar: f64,
) -> Result<Measure, String> {
    let nginx = start_nginx(bench, Behind::PageCache)?;
    let worker = dram_worker(bench, Duration::ZERO)?;
    let first = of_worker(bench, &worker, requests, ONE_EACH);
    let second = of_nginx(bench, &nginx, bench.options.working_set, &first.spec);
    let pairs = interleave(bench, &first, &second)?;
    let measure = Measure::of_pairs(name, "1/s", &rates(&pairs), Bar::RatioAtLeast(bar))
        .with_note(note_of(ONE_EACH, requests, "nginx from the page cache"));
    let measure = judge_from(measure, &pairs, "nginx", DRAM);
    Ok(peers::unless_idle(measure, &pairs))
}

pub(super) fn s3_4k_signed(bench: &mut Bench) -> Result<Measure, String> {
    against_nginx(bench, "s3_4k_signed", Requests::Signed, 0.95)
}

pub(super) fn s3_4k_unsigned(bench: &mut Bench) -> Result<Measure, String> {
    against_nginx(bench, "s3_4k_unsigned", Requests::Unsigned, 1.2)
}

/// Pairs of the worker's DRAM hits and the bare loop.
fn beside_bare_loop(bench: &mut Bench, name: &str, shape: Shape) -> Result<Vec<Pair>, String> {
    let bare = start_bare_loop(bench, shape)?;
    let worker = dram_worker(bench, Duration::ZERO)?;
    let first = of_worker(bench, &worker, Requests::Unsigned, shape);
    let second = of_bare_loop(bench, &bare, &first.spec);
    let pairs = interleave(bench, &first, &second)?;
    for pair in &pairs {
        bench.note_memory(name, &pair.worker, worker.dram_bytes);
    }
    Ok(pairs)
}

pub(super) fn s3_4k_unsigned_ceiling(bench: &mut Bench) -> Result<Measure, String> {
    let name = "s3_4k_unsigned_ceiling";
    let pairs = beside_bare_loop(bench, name, ONE_EACH)?;
    let judged = |measure| judge_from(measure, &pairs, "bare loop", DRAM);
    let note = note_of(ONE_EACH, Requests::Unsigned, "bare loop of HTTP's shape");
    Ok(busy_rates(name, &pairs, 0.65, judged).with_note(note))
}

pub(super) fn s3_1m(bench: &mut Bench) -> Result<Measure, String> {
    let name = "s3_1m";
    let pairs = beside_bare_loop(bench, name, LARGE)?;
    let judged = |measure| judge_from(measure, &pairs, "bare loop", DRAM);
    let whole = |side: &dyn Fn(&Pair) -> &Sample| {
        let at = |quantile: f64| {
            let of_rounds: Vec<f64> = pairs
                .iter()
                .map(|pair| side(pair).load.latency_us(quantile) / 1e3)
                .collect();
            (
                median(&of_rounds),
                of_rounds.iter().copied().fold(0.0, f64::max),
            )
        };
        let ((p50, _), (p99, worst)) = (at(0.5), at(0.99));
        format!("p50 {p50:.2}, p99 {p99:.2}, of the worst round {worst:.2}")
    };
    Ok(busy_rates(name, &pairs, 0.85, judged)
        .with_note(note_of(
            LARGE,
            Requests::Unsigned,
            "bare loop of HTTP's shape",
        ))
        .with_note(format!(
            "whole replies, ms: worker {}; bare loop {}",
            whole(&|pair| &pair.worker),
            whole(&|pair| &pair.ceiling)
        )))
}

pub(super) fn s3_first_byte(bench: &mut Bench) -> Result<Measure, String> {
    let nginx = start_nginx(bench, Behind::PageCache)?;
    let worker = dram_worker(bench, Duration::ZERO)?;
    let first = of_worker(bench, &worker, Requests::Signed, SINGLE);
    let second = of_nginx(bench, &nginx, bench.options.working_set, &first.spec);
    let rounds = match bench.options.quick {
        true => 1,
        false => bench.options.rounds.max(DEPTH1_ROUNDS_MIN),
    };
    let pairs = rounds::interleave(
        rounds,
        |number| first.take(number),
        |number| second.take(number),
    )?;
    let p50 = |sample: &Sample| sample.load.latency_us(0.5);
    let latencies: Vec<(f64, f64)> = pairs
        .iter()
        .map(|pair| (p50(&pair.worker), p50(&pair.ceiling)))
        .collect();
    let measure = Measure::of_pairs("s3_first_byte", "µs", &latencies, Bar::RatioAtMost(1.2))
        .with_note(note_of(
            SINGLE,
            Requests::Signed,
            "nginx from the page cache",
        ))
        .with_note(format!(
            "p50 to the last of 4 KiB, none polls; in the worker's are {:.1} µs in which the generator signs",
            signature::signing_ns(bench)? / 1e3
        ));
    Ok(judge_from(measure, &pairs, "nginx", DRAM))
}

pub(super) fn s3_device_4k(bench: &mut Bench) -> Result<Measure, String> {
    let behind = Behind::Drive {
        threads: ONE_EACH.connections,
    };
    let nginx = start_nginx(bench, behind)?;
    let object_bytes = bench.options.device_set;
    let place = fresh_place(bench.directory(), "worker")?;
    let spec = WorkerSpec {
        dram_policy: DramPolicy::Noop,
        ..WorkerSpec::new(bench, place, object_bytes, BUDGET_OF_DEVICE)
    };
    let worker = GateWorker::start(bench, &spec)?;
    let first = of_worker(bench, &worker, Requests::Unsigned, ONE_EACH);
    let second = of_nginx(bench, &nginx, object_bytes, &first.spec);
    let pairs = interleave(bench, &first, &second)?;
    let measure = Measure::of_pairs(
        "s3_device_4k",
        "1/s",
        &rates(&pairs),
        Bar::RatioAtLeast(2.0),
    )
    .with_note(note_of(
        ONE_EACH,
        Requests::Unsigned,
        "nginx with directio and as many aio threads as connections",
    ));
    let measure = judge_from(measure, &pairs, "nginx", DEVICE);
    let idle = pairs
        .iter()
        .filter(|pair| pair.worker.busy_percent < BUSY_PERCENT_MIN)
        .count();
    Ok(match idle * 2 > pairs.len() {
        true => measure
            .with_note("the worker's core had time left in most rounds: its rate is the drive's"),
        false => measure,
    })
}

pub(super) fn s3_two_shards_cpu(bench: &mut Bench) -> Result<Measure, String> {
    let (server, load) = (bench.options.server_core, bench.options.load_core);
    let one = two_shards::start(bench, "one", vec![server])?;
    let two = two_shards::start(bench, "two", vec![server, load])?;
    let closed = of_worker(bench, &one, Requests::Unsigned, ONE_EACH);
    let offered = OFFERED_SHARE * Side::highest_rate(&closed.spec)?;
    let side = |worker: &GateWorker| {
        let closed = of_worker(bench, worker, Requests::Unsigned, ONE_EACH);
        Side {
            spec: LoadSpec {
                arrivals: Arrivals::Poisson {
                    per_second: offered,
                },
                ..closed.spec
            },
            ..closed
        }
    };
    let pairs = interleave(bench, &side(&two), &side(&one))?;
    let bar = Bar::RatioAtMost(1.3);
    let measure = Measure::of_pairs("s3_two_shards_cpu", "µs", &costs(&pairs), bar).with_note(
        format!("{offered:.0} GETs/s offered to both, Poisson; the kernel spreads the connections, so half of the GETs hop"),
    );
    Ok(judge(
        measure,
        &pairs,
        ["two shards", "one shard"],
        Some(offered),
    ))
}

//! Reads beside look-ups, on one core.

use super::rates::{Asked, load};
use super::tables::Tables;
use super::worker::{LookupSpec, LookupWorker};
use crate::gate::bench::Bench;
use crate::gate::measure::{Bar, Measure};
use crate::gate::pairs::{self, Side, judge, latencies, rate_at_load};
use crate::load::{Arrivals, LoadSpec};

/// Share of the core's time that look-ups take.
const LOAD: f64 = 0.5;

/// Reads beside them: few enough that what they wait for is look-ups.
const READS_PER_SECOND: f64 = 5_000.0;

pub(super) fn reads_beside_lookups(bench: &mut Bench) -> Result<Measure, String> {
    let table = Tables::of(bench)?.orders("orders.parquet");
    let worker = LookupWorker::start(bench, LookupSpec::new(), &[&table])?;
    worker.index(&table)?;
    let closed = Side {
        spec: load(bench, &worker, &table, Asked::Uniform),
        watched: worker.watched(),
    };
    let (offered, busy) = rate_at_load(&closed, LOAD)?;
    let look_ups = LoadSpec {
        arrivals: Arrivals::Poisson {
            per_second: offered,
        },
        ..closed.spec
    };
    let reads = Side {
        spec: LoadSpec {
            arrivals: Arrivals::Poisson {
                per_second: READS_PER_SECOND,
            },
            paths: table.paths.clone(),
            ..bench.load(worker.process.address(), 8, 8, 4096)
        },
        watched: closed.watched,
    };
    let (pairs, looked_up) = pairs::beside(bench, &reads, &look_ups, None)?;
    let tails = latencies(&pairs, 0.99);
    let bar = Bar::RatioAtMost(2.0);
    let mut measure = Measure::of_pairs("reads_beside_lookups", "µs", &tails, bar).with_note(format!(
        "p99 of {READS_PER_SECOND:.0} 4 KiB reads a second from DRAM beside {offered:.0} look-ups a second of uniform keys, \
         which took {:.0} % of the core's time when their rate was sought, against the same reads alone; both generators \
         share a core",
        100.0 * busy
    ));
    if looked_up.iter().any(|look_ups| look_ups.wrong > 0) {
        measure.holds = Some(false);
        measure = measure.with_note("WRONG ANSWERS were received");
    }
    if let Some(error) = looked_up
        .iter()
        .find_map(|look_ups| look_ups.first_error.as_ref())
    {
        measure = measure.without_verdict(format!("look-ups failed: {error}"));
    }
    Ok(judge(measure, &pairs, ["beside look-ups", "alone"], None))
}

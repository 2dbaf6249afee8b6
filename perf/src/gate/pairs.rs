//! What measures of two servers in turns have in common, where the second is no ceiling: another
//! shape of the worker, or another server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use corelane_io::cores;

use super::bench::Bench;
use super::measure::{Bar, Measure};
use super::rounds::{self, BUSY_PERCENT_MIN, Pair, STEAL_PERCENT_MAX};
use crate::load::{Arrivals, LoadResult, LoadSpec, crew};
use crate::run::Point;
use crate::run::answers::LatencyBound;
use crate::sample::{self, Sample, Watched};
use crate::search;

/// What a search for the highest rate asks for: that the rate is kept without a growing backlog.
const SEARCH_BOUND: LatencyBound = LatencyBound {
    quantile: 0.99,
    us: 20_000.0,
};
const SEARCH_PRECISION: f64 = 0.08;

/// Steps towards a rate that keeps a server's core busy for a share of its time, at the most, and how near
/// to it is near enough.
const BUSY_STEPS_MAX: u64 = 12;
const BUSY_PRECISION: f64 = 0.04;

/// A step of it is so much shorter than a round.
const SEARCH_SHARE: f64 = 2.0;

/// An empty directory `name` below `directory`.
pub(super) fn fresh_place(directory: &Path, name: &str) -> Result<PathBuf, String> {
    let place = directory.join(name);
    if place.exists() {
        std::fs::remove_dir_all(&place).map_err(|error| error.to_string())?;
    }
    std::fs::create_dir_all(&place).map_err(|error| error.to_string())?;
    Ok(place)
}

/// One side of a pair: a load and the server under it.
pub(super) struct Side {
    pub spec: LoadSpec,
    pub watched: Watched,
}

impl Side {
    /// One sample; other operations each time.
    pub fn take(&self, number: u64) -> Result<Sample, String> {
        let spec = LoadSpec {
            seed: self.spec.seed + number,
            ..self.spec.clone()
        };
        sample::take(&spec, &self.watched).map_err(|error| error.to_string())
    }

    /// The highest rate that the server of the closed loop `closed` keeps in an open loop (Poisson),
    /// in operations a second. It is lower than the closed loop's: what comes one by one shares
    /// fewer system calls.
    pub fn highest_rate(closed: &LoadSpec) -> Result<f64, String> {
        let failed = |error: std::io::Error| error.to_string();
        let shares = |span: Duration| span.div_f64(SEARCH_SHARE);
        let start = crew::run(closed, |_| {}).map_err(failed)?.rate() / 4.0;
        let options = search::Options {
            bound: SEARCH_BOUND,
            start,
            precision: SEARCH_PRECISION,
        };
        let mut tries = 0;
        let (answer, _) = search::run(&options, |per_second| {
            tries += 1;
            let spec = LoadSpec {
                seed: closed.seed + tries,
                arrivals: Arrivals::Poisson { per_second },
                warm_up: shares(closed.warm_up),
                measured: shares(closed.measured),
                ..closed.clone()
            };
            let result = crew::run(&spec, |_| {}).map_err(failed)?;
            Ok(Point::of("worker", &spec, &result))
        })?;
        answer
            .highest_rate
            .ok_or_else(|| "no rate was kept in an open loop".to_owned())
    }
}

/// The rate (Poisson) at which the core of the server under the closed loop `closed` is busy for `share`
/// of its time, in operations a second, and the share that was seen at it. Not that share of the
/// highest rate: what comes one by one costs several times what comes in batches.
pub(super) fn rate_at_load(closed: &Side, share: f64) -> Result<(f64, f64), String> {
    let highest = closed.take(0)?.load.rate();
    let mut rate = highest / 8.0;
    for number in 0..BUSY_STEPS_MAX {
        let step = Side {
            spec: LoadSpec {
                arrivals: Arrivals::Poisson { per_second: rate },
                warm_up: closed.spec.warm_up.div_f64(SEARCH_SHARE),
                measured: closed.spec.measured.div_f64(SEARCH_SHARE),
                ..closed.spec.clone()
            },
            watched: closed.watched.clone(),
        };
        let busy = step.take(number)?.busy_percent / 100.0;
        if (busy - share).abs() <= BUSY_PRECISION {
            return Ok((rate, busy));
        }
        // Costs fall as the rate rises, so a proportional step does not overshoot.
        rate = (rate * (share / busy.max(0.01)).clamp(0.25, 2.0)).min(highest);
    }
    Err(format!(
        "no rate keeps the core busy for {:.0} % of its time, within {:.0}, after {BUSY_STEPS_MAX} steps",
        100.0 * share,
        100.0 * BUSY_PRECISION
    ))
}

/// `reads` with `other` running meanwhile, with the niceness `nice` if any, and `reads` alone, in
/// turns; and what `other` gave each time.
pub(super) fn beside(
    bench: &Bench,
    reads: &Side,
    other: &LoadSpec,
    nice: Option<i32>,
) -> Result<(Vec<Pair>, Vec<LoadResult>), String> {
    let run_other = |number: u64| {
        if let Some(nice) = nice {
            cores::give_way(nice).map_err(|error| error.to_string())?;
        }
        let of_round = LoadSpec {
            seed: other.seed + number,
            ..other.clone()
        };
        crew::run(&of_round, |_| {}).map_err(|error| error.to_string())
    };
    let mut others = Vec::new();
    let pairs = rounds::interleave(
        bench.options.rounds,
        |number| {
            std::thread::scope(|scope| {
                let running = scope.spawn(move || run_other(number));
                let sample = reads.take(number);
                let other = running
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                others.push(other?);
                sample
            })
        },
        |number| reads.take(number),
    )?;
    Ok((pairs, others))
}

/// The quantile of the latencies of both, in microseconds.
pub(super) fn latencies(pairs: &[Pair], quantile: f64) -> Vec<(f64, f64)> {
    let of = |sample: &Sample| sample.load.latency_us(quantile);
    let both = pairs
        .iter()
        .map(|pair| (of(&pair.worker), of(&pair.ceiling)));
    both.collect()
}

/// Pairs of both sides, in turns.
pub(super) fn interleave(bench: &Bench, first: &Side, second: &Side) -> Result<Vec<Pair>, String> {
    rounds::interleave(
        bench.options.rounds,
        |number| first.take(number),
        |number| second.take(number),
    )
}

/// Rates of both.
pub(super) fn rates(pairs: &[Pair]) -> Vec<(f64, f64)> {
    let rates = pairs
        .iter()
        .map(|pair| (pair.worker.load.rate(), pair.ceiling.load.rate()));
    rates.collect()
}

/// A measure of the rates of `pairs` of a worker and its ceiling, as far as both cores were busy;
/// `judge` says what else is wrong with them, of all.
pub(super) fn busy_rates(
    name: &str,
    all: &[Pair],
    bar: f64,
    judge: impl FnOnce(Measure) -> Measure,
) -> Measure {
    let (pairs, idle): (Vec<Pair>, Vec<Pair>) = all
        .iter()
        .cloned()
        .partition(|pair| pair.busy_percent() >= BUSY_PERCENT_MIN);
    let too_few = pairs.len() <= idle.len();
    let counted = if too_few { all } else { &pairs };
    let measure = Measure::of_pairs(name, "1/s", &rates(counted), Bar::RatioAtLeast(bar));
    // Errors and wrong bytes count wherever they were.
    let mut measure = judge(measure);
    if !idle.is_empty() {
        measure = measure.with_note(format!(
            "in {} of {} rounds the core of one of the servers was less than {BUSY_PERCENT_MIN} % busy: these do not count",
            idle.len(),
            all.len()
        ));
    }
    if too_few {
        measure = measure.without_verdict(
            "the server's core was not busy in most rounds: these are the generator's rates",
        );
    }
    measure
}

/// CPU an operation of both.
pub(super) fn costs(pairs: &[Pair]) -> Vec<(f64, f64)> {
    let costs = pairs.iter().map(|pair| {
        (
            pair.worker.cpu_us_per_operation(),
            pair.ceiling.cpu_us_per_operation(),
        )
    });
    costs.collect()
}

/// `measure` of `pairs` of what `names` names, or what is wrong with them. With `keeps_rate`, both
/// had to keep the offered rate.
pub(super) fn judge(
    measure: Measure,
    pairs: &[Pair],
    names: [&str; 2],
    keeps_rate: Option<f64>,
) -> Measure {
    let mut measure = rounds::notes_of(pairs, names)
        .into_iter()
        .fold(measure, Measure::with_note);
    let samples = || pairs.iter().flat_map(|pair| [&pair.worker, &pair.ceiling]);
    if pairs
        .iter()
        .any(|pair| pair.steal_percent() > STEAL_PERCENT_MAX)
    {
        measure =
            measure.without_verdict("the hypervisor took CPU away in every repetition of a round");
    }
    if samples().any(|sample| sample.load.wrong > 0) {
        measure.holds = Some(false);
        measure = measure.with_note("WRONG BYTES were received");
    }
    if let Some(error) = samples().find_map(|sample| sample.load.first_error.as_ref()) {
        measure = measure.without_verdict(format!("reads failed: {error}"));
    }
    if let Some(offered) = keeps_rate
        && samples().any(|sample| sample.load.is_overrun || sample.load.rate() < 0.97 * offered)
    {
        measure = measure.without_verdict(format!(
            "the offered rate of {offered:.0} a second was not kept in every round"
        ));
    }
    measure
}

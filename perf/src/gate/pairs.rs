//! What measures of two servers in turns have in common, where the second is no ceiling: another
//! shape of the worker, or another server.

use std::path::{Path, PathBuf};

use super::bench::Bench;
use super::measure::Measure;
use super::rounds::{self, Pair, STEAL_PERCENT_MAX};
use crate::load::{LoadSpec, crew};
use crate::sample::{self, Sample, Watched};

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

    /// Operations a second in a closed loop, of one run without a look at the server.
    pub fn closed_rate(spec: &LoadSpec) -> Result<f64, String> {
        crew::run(spec, |_| {})
            .map(|result| result.rate())
            .map_err(|error| error.to_string())
    }
}

/// Pairs of both sides, in turns.
pub(super) fn interleave(bench: &Bench, first: &Side, second: &Side) -> Result<Vec<Pair>, String> {
    rounds::interleave(
        bench.options.rounds,
        |number| first.take(number),
        |number| second.take(number),
    )
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

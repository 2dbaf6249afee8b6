//! Rounds: worker and ceiling in turns, and again where the hypervisor took the CPU away.

use crate::sample::Sample;

/// Stolen time beyond which a round is repeated, in percent.
pub const STEAL_PERCENT_MAX: f64 = 1.0;

/// Repetitions a round may have before its last sample is taken as it is.
const REPEATS_MAX: usize = 5;

/// Load of the server's core from which on a rate counts as the server's, in percent.
pub const BUSY_PERCENT_MIN: f64 = 95.0;

/// A worker's sample and the ceiling's next to it.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Of the worker.
    pub worker: Sample,
    /// Of the ceiling.
    pub ceiling: Sample,
}

/// `rounds` pairs. Which of the two goes first alternates, so that a drift of the machine favours
/// neither; a pair with too much steal is measured again. Both are given the number of the pair,
/// repeated ones counted: a load that reads other places each time does not find them cached.
///
/// # Errors
/// The first error of either.
pub fn interleave(
    rounds: usize,
    mut worker: impl FnMut(u64) -> Result<Sample, String>,
    mut ceiling: impl FnMut(u64) -> Result<Sample, String>,
) -> Result<Vec<Pair>, String> {
    let steal = |sample: &Sample| sample.steal_percent;
    let rounds = in_turns(rounds, &mut [&mut worker, &mut ceiling], steal)?;
    let pair = |round: Vec<Sample>| {
        let [worker, ceiling] = <[Sample; 2]>::try_from(round).expect("there were two");
        Pair { worker, ceiling }
    };
    Ok(rounds.into_iter().map(pair).collect())
}

/// One contestant's turn: a sample of the round with the given number.
pub type Turn<'a, S> = &'a mut dyn FnMut(u64) -> Result<S, String>;

/// `rounds` rounds with a sample of each contestant, in their order. The order of turns is that of
/// the contestants and its reverse, alternating; a round in which any sample has too much `steal`
/// (in percent) is measured again. All are given the number of the round, repeated ones counted.
///
/// # Errors
/// The first error of any.
pub fn in_turns<S>(
    rounds: usize,
    contestants: &mut [Turn<'_, S>],
    steal: impl Fn(&S) -> f64,
) -> Result<Vec<Vec<S>>, String> {
    let mut done = Vec::with_capacity(rounds);
    let mut number = 0;
    for round in 0..rounds {
        let mut attempt = 0;
        loop {
            let mut samples = Vec::with_capacity(contestants.len());
            if round % 2 == 0 {
                for turn in contestants.iter_mut() {
                    samples.push(turn(number)?);
                }
            } else {
                for turn in contestants.iter_mut().rev() {
                    samples.push(turn(number)?);
                }
                samples.reverse();
            }
            attempt += 1;
            number += 1;
            let stolen = samples.iter().map(&steal).fold(0.0, f64::max);
            if stolen <= STEAL_PERCENT_MAX || attempt > REPEATS_MAX {
                done.push(samples);
                break;
            }
        }
    }
    Ok(done)
}

impl Pair {
    /// The greater steal of the two.
    pub fn steal_percent(&self) -> f64 {
        self.worker.steal_percent.max(self.ceiling.steal_percent)
    }

    /// The lesser load of the server's core.
    pub fn busy_percent(&self) -> f64 {
        self.worker.busy_percent.min(self.ceiling.busy_percent)
    }
}

/// What to say of `pairs` of worker and ceiling beside their figures.
pub fn notes(pairs: &[Pair]) -> Vec<String> {
    notes_of(pairs, ["worker", "ceiling"])
}

/// What to say of `pairs` of whom `names` names beside their figures.
pub fn notes_of(pairs: &[Pair], names: [&str; 2]) -> Vec<String> {
    let [worker, ceiling] = names;
    let range = |figure: &dyn Fn(&Pair) -> f64| {
        let figures: Vec<f64> = pairs.iter().map(figure).collect();
        let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = figures.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        format!("{least:.1} to {greatest:.1}")
    };
    let mut notes = vec![
        format!(
            "server core busy, %: {worker} {}, {ceiling} {}",
            range(&|pair| pair.worker.busy_percent),
            range(&|pair| pair.ceiling.busy_percent)
        ),
        format!(
            "generator busy, %: with {worker} {}, with {ceiling} {}",
            range(&|pair| pair.worker.generator_percent()),
            range(&|pair| pair.ceiling.generator_percent())
        ),
        format!(
            "server CPU, µs a read: {worker} {}, {ceiling} {}; rate, 1/s: {worker} {}, {ceiling} {}",
            range(&|pair| pair.worker.cpu_us_per_operation()),
            range(&|pair| pair.ceiling.cpu_us_per_operation()),
            range(&|pair| pair.worker.load.rate()),
            range(&|pair| pair.ceiling.load.rate())
        ),
        format!(
            "{} rounds, steal {} %",
            pairs.len(),
            range(&Pair::steal_percent)
        ),
    ];
    let total =
        |count: &dyn Fn(&Sample) -> u64| pairs.iter().map(|pair| count(&pair.worker)).sum::<u64>();
    let by_source = [0, 1, 2].map(|source| total(&|sample| sample.load.by_source[source]));
    // HTTP does not tell.
    let sources = match by_source {
        [0, 0, 0] => String::new(),
        [dram, device, under_store] => format!(
            "{dram} reads from DRAM, {device} from the device, {under_store} from the under-store; "
        ),
    };
    notes.push(format!(
        "{worker}: {sources}{} verified, {} wrong, {} errors",
        total(&|sample| sample.load.verified),
        total(&|sample| sample.load.wrong),
        total(&|sample| sample.load.errors)
    ));
    notes.push(format!(
        "iou-wrk threads: {worker} {}, {ceiling} {}; their share of the server's CPU, %: {worker} {}, {ceiling} {}",
        pairs.iter().map(|pair| pair.worker.ring_workers()).max().unwrap_or(0),
        pairs.iter().map(|pair| pair.ceiling.ring_workers()).max().unwrap_or(0),
        range(&|pair| pair.worker.ring_worker_percent()),
        range(&|pair| pair.ceiling.ring_worker_percent())
    ));
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::LoadResult;
    use crate::process::{CpuTime, Switches};
    use std::cell::Cell;
    use std::time::Duration;

    fn sample(operations: u64, steal_percent: f64) -> Sample {
        let mut load = LoadResult::new();
        (load.operations, load.elapsed) = (operations, Duration::from_secs(1));
        let cpu = CpuTime {
            user: Duration::from_millis(400),
            system: Duration::from_millis(560),
        };
        Sample {
            load,
            cpu,
            switches: Switches::default(),
            counters: None,
            resident_bytes: 0,
            threads: Vec::new(),
            busy_percent: 96.0,
            ring_worker_cpu: Duration::ZERO,
            steal_percent,
        }
    }

    #[test]
    fn rounds_take_turns_and_a_stolen_one_is_repeated() {
        let order = std::cell::RefCell::new(String::new());
        let calls = Cell::new(0);
        let worker = |_| {
            order.borrow_mut().push('w');
            calls.set(calls.get() + 1);
            Ok(sample(10, if calls.get() == 2 { 3.0 } else { 0.0 }))
        };
        let ceiling = |_| {
            order.borrow_mut().push('c');
            Ok(sample(20, 0.0))
        };
        let pairs = interleave(3, worker, ceiling).expect("no errors");
        assert_eq!(order.into_inner(), "wccwcwwc");
        assert!(pairs.iter().all(|pair| pair.steal_percent() == 0.0));
        assert!((pairs[0].busy_percent() - 96.0).abs() < 1e-9);
        assert!(notes(&pairs)[0].contains("96.0"));
    }

    #[test]
    fn a_machine_that_always_steals_ends_all_the_same() {
        let pairs =
            interleave(1, |_| Ok(sample(1, 50.0)), |_| Ok(sample(1, 0.0))).expect("no errors");
        assert_eq!(pairs[0].steal_percent(), 50.0);
    }
}

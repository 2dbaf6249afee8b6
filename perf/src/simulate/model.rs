//! What measured runs say of a worker: the cost of its turns, the time of everything else, and
//! what it can do at the most.
//!
//! **Cost.** A turn of n requests takes `a + b n`. How many turns a load takes is not measured, but
//! follows from a and b: so both are found in turns, by simulating each measured load on one worker
//! with the present a and b for its turns an operation, and fitting `CPU an operation = b + a * turns an
//! operation` by least squares to the measured CPU. One load at a low rate (a turn for each request) and one
//! that fills the worker (many requests a turn) tell a and b apart; better than a low rate, at which a
//! server also polls and sleeps, is a closed loop of few requests.
//!
//! **Path.** What a request takes besides its turn is the latency that was measured at the lowest
//! rate, less the turn of a single request.
//!
//! The invariant: nothing is assumed that could have been measured. What is missing is named in an
//! error or in [`WorkerModel::inputs`].

use serde_json::{Value, json};

use super::events::Events;
use super::samples::Samples;
use super::server::{Attempt, Servers, TurnCost};
use crate::random::Random;
use crate::run::point::{Arrivals, ServerCost};
use crate::run::{Latencies, Point, Run};

/// A worker on one CPU.
#[derive(Clone, Debug)]
pub struct WorkerModel {
    /// What its turns cost.
    pub cost: TurnCost,
    /// What a request takes besides, there and back.
    pub path: Samples,
    /// Operations a second at the most.
    pub capacity: f64,
    /// What was read from the runs, and how well it fits.
    pub inputs: Value,
}

/// A server that uses this much of a core in an open loop polls: its CPU says nothing of the cost of
/// a request.
const FULL_PERCENT: f64 = 97.0;

/// Sleeps an operation above which a server's CPU is that of falling asleep and waking up as well.
const SLEEPS_MAX: f64 = 0.05;

/// Share of its core's busy time above which the rest is taken for interrupts of the server's own
/// making, not for other work.
const OWN_SHARE_MIN: f64 = 0.7;

/// Operations that are simulated for the turns of a load.
const OPERATIONS_FOR_TURNS: u64 = 20_000;

/// A load as it was measured on one worker.
#[derive(Clone, Debug)]
struct Observation {
    name: String,
    arrivals: Arrivals,
    in_flight: u64,
    rate: f64,
    cpu_ns: f64,
}

/// The number of workers that a point was measured on, if it was measured on workers.
pub fn workers_of(point: &Point) -> Option<u32> {
    let label = point.label.trim();
    let digits = label.len() - label.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    if digits == 0 {
        // The bare loops and other servers have names of their own.
        let is_worker = ["corelane", "worker", "data-plane"].contains(&label);
        return (is_worker && point.target == "data-plane").then_some(1);
    }
    let count = label[..digits].parse().ok()?;
    // Several shards are one worker with several CPUs, which is no model of ours.
    let what = label[digits..].trim_start();
    (what.starts_with("worker") || (what.starts_with("shard") && count == 1)).then_some(count)
}

impl WorkerModel {
    /// From `runs`, each with its name.
    ///
    /// # Errors
    /// A sentence that says what the runs lack.
    pub fn of(runs: &[(String, Run)]) -> Result<WorkerModel, String> {
        let (points, mut notes) = points_of_one_worker(runs)?;
        let observations = observations(&points, &mut notes);
        if observations.is_empty() {
            return Err(String::from(
                "no measured load tells the CPU of an operation; measure with the server's process \
                 known, at a low rate and at full load",
            ));
        }
        let quiet = quietest(&points).ok_or(
            "no run was measured at a low rate; measure an open loop at a tenth of the highest \
             rate, or one connection at depth 1",
        )?;
        let cost = fit(&observations, &quiet.latency);
        if observations.len() == 1 {
            notes.push(String::from(
                "one load only: the cost of a turn is taken to be nothing",
            ));
        }
        let measured = highest_rate(runs, &points);
        let by_cost = 1e9 / cost.operation_ns;
        let capacity = measured.unwrap_or(by_cost).min(by_cost);
        let single_ns = cost.lasts_ns(1, 1.0);
        let path = Samples::of(&quiet.latency, single_ns)
            .ok_or("the run at the lowest rate has no latencies; measure it again")?;
        let fitted: Vec<Value> = observations
            .iter()
            .map(|observation| {
                let turns = turns_per_operation(observation, cost, &quiet.latency);
                let ns = cost.operation_ns + cost.turn_ns * turns;
                json!({
                    "load": observation.name,
                    "cpu_us_measured": observation.cpu_ns / 1e3,
                    "cpu_us_fitted": ns / 1e3,
                    "turns_per_operation": turns,
                })
            })
            .collect();
        let inputs = json!({
            "runs": runs.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            "workload": quiet.workload,
            "turn_us": cost.turn_ns / 1e3,
            "operation_us": cost.operation_ns / 1e3,
            "capacity_per_second": capacity,
            "capacity_measured_per_second": measured,
            "path_from": name_of(quiet),
            "path_p50_us": path.quantile(0.5) as f64 / 1e3,
            "path_p99_us": path.quantile(0.99) as f64 / 1e3,
            "path_p999_us": path.quantile(0.999) as f64 / 1e3,
            "fit": fitted,
            "notes": notes,
        });
        Ok(WorkerModel {
            cost,
            path,
            capacity,
            inputs,
        })
    }
}

/// The points of one worker and one workload.
fn points_of_one_worker(runs: &[(String, Run)]) -> Result<(Vec<&Point>, Vec<String>), String> {
    let all = runs.iter().flat_map(|(_, run)| &run.points);
    let mut points: Vec<&Point> = all
        .filter(|point| workers_of(point) == Some(1) && point.operations > 0 && point.errors == 0)
        .collect();
    let Some(first) = points.first() else {
        return Err(String::from(
            "no measured run has a point of one worker (labelled `corelane` or `1 worker`) without errors",
        ));
    };
    let mut notes = Vec::new();
    let workload = first.workload.clone();
    let before = points.len();
    points.retain(|point| point.workload == workload);
    if points.len() < before {
        notes.push(format!(
            "{} points of other workloads than {workload} were left out",
            before - points.len()
        ));
    }
    Ok((points, notes))
}

fn name_of(point: &Point) -> String {
    match point.arrivals.per_second() {
        Some(offered) => format!("{} at {offered:.0}/s", point.label),
        None => format!(
            "{}, {} connections x depth {}",
            point.label, point.connections, point.depth
        ),
    }
}

/// What the points say of CPU. Those at which the server slept tell least, because their CPU holds
/// polling and waking up: they count only where there are not two others.
fn observations(points: &[&Point], notes: &mut Vec<String>) -> Vec<Observation> {
    let mut awake = Vec::new();
    let mut asleep = Vec::new();
    for point in points {
        let Some(server) = &point.server else {
            continue;
        };
        let Some(cpu_ns) = cpu_ns(point, server, notes) else {
            continue;
        };
        let observation = Observation {
            name: name_of(point),
            arrivals: point.arrivals,
            in_flight: u64::from(point.connections) * u64::from(point.depth),
            rate: point.rate,
            cpu_ns,
        };
        if server.voluntary_switches_per_operation > SLEEPS_MAX {
            asleep.push(observation);
        } else {
            awake.push(observation);
        }
    }
    if awake.len() < 2 {
        let names = asleep.iter().map(|observation| &observation.name);
        notes.extend(names.map(|name| {
            format!(
                "the server slept during {name}: the cost of a turn holds polling and waking up"
            )
        }));
        awake.append(&mut asleep);
    } else {
        let names = asleep.iter().map(|observation| &observation.name);
        notes.extend(
            names.map(|name| {
                format!("the CPU of {name} was left out: it holds polling and waking up")
            }),
        );
    }
    awake
}

/// CPU of an operation, interrupts included where they can be told from other work on the server's
/// core; none where the server was busy with waiting.
fn cpu_ns(point: &Point, server: &ServerCost, notes: &mut Vec<String>) -> Option<f64> {
    let by_process = server.cpu_us_per_operation * 1e3;
    let by_core = server.busy_percent * 1e7 / point.rate;
    let own_percent = by_process * point.rate / 1e7;
    let is_open = point.arrivals.per_second().is_some();
    if is_open && (point.is_overrun || own_percent >= FULL_PERCENT) {
        notes.push(format!(
            "the CPU of {} was left out: the server was overrun or polled all the time",
            name_of(point)
        ));
        return None;
    }
    let is_alone = by_process >= OWN_SHARE_MIN * by_core;
    if !is_alone {
        notes.push(format!(
            "during {} the server had {:.0} % of its core's busy time: the machine was not quiet",
            name_of(point),
            100.0 * by_process / by_core
        ));
    }
    let ns = if is_alone {
        by_core.max(by_process)
    } else {
        by_process
    };
    (ns > 0.0 && ns.is_finite()).then_some(ns)
}

/// The point whose latencies hold the least waiting: the lowest rate of an open loop, or a closed
/// loop of one request.
fn quietest<'a>(points: &[&'a Point]) -> Option<&'a Point> {
    let is_quiet = |point: &&&Point| {
        point.arrivals.per_second().is_some() || point.connections * point.depth == 1
    };
    points
        .iter()
        .filter(is_quiet)
        .min_by(|left, right| left.rate.total_cmp(&right.rate))
        .copied()
}

/// The highest rate that one worker was seen to keep.
fn highest_rate(runs: &[(String, Run)], points: &[&Point]) -> Option<f64> {
    let searched = runs
        .iter()
        .filter(|(_, run)| run.points.iter().all(|point| workers_of(point) == Some(1)))
        .filter_map(|(_, run)| run.search.as_ref()?.highest_rate);
    let seen = points
        .iter()
        .filter(|point| point.keeps_offered_rate() != Some(false))
        .map(|point| point.rate);
    searched.chain(seen).max_by(f64::total_cmp)
}

fn fit(observations: &[Observation], path: &Latencies) -> TurnCost {
    let cheapest = observations
        .iter()
        .map(|observation| observation.cpu_ns)
        .fold(f64::INFINITY, f64::min);
    let mut cost = TurnCost {
        turn_ns: 0.0,
        operation_ns: cheapest,
        operations_max: usize::MAX,
    };
    if observations.len() == 1 {
        return cost;
    }
    // The first guess only has to tell loads with many turns from those with few.
    cost.turn_ns = cheapest;
    cost.operation_ns = cheapest * 0.8;
    for _ in 0..12 {
        let samples: Vec<(f64, f64)> = observations
            .iter()
            .map(|observation| {
                let turns = turns_per_operation(observation, cost, path);
                (turns, observation.cpu_ns)
            })
            .collect();
        let (turn_ns, operation_ns) = line(&samples);
        // Halfway each time, as the turns answer to the cost.
        cost.turn_ns = (cost.turn_ns + turn_ns) / 2.0;
        cost.operation_ns = (cost.operation_ns + operation_ns) / 2.0;
    }
    cost
}

/// Slope and height of the line through `samples` (x, y) with the least squares of relative
/// errors; neither is negative, and the height not nothing.
fn line(samples: &[(f64, f64)]) -> (f64, f64) {
    let mut sums = [0.0; 5];
    for (x, y) in samples {
        let weight = 1.0 / (y * y);
        for (sum, term) in sums.iter_mut().zip([1.0, *x, *y, x * x, x * y]) {
            *sum += weight * term;
        }
    }
    let [one, x, y, xx, xy] = sums;
    let spread = one * xx - x * x;
    let slope = if spread > 1e-12 * one * xx {
        (one * xy - x * y) / spread
    } else {
        0.0
    };
    let height_min = samples
        .iter()
        .map(|(_, y)| *y)
        .fold(f64::INFINITY, f64::min)
        / 20.0;
    if slope < 0.0 {
        return (0.0, y / one);
    }
    let height = (y - slope * x) / one;
    if height < height_min {
        return (((xy - height_min * x) / xx).max(0.0), height_min);
    }
    (slope, height)
}

/// Turns an operation that a worker of this cost takes for the load.
fn turns_per_operation(observation: &Observation, cost: TurnCost, path: &Latencies) -> f64 {
    enum Event {
        AtWorker,
        TurnEnds,
    }
    let path = Samples::of(path, cost.lasts_ns(1, 1.0)).unwrap_or(Samples::constant(0));
    let mut random = Random::new(1);
    let mut servers = Servers::new(cost, &[0], &[1.0]);
    let mut events = Events::default();
    let mut answered: Vec<Attempt> = Vec::new();
    let gap_ns = 1e9 / observation.rate;
    let is_open = observation.arrivals.per_second().is_some();
    let at_first = if is_open { 1 } else { observation.in_flight };
    for _ in 0..at_first {
        events.add(path.draw(&mut random), Event::AtWorker);
    }
    let mut operations = 0;
    while let Some(event) = events.pop() {
        let turn = match event {
            Event::AtWorker => {
                if is_open {
                    let gap_ns = match observation.arrivals {
                        Arrivals::Constant { .. } => gap_ns,
                        _ => -(1.0 - random.fraction()).ln() * gap_ns,
                    };
                    events.add(gap_ns as u64, Event::AtWorker);
                }
                servers.arrive(0, 0)
            }
            Event::TurnEnds => {
                let turn = servers.end_turn(0, &mut answered);
                operations += answered.len() as u64;
                for _ in answered.drain(..) {
                    if !is_open {
                        events.add(path.draw(&mut random), Event::AtWorker);
                    }
                }
                turn
            }
        };
        if let Some((_, lasts_ns)) = turn {
            events.add(lasts_ns, Event::TurnEnds);
        }
        if operations >= OPERATIONS_FOR_TURNS {
            break;
        }
    }
    servers.turns() as f64 / operations.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::fixture;

    #[test]
    fn labels_name_the_number_of_workers() {
        let mut point = fixture::point("1 worker", Arrivals::Closed, 1.0);
        for (label, workers) in [
            ("1 worker", Some(1)),
            ("2 workers", Some(2)),
            ("12 workers at 30 %", Some(12)),
            ("corelane", Some(1)),
            ("data-plane", Some(1)),
            ("1 shard", Some(1)),
            ("2 shards", None),
            ("network ceiling", None),
            ("redis", None),
        ] {
            point.label = label.to_owned();
            assert_eq!(workers_of(&point), workers, "{label}");
        }
    }

    #[test]
    fn the_fit_finds_the_cost_that_made_the_measurement() {
        let model = WorkerModel::of(&[fixture::run()]).expect("the run has all that is needed");
        let right = fixture::COST;
        let off = |found: f64, right: f64| (found / right - 1.0).abs();
        assert!(
            off(model.cost.turn_ns, right.turn_ns) < 0.05,
            "{:?}",
            model.cost
        );
        assert!(
            off(model.cost.operation_ns, right.operation_ns) < 0.05,
            "{:?}",
            model.cost
        );
        assert!(off(model.path.quantile(0.5) as f64, fixture::PATH_NS as f64) < 0.05);
        assert!(model.capacity <= 1e9 / model.cost.operation_ns);
    }

    #[test]
    fn a_server_that_sleeps_or_shares_its_core_tells_less() {
        let (name, mut run) = fixture::run();
        let mut few = run.points[1].clone();
        (few.connections, few.depth) = (4, 1);
        run.points.push(few);
        let sleeper = run.points[0].server.as_mut().expect("it is known");
        sleeper.voluntary_switches_per_operation = 0.6;
        let shared = run.points[1].server.as_mut().expect("it is known");
        shared.busy_percent *= 3.0;
        let model = WorkerModel::of(&[(name, run)]).expect("two closed loops are left");
        let notes = model.inputs["notes"].to_string();
        assert!(notes.contains("polling and waking up"), "{notes}");
        assert!(notes.contains("had 33 %"), "{notes}");
        let loads = model.inputs["fit"].as_array().expect("a list");
        assert_eq!(loads.len(), 2);
        assert!(
            loads[0]["cpu_us_measured"]
                .as_f64()
                .is_some_and(|us| us < 2.0)
        );
    }

    #[test]
    fn one_load_alone_gives_a_cost_without_turns() {
        let (name, mut run) = fixture::run();
        run.points.truncate(1);
        let model = WorkerModel::of(&[(name, run)]).expect("a low rate is enough");
        assert_eq!(model.cost.turn_ns, 0.0);
        assert!(
            model.inputs["notes"][0]
                .as_str()
                .is_some_and(|note| note.contains("one load"))
        );
    }

    #[test]
    fn what_the_runs_lack_is_named() {
        let (name, run) = fixture::run();
        let lacking = |change: &dyn Fn(&mut Run)| {
            let mut run = run.clone();
            change(&mut run);
            WorkerModel::of(&[(name.clone(), run)]).expect_err("something is missing")
        };
        let error = lacking(&|run| run.points.clear());
        assert!(error.contains("1 worker"), "{error}");
        let error = lacking(&|run| run.points.iter_mut().for_each(|point| point.server = None));
        assert!(error.contains("CPU"), "{error}");
        let error = lacking(&|run| {
            run.points
                .retain(|point| point.arrivals == Arrivals::Closed)
        });
        assert!(error.contains("low rate"), "{error}");
    }

    #[test]
    fn a_falling_line_is_taken_as_level() {
        assert_eq!(line(&[(0.1, 10.0), (1.0, 10.0)]).0, 0.0);
        assert_eq!(line(&[(0.1, 20.0), (1.0, 10.0)]).0, 0.0);
        let (slope, height) = line(&[(0.0, 10.0), (1.0, 30.0)]);
        assert!((slope - 20.0).abs() < 1e-9 && (height - 10.0).abs() < 1e-9);
    }
}

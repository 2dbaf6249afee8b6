//! Measured points beside what the model gives for them. A simulation that cannot repeat what was
//! measured on one and two workers is not believed about fifty.

use corelane_client::Options;
use corelane_client::policy::avoid::AvoidLimits;
use corelane_client::policy::credits::CreditLimits;
use corelane_client::policy::retry::RetryLimits;
use corelane_placement::fleet::MemberState;

use super::fleet::view::View;
use super::fleet::{FleetSpec, world};
use super::model::{WorkerModel, workers_of};
use super::samples::Samples;
use crate::run::answers::{Figures, Validation};
use crate::run::{Point, Run};
use crate::workload::Keys;

/// Operations that are simulated for a point, at the most.
const OPERATIONS_MAX: f64 = 500_000.0;

/// Compares every open-loop point of the runs. Where `one_cpu` is set, all workers of a point ran on
/// one CPU; else each had its own.
///
/// # Errors
/// Where so many workers are no fleet.
pub fn run(
    runs: &[(String, Run)],
    model: &WorkerModel,
    one_cpu: bool,
    seed: u64,
) -> Result<Vec<Validation>, String> {
    let mut validations = Vec::new();
    for (name, run) in runs {
        for point in &run.points {
            let Some(workers) = workers_of(point) else {
                continue;
            };
            let Some(offered) = point.arrivals.per_second() else {
                continue;
            };
            let spec = spec(point, workers as usize, offered, model, one_cpu, seed)?;
            validations.push(Validation {
                name: format!("{name}: {} at {offered:.0}/s", point.label),
                workers,
                offered,
                measured: Figures {
                    rate: point.rate,
                    p50_us: point.latency.p50_us,
                    p99_us: point.latency.p99_us,
                    p999_us: point.latency.p999_us,
                },
                simulated: world::run(&spec).all.figures(),
            });
        }
    }
    Ok(validations)
}

fn spec(
    point: &Point,
    workers: usize,
    offered: f64,
    model: &WorkerModel,
    one_cpu: bool,
    seed: u64,
) -> Result<FleetSpec, String> {
    let options = Options::default();
    let members = (0..workers).map(|worker| (worker, MemberState::Active));
    let view = View::new(members, 1).map_err(|error| error.to_string())?;
    let seconds = point.seconds.min(OPERATIONS_MAX / offered);
    Ok(FleetSpec {
        model: model.clone(),
        workers: (0..workers)
            .map(|worker| (if one_cpu { 0 } else { worker }, 1.0))
            .collect(),
        views: vec![view],
        replicas: 1,
        clients: 1,
        // The generator asks once and waits.
        hedge: None,
        avoid: AvoidLimits::default(),
        retry: RetryLimits {
            retries_max: 0,
            back_off_first: options.back_off_first,
            back_off_max: options.back_off_max,
        },
        connect_timeout: options.connect_timeout,
        // Its lanes, as one: what is due while all are taken waits.
        credits: CreditLimits::granted(
            point.connections.saturating_mul(point.depth),
            u64::from(u32::MAX),
        ),
        read_bytes: 1,
        arrivals: point.arrivals,
        warm_up_ns: (seconds * 1e8) as u64,
        length_ns: (seconds * 1e9) as u64,
        stripes: workers as u64 * 16_384,
        keys: Keys::Uniform,
        under_store: Samples::constant(0),
        happenings: Vec::new(),
        slices: 0,
        seed,
    })
}

/// How far `simulated` lies above `measured`, in percent of that.
pub fn percent_off(measured: f64, simulated: f64) -> f64 {
    if measured > 0.0 {
        100.0 * (simulated / measured - 1.0)
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Latencies;
    use crate::run::point::Arrivals;
    use crate::simulate::fixture;

    #[test]
    fn a_point_that_the_model_was_made_from_is_met() {
        let measured = fixture::run();
        let model = WorkerModel::of(std::slice::from_ref(&measured)).expect("a complete run");
        let validations = run(&[measured], &model, false, 1).expect("a fleet of one");
        assert_eq!(validations.len(), 1, "the closed loop is not compared");
        let Validation {
            measured,
            simulated,
            ..
        } = &validations[0];
        assert!(percent_off(measured.p50_us, simulated.p50_us).abs() < 5.0);
        assert!(percent_off(measured.p99_us, simulated.p99_us).abs() < 5.0);
        // A thousand operations: three deviations of their number.
        assert!(percent_off(measured.rate, simulated.rate).abs() < 10.0);
    }

    #[test]
    fn two_workers_on_one_cpu_wait_for_each_other() {
        let model = WorkerModel::of(&[fixture::run()]).expect("a complete run");
        let (name, mut measured) = fixture::run();
        let rate = 2.0 * 0.4 * model.capacity;
        let mut point = fixture::point("2 workers", Arrivals::Poisson { per_second: rate }, rate);
        point.latency = Latencies::default();
        measured.points = vec![point];
        let runs = [(name, measured)];
        let simulated = |one_cpu| {
            let validations = run(&runs, &model, one_cpu, 1).expect("a fleet of two");
            assert_eq!(validations[0].workers, 2);
            validations[0].simulated
        };
        let (apart, together) = (simulated(false), simulated(true));
        assert!((apart.rate / rate - 1.0).abs() < 0.02);
        assert!(together.p99_us > apart.p99_us, "{together:?} {apart:?}");
    }
}

//! The simulation against queues whose answers are known, and against itself.

use corelane_client::Options;
use corelane_client::policy::avoid::AvoidLimits;
use corelane_client::policy::credits::CreditLimits;
use corelane_client::policy::hedge::HedgeLimits;
use corelane_client::policy::retry::RetryLimits;
use corelane_placement::fleet::MemberState;
use serde_json::Value;

use super::*;
use crate::simulate::fleet::view::View;
use crate::simulate::model::WorkerModel;
use crate::simulate::samples::Samples;
use crate::simulate::server::TurnCost;
use crate::workload::Keys;

const SERVICE_NS: f64 = 10_000.0;

fn view(workers: usize, replicas: usize) -> View {
    let members = (0..workers).map(|worker| (worker, MemberState::Active));
    View::new(members, replicas).expect("a possible fleet")
}

/// Workers that take one request a turn, `SERVICE_NS` each, and nothing takes time besides.
fn plain(workers: usize, replicas: usize, utilization: f64, operations: f64) -> FleetSpec {
    let per_second = workers as f64 * utilization * 1e9 / SERVICE_NS;
    let options = Options::default();
    let length_ns = (operations / per_second * 1e9) as u64;
    FleetSpec {
        model: WorkerModel {
            cost: TurnCost {
                turn_ns: 0.0,
                operation_ns: SERVICE_NS,
                operations_max: 1,
            },
            path: Samples::constant(0),
            capacity: 1e9 / SERVICE_NS,
            inputs: Value::Null,
        },
        workers: (0..workers).map(|worker| (worker, 1.0)).collect(),
        views: vec![view(workers, replicas)],
        replicas,
        clients: 4,
        hedge: None,
        avoid: AvoidLimits::default(),
        retry: RetryLimits {
            retries_max: options.retries_max,
            back_off_first: options.back_off_first,
            back_off_max: options.back_off_max,
        },
        connect_timeout: options.connect_timeout,
        credits: CreditLimits::granted(1_000_000, 1 << 31),
        read_bytes: 1,
        arrivals: Arrivals::Poisson { per_second },
        warm_up_ns: length_ns / 10,
        length_ns,
        stripes: 1 << 20,
        keys: Keys::Uniform,
        under_store: Samples::constant(1_000_000),
        happenings: Vec::new(),
        slices: 0,
        seed: 1,
    }
}

/// Mean wait over the service time.
fn relative_wait(spec: &FleetSpec) -> f64 {
    (run(spec).all.mean_ns() - SERVICE_NS) / SERVICE_NS
}

/// Pollaczek and Khinchine: with Poisson arrivals and a constant service time s, the mean wait is
/// s u / (2 (1 - u)) at a utilization u.
#[test]
fn waits_are_those_of_the_queue_with_constant_service() {
    // The busier, the longer a queue takes to forget, and the more has to be seen of it.
    for (utilization, operations) in [(0.3, 1e5), (0.5, 1e5), (0.7, 2e5), (0.9, 6e5)] {
        let right = utilization / (2.0 * (1.0 - utilization));
        let wait = relative_wait(&plain(1, 1, utilization, operations));
        assert!(
            (wait / right - 1.0).abs() < 0.04,
            "{utilization}: {wait}, not {right}"
        );
    }
}

/// Many workers with a share of the arrivals each are as many such queues.
#[test]
fn a_fleet_of_independent_workers_waits_like_one() {
    let wait = relative_wait(&plain(50, 1, 0.7, 200_000.0));
    let right = 0.7 / 0.6;
    // Shares differ by parts in a hundred, which adds to the mean.
    assert!((wait / right - 1.0).abs() < 0.05, "{wait}, not {right}");
}

/// Evenly spaced arrivals at one worker never wait.
#[test]
fn even_arrivals_do_not_wait() {
    let mut spec = plain(1, 1, 0.9, 10_000.0);
    let Arrivals::Poisson { per_second } = spec.arrivals else {
        unreachable!("as made above")
    };
    spec.arrivals = Arrivals::Constant { per_second };
    assert!(relative_wait(&spec).abs() < 0.01);
}

/// A turn of all that have arrived: at full load the cost of the turn vanishes.
#[test]
fn turns_grow_with_the_load() {
    let busy_per_operation = |per_second| {
        let mut spec = plain(1, 1, 0.5, 50_000.0);
        spec.model.cost = TurnCost {
            turn_ns: 9_000.0,
            operation_ns: 1_000.0,
            operations_max: usize::MAX,
        };
        spec.arrivals = Arrivals::Poisson { per_second };
        let outcome = run(&spec);
        outcome.busy_ns as f64 / outcome.operations as f64
    };
    let (idle, loaded) = (busy_per_operation(1_000.0), busy_per_operation(900_000.0));
    assert!((9_800.0..10_000.1).contains(&idle), "{idle}");
    assert!(loaded < 1_200.0, "{loaded}");
}

#[test]
fn credits_bound_what_is_under_way_and_nothing_is_lost_by_them() {
    let mut spec = plain(2, 1, 0.8, 20_000.0);
    spec.credits = CreditLimits::granted(1, 1 << 20);
    spec.clients = 1;
    spec.model.path = Samples::constant(50_000);
    // One request under way on each lane: a sixth of what is offered can be served.
    let outcome = run(&spec);
    assert_eq!(outcome.all.failures(), 0);
    let due = outcome.operations as f64 / 1.1;
    assert!((outcome.all.answered() as f64 / due - 1.0).abs() < 0.02);
    assert!(outcome.all.mean_ns() > 1e6, "they queue at the client");
}

fn with_death(replicas: usize) -> FleetSpec {
    let mut spec = plain(6, replicas, 0.6, 60_000.0);
    spec.model.path = Samples::constant(40_000);
    spec.connect_timeout = Duration::from_millis(30);
    spec.happenings = vec![(spec.length_ns / 3, Happening::Die { worker: 2 })];
    spec
}

#[test]
fn a_dead_worker_is_asked_again_only_by_the_one_that_tries() {
    let outcome = run(&with_death(2));
    assert_eq!(outcome.all.failures(), 0);
    assert!(outcome.retries > 0);
    // A sixth of what is due after the death would go there.
    let unnoticed = outcome.operations as f64 * 0.6 / 6.0;
    assert!(
        (outcome.retries as f64) < unnoticed / 10.0,
        "{}",
        outcome.retries
    );
    assert_eq!(outcome.misses, 0, "the second replica has it");
}

#[test]
fn without_replicas_the_stand_in_fetches_from_the_under_store() {
    let outcome = run(&with_death(1));
    assert_eq!(outcome.all.failures(), 0);
    assert!(outcome.misses > 0);
}

#[test]
fn a_fleet_that_is_dead_fails_every_operation() {
    let mut spec = with_death(2);
    spec.length_ns /= 30;
    spec.happenings = (0..6)
        .map(|worker| (0, Happening::Die { worker }))
        .collect();
    spec.warm_up_ns = 0;
    let outcome = run(&spec);
    assert_eq!(outcome.all.answered(), 0);
    assert_eq!(outcome.all.failures(), outcome.operations);
}

#[test]
fn hedges_stay_within_their_budget_when_everything_is_slow() {
    let mut spec = plain(6, 2, 0.95, 60_000.0);
    spec.hedge = Some(HedgeLimits::default());
    let outcome = run(&spec);
    assert!(outcome.hedges > 0);
    assert!(
        outcome.hedges * 50 <= outcome.operations,
        "{}",
        outcome.hedges
    );
    let share = outcome.hedges_won as f64 / outcome.hedges as f64;
    assert!((0.0..=1.0).contains(&share));
}

#[test]
fn a_large_fleet_is_offered_what_it_should_be() {
    let mut spec = plain(2, 1, 0.5, 100.0);
    spec.model.cost.operation_ns = 0.1;
    spec.arrivals = Arrivals::Poisson { per_second: 3e9 };
    (spec.warm_up_ns, spec.length_ns) = (0, 20_000);
    let outcome = run(&spec);
    assert!(
        (58_500..61_500).contains(&outcome.operations),
        "{}",
        outcome.operations
    );
}

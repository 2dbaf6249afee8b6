//! What the scenarios promise, on a model that is made up.

use super::*;
use crate::simulate::fixture;

fn model() -> WorkerModel {
    WorkerModel::of(&[fixture::run()]).expect("the run has all that is needed")
}

fn plan() -> Plan {
    Plan {
        replicas: 2,
        hedge: Some(HedgeLimits::default()),
        keys: Keys::Uniform,
        seconds: 10.0,
        operations_max: 50_000,
        detection: Duration::from_secs(1),
        under_store: Samples::constant(20_000_000),
        read_bytes: 4096,
        seed: 1,
    }
}

fn scenario(kind: Kind, workers: usize) -> Scenario {
    run(kind, workers, &plan(), &model()).expect("a possible fleet")
}

fn json(scenario: &Scenario) -> String {
    serde_json::to_string(scenario).expect("plain data")
}

#[test]
fn a_steady_fleet_answers_all_that_is_offered() {
    let steady = scenario(Kind::Steady, 20);
    assert_eq!((steady.failures, steady.retries), (0, 0));
    let rate = steady.figures.rate / steady.offered;
    assert!((rate - 1.0).abs() < 0.02, "{rate}");
    assert!(steady.figures.p50_us > fixture::PATH_NS as f64 / 1e3);
    assert!(steady.figures.p99_us >= steady.figures.p50_us);
    assert!(
        steady.busiest_over_mean < 1.2,
        "{}",
        steady.busiest_over_mean
    );
    // 2 % and the burst of each client.
    assert!(
        steady.hedges <= 50_000 * 12 / 10 / 50 + 16 * CLIENTS as u64,
        "{}",
        steady.hedges
    );
}

#[test]
fn the_seed_decides_everything() {
    for kind in [Kind::SlowNode, Kind::Death] {
        let first = json(&scenario(kind, 8));
        assert_eq!(first, json(&scenario(kind, 8)), "{kind:?}");
        let mut plan = plan();
        plan.seed = 2;
        let other = run(kind, 8, &plan, &model()).expect("a possible fleet");
        assert_ne!(first, json(&other), "{kind:?}");
    }
}

#[test]
fn no_operation_fails_when_a_worker_with_replicas_dies() {
    let death = scenario(Kind::Death, 20);
    assert_eq!(death.failures, 0);
    assert!(
        death.retries > 0,
        "those that were under way were sent again"
    );
    assert!(death.timeline.iter().all(|step| step.failures == 0));
    let answered: f64 = death.timeline.iter().map(|step| step.figures.rate).sum();
    let mean = answered / death.timeline.len() as f64;
    assert!((mean / death.offered - 1.0).abs() < 0.02, "{mean}");
}

#[test]
fn a_worker_that_joins_takes_its_share_and_one_that_leaves_gives_it() {
    let share = |scenario: &Scenario| scenario.moved_share.expect("workers changed");
    for (kind, right) in [
        (Kind::Join, 1.0 / 21.0),
        (Kind::Death, 0.05),
        (Kind::Drain, 0.05),
    ] {
        let moved = share(&scenario(kind, 20));
        assert!((moved / right - 1.0).abs() < 0.05, "{kind:?}: {moved}");
    }
    assert_eq!(scenario(Kind::Steady, 20).moved_share, None);
}

#[test]
fn an_empty_worker_waits_for_the_under_store_and_the_others_do_not() {
    let join = scenario(Kind::Join, 20);
    assert_eq!(join.failures, 0);
    let slow = |step: &crate::run::answers::TimelineStep| step.figures.p99_us > 20_000.0;
    let (before, after) = join.timeline.split_at(SLICES / 4);
    assert!(!before.iter().any(slow), "nothing was missing before");
    assert!(after.iter().any(slow), "a twentieth of the reads misses");
    assert!(after.iter().all(|step| step.figures.p50_us < 1_000.0));
}

#[test]
fn a_slow_worker_is_seen_in_the_tail_and_hedging_helps() {
    let steady = scenario(Kind::Steady, 50);
    let hedged = scenario(Kind::SlowNode, 50);
    let mut plan = plan();
    plan.hedge = None;
    let unhedged = run(Kind::SlowNode, 50, &plan, &model()).expect("a possible fleet");
    assert_eq!(
        (unhedged.hedges, unhedged.failures, hedged.failures),
        (0, 0, 0)
    );
    assert!(hedged.hedges > 0);
    let p99 = |scenario: &Scenario| scenario.figures.p99_us;
    assert!(
        p99(&unhedged) > 2.0 * p99(&steady),
        "{} {}",
        p99(&unhedged),
        p99(&steady)
    );
    assert!(
        p99(&hedged) < p99(&unhedged),
        "{} {}",
        p99(&hedged),
        p99(&unhedged)
    );
}

#[test]
fn a_million_a_second_is_what_its_name_says() {
    let million = scenario(Kind::Million, 3);
    assert_eq!((million.workers, million.offered), (50, 1e6));
    assert!((million.figures.rate / 1e6 - 1.0).abs() < 0.02);
    assert!(million.notes[1].contains("28571/s"), "{:?}", million.notes);
}

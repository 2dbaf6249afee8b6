//! A measured run made up from a model whose cost is known: what tests are fed with.

use super::server::TurnCost;
use crate::load::{Verify, new_histogram};
use crate::run::point::{Arrivals, ServerCost};
use crate::run::{Latencies, Point, Run, RunKind};

/// The cost behind the run.
pub const COST: TurnCost = TurnCost {
    turn_ns: 4_000.0,
    operation_ns: 1_500.0,
    operations_max: usize::MAX,
};

/// What a request takes besides its turn.
pub const PATH_NS: u64 = 60_000;

/// A point with an even rate and nothing else measured.
pub fn point(label: &str, arrivals: Arrivals, rate: f64) -> Point {
    Point {
        label: label.to_owned(),
        target: String::from("data-plane"),
        workload: String::from("uniform-4k"),
        workload_toml: String::new(),
        arrivals,
        connections: 64,
        depth: 32,
        generators: 1,
        generator_cores: Vec::new(),
        seed: 1,
        seconds: 10.0,
        operations: (rate * 10.0) as u64,
        rate,
        reads: (rate * 10.0) as u64,
        bytes: 0,
        errors: 0,
        first_error: None,
        verify: Verify::None,
        verified: 0,
        wrong: 0,
        by_source: [0; 3],
        latency: Latencies::default(),
        service: Latencies::default(),
        sent_late: Latencies::default(),
        generator_spin_us: None,
        unfinished: 0,
        is_overrun: false,
        generator_busy_percent: 0.0,
        steal_percent: 0.0,
        server: None,
        ceiling: None,
    }
}

fn cost(rate: f64, turns_per_operation: f64) -> ServerCost {
    let ns = COST.operation_ns + COST.turn_ns * turns_per_operation;
    ServerCost {
        cpu_us_per_operation: ns / 1e3,
        busy_percent: ns * rate / 1e7,
        ..ServerCost::default()
    }
}

/// At a very low rate, where each request has a turn of its own, and in a closed loop of so many
/// requests that turns hardly count.
pub fn run() -> (String, Run) {
    let mut run = Run::begin(RunKind::Load, "made up");
    let mut low = point("1 worker", Arrivals::Poisson { per_second: 100.0 }, 100.0);
    let mut histogram = new_histogram();
    let single = COST.lasts_ns(1, 1.0);
    for number in 0..10_000u64 {
        // From nine tenths to eleven tenths.
        let path_ns = PATH_NS * (9_000 + number / 5) / 10_000;
        histogram.saturating_record(path_ns + single);
    }
    low.latency = Latencies::of(&histogram);
    low.server = Some(cost(100.0, 1.0));
    // A turn ends with 2,048 requests under way, so all but those on their path wait for the next.
    let in_turn = 2_048.0 - PATH_NS as f64 / COST.operation_ns;
    let rate = 1e9 / (COST.operation_ns + COST.turn_ns / in_turn);
    let mut full = point("1 worker", Arrivals::Closed, rate);
    full.server = Some(cost(rate, 1.0 / in_turn));
    run.points = vec![low, full];
    (String::from("made-up.json"), run)
}

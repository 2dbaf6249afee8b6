//! What runs conclude from their points.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What bounds a search.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyBound {
    /// Which quantile, such as 0.99.
    pub quantile: f64,
    /// What it may be, in microseconds.
    pub us: f64,
}

/// The answer of a search: the rate, the bound, and the curve that led there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchAnswer {
    /// The bound.
    pub bound: LatencyBound,
    /// The highest rate that was offered and kept under the bound, in operations a second; none
    /// where not even the first one was.
    pub highest_rate: Option<f64>,
    /// The lowest offered rate that failed; none where the search ended before one did.
    pub lowest_failure: Option<f64>,
    /// Every tried rate in the order of trying.
    pub curve: Vec<SearchStep>,
}

/// One step of a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchStep {
    /// Index in the run's points.
    pub point: usize,
    /// The offered rate, in operations a second.
    pub offered: f64,
    /// The rate that was had.
    pub achieved: f64,
    /// The bounded quantile, in microseconds.
    pub latency_us: f64,
    /// Whether it was kept under the bound.
    pub holds: bool,
    /// Why not, where it was not.
    pub reason: Option<String>,
}

/// The answer of a scaling run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScaleAnswer {
    /// What was added: `shards` or `workers`.
    pub of: String,
    /// One step for each number.
    pub steps: Vec<ScaleStep>,
    /// The Universal Scalability Law fitted to the steps' rates, where there are three or more of
    /// a closed loop.
    pub usl: Option<Usl>,
    /// The same fitted to `count` over the CPU of an operation: what the rate would be if each had
    /// a CPU of its own. It holds also where they shared too few.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usl_by_cpu: Option<Usl>,
    /// What a reader has to know before believing the figures, in sentences.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// One step of a scaling run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScaleStep {
    /// How many shards or workers.
    pub count: u32,
    /// Indices of its rounds in the run's points.
    pub points: Vec<usize>,
    /// Median rate over the rounds, in operations a second.
    pub rate: f64,
    /// Median server CPU, in microseconds an operation.
    pub cpu_us_per_operation: f64,
    /// Rate over `count` times the rate of the first step over its count.
    pub efficiency: f64,
    /// The same by CPU: the first step's CPU an operation over this one's. It holds also where
    /// generator and servers share too few cores for the rate to rise.
    pub cpu_efficiency: f64,
}

/// The Universal Scalability Law, `X(n) = rate * n / (1 + contention * (n - 1) + coherency * n * (n - 1))`
/// (Gunther, "Guerrilla Capacity Planning", 2007, chapter 4).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Usl {
    /// Rate of one, in operations a second.
    pub rate: f64,
    /// Share of the work that is serial.
    pub contention: f64,
    /// Cost of keeping each pair in step.
    pub coherency: f64,
    /// Root mean square of the relative residuals.
    pub relative_error: f64,
}

/// The answer of a simulation: tables by name, which `simulate` documents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SimulationAnswer {
    /// What the model was fed with: files of measured runs and what was read from them.
    pub inputs: Value,
    /// Measured runs beside what the model gives for them, and how far it was off.
    pub validation: Vec<Validation>,
    /// One entry for each scenario and fleet size.
    pub scenarios: Vec<Scenario>,
}

/// A measured point and the model's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// What was measured: `1 worker at 30 %`.
    pub name: String,
    /// Workers.
    pub workers: u32,
    /// Offered rate, in operations a second.
    pub offered: f64,
    /// Rate, p50, p99 and p99.9 (microseconds) as measured.
    pub measured: Figures,
    /// The same, simulated.
    pub simulated: Figures,
}

/// Rate and latencies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Operations a second.
    pub rate: f64,
    /// Median, in microseconds.
    pub p50_us: f64,
    /// 99th percentile, in microseconds.
    pub p99_us: f64,
    /// 99.9th percentile, in microseconds.
    pub p999_us: f64,
}

/// A simulated scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    /// Its name: `steady`, `slow-node`, `death`, `join`, `drain`.
    pub name: String,
    /// Workers at the start.
    pub workers: u32,
    /// Offered rate, in operations a second.
    pub offered: f64,
    /// Share of the fleet's capacity that is offered.
    pub utilization: f64,
    /// Over the whole measured stretch.
    pub figures: Figures,
    /// Operations that failed for good.
    pub failures: u64,
    /// Requests that were sent again after an answer of busy or a lost worker.
    pub retries: u64,
    /// Requests that were sent to a second replica because the first was late.
    pub hedges: u64,
    /// The busiest worker's requests over the mean of all.
    pub busiest_over_mean: f64,
    /// Share of stripes that changed their worker, where workers joined or left.
    pub moved_share: Option<f64>,
    /// Figures over time, for scenarios in which something happens.
    pub timeline: Vec<TimelineStep>,
    /// What happened, in words.
    pub notes: Vec<String>,
}

/// A slice of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimelineStep {
    /// Start of the slice, in milliseconds since the start of the measured stretch.
    pub at_ms: f64,
    /// In it.
    pub figures: Figures,
    /// Failures in it.
    pub failures: u64,
}

/// The rows of a comparison of backends, as [`crate::compare::Report`] writes them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendsAnswer {
    /// One object for each row: name, what, contestants, idle, bar, reason, notes.
    pub rows: Vec<Value>,
    /// What the program was built without.
    pub left_out: Vec<String>,
}

/// The gate's measures as [`crate::gate::Report`] writes them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GateAnswer {
    /// One object for each measure: name, value, unit, ceiling, ratio, spread, bar, holds.
    pub measures: Vec<Value>,
}

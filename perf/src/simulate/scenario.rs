//! The named scenarios: what happens to a fleet, and what of it goes into the report.
//!
//! A fleet of thousands serves more in a second than can be simulated in an hour, so each scenario
//! simulates as many operations as it is allowed to, and the stretch of time that they fill; what
//! is slower than that stretch (the detection of a dead worker) is brought forward, and the notes say so.

use std::time::Duration;

use clap::ValueEnum;
use corelane_client::Options;
use corelane_client::policy::avoid::AvoidLimits;
use corelane_client::policy::credits::CreditLimits;
use corelane_client::policy::hedge::HedgeLimits;
use corelane_client::policy::retry::RetryLimits;
use corelane_placement::fleet::MemberState;

use super::fleet::view::View;
use super::fleet::{FleetSpec, Happening, world};
use super::model::WorkerModel;
use super::outcome::Outcome;
use super::samples::Samples;
use crate::run::answers::Scenario;
use crate::run::point::Arrivals;
use crate::workload::Keys;

/// A scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Nothing happens.
    Steady,
    /// One worker's turns last ten times as long.
    SlowNode,
    /// One worker dies: its connections are reset, then nobody answers there, and after the detection
    /// delay it is no member any more.
    Death,
    /// A worker joins that holds nothing.
    Join,
    /// A worker begins to drain, and those that take over from it hold nothing.
    Drain,
    /// A million queries a second over 50 workers, with 70 % of their capacity used.
    Million,
}

impl Kind {
    /// As in reports and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Steady => "steady",
            Kind::SlowNode => "slow-node",
            Kind::Death => "death",
            Kind::Join => "join",
            Kind::Drain => "drain",
            Kind::Million => "million",
        }
    }
}

/// Workers of [`Kind::Million`].
pub const MILLION_WORKERS: usize = 50;

/// Queries a second of [`Kind::Million`], of all workers together.
pub const MILLION_PER_SECOND: f64 = 1e6;

/// Share of the capacity that is offered in every scenario.
pub const UTILIZATION: f64 = 0.7;

/// Client nodes. Each has estimates, credits and a list of avoided workers of its own.
pub const CLIENTS: usize = 64;

/// How much longer the slow worker's turns last.
pub const SLOWNESS: f64 = 10.0;

/// Stripes for each worker: 256 GiB of data that are read, so that the draw of stripes does not
/// unbalance the workers by itself.
const STRIPES_PER_WORKER: u64 = 16_384;

/// Fewer would not show a worker's queue, and the draw of arrivals would pass for an imbalance.
pub const OPERATIONS_PER_WORKER: u64 = 1_000;

/// What a worker grants to a client as it is configured by default: requests and bytes.
const CREDITS: (u32, u64) = (256, 8 << 20);

const SLICES: usize = 20;

/// What a scenario is run with.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Workers that hold each stripe.
    pub replicas: usize,
    /// As in the client's options.
    pub hedge: Option<HedgeLimits>,
    /// Which stripes are read.
    pub keys: Keys,
    /// Longest stretch that counts.
    pub seconds: f64,
    /// Most operations of one scenario that count, or [`OPERATIONS_PER_WORKER`] for each worker
    /// where that is more.
    pub operations_max: u64,
    /// From the death of a worker to the placement without it.
    pub detection: Duration,
    /// Of what a worker does not hold.
    pub under_store: Samples,
    /// Bytes a read.
    pub read_bytes: u32,
    /// Of everything that is drawn.
    pub seed: u64,
}

/// Runs the scenario on `workers` workers; [`Kind::Million`] has its own number.
///
/// # Errors
/// Where so many workers are no fleet.
pub fn run(
    kind: Kind,
    workers: usize,
    plan: &Plan,
    model: &WorkerModel,
) -> Result<Scenario, String> {
    let stage = Stage::new(kind, workers, plan, model);
    let mut spec = stage.spec(plan, model);
    stage.set(&mut spec, plan)?;
    let outcome = world::run(&spec);
    Ok(stage.report(&spec, &outcome, plan, model))
}

/// A scenario with its sizes.
struct Stage {
    kind: Kind,
    workers: usize,
    per_second: f64,
    /// Of a worker here.
    capacity: f64,
    length_ns: u64,
    warm_up_ns: u64,
    /// When it happens, since the start of what counts.
    happens_ns: u64,
    detection_ns: u64,
}

impl Stage {
    fn new(kind: Kind, workers: usize, plan: &Plan, model: &WorkerModel) -> Stage {
        let (workers, per_second) = match kind {
            Kind::Million => (MILLION_WORKERS, MILLION_PER_SECOND),
            _ => (workers, workers as f64 * model.capacity * UTILIZATION),
        };
        let operations_max = plan
            .operations_max
            .max(OPERATIONS_PER_WORKER * workers as u64);
        let seconds = plan.seconds.min(operations_max as f64 / per_second);
        let length_ns = (seconds * 1e9) as u64;
        let path_ns = model.path.quantile(0.5);
        Stage {
            kind,
            workers,
            per_second,
            capacity: per_second / workers as f64 / UTILIZATION,
            length_ns,
            warm_up_ns: (length_ns / 5).max(20 * path_ns),
            happens_ns: length_ns / 4,
            detection_ns: (plan.detection.as_nanos() as u64).min(length_ns / 4),
        }
    }

    fn spec(&self, plan: &Plan, model: &WorkerModel) -> FleetSpec {
        let options = Options::default();
        // A worker of another capacity than the model's is one with another share of its core.
        let slowness = model.capacity / self.capacity;
        FleetSpec {
            model: model.clone(),
            workers: (0..self.workers).map(|worker| (worker, slowness)).collect(),
            views: Vec::new(),
            replicas: plan.replicas,
            clients: CLIENTS,
            hedge: plan.hedge,
            avoid: AvoidLimits::default(),
            retry: RetryLimits {
                retries_max: options.retries_max,
                back_off_first: options.back_off_first,
                back_off_max: options.back_off_max,
            },
            connect_timeout: options.connect_timeout,
            credits: CreditLimits::granted(CREDITS.0, CREDITS.1),
            read_bytes: plan.read_bytes,
            arrivals: Arrivals::Poisson {
                per_second: self.per_second,
            },
            // So that turns are as long as they will be and hedges have an estimate.
            warm_up_ns: self.warm_up_ns,
            length_ns: self.length_ns,
            stripes: self.workers as u64 * STRIPES_PER_WORKER,
            keys: plan.keys,
            under_store: plan.under_store.clone(),
            happenings: Vec::new(),
            slices: if matches!(self.kind, Kind::Steady | Kind::Million) {
                0
            } else {
                SLICES
            },
            seed: plan.seed,
        }
    }

    /// Adds what happens. It happens to the last worker: which one it is does not matter, as the
    /// placement mixes them.
    fn set(&self, spec: &mut FleetSpec, plan: &Plan) -> Result<(), String> {
        let last = self.workers - 1;
        let view = |members: Vec<(usize, MemberState)>| {
            View::new(members, plan.replicas).map_err(|error| error.to_string())
        };
        let active = |count: usize| -> Vec<(usize, MemberState)> {
            (0..count)
                .map(|worker| (worker, MemberState::Active))
                .collect()
        };
        spec.views.push(view(active(self.workers))?);
        let at_ns = self.happens_ns;
        match self.kind {
            Kind::Steady | Kind::Million => {}
            Kind::SlowNode => {
                let slow = Happening::Slow {
                    worker: last,
                    factor: SLOWNESS,
                };
                spec.happenings.push((at_ns, slow));
            }
            Kind::Death => {
                spec.views.push(view(active(last))?);
                spec.happenings
                    .push((at_ns, Happening::Die { worker: last }));
                let detected_ns = at_ns + self.detection_ns;
                spec.happenings
                    .push((detected_ns, Happening::Place { view: 1 }));
            }
            Kind::Join => {
                spec.workers.push((self.workers, spec.workers[0].1));
                spec.views.push(view(active(self.workers + 1))?);
                spec.happenings.push((at_ns, Happening::Place { view: 1 }));
            }
            Kind::Drain => {
                let mut members = active(self.workers);
                members[last].1 = MemberState::Draining;
                spec.views.push(view(members)?);
                spec.happenings.push((at_ns, Happening::Place { view: 1 }));
            }
        }
        Ok(())
    }

    fn report(
        &self,
        spec: &FleetSpec,
        outcome: &Outcome,
        plan: &Plan,
        model: &WorkerModel,
    ) -> Scenario {
        let moved_share = spec.views.get(1).map(|after| {
            let before = spec.views[0].placement();
            let replicas = plan.replicas.min(after.placement().replicas());
            after.placement().moved_share_from(before, replicas)
        });
        Scenario {
            name: self.kind.name().to_owned(),
            workers: self.workers as u32,
            offered: self.per_second,
            utilization: UTILIZATION,
            figures: outcome.all.figures(),
            failures: outcome.all.failures(),
            retries: outcome.retries,
            hedges: outcome.hedges,
            busiest_over_mean: outcome.busiest_over_mean(),
            moved_share,
            timeline: outcome.timeline(),
            notes: self.notes(&spec.views[0], outcome, plan, model),
        }
    }

    fn notes(
        &self,
        view: &View,
        outcome: &Outcome,
        plan: &Plan,
        model: &WorkerModel,
    ) -> Vec<String> {
        let ms = |ns: u64| ns as f64 / 1e6;
        let mut notes = vec![
            format!(
                "{} operations over {:.3} ms, the first {:.3} ms of them before anything counted; {} \
                 replicas, {CLIENTS} clients, {} stripes",
                outcome.operations,
                ms(self.length_ns + self.warm_up_ns),
                ms(self.warm_up_ns),
                plan.replicas,
                plan.keys,
            ),
            format!(
                "a worker here has a capacity of {:.0}/s, which is {:.3} of a measured core's {:.0}/s",
                self.capacity,
                self.capacity / model.capacity,
                model.capacity
            ),
        ];
        notes.push(format!(
            "by the slots alone the busiest worker has {:.3} times the mean; the rest of the balance is \
             the draw of stripes and arrivals",
            busiest_by_slots(view)
        ));
        let at = ms(self.happens_ns);
        let happened = match self.kind {
            Kind::Steady | Kind::Million => None,
            Kind::SlowNode => Some(format!(
                "from {at:.3} ms on the turns of one worker last {SLOWNESS} times as long"
            )),
            Kind::Death => Some(format!(
                "at {at:.3} ms one worker dies; it leaves the placement {:.3} ms later{}",
                ms(self.detection_ns),
                if Duration::from_nanos(self.detection_ns) < plan.detection {
                    format!(
                        " (brought forward from {} ms to fit)",
                        plan.detection.as_millis()
                    )
                } else {
                    String::new()
                }
            )),
            Kind::Join => Some(format!("at {at:.3} ms an empty worker joins")),
            Kind::Drain => Some(format!(
                "at {at:.3} ms one worker begins to drain; those that take over fetch from the \
                 under-store"
            )),
        };
        notes.extend(happened);
        notes.push(format!(
            "{} hedges answered first; {} reads waited for the under-store",
            outcome.hedges_won, outcome.misses
        ));
        notes
    }
}

/// The most slots that a worker is first for, over the mean.
fn busiest_by_slots(view: &View) -> f64 {
    let counts = view.placement().first_counts();
    let most = counts.iter().copied().max().unwrap_or(0);
    f64::from(most) * counts.len() as f64 / f64::from(view.placement().slots())
}

#[cfg(test)]
mod tests;

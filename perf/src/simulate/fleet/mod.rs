//! A fleet and its clients: what is simulated, and the simulation.
//!
//! | module | holds |
//! |---|---|
//! | [`view`] | who is in the fleet, as the clients know it |
//! | [`fills`] | reads of what a worker does not have yet |
//! | [`world`] | the simulation |

pub mod fills;
pub mod view;
pub mod world;

use std::time::Duration;

use corelane_client::policy::avoid::AvoidLimits;
use corelane_client::policy::credits::CreditLimits;
use corelane_client::policy::hedge::HedgeLimits;
use corelane_client::policy::retry::RetryLimits;

use super::model::WorkerModel;
use super::samples::Samples;
use crate::run::point::Arrivals;
use crate::workload::Keys;
use view::View;

/// Everything that a simulation depends on.
#[derive(Clone, Debug)]
pub struct FleetSpec {
    /// How a worker behaves.
    pub model: WorkerModel,
    /// For each worker, its CPU and how many times longer than the model's its turns last. Workers
    /// that join later are among them.
    pub workers: Vec<(usize, f64)>,
    /// Who is in the fleet: at first the first of these, later as happenings say.
    pub views: Vec<View>,
    /// Workers that hold each stripe.
    pub replicas: usize,
    /// Client nodes, each with lanes and estimates of its own.
    pub clients: usize,
    /// As the real client's options.
    pub hedge: Option<HedgeLimits>,
    /// As the real client's options.
    pub avoid: AvoidLimits,
    /// As the real client's options.
    pub retry: RetryLimits,
    /// As the real client's options: for a worker that does not answer at all.
    pub connect_timeout: Duration,
    /// What a worker grants to each client.
    pub credits: CreditLimits,
    /// Bytes an operation, for the credits.
    pub read_bytes: u32,
    /// When operations are due.
    pub arrivals: Arrivals,
    /// Before anything counts, in nanoseconds.
    pub warm_up_ns: u64,
    /// What counts, in nanoseconds; then no more operations are due.
    pub length_ns: u64,
    /// Stripes that are read.
    pub stripes: u64,
    /// How often each one is.
    pub keys: Keys,
    /// How long the under-store takes for what a worker does not have.
    pub under_store: Samples,
    /// What happens, and when, in nanoseconds since the end of the warm-up.
    pub happenings: Vec<(u64, Happening)>,
    /// Slices of the timeline.
    pub slices: usize,
    /// Of everything that is drawn.
    pub seed: u64,
}

/// Something that happens to a fleet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Happening {
    /// A worker's turns last longer by a factor.
    Slow {
        /// Which.
        worker: usize,
        /// How many times longer.
        factor: f64,
    },
    /// A worker's connections are reset, and it answers nobody any more.
    Die {
        /// Which.
        worker: usize,
    },
    /// All clients learn of another view.
    Place {
        /// Its number.
        view: usize,
    },
}

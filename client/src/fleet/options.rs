//! What a fleet's caller says, and what it can ask for.

use corelane_placement::fleet::MemberState;

use crate::options::Options;
use crate::policy::avoid::AvoidLimits;
use crate::policy::hedge::HedgeLimits;

/// One worker of a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// What it is known by in the placement: the same for all clients, for its whole life.
    pub id: String,
    /// Any data port of it (host:port).
    pub address: String,
    /// Its share, in a unit that is the same for all workers: GiB of cache, say.
    pub weight: u32,
    /// Whether it takes stripes.
    pub state: MemberState,
}

impl Worker {
    /// An active worker.
    pub fn active(id: impl Into<String>, address: impl Into<String>, weight: u32) -> Worker {
        Worker {
            id: id.into(),
            address: address.into(),
            weight,
            state: MemberState::Active,
        }
    }
}

/// How a [`Fleet`](super::Fleet) behaves.
#[derive(Clone, Debug)]
pub struct FleetOptions {
    /// Towards each worker, and the bounds of retries.
    pub client: Options,
    /// Workers that hold each stripe.
    pub replicas: usize,
    /// When a late read is sent to a second replica; none turns that off. It needs two replicas.
    pub hedge: Option<HedgeLimits>,
    /// How long a worker that cannot be reached is left alone.
    pub avoid: AvoidLimits,
}

impl Default for FleetOptions {
    fn default() -> Self {
        FleetOptions {
            client: Options::default(),
            replicas: 1,
            hedge: Some(HedgeLimits::default()),
            avoid: AvoidLimits::default(),
        }
    }
}

/// What a fleet's client counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FleetCounters {
    /// Requests that were sent again, to the same worker or to another one.
    pub retries: u64,
    /// Requests that were sent to a second worker because the first was late.
    pub hedges: u64,
    /// Of them, those whose answer came first.
    pub hedges_won: u64,
    /// Times that a worker could not be reached.
    pub unreachable: u64,
}

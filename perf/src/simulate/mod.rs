//! What a fleet would do: a discrete-event simulation of many workers, fed with what was measured
//! on one or two.
//!
//! What is real in it: the placement ([`corelane_placement::fleet`]) and the client's policy
//! ([`corelane_client::policy`]: routes, retries, hedges, avoided workers, credits) are the code
//! that runs outside. What is a model: a worker works in turns ([`server`]), with the cost of a turn
//! and of an operation fitted to the measured CPU, and everything else that a request passes
//! (network, client, waking up) takes a time drawn from the latencies measured at a low rate
//! ([`model`]). What is not in it: switches and links that fill up, a client's own CPU, the CPU of
//! fills, and stalls that hit several requests at a time.
//!
//! The invariant: the same seed and inputs give the same figures, and every operation that was
//! offered ends, as an answer or as a failure, before they are taken.
//!
//! | module | holds |
//! |---|---|
//! | [`model`] | what a measured run says of a worker |
//! | [`samples`] | times drawn from a histogram |
//! | [`events`] | the queue of what happens next |
//! | [`server`] | workers and the CPUs that they share |
//! | [`fleet`] | clients, workers and what happens to them: the simulation itself |
//! | [`outcome`] | what is counted |
//! | [`scenario`] | the named scenarios |
//! | [`validation`] | measured points beside simulated ones |

pub mod events;
#[cfg(test)]
pub(crate) mod fixture;
pub mod fleet;
pub mod model;
pub mod outcome;
pub mod samples;
pub mod scenario;
pub mod server;
pub mod validation;

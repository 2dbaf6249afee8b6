//! How a client behaves towards a fleet, as state machines: when to ask again and whom, when to ask a
//! second one at the same time, whom to leave alone, and how much may be under way.
//!
//! The invariant: time, randomness and what happened come from outside, and nothing in here waits
//! or sends. So the client and the simulator of fleets run the same code.
//!
//! | module | decides |
//! |---|---|
//! | [`retry`] | how often and after what wait a request is sent again |
//! | [`route`] | which worker is asked next |
//! | [`hedge`] | when a second replica is asked beside the first |
//! | [`avoid`] | how long a worker that cannot be reached is left alone |
//! | [`credits`] | what may be under way on a lane |

pub mod avoid;
pub mod credits;
pub mod hedge;
pub mod retry;
pub mod route;

//! The Rust client of a worker.
//!
//! [`Client`] is the data plane: it opens objects and reads ranges of them straight from the core
//! that owns each stripe, over one connection a shard, and looks rows up in Parquet objects. [`control::Control`] is the control plane:
//! statistics, mounts, loads. [`fleet::Fleet`] is the data plane of several workers, each stripe from
//! the one that owns it. [`blocking`] wraps the first two for tools without an async runtime.
//!
//! The invariant of a read: the bytes are all of one version of the object and match the checksums
//! that the worker sent, or there is an error. Whatever the network does, nothing waits for ever
//! and nothing is retried without a bound.

pub mod blocking;
mod client;
pub mod control;
mod error;
pub mod fleet;
mod lane;
pub mod local_token;
mod look_up;
mod options;
mod pieces;
pub mod policy;
mod random;
mod shards;
mod sources;

pub use client::{Client, Counters, Object};
pub use corelane_lookup as lookup;
pub use corelane_rpc_schema::messages::ErrorCode;
pub use error::Error;
pub use look_up::Found;
pub use options::Options;
pub use sources::Sources;

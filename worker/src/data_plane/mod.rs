//! The data plane: lanes, one shard's connections for reads.

pub mod lane;
pub mod outbox;

//! The storage worker.

pub mod cache;
pub mod mount;
pub mod object;
pub mod shard;
pub mod under_store;

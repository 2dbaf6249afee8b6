//! The storage worker.

pub mod cache;
pub mod data_plane;
pub mod config;
pub mod access;
pub mod inbox;
pub mod mount;
pub mod object;
pub mod shard;
pub mod store;
pub mod under_store;

//! The storage worker.

pub mod access;
pub mod cache;
pub mod config;
pub mod control_plane;
mod cryptography;
pub mod data_plane;
mod host;
pub mod inbox;
pub mod mount;
pub mod object;
pub mod operations;
pub mod places;
pub mod printable;
pub mod s3_face;
pub mod shard;
pub mod start;
pub mod store;
pub mod under_store;
mod watchdog;

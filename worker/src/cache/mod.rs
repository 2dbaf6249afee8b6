//! What is kept and what goes: the index of the device, and the DRAM tier in front of it.

pub mod frames;
pub mod hashing;
pub mod index;
pub mod policy;

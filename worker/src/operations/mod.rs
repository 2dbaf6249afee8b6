//! The operations port: what people and monitors look at.
//!
//! The invariant: nothing here can slow a read down or hold memory for a peer that does not read:
//! connections, request sizes and times are bounded, and every answer is made whole before it is sent.
//! Look-ups, which are data, have limits and rights of their own.

mod body;
mod lookup;
pub mod metrics;
mod pace;
pub mod pages;
mod server;
pub mod status;

pub use server::{Operations, serve};

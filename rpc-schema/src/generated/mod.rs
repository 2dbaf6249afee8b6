//! Bindings that `ci/bindings` generates from `schema/*.capnp`. Never edited by hand.

#[rustfmt::skip]
pub mod data_capnp;
#[rustfmt::skip]
pub mod worker_capnp;

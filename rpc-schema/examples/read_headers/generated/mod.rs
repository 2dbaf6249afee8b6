//! Bindings that `ci/bindings` generates from `read.capnp`. Never edited by hand.

#[rustfmt::skip]
pub mod read_capnp;

//! One core: everything that it owns, tied together.

pub mod request;

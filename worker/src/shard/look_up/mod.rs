//! Look-ups in Parquet objects, where their blocks are.
//!
//! A look-up in one object runs on its home shard, which keeps the object's footer, its decoded pages and
//! its key indexes; whoever was asked plans it, asks the homes and joins what they answer.
//!
//! | file | does |
//! |---|---|
//! | [`request`] | the whole look-up: objects to their homes, answers to one table |
//! | [`object`] | one object: footer, plan, search |
//! | `host` | bytes of the object from tier, device, under-store or another core |
//! | `indexes` | key indexes: built, kept beside the blocks, found again |
//! | `known` | what is kept of objects: footers, decoded pages, key indexes |
//! | `files` | which objects are known, within limits |
//! | `places` | mounts, path keys and homes of paths |
//! | [`failure`] | why there is no answer |
//! | [`compute`] | threads for work that would keep reads waiting |
//!
//! The invariant: all bytes that an answer was made of are of one version of each object.

pub mod compute;
pub mod failure;
mod files;
mod host;
mod indexes;
mod known;
pub mod object;
mod places;
pub mod request;

pub use known::{ALLOWANCES_BYTES, LookupLimits, Lookups};

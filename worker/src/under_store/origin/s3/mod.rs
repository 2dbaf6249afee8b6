//! Origins that speak S3: requests of our own, signed, over a client that can stream a body.
//!
//! The `object_store` crate holds whole bodies in memory, normalises keys and keeps few headers,
//! so it serves only reads here. Endpoint, region and credentials are what it made of the mount's
//! options and of the environment, so both see one bucket with one identity.

mod access;
mod fault;
mod listing;
mod multipart;
mod objects;
mod request;
mod streaming;
mod xml;

pub(crate) use access::{S3Access, S3Options};
pub(crate) use listing::S3Entry;
pub(super) use request::Payload;
pub(super) use streaming::Uploading;

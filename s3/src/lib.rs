//! The S3 face of a worker, without I/O.
//!
//! Bytes of a connection go in, requests come out: parsed, routed, authenticated; and answers are
//! written as heads and XML. Nothing here reads a socket, a clock or an object: whoever serves a
//! connection does, so the same code runs on a data core, on a fetch thread and in a fuzzer.
//!
//! The invariant: nothing that a client sent is believed before it was checked: lengths against
//! limits, signatures against keys, payloads against their checksums.
#![deny(missing_docs)]

pub mod access_log;
pub mod aws_chunked;
pub mod body;
pub mod checksum;
pub mod conditions;
pub mod credentials;
pub mod date;
pub mod error;
pub mod head;
pub mod operation;
pub mod payload;
mod percent;
pub mod range;
pub mod response;
pub mod sigv4;
pub mod target;
pub mod xml;

pub use error::{Error, ErrorCode};

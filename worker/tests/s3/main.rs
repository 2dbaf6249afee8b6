//! The S3 face of the whole worker: the real binary, spoken to in raw HTTP, so that nothing between
//! hides what it does.
//!
//! No test here is decided by timing: deadlines only tell a hang from a slow machine.

mod client;
mod cold;
mod cores;
mod drain;
mod hostile;
mod keys;
mod logs;
mod pipelining;
mod reads;
mod scene;
mod shares;
mod signing;
mod tls;
mod versions;
mod writes;
mod written;

#[allow(
    dead_code,
    unused_imports,
    reason = "shared with the process tests, which use what is not used here"
)]
#[path = "../process/harness/mod.rs"]
mod harness;

#[allow(
    dead_code,
    reason = "shared with the under-store tests, which use what is not used here"
)]
#[path = "../under_store/origin.rs"]
mod origin;

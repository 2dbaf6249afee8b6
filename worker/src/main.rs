//! `corelane-worker`: the worker as a service. Exit codes: [`process`](corelane_worker::start::process).
//!
//! The program `corelane` is the same when it is called by this name, so an installation needs one of them.

use std::process::ExitCode;

/// Opening a store makes some objects for each one that is cached: see `docs/decisions/0005-mimalloc.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    corelane_worker::start::process::main()
}

//! `corelane-worker`: the worker as a service. Exit codes: 0 ended as told, 1 failed at run time,
//! 2 command line or configuration, 3 the machine lacks something, 4 a device was refused.

use std::process::ExitCode;

use clap::Parser;
use corelane_worker::config::WorkerFlags;
use corelane_worker::start::process;

/// Opening a store makes some objects for each one that is cached: see `docs/decisions/0005-mimalloc.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Storage worker: caches objects of external storage on local drives.
#[derive(Parser)]
#[command(name = "corelane-worker", version)]
struct Command {
    #[command(flatten)]
    flags: WorkerFlags,
}

fn main() -> ExitCode {
    process::run(&Command::parse().flags)
}

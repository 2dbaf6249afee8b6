//! `corelane-perf`: ceilings, load and the gate.

use std::process::ExitCode;

use clap::Parser;
use corelane_perf::allocations::CountingAllocator;
use corelane_perf::commands::Command;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[derive(Parser)]
#[command(
    name = "corelane-perf",
    version,
    about = "Measures a worker beside the ceilings of its machine"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    match Arguments::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("corelane-perf: {message}");
            ExitCode::FAILURE
        }
    }
}

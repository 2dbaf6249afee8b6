//! The command line.

mod ceiling;
mod gate;
pub(crate) mod quantities;
mod read;
mod report;

use clap::Subcommand;

use crate::gate::script::Cost;
use crate::gate::worker::ServeForGate;
pub(crate) use ceiling::start_server;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measures what this machine gives: device, network, and both joined
    Ceiling(ceiling::CeilingArguments),
    /// Reads from a running worker in a closed loop
    Read(read::ReadArguments),
    /// Runs ceilings and worker in interleaved rounds, and compares them with what they must reach
    Gate(gate::GateArguments),
    /// Shows runs on one HTML page, and what changed between two sets of them
    Report(report::ReportArguments),
    /// Runs a fixed script of DRAM hits on a simulated core, for a profiler
    #[command(hide = true)]
    Cost(Cost),
    /// Serves as a worker, for a parent process
    #[command(hide = true)]
    ServeForGate(ServeForGate),
    /// Serves as a bare loop, for a parent process
    #[command(hide = true)]
    ServeCeiling(ceiling::ServeArguments),
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    /// A sentence that says what failed.
    pub fn run(self) -> Result<(), String> {
        match self {
            Command::Ceiling(arguments) => arguments.run(),
            Command::Read(arguments) => arguments.run(),
            Command::Gate(arguments) => arguments.run(),
            Command::Report(arguments) => arguments.run(),
            Command::Cost(arguments) => arguments.run(),
            Command::ServeForGate(arguments) => arguments.run(),
            Command::ServeCeiling(arguments) => arguments.run(),
        }
    }
}

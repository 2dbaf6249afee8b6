//! The command line.

mod ceiling;
mod quantities;
mod read;

use clap::Subcommand;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measures what this machine gives: device, network, and both joined
    Ceiling(ceiling::CeilingArguments),
    /// Reads from a running worker in a closed loop
    Read(read::ReadArguments),
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
            Command::ServeCeiling(arguments) => arguments.run(),
        }
    }
}

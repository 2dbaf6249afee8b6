//! `corelane load`: brings objects onto the devices before they are asked for.

use clap::Args;

use crate::connection::ControlFlags;
use crate::failure::Failure;
use crate::job::{self, JobKind};
use crate::output::Output;

/// Brings objects into the cache. The worker does the work: a load goes on when this command is
/// ended, and the same command joins it again. What is cached already is not fetched again, so a
/// load that was cut short goes on where it was.
#[derive(Args, Debug)]
pub struct Load {
    /// Object or, with --recursive, directory
    path: String,
    /// Everything below the path
    #[arg(long, short)]
    recursive: bool,
    /// Only start the load and print the number of its job
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    connection: ControlFlags,
}

impl Load {
    /// Runs the command.
    pub fn run(self, output: Output) -> Result<(), Failure> {
        let start =
            |control: &corelane_client::blocking::Control| control.load(&self.path, self.recursive);
        let connect = || self.connection.connect();
        if self.detach {
            return job::start_only(output, start(&connect()?)?);
        }
        let progress = job::follow(output, JobKind::Load, &self.path, connect, start)?;
        job::answer(output, JobKind::Load, &progress)
    }
}

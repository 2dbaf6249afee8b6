//! `corelane verify`: has a running worker check what its devices hold.

use clap::Args;

use crate::connection::ControlFlags;
use crate::failure::Failure;
use crate::job::{self, JobKind};
use crate::output::Output;

/// Checks what the devices hold of objects. What is wrong is dropped, so that the next read
/// fetches it again, and the command ends with code 5.
#[derive(Args, Debug)]
pub struct Verify {
    /// Object or directory; everything below it is checked
    #[arg(default_value = "/")]
    path: String,
    /// Only start the check and print the number of its job
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    connection: ControlFlags,
}

impl Verify {
    /// Runs the command.
    pub fn run(self, output: Output) -> Result<(), Failure> {
        let start = |control: &corelane_client::blocking::Control| control.verify(&self.path);
        let connect = || self.connection.connect();
        if self.detach {
            return job::start_only(output, start(&connect()?)?);
        }
        let progress = job::follow(output, JobKind::Verify, &self.path, connect, start)?;
        job::answer(output, JobKind::Verify, &progress)
    }
}

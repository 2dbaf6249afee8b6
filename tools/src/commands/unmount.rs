//! `corelane unmount`: a mount leaves the namespace. What was cached of it is evicted in time.

use clap::Args;
use serde::Serialize;

use crate::connection::ControlFlags;
use crate::failure::Failure;
use crate::output::Output;

/// Removes a mount.
#[derive(Args, Debug)]
pub struct Unmount {
    /// Path of the mount
    path: String,
    #[command(flatten)]
    connection: ControlFlags,
}

#[derive(Serialize)]
struct Answer {
    path: String,
}

impl Unmount {
    /// Runs the command.
    pub fn run(self, output: Output) -> Result<(), Failure> {
        self.connection.connect()?.unmount(&self.path)?;
        output.answer(&Answer { path: self.path }, |answer| {
            format!("unmounted {}", answer.path)
        })
    }
}

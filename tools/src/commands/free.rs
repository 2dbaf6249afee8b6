//! `corelane free`: drops what is cached. The objects stay where they are.

use clap::Args;
use serde::Serialize;

use crate::connection::ControlFlags;
use crate::failure::Failure;
use crate::output::Output;
use crate::quantity::{bytes, count};

/// Drops what is cached of objects.
#[derive(Args, Debug)]
pub struct Free {
    /// Object or, with --recursive, directory
    path: String,
    /// Everything below the path
    #[arg(long, short)]
    recursive: bool,
    #[command(flatten)]
    connection: ControlFlags,
}

#[derive(Serialize)]
struct Answer {
    blocks: u64,
    bytes: u64,
}

impl Free {
    /// Runs the command.
    pub fn run(self, output: Output) -> Result<(), Failure> {
        let freed = self
            .connection
            .connect()?
            .free(&self.path, self.recursive)?;
        let answer = Answer {
            blocks: freed.blocks,
            bytes: freed.bytes,
        };
        output.answer(&answer, |answer| {
            format!(
                "freed {} blocks, {}",
                count(answer.blocks),
                bytes(answer.bytes)
            )
        })
    }
}

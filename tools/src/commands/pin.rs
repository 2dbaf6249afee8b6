//! `corelane pin` and `corelane unpin`: what is exempt from eviction.

use clap::Args;
use serde::Serialize;

use crate::connection::ControlFlags;
use crate::failure::Failure;
use crate::output::Output;
use crate::quantity::count;

/// Keeps objects in the cache. Does not load them: `corelane load` does.
#[derive(Args, Debug)]
pub struct Pin {
    #[command(flatten)]
    what: What,
}

/// Lets pinned objects go again.
#[derive(Args, Debug)]
pub struct Unpin {
    #[command(flatten)]
    what: What,
}

#[derive(Args, Debug)]
struct What {
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
    objects: u64,
    pinned: bool,
}

impl Pin {
    /// Runs the command.
    pub fn run(self, output: Output) -> Result<(), Failure> {
        self.what.set(output, true)
    }
}

impl Unpin {
    /// Runs the command.
    pub fn run(self, output: Output) -> Result<(), Failure> {
        self.what.set(output, false)
    }
}

impl What {
    fn set(self, output: Output, pinned: bool) -> Result<(), Failure> {
        let objects = self
            .connection
            .connect()?
            .pin(&self.path, self.recursive, pinned)?;
        output.answer(&Answer { objects, pinned }, |answer| {
            let done = if answer.pinned { "pinned" } else { "unpinned" };
            format!("{done} {} objects", count(answer.objects))
        })
    }
}

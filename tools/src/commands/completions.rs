//! `corelane completions`: scripts for shells.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::CommandLine;
use crate::failure::Failure;
use crate::output::Output;

/// Prints a script; for bash: `source <(corelane completions bash)`.
#[derive(Args, Debug)]
pub struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    /// Runs the command.
    pub fn run(self, output: Output) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(
            self.shell,
            &mut CommandLine::command(),
            "corelane",
            &mut script,
        );
        output.bytes(&script)
    }
}

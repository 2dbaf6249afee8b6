//! `corelane`: the operator's command line.
//!
//! Each subcommand is one file in `commands`, with its flags, what it does and how it prints. A
//! command prints its answer on standard output, as a table or as JSON, and ends with an exit
//! code that says what kind of thing went wrong ([`failure`]).
//!
//! Called by the name `corelane-worker`, through a link, it is the worker as a service.

mod commands;
mod connection;
mod demo;
mod failure;
mod job;
mod output;
mod quantity;
mod ready;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use commands::Command;
use output::Output;

/// Opening a store makes some objects for each one that is cached: see `docs/decisions/0005-mimalloc.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A cache of object storage on local drives: runs a worker and speaks to running ones.
#[derive(Parser, Debug)]
#[command(name = "corelane", version, after_help = failure::EXIT_CODES, propagate_version = true)]
struct CommandLine {
    /// Print JSON instead of tables: one value, and errors as {"error": {"kind", "message"}}
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

/// Name by which this program is the worker as a service, so that one file serves both.
const WORKER: &str = "corelane-worker";

fn main() -> ExitCode {
    if is_worker(std::env::args_os().next()) {
        return corelane_worker::start::process::main();
    }
    let line = CommandLine::parse();
    let output = Output::new(line.json);
    match line.command.run(output) {
        Ok(code) => code,
        Err(failure) => {
            failure.report(line.json);
            failure.exit_code()
        }
    }
}

fn is_worker(program: Option<OsString>) -> bool {
    program.is_some_and(|program| Path::new(&program).file_name() == Some(WORKER.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_of_the_command_line_holds_together() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn a_link_named_corelane_worker_is_the_worker() {
        for (program, expected) in [
            ("corelane-worker", true),
            ("/usr/bin/corelane-worker", true),
            ("./corelane", false),
            ("corelane-worker/corelane", false),
        ] {
            assert_eq!(is_worker(Some(program.into())), expected, "{program}");
        }
        assert!(!is_worker(None));
    }

    #[test]
    fn every_command_takes_json() {
        for line in [
            "corelane --json status",
            "corelane status --json",
            "corelane ls --json /data",
            "corelane device info --json a.img",
        ] {
            let line = CommandLine::try_parse_from(line.split(' ')).expect(line);
            assert!(line.json);
        }
    }
}

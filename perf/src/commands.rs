//! The command line.

mod ceiling;
mod compare_backends;
mod cost;
mod gate;
mod load;
mod lookup;
mod prepare;
mod report;
mod rounds;
mod scale;
mod simulate;

use std::path::Path;

use clap::Subcommand;

use crate::cost::script::CostScript;
use crate::gate::worker::ServeForGate;
use crate::run::Run;
pub(crate) use ceiling::start_server;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measures what this machine gives: device, network, and both joined
    Ceiling(ceiling::CeilingArguments),
    /// Loads a target with a workload, in a closed or an open loop
    Load(load::LoadArguments),
    /// Finds the highest rate that a target sustains under a latency bound
    Search(load::SearchArguments),
    /// Measures the same load on 1 to N shards or workers, and fits a law of scaling to it
    Scale(scale::ScaleArguments),
    /// Makes the objects of a workload: files, or values in Redis
    Prepare(prepare::PrepareArguments),
    /// Runs ceilings and worker in interleaved rounds, and compares them with what they must reach
    Gate(gate::GateArguments),
    /// Measures look-ups in Parquet objects, beside engines and beside reads
    Lookup(lookup::LookupArguments),
    /// Shows runs on one HTML page, and what changed between two sets of them
    Report(report::ReportArguments),
    /// Simulates fleets of many workers from what was measured on one
    Simulate(simulate::SimulateArguments),
    /// Counts the instructions of a hit, and compares them with a budget
    Cost(cost::CostArguments),
    /// Runs worker and bare loops on our ring, on glommio and on compio in interleaved rounds
    CompareBackends(compare_backends::CompareArguments),
    /// Runs a fixed script of hits on a simulated core, for a profiler
    #[command(hide = true)]
    CostScript(CostScript),
    /// Serves as a worker, for a parent process
    #[command(hide = true)]
    ServeForGate(ServeForGate),
    /// Serves as a bare loop, for a parent process
    #[command(hide = true)]
    ServeCeiling(ceiling::ServeArguments),
    /// Serves as a bare loop on a runtime, for a parent process
    #[command(hide = true)]
    ServeEcho(compare_backends::EchoArguments),
    /// Reads a file in a bare loop on a runtime, for a parent process
    #[command(hide = true)]
    ReadDevice(compare_backends::ReadDeviceArguments),
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    /// A sentence that says what failed.
    pub fn run(self) -> Result<(), String> {
        match self {
            Command::Ceiling(arguments) => arguments.run(),
            Command::Load(arguments) => arguments.run(),
            Command::Search(arguments) => arguments.run(),
            Command::Scale(arguments) => arguments.run(),
            Command::Prepare(arguments) => arguments.run(),
            Command::Gate(arguments) => arguments.run(),
            Command::Lookup(arguments) => arguments.run(),
            Command::Simulate(arguments) => arguments.run(),
            Command::Report(arguments) => arguments.run(),
            Command::Cost(arguments) => arguments.run(),
            Command::CostScript(arguments) => arguments.run(),
            Command::ServeForGate(arguments) => arguments.run(),
            Command::ServeCeiling(arguments) => arguments.run(),
            Command::CompareBackends(arguments) => arguments.run(),
            Command::ServeEcho(arguments) => arguments.run(),
            Command::ReadDevice(arguments) => arguments.run(),
        }
    }
}

/// Prints `report` as JSON for people and programs.
fn print_json(report: &impl serde::Serialize) -> Result<(), String> {
    let text = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
    println!("{text}");
    Ok(())
}

/// Ends a run: its file, its JSON on standard output, and an error where answers were wrong.
fn end_run(run: &Run, out: Option<&Path>, as_json: bool) -> Result<(), String> {
    if let Some(path) = out {
        run.write(path)?;
    }
    if as_json {
        println!(
            "{}",
            serde_json::to_string(run).map_err(|error| error.to_string())?
        );
    }
    if run.is_partial {
        eprintln!("ended early: this run is partial");
    }
    match run.points.iter().map(|point| point.wrong).sum() {
        0u64 => Ok(()),
        wrong => Err(format!("{wrong} answers were not what they should be")),
    }
}

//! `corelane-perf gate`: ceilings and worker side by side.

use std::path::PathBuf;

use clap::Args;

use super::rounds::RoundsArguments;
use crate::gate::{self, Report};
use crate::quantities::size;
use crate::run::{GateAnswer, Run, RunKind};

#[derive(Debug, Args)]
pub struct GateArguments {
    #[command(flatten)]
    rounds: RoundsArguments,
    /// Bytes that the DRAM measures read from
    #[arg(long, default_value = "512M", value_parser = size)]
    working_set: u64,
    /// Bytes that the device measures read from
    #[arg(long, default_value = "2G", value_parser = size)]
    device_set: u64,
    /// Write the run to this file, for `corelane-perf report`
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl GateArguments {
    pub(super) fn run(self) -> Result<(), String> {
        let json = self.rounds.json;
        let options = self.rounds.options(4.0, self.working_set, self.device_set);
        let mut run = Run::begin(RunKind::Gate, "gate");
        let report = gate::run(options)?;
        if json {
            super::print_json(&report)?;
        } else {
            print(&report);
        }
        if let Some(path) = &self.out {
            let measures = report.measures.iter().map(serde_json::to_value);
            run.gate = Some(GateAnswer {
                measures: measures
                    .collect::<Result<_, _>>()
                    .map_err(|error| error.to_string())?,
            });
            run.write(path)?;
        }
        Ok(())
    }
}

pub(super) fn print(report: &Report) {
    let machine = &report.machine;
    println!(
        "{}, {} CPUs, Linux {}",
        machine.cpu, machine.cpus, machine.kernel
    );
    for (name, value) in &machine.run {
        println!("  {name} {value}");
    }
    for (server, threads) in &machine.affinity {
        println!("  threads of {server}:");
        for thread in threads {
            println!("    {} on CPU {}", thread.name, thread.affinity);
        }
    }
    for measure in &report.measures {
        println!("{measure}");
    }
}

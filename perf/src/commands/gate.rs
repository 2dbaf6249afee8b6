//! `corelane-perf gate`: ceilings and worker side by side.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::gate::{self, Options, Report};
use crate::load::Verify;
use crate::quantities::{Cores, cores, duration, size};
use crate::run::{GateAnswer, Run, RunKind};

#[derive(Debug, Args)]
pub struct GateArguments {
    /// Only these measures
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Interleaved rounds of each measure (depth-1 measures take at least 9)
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Length of each measured part
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// The server's core and the generator's
    #[arg(long, default_value = "0,1", value_parser = cores)]
    cores: Cores,
    /// Directory for device files, on the drive that is to be measured (ext4 or xfs)
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Directory for files of a device faster than the CPU (tmpfs)
    #[arg(long, default_value = "/dev/shm")]
    fast_dir: PathBuf,
    /// Bytes that the DRAM measures read from
    #[arg(long, default_value = "512M", value_parser = size)]
    working_set: u64,
    /// Bytes that the device measures read from
    #[arg(long, default_value = "2G", value_parser = size)]
    device_set: u64,
    /// Which answers' payloads are compared with their checksums, on both sides
    #[arg(long, value_enum, default_value_t)]
    verify: Verify,
    /// How long worker and ceiling poll in the depth-1 measures
    #[arg(long, default_value = "50us", value_parser = duration)]
    spin: Duration,
    /// Small and short: for the shape of the output, not for its figures
    #[arg(long)]
    quick: bool,
    /// Write the run to this file, for `corelane-perf report`
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print one JSON object on standard output (progress goes to standard error)
    #[arg(long)]
    json: bool,
}

impl GateArguments {
    pub(super) fn run(self) -> Result<(), String> {
        let options = Options {
            only: self.only,
            rounds: if self.quick { 1 } else { self.rounds.max(1) },
            seconds: if self.quick {
                0.2
            } else {
                self.seconds.max(0.05)
            },
            server_core: self.cores.server,
            load_core: self.cores.load,
            directory: self.dir,
            fast_directory: self.fast_dir,
            working_set: if self.quick {
                16 << 20
            } else {
                self.working_set
            },
            device_set: if self.quick {
                64 << 20
            } else {
                self.device_set
            },
            verify: self.verify,
            spin: self.spin,
            python: PathBuf::from("python3"),
            tables: None,
            quick: self.quick,
            talks: true,
        };
        let mut run = Run::begin(RunKind::Gate, "gate");
        let report = gate::run(options)?;
        if self.json {
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

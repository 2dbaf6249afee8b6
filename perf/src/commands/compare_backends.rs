//! `corelane-perf compare-backends`: worker and bare loops on our ring, glommio and compio.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::compare::{self, Report};
use crate::gate::Options;
use crate::load::Verify;
use crate::quantities::{Cores, cores, duration, read_size, size};
use crate::run::{BackendsAnswer, Run, RunKind};
use crate::runtimes::{self, EchoOptions, ReadOptions, Runtime};
use crate::server_process::{Ready, answer, end_with_parent};

#[derive(Debug, Args)]
pub struct CompareArguments {
    /// Only these rows
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Interleaved rounds of each row
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
    /// Bytes that the DRAM rows read from; each of two workers takes as much
    #[arg(long, default_value = "512M", value_parser = size)]
    working_set: u64,
    /// Bytes that the device rows read from; each of two workers takes five times as much of a disk
    #[arg(long, default_value = "1G", value_parser = size)]
    device_set: u64,
    /// Which answers' payloads are compared with their checksums
    #[arg(long, value_enum, default_value_t)]
    verify: Verify,
    /// How long the workers poll in the rows of depth 1 and idle; the others do not poll
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

impl CompareArguments {
    pub(super) fn run(self) -> Result<(), String> {
        let quick = self.quick;
        let mut run = Run::begin(RunKind::CompareBackends, "backends");
        let report = compare::run(
            &self.only,
            Options {
                only: Vec::new(),
                rounds: if quick { 1 } else { self.rounds.max(1) },
                seconds: if quick { 0.2 } else { self.seconds.max(0.05) },
                server_core: self.cores.server,
                load_core: self.cores.load,
                directory: self.dir,
                fast_directory: self.fast_dir,
                working_set: if quick { 16 << 20 } else { self.working_set },
                device_set: if quick { 64 << 20 } else { self.device_set },
                verify: self.verify,
                spin: self.spin,
                python: PathBuf::from("python3"),
                tables: None,
                quick,
                talks: true,
            },
        )?;
        if self.json {
            super::print_json(&report)?;
        } else {
            print(&report);
        }
        if let Some(path) = &self.out {
            let rows = report.rows.iter().map(serde_json::to_value);
            run.backends = Some(BackendsAnswer {
                rows: rows
                    .collect::<Result<_, _>>()
                    .map_err(|error| error.to_string())?,
                left_out: report.left_out.clone(),
            });
            run.write(path)?;
        }
        Ok(())
    }
}

fn print(report: &Report) {
    let machine = &report.machine;
    println!(
        "{}, {} CPUs, Linux {}",
        machine.cpu, machine.cpus, machine.kernel
    );
    for (name, value) in &machine.run {
        println!("  {name} {value}");
    }
    print!("{report}");
}

#[derive(Debug, Args)]
pub struct EchoArguments {
    #[arg(long, value_enum)]
    runtime: Runtime,
    #[arg(long, value_parser = read_size)]
    reply: u32,
    #[arg(long, value_parser = duration)]
    spin: Duration,
    #[arg(long)]
    core: usize,
}

impl EchoArguments {
    pub(super) fn run(self) -> Result<(), String> {
        end_with_parent();
        let options = EchoOptions {
            core: self.core,
            reply_bytes: self.reply,
            spin: self.spin,
        };
        runtimes::serve_echo(self.runtime, &options, |address| {
            let ready = Ready {
                address,
                details: serde_json::Value::Null,
            };
            ready.announce().map_err(|error| error.to_string())
        })
    }
}

#[derive(Debug, Args)]
pub struct ReadDeviceArguments {
    #[arg(long, value_enum)]
    runtime: Runtime,
    #[arg(long)]
    path: PathBuf,
    #[arg(long, value_parser = size)]
    bytes: u64,
    #[arg(long)]
    depth: u32,
    #[arg(long)]
    nonblocking: bool,
    #[arg(long)]
    seconds: f64,
    #[arg(long)]
    core: usize,
}

impl ReadDeviceArguments {
    pub(super) fn run(self) -> Result<(), String> {
        let options = ReadOptions {
            core: self.core,
            path: self.path,
            bytes: self.bytes,
            depth: self.depth,
            nonblocking: self.nonblocking,
            seconds: self.seconds,
        };
        let figures = runtimes::read_device(self.runtime, &options)?;
        let figures = serde_json::to_value(figures).map_err(|error| error.to_string())?;
        answer(&figures).map_err(|error| error.to_string())
    }
}

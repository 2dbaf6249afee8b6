//! `corelane-perf compare-backends`: worker and bare loops on our ring, glommio and compio.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::rounds::RoundsArguments;
use crate::compare::{self, Report};
use crate::quantities::{duration, read_size, size};
use crate::run::{BackendsAnswer, Run, RunKind};
use crate::runtimes::{self, EchoOptions, ReadOptions, Runtime};
use crate::server_process::{Ready, answer, end_with_parent};

#[derive(Debug, Args)]
pub struct CompareArguments {
    #[command(flatten)]
    rounds: RoundsArguments,
    /// Bytes that the DRAM rows read from; each of two workers takes as much
    #[arg(long, default_value = "512M", value_parser = size)]
    working_set: u64,
    /// Bytes that the device rows read from; each of two workers takes five times as much of a disk
    #[arg(long, default_value = "1G", value_parser = size)]
    device_set: u64,
    /// Write the run to this file, for `corelane-perf report`
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl CompareArguments {
    pub(super) fn run(self) -> Result<(), String> {
        let json = self.rounds.json;
        let mut run = Run::begin(RunKind::CompareBackends, "backends");
        let options = self.rounds.options(4.0, self.working_set, self.device_set);
        let report = compare::run(options)?;
        if json {
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

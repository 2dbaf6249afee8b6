//! `corelane-perf scale`: the same load on 1 to N shards or workers.

use std::path::PathBuf;

use clap::Args;

use super::load::arrivals;
use crate::load::{Arrivals, Verify, interrupt};
use crate::quantities::grouped;
use crate::run::answers::{ScaleAnswer, Usl};
use crate::run::{Run, RunKind};
use crate::scale::fleet::Unit;
use crate::scale::{self, Options};
use crate::workload::Workload;

#[derive(Debug, Args)]
pub struct ScaleArguments {
    /// What is added from step to step: shards of one worker, or workers of one shard, each with an
    /// address of its own in 127.0.0.0/8
    #[arg(long, value_enum, default_value = "shards")]
    of: Unit,
    /// The greatest count
    #[arg(long, default_value_t = 2)]
    max: u32,
    /// CPUs of the servers: one for each shard, or dealt to the workers in turn
    #[arg(long, value_delimiter = ',', default_value = "0,1", value_name = "CPU")]
    server_cores: Vec<usize>,
    /// CPUs of the generators, one thread each
    #[arg(long, value_delimiter = ',', default_value = "1", value_name = "CPU")]
    load_cores: Vec<usize>,
    /// A workload that comes along or a file
    #[arg(long, default_value = "uniform-4k")]
    workload: String,
    /// Divide the workload's bytes into so many objects of one size (default: as many as spread
    /// evenly; 0: the workload's own)
    #[arg(long, value_name = "COUNT")]
    objects: Option<u32>,
    /// closed, constant:RATE or poisson:RATE (of all generators together, a second), several with
    /// commas: the answer is made of the first, the others are measured beside it
    #[arg(long, value_delimiter = ',', default_value = "closed", value_parser = arrivals)]
    arrivals: Vec<Arrivals>,
    /// Connections, dealt over generators and shards in turn
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Reads in flight on each connection, at the most
    #[arg(long, default_value_t = 32)]
    depth: u32,
    /// Which payloads are compared with their checksums
    #[arg(long, value_enum, default_value_t)]
    verify: Verify,
    /// Interleaved rounds of each count
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Length of each measured part; a quarter of it warms up
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Seed of keys and arrivals
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Directory for objects and device files (ext4, xfs or tmpfs); they are removed at the end
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Measure a bare network loop on each server's CPU beside every round
    #[arg(long)]
    with_ceilings: bool,
    /// Small and short: for the shape of the output, not for its figures
    #[arg(long)]
    quick: bool,
    /// Write the run to this file, for `corelane-perf report` and `simulate`
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print the run as one JSON object (progress goes to standard error)
    #[arg(long)]
    json: bool,
}

impl ScaleArguments {
    pub(super) fn run(self) -> Result<(), String> {
        interrupt::listen();
        let options = Options {
            unit: self.of,
            count_max: self.max,
            server_cores: self.server_cores,
            load_cores: self.load_cores,
            workload: Workload::load(&self.workload)?,
            objects: self.objects,
            arrivals: self.arrivals,
            connections: self.connections.max(1),
            depth: self.depth.max(1),
            verify: self.verify,
            rounds: if self.quick { 1 } else { self.rounds.max(1) },
            seconds: if self.quick {
                0.2
            } else {
                self.seconds.max(0.05)
            },
            seed: self.seed,
            directory: self.dir,
            with_ceilings: self.with_ceilings,
            quick: self.quick,
        };
        let name = format!(
            "{} on 1 to {} {}",
            options.workload.name,
            options.count_max,
            options.unit.name(2)
        );
        let mut run = Run::begin(RunKind::Scale, name);
        let outcome = scale::run(&options, |text| eprintln!("{text}"))?;
        run.is_partial = outcome.is_partial;
        run.points = outcome.points;
        if !self.json {
            print(&outcome.answer, options.unit);
        }
        run.scale = Some(outcome.answer);
        super::end_run(&run, self.out.as_deref(), self.json)
    }
}

fn print(answer: &ScaleAnswer, unit: Unit) {
    println!(
        "{:>10}  {:>14}  {:>10}  {:>16}  {:>10}",
        answer.of, "operations/s", "efficiency", "CPU, µs/operation", "by CPU"
    );
    for step in &answer.steps {
        println!(
            "{:>10}  {:>14}  {:>8.1} %  {:>17.2}  {:>8.1} %",
            step.count,
            grouped(step.rate),
            100.0 * step.efficiency,
            step.cpu_us_per_operation,
            100.0 * step.cpu_efficiency
        );
    }
    if let Some(law) = &answer.usl {
        print_law("by rate", law, unit);
    }
    if let Some(law) = &answer.usl_by_cpu {
        print_law("by CPU", law, unit);
    }
    for note in &answer.notes {
        println!("note: {note}");
    }
}

fn print_law(name: &str, law: &Usl, unit: Unit) {
    let peak = match law.peak() {
        Some(peak) => format!(
            "highest at {peak:.1} {} with {} operations/s",
            unit.name(2),
            grouped(law.rate_at(peak))
        ),
        None if law.contention > 0.0 => format!(
            "no peak, towards {} operations/s",
            grouped(law.rate / law.contention)
        ),
        None => "no peak and no limit in what was measured".to_owned(),
    };
    println!(
        "Universal Scalability Law {name}: {} operations/s of one, contention (sigma) {:.5}, coherency (kappa) {:.6}, \
         off by {:.1} %; {peak}",
        grouped(law.rate),
        law.contention,
        law.coherency,
        100.0 * law.relative_error
    );
}

//! `corelane-perf lookup`: look-ups in Parquet objects, beside engines and beside reads.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::gate::{self, Options};
use crate::load::Verify;
use crate::quantities::{Cores, cores, duration};

#[derive(Debug, Args)]
pub struct LookupArguments {
    /// Only these measures
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Interleaved rounds of each measure
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Length of each measured part
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// The server's core and the generator's
    #[arg(long, default_value = "0,1", value_parser = cores)]
    cores: Cores,
    /// Directory for device files, on the drive that is to be measured (ext4 or xfs)
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Directory for the tables and files of a device faster than the CPU (tmpfs)
    #[arg(long, default_value = "/dev/shm")]
    fast_dir: PathBuf,
    /// Which answers' rows are compared with what was asked
    #[arg(long, value_enum, default_value_t)]
    verify: Verify,
    /// How long the worker polls in the depth-1 measures
    #[arg(long, default_value = "50us", value_parser = duration)]
    spin: Duration,
    /// A Python with pyarrow, DuckDB and its extension tpch, and Polars, which makes the files and runs the
    /// engines
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// Keep the files that are looked up in this directory, and take those that are there
    #[arg(long, value_name = "DIR")]
    tables: Option<PathBuf>,
    /// Small and short: for the shape of the output, not for its figures
    #[arg(long)]
    quick: bool,
    /// Print one JSON object on standard output (progress goes to standard error)
    #[arg(long)]
    json: bool,
}

impl LookupArguments {
    pub(super) fn run(self) -> Result<(), String> {
        let report = gate::run_lookup(Options {
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
            working_set: 0,
            device_set: 0,
            verify: self.verify,
            spin: self.spin,
            python: self.python,
            tables: self.tables,
            quick: self.quick,
            talks: true,
        })?;
        if self.json {
            super::print_json(&report)
        } else {
            super::gate::print(&report);
            Ok(())
        }
    }
}

//! `corelane-perf lookup`: look-ups in Parquet objects, beside engines and beside reads.

use std::path::PathBuf;

use clap::Args;

use super::rounds::RoundsArguments;
use crate::gate::{self, Options};

#[derive(Debug, Args)]
pub struct LookupArguments {
    #[command(flatten)]
    rounds: RoundsArguments,
    /// A Python with pyarrow, DuckDB and its extension tpch, and Polars, which makes the files and runs the
    /// engines
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// Keep the files that are looked up in this directory, and take those that are there
    #[arg(long, value_name = "DIR")]
    tables: Option<PathBuf>,
}

impl LookupArguments {
    pub(super) fn run(self) -> Result<(), String> {
        let json = self.rounds.json;
        let report = gate::run_lookup(Options {
            python: self.python,
            tables: self.tables,
            ..self.rounds.options(2.0, 0, 0)
        })?;
        if json {
            super::print_json(&report)
        } else {
            super::gate::print(&report);
            Ok(())
        }
    }
}

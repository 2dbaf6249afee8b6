//! The worker beside engines on the same file: one thread each, the same keys and columns.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::Deserialize;

use super::rates::{Asked, load};
use super::tables::Tables;
use super::worker::{LookupSpec, LookupWorker};
use crate::gate::bench::Bench;
use crate::gate::measure::{Bar, Measure};
use crate::gate::pairs::Side;
use crate::gate::rounds::in_turns;
use crate::process::MachineTime;

/// An engine in a process of its own, ended when dropped.
struct Engine {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

#[derive(Deserialize)]
struct Queries {
    queries: f64,
    seconds: f64,
}

impl Engine {
    fn start(bench: &Bench, name: &str, tables: &Tables) -> Result<Engine, String> {
        let script = include_str!("../../../lookup/engines.py");
        let mut child = Command::new("taskset")
            .args(["-c", &bench.options.server_core.to_string()])
            .arg(&bench.options.python)
            .args(["-c", script, name])
            .arg(tables.file("orders.parquet"))
            .arg(tables.orders.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{name}: {error}"))?;
        let mut engine = Engine {
            input: child.stdin.take().expect("standard input is piped"),
            output: BufReader::new(child.stdout.take().expect("standard output is piped")),
            child,
        };
        engine.line(name)?;
        Ok(engine)
    }

    fn line(&mut self, name: &str) -> Result<String, String> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(bytes) if bytes > 0 => Ok(line),
            _ => Err(format!("{name} ended early; see above")),
        }
    }

    /// Look-ups a second over `seconds`.
    fn rate(&mut self, name: &str, seconds: f64) -> Result<f64, String> {
        writeln!(self.input, "{seconds}").map_err(|error| format!("{name}: {error}"))?;
        let line = self.line(name)?;
        let answer: Queries =
            serde_json::from_str(&line).map_err(|error| format!("{name}: {error}"))?;
        Ok(answer.queries / answer.seconds)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn against(bench: &mut Bench, name: &str, engine: &str, bar: f64) -> Result<Measure, String> {
    let tables = Tables::of(bench)?;
    let table = tables.orders("orders.parquet");
    let worker = LookupWorker::start(bench, LookupSpec::new(), &[&table])?;
    worker.index(&table)?;
    let side = Side {
        spec: load(bench, &worker, &table, Asked::Uniform),
        watched: worker.watched(),
    };
    side.take(0)?;
    let mut peer = Engine::start(bench, engine, &tables)?;
    let seconds = bench.options.seconds;
    let mut wrong = 0;
    let mut of_worker = |number| {
        let sample = side.take(number)?;
        wrong += sample.load.wrong;
        Ok((sample.load.rate(), sample.steal_percent))
    };
    let mut of_engine = |_| {
        let before = MachineTime::now().map_err(|error| error.to_string())?;
        let rate = peer.rate(engine, seconds)?;
        let after = MachineTime::now().map_err(|error| error.to_string())?;
        Ok((rate, after.steal_percent_since(before)))
    };
    let rounds = in_turns(
        bench.options.rounds,
        &mut [&mut of_worker, &mut of_engine],
        |(_, steal)| *steal,
    )?;
    let pairs: Vec<(f64, f64)> = rounds
        .iter()
        .map(|round| (round[0].0, round[1].0))
        .collect();
    let mut measure = Measure::of_pairs(name, "1/s", &pairs, Bar::RatioAtLeast(bar)).with_note(format!(
        "uniform keys, three columns; one core of the worker over the wire against one thread of {engine} in \
         its own process, the file in the page cache"
    ));
    if wrong > 0 {
        measure.holds = Some(false);
        measure = measure.with_note("WRONG ANSWERS were received");
    }
    Ok(measure)
}

pub(super) fn lookup_against_duckdb(bench: &mut Bench) -> Result<Measure, String> {
    against(bench, "lookup_against_duckdb", "duckdb", 100.0)
}

pub(super) fn lookup_against_polars(bench: &mut Bench) -> Result<Measure, String> {
    against(bench, "lookup_against_polars", "polars", 100.0)
}

pub(super) fn lookup_against_pyarrow(bench: &mut Bench) -> Result<Measure, String> {
    against(bench, "lookup_against_pyarrow", "pyarrow", 100.0)
}

pub(super) fn lookup_against_duckdb_index(bench: &mut Bench) -> Result<Measure, String> {
    against(bench, "lookup_against_duckdb_index", "duckdb-index", 10.0)
}

//! `corelane-perf simulate`: what a fleet would do, from what was measured on one worker.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use corelane_client::policy::hedge::HedgeLimits;
use corelane_placement::fleet::{MEMBERS_MAX, REPLICAS_MAX};
use serde_json::json;

use crate::quantities::{duration, grouped, read_size};
use crate::run::answers::{Scenario, SimulationAnswer, Validation};
use crate::run::{Run, RunKind};
use crate::simulate::model::WorkerModel;
use crate::simulate::samples::Samples;
use crate::simulate::scenario::{self, Kind, Plan};
use crate::simulate::validation::{self, percent_off};
use crate::workload::Keys;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Debug, Args)]
pub struct SimulateArguments {
    /// Runs of one worker that the model is made from: one at a low rate, one at full load
    #[arg(long, required = true, num_args = 1.., value_name = "RUN.json")]
    measured: Vec<PathBuf>,
    /// Runs whose open-loop points are simulated beside what was measured
    #[arg(long, num_args = 1.., value_name = "RUN.json")]
    validate: Vec<PathBuf>,
    /// The workers of the validating runs shared one core
    #[arg(long)]
    validate_one_core: bool,
    /// Sizes of fleets
    #[arg(long, value_delimiter = ',', default_value = "50,500,3000", value_parser = workers)]
    workers: Vec<usize>,
    /// Scenarios; all if none is named
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    scenario: Vec<Kind>,
    /// Longest stretch of a scenario; --operations usually ends it before
    #[arg(long, default_value_t = 10.0, value_parser = positive)]
    seconds: f64,
    /// Operations of a scenario at the most, or 1000 for each worker where that is more
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    operations: u64,
    /// Seed of everything that is drawn
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Workers that hold each stripe
    #[arg(long, default_value_t = 2, value_parser = replicas)]
    replicas: usize,
    /// Whether clients send late reads to a second replica
    #[arg(long, value_enum, default_value = "on")]
    hedge: Switch,
    /// How often each stripe is read: uniform, zipf:THETA or hot-spot:SHARE:WIDTH:SECONDS
    #[arg(long, default_value = "uniform")]
    keys: Keys,
    /// Bytes a read, for the clients' credits
    #[arg(long, default_value = "4K", value_parser = read_size)]
    size: u32,
    /// Median and 99th percentile of the under-store's latency, in milliseconds
    #[arg(long, default_value = "30,150", value_parser = percentiles)]
    under_store: (f64, f64),
    /// From the death of a worker to the placement without it
    #[arg(long, default_value = "3s", value_parser = duration)]
    detection: Duration,
    /// Where the run is written
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

fn workers(text: &str) -> Result<usize, String> {
    let count = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if (2..MEMBERS_MAX).contains(&count) {
        Ok(count)
    } else {
        Err(format!("a fleet has 2 to {} workers", MEMBERS_MAX - 1))
    }
}

fn replicas(text: &str) -> Result<usize, String> {
    let count = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if (1..REPLICAS_MAX).contains(&count) {
        Ok(count)
    } else {
        Err(format!("a stripe has 1 to {} replicas", REPLICAS_MAX - 1))
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && f64::is_finite(number) => Ok(number),
        _ => Err(format!("expected a number above zero, found `{text}`")),
    }
}

fn percentiles(text: &str) -> Result<(f64, f64), String> {
    let expected = || format!("expected P50,P99 in milliseconds such as 30,150, found `{text}`");
    let (p50, p99) = text.split_once(',').ok_or_else(expected)?;
    let (p50, p99) = (positive(p50)?, positive(p99)?);
    if p50 <= p99 {
        Ok((p50, p99))
    } else {
        Err(expected())
    }
}

impl SimulateArguments {
    pub(super) fn run(self) -> Result<(), String> {
        let measured = read(&self.measured)?;
        let validating = read(&self.validate)?;
        let model = WorkerModel::of(&measured)?;
        print_model(&model);
        let mut run = Run::begin(RunKind::Simulate, "simulate");
        let validations = validation::run(&validating, &model, self.validate_one_core, self.seed)?;
        print_validations(&validations);
        let plan = self.plan();
        let mut answer = SimulationAnswer {
            inputs: json!({
                "model": model.inputs,
                "seed": self.seed,
                "replicas": self.replicas,
                "hedge": self.hedge.to_possible_value().map(|value| value.get_name().to_owned()),
                "keys": self.keys.to_string(),
                "read_bytes": self.size,
                "under_store_ms": [self.under_store.0, self.under_store.1],
                "detection_ms": self.detection.as_millis() as u64,
                "clients": scenario::CLIENTS,
            }),
            validation: validations,
            scenarios: Vec::new(),
        };
        print_head();
        for (kind, workers) in self.stages() {
            let scenario = scenario::run(kind, workers, &plan, &model)?;
            print_scenario(&scenario);
            answer.scenarios.push(scenario);
        }
        print_notes(&answer.scenarios);
        run.simulation = Some(answer);
        run.write(&self.out)?;
        println!("written to {}", self.out.display());
        Ok(())
    }

    fn plan(&self) -> Plan {
        let ns = |ms: f64| ((ms * 1e6) as u64).max(1);
        Plan {
            replicas: self.replicas,
            hedge: match self.hedge {
                Switch::On => Some(HedgeLimits::default()),
                Switch::Off => None,
            },
            keys: self.keys,
            seconds: self.seconds,
            operations_max: self.operations,
            detection: self.detection,
            under_store: Samples::log_normal(ns(self.under_store.0), ns(self.under_store.1)),
            read_bytes: self.size,
            seed: self.seed,
        }
    }

    /// Each scenario on each size; a million a second has a size of its own.
    fn stages(&self) -> Vec<(Kind, usize)> {
        let kinds = if self.scenario.is_empty() {
            Kind::value_variants()
        } else {
            &self.scenario[..]
        };
        let mut stages = Vec::new();
        if kinds.contains(&Kind::Million) {
            stages.push((Kind::Million, scenario::MILLION_WORKERS));
        }
        for workers in &self.workers {
            let others = kinds.iter().filter(|kind| **kind != Kind::Million);
            stages.extend(others.map(|kind| (*kind, *workers)));
        }
        stages
    }
}

fn read(paths: &[PathBuf]) -> Result<Vec<(String, Run)>, String> {
    let name = |path: &Path| {
        let name = path.file_name().unwrap_or(path.as_os_str());
        name.to_string_lossy().into_owned()
    };
    paths
        .iter()
        .map(|path| Ok((name(path), Run::read(path)?)))
        .collect()
}

fn print_model(model: &WorkerModel) {
    println!(
        "a measured worker: {:.2} µs a turn, {:.3} µs an operation in it, {}/s at the most; a request takes \
         {:.1} µs besides (p50), {:.1} µs (p99)",
        model.cost.turn_ns / 1e3,
        model.cost.operation_ns / 1e3,
        grouped(model.capacity),
        model.path.quantile(0.5) as f64 / 1e3,
        model.path.quantile(0.99) as f64 / 1e3,
    );
    let notes = model.inputs["notes"].as_array().into_iter().flatten();
    for note in notes.filter_map(|note| note.as_str()) {
        println!("  {note}");
    }
}

fn print_validations(validations: &[Validation]) {
    if validations.is_empty() {
        println!("not validated: no run to validate with has an open-loop point");
        return;
    }
    println!("\nsimulated beside measured (µs), and how far off:");
    for validation in validations {
        println!("  {}", validation.name);
        let (measured, simulated) = (&validation.measured, &validation.simulated);
        for (name, measured, simulated) in [
            ("rate", measured.rate, simulated.rate),
            ("p50", measured.p50_us, simulated.p50_us),
            ("p99", measured.p99_us, simulated.p99_us),
            ("p99.9", measured.p999_us, simulated.p999_us),
        ] {
            println!(
                "    {name:<6} measured {measured:>12.1}  simulated {simulated:>12.1}  {:>+7.1} %",
                percent_off(measured, simulated)
            );
        }
    }
}

fn print_head() {
    println!(
        "\n{:<10} {:>7} {:>13} {:>13} {:>9} {:>9} {:>9} {:>8} {:>8} {:>8} {:>7} {:>7}",
        "scenario",
        "workers",
        "offered/s",
        "answered/s",
        "p50 µs",
        "p99 µs",
        "p99.9 µs",
        "failures",
        "retries",
        "hedges",
        "balance",
        "moved"
    );
}

fn print_scenario(scenario: &Scenario) {
    let moved = scenario
        .moved_share
        .map_or(String::from("-"), |share| format!("{:.2} %", share * 100.0));
    println!(
        "{:<10} {:>7} {:>13} {:>13} {:>9.1} {:>9.1} {:>9.1} {:>8} {:>8} {:>8} {:>7.3} {:>7}",
        scenario.name,
        scenario.workers,
        grouped(scenario.offered),
        grouped(scenario.figures.rate),
        scenario.figures.p50_us,
        scenario.figures.p99_us,
        scenario.figures.p999_us,
        scenario.failures,
        scenario.retries,
        scenario.hedges,
        scenario.busiest_over_mean,
        moved
    );
}

fn print_notes(scenarios: &[Scenario]) {
    println!();
    for scenario in scenarios {
        println!("{} on {} workers:", scenario.name, scenario.workers);
        for note in &scenario.notes {
            println!("  {note}");
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::simulate::fixture;

    #[test]
    fn what_is_no_fleet_is_refused_on_the_command_line() {
        assert_eq!(workers("50"), Ok(50));
        assert!(workers("1").is_err() && workers("16384").is_err() && workers("x").is_err());
        assert_eq!(replicas("2"), Ok(2));
        assert!(replicas("0").is_err() && replicas("8").is_err());
        assert_eq!(percentiles("30,150"), Ok((30.0, 150.0)));
        assert!(percentiles("30").is_err() && percentiles("30,20").is_err());
        assert!(percentiles("0,20").is_err() && positive("inf").is_err());
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: SimulateArguments,
    }

    #[test]
    fn the_run_that_is_written_holds_inputs_validation_and_scenarios() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| directory.path().join(name).display().to_string();
        let (name, measured) = fixture::run();
        let (measured_path, out) = (path(&name), path("simulated.json"));
        measured
            .write(Path::new(&measured_path))
            .expect("a writable directory");
        let words = [
            "simulate",
            "--measured",
            &measured_path,
            "--validate",
            &measured_path,
            "--workers",
            "3,5",
            "--scenario",
            "steady,join",
            "--operations",
            "2000",
            "--out",
            &out,
        ];
        let line = Line::try_parse_from(words).expect("a good command line");
        line.arguments.run().expect("it runs");
        let run = Run::read(Path::new(&out)).expect("as written");
        assert_eq!(run.kind, RunKind::Simulate);
        let answer = run.simulation.expect("its answer");
        assert_eq!(answer.validation.len(), 1);
        assert_eq!(answer.inputs["model"]["runs"][0], *name);
        let stages: Vec<(&str, u32)> = answer
            .scenarios
            .iter()
            .map(|scenario| (&*scenario.name, scenario.workers))
            .collect();
        assert_eq!(
            stages,
            [("steady", 3), ("join", 3), ("steady", 5), ("join", 5)]
        );
    }
}

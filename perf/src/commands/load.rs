//! `corelane-perf load` and `search`: one target under one workload.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::ceiling::beside::{self, Beside, CeilingFile, Reads};
use crate::load::{Arrivals, LoadSpec, OPEN_SPIN, Verify, interrupt};
use crate::quantities::{self, duration, grouped};
use crate::run::answers::LatencyBound;
use crate::run::{Point, Run, RunKind};
use crate::sample::{self, Watched};
use crate::search;
use crate::target::{self, TargetOptions};
use crate::workload::Workload;

/// What all loads of a target have in common.
#[derive(Debug, Args)]
pub struct TargetArguments {
    /// Whom to load: corelane://HOST:PORT[,HOST:PORT…]/PREFIX, http://HOST:PORT/PREFIX,
    /// s3+http://HOST:PORT/BUCKET/PREFIX, redis://HOST:PORT/PREFIX or file:///DIRECTORY
    #[arg(long, default_value = "corelane://127.0.0.1:7410/")]
    target: String,
    /// A workload that comes along (uniform-4k, zipf-64k, training-epoch, parquet ...) or a file
    #[arg(long, default_value = "uniform-4k")]
    workload: String,
    /// Objects to read instead of the workload's own, as mounted
    #[arg(long, num_args = 1.., value_name = "PATH")]
    paths: Vec<String>,
    /// Token of the data plane, where the worker asks for one
    #[arg(long, default_value = "")]
    token: String,
    /// Send data-plane reads to any shard, not to the owner
    #[arg(long)]
    any_shard: bool,
    /// Region of S3 signatures; default: AWS_REGION, or us-east-1
    #[arg(long, default_value = "")]
    region: String,
    /// Connections, dealt over generators and shards in turn
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Reads in flight on each connection, at the most
    #[arg(long, default_value_t = 32)]
    depth: u32,
    /// CPUs of the generators, one thread each; default: one thread, anywhere
    #[arg(long, value_delimiter = ',', value_name = "CPU")]
    cores: Vec<usize>,
    /// Length of the measured part
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Length of the warm-up
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// Which payloads are compared with what they should be. Targets without checksums are
    /// compared with what `prepare` makes
    #[arg(long, value_enum, default_value_t)]
    verify: Verify,
    /// Closed loop: how long a generator polls before it sleeps (default 0). Open loop: how long
    /// before the next operation is due it polls (default 200us; a core of its own each)
    #[arg(long, value_parser = duration)]
    spin: Option<Duration>,
    /// Seed of keys and arrivals
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Processes of the server, to count its CPU and context switches
    #[arg(long, value_delimiter = ',', value_name = "PID")]
    server_pids: Vec<u32>,
    /// CPUs of the server, to see how busy they are
    #[arg(long, value_delimiter = ',', value_name = "CPU")]
    server_cores: Vec<usize>,
    /// Operations ports of workers, to count their ring enters and copied bytes
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT")]
    server_operations: Vec<SocketAddr>,
    /// Measure bare loops beside the target too: on each of --server-cores, under the same
    /// connections, depth and generators
    #[arg(long)]
    with_ceilings: bool,
    /// With --with-ceilings, where the target reads from a device: a file or block device beside
    /// the target's, made and filled if it does not exist, left as it is if it does
    #[arg(long, value_name = "PATH", requires = "with_ceilings")]
    ceiling_file: Option<PathBuf>,
    /// What to call the target in reports; default: its kind
    #[arg(long)]
    label: Option<String>,
    /// Write the run to this file, for `corelane-perf report`
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print the run as one JSON object
    #[arg(long)]
    json: bool,
}

impl TargetArguments {
    fn spec(&self, arrivals: Arrivals) -> Result<LoadSpec, String> {
        let options = TargetOptions {
            token: self.token.clone(),
            ignores_owners: self.any_shard,
            region: self.region.clone(),
        };
        let default_spin = match arrivals {
            Arrivals::Closed => Duration::ZERO,
            _ => OPEN_SPIN,
        };
        Ok(LoadSpec {
            target: target::parse(&self.target, &options)?,
            workload: Workload::load(&self.workload)?,
            paths: self.paths.clone(),
            arrivals,
            connections: self.connections.max(1),
            depth: self.depth.max(1),
            verify: self.verify,
            warm_up: Duration::from_secs_f64(self.warm_up.max(0.0)),
            measured: Duration::from_secs_f64(self.seconds.max(0.001)),
            spin: self.spin.unwrap_or(default_spin),
            cores: self.cores.clone(),
            seed: self.seed,
        })
    }

    fn take(&self, spec: &LoadSpec) -> Result<(Point, bool), String> {
        let watched = Watched {
            pids: self.server_pids.clone(),
            cores: self.server_cores.clone(),
            operations: self.server_operations.clone(),
        };
        let sample = sample::take(spec, &watched).map_err(|error| error.to_string())?;
        let label = match &self.label {
            Some(label) => label.clone(),
            None => spec.target.kind().to_owned(),
        };
        let mut point = sample.to_point(&label, spec);
        if watched.pids.is_empty() {
            point.server = None;
        }
        Ok((point, sample.load.is_partial))
    }

    /// Measures the ceilings of `points`, loads of `spec`, tells each point which limits it, and adds
    /// them. Nothing without `--with-ceilings`, or after Ctrl-C.
    fn add_ceilings(&self, spec: &LoadSpec, points: &mut Vec<Point>) -> Result<(), String> {
        let most = points.iter().max_by_key(|point| point.operations);
        let Some(reads) = most.and_then(Reads::of) else {
            return Ok(());
        };
        if !self.with_ceilings || interrupt::is_set() {
            return Ok(());
        }
        let (names, warm) = spec.names();
        let resolved = spec.target.resolve(&names[..warm]);
        let objects = resolved.map_err(|error| error.to_string())?.objects;
        let beside = Beside {
            load: spec,
            reads,
            cores: &self.server_cores,
            window_bytes: objects.iter().map(|object| object.length).sum(),
        };
        let bar = self.progress("measuring the ceilings".to_owned());
        let mut ceilings = Vec::new();
        // What is read without a network has no network ceiling.
        let is_served = spec.target.kind() != "file";
        if is_served {
            ceilings.push(("network", beside.network("network ceiling")?));
        }
        if let Some(path) = &self.ceiling_file {
            let file = CeilingFile::at(path, beside.window_bytes)?;
            ceilings.push(("device", beside.device("device ceiling", &file)?));
            if is_served {
                ceilings.push(("joined", beside.joined("joined ceiling", &file)?));
            }
        }
        bar.finish_and_clear();
        let by_name: Vec<(&str, &Point)> = ceilings
            .iter()
            .map(|(name, point)| (*name, point))
            .collect();
        for point in points.iter_mut() {
            point.ceiling = beside::limit(point, &reads, &by_name);
        }
        for (name, point) in ceilings {
            if !self.json {
                print_ceiling(name, &point);
            }
            points.push(point);
        }
        Ok(())
    }

    /// Whether what was asked for can be measured at all, before time is spent on it.
    fn check_ceilings(&self, spec: &LoadSpec) -> Result<(), String> {
        if !self.with_ceilings {
            return Ok(());
        }
        if self.server_cores.is_empty() {
            return Err(
                "--with-ceilings runs bare loops where the server runs; say where by --server-cores"
                    .to_owned(),
            );
        }
        if spec.target.kind() == "file" && self.ceiling_file.is_none() {
            return Err(
                "the ceiling of local files is a device's; give --ceiling-file on the same device"
                    .to_owned(),
            );
        }
        Ok(())
    }

    fn progress(&self, text: String) -> ProgressBar {
        let bar = ProgressBar::new_spinner().with_message(text);
        let style =
            ProgressStyle::with_template("{spinner} {msg}, {elapsed} so far (Ctrl-C ends early)");
        bar.set_style(style.expect("a valid template"));
        bar.enable_steady_tick(Duration::from_millis(250));
        bar
    }

    /// Ends a run: file, JSON or text.
    fn end(&self, run: &Run) -> Result<(), String> {
        super::end_run(run, self.out.as_deref(), self.json)
    }
}

/// Reads `closed`, `constant:RATE` or `poisson:RATE`.
pub(super) fn arrivals(text: &str) -> Result<Arrivals, String> {
    let (kind, rate) = text.split_once(':').unwrap_or((text, ""));
    match (kind, rate) {
        ("closed", "") => Ok(Arrivals::Closed),
        ("constant", rate) => Ok(Arrivals::Constant {
            per_second: quantities::rate(rate)?,
        }),
        ("poisson", rate) => Ok(Arrivals::Poisson {
            per_second: quantities::rate(rate)?,
        }),
        _ => Err(format!(
            "expected closed, constant:RATE or poisson:RATE such as poisson:20k, found `{text}`"
        )),
    }
}

#[derive(Debug, Args)]
pub struct LoadArguments {
    /// closed, constant:RATE or poisson:RATE (of all generators together, a second)
    #[arg(long, default_value = "closed", value_parser = arrivals)]
    arrivals: Arrivals,
    #[command(flatten)]
    common: TargetArguments,
}

impl LoadArguments {
    pub(super) fn run(self) -> Result<(), String> {
        interrupt::listen();
        let common = &self.common;
        let spec = common.spec(self.arrivals)?;
        common.check_ceilings(&spec)?;
        let mut run = Run::begin(
            RunKind::Load,
            format!("{} on {}", spec.workload.name, common.target),
        );
        let bar = common.progress(format!(
            "loading {} for {:.0} s",
            common.target,
            (spec.warm_up + spec.measured).as_secs_f64()
        ));
        let (point, is_partial) = common.take(&spec)?;
        bar.finish_and_clear();
        run.is_partial = is_partial;
        if !common.json {
            print(&point);
        }
        run.points.push(point);
        common.add_ceilings(&spec, &mut run.points)?;
        if !common.json {
            print_limit(&run.points[0]);
        }
        run.is_partial |= interrupt::is_set();
        common.end(&run)
    }
}

fn print(point: &Point) {
    let arrivals = match point.arrivals {
        Arrivals::Closed => "closed loop".to_owned(),
        Arrivals::Constant { per_second } => {
            format!(
                "open loop, {} operations/s at constant gaps",
                grouped(per_second)
            )
        }
        Arrivals::Poisson { per_second } => {
            format!("open loop, {} operations/s (Poisson)", grouped(per_second))
        }
    };
    println!(
        "{}: {}, {arrivals}, {} connections x depth {}, {} generators, verified: {:?}",
        point.label, point.workload, point.connections, point.depth, point.generators, point.verify
    );
    println!(
        "{} operations/s, {} reads/s, {:.1} MiB/s over {:.1} s",
        grouped(point.rate),
        grouped(point.reads as f64 / point.seconds),
        point.bytes as f64 / point.seconds / (1 << 20) as f64,
        point.seconds
    );
    let line = |name: &str, latencies: &crate::run::Latencies| {
        println!(
            "{name}, µs: p50 {:.1}  p90 {:.1}  p99 {:.1}  p99.9 {:.1}  p99.99 {:.1}  max {:.1}",
            latencies.p50_us,
            latencies.p90_us,
            latencies.p99_us,
            latencies.p999_us,
            latencies.p9999_us,
            latencies.max_us
        );
    };
    if point.arrivals == Arrivals::Closed {
        line("service time", &point.service);
    } else {
        line("latency from the intended arrival", &point.latency);
        line("service time alone", &point.service);
        line("sent after the intended arrival", &point.sent_late);
    }
    let [dram, device, under_store] = point.by_source;
    println!(
        "from DRAM {dram}, device {device}, under-store {under_store}; verified {}, wrong {}, errors {}, unfinished {}; \
         generator {:.0} % of a core (polls for {:.0} µs), steal {:.1} %",
        point.verified,
        point.wrong,
        point.errors,
        point.unfinished,
        point.generator_busy_percent,
        point.generator_spin_us.unwrap_or(0.0),
        point.steal_percent
    );
    if let Some(server) = &point.server {
        println!(
            "server: {:.2} µs CPU an operation ({:.2} in user mode), {:.3} voluntary and {:.3} involuntary context switches",
            server.cpu_us_per_operation,
            server.cpu_user_us_per_operation,
            server.voluntary_switches_per_operation,
            server.involuntary_switches_per_operation
        );
    }
    if point.is_overrun {
        println!("overrun: more was due than was taken; the stretch was ended early");
    }
    if let Some(error) = &point.first_error {
        println!("first error: {error}");
    }
}

fn print_ceiling(name: &str, point: &Point) {
    let cost = point.server.as_ref();
    println!(
        "{name} ceiling: {} reads/s of {} bytes, {} connections x depth {}, {:.2} µs CPU a read, p50 {:.1} µs",
        grouped(point.rate),
        point.bytes / point.reads.max(1),
        point.connections,
        point.depth,
        cost.map_or(0.0, |cost| cost.cpu_us_per_operation),
        point.latency.p50_us
    );
}

fn print_limit(point: &Point) {
    if let Some(ceiling) = &point.ceiling {
        println!(
            "{:.2} of the {} ceiling's {} operations/s",
            ceiling.ratio,
            ceiling.name,
            grouped(ceiling.rate)
        );
    }
}

/// Reads `p99:1ms`.
fn bound(text: &str) -> Result<LatencyBound, String> {
    let expected = || format!("expected a bound such as p99:1ms or p99.9:500us, found `{text}`");
    let (quantile, limit) = text
        .strip_prefix('p')
        .and_then(|rest| rest.split_once(':'))
        .ok_or_else(expected)?;
    let percent: f64 = quantile.parse().map_err(|_| expected())?;
    if !(0.0..=100.0).contains(&percent) {
        return Err(expected());
    }
    Ok(LatencyBound {
        quantile: percent / 100.0,
        us: duration(limit)?.as_secs_f64() * 1e6,
    })
}

#[derive(Debug, Args)]
pub struct SearchArguments {
    /// What has to hold, such as p99:1ms
    #[arg(long, default_value = "p99:1ms", value_parser = bound)]
    bound: LatencyBound,
    /// The first rate; it is doubled until it fails, then bisected
    #[arg(long, default_value = "10k", value_parser = quantities::rate)]
    start: f64,
    /// Ends when the lowest failure is so close to the highest success
    #[arg(long, default_value_t = 0.03)]
    precision: f64,
    /// Evenly spaced arrivals instead of Poisson's
    #[arg(long)]
    constant: bool,
    #[command(flatten)]
    common: TargetArguments,
}

impl SearchArguments {
    pub(super) fn run(self) -> Result<(), String> {
        interrupt::listen();
        let common = &self.common;
        let arrivals = |per_second| match self.constant {
            true => Arrivals::Constant { per_second },
            false => Arrivals::Poisson { per_second },
        };
        let spec = common.spec(arrivals(self.start))?;
        common.check_ceilings(&spec)?;
        let name = format!("highest rate, {} on {}", spec.workload.name, common.target);
        let mut run = Run::begin(RunKind::Search, name);
        let options = search::Options {
            bound: self.bound,
            start: self.start,
            precision: self.precision.clamp(0.001, 1.0),
        };
        let quantile = self.bound.quantile * 100.0;
        let mut tries = 0;
        let (answer, points) = search::run(&options, |rate| {
            // Another schedule each time: one that happens to hold few arrivals is not tried twice.
            tries += 1;
            let bar = common.progress(format!("offering {} operations/s", grouped(rate)));
            let spec = LoadSpec {
                arrivals: arrivals(rate),
                seed: spec.seed + tries,
                ..spec.clone()
            };
            let (point, _) = common.take(&spec)?;
            bar.finish_and_clear();
            if !common.json {
                println!(
                    "offered {:>12}  had {:>12}  p{quantile} {:>10.1} µs",
                    grouped(rate),
                    grouped(point.rate),
                    self.bound.latency_us(&point)
                );
            }
            Ok(point)
        })?;
        run.is_partial = interrupt::is_set();
        if !common.json {
            match (
                answer.highest_rate,
                answer.curve.iter().rev().find(|step| !step.holds),
            ) {
                (Some(rate), failed) => {
                    println!(
                        "highest sustainable rate with p{quantile} <= {} µs: {} operations/s",
                        self.bound.us,
                        grouped(rate)
                    );
                    if let Some(reason) = failed.and_then(|step| step.reason.as_ref()) {
                        println!("what came next failed: {reason}");
                    }
                }
                (None, Some(failed)) => println!(
                    "no rate held p{quantile} <= {} µs: {}",
                    self.bound.us,
                    failed.reason.as_deref().unwrap_or_default()
                ),
                (None, None) => println!("ended before anything was measured"),
            }
        }
        run.points = points;
        common.add_ceilings(&spec, &mut run.points)?;
        let best = answer.curve.iter().filter(|step| step.holds);
        let best = best.max_by(|one, other| one.offered.total_cmp(&other.offered));
        if let Some(step) = best.filter(|_| !common.json) {
            print_limit(&run.points[step.point]);
        }
        run.is_partial |= interrupt::is_set();
        run.search = Some(answer);
        common.end(&run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_and_bounds_are_read_as_written_or_refused() {
        assert_eq!(arrivals("closed"), Ok(Arrivals::Closed));
        assert_eq!(
            arrivals("poisson:20k"),
            Ok(Arrivals::Poisson {
                per_second: 20_000.0
            })
        );
        for text in ["", "open", "poisson", "constant:", "closed:5"] {
            assert!(arrivals(text).is_err(), "{text}");
        }
        let parsed = bound("p99.9:500us").expect("valid");
        assert!((parsed.quantile - 0.999).abs() < 1e-12 && parsed.us == 500.0);
        for text in ["99:1ms", "p99", "p101:1ms", "p99:5"] {
            assert!(bound(text).is_err(), "{text}");
        }
    }
}

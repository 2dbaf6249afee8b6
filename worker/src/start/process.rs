//! A worker as a process of its own: the log, the signals, the exit code. Shared by
//! `corelane-worker` and `corelane serve`.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | ended because it was told to, or the configuration is right (`--check-config`) |
//! | 1 | failed while it ran |
//! | 2 | command line or configuration |
//! | 3 | the machine lacks something: io_uring, locked memory, an address |
//! | 4 | a device was refused |
//! | 130 | a second signal ended it at once |

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use super::{FailureKind, RunningWorker, Stopper, Worker, WorkerError};
use crate::config::kind::show_cpus;
use crate::config::memory::ProcessMemory;
use crate::config::quantity::show_size;
use crate::config::{Config, LogFormat, WorkerFlags};
use crate::printable::PrintableFields;

/// Exit code of a process that a second signal ended.
const EXIT_AT_ONCE: i32 = 130;

/// Changes what is logged while the process runs.
type LogHandle = reload::Handle<EnvFilter, Registry>;

/// Storage worker: caches objects of external storage on local drives.
#[derive(Parser)]
#[command(name = "corelane-worker", version)]
struct CommandLine {
    #[command(flatten)]
    flags: WorkerFlags,
}

/// The whole program `corelane-worker`: reads the command line and runs a worker; its exit code.
pub fn main() -> ExitCode {
    run(&CommandLine::parse().flags)
}

/// Runs a worker by `flags` until it is told to stop; the exit code of the process.
pub fn run(flags: &WorkerFlags) -> ExitCode {
    match serve(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("corelane: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn serve(flags: &WorkerFlags) -> Result<(), WorkerError> {
    let config = Config::load(flags)?;
    if flags.check_config {
        print!("{}", summary(&config));
        return Ok(());
    }
    let log = start_log(&config)?;
    // Before any thread starts, so that a signal during recovery is not lost.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            WorkerError::new(
                FailureKind::Environment,
                format!("cannot wait for signals: {error}"),
            )
        })?;
    let mut signals = {
        let _inside = runtime.enter();
        Signals::new().map_err(|error| {
            WorkerError::new(
                FailureKind::Environment,
                format!("cannot wait for signals: {error}"),
            )
        })?
    };
    let cores = config.cores.clone();
    tracing::info!("{}", summary(&config).trim_end().replace('\n', "; "));
    let worker = Worker::start(config)?;
    announce(&worker, &cores);
    let ended = runtime.block_on(follow(worker, &mut signals, flags, &log));
    // A reload that still waits for an answer keeps nobody from leaving.
    runtime.shutdown_background();
    ended
}

/// What a configuration amounts to, for `--check-config` and the log.
fn summary(config: &Config) -> String {
    let devices: Vec<String> = config
        .devices
        .iter()
        .map(|device| device.display().to_string())
        .collect();
    let mut text = format!(
        "cores {} (control {}, fetch {} on {} threads)\ndevices {}\ndram {}\nlisten {} control {} operations {}\n",
        show_cpus(&config.cores),
        show_cpus(&config.control_cpus),
        show_cpus(&config.fetch_cpus),
        config.fetch_threads,
        devices.join(", "),
        show_size(config.dram_bytes),
        config.listen,
        config.control,
        config.operations,
    );
    text.push_str(&format!("memory {}\n", ProcessMemory::of(config)));
    for mount in &config.mounts {
        text.push_str(&format!("mount {} = {}\n", mount.path, mount.uri));
    }
    text
}

/// One line a listener, on standard output: scripts wait for the last one.
fn announce(worker: &RunningWorker, cores: &[usize]) {
    let report = worker.report();
    for ((shard, address), cpu) in report.data.iter().enumerate().zip(cores) {
        println!("data {address} shard {shard} cpu {cpu}");
    }
    println!("control {}", report.control);
    println!("operations http://{}/", report.operations);
    if let Some(s3) = &report.s3 {
        println!("s3 {s3}");
    }
    println!(
        "serving: worker {} epoch {}, {} blocks recovered in {:.3} s",
        report.worker_id,
        report.epoch,
        report.recovered_blocks,
        report.recovery.as_secs_f64()
    );
}

fn start_log(config: &Config) -> Result<LogHandle, WorkerError> {
    let filter = EnvFilter::try_new(&config.log_level).map_err(|error| {
        WorkerError::new(FailureKind::Configuration, format!("log level: {error}"))
    })?;
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    // Colours are for people at a terminal: in a file or the journal they are noise.
    let colours = std::io::stderr().is_terminal();
    let started = match config.log_format {
        LogFormat::Text => registry
            .with(
                fmt::layer()
                    .fmt_fields(PrintableFields)
                    .with_writer(std::io::stderr)
                    .with_ansi(colours),
            )
            .try_init(),
        LogFormat::Json => registry
            .with(fmt::layer().json().with_writer(std::io::stderr))
            .try_init(),
    };
    started.map_err(|error| {
        WorkerError::new(FailureKind::Other, format!("the log cannot start: {error}"))
    })?;
    Ok(handle)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// Follows signals until the worker has ended.
async fn follow(
    worker: RunningWorker,
    signals: &mut Signals,
    flags: &WorkerFlags,
    log: &LogHandle,
) -> Result<(), WorkerError> {
    let stopper = worker.stopper();
    let mut end = tokio::task::spawn_blocking(move || worker.wait());
    let mut is_stopping = false;
    loop {
        let name = tokio::select! {
            ended = &mut end => {
                return ended.unwrap_or_else(|error| {
                    Err(WorkerError::new(FailureKind::Other, format!("waiting for the worker failed: {error}")))
                });
            }
            _ = signals.hangup.recv() => {
                reload(flags, &stopper, log).await;
                continue;
            }
            _ = signals.terminate.recv() => "SIGTERM",
            _ = signals.interrupt.recv() => "SIGINT",
        };
        if is_stopping {
            eprintln!(
                "corelane: a second signal: ending at once; what was not flushed is fetched again"
            );
            std::process::exit(EXIT_AT_ONCE);
        }
        is_stopping = true;
        tracing::info!("{name}: finishing what is under way; a second signal ends at once");
        let stopper = stopper.clone();
        tokio::task::spawn_blocking(move || stopper.stop());
    }
}

/// Reads the configuration again and hands it to the worker. A mistake changes nothing.
async fn reload(flags: &WorkerFlags, stopper: &Stopper, log: &LogHandle) {
    let config = match Config::load(flags) {
        Ok(config) => config,
        Err(mistakes) => {
            tracing::error!(
                "SIGHUP: the configuration has mistakes and nothing was changed: {}",
                mistakes.to_string().trim_end().replace('\n', "; ")
            );
            return;
        }
    };
    let level = config.log_level.clone();
    let stopper = stopper.clone();
    let reloaded = tokio::task::spawn_blocking(move || stopper.reload(config)).await;
    let changes = match reloaded {
        Ok(Ok(changes)) => changes,
        Ok(Err(message)) => {
            return tracing::error!("SIGHUP: not all could be taken over: {message}");
        }
        Err(error) => return tracing::error!("SIGHUP: {error}"),
    };
    // Checked with the configuration; the log itself lives as long as the process.
    if let Ok(filter) = EnvFilter::try_new(&level) {
        let _ = log.reload(filter);
    }
    if changes.is_empty() {
        tracing::info!("SIGHUP: nothing has changed");
    }
    for line in &changes.applied {
        tracing::info!("SIGHUP: applied: {line}");
    }
    for line in &changes.need_restart {
        tracing::warn!("SIGHUP: takes effect at the next start only: {line}");
    }
}

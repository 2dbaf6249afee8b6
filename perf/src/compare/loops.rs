//! Rows of the bare loops: echo and device reads on every runtime that was built in.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::figures::Figures;
use super::report::Row;
use crate::ceiling::prepare_file;
use crate::gate::Bench;
use crate::gate::rounds::{Turn, in_turns};
use crate::load::LoadSpec;
use crate::runtimes::{ReadFigures, Runtime};
use crate::sample::{self, Watched};
use crate::server_process::ServerProcess;

/// Reads in flight of the device rows.
const DEPTH: u32 = 128;

/// Where reads of an echo are said to come from.
const DRAM: usize = 0;

struct Echo {
    name: &'static str,
    what: &'static str,
    connections: u32,
    depth: u32,
    reply_bytes: u32,
    has_bar: bool,
}

const ECHOES: [Echo; 6] = [
    Echo {
        name: "echo_4k_64x1",
        what: "64 B requests, 4 KiB replies, 64 connections at depth 1",
        connections: 64,
        depth: 1,
        reply_bytes: 4096,
        has_bar: true,
    },
    Echo {
        name: "echo_4k_4x32",
        what: "64 B requests, 4 KiB replies, 4 connections at depth 32",
        connections: 4,
        depth: 32,
        reply_bytes: 4096,
        has_bar: false,
    },
    Echo {
        name: "echo_4k_64x32",
        what: "64 B requests, 4 KiB replies, 64 connections at depth 32",
        connections: 64,
        depth: 32,
        reply_bytes: 4096,
        has_bar: false,
    },
    Echo {
        name: "echo_64b_64x1",
        what: "64 B requests, 64 B of payload in a reply, 64 connections at depth 1",
        connections: 64,
        depth: 1,
        reply_bytes: 64,
        has_bar: false,
    },
    Echo {
        name: "echo_64b_4x32",
        what: "64 B requests, 64 B of payload in a reply, 4 connections at depth 32",
        connections: 4,
        depth: 32,
        reply_bytes: 64,
        has_bar: false,
    },
    Echo {
        name: "echo_64b_64x32",
        what: "64 B requests, 64 B of payload in a reply, 64 connections at depth 32",
        connections: 64,
        depth: 32,
        reply_bytes: 64,
        has_bar: false,
    },
];

struct Reads {
    name: &'static str,
    what: &'static str,
    is_fast: bool,
    has_bar: bool,
}

const READS: [Reads; 2] = [
    Reads {
        name: "read_4k_128",
        what: "4 KiB direct reads of a file on the drive, 128 in flight",
        is_fast: false,
        has_bar: true,
    },
    Reads {
        name: "read_4k_128_fast",
        what: "4 KiB direct reads of a file on tmpfs, 128 in flight",
        is_fast: true,
        has_bar: false,
    },
];

/// The names of the rows.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let echoes = ECHOES.iter().map(|echo| echo.name);
    echoes.chain(READS.iter().map(|reads| reads.name))
}

/// The rows that are wanted.
pub(super) fn run(bench: &Bench) -> Vec<Row> {
    let runtimes: Vec<Runtime> = Runtime::ALL
        .into_iter()
        .filter(|runtime| runtime.is_built())
        .collect();
    let mut rows = Vec::new();
    let mut add = |name: &'static str, what, has_bar, measured: Measured| {
        let names: Vec<&'static str> = runtimes.iter().map(|runtime| runtime.name()).collect();
        let row = match measured {
            Ok(rounds) if has_bar => Row::of(name, what, &names, &rounds).with_bar(),
            Ok(rounds) => Row::of(name, what, &names, &rounds),
            Err(reason) => Row::not_measured(name, what, reason),
        };
        bench.say(row.to_string().trim_end());
        rows.push(row);
    };
    for echo in ECHOES.iter().filter(|echo| bench.options.wants(echo.name)) {
        add(
            echo.name,
            echo.what,
            echo.has_bar,
            echo_rounds(bench, echo, &runtimes),
        );
    }
    for reads in READS.iter().filter(|reads| bench.options.wants(reads.name)) {
        add(
            reads.name,
            reads.what,
            reads.has_bar,
            read_rounds(bench, reads, &runtimes),
        );
    }
    rows
}

type Measured = Result<Vec<Vec<Figures>>, String>;

fn echo_rounds(bench: &Bench, echo: &Echo, runtimes: &[Runtime]) -> Measured {
    bench.say(&format!("{} ...", echo.name));
    let servers = runtimes
        .iter()
        .map(|runtime| start_echo(bench, *runtime, echo.reply_bytes))
        .collect::<Result<Vec<_>, _>>()?;
    let core = bench.options.server_core;
    let mut takes: Vec<_> = servers
        .iter()
        .map(|server| {
            let load = bench.load(
                server.address(),
                echo.connections,
                echo.depth,
                echo.reply_bytes,
            );
            move |number: u64| {
                let spec = LoadSpec {
                    seed: load.seed + number,
                    ..load.clone()
                };
                sample::take(&spec, &Watched::one(server.pid(), core))
                    .map(|sample| Figures::of_sample(&sample, DRAM))
                    .map_err(|error| error.to_string())
            }
        })
        .collect();
    let mut turns: Vec<Turn<'_, Figures>> = takes.iter_mut().map(|take| take as _).collect();
    in_turns(bench.options.rounds, &mut turns, |figures| {
        figures.steal_percent
    })
}

fn start_echo(bench: &Bench, runtime: Runtime, reply_bytes: u32) -> Result<ServerProcess, String> {
    let spin = Duration::ZERO;
    let arguments = [
        "serve-echo".to_owned(),
        format!("--runtime={}", runtime.name()),
        format!("--reply={reply_bytes}"),
        format!("--spin={}us", spin.as_micros()),
        format!("--core={}", bench.options.server_core),
    ];
    ServerProcess::start(arguments)
        .map_err(|error| format!("the echo on {}: {error}", runtime.name()))
}

fn read_rounds(bench: &Bench, reads: &Reads, runtimes: &[Runtime]) -> Measured {
    bench.say(&format!("{} ...", reads.name));
    let directory = if reads.is_fast {
        bench.fast_directory()
    } else {
        bench.directory()
    };
    let path = directory.join("reads");
    let bytes = bench.options.device_set;
    prepare_file(&path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut takes: Vec<_> = runtimes
        .iter()
        .map(|runtime| {
            let (path, options) = (&path, &bench.options);
            move |_| {
                let mut command = Command::new(std::env::current_exe().map_err(text)?);
                command
                    .arg("read-device")
                    .arg(format!("--runtime={}", runtime.name()))
                    .arg("--path")
                    .arg(path)
                    .arg(format!("--bytes={bytes}"))
                    .arg(format!("--depth={DEPTH}"))
                    .arg(format!("--seconds={}", options.seconds))
                    .arg(format!("--core={}", options.server_core))
                    .stderr(Stdio::inherit());
                if reads.is_fast {
                    command.arg("--nonblocking");
                }
                let output = command.output().map_err(text)?;
                if !output.status.success() {
                    let status = output.status;
                    return Err(format!(
                        "the loop on {} ended with {status}; see above",
                        runtime.name()
                    ));
                }
                let figures: ReadFigures = serde_json::from_slice(&output.stdout).map_err(text)?;
                Ok(Figures::of_reads(&figures))
            }
        })
        .collect();
    let mut turns: Vec<Turn<'_, Figures>> = takes.iter_mut().map(|take| take as _).collect();
    let rounds = in_turns(bench.options.rounds, &mut turns, |figures| {
        figures.steal_percent
    });
    // The next row's files want the room.
    std::fs::remove_file(&path).map_err(text)?;
    rounds
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

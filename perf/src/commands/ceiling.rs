//! `corelane-perf ceiling`: what this machine gives to bare loops.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::ceiling::device::{self, DeviceLoad};
use crate::ceiling::server::BareServer;
use crate::ceiling::{Protocol, Source, prepare_file};
use crate::load::{Arrivals, LoadSpec, Verify};
use crate::process;
use crate::quantities::{Cores, cores, duration, grouped, read_size, size};
use crate::sample::{self, Sample, Watched};
use crate::server_process::{Ready, ServerProcess, end_with_parent};
use crate::target::data_plane::DataPlane;
use crate::workload::{Keys, Workload};
use std::sync::Arc;

/// Where a bare server takes its payloads from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SourceKind {
    Memory,
    Device,
}

#[derive(Debug, Args)]
pub struct ServeArguments {
    #[arg(long, value_enum)]
    source: SourceKind,
    #[arg(long, value_enum)]
    protocol: Protocol,
    #[arg(long, value_parser = size)]
    bytes: u64,
    #[arg(long)]
    path: Option<PathBuf>,
    #[arg(long)]
    nonblocking: bool,
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(corelane_rpc_schema::READ_BYTES_MAX)))]
    reply: u32,
    #[arg(long, value_parser = duration)]
    spin: Duration,
    #[arg(long)]
    core: usize,
}

impl ServeArguments {
    pub(super) fn run(self) -> Result<(), String> {
        end_with_parent();
        process::pin(self.core)?;
        let source = match (self.source, self.path) {
            (SourceKind::Memory, _) => Source::Memory { bytes: self.bytes },
            (SourceKind::Device, Some(path)) => Source::Device {
                path,
                nonblocking: self.nonblocking,
                bytes: self.bytes,
            },
            (SourceKind::Device, None) => return Err("--source device wants --path".to_owned()),
        };
        let fail = |error: std::io::Error| format!("the bare loop failed: {error}");
        let server =
            BareServer::new(&source, self.protocol, self.reply, self.spin).map_err(fail)?;
        let address = server.address().map_err(fail)?;
        Ready {
            address,
            details: Value::Null,
        }
        .announce()
        .map_err(fail)?;
        server.run(|| false).map_err(fail)
    }
}

/// Starts a bare server of `source` that speaks `protocol`, with replies of `reply` bytes, on `core`.
///
/// # Errors
/// When it does not start; it has said why on standard error.
pub(crate) fn start_server(
    source: &Source,
    protocol: Protocol,
    reply: u32,
    spin: Duration,
    core: usize,
) -> std::io::Result<ServerProcess> {
    let mut arguments: Vec<std::ffi::OsString> = vec!["serve-ceiling".into()];
    let mut add = |name: &str, value: std::ffi::OsString| arguments.extend([name.into(), value]);
    match source {
        Source::Memory { bytes } => {
            add("--source", "memory".into());
            add("--bytes", bytes.to_string().into());
        }
        Source::Device { path, bytes, .. } => {
            add("--source", "device".into());
            add("--bytes", bytes.to_string().into());
            add("--path", path.into());
        }
    }
    add("--protocol", protocol.name().into());
    add("--reply", reply.to_string().into());
    add("--spin", format!("{}us", spin.as_micros()).into());
    add("--core", core.to_string().into());
    if matches!(
        source,
        Source::Device {
            nonblocking: true,
            ..
        }
    ) {
        arguments.push("--nonblocking".into());
    }
    ServerProcess::start(arguments)
}

#[derive(Debug, Args)]
pub struct CeilingArguments {
    /// File (or block device) for the device's part; made and filled if it does not exist
    #[arg(long)]
    file: Option<PathBuf>,
    /// Bytes of that file
    #[arg(long, default_value = "2G", value_parser = size)]
    file_size: u64,
    /// Open the file O_NONBLOCK too: keeps direct reads on tmpfs in the loop
    #[arg(long)]
    nonblocking: bool,
    /// Memory that (b) answers from: as large as the worker's working set
    #[arg(long, default_value = "1G", value_parser = size)]
    working_set: u64,
    /// The server's core and the generator's
    #[arg(long, default_value = "0,1", value_parser = cores)]
    cores: Cores,
    /// Lanes
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Requests in flight on each lane
    #[arg(long, default_value_t = 32)]
    depth: u32,
    /// Reads in flight of (a)
    #[arg(long, default_value_t = 128)]
    device_depth: u32,
    /// Bytes a read
    #[arg(long, default_value = "4K", value_parser = read_size)]
    size: u32,
    /// How long the server polls before it sleeps
    #[arg(long, default_value = "0", value_parser = duration)]
    spin: Duration,
    /// Which answers' payloads are compared with their checksums
    #[arg(long, value_enum, default_value_t)]
    verify: Verify,
    /// Length of each measured part
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl CeilingArguments {
    pub(super) fn run(self) -> Result<(), String> {
        let mut measured = serde_json::Map::new();
        if let Some(path) = &self.file {
            let fail = |error: std::io::Error| format!("{}: {error}", path.display());
            if !is_block_device(path) {
                prepare_file(path, self.file_size).map_err(fail)?;
            }
            let load = DeviceLoad {
                path: path.clone(),
                bytes: self.file_size,
                depth: self.device_depth.max(1),
                read_bytes: self.size,
                nonblocking: self.nonblocking,
                spin: self.spin,
                seconds: self.seconds,
            };
            measured.insert("device".to_owned(), self.device(&load)?);
        }
        let memory = Source::Memory {
            bytes: self.working_set,
        };
        measured.insert("network".to_owned(), self.served("(b) network", &memory)?);
        if let Some(path) = &self.file {
            let device = Source::Device {
                path: path.clone(),
                nonblocking: self.nonblocking,
                bytes: self.file_size,
            };
            measured.insert("joined".to_owned(), self.served("(c) joined", &device)?);
        }
        if self.json {
            println!("{}", Value::Object(measured));
        }
        Ok(())
    }

    fn device(&self, load: &DeviceLoad) -> Result<Value, String> {
        // On a thread of its own, so that the pinning ends with it.
        let core = self.cores.server;
        let result = std::thread::scope(|scope| {
            let run = move || {
                process::pin(core)
                    .and_then(|()| device::run(load).map_err(|error| error.to_string()))
            };
            scope
                .spawn(run)
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
        .map_err(|error| format!("{}: {error}", load.path.display()))?;
        let rate = result.operations as f64 / result.elapsed.as_secs_f64();
        let cpu_us = result.cpu.total().as_secs_f64() * 1e6 / result.operations.max(1) as f64;
        let p50_us = result.latency_ns.value_at_quantile(0.5) as f64 / 1e3;
        if !self.json {
            println!(
                "(a) device: depth {}, {} bytes: {} reads/s, {cpu_us:.2} µs CPU a read, p50 {p50_us:.1} µs, {} iou-wrk threads",
                load.depth,
                load.read_bytes,
                grouped(rate),
                result.ring_workers
            );
        }
        Ok(json!({
            "depth": load.depth, "read_bytes": load.read_bytes, "reads_per_second": rate,
            "cpu_us_per_read": cpu_us, "p50_us": p50_us, "ring_workers": result.ring_workers,
        }))
    }

    fn served(&self, name: &str, source: &Source) -> Result<Value, String> {
        let server = start_server(
            source,
            Protocol::Frames,
            self.size,
            self.spin,
            self.cores.server,
        )
        .map_err(|error| format!("{name}: {error}"))?;
        let spec = LoadSpec {
            target: Arc::new(DataPlane::of(server.address())),
            workload: Workload::points(self.size, Keys::Uniform),
            paths: vec!["/ceiling".to_owned()],
            arrivals: Arrivals::Closed,
            connections: self.connections.max(1),
            depth: self.depth.max(1),
            verify: self.verify,
            warm_up: Duration::from_secs_f64(self.seconds / 5.0),
            measured: Duration::from_secs_f64(self.seconds),
            spin: Duration::ZERO,
            cores: vec![self.cores.load],
            seed: 1,
        };
        let sample = sample::take(&spec, &Watched::one(server.pid(), self.cores.server))
            .map_err(|error| format!("{name}: {error}"))?;
        if !self.json {
            print_sample(name, &spec, &sample);
        }
        Ok(sample.to_json())
    }
}

fn print_sample(name: &str, spec: &LoadSpec, sample: &Sample) {
    println!(
        "{name}: {} connections x depth {}, {} bytes: {} replies/s, {:.2} µs CPU a reply, core {:.0} % busy, \
         p50 {:.1} µs, p99 {:.1} µs, {} iou-wrk threads, steal {:.2} %, verified {:?} ({} of {}, {} wrong)",
        spec.connections,
        spec.depth,
        spec.workload.read_bytes_max(),
        grouped(sample.load.rate()),
        sample.cpu_us_per_operation(),
        sample.busy_percent,
        sample.load.latency_us(0.5),
        sample.load.latency_us(0.99),
        sample.ring_workers(),
        sample.steal_percent,
        spec.verify,
        sample.load.verified,
        sample.load.operations,
        sample.load.wrong,
    );
}

fn is_block_device(path: &std::path::Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

//! `corelane-perf read`: the closed loop on a running worker.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::quantities::{duration, grouped, read_size};
use crate::load::{Distribution, LoadResult, LoadSpec, Verify, generator};

#[derive(Debug, Args)]
pub struct ReadArguments {
    /// Data port of any shard
    #[arg(long, default_value = "127.0.0.1:7410")]
    address: SocketAddr,
    /// Token, where the worker asks for one
    #[arg(long, default_value = "")]
    token: String,
    /// Lanes
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Requests in flight on each lane
    #[arg(long, default_value_t = 32)]
    depth: u32,
    /// Bytes a read, a power of two up to 4M
    #[arg(long, default_value = "4K", value_parser = read_size)]
    size: u32,
    /// uniform, zipf or zipf:THETA
    #[arg(long, default_value = "uniform")]
    distribution: Distribution,
    /// Objects to read, as mounted
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    paths: Vec<String>,
    /// Length of the measured part
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Length of the warm-up
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// Which answers' payloads are compared with their checksums
    #[arg(long, value_enum, default_value_t)]
    verify: Verify,
    /// How long the generator polls before it sleeps
    #[arg(long, default_value = "0", value_parser = duration)]
    spin: Duration,
    /// Core that the generator is pinned to
    #[arg(long)]
    core: Option<usize>,
    /// Seed of the offsets
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl ReadArguments {
    pub(super) fn run(self) -> Result<(), String> {
        let spec = LoadSpec {
            address: self.address,
            token: self.token,
            paths: self.paths,
            connections: self.connections.max(1),
            depth: self.depth.max(1),
            read_bytes: self.size,
            distribution: self.distribution,
            verify: self.verify,
            warm_up: Duration::from_secs_f64(self.warm_up.max(0.0)),
            measured: Duration::from_secs_f64(self.seconds.max(0.001)),
            spin: self.spin,
            core: self.core,
            seed: self.seed,
        };
        let result = generator::run(&spec, |_| {}).map_err(|error| error.to_string())?;
        if self.json {
            println!("{}", to_json(&spec, &result));
        } else {
            print(&spec, &result);
        }
        if result.wrong > 0 {
            return Err(format!(
                "{} answers did not match their checksums",
                result.wrong
            ));
        }
        Ok(())
    }
}

fn print(spec: &LoadSpec, result: &LoadResult) {
    println!(
        "closed loop, {} connections x depth {}, {} bytes, {}, checksums verified: {:?}",
        spec.connections, spec.depth, spec.read_bytes, spec.distribution, spec.verify
    );
    println!(
        "{} reads/s, {:.1} MiB/s over {:.1} s",
        grouped(result.rate()),
        result.bytes as f64 / result.elapsed.as_secs_f64() / (1 << 20) as f64,
        result.elapsed.as_secs_f64()
    );
    let quantiles = [
        ("p50", 0.5),
        ("p90", 0.9),
        ("p99", 0.99),
        ("p99.9", 0.999),
        ("max", 1.0),
    ];
    let latencies =
        quantiles.map(|(name, quantile)| format!("{name} {:.1}", result.latency_us(quantile)));
    println!("service time, µs: {}", latencies.join("  "));
    let [dram, device, under_store] = result.by_source;
    println!(
        "from DRAM {dram}, device {device}, under-store {under_store}; verified {}, wrong {}, errors {}",
        result.verified, result.wrong, result.errors
    );
    if let Some(error) = &result.first_error {
        println!("first error: {error}");
    }
}

fn to_json(spec: &LoadSpec, result: &LoadResult) -> Value {
    json!({
        "loop": "closed",
        "connections": spec.connections,
        "depth": spec.depth,
        "read_bytes": spec.read_bytes,
        "distribution": spec.distribution.to_string(),
        "verify": spec.verify,
        "seconds": result.elapsed.as_secs_f64(),
        "reads": result.operations,
        "reads_per_second": result.rate(),
        "bytes": result.bytes,
        "latency_us": {
            "p50": result.latency_us(0.5),
            "p90": result.latency_us(0.9),
            "p99": result.latency_us(0.99),
            "p99.9": result.latency_us(0.999),
            "max": result.latency_us(1.0),
        },
        "by_source": {
            "dram": result.by_source[0],
            "device": result.by_source[1],
            "under_store": result.by_source[2],
        },
        "verified": result.verified,
        "wrong": result.wrong,
        "errors": result.errors,
        "first_error": result.first_error,
    })
}

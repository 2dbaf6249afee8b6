//! One load and what the server's process and the machine did meanwhile.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::load::crew::{self, Mark};
use crate::load::{LoadResult, LoadSpec};
use crate::process::{self, CpuTime, MachineTime, Switches, ThreadInfo};
use crate::run::Point;
use crate::run::point::ServerCost;
use crate::server_metrics::WorkerCounters;

/// A server to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Its processes.
    pub pids: Vec<u32>,
    /// The CPUs that they were given.
    pub cores: Vec<usize>,
    /// Operations ports of workers among them.
    pub operations: Vec<SocketAddr>,
}

impl Watched {
    /// One process on one CPU.
    pub fn one(pid: u32, core: usize) -> Watched {
        Watched {
            pids: vec![pid],
            cores: vec![core],
            operations: Vec::new(),
        }
    }
}

/// One measured part.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What the generators saw.
    pub load: LoadResult,
    /// CPU of the server's processes, all threads.
    pub cpu: CpuTime,
    /// Context switches of the server's threads that lived at both ends.
    pub switches: Switches,
    /// What workers counted meanwhile; none where no operations port is known.
    pub counters: Option<WorkerCounters>,
    /// Resident memory of the server's processes at the end of the measured part, in bytes.
    pub resident_bytes: u64,
    /// Threads of the server's processes at the end of the measured part.
    pub threads: Vec<ThreadInfo>,
    /// Time that the server's cores were not idle, in percent, the mean of them: its process, and the
    /// interrupts that its sends cause, which the kernel does not count for any process.
    pub busy_percent: f64,
    /// CPU of the kernel's ring workers in the server's process: work that its loop did not do.
    pub ring_worker_cpu: Duration,
    /// Time that the hypervisor took from this machine, in percent.
    pub steal_percent: f64,
}

/// Runs the generators as `spec` says and looks at the server `watched`.
///
/// # Errors
/// When a generator fails or the server is gone.
pub fn take(spec: &LoadSpec, watched: &Watched) -> io::Result<Sample> {
    let mut begin = None;
    let mut end = None;
    let load = crew::run(spec, |mark| match mark {
        Mark::Begin => begin = Some(look(watched)),
        Mark::End => end = Some(look(watched)),
    })?;
    let (Some(begin), Some(end)) = (begin, end) else {
        unreachable!("both marks were passed")
    };
    let (begin, end) = (begin?, end?);
    let mut resident_bytes = 0;
    let mut threads = Vec::new();
    for pid in &watched.pids {
        resident_bytes += process::resident_bytes(*pid)?;
        threads.append(&mut process::threads(*pid)?);
    }
    let cores = begin.cores.iter().zip(&end.cores);
    let busy: f64 = cores
        .map(|(begin, end)| end.busy_percent_since(*begin))
        .sum();
    Ok(Sample {
        load,
        cpu: end.cpu.since(begin.cpu),
        switches: end.switches.since(begin.switches),
        counters: end
            .counters
            .zip(begin.counters)
            .map(|(end, begin)| end.since(begin)),
        resident_bytes,
        threads,
        busy_percent: busy / watched.cores.len().max(1) as f64,
        ring_worker_cpu: end.ring_workers.saturating_sub(begin.ring_workers),
        steal_percent: end.machine.steal_percent_since(begin.machine),
    })
}

struct Look {
    cpu: CpuTime,
    switches: Switches,
    counters: Option<WorkerCounters>,
    ring_workers: Duration,
    machine: MachineTime,
    cores: Vec<MachineTime>,
}

fn look(watched: &Watched) -> io::Result<Look> {
    let mut look = Look {
        cpu: CpuTime::default(),
        switches: Switches::default(),
        counters: None,
        ring_workers: Duration::ZERO,
        machine: MachineTime::now()?,
        cores: Vec::new(),
    };
    for pid in &watched.pids {
        let cpu = CpuTime::of(*pid)?;
        look.cpu.user += cpu.user;
        look.cpu.system += cpu.system;
        look.ring_workers += process::ring_worker_time(*pid)?;
        look.switches.add(Switches::of(*pid)?);
    }
    for address in &watched.operations {
        let counters = WorkerCounters::of(*address)?;
        let sum = look.counters.unwrap_or_default();
        look.counters = Some(sum.with(counters));
    }
    for core in &watched.cores {
        look.cores.push(MachineTime::of_core(*core)?);
    }
    Ok(look)
}

impl Sample {
    /// Server CPU an operation, in microseconds.
    pub fn cpu_us_per_operation(&self) -> f64 {
        self.cpu.total().as_secs_f64() * 1e6 / self.operations()
    }

    /// The part of it outside the kernel.
    pub fn user_us_per_operation(&self) -> f64 {
        self.cpu.user.as_secs_f64() * 1e6 / self.operations()
    }

    fn operations(&self) -> f64 {
        self.load.operations.max(1) as f64
    }

    /// The busiest generator's CPU as a share of one core.
    pub fn generator_percent(&self) -> f64 {
        100.0 * self.load.generator_cpu.as_secs_f64() / self.load.elapsed.as_secs_f64().max(1e-9)
    }

    /// Kernel workers in the server's process.
    pub fn ring_workers(&self) -> usize {
        process::ring_workers(&self.threads)
    }

    /// Share of the server's CPU that its ring workers used, in percent.
    pub fn ring_worker_percent(&self) -> f64 {
        100.0 * self.ring_worker_cpu.as_secs_f64() / self.cpu.total().as_secs_f64().max(1e-9)
    }

    /// As a point of a run, called `label`.
    pub fn to_point(&self, label: &str, spec: &LoadSpec) -> Point {
        let operations = self.operations();
        Point {
            steal_percent: self.steal_percent,
            server: Some(ServerCost {
                cpu_us_per_operation: self.cpu_us_per_operation(),
                cpu_user_us_per_operation: self.cpu.user.as_secs_f64() * 1e6 / operations,
                voluntary_switches_per_operation: self.switches.voluntary as f64 / operations,
                involuntary_switches_per_operation: self.switches.involuntary as f64 / operations,
                ring_enters_per_operation: self
                    .counters
                    .map(|counters| counters.ring_enters / operations),
                bytes_copied_per_byte: self
                    .counters
                    .map(|counters| counters.bytes_fetched / self.load.bytes.max(1) as f64),
                busy_percent: self.busy_percent,
                resident_bytes: self.resident_bytes,
            }),
            ..Point::of(label, spec, &self.load)
        }
    }

    /// The figures by name.
    pub fn to_json(&self) -> Value {
        json!({
            "reads_per_second": self.load.rate(),
            "cpu_us_per_read": self.cpu_us_per_operation(),
            "cpu_user_us_per_read": self.cpu.user.as_secs_f64() * 1e6 / self.operations(),
            "busy_percent": self.busy_percent,
            "generator_busy_percent": self.generator_percent(),
            "p50_us": self.load.latency_us(0.5),
            "p99_us": self.load.latency_us(0.99),
            "steal_percent": self.steal_percent,
            "ring_worker_percent": self.ring_worker_percent(),
            "ring_workers": self.ring_workers(),
            "resident_bytes": self.resident_bytes,
            "errors": self.load.errors,
            "wrong": self.load.wrong,
            "verified": self.load.verified,
            "threads": self.threads,
        })
    }
}

//! One run of the generator and what the server's process and the machine did meanwhile.

use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use crate::load::generator::{self, Mark};
use crate::load::{LoadResult, LoadSpec};
use crate::process::{self, CpuTime, MachineTime, ThreadInfo};

/// One measured part.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What the generator saw.
    pub load: LoadResult,
    /// CPU of the server's process, all threads.
    pub cpu: CpuTime,
    /// Resident memory of the server's process at the end of the measured part, in bytes.
    pub resident_bytes: u64,
    /// Threads of the server's process at the end of the measured part.
    pub threads: Vec<ThreadInfo>,
    /// Time that the server's core was not idle, in percent: its process, and the interrupts that its
    /// sends cause, which the kernel does not count for any process.
    pub busy_percent: f64,
    /// CPU of the kernel's ring workers in the server's process: work that its loop did not do.
    pub ring_worker_cpu: Duration,
    /// Time that the hypervisor took from this machine, in percent.
    pub steal_percent: f64,
}

/// Runs the generator against the server with process id `pid` on CPU `core`.
///
/// # Errors
/// When the generator fails or the server is gone.
pub fn take(spec: &LoadSpec, pid: u32, core: usize) -> io::Result<Sample> {
    let mut begin = None;
    let mut end = None;
    let load = generator::run(spec, |mark| match mark {
        Mark::Begin => begin = Some(look(pid, core)),
        Mark::End => end = Some(look(pid, core)),
    })?;
    let (Some(begin), Some(end)) = (begin, end) else {
        unreachable!("both marks were passed")
    };
    let (begin, end) = (begin?, end?);
    Ok(Sample {
        load,
        cpu: end.cpu.since(begin.cpu),
        resident_bytes: process::resident_bytes(pid)?,
        threads: process::threads(pid)?,
        busy_percent: end.core.busy_percent_since(begin.core),
        ring_worker_cpu: end.ring_workers.saturating_sub(begin.ring_workers),
        steal_percent: end.machine.steal_percent_since(begin.machine),
    })
}

struct Look {
    cpu: CpuTime,
    ring_workers: Duration,
    machine: MachineTime,
    core: MachineTime,
}

fn look(pid: u32, core: usize) -> io::Result<Look> {
    Ok(Look {
        cpu: CpuTime::of(pid)?,
        ring_workers: process::ring_worker_time(pid)?,
        machine: MachineTime::now()?,
        core: MachineTime::of_core(core)?,
    })
}

impl Sample {
    /// Server CPU a read, in microseconds.
    pub fn cpu_us_per_operation(&self) -> f64 {
        self.cpu.total().as_secs_f64() * 1e6 / self.load.operations.max(1) as f64
    }

    /// The generator's CPU as a share of one core.
    pub fn generator_percent(&self) -> f64 {
        100.0 * self.load.generator_cpu.as_secs_f64() / self.load.elapsed.as_secs_f64()
    }

    /// Kernel workers in the server's process.
    pub fn ring_workers(&self) -> usize {
        process::ring_workers(&self.threads)
    }

    /// Share of the server's CPU that its ring workers used, in percent.
    pub fn ring_worker_percent(&self) -> f64 {
        100.0 * self.ring_worker_cpu.as_secs_f64() / self.cpu.total().as_secs_f64().max(1e-9)
    }

    /// The figures by name.
    pub fn to_json(&self) -> Value {
        json!({
            "reads_per_second": self.load.rate(),
            "cpu_us_per_read": self.cpu_us_per_operation(),
            "cpu_user_us_per_read": self.cpu.user.as_secs_f64() * 1e6 / self.load.operations.max(1) as f64,
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
